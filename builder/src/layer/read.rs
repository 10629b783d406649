//! Reading somebody else's layer or archive: compression is recognised by content, headers become
//! checked [`Entry`] values, and nothing that is claimed is believed. Paths cannot leave the root,
//! sizes are bounded before memory is taken, and a bomb ends with an error.
//!
//! Understood are ustar, PAX with its sparse files, and GNU's long names and base-256 numbers. What Go's `archive/tar`
//! reads, BuildKit takes, and so do we; where it refuses, such as GNU's sparse files of old, so do we.

use super::entry::{ContentHash, Entry, Kind, PATH_LIMIT, join, name, parent, show};
use super::index::{self, Index, XATTR_LIMIT};
use super::tar::BLOCK;
use super::view::{self, Step, resolve};
use header::{Extensions, Header};
use oci::{DiffId, Verified, Verifier};
use std::collections::HashMap;
use std::io::{self, Read};

mod header;
mod naming;
mod sparse;
mod stream;

use naming::{clean, hiding, means_destination, symlink_target};
use sparse::{Next, Place, Sparse};
use stream::Stream;
pub use stream::{Format, decompress};

/// How much is believed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the uncompressed archive.
    pub size: u64,
    /// How many times larger than its compressed form an archive may be, once beyond 1 GiB. gzip cannot
    /// exceed 1032; zstd can.
    pub ratio: u64,
    /// Entries of the archive.
    pub entries: usize,
    /// Bytes of all paths, link targets and attributes together: these are what is kept in memory.
    pub names: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { size: 256 << 30, ratio: 2000, entries: index::ENTRY_LIMIT, names: 512 << 20 }
    }
}

