//! The system calls that rustix does not offer safely: clone, fork, exec, signals, seccomp. Each function is a few lines
//! around one call and says why the call is sound; no decision is taken here.

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
    // SAFETY: without CLONE_VM the child gets a copy of the memory; both callers have made sure that there is one thread,
    // so no lock is held by a thread that does not exist in the child. glibc accepts this raw call as it accepts fork,
    // except for atfork handlers and cached thread ids, and neither is used before exit or exec.
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

/// Installs a seccomp filter on this thread for good, without setting no_new_privs (needs CAP_SYS_ADMIN).
pub(super) fn install_filter(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` describes memory that is alive; the kernel copies and checks it.
    let install = |flags: libc::c_ulong| match unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // As runc: the filter is no reason to slow the step down by mitigations that other processes do not have. Kernels
    // before 4.17 do not know the flag.
    install(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW).or_else(|_| install(0))
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
