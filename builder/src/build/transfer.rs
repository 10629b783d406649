//! COPY and ADD: finds the sources, asks the cache by their content, and writes the layer.

use oci::{Digest, Reference};

use super::base::Unusable;
use super::error::StepProblem;
use super::layers::{Chain, ChainContents, Link};
use super::made::Made;
use super::remote::Fetched;
use super::steps::{Builder, From};
use super::{Directory, Files, Request, remote};
use crate::copy::{
    self, Chmod, Context, Hashed, Inline, Owner, Source, Target, needs_database, place, resolve_owner, select,
};
use crate::dockerfile::{Dockerfile, Instruction, nearest};
use crate::event::Event;
use crate::ignore::Patterns;
use crate::layer::View;
use crate::layer::read::Limits;
use crate::plan::{CopySource, CopyStep, Origin};
use crate::sandbox::{self, ExecFailure};

/// Largest /etc/passwd or /etc/group that is read, in bytes.
const DATABASE_LIMIT: u64 = 16 << 20;

impl copy::Ignore for Patterns {
    fn excludes(&self, path: &[u8]) -> bool {
        self.excludes(path)
    }
    fn may_include_below(&self, dir: &[u8]) -> bool {
        self.may_include_below(dir)
    }
}

pub(super) fn copy(builder: &mut Builder<'_>, chain: &Chain, step: &CopyStep) -> Result<Made, StepProblem> {
    // A checksum says what comes, so what was made of it before can be had without fetching anything.
    let below: Vec<&[u8]> = chain.iter().map(|link| link.name()).collect();
    match remote::pinned_key(builder, &below, step) {
        Some(key) => builder.remembered(key, |builder| Ok(copy_fetched(builder, chain, step)?.into_link())),
        None => copy_fetched(builder, chain, step),
    }
}

fn copy_fetched(builder: &mut Builder<'_>, chain: &Chain, step: &CopyStep) -> Result<Made, StepProblem> {
    let from = builder.from(&step.from)?;
    let fetched = remote::fetch(builder, step, builder.may_find())?;
    if !fetched.is_whole() {
        let found = with_source(builder, &from, |builder, source| copy_from(builder, chain, step, source, &fetched));
        if !matches!(found, Err(StepProblem::NotDone)) {
            return found;
        }
    }
    let fetched = if fetched.is_whole() { fetched } else { remote::fetch(builder, step, false)? };
    with_source(builder, &from, |builder, source| copy_from(builder, chain, step, source, &fetched))
}

/// Opens where files come from, for as long as `then` takes.
pub(super) fn with_source<'b, R>(
    builder: &mut Builder<'b>,
    from: &From<'_>,
    then: impl FnOnce(&mut Builder<'b>, &dyn Source) -> Result<R, StepProblem>,
) -> Result<R, StepProblem> {
    match from {
        From::Files(Files::Directory(Directory { path, ignore })) => {
            let known = builder.known.clone();
            then(builder, &Context::open(path, ignore, Some(&known))?)
        }
        From::Files(Files::Archive(archive)) => then(builder, &archive.stage()),
        From::Chain(chain) => {
            let layers = builder.layers.clone();
            let view = layers.view(chain)?;
            let contents = ChainContents { layers: &layers, chain };
            then(builder, &copy::Stage::new(&view, &contents))
        }
        From::Nothing => then(builder, &Inline::default()),
    }
}

/// A digest of the files of a context that a step copies.
pub(super) fn content(builder: &mut Builder<'_>, step: &CopyStep) -> Result<Digest, StepProblem> {
    let from = builder.from(&step.from)?;
    with_source(builder, &from, |builder, source| {
        let content = |_: &mut Builder<'_>, selected: &Hashed<'_>| Ok(selected.digest());
        with_selected(builder, step, source, &Fetched::default(), content)
    })
}

/// Finds the files of a step and hashes them.
fn with_selected<'b, R>(
    builder: &mut Builder<'b>,
    step: &CopyStep,
    source: &dyn Source,
    fetched: &Fetched,
    then: impl FnOnce(&mut Builder<'b>, &Hashed<'_>) -> Result<R, StepProblem>,
) -> Result<R, StepProblem> {
    let files = step.inline.iter().map(|file| (file.name.clone().into_bytes(), file.text.clone().into_bytes()));
    let inline = Inline::new(files, builder.now());
    let excludes = Patterns::new(step.excludes.iter().map(String::as_str));
    let excludes = excludes.map_err(|error| StepProblem::Unsupported(format!("--exclude: {error}")))?;
    let checkouts = fetched.checkouts()?;
    let mut wanted: Vec<(&dyn Source, &[u8])> = Vec::new();
    for (number, asked) in step.sources.iter().enumerate() {
        wanted.push(match asked {
            CopySource::Path(path) => (source, path.as_bytes()),
            CopySource::Http(..) => (fetched.download(number)?, fetched.pattern(number)),
            CopySource::Git(..) => (checkouts.get(&number).ok_or_else(remote::lost)?, b"".as_slice()),
        });
    }
    wanted.extend(step.inline.iter().map(|file| (&inline as &dyn Source, file.name.as_bytes())));
    let exclude = (!excludes.is_empty()).then_some(&excludes as &dyn copy::Ignore);
    let named = if step.from == Origin::Context { named(&builder.request.dockerfile) } else { None };
    let selection = select(&wanted, copy::Options { exclude, named: named.as_deref(), parents: step.parents })?;
    builder.reads = selection.bytes();
    let selected = selection.hash(builder.layers.options.threads)?;
    then(builder, &selected)
}

