//! Dockerfiles to build twice: those of `fixtures/cases`, and those of the tables in `fixtures/buildkit`.
//!
//! A table is text. `=== NAME FLAGS` begins a Dockerfile that is built with these flags of `lighter build`; behind it
//! stand the files of its context, each below a line of its own:
//!
//! ```text
//! --- PATH                 a file, 0644
//! --- PATH MODE            a file, or a directory if PATH ends in a slash
//! --- PATH -> TARGET       a symbolic link
//! --- PATH => OTHER        a hard link to a file of the context
//! --- PATH (tar)           a tar of entries, written as those of base images
//! ```
//!
//! `@NAME/` before a path says that it is in the named context NAME (`--build-context NAME=@NAME`).

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use fixtures::cases::{self, CONTEXT_TIME, Case};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

/// A Dockerfile, what it is built from, and how.
#[derive(Clone)]
pub struct Recipe {
    /// Its name, of a case or in a table.
    pub name: String,
    /// Flags of `lighter build`.
    pub flags: Vec<String>,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Case(Arc<Case>),
    Table { dockerfile: String, files: Vec<(String, String)> },
}

impl Recipe {
    /// A case of `fixtures/cases`.
    pub fn of_case(case: Case) -> Self {
        let mut flags = Vec::new();
        let mut add = |flag: &str, value: String| flags.extend([flag.to_owned(), value]);
        case.asked.target.iter().for_each(|target| add("--target", target.clone()));
        case.asked.build_args.iter().for_each(|(name, value)| add("--build-arg", format!("{name}={value}")));
        case.asked.contexts.iter().for_each(|(name, from)| add("--build-context", format!("{name}=@{from}")));
        Self { name: case.name.clone(), flags, source: Source::Case(Arc::new(case)) }
    }

    /// The recipes of a table.
    pub fn of_table(text: &str) -> Vec<Self> {
        let blocks = text.split("\n=== ").skip(1); // before the first one the table says what it is about
        blocks.map(|block| Self::read(&format!("{}\n", block.trim_end_matches('\n')))).collect()
    }

    fn read(block: &str) -> Self {
        let (head, rest) = block.split_once('\n').expect("a Dockerfile below the name");
        let mut words = head.split(' ').map(str::to_owned);
        let name = words.next().expect("a name");
        let mut parts = rest.split("\n--- ");
        let mut dockerfile = parts.next().unwrap_or_default().to_owned();
        dockerfile += if rest.contains("\n--- ") { "\n" } else { "" };
        let count = rest.matches("\n--- ").count();
        let file = |(number, part): (usize, &str)| {
            let (what, content) = part.split_once('\n').unwrap_or((part, ""));
            let end = if number + 1 < count && !content.is_empty() { "\n" } else { "" };
            (what.to_owned(), format!("{content}{end}"))
        };
        let files = parts.enumerate().map(file).collect();
        Self { name, flags: words.collect(), source: Source::Table { dockerfile, files } }
    }

    /// The block of a table that gives this, if it is one of a table.
    pub fn text(&self) -> String {
        let Source::Table { dockerfile, files } = &self.source else { return self.name.clone() };
        let flags: String = self.flags.iter().map(|flag| format!(" {flag}")).collect();
        let files: String = files.iter().map(|(what, content)| format!("--- {what}\n{content}")).collect();
        format!("=== {}{flags}\n{dockerfile}{files}", self.name)
    }

    /// The same, of which nothing is built and the checks are asked for; none if it has several stages, of which those
    /// that nobody needs may have errors.
    pub fn checked(&self) -> Option<Self> {
        let Source::Table { dockerfile, .. } = &self.source else { return None };
        let is_from = |line: &&str| line.trim_start().to_lowercase().starts_with("from ");
        if dockerfile.lines().filter(is_from).count() > 1 {
            return None;
        }
        let mut flags = self.flags.clone();
        if let Some(at) = flags.iter().position(|flag| flag == "-o") {
            flags.drain(at..at + 2);
        }
        flags.retain(|flag| !flag.starts_with("--call="));
        flags.push("--check".to_owned());
        Some(Self { flags, ..self.clone() })
    }

    /// The same without a line of the Dockerfile, counted from 1.
    pub fn without_line(&self, number: usize) -> Option<Self> {
        let Source::Table { dockerfile, files } = &self.source else { return None };
        let lines: Vec<&str> = dockerfile.split_inclusive('\n').collect();
        let rest = (1..=lines.len()).contains(&number).then(|| without(&lines, number - 1, 1).concat())?;
        let source = Source::Table { dockerfile: rest, files: files.clone() };
        Some(Self { name: self.name.clone(), flags: self.flags.clone(), source })
    }

