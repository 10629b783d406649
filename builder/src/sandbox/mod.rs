//! Runs one RUN step isolated from the machine that builds: as root, or as an ordinary user in user namespaces.
//! No Dockerfile, layer format or cache here: the input is a chain of unpacked layer directories and a command, the
//! output is what the command printed, how it ended, and an overlay upper directory that holds what it changed.
//!
//! ```text
//! lighter                      main: init_if_requested(), enter(work)      threads start only after that
//!   └─ run(step)               clone(new mount, pid, ipc, uts[, net]), one per step
//!        └─ lighter (pid 1)    init: overlay, /dev, /sys, /etc/hosts, /proc, pivot_root; reaps; kills what is left
//!             └─ the step      credentials, 14 capabilities, seccomp filter, execve
//! ```
//!
//! The best of these rungs that a place allows is taken, see `rung`: an overlay in namespaces; a plain tree in
//! namespaces, where overlayfs cannot be mounted; a plain tree in a chroot (`bare`), where namespaces are refused.
//! Where there is only one user id, owners are recorded (`owners`).
//!
//! Every process dies with its parent (PDEATHSIG, and a pid namespace dies with its pid 1), and every mount lives in a
//! mount namespace that dies with pid 1: a `kill -9` of the builder leaves neither processes nor mounts. In a chroot
//! there are no mounts, and init ends the processes when it finds itself alone (`family`).
//!
//! This is the only module of the project that holds `unsafe`; all of it stands in `sys`.

mod bare;
mod cancel;
mod enter;
mod error;
mod family;
mod filter;
mod idmap;
mod init;
mod launch;
mod overlay;
mod owners;
mod program;
mod remove;
mod root;
mod run;
mod rung;
mod step;
mod stubs;
#[allow(unsafe_code)] // what rustix does not offer safely
mod sys;
mod syscalls;
mod user;
mod wire;

pub use cancel::Cancel;
pub use enter::{Entered, Mode, Overlay, Proc, enter};
pub use error::{Error, ExecFailure, IdRangeRefusal, Refusal};
pub use init::init_if_requested;
pub use owners::{Below, LinkOwners};
pub(crate) use remove::remove_at;
pub use remove::remove_tree;
pub use run::{Exit, Stream, run, run_recorded};
pub use rung::{ISOLATIONS, Isolation, Rung, UnknownIsolation};
pub use step::{
    DEFAULT_HOSTNAME, DEFAULT_SHM_SIZE, LAYER_LIMIT, Limit, Mount, Network, Resource, Step, UnknownResource,
};
pub use user::{Credentials, UserError, resolve_user};
