//! What is kept, and for how long: the operator's policies as plain values. Nothing is looked at or
//! deleted here; `store` does that.
//!
//! ```toml
//! [gc]                             # what nothing needs is collected while the registry serves
//! blob_grace = "24h"
//! untagged = "7d"                  # or "forever"
//!
//! [retention]                      # tags that no rule keeps are deleted
//! immutable = [{ repository = "shop/**", tags = "v[0-9]+.*" }]
//! rules = [{ repository = "ci/**", keep_last = 20, younger_than = "30d", pulled_within = "14d" }]
//! ```

mod pattern;
mod period;
mod retention;
mod sparse;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use pattern::{InvalidTagPattern, TagPattern};
pub use period::{InvalidPeriod, Patience, Period};
pub(crate) use retention::{Candidate, Verdict, judge};
pub use retention::{Immutable, Retention, Rule};
pub use sparse::Sparse;

pub use crate::pattern::RepoGlob;

/// Everything that an operator decides about what is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keeping {
    /// Garbage collection.
    pub gc: GcSettings,
    /// Which tags stay.
    pub retention: Retention,
    /// Where manifests may name content that is not here: images of some platforms only, say. Whoever
    /// pulls what is missing is told so.
    pub sparse: Sparse,
}

/// How garbage is collected.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GcSettings {
    /// Whether garbage is collected while the registry serves.
    pub enabled: bool,
    /// How long the collector rests between two passes.
    pub interval: Period,
    /// How long a blob is kept that no manifest names: longer than any push takes.
    pub blob_grace: Period,
    /// How long a manifest is kept that no tag, index or subject keeps. Deployments that pin digests
    /// pull such manifests.
    pub untagged: Patience,
    /// How long content lies in the trash before its file is removed.
    pub trash_grace: Period,
    /// How long the registry stands by its word: what a client was told is there stays at least so
    /// long, since clients do not send what is there.
    pub lease: Period,
    /// After how long without activity an upload is given up.
    pub uploads: Period,
}

impl Default for GcSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Period::of(Duration::from_secs(60)),
            blob_grace: Period::of(Duration::from_secs(24 * 3600)),
            untagged: Patience::For(Period::of(Duration::from_secs(7 * 24 * 3600))),
            trash_grace: Period::of(Duration::from_secs(3600)),
            lease: Period::of(Duration::from_secs(3600)),
            uploads: Period::of(Duration::from_secs(7 * 24 * 3600)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_from_toml_and_typos_are_errors() {
        let text = r#"
            [gc]
            untagged = "forever"
            blob_grace = "1d12h"
            [retention]
            interval = "6h"
            immutable = [{ repository = "shop/**", tags = "v[0-9]+" }]
            [[retention.rules]]
            repository = "ci/**"
            tags = "build-.*"
            keep_last = 20
            younger_than = "30d"
            pulled_within = "2w"
        "#;
        let keeping: Keeping = toml::from_str(text).unwrap();
        assert_eq!(keeping.gc.untagged, Patience::Forever);
        assert_eq!(keeping.gc.blob_grace.duration(), Duration::from_secs(36 * 3600));
        assert_eq!(keeping.gc.lease, GcSettings::default().lease);
        assert_eq!(keeping.retention.rules[0].keep_last, Some(20));
        for wrong in ["[gc]\nblob-grace = '1h'", "[retention]\nrules = [{ repository = 'a/[' }]", "[gc]\nlease = '5'"] {
            assert!(toml::from_str::<Keeping>(wrong).is_err(), "{wrong}");
        }
    }
}
