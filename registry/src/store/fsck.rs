//! Checks a store: every file against its digest, every row against what it speaks of, every file
//! against the rows. One damaged thing never stops the rest.
//!
//! A server may use the store meanwhile. What looks wrong is looked at again under the lock of its digest,
//! which whoever files, mounts or collects it holds too: a push or a pass of the collector halfway through
//! is no finding. What is put right is put right under the same lock, and told of after it: whoever listens
//! slowly holds nobody up.
//!
//! Repairing loses nothing that is good. Damaged files go to `quarantine/`. Small ones are written again from
//! the journal, as far as it has them; the others are forgotten so that clients send them again: with a manifest
//! that lay in one its tags, since clients do not send what they are told is there. Files that no
//! row speaks of are taken in; what was forgotten is doubted, so that it is collected in its time. An index
//! with rows that are wrong is made again from the journal.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use content::place::sync_directory;
use oci::{Algorithm, Digest, Manifest, RepoName, Tag, Verifier, media_type};
use serde::{Deserialize, Serialize};

use super::{Cursor, Store, StoreError, ahead, layout, stripe};
use crate::index::Index;
use crate::state::{Item, RowsError, Transaction, View};

/// Rows are read in pages of this many.
const PAGE: usize = 512;
/// Records of the journal are read in pages of this many.
const RECORDS: usize = 64;
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
    /// Small files of a page of rows that are missing now, and that the journal may have.
    lost: HashSet<Digest>,
    tell: &'a mut dyn FnMut(&Finding),
    is_stopped: &'a dyn Fn() -> bool,
}

impl Store {
    /// Checks everything, telling each finding as it is made. With `repair`, puts right what can be. Ends early
    /// with [`StoreError::Closing`] when `is_stopped` says so. Blocks, so it is for threads that may.
    pub fn fsck(
        &self,
        repair: bool,
        tell: &mut dyn FnMut(&Finding),
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Checked, StoreError> {
        let mut check =
            Check { store: self, repair, checked: Checked::default(), lost: HashSet::new(), tell, is_stopped };
        check.files()?;
        check.orphans()?;
        check.repositories()?;
        check.trash()?;
        Ok(check.checked)
    }

    /// Puts a damaged file away, durably and under the lock of its digest: were its row forgotten first, the
    /// power could bring back a file that nobody would look into any more.
    fn quarantine(&self, digest: &Digest) -> Result<bool, StoreError> {
        let place = self.inner.shelf.path(digest);
        let quarantine = self.inner.data.join(layout::QUARANTINE);
        let to = quarantine.join(format!("{}-{}", digest.algorithm(), digest.hex()));
        let moved = self.inner.shelf.remove_to(digest, &to).map_err(StoreError::io(&to))?;
        for directory in [place.parent().unwrap_or(&place), &quarantine] {
            sync_directory(directory).map_err(self.undurable(directory))?;
        }
        Ok(moved)
    }

    /// Writes a small file again that a record carries, unless it is needed no more or is there again. False if
    /// the record carries something else.
    fn write_again(&self, digest: &Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        let _nobody_else = self.inner.stripes[stripe(digest)].blocking_write();
        let path = self.inner.shelf.path(digest);
        if self.read(|view| view.stored_blob(digest))?.is_none() || path.exists() {
            return Ok(true);
        }
        if !ahead::write(&self.inner.shelf, digest, bytes).map_err(StoreError::io(&path))? {
            return Ok(false);
        }
        ahead::sync_one(&path).map_err(self.undurable(&path))?;
        Ok(true)
    }
}

/// What became of hashing a file.
enum Hashed {
    Good,
    Missing,
    /// The file is kept open, so that no other one can take its number.
    Wrong(File),
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
                0 => return Ok(Some((verifier.seal(), file))),
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
        Ok(Some((found, _))) if found.digest() == *digest && size.is_none_or(|size| size == found.size()) => {
            Hashed::Good
        }
        Ok(Some((_, file))) => Hashed::Wrong(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Hashed::Missing,
        Err(error) => Hashed::Unreadable(error),
    }
}

/// Whether a path still leads to an open file.
fn is_same(path: &Path, file: &File) -> bool {
    let (Ok(named), Ok(open)) = (std::fs::metadata(path), file.metadata()) else { return false };
    (named.dev(), named.ino()) == (open.dev(), open.ino())
}

/// A way to put something right, by a transaction.
fn by(transaction: Transaction) -> impl FnOnce(&Store) -> Result<bool, StoreError> {
    move |store| store.inner.committer.commit_blocking(transaction).map(|()| true)
}

impl Check<'_> {
    fn found(&mut self, finding: &Finding) {
        self.checked.findings += 1;
        (self.tell)(finding);
    }

