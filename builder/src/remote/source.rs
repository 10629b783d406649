//! What a text names: a git repository, a file behind a URL, or neither. Pure; nothing is asked.
//!
//! The rules are those of BuildKit's Dockerfile frontend: an http(s) URL is a repository if its path ends
//! in `.git`, everything else behind http(s) is a file; `git://`, `ssh://` and `user@host:path` are
//! repositories; fragment (`#ref:directory`) and query (`?ref=…&subdir=…`) say what of it is meant.

use oci::Digest;

/// Why a text that looks like a remote source is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSource {
    /// A key of the query that means nothing.
    #[error(
        "unexpected query {0:?}; there are ref, tag, branch, commit, checksum, subdir, keep-git-dir and submodules"
    )]
    Key(String),
    /// A key without a value, or with two.
    #[error("query {0:?} needs just one value")]
    Value(String),
    /// A switch that is neither on nor off.
    #[error("query {key:?} is {value:?}, which is neither true nor false")]
    Switch {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Two places that say different things.
    #[error("{what} is said twice: {first:?} and {second:?}")]
    Conflict {
        /// What.
        what: &'static str,
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// A name that git would take for an option, or that no ref has.
    #[error("{0:?} cannot be the name of a ref")]
    Ref(String),
    /// A commit that is none.
    #[error("{0:?} is no commit; write at least 7 of its hexadecimal digits")]
    Commit(String),
    /// An address that git would take for an option.
    #[error("{0:?} is no address of a repository")]
    Address(String),
}

/// A git repository, and what of it is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GitSource {
    /// What git is given.
    pub address: String,
    /// A branch, tag, other ref or commit; the repository's own choice if there is none.
    pub reference: Option<String>,
    /// The commit that it must be, or its beginning.
    pub commit: Option<String>,
    /// The directory that is meant; the whole tree if empty.
    pub directory: String,
    /// Whether `.git` is kept, where the address says so.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched too.
    pub submodules: bool,
}

/// A file behind a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpSource {
    /// The URL.
    pub url: String,
    /// The name that it gets: the last one of the URL's path.
    pub name: String,
    /// What its content must hash to.
    pub checksum: Option<Digest>,
}

/// Where a text may stand: what is a repository in one place can be a file in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a Dockerfile: repositories of this machine cannot be named.
    Dockerfile,
    /// On the command line, where whoever types may read this machine's files anyway.
    CommandLine,
}

impl GitSource {
    /// Reads a text; `None` if it names no repository.
    ///
    /// # Errors
    /// If it does, but what it says of it makes no sense.
    pub fn parse(text: &str, place: Place) -> Result<Option<Self>, InvalidSource> {
        let (text, fragment) = split_once(text, '#');
        let (address, query) = split_once(text, '?');
        if !is_repository(address, place) {
            return Ok(None);
        }
        if address.starts_with('-') || address.chars().any(|char| char.is_control() || char.is_whitespace()) {
            return Err(InvalidSource::Address(address.to_owned()));
        }
        let address = match address.strip_prefix("github.com/") {
            Some(_) => format!("https://{address}"),
            None => address.to_owned(),
        };
        let mut said = Said::default();
        if let Some(fragment) = fragment.filter(|fragment| !fragment.is_empty()) {
            let (reference, directory) = split_once(fragment, ':');
            said.reference = Some(reference.to_owned()).filter(|name| !name.is_empty());
            said.directory = directory.map(str::to_owned).filter(|name| !name.is_empty());
        }
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            said.query(pair)?;
        }
        said.source(address).map(Some)
    }
}

impl GitSource {
    /// The address as it may be told.
    pub fn shown(&self) -> String {
        super::shown(&self.address)
    }
}

impl HttpSource {
    /// Reads a text; `None` if it is no URL of a file.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
        let (path, _) = split_once(rest, '#');
        let (path, _) = split_once(path, '?');
        let name = match path.split_once('/') {
            Some((_, path)) => decode(path).trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned(),
            None => String::new(),
        };
        let name = if matches!(name.as_str(), "" | "." | "..") || name.contains('\0') {
            "__unnamed__".to_owned() // BuildKit's word for a file without a name
        } else {
            name
        };
        Some(Self { url: text.to_owned(), name, checksum: None })
    }
}

fn split_once(text: &str, separator: char) -> (&str, Option<&str>) {
    text.split_once(separator).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// Undoes the escapes of a URL; what is no escape, or no text afterwards, stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| bytes[at] == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_owned())
}

