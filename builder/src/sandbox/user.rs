//! Who `USER u[:g]` is inside an image, by its /etc/passwd and /etc/group, with Docker's rules. Reads no files itself:
//! the caller hands in how to read one from the layers.

use std::io;

use serde::{Deserialize, Serialize};

/// The user database of an image is small; a larger file is no user database.
const FILE_LIMIT: usize = 16 << 20;

/// The identity of a process inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, without the primary one.
    pub groups: Vec<u32>,
    /// The home directory: `HOME` of the step unless the image sets another.
    pub home: String,
}

impl Credentials {
    /// Returns root without any lookup.
    pub fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new(), home: "/root".to_owned() }
    }
}

/// Why a USER cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name is neither a number nor in /etc/passwd.
    #[error("unable to find user {0}: no matching entries in /etc/passwd of the image")]
    NoUser(String),
    /// The name is neither a number nor in /etc/group.
    #[error("unable to find group {0}: no matching entries in /etc/group of the image")]
    NoGroup(String),
    /// Ids go from 0 to 2147483647.
    #[error("user or group id {0} is out of range 0..2147483647")]
    Range(String),
    /// A file is there but cannot be read.
    #[error("cannot read {path} of the image: {source}")]
    Read {
        /// The file.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The file is too large to be what its name says.
    #[error("{0} of the image is larger than 16 MiB")]
    TooLarge(&'static str),
}

/// Resolves `user` (`name`, `uid`, each with `:group` or `:gid`; empty is root) as `docker build` does.
///
/// `read` returns the content of an absolute path of the root file system, with symbolic links resolved inside of it,
/// or none if it does not exist.
///
/// # Errors
/// See [`UserError`].
pub fn resolve_user(user: &str, read: impl Fn(&str) -> io::Result<Option<Vec<u8>>>) -> Result<Credentials, UserError> {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    let name = if name.is_empty() { "0" } else { name };
    let passwd = load(&read, "/etc/passwd")?;
    let entry = lines(&passwd).map(Passwd::parse).find(|entry| entry.is(name));
    let mut found = match &entry {
        Some(entry) => Credentials { uid: entry.uid, gid: entry.gid, groups: Vec::new(), home: entry.home.to_owned() },
        None => unknown(number(name)?.ok_or_else(|| UserError::NoUser(name.to_owned()))?),
    };
    if found.home.is_empty() {
        found.home = "/".to_owned();
    }
    let file = load(&read, "/etc/group")?;
    if !group.is_empty() {
        found.gid = group_id(&file, group)?;
    } else if let Some(entry) = &entry {
        found.groups = lines(&file).map(Group::parse).filter(|g| g.has(entry.name)).map(|g| g.gid).collect();
    }
    Ok(found)
}

/// A uid that /etc/passwd does not name: group 0, and `/` as home, as runc does.
fn unknown(uid: u32) -> Credentials {
    Credentials { uid, gid: 0, groups: Vec::new(), home: "/".to_owned() }
}

fn group_id(file: &str, group: &str) -> Result<u32, UserError> {
    if let Some(gid) = number(group)? {
        return Ok(gid);
    }
    let found = lines(file).map(Group::parse).find(|entry| entry.name == group);
    found.map(|entry| entry.gid).ok_or_else(|| UserError::NoGroup(group.to_owned()))
}

fn load(read: &impl Fn(&str) -> io::Result<Option<Vec<u8>>>, path: &'static str) -> Result<String, UserError> {
    let bytes = read(path).map_err(|source| UserError::Read { path, source })?.unwrap_or_default();
    if bytes.len() > FILE_LIMIT {
        return Err(UserError::TooLarge(path));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads a name that is all digits as an id.
fn number(name: &str) -> Result<Option<u32>, UserError> {
    if !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match name.parse::<u32>() {
        Ok(id) if id <= i32::MAX as u32 => Ok(Some(id)),
        _ => Err(UserError::Range(name.to_owned())),
    }
}

fn lines(file: &str) -> impl Iterator<Item = &str> {
    file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// A line of /etc/passwd; missing or broken fields are empty or 0, as in Docker.
struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Passwd<'a> {
    fn parse(line: &'a str) -> Self {
        let mut fields = line.split(':');
        let mut next = || fields.next().unwrap_or_default();
        let (name, _password, uid, gid, _comment, home) = (next(), next(), next(), next(), next(), next());
        Self { name, uid: uid.parse().unwrap_or(0), gid: gid.parse().unwrap_or(0), home }
    }

    fn is(&self, wanted: &str) -> bool {
        match wanted.parse::<u32>() {
            Ok(uid) => self.uid == uid,
            Err(_) => self.name == wanted,
        }
    }
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Self {
        let mut fields = line.split(':');
        let mut next = || fields.next().unwrap_or_default();
        let (name, _password, gid, members) = (next(), next(), next(), next());
        Self { name, gid: gid.parse().unwrap_or(0), members }
    }

    fn has(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\nweb:x:33:33::/var/www:/bin/false\nnohome:x:40:41\nbroken\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nlog:x:44:web,root\nadm:x:45: web\n";

    fn resolve(user: &str) -> Result<Credentials, UserError> {
        resolve_user(user, |path| {
            Ok(Some(match path {
                "/etc/passwd" => PASSWD.into(),
                "/etc/group" => GROUP.into(),
                _ => return Ok(None),
            }))
        })
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let table: &[(&str, u32, u32, &[u32], &str)] = &[
            ("", 0, 0, &[44], "/root"),
            ("root", 0, 0, &[44], "/root"),
            ("web", 33, 33, &[44, 45], "/var/www"),
            ("33", 33, 33, &[44, 45], "/var/www"),
            ("web:log", 33, 44, &[], "/var/www"),
            ("web:7", 33, 7, &[], "/var/www"),
            ("33:0", 33, 0, &[], "/var/www"),
            ("1000", 1000, 0, &[], "/"),
            ("1000:log", 1000, 44, &[], "/"),
            ("nohome", 40, 41, &[], "/"),
            (":44", 0, 44, &[], "/root"),
        ];
        for &(user, uid, gid, groups, home) in table {
            let wanted = Credentials { uid, gid, groups: groups.to_vec(), home: home.to_owned() };
            assert_eq!(resolve(user).unwrap(), wanted, "USER {user}");
        }
    }

    #[test]
    fn unknown_names_and_large_numbers_are_errors() {
        assert!(matches!(resolve("nobody"), Err(UserError::NoUser(name)) if name == "nobody"));
        assert!(matches!(resolve("web:nogroup"), Err(UserError::NoGroup(name)) if name == "nogroup"));
        assert!(matches!(resolve("4294967295"), Err(UserError::Range(_))));
        assert!(matches!(resolve("99999999999999999999"), Err(UserError::Range(_))));
    }

    #[test]
    fn images_without_files_know_numbers_only() {
        let none = |_: &str| Ok(None);
        assert_eq!(resolve_user("", none).unwrap(), Credentials { home: "/".into(), ..Credentials::root() });
        assert_eq!(resolve_user("5:6", none).unwrap().gid, 6);
        assert!(matches!(resolve_user("web", none), Err(UserError::NoUser(_))));
    }

    #[test]
    fn unreadable_and_huge_files_are_errors() {
        let denied = |_: &str| Err(io::Error::from_raw_os_error(libc::EACCES));
        assert!(matches!(resolve_user("0", denied), Err(UserError::Read { path: "/etc/passwd", .. })));
        let huge = |_: &str| Ok(Some(vec![b'x'; FILE_LIMIT + 1]));
        assert!(matches!(resolve_user("0", huge), Err(UserError::TooLarge("/etc/passwd"))));
    }
}
