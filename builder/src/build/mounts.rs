//! What `RUN --mount` asks for: files of the context, a stage or an image (`bind`), directories that are
//! kept between builds (`cache`, see `cache_mounts`), memory (`tmpfs`), secrets and SSH agents.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci::Digest;

use super::agent::Lent;
use super::cache_mounts;
use super::error::StepProblem;
use super::key::Key;
use super::layers::unnamed_file;
use super::steps::Builder;
use super::transfer;
use crate::copy::{self, Hashed, Source, Target, place, select};
use crate::dockerfile::{Mount, MountKind, last_name};
use crate::layer::pipeline::Options;
use crate::layer::read::Limits;
use crate::layer::{Compression, Pipeline, View, unpack};
use crate::plan::{Origin, RunStep};
use crate::sandbox::{self, Entered};
use crate::secret::Secret;

/// Everything that a step's mounts need while it runs: locks are given back and agents taken back when
/// it is dropped.
#[derive(Default)]
pub(super) struct Prepared {
    mounts: Vec<sandbox::Mount>,
    secret_env: Vec<(OsString, Secret)>,
    agents: Vec<Lent>,
    first_agent: Option<PathBuf>,
    _locks: Vec<File>,
}

impl Prepared {
    /// Gives it to the step.
    pub fn give(&self, task: &mut sandbox::Step) {
        task.mounts.extend(self.mounts.iter().cloned());
        // A variable that is there twice is not replaced everywhere: the first one counts for most programs.
        task.env.retain(|(name, _)| self.secret_env.iter().all(|(secret, _)| secret != name));
        task.secret_env.extend(self.secret_env.iter().cloned());
        if let Some(socket) = &self.first_agent
            && task.env.iter().all(|(name, _)| name != "SSH_AUTH_SOCK")
        {
            task.env.push(("SSH_AUTH_SOCK".into(), socket.into()));
        }
    }
}

/// Whether the command can read files through a mount that the key of its step must tell. What is in a cache does not
/// count, only what it begins with.
pub(super) fn reads(mount: &Mount) -> bool {
    match mount.kind {
        MountKind::Bind => true,
        MountKind::Cache => cache_mounts::has_start(mount),
        MountKind::Tmpfs | MountKind::Secret | MountKind::Ssh => false,
    }
}

/// A name for what a mount shows.
pub(super) fn asked(mount: &Mount, origin: &Origin) -> Digest {
    Digest::of(format!("mount {origin:?} {:?}", mount.source).as_bytes())
}

/// Adds to a key what the command can read through its mounts.
pub(super) fn add_to_key(builder: &mut Builder<'_>, step: &RunStep, key: &mut Key) -> Result<(), StepProblem> {
    for (mount, origin) in step.mounts.iter().filter(|(mount, _)| reads(mount)) {
        let content = content(builder, mount, origin.as_ref())?;
        builder.confirm_asked(&asked(mount, origin.as_ref().unwrap_or(&Origin::Context)), &content);
        key.bytes(content.as_bytes());
    }
    Ok(())
}

/// A digest of the files that a mount shows.
pub(super) fn content(
    builder: &mut Builder<'_>,
    mount: &Mount,
    origin: Option<&Origin>,
) -> Result<Digest, StepProblem> {
    selected(builder, mount, origin, |_, hashed| Ok(hashed.digest()))
}

