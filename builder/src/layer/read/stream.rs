//! The bytes below the headers: compression undone, everything hashed, bombs stopped.

use super::{Error, Limits};
use oci::Verifier;
use std::cell::Cell;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

/// Below this many bytes nobody is hurt, whatever the ratio.
const RATIO_FREE: u64 = 1 << 30;

/// Whether bytes that begin like this are compressed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// None of these.
    Plain,
}

impl Format {
    /// Recognises a format by its first bytes; six are enough.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd, // or a skippable frame
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Plain,
        }
    }
}

/// Undoes any compression that is recognised at the start of `source`.
pub fn decompress<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let (start, source) = peek::<6>(source)?;
    let source = BufReader::with_capacity(64 << 10, source);
    Ok(match Format::of(&start) {
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Format::Zstd => Box::new(Zstd(zstd::stream::read::Decoder::with_buffer(source)?)),
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        Format::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(source)),
        Format::Plain => Box::new(source),
    })
}

/// A decoder that gives nothing for nothing: the one inside goes on until it has written something, and without room for
/// that ends with an error. Who reads to the end of a file of an archive asks for nothing there.
struct Zstd<'a, R: io::BufRead>(zstd::stream::read::Decoder<'a, R>);

impl<R: io::BufRead> Read for Zstd<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() { Ok(0) } else { self.0.read(buffer) }
    }
}

/// The first bytes of a stream, at most `N`, and the stream with them still in it.
pub(crate) fn peek<const N: usize>(mut source: impl Read) -> io::Result<(Vec<u8>, impl Read)> {
    let mut start = Vec::with_capacity(N);
    source.by_ref().take(N as u64).read_to_end(&mut start)?;
    Ok((start.clone(), io::Cursor::new(start).chain(source)))
}

/// An uncompressed archive, as far as it was read.
pub(super) struct Stream<'a> {
    plain: Box<dyn Read + 'a>,
    packed: Rc<Cell<u64>>,
    hash: Verifier,
    /// Bytes that the archive stands for without holding them.
    holes: u64,
    limits: Limits,
}

impl<'a> Stream<'a> {
    pub fn open(source: impl Read + 'a, limits: Limits) -> io::Result<Self> {
        let packed = Rc::new(Cell::new(0));
        let plain = decompress(Tally { source, count: packed.clone() })?;
        Ok(Self { plain, packed, hash: Verifier::sha256(), holes: 0, limits })
    }

    /// Notes that there is a hole of so many bytes, which counts as if it were there.
    pub fn add_hole(&mut self, bytes: u64) -> Result<(), Error> {
        self.holes = self.holes.saturating_add(bytes);
        self.check()
    }

    fn check(&self) -> Result<(), Error> {
        let size = self.hash.size().saturating_add(self.holes);
        if size > self.limits.size {
            return Err(Error::Limit { limit: self.limits.size, what: "bytes" });
        }
        if size > RATIO_FREE && size / self.packed.get().max(1) > self.limits.ratio {
            return Err(Error::Limit { limit: self.limits.ratio, what: "bytes for each byte of its compressed form" });
        }
        Ok(())
    }

    /// Uncompressed bytes that were read.
    pub fn position(&self) -> u64 {
        self.hash.size()
    }

    /// What was read so far.
    pub fn into_hash(self) -> Verifier {
        self.hash
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.plain.read(buffer)?;
        self.hash.update(&buffer[..got]);
        self.check().map_err(io::Error::other)?;
        Ok(got)
    }
}

/// Counts the compressed bytes.
struct Tally<R> {
    source: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Tally<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        self.count.set(self.count.get() + got as u64);
        Ok(got)
    }
}
