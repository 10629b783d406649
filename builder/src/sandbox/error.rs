//! What can go wrong in the sandbox, and what an environment refuses. A command that ends with a failure is not an
//! error here: it is an [`Exit`](super::Exit).

use std::io;
use std::path::PathBuf;

use super::LAYER_LIMIT;

/// Why no sandbox could be made or why a step could not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `enter` was called too late: namespaces can only be entered by a process with one thread.
    #[error("the sandbox must be entered before threads are started, but this process has {0}")]
    Threads(usize),
    /// The environment forbids the namespaces that a RUN needs.
    #[error(
        "RUN needs new namespaces and this environment refuses them ({source}); as an ordinary user check \
         `sysctl user.max_user_namespaces kernel.unprivileged_userns_clone` and, on Ubuntu, \
         `kernel.apparmor_restrict_unprivileged_userns`; in a container allow `unshare` (seccomp=unconfined), or build \
         as root with CAP_SYS_ADMIN"
    )]
    NoNamespaces {
        /// The kernel's own words.
        source: io::Error,
    },
    /// overlayfs does not work on the work directory, and nothing else was asked for.
    #[error("overlayfs cannot be mounted on {} ({source}); use a work directory on ext4, xfs, btrfs or tmpfs and Linux 5.11 or later when not root, or --isolation=tree", path.display())]
    NoOverlay {
        /// The work directory.
        path: PathBuf,
        /// What the kernel said about it.
        source: io::Error,
    },
    /// Neither namespaces nor chroot.
    #[error(
        "RUN needs new namespaces and this environment refuses them ({namespaces}), and it refuses chroot too ({chroot}); \
         in a container run the build as root, which needs CAP_SYS_CHROOT only, or allow `unshare` \
         (seccomp=unconfined); as an ordinary user check `sysctl user.max_user_namespaces \
         kernel.unprivileged_userns_clone` and, on Ubuntu, `kernel.apparmor_restrict_unprivileged_userns`"
    )]
    NoRung {
        /// What the kernel said about namespaces.
        namespaces: io::Error,
        /// What it said about chroot.
        chroot: io::Error,
    },
    /// chroot was asked for, and is refused.
    #[error("chroot is refused ({source}); it needs CAP_SYS_CHROOT, which root has in most containers")]
    NoChroot {
        /// The kernel's own words.
        source: io::Error,
    },
    /// A step asks for what this rung cannot give.
    #[error("{what} is not possible here, where steps run in {rung}; {remedy}")]
    BeyondRung {
        /// What was asked for.
        what: &'static str,
        /// Where steps run.
        rung: super::Rung,
        /// What to do.
        remedy: &'static str,
    },
    /// The work directory cannot be used.
    #[error("cannot use {} as work directory: {source}", path.display())]
    Work {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More lower layers than overlayfs takes.
    #[error(
        "the root file system has {0} layers and overlayfs takes at most {LAYER_LIMIT}; merge some layers of the base image or some RUN steps"
    )]
    TooManyLayers(usize),
    /// A part of the step cannot be given to the kernel.
    #[error("the step cannot run: {0}")]
    BadStep(&'static str),
    /// The process of the step could not be started.
    #[error("cannot start the process of a RUN step: {0}")]
    Start(#[source] io::Error),
    /// Something on the way to the command failed inside the new namespaces.
    #[error("cannot prepare the root file system of the RUN step: {doing}: {source}")]
    Setup {
        /// What was being done, for people.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The command could not be executed.
    #[error("exec: {program:?}: {why}")]
    Exec {
        /// The first word of the command.
        program: String,
        /// The reason.
        why: ExecFailure,
    },
    /// The step was cancelled; no process of it is left.
    #[error("the RUN step was cancelled")]
    Cancelled,
    /// The init process of the step was killed from outside (for instance: out of memory).
    #[error("the RUN step was killed by signal {0} from outside; the machine may be out of memory")]
    Killed(i32),
    /// The init process of the step broke off without an answer.
    #[error("the sandbox broke off without an answer (exit status {0})")]
    Broken(i32),
    /// The output of the step could not be read.
    #[error("cannot read the output of the RUN step: {0}")]
    Output(#[source] io::Error),
}

/// Why the kernel did not execute the command of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExecFailure {
    /// No such program on the PATH.
    #[error("not found in PATH of the image")]
    NotInPath,
    /// No such file.
    #[error(
        "no such file in the image; a shell-form RUN needs /bin/sh, use the exec form RUN [\"program\", \"argument\"] in images without it"
    )]
    Missing,
    /// The file is there, but its interpreter (`#!`) or dynamic loader is not.
    #[error("the file exists, but its interpreter or dynamic loader does not exist in the image")]
    NoInterpreter,
    /// The file is no program for this machine.
    #[error("exec format error: built for another architecture, or a script without #!")]
    Format,
    /// Not executable for this user.
    #[error("permission denied")]
    Denied,
    /// Something else.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Errno(i32),
}

