//! Where an image goes beside the local store: OCI layouts, archives, a tar or a directory of its files.
//! Each is written beside its place and renamed at the end, so that no half output remains.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read};
use std::path::{Path, PathBuf};

use content::{Archive, ArchiveKind, Disk};
use oci::{Manifest, Reference};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};

use crate::layer::beneath::Tree;
use crate::layer::entry::{Entry, Kind, show};
use crate::layer::tar;
use crate::layer::view::{FileId, Node, View};
use crate::sandbox::remove_tree;

/// Bytes that are copied at once.
const CHUNK: usize = 256 << 10;

/// One output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// An OCI image layout in a directory; one that exists is added to.
    Layout(PathBuf),
    /// An archive: a tar of an OCI layout, or what `docker load` reads.
    Archive(ArchiveKind, PathBuf),
    /// The files of the image in a directory; what is there already stays, unless it has the same name.
    Directory(PathBuf),
    /// The files of the image as a tar.
    Tar(PathBuf),
}

/// Why an output could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the image that cannot be written.
    #[error("cannot write {name} of the image into {path}: {source}")]
    File {
        /// The output.
        path: PathBuf,
        /// The file in the image.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the image that no tar can hold.
    #[error(transparent)]
    Tar(#[from] tar::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] content::Error),
    /// Somebody stopped it.
    #[error("cancelled")]
    Cancelled,
}

impl Output {
    /// Where it is written.
    pub fn path(&self) -> &Path {
        match self {
            Self::Layout(path) | Self::Archive(_, path) | Self::Directory(path) | Self::Tar(path) => path,
        }
    }

    /// Whether it holds the image itself and not only its files.
    pub(crate) fn needs_blobs(&self) -> bool {
        matches!(self, Self::Layout(_) | Self::Archive(..))
    }
}

/// An image whose blobs are all in a store.
pub(crate) struct Image<'a> {
    pub store: &'a Disk,
    pub manifest: &'a Manifest,
    pub names: &'a [Reference],
}

/// A file or directory being written beside its place; removed unless it gets there.
struct Aside {
    path: PathBuf,
    place: PathBuf,
}

impl Aside {
    fn new(place: &Path) -> Self {
        let mut name = std::ffi::OsString::from(".");
        name.push(place.file_name().unwrap_or_default());
        name.push(format!(".{}.partial", std::process::id()));
        Self { path: place.with_file_name(name), place: place.to_owned() }
    }

