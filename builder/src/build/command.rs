//! RUN: the layers unpacked, the command run over them in the sandbox, its changes read into a layer.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::error::StepProblem;
use super::ground::Ground;
use super::layers::{Chain, ChainContents, Layers, Link};
use super::made::Made;
use super::room::Room;
use super::steps::Builder;
use super::{kept, mounts, workdir};
use crate::copy::{self, Stage};
use crate::dockerfile::Network;
use crate::event::{Event, StepLabel};
use crate::layer::entry::{Entry, Kind};
use crate::layer::likeness::{self, Times};
use crate::layer::{Index, View, diff, unpack};
use crate::plan::RunStep;
use crate::sandbox::{self, Credentials, Entered, Mode, resolve_user};

/// Largest /etc/passwd or /etc/group that is read, in bytes.
const DATABASE_LIMIT: u64 = 16 << 20;

pub(super) fn run(
    builder: &mut Builder<'_>,
    chain: &Chain,
    step: &RunStep,
    label: &Arc<StepLabel>,
) -> Result<Made, StepProblem> {
    let mut key = builder.key("run", chain);
    key.run(step, &builder.request.run);
    mounts::add_to_key(builder, step, &mut key)?;
    builder.remembered(key.finish(), |builder| {
        let sandbox = builder.workshop.sandbox.ok_or(StepProblem::NoSandbox)?;
        let room = Room::new(&sandbox.steps)?;
        let made = run_in(builder, chain, step, label, sandbox, &room);
        let removed = room.remove();
        let link = made?;
        removed?;
        Ok(link)
    })
}

fn run_in(
    builder: &mut Builder<'_>,
    chain: &Chain,
    step: &RunStep,
    label: &Arc<StepLabel>,
    sandbox: &Entered,
    room: &Room,
) -> Result<Link, StepProblem> {
    let begun = Timestamp::now().as_second() - 1; // the clock of file systems is a little late
    let view = builder.layers.view(chain)?;
    let user = credentials(&builder.layers, chain, &view, &step.user)?;
    if sandbox.mode == Mode::SingleUid && !sandbox.records_owners && (user.uid != 0 || user.gid != 0) {
        return Err(StepProblem::SingleUser(step.user.clone()));
    }
    let ground = Ground::prepare(&builder.layers, chain, sandbox)?;
    make_directory(&view, &ground, room, sandbox, &step.cwd, builder.now())?;
    let prepared = mounts::prepare(builder, step, sandbox, room.path())?;
    let mut task = task(builder, step, user, room)?;
    ground.give(&mut task);
    prepared.give(&mut task);
    let (exit, links) =
        sandbox::run_recorded(sandbox, &task, builder.workshop.cancel, owners_below(&view), |stream, bytes| {
            builder.event(Event::Output { step: label.clone(), stream, bytes: bytes.to_vec() });
        })?;
    let ended = Timestamp::now().as_second();
    if !exit.success() {
        return Err(StepProblem::Failed { command: step.arguments.join(" "), code: exit.code() });
    }
    let (ownership, marks) = builder.layers.kept(sandbox);
    let mut link = ground.layer(&builder.layers, chain, &view, room, &links, &diff::Options { ownership, marks })?;
    let index = builder.layers.index(&link)?;
    let times = Times::During(begun, ended);
    let alone = likeness::of(&index, times);
    link.likeness = Some(link.residue.as_ref().map_or(alone, |residue| residue.likeness(&alone, &view, times)));
    if sandbox.rung.is_tree() {
        return Ok(link);
    }
    let place = builder.layers.root(&link, sandbox)?;
    let nothing = Index::default();
    let told = [&*index, link.residue.as_ref().map_or(&nothing, |residue| residue.index())];
    match kept::keep(&room.upper(), &room.kept(), &place, told, marks) {
        Ok(kept) => tracing::debug!(kept, layer = %link.diff_id, "the changes of a step"),
        // It can always be unpacked from the blob; on another file system it has to be.
        Err(error) => tracing::debug!(%error, layer = %link.diff_id, "the changes of a step are not kept"),
    }
    Ok(link)
}

