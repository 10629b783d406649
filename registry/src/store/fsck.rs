//! Checks a store: every file against its digest, every row against what it speaks of, every file
//! against the rows. One damaged thing never stops the rest.
//!
//! A server may use the store meanwhile, unless something is to be repaired. What looks wrong is then
//! looked at again under the lock of its digest, which whoever files, mounts or collects it holds too:
//! a push or a pass of the collector halfway through is no finding.
//!
//! Repairing loses nothing that is good: damaged files go to `quarantine/`, and are forgotten so that
//! clients send them again; files that no row speaks of are taken in; what was forgotten is doubted,
//! so that it is collected in its time. The index is made again from the journal before all that.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci::{Algorithm, Digest, Manifest, RepoName, Tag, Verifier, media_type};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, ahead, layout, stripe};
use crate::index::Index;
use crate::state::{Item, RowsError, Transaction, View};

/// Rows are read in pages of this many.
const PAGE: usize = 512;
/// Files are read in pieces of this size, in bytes.
const READ: usize = 1 << 20;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    /// A row speaks of a file that is not there.
    Missing(Digest),
    /// A file is not what its name says.
    Damaged(Digest),
    /// A file cannot be read.
    Unreadable(Digest, String),
    /// No row speaks of a file.
    Orphan(Digest),
    /// No row speaks of a small file that is something else than its name says.
    Leftover(Digest),
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
            Self::Leftover(digest) => {
                write!(
                    f,
                    "leftover: nothing is known about the file {digest}, of which a power cut left something else"
                )
            }
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    is_stopped: &'a dyn Fn() -> bool,
}

