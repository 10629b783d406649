//! Owners where there is only one user: a supervisor answers the system calls that speak of owners (seccomp user
//! notification, Linux 5.5), and records what they would have done. Commands find what they expect: chown succeeds and
//! stat shows it, su and USER make somebody else of a process, and what that one creates is his. The layer is written
//! from the record.
//!
//! ```text
//! calls      which system calls wait for an answer
//! identity   who a process believes to be
//! tracee     its memory, and its paths inside its own root
//! files      the record: attributes of files, a table for links
//! ```
//!
//! What the supervisor does for a process is done on descriptors that were resolved inside the root directory of that
//! process, so no call reaches more than the process could. Permissions are the kernel's, for the one user that there
//! is: what belongs to another recorded owner stays accessible.
//!
//! Which identity a process has is kept in its soft limit of file locks, which the kernel has not used since Linux 2.4:
//! it is inherited by fork and kept by exec, also where a parent has long ended.

mod calls;
mod files;
mod identity;
mod tracee;

use std::collections::HashMap;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, fchmod, mkdirat, mknodat, openat};
use rustix::io::Errno;

pub use files::LinkOwners;

pub(super) use calls::{Call, calls};

use files::{Found, find, own, record, stand_for};
use identity::{Identity, Ids};
use tracee::{Spot, Tracee, look, through};

use super::Credentials;
use super::sys::{self, Notification, Status};

/// More identities than any step has; a step that makes up more gets no further ones.
const IDENTITY_LIMIT: usize = 1 << 16;

/// The kernel's limit of groups (NGROUPS_MAX).
const GROUP_LIMIT: u64 = 65536;

/// Finds the owner of a link that the layers below hold, by its path in the root file system, its mode and its time.
pub type Below = std::sync::Arc<dyn Fn(&[u8], i64) -> Option<(u32, u32)> + Send + Sync>;

/// A supervisor at work; it ends when it is asked to.
pub(super) struct Supervisor {
    thread: JoinHandle<LinkOwners>,
    stop: PipeWriter,
}

impl Supervisor {
    /// Answers for the processes behind `listener`, the first of which are `user`.
    pub fn start(listener: OwnedFd, user: &Credentials, below: Below) -> io::Result<Self> {
        let (stopped, stop) = io::pipe()?;
        let first = Identity::new(user.uid, user.gid, &user.groups);
        let mut desk = Desk {
            identities: vec![first.clone()],
            numbers: HashMap::from([(first, 0)]),
            below,
            links: LinkOwners::new(),
        };
        sys::wake_in_step(listener.as_fd());
        let thread = thread::Builder::new().name("owners".into()).spawn(move || {
            loop {
                let mut waiting = [PollFd::new(&listener, PollFlags::IN), PollFd::new(&stopped, PollFlags::IN)];
                match poll(&mut waiting, None) {
                    Err(Errno::INTR) => continue,
                    Ok(_) if waiting[1].revents().is_empty() && waiting[0].revents().contains(PollFlags::IN) => {}
                    _ => return desk.links, // all have ended, or we are not needed any more
                }
                match sys::receive_notification(listener.as_fd()) {
                    Ok(notification) => desk.serve(&listener, &notification),
                    Err(error) => tracing::debug!(%error, "a system call was withdrawn"),
                }
            }
        })?;
        Ok(Self { thread, stop })
    }

    /// Ends it, and takes the owners of links. The step is over.
    pub fn finish(self) -> LinkOwners {
        drop(self.stop);
        self.thread.join().unwrap_or_default() // a panic is told by its hook; what it knew is lost
    }
}

/// What a call gets.
enum Reply {
    Value(i64),
    /// The kernel does it as if nobody had asked us.
    Continue,
    /// It was answered with a descriptor.
    Answered,
}

type Answer = Result<Reply, io::Error>;

struct Desk {
    identities: Vec<Identity>,
    numbers: HashMap<Identity, u64>,
    below: Below,
    links: LinkOwners,
}

