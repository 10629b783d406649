//! The one writer of metadata: a thread that takes all waiting transactions, decides them in order,
//! writes their records in one piece, makes them durable with one `fdatasync`, applies them to the
//! index as one batch, and only then answers. What a transaction may do is decided in `state`.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::ahead::Ahead;
use super::feed::Readers;
use super::snapshots::{Content, Snapshots};
use crate::index::{Index, IndexError};
use crate::journal::{Journal, PAYLOAD_LIMIT, Purpose};
use crate::state::{Decision, Overlay, Record, Transaction, Write, decide};

/// Most transactions in one batch. More wait: the next batch starts within a disk's `fdatasync`.
const BATCH: usize = 512;
/// Most bytes in one batch; a batch may exceed it by one record.
const BATCH_BYTES: usize = 8 << 20;
/// Most transactions that wait; then those who ask wait as well.
const QUEUE: usize = 4 * BATCH;

enum Job {
    Commit { transaction: Transaction, reply: oneshot::Sender<Result<(), StoreError>> },
    Damage,
    Close { reply: oneshot::Sender<()> },
}

/// The handle of the writer. Dropping the last one ends the thread and closes the index.
pub(super) struct Committer {
    queue: Option<mpsc::Sender<Job>>,
    closed: Arc<OnceLock<String>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Committer {
    pub(super) fn start(
        journal: Journal,
        index: Arc<Index>,
        ahead: Arc<Ahead>,
        snapshots: PathBuf,
        readers: Arc<Readers>,
        snapshot_every: usize,
    ) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let closed = Arc::new(OnceLock::new());
        let content = Content { ahead, index: index.clone(), closed: closed.clone() };
        let snapshots = Snapshots::new(snapshots, content.clone(), readers, snapshot_every, &journal);
        let snapshots = snapshots.map_err(std::io::Error::other)?;
        let writer = Writer { journal, index, closed: closed.clone(), content, snapshots };
        let thread = std::thread::Builder::new().name("registry-writer".to_owned()).spawn(|| writer.run(jobs))?;
        Ok(Self { queue: Some(queue), closed, thread: Some(thread) })
    }

    /// Why nothing is written any more, if that is so.
    pub(super) fn closed(&self) -> Option<String> {
        self.closed.get().cloned()
    }

    /// Writes nothing any more until a restart, since something could not be made durable.
    pub(super) fn go_read_only(&self, reason: String) -> StoreError {
        StoreError::ReadOnly(close_for_good(&self.closed, reason))
    }

    /// Commits a transaction; durable and visible when this returns.
    pub(super) async fn commit(&self, transaction: Transaction) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Commit { transaction, reply }).await?;
        answer.await.map_err(|_| StoreError::Closing)?
    }

    /// The same, for threads that may wait.
    pub(super) fn commit_blocking(&self, transaction: Transaction) -> Result<(), StoreError> {
        self.begin_blocking(transaction)?.blocking_recv().map_err(|_| StoreError::Closing)?
    }

    /// Queues a transaction and does not wait for its end, so that several share one sync.
    pub(super) fn begin_blocking(
        &self,
        transaction: Transaction,
    ) -> Result<oneshot::Receiver<Result<(), StoreError>>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Closing)?;
        queue.blocking_send(Job::Commit { transaction, reply }).map_err(|_| StoreError::Closing)?;
        Ok(answer)
    }

    /// Has the index made again in memory.
    pub(super) fn report_damage(&self) {
        if let Some(queue) = &self.queue
            && queue.try_send(Job::Damage).is_err()
        {
            tracing::debug!("the writer is busy; the next damaged row will be reported again");
        }
    }

    /// Waits for what is queued, then ends the writer.
    pub(super) async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.send(Job::Close { reply }).await.is_ok() {
            let _ = answer.await; // an error means that the thread is gone, which is what was wanted
        }
    }

    async fn send(&self, job: Job) -> Result<(), StoreError> {
        let queue = self.queue.as_ref().ok_or(StoreError::Closing)?;
        queue.send(job).await.map_err(|_| StoreError::Closing)
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer panicked");
        }
    }
}

struct Writer {
    journal: Journal,
    index: Arc<Index>,
    closed: Arc<OnceLock<String>>,
    content: Content,
    snapshots: Snapshots,
}

type Asker = oneshot::Sender<Result<(), StoreError>>;
type Reply = (Transaction, Asker, Result<(), StoreError>);

/// A batch while it is decided.
struct Batch<'a> {
    rows: Overlay<'a, Index>,
    payloads: Vec<Vec<u8>>,
    writes: Vec<Write>,
    bytes: usize,
    /// Whether anybody waits for durability.
    durable: bool,
    replies: Vec<Reply>,
}

