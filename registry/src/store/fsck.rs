//! Checks a store that no server uses: every file against its digest, every row against what it
//! speaks of, every file against the rows. One damaged thing never stops the rest.
//!
//! Repairing loses nothing that is good: damaged files go to `quarantine/`, and are forgotten so that
//! clients send them again; files that no row speaks of are taken in; what was forgotten is doubted,
//! so that it is collected in its time. The index is made again from the journal before all that.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci::{Algorithm, Digest, Manifest, RepoName, Tag, Verifier, media_type};

use super::{Store, StoreError, layout};
use crate::state::{Item, Transaction};

/// Rows are read in pages of this many.
const PAGE: usize = 512;
/// Files are read in pieces of this size, in bytes.
const READ: usize = 1 << 20;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A row speaks of a file that is not there.
    Missing(Digest),
    /// A file is not what its name says.
    Damaged(Digest),
    /// A file cannot be read.
    Unreadable(Digest, String),
    /// No row speaks of a file.
    Orphan(Digest),
    /// The bytes of a manifest in the index are not what their digest says.
    ManifestDamaged(RepoName, Digest),
    /// A manifest names content that its repository does not hold.
    Incomplete(RepoName, Digest, Digest),
    /// A tag names a manifest that is not there.
    Dangling(RepoName, Tag, Digest),
    /// Nothing needs it, and the collector does not know.
    Forgotten(Digest),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(digest) => write!(f, "missing: the file of {digest} is not there; push it again"),
            Self::Damaged(digest) => write!(f, "damaged: the file of {digest} is something else; push it again"),
            Self::Unreadable(digest, why) => write!(f, "unreadable: {digest}: {why}"),
            Self::Orphan(digest) => write!(f, "orphan: nothing is known about the file {digest}"),
            Self::ManifestDamaged(repo, digest) => write!(f, "damaged: the manifest {repo}@{digest}; push it again"),
            Self::Incomplete(repo, digest, child) => {
                write!(f, "incomplete: {repo}@{digest} names {child}, which is not there; push it again")
            }
            Self::Dangling(repo, tag, digest) => write!(f, "dangling: {repo}:{tag} names {digest}, which is not there"),
            Self::Forgotten(digest) => write!(f, "forgotten: nothing needs {digest}, and it would never be collected"),
        }
    }
}

/// What a check looked at and found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Files that were hashed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Manifests that were read.
    pub manifests: u64,
    /// Things that are not as they should be.
    pub findings: u64,
    /// Those that were put right, or out of the way.
    pub repaired: u64,
}

struct Check<'a> {
    store: &'a Store,
    repair: bool,
    checked: Checked,
    tell: &'a mut dyn FnMut(&Finding),
}

impl Store {
    /// Checks everything, telling each finding as it is made; puts right what can be if `repair`. For a
    /// store that was opened offline. Blocks, so it is for threads that may.
    pub fn fsck(&self, repair: bool, tell: &mut dyn FnMut(&Finding)) -> Result<Checked, StoreError> {
        let _nothing_moves = self.hold_files();
        let mut check = Check { store: self, repair, checked: Checked::default(), tell };
        check.files()?;
        check.orphans()?;
        check.repositories()?;
        check.trash()?;
        Ok(check.checked)
    }
}

/// What became of hashing a file.
enum Hashed {
    Good,
    Missing,
    Wrong,
    Unreadable(io::Error),
}

fn hash(path: &Path, digest: &Digest, size: Option<u64>, bytes: &mut u64) -> Hashed {
    let hashed: io::Result<_> = (|| {
        let mut file = File::open(path)?;
        let mut verifier = Verifier::new(digest.algorithm());
        let mut buffer = vec![0; READ];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(verifier.seal()),
                read => {
                    verifier.update(&buffer[..read]);
                    *bytes += read as u64;
                }
            }
        }
    })();
    match hashed {
        Ok(found) if found.digest() == *digest && size.is_none_or(|size| size == found.size()) => Hashed::Good,
        Ok(_) => Hashed::Wrong,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Hashed::Missing,
        Err(error) => Hashed::Unreadable(error),
    }
}

