//! The last moments of our own code in the process that becomes the command: limits, privileges, system call filter,
//! execve. What it cannot do it tells to pid 1 through a pipe that a successful execve closes.

use std::ffi::{CString, OsStr};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::process::{Resource as Kind, Rlimit, fchdir, setrlimit, setsid, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::wire::{self, Doing, Failure, NotExecuted, REPORT_LIMIT, Report, Spec};
use super::{Limit, Resource, Rung, filter, sys};

/// The status of a process that could not become the command; pid 1 has been told more.
pub(super) const UNABLE: i32 = 126;

/// Where a command is looked for if the image's environment has no PATH; Docker's default.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's 14 capabilities. The inheritable set stays empty, as in Docker since CVE-2022-24769.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// Turns this process into the command of the step; returns only why that failed.
pub(super) fn become_program(spec: &Spec, cwd: BorrowedFd<'_>, control: &UnixStream) -> Report {
    match prepare(spec, cwd, control) {
        Ok(()) => execute(spec),
        Err(failure) => Report::Failed(failure),
    }
}

fn prepare(spec: &Spec, cwd: BorrowedFd<'_>, control: &UnixStream) -> Result<(), Failure> {
    let has_filter = is_filtered(); // while the current directory is where /proc is
    setsid().doing(|| "starting a session".to_owned())?;
    umask(Mode::from_raw_mode(0o022));
    fchdir(cwd).doing(|| format!("changing to the working directory {}", spec.step.cwd.display()))?;
    spec.step.rlimits.iter().try_for_each(limit)?;
    drop_privileges(spec, control, has_filter)?;
    sys::reset_signals();
    Ok(())
}

fn limit(limit: &Limit) -> Result<(), Failure> {
    let value = Rlimit { current: limit.soft, maximum: limit.hard };
    setrlimit(kind(limit.resource), value)
        .doing(|| format!("setting the limit {:?} (raising a hard limit needs CAP_SYS_RESOURCE)", limit.resource))
}

fn kind(resource: Resource) -> Kind {
    match resource {
        Resource::Core => Kind::Core,
        Resource::Cpu => Kind::Cpu,
        Resource::Data => Kind::Data,
        Resource::Fsize => Kind::Fsize,
        Resource::Locks => Kind::Locks,
        Resource::Memlock => Kind::Memlock,
        Resource::Msgqueue => Kind::Msgqueue,
        Resource::Nice => Kind::Nice,
        Resource::Nofile => Kind::Nofile,
        Resource::Nproc => Kind::Nproc,
        Resource::Rss => Kind::Rss,
        Resource::Rtprio => Kind::Rtprio,
        Resource::Rttime => Kind::Rttime,
        Resource::Sigpending => Kind::Sigpending,
        Resource::Stack => Kind::Stack,
    }
}

/// The filter comes before the user changes, because installing it needs CAP_SYS_ADMIN; it allows what follows.
fn drop_privileges(spec: &Spec, control: &UnixStream, has_filter: bool) -> Result<(), Failure> {
    let allowed = match spec.rung {
        Rung::Chroot => CAPABILITIES.difference(KEYS_OF_A_CHROOT),
        Rung::Overlay | Rung::Tree => CAPABILITIES,
    };
    let before = permitted()?;
    let capabilities = allowed & before;
    bound(allowed).doing(|| "limiting the capabilities".to_owned())?;
    filter_calls(spec, before, control, has_filter)?;
    let user = &spec.step.user;
    if !spec.records_owners {
        become_user(spec)?;
    }
    // One who only believes to be somebody else must still be able to do what its files allow.
    let kept = if user.uid == 0 || spec.records_owners { capabilities } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).doing(|| "dropping capabilities".to_owned())
}

fn become_user(spec: &Spec) -> Result<(), Failure> {
    let user = &spec.step.user;
    let groups: Vec<Gid> = user.groups.iter().chain([&user.gid]).map(|gid| Gid::from_raw(*gid)).collect();
    // Where setgroups is denied there are no other groups to leave or to join.
    if spec.setgroups {
        set_thread_groups(&groups).doing(|| format!("setting the groups {:?}", user.groups))?;
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_res_gid(gid, gid, gid).doing(|| format!("changing to gid {}", user.gid))?;
    set_thread_res_uid(uid, uid, uid).doing(|| format!("changing to uid {}", user.uid))
}

/// Whoever may call chroot(2) again, or open a disk, is not held by a chroot.
const KEYS_OF_A_CHROOT: CapabilitySet = CapabilitySet::SYS_CHROOT.union(CapabilitySet::MKNOD);

/// Installs the system call filter. A process of a container that has one already and may not add another has the
/// container's, which is why it may not.
fn filter_calls(
    spec: &Spec,
    capabilities: CapabilitySet,
    control: &UnixStream,
    has_filter: bool,
) -> Result<(), Failure> {
    let installing = || "installing the system call filter".to_owned();
    if !capabilities.contains(CapabilitySet::SYS_ADMIN) {
        if !spec.records_owners && has_filter {
            return Ok(());
        }
        set_no_new_privs(true).doing(installing)?;
    }
    if spec.records_owners {
        // The first identity, see `owners`.
        sys::set_lock_limit(0, 0).doing(|| "telling who runs the command".to_owned())?;
    }
    let listener = sys::install_filter(&mut filter::program(spec.records_owners), spec.records_owners);
    match listener.doing(installing)? {
        Some(listener) => wire::hand_over(control, &listener).doing(|| "calling the supervisor".to_owned()),
        None => Ok(()),
    }
}

fn is_filtered() -> bool {
    // In a chroot /proc is outside, and the current directory too; without an answer we rather add a filter.
    std::fs::read_to_string("./proc/thread-self/status").is_ok_and(|status| status.contains("\nSeccomp:\t2\n"))
}

fn permitted() -> Result<CapabilitySet, Failure> {
    Ok(rustix::thread::capabilities(None).doing(|| "reading the capabilities".to_owned())?.permitted)
}

/// Nothing that is executed from here on, setuid programs included, can have more than these.
fn bound(allowed: CapabilitySet) -> rustix::io::Result<()> {
    match clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {} // before Linux 4.3 there is none
        Err(errno) => return Err(errno),
    }
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !allowed.contains(capability) => remove_capability_from_bounding_set(capability)?,
            Ok(_) => {}
            Err(_) => break, // beyond the last one this kernel knows
        }
    }
    Ok(())
}

