//! The system calls that rustix does not offer safely: clone, fork, exec, signals, seccomp. Each function is a few
//! lines around one call and says why the call is sound; no decision is taken here.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// Where the init process of a step finds its socket.
pub(super) const CONTROL: RawFd = 3;

/// Enough for two system calls in [`exec_child`].
const CHILD_STACK: usize = 64 << 10;

/// What [`exec_child`] needs; it shares our memory, so it can also answer.
struct Launch {
    exe: RawFd,
    descriptors: [RawFd; 4],
    argv: [*const c_char; 2],
    envp: [*const c_char; 1],
    errno: c_int,
}

/// Starts the program `exe` as a child in new namespaces (`CLONE_NEW*` flags), with one argument, an empty environment,
/// all signals blocked, and `descriptors` as its descriptors 0 to 3. Returns once the program runs.
pub(super) fn launch(
    exe: BorrowedFd<'_>,
    name: &CStr,
    descriptors: [BorrowedFd<'_>; 4],
    namespaces: c_int,
) -> io::Result<Pid> {
    let mut launch = Launch {
        exe: exe.as_raw_fd(),
        descriptors: descriptors.map(|fd| fd.as_raw_fd()),
        argv: [name.as_ptr(), std::ptr::null()],
        envp: [std::ptr::null()],
        errno: 0,
    };
    let mut stack = vec![0u128; CHILD_STACK / size_of::<u128>()];
    let flags = namespaces | libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let mask = block_signals();
    // SAFETY: as in posix_spawn: CLONE_VFORK keeps this thread asleep until the child has called execve or _exit, so
    // `launch` and `stack` outlive it and nobody else touches them; the stack pointer is the 16-byte aligned end of
    // memory we own; exec_child makes only system calls; signals are blocked, so no handler runs on that stack.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
        libc::clone(exec_child, top, flags, (&raw mut launch).cast::<c_void>())
    };
    let cloned = io::Error::last_os_error();
    restore_signals(&mask);
    if pid < 0 {
        return Err(cloned);
    }
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
    if launch.errno != 0 {
        // It has ended already; its status says nothing new.
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        return Err(io::Error::from_raw_os_error(launch.errno));
    }
    Ok(pid)
}

