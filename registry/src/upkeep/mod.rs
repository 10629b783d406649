//! Looking after a registry's data: what an operator asks for, done on a store that nobody else has open
//! (`perform`, `transfer`), or by the process that has it open and serves it (`owner`), which is asked
//! over a socket in the data directory (`ask`). What is told is the same either way. How it is written
//! for people is not known here.
//!
//! ```text
//! operator ─▶ Request (one JSON line, and the directory to use as a file descriptor) ─▶ upkeep.sock
//! operator ◀─ Said, Said, … and Done or Failed (JSON lines)                          ◀─ owner
//! ```
//!
//! Only the user that the registry runs as, and root, are answered: the kernel says who asks.

mod ask;
mod failed;
mod owner;

use std::path::Path;

use content::Disk;
use oci::{Digest, RepoName};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::keeping::Keeping;
use crate::store::{Checked, Explanation, Finding, JudgedTag, Moved, Pass, Planned, Store};
pub use ask::{AskError, ask};
pub use failed::{Failed, Kind};
pub(crate) use owner::Owner;

/// The socket's name in the data directory.
const SOCKET: &str = "upkeep.sock";

/// Something to be done that only looks at what the registry has, or changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Task {
    /// Says what keeps a digest, or speaks against it.
    Explain {
        /// Which one.
        digest: Digest,
    },
    /// Says what collecting would take now.
    PlanCollection,
    /// Collects garbage.
    Collect,
    /// Applies retention.
    Retain {
        /// Only says what it would do.
        dry_run: bool,
        /// Lets the rules take the last tag of a repository.
        force: bool,
    },
    /// Checks everything.
    Check {
        /// Puts right what can be. A registry that serves does not.
        repair: bool,
    },
}

/// Something to be done with an OCI image layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "transfer", rename_all = "snake_case")]
pub enum Transfer {
    /// Writes repositories to it.
    Export {
        /// Which ones; all if there are none.
        repositories: Vec<RepoName>,
    },
    /// Takes its images in.
    Import {
        /// Where images go whose name is only a tag.
        repository: Option<RepoName>,
    },
}

/// What is heard meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// Something that collecting would take.
    Planned(Planned),
    /// A tag, and what retention makes of it.
    Judged(JudgedTag),
    /// Something that is not as it should be.
    Found(Finding),
    /// An image that went over.
    Image(String),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// Everything about a digest.
    Explained(Box<Explanation>),
    /// So many things would go.
    Planned(u64),
    /// What was collected, all passes together.
    Collected(Pass),
    /// So many tags went, or would go.
    Retained(u64),
    /// What was checked.
    Checked(Checked),
    /// What went over.
    Moved(Moved),
}

/// What is asked of the process that serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// What is to be done.
    pub what: What,
    /// The policies to do it by; those of the registry if there are none.
    pub keeping: Option<Keeping>,
    /// What whoever asks calls the directory that comes along.
    pub directory: Option<String>,
}

/// Both kinds of things to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Without a layout.
    Task(Task),
    /// With one, which has to be there.
    Transfer(Transfer),
}

/// Says when to stop early.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// As soon as the other half is dropped.
    pub fn by_drop() -> (Stopper, Self) {
        let (stop, hears) = watch::channel(false);
        (Stopper(stop), Self(hears))
    }

    fn is_due(&self) -> bool {
        *self.0.borrow()
    }

    async fn wait(mut self) {
        // Without a sender nobody will ever say so.
        if self.0.wait_for(|due| *due).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Stops what heeds its [`Stop`] when it is dropped.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// Does something, telling what it finds. Blocks, so it is for threads that may.
pub fn perform(store: &Store, task: &Task, said: &mut dyn FnMut(Said), stop: &Stop) -> Result<Done, Failed> {
    match task {
        Task::Explain { digest } => Ok(Done::Explained(Box::new(store.explain(digest)?))),
        Task::PlanCollection => {
            let planned = store.plan_collection()?;
            let count = planned.len() as u64;
            planned.into_iter().for_each(|planned| said(Said::Planned(planned)));
            Ok(Done::Planned(count))
        }
        Task::Collect => collect(store, stop).map(Done::Collected),
        Task::Retain { dry_run, force } => retain(store, *dry_run, *force, said).map(Done::Retained),
        Task::Check { repair } => {
            let checked = store.fsck(*repair, &mut |found| said(Said::Found(found.clone())), &|| stop.is_due());
            Ok(Done::Checked(checked?))
        }
    }
}

/// Collects until nothing is due any more: one pass leads to the next, from a manifest to its blobs and
/// their files.
fn collect(store: &Store, stop: &Stop) -> Result<Pass, Failed> {
    let mut all = Pass { adopted: store.adopt_all()?, ..Pass::default() };
    while !stop.is_due() {
        let pass = store.collect()?;
        all.reviewed += pass.reviewed;
        all.manifests += pass.manifests;
        all.condemned += pass.condemned;
        all.blobs += pass.blobs;
        all.freed_bytes += pass.freed_bytes;
        all.uploads += pass.uploads;
        all.adopted += pass.adopted;
        all.tags += pass.tags;
        if pass.reviewed == 0 {
            return Ok(all);
        }
    }
    Err(Failed::stopped())
}

fn retain(store: &Store, dry_run: bool, force: bool, said: &mut dyn FnMut(Said)) -> Result<u64, Failed> {
    let mut keeping = store.keeping().clone();
    if keeping.retention.rules.is_empty() {
        return Err(Failed::new(Kind::NoRules, "there are no retention rules"));
    }
    keeping.retention.may_empty |= force;
    let judged = store.under(keeping).retain(dry_run)?;
    let deleted = judged.iter().filter(|judged| !judged.keeps).count() as u64;
    judged.into_iter().for_each(|judged| said(Said::Judged(judged)));
    Ok(deleted)
}

/// Moves images between a store and the layout in `directory`, telling each name.
pub async fn transfer(
    store: &Store,
    transfer: &Transfer,
    directory: &Path,
    said: &(dyn Fn(Said) + Sync),
) -> Result<Done, Failed> {
    let told = |name: &str| said(Said::Image(name.to_owned()));
    let moved = match transfer {
        Transfer::Export { repositories } => store.export(&Disk::create(directory)?, repositories, &told).await?,
        Transfer::Import { repository } => store.import(&Disk::open(directory)?, repository.as_ref(), &told).await?,
    };
    Ok(Done::Moved(moved))
}
