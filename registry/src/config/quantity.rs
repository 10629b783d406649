//! Sizes as people write them: `512MB`, `10GiB`. Spans of time are those of `keeping`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no size: write 512MB or 10GiB")]
pub struct InvalidSize(String);

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Raw", into = "String")]
pub struct Size(pub u64);

/// What a quantity may be written as.
#[derive(Deserialize)]
#[serde(untagged)]
enum Raw {
    Number(u64),
    Text(String),
}

const SIZES: [(&str, u64); 10] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
    ("", 1),
];

fn parse(text: &str) -> Option<u64> {
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let unit = text[digits..].trim_start();
    let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit)?;
    text[..digits].parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit that divides a number.
fn print(f: &mut fmt::Formatter<'_>, number: u64) -> fmt::Result {
    let fits = |(name, factor): &&(&str, u64)| !name.is_empty() && number > 0 && number.is_multiple_of(*factor);
    match SIZES.iter().filter(fits).max_by_key(|(_, factor)| *factor) {
        Some((name, factor)) => write!(f, "{}{name}", number / factor),
        None => write!(f, "{number}"),
    }
}

impl FromStr for Size {
    type Err = InvalidSize;
    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        parse(text).map(Self).ok_or_else(|| InvalidSize(text.chars().take(40).collect()))
    }
}

impl TryFrom<Raw> for Size {
    type Error = InvalidSize;
    fn try_from(raw: Raw) -> Result<Self, InvalidSize> {
        match raw {
            Raw::Number(bytes) => Ok(Self(bytes)),
            Raw::Text(text) => text.parse(),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.0)
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes, printed) in
            [("10GiB", 10 << 30, "10GiB"), ("1 TiB", 1 << 40, "1TiB"), ("512MB", 512_000_000, "512MB"), ("7", 7, "7B")]
        {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed));
        }
        for text in ["", "B", "-1B", "1w", "1.5MB", "99999999999999999999TiB", "18446744073709551615TiB", "ä"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