/// The longest PAX or GNU extension header, in bytes: room for two paths and all attributes.
const EXTENSION_LIMIT: u64 = 1 << 20;
/// The longest map of a sparse file in front of its content, in bytes.
const MAP_LIMIT: u64 = 1 << 20;

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source failed, or the compressed data is damaged or ends early.
    #[error("the archive cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Not a tar, or a damaged one.
    #[error("damaged archive at byte {at}: {what}")]
    Damaged {
        /// Offset of the header in the uncompressed archive.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Something that layers cannot hold.
    #[error("{path}: {what} are not supported in layers")]
    Unsupported {
        /// The entry.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// An entry that would land outside of the root, or nowhere.
    #[error("{path}: refused, {what}")]
    Refused {
        /// The entry.
        path: String,
        /// Why.
        what: &'static str,
    },
    /// More than the limits allow.
    #[error("the archive has more than {limit} {what}; if it can be trusted, raise the limit")]
    Limit {
        /// The limit.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
}

impl From<view::Error> for Error {
    fn from(error: view::Error) -> Self {
        let path = match &error {
            view::Error::Links(path) | view::Error::NotDirectory(path) => path.clone(),
        };
        Self::Refused { path, what: "its directory is a circle of symbolic links, or no directory" }
    }
}

/// How whiteout names are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// `.wh.` names hide, as in layers.
    Layer,
    /// `.wh.` names are ordinary names, as in the archives that ADD extracts.
    Archive,
}

/// Whether the start of a plain stream looks like a tar: a header with a right checksum.
pub fn looks_like_tar(start: &[u8]) -> bool {
    start.first_chunk::<BLOCK>().is_some_and(|block| Header::parse(block).is_ok())
}

/// Reads entries one by one; the content of the last one is read through [`Read`].
pub struct Reader<'a> {
    plain: Stream<'a>,
    names: Names,
    limits: Limits,
    count: usize,
    named: u64,
    /// Bytes of content, and of padding behind it, that were not read yet.
    left: u64,
    padding: u64,
    /// How the content is to be spread, if it is a sparse file's.
    sparse: Option<Sparse>,
    /// Symbolic links seen so far: later entries below them land where they point.
    links: HashMap<Vec<u8>, Vec<u8>>,
    done: bool,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("at", &self.plain.position()).finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// Opens a layer or archive of any recognised compression.
    pub fn open(source: impl Read + 'a, names: Names, limits: Limits) -> Result<Self, Error> {
        Ok(Self {
            plain: Stream::open(source, limits)?,
            names,
            limits,
            count: 0,
            named: 0,
            left: 0,
            padding: 0,
            sparse: None,
            links: HashMap::new(),
            done: false,
        })
    }

    /// The next entry, or `None` at the end. The hash of a file is not known yet; hard links name the
    /// path they link to.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        while let Some((header, extensions)) = self.next_header()? {
            self.count += 1;
            if self.count > self.limits.entries {
                return Err(Error::Limit { limit: self.limits.entries as u64, what: "entries" });
            }
            if let Some(entry) = self.entry(&header, extensions)? {
                self.count_names(&entry)?;
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn count_names(&mut self, entry: &Entry) -> Result<(), Error> {
        let target = match &entry.kind {
            Kind::Symlink(target) | Kind::Hardlink(target) => target.len(),
            _ => 0,
        };
        let attributes: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.named += (entry.path.len() + target + attributes) as u64;
        if self.named > self.limits.names {
            return Err(Error::Limit { limit: self.limits.names, what: "bytes of names and attributes" });
        }
        Ok(())
    }

    /// Reads what is left, and names the whole uncompressed stream. What follows the end mark of an archive may be
    /// anything: nobody looks at it.
    pub fn finish(mut self) -> Result<Verified, Error> {
        while self.next_entry()?.is_some() {}
        let mut rest = [0; 16 << 10];
        loop {
            match self.plain.read(&mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) if self.names == Names::Archive => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.plain.into_hash().seal())
    }

    /// The bytes of the uncompressed stream that were read so far.
    pub fn position(&self) -> u64 {
        self.plain.position()
    }

    fn next_header(&mut self) -> Result<Option<(Header, Extensions)>, Error> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_content()?;
            let at = self.position();
            let Some(block) = self.block(at)? else { return Ok(None) };
            let header = Header::parse(&block).map_err(|what| Error::Damaged { at, what })?;
            match header.flag {
                b'x' => {
                    extensions.add_records(&self.extension(&header, at)?).map_err(|what| Error::Damaged { at, what })?
                }
                // Global records are read and mean nothing, says Go.
                b'g' => Extensions::default()
                    .add_records(&self.extension(&header, at)?)
                    .map_err(|what| Error::Damaged { at, what })?,
                b'L' => extensions.path = Some(until_nul(self.extension(&header, at)?)),
                b'K' => extensions.link = Some(until_nul(self.extension(&header, at)?)),
                _ => {
                    self.left = if header.has_content() { extensions.size.unwrap_or(header.size) } else { 0 };
                    self.padding = self.left.wrapping_neg() % BLOCK as u64;
                    self.spread(&header, &extensions, at)?;
                    return Ok(Some((header, extensions)));
                }
            }
        }
    }

    /// Finds out whether the content that follows is a sparse file's, and how it is to be spread.
    fn spread(&mut self, header: &Header, extensions: &Extensions, at: u64) -> Result<(), Error> {
        let damaged = |what| Error::Damaged { at, what };
        let Some(place) = extensions.sparse.place() else { return Ok(()) };
        if !header.has_content() {
            return Err(damaged("a sparse file that is no file"));
        }
        let sparse = match place {
            Place::Records => extensions.sparse.file(self.left),
            Place::Content => {
                let map = self.map(at)?;
                extensions.sparse.file_of(&map, self.left)
            }
        };
        let sparse = sparse.map_err(damaged)?;
        self.plain.add_hole(sparse.holes())?;
        self.sparse = Some(sparse);
        Ok(())
    }

    /// Reads the map of a sparse file that stands in front of its content, in blocks of its own.
    fn map(&mut self, at: u64) -> Result<Vec<u64>, Error> {
        let damaged = |what| Error::Damaged { at, what };
        let mut map = sparse::Map::default();
        loop {
            if let Some(numbers) = map.numbers().map_err(damaged)? {
                return Ok(numbers);
            }
            if map.len() >= MAP_LIMIT || self.left < BLOCK as u64 {
                return Err(damaged("a sparse file with a map that is cut or too long"));
            }
            let mut block = [0; BLOCK];
            if !fill(&mut self.plain, &mut block, at)? {
                return Err(damaged("it ends inside a file"));
            }
            self.left -= BLOCK as u64;
            map.push(&block);
        }
    }

    /// The next block, or `None` at the end mark or where the stream ends without one.
    fn block(&mut self, at: u64) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        if self.done || !fill(&mut self.plain, &mut block, at)? {
            self.done = true;
            return Ok(None);
        }
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        self.done = true;
        if fill(&mut self.plain, &mut block, at)? && block != [0; BLOCK] {
            return Err(Error::Damaged { at, what: "half of an end mark" });
        }
        Ok(None)
    }

    fn extension(&mut self, header: &Header, at: u64) -> Result<Vec<u8>, Error> {
        if header.size > EXTENSION_LIMIT {
            return Err(Error::Damaged { at, what: "an extension header of more than 1 MiB" });
        }
        let mut data = vec![0; header.size as usize];
        if !fill(&mut self.plain, &mut data, at)? && !data.is_empty() {
            return Err(Error::Damaged { at, what: "it ends inside an extension header" });
        }
        self.padding = header.size.wrapping_neg() % BLOCK as u64;
        Ok(data)
    }

    fn skip_content(&mut self) -> Result<(), Error> {
        let at = self.position();
        let mut left = self.left + self.padding;
        let mut rest = [0; 16 << 10];
        while left > 0 {
            let wanted = left.min(rest.len() as u64) as usize;
            let got = self.plain.read(&mut rest[..wanted])?;
            if got == 0 {
                return Err(Error::Damaged { at, what: "it ends inside a file" });
            }
            left -= got as u64;
        }
        (self.left, self.padding, self.sparse) = (0, 0, None);
        Ok(())
    }

    /// Makes the entry, or `None` for what says nothing (volume labels).
    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Option<Entry>, Error> {
        let raw = extensions.path.as_deref().unwrap_or(&header.path);
        let raw = extensions.sparse.name().filter(|_| self.sparse.is_some()).unwrap_or(raw);
        if header.flag == b'S' {
            return Err(Error::Unsupported { path: show(raw), what: "sparse files of GNU's old format" });
        }
        if self.names == Names::Archive && means_destination(raw) {
            return Ok(None); // it is there already, says moby
        }
        let link = extensions.link.as_deref().unwrap_or(&header.link);
        let path = self.settle(&clean(raw, self.names)?)?;
        let kind = match header.flag {
            b'5' => Kind::Directory,
            0 if raw.ends_with(b"/") => Kind::Directory, // as tar had it before it knew directories
            b'0' | 0 => {
                let size = self.sparse.as_ref().map_or(self.left, Sparse::size);
                Kind::File { size, hash: ContentHash::EMPTY }
            }
            b'1' => Kind::Hardlink(self.link_target(raw, link)?),
            b'2' => Kind::Symlink(symlink_target(raw, link)?),
            b'3' if (header.major, header.minor) == (0, 0) => {
                return Err(Error::Refused { path: show(raw), what: "overlayfs takes the device 0:0 for a deletion" });
            }
            b'3' => Kind::Char(header.major, header.minor),
            b'4' => Kind::Block(header.major, header.minor),
            b'6' => Kind::Fifo,
            _ => return Err(Error::Unsupported { path: show(raw), what: "entries of this type" }),
        };
        if path.is_empty() && kind != Kind::Directory {
            return Err(Error::Refused { path: show(raw), what: "only a directory can be the root" });
        }
        // Whatever the archive says: symbolic links of a file system have no other mode.
        let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { header.mode & 0o7777 };
        let entry = Entry {
            path,
            kind,
            mode,
            uid: extensions.uid.unwrap_or(header.uid),
            gid: extensions.gid.unwrap_or(header.gid),
            mtime: self.bound(extensions.mtime.unwrap_or(header.mtime)),
            xattrs: extensions.xattrs.into_iter().collect(),
        };
        if entry.uid == u32::MAX || entry.gid == u32::MAX {
            return Err(Error::Refused { path: show(raw), what: "no file can have the owner 4294967295" });
        }
        let entry = if self.names == Names::Layer { hiding(entry)? } else { entry };
        self.remember_link(&entry);
        Ok(Some(entry))
    }

    /// Times that Go cannot count in nanoseconds since 1970 become that year in what is extracted.
    fn bound(&self, mtime: i64) -> i64 {
        let is_far = !(0..=i64::MAX / 1_000_000_000).contains(&mtime);
        if is_far && self.names == Names::Archive { 0 } else { mtime }
    }

    /// Moves a path whose directories are symbolic links of this archive to where they point.
    fn settle(&self, path: &[u8]) -> Result<Vec<u8>, Error> {
        let Some(dir) = parent(path).filter(|_| !self.links.is_empty()) else { return Ok(path.to_vec()) };
        let dir = resolve::<Error>(dir, |at| {
            Ok(self.links.get(at).map_or(Step::Directory, |target| Step::Link(target.clone())))
        })?;
        let settled = join(&dir, name(path));
        if settled.len() > PATH_LIMIT {
            return Err(Error::Refused { path: show(path), what: "its path is too long" });
        }
        Ok(settled)
    }

    fn link_target(&self, path: &[u8], link: &[u8]) -> Result<Vec<u8>, Error> {
        match clean(link, self.names)? {
            target if !target.is_empty() => self.settle(&target),
            _ => Err(Error::Refused { path: show(path), what: "a hard link must name a file" }),
        }
    }

    fn remember_link(&mut self, entry: &Entry) {
        match &entry.kind {
            Kind::Symlink(target) => {
                self.links.insert(entry.path.clone(), target.clone());
            }
            Kind::Whiteout | Kind::Opaque => {}
            _ => {
                self.links.remove(&entry.path);
            }
        }
    }
}

