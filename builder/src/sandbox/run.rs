//! The builder's side of a step: starts the init process, streams what the command prints, waits, cancels. What happens
//! inside the namespaces stands in `init`, `root` and `program`.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};

use super::launch::Init;
use super::owners::{Below, LinkOwners, Supervisor};
use super::wire::{self, REPORT_LIMIT, Report, Spec};
use super::{Cancel, Credentials, Entered, Error, LAYER_LIMIT, Mount, Network, Rung, Step};

/// How much output is read at once: what a pipe holds.
const CHUNK: usize = 64 << 10;

/// /etc/resolv.conf is a handful of lines; glibc reads no more either.
const RESOLV_CONF_LIMIT: u64 = 64 << 10;

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The command's standard output.
    Stdout,
    /// The command's standard error.
    Stderr,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Tells whether the command succeeded.
    pub fn success(self) -> bool {
        self == Self::Status(0)
    }

    /// Returns what a shell would have in `$?`: the status, or 128 plus the signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Runs one step and waits for its end, from any thread. `output` receives what the command prints while it runs, in
/// chunks of at most 64 KiB. When this returns, no process of the step is left, and `step.upper` (or `step.tree`) holds
/// what it changed.
///
/// # Errors
/// See [`Error`]; a command that fails is no error, but an [`Exit`].
pub fn run(entered: &Entered, step: &Step, cancel: &Cancel, output: impl FnMut(Stream, &[u8])) -> Result<Exit, Error> {
    run_recorded(entered, step, cancel, Arc::new(|_, _| None), output).map(|(exit, _)| exit)
}

/// The same, where owners may have to be recorded: `below` knows those of links in the layers, and the owners of links
/// that the step has changed come back. Those of all other files are in their attributes.
///
/// # Errors
/// As [`run`].
pub fn run_recorded(
    entered: &Entered,
    step: &Step,
    cancel: &Cancel,
    below: Below,
    mut output: impl FnMut(Stream, &[u8]),
) -> Result<(Exit, LinkOwners), Error> {
    check(entered, step)?;
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let spec = Spec {
        step: located(step)?,
        rung: entered.rung,
        records_owners: entered.records_owners,
        overlay: entered.overlay,
        proc: entered.proc,
        empty: entered.empty.clone(),
        resolv_conf: resolv_conf()?,
        setgroups: entered.setgroups,
    };
    let mut init = Init::start(step.network, entered.rung).map_err(Error::Start)?;
    if let Err(error) = wire::send(&init.control, &spec) {
        // An init that is gone explains itself below by its status.
        tracing::debug!(%error, "the init process did not take its orders");
    }
    let mut ears = Ears { report: Vec::new(), supervisor: None, user: &step.user, below };
    let heard = pump(&mut init, cancel, &mut output, &mut ears);
    if heard.is_err() {
        drop(init); // kills and reaps, while calls are still answered
        ears.supervisor.map(Supervisor::finish);
        return Err(heard.err().unwrap_or(Error::Cancelled));
    }
    let ended = init.wait()?;
    let links = ears.supervisor.map(Supervisor::finish).unwrap_or_default();
    let exit = match serde_json::from_slice(&ears.report) {
        Ok(Report::Exited(status)) => Ok(Exit::Status(status)),
        Ok(Report::Signaled(signal)) => Ok(Exit::Signal(signal)),
        Ok(Report::Failed(failure)) => {
            Err(Error::Setup { doing: failure.doing, source: io::Error::from_raw_os_error(failure.errno) })
        }
        Ok(Report::NotExecuted { program, errno, why }) => Err(Error::Exec { program, why: why.explain(errno) }),
        Err(_) => {
            Err(ended.terminating_signal().map_or(Error::Broken(ended.exit_status().unwrap_or(-1)), Error::Killed))
        }
    };
    Ok((exit?, links))
}

/// What comes over the control socket: the report, and before it perhaps the calls that want a supervisor.
struct Ears<'a> {
    report: Vec<u8>,
    supervisor: Option<Supervisor>,
    user: &'a Credentials,
    below: Below,
}

/// Refuses what could not be handed to the kernel.
fn check(entered: &Entered, step: &Step) -> Result<(), Error> {
    if entered.rung == Rung::Chroot && step.network == Network::None {
        let remedy = "let the step have the network, or build where namespaces are allowed";
        return Err(Error::BeyondRung { what: "RUN --network=none", rung: entered.rung, remedy });
    }
    if entered.rung.is_tree() != step.tree.is_some() {
        return Err(Error::BadStep("its files do not fit to where steps run"));
    }
    if step.args.first().is_none_or(|program| program.is_empty()) {
        return Err(Error::BadStep("its command is empty"));
    }
    let names = || step.env.iter().map(|(name, _)| name).chain(step.secret_env.iter().map(|(name, _)| name));
    let words = step.args.iter().chain(step.env.iter().map(|(_, value)| value)).chain(names());
    let secrets = step.secret_env.iter().map(|(_, secret)| secret.reveal());
    if words.map(|word| word.as_bytes()).chain(secrets).any(|word| word.contains(&0)) {
        return Err(Error::BadStep("its command or environment contains a NUL byte"));
    }
    if names().any(|name| name.is_empty() || name.as_bytes().contains(&b'=')) {
        return Err(Error::BadStep("the name of an environment variable is empty or contains `=`"));
    }
    if step.user.groups.iter().chain([&step.user.uid, &step.user.gid]).any(|id| *id == u32::MAX) {
        // To setresuid(2) it would mean: stay root.
        return Err(Error::BadStep("4294967295 is not a user or group id"));
    }
    if !step.cwd.is_absolute() {
        return Err(Error::BadStep("its working directory is not absolute"));
    }
    Ok(())
}

