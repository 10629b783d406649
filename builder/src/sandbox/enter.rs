//! Enters the namespaces in which the builder may mount and chown, and finds out what works there. Runs no command.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{WaitOptions, geteuid, waitpid};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities};
use serde::{Deserialize, Serialize};

use super::sys::{self, Fork};
use super::{Error, IdRangeRefusal, Refusal, idmap, overlay};

/// The inode number of the first user namespace (PROC_USER_INIT_INO in include/linux/proc_ns.h).
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Whom the builder can act as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The machine's root: every id exists.
    Root,
    /// Root in a user namespace with this many ids, 0 to `ids - 1`.
    Mapped {
        /// The number of ids.
        ids: u32,
    },
    /// Root in a user namespace with no other id: chown and RUN as another USER are impossible.
    SingleUid,
}

/// Where overlayfs keeps its marks in an upper directory: attributes whose names start with `trusted.overlay.` or
/// `user.overlay.` are its own and belong into no layer. A deleted name is a character device 0:0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overlay {
    /// `trusted.overlay.*`: the machine's root.
    Plain,
    /// `user.overlay.*`: user namespaces, from Linux 5.11.
    UserXattr,
}

impl Overlay {
    /// Names the attribute whose value `y` makes a directory of the upper tree opaque.
    pub fn opaque_xattr(self) -> &'static str {
        match self {
            Self::Plain => "trusted.overlay.opaque",
            Self::UserXattr => "user.overlay.opaque",
        }
    }
}

/// The /proc of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proc {
    /// Shows the processes of the step only.
    Fresh,
    /// The builder's own /proc, where the environment (a container) forbids a fresh one.
    Outer,
}

/// Proof that this process is where steps can run, and what it found there.
#[derive(Debug)]
pub struct Entered {
    /// Whom the builder can act as.
    pub mode: Mode,
    /// Which kind of overlayfs works.
    pub overlay: Overlay,
    /// The /proc that steps will have.
    pub proc: Proc,
    /// The directory below which the `upper` and `work` directories of steps must be made. It is the work directory given
    /// to [`enter`], or a tmpfs mounted in it, which only this process sees. The names `empty`, `memory` and `.probe-*`
    /// in it belong to the sandbox.
    pub steps: PathBuf,
    /// What the environment did not allow, to be told to the user once.
    pub refused: Vec<Refusal>,
    pub(super) empty: PathBuf,
    pub(super) setgroups: bool,
}

/// Enters a mount namespace of our own, and a user namespace unless we are root with CAP_SYS_ADMIN. `work` is an existing
/// directory of ours in which steps will keep their files. Afterwards this process is root in its namespace: it can chown
/// within [`Mode`], and mount. Takes a few milliseconds; not needed for Dockerfiles without RUN.
///
/// The process itself moves: no second process is left behind, signals and exit status are its own.
///
/// # Errors
/// [`Error::Threads`] when a thread was started before; [`Error::NoNamespaces`] and [`Error::NoOverlay`] when the
/// environment does not let us; [`Error::Work`].
pub fn enter(work: &Path) -> Result<Entered, Error> {
    single_threaded()?;
    let use_work = |source| Error::Work { path: work.to_owned(), source };
    let work = fs::canonicalize(work).map_err(use_work)?;
    let id_range = enter_namespaces()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| Error::NoNamespaces { source: e.into() })?;

    let mode = current_mode().map_err(|source| Error::NoNamespaces { source })?;
    let overlay = if first_user_namespace() { Overlay::Plain } else { Overlay::UserXattr };
    let mut refused = Vec::new();
    if mode == Mode::SingleUid {
        refused.push(Refusal::IdRange(id_range.unwrap_or(IdRangeRefusal::Inherited)));
    }
    let steps = place_for_steps(&work, overlay, &mut refused)?;
    let proc = match probe_fresh_proc() {
        Ok(()) => Proc::Fresh,
        Err(error) => {
            refused.push(Refusal::FreshProc(error));
            Proc::Outer
        }
    };
    let empty = steps.join("empty");
    fs::create_dir_all(&empty).map_err(use_work)?;
    Ok(Entered { mode, overlay, proc, steps, refused, empty, setgroups: setgroups_allowed() })
}

fn single_threaded() -> Result<(), Error> {
    let threads = fs::read_dir("/proc/self/task").map(Iterator::count);
    match threads.map_err(|source| Error::NoNamespaces { source })? {
        1 => Ok(()),
        threads => Err(Error::Threads(threads)),
    }
}

fn enter_namespaces() -> Result<Option<IdRangeRefusal>, Error> {
    let may = capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    if geteuid().is_root() && may.contains(CapabilitySet::SYS_ADMIN) {
        sys::unshare(UnshareFlags::NEWNS).map_err(|source| Error::NoNamespaces { source })?;
        return Ok(None);
    }
    idmap::enter_user_namespace()
}

fn first_user_namespace() -> bool {
    fs::metadata("/proc/self/ns/user").is_ok_and(|namespace| namespace.ino() == FIRST_USER_NAMESPACE)
}

/// A map of everything to itself is the machine's own, or as good.
fn current_mode() -> io::Result<Mode> {
    let ids = |file| idmap::id_map(file).map(|map| map.iter().fold(0u32, |sum, line| sum.saturating_add(line.2)));
    Ok(match ids("uid_map")?.min(ids("gid_map")?) {
        0 | 1 => Mode::SingleUid,
        u32::MAX => Mode::Root,
        ids => Mode::Mapped { ids },
    })
}

fn setgroups_allowed() -> bool {
    // Kernels without the file (before 3.19) have nothing to deny.
    fs::read_to_string("/proc/self/setgroups").map_or(true, |word| word.trim() != "deny")
}

/// Finds a directory that overlayfs can write to: the given one, else a tmpfs in it.
fn place_for_steps(work: &Path, kind: Overlay, refused: &mut Vec<Refusal>) -> Result<PathBuf, Error> {
    let Err(source) = overlay::probe(work, kind) else { return Ok(work.to_owned()) };
    let place = work.join("memory");
    let in_memory = (|| {
        fs::create_dir_all(&place)?;
        mount("tmpfs", &place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=700")?;
        overlay::probe(&place, kind)
    })();
    match in_memory {
        Ok(()) => {
            refused.push(Refusal::OverlayOnWork { path: work.to_owned(), source });
            Ok(place)
        }
        Err(tmpfs) => Err(Error::NoOverlay { path: work.to_owned(), source, tmpfs }),
    }
}

/// A fresh /proc needs a new pid namespace, so a child tries.
fn probe_fresh_proc() -> io::Result<()> {
    match sys::fork_into(libc::CLONE_NEWPID | libc::CLONE_NEWNS)? {
        Fork::Child => sys::exit(match mount("proc", "/proc", "proc", MountFlags::empty(), None) {
            Ok(()) => 0,
            Err(errno) => errno.raw_os_error(),
        }),
        Fork::Parent(child) => {
            let ended = rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()))?;
            match ended.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(()),
                errno => Err(io::Error::from_raw_os_error(errno.unwrap_or(libc::EPERM))),
            }
        }
    }
}
