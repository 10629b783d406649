//! `RUN --mount=type=cache`: directories that are kept between builds, and the locks that several
//! builds at once need. What is in them is in no key and no layer.
//!
//! A cache is found by a hash of all that makes it another one (id, owner, mode, what it begins with),
//! so that an id names no path.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci::Digest;
use rustix::fs::{FlockOperation, flock};

use super::error::StepProblem;
use super::layers::lock;
use super::mounts;
use super::room::Room;
use super::steps::Builder;
use crate::cache::merge;
use crate::cache::mounts::{Import, Local, Tree, Used, remember_shared, shared};
use crate::dockerfile::{Mount, MountKind, Sharing};
use crate::event::Event;
use crate::layer::unpack;
use crate::plan::{Origin, RunStep};
use crate::sandbox::{Cancel, Entered, Rung};

/// How often a cache that somebody else holds is asked for again.
const PATIENCE: Duration = Duration::from_millis(50);

/// Whether a cache begins with files of the context, a stage or an image.
pub(super) fn has_start(mount: &Mount) -> bool {
    mount.from.is_some() || mount.source.as_deref().is_some_and(|source| !source.is_empty())
}

/// The directories of the caches of a step, by the number of their mount, and the locks to hold.
///
/// All locks are taken in the order of the names, and each once, so that no two steps wait for each other
/// and none for itself.
pub(super) fn open(
    builder: &mut Builder<'_>,
    step: &RunStep,
    sandbox: &Entered,
) -> Result<(HashMap<usize, PathBuf>, Vec<File>), StepProblem> {
    let mut wanted: BTreeMap<PathBuf, (Digest, Vec<usize>)> = BTreeMap::new();
    for (number, (mount, origin)) in step.mounts.iter().enumerate() {
        if mount.kind == MountKind::Cache {
            let name = name(builder, mount, origin.as_ref())?;
            let (ownership, marks) = builder.layers.kept(sandbox);
            let place = builder.layers.cache.mount(&name, ownership, marks)?;
            let used = Used { place: place.clone(), ownership, marks };
            lock(&builder.shared.mounts).insert(name, used);
            wanted.entry(place).or_insert_with(|| (name, Vec::new())).1.push(number);
        }
    }
    let (mut places, mut locks) = (HashMap::new(), Vec::new());
    for (place, (name, numbers)) in wanted {
        let sharings = numbers.iter().map(|number| step.mounts[*number].0.sharing.unwrap_or(Sharing::Shared));
        let sharing = match (sandbox.rung, strictest(sharings)) {
            (Rung::Chroot, Sharing::Shared) => Sharing::Locked, // it is moved to the step, and cannot be in two places
            (_, sharing) => sharing,
        };
        let (place, lock) = hold(builder, &place, sharing)?;
        locks.push(lock);
        let (mount, origin) = &step.mounts[numbers[0]];
        if !place.is_dir() {
            let room = Room::new(&builder.workshop.cache.work())?;
            let made = make(builder, &name, mount, origin.as_ref(), sandbox, &room, &place);
            let removed = room.remove();
            made?;
            removed?;
        } else if !builder.request.mount_imports.is_empty() {
            let room = Room::new(&builder.workshop.cache.work())?;
            take_in(builder, &name, mount, sandbox, &room, &place)?;
            room.remove()?;
        }
        places.extend(numbers.into_iter().map(|number| (number, place.clone())));
    }
    Ok((places, locks))
}

/// Caches with another owner, mode or beginning are other caches, as in BuildKit.
fn name(builder: &mut Builder<'_>, mount: &Mount, origin: Option<&Origin>) -> Result<Digest, StepProblem> {
    let id = mount.cache_id();
    let mut key = format!("{id}\n{:?}\n{:?}\n{:?}", mount.uid, mount.gid, mount.mode);
    if has_start(mount) {
        key.push_str(&format!("\n{}", mounts::content(builder, mount, origin)?));
    }
    Ok(Digest::of(key.as_bytes()))
}

fn strictest(sharings: impl Iterator<Item = Sharing>) -> Sharing {
    sharings.fold(Sharing::Shared, |all, one| match (all, one) {
        (Sharing::Locked, _) | (_, Sharing::Locked) => Sharing::Locked,
        (Sharing::Private, _) | (_, Sharing::Private) => Sharing::Private,
        (Sharing::Shared, Sharing::Shared) => Sharing::Shared,
    })
}

