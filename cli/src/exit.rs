//! Exit codes: stable, documented in docs/exit-codes.md and in `lighter --help`.
//!
//! The numbers from 64 on are those of sysexits.h, so that a pipeline can tell "fix the input" from
//! "try again"; 10 to 29 are about rollouts.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// A step of the build failed: the command of a RUN, most of all; or a check or `diff` found something.
    Failed = 1,
    /// Refused before anything was changed: platform, credentials, missing content.
    Preflight = 10,
    /// Another owner holds the fields that were to be written.
    Conflict = 11,
    /// Somebody else's newer rollout took over.
    Superseded = 12,
    /// The rollout failed; the new version was left as it is.
    RolloutFailed = 20,
    /// The rollout failed; the version before is back and well.
    RolledBack = 21,
    /// The rollout failed, and the version before did not come back.
    RollbackFailed = 22,
    /// The rollout was still undecided when the time was up.
    TimedOut = 23,
    /// The command line is wrong.
    Usage = 64,
    /// The Dockerfile, manifest, archive or configuration is wrong.
    BadInput = 65,
    /// A file that was named is not there.
    NoInput = 66,
    /// A registry or cluster cannot be reached, or does not have what was asked for.
    Unavailable = 69,
    /// A mistake of ours.
    Bug = 70,
    /// The disk is full, or cannot be read or written.
    Disk = 74,
    /// A passing fault: the same command may go well a little later.
    Transient = 75,
    /// The login was refused, or does not allow this.
    Forbidden = 77,
    /// The machine does not allow what the build needs (namespaces, mounts).
    Environment = 78,
    /// Ctrl-C.
    Interrupted = 130,
    /// SIGTERM.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// The table for `lighter --help`.
pub const TABLE: &str = "\
Exit codes:
    0  done
    1  a step of the build failed, or build --check, registry fsck or diff found something
   10  a deploy was refused before anything was changed
   11  somebody else owns the fields to be written
   12  a newer rollout took over
   20  the rollout failed, the new version was left in place
   21  the rollout failed, the version before is back and well
   22  the rollout failed, and so did going back
   23  the rollout was undecided when the time was up
   64  the command line is wrong
   65  the Dockerfile, manifest or archive is wrong
   66  a file that was named is not there
   69  a registry or cluster cannot be reached, or does not have it
   70  a bug in lighter
   74  the disk is full or failing
   75  a passing fault, safe to try again
   77  the login was refused or does not allow this
   78  this machine does not allow what the build needs
  130  interrupted (143: terminated)";