/// Makes what is mounted; `room` is a directory of the step.
pub(super) fn prepare(
    builder: &mut Builder<'_>,
    step: &RunStep,
    sandbox: &Entered,
    room: &Path,
) -> Result<Prepared, StepProblem> {
    let (mut caches, locks) = cache_mounts::open(builder, step, sandbox)?;
    let mut prepared = Prepared { _locks: locks, ..Prepared::default() };
    for (number, (mount, origin)) in in_order(step) {
        match mount.kind {
            MountKind::Bind => {
                let source = files(builder, mount, origin.as_ref(), sandbox, &room.join(format!("bind-{number}")))?;
                prepared.bind(source, target(mount, &step.cwd), mount.read_only);
            }
            MountKind::Cache => {
                let source = caches.remove(&number).ok_or_else(|| StepProblem::Unsupported("this cache".to_owned()))?;
                prepared.bind(source, target(mount, &step.cwd), mount.read_only);
            }
            MountKind::Tmpfs => {
                let tmpfs = sandbox::Mount::Tmpfs { target: target(mount, &step.cwd), size: mount.size };
                prepared.mounts.push(tmpfs);
            }
            MountKind::Secret => prepared.secret(builder, mount, &step.cwd, sandbox)?,
            MountKind::Ssh => {
                prepared.agent(builder, mount, &step.cwd, sandbox, &room.join(format!("agent-{number}")))?;
            }
        }
    }
    only_last(&mut prepared.mounts);
    Ok(prepared)
}

/// Mounts in BuildKit's order, with their numbers: by their targets, so that what is within another is seen whatever comes
/// first in the file; then secrets and agents.
fn in_order(step: &RunStep) -> Vec<(usize, &(Mount, Option<Origin>))> {
    let mut mounts: Vec<_> = step.mounts.iter().enumerate().collect();
    mounts.sort_by_cached_key(|(_, (mount, _))| match mount.kind {
        MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => (0, Some(target(mount, &step.cwd).into_os_string())),
        MountKind::Secret => (1, None),
        MountKind::Ssh => (2, None),
    });
    mounts
}

/// Of mounts whose targets are written alike only the last one counts.
fn only_last(mounts: &mut Vec<sandbox::Mount>) {
    let targets: Vec<OsString> = mounts.iter().map(|mount| mount.target().as_os_str().to_owned()).collect();
    let mut next = 0;
    mounts.retain(|_| {
        next += 1;
        !targets[next..].contains(&targets[next - 1])
    });
}

impl Prepared {
    fn bind(&mut self, source: PathBuf, target: PathBuf, read_only: bool) {
        self.mounts.push(sandbox::Mount::Bind { source, target, read_only });
    }

    /// `env` alone sets a variable and mounts nothing.
    fn secret(
        &mut self,
        builder: &Builder<'_>,
        mount: &Mount,
        cwd: &str,
        sandbox: &Entered,
    ) -> Result<(), StepProblem> {
        let id = mount.secret_id();
        let Some(content) = builder.request.run.secrets.get(id) else {
            return if mount.required { Err(StepProblem::NoSecret(id.to_owned())) } else { Ok(()) };
        };
        if let Some(name) = mount.env.as_deref().filter(|name| !name.is_empty()) {
            self.secret_env.push((name.into(), content.clone()));
        }
        let has_target = mount.target.as_deref().is_some_and(|target| !target.is_empty());
        if mount.env.is_some() && !has_target {
            return Ok(());
        }
        let target = if has_target { target(mount, cwd) } else { Path::new("/run/secrets").join(last_name(id)) };
        let (uid, gid) = owner(mount, sandbox).unwrap_or_default();
        let (content, mode) = (content.clone(), mount.mode.unwrap_or(0o400));
        self.mounts.push(sandbox::Mount::Secret { target, content, mode, uid, gid });
        Ok(())
    }

    fn agent(
        &mut self,
        builder: &Builder<'_>,
        mount: &Mount,
        cwd: &str,
        sandbox: &Entered,
        room: &Path,
    ) -> Result<(), StepProblem> {
        let id = mount.ssh_id();
        let target = match mount.target.as_deref() {
            None | Some("") => PathBuf::from(format!("/run/buildkit/ssh_agent.{}", self.agents.len())),
            Some(_) => target(mount, cwd),
        };
        self.first_agent.get_or_insert(target.clone()); // also where there will be none, as from BuildKit
        let Some(agent) = builder.request.run.ssh.get(id) else {
            return if mount.required { Err(StepProblem::NoAgent(id.to_owned())) } else { Ok(()) };
        };
        let doing = || format!("lending the SSH agent {id} at {}", agent.display());
        let lent = Lent::new(agent, room, mount.mode.unwrap_or(0o600), owner(mount, sandbox))
            .map_err(|source| StepProblem::Disk { doing: doing(), source })?;
        self.bind(lent.socket().to_owned(), target, false);
        self.agents.push(lent);
        Ok(())
    }
}

