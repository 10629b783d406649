//! Upload sessions: what has arrived and what may come next. A session outlives the connection that
//! fills it, and the process: after a restart its file is hashed again from the start. Between two
//! requests it holds no file open and may be forgotten in favour of others, so that abandoned uploads
//! cost disk only.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use oci::wire::UploadId;
use oci::wire::range::Chunk;
use oci::{Algorithm, Digest, RepoName, Verified, Verifier};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;

use super::filing::{Arrived, Unfit, verify};
use super::{Store, StoreError, blocking};
use crate::state::Transaction;

/// Files are read back in pieces of this size, in bytes.
const READ: usize = 1 << 20;
/// What has arrived is forced to disk each time this many bytes came, beside the transfer; so the end
/// of an upload takes the same time whatever its size. Clients wait 30 seconds for that answer.
const FLUSH_EVERY: u64 = 64 << 20;
/// Most parts that the system takes in one call (`IOV_MAX`).
const SLICES: usize = 1024;
/// Most sessions whose hash is kept in memory; the others are hashed again when they go on.
const REMEMBERED: usize = 4096;

/// The sessions that were touched since the start, and where their files lie.
pub(super) struct Uploads {
    dir: PathBuf,
    sessions: Mutex<HashMap<UploadId, Arc<Session>>>,
}

struct Session {
    repo: RepoName,
    algorithm: Algorithm,
    path: PathBuf,
    /// The hash of what has arrived, held by the one request that writes. `None` before the file was
    /// hashed, and after the end.
    state: Arc<tokio::sync::Mutex<Option<Verifier>>>,
    received: AtomicU64,
    /// Whether the disk failed to keep something. The kernel tells that once, so it is kept here.
    failed: AtomicBool,
}

