//! One JSON object a line, in the form of `docker buildx build --progress=rawjson`: BuildKit's
//! SolveStatus with `vertexes`, `logs` and `warnings`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use builder::event::{Event, StepLabel, Stream};
use oci::Digest;
use serde_json::{Value, json};

use super::{Draw, name};
use crate::terminal::tell;

#[derive(Default)]
pub struct Raw {
    /// The vertexes of the steps that run, by their names.
    running: BTreeMap<String, Value>,
}

impl Raw {
    fn vertex(step: &StepLabel) -> Value {
        let name = name(step);
        json!({"digest": Digest::of(name.as_bytes()), "name": name})
    }

    fn end_badly(mut vertex: Value, why: &str) {
        (vertex["completed"], vertex["error"]) = (now().into(), why.into());
        Self::put("vertexes", &vertex);
    }

    fn put(key: &str, value: &Value) {
        tell(&json!({ key: [value] }).to_string());
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

impl Draw for Raw {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Base { step, digest } => {
                let mut vertex = Self::vertex(step);
                vertex["name"] = format!("{} is {digest}", name(step)).into();
                vertex["started"] = now().into();
                vertex["completed"] = now().into();
                Self::put("vertexes", &vertex);
            }
            Event::Fetch { digest, size } => {
                let at = now();
                let status = json!({"id": digest, "vertex": digest, "name": "fetching", "current": 0, "total": size, "timestamp": at, "started": at});
                Self::put("statuses", &status);
            }
            Event::Started(step) => {
                let mut vertex = Self::vertex(step);
                vertex["started"] = now().into();
                Self::put("vertexes", &vertex);
                self.running.insert(name(step), vertex);
            }
            Event::Cached(step) => {
                self.running.remove(&name(step));
                let mut vertex = Self::vertex(step);
                (vertex["started"], vertex["completed"], vertex["cached"]) = (now().into(), now().into(), true.into());
                Self::put("vertexes", &vertex);
            }
            Event::Output { step, stream, bytes } => {
                let stream = match stream {
                    Stream::Stdout => 1,
                    Stream::Stderr => 2,
                };
                let vertex = Self::vertex(step)["digest"].take();
                Self::put(
                    "logs",
                    &json!({"vertex": vertex, "stream": stream, "data": STANDARD.encode(bytes), "timestamp": now()}),
                );
            }
            Event::Done { step, .. } => {
                let mut vertex = self.running.remove(&name(step)).unwrap_or_else(|| Self::vertex(step));
                vertex["completed"] = now().into();
                Self::put("vertexes", &vertex);
            }
            Event::Failed(step) => {
                let vertex = self.running.remove(&name(step)).unwrap_or_else(|| Self::vertex(step));
                Self::end_badly(vertex, "the step failed");
            }
            Event::Warning { rule, span, message } => {
                let range = span.map(|span| json!([{"start": {"line": span.first}, "end": {"line": span.last}}]));
                let short = rule.map_or_else(|| message.clone(), |rule| format!("{rule}: {message}"));
                Self::put("warnings", &json!({"level": 1, "short": STANDARD.encode(short), "range": range}));
            }
        }
    }

    fn end(&mut self, failed: bool) {
        for vertex in std::mem::take(&mut self.running).into_values().filter(|_| failed) {
            Self::end_badly(vertex, "the step was stopped");
        }
    }
}
