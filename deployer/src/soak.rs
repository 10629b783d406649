//! Soaking: what is well must stay so for a while, and no container may restart meanwhile. Pure.

use crate::diagnose::{Cause, Trouble, pod_name};
use crate::verdict::{Verdict, Waiting};
use crate::workload::text;
use crate::world::{Snapshot, container_statuses, uid_of};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// What was seen of one target since it was well for the first time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Soak {
    since: Option<Timestamp>,
    /// By pod and container.
    restarts: BTreeMap<(String, String), i64>,
}

impl Soak {
    /// Makes the verdict "done" wait for the end of the soak; a restart before that fails it.
    pub(crate) fn judge(
        &mut self,
        verdict: Verdict,
        snapshot: &Snapshot<'_>,
        soak: Duration,
        now: Timestamp,
    ) -> Verdict {
        let is_running = matches!(&verdict, Verdict::Done(evidence) if evidence.has_pods());
        if soak.is_zero() || !(is_running || (self.since.is_some() && matches!(verdict, Verdict::Waiting(_)))) {
            return verdict;
        }
        if let Some(trouble) = self.restart(snapshot) {
            return Verdict::Failed(vec![trouble]);
        }
        if !is_running {
            self.since = None; // it begins anew when all is well again
            return verdict;
        }
        let since = *self.since.get_or_insert(now);
        let soak = SignedDuration::try_from(soak).unwrap_or(SignedDuration::MAX);
        if now.duration_since(since) >= soak {
            verdict
        } else {
            Verdict::Waiting(Waiting::Soaking { seconds: soak.as_secs() })
        }
    }

    /// The first container that restarted since it was seen first.
    fn restart(&mut self, snapshot: &Snapshot<'_>) -> Option<Trouble> {
        for pod in &snapshot.pods {
            for status in container_statuses(pod) {
                let name = text(&status["name"]);
                let count = status["restartCount"].as_i64().unwrap_or_default();
                let seen = *self.restarts.entry((uid_of(pod).to_owned(), name.to_owned())).or_insert(count);
                if count > seen {
                    let text = format!("it restarted while it was watched ({seen} times before, {count} now)");
                    return Some(Trouble {
                        cause: Cause::Crash,
                        object: pod_name(pod),
                        container: Some(name.to_owned()),
                        text,
                        fatal: true,
                    });
                }
            }
        }
        None
    }
}
