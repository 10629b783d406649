//! The tar dialect of image layers, byte for byte as BuildKit writes it: Go's `archive/tar` with
//! `FormatPAX`, so that an equal layer has an equal diff ID. Only writing; see [`super::read`].
//!
//! A header is ustar when everything fits: names over 100 bytes may be split between `prefix` and
//! `name`. What does not fit (longer or non-ASCII names, big numbers, negative times, extended
//! attributes) goes to PAX records in front, and into the header go the pieces that fit.

use super::entry::{self, Entry, Kind, OPAQUE_NAME, WHITEOUT_PREFIX};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The size of tar's blocks, in bytes.
pub const BLOCK: usize = 512;

/// What an empty layer is: the end mark alone.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Why an entry cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Device numbers have room for 21 bits in a tar, and no PAX record exists for more.
    #[error("{path}: device number {major}:{minor} does not fit into a layer")]
    Device {
        /// The device.
        path: String,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A NUL byte in a path or a link target.
    #[error("{0}: paths and link targets cannot hold a NUL byte")]
    Nul(String),
    /// The root directory has no name in a tar.
    #[error("the root directory itself cannot be an entry of a layer")]
    Root,
    /// A name that would hide another one when the layer is read.
    #[error("{0}: names that start with `.wh.` mean deletions inside image layers; rename the file or exclude it")]
    Whiteout(String),
    /// The content is shorter or longer than the header says.
    #[error("the content is not the {expected} bytes that were announced")]
    Size {
        /// Bytes announced.
        expected: u64,
    },
    /// The stream below failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes entries as a tar stream.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    left: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    /// Starts a tar.
    pub fn new(out: W) -> Self {
        Self { out, left: 0, padding: 0 }
    }

    /// Writes a header; as many bytes as the entry's size must follow through [`Writer::content`].
    pub fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        self.end_content()?;
        let header = Header::of(entry)?;
        self.out.write_all(&header.bytes())?;
        self.left = header.size;
        self.padding = padding(header.size);
        Ok(())
    }

    /// Writes the next bytes of the entry's content.
    pub fn content(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(Error::Size { expected: self.left })?;
        Ok(self.out.write_all(bytes)?)
    }

    /// Writes the end mark and gives the stream back.
    pub fn finish(mut self) -> Result<W, Error> {
        self.end()?;
        Ok(self.out)
    }

    /// Writes the end mark; nothing may follow.
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        self.end_content()?;
        Ok(self.out.write_all(&END)?)
    }

    /// The stream below.
    pub(crate) fn stream(&mut self) -> &mut W {
        &mut self.out
    }

    /// Gives the stream back after [`Writer::end`].
    pub(crate) fn into_stream(self) -> W {
        self.out
    }

    /// Writes the padding behind a content; nothing if there is none.
    pub(crate) fn end_content(&mut self) -> Result<(), Error> {
        if self.left != 0 {
            return Err(Error::Size { expected: self.left });
        }
        self.out.write_all(&END[..self.padding])?;
        self.padding = 0;
        Ok(())
    }
}

/// How many zero bytes fill the last block of `size` bytes.
fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK as u64) - size) as usize
}

/// The fields of one header, as Go's `tar.Header` holds them.
struct Header<'a> {
    name: Vec<u8>,
    link: &'a [u8],
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    flag: u8,
    device: (u32, u32),
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whether Go would choose ustar (with the name split if need be) over PAX.
    ustar: bool,
}

impl<'a> Header<'a> {
    fn of(entry: &'a Entry) -> Result<Self, Error> {
        let (flag, link, device): (u8, &[u8], _) = match &entry.kind {
            Kind::File { .. } | Kind::Whiteout | Kind::Opaque => (b'0', b"", (0, 0)),
            Kind::Hardlink(target) => (b'1', target, (0, 0)),
            Kind::Symlink(target) => (b'2', target, (0, 0)),
            Kind::Char(major, minor) => (b'3', b"", (*major, *minor)),
            Kind::Block(major, minor) => (b'4', b"", (*major, *minor)),
            Kind::Directory | Kind::Implicit => (b'5', b"", (0, 0)),
            Kind::Fifo => (b'6', b"", (0, 0)),
        };
        let mut header = Self {
            name: tar_name(entry)?,
            link,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            size: entry.size(),
            mtime: entry.mtime,
            flag,
            device,
            records: BTreeMap::new(),
            ustar: true,
        };
        if header.name.contains(&0) || link.contains(&0) {
            return Err(Error::Nul(entry::show(&entry.path)));
        }
        let (major, minor) = device;
        if !fits(8, i64::from(major)) || !fits(8, i64::from(minor)) {
            return Err(Error::Device { path: entry::show(&entry.path), major, minor });
        }
        header.collect_records(&entry.xattrs);
        Ok(header)
    }

    /// What does not fit into the header becomes a PAX record (Go: `Header.allowedFormats`).
    fn collect_records(&mut self, xattrs: &[(Vec<u8>, Vec<u8>)]) {
        if !self.name.is_ascii() || self.name.len() > 100 {
            self.ustar &= split(&self.name).is_some();
            self.records.insert(b"path".to_vec(), self.name.clone());
        }
        if !self.link.is_ascii() || self.link.len() > 100 {
            self.ustar = false;
            self.records.insert(b"linkpath".to_vec(), self.link.to_vec());
        }
        for (key, width, value) in [
            (&b"uid"[..], 8, i64::from(self.uid)),
            (b"gid", 8, i64::from(self.gid)),
            (b"size", 12, self.size as i64),
            (b"mtime", 12, self.mtime),
        ] {
            if !fits(width, value) {
                self.ustar = false;
                self.records.insert(key.to_vec(), value.to_string().into_bytes());
            }
        }
        for (name, value) in xattrs {
            self.ustar = false;
            self.records.insert([b"SCHILY.xattr.", &name[..]].concat(), value.clone());
        }
    }

