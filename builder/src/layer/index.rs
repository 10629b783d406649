//! The layer index: all entries of one layer, sorted, without their contents. It is made in the same
//! pass in which a layer is first written or read, and kept beside it under the diff ID, so that later
//! steps know the tree without unpacking. How layers stack is not known here; see [`super::view`].
//!
//! On disk (version 1): `LINDEX01`, then numbers as LEB128: the count of entries, and per entry the
//! bytes shared with the path before, the rest of the path, kind, mode, uid, gid, mtime (zigzag),
//! attributes and what the kind has; at the end the CRC-32 of all that, little endian. A reader refuses
//! what it does not know: a changed format is a new magic, and the index is simply made again.

use super::entry::{ContentHash, Entry, Kind, PATH_LIMIT, compare, is_below, parent};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"LINDEX01";

/// What says that an entry is a symbolic link.
const LINK: u8 = 3;

/// More entries than any real layer has (a whole distribution has 10^6), few enough to hold in memory.
pub const ENTRY_LIMIT: usize = 4 << 20;

/// The kernel's own limit for one attribute, in bytes (XATTR_SIZE_MAX).
pub const XATTR_LIMIT: usize = 64 << 10;

/// Why stored bytes are no index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another format, or another version of it.
    #[error("this is not a layer index of version 1; delete it, it is made again")]
    Magic,
    /// The checksum does not match.
    #[error("the layer index is damaged; delete it, it is made again")]
    Damaged,
    /// A field is out of its limits, although the checksum is right.
    #[error("the layer index holds a value beyond its limits; delete it, it is made again")]
    Limit,
}

/// The sorted entries of one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    entries: Vec<Arc<Entry>>,
}

impl Index {
    /// All entries in walk order, [`Kind::Implicit`] directories included.
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// The entry at a path, if the layer names one that is not a whiteout.
    pub fn find(&self, path: &[u8]) -> Option<&Arc<Entry>> {
        let start = self.entries.partition_point(|e| compare(&e.path, path).is_lt());
        self.entries[start..]
            .iter()
            .take_while(|e| e.path == path)
            .find(|e| !matches!(e.kind, Kind::Whiteout | Kind::Opaque))
    }

    /// Whether the layer leaves out directories that it puts something into.
    pub fn has_implied(&self) -> bool {
        self.entries.iter().any(|entry| entry.kind == Kind::Implicit)
    }

    /// Serialises the index.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Output(MAGIC.to_vec());
        out.number(self.entries.len() as u64);
        let mut before: &[u8] = b"";
        for entry in &self.entries {
            out.entry(entry, before);
            before = &entry.path;
        }
        let crc = libdeflater::crc32(&out.0);
        out.0.extend_from_slice(&crc.to_le_bytes());
        out.0
    }

    /// Reads what [`Index::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        if !bytes.starts_with(MAGIC) {
            return Err(Error::Magic);
        }
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(Error::Damaged)?;
        if libdeflater::crc32(body) != u32::from_le_bytes(*crc) {
            return Err(Error::Damaged);
        }
        let mut input = Input(&body[MAGIC.len()..]);
        let count = input.number()? as usize;
        if count > ENTRY_LIMIT || count > input.0.len() {
            return Err(Error::Limit);
        }
        let mut entries: Vec<Arc<Entry>> = Vec::with_capacity(count);
        for _ in 0..count {
            let before = entries.last().map_or(&b""[..], |e| &e.path);
            let entry = input.entry(before)?;
            if entries.last().is_some_and(|last| last.order(&entry).is_ge()) {
                return Err(Error::Limit);
            }
            entries.push(Arc::new(entry));
        }
        if !input.0.is_empty() {
            return Err(Error::Limit);
        }
        Ok(Self { entries })
    }
}

/// Collects entries in the order of a tar into an [`Index`]: later ones replace earlier ones.
#[derive(Debug, Default)]
pub struct Builder {
    entries: Vec<Entry>,
    /// For a hard link: the entry that it names, as it was when the link came.
    files: Vec<Option<usize>>,
    latest: HashMap<Vec<u8>, usize>,
}

impl Builder {
    /// Takes the next entry.
    pub fn push(&mut self, entry: Entry) {
        let file = match &entry.kind {
            Kind::Hardlink(target) => self.latest.get(target).map(|&at| self.files[at].unwrap_or(at)),
            _ => None,
        };
        if is_node(&entry) {
            self.latest.insert(entry.path.clone(), self.entries.len());
        }
        self.files.push(file);
        self.entries.push(entry);
    }

    /// How many entries were taken.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none was taken.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sorts, drops what later entries replaced, and names the directories that are only implied.
    pub fn finish(self) -> Index {
        let Self { entries, files, latest } = self;
        drop(latest); // entries are many, and more memory is taken now
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by(|&a, &b| entries[a].order(&entries[b]).then(b.cmp(&a)));
        order.dedup_by(|later, kept| entries[*kept].order(&entries[*later]).is_eq());
        drop_replaced(&entries, &mut order);
        Index { entries: with_implied(settle_links(entries, &files, order)) }
    }
}

