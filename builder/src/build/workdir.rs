//! WORKDIR: the directory and those above it that are missing, owned by the USER.

use super::error::StepProblem;
use crate::copy::Owner;
use crate::layer::View;
use crate::layer::entry::{Entry, Kind, SETGID, join, names, show};

/// The entries that make a directory: the existing ones above the first new one, the last of them
/// touched, then the new ones. Nothing if it is there. Below a directory with the setgid bit new ones have it too, and its
/// group if there is no USER.
pub(super) fn entries(view: &View, path: &str, owner: Option<Owner>, now: i64) -> Result<Vec<Entry>, StepProblem> {
    let wrong = |reason: String| StepProblem::Directory { path: path.to_owned(), reason };
    let path = view.resolve(path.trim_start_matches('/').as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let mut entries: Vec<Entry> = Vec::new();
    let mut first_new = None;
    let mut at = Vec::new();
    for name in names(&path) {
        at = join(&at, name);
        match view.lstat(&at).map(|node| &node.entry) {
            Some(entry) if entry.is_dir() => {
                let mut entry = Entry::clone(entry);
                entry.kind = Kind::Directory;
                entries.push(entry);
            }
            Some(_) => return Err(wrong(format!("{} is not a directory", show(&at)))),
            None => {
                first_new.get_or_insert(entries.len());
                let above = entries.last().filter(|above| above.mode & SETGID != 0);
                let inherited = above.map(|above| Owner { uid: 0, gid: above.gid });
                let owner = owner.or(inherited).unwrap_or_default();
                let entry = Entry::new(at.clone(), Kind::Directory, 0o755 | above.map_or(0, |_| SETGID));
                entries.push(Entry { uid: owner.uid, gid: owner.gid, mtime: now, ..entry });
            }
        }
    }
    match first_new {
        None => Ok(Vec::new()),
        Some(first) => {
            if let Some(parent) = first.checked_sub(1) {
                entries[parent].mtime = now;
            }
            Ok(entries)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::index::Builder;

    fn view(entries: Vec<Entry>) -> View {
        let mut builder = Builder::default();
        entries.into_iter().for_each(|entry| builder.push(entry));
        View::of([&builder.finish()])
    }

    #[test]
    fn new_directories_belong_to_the_user() {
        let old = Entry { mtime: 7, ..Entry::new("srv", Kind::Directory, 0o700) };
        let link = Entry::new("way", Kind::Symlink(b"/srv".to_vec()), 0o777);
        let view = view(vec![old, link, Entry::new("file", Kind::Fifo, 0o644)]);
        let made = |path: &str| -> Vec<(String, u32, u32, i64)> {
            let entries = entries(&view, path, Some(Owner { uid: 33, gid: 34 }), 99).unwrap();
            entries.into_iter().map(|e| (show(&e.path), e.mode, e.uid, e.mtime)).collect()
        };
        assert!(made("/srv").is_empty());
        assert!(made("/way").is_empty());
        assert!(made("/").is_empty());
        assert_eq!(made("/a/b"), [("/a".into(), 0o755, 33, 99), ("/a/b".into(), 0o755, 33, 99)]);
        assert_eq!(made("/way/x"), [("/srv".into(), 0o700, 0, 99), ("/srv/x".into(), 0o755, 33, 99)]);
        assert!(entries(&view, "/file/x", None, 0).is_err());
    }
}
