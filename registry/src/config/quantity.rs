//! Times and sizes as people write them: `30s`, `5m`, `90d`; `512MB`, `10GiB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A text that is no time or size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: {hint}")]
pub struct InvalidQuantity {
    text: String,
    what: &'static str,
    hint: &'static str,
}

/// A time; plain numbers are seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Raw", into = "String")]
pub struct Time(pub Duration);

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

const TIMES: [(&str, u64); 5] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1), ("", 1)];
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

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let unit = text[digits..].trim_start();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    text[..digits].parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit that divides a number.
fn print(f: &mut fmt::Formatter<'_>, number: u64, units: &[(&str, u64)]) -> fmt::Result {
    let fits = |(name, factor): &&(&str, u64)| !name.is_empty() && number > 0 && number % factor == 0;
    match units.iter().filter(fits).max_by_key(|(_, factor)| *factor) {
        Some((name, factor)) => write!(f, "{}{name}", number / factor),
        None => write!(f, "{number}"),
    }
}

impl FromStr for Time {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let wrong = || InvalidQuantity { text: text.to_owned(), what: "time", hint: "write 30s, 5m, 12h or 90d" };
        parse(text, &TIMES).map(|seconds| Self(Duration::from_secs(seconds))).ok_or_else(wrong)
    }
}

impl FromStr for Size {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let wrong = || InvalidQuantity { text: text.to_owned(), what: "size", hint: "write 512MB or 10GiB" };
        parse(text, &SIZES).map(Self).ok_or_else(wrong)
    }
}

impl TryFrom<Raw> for Time {
    type Error = InvalidQuantity;
    fn try_from(raw: Raw) -> Result<Self, InvalidQuantity> {
        match raw {
            Raw::Number(seconds) => Ok(Self(Duration::from_secs(seconds))),
            Raw::Text(text) => text.parse(),
        }
    }
}

impl TryFrom<Raw> for Size {
    type Error = InvalidQuantity;
    fn try_from(raw: Raw) -> Result<Self, InvalidQuantity> {
        match raw {
            Raw::Number(bytes) => Ok(Self(bytes)),
            Raw::Text(text) => text.parse(),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.0.as_secs(), &TIMES)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.0, &SIZES)
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.to_string()
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
    fn times_and_sizes() {
        for (text, seconds, printed) in
            [("30s", 30, "30s"), ("90", 90, "90s"), ("5m", 300, "5m"), ("90d", 7_776_000, "90d"), ("0", 0, "0")]
        {
            let time: Time = text.parse().unwrap();
            assert_eq!((time.0.as_secs(), time.to_string().as_str()), (seconds, printed));
        }
        for (text, bytes, printed) in
            [("10GiB", 10 << 30, "10GiB"), ("1 TiB", 1 << 40, "1TiB"), ("512MB", 512_000_000, "512MB"), ("7", 7, "7B")]
        {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed));
        }
        for text in ["", "s", "-1s", "1w", "1.5m", "99999999999999999999s", "ä"] {
            assert!(text.parse::<Time>().is_err() && text.parse::<Size>().is_err(), "{text}");
        }
    }
}
