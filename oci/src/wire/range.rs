//! Byte ranges: of downloads (`Range`, RFC 9110 §14) and of upload chunks (`Content-Range`,
//! distribution-spec "Pushing a blob in chunks", which writes them without a unit).

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Most ranges that one request may ask for; zstd:chunked clients ask for a few dozen.
const RANGES_LIMIT: usize = 256;

/// What a `Range` header asks for, of content of a known size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requested {
    /// Everything: there is no header, or none that has to be understood (RFC 9110 §14.2), or it asks for
    /// more than everything.
    Whole,
    /// One or several parts, none of them empty, each inside the content.
    Parts(Vec<Range<u64>>),
    /// Nothing of it lies inside: answer 416.
    Unsatisfiable,
}

/// Reads a `Range` header against content of `size` bytes.
pub fn requested(header: &str, size: u64) -> Requested {
    let Some((unit, list)) = header.split_once('=') else { return Requested::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Requested::Whole;
    }
    let mut parts = Vec::new();
    for (count, spec) in list.split(',').map(str::trim).filter(|spec| !spec.is_empty()).enumerate() {
        if count >= RANGES_LIMIT {
            return Requested::Whole;
        }
        match part(spec, size) {
            Ok(Some(range)) => parts.push(range),
            Ok(None) => {}
            Err(Malformed) => return Requested::Whole,
        }
    }
    // Parts that overlap could ask for many times the content; whoever wants so much gets it once.
    let total: u128 = parts.iter().map(|part| u128::from(part.end - part.start)).sum();
    match parts.is_empty() {
        true => Requested::Unsatisfiable,
        false if total > u128::from(size) => Requested::Whole,
        false => Requested::Parts(parts),
    }
}

struct Malformed;

/// One `first-last`, `first-` or `-suffix`; `None` if it lies outside.
fn part(spec: &str, size: u64) -> Result<Option<Range<u64>>, Malformed> {
    let (first, last) = spec.split_once('-').ok_or(Malformed)?;
    let range = match (first.trim(), last.trim()) {
        ("", suffix) => size.saturating_sub(number(suffix)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            // Backwards: RFC 9110 lets a server ignore or reject it; the conformance suite wants 416.
            if first > last {
                return Ok(None);
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Ok((range.start < range.end).then_some(range))
}

fn number(text: &str) -> Result<u64, Malformed> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed);
    }
    Ok(text.parse().unwrap_or(u64::MAX)) // more digits than fit mean: beyond any content
}

/// Which bytes of a blob an upload chunk carries: `first-last`, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Offset of the first byte.
    pub first: u64,
    /// Offset of the last byte; an empty chunk does not exist.
    pub last: u64,
}

/// A `Content-Range` that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Content-Range of a chunk is written as FIRST-LAST, both inclusive")]
pub struct InvalidChunk;

impl Chunk {
    /// How many bytes the chunk has.
    pub fn size(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

impl FromStr for Chunk {
    type Err = InvalidChunk;

    /// Also takes `bytes FIRST-LAST/TOTAL`, which RFC 9110 would have and some clients send.
    fn from_str(text: &str) -> Result<Self, InvalidChunk> {
        let text = text.trim();
        let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches(['=', ' ']));
        let text = text.split('/').next().unwrap_or(text);
        let (first, last) = text.split_once('-').ok_or(InvalidChunk)?;
        let exact = |digits: &str| match number(digits) {
            Ok(value) if value < u64::MAX => Ok(value),
            _ => Err(InvalidChunk),
        };
        let (first, last) = (exact(first)?, exact(last)?);
        if first > last { Err(InvalidChunk) } else { Ok(Self { first, last }) }
    }
}

impl fmt::Display for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The `Range` header that tells an uploader what has arrived: `0-LAST`, and `0-0` for nothing,
/// since docker demands an end that is not before the start.
pub fn received(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

/// The `Content-Range` of one part of `size` bytes (RFC 9110 §14.4).
pub fn content_range(part: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{}", part.start, part.end.saturating_sub(1), size)
}

/// The `Content-Range` of a 416 answer.
pub fn content_range_unsatisfied(size: u64) -> String {
    format!("bytes */{size}")
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // a list of one range is what is meant
mod tests {
    use super::*;

    #[test]
    fn ranges_by_rfc_9110() {
        use Requested::{Parts, Unsatisfiable, Whole};
        for (header, expected) in [
            ("bytes=0-9", Parts(vec![0..10])),
            ("bytes=0-", Parts(vec![0..100])),
            ("bytes=90-200", Parts(vec![90..100])),
            ("bytes=-10", Parts(vec![90..100])),
            ("bytes=-1000", Parts(vec![0..100])),
            ("Bytes=5-5", Parts(vec![5..6])),
            ("bytes=0-0, 50-59,-1", Parts(vec![0..1, 50..60, 99..100])),
            ("bytes=0-0,500-600", Parts(vec![0..1])),
            ("bytes=100-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=99999999999999999999999-", Unsatisfiable),
            ("bytes=9-5", Unsatisfiable),
            ("bytes=0-99", Parts(vec![0..100])),
            ("bytes=0-,0-0", Whole),
            ("bytes=a-b", Whole),
            ("bytes=+1-2", Whole),
            ("lines=0-5", Whole),
            ("bytes", Whole),
        ] {
            assert_eq!(requested(header, 100), expected, "{header}");
        }
        assert_eq!(requested("bytes=0-", 0), Unsatisfiable);
        assert_eq!(requested(&format!("bytes={}", "0-1,".repeat(300)), 100), Whole);
    }

    #[test]
    fn chunks() {
        assert_eq!("0-9".parse(), Ok(Chunk { first: 0, last: 9 }));
        assert_eq!("bytes 5-9/100".parse(), Ok(Chunk { first: 5, last: 9 }));
        for bad in ["", "5", "9-5", "-5", "a-b", "0-99999999999999999999", "5-", "0 - 5"] {
            assert_eq!(bad.parse::<Chunk>(), Err(InvalidChunk), "{bad}");
        }
        assert_eq!((received(0), received(10)), ("0-0".to_owned(), "0-9".to_owned()));
        assert_eq!(content_range(&(5..10), 20), "bytes 5-9/20");
    }

    proptest::proptest! {
        #[test]
        fn parts_lie_inside(header in "bytes=[0-9,-]{0,20}", size: u64) {
            if let Requested::Parts(parts) = requested(&header, size) {
                proptest::prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= size));
                proptest::prop_assert!(parts.iter().map(|part| part.end - part.start).sum::<u64>() <= size);
            }
        }
    }
}