    /// Tells of something if it is so, and still is when nobody files, mounts or collects the digest; and puts
    /// it right before anybody can. The cure says whether it did.
    fn settle(
        &mut self,
        digest: &Digest,
        finding: &Finding,
        is_so: impl Fn(View<'_, Index>) -> Result<bool, RowsError>,
        cure: impl FnOnce(&Store) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        if !self.store.read(&is_so)? {
            return Ok(());
        }
        let nobody_else = self.store.inner.stripes[stripe(digest)].blocking_write();
        if !self.store.read(is_so)? {
            return Ok(());
        }
        let cured = if self.repair { cure(self.store) } else { Ok(false) };
        drop(nobody_else);
        self.found(finding);
        self.checked.repaired += u64::from(cured?);
        Ok(())
    }

    fn go_on(&self) -> Result<(), StoreError> {
        if (self.is_stopped)() { Err(StoreError::Closing) } else { Ok(()) }
    }

    /// Every row about a file, and the file.
    fn files(&mut self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.store.read(|view| view.stored_blobs(after.as_ref(), PAGE))?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (digest, row) in page {
                self.file(&digest, row.size)?;
                let item = Item::Content { digest };
                let needless = |view: View<'_, Index>| {
                    let unused = view.stored_blob(&digest)?.is_some() && !view.is_in_use(&digest)?;
                    Ok(unused && view.doubted(&item)?.is_none())
                };
                let cure = by(Transaction::Suspect { item: item.clone() });
                self.settle(&digest, &Finding::Forgotten(digest), needless, cure)?;
            }
            self.lost()?; // page by page, so that neither these grow nor a stop leaves many of them behind
        }
    }

    /// Hashes a file that a row speaks of.
    fn file(&mut self, digest: &Digest, size: u64) -> Result<(), StoreError> {
        self.go_on()?;
        self.checked.files += 1;
        let path = self.store.inner.shelf.path(digest);
        let (finding, wrong) = match hash(&path, digest, Some(size), &mut self.checked.bytes, self.is_stopped) {
            Hashed::Good => return Ok(()),
            Hashed::Stopped => return Err(StoreError::Closing),
            Hashed::Missing => (Finding::Missing(*digest), None),
            Hashed::Wrong(file) => (Finding::Damaged(*digest), Some(file)),
            // Left where it is: the disk may be read again another day.
            Hashed::Unreadable(error) => {
                self.found(&Finding::Unreadable(*digest, error.to_string()));
                return Ok(());
            }
        };
        // It may have been collected since its row was read, and pushed again.
        let is_so = |view: View<'_, Index>| {
            let still = match &wrong {
                Some(file) => is_same(&path, file),
                None => !path.exists(),
            };
            Ok(still && view.stored_blob(digest)?.is_some())
        };
        let mut lost = None;
        let cure = |store: &Store| {
            if wrong.is_some() {
                store.quarantine(digest)?;
            }
            if size <= ahead::LIMIT {
                lost = Some(*digest); // until the journal was asked for it
                return Ok(false);
            }
            by(Transaction::Lose { digest: *digest })(store)
        };
        self.settle(digest, &finding, is_so, cure)?;
        self.lost.extend(lost);
        Ok(())
    }

    /// Small files that are not there any more: those that the journal still has are written again, and the
    /// others are forgotten.
    fn lost(&mut self) -> Result<(), StoreError> {
        let (mut cursor, mut lsn, until) = (Cursor::default(), 0, self.store.inner.index.applied());
        while !self.lost.is_empty() && lsn < until.0 {
            self.go_on()?;
            let read = match self.store.read_journal(lsn, until, RECORDS, &mut cursor) {
                Ok(read) => read.records,
                // A snapshot may let go of old records at any time.
                Err(error) => {
                    tracing::warn!(%error, "the journal could not be read for lost blobs");
                    break;
                }
            };
            let Some((last, _)) = read.last() else { break };
            lsn = *last;
            for (digest, bytes) in read.iter().filter_map(|(_, record)| record.carried()) {
                if self.lost.contains(&digest) && self.store.write_again(&digest, bytes)? {
                    self.lost.remove(&digest);
                    self.checked.repaired += 1;
                }
            }
        }
        for digest in std::mem::take(&mut self.lost) {
            let _nobody_else = self.store.inner.stripes[stripe(&digest)].blocking_write();
            // Somebody may have pushed it since.
            if !self.store.inner.shelf.path(&digest).exists() {
                by(Transaction::Lose { digest })(self.store)?;
            }
            self.checked.repaired += 1;
        }
        Ok(())
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
        self.go_on()?;
        self.checked.files += 1;
        let path = self.store.inner.shelf.path(digest);
        // A file has its name a moment before its row, and loses it a moment after.
        let unknown = |view: View<'_, Index>| Ok(path.exists() && view.stored_blob(digest)?.is_none());
        match hash(&path, digest, None, &mut self.checked.bytes, self.is_stopped) {
            Hashed::Stopped => Err(StoreError::Closing),
            Hashed::Missing => Ok(()),
            Hashed::Good => self.settle(digest, &Finding::Orphan(*digest), unknown, |store| {
                let size = std::fs::metadata(&path).map(|metadata| metadata.len());
                let size = size.map_err(StoreError::io(&path))?;
                Ok(store.make_good(digest)? && by(Transaction::Adopt { digest: *digest, size })(store)?)
            }),
            Hashed::Wrong(file) => {
                let is_so = |view: View<'_, Index>| Ok(is_same(&path, &file) && unknown(view)?);
                // The collector removes it, too. Of what is larger the disk had every byte.
                match ahead::is_whole(&path, digest).unwrap_or(true) {
                    false => self.settle(digest, &Finding::Leftover(*digest), is_so, |store| {
                        std::fs::remove_file(&path).map_err(StoreError::io(&path))?;
                        let directory = path.parent().unwrap_or(&path);
                        sync_directory(directory).map(|()| true).map_err(store.undurable(directory))
                    }),
                    true => self.settle(digest, &Finding::Damaged(*digest), is_so, |store| store.quarantine(digest)),
                }
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
            if self.repair && row.inline {
                self.store.inner.committer.report_damage(); // the journal may have it whole
            }
            return Ok(());
        };
        let named = manifest.blobs().filter(|blob| !media_type::is_foreign_layer(&blob.media_type));
        // Where indexes may be sparse, they are not incomplete.
        let is_whole = !self.store.keeping.sparse.means(repo);
        for child in named.chain(manifest.children().iter().filter(|_| is_whole)) {
            let child = child.digest;
            let lacks = |view: View<'_, Index>| {
                let here = view.is_linked(repo, &child)? || view.has_manifest(repo, &child)?;
                Ok(!here && view.has_manifest(repo, digest)?)
            };
            // Only a push puts it right.
            self.settle(digest, &Finding::Incomplete(repo.clone(), *digest, child), lacks, |_| Ok(false))?;
        }
        let item = Item::Manifest { repo: repo.clone(), digest: *digest };
        let forgotten = |view: View<'_, Index>| {
            let kept = view.is_kept(repo, digest)?;
            Ok(!kept && view.doubted(&item)?.is_none() && view.has_manifest(repo, digest)?)
        };
        self.settle(digest, &Finding::Forgotten(*digest), forgotten, by(Transaction::Suspect { item: item.clone() }))
    }

    fn links(&mut self, repo: &RepoName) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.store.read(|view| view.links(repo, after.as_ref(), PAGE))?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(*last);
            for digest in page {
                let item = Item::Link { repo: repo.clone(), digest };
                let forgotten = |view: View<'_, Index>| {
                    let named = view.a_parent(repo, &digest)?.is_some();
                    Ok(!named && view.doubted(&item)?.is_none() && view.is_linked(repo, &digest)?)
                };
                let cure = by(Transaction::Suspect { item: item.clone() });
                self.settle(&digest, &Finding::Forgotten(digest), forgotten, cure)?;
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
                let dangling = |view: View<'_, Index>| {
                    let names = view.tag(repo, &tag)?.is_some_and(|row| row.digest == digest);
                    // Tag and manifest go in one record, so a tag that is still there says that it lacks.
                    let lacks = names && !view.has_manifest(repo, &digest)?;
                    Ok(lacks && view.tag(repo, &tag)?.is_some_and(|row| row.digest == digest))
                };
                let finding = Finding::Dangling(repo.clone(), tag.clone(), digest);
                let cure = by(Transaction::ExpireTag { repo: repo.clone(), tag: tag.clone(), digest });
                self.settle(&digest, &finding, dangling, cure)?;
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
            let forgotten = |view: View<'_, Index>| Ok(view.doubted(&item)?.is_none() && entry.path().exists());
            let cure = by(Transaction::Suspect { item: item.clone() });
            self.settle(&digest, &Finding::Forgotten(digest), forgotten, cure)?;
        }
        Ok(())
    }
}