    /// All blocks in front of the content.
    fn bytes(&self) -> Vec<u8> {
        if self.ustar {
            let (prefix, name) = split(&self.name).unwrap_or((b"", &self.name));
            return self.block(prefix, name, self.link).to_vec();
        }
        let mut bytes = Vec::with_capacity(4 * BLOCK);
        if !self.records.is_empty() {
            let data: Vec<u8> = self.records.iter().flat_map(|(key, value)| record(key, value)).collect();
            bytes.extend_from_slice(&self.records_block(data.len()));
            bytes.extend_from_slice(&data);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.extend_from_slice(&self.block(b"", &ascii(&self.name), &ascii(self.link)));
        bytes
    }

    fn block(&self, prefix: &[u8], name: &[u8], link: &[u8]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[156] = self.flag;
        put_text(&mut block[0..100], name);
        put_text(&mut block[157..257], link);
        put_octal(&mut block[100..108], i64::from(self.mode));
        put_octal(&mut block[108..116], i64::from(self.uid));
        put_octal(&mut block[116..124], i64::from(self.gid));
        put_octal(&mut block[124..136], self.size as i64);
        put_octal(&mut block[136..148], self.mtime);
        put_octal(&mut block[329..337], i64::from(self.device.0));
        put_octal(&mut block[337..345], i64::from(self.device.1));
        put_text(&mut block[345..500], prefix);
        seal(&mut block);
        block
    }

    /// The header of the PAX records themselves, which Go fills less (`writeRawFile`).
    fn records_block(&self, size: usize) -> [u8; BLOCK] {
        let mut name = records_name(&self.name);
        name = ascii(&name);
        name.truncate(100);
        while name.last() == Some(&b'/') {
            name.pop();
        }
        let mut block = [0; BLOCK];
        block[156] = b'x';
        put_text(&mut block[0..100], &name);
        for field in [100..108, 108..116, 116..124, 136..148] {
            put_octal(&mut block[field], 0);
        }
        put_octal(&mut block[124..136], size as i64);
        seal(&mut block);
        block
    }
}

/// The name in the tar: a slash behind directories, the marker's name for what hides.
fn tar_name(entry: &Entry) -> Result<Vec<u8>, Error> {
    let dir = entry::parent(&entry.path);
    let name = match (&entry.kind, dir) {
        (Kind::Opaque, _) => return Ok(entry::join(&entry.path, OPAQUE_NAME)),
        (_, None) => return Err(Error::Root),
        (Kind::Whiteout, Some(dir)) => {
            return Ok(entry::join(dir, &[WHITEOUT_PREFIX, entry::name(&entry.path)].concat()));
        }
        (Kind::Directory | Kind::Implicit, _) => [&entry.path[..], b"/"].concat(),
        _ => entry.path.clone(),
    };
    if entry::name(&entry.path).starts_with(WHITEOUT_PREFIX) {
        return Err(Error::Whiteout(entry::show(&entry.path)));
    }
    Ok(name)
}

/// Go's `splitUSTARPath`: at the last slash that leaves both halves within their fields.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 || !name.is_ascii() {
        return None;
    }
    let mut length = name.len();
    if length > 156 {
        length = 156;
    } else if name[length - 1] == b'/' {
        length -= 1;
    }
    let at = name[..length].iter().rposition(|&b| b == b'/')?;
    let rest = name.len() - at - 1;
    if at == 0 || rest > 100 || rest == 0 || at > 155 {
        return None;
    }
    Some((&name[..at], &name[at + 1..]))
}

/// `dir/PaxHeaders.0/file`, as Go's `path.Join` gives it.
fn records_name(name: &[u8]) -> Vec<u8> {
    let at = name.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    let (dir, file) = name.split_at(at);
    let mut joined = [dir, b"PaxHeaders.0"].concat();
    if !file.is_empty() {
        joined.push(b'/');
        joined.extend_from_slice(file);
    }
    joined
}

/// One PAX record, whose length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut size = rest + rest.to_string().len();
    size = rest + size.to_string().len();
    let mut record = size.to_string().into_bytes();
    for part in [&b" "[..], key, b"=", value, b"\n"] {
        record.extend_from_slice(part);
    }
    record
}

/// Drops what is not ASCII, as Go's `toASCII` does for the header beside a PAX record.
fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(u8::is_ascii).collect()
}

/// Fills a text field; a cut must not end in a slash, which old readers take for a directory.
fn put_text(field: &mut [u8], text: &[u8]) {
    let size = text.len().min(field.len());
    field[..size].copy_from_slice(&text[..size]);
    if text.len() > field.len() && field[size - 1] == b'/' {
        let kept = field[..size - 1].iter().rposition(|&b| b != b'/').map_or(0, |at| at + 1);
        field[kept] = 0;
    }
}

/// Whether a number fits into an octal field of `width` bytes with its NUL.
fn fits(width: usize, value: i64) -> bool {
    value >= 0 && value < 1 << ((width - 1) * 3)
}

/// Fills an octal field; what does not fit stands in a PAX record and is zero here.
fn put_octal(field: &mut [u8], value: i64) {
    let width = field.len() - 1;
    let value = if fits(field.len(), value) { value } else { 0 };
    let text = format!("{value:0width$o}");
    field[..width].copy_from_slice(text.as_bytes());
}

/// Adds magic, version and checksum.
fn seal(block: &mut [u8; BLOCK]) {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: i64 = block.iter().map(|&byte| i64::from(byte)).sum();
    put_octal(&mut block[148..155], sum);
    block[154] = 0;
}

#[cfg(test)]
mod tests;
