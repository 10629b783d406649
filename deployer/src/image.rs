//! The image that is to run, as the builder or a registry left it: always pinned. How it was built or
//! resolved is not known here.

use oci::{Digest, Pinned, Platform, Reference};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// An image to roll out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pinned: Pinned,
    digests: BTreeSet<Digest>,
    platforms: Vec<Platform>,
}

impl Image {
    /// Names the image. `digests` are further digests under which a node may report it: that of the
    /// platform's manifest where the pinned one is an index. `platforms` is what it runs on; empty if unknown.
    pub fn new(pinned: Pinned, digests: impl IntoIterator<Item = Digest>, platforms: Vec<Platform>) -> Image {
        let digests = digests.into_iter().chain([pinned.digest()]).collect();
        Image { pinned, digests, platforms }
    }

    /// The reference that goes into the pod template.
    pub fn pinned(&self) -> &Pinned {
        &self.pinned
    }

    /// All digests that a pod may report for it.
    pub fn digests(&self) -> &BTreeSet<Digest> {
        &self.digests
    }

    /// What it runs on; empty if unknown.
    pub fn platforms(&self) -> &[Platform] {
        &self.platforms
    }

    /// How well the image written in a pod template names the same thing.
    pub(crate) fn likeness(&self, written: &str) -> Likeness {
        let Ok(written) = written.parse::<Reference>() else { return Likeness::None };
        let ours = self.pinned.reference();
        if written.repository() == ours.repository() {
            Likeness::Repository
        } else if last_part(&written) == last_part(ours) {
            Likeness::LastPart
        } else {
            Likeness::None
        }
    }
}

fn last_part(reference: &Reference) -> String {
    let name = reference.name().to_string();
    name.rsplit('/').next().unwrap_or_default().to_owned()
}

/// How an image in a manifest fits ours; the better one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Likeness {
    /// Another image.
    None,
    /// `hello` fits `127.0.0.1:5000/shop/hello`: how manifests name an image that has no registry yet.
    LastPart,
    /// The same registry and repository.
    Repository,
}

/// Where a change comes from. It goes into annotations of the workload itself and never of its pod
/// template, where it would restart pods whose image is the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// What `kubectl rollout history` shows: `kubernetes.io/change-cause`.
    pub change_cause: Option<String>,
    /// More, under `lighter.dev/KEY`: `commit`, `pipeline`.
    pub facts: BTreeMap<String, String>,
}

pub(crate) const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
pub(crate) const OUR_ANNOTATIONS: &str = "lighter.dev/";
/// What says where the image that runs comes from, and nothing of another one.
pub(crate) const OF_ONE_IMAGE: [&str; 3] = [CHANGE_CAUSE, "lighter.dev/commit", "lighter.dev/pipeline"];
/// The number of the pipeline that deployed last: GitLab counts them per project.
pub(crate) const PIPELINE_IID: &str = "lighter.dev/pipeline-iid";

impl Provenance {
    /// The annotations to write, by their full names.
    pub(crate) fn annotations(&self) -> BTreeMap<String, String> {
        let cause = self.change_cause.iter().map(|cause| (CHANGE_CAUSE.to_owned(), cause.clone()));
        let facts = self.facts.iter().map(|(key, value)| (format!("{OUR_ANNOTATIONS}{key}"), value.clone()));
        cause.chain(facts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_recognised_by_their_repository() {
        let digest = Digest::of(b"x");
        let reference: Reference = "127.0.0.1:5000/shop/hello:1".parse().unwrap();
        let image = Image::new(reference.pin(digest), [], vec![]);
        assert!(image.digests().contains(&digest));
        for (written, likeness) in [
            ("127.0.0.1:5000/shop/hello:0.9", Likeness::Repository),
            ("hello", Likeness::LastPart),
            ("registry.test/other/hello:1", Likeness::LastPart),
            ("hello-world", Likeness::None),
            ("$IMAGE", Likeness::None),
            ("", Likeness::None),
        ] {
            assert_eq!(image.likeness(written), likeness, "{written}");
        }
    }
}
