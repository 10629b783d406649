//! Where selected files go: BuildKit's destination rules (`fsutil/copy`: `Copy`, `prepareTargetDir`,
//! `copyDirectory`), applied to the tree below as its index shows it.

use super::archive::{Extraction, extract, is_archive};
use super::digest::Hashed;
use super::error::Error;
use super::mode::Chmod;
use super::owner::Owner;
use super::select::{Part, Pick, clean, is_file};
use super::source::{Inode, Item, Source};
use super::upper::{Fresh, Node, Upper};
use crate::layer::entry::{Entry, Kind, join, parent, show};
use crate::layer::pipeline::Pipeline;
use crate::layer::read::Limits;
use crate::layer::spool::Spooled;
use crate::layer::view::View;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;

/// The destination and the flags that shape it.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// As the instruction says it, made absolute with WORKDIR; a slash (or `/.`) at its end is kept.
    pub path: &'a [u8],
    /// `--chown`, resolved.
    pub owner: Option<Owner>,
    /// `--chmod`.
    pub chmod: Option<&'a Chmod>,
    /// Whether archives are extracted: ADD, unless `--unpack=false`.
    pub unpack: bool,
    /// The time of what is created and touched, in seconds since 1970.
    pub now: i64,
    /// A directory for temporary files, on a disk with room for an extracted archive.
    pub scratch: &'a Path,
    /// How much an archive may hold.
    pub limits: Limits,
}

/// The entries of the new layer, in order, and where their contents come from.
pub struct Placed<'a> {
    changes: Vec<(Entry, Option<Content<'a>>)>,
}

impl std::fmt::Debug for Placed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

/// Where the content of a file is.
#[derive(Clone)]
enum Content<'a> {
    Source(&'a dyn Source, &'a Item),
    Spooled(Spooled),
}

impl From<Spooled> for Content<'_> {
    fn from(spooled: Spooled) -> Self {
        Self::Spooled(spooled)
    }
}

/// Finds the place of everything that was selected, on top of `view`; with `--link`, that is
/// [`View::empty`].
pub fn place<'a>(selection: &'a Hashed<'a>, target: &Target<'_>, view: &View) -> Result<Placed<'a>, Error> {
    let mut placer = Placer { target, upper: Upper::new(view, target.now), groups: 0 };
    for pick in &selection.picks {
        let may_extract = target.unpack && pick.source.holds_archives() && is_file(&pick.top);
        if may_extract && is_archive(pick.source, &pick.top)? {
            placer.extract(pick)?;
        } else {
            placer.copy(pick)?;
        }
    }
    Ok(Placed { changes: placer.upper.into_changes() })
}

impl Placed<'_> {
    /// The entries in the order of the layer.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.changes.iter().map(|(entry, _)| entry)
    }

    /// Gives a directory the owner and the mode of another, which a copy does not.
    pub fn dress(&mut self, path: &[u8], like: &Entry) {
        for (entry, _) in self.changes.iter_mut().filter(|(entry, _)| entry.path == path) {
            (entry.mode, entry.uid, entry.gid) = (like.mode, like.uid, like.gid);
        }
    }

    /// Writes them into a layer. A file that is not any more what was hashed stops it.
    pub fn write<W: Write + Send + 'static>(self, layer: &mut Pipeline<W>) -> Result<(), Error> {
        for (entry, content) in self.changes {
            let mut reader: Box<dyn Read + '_> = match (&entry.kind, content) {
                (Kind::File { size: 1.., .. }, Some(Content::Source(source, item))) => source.open(item)?,
                (Kind::File { size: 1.., .. }, Some(Content::Spooled(spooled))) => Box::new(spooled),
                _ => Box::new(std::io::empty()),
            };
            let (path, expected) = (entry.path.clone(), entry.kind.clone());
            let written = layer.add(entry, &mut reader)?;
            if matches!(expected, Kind::File { hash, .. } if hash != written) {
                return Err(Error::Changed(show(&path)));
            }
        }
        Ok(())
    }
}

struct Placer<'a, 't, 'v> {
    target: &'t Target<'t>,
    upper: Upper<'v, Content<'a>>,
    groups: usize,
}

impl<'a> Placer<'a, '_, '_> {
    /// One source, as one call of fsutil's `Copy`.
    fn copy(&mut self, pick: &'a Pick<'a>) -> Result<(), Error> {
        let Target { path, owner, chmod, .. } = *self.target;
        let fresh = Fresh { owner, chmod };
        let wanted = clean(path);
        let is_dir_form = path.ends_with(b"/") || path.ends_with(b"/.") || path == b".";
        let ensured = if is_dir_form { &wanted } else { parent(&wanted).unwrap_or_default() };
        let ensured = self.upper.resolve(b"", ensured)?;
        self.upper.make_dirs(&ensured, fresh)?;
        let dest = self.upper.resolve(b"", &wanted)?;
        if pick.top.entry.is_dir() {
            self.copy_dir(pick, &dest)
        } else {
            let dest = if self.upper.is_dir(&dest) { join(&dest, &pick.base) } else { dest };
            self.upper.make_dirs(parent(&dest).unwrap_or_default(), fresh)?;
            self.put(pick.source, &pick.top, dest, &mut HashMap::new())
        }
    }

