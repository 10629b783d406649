//! Answers that say no: status, the specification's code, a sentence, and the culprit.

use axum::response::Response;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use oci::InvalidManifest;
use oci::wire::{ErrorCode, InvalidRoute, Problem, Problems};
use serde_json::{Value, json};

use super::conditions;
use crate::state::Refusal;
use crate::store::StoreError;

/// Why a request is not done.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    problems: Vec<Problem>,
    headers: HeaderMap,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        let problem = Problem { code, message: message.into(), detail: Value::Null };
        Self { status, problems: vec![problem], headers: HeaderMap::new() }
    }

    pub(super) fn bad(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn with_detail(mut self, detail: Value) -> Self {
        if let Some(problem) = self.problems.first_mut() {
            problem.detail = detail;
        }
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Names the request where nothing narrower is to blame.
    pub(super) fn of(mut self, parts: &Parts) -> Self {
        let path: String = parts.uri.path().chars().take(super::TOLD_LIMIT).collect();
        for problem in self.problems.iter_mut().filter(|problem| problem.detail.is_null()) {
            problem.detail = json!({"method": parts.method.as_str(), "path": path});
        }
        self
    }

    pub(super) fn into_response(self) -> Response {
        for problem in &self.problems {
            tracing::debug!(status = self.status.as_u16(), code = %problem.code, message = problem.message, "refused");
        }
        let problems = Problems { errors: self.problems };
        let bytes = serde_json::to_vec(&problems).expect("problems hold only strings and JSON");
        let mut response = super::response(self.status, "application/json", bytes);
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<InvalidRoute> for Failure {
    fn from(error: InvalidRoute) -> Self {
        let (status, code) = match error {
            InvalidRoute::Unknown => (StatusCode::NOT_FOUND, ErrorCode::Unsupported),
            InvalidRoute::Name(_) => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
            InvalidRoute::Digest(_) => (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid),
            InvalidRoute::Tag(_) => (StatusCode::BAD_REQUEST, ErrorCode::TagInvalid),
            InvalidRoute::Upload => (StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<InvalidManifest> for Failure {
    fn from(error: InvalidManifest) -> Self {
        let status = match error {
            InvalidManifest::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, ErrorCode::ManifestInvalid, error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        use ErrorCode as Code;
        use StatusCode as Status;
        let (status, code, detail) = match &error {
            StoreError::NoRepository(name) => (Status::NOT_FOUND, Code::NameUnknown, json!({"name": name})),
            StoreError::NoManifest(which) => {
                (Status::NOT_FOUND, Code::ManifestUnknown, json!({"reference": which.to_string()}))
            }
            StoreError::NoBlob(digest) => (Status::NOT_FOUND, Code::BlobUnknown, json!({"digest": digest})),
            StoreError::NoUpload => (Status::NOT_FOUND, Code::BlobUploadUnknown, Value::Null),
            StoreError::UploadBusy => (Status::CONFLICT, Code::BlobUploadInvalid, Value::Null),
            StoreError::OutOfOrder { first, received } => {
                let detail = json!({"first": first, "received": received});
                (Status::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid, detail)
            }
            StoreError::WrongSize { announced, found } => {
                (Status::BAD_REQUEST, Code::SizeInvalid, json!({"announced": announced, "found": found}))
            }
            StoreError::TooLarge { limit } => (Status::PAYLOAD_TOO_LARGE, Code::SizeInvalid, json!({"limit": limit})),
            StoreError::Mismatch(mismatch) => {
                let detail = json!({"expected": mismatch.expected, "actual": mismatch.actual, "size": mismatch.size});
                (Status::BAD_REQUEST, Code::DigestInvalid, detail)
            }
            StoreError::Refused(refusal) => return refused(refusal),
            StoreError::ReadOnly(_) | StoreError::Closing | StoreError::Index(_) | StoreError::Io { .. } => {
                (Status::SERVICE_UNAVAILABLE, Code::Unknown, Value::Null)
            }
            StoreError::Full => (Status::INSUFFICIENT_STORAGE, Code::Denied, Value::Null),
            StoreError::Damaged(digest) => (Status::INTERNAL_SERVER_ERROR, Code::Unknown, json!({"digest": digest})),
        };
        if status.is_server_error() {
            tracing::error!(%error, cause = ?std::error::Error::source(&error), "the store failed");
        }
        // The path of a file is no business of a client.
        let message = match &error {
            StoreError::Io { .. } => "the registry could not access its disk".to_owned(),
            StoreError::ReadOnly(_) => "the registry is read-only since a write failed; tell its operator".to_owned(),
            _ => error.to_string(),
        };
        Self::new(status, code, message).with_detail(detail)
    }
}

fn refused(refusal: &Refusal) -> Failure {
    use ErrorCode as Code;
    let message = refusal.to_string();
    let missing = |code, detail| Failure::new(StatusCode::NOT_FOUND, code, message.clone()).with_detail(detail);
    match refusal {
        Refusal::BlobUnknown(digest) => missing(Code::BlobUnknown, json!({"digest": digest})),
        Refusal::ManifestUnknown(digest) => missing(Code::ManifestUnknown, json!({"digest": digest})),
        Refusal::Changed { actual } => conditions::failed(actual.as_ref()),
        Refusal::TagUnknown(tag) => missing(Code::ManifestUnknown, json!({"tag": tag})),
        Refusal::UploadUnknown => missing(Code::BlobUploadUnknown, Value::Null),
        Refusal::Incomplete { blobs, manifests } => {
            let all = blobs.iter().chain(manifests);
            let problems = all.map(|digest| Problem {
                code: Code::ManifestBlobUnknown,
                message: message.clone(),
                detail: json!({"digest": digest}),
            });
            Failure { status: StatusCode::NOT_FOUND, problems: problems.collect(), headers: HeaderMap::new() }
        }
        Refusal::TagFixed(tag) => {
            let detail = json!({"tag": tag, "right": "overwrite"});
            Failure::new(StatusCode::FORBIDDEN, Code::Denied, message).with_detail(detail)
        }
        Refusal::Immutable { tag, digest, pattern } => {
            let detail = json!({"tag": tag, "digest": digest, "pattern": pattern});
            Failure::new(StatusCode::FORBIDDEN, Code::Denied, message).with_detail(detail)
        }
        Refusal::Referenced { parent } => {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, Code::Denied, message).with_detail(json!({"parent": parent}))
        }
    }
}
