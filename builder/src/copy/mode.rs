//! `--chmod`: octal, or the symbols of chmod(1).

use super::error::Error;

/// What `--chmod` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// All bits, as given.
    Exact(u32),
    /// Changes to each file's own bits, in order.
    Change(Vec<Change>),
}

/// One change to the bits, such as those that `go=rX` consists of: clear, set, set if executable.
///
/// These are the steps of BSD's setmode(3), which BuildKit follows: unlike GNU's chmod, `X` looks at what the file
/// had before anything was changed, and `=` clears the set-uid and set-gid of a directory, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `+`, and the second half of `=`.
    Set(u32),
    /// `-`, and the first half of `=`.
    Clear(u32),
    /// `X`.
    SetIfExecutable(u32),
    /// The bits of user (6), group (3) or others (0), as they are by then, for those in `who`.
    Copy { from: u32, who: u32, operator: u8 },
}

const SET_IDS: u32 = 0o6000;
const STICKY: u32 = 0o1000;
/// What is changed where nobody is named; the sticky bit only if it is asked for.
const STANDARD: u32 = SET_IDS | 0o777;

impl std::str::FromStr for Chmod {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if !text.is_empty() && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit)) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            return mode.map(Self::Exact).ok_or_else(|| Error::Mode(text.to_owned()));
        }
        let changes: Option<Vec<Vec<Change>>> = text.split(',').map(|clause| parse(clause.as_bytes())).collect();
        changes.map(|changes| Self::Change(changes.concat())).ok_or_else(|| Error::Mode(text.to_owned()))
    }
}

impl Chmod {
    /// The bits of a file or directory that had `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Exact(exact) => *exact,
            Self::Change(changes) => {
                let executable = is_dir || mode & 0o111 != 0;
                changes.iter().fold(mode, |mode, change| change.apply(mode, executable))
            }
        }
    }

    /// The bits of a directory that is made on the way to the destination: symbols have nothing there to change, and
    /// set-uid, set-gid and sticky do not reach it.
    pub fn of_new_directory(&self) -> u32 {
        match self {
            Self::Exact(exact) => *exact & 0o777,
            Self::Change(_) => 0o755,
        }
    }
}

impl Change {
    fn apply(&self, mode: u32, executable: bool) -> u32 {
        match *self {
            Self::Set(bits) => mode | bits,
            Self::Clear(bits) => mode & !bits,
            Self::SetIfExecutable(bits) if executable => mode | bits,
            Self::SetIfExecutable(_) => mode,
            Self::Copy { from, who, operator } => {
                let three = (mode >> from) & 7;
                let bits = (three * 0o111) & who;
                match operator {
                    b'+' => mode | bits,
                    b'-' => mode & !bits,
                    _ => mode & !who | bits,
                }
            }
        }
    }
}

/// One clause: who, then any number of operators with their letters.
fn parse(clause: &[u8]) -> Option<Vec<Change>> {
    let at = clause.iter().position(|byte| b"+-=".contains(byte))?;
    let mut who = 0;
    for letter in &clause[..at] {
        who |= match letter {
            b'u' => 0o4700,
            b'g' => 0o2070,
            b'o' => 0o007,
            b'a' => STANDARD,
            _ => return None,
        };
    }
    let mut changes = Vec::new();
    let mut rest = &clause[at..];
    while let Some((&operator, letters)) = rest.split_first() {
        let end = letters.iter().position(|byte| b"+-=".contains(byte)).unwrap_or(letters.len());
        operate(operator, who, &letters[..end], &mut changes)?;
        rest = &letters[end..];
    }
    Some(changes)
}

/// One operator with its letters. Those that copy (`ugo`) take effect where they stand, the others together.
fn operate(operator: u8, mut who: u32, letters: &[u8], changes: &mut Vec<Change>) -> Option<()> {
    let (mut bits, mut if_executable) = (0, 0);
    let mut assigned = false; // what `=` clears, it clears once
    for letter in letters {
        match letter {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= 0o111,
            b'X' if operator == b'-' => bits |= 0o111,
            b'X' => if_executable = 0o111,
            b's' if who != 0o007 => bits |= SET_IDS,
            b't' if who != 0o007 => {
                who |= STICKY;
                bits |= STICKY;
            }
            b's' | b't' => {} // others have neither
            b'u' | b'g' | b'o' => {
                flush(operator, who, std::mem::take(&mut bits), std::mem::take(&mut if_executable), changes);
                assigned = true;
                let from = match letter {
                    b'u' => 6,
                    b'g' => 3,
                    _ => 0,
                };
                let who = if who == 0 { 0o777 } else { who & 0o777 };
                changes.push(Change::Copy { from, who, operator });
            }
            _ => return None,
        }
    }
    if bits == 0 && operator == b'=' && !assigned {
        changes.push(Change::Clear(if who == 0 { STANDARD } else { who }));
    }
    flush(operator, who, bits, if_executable, changes);
    Some(())
}

fn flush(operator: u8, who: u32, bits: u32, if_executable: u32, changes: &mut Vec<Change>) {
    let all = if who == 0 { STANDARD } else { who };
    match operator {
        _ if bits == 0 => {}
        b'+' => changes.push(Change::Set(bits & all)),
        b'-' => changes.push(Change::Clear(bits & all)),
        _ => changes.extend([Change::Clear(all), Change::Set(bits & all)]),
    }
    if if_executable != 0 {
        changes.push(Change::SetIfExecutable(if_executable & all));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_chmod() {
        for (text, mode, is_dir, wanted) in [
            ("755", 0o600, false, 0o755),
            ("0", 0o600, false, 0),
            ("4755", 0o600, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwx,go=rX", 0o644, false, 0o744), // `X` sees no `x` that is new
            ("a=rX", 0o750, false, 0o555),
            ("a=", 0o7777, true, 0o1000),
            ("=t", 0o6755, false, 0o7755), // `t` alone is whom it is for
            ("u=t", 0o6755, false, 0o3055),
            ("o+s,o+t", 0o644, false, 0o644),
            ("g=u,o=g", 0o740, false, 0o777),
            ("g=ru", 0o740, false, 0o770),
            ("-X", 0o755, false, 0o644),
            ("u+X=r", 0o755, false, 0o455),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("g=u", 0o640, false, 0o660),
            ("u+s,g+s,+t", 0o755, false, 0o7755),
            ("o=", 0o777, false, 0o770),
            ("u+x-w", 0o600, false, 0o500),
            ("u=rw", 0o4755, false, 0o655),
        ] {
            let chmod: Chmod = text.parse().unwrap();
            assert_eq!(chmod.apply(mode, is_dir), wanted, "{text} {mode:o}");
        }
        for bad in ["", "8", "77777", "z=r", "u", "u=z", "a+rq", ",", "0x1"] {
            assert!(bad.parse::<Chmod>().is_err(), "{bad}");
        }
    }
}