    /// The same with less, the smallest first: without some lines of the Dockerfile, a file, or a word.
    pub fn smaller(&self) -> Vec<Self> {
        let Source::Table { dockerfile, files } = &self.source else { return Vec::new() };
        let with = |dockerfile: String, files: Vec<(String, String)>| Self {
            name: self.name.clone(),
            flags: self.flags.clone(),
            source: Source::Table { dockerfile, files },
        };
        let lines: Vec<&str> = dockerfile.split_inclusive('\n').collect();
        let words: Vec<&str> = dockerfile.split_inclusive(' ').collect();
        let is_linked = |(what, _): &(String, String)| {
            let link = format!(" => {}", what.split(' ').next().unwrap_or_default());
            files.iter().any(|(other, _)| other.ends_with(&link))
        };
        let spare = (0..files.len()).filter(|at| !is_linked(&files[*at]));
        let mut all: Vec<Self> = [lines.len() / 2, lines.len() / 4, 1]
            .into_iter()
            .flat_map(|size| (0..lines.len()).step_by(size.max(1)).map(move |at| (at, size.max(1))))
            .map(|(at, size)| with(without(&lines, at, size).concat(), files.clone()))
            .collect();
        all.extend(spare.map(|at| with(dockerfile.clone(), without(files, at, 1))));
        all.extend((0..words.len()).map(|at| with(without(&words, at, 1).concat(), files.clone())));
        all
    }

    /// Lays everything out: `context`, `dockerfile`, and the named contexts beside them. `words` are replaced in the
    /// Dockerfile.
    pub fn lay_out(&self, to: &Path, words: &[(&str, String)]) {
        let dockerfile = to.join("dockerfile");
        fs::create_dir(&dockerfile).unwrap();
        fs::create_dir(to.join("context")).unwrap();
        match &self.source {
            Source::Case(case) => {
                for file in ["Dockerfile", "Dockerfile.dockerignore"] {
                    let from = case.directory.join(file);
                    fs::read(from).ok().inspect(|text| fs::write(dockerfile.join(file), text).unwrap());
                }
                case.lay_out("context", &to.join("context"));
                case.asked.contexts.values().for_each(|name| case.lay_out(name, &to.join(name)));
            }
            Source::Table { dockerfile: text, files } => {
                let text = words.iter().fold(text.clone(), |text, (word, value)| text.replace(word, value));
                fs::write(dockerfile.join("Dockerfile"), text).unwrap();
                files.iter().for_each(|(what, content)| make(to, what, content));
                fs::read_dir(to).unwrap().flatten().for_each(|entry| age(&entry.path()));
            }
        }
    }
}

fn without<T: Clone>(list: &[T], at: usize, count: usize) -> Vec<T> {
    [&list[..at], &list[list.len().min(at + count)..]].concat()
}

/// One file of a table.
fn make(to: &Path, what: &str, content: &str) {
    let place = |path: &str| match path.strip_prefix('@') {
        Some(path) => to.join(path),
        None => to.join("context").join(path),
    };
    let parents = |path: &Path| fs::create_dir_all(path.parent().expect("it is below something")).unwrap();
    if let Some((path, target)) = what.split_once(" -> ") {
        parents(&place(path));
        return symlink(target, place(path)).unwrap();
    }
    if let Some((path, other)) = what.split_once(" => ") {
        parents(&place(path));
        return fs::hard_link(place(other), place(path)).unwrap();
    }
    if let Some(path) = what.strip_suffix(" (tar)") {
        parents(&place(path));
        let entries: Vec<String> = content.lines().map(str::to_owned).collect();
        return fs::write(place(path), cases::tar(&entries)).unwrap();
    }
    let (path, mode) = match what.rsplit_once(' ').map(|(path, mode)| (path, u32::from_str_radix(mode, 8))) {
        Some((path, Ok(mode))) => (path, Some(mode)),
        _ => (what, None),
    };
    if path.ends_with('/') {
        fs::create_dir_all(place(path)).unwrap();
    } else {
        parents(&place(path));
        fs::write(place(path), content).unwrap();
    }
    let usual = if path.ends_with('/') { 0o755 } else { 0o644 };
    fs::set_permissions(place(path), fs::Permissions::from_mode(mode.unwrap_or(usual))).unwrap();
}

/// Gives everything below a directory the time of all contexts.
fn age(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().flatten().for_each(|entry| age(&entry.path()));
    }
    let time = Timespec { tv_sec: CONTEXT_TIME, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
