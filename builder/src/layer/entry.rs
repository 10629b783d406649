//! One entry of a layer: what a tar header says, as a typed value. Neither bytes nor files are here;
//! see [`super::tar`] for the bytes and [`super::read`] for checking what others wrote.

use std::cmp::Ordering;

/// The longest path that a layer may carry, in bytes: Linux cannot name anything longer (PATH_MAX).
pub const PATH_LIMIT: usize = 4096;

/// The longest name between two slashes, in bytes (NAME_MAX).
pub const NAME_LIMIT: usize = 255;

/// The prefix that hides a name of the layers below (image-spec, layer.md, "Whiteouts").
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// The name that hides everything a directory held below (image-spec, layer.md, "Opaque Whiteout").
pub const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// The bit of a directory's mode that gives its group to what is made in it.
pub const SETGID: u32 = 0o2000;

/// The one extended attribute that layers carry from our own steps.
pub const CAPABILITY: &[u8] = b"security.capability";

/// The SHA-256 of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The hash of no bytes at all.
    pub const EMPTY: Self = Self([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae,
        0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
    ]);

    /// The hash of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        let mut verifier = oci::Verifier::sha256();
        verifier.update(bytes);
        Self::sealed(verifier)
    }

    /// Ends a SHA-256 that was fed elsewhere.
    pub(crate) fn sealed(verifier: oci::Verifier) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(verifier.seal().digest().as_bytes());
        Self(hash)
    }
}

/// What an entry is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Bytes of content.
        size: u64,
        /// What they hash to.
        hash: ContentHash,
    },
    /// A directory.
    Directory,
    /// A directory that the layer only names through its children: what lies below shines through.
    /// Never written to a tar.
    Implicit,
    /// A symbolic link with its target, as stored.
    Symlink(Vec<u8>),
    /// Another name of the file at this path.
    Hardlink(Vec<u8>),
    /// A character device: major and minor number.
    Char(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
    /// The path, and all below it, is not there any more.
    Whiteout,
    /// What layers below put into this directory is not there any more.
    Opaque,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root, without leading or trailing slash; empty for the root itself. For a
    /// whiteout: the path that vanishes, not the marker's name.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky: at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, in whole seconds since 1970.
    pub mtime: i64,
    /// Extended attributes, sorted by name. Our own steps keep `security.capability` alone.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// An entry owned by root, from 1970, without attributes.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind, mode: u32) -> Self {
        Self { path: path.into(), kind, mode, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() }
    }

    /// The entry that hides `path`, with the zero header that BuildKit writes.
    pub fn whiteout(path: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Kind::Whiteout, 0)
    }

    /// Whether it is a directory, named or implicit.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Directory | Kind::Implicit)
    }

    /// Bytes of content that follow the header in a tar.
    pub fn size(&self) -> u64 {
        match self.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        }
    }

    /// Order in an index: a walk that visits names in byte order and a directory before its children.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        compare(&self.path, &other.path).then(self.rank().cmp(&other.rank()))
    }

    /// A whiteout and a new file may carry one path; what hides comes first.
    fn rank(&self) -> u8 {
        match self.kind {
            Kind::Whiteout => 0,
            Kind::Opaque => 2,
            _ => 1,
        }
    }
}

/// Compares two paths name by name, so that everything below a directory stands together right behind
/// it: the order in which Go's `filepath.Walk`, hence BuildKit, visits a tree.
pub fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let at = common(a, b);
    match (a.get(at), b.get(at)) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(b'/'), Some(_)) => Ordering::Less,
        (Some(_), Some(b'/')) => Ordering::Greater,
        (Some(x), Some(y)) => x.cmp(y),
    }
}

/// How many bytes two paths begin with alike; in large steps, as neighbours of a deep tree are long and alike.
fn common(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 32;
    let alike = a.chunks_exact(STEP).zip(b.chunks_exact(STEP)).take_while(|(x, y)| x == y).count() * STEP;
    let rest = a[alike..].iter().zip(&b[alike..]).take_while(|(x, y)| x == y).count();
    alike + rest
}

/// Whether `path` lies strictly below `dir`. Everything but the root lies below the root.
pub fn is_below(path: &[u8], dir: &[u8]) -> bool {
    if dir.is_empty() {
        return !path.is_empty();
    }
    path.len() > dir.len() && path.starts_with(dir) && path[dir.len()] == b'/'
}

/// The directory of a path, or `None` for the root.
pub fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    Some(path.iter().rposition(|&b| b == b'/').map_or(&path[..0], |at| &path[..at]))
}

/// The last name of a path.
pub fn name(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&b| b == b'/').map_or(path, |at| &path[at + 1..])
}

/// Puts a name behind a directory.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    [dir, b"/", name].concat()
}

/// The names of a path, without empty ones and `.`.
pub fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// A path for people: bytes that are not UTF-8 are shown as �.
pub fn show(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_a_walk() {
        let walk: [&[u8]; 8] = [b"", b"a", b"a/b", b"a/b/c", b"a/c", b"a-b", b"a.b", b"b"];
        for (i, x) in walk.iter().enumerate() {
            for (j, y) in walk.iter().enumerate() {
                assert_eq!(compare(x, y), i.cmp(&j), "{} {}", show(x), show(y));
            }
        }
    }

    #[test]
    fn paths() {
        assert_eq!(parent(b""), None);
        assert_eq!(parent(b"a"), Some(&b""[..]));
        assert_eq!(parent(b"a/b"), Some(&b"a"[..]));
        assert_eq!(name(b"a/b"), b"b");
        assert!(is_below(b"a/b", b"a") && is_below(b"a", b"") && !is_below(b"ab", b"a"));
        assert!(!is_below(b"a", b"a") && !is_below(b"", b""));
        assert_eq!(names(b"//a/./b/").collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(ContentHash::of(b""), ContentHash::EMPTY);
    }
}
