//! The tar archives that ADD extracts: recognised by content whatever their name and compression, and
//! put into the tree by the rules of moby's `archive.Untar`. Their contents wait in a temporary file,
//! as the layer wants them in another order.

use super::error::Error;
use super::owner::Owner;
use super::source::{Item, Source};
use super::upper::{Fresh, Node, Upper};
use crate::layer::entry::{CAPABILITY, ContentHash, Entry, Kind, is_below, parent, show};
use crate::layer::read::{self, Limits, Names, Reader, decompress, looks_like_tar};
use crate::layer::spool::Spooled;
use crate::layer::tar::BLOCK;
use oci::Verifier;
use rustix::fs::{CWD, Mode, OFlags, openat, unlink};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether a file is an archive: its first block, uncompressed, is a tar header.
pub(super) fn is_archive(source: &dyn Source, item: &Item) -> Result<bool, Error> {
    let mut start = Vec::with_capacity(BLOCK);
    let content = source.open(item)?;
    let plain = decompress(content).and_then(|plain| plain.take(BLOCK as u64).read_to_end(&mut start));
    // What cannot be uncompressed is no archive, but a file like any other.
    Ok(plain.is_ok() && looks_like_tar(&start))
}

/// Where and how an archive is extracted.
pub(super) struct Extraction<'a> {
    /// The directory, which exists.
    pub dest: &'a [u8],
    /// Owner of everything, instead of the archive's.
    pub owner: Option<Owner>,
    /// Where the temporary file is made.
    pub scratch: &'a Path,
    pub limits: Limits,
}

/// Extracts an archive into the tree.
pub(super) fn extract<C: From<Spooled> + Clone>(
    source: &dyn Source,
    item: &Item,
    extraction: &Extraction<'_>,
    upper: &mut Upper<'_, C>,
    next_group: &mut usize,
) -> Result<(), Error> {
    let damaged = |source| Error::Archive { path: show(&item.entry.path), source };
    let content = source.open(item)?;
    let mut reader = Reader::open(content, Names::Archive, extraction.limits).map_err(damaged)?;
    let mut spool = Spool::new(extraction.scratch)?;
    let mut directories = Vec::new();
    while let Some(mut entry) = reader.next_entry().map_err(damaged)? {
        let spooled = match &mut entry.kind {
            Kind::File { size, hash } => {
                let (spooled, found) = spool.take(&mut reader, *size, item)?;
                *hash = found;
                Some(spooled)
            }
            _ => None,
        };
        if entry.path.is_empty() && extraction.dest.is_empty() {
            continue; // a layer says nothing of the root itself
        }
        settle(&mut entry, extraction, upper)?;
        if entry.kind == Kind::Directory {
            directories.push((entry.path.clone(), entry.mtime));
        }
        put(entry, spooled, upper, next_group)?;
    }
    reader.finish().map_err(damaged)?;
    // What was extracted must be what the cache key was made of.
    if !matches!(item.entry.kind, Kind::File { hash, .. } if source.hash(item)? == hash) {
        return Err(Error::Changed(show(&item.entry.path)));
    }
    for (path, mtime) in directories {
        upper.change_dir(&path, |entry| entry.mtime = mtime);
    }
    Ok(())
}

/// Moves an entry to its place below the destination, links of the tree followed inside of it.
fn settle<C>(entry: &mut Entry, extraction: &Extraction<'_>, upper: &mut Upper<'_, C>) -> Result<(), Error> {
    entry.xattrs.retain(|(name, _)| name == CAPABILITY);
    if let Some(owner) = extraction.owner {
        (entry.uid, entry.gid) = (owner.uid, owner.gid);
    }
    if entry.path.is_empty() {
        entry.path = extraction.dest.to_vec(); // the archive has a `/`, which is the destination
        return Ok(());
    }
    let dir = parent(&entry.path).unwrap_or_default().to_vec();
    let dir = upper.resolve(extraction.dest, &dir)?;
    // Directories that the archive only names in its paths are root's, whatever `--chown` says.
    upper.make_dirs(&dir, Fresh { owner: Some(Owner::default()), chmod: None })?;
    if let Kind::Hardlink(target) = &mut entry.kind {
        let at = upper.resolve(extraction.dest, parent(target).unwrap_or_default())?;
        *target = crate::layer::entry::join(&at, crate::layer::entry::name(target));
    }
    entry.path = crate::layer::entry::join(&dir, crate::layer::entry::name(&entry.path));
    Ok(())
}

