//! One block of a tar, and the records that extend it, as numbers and texts. What they may mean in a
//! layer is decided in [`super`].

use super::super::entry::NAME_LIMIT;
use super::sparse;
use super::{BLOCK, XATTR_LIMIT};
use std::collections::BTreeMap;

/// The prefix under which PAX records carry extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// The prefix of records about sparse files.
const SPARSE: &[u8] = b"GNU.sparse.";

/// The fields of a header block.
pub(super) struct Header {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: i64,
    pub flag: u8,
    pub major: u32,
    pub minor: u32,
}

impl Header {
    pub fn parse(block: &[u8; BLOCK]) -> Result<Self, &'static str> {
        check_sum(block)?;
        let owner = |field| u32::try_from(number(field)?).map_err(|_| "an owner out of range");
        let device = |field| u32::try_from(number(field)?).map_err(|_| "a device number out of range");
        let flag = block[156];
        let is_device = matches!(flag, b'3' | b'4');
        Ok(Self {
            path: path(block),
            link: text(&block[157..257]),
            mode: (number(&block[100..108])? & 0o7777) as u32,
            uid: owner(&block[108..116])?,
            gid: owner(&block[116..124])?,
            size: u64::try_from(number(&block[124..136])?).map_err(|_| "a negative size")?,
            mtime: number(&block[136..148])?,
            flag,
            major: if is_device { device(&block[329..337])? } else { 0 },
            minor: if is_device { device(&block[337..345])? } else { 0 },
        })
    }

    /// Whether content follows. Links, devices and directories may carry a size that means nothing.
    pub fn has_content(&self) -> bool {
        !matches!(self.flag, b'1'..=b'6')
    }
}

/// What extension headers say about the entry behind them.
#[derive(Clone, Default)]
pub(super) struct Extensions {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub mtime: Option<i64>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub sparse: sparse::Records,
}

impl Extensions {
    /// Adds the records of a PAX header. Unknown ones mean nothing here.
    pub fn add_records(&mut self, mut records: &[u8]) -> Result<(), &'static str> {
        while !records.is_empty() {
            let (key, value, rest) = record(records).ok_or("a malformed PAX record")?;
            self.add(key, value)?;
            records = rest;
        }
        Ok(())
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if value.is_empty() {
            return Ok(()); // what the header says counts; and there is no attribute, says Go
        }
        if let Some(rest) = key.strip_prefix(SPARSE) {
            return self.sparse.add(rest, value);
        }
        if let Some(name) = key.strip_prefix(XATTR) {
            if name.is_empty() || name.len() > NAME_LIMIT || value.len() > XATTR_LIMIT || name.contains(&0) {
                return Err("an extended attribute beyond the kernel's limits");
            }
            self.xattrs.insert(name.to_vec(), value.to_vec());
            return Ok(());
        }
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"uid" => self.uid = Some(decimal(value).ok_or("a malformed uid record")?),
            b"gid" => self.gid = Some(decimal(value).ok_or("a malformed gid record")?),
            b"size" => self.size = Some(decimal(value).ok_or("a malformed size record")?),
            b"mtime" => self.mtime = Some(seconds(value).ok_or("a malformed mtime record")?),
            _ => {}
        }
        Ok(())
    }
}

/// Splits `LENGTH KEY=VALUE\n` off the front.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|&b| b == b' ')?;
    let length: usize = decimal(&records[..space])?;
    let (record, rest) = records.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&b| b == b'=')?;
    Some((&body[..equals], &body[equals + 1..], rest))
}

pub(super) fn decimal<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whole seconds of a decimal fraction, cut like BuildKit does (towards the past).
fn seconds(text: &[u8]) -> Option<i64> {
    let point = text.iter().position(|&b| b == b'.').unwrap_or(text.len());
    let whole: i64 = decimal(&text[..point])?;
    let fraction = text[point..].iter().any(|b| (b'1'..=b'9').contains(b));
    whole.checked_sub(i64::from(fraction && text.starts_with(b"-")))
}

/// The sum of all bytes, with the field itself as spaces; old tars summed signed bytes.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), &'static str> {
    let wanted = number(&block[148..156]).map_err(|_| "a header without checksum")?;
    let rest = || block[..148].iter().chain(&block[156..]);
    let unsigned: i64 = rest().map(|&b| i64::from(b)).sum::<i64>() + 8 * 32;
    let signed: i64 = rest().map(|&b| i64::from(b as i8)).sum::<i64>() + 8 * 32;
    if wanted == unsigned || wanted == signed { Ok(()) } else { Err("a header with a wrong checksum; is it a tar?") }
}

/// Name, with the prefix that POSIX headers have in front. GNU headers keep other things there, those of star behind it.
fn path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = text(&block[..100]);
    let end = if block[508..] == *b"tar\0" { 476 } else { 500 };
    let prefix = if block[257..263] == *b"ustar\0" { text(&block[345..end]) } else { Vec::new() };
    if prefix.is_empty() { name } else { [&prefix[..], b"/", &name].concat() }
}

fn text(field: &[u8]) -> Vec<u8> {
    field.split(|&b| b == 0).next().unwrap_or_default().to_vec()
}

/// An octal number, or GNU's base-256 with the top bit set.
fn number(field: &[u8]) -> Result<i64, &'static str> {
    if field[0] & 0x80 != 0 {
        return base256(field);
    }
    let digits = field.split(|&b| b == 0 || b == b' ').find(|part| !part.is_empty()).unwrap_or_default();
    digits
        .iter()
        .try_fold(0i64, |value, &digit| match digit {
            b'0'..=b'7' => value.checked_mul(8).map(|value| value + i64::from(digit - b'0')),
            _ => None,
        })
        .ok_or("a malformed number")
}

fn base256(field: &[u8]) -> Result<i64, &'static str> {
    let negative = field[0] & 0x40 != 0;
    let first = i128::from(field[0] & 0x3f) - if negative { 0x40 } else { 0 };
    let mut value = first;
    for &byte in &field[1..] {
        value = value * 256 + i128::from(byte);
        if i64::try_from(value).is_err() {
            return Err("a number out of range");
        }
    }
    i64::try_from(value).map_err(|_| "a number out of range")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, value) in [
            (&b"0000755\0"[..], Ok(0o755)),
            (b"    755 ", Ok(0o755)),
            (b"\0\0\0\0\0\0\0\0", Ok(0)),
            (b"00000008", Err(())),
            (b"\x80\0\0\0\0\x20\0\0", Ok(1 << 21)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfb", Ok(-5)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Err(())),
        ] {
            assert_eq!(number(field).map_err(drop), value, "{field:?}");
        }
    }

    #[test]
    fn times() {
        for (text, value) in
            [("1.9", Some(1)), ("-1.5", Some(-2)), ("-1", Some(-1)), ("-0.5", Some(-1)), ("x", None), ("", None)]
        {
            assert_eq!(seconds(text.as_bytes()), value, "{text}");
        }
    }

    #[test]
    fn records() {
        let mut extensions = Extensions::default();
        extensions.add_records(b"11 path=ab\n21 SCHILY.xattr.a=\n\0\n").unwrap();
        assert_eq!(extensions.path.as_deref(), Some(&b"ab"[..]));
        for bad in
            [&b"11 path=ab"[..], b"99 path=ab\n", b"0 a=b\n", b"x", b"6 ab=\n7", b"18446744073709551616 a=b\n", b"3 \n"]
        {
            assert!(Extensions::default().add_records(bad).is_err(), "{bad:?}");
        }
    }
}
