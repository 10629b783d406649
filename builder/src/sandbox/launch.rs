//! Starts and ends the init process of a step. Whoever drops an [`Init`] has killed it and everything it started.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};

use super::{Error, Network, Rung, sys};

/// The name under which our own executable is started as the init process of a step.
pub(super) const INIT_NAME: &CStr = c"lighter-sandbox-init";

/// Above the numbers that the child's descriptors get, so that none overwrites another before it is copied.
const ABOVE_CHILD: RawFd = 10;

/// A running init process: pid 1 of a step.
pub(super) struct Init {
    pid: Pid,
    rung: Rung,
    ended: bool,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub control: UnixStream,
}

impl Init {
    /// Starts our own executable in new namespaces.
    pub(super) fn start(network: Network, rung: Rung) -> io::Result<Self> {
        let exe = File::open("/proc/self/exe")?;
        let stdin = high(File::open("/dev/null")?)?;
        let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let (control, child_control) = UnixStream::pair()?;
        let child = [stdin, high(child_stdout)?, high(child_stderr)?, high(child_control)?];
        let [a, b, c, d] = &child;
        let descriptors = [a.as_fd(), b.as_fd(), c.as_fd(), d.as_fd()];
        let pid = sys::launch(exe.as_fd(), INIT_NAME, descriptors, namespaces(network, rung))?;
        Ok(Self { pid, rung, ended: false, stdout, stderr, control })
    }

    /// Waits for the end of init, and with it of every process of the step.
    pub(super) fn wait(&mut self) -> Result<WaitStatus, Error> {
        let ended = rustix::io::retry_on_intr(|| waitpid(Some(self.pid), WaitOptions::empty()));
        self.ended = true; // also when somebody else has reaped it: there is nothing left to wait for
        let (_, status) = ended.map_err(|e| Error::Start(e.into()))?.ok_or(Error::Broken(-1))?;
        Ok(status)
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        if !self.ended && self.rung == Rung::Chroot {
            // Nobody dies with it: it ends the others itself when its builder is gone, and must be let to.
            let _ = self.control.shutdown(Shutdown::Both);
            let _ = self.wait();
        } else if !self.ended {
            // It cannot be gone as long as nobody has waited for it. Waiting ends when all of its namespace are dead.
            let _ = kill_process(self.pid, Signal::KILL);
            let _ = self.wait();
        }
    }
}

fn high(fd: impl Into<OwnedFd>) -> rustix::io::Result<OwnedFd> {
    fcntl_dupfd_cloexec(fd.into(), ABOVE_CHILD)
}

fn namespaces(network: Network, rung: Rung) -> libc::c_int {
    if rung == Rung::Chroot {
        return 0;
    }
    let own = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    match network {
        Network::Host => own,
        Network::None => own | libc::CLONE_NEWNET,
    }
}
