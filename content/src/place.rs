//! The one place where content is renamed to its final name.
//!
//! ```text
//! ROOT/blobs/<algorithm>/<hex>            flat: an OCI image layout
//! ROOT/blobs/<algorithm>/<2 hex>/<hex>    sharded: the registry's store
//! ROOT/ingest/<pid>-<n>                   what has not been hashed to its end
//! ```
//!
//! Content is written to `ingest`, hashed on the way, and moved to its name only with a [`Verified`]
//! in hand: file data first, then the name, then the directory. So a name that exists is whole, also
//! after a power cut; but for what is kept `unsynced`, which its owner has elsewhere until the disk has
//! it. Ordinary blocking functions; callers in async code use a blocking thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use oci::{Algorithm, Digest, Mismatch, Verified, Verifier};

/// How long an ingest file of a dead process is left alone: longer than any transfer.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// How names are spread over directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// All of an algorithm in one directory, as the OCI image layout wants it.
    Flat,
    /// 256 directories by the first two digits.
    Sharded,
}

/// A directory of content-addressed files.
#[derive(Debug, Clone)]
pub struct Shelf {
    root: PathBuf,
    spread: Spread,
    /// Held for writing while a directory is made and its name forced to disk: so nobody files content
    /// in a directory whose own name a power cut could still take away.
    directories: Arc<RwLock<()>>,
}

impl Shelf {
    /// Opens the shelf below `root`, making its directories where they are missing.
    pub fn open(root: impl Into<PathBuf>, spread: Spread) -> io::Result<Self> {
        let shelf = Self::existing(root, spread);
        std::fs::create_dir_all(shelf.ingest())?;
        std::fs::create_dir_all(shelf.directory(Algorithm::Sha256))?;
        std::fs::create_dir_all(shelf.directory(Algorithm::Sha512))?;
        if spread == Spread::Sharded {
            shelf.make_parts()?;
        }
        sync_directory(&shelf.root.join("blobs"))?;
        sync_directory(&shelf.root)?;
        Ok(shelf)
    }

    /// Makes the parts for SHA-256, which nearly all content uses, ahead of the content: so that no push
    /// waits for a directory. With the last one there, all were made and durable before.
    fn make_parts(&self) -> io::Result<()> {
        let directory = self.directory(Algorithm::Sha256);
        if directory.join("ff").is_dir() {
            return Ok(());
        }
        for part in 0..u8::MAX {
            std::fs::create_dir_all(directory.join(format!("{part:02x}")))?;
        }
        sync_directory(&directory)?;
        std::fs::create_dir_all(directory.join("ff"))?;
        sync_directory(&directory)
    }

    /// Looks at a shelf that somebody else made, without writing to it.
    pub fn existing(root: impl Into<PathBuf>, spread: Spread) -> Self {
        Self { root: root.into(), spread, directories: Arc::default() }
    }

