//! Removes directory trees that steps have left: unreadable directories, any depth, names that are no text. Never follows
//! a link, never leaves the tree.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, chmodat, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Removes `path` and everything below it; that it does not exist is fine.
///
/// Every directory found below is first moved up to the top, so a tree of any depth needs two descriptors and no stack.
/// Directories without permissions get them first. Files of other ids need the namespace in which they were made: call
/// this after [`enter`](super::enter) as the steps did.
///
/// # Errors
/// The first thing that cannot be removed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.is_dir() => return fs::remove_file(path),
        Ok(_) => {}
    }
    empty(open_directory(rustix::fs::CWD, path)?)?;
    fs::remove_dir(path)
}

/// Removes what stands at a name of a directory, with everything below; that it does not exist is an error.
pub(crate) fn remove_at(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        result => return result,
    }
    let emptied = open_directory(parent, name).and_then(empty);
    emptied.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn empty(top: OwnedFd) -> io::Result<()> {
    let mut names = Names(0);
    loop {
        let entries = list(top.as_fd())?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in &entries {
            remove_entry(top.as_fd(), top.as_fd(), entry, &mut names)?;
        }
    }
}

struct Entry {
    name: std::ffi::CString,
    kind: FileType,
}

/// Numbers for directories that are moved to the top.
struct Names(u64);

/// Removes a file, or a directory of the top: what it contains goes, or comes up to the top.
fn remove_entry(top: BorrowedFd<'_>, parent: BorrowedFd<'_>, entry: &Entry, names: &mut Names) -> io::Result<()> {
    if entry.kind != FileType::Directory {
        return remove_file(parent, &entry.name);
    }
    let directory = open_directory(parent, entry.name.as_c_str())?;
    for inner in list(directory.as_fd())? {
        match inner.kind {
            FileType::Directory => lift(top, directory.as_fd(), &inner.name, names)?,
            _ => remove_file(directory.as_fd(), &inner.name)?,
        }
    }
    match unlinkat(parent, &entry.name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn remove_file(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn lift(top: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &CStr, names: &mut Names) -> io::Result<()> {
    if unlinkat(parent, name, AtFlags::REMOVEDIR).is_ok() {
        return Ok(()); // it was empty
    }
    loop {
        names.0 += 1;
        let new_name = format!(".removing-{}", names.0);
        match renameat(parent, name, top, new_name) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {} // a name that somebody else has chosen too
            // A directory that moves gets a new `..`, so it must be writable.
            Err(Errno::ACCESS) => {
                chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
                renameat(parent, name, top, format!(".removing-{}", names.0))?;
                return Ok(());
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg + Copy) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = parent.as_fd();
    // Reading is not enough: what we empty must be writable too, so an owner's missing permissions are given first.
    // Whoever may not do that (not the owner) sees the real error on opening or removing.
    let writable = rustix::fs::accessat(
        parent,
        name,
        rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
        AtFlags::empty(),
    );
    if writable.is_err() {
        let path_only =
            openat(parent, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        drop(path_only); // it is a directory and no link
        let _ = chmodat(parent, name, Mode::RWXU, AtFlags::empty());
    }
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn list(directory: BorrowedFd<'_>) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for found in Dir::read_from(directory)? {
        let found = found?;
        let name = found.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        entries.push(Entry { name: name.to_owned(), kind: kind(directory, name, found.file_type())? });
    }
    Ok(entries)
}

/// Some file systems do not say in the directory what an entry is.
fn kind(directory: BorrowedFd<'_>, name: &CStr, said: FileType) -> io::Result<FileType> {
    match said {
        FileType::Unknown => {
            let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(FileType::from_raw_mode(found.st_mode))
        }
        said => Ok(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn missing_trees_files_and_links_are_fine() {
        let home = tempfile::tempdir().unwrap();
        remove_tree(&home.path().join("nothing")).unwrap();
        fs::write(home.path().join("file"), "x").unwrap();
        remove_tree(&home.path().join("file")).unwrap();
        fs::create_dir(home.path().join("kept")).unwrap();
        fs::write(home.path().join("kept/file"), "x").unwrap();
        symlink("kept", home.path().join("link")).unwrap();
        remove_tree(&home.path().join("link")).unwrap();
        assert!(home.path().join("kept/file").exists());
    }

    #[test]
    fn links_inside_lead_nowhere() {
        let home = tempfile::tempdir().unwrap();
        let (tree, kept) = (home.path().join("tree/a"), home.path().join("kept"));
        fs::create_dir_all(&tree).unwrap();
        fs::write(&kept, "x").unwrap();
        symlink(home.path(), tree.join("up")).unwrap();
        remove_tree(&home.path().join("tree")).unwrap();
        assert!(kept.exists() && !home.path().join("tree").exists());
    }

    #[test]
    fn directories_without_permissions_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir_all(tree.join("work/inner/deep")).unwrap();
        fs::write(tree.join("work/inner/deep/file"), "x").unwrap();
        for path in ["work/inner/deep", "work/inner", "work", ""] {
            fs::set_permissions(tree.join(path), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn trees_deeper_than_any_path_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut at = open_directory(rustix::fs::CWD, tree.as_path()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, c"d", Mode::RWXU).unwrap();
            at = open_directory(at.as_fd(), c"d").unwrap();
        }
        drop(at);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
