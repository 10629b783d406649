//! Webhooks: what happens is told to others. Pushes and deletes are, at least once and in order: the
//! journal is the outbox, and what is committed is told, whatever happens in between. Pulls are, where
//! somebody wants them, at most once: they wait in memory, and no pull ever waits for them.
//!
//! ```text
//! data/hooks/NAME.json    up to which record of the journal a receiver knows everything
//! ```
//!
//! Each receiver has a place of its own, so one that is down holds up nobody else. While it is down,
//! records that it has not seen are kept, up to a limit; then it loses the oldest, which is an error in
//! the log and not silent.

mod event;
mod pulls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use content::place::replace_file;
use content::remote::{Proxies, Web};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::keeping::RepoGlob;
use crate::metrics::Metrics;
use crate::store::{Cursor, Store, StoreError, blocking};
pub(crate) use event::Event;
pub use event::{Action, Format};
use event::{events, signature};
pub(crate) use pulls::{Pulled, Pulls};

/// How often the journal is looked at for news.
const LOOK: Duration = Duration::from_millis(250);
/// The pause after the first failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// How many records are read at a time.
const RECORDS: usize = 256;

/// A receiver of events.
#[derive(Debug, Clone)]
pub struct HookSettings {
    /// Its name: letters, digits, `-` and `_`.
    pub name: String,
    /// Where events are sent.
    pub url: String,
    /// In which form.
    pub format: Format,
    /// Signs them.
    pub secret: Option<String>,
    /// Of which repositories; of all if there are none.
    pub repositories: Vec<RepoGlob>,
    /// Of which actions.
    pub events: Vec<Action>,
    /// Whether also of blobs.
    pub blobs: bool,
    /// Proxies on the way to it.
    pub proxies: Proxies,
}

impl HookSettings {
    /// What is told if nothing else is said.
    pub const USUAL_EVENTS: [Action; 2] = [Action::Push, Action::Delete];

    fn wants(&self, event: &Event) -> bool {
        let is_meant =
            self.repositories.is_empty() || self.repositories.iter().any(|glob| glob.matches(&event.repository));
        is_meant && self.events.contains(&event.action) && (self.blobs || !event.is_blob)
    }
}

/// Up to where a receiver knows everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    journal: u64,
    lsn: u64,
}

/// What all hooks share.
#[derive(Clone)]
pub(crate) struct Hooks {
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) directory: PathBuf,
    /// The URL of the registry, if it is known.
    pub(crate) source: Option<String>,
}

impl Hooks {
    /// Tells one receiver everything, for ever.
    pub(crate) async fn run(self, hook: HookSettings) {
        let web = match Web::new(&[], content::remote::Proxies::default()) {
            Ok(web) => web,
            Err(error) => return tracing::error!(%error, hook = hook.name, "this webhook cannot work"),
        };
        let (mut place, mut cursor) = (self.begin(&hook.name).await, Cursor::default());
        let mut pause = FIRST_PAUSE;
        loop {
            match self.tell_next(&hook, &web, &mut place, &mut cursor).await {
                Ok(true) => pause = FIRST_PAUSE,
                Ok(false) => tokio::time::sleep(LOOK).await,
                Err(error) => {
                    tracing::error!(%error, hook = hook.name, "the journal could not be read for a webhook");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Tells one receiver of pulls, as they come.
    pub(crate) async fn run_pulls(self, hook: HookSettings, mut pulls: mpsc::Receiver<Event>) {
        let web = match Web::new(&[], hook.proxies.clone()) {
            Ok(web) => web,
            Err(error) => return tracing::error!(%error, hook = hook.name, "this webhook cannot work"),
        };
        while let Some(event) = pulls.recv().await {
            self.tell(&hook, &web, &event).await;
        }
    }

    /// Where a receiver stands; a new one begins with what happens from now on.
    async fn begin(&self, name: &str) -> Place {
        let path = self.path(name);
        let kept = blocking(move || std::fs::read(path)).await.ok().and_then(Result::ok);
        let kept: Option<Place> = kept.and_then(|text| serde_json::from_slice(&text).ok());
        let now = Place { journal: self.store.journal_id(), lsn: self.store.last_record() };
        // A place in another journal, or ahead of this one, is of data that was there before.
        let place = kept.filter(|kept| kept.journal == now.journal && kept.lsn <= now.lsn).unwrap_or(now);
        self.store.hold_journal(name, place.lsn);
        self.keep(name, place).await;
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }

    /// Keeps a place durably. When that fails, events are told again after a restart, which is allowed.
    async fn keep(&self, name: &str, place: Place) {
        let (directory, path) = (self.directory.clone(), self.path(name));
        let text = serde_json::to_vec(&place).expect("a place is two numbers");
        let kept = blocking(move || write(&directory, &path, &text)).await;
        match kept {
            Ok(Ok(())) => self.store.hold_journal(name, place.lsn),
            Ok(Err(error)) => tracing::warn!(%error, hook = name, "the place of a webhook could not be kept"),
            Err(error) => tracing::warn!(%error, hook = name, "the place of a webhook could not be kept"),
        }
    }

    /// Tells what some next records hold; false if there are none.
    async fn tell_next(
        &self,
        hook: &HookSettings,
        web: &Web,
        place: &mut Place,
        cursor: &mut Cursor,
    ) -> Result<bool, StoreError> {
        if self.store.last_record() <= place.lsn {
            return Ok(false);
        }
        let feed = self.store.records_after(place.lsn, RECORDS, cursor).await?;
        if feed.lost > 0 {
            let hook = &hook.name;
            tracing::error!(hook, records = feed.lost, "a receiver was away for too long and lost events");
        }
        for (lsn, record) in &feed.records {
            for event in events(place.journal, *lsn, record) {
                if hook.wants(&event) {
                    self.tell(hook, web, &event).await;
                }
            }
            place.lsn = *lsn;
        }
        self.keep(&hook.name, *place).await;
        Ok(!feed.records.is_empty())
    }

    /// Sends one event until the receiver takes it.
    async fn tell(&self, hook: &HookSettings, web: &Web, event: &Event) {
        let message = Bytes::from(event.message(hook.format, self.source.as_deref()));
        let signed = hook.secret.as_ref().map(|secret| signature(secret, &message));
        let mut headers = vec![("content-type", hook.format.media_type()), ("x-lighter-event", event.id.as_str())];
        headers.extend(signed.iter().map(|signed| ("x-lighter-signature", signed.as_str())));
        let mut pause = FIRST_PAUSE;
        loop {
            let reason = match web.post(&hook.url, &headers, message.clone()).await {
                Ok(200..=299) => {
                    self.metrics.delivered.fetch_add(1, Relaxed);
                    return;
                }
                Ok(status) => format!("it answered {status}"),
                Err(error) => error.to_string(),
            };
            self.metrics.undelivered.fetch_add(1, Relaxed);
            tracing::warn!(hook = hook.name, event = event.id, reason, ?pause, "an event is not taken; trying again");
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }
}

fn write(directory: &Path, path: &Path, text: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    replace_file(path, text)
}