impl Desk {
    fn serve(&mut self, listener: &OwnedFd, notification: &Notification) {
        let call = calls().find(|(number, _)| *number == notification.number).map(|(_, call)| call);
        let tracee = Tracee::new(listener.as_fd(), notification);
        let reply = match call {
            Some(call) => self.answer(call, notification, &tracee, listener),
            None => Ok(Reply::Continue),
        };
        let sent = match reply {
            Ok(Reply::Value(value)) => sys::answer_notification(listener.as_fd(), notification.id, value, 0),
            Ok(Reply::Continue) => sys::continue_notification(listener.as_fd(), notification.id),
            Ok(Reply::Answered) => Ok(()),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                sys::answer_notification(listener.as_fd(), notification.id, 0, errno)
            }
        };
        if let Err(error) = sent {
            tracing::debug!(%error, ?call, "a process did not wait for its answer");
        }
    }

    fn answer(&mut self, call: Call, asked: &Notification, tracee: &Tracee<'_>, listener: &OwnedFd) -> Answer {
        let [a, b, c, d, e, _] = asked.args;
        let id = |value: u64| value as u32;
        match call {
            Call::Chown { follow } => self.chown(asked, tracee.file(at_cwd(), a, follow, false)?, (id(b), id(c))),
            Call::Fchown => self.chown(asked, tracee.descriptor(a)?, (id(b), id(c))),
            Call::Fchownat => {
                let follow = e as i32 & libc::AT_SYMLINK_NOFOLLOW == 0;
                let may_be_empty = e as i32 & libc::AT_EMPTY_PATH != 0;
                self.chown(asked, tracee.file(a, b, follow, may_be_empty)?, (id(c), id(d)))
            }
            Call::Set { group } => self.set(asked, group, |ids, privileged| ids.set(id(a), privileged)),
            Call::SetTwo { group } => self.set(asked, group, |ids, privileged| ids.set_two(id(a), id(b), privileged)),
            Call::SetThree { group } => {
                self.set(asked, group, |ids, privileged| ids.set_three(id(a), id(b), id(c), privileged))
            }
            // The ids of the file system follow the effective ones; the call answers what they were.
            Call::SetFs { group } | Call::Effective { group } => {
                let ids = self.ids(asked, group)?;
                Ok(Reply::Value(ids.effective.into()))
            }
            Call::Real { group } => Ok(Reply::Value(self.ids(asked, group)?.real.into())),
            Call::GetThree { group } => {
                let ids = self.ids(asked, group)?;
                for (address, value) in [(a, ids.real), (b, ids.effective), (c, ids.saved)] {
                    tracee.write(address, &value.to_ne_bytes())?;
                }
                Ok(Reply::Value(0))
            }
            Call::GetGroups => self.get_groups(asked, tracee, a as i32, b),
            Call::SetGroups => self.set_groups(asked, tracee, a, b),
            other => match self.file_call(other, asked, tracee, listener) {
                // Whatever we cannot find, the kernel finds or refuses by itself.
                Err(error) if is_not_ours(other, &error) => Ok(Reply::Continue),
                answer => answer,
            },
        }
    }

    fn file_call(&mut self, call: Call, asked: &Notification, tracee: &Tracee<'_>, listener: &OwnedFd) -> Answer {
        let [a, b, c, d, e, _] = asked.args;
        match call {
            Call::Stat { follow } => {
                let file = tracee.file(at_cwd(), a, follow, false)?;
                self.status(tracee, file, Status::Plain, b)
            }
            Call::Fstat => self.status(tracee, tracee.descriptor(a)?, Status::Plain, b),
            Call::Newfstatat => {
                let file = tracee.file(
                    a,
                    b,
                    d as i32 & libc::AT_SYMLINK_NOFOLLOW == 0,
                    d as i32 & libc::AT_EMPTY_PATH != 0,
                )?;
                self.status(tracee, file, Status::Plain, c)
            }
            Call::Statx => {
                let file = tracee.file(
                    a,
                    b,
                    c as i32 & libc::AT_SYMLINK_NOFOLLOW == 0,
                    c as i32 & libc::AT_EMPTY_PATH != 0,
                )?;
                self.status(tracee, file, Status::Extended { flags: c as i32, mask: d as u32 }, e)
            }
            Call::Mkdir { at } => {
                let (spot, mode) = if at { (tracee.spot(a, b)?, c) } else { (tracee.spot(at_cwd(), a)?, b) };
                self.mkdir(asked, tracee, &spot, mode as u32)
            }
            Call::Mknod { at } => {
                let (spot, mode, device) =
                    if at { (tracee.spot(a, b)?, c, d) } else { (tracee.spot(at_cwd(), a)?, b, c) };
                self.mknod(asked, tracee, &spot, mode as u32, device)
            }
            Call::Symlink { at } => {
                let spot = if at { tracee.spot(b, c)? } else { tracee.spot(at_cwd(), b)? };
                self.symlink(asked, &spot, &tracee.text(a)?)
            }
            Call::Open { at: false } => self.open(asked, tracee, listener, (at_cwd(), a), b as u32, c as u32),
            Call::Open { at: true } => self.open(asked, tracee, listener, (a, b), c as u32, d as u32),
            Call::Creat => {
                let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
                self.open(asked, tracee, listener, (at_cwd(), a), flags as u32, b as u32)
            }
            Call::Openat2 => {
                // struct open_how: flags, mode, resolve; with a rule for resolving the kernel does it alone.
                let how = tracee.read(c, 24)?;
                let word = |at: usize| u64::from_ne_bytes(how[at..at + 8].try_into().unwrap_or_default());
                if word(16) != 0 || word(0) & (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) as u64 == 0 {
                    return Ok(Reply::Continue);
                }
                self.open(asked, tracee, listener, (a, b), word(0) as u32, word(8) as u32)
            }
            _ => Ok(Reply::Continue),
        }
    }

    /// Who a process is; a limit that says nothing sensible is that of the first.
    fn identity(&self, pid: u32) -> io::Result<&Identity> {
        let number = usize::try_from(sys::lock_limit(pid)?).unwrap_or(0);
        Ok(self.identities.get(number).unwrap_or(&self.identities[0]))
    }

    fn ids(&self, asked: &Notification, group: bool) -> io::Result<Ids> {
        let identity = self.identity(asked.pid)?;
        Ok(if group { identity.group } else { identity.user })
    }

    fn become_one(&mut self, pid: u32, identity: Identity) -> io::Result<()> {
        let number = match self.numbers.get(&identity) {
            Some(number) => *number,
            None if self.identities.len() >= IDENTITY_LIMIT => return Err(Errno::AGAIN.into()),
            None => {
                let number = self.identities.len() as u64;
                self.identities.push(identity.clone());
                self.numbers.insert(identity, number);
                number
            }
        };
        sys::set_lock_limit(pid, number)
    }

    fn set(&mut self, asked: &Notification, group: bool, change: impl Fn(Ids, bool) -> Result<Ids, Errno>) -> Answer {
        let mut new = self.identity(asked.pid)?.clone();
        let privileged = new.is_privileged();
        let ids = if group { &mut new.group } else { &mut new.user };
        *ids = change(*ids, privileged)?;
        self.become_one(asked.pid, new)?;
        Ok(Reply::Value(0))
    }

    fn set_groups(&mut self, asked: &Notification, tracee: &Tracee<'_>, count: u64, list: u64) -> Answer {
        let mut new = self.identity(asked.pid)?.clone();
        if !new.is_privileged() {
            return Err(Errno::PERM.into());
        }
        if count > GROUP_LIMIT {
            return Err(Errno::INVAL.into());
        }
        let bytes = tracee.read(list, count as usize * 4)?;
        new.groups = bytes.chunks_exact(4).map(|id| u32::from_ne_bytes(id.try_into().unwrap_or_default())).collect();
        self.become_one(asked.pid, new)?;
        Ok(Reply::Value(0))
    }

    fn get_groups(&self, asked: &Notification, tracee: &Tracee<'_>, room: i32, list: u64) -> Answer {
        let groups = &self.identity(asked.pid)?.groups;
        if room != 0 {
            if usize::try_from(room).map_or(true, |room| room < groups.len()) {
                return Err(Errno::INVAL.into());
            }
            let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
            tracee.write(list, &bytes)?;
        }
        Ok(Reply::Value(groups.len() as i64))
    }

    /// The kernel's part (set-user-ID bits and capabilities go, the change time comes) is done by giving the file to
    /// the only user there is.
    fn chown(&mut self, asked: &Notification, file: OwnedFd, wanted: (u32, u32)) -> Answer {
        let found = find(&file)?;
        let known = record(&file, &found, &self.links)?.map(|record| record.owner).unwrap_or_default();
        if !self.identity(asked.pid)?.may_chown(known, wanted) {
            return Err(Errno::PERM.into());
        }
        let or = |new: u32, old: u32| if new == u32::MAX { old } else { new };
        let owner = (or(wanted.0, known.0), or(wanted.1, known.1));
        let (uid, gid) = (Some(Uid::ROOT), Some(Gid::ROOT));
        chownat(&file, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        // A file that was copied up for that is another one now.
        let found = if found.has_attributes() { found } else { find(&file)? };
        own(&file, &found, owner, &mut self.links)?;
        Ok(Reply::Value(0))
    }

    /// Only a file with a record is told differently; all others are the kernel's to tell.
    fn status(&self, tracee: &Tracee<'_>, file: OwnedFd, kind: Status, address: u64) -> Answer {
        let found = find(&file)?;
        let mut told = record(&file, &found, &self.links)?;
        if told.is_none() && !found.has_attributes() {
            let owner = tracee.place(&file).ok().and_then(|path| (self.below)(&path, found.mtime));
            told = owner.map(|owner| files::Record { owner, device: None });
        }
        let Some(told) = told else { return Ok(Reply::Continue) };
        let status = sys::status(file.as_fd(), kind)?;
        tracee.write(address, &kind.patched(status, told.owner, told.device))?;
        Ok(Reply::Value(0))
    }

    /// Who would own a new file here: the process, and in a set-group-ID directory the group of that.
    fn newcomer(&self, asked: &Notification, directory: &OwnedFd) -> io::Result<((u32, u32), Found)> {
        let identity = self.identity(asked.pid)?;
        let found = find(directory)?;
        let mut owner = (identity.user.effective, identity.group.effective);
        if found.mode & libc::S_ISGID != 0 {
            owner.1 = record(directory, &found, &self.links)?.map(|record| record.owner.1).unwrap_or_default();
        }
        Ok((owner, found))
    }

    fn mkdir(&mut self, asked: &Notification, tracee: &Tracee<'_>, spot: &Spot, mode: u32) -> Answer {
        let (owner, around) = self.newcomer(asked, &spot.directory)?;
        if owner == (0, 0) {
            return Ok(Reply::Continue);
        }
        let mode = mode & 0o1777 & !tracee.umask()? | around.mode & libc::S_ISGID;
        let directory = open_again(&spot.directory)?;
        mkdirat(&directory, &*spot.name, Mode::from_raw_mode(0o700))?;
        let made = look(&directory, &spot.name)?;
        own(&made, &find(&made)?, owner, &mut self.links)?;
        chmodat(&directory, &*spot.name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        Ok(Reply::Value(0))
    }

    fn mknod(&mut self, asked: &Notification, tracee: &Tracee<'_>, spot: &Spot, mode: u32, device: u64) -> Answer {
        let (owner, _) = self.newcomer(asked, &spot.directory)?;
        let kind = FileType::from_raw_mode(mode);
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if is_device && !self.identity(asked.pid)?.is_privileged() {
            return Err(Errno::PERM.into());
        }
        let is_whiteout = kind == FileType::CharacterDevice && device == 0;
        if is_whiteout || !is_device && owner == (0, 0) || kind == FileType::Socket {
            return Ok(Reply::Continue);
        }
        let permissions = Mode::from_raw_mode(mode & 0o7777 & !tracee.umask()?);
        let directory = open_again(&spot.directory)?;
        let stands = if is_device { FileType::RegularFile } else { kind };
        mknodat(&directory, &*spot.name, stands, Mode::from_raw_mode(0o600), 0)?;
        let made = look(&directory, &spot.name)?;
        if is_device {
            // As mknod(2) gets it: 32 bits, the minor number around the major one.
            let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
            let letter = if kind == FileType::CharacterDevice { 'c' } else { 'b' };
            stand_for(&made, &format!("{letter} {major}:{minor}"))?;
        }
        own(&made, &find(&made)?, owner, &mut self.links)?;
        chmodat(&directory, &*spot.name, permissions, AtFlags::empty())?;
        Ok(Reply::Value(0))
    }

    fn symlink(&mut self, asked: &Notification, spot: &Spot, text: &[u8]) -> Answer {
        let (owner, _) = self.newcomer(asked, &spot.directory)?;
        if owner == (0, 0) {
            return Ok(Reply::Continue);
        }
        let directory = open_again(&spot.directory)?;
        rustix::fs::symlinkat(text, &directory, &*spot.name)?;
        let made = look(&directory, &spot.name)?;
        own(&made, &find(&made)?, owner, &mut self.links)?;
        Ok(Reply::Value(0))
    }

    /// What is there already is opened by the kernel; what is new and somebody else's is made here, and handed over.
    fn open(
        &mut self,
        asked: &Notification,
        tracee: &Tracee<'_>,
        listener: &OwnedFd,
        (at, path): (u64, u64),
        flags: u32,
        mode: u32,
    ) -> Answer {
        let flags = flags as i32;
        let is_unnamed = flags & libc::O_TMPFILE == libc::O_TMPFILE;
        let spot = match is_unnamed {
            true => Spot { directory: tracee.file(at, path, true, false)?, name: b".".to_vec() },
            false => tracee.spot(at, path)?,
        };
        let (owner, _) = self.newcomer(asked, &spot.directory)?;
        if owner == (0, 0) || !is_unnamed && look(&spot.directory, &spot.name).is_ok() {
            return Ok(Reply::Continue);
        }
        let directory = open_again(&spot.directory)?;
        let exclusive = if is_unnamed { 0 } else { libc::O_EXCL | libc::O_NOFOLLOW };
        let ours = OFlags::from_bits_retain((flags | exclusive | libc::O_CLOEXEC) as u32);
        let file = openat(&directory, &*spot.name, ours, Mode::from_raw_mode(0o600))?;
        own(&file, &find(&file)?, owner, &mut self.links)?;
        fchmod(&file, Mode::from_raw_mode(mode & 0o7777 & !tracee.umask()?))?;
        sys::give_descriptor(listener.as_fd(), asked.id, file.as_fd(), flags & libc::O_CLOEXEC != 0)?;
        Ok(Reply::Answered)
    }
}

fn at_cwd() -> u64 {
    libc::AT_FDCWD as u64
}

/// A directory that was only looked up, opened for work in it.
fn open_again(directory: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(through(directory), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Failures that say nothing about the call: the kernel gives its own answer. What was refused after we had begun to
/// make something is told.
fn is_not_ours(call: Call, error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    !matches!(call, Call::Mknod { .. } if errno == Some(Errno::PERM))
}
