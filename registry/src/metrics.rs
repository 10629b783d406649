//! What is counted, and how Prometheus reads it. Counting is a few atomic additions; no locks, and no
//! label comes from outside, so that nobody can make the tables grow.

use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http::{Method, StatusCode};
use http_body::{Frame, SizeHint};
use oci::wire::Route;

/// The kinds of requests.
const KINDS: [&str; 11] =
    ["base", "catalog", "tags", "manifest", "blob", "uploads", "upload", "referrers", "token", "operation", "other"];
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other"];
/// Statuses that are answered. The last one stands for all others.
const STATUSES: [u16; 29] = [
    200, 201, 202, 204, 206, 304, 400, 401, 403, 404, 405, 406, 408, 409, 411, 412, 413, 414, 416, 422, 429, 431, 500,
    501, 502, 503, 504, 507, 0,
];
/// Upper bounds of the histogram, in microseconds.
const BOUNDS: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000, 30_000_000,
];

/// What a request is about, as far as counting goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(usize);

impl Kind {
    pub(crate) const TOKEN: Self = Self(8);
    pub(crate) const OPERATION: Self = Self(9);
    pub(crate) const OTHER: Self = Self(10);

    pub(crate) fn of(route: &Route) -> Self {
        Self(match route {
            Route::Base => 0,
            Route::Catalog => 1,
            Route::Tags(_) => 2,
            Route::Manifest(..) => 3,
            Route::Blob(..) => 4,
            Route::Uploads(_) => 5,
            Route::Upload(..) => 6,
            Route::Referrers(..) => 7,
        })
    }

    fn is_upload(self) -> bool {
        matches!(self.0, 5 | 6)
    }
}

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// All counters.
pub(crate) struct Metrics {
    requests: Vec<AtomicU64>,
    latencies: Vec<Histogram>,
    received: AtomicU64,
    sent: AtomicU64,
    requests_now: AtomicI64,
    uploads_now: AtomicI64,
    /// Events of webhooks that were delivered, and tries that failed.
    pub(crate) delivered: AtomicU64,
    pub(crate) undelivered: AtomicU64,
    /// Pulls that no receiver was told of, since it was too slow.
    pub(crate) untold: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        let cells = KINDS.len() * METHODS.len();
        Self {
            requests: (0..cells * STATUSES.len()).map(|_| AtomicU64::new(0)).collect(),
            latencies: (0..cells).map(|_| Histogram::default()).collect(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            requests_now: AtomicI64::new(0),
            uploads_now: AtomicI64::new(0),
            delivered: AtomicU64::new(0),
            undelivered: AtomicU64::new(0),
            untold: AtomicU64::new(0),
        }
    }
}

fn method_index(method: &Method) -> usize {
    METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1)
}

fn cell(kind: Kind, method: usize) -> usize {
    kind.0 * METHODS.len() + method
}

impl Metrics {
    /// Counts an answer, and how long it took to its first byte.
    pub(crate) fn answered(&self, kind: Kind, method: &Method, status: StatusCode, took: Duration) {
        let cell = cell(kind, method_index(method));
        let status = STATUSES.iter().position(|known| *known == status.as_u16()).unwrap_or(STATUSES.len() - 1);
        self.requests[cell * STATUSES.len() + status].fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        self.latencies[cell].buckets[bucket].fetch_add(1, Relaxed);
        self.latencies[cell].micros.fetch_add(micros, Relaxed);
    }