    fn keep(self) -> Result<(), Error> {
        fs::rename(&self.path, &self.place).map_err(|source| Error::Write { path: self.place.clone(), source })
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = remove_tree(&self.path); // gone already if all went well; else the first error is the one to tell
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Write { path: path.clone(), source }
}

/// Writes an image or an index, all of whose blobs are in a store, into a layout or an archive.
pub fn write(output: &Output, store: &Disk, manifest: &Manifest, names: &[Reference]) -> Result<(), Error> {
    write_image(output, &Image { store, manifest, names })
}

/// Writes a layout or an archive.
pub(crate) fn write_image(output: &Output, image: &Image<'_>) -> Result<(), Error> {
    match output {
        Output::Layout(path) if path.join("oci-layout").exists() => fill_layout(&Disk::open(path)?, image),
        Output::Layout(path) => {
            let aside = Aside::new(path);
            fill_layout(&Disk::create(&aside.path)?, image)?;
            aside.keep()
        }
        Output::Archive(kind, path) => {
            let names: Vec<String> = match kind {
                ArchiveKind::Docker => image.names.iter().map(ToString::to_string).collect(),
                ArchiveKind::Oci => tags(image.names),
            };
            let aside = Aside::new(path);
            let mut file = BufWriter::with_capacity(CHUNK, File::create(&aside.path).map_err(failed(path))?);
            Archive::write(image.store, image.manifest, &names, *kind, &mut file)?;
            file.into_inner().map_err(io::IntoInnerError::into_error).map_err(failed(path))?;
            aside.keep()
        }
        Output::Directory(_) | Output::Tar(_) => Ok(()), // these hold files, see `write_tree`
    }
}

/// In what is exchanged, an image is named by its tag alone.
fn tags(names: &[Reference]) -> Vec<String> {
    names.iter().filter_map(|name| name.tag().map(ToString::to_string)).collect()
}

fn fill_layout(layout: &Disk, image: &Image<'_>) -> Result<(), Error> {
    for child in image.manifest.children() {
        let missing =
            || content::Error::NoBlob { place: image.store.root().display().to_string(), digest: child.digest };
        let child = image.store.manifest(&child.digest)?.ok_or_else(missing)?;
        fill_blobs(layout, image.store, &child)?;
        layout.put_manifest(&child, None)?;
    }
    fill_blobs(layout, image.store, image.manifest)?;
    let names = tags(image.names);
    if names.is_empty() {
        // Without a name the layout would not show it.
        layout.put_manifest(image.manifest, Some("latest".to_owned()))?;
    }
    for name in names {
        layout.put_manifest(image.manifest, Some(name))?;
    }
    Ok(())
}

fn fill_blobs(layout: &Disk, store: &Disk, manifest: &Manifest) -> Result<(), Error> {
    for blob in manifest.blobs() {
        if layout.blob_size(&blob.digest)?.is_some() {
            continue;
        }
        let missing = || content::Error::NoBlob { place: store.root().display().to_string(), digest: blob.digest };
        let mut file = store.open_blob(&blob.digest)?.ok_or_else(missing)?;
        let mut incoming = layout.incoming()?;
        io::copy(&mut file, &mut incoming).map_err(failed(layout.root()))?;
        let place = store.root().display().to_string();
        let finished = incoming.finish(blob.digest);
        layout.keep(finished.map_err(|mismatch| content::Error::Wrong { place, mismatch })?)?;
    }
    Ok(())
}

/// Reads a file of the tree.
pub(crate) type Open<'a> = &'a dyn Fn(&Node) -> io::Result<Box<dyn Read + 'a>>;

/// Writes the files of the image, as a tar or into a directory. Gives the devices that this user may not make, which a
/// directory is without.
pub(crate) fn write_tree(
    output: &Output,
    view: &View,
    open: Open<'_>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<String>, Error> {
    match output {
        Output::Tar(path) => {
            let aside = Aside::new(path);
            let file = BufWriter::with_capacity(CHUNK, File::create(&aside.path).map_err(failed(path))?);
            let mut out = TarOutput { tar: tar::Writer::new(file), path };
            each(view, open, cancelled, &mut out)?;
            let file = out.tar.finish()?;
            file.into_inner().map_err(io::IntoInnerError::into_error).map_err(failed(path))?;
            aside.keep().map(|()| Vec::new())
        }
        Output::Directory(path) => {
            let aside = Aside::new(path);
            fs::create_dir_all(&aside.path).map_err(failed(path))?;
            let tree = Tree::open(&aside.path).map_err(io::Error::from).map_err(failed(path))?;
            let mut out = DirectoryOutput { tree, path, directories: Vec::new(), left_out: Vec::new() };
            each(view, open, cancelled, &mut out)?;
            out.finish_directories()?;
            move_into(&aside.path, path).map_err(failed(path))?;
            Ok(out.left_out)
        }
        Output::Layout(_) | Output::Archive(..) => Ok(Vec::new()), // these hold the image, see `write_image`
    }
}

/// Takes the files of a tree one by one, directories before what is in them.
trait Files {
    fn put(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), Error>;
}

fn each(view: &View, open: Open<'_>, cancelled: &dyn Fn() -> bool, out: &mut dyn Files) -> Result<(), Error> {
    let mut first_names: HashMap<FileId, Vec<u8>> = HashMap::new();
    for node in view.nodes().iter().filter(|node| !node.path().is_empty()) {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let mut entry = Entry::clone(&node.entry);
        if entry.kind == Kind::Implicit {
            entry.kind = Kind::Directory;
        }
        if !entry.is_dir() {
            let first = first_names.entry(node.file()).or_insert_with(|| entry.path.clone());
            if *first != entry.path {
                entry.kind = Kind::Hardlink(first.clone());
            }
        }
        match entry.kind {
            Kind::File { size: 1.., .. } => {
                let name = show(&entry.path);
                let mut content = open(node).map_err(|source| Error::File { path: PathBuf::new(), name, source })?;
                out.put(&entry, &mut content)?;
            }
            _ => out.put(&entry, &mut io::empty())?,
        }
    }
    Ok(())
}

struct TarOutput<'a> {
    tar: tar::Writer<BufWriter<File>>,
    path: &'a Path,
}

