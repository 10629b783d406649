//! Which files a COPY or ADD means: patterns and paths against the sources, by names and status only.
//! No content is read, and the destination is not known here.

use super::error::Error;
use super::pattern::{Malformed, has_wildcard, matches};
use super::source::{Ignore, Item, Source};
use crate::ignore::Patterns;
use crate::layer::entry::{Kind, is_below, join, name, names, parent};
use crate::layer::index::ENTRY_LIMIT;

/// The flags that decide what is copied.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// `--exclude`, relative to each source.
    pub exclude: Option<&'a dyn Ignore>,
    /// What all instructions name of the source, if that is known.
    pub named: Option<&'a [&'a str]>,
    /// `--parents`: keep the directories of the sources' paths, from the `/./` on if there is one.
    pub parents: bool,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("parents", &self.parents).finish_non_exhaustive()
    }
}

/// The files that are meant, source by source in the order of the instruction.
pub struct Selection<'a> {
    pub(super) picks: Vec<Pick<'a>>,
}

impl std::fmt::Debug for Selection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.picks.iter().map(|pick| &pick.top.entry.path)).finish()
    }
}

impl Selection<'_> {
    /// How many files, directories and links were selected.
    pub fn files(&self) -> usize {
        self.picks.iter().map(|pick| 1 + pick.below.len()).sum()
    }

    /// Bytes of all selected files.
    pub fn bytes(&self) -> u64 {
        let items = self.picks.iter().flat_map(|pick| pick.below.iter().map(|part| &part.item).chain([&pick.top]));
        items.map(|item| item.entry.size()).sum()
    }
}

/// One source: a file, or a directory with what is taken of it.
pub(super) struct Pick<'a> {
    pub source: &'a dyn Source,
    /// The name that was asked for; a symbolic link gives its own name to what it leads to.
    pub base: Vec<u8>,
    pub top: Item,
    pub below: Vec<Part>,
}

impl std::fmt::Debug for Pick<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} and {} below", crate::layer::entry::show(&self.top.entry.path), self.below.len())
    }
}

/// Something below the top of a pick.
pub(super) struct Part {
    pub item: Item,
    /// Where in the item's path the one relative to the top begins: there are many of these, and they are long.
    start: usize,
    /// Whether it was selected itself, and not only something below it: then it keeps its time.
    pub whole: bool,
}

impl Part {
    fn new(item: Item, top: &[u8], whole: bool) -> Self {
        let start = if top.is_empty() { 0 } else { top.len() + 1 };
        Self { start: start.min(item.entry.path.len()), item, whole }
    }

    /// Where, relative to the top.
    pub fn path(&self) -> &[u8] {
        &self.item.entry.path[self.start..]
    }
}

/// Finds what each pair of source and pattern means.
pub fn select<'a>(patterns: &[(&'a dyn Source, &[u8])], options: Options<'_>) -> Result<Selection<'a>, Error> {
    let mut selection = Selection { picks: Vec::new() };
    for &(source, pattern) in patterns {
        if options.parents {
            selection.picks.extend(with_parents(source, pattern, options)?);
        } else {
            for path in expand(source, &clean(pattern), options.named)? {
                selection.picks.push(pick(source, &path, options)?);
            }
        }
        if selection.files() > ENTRY_LIMIT {
            return Err(Error::TooMany(ENTRY_LIMIT));
        }
    }
    Ok(selection)
}

/// Go's `filepath.Join("/", path)` without the slash: names only, and `..` cannot leave.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let mut clean: Vec<u8> = Vec::new();
    for name in names(path) {
        if name == b".." {
            clean.truncate(parent(&clean).map_or(0, <[u8]>::len));
        } else {
            clean = join(&clean, name);
        }
    }
    clean
}

