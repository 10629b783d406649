//! Fetching a repository with the `git` program. It runs without this machine's configuration, logins,
//! hooks and terminal, speaks only the protocols that its address may need, and dies with the build.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use rustix::process::{Pid, Signal, kill_process_group};

use super::source::{GitSource, is_commit};
use crate::sandbox::{Cancel, remove_tree};
use crate::secret::Secret;

/// How often a running git is looked after.
const PATIENCE: Duration = Duration::from_millis(20);
/// How much of git's own words is kept for a message, in bytes.
const WORDS_LIMIT: u64 = 64 << 10;
/// Where programs lie; the PATH of whoever builds is not asked.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a repository could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no git.
    #[error("the program git cannot be started: {0}")]
    Start(#[source] io::Error),
    /// git says no.
    #[error("git {command} of {address}: {words}")]
    Refused {
        /// What git was to do.
        command: &'static str,
        /// The repository, without passwords.
        address: String,
        /// What git said.
        words: String,
    },
    /// It is another commit than the one that was asked for.
    #[error("{address} is at commit {actual}, and {expected} was asked for")]
    Commit {
        /// The repository, without passwords.
        address: String,
        /// What was asked for.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The directory of the repository that is meant is not there.
    #[error("{address} has no directory {directory:?}")]
    NoDirectory {
        /// The repository, without passwords.
        address: String,
        /// The directory.
        directory: String,
    },
    /// The disk.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody stopped it.
    #[error("cancelled")]
    Cancelled,
}

/// A repository, checked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// Its files: the directory that was meant.
    pub directory: PathBuf,
    /// The commit.
    pub commit: String,
}

/// What git gets of this machine.
#[derive(Debug, Clone, Default)]
pub struct Git {
    /// The socket of an SSH agent.
    pub ssh_agent: Option<PathBuf>,
    /// A password for http(s), as `GIT_AUTH_TOKEN` among the secrets of a build.
    pub token: Option<Secret>,
}

impl Git {
    /// Fetches what a source names into `room`, an empty directory of the caller's.
    ///
    /// Files have the modes of umask 022 and the time of the commit, so that the same commit is the same
    /// files, whenever it is fetched.
    pub fn fetch(
        &self,
        source: &GitSource,
        room: &Path,
        keep_git_dir: bool,
        cancel: &Cancel,
    ) -> Result<Checkout, Error> {
        let home = room.join("home");
        let tree = room.join("tree");
        for directory in [&home, &tree] {
            fs::create_dir(directory).map_err(at(directory))?;
        }
        let run = Run { git: self, source, home: &home, tree: &tree, cancel };
        run.git("init", &["init", "--quiet", "--template=", "."])?;
        let wanted = source.reference.as_deref().unwrap_or("HEAD");
        run.fetch(wanted)?;
        let commit = run.git("rev-parse", &["rev-parse", "--verify", "FETCH_HEAD^{commit}"])?.trim().to_owned();
        if source.commit.as_ref().is_some_and(|expected| !commit.starts_with(expected.as_str())) {
            let expected = source.commit.clone().unwrap_or_default();
            return Err(Error::Commit { address: shown(&source.address), expected, actual: commit });
        }
        run.git("checkout", &["checkout", "--quiet", "--force", "--detach", &commit])?;
        if source.submodules && tree.join(".gitmodules").is_file() {
            // Their addresses may be relative to the repository's, which git takes from the remote of that name.
            let origin = format!("remote.origin.url={}", source.address);
            let update = ["-c", &origin, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"];
            run.git("submodule", &update)?;
        }
        let time = run.git("log", &["log", "-1", "--format=%ct", &commit])?;
        let time: i64 = time.trim().parse().unwrap_or(0);
        if keep_git_dir {
            run.settle(wanted)?;
        } else {
            remove_git_directories(&tree)?;
        }
        dress(&tree, time)?;
        let directory = inside(&tree, &source.directory).ok_or_else(|| Error::NoDirectory {
            address: shown(&source.address),
            directory: source.directory.clone(),
        })?;
        Ok(Checkout { directory, commit })
    }
}

struct Run<'a> {
    git: &'a Git,
    source: &'a GitSource,
    home: &'a Path,
    tree: &'a Path,
    cancel: &'a Cancel,
}

