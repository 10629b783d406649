//! The one pass that makes a layer: entries and contents go in; blob, diff ID, digest, sizes and index
//! come out. The blob streams into any writer; putting it in its place is `content`'s business.

use super::blocks::{Blocks, Piece};
use super::compress::{self, Compression, Encoder, Next};
use super::cut::Cut;
use super::entry::{ContentHash, Entry, Kind, show};
use super::index::{self, Index};
use super::tar;
use oci::{DiffId, Verified, Verifier};
use std::io::{self, Read, Write};
use std::sync::Arc;

/// How many bytes of a file are read at once.
const CHUNK: usize = 256 << 10;

/// How layers are made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Method and level.
    pub compression: Compression,
    /// Compressing threads at most; the result does not depend on it.
    pub threads: usize,
    /// No entry is newer than this (`SOURCE_DATE_EPOCH`), in seconds since 1970.
    pub newest: Option<i64>,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { compression: Compression::default(), threads, newest: None }
    }
}

/// Why a layer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An entry has no place in a tar.
    #[error(transparent)]
    Entry(tar::Error),
    /// Compressing, or writing the blob, failed.
    #[error(transparent)]
    Compress(#[from] compress::Error),
    /// A file could not be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The path in the layer.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file grew or shrank while it was read.
    #[error(
        "{path}: changed while it was read: {expected} bytes were announced; build again when nothing writes to it"
    )]
    Changed {
        /// The path in the layer.
        path: String,
        /// Its size when it was first seen.
        expected: u64,
    },
    /// More entries than an index holds.
    #[error("a layer cannot have more than {limit} entries", limit = index::ENTRY_LIMIT)]
    Entries,
}

/// A finished layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The digest of the uncompressed tar, as the image config lists it.
    pub diff_id: DiffId,
    /// Bytes of the uncompressed tar.
    pub tar_size: u64,
    /// Digest and size of the blob, as the manifest lists it.
    pub blob: Verified,
    /// The blob's media type.
    pub media_type: &'static str,
    /// What the layer holds.
    pub index: Index,
    /// The blocks of the blob that a later layer may take, see [`Pipeline::reusing`].
    pub pieces: Vec<Piece>,
    /// Bytes of the tar whose blocks were taken from earlier layers.
    pub reused: u64,
}

/// Makes one layer.
#[derive(Debug)]
pub struct Pipeline<W: Write + Send + 'static> {
    tar: tar::Writer<Stream<W>>,
    index: index::Builder,
    options: Options,
    cut: Cut,
    chunk: Vec<u8>,
}

