//! The back half of the pipeline: a stream of bytes is cut into blocks, the blocks are compressed on
//! all cores, and both the stream and its compressed form are hashed while they pass. Memory is bounded
//! by a few blocks per core. What comes out depends on what goes in, the method and its level, and
//! never on how many threads worked.
//!
//! Every block is a complete gzip member or zstd frame; their sequence is a valid file of its kind
//! (RFC 1952 §2.2, RFC 8878 §3.1), which every client reads.

use super::blocks::{Blocks, Name, Naming, Piece};
use super::entry::ContentHash;
use libdeflater::{CompressionLvl, Compressor};
use oci::{Verified, Verifier};
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip at libdeflate's level, 1 to 12, or at the one that fits each block. Understood by everything.
    Gzip(Option<u8>),
    /// zstd at its level, 1 to 22. Smaller and faster; understood since containerd 1.5, docker 23.
    Zstd(u8),
    /// The plain tar.
    None,
}

impl Default for Compression {
    fn default() -> Self {
        Self::Gzip(None)
    }
}

impl Compression {
    /// The media type of a layer compressed like this (image-spec, layer.md).
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Gzip(_) => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd(_) => "application/vnd.oci.image.layer.v1.tar+zstd",
            Self::None => "application/vnd.oci.image.layer.v1.tar",
        }
    }

    /// Bytes per block: gzip looks back 32 KiB, so 1 MiB loses nothing; zstd looks back further.
    pub(super) fn block_size(self) -> usize {
        match self {
            Self::Gzip(_) | Self::None => 1 << 20,
            Self::Zstd(_) => 4 << 20,
        }
    }
}

/// Why compressing failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is not one of the method's.
    #[error("{0:?}: no such compression level; gzip has 1 to 12, zstd 1 to 22")]
    Level(Compression),
    /// The compressor itself refused a block.
    #[error("cannot compress: {0}")]
    Compress(#[source] io::Error),
    /// The blob could not be written.
    #[error("cannot write the layer: {0}")]
    Write(#[source] io::Error),
    /// A worker thread could not be started, or died.
    #[error("a compression thread could not be started or failed")]
    Thread,
}

/// What passed: the stream, its compressed form, and the writer that holds the latter.
#[derive(Debug)]
pub struct Compressed<W> {
    /// The stream as it was written.
    pub plain: Verified,
    /// Its compressed form.
    pub blob: Verified,
    /// Where the compressed form went; not flushed.
    pub out: W,
    /// The blocks that may be taken again; none unless known blocks were given.
    pub pieces: Vec<Piece>,
    /// Bytes of the stream whose blocks were known.
    pub reused: u64,
}

/// Smaller blocks are compressed sooner than looked up.
const WORTH: usize = 64 << 10;

/// What follows a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Entries with small files: cut again by the caller.
    Entries,
    /// The content of one large file: cut into blocks of one size.
    Content,
}

/// Compresses what is written to it.
#[derive(Debug)]
pub struct Encoder<W> {
    method: Compression,
    threads: usize,
    blocks: Option<Arc<Blocks>>,
    block: Vec<u8>,
    /// Blocks end here at the latest.
    limit: usize,
    /// The name of the block so far; none if its bytes will name it.
    naming: Option<Naming>,
    state: State<W>,
}

#[derive(Debug)]
enum State<W> {
    /// Nothing was dispatched yet: most layers fit into one block and never start a thread.
    Alone(Box<Sink<W>>),
    Parallel(Pool<W>),
    Failed,
}