impl Run<'_> {
    /// Fetches a ref or commit, as little of its history as the server lets us.
    fn fetch(&self, wanted: &str) -> Result<(), Error> {
        let address = self.source.address.as_str();
        let shallow =
            self.git("fetch", &["fetch", "--quiet", "--no-tags", "--force", "--depth=1", "--", address, wanted]);
        match shallow {
            Ok(_) => Ok(()),
            Err(Error::Refused { .. }) if is_commit(wanted) => self.find_commit(wanted),
            // Servers that are only files cannot give a part of the history.
            Err(Error::Refused { ref words, .. }) if words.contains("shallow") => {
                self.git("fetch", &["fetch", "--quiet", "--no-tags", "--force", "--", address, wanted]).map(drop)
            }
            Err(error) => Err(error),
        }
    }

    /// A commit that no ref names, or only the beginning of one: everything is fetched, and looked through.
    fn find_commit(&self, commit: &str) -> Result<(), Error> {
        let address = self.source.address.as_str();
        let everything = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        self.git("fetch", &["fetch", "--quiet", "--force", "--", address, everything[0], everything[1]])?;
        let found = self.git("rev-parse", &["rev-parse", "--verify", "--quiet", &format!("{commit}^{{commit}}")]);
        let found = found.map_err(|error| match error {
            Error::Refused { address, .. } => {
                Error::Refused { command: "fetch", address, words: format!("it has no commit {commit}") }
            }
            other => other,
        })?;
        let place = self.tree.join(".git/FETCH_HEAD");
        fs::write(&place, format!("{}\t\t\n", found.trim())).map_err(at(&place))
    }

    /// What a repository that is kept says of itself: where it came from, and nothing of this build.
    fn settle(&self, wanted: &str) -> Result<(), Error> {
        self.git("remote", &["remote", "add", "origin", "--", &shown(&self.source.address)])?;
        if let Some(branch) = wanted.strip_prefix("refs/heads/") {
            self.git("branch", &["checkout", "--quiet", "-B", branch])?;
        }
        for leftover in ["FETCH_HEAD", "logs", "index"] {
            let path = self.tree.join(".git").join(leftover);
            remove_tree(&path).map_err(at(&path))?;
        }
        Ok(())
    }

    fn git(&self, name: &'static str, arguments: &[&str]) -> Result<String, Error> {
        let said = self.home.join("said");
        let words = fs::File::create(&said).map_err(at(&said))?;
        let mut child = self.command(arguments)?.stderr(words).spawn().map_err(Error::Start)?;
        let mut out = child.stdout.take();
        let finished = self.wait(&mut child);
        let mut text = String::new();
        if let Some(out) = &mut out {
            // All of it is there: git has ended. It is a line or two.
            out.take(WORDS_LIMIT).read_to_string(&mut text).map_err(at(&said))?;
        }
        if finished? {
            return Ok(text);
        }
        let mut words = String::new();
        let file = fs::File::open(&said).map_err(at(&said))?;
        let mut bytes = Vec::new();
        file.take(WORDS_LIMIT).read_to_end(&mut bytes).map_err(at(&said))?;
        words.push_str(&String::from_utf8_lossy(&bytes));
        let words = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        let mut words = if words.is_empty() { "it failed without a word".to_owned() } else { words };
        if words.contains("Permission denied (publickey") && self.git.ssh_agent.is_none() {
            words.push_str(" (lend an SSH agent that has the key: --ssh default)");
        }
        Err(Error::Refused { command: name, address: shown(&self.source.address), words })
    }

    fn command(&self, arguments: &[&str]) -> Result<Command, Error> {
        // `file` only for a repository of this machine: a submodule must not reach for others.
        let local = self.source.address.starts_with("file://") || self.source.address.starts_with('/');
        let protocols = if local { "file:git:http:https:ssh" } else { "git:http:https:ssh" };
        let mut command = Command::new("git");
        command.args(arguments).current_dir(self.tree).env_clear().stdin(Stdio::null()).stdout(Stdio::piped());
        command.process_group(0);
        for (name, value) in [
            ("PATH", PATH),
            ("LC_ALL", "C"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ALLOW_PROTOCOL", protocols),
            ("GIT_ASKPASS", "/bin/false"),
            ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
        ] {
            command.env(name, value);
        }
        command.env("HOME", self.home);
        let mut settings: Vec<(&str, OsString)> = vec![
            ("core.hooksPath", "/dev/null".into()),
            ("core.fsmonitor", "false".into()),
            ("http.lowSpeedLimit", "1".into()),
            ("http.lowSpeedTime", "60".into()),
            ("advice.detachedHead", "false".into()),
            ("gc.auto", "0".into()),
        ];
        if let Some(token) = &self.git.token {
            let token = String::from_utf8_lossy(token.reveal()).trim().to_owned();
            let login = STANDARD.encode(format!("x-access-token:{token}"));
            settings.push(("http.extraHeader", format!("Authorization: Basic {login}").into()));
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (key, value)) in settings.into_iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key).env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        if let Some(socket) = &self.git.ssh_agent {
            command.env("SSH_AUTH_SOCK", socket);
        }
        Ok(command)
    }

    /// Waits for git to end, and says whether all went well. A cancelled build ends it, with what it started.
    fn wait(&self, child: &mut Child) -> Result<bool, Error> {
        loop {
            if let Some(status) = child.try_wait().map_err(Error::Start)? {
                return Ok(status.success());
            }
            if self.cancel.is_cancelled() {
                // It may have ended just now; then there is nobody to be told.
                let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
                child.wait().map_err(Error::Start)?;
                return Err(Error::Cancelled);
            }
            std::thread::sleep(PATIENCE);
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::Disk { path, source }
}

/// An address as it may be told: without the password that it may hold.
pub fn shown(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://***@{}", &rest[at + 1..]),
        None => address.to_owned(),
    }
}

