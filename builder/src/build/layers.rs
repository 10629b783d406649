//! The layers that a build works with: where their blobs, indexes, unpacked trees and contents are, each
//! made or fetched when it is first needed and not before.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use content::Disk;
use content::place::Incoming;
use oci::{Descriptor, DiffId, Digest, Verifier};

use super::alone::Alone;
use super::base::{BaseImages, Resolved};
use super::error::StepProblem;
use super::ground::Planted;
use super::import::Import;
use crate::cache::{self, Cache, exchange};
use crate::copy::Contents;
use crate::event::{Event, Events};
use crate::layer::beneath::Tree;
use crate::layer::compress::Encoder;
use crate::layer::entry::Entry;
use crate::layer::likeness::{self, Times};
use crate::layer::pipeline::{self, Options};
use crate::layer::read::{self, Limits};
use crate::layer::spool::{self, Spool};
use crate::layer::unpack::{self, Marks, Ownership};
use crate::layer::{Blocks, Index, Pipeline, Residue, View};
use crate::sandbox::{Cancel, Entered, Mode, Overlay};

/// How much of a layer is read at once, in bytes.
const CHUNK: usize = 256 << 10;
/// How many merged trees are kept in memory; the stages at hand need no more.
const VIEW_LIMIT: usize = 16;

/// One layer of a chain.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub diff_id: DiffId,
    pub blob: Descriptor,
    /// The image that the blob can be fetched from, if it is not in the store.
    pub base: Option<Arc<Resolved>>,
    /// The cache of others that it can be fetched from.
    pub import: Option<Arc<Import>>,
    /// What it is to the steps above it; the layer itself for one of a base image, which is the same everywhere.
    pub likeness: Option<Digest>,
    /// What the step that made it has left beside it.
    pub residue: Option<Residue>,
}

/// What tells a layer, with what was left beside it, from others.
pub(super) type LinkId = (DiffId, Option<Digest>);

impl Link {
    /// What keys of the steps above name it by.
    pub fn name(&self) -> &[u8] {
        self.likeness.as_ref().map_or(self.diff_id.as_bytes(), Digest::as_bytes)
    }

    /// What is seen of it.
    pub fn id(&self) -> LinkId {
        (self.diff_id, self.residue.as_ref().map(|residue| *residue.id()))
    }

    /// The name of its unpacked tree, if it names all its directories.
    fn tree(&self) -> DiffId {
        let Some(residue) = &self.residue else { return self.diff_id };
        let mut name = Verifier::sha256();
        name.update(self.diff_id.as_bytes());
        name.update(residue.id().as_bytes());
        DiffId::of_tar(&name.seal())
    }

    /// The registry that has the blob, as far as that is known.
    pub fn origin(&self) -> Option<&content::Origin> {
        let of_base = self.base.as_ref().and_then(|base| base.origin.as_ref());
        of_base.or_else(|| self.import.as_ref().and_then(|import| import.origin.as_ref()))
    }

    /// Who is to blame for a layer that is not what was promised.
    fn blame(&self, problem: StepProblem) -> StepProblem {
        match (&self.import, problem) {
            (_, problem @ (StepProblem::Cancelled | StepProblem::Disk { .. })) => problem,
            (Some(import), why) => StepProblem::Import { cache: import.name.clone(), why: Box::new(why) },
            (None, problem) => problem,
        }
    }
}

/// The layers of a stage, lowest first.
pub(super) type Chain = Vec<Arc<Link>>;

/// What is known of the layers so far.
pub(super) struct Layers<'a> {
    pub store: &'a Disk,
    pub cache: &'a Cache,
    pub images: &'a dyn BaseImages,
    pub sandbox: Option<&'a Entered>,
    pub events: Events<'a>,
    pub cancel: &'a Cancel,
    pub imports: &'a [Arc<Import>],
    pub options: Options,
    pub indexes: Mutex<HashMap<DiffId, Arc<Index>>>,
    pub views: Mutex<VecDeque<(Vec<LinkId>, View)>>,
    pub opened: Mutex<HashMap<DiffId, Arc<Opened>>>,
    /// The blocks of earlier layers, read when the first layer is made.
    pub blocks: OnceLock<Arc<Blocks>>,
    /// Plain trees and the chains that they show, where there is no overlayfs.
    pub trees: Mutex<VecDeque<(Vec<LinkId>, Planted)>>,
    /// How many of these: one for each stage at hand, one for the next that starts from the same place.
    pub trees_kept: usize,
    /// Layers that somebody fetches, reads or unpacks.
    pub busy: Alone<(Work, DiffId)>,
}

