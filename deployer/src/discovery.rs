//! What a server said about its kinds, kept in a file between runs, as kubectl does. Who reads it takes nothing in
//! it for sure: a kind that is not in it, or an object that is not there, makes the caller ask the server anew.
//!
//! ```text
//! DIR/<sha256 of the server's URL>.json    mode 0600; {"format": 1, "server": …, "saved": seconds, "answers": {path: document}}
//! ```

use oci::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const FORMAT: u32 = 1;
/// How long answers are good for; kubectl has the same.
const LIFETIME: Duration = Duration::from_secs(6 * 3600);
/// Largest file that is read; a server with hundreds of custom kinds says about a megabyte.
const FILE_LIMIT: u64 = 16 << 20;

/// The place of one server's answers.
#[derive(Debug)]
pub(crate) struct Memory {
    path: PathBuf,
    server: String,
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    server: String,
    saved: u64,
    answers: BTreeMap<String, Value>,
}

impl Memory {
    pub(crate) fn new(directory: &Path, server: &str) -> Memory {
        let name = Digest::of(server.as_bytes()).to_string().replace(':', "-");
        Memory { path: directory.join(format!("{name}.json")), server: server.to_owned() }
    }

    /// What is remembered and still good; nothing if the file is missing, broken or old. It is a help and no duty.
    pub(crate) fn load(&self) -> BTreeMap<String, Value> {
        match self.read() {
            Ok(file) if file.format == FORMAT && file.server == self.server && is_fresh(file.saved) => file.answers,
            Ok(_) => BTreeMap::new(),
            Err(error) => {
                tracing::debug!(%error, path = %self.path.display(), "no remembered discovery");
                BTreeMap::new()
            }
        }
    }

    fn read(&self) -> io::Result<File> {
        let mut text = String::new();
        fs::File::open(&self.path)?.take(FILE_LIMIT).read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Replaces the file as a whole: a reader never sees half of one.
    pub(crate) fn save(&self, answers: &BTreeMap<String, Value>) {
        if let Err(error) = self.write(answers) {
            tracing::debug!(%error, path = %self.path.display(), "discovery cannot be remembered");
        }
    }

    fn write(&self, answers: &BTreeMap<String, Value>) -> io::Result<()> {
        let file = File { format: FORMAT, server: self.server.clone(), saved: now(), answers: answers.clone() };
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let new = self.path.with_extension(format!("{}.new", std::process::id()));
        let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
        let written = written.and_then(|mut open| open.write_all(serde_json::to_string(&file)?.as_bytes()));
        let renamed = written.and_then(|()| fs::rename(&new, &self.path));
        if renamed.is_err() {
            let _ = fs::remove_file(&new); // the first error is the one to tell
        }
        renamed
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What comes from the future was written by another clock: nobody knows how old it is.
fn is_fresh(saved: u64) -> bool {
    now().checked_sub(saved).is_some_and(|age| age < LIFETIME.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn answers_are_remembered_for_their_server_and_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::new(&directory.path().join("discovery"), "https://one:6443");
        assert!(memory.load().is_empty());
        let answers = BTreeMap::from([("/apis".to_owned(), json!({"groups": []}))]);
        memory.save(&answers);
        assert_eq!(memory.load(), answers);
        assert_eq!(fs::metadata(&memory.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(directory.path().join("discovery")).unwrap().permissions().mode() & 0o777, 0o700);

        let other = Memory { server: "https://two:6443".into(), path: memory.path.clone() };
        assert!(other.load().is_empty(), "another server, whatever the name of the file");
        let text = fs::read_to_string(&memory.path).unwrap();
        let mut file: Value = serde_json::from_str(&text).unwrap();
        for saved in [now() - LIFETIME.as_secs(), now() + 3600, 0] {
            file["saved"] = json!(saved);
            fs::write(&memory.path, file.to_string()).unwrap();
            assert!(memory.load().is_empty(), "{saved}");
        }
        for broken in ["", "{", "[]", "{\"format\": 2}"] {
            fs::write(&memory.path, broken).unwrap();
            assert!(memory.load().is_empty(), "{broken}");
        }
    }
}
