//! Mount points that an image lacks: made before the step, removed after it, by BuildKit's rules, so that the layer shows
//! the same traces. All paths are resolved inside the current root, which is the image's, before /proc is mounted there,
//! so that no link can lead outside.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

/// As many symbolic links as the kernel itself follows.
const LINK_LIMIT: usize = 40;

/// The mount points that did not exist, children before parents.
#[derive(Debug, Default)]
pub(super) struct Stubs(Vec<PathBuf>);

/// What a mount point must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
}

impl Stubs {
    /// Notes what is missing of `target` before it is made.
    pub(super) fn note(&mut self, target: &Path) -> io::Result<()> {
        let real = resolve(target)?;
        let missing = real.ancestors().take_while(|path| is_missing(path));
        self.0.extend(missing.map(Path::to_owned));
        Ok(())
    }

    /// Removes the stubs that are still empty. The directory around each keeps the time it got when the stub was made.
    pub(super) fn remove(&self) {
        for stub in &self.0 {
            // What the step has filled, replaced or removed is its own now.
            let _ = remove_empty(stub);
        }
    }
}

/// Makes `real` and its parents with mode 0755, or 0644 for a file, unless it exists.
pub(super) fn make(real: &Path, kind: Kind) -> io::Result<()> {
    let mut directories = DirBuilder::new();
    directories.recursive(true).mode(0o755);
    match kind {
        Kind::Directory => directories.create(real),
        Kind::File if is_missing(real) => {
            directories.create(real.parent().unwrap_or(Path::new("/")))?;
            OpenOptions::new().write(true).create_new(true).mode(0o644).open(real).map(drop)
        }
        Kind::File => Ok(()),
    }
}

fn is_missing(path: &Path) -> bool {
    let lost = |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    fs::symlink_metadata(path).is_err_and(|error| lost(&error))
}

fn remove_empty(stub: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(stub)?;
    if !found.is_dir() && found.len() > 0 {
        return Ok(());
    }
    let parent = stub.parent().unwrap_or(Path::new("/"));
    let around = fs::symlink_metadata(parent)?;
    match found.is_dir() {
        true => fs::remove_dir(stub)?, // fails unless empty
        false => fs::remove_file(stub)?,
    }
    let time = |sec, nsec| Timespec { tv_sec: sec, tv_nsec: nsec };
    let times = Timestamps {
        last_access: time(around.atime(), around.atime_nsec() as _),
        last_modification: time(around.mtime(), around.mtime_nsec() as _),
    };
    Ok(utimensat(CWD, parent, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Follows all symbolic links of `path`, also where what they point to does not exist yet.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut real = PathBuf::from("/");
    let mut rest: Vec<PathBuf> = vec![path.to_owned()];
    let mut links = 0;
    while let Some(next) = rest.pop() {
        let mut components = next.components();
        let Some(first) = components.next() else { continue };
        rest.push(components.as_path().to_owned());
        match first {
            Component::RootDir => real = PathBuf::from("/"),
            Component::ParentDir => {
                real.pop();
            }
            Component::CurDir | Component::Prefix(_) => {}
            Component::Normal(name) => match fs::read_link(real.join(name)) {
                Ok(target) => {
                    links += 1;
                    if links > LINK_LIMIT {
                        return Err(io::Error::from_raw_os_error(libc::ELOOP));
                    }
                    rest.push(target);
                }
                Err(_) => real.push(name), // no link: a file, a directory, or nothing
            },
        }
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_even_to_what_does_not_exist() {
        let home = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(home.path()).unwrap();
        symlink("b/../c", home.join("a")).unwrap();
        symlink("/nowhere/at/all", home.join("gone")).unwrap();
        symlink("loop", home.join("loop")).unwrap();
        assert_eq!(resolve(&home.join("a/x")).unwrap(), home.join("c/x"));
        assert_eq!(resolve(&home.join("gone/hosts")).unwrap(), Path::new("/nowhere/at/all/hosts"));
        assert_eq!(resolve(Path::new("/../../x/./y")).unwrap(), Path::new("/x/y"));
        assert_eq!(resolve(&home.join("loop")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn stubs_vanish_unless_used_and_the_directory_keeps_its_time() {
        let home = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(home.path()).unwrap();
        let (unused, used) = (home.join("etc/deep/hosts"), home.join("used"));
        let mut stubs = Stubs::default();
        for path in [&unused, &used] {
            stubs.note(path).unwrap();
            make(path, Kind::File).unwrap();
        }
        fs::write(&used, "content").unwrap();
        let before = fs::metadata(&home).unwrap().modified().unwrap();
        stubs.remove();
        assert!(!home.join("etc").exists() && used.exists());
        assert_eq!(fs::metadata(&home).unwrap().modified().unwrap(), before);
    }
}