/// What is done to a layer once.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Work {
    Fetch,
    Index,
    Unpack,
    Open,
}

/// The contents of a layer, at hand.
pub(super) enum Opened {
    /// Unpacked, for RUN.
    Tree(Mutex<Tree>),
    /// In a temporary file.
    Spool(Spool),
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner) // maps of finished values stay whole
}

impl Layers<'_> {
    pub fn check_cancelled(&self) -> Result<(), StepProblem> {
        if self.cancel.is_cancelled() { Err(StepProblem::Cancelled) } else { Ok(()) }
    }

    /// The blob of a layer, from the store; fetched into it first if need be.
    pub fn blob(&self, link: &Link) -> Result<File, StepProblem> {
        if let Some(file) = self.store.open_blob(&link.blob.digest)? {
            self.store.touch(&link.blob.digest);
            return Ok(file);
        }
        let _turn = self.busy.turn((Work::Fetch, link.diff_id));
        if let Some(file) = self.store.open_blob(&link.blob.digest)? {
            return Ok(file); // fetched meanwhile
        }
        self.check_cancelled()?;
        self.fetch(link)?;
        let place = self.store.root().display().to_string();
        self.store.open_blob(&link.blob.digest)?.ok_or_else(|| missing(place, link))
    }

    pub fn watched(&self, blob: File) -> Watched {
        Watched { blob, cancel: self.cancel.clone() }
    }

    fn fetch(&self, link: &Link) -> Result<(), StepProblem> {
        let has_source = link.base.is_some() || link.import.is_some();
        if has_source {
            (self.events)(Event::Fetch { digest: link.blob.digest, size: link.blob.size });
        }
        let (mut body, place) = match (&link.base, &link.import) {
            (Some(base), _) => (self.images.open(base, &link.blob)?, base.reference.repository()),
            (None, Some(import)) => {
                let opened = import.blobs.open(&link.blob);
                (opened.map_err(|error| link.blame(error.into()))?, import.name.clone())
            }
            (None, None) => return Err(missing(self.store.root().display().to_string(), link)),
        };
        let mut incoming = Guarded { incoming: self.store.incoming()?, cancel: self.cancel.clone() };
        let copied = io::copy(&mut body.by_ref().take(link.blob.size.saturating_add(1)), &mut incoming);
        self.check_cancelled()?;
        copied.map_err(|source| StepProblem::Disk { doing: format!("fetching layer {}", link.blob.digest), source })?;
        let finished = incoming.incoming.finish(link.blob.digest);
        let finished = finished.map_err(|mismatch| link.blame(content::Error::Wrong { place, mismatch }.into()))?;
        self.store.keep(finished)?;
        Ok(())
    }

    /// What is in a layer.
    pub fn index(&self, link: &Link) -> Result<Arc<Index>, StepProblem> {
        let _turn = self.busy.turn((Work::Index, link.diff_id));
        if let Some(index) = lock(&self.indexes).get(&link.diff_id) {
            return Ok(index.clone());
        }
        let index = match self.cache.index(&link.diff_id) {
            Some(index) => index,
            None => match self.imported_index(&link.diff_id)? {
                Some(index) => index,
                None => self.read_index(link)?,
            },
        };
        Ok(self.learn(link.diff_id, index))
    }

    fn learn(&self, layer: DiffId, index: Index) -> Arc<Index> {
        let index = Arc::new(index);
        lock(&self.indexes).insert(layer, index.clone());
        index
    }

    /// The index of a layer that is not here, from a cache of others. What cannot be had or read is not there.
    fn imported_index(&self, layer: &DiffId) -> Result<Option<Index>, StepProblem> {
        for import in self.imports {
            let Some(blob) = import.document.indexes.get(layer) else { continue };
            self.check_cancelled()?;
            match import.blobs.open(blob).map(|body| checked(body, blob)) {
                Ok(Some(index)) => {
                    self.cache.remember_index(layer, &index)?;
                    return Ok(Some(index));
                }
                Ok(None) => tracing::debug!(%layer, cache = %import.name, "an index is not what was promised"),
                Err(error) => tracing::debug!(%error, %layer, cache = %import.name, "an index cannot be had"),
            }
        }
        Ok(None)
    }

    fn read_index(&self, link: &Link) -> Result<Index, StepProblem> {
        let blob = self.watched(self.blob(link)?);
        let source = |source| StepProblem::Read { layer: link.blob.digest, source };
        let read = read::index(blob, Limits::default());
        self.check_cancelled()?; // a cancelled read looks like a failed one
        let (index, diff_id) = read.map_err(source).map_err(|problem| link.blame(problem))?;
        check(link, diff_id)?;
        self.cache.remember_index(&diff_id, &index)?;
        Ok(index)
    }

    /// The tree that a chain shows.
    pub fn view(&self, chain: &Chain) -> Result<View, StepProblem> {
        let wanted: Vec<LinkId> = chain.iter().map(|link| link.id()).collect();
        let known = lock(&self.views)
            .iter()
            .filter(|(prefix, _)| wanted.starts_with(prefix))
            .max_by_key(|(prefix, _)| prefix.len())
            .cloned();
        let (start, mut view) = known.map_or((0, View::empty()), |(prefix, view)| (prefix.len(), view));
        if start == wanted.len() && start > 0 {
            return Ok(view);
        }
        for link in &chain[start..] {
            view = view.with(&*self.index(link)?);
            if let Some(residue) = &link.residue {
                view = view.with_residue(residue.index());
            }
        }
        let mut views = lock(&self.views);
        views.push_back((wanted, view.clone()));
        while views.len() > VIEW_LIMIT {
            views.pop_front();
        }
        Ok(view)
    }

    /// How layers are unpacked where steps run.
    pub fn unpacking(&self, sandbox: &Entered) -> unpack::Options {
        let ownership = match sandbox.mode {
            Mode::SingleUid => Ownership::Recorded,
            Mode::Root | Mode::Mapped { .. } => Ownership::Real,
        };
        let marks = match sandbox.overlay {
            Overlay::Plain => Marks::Trusted,
            Overlay::UserXattr => Marks::User,
        };
        unpack::Options { ownership, marks, limits: Limits::default() }
    }

    /// How owners and marks are kept where steps run.
    pub fn kept(&self, sandbox: &Entered) -> (Ownership, Marks) {
        let options = self.unpacking(sandbox);
        (options.ownership, options.marks)
    }

    /// Where a layer that names all its directories is unpacked or will be.
    pub fn root(&self, link: &Link, sandbox: &Entered) -> Result<PathBuf, StepProblem> {
        self.place(&link.tree(), sandbox)
    }

    fn place(&self, name: &DiffId, sandbox: &Entered) -> Result<PathBuf, StepProblem> {
        let (ownership, marks) = self.kept(sandbox);
        Ok(self.cache.root(name, ownership, marks)?)
    }

    /// The unpacked trees of a chain, for an overlay; unpacked first if need be. Layers that change nothing are left
    /// out.
    pub fn unpacked(&self, chain: &Chain, sandbox: &Entered) -> Result<Vec<PathBuf>, StepProblem> {
        let mut roots = Vec::new();
        for (at, link) in chain.iter().enumerate() {
            self.check_cancelled()?;
            let index = self.index(link)?;
            if index.entries().is_empty() && link.residue.is_none() {
                continue;
            }
            // Directories that a layer does not name look as below it: such a tree is this chain's own.
            let below = if index.has_implied() { chain[..at].to_vec() } else { Chain::new() };
            let name = tree_name(&below, link);
            let root = self.place(&name, sandbox)?;
            let _turn = self.busy.turn((Work::Unpack, name));
            if !root.join("root").is_dir() {
                self.unpack(&chain[..at].to_vec(), &below, link, &root, sandbox)?;
            }
            // overlayfs refuses a directory that is there twice; the upper of two equal layers says it all.
            let root = root.join("root");
            roots.retain(|lower| *lower != root);
            roots.push(root);
        }
        Ok(roots)
    }

    /// Unpacks a layer that lies upon `chain`; directories that it does not name look as in `below`.
    fn unpack(
        &self,
        chain: &Chain,
        below: &Chain,
        link: &Link,
        root: &Path,
        sandbox: &Entered,
    ) -> Result<(), StepProblem> {
        let view = if below.is_empty() { View::empty() } else { self.view(below)? };
        let beneath = if link.residue.is_some() { self.view(chain)? } else { View::empty() };
        let residue = link.residue.as_ref().map(|residue| residue.fitting(&beneath)).unwrap_or_default();
        let contents = ChainContents { layers: self, chain };
        let mut open = |entry: &Entry| -> io::Result<Box<dyn Read + '_>> {
            let node = beneath.lstat(&entry.path).ok_or(io::ErrorKind::NotFound)?;
            contents.open(node.layer, &node.origin)
        };
        let blob = self.watched(self.blob(link)?);
        let unpacked = unpack::unpack_with(blob, root, &self.unpacking(sandbox), &view, (&residue, &mut open));
        self.check_cancelled()?; // a cancelled read looks like a failed one
        check(link, unpacked.map_err(|error| link.blame(error.into()))?.diff_id)
    }

    /// The same layer, compressed as those that are made here.
    pub fn recompress(&self, link: &Link) -> Result<Link, StepProblem> {
        let failed = |source| StepProblem::Read { layer: link.blob.digest, source: read::Error::Read(source) };
        let out = Guarded { incoming: self.store.incoming()?, cancel: self.cancel.clone() };
        let packed = |error| StepProblem::Layer(pipeline::Error::Compress(error));
        let mut encoder = Encoder::new(out, self.options.compression, self.options.threads).map_err(packed)?;
        let mut plain = read::decompress(self.watched(self.blob(link)?)).map_err(failed)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let got = plain.read(&mut chunk);
            self.check_cancelled()?; // a cancelled read looks like a failed one
            match got.map_err(failed)? {
                0 => break,
                size => encoder.push(&chunk[..size]).map_err(packed)?,
            }
        }
        let done = encoder.finish().map_err(packed)?;
        check(link, DiffId::of_tar(&done.plain))?;
        let verified = self.store.keep(done.out.incoming.seal())?;
        let blob = Descriptor::new(self.options.compression.media_type(), verified.digest(), verified.size());
        Ok(Link { diff_id: link.diff_id, blob, base: None, import: None, likeness: link.likeness, residue: None })
    }

    /// Makes a layer: `fill` puts the entries in, the blob goes to the store, the index to the cache.
    pub fn make(
        &self,
        fill: impl FnOnce(&mut Pipeline<Guarded>) -> Result<(), StepProblem>,
    ) -> Result<Link, StepProblem> {
        let out = Guarded { incoming: self.store.incoming()?, cancel: self.cancel.clone() };
        let run = || -> Result<_, StepProblem> {
            let mut pipeline = Pipeline::reusing(out, self.options, Some(self.blocks()))?;
            fill(&mut pipeline)?;
            Ok(pipeline.finish()?)
        };
        let made = run();
        self.check_cancelled()?; // a cancelled write looks like a failed one
        let (layer, out) = made?;
        let verified = self.store.keep(out.incoming.seal())?;
        self.blocks().learn(&verified.digest(), &layer.pieces);
        tracing::debug!(layer = %layer.diff_id, size = layer.tar_size, reused = layer.reused, "layer made");
        self.cache.remember_index(&layer.diff_id, &layer.index)?;
        let likeness = Some(likeness::of(&layer.index, Times::All));
        self.learn(layer.diff_id, layer.index);
        let blob = Descriptor::new(layer.media_type, verified.digest(), verified.size());
        Ok(Link { diff_id: layer.diff_id, blob, base: None, import: None, likeness, residue: None })
    }

    fn blocks(&self) -> Arc<Blocks> {
        let read = || {
            let store = self.store.clone();
            // A blob that cannot be opened is one that is not there: its blocks are made again.
            Arc::new(self.cache.blocks(move |blob| store.open_blob(blob).ok().flatten()))
        };
        self.blocks.get_or_init(read).clone()
    }

    /// Keeps what was learned of blocks for the next build.
    pub fn keep_blocks(&self) -> Result<(), cache::Error> {
        match self.blocks.get().filter(|blocks| blocks.has_news()) {
            Some(blocks) => self.cache.keep_blocks(blocks),
            None => Ok(()),
        }
    }

    /// Makes sure that the files of a layer can be read.
    pub fn prepare(&self, link: &Link) -> Result<(), StepProblem> {
        self.opened(link).map(drop)
    }

    fn opened(&self, link: &Link) -> Result<Arc<Opened>, StepProblem> {
        let _turn = self.busy.turn((Work::Open, link.diff_id));
        if let Some(opened) = lock(&self.opened).get(&link.diff_id) {
            return Ok(opened.clone());
        }
        let opened = Arc::new(self.open(link)?);
        lock(&self.opened).insert(link.diff_id, opened.clone());
        Ok(opened)
    }

    fn open(&self, link: &Link) -> Result<Opened, StepProblem> {
        if let Some(sandbox) = self.sandbox {
            // Where neither is there, the blob is read. What was left beside the layer does no harm: nobody asks for the
            // contents of that here.
            for name in [link.tree(), link.diff_id] {
                if let Ok(tree) = Tree::open(&self.place(&name, sandbox)?.join("root")) {
                    return Ok(Opened::Tree(Mutex::new(tree)));
                }
            }
        }
        self.spool(link)
    }

    /// Reads a layer once from end to end, so that its files can be read in any order.
    fn spool(&self, link: &Link) -> Result<Opened, StepProblem> {
        let disk = |source| StepProblem::Disk { doing: "writing a temporary file".to_owned(), source };
        let failed = |source| StepProblem::Read { layer: link.blob.digest, source };
        let file = unnamed_file(&self.cache.work()).map_err(disk)?;
        let each = |_: &Entry| self.check_cancelled();
        let spooled = Spool::read(self.blob(link)?, file, Limits::default(), each).map_err(|error| match error {
            spool::Error::Layer(source) => link.blame(failed(source)),
            spool::Error::Write(source) => disk(source),
            spool::Error::Stopped(problem) => problem,
        });
        let (spool, diff_id) = spooled?;
        check(link, diff_id)?;
        Ok(Opened::Spool(spool))
    }
}

