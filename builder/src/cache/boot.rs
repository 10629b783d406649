//! Unpacked layers are written without waiting for the disk, so after a power cut they may be anything.
//! They are therefore kept per boot of the machine: what another boot has left is never looked at, and
//! removed when nobody has used it for a week (it may belong to another machine that shares the cache).
//!
//! ```text
//! roots/<boot id>/used      locked (shared) by who uses it; its time says when it was last opened
//! roots/<boot id>/<kind>/   see `cache`
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};

use crate::sandbox::remove_tree;

/// The roots of other boots go when nobody has used them for so long.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The roots of this boot, held.
#[derive(Debug)]
pub(super) struct Boot {
    path: PathBuf,
    _held: File,
}

impl Boot {
    /// Opens the roots of the boot with this name below `roots`.
    pub(super) fn open(roots: &Path, name: &str) -> io::Result<Self> {
        let path = roots.join(name);
        loop {
            fs::create_dir_all(&path)?;
            let used = path.join("used");
            let held = match File::options().create(true).truncate(false).write(true).open(&used) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // swept just now
                opened => opened?,
            };
            flock(&held, FlockOperation::LockShared)?;
            let ours = held.metadata()?;
            if fs::metadata(&used).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                held.set_modified(SystemTime::now())?;
                return Ok(Self { path, _held: held });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what other boots left and nobody has used for a week. Best effort: what cannot be removed
    /// costs room only.
    pub(super) fn sweep(&self) {
        let roots = self.path.parent().unwrap_or(Path::new("/"));
        for entry in fs::read_dir(roots).into_iter().flatten().flatten() {
            if entry.path() != self.path
                && let Err(error) = remove_if_old(&entry.path())
            {
                tracing::debug!(%error, path = %entry.path().display(), "the roots of another boot stay");
            }
        }
    }
}

fn remove_if_old(path: &Path) -> io::Result<()> {
    let is_gone = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".gone-"));
    if is_gone {
        return remove_tree(path); // somebody was killed while he removed it
    }
    let Ok(used) = File::open(path.join("used")) else {
        return remove_if_unused_since(path, fs::metadata(path)?.modified()?);
    };
    if flock(&used, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(()); // in use
    }
    remove_if_unused_since(path, used.metadata()?.modified()?)
}

fn remove_if_unused_since(path: &Path, time: SystemTime) -> io::Result<()> {
    if time.elapsed().is_ok_and(|age| age > KEPT) {
        // Whoever waits for the lock finds the name gone, and begins anew.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let gone = path.with_file_name(format!(".gone-{name}-{}", std::process::id()));
        fs::rename(path, &gone)?;
        remove_tree(&gone)?;
    }
    Ok(())
}

/// The name of this boot of the machine. Where the kernel does not tell it, a name that never comes again.
pub(super) fn name() -> String {
    let told = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let is_id = |text: &str| text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    match told.trim() {
        id if is_id(id) => id.to_owned(),
        _ => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            format!("unknown-{}-{}", std::process::id(), now.as_nanos())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_boots_go_when_nobody_has_used_them_for_long() {
        let roots = tempfile::tempdir().unwrap();
        let ours = Boot::open(roots.path(), "ours").unwrap();
        let old = SystemTime::now() - KEPT - Duration::from_secs(60);
        let make_old = |boot: &Boot| boot._held.set_modified(old).unwrap();
        let held = Boot::open(roots.path(), "held").unwrap();
        make_old(&held);
        make_old(&ours);
        for name in ["old", "recent"] {
            let boot = Boot::open(roots.path(), name).unwrap();
            fs::create_dir_all(boot.path().join("root/layer")).unwrap();
            fs::write(boot.path().join("root/layer/file"), "").unwrap();
            if name == "old" {
                make_old(&boot);
            }
        }
        fs::create_dir(roots.path().join(".gone-x-1")).unwrap();
        ours.sweep();
        let mut left: Vec<_> = fs::read_dir(roots.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["held", "ours", "recent"]);
    }

    #[test]
    fn a_boot_has_one_name() {
        assert_eq!(name(), name());
        assert!(!name().contains('/'));
    }
}
