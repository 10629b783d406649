//! Export and import: whole repositories as one OCI image layout, which any other tool reads.
//!
//! An image is named `REPOSITORY:TAG` in the layout's index, and a manifest that nothing names
//! (a signature, an image pinned by its digest) `REPOSITORY@DIGEST`. Layers that repositories share
//! lie there once.

use content::{CopyOptions, Disk, copy};
use oci::{Digest, RepoName, Selector, Tag};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};

/// Rows are read in pages of this many.
const PAGE: usize = 512;

/// What went over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Names that were set.
    pub images: u64,
    /// Blobs that were copied.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why an export or import stopped.
#[derive(Debug, thiserror::Error)]
pub enum PortableError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Reading or writing content failed.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// A name in the layout says no repository.
    #[error("`{0}` in the layout names no repository: say which one it goes to")]
    Nameless(String),
    /// A name in the layout is none of a registry.
    #[error("`{0}` in the layout is no REPOSITORY:TAG or REPOSITORY@DIGEST")]
    Name(String),
}

impl Store {
    /// Writes repositories, or all, to a layout; `told` hears each name as it is done.
    pub async fn export(
        &self,
        to: &Disk,
        repos: &[RepoName],
        told: &(dyn Fn(&str) + Sync),
    ) -> Result<Moved, PortableError> {
        let mut moved = Moved::default();
        if !repos.is_empty() {
            for repo in repos {
                self.export_one(to, repo, told, &mut moved).await?;
            }
            return Ok(moved);
        }
        let mut after = String::new();
        loop {
            let page = self.repositories(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(moved) };
            after = last.to_string();
            for repo in &page {
                self.export_one(to, repo, told, &mut moved).await?;
            }
        }
    }

    async fn export_one(
        &self,
        to: &Disk,
        repo: &RepoName,
        told: &(dyn Fn(&str) + Sync),
        moved: &mut Moved,
    ) -> Result<(), PortableError> {
        let (source, sink) = (self.repository(repo.clone()), to.repository(Some(repo.to_string())));
        let mut after = String::new();
        loop {
            let page = self.tags(repo, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.to_string();
            for tag in page {
                let named = Selector::Tag(tag.clone());
                let copied =
                    copy(&source, &named, &sink, std::slice::from_ref(&tag), &CopyOptions::default(), &|_| ()).await?;
                moved.add(&copied);
                told(&format!("{repo}:{tag}"));
            }
        }
        for digest in self.unnamed(repo).await? {
            let copied = copy(&source, &Selector::Digest(digest), &sink, &[], &CopyOptions::default(), &|_| ()).await?;
            moved.add(&copied);
            let manifest = content::Source::manifest(&source, &Selector::Digest(digest)).await?;
            let (disk, name) = (to.clone(), format!("{repo}@{digest}"));
            super::blocking(move || disk.put_manifest(&manifest, Some(name))).await??;
            told(&format!("{repo}@{digest}"));
        }
        Ok(())
    }

    /// The manifests of a repository that no tag and no other manifest names.
    async fn unnamed(&self, repo: &RepoName) -> Result<Vec<Digest>, StoreError> {
        let (store, repo) = (self.clone(), repo.clone());
        let read = move || {
            store.read(|view| {
                let (mut found, mut after) = (Vec::new(), None);
                loop {
                    let page = view.manifests(&repo, after.as_ref(), PAGE)?;
                    let Some(last) = page.last() else { return Ok(found) };
                    after = Some(*last);
                    for digest in page {
                        if !view.is_tagged(&repo, &digest)? && view.a_parent(&repo, &digest)?.is_none() {
                            found.push(digest);
                        }
                    }
                }
            })
        };
        super::blocking(read).await?
    }

    /// Takes everything in that a layout names. Names without a repository go to `default`.
    pub async fn import(
        &self,
        from: &Disk,
        default: Option<&RepoName>,
        told: &(dyn Fn(&str) + Sync),
    ) -> Result<Moved, PortableError> {
        let disk = from.clone();
        let images = super::blocking(move || disk.images()).await??;
        let mut moved = Moved::default();
        for (name, descriptor) in images {
            let (repo, tag) = parse(&name, default)?;
            let source = from.repository(repo.is_named.then(|| repo.name.to_string()));
            let which = match &tag {
                Some(tag) => Selector::Tag(tag.clone()),
                None => Selector::Digest(descriptor.digest),
            };
            let tags: Vec<Tag> = tag.into_iter().collect();
            let sink = self.repository(repo.name);
            let copied = copy(&source, &which, &sink, &tags, &CopyOptions::default(), &|_| ()).await?;
            moved.add(&copied);
            told(&name);
        }
        Ok(moved)
    }
}

impl Moved {
    fn add(&mut self, copied: &content::Copied) {
        self.images += 1;
        self.blobs += copied.sent.0 as u64;
        self.bytes += copied.sent.1;
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Target {
    name: RepoName,
    /// Whether the layout itself names the repository.
    is_named: bool,
}

/// Reads a name of a layout: `REPOSITORY:TAG`, `REPOSITORY@DIGEST`, or a bare `TAG`.
fn parse(name: &str, default: Option<&RepoName>) -> Result<(Target, Option<Tag>), PortableError> {
    let wrong = || PortableError::Name(name.to_owned());
    if let Some((repo, digest)) = name.split_once('@') {
        digest.parse::<Digest>().map_err(|_| wrong())?;
        return Ok((Target { name: repo.parse().map_err(|_| wrong())?, is_named: true }, None));
    }
    match name.rsplit_once(':') {
        Some((repo, tag)) => {
            let target = Target { name: repo.parse().map_err(|_| wrong())?, is_named: true };
            Ok((target, Some(tag.parse().map_err(|_| wrong())?)))
        }
        None => {
            let tag = name.parse().map_err(|_| wrong())?;
            let name = default.cloned().ok_or_else(|| PortableError::Nameless(name.to_owned()))?;
            Ok((Target { name, is_named: false }, Some(tag)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_layout() {
        let default: RepoName = "d".parse().unwrap();
        let parsed = |name: &str| {
            let (target, tag) = parse(name, Some(&default)).ok()?;
            Some((target.name.to_string(), target.is_named, tag.map(|tag| tag.to_string())))
        };
        let some = |repo: &str, named, tag: Option<&str>| Some((repo.to_owned(), named, tag.map(str::to_owned)));
        assert_eq!(parsed("a/b:v1"), some("a/b", true, Some("v1")));
        assert_eq!(parsed(&format!("a@{}", Digest::of(b"x"))), some("a", true, None));
        assert_eq!(parsed("v1"), some("d", false, Some("v1")));
        for wrong in ["a@x", "A:v1", "a:", ":v1", "", "a/b", "h:5/a:v1"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
        assert!(matches!(parse("v1", None), Err(PortableError::Nameless(_))));
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(name: String) {
            let _ = parse(&name, None); // only whether it returns matters here
        }
    }
}
