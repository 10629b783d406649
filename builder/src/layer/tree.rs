//! A chain of layers as one plain tree, for places where overlayfs cannot be mounted: made from the view of the chain
//! and the layers' contents, brought up to date when layers are put on top, and compared after a step.
//!
//! What a step changed is known without reading contents: everything in the tree was written before the step, so a file
//! whose inode and change time are still the same under its name is the same. A file that was written within the last
//! tick of the file system's clock cannot be told apart that way, and is compared in full.

use super::beneath::{self, Tree};
use super::entry::{Entry, Kind};
use super::read::{self, Limits, Reader};
use super::unpack::{self, Options, Writer};
use super::view::{Node, View};
use oci::DiffId;
use rustix::fs::Stat;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// Why a tree cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be made, or a layer could not be read.
    #[error(transparent)]
    Unpack(#[from] unpack::Error),
    /// A layer does not hold what its index says.
    #[error("{path} is not in the layer as its index says; remove the build cache")]
    Index {
        /// The file.
        path: String,
    },
    /// A layer is not the one that its image names.
    #[error("a layer holds {actual}, but its image says {expected}: the image is damaged")]
    WrongLayer {
        /// What the image says.
        expected: DiffId,
        /// What it is.
        actual: DiffId,
    },
}

/// A layer of a chain: its name, and how it is read from its beginning.
pub type Open<'a> = dyn FnMut(usize) -> io::Result<(DiffId, Box<dyn Read>)> + 'a;

/// Makes `root`, an existing directory which holds what `from` shows, show what `to` shows. `from` must be the view of
/// a beginning of the same chain; the empty one for an empty directory. After an error the tree is of no use.
pub fn grow(root: &Path, from: &View, to: &View, options: &Options, open: &mut Open<'_>) -> Result<(), Error> {
    let fail = |source| Error::Unpack(unpack::Error::Make { path: "/".into(), dest: root.to_owned(), source });
    let nothing = View::empty();
    let mut writer = Writer::new(root, options, &nothing).map_err(|errno| fail(errno.into()))?;
    let mut tree = Tree::open(root).map_err(|errno| fail(errno.into()))?;
    let mut gone: Option<&[u8]> = None;
    for node in from.nodes().iter().filter(|node| !node.path().is_empty()) {
        if gone.is_some_and(|dir| super::entry::is_below(node.path(), dir)) {
            continue;
        }
        let still = to.lstat(node.path());
        let stays = still.is_some_and(|new| new == node || new.entry.is_dir() && node.entry.is_dir());
        if !stays {
            tree.remove(node.path()).map_err(|errno| fail(errno.into()))?;
            gone = Some(node.path());
        }
    }
    drop(tree);
    let is_kept = |node: &Node| from.lstat(node.path()).is_some_and(|old| old == node);
    let mut files: Files = HashMap::new();
    let mut needed: Vec<bool> = vec![false; to.layers()];
    for node in to.nodes() {
        let kept = is_kept(node);
        let entry = Entry::clone(&node.entry);
        if entry.is_dir() {
            let mut entry = Entry { kind: Kind::Directory, ..entry };
            match from.lstat(&entry.path) {
                Some(old) if old.entry.is_dir() => writer.adopt(entry),
                _ => writer.put(&mut entry, &mut io::empty())?,
            }
            continue;
        }
        let same_content = files.entry((node.layer, node.origin.clone())).or_default();
        let file = same_content.entry(node.copy.clone()).or_default();
        match (kept, &entry.kind) {
            (true, _) => file.kept = Some(entry.path),
            (false, Kind::File { size: 1.., .. }) => {
                needed[node.layer] = true;
                file.wanted.push(entry);
            }
            (false, _) => file.wanted.push(entry),
        }
    }
    for (layer, _) in needed.iter().enumerate().filter(|(_, needed)| **needed) {
        contents(layer, &mut files, &mut writer, options.limits, open)?;
    }
    // What has no content or that of another file, and further names of files.
    let first = |files: &SameContent| files.values().flat_map(|file| file.wanted.first()).map(|e| e.path.clone()).min();
    let mut rest: Vec<(Vec<u8>, SameContent)> =
        files.into_values().filter_map(|files| first(&files).map(|first| (first, files))).collect();
    rest.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, files) in rest {
        let written = files.values().find_map(|file| file.kept.clone());
        for file in files.into_values() {
            finish_file(file, written.as_deref(), &mut writer)?;
        }
    }
    writer.finish()?;
    Ok(())
}