fn is_repository(address: &str, place: Place) -> bool {
    let typed = place == Place::CommandLine;
    match address.split_once("://") {
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => rest.contains('/') && rest.ends_with(".git"),
            "git" | "ssh" => true,
            "file" => typed,
            _ => false,
        },
        None if address.starts_with("github.com/") => typed,
        None => is_scp(address),
    }
}

/// `user@host:path`, as scp writes it.
fn is_scp(address: &str) -> bool {
    let word = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|char| char.is_ascii_alphanumeric() || more.contains(char))
    };
    let Some((user, rest)) = address.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    word(user, "-_.") && !user.starts_with('-') && word(host, "-.") && !host.starts_with('-') && !path.is_empty()
}

/// What fragment and query say.
#[derive(Default)]
struct Said {
    reference: Option<String>,
    tag: Option<String>,
    branch: Option<String>,
    commit: Option<String>,
    directory: Option<String>,
    keep_git_dir: Option<bool>,
    submodules: Option<bool>,
}

impl Said {
    fn query(&mut self, pair: &str) -> Result<(), InvalidSource> {
        let (key, value) = split_once(pair, '=');
        let value = value.map(decode).filter(|value| !value.is_empty());
        let needed = || value.clone().ok_or_else(|| InvalidSource::Value(key.to_owned()));
        match key {
            "ref" => once("the ref", &mut self.reference, needed()?),
            "tag" => once("the tag", &mut self.tag, needed()?),
            "branch" => once("the branch", &mut self.branch, needed()?),
            "subdir" => once("the directory", &mut self.directory, needed()?),
            "commit" | "checksum" => once("the commit", &mut self.commit, needed()?),
            "keep-git-dir" => {
                self.keep_git_dir = Some(switch(key, value.as_deref())?);
                Ok(())
            }
            "submodules" => {
                self.submodules = Some(switch(key, value.as_deref())?);
                Ok(())
            }
            other => Err(InvalidSource::Key(other.to_owned())),
        }
    }

    fn source(mut self, address: String) -> Result<GitSource, InvalidSource> {
        if let (Some(tag), Some(branch)) = (&self.tag, &self.branch) {
            let (first, second) = (tag.clone(), branch.clone());
            return Err(InvalidSource::Conflict { what: "what to take", first, second });
        }
        for (name, prefix) in [(self.tag.take(), "refs/tags/"), (self.branch.take(), "refs/heads/")] {
            if let Some(name) = name {
                let name = if name.starts_with(prefix) { name } else { format!("{prefix}{name}") };
                once("the ref", &mut self.reference, name)?;
            }
        }
        if let Some(commit) = &self.commit {
            if !is_commit(commit) {
                return Err(InvalidSource::Commit(commit.clone()));
            }
            self.reference.get_or_insert_with(|| commit.clone());
        }
        if let Some(reference) = self.reference.as_ref().filter(|reference| !is_ref(reference)) {
            return Err(InvalidSource::Ref(reference.clone()));
        }
        // From the root of the repository, which `..` does not leave.
        let directory = format!("/{}", self.directory.unwrap_or_default());
        let directory = crate::ignore::clean(&directory);
        Ok(GitSource {
            address,
            reference: self.reference,
            commit: self.commit.map(|commit| commit.to_lowercase()),
            directory: directory.trim_matches('/').to_owned(),
            keep_git_dir: self.keep_git_dir,
            submodules: self.submodules.unwrap_or(true),
        })
    }
}

fn once(what: &'static str, place: &mut Option<String>, value: String) -> Result<(), InvalidSource> {
    match place {
        Some(first) if *first != value => Err(InvalidSource::Conflict { what, first: first.clone(), second: value }),
        _ => {
            *place = Some(value);
            Ok(())
        }
    }
}

fn switch(key: &str, value: Option<&str>) -> Result<bool, InvalidSource> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
        Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
        Some(value) => Err(InvalidSource::Switch { key: key.to_owned(), value: value.to_owned() }),
    }
}

