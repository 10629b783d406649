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
//! `{0x00}`, `{0x0d}` and `{0xff}` in a Dockerfile are bytes that a table cannot show.
//! `@NAME/` before a path says that it is in the named context NAME (`--build-context NAME=@NAME`).

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use fixtures::cases::{self, CONTEXT_TIME, Case};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

/// The file of patterns of a context.
const IGNORE: &str = ".dockerignore";
/// The one that counts for a Dockerfile alone.
const OWN_IGNORE: &str = "Dockerfile.dockerignore";
/// How bytes are written that a table cannot show.
const BYTES: [(&str, u8); 3] = [("{0x00}", 0), ("{0x0d}", b'\r'), ("{0xff}", 0xff)];

/// A Dockerfile, what it is built from, and how.
#[derive(Clone)]
pub struct Recipe {
    /// Its name, of a case or in a table.
    pub name: String,
    /// Flags of `lighter build`.
    pub flags: Vec<String>,
    pub dockerfile: String,
    /// Files of its contexts, as a table has them.
    pub files: Vec<(String, String)>,
    /// The case that its other files are of.
    case: Option<Arc<Case>>,
}

impl Recipe {
    /// A case of `fixtures/cases`.
    pub fn of_case(case: Case) -> Self {
        let mut flags = Vec::new();
        let mut add = |flag: &str, value: String| flags.extend([flag.to_owned(), value]);
        case.asked.target.iter().for_each(|target| add("--target", target.clone()));
        case.asked.build_args.iter().for_each(|(name, value)| add("--build-arg", format!("{name}={value}")));
        case.asked.contexts.iter().for_each(|(name, from)| add("--build-context", format!("{name}=@{from}")));
        let dockerfile = fs::read_to_string(case.directory.join("Dockerfile")).unwrap();
        let ignore = fs::read_to_string(case.directory.join(OWN_IGNORE));
        let files = ignore.into_iter().map(|text| (format!("@dockerfile/{OWN_IGNORE}"), text)).collect();
        Self { name: case.name.clone(), flags, dockerfile, files, case: Some(Arc::new(case)) }
    }

    /// Whether nobody wrote it.
    pub fn is_unwritten(&self) -> bool {
        ["random-", "mutated-"].iter().any(|of| self.name.starts_with(of))
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
        Self { name, flags: words.collect(), dockerfile, files, case: None }
    }

    /// The block of a table that gives this, but for the files of a case.
    pub fn text(&self) -> String {
        let Self { name, flags, dockerfile, files, case } = self;
        let flags: String = flags.iter().map(|flag| format!(" {flag}")).collect();
        let files: String = files.iter().map(|(what, content)| format!("--- {what}\n{content}")).collect();
        let case = case.iter().map(|case| format!("(files of fixtures/cases/{})\n", case.name)).collect::<String>();
        format!("=== {name}{flags}\n{dockerfile}{files}{case}")
    }

    /// The same, of which nothing is built and the checks are asked for; none if it has several stages, of which those
    /// that nobody needs may have errors.
    pub fn checked(&self) -> Option<Self> {
        let is_from = |line: &&str| line.trim_start().to_lowercase().starts_with("from ");
        if self.dockerfile.lines().filter(is_from).count() > 1 {
            return None;
        }
        let mut flags = self.flags.clone();
        if let Some(at) = flags.iter().position(|flag| flag == "-o") {
            flags.drain(at..at + 2);
        }
        flags.retain(|flag| !flag.starts_with("--call=") && flag != "--check");
        flags.push("--check".to_owned());
        Some(Self { flags, ..self.clone() })
    }

    /// The same without a line of the Dockerfile, counted from 1.
    pub fn without_line(&self, number: usize) -> Option<Self> {
        let lines: Vec<&str> = self.dockerfile.split_inclusive('\n').collect();
        let rest = (1..=lines.len()).contains(&number).then(|| without(&lines, number - 1, 1).concat())?;
        Some(Self { dockerfile: rest, ..self.clone() })
    }

    /// Its patterns of what is ignored, to be changed.
    pub fn ignore(&mut self) -> Option<&mut String> {
        let is_ignore = |what: &str| what == IGNORE || what.ends_with(OWN_IGNORE);
        if !self.files.iter().any(|(what, _)| is_ignore(what)) {
            let of_case = self.case.as_ref().map(|case| case.directory.join("context").join(IGNORE))?;
            self.files.push((IGNORE.to_owned(), fs::read_to_string(of_case).ok()?));
        }
        self.files.iter_mut().find(|(what, _)| is_ignore(what)).map(|(_, text)| text)
    }

    /// The same with less, the smallest first: without some lines of the Dockerfile, a file, or a word.
    pub fn smaller(&self) -> Vec<Self> {
        let Self { dockerfile, files, .. } = self;
        let with = |dockerfile: String, files: Vec<(String, String)>| Self { dockerfile, files, ..self.clone() };
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
        if let Some(case) = &self.case {
            case.lay_out("context", &to.join("context"));
            case.asked.contexts.values().for_each(|name| case.lay_out(name, &to.join(name)));
        }
        let text = words.iter().fold(self.dockerfile.clone(), |text, (word, value)| text.replace(word, value));
        fs::write(dockerfile.join("Dockerfile"), bytes(&text)).unwrap();
        self.files.iter().for_each(|(what, content)| make(to, what, content));
        match self.case {
            Some(_) => self
                .files
                .iter()
                .filter(|(what, _)| what == IGNORE)
                .for_each(|_| age(&to.join("context/.dockerignore"))),
            None => fs::read_dir(to).unwrap().flatten().for_each(|entry| age(&entry.path())),
        }
    }
}

/// What [`BYTES`] stand for in its place.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (word, byte) in BYTES {
        while let Some(at) = bytes.windows(word.len()).position(|found| found == word.as_bytes()) {
            bytes.splice(at..at + word.len(), [byte]);
        }
    }
    bytes
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