impl<W: Write + Send + 'static> Pipeline<W> {
    /// Starts a layer whose blob goes to `out`.
    pub fn new(out: W, options: Options) -> Result<Self, Error> {
        Self::reusing(out, options, None)
    }

    /// The same, which takes known blocks instead of compressing them again. The layer is the same.
    pub fn reusing(out: W, options: Options, blocks: Option<Arc<Blocks>>) -> Result<Self, Error> {
        let mut encoder = Encoder::new(out, options.compression, options.threads)?.with_blocks(blocks);
        encoder.cut(Next::Entries)?;
        let tar = tar::Writer::new(Stream { encoder, error: None, is_content: false });
        let cut = Cut::new(options.compression.block_size());
        Ok(Self { tar, index: index::Builder::default(), options, cut, chunk: Vec::new() })
    }

    /// Makes the layer without entries: 1024 zero bytes, which BuildKit keeps as a layer too.
    pub fn empty(out: W, options: Options) -> Result<(Layer, W), Error> {
        Self::new(out, options)?.finish()
    }

    /// How many entries were written so far.
    pub fn entries(&self) -> usize {
        self.index.len()
    }

    /// Writes an entry. A file's content is read to its end, must have the entry's size, and its hash
    /// replaces the entry's and is returned; for all other kinds `content` is not read.
    pub fn add(&mut self, mut entry: Entry, content: &mut dyn Read) -> Result<ContentHash, Error> {
        if self.index.len() >= index::ENTRY_LIMIT {
            return Err(Error::Entries);
        }
        if let Some(newest) = self.options.newest {
            entry.mtime = entry.mtime.min(newest);
        }
        self.end_content()?;
        let held = self.tar.stream().encoder.held();
        if self.cut.ends_before(&entry.path, entry.size(), held) {
            self.tar.stream().encoder.cut(Next::Entries)?;
        }
        let written = self.tar.entry(&entry);
        self.checked(written)?;
        let mut read = ContentHash::EMPTY;
        if let Kind::File { size, hash } = &mut entry.kind {
            read = if self.cut.is_apart(*size) {
                self.copy_apart(&entry.path, *size, content)?
            } else {
                self.copy(&entry.path, *size, content)?
            };
            *hash = read;
        }
        self.index.push(entry);
        Ok(read)
    }

    /// Writes an entry that has no content: anything but a file with a size.
    pub fn add_plain(&mut self, entry: Entry) -> Result<(), Error> {
        self.add(entry, &mut io::empty()).map(drop)
    }

    /// Ends the layer.
    pub fn finish(mut self) -> Result<(Layer, W), Error> {
        let ended = self.tar.end();
        self.checked(ended)?;
        let done = self.tar.into_stream().encoder.finish()?;
        let layer = Layer {
            diff_id: DiffId::of_tar(&done.plain),
            tar_size: done.plain.size(),
            blob: done.blob,
            media_type: self.options.compression.media_type(),
            index: self.index.finish(),
            pieces: done.pieces,
            reused: done.reused,
        };
        Ok((layer, done.out))
    }

    /// The padding behind a content belongs to its block.
    fn end_content(&mut self) -> Result<(), Error> {
        let ended = self.tar.end_content();
        self.checked(ended)
    }

    /// A large file has blocks of its own.
    fn copy_apart(&mut self, path: &[u8], size: u64, content: &mut dyn Read) -> Result<ContentHash, Error> {
        self.tar.stream().encoder.cut(Next::Content)?;
        let hash = self.copy(path, size, content)?;
        self.end_content()?;
        self.tar.stream().encoder.cut(Next::Entries)?;
        Ok(hash)
    }

    fn copy(&mut self, path: &[u8], size: u64, content: &mut dyn Read) -> Result<ContentHash, Error> {
        if size == 0 {
            return Ok(ContentHash::EMPTY);
        }
        let changed = || Error::Changed { path: show(path), expected: size };
        let unreadable = |source| Error::Read { path: show(path), source };
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(CHUNK, 0);
        let mut hash = Verifier::sha256();
        while hash.size() < size {
            let wanted = usize::try_from(size - hash.size()).unwrap_or(CHUNK).min(CHUNK);
            let got = read(content, &mut chunk[..wanted]).map_err(unreadable)?;
            if got == 0 {
                return Err(changed());
            }
            hash.update(&chunk[..got]);
            self.tar.stream().is_content = true;
            let written = self.tar.content(&chunk[..got]);
            self.tar.stream().is_content = false;
            self.checked(written)?;
        }
        if read(content, &mut chunk[..1]).map_err(unreadable)? != 0 {
            return Err(changed());
        }
        self.chunk = chunk;
        let hash = ContentHash::sealed(hash);
        self.tar.stream().encoder.content_was(&hash);
        Ok(hash)
    }

    /// The tar writer only knows `io::Error`; the stream below keeps what really happened.
    fn checked(&mut self, written: Result<(), tar::Error>) -> Result<(), Error> {
        match (written, self.tar.stream().error.take()) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(error)) => Err(error.into()),
            (Err(error), None) => Err(Error::Entry(error)),
        }
    }
}

/// Reads, again if a signal interrupted.
fn read(content: &mut dyn Read, chunk: &mut [u8]) -> io::Result<usize> {
    loop {
        match content.read(chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The encoder as a writer, which remembers its own error.
#[derive(Debug)]
struct Stream<W> {
    encoder: Encoder<W>,
    error: Option<compress::Error>,
    /// Whether what is written is the content of a file, whose hash names it.
    is_content: bool,
}

impl<W: Write + Send + 'static> Write for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let pushed = if self.is_content { self.encoder.push_content(bytes) } else { self.encoder.push(bytes) };
        match pushed {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.error = Some(error);
                Err(io::ErrorKind::Other.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
