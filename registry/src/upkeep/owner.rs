//! The process that has the data open, answering its operator.

use std::fs::{File, Permissions};
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::failed::{Failed, Kind};
use super::{Done, Request, SOCKET, Said, Stop, What, perform, transfer};
use crate::store::Store;

/// Requests that are answered at once; others wait.
const AT_ONCE: u32 = 4;
/// How long an operator may take to say what he wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest request, in bytes: some thousands of names and rules.
const REQUEST_LIMIT: usize = 1 << 20;
/// File descriptors that come with one request; more are closed by the kernel.
const DESCRIPTORS: usize = 1;

/// A line of an answer.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line<'a> {
    Said(&'a Said),
    Done(&'a Done),
    Failed(&'a Failed),
}

/// The socket of a data directory that this process has locked.
pub(crate) struct Owner {
    listener: UnixListener,
    store: Store,
}

impl Owner {
    /// Takes the socket of the data directory of an open store.
    pub(crate) fn bind(data: &Path, store: Store) -> io::Result<Self> {
        // Through a descriptor, since the address of a socket has 108 bytes, and a directory may have more.
        let directory = File::open(data)?;
        let path = socket_in(&directory);
        // We hold the lock, so whoever made it is gone.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, store })
    }

    /// Answers until `stop` says otherwise; then ends what runs, waiting no longer than `drain` for it.
    pub(crate) async fn run(self, stop: watch::Receiver<bool>, drain: Duration) {
        let permits = Arc::new(Semaphore::new(AT_ONCE as usize));
        let stopped = Stop(stop.clone());
        tokio::select! {
            failed = self.accept(&stop, &permits) => {
                if let Err(error) = failed {
                    tracing::warn!(%error, "requests of the operator are no longer answered");
                }
            }
            () = stopped.wait() => {}
        }
        if tokio::time::timeout(drain, permits.acquire_many(AT_ONCE)).await.is_err() {
            tracing::warn!("a request of the operator did not end in time");
        }
    }

    async fn accept(&self, stop: &watch::Receiver<bool>, permits: &Arc<Semaphore>) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(self.listener.try_clone()?)?;
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return Ok(()) }; // never closed
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a request of the operator could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let peer = stream.peer_cred()?;
            let ours = rustix::process::geteuid().as_raw();
            if peer.uid() != ours && peer.uid() != 0 {
                tracing::warn!(uid = peer.uid(), "somebody else asked for what only the operator may");
                continue;
            }
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            let answering = Answering { stream, store: self.store.clone(), runtime: Handle::current() };
            let (stop, uid) = (stop.clone(), peer.uid());
            let answer = move || answering.run(&stop, uid, permit);
            std::thread::Builder::new().name("registry-upkeep".to_owned()).spawn(answer)?;
        }
    }
}

/// The path of the socket in an open directory.
pub(super) fn socket_in(directory: &File) -> PathBuf {
    descriptor_path(directory).join(SOCKET)
}

fn descriptor_path(file: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// One request and its answer, on a thread of its own: most of the work blocks.
struct Answering {
    stream: UnixStream,
    store: Store,
    runtime: Handle,
}

impl Answering {
    fn run(self, stop: &watch::Receiver<bool>, uid: u32, permit: OwnedSemaphorePermit) {
        if let Err(error) = self.converse(stop, uid) {
            tracing::debug!(%error, "a request of the operator broke off");
        }
        drop(self); // the store goes before we say that we are done
        drop(permit);
    }

    fn converse(&self, stop: &watch::Receiver<bool>, uid: u32) -> io::Result<()> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        let (line, directory) = receive(&self.stream)?;
        self.stream.set_read_timeout(None)?;
        let request: Request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                let failed = Failed::new(Kind::BadInput, format!("the registry does not know this request: {error}"));
                return write(&self.stream, &Line::Failed(&failed));
            }
        };
        tracing::info!(target: "audit", uid, what = ?request.what, "upkeep");
        // Whoever hangs up wants no more; and so does a server that ends, which hangs up here.
        let (gone, hears) = watch::channel(false);
        let (mut reading, closing) = (self.stream.try_clone()?, self.stream.try_clone()?);
        let watch = std::thread::Builder::new().name("registry-upkeep".to_owned()).spawn(move || {
            let mut rest = [0; 64];
            while matches!(reading.read(&mut rest), Ok(read) if read > 0) {}
            let _ = gone.send(true); // nobody to tell: it is over
        })?;
        let stopping = Stop(stop.clone());
        let closer = self.runtime.spawn(async move {
            stopping.wait().await;
            let _ = closing.shutdown(Shutdown::Both); // it may be closed already
        });
        let answered = self.answer(request, directory, &Stop(hears));
        let written = match &answered {
            Ok(done) => write(&self.stream, &Line::Done(done)),
            Err(failed) => write(&self.stream, &Line::Failed(failed)),
        };
        closer.abort();
        let _ = self.stream.shutdown(Shutdown::Both); // it may be closed already
        let _ = watch.join(); // it only reads
        written
    }

    fn answer(&self, request: Request, directory: Option<OwnedFd>, stop: &Stop) -> Result<Done, Failed> {
        let store = match request.keeping {
            Some(keeping) => self.store.under(keeping),
            None => self.store.clone(),
        };
        // What cannot be written is not heard: then it is stopped, as the other end is closed.
        let stream = Mutex::new(&self.stream);
        let say = |said: Said| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = write(&stream, &Line::Said(&said)) {
                tracing::debug!(%error, "the operator does not listen");
            }
        };
        match request.what {
            What::Task(task) => perform(&store, &task, &mut |said| say(said), stop),
            What::Transfer(wanted) => {
                let directory = directory.ok_or_else(|| Failed::new(Kind::BadInput, "no directory came along"))?;
                let path = descriptor_path(&directory);
                let ended = self.runtime.block_on(async {
                    tokio::select! {
                        done = transfer(&store, &wanted, &path, &say) => done,
                        () = stop.clone().wait() => Err(Failed::stopped()),
                    }
                });
                let theirs = request.directory.as_deref().unwrap_or("the directory");
                ended.map_err(|failed| failed.with(&path.display().to_string(), theirs))
            }
        }
    }
}

fn write(mut stream: &UnixStream, line: &Line<'_>) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    stream.write_all(&text)
}

/// Receives a line, and the directory that came with it.
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let (mut line, mut directory) = (Vec::new(), None);
    let mut buffer = [0; 4096];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(stream, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                directory = descriptors.last().or(directory);
            }
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&buffer[..received.bytes]);
        if line.last() == Some(&b'\n') {
            return Ok((line, directory));
        }
        if line.len() > REQUEST_LIMIT {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}
