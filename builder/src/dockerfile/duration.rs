//! Spans of time as Go writes them; HEALTHCHECK has them.

use std::time::Duration;

use super::error::Problem;

/// A span of time as Go writes it: `1h30m`, `1.5s`, `300ms`, `0`. Shorter than 1 ms only if zero.
pub(super) fn read(flag: &'static str, value: Option<String>) -> Result<Duration, Problem> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(Duration::ZERO) };
    match go_duration(&value) {
        None => Err(Problem::Duration { flag, value }),
        Some(time) if time.is_zero() || time >= Duration::from_millis(1) => Ok(time),
        Some(_) => Err(Problem::ShortDuration { flag, value }),
    }
}

fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end =
            after.find(|character: char| character.is_ascii_digit() || character == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, unit)?)?;
        rest = after;
    }
    // Docker keeps 64 bits of nanoseconds.
    u64::try_from(total).ok().filter(|nanoseconds| i64::try_from(*nanoseconds).is_ok()).map(Duration::from_nanos)
}

/// A decimal number times a unit, in whole nanoseconds.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() > 19 || fraction.len() > 19 || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let digits: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    whole.checked_mul(unit)?.checked_add(digits * unit / 10u128.pow(fraction.len() as u32))
}
