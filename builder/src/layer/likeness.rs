//! What a layer is to the steps above it, whenever and wherever it was made: a hash of its entries without the times
//! that only say when that was. Two machines that make the same files at different times have different layers, and
//! what is built upon them is the same.
//!
//! A time that a command has set on purpose (`touch -d`, `tar x`, `cp -p`) is no such time, and counts: commands after
//! it can see it.

use oci::{Digest, Verifier};

use super::Index;
use super::entry::{Entry, Kind};

/// Changes when another part of an entry counts.
const VERSION: &[u8] = b"lighter layer likeness 1";

/// Which times say only when a layer was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    /// All: they come from a build context, as with `docker build`.
    All,
    /// Those from this second to that one, while the command ran; others were set by it.
    During(i64, i64),
}

impl Times {
    /// Whether a time says more than when a layer was made.
    pub fn tells(self, time: i64) -> bool {
        match self {
            Self::All => false,
            Self::During(begun, ended) => !(begun..=ended).contains(&time),
        }
    }
}

/// The likeness of a layer.
pub(crate) fn of(index: &Index, times: Times) -> Digest {
    let mut hash = Verifier::sha256();
    hash.update(VERSION);
    for entry in index.entries() {
        add(&mut hash, entry, times);
    }
    hash.seal().digest()
}

fn add(hash: &mut Verifier, entry: &Entry, times: Times) {
    // Texts are framed and numbers as long as they always are, so no two entries give the same bytes.
    let mut bytes = Vec::with_capacity(128 + entry.path.len());
    let text = |bytes: &mut Vec<u8>, text: &[u8]| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text);
    };
    text(&mut bytes, &entry.path);
    match &entry.kind {
        Kind::File { size, hash } => {
            bytes.push(0);
            bytes.extend(size.to_le_bytes());
            bytes.extend(hash.0);
        }
        Kind::Directory => bytes.push(1),
        Kind::Implicit => bytes.push(2),
        Kind::Symlink(target) => {
            bytes.push(3);
            text(&mut bytes, target);
        }
        Kind::Hardlink(target) => {
            bytes.push(4);
            text(&mut bytes, target);
        }
        Kind::Char(major, minor) | Kind::Block(major, minor) => {
            bytes.push(if matches!(entry.kind, Kind::Char(..)) { 5 } else { 6 });
            bytes.extend(major.to_le_bytes());
            bytes.extend(minor.to_le_bytes());
        }
        Kind::Fifo => bytes.push(7),
        Kind::Whiteout => bytes.push(8),
        Kind::Opaque => bytes.push(9),
    }
    for number in [entry.mode, entry.uid, entry.gid] {
        bytes.extend(number.to_le_bytes());
    }
    let told = times.tells(entry.mtime);
    bytes.push(u8::from(told));
    if told {
        bytes.extend(entry.mtime.to_le_bytes());
    }
    bytes.extend((entry.xattrs.len() as u64).to_le_bytes());
    for (name, value) in &entry.xattrs {
        text(&mut bytes, name);
        text(&mut bytes, value);
    }
    hash.update(&bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::ContentHash;
    use crate::layer::index::Builder;

    fn layer(path: &str, text: &str, mode: u32, mtime: i64) -> Index {
        let kind = Kind::File { size: text.len() as u64, hash: ContentHash::of(text.as_bytes()) };
        let mut builder = Builder::default();
        builder.push(Entry { mtime, ..Entry::new(path, kind, mode) });
        builder.finish()
    }

    #[test]
    fn everything_counts_but_the_time_of_making() {
        let first = layer("a", "x", 0o644, 1000);
        let later = layer("a", "x", 0o644, 2000);
        assert_eq!(of(&first, Times::All), of(&later, Times::All));
        let run = Times::During(1000, 2000);
        assert_eq!(of(&first, run), of(&later, run));
        let set = [5, 6, 9000].map(|time| of(&layer("a", "x", 0o644, time), run));
        assert!(set[0] != set[1] && set[1] != set[2] && !set.contains(&of(&first, run)));
        for other in [layer("b", "x", 0o644, 1000), layer("a", "y", 0o644, 1000), layer("a", "x", 0o755, 1000)] {
            assert_ne!(of(&first, Times::All), of(&other, Times::All));
        }
    }
}
