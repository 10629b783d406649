//! After a note on a workload: to a Deployment, every annotation is a new generation, which its controller has to see
//! before anybody who looks finds a rollout that is done.

use super::{LOOK_EVERY, stream};
use crate::api::Api;
use crate::object::ObjectName;
use crate::verdict;
use crate::workload::text;
use futures_util::StreamExt;
use serde_json::Value;
use std::time::Duration;

/// Longest wait for a controller to see a note; one that is alive takes milliseconds.
const OBSERVED_WITHIN: Duration = Duration::from_secs(10);

/// Waits until the controller has seen the generation of an object that we wrote; false if it has not within a few
/// seconds, which changes nothing of what was written.
pub(crate) async fn until_observed(api: &Api, object: &ObjectName, written: &Value) -> bool {
    let is_over = |live: &Value| live["metadata"]["uid"] != written["metadata"]["uid"] || verdict::is_observed(live);
    if is_over(written) {
        return true;
    }
    let seen = async {
        let mut version = text(&written["metadata"]["resourceVersion"]).to_owned();
        loop {
            match is_watched_until(api, object, &version, is_over).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, %object, "the watch broke before our note was seen"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
            match api.get(object).await {
                Ok(Some(live)) if !is_over(&live) => version = text(&live["metadata"]["resourceVersion"]).to_owned(),
                Ok(_) => return true,
                Err(error) => {
                    tracing::debug!(%error, %object, "nobody knows whether the controller saw our note");
                    return false;
                }
            }
        }
    };
    tokio::time::timeout(OBSERVED_WITHIN, seen).await.unwrap_or(false)
}

/// Whether a watch of an object shows a state that is wanted, or that it is gone, before it ends.
async fn is_watched_until(
    api: &Api,
    object: &ObjectName,
    version: &str,
    is_over: impl Fn(&Value) -> bool,
) -> kube::Result<bool> {
    let mut changes = stream::since(api, object, version).await?;
    while let Some(change) = changes.next().await {
        if change?.is_none_or(|live| is_over(&live)) {
            return Ok(true);
        }
    }
    Ok(false)
}
