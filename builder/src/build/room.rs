//! The directories of one running step, and what is left of steps whose process was killed.
//!
//! ```text
//! STEPS/step-PID-N.lock    held by the process that runs the step, for as long as it lives
//! STEPS/step-PID-N/        upper, work: the step's changes; pipes: its script, if it has one
//! ```
//!
//! The lock tells the living from the dead, also where process ids do not: between containers that
//! share a cache.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};

use super::StepProblem;
use crate::sandbox::remove_tree;

/// The directories of one step.
pub struct Room {
    path: PathBuf,
    lock: PathBuf,
    _held: File,
}

impl Room {
    /// Makes the directories.
    pub fn new(steps: &Path) -> Result<Self, StepProblem> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("step-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let (path, lock) = (steps.join(&name), steps.join(format!("{name}.lock")));
            let fail = |source| StepProblem::Disk { doing: format!("making {}", path.display()), source };
            let Some(held) = hold(&lock).map_err(fail)? else { continue };
            let room = Self { path: path.clone(), lock, _held: held };
            remove_tree(&room.path).map_err(fail)?; // a process of the same number was killed here once
            for directory in [room.path.clone(), room.upper(), room.work()] {
                fs::create_dir(&directory).map_err(fail)?;
            }
            // The mode of `/` inside.
            fs::set_permissions(room.upper(), Permissions::from_mode(0o755)).map_err(fail)?;
            return Ok(room);
        }
    }

    /// The directory that holds all of them.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the changes of the step come to lie.
    pub fn upper(&self) -> PathBuf {
        self.path.join("upper")
    }

    /// For overlayfs alone.
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// For a copy of the changes that is kept as an unpacked layer.
    pub fn kept(&self) -> PathBuf {
        self.path.join("kept")
    }

    /// Writes a script into a directory of its own.
    pub fn script(&self, name: &str, text: &str) -> Result<PathBuf, StepProblem> {
        let directory = self.path.join("pipes");
        let unsafe_name = name.contains('/') || name == "." || name == ".." || name.is_empty();
        if unsafe_name {
            return Err(StepProblem::Unsupported(format!("a script heredoc with the name {name:?}")));
        }
        let file = directory.join(name);
        let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o755));
        let made = fs::create_dir(&directory)
            .and_then(|()| fs::write(&file, text))
            .and_then(|()| open(&file))
            .and_then(|()| open(&directory));
        made.map_err(|source| StepProblem::Disk { doing: format!("writing {}", file.display()), source })?;
        Ok(directory)
    }

    /// Removes the directories.
    pub fn remove(&self) -> Result<(), StepProblem> {
        let removed = remove_tree(&self.path).and_then(|()| fs::remove_file(&self.lock));
        removed.map_err(|source| StepProblem::Disk { doing: format!("removing {}", self.path.display()), source })
    }
}

/// Makes and locks a lock file; `None` if a sweep took it away in between.
fn hold(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    let ours = file.metadata()?;
    let is_there = fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
    Ok(is_there.then_some(file))
}

/// Removes what steps left whose process was killed. Best effort: what cannot be removed costs room,
/// and the next build tries again.
pub fn sweep(steps: &Path) {
    for entry in fs::read_dir(steps).into_iter().flatten().flatten() {
        let lock = entry.path();
        if !entry.file_name().to_string_lossy().starts_with("step-")
            || lock.extension().is_none_or(|kind| kind != "lock")
        {
            continue;
        }
        let Ok(file) = File::open(&lock) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue; // its process lives
        }
        let removed = remove_tree(&lock.with_extension("")).and_then(|()| fs::remove_file(&lock));
        if let Err(error) = removed {
            tracing::debug!(%error, path = %lock.display(), "the leavings of a killed step stay");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_are_swept_and_the_living_left_alone() {
        let steps = tempfile::tempdir().unwrap();
        let living = Room::new(steps.path()).unwrap();
        let dead = Room::new(steps.path()).unwrap();
        fs::write(dead.upper().join("file"), "half").unwrap();
        let path = dead.path.clone();
        drop(dead); // what a killed process holds is let go by the kernel
        sweep(steps.path());
        assert!(!path.exists() && living.upper().exists());
        living.remove().unwrap();
        assert_eq!(fs::read_dir(steps.path()).unwrap().count(), 0);
    }
}
