//! Robot tokens: passwords for programs, made by us. Random, shown once, kept as hashes, with an end
//! and a way to end them earlier.
//!
//! ```text
//! data/access/
//! ├── robots.json    names, hashes, rights, ends; read again by a running registry when it changes
//! └── robots.lock    held by the one command that changes it
//! ```
//!
//! A token is `lgt_ID_SECRET`. Its secret has 256 random bits, so a plain SHA-256 keeps it safe: there
//! is nothing to guess as there is with a password.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use content::place::replace_secret_file;
use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::policy::{Right, Rule, Subject};
use crate::pattern::Pattern;
use crate::watched::{ReadError, Watched, read};

/// What every token starts with, so that people and scanners of secrets recognise one.
const PREFIX: &str = "lgt_";
/// Largest file, in bytes: some ten thousand robots.
const FILE_LIMIT: u64 = 16 << 20;
const FORMAT: &str = "lighter robots 1";

/// A robot as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Robot {
    /// Which token this is.
    pub id: String,
    /// What rules and logs call it; several tokens may have one name.
    pub name: String,
    /// SHA-256 of the secret, in hex.
    hash: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Where its own rights hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<Pattern>,
    /// What it may do there, beside what rules for `robot:NAME` allow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rights: Vec<Right>,
}

impl Robot {
    fn rules(&self) -> Vec<Rule> {
        vec![Rule {
            subjects: vec![Subject::Robot(Some(self.name.clone()))],
            claims: Default::default(),
            repositories: self.repositories.clone(),
            tags: Vec::new(),
            rights: self.rights.clone(),
        }]
    }

    /// Whether its end has come.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    format: String,
    robots: Vec<Robot>,
}

/// What a new robot is to be.
#[derive(Debug, Clone)]
pub struct NewRobot {
    /// Its name: letters, digits and `. _ -`.
    pub name: String,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// Where it may do something.
    pub repositories: Vec<Pattern>,
    /// What it may do there.
    pub rights: Vec<Right>,
}

/// Why robots cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RobotError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file cannot be written.
    #[error("could not write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The name is none.
    #[error("{0:?} is no name for a robot: use up to 64 letters, digits and . _ -")]
    Name(String),
    /// A pattern speaks of claims.
    #[error("the pattern {0} would never match: a robot's token has no claims; write what the claim stands for")]
    Claims(Pattern),
    /// No token has this id or name.
    #[error("there is no robot token {0:?}")]
    Unknown(String),
}

/// The robots of a data directory, as commands change them.
#[derive(Debug, Clone)]
pub struct RobotFile {
    directory: PathBuf,
}

impl RobotFile {
    /// The file of a registry's data directory, which need not exist yet.
    pub fn of(data: &Path) -> Self {
        Self { directory: super::directory(data) }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("robots.json")
    }

    /// All robots, the oldest first; also those whose end has come.
    pub fn list(&self) -> Result<Vec<Robot>, RobotError> {
        Ok(load(&self.path())?)
    }

    /// Makes a robot, and gives its token: the only time that anybody sees it.
    pub fn create(&self, new: NewRobot, now: Timestamp) -> Result<(Robot, String), RobotError> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if new.name.is_empty() || new.name.len() > 64 || !new.name.bytes().all(is_good) {
            return Err(RobotError::Name(new.name));
        }
        if let Some(pattern) = new.repositories.iter().find(|pattern| pattern.claims().next().is_some()) {
            return Err(RobotError::Claims(pattern.clone()));
        }
        let (mut id, mut secret) = ([0; 8], [0; 32]);
        let random = SystemRandom::new();
        random.fill(&mut id).and_then(|()| random.fill(&mut secret)).expect("the kernel gives random bytes");
        let id = hex(&id);
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let robot = Robot {
            id: id.clone(),
            name: new.name,
            hash: hash(&secret),
            created: now,
            expires: new.expires,
            repositories: new.repositories,
            rights: new.rights,
        };
        let kept = robot.clone();
        self.change(|robots| {
            robots.push(kept);
            Ok(())
        })?;
        Ok((robot, format!("{PREFIX}{id}_{secret}")))
    }

    /// Ends the token with this id, or all with this name; says which.
    pub fn revoke(&self, which: &str) -> Result<Vec<Robot>, RobotError> {
        self.change(|robots| {
            let (gone, left) =
                std::mem::take(robots).into_iter().partition(|robot| robot.id == which || robot.name == which);
            *robots = left;
            let gone: Vec<Robot> = gone;
            if gone.is_empty() { Err(RobotError::Unknown(which.to_owned())) } else { Ok(gone) }
        })
    }

    /// Changes the file while no other command does.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<Robot>) -> Result<T, RobotError>) -> Result<T, RobotError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| RobotError::Write { path, source }
        };
        make_directory(&self.directory).map_err(failed(&self.directory))?;
        let lock = self.directory.join("robots.lock");
        let held = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock);
        let held = held.map_err(failed(&lock))?;
        flock(&held, FlockOperation::LockExclusive).map_err(|error| failed(&lock)(error.into()))?;
        let path = self.path();
        let mut robots = load(&path)?;
        let result = change(&mut robots)?;
        let file = File { format: FORMAT.to_owned(), robots };
        let text = serde_json::to_vec_pretty(&file).expect("robots hold only strings and times");
        replace_secret_file(&path, &text).map_err(failed(&path))?;
        Ok(result)
    }
}