    /// A request begins; it is under way until what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>, kind: Kind) -> UnderWay {
        self.requests_now.fetch_add(1, Relaxed);
        if kind.is_upload() {
            self.uploads_now.fetch_add(1, Relaxed);
        }
        UnderWay { metrics: self.clone(), kind }
    }

    /// The body of a request, counted as it comes.
    pub(crate) fn receiving(self: &Arc<Self>, body: Body) -> Body {
        if body.is_end_stream() {
            return body; // most requests: nothing to count
        }
        Body::new(Counted { body, metrics: self.clone(), direction: Direction::In, _under_way: None })
    }

    /// The body of an answer, counted as it goes.
    pub(crate) fn sending(self: &Arc<Self>, body: Body, under_way: UnderWay) -> Body {
        if body.is_end_stream() {
            return body;
        }
        Body::new(Counted { body, metrics: self.clone(), direction: Direction::Out, _under_way: Some(under_way) })
    }

    /// Everything in the text format of Prometheus, with more gauges of the moment.
    pub(crate) fn render(&self, gauges: &[Gauge]) -> String {
        let mut text = String::with_capacity(8 << 10);
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            text.write_fmt(arguments).expect("writing to a String does not fail");
            text.push('\n');
        };
        line(format_args!("# HELP lighter_requests_total Requests that were answered."));
        line(format_args!("# TYPE lighter_requests_total counter"));
        for (kind, route) in KINDS.iter().enumerate() {
            for (method, name) in METHODS.iter().enumerate() {
                for (index, status) in STATUSES.iter().enumerate() {
                    let count = self.requests[cell(Kind(kind), method) * STATUSES.len() + index].load(Relaxed);
                    if count > 0 {
                        let status = if *status == 0 { "other".to_owned() } else { status.to_string() };
                        let labels = format!("route=\"{route}\",method=\"{name}\",status=\"{status}\"");
                        line(format_args!("lighter_requests_total{{{labels}}} {count}"));
                    }
                }
            }
        }
        line(format_args!("# HELP lighter_request_seconds Time until an answer began."));
        line(format_args!("# TYPE lighter_request_seconds histogram"));
        for (kind, route) in KINDS.iter().enumerate() {
            for (method, name) in METHODS.iter().enumerate() {
                let histogram = &self.latencies[cell(Kind(kind), method)];
                let counts: Vec<u64> = histogram.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
                let total: u64 = counts.iter().sum();
                if total == 0 {
                    continue;
                }
                let labels = format!("route=\"{route}\",method=\"{name}\"");
                let mut sum = 0;
                for (count, bound) in counts.iter().zip(BOUNDS) {
                    sum += count;
                    let bound = bound as f64 / 1e6;
                    line(format_args!("lighter_request_seconds_bucket{{{labels},le=\"{bound}\"}} {sum}"));
                }
                line(format_args!("lighter_request_seconds_bucket{{{labels},le=\"+Inf\"}} {total}"));
                let seconds = histogram.micros.load(Relaxed) as f64 / 1e6;
                line(format_args!("lighter_request_seconds_sum{{{labels}}} {seconds}"));
                line(format_args!("lighter_request_seconds_count{{{labels}}} {total}"));
            }
        }
        let ours = [
            Gauge::counter(
                "lighter_received_bytes_total",
                "Bytes of bodies that clients sent.",
                self.received.load(Relaxed),
            ),
            Gauge::counter(
                "lighter_sent_bytes_total",
                "Bytes of bodies that clients were sent.",
                self.sent.load(Relaxed),
            ),
            Gauge::now("lighter_requests_in_flight", "Requests under way.", self.requests_now.load(Relaxed) as f64),
            Gauge::now(
                "lighter_uploads_in_flight",
                "Requests under way that upload.",
                self.uploads_now.load(Relaxed) as f64,
            ),
            Gauge::counter(
                "lighter_webhook_deliveries_total",
                "Events that a receiver took.",
                self.delivered.load(Relaxed),
            ),
            Gauge::counter("lighter_webhook_failures_total", "Tries that failed.", self.undelivered.load(Relaxed)),
            Gauge::counter(
                "lighter_webhook_dropped_total",
                "Pulls that a receiver was not told of, since it takes events too slowly.",
                self.untold.load(Relaxed),
            ),
        ];
        for Gauge { name, help, kind, value } in ours.iter().chain(gauges) {
            line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"));
        }
        text
    }
}

/// A single number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gauge {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    value: f64,
}

impl Gauge {
    /// A number that goes up and down.
    pub(crate) fn now(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, kind: "gauge", value }
    }

    /// A number that only goes up.
    pub(crate) fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, kind: "counter", value: value as f64 }
    }
}

/// A request that is under way.
pub(crate) struct UnderWay {
    metrics: Arc<Metrics>,
    kind: Kind,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.metrics.requests_now.fetch_sub(1, Relaxed);
        if self.kind.is_upload() {
            self.metrics.uploads_now.fetch_sub(1, Relaxed);
        }
    }
}

enum Direction {
    In,
    Out,
}

/// A body whose bytes are counted.
struct Counted {
    body: Body,
    metrics: Arc<Metrics>,
    direction: Direction,
    _under_way: Option<UnderWay>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            let counter = match self.direction {
                Direction::In => &self.metrics.received,
                Direction::Out => &self.metrics.sent,
            };
            counter.fetch_add(data.len() as u64, Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