/// Owners of links in the layers, which no attribute can carry.
fn owners_below(view: &View) -> sandbox::Below {
    let view = view.clone();
    Arc::new(move |path, mtime| {
        let node = view.lstat(path.strip_prefix(b"/").unwrap_or(path))?;
        let entry = &node.entry;
        let is_it = !entry.is_dir() && !matches!(entry.kind, Kind::File { .. }) && entry.mtime == mtime;
        (is_it && (entry.uid, entry.gid) != (0, 0)).then_some((entry.uid, entry.gid))
    })
}

/// Who a USER is, by the files of the image.
fn credentials(layers: &Layers<'_>, chain: &Chain, view: &View, user: &str) -> Result<Credentials, StepProblem> {
    let contents = ChainContents { layers, chain };
    let tree = Stage::new(view, &contents);
    let read = |path: &str| match tree.read(path.as_bytes(), DATABASE_LIMIT) {
        Err(copy::Error::View(_)) => Ok(None), // a link that leads nowhere is no file
        read => read.map_err(io::Error::other),
    };
    Ok(resolve_user(user, read)?)
}

fn task(builder: &Builder<'_>, step: &RunStep, user: Credentials, room: &Room) -> Result<sandbox::Step, StepProblem> {
    let mut task = sandbox::Step::new(room.upper(), room.work(), &step.arguments);
    task.cwd = PathBuf::from(&step.cwd);
    let is_set = |name: &str| step.env.iter().any(|(known, _)| known == name);
    let home = (!is_set("HOME")).then(|| ("HOME".to_owned(), user.home.clone()));
    let proxy = step.proxy.iter().filter(|(name, _)| !is_set(name)).cloned();
    let env = step.env.iter().cloned().chain(proxy).chain(home);
    task.env = env.map(|(name, value)| (name.into(), value.into())).collect();
    task.user = user;
    let options = &builder.request.run;
    task.network = match options.network_of(step) {
        Network::Default | Network::Host => sandbox::Network::Host,
        Network::None => sandbox::Network::None,
    };
    if let Some(hostname) = &step.hostname {
        task.hostname.clone_from(hostname);
    }
    task.add_hosts.clone_from(&options.add_hosts);
    task.rlimits.clone_from(&options.limits);
    task.shm_size = options.shm_size.unwrap_or(sandbox::DEFAULT_SHM_SIZE);
    if let Some(script) = &step.script {
        let source = room.script(&script.name, &script.text)?;
        task.mounts.push(sandbox::Mount::Bind { source, target: "/dev/pipes".into(), read_only: true });
    }
    Ok(task)
}

/// The working directory is there for the command even if no layer has it, as runc sees to it.
fn make_directory(
    view: &View,
    ground: &Ground,
    room: &Room,
    sandbox: &Entered,
    path: &str,
    now: i64,
) -> Result<(), StepProblem> {
    let is_recorded = sandbox.mode == Mode::SingleUid;
    for entry in workdir::entries(view, path, None, now)? {
        if sandbox.rung.is_tree() && view.lstat(&entry.path).is_some() {
            continue; // a tree has it
        }
        let place = ground.place(room).join(os_path(&entry));
        let made = std::fs::create_dir(&place)
            .and_then(|()| if is_recorded { record(&place, &entry) } else { give(&place, &entry) })
            .and_then(|()| std::fs::set_permissions(&place, std::fs::Permissions::from_mode(entry.mode)));
        made.map_err(|source| StepProblem::Disk { doing: format!("making {}", place.display()), source })?;
    }
    Ok(())
}

fn give(place: &Path, entry: &Entry) -> io::Result<()> {
    chown(place, Some(entry.uid), Some(entry.gid))
}

fn record(place: &Path, entry: &Entry) -> io::Result<()> {
    if (entry.uid, entry.gid) == (0, 0) {
        return Ok(());
    }
    let owner = format!("{}:{}", entry.uid, entry.gid);
    Ok(rustix::fs::setxattr(place, unpack::OWNER, owner.as_bytes(), rustix::fs::XattrFlags::empty())?)
}

fn os_path(entry: &Entry) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(&entry.path))
}