/// Makes the directory for what concerns access only; nobody else reads it.
pub(super) fn make_directory(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn load(path: &Path) -> Result<Vec<Robot>, ReadError> {
    let bytes = match read(path, FILE_LIMIT) {
        Err(ReadError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    let wrong = |reason: String| ReadError::Content { path: path.to_owned(), reason };
    let file: File = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    match file.format == FORMAT {
        true => Ok(file.robots),
        false => Err(wrong(format!("its format is {:?}, not {FORMAT:?}", file.format))),
    }
}

/// The robots as a running registry knows them.
pub(crate) struct Robots(Watched<Vec<Robot>>);

impl Robots {
    pub(crate) fn open(data: &Path) -> Result<Self, ReadError> {
        let path = RobotFile::of(data).path();
        let from = path.clone();
        Ok(Self(Watched::new(vec![path], move || load(&from))?))
    }

    /// Who this token belongs to; `None` if it is none, ended, or was ended.
    pub(crate) fn identify(&self, token: &str, now: Timestamp) -> Option<Identity> {
        let (id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
        let robots = self.0.current();
        let robot = robots.iter().find(|robot| robot.id == id)?;
        let (given, kept) = (hash(secret), robot.hash.as_bytes());
        let same = given.len() == kept.len() && is_same(given.as_bytes(), kept);
        (same && !robot.is_expired(now)).then(|| identity(robot))
    }

    /// The robot of this id as it is now.
    pub(crate) fn by_id(&self, id: &str, now: Timestamp) -> Option<Identity> {
        let robots = self.0.current();
        robots.iter().find(|robot| robot.id == id && !robot.is_expired(now)).map(identity)
    }
}

fn identity(robot: &Robot) -> Identity {
    Identity::Robot { id: robot.id.clone(), name: robot.name.clone(), rules: Arc::from(robot.rules()) }
}

/// Whether a password has the form of a robot token.
pub(crate) fn looks_like_robot(password: &str) -> bool {
    password.starts_with(PREFIX)
}

/// Compares without telling by time where the first difference is.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.iter().zip(other).fold(one.len() ^ other.len(), |all, (a, b)| all | usize::from(a ^ b)) == 0
}

fn hash(secret: &str) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, secret.as_bytes()).as_ref())
}

/// Bytes in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn new(name: &str, expires: Option<Timestamp>) -> NewRobot {
        let repositories = vec!["shop/**".parse().unwrap()];
        NewRobot { name: name.to_owned(), expires, repositories, rights: vec![Right::Pull] }
    }

    #[test]
    fn a_token_works_until_it_expires_or_is_revoked() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = RobotFile::of(dir.path());
        let robots = Robots::open(dir.path()).unwrap();
        let (robot, token) = file.create(new("ci", Some(at(100))), at(0)).unwrap();
        let (_, other) = file.create(new("ci", None), at(0)).unwrap();
        let named = |token: &str, now| robots.identify(token, at(now)).map(|identity| identity.to_string());
        assert_eq!(named(&token, 99).as_deref(), Some("robot:ci"));
        assert_eq!(named(&token, 100), None);
        assert_eq!(named(&other, 1000).as_deref(), Some("robot:ci"));
        assert_eq!(file.revoke(&robot.id).unwrap(), std::slice::from_ref(&robot));
        assert_eq!(named(&token, 1), None);
        assert!(robots.by_id(&robot.id, at(1)).is_none());
        assert_eq!(file.revoke("ci").unwrap().len(), 1);
        assert_eq!(named(&other, 1), None);
        assert!(matches!(file.revoke("ci"), Err(RobotError::Unknown(_))));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file.path()), mode(&file.directory)), (0o600, 0o700));
        assert!(!std::fs::read_to_string(file.path()).unwrap().contains(&token[20..]), "the secret is not kept");
    }

    #[test]
    fn what_is_nearly_a_token_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (robot, token) = RobotFile::of(dir.path()).create(new("ci", None), at(0)).unwrap();
        let robots = Robots::open(dir.path()).unwrap();
        assert!(robots.identify(&token, at(0)).is_some());
        let id = &robot.id;
        for text in [
            "",
            "lgt_",
            "lgt__",
            &token[..token.len() - 1],
            &format!("{token}x"),
            &token[1..],
            &format!("lgt_{id}_"),
            &format!("lgt_{id}"),
            &format!("lgt_{id}_{}", robot.hash),
            &token.to_uppercase(),
        ] {
            assert!(robots.identify(text, at(0)).is_none(), "{text}");
        }
        for name in ["", "a b", "a:b", "ä", "*", &"a".repeat(65)] {
            assert!(matches!(RobotFile::of(dir.path()).create(new(name, None), at(0)), Err(RobotError::Name(_))));
        }
        let claiming = NewRobot { repositories: vec!["{project_path}/**".parse().unwrap()], ..new("ci", None) };
        assert!(matches!(RobotFile::of(dir.path()).create(claiming, at(0)), Err(RobotError::Claims(_))));
    }

    proptest::proptest! {
        // Each case makes files that are forced to disk.
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

        #[test]
        fn no_text_is_taken(text: String, tail in "[A-Za-z0-9_-]{0,60}") {
            let dir = tempfile::tempdir().unwrap();
            let (robot, _) = RobotFile::of(dir.path()).create(new("ci", None), at(0)).unwrap();
            let robots = Robots::open(dir.path()).unwrap();
            for token in [text, format!("lgt_{tail}"), format!("lgt_{}_{tail}", robot.id)] {
                proptest::prop_assert!(robots.identify(&token, at(0)).is_none());
            }
        }
    }
}
