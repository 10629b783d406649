//! What a step leaves behind that its layer does not tell, and that steps after it can see all the same: the time of a
//! directory that was only touched, names that share one file with another (`ln` of a file of a lower layer copies it up
//! as it was, so the layer holds the new name alone), names that share theirs no more.
//!
//! BuildKit goes on in the directory where the step ran, and so sees all of this until the step comes from a cache of
//! others. Here it is kept beside the layer wherever the step is remembered: what is built upon it does not depend on
//! which machine ran the step. Images hold none of it.
//!
//! It is an [`Index`] of what the layers below show as well:
//!
//! - a directory: it has this time now; or it only holds what follows;
//! - a hard link: the name shares the file of its target, which is in the layer or here;
//! - anything else: the name has a file of its own, equal to the one below.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use oci::{Digest, Verifier};
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Kind, NAME_LIMIT};
use super::index;
use super::likeness::Times;
use super::{Index, View};

/// Changes when another part of a residue counts for the steps above.
const VERSION: &[u8] = b"lighter residue likeness 1";

/// What no layer tells of a step. There is always something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Residue {
    index: Arc<Index>,
    id: Digest,
    size: usize,
}

impl Residue {
    /// Of entries in walk order, none of which is in the layer; times are cut down to `newest`, as in layers. None if
    /// there are no entries.
    pub fn of(entries: Vec<Entry>, newest: Option<i64>) -> Option<Self> {
        let mut builder = index::Builder::default();
        for mut entry in entries {
            entry.mtime = newest.map_or(entry.mtime, |newest| entry.mtime.min(newest));
            builder.push(entry);
        }
        (!builder.is_empty()).then(|| Self::new(builder.finish()))
    }

    fn new(index: Index) -> Self {
        let bytes = index.to_bytes();
        Self { id: Digest::of(&bytes), size: bytes.len(), index: Arc::new(index) }
    }

    /// Its entries.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Those that can be true where the layers below show `below`: a residue may come from a cache of others.
    pub fn fitting(&self, below: &View) -> Vec<Arc<Entry>> {
        let there = |entry: &Entry| below.lstat(&entry.path).is_some_and(|node| fits(entry, &node.entry));
        self.index.entries().iter().filter(|entry| there(entry)).cloned().collect()
    }

    /// Its name: a hash of all of it.
    pub fn id(&self) -> &Digest {
        &self.id
    }

    /// How large it is in a record, in bytes.
    pub fn size(&self) -> usize {
        self.size.div_ceil(3) * 4
    }

    /// What layer and residue together are to the steps above them: as [`likeness`](super::likeness) has it, without the
    /// times that only say when the step ran. `below` is what the step stood upon.
    pub(crate) fn likeness(&self, layer: &Digest, below: &View, times: Times) -> Digest {
        let mut hash = Verifier::sha256();
        hash.update(VERSION);
        hash.update(layer.as_bytes());
        let mut says_more = false;
        for entry in self.index.entries() {
            let told = match &entry.kind {
                Kind::Implicit => continue,
                Kind::Directory => {
                    let before = below.lstat(&entry.path).map(|node| node.entry.mtime);
                    if before == Some(entry.mtime) || !times.tells(entry.mtime) {
                        continue;
                    }
                    format!("time {} {}", entry.mtime, entry.path.len()).into_bytes()
                }
                Kind::Hardlink(target) => {
                    [format!("link {} {} ", target.len(), entry.path.len()).as_bytes(), target].concat()
                }
                _ => format!("apart {}", entry.path.len()).into_bytes(),
            };
            hash.update(&told);
            hash.update(&entry.path);
            says_more = true;
        }
        if says_more { hash.seal().digest() } else { *layer }
    }
}

impl From<Residue> for String {
    fn from(residue: Residue) -> Self {
        BASE64.encode(residue.index.to_bytes())
    }
}

/// Why a text is no residue.
#[derive(Debug, thiserror::Error)]
#[error("this is not what is left of a step")]
pub struct Unreadable;

impl TryFrom<String> for Residue {
    type Error = Unreadable;

    fn try_from(text: String) -> Result<Self, Unreadable> {
        let bytes = BASE64.decode(text).map_err(|_| Unreadable)?;
        let index = Index::from_bytes(&bytes).map_err(|_| Unreadable)?;
        let is_sound = |entry: &Entry| match &entry.kind {
            Kind::Whiteout | Kind::Opaque => false,
            Kind::Hardlink(target) => is_path(&entry.path) && is_path(target),
            _ => is_path(&entry.path),
        };
        if !index.entries().iter().all(|entry| is_sound(entry)) || index.entries().is_empty() {
            return Err(Unreadable);
        }
        Ok(Self::new(index))
    }
}

/// Whether it can be put into a tree as it is: others may have written it.
fn is_path(path: &[u8]) -> bool {
    let is_name = |name: &[u8]| !name.is_empty() && name != b"." && name != b".." && name.len() <= NAME_LIMIT;
    path.split(|byte| *byte == b'/').all(is_name) && !path.contains(&0)
}