    /// The contents of a directory, into one that is made if need be.
    fn copy_dir(&mut self, pick: &'a Pick<'a>, dest: &[u8]) -> Result<(), Error> {
        let fresh = Fresh { owner: self.target.owner, chmod: self.target.chmod };
        if !self.upper.is_dir(dest) && self.upper.lstat(dest).is_some() {
            return Err(Error::NonDirectory(show(dest)));
        }
        self.upper.make_dirs(dest, fresh)?;
        let mut names = HashMap::new();
        let mut made = vec![false; pick.below.len()];
        for (part, made) in pick.below.iter().zip(&mut made) {
            let path = join(dest, part.path());
            if part.item.entry.is_dir() {
                *made = self.make_dir(part, path)?;
            } else {
                self.put(pick.source, &part.item, path, &mut names)?;
            }
        }
        for (part, made) in pick.below.iter().zip(made) {
            self.dress_dir(part, &join(dest, part.path()), made);
        }
        // The directory itself keeps mode and owner, but takes the source's time (`restoreMtime`). The
        // root of a source has none that would be known.
        let top = &pick.top.entry;
        let mtime = if top.path.is_empty() { self.target.now } else { top.mtime };
        self.upper.change_dir(dest, |entry| entry.mtime = mtime);
        Ok(())
    }

    /// Whether the directory was made now.
    fn make_dir(&mut self, part: &Part, path: Vec<u8>) -> Result<bool, Error> {
        match self.upper.lstat(&path) {
            Some(entry) if entry.is_dir() => Ok(false),
            Some(_) => Err(Error::NonDirectory(show(&path))),
            None => {
                let entry = Entry { mtime: self.target.now, ..self.dressed(&part.item.entry, path) };
                self.upper.insert(Node { entry, content: None, group: None });
                Ok(true)
            }
        }
    }

    /// A nested directory gets what the source's has, after everything was put into it. One that is only there for what
    /// it holds keeps the time of that, and, where it was there before, all but the mode.
    fn dress_dir(&mut self, part: &Part, path: &[u8], made: bool) {
        if part.whole {
            let dressed = self.dressed(&part.item.entry, path.to_vec());
            self.upper.change_dir(path, |entry| *entry = dressed);
        } else if !made {
            self.upper.change_dir(path, |entry| entry.mode = part.item.entry.mode);
        }
    }

    /// A file, link or device, in place of what is there.
    fn put(
        &mut self,
        source: &'a dyn Source,
        item: &'a Item,
        path: Vec<u8>,
        names: &mut HashMap<Inode, usize>,
    ) -> Result<(), Error> {
        if self.upper.is_dir(&path) {
            return Err(Error::ReplaceDirectory(show(&path)));
        }
        // Only names of regular files stay one file: BuildKit copies links and devices one by one.
        let group = item.inode.clone().filter(|_| is_file(item)).map(|inode| {
            *names.entry(inode).or_insert_with(|| {
                self.groups += 1;
                self.groups
            })
        });
        let entry = self.dressed(&item.entry, path);
        let content = is_file(item).then(|| Content::Source(source, item));
        self.upper.insert(Node { entry, content, group });
        Ok(())
    }

    /// The entry at its new path, with the owner and mode that the flags ask for.
    fn dressed(&self, entry: &Entry, path: Vec<u8>) -> Entry {
        let mut entry = Entry { path, ..entry.clone() };
        if let Some(owner) = self.target.owner {
            (entry.uid, entry.gid) = (owner.uid, owner.gid);
        }
        if let Some(chmod) = self.target.chmod.filter(|_| !matches!(entry.kind, Kind::Symlink(_))) {
            entry.mode = chmod.apply(entry.mode, entry.is_dir());
        }
        entry
    }

    fn extract(&mut self, pick: &'a Pick<'a>) -> Result<(), Error> {
        let dest = self.upper.resolve(b"", &clean(self.target.path))?;
        self.upper.make_dirs(&dest, Fresh { owner: self.target.owner, chmod: None })?;
        let extraction = Extraction {
            dest: &dest,
            owner: self.target.owner,
            scratch: self.target.scratch,
            limits: self.target.limits,
        };
        extract(pick.source, &pick.top, &extraction, &mut self.upper, &mut self.groups)
    }
}