fn execute(spec: &Spec) -> Report {
    let step = &spec.step;
    // The builder has refused NUL bytes; an empty string stands for the impossible.
    let c = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
    let args: Vec<_> = step.args.iter().map(|arg| c(arg.as_bytes())).collect();
    let open = step.env.iter().map(|(name, value)| (name, value.as_bytes()));
    let secret = step.secret_env.iter().map(|(name, value)| (name, value.reveal()));
    let env: Vec<_> = open.chain(secret).map(|(name, value)| c(&[name.as_bytes(), b"=", value].concat())).collect();
    let args: Vec<_> = args.iter().map(CString::as_c_str).collect();
    let env: Vec<_> = env.iter().map(CString::as_c_str).collect();

    let program = step.args.first().map(|arg| arg.as_os_str()).unwrap_or_default();
    let path = step.env.iter().find(|(name, _)| name == "PATH").map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value);
    let (mut errno, mut why) = (libc::ENOENT, NotExecuted::NotInPath);
    for candidate in candidates(program, path) {
        let failed = sys::exec(&c(&candidate), &args, &env).raw_os_error().unwrap_or(libc::EIO);
        let explained = explain(&candidate, failed, program);
        // Like a shell: what is not there, or may not be run, does not end the search.
        if matches!(failed, libc::ENOENT | libc::ENOTDIR) && explained != NotExecuted::NoInterpreter {
            if errno == libc::ENOENT {
                why = explained;
            }
            continue;
        }
        (errno, why) = (failed, explained);
        if failed != libc::EACCES {
            break;
        }
    }
    Report::NotExecuted { program: program.to_string_lossy().into_owned(), errno, why }
}

/// A program with a slash is itself; one without is looked for along the PATH, where an empty entry is the current
/// directory.
fn candidates(program: &OsStr, path: &OsStr) -> Vec<Vec<u8>> {
    let name = program.as_bytes();
    if name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    let in_directory = |directory: &[u8]| {
        let directory = if directory.is_empty() { b"." } else { directory };
        [directory, b"/", name].concat()
    };
    path.as_bytes().split(|byte| *byte == b':').map(in_directory).collect()
}

fn explain(candidate: &[u8], errno: i32, program: &OsStr) -> NotExecuted {
    if errno != libc::ENOENT && errno != libc::ENOTDIR {
        return NotExecuted::Other;
    }
    let there =
        rustix::fs::accessat(CWD, Path::new(OsStr::from_bytes(candidate)), Access::EXISTS, AtFlags::empty()).is_ok();
    match there {
        true => NotExecuted::NoInterpreter,
        false if program.as_bytes().contains(&b'/') => NotExecuted::Missing,
        false => NotExecuted::NotInPath,
    }
}

/// Tells pid 1 why there is no command.
pub(super) fn tell(mut pipe: PipeWriter, report: &Report) {
    if let Ok(json) = serde_json::to_vec(report) {
        let _ = pipe.write_all(&json); // pid 1 cannot be gone: we would be dead
    }
}

/// Waits until the command runs, or until its process has told why it cannot.
pub(super) fn hear(pipe: PipeReader) -> Option<Report> {
    let mut json = Vec::new();
    pipe.take(REPORT_LIMIT).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capabilities_are_dockers() {
        assert_eq!(CAPABILITIES.bits(), 0xa804_25fb);
    }

    #[test]
    fn programs_are_looked_for_along_the_path() {
        let list = |program: &str, path: &str| {
            let found = candidates(program.as_ref(), path.as_ref());
            found.into_iter().map(|c| String::from_utf8(c).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(list("sh", "/bin::/usr/bin"), ["/bin/sh", "./sh", "/usr/bin/sh"]);
        assert_eq!(list("./sh", "/bin"), ["./sh"]);
    }
}