/// What the instructions of a file name of the build context; none if that shows only when they are done.
fn named(file: &Dockerfile) -> Option<Vec<&str>> {
    let mut named = Vec::new();
    for node in file.stages.iter().flat_map(|stage| &stage.instructions) {
        match &node.value {
            Instruction::Add(add) => named.extend(add.transfer.sources.iter().map(String::as_str)),
            Instruction::Copy(copy) if copy.from.is_none() => {
                named.extend(copy.transfer.sources.iter().map(String::as_str));
            }
            Instruction::Run(run) if !run.mounts.is_empty() => return None,
            Instruction::Onbuild(_) => return None,
            _ => {}
        }
    }
    let is_plain = |source: &&str| !source.contains(['$', '"', '\'', '\\', '`']);
    named.iter().all(is_plain).then_some(named)
}

fn copy_from(
    builder: &mut Builder<'_>,
    chain: &Chain,
    step: &CopyStep,
    source: &dyn Source,
    fetched: &Fetched,
) -> Result<Made, StepProblem> {
    with_selected(builder, step, source, fetched, |builder, selected| {
        let content = selected.digest();
        builder.confirm(step, &content);
        let mut key = builder.key("copy", chain);
        key.copy(step, &content);
        builder.remembered(key.finish(), |builder| {
            if !fetched.is_whole() {
                return Err(StepProblem::NotDone);
            }
            write(builder, chain, step, selected)
        })
    })
}

fn write(
    builder: &mut Builder<'_>,
    chain: &Chain,
    step: &CopyStep,
    selected: &Hashed<'_>,
) -> Result<Link, StepProblem> {
    let view = builder.layers.view(chain)?;
    // BuildKit, too, links only without --chmod.
    let is_linked = step.link && step.chmod.is_none();
    if let Some(text) = step.chown.as_deref().filter(|text| is_linked && needs_database(text)) {
        return Err(StepProblem::Owner {
            asked: format!("--link --chown={text}"),
            why: "a layer that is linked depends on nothing below it, so no names are known, as in BuildKit",
        });
    }
    let owner = step.chown.as_deref().map(|text| owner(builder, chain, &view, "--chown=", text)).transpose()?;
    let chmod = step.chmod.as_deref().map(str::parse::<Chmod>).transpose()?;
    let target = Target {
        path: step.destination.as_bytes(),
        owner,
        chmod: chmod.as_ref(),
        unpack: step.unpack,
        now: builder.now(),
        scratch: &builder.workshop.cache.work(),
        limits: Limits::default(),
    };
    let below = if is_linked { View::empty() } else { view };
    let placed = place(selected, &target, &below)?;
    builder.layers.make(|layer| Ok(placed.write(layer)?))
}

/// Who `user[:group]` is: names are those of the image that is changed, and one that it does not know is
/// root, with a warning. `what` asked for it.
pub(super) fn owner(
    builder: &Builder<'_>,
    chain: &Chain,
    view: &View,
    what: &str,
    text: &str,
) -> Result<Owner, StepProblem> {
    let contents = ChainContents { layers: &builder.layers, chain };
    let tree = copy::Stage::new(view, &contents);
    let resolved = resolve_owner::<copy::Error>(text, |path| tree.read(path.as_bytes(), DATABASE_LIMIT))?;
    if let Some(name) = resolved.unknown {
        if chain.is_empty() {
            return Err(StepProblem::Owner {
                asked: format!("{what}{text}"),
                why: "an image without files has no /etc/passwd and /etc/group, so no names are known",
            });
        }
        let message = format!("{what}{text}: the image knows no {name}; 0 is used, as docker build does");
        builder.event(Event::Warning { rule: None, span: None, message });
    }
    Ok(resolved.owner)
}

/// A misspelt name of a stage is taken for that of an image, which then cannot be had.
fn misspelt_stage(request: &Request, reference: &Reference) -> Option<String> {
    let name = reference.name().to_string();
    let last = name.rsplit('/').next().unwrap_or_default();
    let stages = request.dockerfile.stages.iter().filter_map(|stage| stage.name.as_deref());
    nearest(last, stages).filter(|stage| *stage != last).map(|stage| format!("did you mean the stage {stage}?"))
}

/// What may help with a problem of a step.
pub(super) fn hint(request: &Request, problem: &StepProblem) -> Option<String> {
    let path = match problem {
        StepProblem::Copy(copy::Error::NotFound(path)) => path,
        StepProblem::Base(Unusable::Missing { reference, .. }) => return misspelt_stage(request, reference),
        StepProblem::Sandbox(sandbox::Error::Exec { why: ExecFailure::Format, .. }) => {
            return Some(
                "the program is for another machine: the kernel starts such programs with binfmt_misc; \
                 install qemu-user-static and binfmt-support, or build this platform on a machine of its own"
                    .to_owned(),
            );
        }
        StepProblem::Owner { .. } => return Some("write numbers, such as --chown=1000:1000".to_owned()),
        StepProblem::NoSecret(id) => {
            return Some(format!("give it with --secret id={id},src=FILE or --secret id={id},env=NAME"));
        }
        StepProblem::NoAgent(id) => {
            return Some(format!(
                "lend an SSH agent with --ssh {id}=SOCKET, or --ssh default for the one in SSH_AUTH_SOCK"
            ));
        }
        _ => return None,
    };
    let relative = path.trim_start_matches('/');
    if request.context.ignore().excludes(relative.as_bytes()) {
        return Some(format!("{relative} is excluded by the ignore file of the build context"));
    }
    let directory = request.context.shown();
    Some(format!("sources are looked up in the build context {directory}, or in what --from names"))
}