/// Locks a cache. Of a private one there are as many as are used at a time; the first free one is it.
fn hold(builder: &Builder<'_>, place: &Path, sharing: Sharing) -> Result<(PathBuf, File), StepProblem> {
    let operation = match sharing {
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
        Sharing::Locked | Sharing::Private => FlockOperation::NonBlockingLockExclusive,
    };
    let mut chosen = place.to_owned();
    let mut others: u64 = 0;
    loop {
        let lock = File::create(chosen.with_extension("lock")).map_err(disk(&chosen))?;
        match flock(&lock, operation) {
            Ok(()) => return Ok((chosen, lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(disk(&chosen)(error.into())),
        }
        builder.layers.check_cancelled()?;
        if sharing == Sharing::Private {
            others += 1;
            let mut name = place.file_name().unwrap_or_default().to_owned();
            name.push(format!("-{others}"));
            chosen = place.with_file_name(name);
        } else {
            std::thread::sleep(PATIENCE);
        }
    }
}

/// Makes a cache aside, and puts it in its place whole.
fn make(
    builder: &mut Builder<'_>,
    name: &Digest,
    mount: &Mount,
    origin: Option<&Origin>,
    sandbox: &Entered,
    room: &Room,
    place: &Path,
) -> Result<(), StepProblem> {
    let aside = room.path().join("cache");
    let mut theirs = None;
    let made = if let Some((files, name)) = imported(builder, name, mount, sandbox, room)? {
        theirs = Some(name);
        files
    } else if has_start(mount) {
        let files = mounts::files(builder, mount, origin, sandbox, &aside)?;
        if !files.is_dir() {
            let source = mount.source.as_deref().unwrap_or_default();
            return Err(StepProblem::Unsupported(format!("a cache that begins with {source}, which is no directory,")));
        }
        files
    } else {
        empty(mount, sandbox, &aside).map_err(disk(&aside))?;
        aside
    };
    match fs::rename(&made, place) {
        // Somebody else who shares it was faster.
        Err(_) if place.is_dir() => Ok(()),
        renamed => {
            renamed.map_err(disk(place))?;
            theirs.map_or(Ok(()), |theirs| remember_shared(place, &theirs)).map_err(disk(place))
        }
    }
}

/// The files of a mount as another machine has left them. What cannot be had, or is damaged, is told and not there.
fn imported(
    builder: &Builder<'_>,
    name: &Digest,
    mount: &Mount,
    sandbox: &Entered,
    room: &Room,
) -> Result<Option<(PathBuf, Digest)>, StepProblem> {
    for (number, import) in builder.request.mount_imports.iter().enumerate() {
        let Some(theirs) = import.document.mounts.get(name).map(Tree::name) else { continue };
        let Some(tar) = import.open(name, None) else { continue };
        let place = room.path().join(format!("import-{number}"));
        if let Some(root) = unpacked(builder, import, mount, tar, sandbox, &place)? {
            give(mount, sandbox, &root).map_err(disk(&root))?;
            return Ok(Some((root, theirs)));
        }
    }
    Ok(None)
}

/// The files of a mount of somebody else; what is wrong with them is told.
fn unpacked(
    builder: &Builder<'_>,
    import: &Import,
    mount: &Mount,
    tar: impl Read,
    sandbox: &Entered,
    place: &Path,
) -> Result<Option<PathBuf>, StepProblem> {
    let stopping = Stopping { tar, cancel: builder.workshop.cancel };
    let unpacked = unpack::unpack(stopping, place, &builder.layers.unpacking(sandbox));
    builder.layers.check_cancelled()?; // a cancelled read looks like a failed one
    match unpacked {
        Ok(unpacked) => Ok(Some(unpacked.root)),
        Err(error) => {
            warn(builder, import, mount, &error);
            Ok(None)
        }
    }
}

fn warn(builder: &Builder<'_>, import: &Import, mount: &Mount, error: &dyn std::fmt::Display) {
    let target = mount.target.as_deref().unwrap_or_default();
    let message = format!("the cache mount {target} of {} cannot be used: {error}", import.name);
    builder.event(Event::Warning { rule: None, span: None, message });
}

/// Puts into a mount that is here what others have put into theirs since it was last taken from there: files that are
/// not here. Everything that is here stays. Whatever is wrong with theirs is told, and the mount is as it was.
fn take_in(
    builder: &Builder<'_>,
    name: &Digest,
    mount: &Mount,
    sandbox: &Entered,
    room: &Room,
    place: &Path,
) -> Result<(), StepProblem> {
    for (number, import) in builder.request.mount_imports.iter().enumerate() {
        let Some(theirs) = import.document.mounts.get(name).map(Tree::name) else { continue };
        if shared(place) == Some(theirs) {
            continue;
        }
        let (ownership, marks) = builder.layers.kept(sandbox);
        let ours = Used { place: place.to_owned(), ownership, marks };
        // One that cannot be read as a tar (it may change just now) is only not looked into for what is there already.
        let local = ours.tar(&builder.workshop.cache.work()).and_then(Local::new).ok();
        let Some(tar) = import.open(name, local) else { continue };
        let aside = room.path().join(format!("theirs-{number}"));
        if let Some(root) = unpacked(builder, import, mount, tar, sandbox, &aside)? {
            match merge::missing(&root, place) {
                Ok(count) => {
                    tracing::debug!(count, place = %place.display(), "files of others came into a cache mount");
                    remember_shared(place, &theirs).map_err(disk(place))?;
                }
                Err(error) => warn(builder, import, mount, &error),
            }
        }
    }
    Ok(())
}

/// A tar that is read until the build is cancelled.
struct Stopping<'a, R> {
    tar: R,
    cancel: &'a Cancel,
}

impl<R: Read> Read for Stopping<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.tar.read(buffer)
    }
}

fn empty(mount: &Mount, sandbox: &Entered, path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    give(mount, sandbox, path)
}

/// Owner and mode of the directory itself.
fn give(mount: &Mount, sandbox: &Entered, path: &Path) -> io::Result<()> {
    if let Some((uid, gid)) = mounts::owner(mount, sandbox) {
        chown(path, Some(uid), Some(gid))?;
    }
    fs::set_permissions(path, Permissions::from_mode(mount.mode.unwrap_or(0o755) & 0o7777))
}

fn disk(place: &Path) -> impl FnOnce(io::Error) -> StepProblem {
    let doing = format!("preparing the cache mount in {}", place.display());
    |source| StepProblem::Disk { doing, source }
}
