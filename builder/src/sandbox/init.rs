//! Pid 1 of a step: prepares the root file system, starts the command, reaps, kills what is left over, tidies up and
//! reports. It is our own executable started under another name, a new process with one thread.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, Uid, fchown};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, set_parent_process_death_signal, setsid, wait};

use super::launch::INIT_NAME;
use super::program;
use super::root::Root;
use super::sys::{self, Fork};
use super::wire::{self, Doing, Failure, Report, Spec};

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
    if getpid() != Pid::INIT {
        return MISUSED;
    }
    // What `ps` shows; the name of the file is a number of ours. Nothing depends on it.
    let _ = rustix::thread::set_name(c"lighter-init");
    let Ok(control) = sys::control_socket() else { return MISUSED };
    sys::close_from(sys::CONTROL + 1);
    let report = match listen(&control) {
        Ok(spec) => serve_step(&spec).unwrap_or_else(Report::Failed),
        Err(failure) => Report::Failed(failure),
    };
    match serde_json::to_vec(&report).map(|json| (&control).write_all(&json)) {
        Ok(Ok(())) => 0,
        _ => MISUSED, // nobody is left to hear it
    }
}

fn listen(control: &UnixStream) -> Result<Spec, Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).doing(|| "tying the step to the builder".to_owned())?;
    let spec = wire::receive(control).doing(|| "reading the description of the step".to_owned())?;
    // The builder may have died before the line above that kills us with it.
    let mut builder = [PollFd::new(control, PollFlags::IN)];
    poll(&mut builder, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).doing(|| "looking for the builder".to_owned())?;
    if builder[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
        sys::exit(1);
    }
    Ok(spec)
}

fn serve_step(spec: &Spec) -> Result<Report, Failure> {
    setsid().doing(|| "starting a session".to_owned())?; // no terminal, and no Ctrl-C of the builder's terminal
    let root = Root::prepare(spec)?;
    own_output(spec)?;
    let report = run_program(spec, &root);
    root.leave();
    report
}

/// Lets a command that is not root open /dev/stdout and /dev/stderr again.
fn own_output(spec: &Spec) -> Result<(), Failure> {
    let user = &spec.step.user;
    if user.uid == 0 {
        return Ok(());
    }
    for stream in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
        fchown(stream, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))
            .doing(|| format!("giving the output to uid {}", user.uid))?;
    }
    Ok(())
}

fn run_program(spec: &Spec, root: &Root) -> Result<Report, Failure> {
    let (answer, question) = std::io::pipe().doing(|| "making a pipe".to_owned())?;
    let command = match sys::fork().doing(|| "starting the command".to_owned())? {
        Fork::Child => {
            drop(answer);
            let failed = program::become_program(spec, root);
            program::tell(question, &failed);
            sys::exit(program::UNABLE)
        }
        Fork::Parent(command) => command,
    };
    drop(question);
    let failed = program::hear(answer); // ends when execve closes the pipe
    let status = reap_until(command)?;
    sys::kill_all();
    reap_rest();
    Ok(failed.unwrap_or_else(|| match status.terminating_signal() {
        Some(signal) => Report::Signaled(signal),
        None => Report::Exited(status.exit_status().unwrap_or(0)),
    }))
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
