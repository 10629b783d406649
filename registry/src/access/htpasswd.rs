//! Users and passwords, as `htpasswd -B` writes them. Only bcrypt is taken: everything else in such
//! files is broken or plain.
//!
//! bcrypt is slow on purpose, 50 ms and more, and clients send the password with every request or
//! token. So passwords that were found right are remembered, as keyed hashes and only until the file
//! changes; and no more than a few are checked at the same time, so that guessing costs the guesser.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Semaphore;

use super::remembered::Remembered;
use crate::watched::{ReadError, Watched, read};

/// Largest file, in bytes.
const FILE_LIMIT: u64 = 16 << 20;
/// Highest bcrypt cost: 2^16 rounds take about four seconds.
const COST_LIMIT: u32 = 16;
/// Longest password that is looked at, in bytes. bcrypt itself reads 72 of them.
const PASSWORD_LIMIT: usize = 4 << 10;
/// How many passwords are remembered, at least.
const REMEMBERED: usize = 2048;
/// How many passwords are checked at the same time; the others wait.
const AT_ONCE: usize = 2;

/// The users of a file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Users {
    hashes: HashMap<String, String>,
    /// A hash that no password has, as costly as the costliest: checking it hides that a user is unknown.
    decoy: String,
}

/// A file of users that is read again when it changes.
pub(crate) struct Htpasswd {
    users: Watched<Users>,
    key: hmac::Key,
    right: Remembered<[u8; 32], ()>,
    slots: Arc<Semaphore>,
}

