//! Sending files without reading them: the kernel moves a blob from the page cache to the socket
//! (sendfile(2)), and hyper still speaks HTTP around it. What is answered is `api`'s business.
//!
//! hyper writes whatever slices a body gives it. So a body gives it *promises*: slices of a region of
//! memory that nobody ever reads or writes. [`Plain`], the connection below hyper, knows a promise by
//! its address, and sends the file's bytes in its place. Why no wrong byte can leave:
//!
//! * A slice in the region is never written as memory: it is looked up by its address, and if what is
//!   promised next does not start at this very address, the connection is broken off. Addresses repeat
//!   only after [`SLOTS`] promises, and no more than that are ever open.
//! * Promises are made only where this module sees the writes: for a connection that has [`Promises`],
//!   in HTTP/1, with hyper told to write slices as they are (`writev`) and not to copy them. TLS and
//!   HTTP/2 encode bodies and get them as bytes.
//! * How much of a slice was sent is told to hyper as with any write, so partial writes, pipelining and
//!   clients that go away are hyper's usual cases.
//! * A file that is shorter than promised breaks the connection off. It is never changed otherwise:
//!   blobs are immutable, and one that is removed stays readable through its open handle.
//!
//! sendfile(2) waits for the disk, and would have other requests of the same thread wait too. So a
//! promise is made only once its part of the file is in the page cache; see [`Promised`].

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use rustix::fs::{Advice, fadvise, sendfile};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Sleep;

/// Longest promise, in bytes: what one call of the kernel may move before other requests have their turn.
const LONGEST: usize = 1 << 20;
/// How many promises a connection may have open. hyper takes one at a time, since it stops asking for
/// more once it holds some hundred kilobytes.
const SLOTS: usize = 64;
/// How far ahead of a promise the kernel is asked to read, in bytes.
const READ_AHEAD: u64 = 8 << 20;
/// One byte of each stretch of this length is asked for, to see whether a file is in memory. The kernel
/// reads files in stretches of about this length.
const STRETCH: usize = 64 << 10;
/// Files are brought into memory in pieces of this size, in bytes.
const READ: usize = 256 << 10;

/// The region: addresses only. It is never touched, so the kernel never gives it memory.
static REGION: LazyLock<&'static [u8]> = LazyLock::new(|| Box::leak(vec![0; SLOTS * LONGEST].into_boxed_slice()));

/// Where in the region a slice starts, if it lies there.
fn place(slice: &[u8]) -> Option<usize> {
    let at = (slice.as_ptr() as usize).checked_sub(REGION.as_ptr() as usize)?;
    (at < REGION.len()).then_some(at)
}

/// What one connection has promised to send. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Promises(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    slot: usize,
    made: VecDeque<Promise>,
}

#[derive(Debug)]
struct Promise {
    /// Where in the region hyper's slice for it starts.
    at: usize,
    file: Arc<File>,
    /// The bytes of the file.
    range: Range<u64>,
}

impl Promises {
    fn with<T>(&self, work: impl FnOnce(&mut Open) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Promises bytes of a file, at most [`LONGEST`] of them, behind all that was promised before.
    fn make(&self, file: &Arc<File>, range: Range<u64>) -> io::Result<Bytes> {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(LONGEST);
        self.with(|open| {
            if open.made.len() == SLOTS {
                return Err(io::Error::other("too many promises are open"));
            }
            let at = open.slot * LONGEST;
            open.slot = (open.slot + 1) % SLOTS;
            open.made.push_back(Promise { at, file: file.clone(), range: range.start..range.start + length as u64 });
            Ok(Bytes::from_static(&REGION[at..at + length]))
        })
    }

    /// What hyper's slice at this place of the region stands for.
    fn next(&self, at: usize) -> io::Result<(Arc<File>, Range<u64>)> {
        self.with(|open| match open.made.front() {
            Some(promise) if promise.at == at => Ok((promise.file.clone(), promise.range.clone())),
            _ => Err(io::Error::other("what is to be sent is not what was promised")),
        })
    }

    /// Takes note that so many bytes of the first promise were sent.
    fn sent(&self, count: usize) {
        self.with(|open| {
            let Some(promise) = open.made.front_mut() else { return };
            promise.at += count;
            promise.range.start += count as u64;
            if promise.range.is_empty() {
                open.made.pop_front();
            }
        });
    }
}

/// A connection without TLS, which keeps promises.
pub(crate) struct Plain {
    stream: TokioIo<TcpStream>,
    promises: Promises,
    beginning: Option<Beginning>,
}

/// The first bytes of a connection. hyper tells HTTP/1 from HTTP/2 by them and would wait for ever.
struct Beginning {
    deadline: Pin<Box<Sleep>>,
    missing: usize,
}

/// As long as what an HTTP/2 connection begins with. No request of HTTP/1.1 is shorter.
const BEGINNING: usize = 24;

impl Plain {
    /// Takes a connection over, whose first bytes must come within `patience`.
    pub(crate) fn new(stream: TcpStream, patience: Duration) -> Self {
        LazyLock::force(&REGION);
        let beginning = Beginning { deadline: Box::pin(tokio::time::sleep(patience)), missing: BEGINNING };
        Self { stream: TokioIo::new(stream), promises: Promises::default(), beginning: Some(beginning) }
    }

    /// What bodies that are sent over this connection may promise with.
    pub(crate) fn promises(&self) -> Promises {
        self.promises.clone()
    }