impl<W: Write + Send + 'static> Encoder<W> {
    /// Starts a stream that ends in `out`, with at most `threads` compressing threads.
    pub fn new(out: W, method: Compression, threads: usize) -> Result<Self, Error> {
        Codec::new(method)?;
        let state = State::Alone(Box::new(Sink::new(out)));
        let (limit, block) = (method.block_size(), Vec::new());
        Ok(Self { method, threads: threads.max(1), blocks: None, block, limit, naming: None, state })
    }

    /// Takes known blocks instead of compressing them again.
    pub(super) fn with_blocks(self, blocks: Option<Arc<Blocks>>) -> Self {
        Self { blocks: blocks.filter(|_| self.method != Compression::None), ..self }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(naming) = &mut self.naming {
            naming.update(bytes);
        }
        self.push_content(bytes)
    }

    /// The same for content of a file that [`Encoder::content_was`] will name.
    pub(super) fn push_content(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.block.len() == self.limit {
                self.naming = None; // what was named may stand in the next block
                self.dispatch()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.limit - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Names the content that was pushed.
    pub(super) fn content_was(&mut self, hash: &ContentHash) {
        if let Some(naming) = &mut self.naming {
            naming.update(&hash.0);
        }
    }

    /// Bytes in the block so far.
    pub(super) fn held(&self) -> usize {
        self.block.len()
    }

    /// Ends the block, if it holds anything.
    pub(super) fn cut(&mut self, next: Next) -> Result<(), Error> {
        if !self.block.is_empty() {
            self.dispatch()?;
        }
        let is_named = next == Next::Entries && self.blocks.is_some();
        self.naming = is_named.then(|| Naming::of_entries(self.method));
        self.limit = match next {
            Next::Entries => 2 * self.method.block_size(),
            Next::Content => self.method.block_size(),
        };
        Ok(())
    }

    /// Ends the stream.
    pub fn finish(mut self) -> Result<Compressed<W>, Error> {
        let block = std::mem::take(&mut self.block);
        let name = self.naming.take().map(Naming::finish);
        match self.state {
            State::Alone(mut sink) => {
                let packed = Packer::new(self.method, self.blocks)?.pack(&block, name)?;
                sink.plain.update(&block);
                sink.take(packed)?;
                Ok(sink.finish())
            }
            State::Parallel(mut pool) => {
                if !block.is_empty() {
                    pool.send(block, name)?;
                }
                Ok(pool.finish()?.finish())
            }
            State::Failed => Err(Error::Thread),
        }
    }

    fn dispatch(&mut self) -> Result<(), Error> {
        let next = Vec::with_capacity(self.method.block_size());
        let block = std::mem::replace(&mut self.block, next);
        let name = self.naming.take().map(Naming::finish);
        let mut pool = match std::mem::replace(&mut self.state, State::Failed) {
            State::Alone(sink) => Pool::start(*sink, self.method, self.blocks.as_ref(), self.threads)?,
            State::Parallel(pool) => pool,
            State::Failed => return Err(Error::Thread),
        };
        pool.send(block, name)?;
        self.state = State::Parallel(pool);
        Ok(())
    }
}

/// Hashes both forms and writes the compressed one.
#[derive(Debug)]
struct Sink<W> {
    plain: Verifier,
    blob: Verifier,
    out: W,
    pieces: Vec<Piece>,
    reused: u64,
}

impl<W: Write> Sink<W> {
    fn new(out: W) -> Self {
        Self { plain: Verifier::sha256(), blob: Verifier::sha256(), out, pieces: Vec::new(), reused: 0 }
    }

    /// Takes the compressed form; the plain one goes into its hash beside this.
    fn take(&mut self, packed: Packed) -> Result<(), Error> {
        if let (Some((name, hash)), Ok(size)) = (packed.name, u32::try_from(packed.bytes.len())) {
            self.pieces.push(Piece { name, offset: self.blob.size(), size, hash });
        }
        self.reused += packed.reused;
        self.blob.update(&packed.bytes);
        self.out.write_all(&packed.bytes).map_err(Error::Write)
    }

    fn finish(self) -> Compressed<W> {
        let Self { plain, blob, out, pieces, reused } = self;
        Compressed { plain: plain.seal(), blob: blob.seal(), out, pieces, reused }
    }
}

/// The compressed form of a block.
struct Packed {
    bytes: Vec<u8>,
    /// What it can be found by, with the hash of its bytes.
    name: Option<(Name, ContentHash)>,
    /// Bytes of the block, if it was known.
    reused: u64,
}

/// A block on its way: a worker packs it while the collector hashes it.
struct Job {
    block: Arc<Vec<u8>>,
    name: Option<Name>,
    reply: Sender<Result<Packed, Error>>,
}

/// The two queues that a block goes into: to be packed, and to be written in its turn.
#[derive(Debug)]
struct Queues {
    jobs: SyncSender<Job>,
    order: SyncSender<InTurn>,
}

/// A block, and where its compressed form will come from.
type InTurn = (Arc<Vec<u8>>, Receiver<Result<Packed, Error>>);

/// Workers that pack blocks in any order, and a collector that takes them in theirs.
#[derive(Debug)]
struct Pool<W> {
    queues: Option<Queues>,
    collector: Option<JoinHandle<Result<Sink<W>, Error>>>,
}

impl<W: Write + Send + 'static> Pool<W> {
    fn start(sink: Sink<W>, method: Compression, blocks: Option<&Arc<Blocks>>, threads: usize) -> Result<Self, Error> {
        // The queues bound memory: this many blocks wait, and their packed forms.
        let (jobs, queue) = sync_channel::<Job>(threads);
        let (order, sequence) = sync_channel(2 * threads);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = queue.clone();
            let packer = Packer::new(method, blocks.cloned())?;
            spawn("compress", move || work(packer, &queue))?;
        }
        let collector = Some(spawn("hash", move || collect(sink, &sequence))?);
        Ok(Self { queues: Some(Queues { jobs, order }), collector })
    }

    fn send(&mut self, block: Vec<u8>, name: Option<Name>) -> Result<(), Error> {
        let queues = self.queues.as_ref().ok_or(Error::Thread)?;
        let block = Arc::new(block);
        let (reply, packed) = channel();
        let sent =
            queues.order.send((block.clone(), packed)).is_ok() && queues.jobs.send(Job { block, name, reply }).is_ok();
        // A closed queue means that the collector stopped: it knows the reason.
        if sent { Ok(()) } else { Err(self.end().err().unwrap_or(Error::Thread)) }
    }

    fn finish(mut self) -> Result<Sink<W>, Error> {
        self.end()
    }
}

