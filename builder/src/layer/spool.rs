//! The contents of one layer in a temporary file, so that they can be read in any order: a blob can only
//! be read from its beginning. For steps that copy from a layer which nobody unpacked.

use super::entry::{Entry, Kind};
use super::read::{self, Limits, Names, Reader};
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
    /// Reads a layer to its end into an empty file. `each` is called for every entry and may stop it.
    pub fn read<E>(
        blob: impl Read,
        file: File,
        limits: Limits,
        mut each: impl FnMut(&Entry) -> Result<(), E>,
    ) -> Result<Self, Error<E>> {
        let mut reader = Reader::open(blob, Names::Layer, limits)?;
        let mut spool = Self { file: Arc::new(file), places: HashMap::new() };
        let mut end = 0;
        while let Some(entry) = reader.next_entry()? {
            each(&entry).map_err(Error::Stopped)?;
            match &entry.kind {
                Kind::File { size, .. } => {
                    spool.append(&mut reader)?;
                    spool.places.insert(entry.path, (end, end + size));
                    end += size;
                }
                // The file as it is now: its first name may be replaced later. In a view every name of a
                // file can be the one that stands for all of them.
                Kind::Hardlink(target) => {
                    if let Some(&place) = spool.places.get(target) {
                        spool.places.insert(entry.path, place);
                    }
                }
                _ => {}
            }
        }
        Ok(spool)
    }

    fn append<E>(&self, content: &mut impl Read) -> Result<(), Error<E>> {
        let mut chunk = [0; 64 << 10];
        loop {
            let got = content.read(&mut chunk).map_err(read::Error::from)?;
            if got == 0 {
                return Ok(());
            }
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