/// Files by the layer and the path that have their content.
type Files = HashMap<(usize, Arc<[u8]>), SameContent>;

/// Files with one content, by what tells them apart ([`Node::copy`]).
type SameContent = BTreeMap<Option<Arc<(usize, Vec<u8>)>>, Names>;

/// The names of one file: one that is there, and those to be made.
#[derive(Debug, Default)]
struct Names {
    kept: Option<Vec<u8>>,
    wanted: Vec<Entry>,
}

/// Writes the files of one layer whose contents are wanted. An index calls a file by the name that comes first in the
/// walk; a layer may have its content under another one, which is seen only at its end: then it is read again.
fn contents(
    layer: usize,
    files: &mut Files,
    writer: &mut Writer<'_>,
    limits: Limits,
    open: &mut Open<'_>,
) -> Result<(), Error> {
    let links = read_once(layer, files, &HashMap::new(), writer, limits, open)?;
    let is_missing = |(at, files): &(&(usize, Arc<[u8]>), &SameContent)| {
        let has_content = |file: &Names| file.wanted.first().is_some_and(|entry| entry.size() > 0);
        at.0 == layer && files.values().any(has_content) && files.values().all(|file| file.kept.is_none())
    };
    let missing = files.iter().filter(is_missing).map(|((_, origin), _)| origin);
    let mut others: HashMap<Vec<u8>, Vec<Arc<[u8]>>> = HashMap::new();
    for origin in missing {
        if let Some(name) = links.get(&**origin) {
            others.entry(name.clone()).or_default().push(origin.clone());
        }
    }
    if !others.is_empty() {
        read_once(layer, files, &others, writer, limits, open)?;
    }
    Ok(())
}

/// Reads a layer from end to end, and writes the files that it has under the names by which they are wanted, or under
/// `others`. Gives its hard links, each with the name under which its file came.
fn read_once(
    layer: usize,
    files: &mut Files,
    others: &HashMap<Vec<u8>, Vec<Arc<[u8]>>>,
    writer: &mut Writer<'_>,
    limits: Limits,
    open: &mut Open<'_>,
) -> Result<HashMap<Vec<u8>, Vec<u8>>, Error> {
    let (expected, blob) =
        open(layer).map_err(|source| unpack::Error::Layer(read::Error::from(source))).map_err(Error::Unpack)?;
    let mut reader = Reader::open(blob, read::Names::Layer, limits).map_err(unpack::Error::Layer)?;
    let mut links: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    while let Some(entry) = reader.next_entry().map_err(unpack::Error::Layer)? {
        let size = match entry.kind {
            Kind::File { size: size @ 1.., .. } => size,
            Kind::Hardlink(target) => {
                let first = links.get(&target).cloned().unwrap_or(target);
                links.insert(entry.path, first);
                continue;
            }
            _ => continue,
        };
        let names = others.get(&entry.path).cloned().unwrap_or_else(|| vec![Arc::from(entry.path.as_slice())]);
        let wanted = |name: &Arc<[u8]>| {
            let files = files.get(&(layer, name.clone()))?;
            let is_open = files.values().all(|file| file.kept.is_none());
            let file = files.iter().find(|(_, file)| file.wanted.first().is_some_and(|first| first.size() == size))?;
            is_open.then(|| ((layer, name.clone()), file.0.clone()))
        };
        let Some((at, copy)) = names.iter().find_map(wanted) else { continue };
        let Some(file) = files.get_mut(&at).and_then(|files| files.get_mut(&copy)) else { continue };
        let Some(first) = file.wanted.first() else { continue };
        let mut made = first.clone();
        writer.put(&mut made, &mut reader)?;
        // A layer may name a file twice, and the index knows the last one: then the first is another.
        if made.kind == first.kind {
            file.kept = Some(file.wanted.remove(0).path);
        }
    }
    let actual = DiffId::of_tar(&reader.finish().map_err(unpack::Error::Layer)?);
    if actual != expected {
        return Err(Error::WrongLayer { expected, actual });
    }
    Ok(links)
}

