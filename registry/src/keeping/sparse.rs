//! Where manifests may be incomplete.

use oci::RepoName;
use serde::{Deserialize, Serialize};

use crate::pattern::RepoGlob;

/// The repositories in which a manifest may name content that is not there. Written as `true`, `false`
/// or a list of patterns.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "true, false, or a list of patterns of repositories")]
pub enum Sparse {
    /// In all, or in none.
    Everywhere(bool),
    /// In those that one of these means.
    In(Vec<RepoGlob>),
}

impl Default for Sparse {
    fn default() -> Self {
        Self::Everywhere(false)
    }
}

impl Sparse {
    /// Whether this repository is one of them.
    pub fn means(&self, repo: &RepoName) -> bool {
        match self {
            Self::Everywhere(is_so) => *is_so,
            Self::In(globs) => globs.iter().any(|glob| glob.matches(repo)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_operators_write_it() {
        #[derive(Deserialize)]
        struct Part {
            #[serde(default)]
            sparse: Sparse,
        }
        let means = |text: &str, repo: &str| toml::from_str::<Part>(text).unwrap().sparse.means(&repo.parse().unwrap());
        assert!(!means("", "a") && !means("sparse = false", "a") && means("sparse = true", "a"));
        let some = "sparse = ['mirror/**', 'cache']";
        assert!(means(some, "mirror/a/b") && means(some, "cache") && !means(some, "shop/api"));
        for wrong in ["sparse = 1", "sparse = 'mirror/**'", "sparse = ['A']", "sparse = ['{claim}']"] {
            assert!(toml::from_str::<Part>(wrong).is_err(), "{wrong}");
        }
    }
}