/// Lets the first name of each file, in walk order, carry the data, and the others link to it: tars
/// may come in any order, and a name that a link names may be replaced afterwards.
fn settle_links(entries: Vec<Entry>, files: &[Option<usize>], order: Vec<usize>) -> impl Iterator<Item = Entry> {
    // What links name, as it is: all others are given away one by one.
    let data: HashMap<usize, Entry> = files.iter().flatten().map(|&file| (file, entries[file].clone())).collect();
    let linked: Vec<Option<usize>> =
        files.iter().enumerate().map(|(at, file)| file.or_else(|| data.contains_key(&at).then_some(at))).collect();
    let mut entries: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
    let mut first: HashMap<usize, Vec<u8>> = HashMap::new();
    order.into_iter().filter_map(move |at| {
        let entry = entries[at].take()?;
        let Some((file, data)) = linked[at].and_then(|file| Some((file, data.get(&file)?))) else { return Some(entry) };
        let kind = match first.get(&file) {
            Some(first) => Kind::Hardlink(first.clone()),
            None => {
                first.insert(file, entry.path.clone());
                data.kind.clone()
            }
        };
        Some(Entry { path: entry.path, kind, ..data.clone() })
    })
}

/// Whether the entry puts something at its path (and does not only hide).
fn is_node(entry: &Entry) -> bool {
    !matches!(entry.kind, Kind::Whiteout | Kind::Opaque)
}

/// A file that came after a directory of its name replaced it with all that was in it; what comes
/// below a file afterwards makes it a directory again. `order` is walk order, so the files above an entry are those that
/// were seen last: a list of them is enough, however deep the paths are.
fn drop_replaced(entries: &[Entry], order: &mut Vec<usize>) {
    struct Above {
        at: usize,
        /// The last that came of it and those above it.
        last: usize,
    }
    let is_file = |at: usize| is_node(&entries[at]) && !entries[at].is_dir();
    let mut reopened = HashSet::new();
    let mut above: Vec<Above> = Vec::new();
    order.retain(|&at| {
        let path = &entries[at].path;
        // What hides everything below a path stands behind a file of that path, and is above itself.
        let is_above = |file: &Above| is_below(path, &entries[file.at].path) || *path == entries[file.at].path;
        while above.pop_if(|file| !is_above(file)).is_some() {}
        let last = above.last().map(|file| file.last);
        let replaced = last.is_some_and(|file| file > at);
        if !replaced {
            // Those above one that was noted were noted with it.
            above.iter().rev().take_while(|file| reopened.insert(file.at)).for_each(drop);
        }
        if is_file(at) {
            above.push(Above { at, last: last.map_or(at, |last| last.max(at)) });
        }
        !replaced
    });
    order.retain(|at| !reopened.contains(at));
}

/// The directories above a path, innermost first, without the root.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(parent(path), |dir| parent(dir)).take_while(|dir| !dir.is_empty())
}

/// Adds the directories that are named only through their children.
fn with_implied(sorted: impl Iterator<Item = Entry>) -> Vec<Arc<Entry>> {
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    let mut open: Vec<Vec<u8>> = Vec::new();
    let implied = |path: &[u8]| Arc::new(Entry::new(path, Kind::Implicit, 0o755));
    for entry in sorted {
        while open.last().is_some_and(|dir| !is_below(&entry.path, dir) && entry.path != *dir) {
            open.pop();
        }
        let known = open.last().map_or(0, Vec::len);
        let mut missing: Vec<&[u8]> = ancestors(&entry.path).take_while(|dir| dir.len() > known).collect();
        if entry.kind == Kind::Opaque && open.last() != Some(&entry.path) {
            missing.insert(0, &entry.path);
        }
        for dir in missing.into_iter().rev() {
            entries.push(implied(dir));
            open.push(dir.to_vec());
        }
        if entry.is_dir() {
            open.push(entry.path.clone());
        }
        entries.push(Arc::new(entry));
    }
    entries
}

struct Output(Vec<u8>);

impl Output {
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text);
    }

    fn entry(&mut self, entry: &Entry, before: &[u8]) {
        let shared = entry.path.iter().zip(before).take_while(|(a, b)| a == b).count();
        self.number(shared as u64);
        self.text(&entry.path[shared..]);
        self.0.push(tag(&entry.kind));
        self.number(entry.mode.into());
        self.number(entry.uid.into());
        self.number(entry.gid.into());
        self.number((entry.mtime << 1 ^ entry.mtime >> 63) as u64);
        self.number(entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            self.text(name);
            self.text(value);
        }
        match &entry.kind {
            Kind::File { size, hash } => {
                self.number(*size);
                self.0.extend_from_slice(&hash.0);
            }
            Kind::Symlink(target) | Kind::Hardlink(target) => self.text(target),
            Kind::Char(major, minor) | Kind::Block(major, minor) => {
                self.number((*major).into());
                self.number((*minor).into());
            }
            Kind::Directory | Kind::Implicit | Kind::Fifo | Kind::Whiteout | Kind::Opaque => {}
        }
    }
}

