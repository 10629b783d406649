//! Sources that lie elsewhere: files behind URLs and git repositories. What a text means is decided here,
//! and a repository is fetched with the `git` program; HTTP is spoken by whoever gives the build its images.
//!
//! ```text
//! source    `https://host/repository.git#ref:directory` and its relatives, as values
//! git       a repository -> a directory, with a git that is told nothing of this machine
//! download  a file that was fetched, as a source of COPY
//! ```

mod download;
mod git;
mod source;

pub use download::{Answer, Download, Seen};
pub use git::shown;
pub use git::{Checkout, Error, Git};
pub(crate) use source::is_commit;
pub use source::{GitSource, HttpSource, InvalidSource, Place};