/// The owner that a mount asks for. Where there is only one user, every step runs as that one (others are
/// refused), so nobody else could own it or needs to.
pub(super) fn owner(mount: &Mount, sandbox: &Entered) -> Option<(u32, u32)> {
    let asked = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
    (sandbox.mode != sandbox::Mode::SingleUid).then_some(asked)
}

fn target(mount: &Mount, cwd: &str) -> PathBuf {
    Path::new(cwd).join(mount.target.as_deref().unwrap_or_default())
}

/// Finds the files of a bind mount and hashes them.
fn selected<R>(
    builder: &mut Builder<'_>,
    mount: &Mount,
    origin: Option<&Origin>,
    then: impl FnOnce(&mut Builder<'_>, &Hashed<'_>) -> Result<R, StepProblem>,
) -> Result<R, StepProblem> {
    let written = mount.source.as_deref().unwrap_or_default();
    let path = literal(written);
    let from = builder.from(origin.unwrap_or(&Origin::Context))?;
    transfer::with_source(builder, &from, |builder, source: &dyn Source| {
        let threads = builder.layers.options.threads;
        let hashed = select(&[(source, path.as_bytes())], copy::Options::default())?.hash(threads)?;
        if hashed.is_empty() {
            return Err(copy::Error::NotFound(format!("/{}", written.trim_start_matches('/'))).into());
        }
        then(builder, &hashed)
    })
}

/// Puts the files of a mount into a directory of the step, which it makes: what the command writes there is gone
/// afterwards, and what is ignored is not there.
pub(super) fn files(
    builder: &mut Builder<'_>,
    mount: &Mount,
    origin: Option<&Origin>,
    sandbox: &Entered,
    room: &Path,
) -> Result<PathBuf, StepProblem> {
    const PLACE: &[u8] = b"/files/";
    selected(builder, mount, origin, |builder, hashed| {
        let scratch = builder.workshop.cache.work();
        let target = Target {
            path: PLACE,
            owner: None,
            chmod: None,
            unpack: false,
            now: builder.now(),
            scratch: &scratch,
            limits: Limits::default(),
        };
        let mut placed = place(hashed, &target, &View::empty())?;
        hashed.single_dir().into_iter().for_each(|dir| placed.dress(b"files", dir));
        let disk = |source| StepProblem::Disk { doing: "writing the files of a mount".to_owned(), source };
        let options = Options { compression: Compression::None, ..builder.layers.options };
        let mut tar = Pipeline::new(unnamed_file(&scratch).map_err(disk)?, options)?;
        placed.write(&mut tar)?;
        let (_, mut tar) = tar.finish()?;
        tar.seek(SeekFrom::Start(0)).map_err(disk)?;
        let unpacked = unpack::unpack(tar, room, &builder.layers.unpacking(sandbox))?;
        let files = unpacked.root.join("files");
        let single = hashed.single_file().map(|name| files.join(std::ffi::OsStr::from_bytes(name)));
        Ok(single.unwrap_or(files))
    })
}

/// A path as a pattern that means only itself: the source of a mount has no wildcards.
pub(super) fn literal(path: &str) -> String {
    let mut pattern = String::new();
    for character in path.chars() {
        match character {
            '*' | '?' | '[' => pattern.extend(['[', character, ']']),
            '\\' => pattern.push_str("[\\\\]"),
            _ => pattern.push(character),
        }
    }
    pattern
}