fn tag(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => 0,
        Kind::Directory => 1,
        Kind::Implicit => 2,
        Kind::Symlink(_) => LINK,
        Kind::Hardlink(_) => 4,
        Kind::Char(..) => 5,
        Kind::Block(..) => 6,
        Kind::Fifo => 7,
        Kind::Whiteout => 8,
        Kind::Opaque => 9,
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, size: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.0.split_at_checked(size).ok_or(Error::Limit)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, Error> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Error::Limit);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::Limit)
    }

    fn small(&mut self) -> Result<u32, Error> {
        u32::try_from(self.number()?).map_err(|_| Error::Limit)
    }

    fn text(&mut self, limit: usize) -> Result<&'a [u8], Error> {
        let size = self.number()?;
        if size > limit as u64 {
            return Err(Error::Limit);
        }
        self.take(size as usize)
    }

    fn entry(&mut self, before: &[u8]) -> Result<Entry, Error> {
        let shared = self.number()? as usize;
        let mut path = before.get(..shared).ok_or(Error::Limit)?.to_vec();
        path.extend_from_slice(self.text(PATH_LIMIT)?);
        if path.len() > PATH_LIMIT {
            return Err(Error::Limit);
        }
        let tag = self.byte()?;
        let mode = self.small()?;
        let mode = if tag == LINK { 0o777 } else { mode }; // indexes of before may have what a tar said
        let (uid, gid) = (self.small()?, self.small()?);
        let zigzag = self.number()?;
        let mtime = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        let mut xattrs = Vec::new();
        for _ in 0..self.number()? {
            let name = self.text(super::entry::NAME_LIMIT)?.to_vec();
            xattrs.push((name, self.text(XATTR_LIMIT)?.to_vec()));
        }
        let kind = self.kind(tag)?;
        Ok(Entry { path, kind, mode, uid, gid, mtime, xattrs })
    }

    fn kind(&mut self, tag: u8) -> Result<Kind, Error> {
        Ok(match tag {
            0 => {
                let size = self.number()?;
                let mut hash = [0; 32];
                hash.copy_from_slice(self.take(32)?);
                Kind::File { size, hash: ContentHash(hash) }
            }
            1 => Kind::Directory,
            2 => Kind::Implicit,
            LINK => Kind::Symlink(self.text(PATH_LIMIT)?.to_vec()),
            4 => Kind::Hardlink(self.text(PATH_LIMIT)?.to_vec()),
            5 => Kind::Char(self.small()?, self.small()?),
            6 => Kind::Block(self.small()?, self.small()?),
            7 => Kind::Fifo,
            8 => Kind::Whiteout,
            9 => Kind::Opaque,
            _ => return Err(Error::Limit),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Entry {
        Entry::new(path, Kind::File { size: 0, hash: ContentHash::EMPTY }, 0o644)
    }

    fn index(entries: impl IntoIterator<Item = Entry>) -> Index {
        let mut builder = Builder::default();
        entries.into_iter().for_each(|entry| builder.push(entry));
        builder.finish()
    }

    fn shown(index: &Index) -> Vec<String> {
        let show = |e: &Arc<Entry>| {
            format!(
                "{}{}",
                String::from_utf8_lossy(&e.path),
                ["f", "/", "?", "@", "=", "c", "b", "p", "-", "!"][tag(&e.kind) as usize]
            )
        };
        index.entries().iter().map(show).collect()
    }

    #[test]
    fn later_entries_replace_earlier_ones() {
        let dir = |path: &str| Entry::new(path, Kind::Directory, 0o755);
        for (given, kept) in [
            (vec![file("b"), file("a")], vec!["af", "bf"]),
            (vec![dir("a"), file("a/b"), file("a")], vec!["af"]),
            (vec![file("a"), file("a/b")], vec!["a?", "a/bf"]),
            (vec![file("a"), dir("a"), file("a/b")], vec!["a/", "a/bf"]),
            (vec![file("x/y/z"), file("x/y/a")], vec!["x?", "x/y?", "x/y/af", "x/y/zf"]),
            (vec![file("a"), Entry::whiteout("a")], vec!["a-", "af"]),
            (vec![Entry::new("d", Kind::Opaque, 0), dir("d"), file("d/f")], vec!["d/", "d!", "d/ff"]),
            (vec![Entry::whiteout("d/a"), dir("d"), dir("")], vec!["/", "d/", "d/a-"]),
        ] {
            assert_eq!(shown(&index(given)), kept);
        }
    }

    #[test]
    fn damage_is_seen() {
        let good = index([file("a"), file("b")]).to_bytes();
        assert_eq!(Index::from_bytes(&good).unwrap().entries().len(), 2);
        assert_eq!(Index::from_bytes(b""), Err(Error::Magic));
        assert_eq!(Index::from_bytes(MAGIC), Err(Error::Damaged));
        for at in MAGIC.len()..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(Index::from_bytes(&bad), Err(Error::Damaged), "byte {at}");
        }
    }
}