impl Files for TarOutput<'_> {
    fn put(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), Error> {
        self.tar.entry(entry)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match content.read(&mut chunk).map_err(failed(self.path))? {
                0 => return Ok(()),
                size => self.tar.content(&chunk[..size])?,
            }
        }
    }
}

struct DirectoryOutput<'a> {
    tree: Tree,
    path: &'a Path,
    /// Modes and times are given when nothing is put into them any more.
    directories: Vec<Entry>,
    /// Devices that this user may not make.
    left_out: Vec<String>,
}

impl Files for DirectoryOutput<'_> {
    fn put(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), Error> {
        let made = self.make(entry, content);
        made.map_err(|source| Error::File { path: self.path.to_owned(), name: show(&entry.path), source })
    }
}

impl DirectoryOutput<'_> {
    fn make(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        if let Kind::Hardlink(first) = &entry.kind {
            if self.left_out.contains(&show(first)) {
                self.left_out.push(show(&entry.path));
                return Ok(());
            }
            let (from, first_name) = self.tree.at(first)?;
            let (from, first_name) = (from.try_clone_to_owned()?, first_name.to_vec());
            let (dir, name) = self.tree.at(&entry.path)?;
            return Ok(rustix::fs::linkat(from, first_name, dir, name, AtFlags::empty())?);
        }
        let (dir, name) = self.tree.at(&entry.path)?;
        match &entry.kind {
            Kind::Directory | Kind::Implicit => {
                rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700))?;
                self.directories.push(entry.clone());
                return Ok(());
            }
            Kind::File { .. } => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file: File = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?.into();
                io::copy(content, &mut file)?;
            }
            Kind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), dir, name)?,
            Kind::Fifo => rustix::fs::mknodat(dir, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?,
            Kind::Char(major, minor) | Kind::Block(major, minor) => {
                let is_char = matches!(entry.kind, Kind::Char(..));
                let kind = if is_char { FileType::CharacterDevice } else { FileType::BlockDevice };
                let device = rustix::fs::makedev(*major, *minor);
                match rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(0o600), device) {
                    Err(rustix::io::Errno::PERM) => {
                        self.left_out.push(show(&entry.path));
                        return Ok(());
                    }
                    made => made?,
                }
            }
            Kind::Whiteout | Kind::Opaque | Kind::Hardlink(_) => return Ok(()), // no view shows these
        }
        dress(dir, name, entry)
    }

    fn finish_directories(&mut self) -> Result<(), Error> {
        for entry in std::mem::take(&mut self.directories).into_iter().rev() {
            let dressed = self.tree.at(&entry.path).map_err(io::Error::from);
            let dressed = dressed.and_then(|(dir, name)| dress(dir, name, &entry));
            dressed.map_err(|source| Error::File { path: self.path.to_owned(), name: show(&entry.path), source })?;
        }
        Ok(())
    }
}

/// Mode and time. The owner is whoever builds, also if that is root, as from BuildKit.
fn dress(dir: rustix::fd::BorrowedFd<'_>, name: &[u8], entry: &Entry) -> io::Result<()> {
    if !matches!(entry.kind, Kind::Symlink(_)) {
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(entry.mode & 0o7777), AtFlags::empty())?;
    }
    let time = Timespec { tv_sec: entry.mtime, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Moves a tree to its place; directories that are there already take in what is new.
fn move_into(from: &Path, to: &Path) -> io::Result<()> {
    let is_dir = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let mut waiting = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = waiting.pop() {
        if is_dir(&from) && is_dir(&to) {
            for entry in fs::read_dir(&from)? {
                let entry = entry?;
                waiting.push((entry.path(), to.join(entry.file_name())));
            }
            continue;
        }
        remove_tree(&to)?;
        fs::rename(from, to)?;
    }
    Ok(())
}
