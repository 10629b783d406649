//! The root file system of a step where nothing can be mounted and no namespace is new: the plain tree becomes the root
//! directory by chroot(2), and what would be mounted over it is moved into it, and moved out again after the step.
//!
//! The same order protects as in `root`: after chroot our absolute names lead into the tree only, and relative names
//! lead outside, because the old root stays the current directory. The command gets neither that directory nor
//! CAP_SYS_CHROOT, so it has no way out.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev, mknodat, utimensat};
use rustix::process::{chdir, chroot, umask};

use super::root::{DEVICE_LINKS, DEVICES, hosts, make_base_directory, note_mount_points, outside, working_directory};
use super::stubs::{self, Kind, Stubs};
use super::wire::{Doing, Failure, Spec};
use super::{Mount, Step};

/// A prepared tree, which is also the root of this process.
pub(super) struct Bare {
    cwd: OwnedFd,
    stubs: Stubs,
    covers: Covers,
}

impl Bare {
    /// Moves this process into the tree of a step and puts in it what the step needs.
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Failure> {
        let step = &spec.step;
        let tree = step.tree.as_deref().unwrap_or(&step.upper);
        umask(Mode::empty());
        chdir("/").doing(|| "entering /".to_owned())?;
        let mut covers = Covers { room: outside(tree.parent().unwrap_or(Path::new("/"))), places: Vec::new() };
        chroot(tree).doing(|| format!("changing the root to {}", tree.display()))?;
        let mut stubs = Stubs::default();
        note_mount_points(&mut stubs, step)?;
        match covers.all(step, &spec.resolv_conf) {
            Ok(cwd) => Ok(Self { cwd, stubs, covers }),
            Err(failure) => {
                covers.lift();
                Err(failure)
            }
        }
    }

    /// Borrows the working directory of the command.
    pub(super) fn cwd(&self) -> BorrowedFd<'_> {
        self.cwd.as_fd()
    }

    /// Moves everything out that was moved in. The command and all it started are dead.
    pub(super) fn leave(mut self) {
        drop(self.cwd);
        self.covers.lift();
        self.stubs.remove();
    }
}

/// What was moved into the tree. Covered things wait in the room, the directory that holds the tree.
struct Covers {
    room: PathBuf,
    places: Vec<Cover>,
}

struct Cover {
    real: PathBuf,
    /// What was there.
    aside: PathBuf,
    /// Where what was put there goes back to; otherwise it is left in the room.
    home: PathBuf,
}

impl Covers {
    fn all(&mut self, step: &Step, resolv_conf: &[u8]) -> Result<OwnedFd, Failure> {
        for path in ["/sys", "/dev", "/proc"] {
            make_base_directory(path)?;
            let new = self.new_place();
            let made = fs::create_dir(&new).and_then(|()| fs::set_permissions(&new, Permissions::from_mode(0o755)));
            made.and_then(|()| self.cover(path.into(), &new, None)).doing(|| format!("covering {path}"))?;
        }
        devices()?;
        for (target, content) in [("/etc/resolv.conf", resolv_conf), ("/etc/hosts", &hosts(step))] {
            self.file(Path::new(target), content, 0o644, (0, 0)).doing(|| format!("covering {target}"))?;
        }
        for mount in &step.mounts {
            self.mount(mount).doing(|| format!("putting what was asked for at {}", mount.target().display()))?;
        }
        working_directory(&step.cwd)
    }

    fn new_place(&self) -> PathBuf {
        self.room.join(format!("cover-{}", self.places.len()))
    }

    /// Moves `source` to `real`, which exists.
    fn cover(&mut self, real: PathBuf, source: &Path, home: Option<&Path>) -> io::Result<()> {
        let aside = self.room.join(format!("covered-{}", self.places.len()));
        let around = Times::of(parent(&real))?;
        fs::rename(&real, &aside)?;
        let home = home.map_or_else(|| self.room.join(format!("used-{}", self.places.len())), Path::to_owned);
        self.places.push(Cover { real: real.clone(), aside, home });
        fs::rename(source, &real)?;
        around.restore(parent(&real))
    }

    fn file(&mut self, target: &Path, content: &[u8], mode: u32, owner: (u32, u32)) -> io::Result<()> {
        let source = self.new_place();
        fs::write(&source, content)?;
        if owner != (0, 0) {
            chown(&source, Some(owner.0), Some(owner.1))?;
        }
        fs::set_permissions(&source, Permissions::from_mode(mode & 0o7777))?;
        let real = stubs::resolve(target)?;
        stubs::make(&real, Kind::File)?;
        self.cover(real, &source, None)
    }

    fn mount(&mut self, mount: &Mount) -> io::Result<()> {
        match mount {
            Mount::Bind { source, target, .. } => {
                let source = outside(source);
                let kind = if fs::metadata(&source)?.is_dir() { Kind::Directory } else { Kind::File };
                let real = stubs::resolve(target)?;
                stubs::make(&real, kind)?;
                self.cover(real, &source, Some(&source))
            }
            Mount::Tmpfs { target, .. } => {
                let new = self.new_place();
                fs::create_dir(&new)?;
                fs::set_permissions(&new, Permissions::from_mode(0o1777))?;
                let real = stubs::resolve(target)?;
                stubs::make(&real, Kind::Directory)?;
                self.cover(real, &new, None)
            }
            Mount::Secret { target, content, mode, uid, gid } => {
                self.file(target, content.reveal(), *mode, (*uid, *gid))
            }
        }
    }

    /// Puts everything back, the last one first. What the step has removed or moved is gone, as its own files are.
    fn lift(&mut self) {
        for cover in self.places.drain(..).rev() {
            let around = Times::of(parent(&cover.real));
            let _ = fs::rename(&cover.real, &cover.home);
            let _ = fs::rename(&cover.aside, &cover.real); // the directory around it may be gone, and it with that
            if let Ok(around) = around {
                let _ = around.restore(parent(&cover.real)); // it was there a moment ago
            }
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// The times of a directory, which moving things in and out must not change.
struct Times(Timestamps);

impl Times {
    fn of(directory: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(directory)?;
        let time = |sec, nsec| Timespec { tv_sec: sec, tv_nsec: nsec };
        Ok(Self(Timestamps {
            last_access: time(found.atime(), found.atime_nsec() as _),
            last_modification: time(found.mtime(), found.mtime_nsec() as _),
        }))
    }

    fn restore(&self, directory: &Path) -> io::Result<()> {
        Ok(utimensat(CWD, directory, &self.0, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// What a new /dev holds here: the nodes, and the names that lead to /proc where there is one.
fn devices() -> Result<(), Failure> {
    for (name, major, minor) in DEVICES {
        let path = Path::new("/dev").join(name);
        let made = mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor));
        made.doing(|| format!("making {}", path.display()))?;
    }
    for (name, target) in DEVICE_LINKS.iter().filter(|(name, _)| *name != "ptmx") {
        symlink(target, Path::new("/dev").join(name)).doing(|| format!("making /dev/{name}"))?;
    }
    let shm = Path::new("/dev/shm");
    let made = fs::create_dir(shm).and_then(|()| fs::set_permissions(shm, Permissions::from_mode(0o1777)));
    made.doing(|| "making /dev/shm".to_owned())
}
