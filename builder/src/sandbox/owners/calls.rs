//! Which system calls are answered by the supervisor, by name, and their numbers on this machine.

use super::super::syscalls::{ALLOWED, NONE};

/// A call, with what differs between its variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Call {
    /// Path at 0, owner at 1 and 2; whether links are followed.
    Chown {
        follow: bool,
    },
    Fchown,
    Fchownat,
    Set {
        group: bool,
    },
    SetTwo {
        group: bool,
    },
    SetThree {
        group: bool,
    },
    /// setfsuid and setfsgid.
    SetFs {
        group: bool,
    },
    SetGroups,
    Real {
        group: bool,
    },
    Effective {
        group: bool,
    },
    GetThree {
        group: bool,
    },
    GetGroups,
    /// Path at this argument, after the directory if there is one.
    Mkdir {
        at: bool,
    },
    Mknod {
        at: bool,
    },
    Symlink {
        at: bool,
    },
    Open {
        at: bool,
    },
    Creat,
    Openat2,
    /// Whether links are followed.
    Stat {
        follow: bool,
    },
    Fstat,
    Newfstatat,
    Statx,
}

#[rustfmt::skip]
const CALLS: &[(&str, Call)] = &[
    ("chown", Call::Chown { follow: true }), ("lchown", Call::Chown { follow: false }),
    ("fchown", Call::Fchown), ("fchownat", Call::Fchownat),
    ("setuid", Call::Set { group: false }), ("setgid", Call::Set { group: true }),
    ("setreuid", Call::SetTwo { group: false }), ("setregid", Call::SetTwo { group: true }),
    ("setresuid", Call::SetThree { group: false }), ("setresgid", Call::SetThree { group: true }),
    ("setfsuid", Call::SetFs { group: false }), ("setfsgid", Call::SetFs { group: true }),
    ("setgroups", Call::SetGroups), ("getgroups", Call::GetGroups),
    ("getuid", Call::Real { group: false }), ("getgid", Call::Real { group: true }),
    ("geteuid", Call::Effective { group: false }), ("getegid", Call::Effective { group: true }),
    ("getresuid", Call::GetThree { group: false }), ("getresgid", Call::GetThree { group: true }),
    ("mkdir", Call::Mkdir { at: false }), ("mkdirat", Call::Mkdir { at: true }),
    ("mknod", Call::Mknod { at: false }), ("mknodat", Call::Mknod { at: true }),
    ("symlink", Call::Symlink { at: false }), ("symlinkat", Call::Symlink { at: true }),
    ("open", Call::Open { at: false }), ("openat", Call::Open { at: true }),
    ("creat", Call::Creat), ("openat2", Call::Openat2),
    ("stat", Call::Stat { follow: true }), ("lstat", Call::Stat { follow: false }),
    ("fstat", Call::Fstat), ("newfstatat", Call::Newfstatat), ("statx", Call::Statx),
];

/// The calls that this machine has, with their numbers in its native ABI.
pub(in super::super) fn calls() -> impl Iterator<Item = (u32, Call)> {
    CALLS.iter().filter_map(|(name, call)| {
        let row = ALLOWED.iter().find(|row| row.0 == *name)?;
        let number = if cfg!(target_arch = "aarch64") { row.3 } else { row.1 };
        (number != NONE).then_some((u32::from(number), *call))
    })
}

impl Call {
    /// The argument that holds the flags of open: only what may make a file matters.
    pub(in super::super) fn open_flags(self) -> Option<u32> {
        match self {
            Self::Open { at } => Some(1 + u32::from(at)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_the_profile() {
        for (name, _) in CALLS {
            assert!(ALLOWED.iter().any(|row| row.0 == *name), "{name}");
        }
        assert!(calls().count() >= 25);
    }
}