/// The name of an unpacked tree: the layer's own, or one for what is below it and the layer together.
fn tree_name(below: &Chain, link: &Link) -> DiffId {
    if below.is_empty() {
        return link.tree();
    }
    let mut chain = Verifier::sha256();
    below.iter().for_each(|lower| chain.update(lower.tree().as_bytes()));
    chain.update(link.tree().as_bytes());
    DiffId::of_tar(&chain.seal())
}

fn missing(place: String, link: &Link) -> StepProblem {
    content::Error::NoBlob { place, digest: link.blob.digest }.into()
}

fn check(link: &Link, actual: DiffId) -> Result<(), StepProblem> {
    if actual == link.diff_id {
        return Ok(());
    }
    Err(link.blame(StepProblem::WrongLayer { layer: link.blob.digest, expected: link.diff_id, actual }))
}

/// An index whose bytes are those that were promised.
fn checked(mut body: Box<dyn Read + Send>, blob: &Descriptor) -> Option<Index> {
    let mut bytes = Vec::new();
    body.by_ref().take(blob.size.saturating_add(1)).read_to_end(&mut bytes).ok()?;
    (oci::Digest::of_with(blob.digest.algorithm(), &bytes) == blob.digest).then_some(())?;
    exchange::unpack_index(&*bytes)
}