fn put<C: From<Spooled> + Clone>(
    entry: Entry,
    spooled: Option<Spooled>,
    upper: &mut Upper<'_, C>,
    next_group: &mut usize,
) -> Result<(), Error> {
    let existing = upper.lstat(&entry.path).map(Entry::is_dir);
    if existing == Some(true) && entry.is_dir() {
        upper.change_dir(&entry.path.clone(), |old| *old = entry);
        return Ok(());
    }
    if let Kind::Hardlink(target) = &entry.kind {
        return link(&entry.path, target, upper, next_group);
    }
    if existing.is_some() {
        upper.remove(&entry.path);
    }
    upper.insert(Node { entry, content: spooled.map(C::from), group: None });
    Ok(())
}

/// Gives a file that this step made one more name. The content stays with the first in walk order.
fn link<C: Clone>(path: &[u8], target: &[u8], upper: &mut Upper<'_, C>, next_group: &mut usize) -> Result<(), Error> {
    let below = Error::Unsupported {
        path: show(path),
        what: "is a hard link to a file that the archive does not hold; pack both names",
    };
    if path == target && upper.lstat(path).is_some() {
        return Ok(());
    }
    if upper.lstat(path).is_some() {
        if is_below(target, path) {
            return Err(below);
        }
        upper.remove(path);
    }
    let Some(node) = upper.node_mut(target).filter(|node| !node.entry.is_dir()) else { return Err(below) };
    let group = *node.group.get_or_insert_with(|| {
        *next_group += 1;
        *next_group
    });
    let entry = Entry { path: path.to_vec(), ..node.entry.clone() };
    let content = node.content.clone();
    upper.insert(Node { entry, content, group: Some(group) });
    Ok(())
}

/// A temporary file without a name.
struct Spool {
    file: Arc<File>,
    end: u64,
    chunk: Vec<u8>,
}

impl Spool {
    fn new(dir: &Path) -> Result<Self, Error> {
        let file = nameless(dir).map_err(|errno| Error::Scratch(errno.into()))?;
        Ok(Self { file: Arc::new(file), end: 0, chunk: vec![0; 64 << 10] })
    }

    /// Takes the content of one file.
    fn take(&mut self, content: &mut impl Read, size: u64, archive: &Item) -> Result<(Spooled, ContentHash), Error> {
        let at = self.end;
        let mut hash = Verifier::sha256();
        while hash.size() < size {
            let got = content.read(&mut self.chunk).map_err(|error| Error::Archive {
                path: show(&archive.entry.path),
                source: read::Error::Read(error),
            })?;
            hash.update(&self.chunk[..got]);
            self.file.as_ref().write_all(&self.chunk[..got]).map_err(Error::Scratch)?;
        }
        self.end += size;
        Ok((Spooled::new(self.file.clone(), at, self.end), ContentHash::sealed(hash)))
    }
}

/// A new file without a name, so that nothing remains of it whatever happens.
fn nameless(dir: &Path) -> rustix::io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    match openat(CWD, dir, flags | OFlags::TMPFILE, mode) {
        // Some file systems (overlayfs before Linux 6.3, NFS) cannot make one at once.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
        result => return result.map(File::from),
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!(".archive-{}-{count}", std::process::id()));
    let file = openat(CWD, &path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
    unlink(&path)?;
    Ok(file.into())
}