impl Reader<'_> {
    /// Reads what the archive holds of the content.
    fn read_held(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = self.left.min(buffer.len() as u64) as usize;
        let got = self.plain.read(&mut buffer[..wanted])?;
        if got == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        Ok(got)
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(sparse) = &mut self.sparse else { return self.read_held(buffer) };
        let most = |bytes: u64| bytes.min(buffer.len() as u64) as usize;
        let got = match sparse.next() {
            Next::End => 0,
            Next::Hole(bytes) => {
                let got = most(bytes);
                buffer[..got].fill(0);
                got
            }
            Next::Held(bytes) => {
                let most = most(bytes);
                self.read_held(&mut buffer[..most])?
            }
        };
        self.sparse.as_mut().into_iter().for_each(|sparse| sparse.advance(got as u64));
        Ok(got)
    }
}

/// Reads a whole layer, for its index and its diff ID. Contents are hashed and dropped.
pub fn index(blob: impl Read, limits: Limits) -> Result<(Index, DiffId), Error> {
    let mut reader = Reader::open(blob, Names::Layer, limits)?;
    let mut builder = index::Builder::default();
    while let Some(mut entry) = reader.next_entry()? {
        if let Kind::File { hash, .. } = &mut entry.kind {
            *hash = hash_content(&mut reader)?;
        }
        builder.push(entry);
    }
    let tar = reader.finish()?;
    Ok((builder.finish(), DiffId::of_tar(&tar)))
}

/// Hashes the content of the entry that was read last.
pub(crate) fn hash_content(reader: &mut impl Read) -> io::Result<ContentHash> {
    let mut hash = Verifier::sha256();
    io::copy(reader, &mut hash)?;
    Ok(ContentHash::sealed(hash))
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
    text.truncate(end);
    text
}

/// Fills the buffer; `false` if the stream ends exactly before it.
fn fill(source: &mut impl Read, buffer: &mut [u8], at: u64) -> Result<bool, Error> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(Error::Damaged { at, what: "it ends inside a block" }),
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}