/// The paths that a pattern means (fsutil: `ResolveWildcards`): itself without a wildcard, else what
/// matches, through directories but not through links behind the first wildcard. Nothing may match, but what stands
/// before the wildcard has to be there: of what a client sends, something in it or above has to be named.
fn expand(source: &dyn Source, pattern: &[u8], named: Option<&[&str]>) -> Result<Vec<Vec<u8>>, Error> {
    let all: Vec<&[u8]> = names(pattern).collect();
    let Some(first) = all.iter().position(|name| has_wildcard(name)) else {
        return Ok(vec![pattern.to_vec()]);
    };
    let start = all[..first].join(&b'/');
    let resolved = source.resolve(&start)?;
    if source.lstat(&resolved)?.is_none() {
        return Err(not_found(&start));
    }
    let mut found = vec![resolved];
    for wildcard in &all[first..] {
        let mut next = Vec::new();
        for dir in &found {
            next.extend(matching(source, dir, wildcard)?);
        }
        found = next;
    }
    if found.is_empty() && !start.is_empty() && source.sends_what_is_named() {
        for other in named.unwrap_or(&["/"]) {
            if brings(source, other.as_bytes(), &start)? {
                return Ok(found);
            }
        }
        let what = "nothing in it matches the pattern, and no instruction copies anything else of it";
        return Err(Error::Unsupported { path: crate::layer::entry::show(&start), what });
    }
    Ok(found)
}