impl ExecFailure {
    /// Returns the exit status that a shell gives for the same failure: 127 not found, 126 not executable.
    pub fn status(self) -> u8 {
        match self {
            Self::NotInPath | Self::Missing | Self::NoInterpreter => 127,
            Self::Format | Self::Denied | Self::Errno(_) => 126,
        }
    }
}

/// Something the environment did not allow although the sandbox works without it; worth one line to the user.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Only one uid is mapped.
    #[error(
        "only one user id is available, so RUN as another USER and chown cannot work ({0}); install the package uidmap and give this user a range in /etc/subuid and /etc/subgid"
    )]
    IdRange(#[source] IdRangeRefusal),
    /// Only one uid is mapped, and a supervisor answers for the others.
    #[error(
        "only one user id is available ({0}), so owners are recorded beside the files: chown, USER and su give the image its right owners, but files of other users stay accessible to all steps, setuid programs change nobody, and 32-bit programs see no owners; for real ids install the package uidmap and give this user a range in /etc/subuid and /etc/subgid"
    )]
    Recorded(#[source] IdRangeRefusal),
    /// Owners cannot be recorded.
    #[error("owners cannot be recorded here either: {0}")]
    NoRecord(#[source] io::Error),
    /// No new namespaces.
    #[error("new namespaces are not allowed here ({0})")]
    Namespaces(#[source] io::Error),
    /// Steps run in a chroot.
    #[error(
        "RUN steps run in a chroot: they share this container's processes, host name, network and system call filter, and have no /proc, /sys and /dev/pts; secrets are files on the disk while their step runs"
    )]
    Chroot,
    /// The work directory cannot hold an overlay.
    #[error("overlayfs cannot use {} ({source}), so RUN steps work on a plain tree, which is looked through after each; a directory on a volume would be faster", path.display())]
    OverlayOnWork {
        /// The directory that was refused.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// The steps see the outer /proc, in which they have other process ids.
    #[error("a fresh /proc is not allowed here ({0}), so RUN steps see the outer one")]
    FreshProc(#[source] io::Error),
}

/// Why no range of ids could be mapped.
#[derive(Debug, thiserror::Error)]
pub enum IdRangeRefusal {
    /// Neither the user's name nor its number stands in the file.
    #[error("{file} grants no range to uid {uid}")]
    NoGrant {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// The user.
        uid: u32,
    },
    /// The program could not be started.
    #[error("{program}: {source}")]
    NoProgram {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The program ran and said no.
    #[error("{program} failed: {said}")]
    Failed {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// What it printed.
        said: String,
    },
    /// The process may not give files away or become somebody else.
    #[error("CAP_CHOWN, CAP_SETUID and CAP_SETGID are not all there")]
    NoCapabilities,
    /// The process was already in a user namespace with one id.
    #[error("this process was started in a user namespace with a single id")]
    Inherited,
}