/// Runs in the child of [`launch`], in the memory of the builder: system calls only, no allocation, no lock, no panic.
extern "C" fn exec_child(launch: *mut c_void) -> c_int {
    // SAFETY: `launch` points to the Launch of the thread that sleeps in clone; dup2 and execveat read memory that it
    // keeps alive: numbers, NUL-terminated strings and null-terminated arrays. _exit runs nothing of the parent.
    unsafe {
        let launch = &mut *launch.cast::<Launch>();
        for (target, source) in launch.descriptors.iter().enumerate() {
            if libc::dup2(*source, target as c_int) < 0 {
                launch.errno = *libc::__errno_location();
                libc::_exit(127);
            }
        }
        libc::syscall(
            libc::SYS_execveat,
            launch.exe,
            c"".as_ptr(),
            launch.argv.as_ptr(),
            launch.envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        launch.errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Takes over the socket that [`launch`] placed at [`CONTROL`]. Must be called once at most, by the launched program.
pub(super) fn control_socket() -> io::Result<UnixStream> {
    // SAFETY: F_SETFD reads no memory; on a closed descriptor it fails and we return.
    if unsafe { libc::fcntl(CONTROL, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open (fcntl has just proved it) and nobody else in this process owns it: we are called
    // once, first thing in main.
    Ok(UnixStream::from(unsafe { OwnedFd::from_raw_fd(CONTROL) }))
}

/// Closes all descriptors from `first` on, whatever the builder's own parents left open.
pub(super) fn close_from(first: RawFd) {
    // SAFETY: the caller is a process that has just started and owns no descriptor from `first` on.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if closed < 0 {
        // Before Linux 5.9. SAFETY: as above; closing what is not open is harmless.
        (first..4096).for_each(|fd| unsafe {
            libc::close(fd);
        });
    }
}

/// Moves this thread into new namespaces.
pub(super) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    // SAFETY: what could break other code is a thread with descriptors of its own, and callers ask for namespaces only.
    debug_assert!(!namespaces.contains(UnshareFlags::FILES));
    Ok(unsafe { rustix::thread::unshare_unsafe(namespaces) }?)
}

/// Which side of a fork one is on.
pub(super) enum Fork {
    Parent(Pid),
    Child,
}

/// Duplicates this process, which must have one thread only. The child must end with [`exit`] or [`exec`].
pub(super) fn fork() -> io::Result<Fork> {
    fork_into(0)
}

/// The same, with the child in new namespaces.
pub(super) fn fork_into(namespaces: c_int) -> io::Result<Fork> {
    // SAFETY: without CLONE_VM the child gets a copy of the memory; both callers have made sure that there is one
    // thread, so no lock is held by a thread that does not exist in the child. glibc accepts this raw call as it
    // accepts fork, except for atfork handlers and cached thread ids, and neither is used before exit or exec.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(namespaces | libc::SIGCHLD), 0, 0, 0, 0) };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidData)?)),
    }
}

/// Ends this process at once, without destructors or exit handlers of the parent it was copied from.
pub(super) fn exit(status: c_int) -> ! {
    // SAFETY: _exit never fails and never returns.
    unsafe { libc::_exit(status) }
}

/// Replaces this process; returns only if that failed.
pub(super) fn exec(program: &CStr, args: &[&CStr], env: &[&CStr]) -> io::Error {
    let pointers = |list: &[&CStr]| list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer, all strings end with NUL, and all live until the call returns.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Kills every process that this one may signal, but not itself: for pid 1, all others of its namespace.
pub(super) fn kill_all() {
    // SAFETY: kill reads no memory. An error means that nobody is left.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// Gives the next program the signals of a fresh login: nothing blocked, nothing ignored.
pub(super) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL installs no code; for KILL, STOP and libc's own two the call fails, which changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: sigemptyset initialises the set before it is read; the old mask is not wanted.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

fn block_signals() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigfillset and pthread_sigmask write the sets they are given.
    unsafe {
        let (mut all, mut old) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
        old
    }
}

fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: the mask was filled by block_signals.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
}

/// Installs a seccomp filter on this thread for good; needs CAP_SYS_ADMIN or no_new_privs. With `listens` the calls
/// that it leaves to a supervisor are heard through the descriptor that comes back.
pub(super) fn install_filter(program: &mut [libc::sock_filter], listens: bool) -> io::Result<Option<OwnedFd>> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` describes memory that is alive; the kernel copies and checks it.
    let install = |flags: libc::c_ulong| match unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter)
    } {
        ..0 => Err(io::Error::last_os_error()),
        listener => Ok(listener),
    };
    // As runc: the filter is no reason to slow the step down by mitigations that other processes do not have. Kernels
    // before 4.17 do not know the flag, before 5.19 not the one that keeps signals from repeating a call.
    let plain = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    if !listens {
        return install(plain).or_else(|_| install(0)).map(|_| None);
    }
    let listening = plain | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let listener = install(listening | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV).or_else(|_| install(listening))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(listener as RawFd) }))
}

/// Whether filters can leave calls to a supervisor (Linux 5.0).
pub(super) fn can_notify() -> io::Result<()> {
    const GET_ACTION_AVAIL: libc::c_ulong = 2;
    let action: u32 = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the kernel reads four bytes that live.
    match unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A system call that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notification {
    pub id: u64,
    pub pid: u32,
    pub number: u32,
    pub args: [u64; 6],
}

/// One ioctl of a seccomp listener on a value of the type that belongs to it.
fn ask_listener<T>(listener: BorrowedFd<'_>, request: libc::Ioctl, value: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: callers pair each request with the structure that the kernel defines for it, which is alive and ours.
    match unsafe { libc::ioctl(listener.as_raw_fd(), request, std::ptr::from_mut(value)) } {
        ..0 => Err(io::Error::last_os_error()),
        answer => Ok(answer),
    }
}

/// Takes the next call that waits.
pub(super) fn receive_notification(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    // SAFETY: plain data; the kernel wants zeros to begin with.
    let mut taken: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    ask_listener(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut taken)?;
    Ok(Notification { id: taken.id, pid: taken.pid, number: taken.data.nr as u32, args: taken.data.args })
}

/// Fails when whoever waited is gone.
pub(super) fn notification_is_valid(listener: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    ask_listener(listener, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &mut id.clone()).map(drop)
}

/// Gives a value, or an error number.
pub(super) fn answer_notification(listener: BorrowedFd<'_>, id: u64, value: i64, errno: c_int) -> io::Result<()> {
    let mut answer = libc::seccomp_notif_resp { id, val: value, error: -errno, flags: 0 };
    ask_listener(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut answer).map(drop)
}

/// Lets the kernel do the call (Linux 5.5).
pub(super) fn continue_notification(listener: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    let mut answer = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
    ask_listener(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut answer).map(drop)
}

/// Answers with a descriptor, which the other process gets as its own (Linux 5.14).
pub(super) fn give_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    file: BorrowedFd<'_>,
    close_on_exec: bool,
) -> io::Result<()> {
    let mut gift = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: file.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    ask_listener(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut gift).map(drop)
}

/// Lets asker and supervisor hand the processor to each other (Linux 6.6).
pub(super) fn wake_in_step(listener: BorrowedFd<'_>) {
    const SET_FLAGS: libc::Ioctl = 0x4008_2104;
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    // SAFETY: this request takes a number. Older kernels refuse it, and are slower.
    unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP) };
}

/// The soft limit of file locks of a process.
pub(super) fn lock_limit(pid: u32) -> io::Result<u64> {
    let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: nothing is read, and the limit that is written is alive.
    match unsafe { libc::prlimit64(pid as i32, libc::RLIMIT_LOCKS, std::ptr::null(), &raw mut now) } {
        0 => Ok(now.rlim_cur),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets it; the hard limit stays.
pub(super) fn set_lock_limit(pid: u32, limit: u64) -> io::Result<()> {
    let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: as above; the second call reads the limit that the first has filled.
    let set = unsafe {
        match libc::prlimit64(pid as i32, libc::RLIMIT_LOCKS, std::ptr::null(), &raw mut now) {
            0 => {
                now.rlim_cur = limit;
                libc::prlimit64(pid as i32, libc::RLIMIT_LOCKS, &raw const now, std::ptr::null_mut())
            }
            failed => failed,
        }
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Which structure a status call fills.
#[derive(Debug, Clone, Copy)]
pub(super) enum Status {
    /// struct stat.
    Plain,
    /// struct statx.
    Extended { flags: c_int, mask: u32 },
}

/// The status of a file as the kernel lays it out.
pub(super) fn status(file: BorrowedFd<'_>, kind: Status) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; 256];
    let (fd, to) = (file.as_raw_fd(), bytes.as_mut_ptr());
    // SAFETY: both structures are at most 256 bytes, which are alive and ours; the path is empty and ends with NUL.
    let asked = unsafe {
        match kind {
            Status::Plain => libc::syscall(libc::SYS_newfstatat, fd, c"".as_ptr(), to, libc::AT_EMPTY_PATH),
            Status::Extended { flags, mask } => {
                let flags = flags & libc::AT_STATX_SYNC_TYPE | libc::AT_EMPTY_PATH;
                libc::syscall(libc::SYS_statx, fd, c"".as_ptr(), flags, mask, to)
            }
        }
    };
    bytes.truncate(if matches!(kind, Status::Plain) { size_of::<libc::stat>() } else { 256 });
    if asked == 0 { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

impl Status {
    /// The same with another owner, and another type and device number.
    pub fn patched(self, mut bytes: Vec<u8>, owner: (u32, u32), device: Option<(u32, u32, u32)>) -> Vec<u8> {
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        match self {
            Self::Plain => {
                put(std::mem::offset_of!(libc::stat, st_uid), &owner.0.to_ne_bytes());
                put(std::mem::offset_of!(libc::stat, st_gid), &owner.1.to_ne_bytes());
            }
            Self::Extended { .. } => {
                put(std::mem::offset_of!(libc::statx, stx_uid), &owner.0.to_ne_bytes());
                put(std::mem::offset_of!(libc::statx, stx_gid), &owner.1.to_ne_bytes());
            }
        }
        let Some((kind, major, minor)) = device else { return bytes };
        match self {
            Self::Plain => {
                let at = std::mem::offset_of!(libc::stat, st_mode);
                let mode = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
                bytes[at..at + 4].copy_from_slice(&(mode & !libc::S_IFMT | kind).to_ne_bytes());
                let at = std::mem::offset_of!(libc::stat, st_rdev);
                bytes[at..at + 8].copy_from_slice(&libc::makedev(major, minor).to_ne_bytes());
            }
            Self::Extended { .. } => {
                let at = std::mem::offset_of!(libc::statx, stx_mode);
                let mode = u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap_or_default());
                let mode = mode & !(libc::S_IFMT as u16) | kind as u16;
                bytes[at..at + 2].copy_from_slice(&mode.to_ne_bytes());
                let at = std::mem::offset_of!(libc::statx, stx_rdev_major);
                bytes[at..at + 4].copy_from_slice(&major.to_ne_bytes());
                bytes[at + 4..at + 8].copy_from_slice(&minor.to_ne_bytes());
            }
        }
        bytes
    }
}

/// Adds attributes (`MOUNT_ATTR_*`) to a mount and all below it (Linux 5.12 and later).
pub(super) fn restrict_mounts(path: &CStr, attributes: u64) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path ends with NUL and the kernel reads exactly the given size of `attributes`.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Switches the loopback device of this network namespace on.
pub(super) fn bring_up_loopback() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: ifreq is plain data and zero is a valid value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, and the one given is alive.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
