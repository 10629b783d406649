//! The value of `RUN --mount=…`: comma-separated fields, first as written, then with their variables
//! expanded. What a mount does is the sandbox's business.

use std::borrow::Cow;

use super::nearest;
use crate::ignore;

/// Why a `--mount` cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMount {
    /// A quote inside the value that is never closed or stands in the wrong place.
    #[error("the fields are not comma-separated values")]
    Fields,
    /// A field that needs a value.
    #[error("invalid field '{0}' must be a key=value pair")]
    NoValue(String),
    /// A field that does not exist.
    #[error("unexpected key '{key}'{}", meant.map(|meant| format!(" (did you mean {meant}?)")).unwrap_or_default())]
    UnknownKey {
        /// The key.
        key: String,
        /// What it may have been meant to be.
        meant: Option<&'static str>,
    },
    /// A field that this type of mount does not have.
    #[error("unexpected key '{key}' for mount type '{kind}'")]
    Misplaced {
        /// The key.
        key: String,
        /// The type of the mount.
        kind: &'static str,
    },
    /// A type that does not exist.
    #[error("unsupported mount type {0:?}; there are bind, cache, tmpfs, secret and ssh")]
    Kind(String),
    /// A value that cannot be read.
    #[error("invalid value for {key}: {value}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// A variable in `from`.
    #[error("'from' doesn't support variable expansion, define alias stage instead")]
    FromVariable,
    /// No target.
    #[error("a {0} mount needs a target")]
    NoTarget(&'static str),
    /// A secret with neither id, source nor target.
    #[error("invalid secret mount: one of id, source, target is needed")]
    Secret,
    /// Both `id` and `source`.
    #[error("both source and id can't be set")]
    SourceAndId,
}

/// What kind of thing is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory kept between builds.
    Cache,
    /// Memory.
    Tmpfs,
    /// A file that never reaches a layer.
    Secret,
    /// The SSH agent's socket.
    Ssh,
}

impl MountKind {
    /// As it is written after `type=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Everyone.
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

/// One `--mount`, its variables expanded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// The stage, image or named context it comes from; none means the build context.
    pub from: Option<String>,
    /// The path inside `from`.
    pub source: Option<String>,
    /// Where it is mounted; relative to the working directory.
    pub target: Option<String>,
    /// Whether it cannot be written to.
    pub read_only: bool,
    /// `id` of cache, secret and ssh.
    pub id: Option<String>,
    /// `sharing` of a cache.
    pub sharing: Option<Sharing>,
    /// Whether the step fails without it (secret, ssh).
    pub required: bool,
    /// Permission bits (cache, secret, ssh).
    pub mode: Option<u32>,
    /// Owner (cache, secret, ssh).
    pub uid: Option<u32>,
    /// Group (cache, secret, ssh).
    pub gid: Option<u32>,
    /// Size of a tmpfs in bytes.
    pub size: Option<u64>,
    /// The environment variable that gets a secret.
    pub env: Option<String>,
}

const KEYS: [&str; 18] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "size",
    "env",
];

/// Checks what can be checked before variables are known; gives the name in `from`.
pub(super) fn from_of(text: &str) -> Result<Option<String>, InvalidMount> {
    let mut from = None;
    for field in fields(text)? {
        if let Some((key, value)) = field.split_once('=')
            && key.eq_ignore_ascii_case("from")
        {
            if value.find('$').is_some_and(|at| at + 1 < value.len()) {
                return Err(InvalidMount::FromVariable);
            }
            from = Some(value.to_owned());
        }
    }
    Ok(from)
}

/// What stands behind the last slash, so that a name cannot lead elsewhere.
pub(crate) fn last_name(path: &str) -> &str {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if matches!(name, "" | "." | "..") { "secret" } else { name }
}

impl Mount {
    /// The name of a secret: `source`, `id`, or the last name of where it is mounted.
    pub fn secret_id(&self) -> &str {
        let named = [&self.source, &self.id].into_iter().flatten().find(|text| !text.is_empty());
        named.map_or_else(|| last_name(self.target.as_deref().unwrap_or_default()), String::as_str)
    }