/// Whether what is told of a name can be true of what stands there.
pub(super) fn fits(told: &Entry, there: &Entry) -> bool {
    match &told.kind {
        Kind::Directory => there.is_dir(),
        Kind::Hardlink(_) => !there.is_dir(),
        kind => *kind == there.kind,
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::ContentHash;
    use super::*;

    fn file(path: &str, mtime: i64) -> Entry {
        Entry { mtime, ..Entry::new(path, Kind::File { size: 1, hash: ContentHash::of(b"x") }, 0o644) }
    }

    fn dir(path: &str, mtime: i64) -> Entry {
        Entry { mtime, ..Entry::new(path, Kind::Directory, 0o755) }
    }

    fn link(path: &str, target: &str) -> Entry {
        Entry { kind: Kind::Hardlink(target.into()), ..file(path, 5) }
    }

    fn index(entries: Vec<Entry>) -> Index {
        let mut builder = index::Builder::default();
        entries.into_iter().for_each(|entry| builder.push(entry));
        builder.finish()
    }

    #[test]
    fn a_view_shows_what_is_left() {
        let below =
            View::of([&index(vec![dir("d", 5), file("d/a", 5), link("d/b", "d/a"), file("d/c", 5), file("e", 5)])]);
        let view = below.with(&index(vec![dir("d", 7), file("d/new", 5)]));
        let entries = vec![dir("d", 9), link("d/a", "d/new"), file("d/c", 5)];
        let shown = view.clone().with_residue(Residue::of(entries, None).unwrap().index());
        let is_one = |view: &View, a: &str, b: &str| {
            view.lstat(a.as_bytes()).unwrap().file() == view.lstat(b.as_bytes()).unwrap().file()
        };
        assert!(is_one(&view, "d/a", "d/b") && !is_one(&view, "d/a", "d/new"));
        assert!(is_one(&shown, "d/a", "d/new") && !is_one(&shown, "d/a", "d/b"));
        assert!(
            !is_one(&shown, "d/c", "e") && shown.lstat(b"d/c").unwrap().file() != view.lstat(b"d/c").unwrap().file()
        );
        assert_eq!(shown.lstat(b"d").unwrap().entry.mtime, 9);
        assert_eq!(shown.nodes().len(), view.nodes().len());
        // What cannot be true: another content, a directory for a file, a name that is not there.
        let other = Entry { kind: Kind::File { size: 1, hash: ContentHash::of(b"y") }, ..file("d/a", 5) };
        let odd = Residue::of(vec![dir("e", 1), file("gone", 5), link("d", "e"), other], None).unwrap();
        assert_eq!(view.clone().with_residue(odd.index()).nodes(), view.nodes());
        assert!(odd.fitting(&view).is_empty());
    }

    #[test]
    fn a_record_carries_it_and_a_hostile_one_does_not() {
        let residue = Residue::of(vec![dir("d", 9), link("d/a", "d/b")], Some(7)).unwrap();
        assert_eq!(residue.index().find(b"d").unwrap().mtime, 7);
        let json = serde_json::to_string(&residue).unwrap();
        assert_eq!(serde_json::from_str::<Residue>(&json).unwrap(), residue);
        assert!((json.len()..json.len() + 3).contains(&(residue.size() + 2)), "{}", residue.size());
        assert_eq!(Residue::of(Vec::new(), None), None);
        for path in ["../x", "a/../x", "/x", "a//b", ".", "", "a/./b", "a\0b"] {
            for entry in [file(path, 1), link(path, "b"), link("b", path)] {
                let text = String::from(Residue::new(index(vec![entry])));
                assert!(Residue::try_from(text).is_err(), "{path:?}");
            }
        }
        assert!(Residue::try_from(String::from(Residue::new(index(vec![Entry::whiteout("a")])))).is_err());
        assert!(Residue::try_from("nonsense!".to_owned()).is_err());
    }

    #[test]
    fn the_time_of_a_run_is_nothing_to_the_steps_above() {
        let below = View::of([&index(vec![dir("d", 5), file("d/a", 5), file("d/b", 5)])]);
        let (layer, during) = (Digest::of(b"layer"), Times::During(100, 110));
        let of = |entries: Vec<Entry>| Residue::of(entries, None).unwrap().likeness(&layer, &below, during);
        assert_eq!(of(vec![dir("d", 103)]), layer);
        assert_eq!(of(vec![dir("d", 5)]), layer);
        let told =
            [vec![dir("d", 6)], vec![dir("d", 103), link("d/b", "d/a")], vec![file("d/a", 5)], vec![file("d/b", 5)]];
        let told = told.map(of);
        assert!(!told.contains(&layer));
        assert!((0..4).all(|a| (0..a).all(|b| told[a] != told[b])));
    }
}