/// A commit, or enough of its beginning.
pub(crate) fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// git-check-ref-format, as far as it keeps git from taking a name for something else.
fn is_ref(text: &str) -> bool {
    let forbidden = |char: char| char.is_control() || " ~^:?*[\\".contains(char);
    !text.is_empty()
        && !text.starts_with(['-', '/', '+'])
        && !text.ends_with(['/', '.'])
        && !text.contains("..")
        && !text.contains("@{")
        && !text.contains(forbidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(text: &str) -> Result<Option<GitSource>, InvalidSource> {
        GitSource::parse(text, Place::CommandLine)
    }

    #[test]
    fn repositories_are_recognised_as_buildkit_does() {
        for (text, address, reference, directory) in [
            ("https://h/r.git", "https://h/r.git", None, ""),
            ("https://h/r.git#main", "https://h/r.git", Some("main"), ""),
            ("https://h/r.git#main:a/b", "https://h/r.git", Some("main"), "a/b"),
            ("https://h/r.git#:a", "https://h/r.git", None, "a"),
            ("https://h/r.git?ref=v1&subdir=a", "https://h/r.git", Some("v1"), "a"),
            ("https://h/r.git?tag=v1", "https://h/r.git", Some("refs/tags/v1"), ""),
            ("https://h/r.git?branch=x%2Fy", "https://h/r.git", Some("refs/heads/x/y"), ""),
            ("git://h/r", "git://h/r", None, ""),
            ("ssh://git@h:22/r", "ssh://git@h:22/r", None, ""),
            ("git@h:a/r.git#v1", "git@h:a/r.git", Some("v1"), ""),
            ("file:///srv/r.git#main", "file:///srv/r.git", Some("main"), ""),
            ("github.com/a/b", "https://github.com/a/b", None, ""),
        ] {
            let source = git(text).unwrap().unwrap_or_else(|| panic!("{text}"));
            let found = (source.address.as_str(), source.reference.as_deref(), source.directory.as_str());
            assert_eq!(found, (address, reference, directory), "{text}");
        }
        for text in ["a", "./a.git", "https://h/r", "https://h.git", "https://h/r.git/x", "a@b", "C:x", "ftp://h/r.git"]
        {
            assert_eq!(git(text), Ok(None), "{text}");
        }
        for text in ["file:///srv/r.git", "github.com/a/b"] {
            assert_eq!(GitSource::parse(text, Place::Dockerfile), Ok(None), "{text}");
        }
    }

    #[test]
    fn what_is_said_of_a_repository_must_make_sense() {
        for text in [
            "https://h/r.git?nope=1",
            "https://h/r.git?ref=",
            "https://h/r.git?ref=a&ref=b",
            "https://h/r.git?ref=a#b",
            "https://h/r.git?tag=a&branch=b",
            "https://h/r.git?keep-git-dir=maybe",
            "https://h/r.git?commit=xyz",
            "https://h/r.git#--upload-pack=x",
            "https://h/r.git#a..b",
            "ssh://h/ r",
        ] {
            assert!(git(text).is_err(), "{text}");
        }
        assert_eq!(git("https://h/r.git#main:../x/./y/..").unwrap().unwrap().directory, "x", "nothing leads out");
        let source = git("https://h/r.git?commit=0123ABCD&keep-git-dir&submodules=false").unwrap().unwrap();
        assert_eq!((source.keep_git_dir, source.submodules), (Some(true), false));
        assert_eq!((source.reference.as_deref(), source.commit.as_deref()), (Some("0123ABCD"), Some("0123abcd")));
    }

    proptest::proptest! {
        /// Whatever is written, git never takes a part of it for an option, and nothing leads out.
        #[test]
        fn what_git_is_given_is_harmless(
            start in "(https://h/r|git://|ssh://|git@h:|file://|-|[a-z@:/.-]{0,6})",
            rest in "[-a-z0-9:/@.?#=&%_ ~^]{0,24}",
            end in "(\\.git)?(#[-a-z0-9./:@]{0,12})?(\\?(ref|tag|branch|subdir|commit)=[-a-f0-9./]{0,12})?",
        ) {
            let text = format!("{start}{rest}{end}");
            for place in [Place::Dockerfile, Place::CommandLine] {
                let Ok(Some(source)) = GitSource::parse(&text, place) else { continue };
                proptest::prop_assert!(!source.address.starts_with('-') && !source.address.contains(char::is_whitespace));
                proptest::prop_assert!(place == Place::CommandLine || !source.address.starts_with("file:"));
                if let Some(reference) = &source.reference {
                    proptest::prop_assert!(!reference.starts_with(['-', '+']) && !reference.contains(':'));
                }
                proptest::prop_assert!(source.directory.split('/').all(|name| name != ".."));
            }
        }
    }

    #[test]
    fn files_get_the_last_name_of_the_path() {
        for (url, name) in [
            ("https://h/a/b.tar.gz", "b.tar.gz"),
            ("http://h/a/?x=/y", "a"),
            ("https://h/a%20b#c", "a b"),
            ("https://h/", "__unnamed__"),
            ("https://h", "__unnamed__"),
            ("https://h/%2e%2e", "__unnamed__"),
            ("https://h/a%2fb", "b"),
        ] {
            assert_eq!(HttpSource::parse(url).unwrap().name, name, "{url}");
        }
        assert_eq!(HttpSource::parse("ftp://h/a"), None);
    }
}