/// Replaces all outer paths by real ones: init resolves them while its root is already the image's.
fn located(step: &Step) -> Result<Step, Error> {
    let real = |path: &Path| {
        fs::canonicalize(path).map_err(|source| Error::Setup { doing: format!("finding {}", path.display()), source })
    };
    let mut step = step.clone();
    step.layers = distinct(step.layers.iter().map(|layer| real(layer)).collect::<Result<_, _>>()?);
    if step.layers.len() > LAYER_LIMIT {
        return Err(Error::TooManyLayers(step.layers.len()));
    }
    match &mut step.tree {
        Some(tree) => *tree = real(tree)?,
        None => {
            step.upper = real(&step.upper)?;
            step.work = real(&step.work)?;
        }
    }
    for mount in &mut step.mounts {
        if let Mount::Bind { source, .. } = mount {
            *source = real(source)?;
        }
    }
    Ok(step)
}

/// Keeps each layer only where it lies highest. overlayfs refuses to stack a directory twice, and images do contain a
/// layer twice (every empty one is the same); whatever the lower one says, the upper one says again over it.
fn distinct(layers: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let mut kept: Vec<_> = layers.into_iter().rev().filter(|layer| seen.insert(layer.clone())).collect();
    kept.reverse();
    kept
}

/// The machine's own resolv.conf. Unlike BuildKit we never put a public name server into one without any.
fn resolv_conf() -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    let read = fs::File::open("/etc/resolv.conf").and_then(|file| file.take(RESOLV_CONF_LIMIT).read_to_end(&mut text));
    match read {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Setup { doing: "reading /etc/resolv.conf".to_owned(), source })
        }
        _ => Ok(text),
    }
}

/// Moves output until both streams and the control socket have ended.
fn pump(
    init: &mut Init,
    cancel: &Cancel,
    output: &mut dyn FnMut(Stream, &[u8]),
    ears: &mut Ears<'_>,
) -> Result<(), Error> {
    let mut buffer = vec![0; CHUNK];
    let (mut stdout, mut stderr, mut control) = (true, true, true);
    while stdout || stderr || control {
        let sources = [(stdout, init.stdout.as_fd()), (stderr, init.stderr.as_fd()), (control, init.control.as_fd())];
        let ready = wait_for(sources, cancel.as_fd())?;
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if ready[0] {
            stdout = pass(&init.stdout, &mut buffer, |bytes| output(Stream::Stdout, bytes))?;
        }
        if ready[1] {
            stderr = pass(&init.stderr, &mut buffer, |bytes| output(Stream::Stderr, bytes))?;
        }
        if ready[2] {
            control = listen(&init.control, &mut buffer, ears)?;
        }
    }
    Ok(())
}

/// Sleeps until one of the open sources, or the cancellation, has something to say.
fn wait_for(sources: [(bool, BorrowedFd<'_>); 3], cancel: BorrowedFd<'_>) -> Result<[bool; 3], Error> {
    // A closed stream would be reported as hung up for ever, so it is left out.
    let open = sources.iter().filter(|(open, _)| *open).map(|(_, fd)| *fd);
    let mut polled: Vec<_> = open.chain([cancel]).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    retry_on_intr(|| poll(&mut polled, None)).map_err(|e| Error::Output(e.into()))?;
    let mut answers = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(sources.map(|(open, _)| open && answers.next().unwrap_or(false)))
}

/// Reads once; false at the end.
fn pass(stream: impl AsFd, buffer: &mut [u8], mut to: impl FnMut(&[u8])) -> Result<bool, Error> {
    let count = retry_on_intr(|| rustix::io::read(&stream, &mut *buffer)).map_err(|e| Error::Output(e.into()))?;
    if count > 0 {
        to(&buffer[..count]);
    }
    Ok(count > 0)
}

fn listen(control: &UnixStream, buffer: &mut [u8], ears: &mut Ears<'_>) -> Result<bool, Error> {
    match wire::hear(control, buffer) {
        // An init that died before it read its orders resets the connection.
        Ok((0, _)) | Err(Errno::CONNRESET) => Ok(false),
        Ok((count, listener)) => {
            let room = (REPORT_LIMIT as usize).saturating_sub(ears.report.len());
            ears.report.extend_from_slice(&buffer[..count.min(room)]);
            if let Some(listener) = listener {
                let supervisor = Supervisor::start(listener, ears.user, ears.below.clone()).map_err(Error::Start)?;
                ears.supervisor.get_or_insert(supervisor);
            }
            Ok(true)
        }
        Err(errno) => Err(Error::Output(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_counts_where_it_lies_highest() {
        let layers = |names: &str| names.chars().map(|c| PathBuf::from(format!("/{c}"))).collect::<Vec<_>>();
        assert_eq!(distinct(layers("abacca")), layers("bca"));
        assert_eq!(distinct(layers("")), layers(""));
    }
}
