//! Files that are read again when they change, so that a running server follows its operator. What is
//! in them is the business of whoever reads them.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Something made from files. When one of them changes, it is made anew at its next use; while that
/// fails, the old one stays.
pub(crate) struct Watched<T> {
    paths: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, ReadError> + Send + Sync>,
    state: RwLock<(Vec<Stamp>, Arc<T>)>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system does not give it.
    #[error("could not read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It does not hold what it should.
    #[error("{} is not as it should be: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What tells two states of a file apart without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Absent,
    Present { modified: (i64, i64), changed: (i64, i64), size: u64, inode: u64 },
}

impl Stamp {
    fn of(path: &Path) -> Self {
        std::fs::metadata(path).map_or(Self::Absent, |metadata: Metadata| Self::Present {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
            inode: metadata.ino(),
        })
    }
}

impl<T> Watched<T> {
    /// Makes it for the first time.
    pub(crate) fn new(
        paths: Vec<PathBuf>,
        make: impl Fn() -> Result<T, ReadError> + Send + Sync + 'static,
    ) -> Result<Self, ReadError> {
        let stamps = paths.iter().map(|path| Stamp::of(path)).collect();
        let value = Arc::new(make()?);
        Ok(Self { paths, make: Box::new(make), state: RwLock::new((stamps, value)) })
    }

    /// As the files are now. Costs a `stat` for each.
    pub(crate) fn current(&self) -> Arc<T> {
        let stamps: Vec<Stamp> = self.paths.iter().map(|path| Stamp::of(path)).collect();
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if state.0 == stamps {
                return state.1.clone();
            }
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.0 != stamps {
            // Taken before reading: a change in between is seen by the next look.
            state.0 = stamps;
            match (self.make)() {
                Ok(value) => {
                    tracing::info!(files = ?self.paths, "read again");
                    state.1 = Arc::new(value);
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "a changed file cannot be used; what was read before stays");
                }
            }
        }
        state.1.clone()
    }
}

/// Reads a whole file of bounded size.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    use std::io::Read;
    let failed = |source| ReadError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(ReadError::Content { path: path.to_owned(), reason: format!("it has more than {limit} bytes") });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        let put = |text: &str| {
            let aside = dir.path().join("aside"); // a new inode each time, as editors make it
            std::fs::write(&aside, text).unwrap();
            std::fs::rename(&aside, &path).unwrap();
        };
        put("1");
        let from = path.clone();
        let make = move || {
            let text = String::from_utf8(read(&from, 10)?).unwrap();
            text.parse::<u32>().map_err(|error| ReadError::Content { path: from.clone(), reason: error.to_string() })
        };
        let watched = Watched::new(vec![path.clone()], make).unwrap();
        assert_eq!(*watched.current(), 1);
        put("2");
        assert_eq!(*watched.current(), 2);
        put("two");
        assert_eq!(*watched.current(), 2);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*watched.current(), 2);
        put("3");
        assert_eq!(*watched.current(), 3);
        put("33333333333");
        assert_eq!(*watched.current(), 3, "larger than the limit");
    }
}
