//! What names in an archive mean: paths below its root, deletions, and the directory that it is extracted into.

use super::super::entry::{
    Entry, Kind, NAME_LIMIT, OPAQUE_NAME, PATH_LIMIT, WHITEOUT_PREFIX, join, name, names, parent, show,
};
use super::{Error, Names};

/// Turns the names with a meaning into what they mean.
pub(super) fn hiding(entry: Entry) -> Result<Entry, Error> {
    let last = name(&entry.path);
    let dir = parent(&entry.path).unwrap_or_default();
    if last == OPAQUE_NAME {
        return Ok(Entry::new(dir, Kind::Opaque, 0));
    }
    match last.strip_prefix(WHITEOUT_PREFIX) {
        None => Ok(entry),
        Some(b"" | b"." | b"..") => {
            Err(Error::Refused { path: show(&entry.path), what: "it would hide nothing or too much" })
        }
        Some(hidden) => Ok(Entry::whiteout(join(dir, hidden))),
    }
}

/// A path below the root. Leading slashes and `.` mean nothing in archives (tar strips them as well).
/// `..` is never needed, and refused in layers; in archives it is a word like any other, and there is
/// nothing above the destination, as moby extracts in a chroot.
pub(super) fn clean(path: &[u8], kind: Names) -> Result<Vec<u8>, Error> {
    let refused = |what| Err(Error::Refused { path: show(path), what });
    let mut clean = Vec::with_capacity(path.len());
    for name in names(path) {
        if name == b".." {
            if kind == Names::Layer {
                return refused("its path contains `..`");
            }
            clean.truncate(parent(&clean).map_or(0, <[u8]>::len));
            continue;
        }
        // The marker of a whiteout may be longer than what it hides.
        if name.strip_prefix(WHITEOUT_PREFIX).unwrap_or(name).len() > NAME_LIMIT {
            return refused("a name in it is longer than 255 bytes");
        }
        if name.contains(&0) {
            return refused("its path contains a NUL byte");
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(name);
    }
    if clean.len() >= PATH_LIMIT {
        return refused("its path is longer than 4095 bytes");
    }
    if path.is_empty() {
        return refused("its path is empty");
    }
    Ok(clean)
}

/// Whether a name of an archive is the directory that it is extracted into: `.`, in any words. `/` is more: what the archive
/// says of it counts.
pub(super) fn means_destination(name: &[u8]) -> bool {
    name.is_empty() || !name.starts_with(b"/") && clean(name, Names::Archive).is_ok_and(|path| path.is_empty())
}

pub(super) fn symlink_target(path: &[u8], target: &[u8]) -> Result<Vec<u8>, Error> {
    if target.is_empty() || target.len() >= PATH_LIMIT || target.contains(&0) {
        return Err(Error::Refused { path: show(path), what: "its link target is empty or too long" });
    }
    Ok(target.to_vec())
}
