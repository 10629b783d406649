//! The contents of one layer in a temporary file, so that they can be read in any order: a blob can only
//! be read from its beginning. For steps that copy from a layer which nobody unpacked.

use super::entry::{ContentHash, Entry, Kind};
use super::index::{self, Index};
use super::read::{self, Limits, Names, Reader};
use oci::{DiffId, Verifier};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Why a layer could not be spooled.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    /// The layer is damaged, or refused.
    #[error(transparent)]
    Layer(#[from] read::Error),
    /// The temporary file could not be written.
    #[error("cannot write a temporary file: {0}")]
    Write(io::Error),
    /// The caller wanted no more.
    #[error("stopped")]
    Stopped(E),
}

/// All files of a layer, one after the other, and where each is.
#[derive(Debug)]
pub struct Spool {
    file: Arc<File>,
    places: HashMap<Vec<u8>, (u64, u64)>,
}

impl Spool {
    /// Reads a layer to its end into an empty file, and says which it is. `each` is called for every entry and may stop
    /// it.
    pub fn read<E>(
        blob: impl Read,
        file: File,
        limits: Limits,
        mut each: impl FnMut(&Entry) -> Result<(), E>,
    ) -> Result<(Self, DiffId), Error<E>> {
        let mut reader = Reader::open(blob, Names::Layer, limits)?;
        let mut spool = Self { file: Arc::new(file), places: HashMap::new() };
        let mut end = 0;
        while let Some(entry) = reader.next_entry()? {
            each(&entry).map_err(Error::Stopped)?;
            if matches!(entry.kind, Kind::File { .. }) {
                spool.append(&mut reader, &mut io::sink())?;
            }
            spool.place(&entry, &mut end);
        }
        let tar = reader.finish()?;
        Ok((spool, DiffId::of_tar(&tar)))
    }

    /// Holds nothing.
    pub fn empty(file: File) -> Self {
        Self { file: Arc::new(file), places: HashMap::new() }
    }

    /// Reads somebody's archive to its end into an empty file, and says what is in it. Names that hide
    /// something in a layer are names like any other here.
    pub fn read_archive<E>(
        archive: impl Read,
        file: File,
        limits: Limits,
        mut each: impl FnMut(&Entry) -> Result<(), E>,
    ) -> Result<(Self, Index), Error<E>> {
        let mut reader = Reader::open(archive, Names::Archive, limits)?;
        let mut spool = Self { file: Arc::new(file), places: HashMap::new() };
        let mut index = index::Builder::default();
        let mut end = 0;
        while let Some(mut entry) = reader.next_entry()? {
            each(&entry).map_err(Error::Stopped)?;
            if let Kind::File { hash, .. } = &mut entry.kind {
                let mut content = Verifier::sha256();
                spool.append(&mut reader, &mut content)?;
                *hash = ContentHash::sealed(content);
            }
            spool.place(&entry, &mut end);
            if !entry.path.is_empty() {
                index.push(entry); // the root is there already, whatever an archive says of it
            }
        }
        reader.finish()?;
        Ok((spool, index.finish()))
    }

    /// Remembers where the content of an entry lies that was appended at `end`.
    fn place(&mut self, entry: &Entry, end: &mut u64) {
        match &entry.kind {
            Kind::File { size, .. } => {
                self.places.insert(entry.path.clone(), (*end, *end + size));
                *end += size;
            }
            // The file as it is now: its first name may be replaced later. In a view every name of a
            // file can be the one that stands for all of them.
            Kind::Hardlink(target) => {
                if let Some(&place) = self.places.get(target) {
                    self.places.insert(entry.path.clone(), place);
                }
            }
            _ => {}
        }
    }

    fn append<E>(&self, content: &mut impl Read, hash: &mut impl Write) -> Result<(), Error<E>> {
        let mut chunk = [0; 64 << 10];
        loop {
            let got = content.read(&mut chunk).map_err(read::Error::from)?;
            if got == 0 {
                return Ok(());
            }
            hash.write_all(&chunk[..got]).map_err(Error::Write)?;
            self.file.as_ref().write_all(&chunk[..got]).map_err(Error::Write)?;
        }
    }

    /// The content of a file, by its path in the layer.
    pub fn open(&self, path: &[u8]) -> Option<Spooled> {
        let &(at, end) = self.places.get(path)?;
        Some(Spooled::new(self.file.clone(), at, end))
    }
}

/// A piece of a temporary file.
#[derive(Debug, Clone)]
pub struct Spooled {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Spooled {
    /// The bytes from `at` up to `end`.
    pub(crate) fn new(file: Arc<File>, at: u64, end: u64) -> Self {
        Self { file, at, end }
    }
}

impl Read for Spooled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{View, tar};

    fn archive() -> Vec<u8> {
        let file = |path: &str, size| Entry::new(path, Kind::File { size, hash: ContentHash::EMPTY }, 0o644);
        let mut tar = tar::Writer::new(Vec::new());
        for (entry, content) in [
            (Entry::new("d", Kind::Directory, 0o755), ""),
            (file("d/f", 5), "hello"),
            (Entry::new("d/link", Kind::Symlink(b"../../out".to_vec()), 0o777), ""),
            (Entry::new("g", Kind::Hardlink(b"d/f".to_vec()), 0o644), ""),
            (Entry::whiteout("kept"), ""),
        ] {
            tar.entry(&entry).unwrap();
            tar.content(content.as_bytes()).unwrap();
        }
        tar.finish().unwrap()
    }

    fn read(archive: &[u8]) -> Result<(Spool, Index), Error<()>> {
        Spool::read_archive(archive, tempfile::tempfile().unwrap(), Limits::default(), |_| Ok(()))
    }

    #[test]
    fn an_archive_shows_its_files_and_hides_nothing() {
        let (spool, index) = read(&archive()).unwrap();
        let view = View::of([&index]);
        let mut text = String::new();
        spool.open(&view.lstat(b"g").unwrap().origin).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), view.lstat(b"d/f").unwrap().entry.size()), ("hello", 5));
        assert!(
            matches!(view.lstat(b"d/f").unwrap().entry.kind, Kind::File { hash, .. } if hash == ContentHash::of(b"hello"))
        );
        assert!(view.lstat(b".wh.kept").is_some(), "a name like any other");
    }

    proptest::proptest! {
        /// A damaged archive is refused or shows names below the root; it never panics.
        #[test]
        fn damaged_archives_stay_inside(at in 0usize..3072, byte: u8, cut in 0usize..4096) {
            let mut bytes = archive();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len() - cut % bytes.len());
            if let Ok((_, index)) = read(&bytes) {
                for entry in index.entries() {
                    let inside = entry.path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."));
                    proptest::prop_assert!(inside, "{:?}", entry.path);
                }
            }
        }
    }
}
