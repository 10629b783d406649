//! A file that was fetched, as a source of COPY: its name, mode 0600, and the time that its server gave it.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use content::remote::Version;
use serde::{Deserialize, Serialize};

use crate::copy::{Error, Item, Source};
use crate::layer::entry::{ContentHash, Entry, Kind, show};
use crate::layer::spool::Spooled;

/// What a server said of a file, once all of it has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// `Last-Modified`, in seconds since 1970.
    pub modified: Option<i64>,
    /// `Content-Type`, without its parameters.
    pub media_type: Option<String>,
    /// What the server knows this version of the file by.
    pub version: Version,
}

impl Answer {
    /// Reads the headers as they came; what cannot be read was not said.
    pub fn new(version: Version, content_type: Option<&str>) -> Self {
        let media_type = content_type.and_then(|text| text.split(';').next()).map(|text| text.trim().to_lowercase());
        Self { modified: modified(&version), media_type, version }
    }
}

/// `Last-Modified`, in seconds since 1970.
fn modified(version: &Version) -> Option<i64> {
    let parse = |text: &str| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok();
    version.last_modified.as_deref().and_then(parse).map(|time| time.as_second())
}

/// A file that was fetched once: its server is asked whether it is still the same, and then nothing comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
    /// The content's SHA-256.
    pub content: [u8; 32],
    /// Its size in bytes.
    pub size: u64,
}

impl Seen {
    /// What to ask the server for.
    pub fn version(&self) -> Version {
        Version { etag: self.etag.clone(), last_modified: self.last_modified.clone() }
    }
}

/// A file that was fetched.
#[derive(Debug, Clone)]
pub struct Download {
    item: Item,
    /// The content; none if only what it is is known, because the server says that it is unchanged.
    file: Option<Arc<File>>,
    archive: bool,
}

impl Download {
    /// A file with this name, whose content is in `file` from its beginning. `archive` says whether ADD may
    /// extract it.
    pub fn new(name: &str, file: File, content: ContentHash, answer: &Answer, archive: bool) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let entry = Entry::new(name.as_bytes(), Kind::File { size, hash: content }, 0o600);
        let item = Item { entry: Entry { mtime: answer.modified.unwrap_or(0), ..entry }, inode: None };
        Ok(Self { item, file: Some(Arc::new(file)), archive })
    }

    /// A file that is still what it was when it was fetched: enough to find what was made of it.
    pub fn unchanged(name: &str, seen: &Seen, archive: bool) -> Self {
        let kind = Kind::File { size: seen.size, hash: ContentHash(seen.content) };
        let mtime = modified(&seen.version()).unwrap_or(0);
        let item = Item { entry: Entry { mtime, ..Entry::new(name.as_bytes(), kind, 0o600) }, inode: None };
        Self { item, file: None, archive }
    }

    /// Whether its content has come.
    pub fn has_content(&self) -> bool {
        self.file.is_some()
    }

    /// What to remember of it.
    pub fn seen(&self, version: &Version) -> Option<Seen> {
        let Kind::File { size, hash } = self.item.entry.kind else { return None };
        let Version { etag, last_modified } = version.clone();
        version.is_known().then_some(Seen { etag, last_modified, content: hash.0, size })
    }

    fn named(&self, path: &[u8]) -> Option<&Item> {
        (path == self.item.entry.path).then_some(&self.item)
    }
}

impl Source for Download {
    fn lstat(&self, path: &[u8]) -> Result<Option<Item>, Error> {
        if path.is_empty() {
            return Ok(Some(Item { entry: Entry::new(b"", Kind::Directory, 0o755), inode: None }));
        }
        Ok(self.named(path).cloned())
    }

    fn read_dir(&self, dir: &[u8]) -> Result<Vec<Item>, Error> {
        Ok(if dir.is_empty() { vec![self.item.clone()] } else { Vec::new() })
    }

    fn open(&self, item: &Item) -> Result<Box<dyn Read + '_>, Error> {
        let named = self.named(&item.entry.path).ok_or_else(|| Error::NotFound(show(&item.entry.path)))?;
        let file = self.file.clone().ok_or_else(|| Error::NotFound(show(&item.entry.path)))?;
        Ok(Box::new(Spooled::new(file, 0, named.entry.size())))
    }

    fn hash(&self, item: &Item) -> Result<ContentHash, Error> {
        match self.named(&item.entry.path).map(|item| &item.entry.kind) {
            Some(Kind::File { hash, .. }) => Ok(*hash),
            _ => Err(Error::NotFound(show(&item.entry.path))),
        }
    }

    fn holds_archives(&self) -> bool {
        self.archive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_far_as_they_make_sense() {
        let version = |text: &str| Version { etag: None, last_modified: Some(text.to_owned()) };
        let answer = Answer::new(version("Wed, 21 Oct 2015 07:28:00 GMT"), Some("Text/Plain; charset=utf-8"));
        assert_eq!((answer.modified, answer.media_type.as_deref()), (Some(1_445_412_480), Some("text/plain")));
        assert_eq!(Answer::new(version("yesterday"), None).modified, None);
    }
}