    fn poll_send_file(&self, cx: &mut Context<'_>, at: usize, length: usize) -> Poll<io::Result<usize>> {
        let (file, range) = self.promises.next(at)?;
        let wanted = length.min(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
        let sent = ready!(self.poll_io(cx, |stream| {
            let mut offset = range.start;
            Ok(sendfile(stream, &file, Some(&mut offset), wanted)?)
        }))?;
        if sent == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file is shorter than promised")));
        }
        self.promises.sent(sent);
        Poll::Ready(Ok(sent))
    }

    /// Does something that writes, once the socket takes more.
    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        mut work: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let stream = self.stream.inner();
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_io(Interest::WRITABLE, || work(stream)) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl Read for Plain {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, beginning, .. } = &mut *self;
        let Some(begun) = beginning else { return Pin::new(stream).poll_read(cx, buffer) };
        let mut first = [0; BEGINNING];
        let mut first = ReadBuf::new(&mut first[..begun.missing.min(buffer.remaining())]);
        match Pin::new(stream).poll_read(cx, first.unfilled()) {
            Poll::Ready(read) => {
                buffer.put_slice(first.filled());
                begun.missing -= first.filled().len();
                if begun.missing == 0 {
                    *beginning = None;
                }
                Poll::Ready(read)
            }
            Poll::Pending => {
                ready!(begun.deadline.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl Write for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, slice: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(slice)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(first) = slices.iter().position(|slice| !slice.is_empty()) else { return Poll::Ready(Ok(0)) };
        let slices = &slices[first..];
        if let Some(at) = place(&slices[0]) {
            return self.poll_send_file(cx, at, slices[0].len());
        }
        match slices.iter().position(|slice| place(slice).is_some()) {
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, slices),
            // The head of an answer waits in the socket for the file that follows at once.
            Some(plain) => self.poll_io(cx, |stream| {
                Ok(sendmsg(stream, &slices[..plain], &mut SendAncillaryBuffer::default(), SendFlags::MORE)?)
            }),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A part of a body.
pub(crate) enum Part {
    /// Bytes in memory.
    Text(Bytes),
    /// Bytes of the file.
    Range(Range<u64>),
}

impl Part {
    fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Range(range) => range.end - range.start,
        }
    }
}

/// A body that promises parts of a file.
pub(crate) struct Promised {
    promises: Promises,
    file: Arc<File>,
    parts: VecDeque<Part>,
    /// The part of the file that is being brought into memory.
    loading: Option<JoinHandle<io::Result<()>>>,
}

impl Promised {
    pub(crate) fn new(promises: Promises, file: File, parts: Vec<Part>) -> Self {
        Self { promises, file: Arc::new(file), parts: parts.into(), loading: None }
    }

    /// Promises the next part of a range.
    fn promise(&mut self, range: Range<u64>) -> io::Result<Bytes> {
        let promised = self.promises.make(&self.file, range.clone())?;
        let rest = range.start + promised.len() as u64..range.end;
        if !rest.is_empty() {
            self.parts.push_front(Part::Range(rest));
        }
        Ok(promised)
    }
}

impl Body for Promised {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut loaded = false;
        loop {
            if let Some(loading) = &mut self.loading {
                let done = ready!(Pin::new(loading).poll(cx));
                self.loading = None;
                done.map_err(io::Error::other)??;
                loaded = true;
            }
            match self.parts.pop_front() {
                None => return Poll::Ready(None),
                Some(part) if part.length() == 0 => {}
                Some(Part::Text(text)) => return Poll::Ready(Some(Ok(Frame::data(text)))),
                Some(Part::Range(range)) => {
                    let next = range.start..range.end.min(range.start + LONGEST as u64);
                    if loaded || is_in_memory(&self.file, &next) {
                        return Poll::Ready(Some(self.promise(range).map(Frame::data)));
                    }
                    let file = self.file.clone();
                    self.parts.push_front(Part::Range(range));
                    self.loading = Some(tokio::task::spawn_blocking(move || load(&file, next)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.parts.iter().all(|part| part.length() == 0)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.parts.iter().map(Part::length).sum())
    }
}

/// Whether a part of a file can be sent without waiting for the disk, as far as a look at one byte of
/// each stretch tells. A wrong guess costs other requests of this thread the time of one read.
fn is_in_memory(file: &File, range: &Range<u64>) -> bool {
    let stretches = (range.start..range.end).step_by(STRETCH).chain(std::iter::once(range.end - 1));
    let mut byte = [0];
    for at in stretches {
        match preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT) {
            Err(Errno::AGAIN) => return false,
            // This file system cannot tell, or the file is too short, which sending it will find out.
            Err(_) | Ok(0) => return true,
            Ok(_) => {}
        }
    }
    true
}

/// Brings a part of a file into memory, and has the kernel go on with what follows.
fn load(file: &File, range: Range<u64>) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    // Only advice: where it is not taken, reading still works.
    let _ = fadvise(file, range.start, std::num::NonZeroU64::new(READ_AHEAD), Advice::WillNeed);
    let mut buffer = vec![0; READ.min((range.end - range.start) as usize)];
    for at in (range.start..range.end).step_by(READ) {
        let length = buffer.len().min((range.end - at) as usize);
        file.read_exact_at(&mut buffer[..length], at)?;
    }
    Ok(())
}