impl<W> Pool<W> {
    /// Closes the queues, so that the threads end, and waits for the last block.
    fn end(&mut self) -> Result<Sink<W>, Error> {
        self.queues = None;
        self.collector.take().ok_or(Error::Thread)?.join().map_err(|_| Error::Thread)?
    }
}

impl<W> Drop for Pool<W> {
    /// Nobody writes into the blob any more when a layer was given up.
    fn drop(&mut self) {
        // Whoever dropped it has the error that matters.
        let _ = self.end();
    }
}

fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, Error> {
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(|_| Error::Thread)
}

fn work(mut packer: Packer, queue: &Mutex<Receiver<Job>>) {
    loop {
        let next = queue.lock().map(|queue| queue.recv());
        let Ok(Ok(Job { block, name, reply })) = next else { return };
        // The collector may be gone after a failure; then nobody wants the block.
        let _ = reply.send(packer.pack(&block, name));
    }
}

fn collect<W: Write>(mut sink: Sink<W>, sequence: &Receiver<InTurn>) -> Result<Sink<W>, Error> {
    while let Ok((block, packed)) = sequence.recv() {
        sink.plain.update(&block);
        drop(block);
        let packed = packed.recv().map_err(|_| Error::Thread)??;
        sink.take(packed)?;
    }
    Ok(sink)
}

/// Packs blocks, or finds them packed.
struct Packer {
    method: Compression,
    codec: Codec,
    blocks: Option<Arc<Blocks>>,
}

impl Packer {
    fn new(method: Compression, blocks: Option<Arc<Blocks>>) -> Result<Self, Error> {
        Ok(Self { method, codec: Codec::new(method)?, blocks })
    }

