//! Two trees become one: what is missing in the one moves over from the other, and what is there stays.
//!
//! Both were written by commands that nobody trusts, and the one that takes in may be in use: every name is reached from
//! a directory handle and no link is followed, a file comes whole or not at all, and nothing is replaced.

use std::io;
use std::path::Path;

use rustix::fs::{FileType, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::layer::beneath::{Tree, list, lstat};
use crate::layer::entry::join;

/// Moves what `to` has not from `from` to there; both lie on one file system. Gives how many files and directories.
///
/// # Errors
/// If something cannot be read or moved; what was moved before stays.
pub(crate) fn missing(from: &Path, to: &Path) -> io::Result<usize> {
    let (mut from, mut to) = (Tree::open(from)?, Tree::open(to)?);
    let mut moved = 0;
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let (theirs, ours) = (from.dir(&path)?, to.dir(&path)?);
        for name in list(theirs)? {
            match renameat_with(theirs, &*name, ours, &*name, RenameFlags::NOREPLACE) {
                Ok(()) => moved += 1,
                Err(Errno::EXIST) => {
                    let mode = |dir| lstat(dir, &name).map(|stat| stat.st_mode);
                    let both = [mode(theirs)?, mode(ours)?];
                    if both.iter().all(|mode| FileType::from_raw_mode(*mode) == FileType::Directory) {
                        waiting.push(join(&path, &name));
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_there_stays_and_links_lead_nowhere() {
        let home = tempfile::tempdir().unwrap();
        let place = |path: &str| home.path().join(path);
        for dir in ["theirs/both/new", "theirs/link", "theirs/file", "ours/both", "ours/dir", "outside"] {
            fs::create_dir_all(place(dir)).unwrap();
        }
        for (path, text) in [
            ("theirs/both/one", "theirs"),
            ("theirs/both/two", "theirs"),
            ("theirs/both/new/deep", "theirs"),
            ("theirs/link/stolen", "theirs"),
            ("theirs/dir", "theirs"),
            ("ours/both/one", "ours"),
            ("ours/file", "ours"),
        ] {
            fs::write(place(path), text).unwrap();
        }
        symlink(place("outside"), place("ours/link")).unwrap();
        assert_eq!(missing(&place("theirs"), &place("ours")).unwrap(), 2);
        let read = |path: &str| fs::read_to_string(place(path)).unwrap();
        assert_eq!([read("ours/both/one"), read("ours/file")], ["ours", "ours"]);
        assert_eq!([read("ours/both/two"), read("ours/both/new/deep")], ["theirs", "theirs"]);
        assert!(fs::read_dir(place("outside")).unwrap().next().is_none() && place("ours/dir").is_dir());
    }
}
