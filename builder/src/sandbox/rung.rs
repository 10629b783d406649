//! The ladder of isolation: what can be asked for, and what a place allows. The probes stand in `enter`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// The best rung that the place allows.
    #[default]
    Auto,
    /// Namespaces and overlayfs, or nothing.
    Namespaces,
    /// Namespaces and a plain tree.
    Tree,
    /// chroot and a plain tree, even where namespaces would be allowed.
    Chroot,
}

/// The names that [`Isolation`] is typed with.
pub const ISOLATIONS: [(&str, Isolation); 4] = [
    ("auto", Isolation::Auto),
    ("namespaces", Isolation::Namespaces),
    ("tree", Isolation::Tree),
    ("chroot", Isolation::Chroot),
];

/// A word that names no isolation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown isolation {0:?}; use auto, namespaces, tree or chroot")]
pub struct UnknownIsolation(String);

impl FromStr for Isolation {
    type Err = UnknownIsolation;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let known = ISOLATIONS.into_iter().find(|(name, _)| *name == word);
        known.map(|(_, isolation)| isolation).ok_or_else(|| UnknownIsolation(word.to_owned()))
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ISOLATIONS.into_iter().find(|(_, isolation)| isolation == self).map_or("auto", |(name, _)| name);
        f.write_str(name)
    }
}

/// Where steps stand, from the best to the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rung {
    /// Namespaces of their own; what they change is an overlay's upper directory.
    Overlay,
    /// Namespaces of their own; what they change is found by looking at the whole tree.
    Tree,
    /// The builder's own namespaces, with the tree as root directory.
    Chroot,
}

impl Rung {
    /// Whether a step has a plain tree in place of an overlay.
    pub fn is_tree(self) -> bool {
        self != Self::Overlay
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overlay => "namespaces and overlayfs",
            Self::Tree => "namespaces and a plain tree",
            Self::Chroot => "chroot and a plain tree",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (name, isolation) in ISOLATIONS {
            assert_eq!((name.parse(), isolation.to_string().as_str()), (Ok(isolation), name));
        }
        assert!("docker".parse::<Isolation>().is_err());
    }
}