impl Writer {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            let follow = match job {
                Job::Commit { transaction, reply } => self.batch(transaction, reply, &mut jobs),
                other => Some(other),
            };
            match follow {
                Some(Job::Damage) => self.make_index_again(),
                Some(Job::Close { reply }) => return self.close(jobs, Some(reply)),
                Some(Job::Commit { .. }) | None => {}
            }
        }
        self.close(jobs, None);
    }

    /// Commits a transaction with all that wait behind it, up to a job of another kind.
    fn batch(&mut self, first: Transaction, reply: Asker, jobs: &mut mpsc::Receiver<Job>) -> Option<Job> {
        let index = self.index.clone();
        let mut batch = Batch::new(&index);
        batch.take(first, reply);
        let mut follow = None;
        while batch.replies.len() < BATCH && batch.bytes < BATCH_BYTES {
            match jobs.try_recv() {
                Ok(Job::Commit { transaction, reply }) => batch.take(transaction, reply),
                Ok(other) => {
                    follow = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let Batch { payloads, writes, bytes, durable, replies, .. } = batch;
        match self.write(&payloads, writes, durable, Purpose::Ordinary) {
            Err(Unwritten::Full) => self.make_room(&index, replies),
            written => {
                answer(replies, &written);
                if written.is_ok() {
                    self.snapshots.after(bytes, &self.journal);
                }
            }
        }
        follow
    }

    /// On a full disk: refuses what needs room, and commits what makes room from the reserve.
    fn make_room(&mut self, index: &Index, replies: Vec<Reply>) {
        let (making_room, others): (Vec<_>, Vec<_>) =
            replies.into_iter().partition(|(transaction, ..)| transaction.makes_room());
        answer(others, &Err(Unwritten::Full));
        let mut batch = Batch::new(index);
        for (transaction, reply, _) in making_room {
            batch.take(transaction, reply);
        }
        let Batch { payloads, writes, durable, replies, .. } = batch;
        let written = self.write(&payloads, writes, durable, Purpose::MakeRoom);
        answer(replies, &written);
    }

    /// Journal, then index. After an error in the journal nothing of the batch is visible.
    fn write(
        &mut self,
        payloads: &[Vec<u8>],
        writes: Vec<Write>,
        durable: bool,
        purpose: Purpose,
    ) -> Result<(), Unwritten> {
        if payloads.is_empty() {
            return Ok(());
        }
        if let Some(reason) = self.closed.get() {
            return Err(Unwritten::ReadOnly(reason.clone()));
        }
        let appended = self.journal.append(payloads, purpose);
        let lsn = match appended {
            Ok(lsn) => lsn,
            Err(error) if error.is_full() => return Err(Unwritten::Full),
            Err(error) => return Err(self.go_read_only(&error)),
        };
        if durable && let Err(error) = self.journal.sync() {
            return Err(self.go_read_only(&error));
        }
        if let Err(error) = self.index.apply(writes, &self.journal, lsn) {
            // The records are durable, so the push succeeded; but nobody could read it any more.
            return Err(self.go_read_only(&error));
        }
        Ok(())
    }

    fn go_read_only(&self, error: &dyn std::error::Error) -> Unwritten {
        let reason = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Unwritten::ReadOnly(close_for_good(&self.closed, reason))
    }

    fn make_index_again(&self) {
        if let Err(error) = self.index.move_to_memory(&self.journal) {
            tracing::error!(%error, "the index cannot be made again");
        }
    }

    fn close(mut self, mut jobs: mpsc::Receiver<Job>, reply: Option<oneshot::Sender<()>>) {
        jobs.close();
        while let Ok(job) = jobs.try_recv() {
            if let Job::Commit { transaction, reply } = job {
                self.batch(transaction, reply, &mut jobs);
            }
        }
        let synced = self.journal.sync().map_err(IndexError::from);
        let closed = match synced {
            // Only then may the next start take everything for granted.
            Ok(()) if self.content.make_durable() => self.index.close(),
            synced => synced,
        };
        if let Err(error) = closed {
            tracing::error!(%error, "the index could not be closed; the next start makes it again");
        }
        if let Some(reply) = reply {
            let _ = reply.send(()); // whoever asked may be gone
        }
    }
}

/// Keeps the first reason why nothing is written any more, and gives it.
pub(super) fn close_for_good(closed: &OnceLock<String>, reason: String) -> String {
    tracing::error!(reason, "the registry is read-only until it is restarted");
    closed.get_or_init(|| reason).clone()
}

fn answer(replies: Vec<Reply>, written: &Result<(), Unwritten>) {
    for (_, reply, decided) in replies {
        let answer = match (written, decided) {
            (_, Err(refused)) => Err(refused),
            (Ok(()), Ok(())) => Ok(()),
            (Err(Unwritten::Full), Ok(())) => Err(StoreError::Full),
            (Err(Unwritten::ReadOnly(reason)), Ok(())) => Err(StoreError::ReadOnly(reason.clone())),
        };
        let _ = reply.send(answer); // nobody waits any more: the client is gone, the commit stands
    }
}

impl<'a> Batch<'a> {
    fn new(index: &'a Index) -> Self {
        let rows = Overlay::new(index);
        Self { rows, payloads: Vec::new(), writes: Vec::new(), bytes: 0, durable: false, replies: Vec::new() }
    }

    fn take(&mut self, transaction: Transaction, reply: Asker) {
        let decided = decide(&self.rows, &transaction, jiff::Timestamp::now());
        let answer = match decided {
            Ok(record) => self.keep(record, transaction.is_durable()),
            Err(Decision::Refused(refusal)) => Err(StoreError::Refused(refusal)),
            Err(Decision::Rows(error)) => Err(StoreError::Index(Box::new(error))),
        };
        self.replies.push((transaction, reply, answer));
    }

    fn keep(&mut self, record: Record, durable: bool) -> Result<(), StoreError> {
        if record.facts.is_empty() {
            return Ok(());
        }
        let payload = record.encode();
        if payload.len() > PAYLOAD_LIMIT {
            return Err(StoreError::TooLarge { limit: PAYLOAD_LIMIT as u64 });
        }
        let writes = record.writes();
        self.rows.apply(writes.iter().cloned());
        self.writes.extend(writes);
        self.bytes += payload.len();
        self.payloads.push(payload);
        self.durable |= durable;
        Ok(())
    }
}

enum Unwritten {
    Full,
    ReadOnly(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Places;
    use crate::state::View;
    use oci::{Algorithm, RepoName};
    use std::path::Path;

    fn open(dir: &Path, change: impl FnOnce(&mut Journal)) -> (Committer, Arc<Index>) {
        let path = |name: &str| dir.join(name);
        for name in ["journal", "snapshot", "uploads"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        Journal::start(&path("journal"), 1).unwrap();
        let mut journal = Journal::open(&path("journal")).unwrap();
        let places = Places { sled: path("index.sled"), state: path("index.state"), snapshots: path("snapshot") };
        let index = Arc::new(Index::open(places, &journal).unwrap());
        change(&mut journal);
        let ahead = Arc::new(Ahead::open(dir, false).unwrap());
        let committer = Committer::start(journal, index.clone(), ahead, path("snapshot"), Arc::default(), usize::MAX);
        (committer.unwrap(), index)
    }

    fn store(content: &[u8]) -> Transaction {
        let mut verifier = oci::Verifier::new(Algorithm::Sha256);
        verifier.update(content);
        Transaction::StoreBlob { repo: repo(), blob: verifier.seal(), upload: None, bytes: None }
    }

    fn repo() -> RepoName {
        "a".parse().unwrap()
    }

    fn is_linked(index: &Index, content: &[u8]) -> bool {
        View(index).is_linked(&repo(), &oci::Digest::of(content)).unwrap()
    }

    #[test]
    fn a_failed_sync_makes_the_store_read_only_and_what_was_there_stays_readable() {
        let dir = tempfile::tempdir().unwrap();
        let (committer, _) = open(dir.path(), |_| ());
        committer.commit_blocking(store(b"before")).unwrap();
        drop(committer);
        let (committer, index) = open(dir.path(), Journal::break_sync);
        for _ in 0..2 {
            assert!(matches!(committer.commit_blocking(store(b"after")), Err(StoreError::ReadOnly(_))));
        }
        assert!(committer.closed().unwrap().contains("sync"), "{:?}", committer.closed());
        assert!(is_linked(&index, b"before") && !is_linked(&index, b"after"));
        drop((committer, index));
        let (committer, index) = open(dir.path(), |_| ());
        assert!(is_linked(&index, b"before"), "a restart on a good disk goes on");
        committer.commit_blocking(store(b"after")).unwrap();
    }

    #[test]
    fn a_full_disk_refuses_and_stays_writable() {
        let dir = tempfile::tempdir().unwrap();
        let (committer, index) = open(dir.path(), Journal::fill_disk);
        assert!(matches!(committer.commit_blocking(store(b"blob")), Err(StoreError::Full)));
        assert_eq!(committer.closed(), None);
        assert!(!is_linked(&index, b"blob"));
    }
}
