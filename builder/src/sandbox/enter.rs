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
use super::{Error, IdRangeRefusal, Isolation, Refusal, Rung, idmap, overlay};

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
    /// None at all: nothing can be mounted.
    Absent,
}

/// Proof that this process is where steps can run, and what it found there.
#[derive(Debug)]
pub struct Entered {
    /// Where steps stand.
    pub rung: Rung,
    /// Whom the builder can act as.
    pub mode: Mode,
    /// Whether owners that cannot be given are recorded, so that commands find what they expect.
    pub records_owners: bool,
    /// Which kind of overlayfs works.
    pub overlay: Overlay,
    /// The /proc that steps will have.
    pub proc: Proc,
    /// The directory below which the directories of steps must be made: the work directory given to [`enter`]. The
    /// names
    /// `empty` and `.probe-*` in it belong to the sandbox.
    pub steps: PathBuf,
    /// What the environment did not allow, to be told to the user once.
    pub refused: Vec<Refusal>,
    pub(super) empty: PathBuf,
    pub(super) setgroups: bool,
}

/// Enters the best rung that is asked for and allowed: a mount namespace of our own, and a user namespace unless we are
/// root with CAP_SYS_ADMIN; or nothing at all where only chroot is left. `work` is an existing directory of ours in
/// which steps will keep their files. Afterwards this process can chown within [`Mode`]. Takes a few milliseconds; not
/// needed for Dockerfiles without RUN.
///
/// The process itself moves: no second process is left behind, signals and exit status are its own.
///
/// # Errors
/// [`Error::Threads`] when a thread was started before; [`Error::NoNamespaces`], [`Error::NoRung`], [`Error::NoChroot`]
/// and [`Error::NoOverlay`] when the environment does not let us; [`Error::Work`].
pub fn enter(work: &Path, isolation: Isolation) -> Result<Entered, Error> {
    single_threaded()?;
    let use_work = |source| Error::Work { path: work.to_owned(), source };
    let work = fs::canonicalize(work).map_err(use_work)?;
    let empty = work.join("empty");
    fs::create_dir_all(&empty).map_err(use_work)?;
    if isolation == Isolation::Chroot {
        return without_namespaces(work, empty, Vec::new());
    }
    match in_namespaces(&work, &empty, isolation) {
        Err(Error::NoNamespaces { source }) if isolation == Isolation::Auto => {
            let again = source.raw_os_error();
            let refused = vec![Refusal::Namespaces(source)];
            without_namespaces(work, empty, refused).map_err(|error| match error {
                Error::NoChroot { source: chroot } => {
                    let namespaces = io::Error::from_raw_os_error(again.unwrap_or(libc::EPERM));
                    Error::NoRung { namespaces, chroot }
                }
                error => error,
            })
        }
        entered => entered,
    }
}

fn in_namespaces(work: &Path, empty: &Path, isolation: Isolation) -> Result<Entered, Error> {
    let id_range = enter_namespaces()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| Error::NoNamespaces { source: e.into() })?;

    let mode = current_mode().map_err(|source| Error::NoNamespaces { source })?;
    let overlay = kind_of_overlay();
    let mut refused = Vec::new();
    let records_owners = mode == Mode::SingleUid && can_record(work, &mut refused);
    if mode == Mode::SingleUid {
        let reason = id_range.unwrap_or(IdRangeRefusal::Inherited);
        refused.insert(0, if records_owners { Refusal::Recorded(reason) } else { Refusal::IdRange(reason) });
    }
    let rung = match isolation {
        Isolation::Tree => Rung::Tree,
        _ => match overlay::probe(work, overlay) {
            Ok(()) => Rung::Overlay,
            Err(source) if isolation == Isolation::Auto => {
                refused.push(Refusal::OverlayOnWork { path: work.to_owned(), source });
                Rung::Tree
            }
            Err(source) => return Err(Error::NoOverlay { path: work.to_owned(), source }),
        },
    };
    let proc = match probe_fresh_proc() {
        Ok(()) => Proc::Fresh,
        Err(error) => {
            refused.push(Refusal::FreshProc(error));
            Proc::Outer
        }
    };
    let (steps, empty) = (work.to_owned(), empty.to_owned());
    let setgroups = setgroups_allowed();
    Ok(Entered { rung, mode, records_owners, overlay, proc, steps, refused, empty, setgroups })
}

/// The last rung: nothing is mounted, no namespace is new.
fn without_namespaces(work: PathBuf, empty: PathBuf, mut refused: Vec<Refusal>) -> Result<Entered, Error> {
    probe_chroot(&work).map_err(|source| Error::NoChroot { source })?;
    let ids = current_mode().map_err(|source| Error::NoChroot { source })?;
    let may = capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    let needed = CapabilitySet::CHOWN | CapabilitySet::SETUID | CapabilitySet::SETGID;
    let mode = if may.contains(needed) { ids } else { Mode::SingleUid };
    let records_owners = mode == Mode::SingleUid && can_record(&work, &mut refused);
    if mode == Mode::SingleUid {
        let reason = if ids == Mode::SingleUid { IdRangeRefusal::Inherited } else { IdRangeRefusal::NoCapabilities };
        refused.push(if records_owners { Refusal::Recorded(reason) } else { Refusal::IdRange(reason) });
    }
    refused.push(Refusal::Chroot);
    let (overlay, setgroups) = (kind_of_overlay(), setgroups_allowed());
    Ok(Entered {
        rung: Rung::Chroot,
        mode,
        records_owners,
        overlay,
        proc: Proc::Absent,
        steps: work,
        refused,
        empty,
        setgroups,
    })
}

/// Whether the kernel lets a supervisor answer system calls, and files can carry the record.
fn can_record(work: &Path, refused: &mut Vec<Refusal>) -> bool {
    let able = sys::can_notify().and_then(|()| probe_attributes(work));
    let is_able = able.is_ok();
    refused.extend(able.err().map(Refusal::NoRecord));
    is_able
}

fn probe_attributes(work: &Path) -> io::Result<()> {
    let file = tempfile_in(work)?;
    Ok(rustix::fs::fsetxattr(file, "user.lighter.owner", b"1:1", rustix::fs::XattrFlags::empty())?)
}

/// A file without a name.
fn tempfile_in(directory: &Path) -> io::Result<rustix::fd::OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open(directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))?)
}

/// The capability may be there and the call forbidden, so a child tries.
fn probe_chroot(directory: &Path) -> io::Result<()> {
    in_a_child(0, || rustix::process::chroot(directory))
}

fn kind_of_overlay() -> Overlay {
    if first_user_namespace() { Overlay::Plain } else { Overlay::UserXattr }
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

/// A fresh /proc needs a new pid namespace, so a child tries.
fn probe_fresh_proc() -> io::Result<()> {
    let fresh = || mount("proc", "/proc", "proc", MountFlags::empty(), None);
    in_a_child(libc::CLONE_NEWPID | libc::CLONE_NEWNS, fresh)
}

/// Makes one system call in a child, for its answer alone.
fn in_a_child(namespaces: libc::c_int, call: impl FnOnce() -> rustix::io::Result<()>) -> io::Result<()> {
    match sys::fork_into(namespaces)? {
        Fork::Child => sys::exit(call().map_or_else(|errno| errno.raw_os_error(), |()| 0)),
        Fork::Parent(child) => {
            let ended = rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()))?;
            match ended.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(()),
                errno => Err(io::Error::from_raw_os_error(errno.unwrap_or(libc::EPERM))),
            }
        }
    }
}
