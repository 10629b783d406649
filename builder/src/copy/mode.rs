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

/// One change, such as `go=rX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of user, group, others: 0o700, 0o070 and 0o007 together.
    who: u32,
    operator: u8,
    /// The letters, or one of `ugo`, whose bits are copied.
    letters: Vec<u8>,
}

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
            Self::Change(changes) => changes.iter().fold(mode, |mode, change| change.apply(mode, is_dir)),
        }
    }
}

impl Change {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let bits = self.bits(mode, is_dir);
        match self.operator {
            b'+' => mode | bits,
            b'-' => mode & !bits,
            _ => mode & !self.scope(is_dir) | bits,
        }
    }

    /// The bits that `=` clears first; directories keep set-uid and set-gid, as with chmod(1).
    fn scope(&self, is_dir: bool) -> u32 {
        let special = if is_dir { 0 } else { special(self.who) };
        self.who | special
    }

    fn bits(&self, mode: u32, is_dir: bool) -> u32 {
        let all = |three: u32| (three * 0o111) & self.who;
        self.letters.iter().fold(0, |bits, letter| {
            bits | match letter {
                b'r' => all(4),
                b'w' => all(2),
                b'x' => all(1),
                b'X' if is_dir || mode & 0o111 != 0 => all(1),
                b's' => special(self.who),
                b't' => 0o1000,
                b'u' => all(mode >> 6 & 7),
                b'g' => all(mode >> 3 & 7),
                b'o' => all(mode & 7),
                _ => 0,
            }
        })
    }
}

/// Set-uid for the user, set-gid for the group.
fn special(who: u32) -> u32 {
    (if who & 0o700 != 0 { 0o4000 } else { 0 }) | (if who & 0o070 != 0 { 0o2000 } else { 0 })
}

/// One clause: who, then any number of operators with their letters.
fn parse(clause: &[u8]) -> Option<Vec<Change>> {
    let at = clause.iter().position(|byte| b"+-=".contains(byte))?;
    let mut who = 0;
    for letter in &clause[..at] {
        who |= match letter {
            b'u' => 0o700,
            b'g' => 0o070,
            b'o' => 0o007,
            b'a' => 0o777,
            _ => return None,
        };
    }
    let who = if who == 0 { 0o777 } else { who };
    let mut changes: Vec<Change> = Vec::new();
    for &byte in &clause[at..] {
        match byte {
            b'+' | b'-' | b'=' => changes.push(Change { who, operator: byte, letters: Vec::new() }),
            b'r' | b'w' | b'x' | b'X' | b's' | b't' | b'u' | b'g' | b'o' => changes.last_mut()?.letters.push(byte),
            _ => return None,
        }
    }
    Some(changes)
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