    /// The name of a cache.
    pub fn cache_id(&self) -> Cow<'_, str> {
        match self.id.as_deref() {
            None | Some("") => ignore::clean(self.target.as_deref().unwrap_or_default()),
            Some(id) => Cow::Borrowed(id),
        }
    }

    /// The name of an SSH agent.
    pub fn ssh_id(&self) -> &str {
        self.id.as_deref().filter(|id| !id.is_empty()).unwrap_or("default")
    }

    /// Reads a mount, expanding each value with `expand`.
    pub fn parse<E: From<InvalidMount>>(
        text: &str,
        mut expand: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<Self, E> {
        let mut mount = Self::bind();
        let mut read_only = None;
        for field in fields(text)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(expand(value)?)),
                None => (field.to_lowercase(), None),
            };
            match (key.as_str(), value) {
                ("readonly" | "ro", value) => read_only = Some(flag(&key, value)?),
                ("readwrite" | "rw", value) => read_only = Some(!flag(&key, value)?),
                ("required", value) => mount.require(&key, value)?,
                (_, Some(value)) => mount.set(&key, value)?,
                (_, None) if KEYS.contains(&key.as_str()) => return Err(InvalidMount::NoValue(field).into()),
                (_, None) => return Err(unknown(key).into()),
            }
        }
        mount.read_only = read_only.unwrap_or(!matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
        mount.check()?;
        Ok(mount)
    }

    fn bind() -> Self {
        Self {
            kind: MountKind::Bind,
            from: None,
            source: None,
            target: None,
            read_only: true,
            id: None,
            sharing: None,
            required: false,
            mode: None,
            uid: None,
            gid: None,
            size: None,
            env: None,
        }
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), InvalidMount> {
        let wrong = |value: String| InvalidMount::Value { key: key.to_owned(), value };
        match key {
            "type" => self.kind = kind(value)?,
            "from" => self.from = Some(value),
            "source" | "src" => self.source = Some(value),
            "target" | "dst" | "destination" => self.target = Some(value),
            "id" => self.id = Some(value),
            "env" if self.kind == MountKind::Secret => self.env = Some(value),
            "env" => return Err(self.misplaced(key)),
            "sharing" => self.sharing = Some(sharing(value)?),
            "size" if self.kind == MountKind::Tmpfs => self.size = Some(size(&value).ok_or_else(|| wrong(value))?),
            "size" => return Err(self.misplaced(key)),
            "mode" => self.mode = Some(u32::from_str_radix(&value, 8).map_err(|_| wrong(value))?),
            "uid" => self.uid = Some(value.parse().map_err(|_| wrong(value))?),
            "gid" => self.gid = Some(value.parse().map_err(|_| wrong(value))?),
            _ => return Err(unknown(key.to_owned())),
        }
        Ok(())
    }

    fn require(&mut self, key: &str, value: Option<String>) -> Result<(), InvalidMount> {
        if !matches!(self.kind, MountKind::Secret | MountKind::Ssh) {
            return Err(self.misplaced(key));
        }
        self.required = flag(key, value)?;
        Ok(())
    }

    fn misplaced(&self, key: &str) -> InvalidMount {
        InvalidMount::Misplaced { key: key.to_owned(), kind: self.kind.as_str() }
    }

    fn check(&self) -> Result<(), InvalidMount> {
        if matches!(self.kind, MountKind::Bind | MountKind::Tmpfs) {
            for (key, given) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if given.is_some() {
                    return Err(self.misplaced(key));
                }
            }
            if self.target.as_deref().is_none_or(str::is_empty) {
                return Err(InvalidMount::NoTarget(self.kind.as_str()));
            }
        }
        if self.sharing.is_some() && self.kind != MountKind::Cache {
            return Err(self.misplaced("sharing"));
        }
        match self.kind {
            MountKind::Cache if self.target.as_deref().is_none_or(str::is_empty) => {
                Err(InvalidMount::NoTarget("cache"))
            }
            MountKind::Secret if self.from.is_some() => Err(self.misplaced("from")),
            MountKind::Secret if self.source.is_some() && self.id.is_some() => Err(InvalidMount::SourceAndId),
            MountKind::Secret if self.source.is_none() && self.id.is_none() && self.target.is_none() => {
                Err(InvalidMount::Secret)
            }
            _ => Ok(()),
        }
    }
}