/// Whether a client that is asked for `pattern` sends `path` with it.
fn brings(source: &dyn Source, pattern: &[u8], path: &[u8]) -> Result<bool, Error> {
    let sent = match expand(source, &clean(pattern), None) {
        Err(Error::NotFound(_)) => Vec::new(),
        sent => sent?,
    };
    let is_with = |sent: &Vec<u8>| sent.is_empty() || sent == path || is_below(path, sent) || is_below(sent, path);
    for sent in sent.iter().filter(|sent| is_with(sent)) {
        if sent.is_empty() || source.lstat(&source.resolve(sent)?)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn matching(source: &dyn Source, dir: &[u8], wildcard: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let bad = |Malformed| Error::Pattern(String::from_utf8_lossy(wildcard).into_owned());
    matches(wildcard, b"").map_err(bad)?; // a malformed one is an error even where nothing is
    if !source.lstat(dir)?.is_some_and(|item| item.entry.is_dir()) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for item in source.read_dir(dir)? {
        if matches(wildcard, name(&item.entry.path)).map_err(bad)? {
            found.push(item.entry.path);
        }
    }
    Ok(found)
}

fn not_found(path: &[u8]) -> Error {
    Error::NotFound(crate::layer::entry::show(path))
}

fn pick<'a>(source: &'a dyn Source, path: &[u8], options: Options<'_>) -> Result<Pick<'a>, Error> {
    let top = source.lstat(&source.resolve(path)?)?.ok_or_else(|| not_found(path))?;
    let mut below = Vec::new();
    if top.entry.is_dir() {
        walk(source, &top.entry.path, &top.entry.path, &mut below)?;
        exclude(&mut below, options.exclude);
    }
    Ok(Pick { source, base: name(path).to_vec(), top, below })
}

/// Everything below a directory, in walk order, directories only where `enter` says so. A stack of what is still to come
/// instead of calls: trees may be as deep as paths are long.
fn walk_into(
    source: &dyn Source,
    dir: &[u8],
    parts: &mut Vec<Part>,
    mut enter: impl FnMut(Item) -> (Part, bool),
) -> Result<(), Error> {
    let mut waiting = vec![source.read_dir(dir)?.into_iter()];
    while let Some(level) = waiting.last_mut() {
        let Some(item) = level.next() else {
            waiting.pop();
            continue;
        };
        if parts.len() >= ENTRY_LIMIT {
            return Err(Error::TooMany(ENTRY_LIMIT));
        }
        let is_dir = item.entry.is_dir();
        let (part, inside) = enter(item);
        if is_dir && inside {
            waiting.push(source.read_dir(&part.item.entry.path)?.into_iter());
        }
        parts.push(part);
    }
    Ok(())
}

fn walk(source: &dyn Source, top: &[u8], dir: &[u8], parts: &mut Vec<Part>) -> Result<(), Error> {
    walk_into(source, dir, parts, |item| (Part::new(item, top, true), true))
}

fn relative(path: &[u8], top: &[u8]) -> Vec<u8> {
    let skip = if top.is_empty() { 0 } else { top.len() + 1 };
    path[skip.min(path.len())..].to_vec()
}

/// Takes out what `--exclude` names; a directory stays for what is left in it.
fn exclude(parts: &mut Vec<Part>, exclude: Option<&dyn Ignore>) {
    let Some(exclude) = exclude else { return };
    for part in parts.iter_mut() {
        part.whole = !exclude.excludes(part.path());
    }
    keep_needed(parts);
}

/// Drops what is not whole and holds nothing whole.
fn keep_needed(parts: &mut Vec<Part>) {
    let mut last: Vec<u8> = Vec::new();
    let mut kept = Vec::with_capacity(parts.len());
    for part in parts.drain(..).rev() {
        if part.whole || (part.item.entry.is_dir() && is_below(&last, part.path())) {
            last.clear();
            last.extend_from_slice(part.path());
            kept.push(part);
        }
    }
    kept.reverse();
    *parts = kept;
}

/// `--parents`: a copy of each pivot directory with only the matching paths in it.
fn with_parents<'a>(source: &'a dyn Source, pattern: &[u8], options: Options<'_>) -> Result<Vec<Pick<'a>>, Error> {
    let (pivot, pattern) = match pattern.windows(3).position(|window| window == b"/./") {
        Some(at) => (clean(&pattern[..at]), clean(&pattern[at + 3..])),
        None => (Vec::new(), clean(pattern)),
    };
    if pattern.is_empty() {
        return Err(not_found(&pivot));
    }
    let include = Include::new(&pattern)?;
    let is_required = !names(&pivot).any(has_wildcard); // several pivots: nobody has to hold it
    let whole = join(&pivot, &pattern);
    let is_one = !names(&whole).any(has_wildcard);
    if is_one {
        require(source, &whole)?;
    }
    let named = String::from_utf8_lossy(&whole).into_owned();
    let named = Patterns::new([named.as_str()]).map_err(|_| Error::Pattern(named.clone()))?;
    let mut picks = Vec::new();
    for pivot in expand(source, &pivot, None)? {
        let top = source.lstat(&source.resolve(&pivot)?)?.ok_or_else(|| not_found(&pivot))?;
        if !top.entry.is_dir() && source.sends_what_is_named() && !named.excludes(&top.entry.path) {
            continue; // a pivot that is a file: it is not there unless the pattern names it as well
        }
        let mut below = include.below(source, &top.entry.path, is_required)?;
        exclude_parents(&mut below, options.exclude);
        if is_one && !below.iter().any(|part| part.path().starts_with(&pattern)) {
            return Err(not_found(&whole)); // it is excluded
        }
        picks.push(Pick { source, base: name(&pivot).to_vec(), top, below });
    }
    Ok(picks)
}

/// A path of `--parents` without a wildcard has to be there, without links on the way.
fn require(source: &dyn Source, path: &[u8]) -> Result<(), Error> {
    let missing = || not_found(path);
    let mut at = Vec::new();
    for step in names(path) {
        if !source.lstat(&at)?.ok_or_else(missing)?.entry.is_dir() {
            return Err(missing());
        }
        at = join(&at, step);
    }
    source.lstat(&at)?.ok_or_else(missing).map(drop)
}

/// What `--parents` takes: the path itself without a wildcard, else all that the pattern matches, with the
/// rules of ignore files (`**` crosses directories), and what lies below a match.
enum Include<'p> {
    Path(&'p [u8]),
    Matching { start: Vec<&'p [u8]>, patterns: Patterns, depth: Option<usize> },
}

impl<'p> Include<'p> {
    fn new(pattern: &'p [u8]) -> Result<Self, Error> {
        let all: Vec<&[u8]> = names(pattern).collect();
        let Some(first) = all.iter().position(|name| has_wildcard(name)) else { return Ok(Self::Path(pattern)) };
        let text = String::from_utf8_lossy(pattern);
        let patterns = Patterns::new([&*text]).map_err(|_| Error::Pattern(text.into_owned()))?;
        let is_deep = all.iter().any(|name| name.windows(2).any(|window| window == b"**"));
        Ok(Self::Matching { start: all[..first].to_vec(), patterns, depth: (!is_deep).then_some(all.len()) })
    }

    /// The paths below `root` that are taken, in walk order, with the directories that lead there.
    fn below(&self, source: &dyn Source, root: &[u8], is_required: bool) -> Result<Vec<Part>, Error> {
        let mut parts = Vec::new();
        match self {
            Self::Path(path) => match add_with_parents(source, root, &join(root, path), &mut parts) {
                Err(Error::NotFound(_)) if !is_required => return Ok(Vec::new()),
                done => done?,
            },
            Self::Matching { start, .. } => {
                let mut at = root.to_vec();
                for step in start {
                    at = join(&at, step);
                    match source.lstat(&at)? {
                        Some(item) if item.entry.is_dir() => {
                            parts.push(Part::new(item, root, false));
                        }
                        _ => return Ok(Vec::new()), // links are not followed: nothing is below
                    }
                }
                self.matching(source, root, &at, &mut parts)?;
            }
        }
        keep_needed(&mut parts);
        Ok(parts)
    }

    fn matching(&self, source: &dyn Source, root: &[u8], dir: &[u8], parts: &mut Vec<Part>) -> Result<(), Error> {
        let Self::Matching { patterns, depth, .. } = self else { return Ok(()) };
        // The last directory that was a match: what lies below it is one too.
        let mut matched: Option<Vec<u8>> = None;
        walk_into(source, dir, parts, |item| {
            let path = relative(&item.entry.path, root);
            let is_below_match = matched.as_ref().is_some_and(|matched| is_below(&path, matched));
            let whole = is_below_match || patterns.excludes(&path);
            let may_match_below = whole || depth.is_none_or(|depth| names(&path).count() < depth);
            if whole && !is_below_match && item.entry.is_dir() {
                matched = Some(path.clone());
            }
            (Part::new(item, root, whole), may_match_below)
        })
    }
}

fn add_with_parents(source: &dyn Source, root: &[u8], path: &[u8], parts: &mut Vec<Part>) -> Result<(), Error> {
    let missing = || not_found(&relative(path, root));
    let mut at = root.to_vec();
    let below = relative(path, root);
    let steps: Vec<&[u8]> = names(&below).collect();
    for (i, step) in steps.iter().enumerate() {
        at = join(&at, step);
        let item = source.lstat(&at)?.ok_or_else(missing)?;
        let last = i + 1 == steps.len();
        if !last && !item.entry.is_dir() {
            return Err(missing());
        }
        let is_dir = item.entry.is_dir();
        parts.push(Part::new(item, root, last));
        if last && is_dir {
            walk(source, root, &at, parts)?;
        }
    }
    Ok(())
}

fn exclude_parents(parts: &mut Vec<Part>, exclude: Option<&dyn Ignore>) {
    let Some(exclude) = exclude else { return };
    for part in parts.iter_mut() {
        part.whole &= !exclude.excludes(part.path());
    }
    keep_needed(parts);
}

/// Whether the pick is a single file that may be an archive.
pub(super) fn is_file(item: &Item) -> bool {
    matches!(item.entry.kind, Kind::File { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaned_paths() {
        for (path, wanted) in
            [("a/b", "a/b"), ("./a//b/", "a/b"), ("../a", "a"), ("a/../../b", "b"), ("/", ""), (".", ""), ("a/..", "")]
        {
            assert_eq!(clean(path.as_bytes()), wanted.as_bytes(), "{path}");
        }
    }
}