    /// Where the content of this digest lies, if it is here.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let directory = self.directory(digest.algorithm());
        match self.spread {
            Spread::Flat => directory.join(hex),
            Spread::Sharded => directory.join(&hex[..2]).join(hex),
        }
    }

    /// Opens content; `None` if it is not here.
    pub fn open_blob(&self, digest: &Digest) -> io::Result<Option<File>> {
        match File::open(self.path(digest)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The size of content in bytes; `None` if it is not here.
    pub fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        match std::fs::metadata(self.path(digest)) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Starts to take content in.
    pub fn incoming(&self, algorithm: Algorithm) -> io::Result<Incoming> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = self.ingest().join(name);
        let file = OpenOptions::new().write(true).read(true).create(true).truncate(true).mode(0o644).open(&path)?;
        Ok(Incoming { file: Some(file), path, verifier: Verifier::new(algorithm) })
    }

    /// Files content that was hashed while it came in.
    pub fn keep(&self, mut finished: Finished) -> io::Result<Verified> {
        self.place(&finished.path, &finished.file, &finished.verified)?;
        finished.placed = true;
        Ok(finished.verified)
    }

    /// Moves a hashed file of this file system to its name, durably. Content that is here already is
    /// left alone and the new file removed, unless the old one is of another size: then it is
    /// damaged, and replaced.
    pub fn place(&self, path: &Path, file: &File, verified: &Verified) -> io::Result<()> {
        if self.size(&verified.digest())? == Some(verified.size()) {
            return std::fs::remove_file(path);
        }
        seal(file)?;
        self.name(path, verified)
    }

    /// The second half of [`Shelf::place`], for a file that went through [`seal`] already.
    pub fn place_sealed(&self, path: &Path, verified: &Verified) -> io::Result<()> {
        if self.size(&verified.digest())? == Some(verified.size()) {
            return std::fs::remove_file(path);
        }
        self.name(path, verified)
    }

    /// The same, whatever lies there already: for those who do not know whether that is whole.
    pub fn replace_sealed(&self, path: &Path, verified: &Verified) -> io::Result<()> {
        self.name(path, verified)
    }

    /// Moves a hashed file of this file system to its name, whatever lies there already, without waiting
    /// for the disk. A power cut may take the name, the content or parts of it: so this is only for those
    /// who have the content elsewhere until the whole file system was synced.
    pub fn place_unsynced(&self, path: &Path, verified: &Verified) -> io::Result<()> {
        self.renamed_to(path, &self.path(&verified.digest()))
    }

    /// The same for content that was hashed while it came in.
    pub fn keep_unsynced(&self, mut finished: Finished) -> io::Result<Verified> {
        protect(&finished.file)?;
        self.place_unsynced(&finished.path, &finished.verified)?;
        finished.placed = true;
        Ok(finished.verified)
    }

    fn name(&self, path: &Path, verified: &Verified) -> io::Result<()> {
        let target = self.path(&verified.digest());
        self.renamed_to(path, &target)?;
        sync_directory(target.parent().ok_or(io::ErrorKind::InvalidInput)?)
    }

    /// Gives a file its name, not durably, in a directory whose own name is durable.
    fn renamed_to(&self, path: &Path, target: &Path) -> io::Result<()> {
        let directory = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if !directory.is_dir() {
            self.make(directory)?;
        }
        let _made_and_durable = self.directories.read().unwrap_or_else(PoisonError::into_inner);
        std::fs::rename(path, target)
    }

    /// Moves content out of its place, for good or until it is moved back. False if it is not here.
    pub fn remove_to(&self, digest: &Digest, to: &Path) -> io::Result<bool> {
        renamed(std::fs::rename(self.path(digest), to))
    }

    /// Moves content back to its place, durably; false if it is not there any more. Only for what
    /// [`Shelf::remove_to`] took from here: it is not hashed again.
    pub fn bring_back(&self, from: &Path, digest: &Digest) -> io::Result<bool> {
        let target = self.path(digest);
        let moved = renamed(self.renamed_to(from, &target))?;
        if moved {
            sync_directory(target.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        }
        Ok(moved)
    }

    /// The digests in one of the 256 parts of a sharded shelf, for one algorithm. Files with other
    /// names are not ours.
    pub fn part(&self, algorithm: Algorithm, part: u8) -> io::Result<Vec<Digest>> {
        named_in(&self.directory(algorithm).join(format!("{part:02x}")), algorithm)
    }

    /// The digests on a flat shelf, for one algorithm. Files with other names are not ours.
    pub fn flat(&self, algorithm: Algorithm) -> io::Result<Vec<Digest>> {
        named_in(&self.directory(algorithm), algorithm)
    }

    /// Makes a directory when its first content comes, so that a store of nothing opens at once.
    fn make(&self, directory: &Path) -> io::Result<()> {
        let _nobody_files = self.directories.write().unwrap_or_else(PoisonError::into_inner);
        // What is there already was made durable by whoever made it, before anything was filed below.
        let missing = directory.ancestors().take_while(|above| above.starts_with(&self.root) && !above.is_dir());
        let missing: Vec<_> = missing.collect();
        std::fs::create_dir_all(directory)?;
        missing.iter().filter_map(|made| made.parent()).try_for_each(sync_directory)
    }

    /// Removes what interrupted processes left in `ingest`, a day after they last wrote to it.
    pub fn sweep(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.ingest())? {
            let entry = entry?;
            let modified = entry.metadata()?.modified()?;
            if SystemTime::now().duration_since(modified).is_ok_and(|age| age > STALE) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn ingest(&self) -> PathBuf {
        self.root.join("ingest")
    }

    fn directory(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.as_str())
    }
}

/// Ends the writing of a file: what was written is durable, and the file may only be read from now on.
/// In this order: where the disk turns out to be full, the file can still be written to.
pub fn seal(file: &File) -> io::Result<()> {
    rustix::fs::fdatasync(file)?;
    protect(file)
}

/// Lets a file only be read from now on.
pub fn protect(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(0o444))?)
}

/// The digests that files of a directory are named by; none if there is no directory.
pub(crate) fn named_in(directory: &Path, algorithm: Algorithm) -> io::Result<Vec<Digest>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|hex| format!("{algorithm}:{hex}").parse::<Digest>().ok()));
    }
    Ok(found)
}

/// Whether a file was moved; that it is not there is no error.
fn renamed(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes names in a directory survive a power cut.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a small file so that at any instant its name means the old or the new content, whole.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, 0o666)
}

/// The same for a file that only its owner may read.
pub fn replace_secret_file(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, 0o600)
}

fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{}", std::process::id()));
    let aside = directory.join(name);
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&aside)?;
        file.write_all(content)?;
        file.sync_data()?;
        std::fs::rename(&aside, path)?;
        sync_directory(directory)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&aside); // the first error is the one to tell
    }
    written
}

/// Content on its way in; removed when dropped.
#[derive(Debug)]
pub struct Incoming {
    file: Option<File>,
    path: PathBuf,
    verifier: Verifier,
}

impl Incoming {
    /// How many bytes have come in.
    pub fn size(&self) -> u64 {
        self.verifier.size()
    }

    /// Ends the content, which must be `expected`.
    pub fn finish(mut self, expected: Digest) -> Result<Finished, Mismatch> {
        let verified = self.take_verifier().finish(expected)?;
        Ok(self.finished(verified))
    }