/// A file without a name: it is gone when it is closed.
pub(super) fn unnamed_file(directory: &std::path::Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::from_raw_mode(0o600))?.into())
}

/// A blob that is read until the build is cancelled.
pub(super) struct Watched {
    blob: File,
    cancel: Cancel,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.blob.read(buffer)
    }
}

/// A blob on its way into the store, which stops when the build is cancelled.
pub(super) struct Guarded {
    incoming: Incoming,
    cancel: Cancel,
}

impl Write for Guarded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.incoming.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.incoming.flush()
    }
}

/// The contents of the layers of one chain.
pub(super) struct ChainContents<'a> {
    pub layers: &'a Layers<'a>,
    pub chain: &'a Chain,
}

impl Contents for ChainContents<'_> {
    fn open(&self, layer: usize, path: &[u8]) -> io::Result<Box<dyn Read + '_>> {
        let link = self.chain.get(layer).ok_or(io::ErrorKind::NotFound)?;
        let opened = self.layers.opened(link).map_err(io::Error::other)?;
        match &*opened {
            Opened::Tree(tree) => Ok(Box::new(File::from(lock(tree).file(path)?))),
            Opened::Spool(spool) => Ok(Box::new(spool.open(path).ok_or(io::ErrorKind::NotFound)?)),
        }
    }
}
