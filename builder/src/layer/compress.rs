//! The back half of the pipeline: a stream of bytes is cut into blocks, the blocks are compressed on
//! all cores, and both the stream and its compressed form are hashed while they pass. Memory is bounded
//! by a few blocks per core. What comes out depends on what goes in, the method and its level, and
//! never on how many threads worked.
//!
//! Every block is a complete gzip member or zstd frame; their sequence is a valid file of its kind
//! (RFC 1952 §2.2, RFC 8878 §3.1), which every client reads.

use libdeflater::{CompressionLvl, Compressor};
use oci::{Verified, Verifier};
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip at libdeflate's level, 1 to 12. Understood by everything.
    Gzip(u8),
    /// zstd at its level, 1 to 22. Smaller and faster; understood since containerd 1.5, docker 23.
    Zstd(u8),
    /// The plain tar.
    None,
}

impl Default for Compression {
    /// libdeflate's level 4 is smaller than Go's gzip at 6, in a quarter of the time.
    fn default() -> Self {
        Self::Gzip(4)
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
    fn block_size(self) -> usize {
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
}

/// Compresses what is written to it.
#[derive(Debug)]
pub struct Encoder<W> {
    method: Compression,
    threads: usize,
    block: Vec<u8>,
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
        Ok(Self { method, threads: threads.max(1), block: Vec::new(), state })
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        let size = self.method.block_size();
        while !bytes.is_empty() {
            if self.block.len() == size {
                self.dispatch()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(size - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Ends the stream.
    pub fn finish(mut self) -> Result<Compressed<W>, Error> {
        let block = std::mem::take(&mut self.block);
        match self.state {
            State::Alone(mut sink) => {
                let packed = Codec::new(self.method)?.pack(&block)?;
                sink.take(&block, &packed)?;
                Ok(sink.finish())
            }
            State::Parallel(mut pool) => {
                if !block.is_empty() {
                    pool.send(block)?;
                }
                Ok(pool.finish()?.finish())
            }
            State::Failed => Err(Error::Thread),
        }
    }

    fn dispatch(&mut self) -> Result<(), Error> {
        let next = Vec::with_capacity(self.method.block_size());
        let block = std::mem::replace(&mut self.block, next);
        let mut pool = match std::mem::replace(&mut self.state, State::Failed) {
            State::Alone(sink) => Pool::start(*sink, self.method, self.threads)?,
            State::Parallel(pool) => pool,
            State::Failed => return Err(Error::Thread),
        };
        pool.send(block)?;
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
}

impl<W: Write> Sink<W> {
    fn new(out: W) -> Self {
        Self { plain: Verifier::sha256(), blob: Verifier::sha256(), out }
    }

    fn take(&mut self, plain: &[u8], packed: &[u8]) -> Result<(), Error> {
        self.plain.update(plain);
        self.take_packed(packed)
    }

    fn take_packed(&mut self, packed: &[u8]) -> Result<(), Error> {
        self.blob.update(packed);
        self.out.write_all(packed).map_err(Error::Write)
    }

    fn finish(self) -> Compressed<W> {
        Compressed { plain: self.plain.seal(), blob: self.blob.seal(), out: self.out }
    }
}

type Packed = Result<Vec<u8>, Error>;

/// A block on its way: a worker packs it while the collector hashes it.
struct Job {
    block: Arc<Vec<u8>>,
    reply: Sender<Packed>,
}

/// The two queues that a block goes into: to be packed, and to be written in its turn.
#[derive(Debug)]
struct Queues {
    jobs: SyncSender<Job>,
    order: SyncSender<(Arc<Vec<u8>>, Receiver<Packed>)>,
}

/// Workers that pack blocks in any order, and a collector that takes them in theirs.
#[derive(Debug)]
struct Pool<W> {
    queues: Option<Queues>,
    collector: Option<JoinHandle<Result<Sink<W>, Error>>>,
}

impl<W: Write + Send + 'static> Pool<W> {
    fn start(sink: Sink<W>, method: Compression, threads: usize) -> Result<Self, Error> {
        // The queues bound memory: this many blocks wait, and their packed forms.
        let (jobs, queue) = sync_channel::<Job>(threads);
        let (order, sequence) = sync_channel(2 * threads);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = queue.clone();
            let codec = Codec::new(method)?;
            spawn("compress", move || work(codec, &queue))?;
        }
        let collector = Some(spawn("hash", move || collect(sink, &sequence))?);
        Ok(Self { queues: Some(Queues { jobs, order }), collector })
    }

    fn send(&mut self, block: Vec<u8>) -> Result<(), Error> {
        let queues = self.queues.as_ref().ok_or(Error::Thread)?;
        let block = Arc::new(block);
        let (reply, packed) = channel();
        let sent = queues.order.send((block.clone(), packed)).is_ok() && queues.jobs.send(Job { block, reply }).is_ok();
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

fn work(mut codec: Codec, queue: &Mutex<Receiver<Job>>) {
    loop {
        let next = queue.lock().map(|queue| queue.recv());
        let Ok(Ok(Job { block, reply })) = next else { return };
        // The collector may be gone after a failure; then nobody wants the block.
        let _ = reply.send(codec.pack(&block));
    }
}

fn collect<W: Write>(
    mut sink: Sink<W>,
    sequence: &Receiver<(Arc<Vec<u8>>, Receiver<Packed>)>,
) -> Result<Sink<W>, Error> {
    while let Ok((block, packed)) = sequence.recv() {
        sink.plain.update(&block);
        drop(block);
        let packed = packed.recv().map_err(|_| Error::Thread)??;
        sink.take_packed(&packed)?;
    }
    Ok(sink)
}

/// Packs one block at a time.
enum Codec {
    Gzip(Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
    None,
}

impl Codec {
    fn new(method: Compression) -> Result<Self, Error> {
        let wrong = Error::Level(method);
        Ok(match method {
            Compression::Gzip(level) => {
                let level = CompressionLvl::new(i32::from(level)).ok().filter(|_| level > 0).ok_or(wrong)?;
                Self::Gzip(Compressor::new(level))
            }
            Compression::Zstd(level) if (1..=22).contains(&level) => {
                Self::Zstd(zstd::bulk::Compressor::new(i32::from(level)).map_err(Error::Compress)?)
            }
            Compression::Zstd(_) => return Err(wrong),
            Compression::None => Self::None,
        })
    }

    fn pack(&mut self, block: &[u8]) -> Packed {
        match self {
            Self::Gzip(compressor) => {
                let mut packed = vec![0; compressor.gzip_compress_bound(block.len())];
                let size = compressor
                    .gzip_compress(block, &mut packed)
                    .map_err(|error| Error::Compress(io::Error::other(error)))?;
                packed.truncate(size);
                Ok(packed)
            }
            Self::Zstd(compressor) => compressor.compress(block).map_err(Error::Compress),
            Self::None => Ok(block.to_vec()),
        }
    }
}
