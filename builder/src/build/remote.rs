//! ADD of what lies elsewhere: URLs and git repositories are fetched into unnamed files and into
//! directories of the step, which are gone when the layer is made. Their content is the cache key, as
//! for files of the context; with `--checksum` it is known before anything was fetched.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use oci::{Algorithm, Digest, Verifier};

use super::error::StepProblem;
use super::layers::unnamed_file;
use super::mounts::literal;
use super::room::Room;
use super::steps::Builder;
use crate::copy::{Context, Source};
use crate::layer::ContentHash;
use crate::plan::{CopySource, CopyStep};
use crate::remote::{Download, Git, GitSource, HttpSource, Seen, shown};
use crate::sandbox::Cancel;

/// Largest file that is fetched, in bytes.
const SIZE_LIMIT: u64 = 64 << 30;
/// The secret that is a password for git over http(s), as BuildKit names it.
const GIT_TOKEN: &str = "GIT_AUTH_TOKEN";

/// What was fetched for a step, by the number of its source.
#[derive(Default)]
pub(super) struct Fetched {
    downloads: BTreeMap<usize, Download>,
    patterns: BTreeMap<usize, String>,
    trees: BTreeMap<usize, PathBuf>,
    rooms: Vec<Room>,
}

impl Fetched {
    /// A file that was fetched.
    pub fn download(&self, number: usize) -> Result<&dyn Source, StepProblem> {
        Ok(self.downloads.get(&number).ok_or_else(lost)?)
    }

    /// Whether all that was asked for has come.
    pub fn is_whole(&self) -> bool {
        self.downloads.values().all(Download::has_content)
    }

    /// The pattern that means just this file.
    pub fn pattern(&self, number: usize) -> &[u8] {
        self.patterns.get(&number).map_or(b"", |pattern| pattern.as_bytes())
    }

    /// The repositories, open for copying.
    pub fn checkouts(&self) -> Result<BTreeMap<usize, Context<'_>>, StepProblem> {
        let open = |(number, path): (&usize, &PathBuf)| Ok((*number, Context::open(path, &(), None)?));
        self.trees.iter().map(open).collect()
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        for room in &self.rooms {
            if let Err(error) = room.remove() {
                tracing::debug!(%error, "a repository stays until the next build");
            }
        }
    }
}

/// Cannot be: everything that a step names is fetched before it is asked for.
pub(super) fn lost() -> StepProblem {
    StepProblem::Unsupported("a source that was not fetched".to_owned())
}

/// Fetches all remote sources of a step. With `unless_known`, files that did not change since an earlier build do not
/// come: what they were is known, which is enough to find what was made of them.
pub(super) fn fetch(builder: &Builder<'_>, step: &CopyStep, unless_known: bool) -> Result<Fetched, StepProblem> {
    let mut fetched = Fetched::default();
    if builder.dry && step.sources.iter().any(|source| !matches!(source, CopySource::Path(_))) {
        return Err(StepProblem::NotDone);
    }
    for (number, source) in step.sources.iter().enumerate() {
        match source {
            CopySource::Path(_) => {}
            CopySource::Http(source, archive) => {
                let known = if unless_known { builder.workshop.cache.seen(&source.url) } else { None };
                fetched.downloads.insert(number, download(builder, source, *archive, known.as_ref())?);
                fetched.patterns.insert(number, literal(&source.name));
            }
            CopySource::Git(source, keep) => {
                let room = Room::new(&builder.workshop.cache.work())?;
                let place = room.path().join("git");
                fetched.rooms.push(room);
                let disk = |source| StepProblem::Disk { doing: format!("making {}", place.display()), source };
                std::fs::create_dir(&place).map_err(disk)?;
                let git = Git {
                    ssh_agent: builder.request.run.ssh.get("default").cloned(),
                    token: builder.request.run.secrets.get(GIT_TOKEN).cloned(),
                };
                let checkout = git.fetch(source, &place, *keep, builder.workshop.cancel)?;
                fetched.trees.insert(number, checkout.directory);
            }
        }
    }
    Ok(fetched)
}

fn download(
    builder: &Builder<'_>,
    source: &HttpSource,
    archive: bool,
    known: Option<&Seen>,
) -> Result<Download, StepProblem> {
    let disk = |source| StepProblem::Disk { doing: "writing a temporary file".to_owned(), source };
    let file = unnamed_file(&builder.workshop.cache.work()).map_err(disk)?;
    let algorithm = source.checksum.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    let mut into = Incoming {
        file: &file,
        content: Verifier::sha256(),
        checked: Verifier::new(algorithm),
        cancel: builder.workshop.cancel.clone(),
    };
    let version = known.map(Seen::version).unwrap_or_default();
    let answer = builder.workshop.images.download(&source.url, &version, &mut into);
    builder.layers.check_cancelled()?;
    let answer = answer.map_err(|error| StepProblem::Download { url: shown(&source.url), source: error })?;
    let Some(answer) = answer else {
        let known = known.ok_or_else(lost)?; // nobody says "unchanged" of what is not known
        return Ok(Download::unchanged(&source.name, known, archive));
    };
    let Incoming { content, checked, .. } = into;
    let actual = checked.seal().digest();
    if let Some(expected) = source.checksum.filter(|expected| *expected != actual) {
        return Err(StepProblem::Checksum { url: shown(&source.url), expected, actual });
    }
    let content = ContentHash::sealed(content);
    let download = Download::new(&source.name, file, content, &answer, archive).map_err(disk)?;
    if let Some(seen) = download.seen(&answer.version) {
        builder.workshop.cache.remember_seen(&source.url, &seen)?;
    }
    Ok(download)
}

/// A file on its way in: hashed as it comes, stopped when it is too large or the build is.
struct Incoming<'a> {
    file: &'a std::fs::File,
    content: Verifier,
    checked: Verifier,
    cancel: Cancel,
}

impl Write for Incoming<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        if self.content.size() + bytes.len() as u64 > SIZE_LIMIT {
            return Err(io::Error::other(format!("it is larger than {SIZE_LIMIT} bytes")));
        }
        self.file.write_all(bytes)?;
        self.content.update(bytes);
        self.checked.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The key of a step all of whose sources are elsewhere and pinned to their content: it is known before
/// anything was fetched.
pub(super) fn pinned_key(builder: &Builder<'_>, below: &[&[u8]], step: &CopyStep) -> Option<Digest> {
    let is_whole = |commit: &str| commit.len() == 40 || commit.len() == 64;
    let is_pinned = |source: &CopySource| match source {
        CopySource::Path(_) => false,
        CopySource::Http(HttpSource { checksum, .. }, _) => checksum.is_some(),
        CopySource::Git(GitSource { commit, .. }, _) => commit.as_deref().is_some_and(is_whole),
    };
    if !step.inline.is_empty() || !step.sources.iter().all(is_pinned) {
        return None;
    }
    let mut sources = Verifier::sha256();
    for source in &step.sources {
        match source {
            CopySource::Path(path) => sources.update(path.as_bytes()),
            // The time of the file comes from its server, so the address counts as well.
            CopySource::Http(source, archive) => sources.update(format!("{source:?} {archive}").as_bytes()),
            CopySource::Git(source, keep) => sources.update(format!("{source:?} {keep}").as_bytes()),
        }
    }
    let mut key = builder.key_upon("pinned", below);
    key.copy(step, &sources.seal().digest());
    step.excludes.iter().for_each(|pattern| key.text(pattern));
    Some(key.finish())
}
