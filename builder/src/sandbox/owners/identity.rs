//! Who a process believes to be, by the rules of credentials(7): what the set*id calls would have made of it. Pure.

use rustix::io::Errno;

/// The ids of a process. The ids of the file system always follow the effective ones here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub user: Ids,
    pub group: Ids,
    pub groups: Vec<u32>,
}

/// Real, effective and saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ids {
    pub real: u32,
    pub effective: u32,
    pub saved: u32,
}

/// In the set*id calls: leave this one.
const SAME: u32 = u32::MAX;

impl Ids {
    pub fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id }
    }

    fn has(self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// setuid and setgid.
    pub fn set(self, id: u32, privileged: bool) -> Result<Self, Errno> {
        match (id, privileged) {
            (SAME, _) => Err(Errno::INVAL),
            (id, true) => Ok(Self::all(id)),
            (id, false) if id == self.real || id == self.saved => Ok(Self { effective: id, ..self }),
            _ => Err(Errno::PERM),
        }
    }

    /// setreuid and setregid.
    pub fn set_two(self, real: u32, effective: u32, privileged: bool) -> Result<Self, Errno> {
        let mut new = self.set_three(real, effective, SAME, privileged)?;
        if !privileged && real != SAME && real != self.real && real != self.effective {
            return Err(Errno::PERM);
        }
        if real != SAME || effective != SAME && effective != self.real {
            new.saved = new.effective;
        }
        Ok(new)
    }

    /// setresuid and setresgid.
    pub fn set_three(self, real: u32, effective: u32, saved: u32, privileged: bool) -> Result<Self, Errno> {
        let allowed = |id: u32| id == SAME || privileged || self.has(id);
        if ![real, effective, saved].into_iter().all(allowed) {
            return Err(Errno::PERM);
        }
        let or = |new: u32, old: u32| if new == SAME { old } else { new };
        Ok(Self { real: or(real, self.real), effective: or(effective, self.effective), saved: or(saved, self.saved) })
    }
}

impl Identity {
    pub fn new(uid: u32, gid: u32, groups: &[u32]) -> Self {
        // As in the kernel's list, the primary group is one of them.
        let groups = std::iter::once(gid).chain(groups.iter().copied().filter(|group| *group != gid)).collect();
        Self { user: Ids::all(uid), group: Ids::all(gid), groups }
    }

    pub fn is_privileged(&self) -> bool {
        self.user.effective == 0
    }

    /// Whether chown(2) may be used: root may do everything, an owner may choose among its groups.
    pub fn may_chown(&self, owner: (u32, u32), wanted: (u32, u32)) -> bool {
        let among = wanted.1 == SAME || wanted.1 == self.group.effective || self.groups.contains(&wanted.1);
        let stays = wanted.0 == SAME || wanted.0 == owner.0;
        self.is_privileged() || owner.0 == self.user.effective && stays && (among || wanted.1 == owner.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_becomes_anybody_and_nobody_becomes_root() {
        let root = Ids::all(0);
        assert_eq!(root.set(5, true), Ok(Ids::all(5)));
        assert_eq!(Ids::all(5).set(0, false), Err(Errno::PERM));
        assert_eq!(root.set_three(SAME, 5, SAME, true), Ok(Ids { real: 0, effective: 5, saved: 0 }));
        assert_eq!(Ids { real: 0, effective: 5, saved: 0 }.set(0, false), Ok(Ids::all(0)));
        assert_eq!(root.set_two(7, 7, true), Ok(Ids::all(7)));
        assert_eq!(Ids::all(7).set_two(SAME, 8, false), Err(Errno::PERM));
        assert_eq!(root.set(SAME, true), Err(Errno::INVAL));
    }

    #[test]
    fn owners_give_files_to_their_groups_only() {
        let user = Identity::new(5, 6, &[7]);
        assert!(user.may_chown((5, 6), (SAME, 7)) && user.may_chown((5, 6), (5, SAME)));
        assert!(!user.may_chown((5, 6), (SAME, 8)) && !user.may_chown((5, 6), (0, SAME)));
        assert!(!user.may_chown((9, 6), (SAME, 7)));
        assert!(Identity::new(0, 0, &[]).may_chown((9, 9), (1, 2)));
    }
}