    fn pack(&mut self, block: &[u8], name: Option<Name>) -> Result<Packed, Error> {
        let Some(blocks) = self.blocks.as_ref().filter(|_| block.len() >= WORTH) else {
            return Ok(Packed { bytes: self.codec.pack(block)?, name: None, reused: 0 });
        };
        let name = name.unwrap_or_else(|| {
            let mut naming = Naming::of_bytes(self.method);
            naming.update(block);
            naming.finish()
        });
        if let Some((bytes, hash)) = blocks.find(&name) {
            return Ok(Packed { bytes, name: Some((name, hash)), reused: block.len() as u64 });
        }
        let bytes = self.codec.pack(block)?;
        let hash = ContentHash::of(&bytes);
        Ok(Packed { bytes, name: Some((name, hash)), reused: 0 })
    }
}

/// The level for programs and all that is packed already: smaller there than Go's gzip at 6, and far quicker.
const LEVEL_OF_BYTES: i32 = 4;
/// The level for text: about as small as Go's gzip at 6. Level 4 is a twentieth larger there.
const LEVEL_OF_TEXT: i32 = 6;

/// Whether a block is of text, headers of entries and what fills them up included: nothing else is nearly without
/// control characters. A sixteenth of it tells.
fn is_text(block: &[u8]) -> bool {
    let is_control = |byte: &u8| matches!(byte, 1..=8 | 14..=26 | 28..=31); // 27 colours terminals
    let seen = block.chunks(16 << 10).map(|chunk| &chunk[..chunk.len().min(1 << 10)]);
    let (mut size, mut controls) = (0, 0);
    for piece in seen {
        size += piece.len();
        controls += piece.iter().filter(|byte| is_control(byte)).count();
    }
    controls < size.div_ceil(256)
}

/// Packs one block at a time.
enum Codec {
    Gzip(Compressor),
    /// At the level for text, and at that for the rest.
    Fitting([Compressor; 2]),
    Zstd(zstd::bulk::Compressor<'static>),
    None,
}

impl Codec {
    fn new(method: Compression) -> Result<Self, Error> {
        let wrong = Error::Level(method);
        Ok(match method {
            Compression::Gzip(Some(level)) => {
                let level = CompressionLvl::new(i32::from(level)).ok().filter(|_| level > 0).ok_or(wrong)?;
                Self::Gzip(Compressor::new(level))
            }
            Compression::Gzip(None) => {
                let at = |level| CompressionLvl::new(level).map(Compressor::new).map_err(|_| Error::Level(method));
                Self::Fitting([at(LEVEL_OF_TEXT)?, at(LEVEL_OF_BYTES)?])
            }
            Compression::Zstd(level) if (1..=22).contains(&level) => {
                Self::Zstd(zstd::bulk::Compressor::new(i32::from(level)).map_err(Error::Compress)?)
            }
            Compression::Zstd(_) => return Err(wrong),
            Compression::None => Self::None,
        })
    }

    fn pack(&mut self, block: &[u8]) -> Result<Vec<u8>, Error> {
        match self {
            Self::Gzip(compressor) => gzip(compressor, block),
            Self::Fitting([text, bytes]) => gzip(if is_text(block) { text } else { bytes }, block),
            Self::Zstd(compressor) => compressor.compress(block).map_err(Error::Compress),
            Self::None => Ok(block.to_vec()),
        }
    }
}

fn gzip(compressor: &mut Compressor, block: &[u8]) -> Result<Vec<u8>, Error> {
    let mut packed = vec![0; compressor.gzip_compress_bound(block.len())];
    let size =
        compressor.gzip_compress(block, &mut packed).map_err(|error| Error::Compress(io::Error::other(error)))?;
    packed.truncate(size);
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_from_bytes() {
        let text = "fn main() { println!(\"schöne Grüße 你好\"); }\n\t\u{1b}[31m".repeat(1000).into_bytes();
        let headers = [text.clone(), vec![0; 100_000]].concat();
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let packed = Codec::new(Compression::Gzip(Some(1))).unwrap().pack(&program).unwrap();
        assert!(is_text(&text) && is_text(&headers));
        assert!(!is_text(&program[..1 << 20]) && !is_text(&packed));
    }
}
