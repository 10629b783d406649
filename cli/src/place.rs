//! Opening a [`Location`] to read from or write to, whatever kind it is.

use std::fs::File;
use std::path::{Path, PathBuf};

use content::remote::{Client, Repository};
use content::{Archive, ArchiveKind, Body, Disk, DiskRepository, OpenBlob, Origin, Result, Sink, Source, WithOrigins};
use oci::{Descriptor, Digest, Manifest, Reference, RepoName, Selector, Tag, Verified};
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::location::Location;

/// How the names of temporary directories begin.
const SCRATCH: &str = "lighter-";

/// What locations are opened with.
pub struct Opener {
    /// Lighter's directory.
    pub data: PathBuf,
    /// The local store.
    pub local: Disk,
    /// For registries.
    pub client: Client,
    /// Nothing is removed from the local store as long as this lives, or the cache of a build.
    #[cfg(feature = "build")]
    pub _in_use: Option<builder::cache::stock::InUse>,
}

/// A place that is open for reading.
pub enum From {
    Registry(Repository),
    Disk(DiskRepository),
    Local(WithOrigins),
}

/// A place that is open for writing.
pub enum To {
    Registry(Repository),
    Disk(DiskRepository),
}

/// An image that is about to be read.
pub struct Opened {
    /// Where it is.
    pub from: From,
    /// Which of the images there.
    pub which: Selector,
    _unpacked: Option<TempDir>,
}

/// A place that an image is about to be written to.
pub struct Target {
    /// Where.
    pub to: To,
    /// Under which tags.
    pub tags: Vec<Tag>,
    archive: Option<PendingArchive>,
}

/// An archive that is written when everything has been copied.
struct PendingArchive {
    kind: ArchiveKind,
    path: PathBuf,
    names: Vec<String>,
    layout: TempDir,
}

impl Opener {
    /// Opens an image for reading. A bare name means what `bare` makes of it.
    pub fn source(&self, location: &Location, bare: fn(&Self, &Reference) -> Opened) -> Outcome<Opened> {
        match location {
            Location::Bare(reference) => Ok(bare(self, reference)),
            Location::Registry(reference) => Ok(self.in_registry(reference)),
            Location::Local(reference) => Ok(self.in_local_store(reference)),
            Location::Layout(path, name) => {
                let disk = Disk::open(path).map_err(|error| cannot_read(location, &error))?;
                in_layout(&disk, name.as_deref(), location, None)
            }
            Location::OciArchive(path, name) | Location::DockerArchive(path, name) => {
                let unpacked = scratch(&self.data)?;
                let disk = Disk::create(unpacked.path()).map_err(|error| cannot_read(location, &error))?;
                Archive::read(path, &disk).map_err(|error| cannot_read(location, &error))?;
                in_layout(&disk, name.as_deref(), location, Some(unpacked))
            }
        }
    }

    /// An image of a registry.
    pub fn in_registry(&self, reference: &Reference) -> Opened {
        let repository = self.client.repository(reference.host(), reference.name());
        Opened { from: From::Registry(repository), which: reference.selector(), _unpacked: None }
    }

    /// An image of the local store.
    pub fn in_local_store(&self, reference: &Reference) -> Opened {
        let repository = self.local.repository(Some(reference.repository()));
        let from = From::Local(WithOrigins::new(repository, self.client.clone()));
        Opened { from, which: reference.selector(), _unpacked: None }
    }

    /// Opens a place for writing.
    pub fn target(&self, location: &Location) -> Outcome<Target> {
        let tags = |reference: &Reference| reference.tag().cloned().into_iter().collect();
        match location {
            Location::Registry(reference) | Location::Bare(reference) => {
                let repository = self.client.repository(reference.host(), reference.name());
                Ok(Target { to: To::Registry(repository), tags: tags(reference), archive: None })
            }
            Location::Local(reference) => {
                let repository = self.local.repository(Some(reference.repository()));
                Ok(Target { to: To::Disk(repository), tags: tags(reference), archive: None })
            }
            Location::Layout(path, name) => {
                let disk = Disk::create(path).map_err(|error| cannot_write(location, &error))?;
                Ok(Target { to: To::Disk(disk.repository(None)), tags: layout_tags(name.as_deref())?, archive: None })
            }
            Location::OciArchive(path, name) => self.archive(ArchiveKind::Oci, path, name.as_deref()),
            Location::DockerArchive(path, name) => self.archive(ArchiveKind::Docker, path, name.as_deref()),
        }
    }