impl Check<'_> {
    fn found(&mut self, finding: &Finding) {
        self.checked.findings += 1;
        (self.tell)(finding);
    }

    /// Puts something right by a transaction.
    fn repair(&mut self, transaction: Transaction) -> Result<(), StoreError> {
        if self.repair {
            self.store.inner.committer.commit_blocking(transaction)?;
            self.checked.repaired += 1;
        }
        Ok(())
    }

    /// Every row about a file, and the file.
    fn files(&mut self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.store.read(|view| view.stored_blobs(after.as_ref(), PAGE))?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (digest, row) in page {
                self.file(&digest, Some(row.size), &Finding::Missing(digest))?;
                let needless = self.store.read(|view| {
                    let doubted = view.doubted(&Item::Content { digest })?.is_some();
                    Ok(view.stored_blob(&digest)?.is_some() && !view.is_in_use(&digest)? && !doubted)
                })?;
                if needless {
                    self.found(&Finding::Forgotten(digest));
                    self.repair(Transaction::Suspect { item: Item::Content { digest } })?;
                }
            }
        }
    }

    /// Hashes a file; says whether it is good.
    fn file(&mut self, digest: &Digest, size: Option<u64>, missing: &Finding) -> Result<bool, StoreError> {
        self.checked.files += 1;
        let path = self.store.inner.shelf.path(digest);
        let hashed = hash(&path, digest, size, &mut self.checked.bytes);
        match hashed {
            Hashed::Good => return Ok(true),
            Hashed::Missing => self.found(missing),
            Hashed::Wrong => {
                self.found(&Finding::Damaged(*digest));
                if self.repair {
                    self.quarantine(digest)?;
                }
            }
            // Left where it is: the disk may be read again another day.
            Hashed::Unreadable(error) => {
                self.found(&Finding::Unreadable(*digest, error.to_string()));
                return Ok(false);
            }
        }
        self.repair(Transaction::Lose { digest: *digest })?;
        Ok(false)
    }

    fn quarantine(&self, digest: &Digest) -> Result<(), StoreError> {
        let name = format!("{}-{}", digest.algorithm(), digest.hex());
        let to = self.store.inner.data.join(layout::QUARANTINE).join(name);
        let moved = self.store.inner.shelf.remove_to(digest, &to);
        moved.map(drop).map_err(StoreError::io(&to))
    }

    /// Every file that no row speaks of.
    fn orphans(&mut self) -> Result<(), StoreError> {
        for part in 0..=u8::MAX {
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                let inner = &self.store.inner;
                let found = inner.shelf.part(algorithm, part).map_err(StoreError::io(&inner.data))?;
                for digest in found {
                    if self.store.read(|view| view.stored_blob(&digest))?.is_none() {
                        self.orphan(&digest)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn orphan(&mut self, digest: &Digest) -> Result<(), StoreError> {
        self.checked.files += 1;
        match hash(&self.store.inner.shelf.path(digest), digest, None, &mut self.checked.bytes) {
            Hashed::Good => {
                self.found(&Finding::Orphan(*digest));
                let size = std::fs::metadata(self.store.inner.shelf.path(digest)).map(|metadata| metadata.len());
                let size = size.map_err(StoreError::io(&self.store.inner.data))?;
                self.repair(Transaction::Adopt { digest: *digest, size })
            }
            Hashed::Missing => Ok(()),
            Hashed::Wrong => {
                self.found(&Finding::Damaged(*digest));
                if self.repair {
                    self.quarantine(digest)?;
                    self.checked.repaired += 1;
                }
                Ok(())
            }
            Hashed::Unreadable(error) => {
                self.found(&Finding::Unreadable(*digest, error.to_string()));
                Ok(())
            }
        }
    }

    fn repositories(&mut self) -> Result<(), StoreError> {
        let mut after = String::new();
        loop {
            let repos = self.store.read(|view| view.repos(&after, PAGE))?;
            let Some(last) = repos.last() else { return Ok(()) };
            after = last.to_string();
            for repo in repos {
                self.manifests(&repo)?;
                self.links(&repo)?;
                self.tags(&repo)?;
            }
        }
    }

    fn manifests(&mut self, repo: &RepoName) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.store.read(|view| view.manifests(repo, after.as_ref(), PAGE))?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(*last);
            for digest in page {
                self.checked.manifests += 1;
                self.manifest(repo, &digest)?;
            }
        }
    }

    fn manifest(&mut self, repo: &RepoName, digest: &Digest) -> Result<(), StoreError> {
        let Some((row, mut bytes)) = self.store.read(|view| view.manifest(repo, digest))? else { return Ok(()) };
        if !row.inline {
            // Whether the file is good was told already.
            let Ok(read) = std::fs::read(self.store.inner.shelf.path(digest)) else { return Ok(()) };
            bytes = read;
        }
        let parsed = Manifest::parse_named(Some(&row.media_type), bytes, digest.algorithm());
        let Some(manifest) = parsed.ok().filter(|manifest| manifest.digest() == *digest) else {
            self.found(&Finding::ManifestDamaged(repo.clone(), *digest));
            return Ok(());
        };
        let named = manifest.blobs().filter(|blob| !media_type::is_foreign_layer(&blob.media_type));
        for child in named.chain(manifest.children()) {
            let child = child.digest;
            let here = self.store.read(|view| Ok(view.is_linked(repo, &child)? || view.has_manifest(repo, &child)?))?;
            if !here {
                self.found(&Finding::Incomplete(repo.clone(), *digest, child));
            }
        }
        let item = Item::Manifest { repo: repo.clone(), digest: *digest };
        let forgotten = self.store.read(|view| Ok(!view.is_kept(repo, digest)? && view.doubted(&item)?.is_none()))?;
        if forgotten {
            self.found(&Finding::Forgotten(*digest));
            self.repair(Transaction::Suspect { item })?;
        }
        Ok(())
    }

    fn links(&mut self, repo: &RepoName) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.store.read(|view| view.links(repo, after.as_ref(), PAGE))?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(*last);
            for digest in page {
                let item = Item::Link { repo: repo.clone(), digest };
                let forgotten = self
                    .store
                    .read(|view| Ok(view.a_parent(repo, &digest)?.is_none() && view.doubted(&item)?.is_none()))?;
                if forgotten {
                    self.found(&Finding::Forgotten(digest));
                    self.repair(Transaction::Suspect { item })?;
                }
            }
        }
    }

    fn tags(&mut self, repo: &RepoName) -> Result<(), StoreError> {
        let mut after = String::new();
        loop {
            let page = self.store.read(|view| view.tags(repo, &after, PAGE))?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.to_string();
            for tag in page {
                let named = self.store.read(|view| view.tag(repo, &tag))?.map(|row| row.digest);
                let Some(digest) = named else { continue };
                if !self.store.read(|view| view.has_manifest(repo, &digest))? {
                    self.found(&Finding::Dangling(repo.clone(), tag.clone(), digest));
                    self.repair(Transaction::ExpireTag { repo: repo.clone(), tag, digest })?;
                }
            }
        }
    }

    /// Files in the trash that nobody would remove: they were brought back or pushed again since.
    fn trash(&mut self) -> Result<(), StoreError> {
        let trash: PathBuf = self.store.inner.data.join(layout::TRASH);
        for entry in std::fs::read_dir(&trash).map_err(StoreError::io(&trash))? {
            let entry = entry.map_err(StoreError::io(&trash))?;
            let name = entry.file_name();
            let Some(digest) = name.to_str().and_then(|name| name.replacen('-', ":", 1).parse::<Digest>().ok()) else {
                continue;
            };
            let size = entry.metadata().map_err(StoreError::io(&trash))?.len();
            let item = Item::Trash { digest, size };
            if self.store.read(|view| view.doubted(&item))?.is_none() {
                self.found(&Finding::Forgotten(digest));
                self.repair(Transaction::Suspect { item })?;
            }
        }
        Ok(())
    }
}