impl Htpasswd {
    pub(crate) fn open(path: &Path) -> Result<Self, ReadError> {
        let from: PathBuf = path.to_owned();
        let make = move || {
            let bytes = read(&from, FILE_LIMIT)?;
            parse(&bytes).map_err(|reason| ReadError::Content { path: from.clone(), reason })
        };
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).expect("the kernel gives random bytes");
        Ok(Self {
            users: Watched::new(vec![path.to_owned()], make)?,
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            right: Remembered::new(REMEMBERED),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    /// Whether there still is such a user.
    pub(crate) fn knows(&self, user: &str) -> bool {
        self.users.current().hashes.contains_key(user)
    }

    /// Something that changes with the user's password, if there is such a user. It says nothing about
    /// the password: the hash that it is made from has a salt of 128 bits.
    pub(crate) fn stamp(&self, user: &str) -> Option<String> {
        let users = self.users.current();
        let hash = users.hashes.get(user)?;
        Some(super::hex(&ring::digest::digest(&ring::digest::SHA256, hash.as_bytes()).as_ref()[..16]))
    }

    /// Whether this is the user's password. Takes as long for users that do not exist.
    pub(crate) async fn is_right(&self, user: &str, password: &str) -> bool {
        if password.len() > PASSWORD_LIMIT {
            return false;
        }
        let users = self.users.current();
        let (hash, known) = match users.hashes.get(user) {
            Some(hash) => (hash.clone(), true),
            None => (users.decoy.clone(), false),
        };
        // The hash is part of what is remembered: a new password makes the old one unknown.
        let key = self.fingerprint(&[user, password, &hash]);
        if known && self.right.get(&key).is_some() {
            return true;
        }
        let Ok(_slot) = self.slots.acquire().await else { return false }; // never closed
        let password = password.to_owned();
        let checked = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await;
        let is_right = checked.unwrap_or(false) && known;
        if is_right {
            self.right.insert(key, ());
        }
        is_right
    }

    fn fingerprint(&self, parts: &[&str]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

fn parse(bytes: &[u8]) -> Result<Users, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let mut users = Users::default();
    let mut highest = 5;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("line {}: {what}", number + 1);
        let (user, hash) = line.split_once(':').ok_or_else(|| wrong("there is no `:` between user and hash"))?;
        if user.is_empty() || user.chars().any(char::is_control) {
            return Err(wrong("this is no user name"));
        }
        let cost = cost(hash).ok_or_else(|| wrong("the hash is not bcrypt; make it with `htpasswd -B`"))?;
        if cost > COST_LIMIT {
            return Err(wrong(&format!("a bcrypt cost above {COST_LIMIT} would stop the registry at each login")));
        }
        highest = highest.max(cost);
        if users.hashes.insert(user.to_owned(), hash.to_owned()).is_some() {
            return Err(wrong("this user is there twice"));
        }
    }
    // 22 characters of salt and 31 of a hash that nothing is known to have.
    users.decoy = format!("$2b${highest:02}${}{}", "lighterRegistryDecoyxe", ".".repeat(31));
    Ok(users)
}

/// The cost of `$2y$10$` and 53 characters of salt and hash.
fn cost(hash: &str) -> Option<u32> {
    let mut parts = hash.split('$');
    let (before, version, cost, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    let good = before.is_empty()
        && matches!(version, "2a" | "2b" | "2x" | "2y")
        && parts.next().is_none()
        && rest.len() == 53
        && rest.bytes().all(is_base64);
    (good && cost.len() == 2).then(|| cost.parse().ok())?.filter(|cost| (4..=31).contains(cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(password: &str) -> String {
        bcrypt::hash(password, 4).unwrap()
    }

    #[tokio::test]
    async fn passwords_are_checked_and_the_file_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, format!("# users\nalice:{}\n\nbob:{}\n", hash("a"), hash("b"))).unwrap();
        let users = Htpasswd::open(&path).unwrap();
        for _ in 0..2 {
            assert!(users.is_right("alice", "a").await);
            assert!(!users.is_right("alice", "b").await);
            assert!(!users.is_right("alice", "").await);
            assert!(!users.is_right("carol", "a").await);
            assert!(!users.is_right("", "").await);
        }
        assert!(!users.is_right("alice", &"a".repeat(PASSWORD_LIMIT + 1)).await);
        let changed = format!("alice:{}\n", hash("new"));
        content::place::replace_file(&path, changed.as_bytes()).unwrap();
        assert!(!users.is_right("alice", "a").await, "a remembered password goes with its hash");
        assert!(users.is_right("alice", "new").await);
        assert!(!users.knows("bob") && users.knows("alice"));
        content::place::replace_file(&path, b"alice:broken").unwrap();
        assert!(users.is_right("alice", "new").await, "a broken file is not taken");
    }

    #[test]
    fn files_that_are_refused() {
        let good = hash("x");
        for (text, reason) in [
            ("alice", "line 1: there is no `:`"),
            (&format!("\n:{good}"), "line 2: this is no user name"),
            ("a:plain", "not bcrypt"),
            ("a:$apr1$x$y", "not bcrypt"),
            ("a:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "not bcrypt"),
            (&format!("a:{}", good.replace("$04$", "$31$")), "cost above"),
            (&format!("a:{}", good.replace("$04$", "$03$")), "not bcrypt"),
            (&format!("a:{good}\na:{good}"), "twice"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(parse(&[0xff]).is_err());
        assert!(parse(b"").unwrap().hashes.is_empty());
    }

    #[test]
    fn the_decoy_costs_as_much_as_the_costliest_and_fits_nobody() {
        let users = parse(format!("a:{}", hash("x")).as_bytes()).unwrap();
        assert_eq!(cost(&users.decoy), Some(5));
        assert_eq!(bcrypt::verify("x", &users.decoy).ok(), Some(false), "it is checked to the end");
    }

    proptest::proptest! {
        #[test]
        fn no_file_panics(text: String, user in "[a-z]{1,4}", hash in "\\$2[aby]\\$[0-9]{2}\\$[./A-Za-z0-9]{50,56}") {
            let _ = parse(text.as_bytes()); // only whether it returns matters here
            let _ = parse(format!("{user}:{hash}").as_bytes());
        }
    }
}