    fn archive(&self, kind: ArchiveKind, path: &Path, name: Option<&str>) -> Outcome<Target> {
        let layout = scratch(&self.data)?;
        let disk = Disk::create(layout.path());
        let disk = disk.map_err(|error| Failure::content(format!("cannot write {}", path.display()), &error))?;
        let names = name.into_iter().map(|name| docker_name(kind, name)).collect::<Outcome<_>>()?;
        let archive = PendingArchive { kind, path: path.to_owned(), names, layout };
        Ok(Target { to: To::Disk(disk.repository(None)), tags: Vec::new(), archive: Some(archive) })
    }
}

/// A directory that vanishes with the command. If the command is killed, the next one removes it.
pub fn scratch(data: &Path) -> Outcome<TempDir> {
    let parent = data.join("tmp");
    let made = std::fs::create_dir_all(&parent).and_then(|()| {
        let new = File::open(&parent)?;
        flock(&new, FlockOperation::LockShared)?; // nobody sweeps before the new one is locked
        let directory = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(&parent)?;
        let alive = File::open(directory.path())?;
        flock(&alive, FlockOperation::LockExclusive)?;
        std::mem::forget(alive); // locked for as long as this process lives
        Ok(directory)
    });
    made.map_err(|error| Failure::io(format!("cannot use {}", parent.display()), &error))
}

/// Removes the directories of commands that were killed: those that nobody locks any more.
pub fn sweep(data: &Path) {
    let parent = data.join("tmp");
    let Ok(new) = File::open(&parent) else { return }; // there is none yet
    if flock(&new, FlockOperation::NonBlockingLockExclusive).is_err() {
        return; // somebody makes one just now; the next command sweeps
    }
    for entry in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            continue;
        }
        let path = entry.path();
        let is_left =
            File::open(&path).is_ok_and(|dead| flock(&dead, FlockOperation::NonBlockingLockExclusive).is_ok());
        if is_left && let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::debug!(%error, path = %path.display(), "what a killed command left stays");
        }
    }
}

impl Target {
    /// Does what is left when everything has been copied: writes the archive, under its name only when whole.
    pub fn finish(self, manifest: &Manifest) -> Outcome<()> {
        let Some(archive) = self.archive else { return Ok(()) };
        let what = || format!("cannot write {}", archive.path.display());
        let failed = |error: content::Error| match error {
            content::Error::Disk { source, .. } => Failure::io(what(), &source), // its path is not what people typed
            other => Failure::content(what(), &other),
        };
        let disk = Disk::open(archive.layout.path()).map_err(failed)?;
        let directory = archive.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let broken = |error: std::io::Error| Failure::io(what(), &error);
        let mut aside = tempfile::Builder::new().prefix(".lighter-").tempfile_in(directory).map_err(broken)?;
        Archive::write(&disk, manifest, &archive.names, archive.kind, aside.as_file_mut()).map_err(failed)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        aside.as_file().set_permissions(mode).map_err(broken)?;
        aside.persist(&archive.path).map(drop).map_err(|error| broken(error.error))
    }
}

/// Docker wants full names in its archives; OCI archives have plain tags.
fn docker_name(kind: ArchiveKind, name: &str) -> Outcome<String> {
    if kind == ArchiveKind::Oci {
        return Ok(name.to_owned());
    }
    let reference: Reference =
        name.parse().map_err(|error| Failure::because(Exit::Usage, format!("`{name}` is no image name"), &error))?;
    Ok(reference.to_string().trim_start_matches("docker.io/library/").trim_start_matches("docker.io/").to_owned())
}

fn layout_tags(name: Option<&str>) -> Outcome<Vec<Tag>> {
    let parse =
        |name: &str| name.parse().map_err(|error| Failure::because(Exit::Usage, format!("`{name}` is no tag"), &error));
    name.into_iter().map(parse).collect()
}