/// Makes the names of a file; where it has none yet, with the content that was written under another one.
fn finish_file(file: Names, written: Option<&[u8]>, writer: &mut Writer<'_>) -> Result<(), Error> {
    let mut first = file.kept;
    for mut entry in file.wanted {
        let path = entry.path.clone();
        if let Some(first) = &first {
            entry.kind = Kind::Hardlink(first.clone());
            writer.put(&mut entry, &mut io::empty())?;
        } else if entry.size() > 0 {
            let missing = || Error::Index { path: super::entry::show(&path) };
            let mut content = writer.file(written.ok_or_else(missing)?)?;
            writer.put(&mut entry, &mut content)?;
        } else {
            writer.put(&mut entry, &mut io::empty())?;
        }
        first.get_or_insert(path);
    }
    Ok(())
}

/// What identifies a file that was not touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    inode: u64,
    changed: (i64, i64),
}

impl Mark {
    fn of(stat: &Stat) -> Self {
        #[allow(clippy::unnecessary_cast)] // the types differ between architectures
        Self { inode: stat.st_ino as u64, changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64) }
    }
}

/// The files of a tree as they were before a step.
#[derive(Debug, Default)]
pub struct Before {
    marks: HashMap<Vec<u8>, Mark>,
}

impl Before {
    /// Looks at every file. `clock` is a file that was touched on the same file system just now.
    pub fn of(root: &Path, clock: &Stat) -> io::Result<Self> {
        let mut before = Self::default();
        let now = Mark::of(clock).changed;
        let mut tree = Tree::open(root)?;
        let mut waiting = vec![Vec::new()];
        while let Some(path) = waiting.pop() {
            let dir = tree.dir(&path)?;
            for name in beneath::list(dir)? {
                let stat = beneath::lstat(dir, &name)?;
                let child = super::entry::join(&path, &name);
                if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
                    waiting.push(child);
                } else if Mark::of(&stat).changed < now {
                    before.marks.insert(child, Mark::of(&stat));
                }
            }
        }
        Ok(before)
    }

    /// Whether the file under this name is certainly the same as before.
    pub fn is_same(&self, path: &[u8], stat: &Stat) -> bool {
        self.marks.get(path).is_some_and(|mark| *mark == Mark::of(stat))
    }
}

#[cfg(test)]
mod tests {
    use super::super::diff::{self, Grown, LinkOwners};
    use super::super::entry::ContentHash;
    use super::super::index::Index;
    use super::super::pipeline::{Options as Making, Pipeline};
    use super::super::unpack::{Marks, Ownership};
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    /// Owners that any user can keep.
    fn options() -> Options {
        Options { ownership: Ownership::Recorded, marks: Marks::User, limits: Limits::default() }
    }

    fn layer(entries: Vec<(Entry, &str)>) -> (Index, DiffId, Vec<u8>) {
        let mut pipeline = Pipeline::new(Vec::new(), Making::default()).unwrap();
        for (entry, content) in entries {
            pipeline.add(entry, &mut content.as_bytes()).unwrap();
        }
        let (layer, blob) = pipeline.finish().unwrap();
        (layer.index, layer.diff_id, blob)
    }

    fn file(path: &str, content: &'static str) -> (Entry, &'static str) {
        let hash = ContentHash::of(content.as_bytes());
        (Entry { mtime: 7, ..Entry::new(path, Kind::File { size: content.len() as u64, hash }, 0o644) }, content)
    }

    fn plain(path: &str, kind: Kind) -> (Entry, &'static str) {
        (Entry { mtime: 7, ..Entry::new(path, kind, 0o755) }, "")
    }

