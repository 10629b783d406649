//! A layer blob becomes a directory that overlayfs can use as a lower layer.
//!
//! ```text
//! DEST/root/   the tree; whiteouts as overlayfs wants them (char 0:0, opaque attribute)
//! DEST/side    an index of what the tree could not hold: devices that may not be made, owners of
//!              symbolic links, attributes that were refused
//! ```
//!
//! It is made beside its place and renamed at the end, so that half a layer is never used. Everything is
//! opened below the handle of the new directory; what the layer says cannot lead out.

use super::beneath::{self, Tree};
use super::entry::{ContentHash, Entry, Kind, PATH_LIMIT, names, parent, show};
use super::index::{self, Index};
use super::read::{self, Limits, Names, Reader};
use super::view::View;
use oci::{DiffId, Verifier};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, chownat, fchmod, fchown, fsetxattr, futimens,
    linkat, makedev, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The attribute that carries a wished owner, `uid:gid`, where the real one cannot be given.
pub const OWNER: &[u8] = b"user.lighter.owner";

/// The attribute of an empty file that stands for a device node where none can be made: `c MAJOR:MINOR` or `b …`.
pub const DEVICE: &[u8] = b"user.lighter.device";

/// Attributes that would steer overlayfs or ourselves: kept in the side index, never set.
const STEERING: [&[u8]; 3] = [b"trusted.overlay.", b"user.overlay.", b"user.lighter."];

/// How owners are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// By chown: as root, or in a user namespace with a range of ids.
    Real,
    /// In the attribute [`OWNER`], as only one id can be used; not set for 0:0.
    Recorded,
}

/// In which attributes overlayfs looks for its marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// `trusted.overlay.*`: mounted by root.
    Trusted,
    /// `user.overlay.*`: mounted with `userxattr` in a user namespace.
    User,
}

impl Marks {
    /// The attribute of a directory that hides what lies below it.
    pub fn opaque(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.opaque",
            Self::User => b"user.overlay.opaque",
        }
    }
}

