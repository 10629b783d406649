//! Wildcards as Go's `filepath.Match` understands them on Unix, name by name. No files here.

/// Whether a name holds a wildcard; an escaped one is none.
pub(super) fn has_wildcard(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// The pattern is malformed: an open bracket, or a backslash at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Whether a whole name matches a pattern that contains no slash.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> Result<bool, Malformed> {
    let pattern = tokens(pattern)?;
    // One saved position suffices: a later star can take over whatever an earlier one could.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern.get(p), rune(&name[n..])) {
            (None, None) => return Ok(true),
            (Some(Token::Star), _) => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            (Some(Token::Class { negated, ranges }), Some((c, size))) => {
                (ranges.iter().any(|range| range.contains(&c)) != *negated).then_some(size)
            }
            (Some(Token::Any), Some((_, size))) => Some(size),
            (Some(Token::Byte(byte)), Some(_)) => (name[n] == *byte).then_some(1),
            _ => None,
        };
        match (step, star) {
            (Some(size), _) => (p, n) = (p + 1, n + size),
            (None, Some((at, from))) if from < name.len() => {
                let next = from + rune(&name[from..]).map_or(1, |(_, size)| size);
                star = Some((at, next));
                (p, n) = (at + 1, next);
            }
            _ => return Ok(false),
        }
    }
}

enum Token {
    Star,
    Any,
    Byte(u8),
    Class { negated: bool, ranges: Vec<std::ops::RangeInclusive<u32>> },
}

fn tokens(mut pattern: &[u8]) -> Result<Vec<Token>, Malformed> {
    let mut tokens = Vec::new();
    while let Some((&byte, rest)) = pattern.split_first() {
        pattern = rest;
        tokens.push(match byte {
            b'*' => Token::Star,
            b'?' => Token::Any,
            b'\\' => {
                let (&escaped, rest) = pattern.split_first().ok_or(Malformed)?;
                pattern = rest;
                Token::Byte(escaped)
            }
            b'[' => class(&mut pattern)?,
            _ => Token::Byte(byte),
        });
    }
    Ok(tokens)
}

fn class(pattern: &mut &[u8]) -> Result<Token, Malformed> {
    let negated = pattern.first() == Some(&b'^');
    *pattern = &pattern[usize::from(negated)..];
    let mut ranges = Vec::new();
    loop {
        if pattern.first() == Some(&b']') && !ranges.is_empty() {
            *pattern = &pattern[1..];
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_rune(pattern)?;
        let high = match pattern.first() {
            Some(b'-') => {
                *pattern = &pattern[1..];
                class_rune(pattern)?
            }
            _ => low,
        };
        ranges.push(low..=high);
    }
}

/// One character of a class (Go: `getEsc`).
fn class_rune(pattern: &mut &[u8]) -> Result<u32, Malformed> {
    match pattern.first() {
        None | Some(b'-' | b']') => return Err(Malformed),
        Some(b'\\') => *pattern = &pattern[1..],
        Some(_) => {}
    }
    let (rune, size) = rune(pattern).ok_or(Malformed)?;
    *pattern = &pattern[size..];
    if pattern.is_empty() { Err(Malformed) } else { Ok(rune) }
}

/// The first character; a byte that is not UTF-8 counts as one, as in Go.
fn rune(text: &[u8]) -> Option<(u32, usize)> {
    let first = text.first()?;
    let size = match first {
        0..=0x7f => return Some((u32::from(*first), 1)),
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    let decoded = text.get(..size).and_then(|bytes| std::str::from_utf8(bytes).ok()).and_then(|s| s.chars().next());
    Some(decoded.map_or((0xfffd, 1), |c| (u32::from(c), size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Go's path/filepath/match_test.go, those without slashes.
    #[test]
    fn equals_go() {
        for (pattern, name, wanted) in [
            ("abc", "abc", Ok(true)),
            ("*", "abc", Ok(true)),
            ("*c", "abc", Ok(true)),
            ("a*", "a", Ok(true)),
            ("a*", "abc", Ok(true)),
            ("a*b*c*d*e*", "axbxcxdxe", Ok(true)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Ok(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Ok(false)),
            ("ab[c]", "abc", Ok(true)),
            ("ab[b-d]", "abc", Ok(true)),
            ("ab[e-g]", "abc", Ok(false)),
            ("ab[^c]", "abc", Ok(false)),
            ("ab[^b-d]", "abc", Ok(false)),
            ("ab[^e-g]", "abc", Ok(true)),
            ("a\\*b", "a*b", Ok(true)),
            ("a\\*b", "ab", Ok(false)),
            ("a?b", "a☺b", Ok(true)),
            ("a[^a]b", "a☺b", Ok(true)),
            ("a???b", "a☺b", Ok(false)),
            ("a[^a][^a][^a]b", "a☺b", Ok(false)),
            ("[a-ζ]*", "α", Ok(true)),
            ("*[a-ζ]", "A", Ok(false)),
            ("[\\]a]", "]", Ok(true)),
            ("[\\-]", "-", Ok(true)),
            ("[x\\-]", "x", Ok(true)),
            ("[x\\-]", "z", Ok(false)),
            ("[\\-x]", "-", Ok(true)),
            ("[]a]", "]", Err(Malformed)),
            ("[-]", "-", Err(Malformed)),
            ("[x-]", "x", Err(Malformed)),
            ("[-x]", "x", Err(Malformed)),
            ("\\", "a", Err(Malformed)),
            ("[a-b-c]", "a", Err(Malformed)),
            ("[", "a", Err(Malformed)),
            ("[^", "a", Err(Malformed)),
            ("[^bc", "a", Err(Malformed)),
            ("a[", "ab", Err(Malformed)),
            ("*x", "xxx", Ok(true)),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn wildcards() {
        for (name, wanted) in [("a", false), ("a*", true), ("a\\*", false), ("[[]x]", true), ("\\\\*", true)] {
            assert_eq!(has_wildcard(name.as_bytes()), wanted, "{name}");
        }
    }
}
