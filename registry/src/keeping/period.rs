//! Spans of time as operators write them: `90s`, `15m`, `12h`, `7d`, `4w`, `1d12h`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Units, largest first, in seconds.
const UNITS: [(char, u64); 5] = [('w', 7 * 86_400), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
/// A hundred years: beyond that somebody meant `forever`, and times would leave the calendar.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// A span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period(Duration);

/// Why a text is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no span of time up to 100 years: write 90s, 15m, 12h, 7d, 4w, or several in a row")]
pub struct InvalidPeriod(String);

impl Period {
    /// A span of so long.
    pub fn of(duration: Duration) -> Self {
        Self(duration.min(LONGEST))
    }

    /// How long it is.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Period {
    type Err = InvalidPeriod;

    fn from_str(text: &str) -> Result<Self, InvalidPeriod> {
        let invalid = || InvalidPeriod(text.chars().take(40).collect());
        let (mut total, mut rest) = (0u64, text);
        if rest.is_empty() {
            return Err(invalid());
        }
        while !rest.is_empty() {
            let digits = rest.find(|char: char| !char.is_ascii_digit()).ok_or_else(invalid)?;
            let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
            let (milliseconds, behind) = unit(&rest[digits..]).ok_or_else(invalid)?;
            let part = number.checked_mul(milliseconds).ok_or_else(invalid)?;
            total = total.checked_add(part).ok_or_else(invalid)?;
            rest = behind;
        }
        let period = Duration::from_millis(total);
        if period <= LONGEST { Ok(Self(period)) } else { Err(invalid()) }
    }
}

/// Reads a unit: its length in milliseconds, and what follows.
fn unit(text: &str) -> Option<(u64, &str)> {
    if let Some(behind) = text.strip_prefix("ms") {
        return Some((1, behind));
    }
    let (_, seconds) = UNITS.iter().find(|(name, _)| text.starts_with(*name))?;
    Some((seconds * 1000, &text[1..]))
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut seconds = self.0.as_secs();
        let milliseconds = self.0.subsec_millis();
        if seconds == 0 && milliseconds == 0 {
            return f.write_str("0s");
        }
        for (name, length) in UNITS {
            if seconds >= length {
                write!(f, "{}{name}", seconds / length)?;
                seconds %= length;
            }
        }
        if milliseconds > 0 { write!(f, "{milliseconds}ms") } else { Ok(()) }
    }
}

impl TryFrom<String> for Period {
    type Error = InvalidPeriod;
    fn try_from(text: String) -> Result<Self, InvalidPeriod> {
        text.parse()
    }
}

impl From<Period> for String {
    fn from(period: Period) -> Self {
        period.to_string()
    }
}

/// How long to wait, which may be for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Patience {
    /// For this long.
    For(Period),
    /// Without end.
    Forever,
}

impl FromStr for Patience {
    type Err = InvalidPeriod;

    fn from_str(text: &str) -> Result<Self, InvalidPeriod> {
        if text == "forever" { Ok(Self::Forever) } else { text.parse().map(Self::For) }
    }
}

impl From<Patience> for String {
    fn from(patience: Patience) -> Self {
        patience.to_string()
    }
}

impl TryFrom<String> for Patience {
    type Error = InvalidPeriod;
    fn try_from(text: String) -> Result<Self, InvalidPeriod> {
        text.parse()
    }
}

impl fmt::Display for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(period) => period.fmt(f),
            Self::Forever => f.write_str("forever"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans() {
        let seconds = |text: &str| text.parse::<Period>().unwrap().duration().as_secs();
        assert_eq!((seconds("90s"), seconds("15m"), seconds("12h")), (90, 900, 43_200));
        assert_eq!((seconds("7d"), seconds("4w"), seconds("1d12h"), seconds("0s")), (604_800, 2_419_200, 129_600, 0));
        assert_eq!("250ms".parse::<Period>().unwrap().duration(), Duration::from_millis(250));
        for wrong in ["", "5", "h", "-1h", "1.5h", "1 h", "1y", "99999999999999999999s", "9999999999w", "1hé"] {
            assert!(wrong.parse::<Period>().is_err(), "{wrong}");
        }
        assert_eq!("forever".parse(), Ok(Patience::Forever));
    }

    proptest! {
        #[test]
        fn printing_and_parsing_are_inverse(milliseconds in 0..LONGEST.as_millis() as u64) {
            let period = Period::of(Duration::from_millis(milliseconds));
            prop_assert_eq!(period.to_string().parse::<Period>(), Ok(period));
        }

        #[test]
        fn parsing_never_panics(text: String) {
            let _ = text.parse::<Period>(); // only whether it returns matters here
        }
    }
}
