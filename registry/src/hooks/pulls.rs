//! Pulls on their way to receivers.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use jiff::Timestamp;
use oci::{Digest, RepoName, Tag};
use tokio::sync::mpsc;

use super::HookSettings;
use super::event::{Action, Event};
use crate::metrics::Metrics;
use crate::state::Asked;

/// Pulls that wait for one receiver; more are dropped, and counted.
const QUEUE: usize = 4096;

/// Where pulls are told: to each receiver that wants them.
pub(crate) struct Pulls {
    receivers: Vec<(HookSettings, mpsc::Sender<Event>)>,
    metrics: Arc<Metrics>,
}

/// What was pulled.
pub(crate) struct Pulled {
    pub(crate) digest: Digest,
    pub(crate) tag: Option<Tag>,
    pub(crate) media_type: String,
    pub(crate) size: u64,
    pub(crate) is_blob: bool,
    pub(crate) by: Asked,
}

impl Pulls {
    /// Queues for those hooks that want pulls, with their other ends.
    pub(crate) fn new(
        hooks: &[HookSettings],
        metrics: Arc<Metrics>,
    ) -> (Self, Vec<(HookSettings, mpsc::Receiver<Event>)>) {
        let wanting = hooks.iter().filter(|hook| hook.events.contains(&Action::Pull));
        let (senders, receivers) = wanting
            .map(|hook| {
                let (sender, receiver) = mpsc::channel(QUEUE);
                ((hook.clone(), sender), (hook.clone(), receiver))
            })
            .unzip();
        (Self { receivers: senders, metrics }, receivers)
    }

    /// Tells of a pull, if anybody wants to hear. Never waits.
    pub(crate) fn tell(&self, repository: &RepoName, pulled: impl FnOnce() -> Pulled) {
        if self.receivers.is_empty() {
            return;
        }
        let Pulled { digest, tag, media_type, size, is_blob, by } = pulled();
        let event = Event {
            id: uuid::Uuid::now_v7().to_string(),
            at: Timestamp::now(),
            action: Action::Pull,
            repository: repository.clone(),
            digest,
            tag,
            previous: None,
            content: Some((media_type, size)),
            is_blob,
            by: Some(by),
        };
        for (hook, receiver) in &self.receivers {
            if hook.wants(&event) && receiver.try_send(event.clone()).is_err() {
                self.metrics.untold.fetch_add(1, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::Format;

    #[tokio::test]
    async fn a_receiver_that_takes_nothing_costs_events_and_no_time() {
        let hook = HookSettings {
            name: "slow".to_owned(),
            url: "http://127.0.0.1:1/".to_owned(),
            format: Format::Distribution,
            secret: None,
            repositories: vec!["a/*".parse().unwrap()],
            events: vec![Action::Pull],
            blobs: false,
            proxies: content::remote::Proxies::default(),
        };
        let metrics = Arc::new(Metrics::default());
        let (pulls, mut receivers) = Pulls::new(std::slice::from_ref(&hook), metrics.clone());
        let by = || Asked {
            id: String::new(),
            actor: "anonymous".to_owned(),
            addr: None,
            host: None,
            method: "GET".to_owned(),
            agent: None,
            mounted: None,
        };
        let tell = |repository: &str, is_blob| {
            let (digest, media_type) = (Digest::of(b"x"), "text/plain".to_owned());
            let pulled = || Pulled { digest, tag: None, media_type, size: 1, is_blob, by: by() };
            pulls.tell(&repository.parse().unwrap(), pulled);
        };
        tell("b/x", false);
        tell("a/x", true);
        (0..QUEUE + 3).for_each(|_| tell("a/x", false));
        assert_eq!(metrics.untold.load(Relaxed), 3);
        let (_, mut queue) = receivers.pop().unwrap();
        assert_eq!(queue.len(), QUEUE, "others were not wanted");
        assert_eq!(queue.recv().await.unwrap().repository.as_str(), "a/x");
    }
}