/// The image of a layout: the one of that name, else the only one.
fn in_layout(disk: &Disk, name: Option<&str>, location: &Location, unpacked: Option<TempDir>) -> Outcome<Opened> {
    let entries = disk.entries().map_err(|error| cannot_read(location, &error))?;
    let named = disk.images().map_err(|error| cannot_read(location, &error))?;
    let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
    let found = match name {
        Some(wanted) => named.iter().find(|(name, _)| name == wanted).map(|(_, entry)| entry.digest),
        None => {
            let digests: std::collections::BTreeSet<Digest> = entries.iter().map(|entry| entry.digest).collect();
            digests.first().copied().filter(|_| digests.len() == 1)
        }
    };
    let digest = found.ok_or_else(|| {
        let known = if names.is_empty() {
            "it holds no named image".to_owned()
        } else {
            format!("it holds {}", names.join(", "))
        };
        let what = match name {
            Some(wanted) => format!("{location} has no image named {wanted}"),
            None => format!("{location} does not hold just one image"),
        };
        Failure::new(Exit::Unavailable, what).hint(known)
    })?;
    Ok(Opened { from: From::Disk(disk.repository(None)), which: Selector::Digest(digest), _unpacked: unpacked })
}

fn cannot_read(location: &Location, error: &content::Error) -> Failure {
    Failure::content(format!("cannot read {location}"), error)
}

fn cannot_write(location: &Location, error: &content::Error) -> Failure {
    Failure::content(format!("cannot write {location}"), error)
}

impl Source for From {
    async fn manifest(&self, which: &Selector) -> Result<Manifest> {
        match self {
            Self::Registry(place) => place.manifest(which).await,
            Self::Disk(place) => place.manifest(which).await,
            Self::Local(place) => place.manifest(which).await,
        }
    }
    async fn blob(&self, blob: &Descriptor, from: u64) -> Result<Body> {
        match self {
            Self::Registry(place) => place.blob(blob, from).await,
            Self::Disk(place) => place.blob(blob, from).await,
            Self::Local(place) => place.blob(blob, from).await,
        }
    }
    fn origins(&self, blob: Digest) -> Vec<Origin> {
        match self {
            Self::Registry(place) => place.origins(blob),
            Self::Disk(place) => place.origins(blob),
            Self::Local(place) => place.origins(blob),
        }
    }
    async fn went_to(&self, blob: Digest, origin: &Origin) -> Result<()> {
        match self {
            Self::Registry(place) => place.went_to(blob, origin).await,
            Self::Disk(place) => place.went_to(blob, origin).await,
            Self::Local(place) => place.went_to(blob, origin).await,
        }
    }
}

impl Sink for To {
    async fn has_blob(&self, digest: Digest) -> Result<bool> {
        match self {
            Self::Registry(place) => place.has_blob(digest).await,
            Self::Disk(place) => place.has_blob(digest).await,
        }
    }
    async fn has_manifest(&self, digest: Digest) -> Result<bool> {
        match self {
            Self::Registry(place) => place.has_manifest(digest).await,
            Self::Disk(place) => place.has_manifest(digest).await,
        }
    }
    async fn put_blob(&self, blob: &Descriptor, content: &dyn OpenBlob) -> Result<Verified> {
        match self {
            Self::Registry(place) => place.put_blob(blob, content).await,
            Self::Disk(place) => place.put_blob(blob, content).await,
        }
    }
    async fn put_manifest(&self, manifest: &Manifest, tag: Option<&Tag>) -> Result<()> {
        match self {
            Self::Registry(place) => place.put_manifest(manifest, tag).await,
            Self::Disk(place) => place.put_manifest(manifest, tag).await,
        }
    }
    async fn mount(&self, blob: Digest, from: &RepoName) -> Result<bool> {
        match self {
            Self::Registry(place) => place.mount(blob, from).await,
            Self::Disk(_) => Ok(false),
        }
    }
    async fn came_from(&self, blob: Digest, origin: &Origin) -> Result<()> {
        match self {
            Self::Registry(place) => place.came_from(blob, origin).await,
            Self::Disk(place) => place.came_from(blob, origin).await,
        }
    }
    fn origin(&self) -> Option<Origin> {
        match self {
            Self::Registry(place) => place.origin(),
            Self::Disk(_) => None,
        }
    }
}