    #[test]
    fn a_tree_grows_and_what_is_changed_in_it_is_found() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        fs::create_dir(&root).unwrap();
        let lower = layer(vec![
            plain("d", Kind::Directory),
            file("d/a", "one"),
            plain("d/b", Kind::Hardlink(b"d/a".to_vec())),
            file("d/same", "same"),
            file("gone", "gone"),
            // Symbolic links have no modes of their own: the kernel says this.
            (Entry { mtime: 7, ..Entry::new("link", Kind::Symlink(b"d/a".to_vec()), 0o777) }, ""),
        ]);
        let upper = layer(vec![(Entry::whiteout("gone"), ""), plain("d", Kind::Directory), file("d/c", "three")]);
        let layers = [lower, upper];
        let views = [View::empty(), View::of([&layers[0].0]), View::of([&layers[0].0, &layers[1].0])];
        let mut open = |at: usize| -> io::Result<(DiffId, Box<dyn Read>)> {
            Ok((layers[at].1, Box::new(io::Cursor::new(layers[at].2.clone()))))
        };
        grow(&root, &views[0], &views[1], &options(), &mut open).unwrap();
        assert!(root.join("gone").exists());
        grow(&root, &views[1], &views[2], &options(), &mut open).unwrap();
        let text = |name: &str| fs::read_to_string(root.join(name)).unwrap();
        assert_eq!((text("d/b"), text("d/c"), text("link")), ("one".into(), "three".into(), "one".into()));
        assert!(!root.join("gone").exists() && fs::metadata(root.join("d/a")).unwrap().nlink() == 2);
        assert_eq!(fs::metadata(root.join("d")).unwrap().mtime(), 7);

        let clock = home.path().join("clock");
        fs::write(&clock, "").unwrap();
        let before = Before::of(&root, &rustix::fs::stat(&clock).unwrap()).unwrap();
        fs::remove_file(root.join("d/c")).unwrap();
        fs::write(root.join("d/same"), "SAME").unwrap();
        let past = fs::File::options().write(true).open(root.join("d/same")).unwrap();
        past.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(7)).unwrap(); // size and time lie
        fs::create_dir(root.join("new")).unwrap();
        fs::write(root.join("new/file"), "new").unwrap();
        let mut made = Pipeline::new(Vec::new(), Making::default()).unwrap();
        let reading = diff::Options { ownership: options().ownership, marks: options().marks };
        let grown = Grown { root: &root, before: &before };
        let (untold, is_exact) = diff::diff_tree(grown, &views[2], &reading, &LinkOwners::new(), &mut made).unwrap();
        let found: Vec<String> =
            made.finish().unwrap().0.index.entries().iter().map(|e| String::from_utf8_lossy(&e.path).into()).collect();
        assert!(untold.is_empty(), "{untold:?}");
        assert_eq!((is_exact, found), (true, ["d", "d/c", "d/same", "new", "new/file"].map(String::from).to_vec()));
    }

    #[test]
    fn files_are_found_under_whatever_name_a_layer_has_them() {
        let home = tempfile::tempdir().unwrap();
        let link = |path: &str, target: &str| plain(path, Kind::Hardlink(target.into()));
        // The index calls the first file `a`, and the other one `b`; the residue gives `d` a file of its own.
        let made = layer(vec![
            file("z", "one"),
            file("y", "two"),
            link("c", "z"),
            link("a", "c"),
            link("b", "y"),
            link("d", "z"),
            file("z", "new"),
        ]);
        let mut residue = super::super::index::Builder::default();
        residue.push(Entry { path: b"d".to_vec(), ..file("d", "one").0 });
        let view = View::of([&made.0]).with_residue(&residue.finish());
        let mut open = |_: usize| -> io::Result<(DiffId, Box<dyn Read>)> {
            Ok((made.1, Box::new(io::Cursor::new(made.2.clone()))))
        };
        grow(home.path(), &View::empty(), &view, &options(), &mut open).unwrap();
        let found = |name: &str| {
            let path = home.path().join(name);
            (fs::read_to_string(&path).unwrap(), fs::metadata(path).unwrap().ino())
        };
        let texts = ["a", "b", "c", "d", "y", "z"].map(|name| found(name).0);
        assert_eq!(texts, ["one", "two", "one", "one", "two", "new"]);
        assert!(found("a") == found("c") && found("a") != found("d") && found("b") == found("y"));
    }

    #[test]
    fn a_layer_that_is_not_the_promised_one_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let (right, wrong) = (layer(vec![file("a", "one")]), layer(vec![file("a", "two")]));
        let view = View::of([&right.0]);
        let mut open = |_: usize| -> io::Result<(DiffId, Box<dyn Read>)> {
            Ok((right.1, Box::new(io::Cursor::new(wrong.2.clone()))))
        };
        let refused = grow(home.path(), &View::empty(), &view, &options(), &mut open);
        assert!(matches!(refused, Err(Error::WrongLayer { .. })), "{refused:?}");
    }
}
