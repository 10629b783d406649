//! A build context that is a tar: read once, from any stream, into a temporary file without a name. It is
//! never unpacked, so nothing that it says can lead anywhere.

use std::io::{self, Read};
use std::path::Path;

use super::layers::unnamed_file;
use crate::copy::{Contents, Stage};
use crate::layer::View;
use crate::layer::read::{self, Limits};
use crate::layer::spool::{self, Spool};
use crate::sandbox::Cancel;

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TarballError {
    /// The archive is damaged, or refused.
    #[error(transparent)]
    Archive(#[from] read::Error),
    /// The temporary file could not be written.
    #[error("cannot write a temporary file: {0}")]
    Write(#[source] io::Error),
    /// Somebody stopped it.
    #[error("cancelled")]
    Cancelled,
}

/// A tar and what it shows.
#[derive(Debug)]
pub struct Tarball {
    name: String,
    view: View,
    spool: Spool,
}

impl Tarball {
    /// Reads a tar to its end, whatever it is compressed with. `scratch` is a directory with room for what
    /// it holds; `name` is what people know it by.
    pub fn read(archive: impl Read, name: &str, scratch: &Path, cancel: &Cancel) -> Result<Self, TarballError> {
        let file = unnamed_file(scratch).map_err(TarballError::Write)?;
        let each = |_: &_| if cancel.is_cancelled() { Err(()) } else { Ok(()) };
        let read = Spool::read_archive(archive, file, Limits::default(), each);
        let (spool, index) = read.map_err(|error| match error {
            spool::Error::Layer(error) => TarballError::Archive(error),
            spool::Error::Write(error) => TarballError::Write(error),
            spool::Error::Stopped(()) => TarballError::Cancelled,
        })?;
        Ok(Self { name: name.to_owned(), view: View::of([&index]), spool })
    }

    /// A context without any files.
    pub fn empty(scratch: &Path) -> io::Result<Self> {
        let (view, spool) = (View::empty(), Spool::empty(unnamed_file(scratch)?));
        Ok(Self { name: "an empty context".to_owned(), view, spool })
    }

    /// What people know it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tree, for copying from it.
    pub fn stage(&self) -> Stage<'_> {
        Stage::new(&self.view, self)
    }

    /// A whole small file, links followed; `None` if there is none.
    pub fn file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, crate::copy::Error> {
        self.stage().read(path.as_bytes(), limit)
    }
}

impl Contents for Tarball {
    fn open(&self, _: usize, path: &[u8]) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.spool.open(path).ok_or(io::ErrorKind::NotFound)?))
    }
}
