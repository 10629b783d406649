//! Errors on the wire: `{"errors":[{"code","message","detail"}]}` (distribution-spec, "Error Codes").

use std::fmt;

use serde::{Deserialize, Serialize};

/// The codes of the specification, with the HTTP status that each travels with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// The blob is not in this repository.
    BlobUnknown,
    /// The upload went wrong: bytes skipped, repeated or after the end.
    BlobUploadInvalid,
    /// There is no such upload session.
    BlobUploadUnknown,
    /// The content does not hash to the digest that was given, or that is none.
    DigestInvalid,
    /// The manifest names a blob that is not there.
    ManifestBlobUnknown,
    /// The manifest cannot be read.
    ManifestInvalid,
    /// There is no such manifest.
    ManifestUnknown,
    /// The repository name is malformed.
    NameInvalid,
    /// There is no such repository.
    NameUnknown,
    /// The length given is not the length sent.
    SizeInvalid,
    /// The tag is malformed.
    TagInvalid,
    /// A login is needed.
    Unauthorized,
    /// The login is good, and this is not allowed.
    Denied,
    /// The registry does not do this.
    Unsupported,
    /// Come back later.
    #[serde(rename = "TOOMANYREQUESTS")]
    TooManyRequests,
    /// The range asked for lies outside.
    RangeInvalid,
    /// The server failed.
    #[serde(alias = "INTERNAL_ERROR")]
    Unknown,
    /// A code that the specification does not have; only clients meet it.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(code)) => f.write_str(&code),
            _ => f.write_str("UNKNOWN"),
        }
    }
}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which kind.
    pub code: ErrorCode,
    /// What happened, for people.
    #[serde(default)]
    pub message: String,
    /// What it happened to, for machines: digests, names, limits.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.is_empty() {
            true => self.code.fmt(f),
            false => write!(f, "{} ({})", self.message, self.code),
        }
    }
}

/// The body of an error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problems {
    /// What went wrong, most important first.
    pub errors: Vec<Problem>,
}

impl Problems {
    /// Reads an answer's body; `None` if it is not of this form.
    pub fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self { errors: vec![problem] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_spelled_as_the_specification_spells_them() {
        let problem = Problem {
            code: ErrorCode::ManifestBlobUnknown,
            message: "m".to_owned(),
            detail: serde_json::json!({"digest": "d"}),
        };
        let text = serde_json::to_string(&Problems::from(problem.clone())).unwrap();
        assert_eq!(text, r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"m","detail":{"digest":"d"}}]}"#);
        assert_eq!(Problems::parse(text.as_bytes()), Some(problem.into()));
        assert_eq!(ErrorCode::TooManyRequests.to_string(), "TOOMANYREQUESTS");
        assert_eq!(ErrorCode::Unknown.to_string(), "UNKNOWN");
    }

    #[test]
    fn a_client_meets_foreign_codes_and_bodies() {
        let foreign = Problems::parse(br#"{"errors":[{"code":"QUOTA_EXCEEDED","message":"full"}]}"#).unwrap();
        assert_eq!(foreign.errors[0].to_string(), "full (QUOTA_EXCEEDED)");
        assert_eq!(Problems::parse(b"<html>"), None);
    }
}
