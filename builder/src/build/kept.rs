//! The changes of a RUN lie in a directory that often is just what unpacking its layer would give. Then
//! it is kept for the next RUN, and nothing has to be unpacked.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fd::AsFd;

use crate::layer::beneath::{self, Tree};
use crate::layer::entry::{Entry, Kind, join};
use crate::layer::unpack::Marks;
use crate::layer::{Index, index};

/// Moves an overlay's upper directory to where its layer is unpacked, by way of `aside`; both on one
/// file system. `told` is what the layer tells, and what is kept beside it. Says whether it did: an upper directory can
/// hold what is in neither (files rewritten as they were), which must not show up below another image.
pub(super) fn keep(upper: &Path, aside: &Path, place: &Path, told: [&Index; 2], marks: Marks) -> io::Result<bool> {
    let [layer, residue] = told;
    let implied = residue.entries().iter().filter(|entry| entry.kind == Kind::Implicit).count(); // those of the layer
    let count = layer.entries().len() + residue.entries().len() - implied;
    if count == 0 || place.exists() {
        return Ok(false);
    }
    if matching(&mut Tree::open(upper)?, told, marks)? != Some(count) {
        return Ok(false);
    }
    fs::create_dir(aside)?;
    fs::rename(upper, aside.join("root"))?;
    fs::write(aside.join("side"), index::Builder::default().finish().to_bytes())?;
    fs::rename(aside, place)?;
    Ok(true)
}

/// How many files there are, if everything is told.
fn matching(tree: &mut Tree, told: [&Index; 2], marks: Marks) -> io::Result<Option<usize>> {
    let mut found = 0;
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let dir = tree.dir(&path)?;
        if beneath::xattr(dir.as_fd(), marks.opaque())?.is_some() {
            return Ok(None); // the layer spells out what is hidden, which depends on what lies below
        }
        for name in beneath::list(dir)? {
            let child = join(&path, &name);
            let stat = beneath::lstat(dir, &name)?;
            let Some(here) = beneath::entry(dir, &child, &stat)? else { return Ok(None) };
            match told.iter().find_map(|index| index.find(&child)) {
                Some(entry) if same(entry, &here) => found += 1,
                _ => return Ok(None),
            }
            if here.is_dir() {
                waiting.push(child);
            }
        }
    }
    Ok(Some(found))
}

fn same(entry: &Entry, here: &Entry) -> bool {
    match (&entry.kind, &here.kind) {
        (Kind::Whiteout, Kind::Char(0, 0)) => true,
        // Further names of a file are links in the layer and files here.
        (Kind::Hardlink(_), Kind::File { .. }) => true,
        (Kind::File { size, .. }, Kind::File { size: other, .. }) => size == other && entry.mtime == here.mtime,
        (kind, other) => kind == other && entry.mtime == here.mtime,
    }
}
