//! Pid 1 of a step: prepares the root file system, starts the command, reaps, kills what is left over, tidies up and
//! reports. It is our own executable started under another name, a new process with one thread.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, Uid, fchown};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, pidfd_open, set_child_subreaper,
    set_parent_process_death_signal, setsid, wait,
};

use super::bare::Bare;
use super::launch::INIT_NAME;
use super::root::Root;
use super::sys::{self, Fork};
use super::wire::{self, Doing, Failure, Report, Spec};
use super::{Rung, family, program};

/// Takes this process over if it was started as the init process of a step, and never returns then. Must be the first
/// line of `main` of every executable that calls [`run`](super::run).
///
/// The only way in is the name under which the process was started. That is no door: whoever can start us under a name
/// of his choice can start anything else too, and without the namespaces that make us pid 1 we refuse.
pub fn init_if_requested() {
    let requested = std::env::args_os().next().is_some_and(|name| name.as_bytes() == INIT_NAME.to_bytes());
    if requested {
        // The library does not end processes, but this one is no longer the program that the user started.
        sys::exit(serve());
    }
}

/// Serves one step; the status means something only when no report was sent.
fn serve() -> i32 {
    const MISUSED: i32 = 70; // EX_SOFTWARE
    // What `ps` shows; the name of the file is a number of ours. Nothing depends on it.
    let _ = rustix::thread::set_name(c"lighter-init");
    let Ok(control) = sys::control_socket() else { return MISUSED };
    sys::close_from(sys::CONTROL + 1);
    let report = match listen(&control) {
        Ok(spec) if spec.rung != Rung::Chroot && getpid() != Pid::INIT => return MISUSED,
        Ok(spec) => serve_step(&spec, &control).unwrap_or_else(Report::Failed),
        Err(failure) => Report::Failed(failure),
    };
    match serde_json::to_vec(&report).map(|json| (&control).write_all(&json)) {
        Ok(Ok(())) => 0,
        _ => MISUSED, // nobody is left to hear it
    }
}

fn listen(control: &UnixStream) -> Result<Spec, Failure> {
    let spec = wire::receive(control).doing(|| "reading the description of the step".to_owned())?;
    if spec.rung == Rung::Chroot {
        // Nobody dies with this process, so it must outlive the builder to end the others.
        set_child_subreaper(Some(getpid())).doing(|| "adopting the processes of the step".to_owned())?;
        return Ok(spec);
    }
    set_parent_process_death_signal(Some(Signal::KILL)).doing(|| "tying the step to the builder".to_owned())?;
    // The builder may have died before the line above that kills us with it.
    if is_alone(control)? {
        sys::exit(1);
    }
    Ok(spec)
}

/// Whether the builder has closed its end, or died.
fn is_alone(control: &UnixStream) -> Result<bool, Failure> {
    let mut builder = [PollFd::new(control, PollFlags::IN)];
    poll(&mut builder, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).doing(|| "looking for the builder".to_owned())?;
    Ok(builder[0].revents().intersects(PollFlags::HUP | PollFlags::ERR))
}

fn serve_step(spec: &Spec, control: &UnixStream) -> Result<Report, Failure> {
    setsid().doing(|| "starting a session".to_owned())?; // no terminal, and no Ctrl-C of the builder's terminal
    if spec.rung == Rung::Chroot {
        let bare = Bare::prepare(spec)?;
        let report = own_output(spec).and_then(|()| run_program(spec, bare.cwd(), control));
        bare.leave();
        return report;
    }
    let root = Root::prepare(spec)?;
    own_output(spec)?;
    let report = run_program(spec, root.cwd(), control);
    root.leave();
    report
}

/// Lets a command that is not root open /dev/stdout and /dev/stderr again.
fn own_output(spec: &Spec) -> Result<(), Failure> {
    let user = &spec.step.user;
    if user.uid == 0 || spec.records_owners {
        return Ok(());
    }
    for stream in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
        fchown(stream, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))
            .doing(|| format!("giving the output to uid {}", user.uid))?;
    }
    Ok(())
}

fn run_program(spec: &Spec, cwd: BorrowedFd<'_>, control: &UnixStream) -> Result<Report, Failure> {
    let (answer, question) = std::io::pipe().doing(|| "making a pipe".to_owned())?;
    let command = match sys::fork().doing(|| "starting the command".to_owned())? {
        Fork::Child => {
            drop(answer);
            let failed = program::become_program(spec, cwd, control);
            program::tell(question, &failed);
            sys::exit(program::UNABLE)
        }
        Fork::Parent(command) => command,
    };
    drop(question);
    let failed = program::hear(answer); // ends when execve closes the pipe
    let status = match spec.rung {
        Rung::Chroot => reap_until_alone(command, control)?,
        Rung::Overlay | Rung::Tree => Some(reap_until(command)?),
    };
    match spec.rung {
        Rung::Chroot => family::end(),
        Rung::Overlay | Rung::Tree => sys::kill_all(),
    }
    reap_rest();
    let Some(status) = status else { return Err(Failure::new("listening to the builder", rustix::io::Errno::PIPE)) };
    Ok(failed.unwrap_or_else(|| match status.terminating_signal() {
        Some(signal) => Report::Signaled(signal),
        None => Report::Exited(status.exit_status().unwrap_or(0)),
    }))
}

/// The same while looking after the builder; none if it has gone.
fn reap_until_alone(command: Pid, control: &UnixStream) -> Result<Option<WaitStatus>, Failure> {
    let ended = pidfd_open(command, PidfdFlags::empty()).doing(|| "watching the command".to_owned())?;
    loop {
        match rustix::io::retry_on_intr(|| wait(WaitOptions::NOHANG)).doing(|| "waiting for the command".to_owned())? {
            Some((pid, status)) if pid == command => return Ok(Some(status)),
            Some(_) => continue,
            None => {}
        }
        // Orphans that end wake nobody; they are reaped within this time.
        let patience = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        let mut watched = [PollFd::new(control, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut watched, Some(&patience)))
            .doing(|| "watching the command".to_owned())?;
        if !watched[0].revents().is_empty() {
            return Ok(None);
        }
    }
}

/// Reaps all that end, as pid 1 must, until the command does.
fn reap_until(command: Pid) -> Result<WaitStatus, Failure> {
    loop {
        let ended =
            rustix::io::retry_on_intr(|| wait(WaitOptions::empty())).doing(|| "waiting for the command".to_owned())?;
        match ended {
            Some((pid, status)) if pid == command => return Ok(status),
            _ => continue,
        }
    }
}

fn reap_rest() {
    // Ends with ECHILD: all are dead.
    while rustix::io::retry_on_intr(|| wait(WaitOptions::empty())).is_ok() {}
}