/// How a layer is unpacked.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How owners are given.
    pub ownership: Ownership,
    /// How overlayfs will be mounted.
    pub marks: Marks,
    /// How much of the blob is believed.
    pub limits: Limits,
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob is damaged, or refused.
    #[error(transparent)]
    Layer(#[from] read::Error),
    /// A file could not be made.
    #[error("cannot unpack {path} into {dest}: {source}")]
    Make {
        /// The path in the layer.
        path: String,
        /// The directory.
        dest: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A hard link to a file that an earlier layer holds.
    #[error("{path}: a hard link to {target}, which is not in the same layer; rebuild the image with another tool")]
    LinkBelow {
        /// The link.
        path: String,
        /// What it names.
        target: String,
    },
    /// A file of the layers below is not what the step has seen.
    #[error("{0}: not what a step found there; remove the build cache")]
    Below(String),
}

/// An unpacked layer.
#[derive(Debug)]
pub struct Unpacked {
    /// The tree: `DEST/root`.
    pub root: PathBuf,
    /// All entries of the layer.
    pub index: Index,
    /// What the tree could not hold.
    pub side: Index,
    /// The digest of the uncompressed tar, to compare with the image config's.
    pub diff_id: DiffId,
}

/// Unpacks a blob into `dest`, which must not exist; its parent must. Nothing remains after a failure.
///
/// Right for every layer that names all its directories, whatever lies below it; see [`unpack_over`].
pub fn unpack(blob: impl Read, dest: &Path, options: &Options) -> Result<Unpacked, Error> {
    unpack_over(blob, dest, options, &View::empty())
}

/// Unpacks a blob that will lie over `below`. Some tools leave out the directories that lower layers have
/// ([`Index::has_implied`]); overlayfs shows a directory as its topmost layer has it, so these get mode,
/// owner and time of what is below. Such a directory is good for this chain of layers only.
pub fn unpack_over(blob: impl Read, dest: &Path, options: &Options, below: &View) -> Result<Unpacked, Error> {
    let mut open = |_: &Entry| -> io::Result<Box<dyn Read>> { Ok(Box::new(io::empty())) };
    unpack_with(blob, dest, options, below, (&[], &mut open))
}

/// Opens what a name of the layers below holds.
pub type OpenBelow<'a> = dyn FnMut(&Entry) -> io::Result<Box<dyn Read + 'a>> + 'a;

/// The same with what a step has left beside the layer ([`super::residue`]), and the contents of what lies below: the
/// entries must fit to that.
pub fn unpack_with(
    blob: impl Read,
    dest: &Path,
    options: &Options,
    below: &View,
    residue: (&[Arc<Entry>], &mut OpenBelow<'_>),
) -> Result<Unpacked, Error> {
    let fail = |source| Error::Make { path: "/".into(), dest: dest.to_owned(), source };
    let aside = aside(dest);
    std::fs::create_dir(&aside).map_err(fail)?;
    let done = unpack_aside(blob, &aside, options, below, residue).and_then(|mut unpacked| {
        rename_into_place(&aside, dest).map_err(fail)?;
        unpacked.root = dest.join("root");
        Ok(unpacked)
    });
    if done.is_err() {
        // The failure is what matters; a directory that stays is dead weight with a telling name.
        let _ = crate::sandbox::remove_tree(&aside);
    }
    done
}

/// Reads the side index of an unpacked layer.
pub fn side(dest: &Path) -> io::Result<Index> {
    Index::from_bytes(&std::fs::read(dest.join("side"))?).map_err(io::Error::other)
}

/// A name beside `dest` that no other unpacking uses.
fn aside(dest: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = std::ffi::OsString::from(".unpacking-");
    name.push(dest.file_name().unwrap_or_default());
    name.push(format!("-{}-{count}", std::process::id()));
    dest.with_file_name(name)
}

/// Another process may have unpacked the same layer meanwhile; both are right, the first one stays.
fn rename_into_place(aside: &Path, dest: &Path) -> io::Result<()> {
    match std::fs::rename(aside, dest) {
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
            crate::sandbox::remove_tree(aside)
        }
        result => result,
    }
}

fn unpack_aside(
    blob: impl Read,
    aside: &Path,
    options: &Options,
    below: &View,
    (residue, open): (&[Arc<Entry>], &mut OpenBelow<'_>),
) -> Result<Unpacked, Error> {
    let fail = |source| Error::Make { path: "/".into(), dest: aside.to_owned(), source };
    let root = aside.join("root");
    std::fs::create_dir(&root).map_err(fail)?;
    let mut writer = Writer::new(&root, options, below).map_err(|errno| fail(errno.into()))?;
    let mut reader = Reader::open(blob, Names::Layer, options.limits)?;
    let mut builder = index::Builder::default();
    while let Some(mut entry) = reader.next_entry()? {
        writer.put(&mut entry, &mut reader)?;
        builder.push(entry);
    }
    let diff_id = DiffId::of_tar(&reader.finish()?);
    for entry in residue {
        writer.put_residue(entry, open)?;
    }
    let side = writer.finish()?;
    std::fs::write(aside.join("side"), side.to_bytes()).map_err(fail)?;
    Ok(Unpacked { root, index: builder.finish(), side, diff_id })
}

/// Puts entries into a tree.
pub(super) struct Writer<'a> {
    tree: Tree,
    options: &'a Options,
    dest: &'a Path,
    below: &'a View,
    side: index::Builder,
    /// Directories get mode and time when nothing is put into them any more.
    directories: BTreeMap<Vec<u8>, Entry>,
    whiteouts: HashSet<Vec<u8>>,
    buffer: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(root: &'a Path, options: &'a Options, below: &'a View) -> rustix::io::Result<Self> {
        // An overlay shows the top layer's root directory: it must not depend on the umask or the clock.
        let root_entry = below.lstat(b"").map_or(Entry::new(b"", Kind::Directory, 0o755), |n| Entry::clone(&n.entry));
        Ok(Self {
            tree: Tree::open(root)?,
            options,
            dest: root,
            below,
            side: index::Builder::default(),
            directories: BTreeMap::from([(Vec::new(), root_entry)]),
            whiteouts: HashSet::new(),
            buffer: vec![0; 256 << 10],
        })
    }

    pub(super) fn put(&mut self, entry: &mut Entry, content: &mut dyn Read) -> Result<(), Error> {
        let path = entry.path.clone();
        if let Kind::Hardlink(target) = &entry.kind
            && self.tree.lstat(target).ok().flatten().is_none()
        {
            return Err(Error::LinkBelow { path: show(&path), target: show(target) });
        }
        let made = self.make_parents(&path).and_then(|()| self.make(entry, content));
        made.map_err(|source| self.failed(&path, source))
    }

    /// Puts in a name that is below as well.
    fn put_residue(&mut self, entry: &Entry, open: &mut OpenBelow<'_>) -> Result<(), Error> {
        let mut made = entry.clone();
        if !matches!(entry.kind, Kind::File { size: 1.., .. }) {
            return self.put(&mut made, &mut io::empty());
        }
        let mut content = open(entry).map_err(|source| self.failed(&entry.path, source))?;
        self.put(&mut made, &mut content)?;
        if made.kind == entry.kind { Ok(()) } else { Err(Error::Below(show(&entry.path))) }
    }

    /// Opens a file that was put in.
    pub(super) fn file(&mut self, path: &[u8]) -> Result<File, Error> {
        let file = self.tree.file(path);
        file.map(File::from).map_err(|errno| self.failed(path, errno.into()))
    }

    fn failed(&self, path: &[u8], source: io::Error) -> Error {
        Error::Make { path: show(path), dest: self.dest.to_owned(), source }
    }

    /// Takes a directory that is there for one of this layer: it gets its looks at the end.
    pub(super) fn adopt(&mut self, entry: Entry) {
        self.directories.insert(entry.path.clone(), entry);
    }

    /// Applies what had to wait, and returns what could not be applied at all.
    pub(super) fn finish(mut self) -> Result<Index, Error> {
        let directories = std::mem::take(&mut self.directories);
        for (path, entry) in directories.iter().rev() {
            let dir = self.tree.dir(path).and_then(|dir| dir.try_clone_to_owned().map_err(|_| Errno::MFILE));
            let done = dir.map_err(io::Error::from).and_then(|dir| self.dress(&dir, entry));
            done.map_err(|source| self.failed(path, source))?;
        }
        Ok(self.side.finish())
    }

    /// Makes the directories that the layer does not name, as any tar does.
    fn make_parents(&mut self, path: &[u8]) -> io::Result<()> {
        let Some(dir) = parent(path).filter(|dir| !dir.is_empty()) else { return Ok(()) };
        if self.tree.dir(dir).is_ok() {
            return Ok(());
        }
        let mut made = Vec::with_capacity(PATH_LIMIT);
        for name in names(dir) {
            if !made.is_empty() {
                made.push(b'/');
            }
            made.extend_from_slice(name);
            if !self.directories.contains_key(&made) {
                let implied = self.implied(&made);
                self.make_directory(&implied)?;
            }
        }
        Ok(())
    }

    /// A directory that the layer does not name: as it is below, else as any tar makes it.
    fn implied(&self, path: &[u8]) -> Entry {
        let below = self.below.lstat(path).filter(|node| node.entry.is_dir());
        match below {
            Some(node) => Entry { kind: Kind::Directory, ..Entry::clone(&node.entry) },
            None => Entry::new(path, Kind::Directory, 0o755),
        }
    }

    fn make(&mut self, entry: &mut Entry, content: &mut dyn Read) -> io::Result<()> {
        match &entry.kind {
            Kind::Directory | Kind::Implicit => self.make_directory(entry),
            Kind::Opaque => self.hide_below(&entry.path.clone()),
            Kind::Whiteout => self.make_whiteout(&entry.path),
            Kind::File { size, .. } => {
                let size = *size;
                let hash = self.make_file(entry, size, content)?;
                entry.kind = Kind::File { size, hash };
                Ok(())
            }
            Kind::Symlink(target) => {
                self.clear(&entry.path)?;
                let (dir, name) = self.tree.at(&entry.path)?;
                symlinkat(target, dir, name)?;
                self.dress_link(entry)
            }
            Kind::Hardlink(target) => self.make_hardlink(&entry.path, target),
            Kind::Fifo => self.make_node(entry, FileType::Fifo, 0),
            Kind::Char(major, minor) => self.make_node(entry, FileType::CharacterDevice, makedev(*major, *minor)),
            Kind::Block(major, minor) => self.make_node(entry, FileType::BlockDevice, makedev(*major, *minor)),
        }
    }

    /// Removes what an earlier entry of the same layer put at the path.
    fn clear(&mut self, path: &[u8]) -> io::Result<()> {
        if self.tree.lstat(path)?.is_some() {
            self.tree.remove(path)?;
            let below = |key: &Vec<u8>| key.as_slice() == path || super::entry::is_below(key, path);
            self.directories.retain(|key, _| !below(key));
            self.whiteouts.retain(|key| !below(key));
        }
        Ok(())
    }

    fn make_directory(&mut self, entry: &Entry) -> io::Result<()> {
        let path = &entry.path;
        if !path.is_empty() && !self.directories.contains_key(path) {
            let hides = self.whiteouts.contains(path);
            self.clear(path)?;
            let (dir, name) = self.tree.at(path)?;
            mkdirat(dir, name, Mode::from_raw_mode(0o700))?;
            if hides {
                self.hide_below(path)?;
            }
        }
        self.directories.insert(path.clone(), entry.clone());
        Ok(())
    }

    /// Nothing that lower layers have in this directory is seen.
    fn hide_below(&mut self, path: &[u8]) -> io::Result<()> {
        if !path.is_empty() && !self.directories.contains_key(path) {
            let implied = self.implied(path);
            self.make_directory(&implied)?;
        }
        let opaque = self.options.marks.opaque();
        Ok(fsetxattr(self.tree.dir(path)?, opaque, b"y", XattrFlags::empty())?)
    }

    fn make_whiteout(&mut self, path: &[u8]) -> io::Result<()> {
        // What this layer has at the path stays: a whiteout speaks of the layers below.
        if self.directories.contains_key(path) {
            return self.hide_below(path);
        }
        let (dir, name) = self.tree.at(path)?;
        match mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => {
                self.whiteouts.insert(path.to_vec());
                Ok(())
            }
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn make_file(&mut self, entry: &Entry, size: u64, content: &mut dyn Read) -> io::Result<ContentHash> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let open = |tree: &mut Tree| tree.at(&entry.path).and_then(|(dir, name)| openat(dir, name, flags, mode));
        let file = match open(&mut self.tree) {
            Err(Errno::EXIST) => {
                self.clear(&entry.path)?;
                open(&mut self.tree)?
            }
            result => result?,
        };
        let mut file = File::from(file);
        let mut hash = Verifier::sha256();
        while hash.size() < size {
            let got = content.read(&mut self.buffer)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hash.update(&self.buffer[..got]);
            file.write_all(&self.buffer[..got])?;
        }
        self.dress(&file.into(), entry)?;
        Ok(ContentHash::sealed(hash))
    }

    fn make_hardlink(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        if path == target {
            return Ok(());
        }
        self.clear(path)?;
        let (dir, name) = self.tree.at(target)?;
        let dir = dir.try_clone_to_owned()?;
        let (to, link) = self.tree.at(path)?;
        Ok(linkat(dir.as_fd(), name, to, link, AtFlags::empty())?)
    }

    fn make_node(&mut self, entry: &Entry, kind: FileType, device: u64) -> io::Result<()> {
        self.clear(&entry.path)?;
        let (dir, name) = self.tree.at(&entry.path)?;
        match mknodat(dir, name, kind, Mode::from_raw_mode(entry.mode), device) {
            Err(Errno::PERM) => return self.make_placeholder(entry),
            result => result?,
        }
        self.dress_link(entry)?;
        let (dir, name) = self.tree.at(&entry.path)?;
        // The umask took bits away, and chown took set-uid; nothing here is a symbolic link.
        Ok(rustix::fs::chmodat(dir, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?)
    }

    /// An empty file that says which device it stands for.
    fn make_placeholder(&mut self, entry: &Entry) -> io::Result<()> {
        let Some(value) = device_value(&entry.kind) else { return Err(Errno::PERM.into()) };
        let (dir, name) = self.tree.at(&entry.path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
        if fsetxattr(&file, DEVICE, value.as_bytes(), XattrFlags::empty()).is_err() {
            self.side.push(entry.clone());
            return self.clear(&entry.path);
        }
        self.dress(&file, entry)
    }

    /// Owner, attributes, mode and time of an open file or directory, in the order that keeps them.
    fn dress(&mut self, file: &OwnedFd, entry: &Entry) -> io::Result<()> {
        match self.options.ownership {
            Ownership::Real => {
                let (uid, gid) = beneath::owner(entry.uid, entry.gid);
                fchown(file, uid, gid)?;
            }
            Ownership::Recorded if (entry.uid, entry.gid) != (0, 0) => {
                let owner = format!("{}:{}", entry.uid, entry.gid);
                fsetxattr(file, OWNER, owner.as_bytes(), XattrFlags::empty())?;
            }
            Ownership::Recorded => {}
        }
        let mut refused = false;
        for (name, value) in &entry.xattrs {
            let steering = STEERING.iter().any(|prefix| name.starts_with(prefix));
            refused |= steering || fsetxattr(file, name, value, XattrFlags::empty()).is_err();
        }
        if refused {
            self.side.push(entry.clone());
        }
        fchmod(file, Mode::from_raw_mode(entry.mode))?;
        Ok(futimens(file, &times(entry.mtime))?)
    }

    /// Owner and time of what cannot be opened.
    fn dress_link(&mut self, entry: &Entry) -> io::Result<()> {
        let (dir, name) = self.tree.at(&entry.path)?;
        if self.options.ownership == Ownership::Real {
            let (uid, gid) = beneath::owner(entry.uid, entry.gid);
            chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        } else if (entry.uid, entry.gid) != (0, 0) {
            self.side.push(entry.clone());
        }
        Ok(utimensat(dir, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// What [`DEVICE`] says of a device node; none for what is no device.
pub fn device_value(kind: &Kind) -> Option<String> {
    match kind {
        Kind::Char(major, minor) => Some(format!("c {major}:{minor}")),
        Kind::Block(major, minor) => Some(format!("b {major}:{minor}")),
        _ => None,
    }
}

/// Reads what [`device_value`] wrote.
pub fn device_of(value: &[u8]) -> Option<Kind> {
    let (kind, numbers) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    let (major, minor) = numbers.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    match kind {
        "c" if (major, minor) != (0, 0) => Some(Kind::Char(major, minor)),
        "b" => Some(Kind::Block(major, minor)),
        _ => None,
    }
}

pub(super) fn times(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
