//! What operators and their machines ask: is it alive, is it ready, what does it count, who uses what.

use axum::response::Response;
use http::header::CACHE_CONTROL;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use oci::RepoName;
use oci::wire::ErrorCode;
use serde_json::{Value, json};
use std::sync::atomic::Ordering::Relaxed;

use super::failure::Failure;
use super::query::Query;
use super::{Answer, Api, guard, json, response};
use crate::access::{Caller, Right, Target, Verdict};
use crate::metrics::Gauge;
use crate::store::GcStatus;

/// Most repositories of a page of usage: each costs a look at all its blobs.
const PAGE: usize = 1000;
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers at once as long as the process can answer anything.
pub(super) fn live() -> Response {
    uncached(json(StatusCode::OK, &json!({"status": "ok"})))
}

/// Says whether requests should be sent here: not while draining, nor when nothing can be written.
pub(super) fn ready(api: &Api) -> Response {
    let mut reasons: Vec<String> = api.store.read_only().into_iter().collect();
    if api.draining.load(Relaxed) {
        reasons.push("the registry is shutting down".to_owned());
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if reasons.is_empty() { "ok" } else { "unready" };
    uncached(json(status, &json!({"status": word, "reasons": reasons})))
}

pub(super) fn metrics(api: &Api) -> Response {
    let mut gauges = vec![
        Gauge::now(
            "lighter_ready",
            "Whether the registry takes writes.",
            if api.store.read_only().is_none() { 1.0 } else { 0.0 },
        ),
        Gauge::now("lighter_journal_lsn", "The last record of the journal.", api.store.last_record() as f64),
    ];
    if let Some((free, size)) = api.store.disk_space() {
        gauges.push(Gauge::now("lighter_disk_free_bytes", "Room on the disk of the data directory.", free as f64));
        gauges.push(Gauge::now("lighter_disk_size_bytes", "Size of the disk of the data directory.", size as f64));
    }
    let gc = api.store.gc_status();
    gauges.extend([
        Gauge::now("lighter_gc_backlog", "Things that perhaps nothing needs.", gc.backlog as f64),
        Gauge::counter("lighter_gc_manifests_total", "Manifests that were collected.", gc.manifests),
        Gauge::counter("lighter_gc_blobs_total", "Files that were collected.", gc.blobs),
        Gauge::counter("lighter_gc_freed_bytes_total", "Bytes that were freed.", gc.freed_bytes),
        Gauge::now("lighter_gc_oldest_due_seconds", "How long the oldest thing waits that is due.", overdue(&gc)),
    ]);
    uncached(response(StatusCode::OK, METRICS_TYPE, api.metrics.render(&gauges).into_bytes()))
}

/// How long the collector is behind, in seconds.
fn overdue(gc: &GcStatus) -> f64 {
    gc.oldest_due.map_or(0.0, |due| jiff::Timestamp::now().duration_since(due).as_secs_f64().max(0.0))
}

fn uncached(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// How much repositories hold: one, or those that the caller may pull from, in pages.
pub(super) async fn usage(api: &Api, parts: &Parts, caller: &Caller) -> Answer {
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    if let Some(name) = query.get("repository") {
        let name: RepoName = name.parse().map_err(|error| Failure::bad(ErrorCode::NameInvalid, format!("{error}")))?;
        return match api.gate.judge(caller, Right::Pull, &name, Target::Content) {
            Verdict::Allowed => Ok(json(StatusCode::OK, &one(api, &name).await?)),
            Verdict::Denied => Err(guard::denied(caller, Right::Pull, &name)),
            Verdict::LoginNeeded => {
                let scopes = crate::access::Scopes::default().with(&name, &[crate::access::Action::Pull]);
                Err(guard::challenge(api, parts, &scopes, guard::lacking(caller), "a login is needed".to_owned()))
            }
        };
    }
    let limit = query.get("n").and_then(|n| n.parse().ok()).unwrap_or(PAGE).min(PAGE);
    let last = query.get("last").unwrap_or_default().to_owned();
    let (names, next) = super::lists::visible(api, caller, last, limit).await?;
    let mut repositories = Vec::with_capacity(names.len());
    for name in &names {
        repositories.push(one(api, name).await?);
    }
    Ok(json(StatusCode::OK, &json!({"repositories": repositories, "next": next})))
}

async fn one(api: &Api, name: &RepoName) -> Result<Value, Failure> {
    let usage = api.store.usage(name).await?;
    Ok(json!({
        "repository": name,
        "tags": usage.tags,
        "manifests": usage.manifests,
        "manifest_bytes": usage.manifest_bytes,
        "blobs": usage.blobs,
        "blob_bytes": usage.blob_bytes,
    }))
}