fn kind(value: String) -> Result<MountKind, InvalidMount> {
    Ok(match value.to_lowercase().as_str() {
        "bind" => MountKind::Bind,
        "cache" => MountKind::Cache,
        "tmpfs" => MountKind::Tmpfs,
        "secret" => MountKind::Secret,
        "ssh" => MountKind::Ssh,
        _ => return Err(InvalidMount::Kind(value)),
    })
}

fn sharing(value: String) -> Result<Sharing, InvalidMount> {
    Ok(match value.to_lowercase().as_str() {
        "shared" => Sharing::Shared,
        "private" => Sharing::Private,
        "locked" => Sharing::Locked,
        _ => return Err(InvalidMount::Value { key: "sharing".to_owned(), value }),
    })
}

/// A field that may stand alone: `ro`, `ro=true`, `ro=0`; the spellings are those of Go's ParseBool.
fn flag(key: &str, value: Option<String>) -> Result<bool, InvalidMount> {
    match value.as_deref() {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(InvalidMount::Value { key: key.to_owned(), value: other.to_owned() }),
    }
}

fn unknown(key: String) -> InvalidMount {
    let meant = nearest(&key, KEYS);
    InvalidMount::UnknownKey { key, meant }
}

/// A size as docker writes it: `64m`, `1GiB`, `512`; powers of 1024.
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_lowercase();
    let unit_at = text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let shift = match text[unit_at..].trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    text[..unit_at].trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Comma-separated values, where a field in double quotes may hold commas (RFC 4180).
///
/// # Errors
/// For a quote in the wrong place, or one that is never closed.
pub fn fields(text: &str) -> Result<Vec<String>, InvalidMount> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err(InvalidMount::Fields);
                }
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(fields),
            None => return Err(InvalidMount::Fields),
        }
    }
}

fn quoted_field(text: &str) -> Result<(String, &str), InvalidMount> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"').ok_or(InvalidMount::Fields)?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Ok((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Mount, InvalidMount> {
        Mount::parse(text, |value| Ok(value.replace("$X", "x")))
    }

    #[test]
    fn mounts_as_they_are_written() {
        let cache = read("type=cache,target=/root/.$X,id=go,sharing=locked,mode=0700,uid=1").unwrap();
        assert_eq!(cache.kind, MountKind::Cache);
        assert_eq!(cache.target.as_deref(), Some("/root/.x"));
        assert_eq!((cache.read_only, cache.mode, cache.uid), (false, Some(0o700), Some(1)));
        assert!(read("target=/x").unwrap().read_only);
        assert!(!read("target=/x,rw").unwrap().read_only);
        assert_eq!(read("type=tmpfs,target=/x,size=64m").unwrap().size, Some(64 << 20));
        assert!(read("type=secret,id=a,required").unwrap().required);
        assert_eq!(read("\"target=/a,b\",ro").unwrap().target.as_deref(), Some("/a,b"));
    }

    #[test]
    fn mounts_that_cannot_be() {
        for text in [
            "type=volume,target=/x",
            "type=cache",
            "type=bind",
            "target",
            "targte=/x",
            "target=/x,mode=0700",
            "target=/x,sharing=locked",
            "type=secret",
            "type=secret,id=a,source=b",
            "type=cache,target=/x,sharing=none",
            "type=cache,target=/x,required",
            "target=/x,ro=maybe",
            "type=tmpfs,target=/x,size=1x",
            "\"target=/x",
            "tar\"get=/x",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!(from_of("from=$X,target=/x"), Err(InvalidMount::FromVariable));
        assert_eq!(from_of("from=base,target=$X"), Ok(Some("base".to_owned())));
    }
}