impl Store {
    /// Checks everything, telling each finding as it is made. With `repair`, which is for a store that
    /// was opened offline, puts right what can be. Ends early with [`StoreError::Closing`] when
    /// `is_stopped` says so. Blocks, so it is for threads that may.
    pub fn fsck(
        &self,
        repair: bool,
        tell: &mut dyn FnMut(&Finding),
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Checked, StoreError> {
        let mut check = Check { store: self, repair, checked: Checked::default(), tell, is_stopped };
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
    Stopped,
}

fn hash(path: &Path, digest: &Digest, size: Option<u64>, bytes: &mut u64, is_stopped: &dyn Fn() -> bool) -> Hashed {
    let hashed: io::Result<_> = (|| {
        let mut file = File::open(path)?;
        let mut verifier = Verifier::new(digest.algorithm());
        let mut buffer = vec![0; READ];
        while !is_stopped() {
            match file.read(&mut buffer)? {
                0 => return Ok(Some(verifier.seal())),
                read => {
                    verifier.update(&buffer[..read]);
                    *bytes += read as u64;
                }
            }
        }
        Ok(None)
    })();
    match hashed {
        Ok(None) => Hashed::Stopped,
        Ok(Some(found)) if found.digest() == *digest && size.is_none_or(|size| size == found.size()) => Hashed::Good,
        Ok(Some(_)) => Hashed::Wrong,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Hashed::Missing,
        Err(error) => Hashed::Unreadable(error),
    }
}

impl Check<'_> {
    fn found(&mut self, finding: &Finding) {
        self.checked.findings += 1;
        (self.tell)(finding);
    }

    /// Whether something is so, and still is when nobody files, mounts or collects the digest.
    fn is_so(
        &self,
        digest: &Digest,
        is_so: impl Fn(View<'_, Index>) -> Result<bool, RowsError>,
    ) -> Result<bool, StoreError> {
        if !self.store.read(&is_so)? {
            return Ok(false);
        }
        let _nobody_else = self.store.inner.stripes[stripe(digest)].blocking_write();
        self.store.read(is_so)
    }

    fn go_on(&self) -> Result<(), StoreError> {
        if (self.is_stopped)() { Err(StoreError::Closing) } else { Ok(()) }
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
                let needless = self.is_so(&digest, |view| {
                    let unused = view.stored_blob(&digest)?.is_some() && !view.is_in_use(&digest)?;
                    Ok(unused && view.doubted(&Item::Content { digest })?.is_none())
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
        self.go_on()?;
        self.checked.files += 1;
        let path = self.store.inner.shelf.path(digest);
        let hashed = hash(&path, digest, size, &mut self.checked.bytes, self.is_stopped);
        match hashed {
            Hashed::Good => return Ok(true),
            Hashed::Stopped => return Err(StoreError::Closing),
            // It may have been collected since its row was read.
            Hashed::Missing
                if !self.is_so(digest, |view| Ok(view.stored_blob(digest)?.is_some() && !path.exists()))? =>
            {
                return Ok(false);
            }
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
                    // A file has its name a moment before its row.
                    if self.is_so(&digest, |view| Ok(view.stored_blob(&digest)?.is_none()))? {
                        self.orphan(&digest)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn orphan(&mut self, digest: &Digest) -> Result<(), StoreError> {
        self.go_on()?;
        self.checked.files += 1;
        let path = self.store.inner.shelf.path(digest);
        match hash(&path, digest, None, &mut self.checked.bytes, self.is_stopped) {
            Hashed::Stopped => Err(StoreError::Closing),
            Hashed::Good => {
                self.found(&Finding::Orphan(*digest));
                let size = std::fs::metadata(&path).map(|metadata| metadata.len());
                let size = size.map_err(StoreError::io(&self.store.inner.data))?;
                if self.repair {
                    self.store.make_good(digest)?;
                }
                self.repair(Transaction::Adopt { digest: *digest, size })
            }
            Hashed::Missing => Ok(()),
            // The collector removes it, too. Of what is larger the disk had every byte.
            Hashed::Wrong if !ahead::is_whole(&path, digest).unwrap_or(true) => {
                self.found(&Finding::Leftover(*digest));
                if self.repair {
                    std::fs::remove_file(&path).map_err(StoreError::io(&path))?;
                    self.checked.repaired += 1;
                }
                Ok(())
            }
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
                self.go_on()?;
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
        // Where indexes may be sparse, they are not incomplete.
        let is_whole = !self.store.keeping.sparse.means(repo);
        for child in named.chain(manifest.children().iter().filter(|_| is_whole)) {
            let child = child.digest;
            let lacks = self.is_so(digest, |view| {
                let here = view.is_linked(repo, &child)? || view.has_manifest(repo, &child)?;
                Ok(!here && view.has_manifest(repo, digest)?)
            })?;
            if lacks {
                self.found(&Finding::Incomplete(repo.clone(), *digest, child));
            }
        }
        let item = Item::Manifest { repo: repo.clone(), digest: *digest };
        let forgotten = self.is_so(digest, |view| {
            let kept = view.is_kept(repo, digest)?;
            Ok(!kept && view.doubted(&item)?.is_none() && view.has_manifest(repo, digest)?)
        })?;
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
                let forgotten = self.is_so(&digest, |view| {
                    let named = view.a_parent(repo, &digest)?.is_some();
                    Ok(!named && view.doubted(&item)?.is_none() && view.is_linked(repo, &digest)?)
                })?;
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
                let dangling = self.is_so(&digest, |view| {
                    let names = view.tag(repo, &tag)?.is_some_and(|row| row.digest == digest);
                    // Tag and manifest go in one record, so a tag that is still there says that it lacks.
                    let lacks = names && !view.has_manifest(repo, &digest)?;
                    Ok(lacks && view.tag(repo, &tag)?.is_some_and(|row| row.digest == digest))
                })?;
                if dangling {
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
            let size = match entry.metadata() {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // removed or brought back
                Err(error) => return Err(StoreError::io(&trash)(error)),
            };
            let item = Item::Trash { digest, size };
            if self.is_so(&digest, |view| Ok(view.doubted(&item)?.is_none() && entry.path().exists()))? {
                self.found(&Finding::Forgotten(digest));
                self.repair(Transaction::Suspect { item })?;
            }
        }
        Ok(())
    }
}