    /// Ends content that we make ourselves, and names it.
    pub fn seal(mut self) -> Finished {
        let verified = self.take_verifier().seal();
        self.finished(verified)
    }

    fn take_verifier(&mut self) -> Verifier {
        std::mem::replace(&mut self.verifier, Verifier::sha256())
    }

    fn finished(mut self, verified: Verified) -> Finished {
        let file = self.file.take().expect("the file is taken only here, and this consumes the value");
        Finished { file, path: std::mem::take(&mut self.path), verified, placed: false }
    }
}

impl Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = self.file.as_mut().expect("the file is taken only by `finished`, which consumes the value");
        let written = file.write(bytes)?;
        self.verifier.update(&bytes[..written]);
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.path); // `sweep` finds what stays
        }
    }
}

/// Content that came in whole and was hashed, but has no name yet; removed when dropped.
#[derive(Debug)]
pub struct Finished {
    file: File,
    path: PathBuf,
    verified: Verified,
    placed: bool,
}

impl Finished {
    /// What the content was found to be.
    pub fn verified(&self) -> Verified {
        self.verified
    }
}

impl Drop for Finished {
    fn drop(&mut self) {
        if !self.placed {
            let _ = std::fs::remove_file(&self.path); // `sweep` finds what stays
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(path: &Path) -> usize {
        std::fs::read_dir(path).unwrap().count()
    }

    #[test]
    fn content_gets_its_name_only_when_it_is_what_it_claims() {
        let directory = tempfile::tempdir().unwrap();
        for spread in [Spread::Flat, Spread::Sharded] {
            let shelf = Shelf::open(directory.path().join(format!("{spread:?}")), spread).unwrap();
            let mut incoming = shelf.incoming(Algorithm::Sha256).unwrap();
            incoming.write_all(b"hello").unwrap();
            assert!(incoming.finish(Digest::of(b"other")).is_err());
            assert_eq!(shelf.size(&Digest::of(b"hello")).unwrap(), None);

            let mut incoming = shelf.incoming(Algorithm::Sha512).unwrap();
            incoming.write_all(b"hello").unwrap();
            let digest = Digest::of_with(Algorithm::Sha512, b"hello");
            shelf.keep(incoming.finish(digest).unwrap()).unwrap();
            assert_eq!(std::fs::read(shelf.path(&digest)).unwrap(), b"hello");
            assert_eq!(files(&shelf.ingest()), 0);
        }
    }

    #[test]
    fn damaged_content_is_replaced_and_whole_content_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path(), Spread::Flat).unwrap();
        let put = || {
            let mut incoming = shelf.incoming(Algorithm::Sha256).unwrap();
            incoming.write_all(b"hello").unwrap();
            shelf.keep(incoming.seal()).unwrap().digest()
        };
        let path = shelf.path(&put());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"hel").unwrap();
        put();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello");
        let before = std::fs::metadata(&path).unwrap().modified().unwrap();
        put();
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), before);
        assert_eq!(files(&directory.path().join("ingest")), 0);
    }

    #[test]
    fn what_nobody_knows_to_be_whole_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path(), Spread::Sharded).unwrap();
        let incoming = || {
            let mut incoming = shelf.incoming(Algorithm::Sha256).unwrap();
            incoming.write_all(b"hello").unwrap();
            incoming.seal()
        };
        let path = shelf.path(&Digest::of(b"hello"));
        for damaged in [b"HELLO".as_slice(), b""] {
            std::fs::write(&path, damaged).unwrap();
            let verified = shelf.keep_unsynced(incoming()).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"hello");
            let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o444);
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, damaged).unwrap();
            let mut finished = incoming();
            shelf.replace_sealed(&finished.path, &verified).unwrap();
            finished.placed = true;
            assert_eq!(std::fs::read(&path).unwrap(), b"hello");
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(files(&shelf.ingest()), 0);
    }

    #[test]
    fn content_leaves_its_place_and_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path(), Spread::Sharded).unwrap();
        let mut incoming = shelf.incoming(Algorithm::Sha256).unwrap();
        incoming.write_all(b"hello").unwrap();
        let digest = shelf.keep(incoming.seal()).unwrap().digest();
        let part = digest.as_bytes()[0];
        assert_eq!(shelf.part(Algorithm::Sha256, part).unwrap(), [digest]);
        assert_eq!(shelf.part(Algorithm::Sha256, part.wrapping_add(1)).unwrap(), []);

        let trash = directory.path().join("trash");
        assert!(shelf.remove_to(&digest, &trash).unwrap() && trash.exists());
        assert!(!shelf.remove_to(&digest, &trash).unwrap(), "it is gone already");
        assert_eq!(shelf.part(Algorithm::Sha256, part).unwrap(), []);
        assert!(shelf.bring_back(&trash, &digest).unwrap());
        assert!(!shelf.bring_back(&trash, &digest).unwrap());
        assert_eq!(std::fs::read(shelf.path(&digest)).unwrap(), b"hello");
    }
}