impl Uploads {
    /// Opens the directory and removes files that no session knows: a crash came between.
    pub(super) fn open(dir: PathBuf, known: &[String]) -> io::Result<Self> {
        let known: HashSet<&str> = known.iter().map(String::as_str).collect();
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { dir, sessions: Mutex::default() })
    }

    fn path(&self, id: &UploadId) -> PathBuf {
        self.dir.join(id.as_str()) // an UploadId is letters, digits and dashes
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<UploadId, Arc<Session>>) -> T) -> T {
        work(&mut self.sessions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a chunk may come next: it must start where the last one ended and be as long as it says.
fn next(received: u64, chunk: Option<Chunk>, announced: Option<u64>) -> Result<Option<u64>, StoreError> {
    let Some(chunk) = chunk else { return Ok(announced) };
    if chunk.first != received {
        return Err(StoreError::OutOfOrder { first: chunk.first, received });
    }
    match announced {
        Some(found) if found != chunk.size() => Err(StoreError::WrongSize { announced: chunk.size(), found }),
        _ => Ok(Some(chunk.size())),
    }
}

/// A session in the hands of the one request that writes to it.
pub(crate) struct Upload {
    store: Store,
    session: Arc<Session>,
    id: UploadId,
    /// Moves to the thread that touches the file: were it let go when a client vanishes, the next
    /// request would write beside a write that still runs. `None` only if such a thread panicked.
    state: Option<OwnedMutexGuard<Option<Verifier>>>,
    file: Arc<File>,
    /// Where this request began: what is kept if its chunk turns out to be wrong.
    start: Verifier,
    expected: Option<u64>,
    limit: u64,
    /// The flush that runs beside the transfer.
    flushing: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Store {
    /// Opens an upload session in a repository.
    pub(crate) async fn open_upload(&self, repo: &RepoName, algorithm: Algorithm) -> Result<UploadId, StoreError> {
        self.writable()?;
        let id: UploadId = uuid::Uuid::now_v7().to_string().parse().expect("a UUID is letters, digits and dashes");
        let path = self.inner.uploads.path(&id);
        let (at, text) = (path.clone(), id.to_string());
        let create = move || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at).map(drop);
        blocking(create).await?.map_err(self.unwritten(&path))?;
        self.commit(Transaction::OpenUpload { id: text, repo: repo.clone(), algorithm }).await?;
        self.remember(&id, Session::new(repo.clone(), algorithm, path, Some(Verifier::new(algorithm))));
        Ok(id)
    }

    fn remember(&self, id: &UploadId, session: Session) -> Arc<Session> {
        self.inner.uploads.with(|sessions| {
            if sessions.len() >= REMEMBERED {
                // Whoever is being written to is held by its request as well.
                let idle = sessions.iter().find(|(_, session)| Arc::strong_count(session) == 1);
                if let Some(idle) = idle.map(|(id, _)| id.clone()) {
                    sessions.remove(&idle);
                }
            }
            sessions.entry(id.clone()).or_insert_with(|| Arc::new(session)).clone()
        })
    }

    /// Finds a session of this repository, also one that a former process opened.
    fn session(&self, repo: &RepoName, id: &UploadId) -> Result<Arc<Session>, StoreError> {
        if let Some(session) = self.inner.uploads.with(|sessions| sessions.get(id).cloned()) {
            return if session.repo == *repo { Ok(session) } else { Err(StoreError::NoUpload) };
        }
        let row = self.read(|view| view.upload(id.as_str()))?.filter(|row| row.repo == *repo);
        let row = row.ok_or(StoreError::NoUpload)?;
        let algorithm = row.algorithm.parse().map_err(|_| StoreError::NoUpload)?;
        let path = self.inner.uploads.path(id);
        Ok(self.remember(id, Session::new(row.repo, algorithm, path, None)))
    }

    /// How many bytes of an upload have arrived.
    pub(crate) async fn upload_status(&self, repo: &RepoName, id: &UploadId) -> Result<u64, StoreError> {
        let session = self.session(repo, id)?;
        match session.state.clone().try_lock_owned() {
            Ok(mut state) => {
                session.wake(self, &mut state).await?;
                Ok(session.received())
            }
            // Somebody is writing: what has arrived so far is a true answer.
            Err(_) => Ok(session.received()),
        }
    }

    /// Takes a session over for writing. `announced` is the length of the body, where it is known.
    pub(crate) async fn resume_upload(
        &self,
        repo: &RepoName,
        id: &UploadId,
        chunk: Option<Chunk>,
        announced: Option<u64>,
        limit: u64,
    ) -> Result<Upload, StoreError> {
        self.writable()?;
        let session = self.session(repo, id)?;
        let mut state = session.state.clone().try_lock_owned().map_err(|_| StoreError::UploadBusy)?;
        let start = session.wake(self, &mut state).await?;
        let file = session.open(self).await?;
        let expected = next(start.size(), chunk, announced)?;
        if expected.is_some_and(|expected| start.size().saturating_add(expected) > limit) {
            return Err(StoreError::TooLarge { limit });
        }
        // Without a Content-Range the body's own length is checked by HTTP; an abort keeps what came.
        let expected = chunk.and(expected);
        Ok(Upload {
            store: self.clone(),
            session,
            id: id.clone(),
            state: Some(state),
            file,
            start,
            expected,
            limit,
            flushing: None,
        })
    }

    /// Ends a session and drops what has arrived.
    pub(crate) async fn cancel_upload(&self, repo: &RepoName, id: &UploadId) -> Result<(), StoreError> {
        let session = self.session(repo, id)?;
        let mut state = session.state.clone().try_lock_owned().map_err(|_| StoreError::UploadBusy)?;
        self.drop_upload(id, &session, &mut state).await
    }

    /// Ends sessions to which nothing came for so long. Blocks, so it is for threads that may.
    pub(super) fn purge_uploads(&self, idle: Duration) -> Result<u64, StoreError> {
        let mut purged = 0;
        for id in self.read(|view| view.uploads())? {
            let Ok(id) = id.parse::<UploadId>() else { continue };
            let path = self.inner.uploads.path(&id);
            let is_stale = match std::fs::metadata(&path).and_then(|metadata| metadata.modified()) {
                Ok(modified) => SystemTime::now().duration_since(modified).is_ok_and(|age| age >= idle),
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(error) => return Err(StoreError::io(&path)(error)),
            };
            purged += u64::from(is_stale && self.purge_upload(&id)?);
        }
        Ok(purged)
    }

    fn purge_upload(&self, id: &UploadId) -> Result<bool, StoreError> {
        let Some(row) = self.read(|view| view.upload(id.as_str()))? else { return Ok(false) };
        let session = match self.session(&row.repo, id) {
            Ok(session) => session,
            Err(error) if error.is_missing() => return Ok(false),
            Err(error) => return Err(error),
        };
        // Whoever holds it is writing to it, so it is not stale after all; or is ending it.
        let Ok(mut state) = session.state.clone().try_lock_owned() else { return Ok(false) };
        *state = None;
        self.inner.uploads.with(|sessions| sessions.remove(id));
        if let Err(error) = std::fs::remove_file(&session.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(StoreError::io(&session.path)(error));
        }
        match self.inner.committer.commit_blocking(Transaction::CloseUpload { id: id.to_string() }) {
            Err(error) if error.is_missing() => Ok(false),
            closed => closed.map(|()| true),
        }
    }

    async fn drop_upload(
        &self,
        id: &UploadId,
        session: &Session,
        state: &mut Option<Verifier>,
    ) -> Result<(), StoreError> {
        *state = None;
        self.inner.uploads.with(|sessions| sessions.remove(id));
        let path = session.path.clone();
        if let Err(error) = blocking(move || std::fs::remove_file(path)).await? {
            tracing::debug!(%error, path = %session.path.display(), "an upload's file was gone already");
        }
        match self.commit(Transaction::CloseUpload { id: id.to_string() }).await {
            Err(error) if error.is_missing() => Err(StoreError::NoUpload),
            other => other,
        }
    }
}

impl Session {
    fn new(repo: RepoName, algorithm: Algorithm, path: PathBuf, state: Option<Verifier>) -> Self {
        let state = Arc::new(tokio::sync::Mutex::new(state));
        Self { repo, algorithm, path, state, received: 0.into(), failed: false.into() }
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    fn set_received(&self, bytes: u64) {
        self.received.store(bytes, Ordering::Release);
    }

    /// Makes sure that the hash is there, and gives it.
    async fn wake(&self, store: &Store, state: &mut Option<Verifier>) -> Result<Verifier, StoreError> {
        if let Some(verifier) = state {
            return Ok(verifier.clone());
        }
        let (file, algorithm) = (self.open(store).await?, self.algorithm);
        let verifier = blocking(move || hash_file(&file, algorithm)).await?.map_err(StoreError::io(&self.path))?;
        self.set_received(verifier.size());
        *state = Some(verifier.clone());
        Ok(verifier)
    }

    async fn open(&self, store: &Store) -> Result<Arc<File>, StoreError> {
        let path = self.path.clone();
        match blocking(move || OpenOptions::new().read(true).write(true).open(path)).await? {
            Ok(file) => Ok(Arc::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::NoUpload),
            Err(error) => Err(store.unwritten(&self.path)(error)),
        }
    }
}

/// Appends bytes to a file and hashes them; after an error neither has changed.
fn append(file: &File, verifier: &mut Verifier, parts: &[Bytes]) -> io::Result<()> {
    let start = verifier.size();
    if let Err(error) = write_all_at(file, parts, start) {
        file.set_len(start)?;
        return Err(error);
    }
    parts.iter().for_each(|part| verifier.update(part));
    Ok(())
}

/// Writes all parts in one call to the system, if it takes them at once: the more it gets at a time, the
/// less each page costs it.
fn write_all_at(file: &File, parts: &[Bytes], mut at: u64) -> io::Result<()> {
    let mut slices: Vec<_> = parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match rustix::io::pwritev(file, &rest[..rest.len().min(SLICES)], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Hashes a file from its start.
pub(super) fn hash_file(file: &File, algorithm: Algorithm) -> io::Result<Verifier> {
    let mut verifier = Verifier::new(algorithm);
    let mut buffer = vec![0; READ];
    let mut reader = file;
    io::Seek::rewind(&mut reader)?;
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(verifier),
            read => verifier.update(&buffer[..read]),
        }
    }
}

impl Upload {
    /// How many bytes may still come.
    pub(crate) fn room(&self) -> u64 {
        self.limit.saturating_sub(self.received())
    }

    /// How many bytes have arrived, with those of this request.
    pub(crate) fn received(&self) -> u64 {
        self.session.received()
    }

    fn came(&self) -> u64 {
        self.received() - self.start.size()
    }

    /// Appends what arrived. After an error the session is as it was before this call.
    pub(crate) async fn append(&mut self, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let more: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if let Some(announced) = self.expected
            && self.came() + more > announced
        {
            return self.roll_back(StoreError::WrongSize { announced, found: self.came() + more }).await;
        }
        if self.received() + more > self.limit {
            let error = StoreError::TooLarge { limit: self.limit };
            return self.roll_back(error).await;
        }
        let session = self.session.clone();
        let written = self.with_file(move |file, verifier| {
            let written = append(file, verifier, &parts);
            session.set_received(verifier.size());
            written
        });
        written.await?;
        self.flush_beside(more).await
    }

    /// Starts a flush whenever enough has come since the last one; never two at a time, so that a slow
    /// disk slows the transfer down instead of piling up what is not durable.
    async fn flush_beside(&mut self, more: u64) -> Result<(), StoreError> {
        let received = self.received();
        if received / FLUSH_EVERY == (received - more) / FLUSH_EVERY {
            return Ok(());
        }
        self.flushed().await?;
        let (file, session, store) = (self.file.clone(), self.session.clone(), self.store.clone());
        self.flushing = Some(tokio::task::spawn_blocking(move || {
            file.sync_data().map_err(|error| {
                session.failed.store(true, Ordering::Release);
                store.undurable(&session.path)(error)
            })
        }));
        Ok(())
    }

    /// Waits for the flush that runs.
    async fn flushed(&mut self) -> Result<(), StoreError> {
        let Some(flushing) = self.flushing.take() else { return Ok(()) };
        flushing.await.map_err(|_| StoreError::Closing)?
    }

    /// Touches file and hash on a thread for that.
    async fn with_file(
        &mut self,
        work: impl FnOnce(&File, &mut Verifier) -> io::Result<()> + Send + 'static,
    ) -> Result<(), StoreError> {
        let mut state = self.state.take().ok_or(StoreError::NoUpload)?;
        let file = self.file.clone();
        let (state, done) = blocking(move || {
            let done = state.as_mut().map(|verifier| work(&file, verifier));
            (state, done)
        })
        .await?;
        self.state = Some(state);
        done.ok_or(StoreError::NoUpload)?.map_err(self.store.unwritten(&self.session.path))
    }

    /// Ends a chunk, whose length must be the announced one.
    pub(crate) async fn end_chunk(&mut self) -> Result<(), StoreError> {
        match self.expected {
            Some(announced) if announced != self.came() => {
                self.roll_back(StoreError::WrongSize { announced, found: self.came() }).await
            }
            _ => Ok(()),
        }
    }

    /// Takes back what this request brought.
    async fn roll_back(&mut self, error: StoreError) -> Result<(), StoreError> {
        let (start, session) = (self.start.clone(), self.session.clone());
        self.with_file(move |file, verifier| {
            let size = start.size();
            *verifier = start;
            session.set_received(size);
            file.set_len(size)
        })
        .await?;
        Err(error)
    }

    /// Ends the upload: what has arrived must be `digest`, and is then readable in the repository.
    /// The session is over, unless the disk was full.
    pub(crate) async fn finish(self, digest: Digest) -> Result<Verified, StoreError> {
        // On a task of its own: a client that goes away in the middle must not leave the file between
        // session and shelf, where the next request could still write to it.
        match tokio::spawn(self.file(digest)).await {
            Ok(filed) => filed,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(StoreError::Closing),
            },
        }
    }

    async fn file(mut self, digest: Digest) -> Result<Verified, StoreError> {
        self.flushed().await?;
        if self.session.failed.load(Ordering::Acquire) {
            let lost = io::Error::other("some of the upload could not be made durable");
            return Err(StoreError::io(&self.session.path)(lost));
        }
        let mut state = self.state.take().ok_or(StoreError::NoUpload)?;
        let verifier = state.take().ok_or(StoreError::NoUpload)?;
        let small = self.store.inner.ahead.takes(verifier.size());
        let (verified, bytes) = match verify(verifier, &self.file, digest, small).await? {
            Ok(verified) => verified,
            Err(unfit) => {
                // The session is over also where the disk was full: what the kernel could not write it
                // counts as written, so the same file would pass the next time.
                let dropped = self.store.drop_upload(&self.id, &self.session, &mut state).await;
                return Err(match unfit {
                    Unfit::Other(mismatch) => dropped.err().unwrap_or(mismatch.into()),
                    Unfit::Undurable(error) => self.store.undurable(&self.session.path)(error),
                });
            }
        };
        let (store, id) = (&self.store, self.id.to_string());
        let arrived = Arrived { path: self.session.path.clone(), blob: verified, bytes };
        let filed = store.file_blob(&self.session.repo, arrived, Some(id)).await;
        if !matches!(filed, Err(StoreError::Full)) {
            store.inner.uploads.with(|sessions| sessions.remove(&self.id));
        }
        filed.map(|()| verified)
    }

    /// Ends a session that was opened for this request alone and got nowhere.
    pub(crate) async fn discard(mut self) {
        let Some(mut state) = self.state.take() else { return };
        if let Err(error) = self.store.drop_upload(&self.id, &self.session, &mut state).await {
            tracing::debug!(%error, "an upload could not be discarded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_come_next() {
        let chunk = |first, last| Some(Chunk { first, last });
        assert_eq!(next(0, None, None).unwrap(), None);
        assert_eq!(next(7, None, Some(3)).unwrap(), Some(3));
        assert_eq!(next(10, chunk(10, 19), Some(10)).unwrap(), Some(10));
        assert_eq!(next(10, chunk(10, 19), None).unwrap(), Some(10));
        for (received, first) in [(10, 0), (10, 11), (0, 1)] {
            let refused = next(received, chunk(first, first + 4), Some(5)).unwrap_err();
            assert!(
                matches!(refused, StoreError::OutOfOrder { first: at, received: had } if at == first && had == received)
            );
        }
        let refused = next(10, chunk(10, 19), Some(9)).unwrap_err();
        assert!(matches!(refused, StoreError::WrongSize { announced: 10, found: 9 }));
    }
}