/// A directory of the tree, no link on the way: a repository cannot lead out of itself.
fn inside(tree: &Path, directory: &str) -> Option<PathBuf> {
    let mut path = tree.to_owned();
    for name in directory.split('/').filter(|name| !matches!(*name, "" | ".")) {
        path.push(name);
        if !fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
            return None;
        }
    }
    Some(path)
}

/// Everything below a directory, directories before what is in them, without what `skip` says of their names.
fn below(directory: &Path, skip: &str) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Error> {
    let (mut all, mut skipped) = (Vec::new(), Vec::new());
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).map_err(at(&directory))? {
            let entry = entry.map_err(at(&directory))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(at(&directory))?);
            if entry.file_name() == skip {
                skipped.push(path);
            } else {
                if kind.is_dir() {
                    waiting.push(path.clone());
                }
                all.push(path);
            }
        }
    }
    Ok((all, skipped))
}

/// Takes out `.git` and the files of that name in submodules.
fn remove_git_directories(directory: &Path) -> Result<(), Error> {
    let (_, found) = below(directory, ".git")?;
    found.iter().try_for_each(|path| remove_tree(path).map_err(at(path)))
}

/// Gives everything the time of the commit, and the modes of umask 022 whatever this process has.
fn dress(tree: &Path, seconds: i64) -> Result<(), Error> {
    let (all, _) = below(tree, "")?;
    // From the inside out: what is done in a directory changes its time.
    all.iter().rev().try_for_each(|path| dress_one(path, seconds))?;
    dress_one(tree, seconds)
}

fn dress_one(path: &Path, seconds: i64) -> Result<(), Error> {
    let found = fs::symlink_metadata(path).map_err(at(path))?;
    if !found.is_symlink() {
        let is_open = found.is_dir() || found.permissions().mode() & 0o100 != 0;
        fs::set_permissions(path, Permissions::from_mode(if is_open { 0o755 } else { 0o644 })).map_err(at(path))?;
    }
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| at(path)(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_told() {
        assert_eq!(shown("https://me:secret@h/r.git"), "https://***@h/r.git");
        assert_eq!(shown("https://h/r@x.git"), "https://h/r@x.git");
        assert_eq!(shown("git@h:r"), "git@h:r");
    }
}
