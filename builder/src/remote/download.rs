//! A file that was fetched, as a source of COPY: its name, mode 0600, and the time that its server gave it.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

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
}

impl Answer {
    /// Reads the headers as they came; what cannot be read was not said.
    pub fn new(last_modified: Option<&str>, content_type: Option<&str>) -> Self {
        let parse = |text: &str| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok();
        let media_type = content_type.and_then(|text| text.split(';').next()).map(|text| text.trim().to_lowercase());
        Self { modified: last_modified.and_then(parse).map(|time| time.as_second()), media_type }
    }
}

/// A file that was fetched.
#[derive(Debug, Clone)]
pub struct Download {
    item: Item,
    file: Arc<File>,
    archive: bool,
}

impl Download {
    /// A file with this name, whose content is in `file` from its beginning. `archive` says whether ADD may
    /// extract it.
    pub fn new(name: &str, file: File, content: ContentHash, answer: &Answer, archive: bool) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let entry = Entry::new(name.as_bytes(), Kind::File { size, hash: content }, 0o600);
        let item = Item { entry: Entry { mtime: answer.modified.unwrap_or(0), ..entry }, inode: None };
        Ok(Self { item, file: Arc::new(file), archive })
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
        Ok(Box::new(Spooled::new(self.file.clone(), 0, named.entry.size())))
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
        let answer = Answer::new(Some("Wed, 21 Oct 2015 07:28:00 GMT"), Some("Text/Plain; charset=utf-8"));
        assert_eq!(answer, Answer { modified: Some(1_445_412_480), media_type: Some("text/plain".into()) });
        assert_eq!(Answer::new(Some("yesterday"), None), Answer::default());
    }
}
