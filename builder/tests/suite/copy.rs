//! The rules of COPY and ADD, one row each, on real directories. What is expected was observed from
//! BuildKit, or follows from the code that does it there (fsutil's `copy` package).

use builder::copy::{
    Chmod, Contents, Context, Error, Ignore, Inline, Known, Options, Owner, Source, Stage, Target, place, select,
};
use builder::layer::entry::{Entry, Kind};
use builder::layer::pipeline;
use builder::layer::{ContentHash, Layer, Pipeline, View};
use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

const SOURCE_TIME: i64 = 1_485_449_953;
const BASE_TIME: i64 = 1_000_000_000;
const NOW: i64 = 2_000_000_000;

/// A context: `a/b` is a file that holds its own name, `a/` a directory, `a@b` a link, `a=b` a hard link;
/// `:600` gives a mode.
pub(super) fn context(paths: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for word in paths.split_whitespace() {
        let (word, mode) = word.split_once(':').map_or((word, None), |(word, mode)| (word, Some(mode)));
        let at = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        let path = if let Some(dir) = word.strip_suffix('/') {
            fs::create_dir_all(at(dir)).unwrap();
            at(dir)
        } else if let Some((path, target)) = word.split_once('@') {
            symlink(target, at(path)).unwrap();
            at(path)
        } else if let Some((path, target)) = word.split_once('=') {
            fs::hard_link(at(target), at(path)).unwrap();
            at(path)
        } else {
            fs::write(at(word), word).unwrap();
            at(word)
        };
        if let Some(mode) = mode {
            fs::set_permissions(path, fs::Permissions::from_mode(u32::from_str_radix(mode, 8).unwrap())).unwrap();
        }
    }
    settle(root.path());
    root
}

/// Gives everything the same time and the modes of umask 022, children first.
fn settle(path: &Path) {
    let script = format!("find . -depth -exec touch -h -d @{SOURCE_TIME} {{}} +");
    assert!(Command::new("sh").args(["-ec", &script]).current_dir(path).status().unwrap().success());
}

/// A base tree in the same words.
pub(super) fn base(paths: &str) -> View {
    let mut layer = Pipeline::new(Vec::new(), pipeline::Options::default()).unwrap();
    for word in paths.split_whitespace() {
        let (path, kind, mode) = if let Some(dir) = word.strip_suffix('/') {
            (dir, Kind::Directory, 0o755)
        } else if let Some((path, target)) = word.split_once('@') {
            (path, Kind::Symlink(target.into()), 0o777)
        } else {
            (word, Kind::File { size: word.len() as u64, hash: ContentHash::EMPTY }, 0o644)
        };
        let entry = Entry { mtime: BASE_TIME, ..Entry::new(path, kind, mode) };
        layer.add(entry, &mut word.as_bytes()).unwrap();
    }
    View::empty().with(&layer.finish().unwrap().0.index)
}

/// `--flag=value` words, sources and a destination, as an instruction has them.
pub(super) fn run(source: &dyn Source, view: &View, words: &str, unpack: bool) -> Result<Layer, Error> {
    let (flags, paths): (Vec<&str>, Vec<&str>) = words.split_whitespace().partition(|word| word.starts_with("--"));
    let flag = |name: &str| flags.iter().find_map(|flag| flag.strip_prefix(name));
    let (dest, sources) = paths.split_last().unwrap();
    let patterns: Vec<(&dyn Source, &[u8])> = sources.iter().map(|path| (source, path.as_bytes())).collect();
    let exclude = flag("--exclude=").map(Named);
    let exclude = exclude.as_ref().map(|e| e as &dyn Ignore);
    let options = Options { exclude, parents: flag("--parents").is_some(), ..Options::default() };
    let selection = select(&patterns, options)?.hash(2)?;
    let chmod: Option<Chmod> = flag("--chmod=").map(str::parse).transpose()?;
    let owner = flag("--chown=").map(|id| id.parse().unwrap()).map(|id| Owner { uid: id, gid: id });
    let scratch = std::env::temp_dir();
    let target = Target {
        path: dest.as_bytes(),
        owner,
        chmod: chmod.as_ref(),
        unpack,
        now: NOW,
        scratch: &scratch,
        limits: Default::default(),
    };
    let placed = place(&selection, &target, view)?;
    let mut layer = Pipeline::new(io::sink(), pipeline::Options::default())?;
    placed.write(&mut layer)?;
    Ok(layer.finish()?.0)
}

/// Excludes one name, wherever it is.
struct Named<'a>(&'a str);

impl Ignore for Named<'_> {
    fn excludes(&self, path: &[u8]) -> bool {
        path.split(|&b| b == b'/').any(|name| name == self.0.as_bytes())
    }
    fn may_include_below(&self, _: &[u8]) -> bool {
        false
    }
}

/// Entries in words: mode and owner where they are not the usual ones, `*` behind what is new or touched,
/// `°` behind what keeps the base's time.
pub(super) fn show(layer: &Layer) -> String {
    let word = |entry: &Entry| {
        let path = String::from_utf8_lossy(&entry.path);
        let (text, usual) = match &entry.kind {
            Kind::Directory => (format!("{path}/"), 0o755),
            Kind::Symlink(to) => (format!("{path}@{}", String::from_utf8_lossy(to)), 0o777),
            Kind::Hardlink(to) => (format!("{path}={}", String::from_utf8_lossy(to)), 0o644),
            Kind::Fifo => (format!("{path}|"), 0o644),
            _ => (path.into_owned(), 0o644),
        };
        let mode = if entry.mode == usual { String::new() } else { format!(":{:o}", entry.mode) };
        let owner = if entry.uid == 0 { String::new() } else { format!(":{}", entry.uid) };
        let time = match entry.mtime {
            NOW => "*",
            BASE_TIME => "°",
            _ => "",
        };
        format!("{text}{mode}{owner}{time}")
    };
    let named = layer.index.entries().iter().filter(|entry| entry.kind != Kind::Implicit);
    named.map(|entry| word(entry)).collect::<Vec<_>>().join(" ")
}

fn check(rows: &[(&str, &str, &str, Result<&str, &str>)], unpack: bool) {
    for (files, tree, words, wanted) in rows {
        let root = context(files);
        let source = Context::open(root.path(), &(), None).unwrap();
        let found = run(&source, &base(tree), words, unpack).map(|layer| show(&layer));
        let found = found.map_err(|error| error.to_string());
        assert_eq!(found, wanted.map(str::to_owned).map_err(str::to_owned), "COPY {words} ({files} on {tree})");
    }
}

#[test]
fn destinations() {
    check(
        &[
            ("f", "", "f /g", Ok("g")),
            ("f", "", "f /", Ok("f")),
            ("f", "", "f /d/", Ok("d/* d/f")),
            ("f", "", "f /d/.", Ok("d/* d/f")),
            ("f", "", "f /d/e/g", Ok("d/* d/e/* d/e/g")),
            ("f", "d/", "f /d", Ok("d/* d/f")),
            ("f", "d/ d/e/", "f /d/e/", Ok("d/° d/e/* d/e/f")),
            ("f", "", "f ../../x/../g", Ok("g")),
            ("f g", "", "f g /w", Ok("w")),
            ("f g", "", "f g /w/", Ok("w/* w/f w/g")),
            // A link at the destination is followed, for files and for directories.
            ("f", "etc/ etc/passwd l@/etc/passwd", "f /l", Ok("etc/* etc/passwd")),
            ("f", "real/ l@real", "f /l/", Ok("real/* real/f")),
            ("f", "l@nowhere", "f /l/sub/", Ok("nowhere/* nowhere/sub/* nowhere/sub/f")),
            ("f", "l@l", "f /l/", Err("/l: too many levels of symbolic links")),
            ("f", "file", "f /file/x", Err("/file: not a directory")),
            // But one inside of the destination is replaced.
            ("f", "d/ d/f@/etc/passwd", "f /d/", Ok("d/* d/f")),
        ],
        false,
    );
}

#[test]
fn directories() {
    check(
        &[
            // Contents are copied; a new directory has a mode of its own, but the source's time.
            ("s/f s/t/g s/t/:700", "", "s /d", Ok("d/ d/f d/t/:700 d/t/g")),
            ("s/f", "", "s /", Ok("f")),
            ("s/f", "d/", "s /d", Ok("d/ d/f")),
            // The root of a context has no time that anybody could know.
            ("f", "", ". /d", Ok("d/* d/f")),
            // Nested directories that exist take the source's mode and owner.
            ("s/t/:700 s/t/f", "d/ d/t/", "s /d", Ok("d/ d/t/:700 d/t/f")),
            ("s/t/:700", "d/ d/t/", "--chown=5 s /d", Ok("d/ d/t/:700:5")),
            ("s/", "", "s /d", Ok("d/")),
            ("s/f", "d", "s /d", Err("cannot copy to non-directory: /d")),
            ("s/x/f", "d/ d/x", "s /d", Err("cannot copy to non-directory: /d/x")),
            ("s/x/f", "r/ d/ d/x@../r", "s /d", Err("cannot copy to non-directory: /d/x")),
            ("s/x", "d/ d/x/", "s /d", Err("cannot replace to directory /d/x with file")),
        ],
        false,
    );
}

#[test]
fn sources() {
    check(
        &[
            ("f", "", "nope /d/", Err("\"/nope\": not found")),
            ("f", "", "../x /d/", Err("\"/x\": not found")),
            ("f", "", "../f /d/", Ok("d/* d/f")),
            ("f", "", "no* /d/", Ok("")),
            ("f", "", "f no* /d/", Ok("d/* d/f")),
            ("f", "", "no* nope /d/", Err("\"/nope\": not found")),
            ("a.c b.c c.h", "", "*.c /d/", Ok("d/* d/a.c d/b.c")),
            ("x/a/f y/a/f", "", "*/a /d/", Ok("d/ d/f")),
            ("x/1 y/2", "", "[xy] /d/", Ok("d/ d/1 d/2")),
            ("[x]", "", "[[]x] /d/", Ok("d/* d/[x]")),
            ("f", "", "[ /d/", Err("\"[\": syntax error in pattern")),
            // A link that is named is followed, inside of the context only; in a tree it stays a link.
            ("f l@f", "", "l /d/", Ok("d/* d/l")),
            ("t/f l@t", "", "l /d/", Ok("d/ d/f")),
            ("t/f t/l@f", "", "t /d/", Ok("d/ d/f d/l@f")),
            ("etc/passwd l@/etc/passwd", "", "l /d/", Ok("d/* d/l")),
            ("f l@../../../../f", "", "l /d/", Ok("d/* d/l")),
            ("l@/etc/hostname", "", "l /d/", Err("\"/l\": not found")),
            ("out@/etc", "", "out/hostname /d/", Err("\"/out/hostname\": not found")),
            // Names of one file stay one, within one source.
            ("t/a t/b=t/a", "", "t /d/", Ok("d/ d/a d/b=d/a")),
            ("t/a t/b=t/a", "", "t/a t/b /d/", Ok("d/* d/a d/b")),
            ("t/b t/a=t/b u/f", "", "t u /d/", Ok("d/ d/a d/b=d/a d/f")),
        ],
        false,
    );
}

#[test]
fn what_did_not_change_is_not_written() {
    let root = context("f d/f d/g");
    let source = Context::open(root.path(), &(), None).unwrap();
    for words in ["f /f", "d /x/", "f /y/z/"] {
        let first = run(&source, &View::empty(), words, false).unwrap();
        let again = run(&source, &View::empty().with(&first.index), words, false).unwrap();
        assert_eq!((show(&again).as_str(), again.tar_size), ("", 1024), "COPY {words}");
    }
}

#[test]
fn owners_and_modes() {
    check(
        &[
            ("f", "", "--chown=5 f /d/e/", Ok("d/:5* d/e/:5* d/e/f:5")),
            ("f", "d/", "--chown=5 f /d/e/", Ok("d/* d/e/:5* d/e/f:5")),
            ("s/t/f s/l@x", "", "--chown=5 s /d/", Ok("d/:5 d/l@x:5 d/t/:5 d/t/f:5")),
            // What --chmod says is also true for directories that the step makes.
            ("f", "", "--chmod=600 f /a/b/f", Ok("a/:600* a/b/:600* a/b/f:600")),
            ("f", "a/", "--chmod=600 f /a/b/f", Ok("a/* a/b/:600* a/b/f:600")),
            // But for set-uid, set-gid and sticky, which are of what is copied.
            ("s/t/f s/l@x", "", "--chmod=4711 s /d/", Ok("d/:711 d/l@x d/t/:4711 d/t/f:4711")),
            ("s/f:600 s/x:700", "", "--chmod=u=rwX,go=rX s /d/", Ok("d/ d/f d/x:755")),
            ("f:4755", "", "f /d", Ok("d:4755")),
            (
                "f",
                "",
                "--chmod=x f /d",
                Err("--chmod=x: not a mode; give it in octal (0755) or as symbols (u=rwX,go=rX)"),
            ),
        ],
        false,
    );
}

#[test]
fn parents_and_exclude() {
    check(
        &[
            ("x/a y/a", "", "--parents x/a y/a /p/", Ok("p/* p/x/* p/x/a p/y/* p/y/a")),
            ("x/y/a x/z/a", "", "--parents x/*/a /p/", Ok("p/* p/x/* p/x/y/* p/x/y/a p/x/z/* p/x/z/a")),
            ("x/y/a x/b", "", "--parents x/./y/* /p/", Ok("p/ p/y/* p/y/a")),
            ("x/y/a x/b", "", "--parents x /p/", Ok("p/* p/x/ p/x/b p/x/y/ p/x/y/a")),
            ("x/a", "", "--parents x/b /p/", Err("\"/x/b\": not found")),
            ("x/a", "", "--parents ./ /p/", Err("\"/\": not found")),
            ("s/a s/b s/t/a", "", "--exclude=a s /d/", Ok("d/ d/b d/t/")),
            ("s/a/f s/b", "", "--exclude=a s /d/", Ok("d/ d/b")),
        ],
        false,
    );
}

pub(super) fn tar(args: &[&str], dir: &Path) {
    let done = Command::new("tar").args(args).current_dir(dir).status().expect("tar, of the package tar");
    assert!(done.success(), "tar {args:?}: are bzip2, xz-utils and zstd installed?");
}

#[test]
fn archives_are_extracted_whatever_their_compression() {
    for flag in ["", "-z", "-j", "-J", "--zstd"] {
        let root = context("in/f:600 in/d/g in/l@f");
        let mut args = vec!["-cf", "a.bin", "--owner=7", "--group=7", "--sort=name", "-C", "in", "f", "d", "l"];
        if !flag.is_empty() {
            args.insert(0, flag);
        }
        tar(&args, root.path());
        let source = Context::open(root.path(), &(), None).unwrap();
        let added = run(&source, &View::empty(), "a.bin /x", true).unwrap();
        assert_eq!(show(&added), "x/* x/d/:7 x/d/g:7 x/f:600:7 x/l@f:7", "{flag}");
        let owned = run(&source, &View::empty(), "--chown=9 a.bin /x", true).unwrap();
        assert_eq!(show(&owned), "x/:9* x/d/:9 x/d/g:9 x/f:600:9 x/l@f:9", "{flag}");
        let copied = run(&source, &View::empty(), "a.bin /x", false).unwrap();
        assert_eq!(copied.index.entries().len(), 1);
    }
}

#[test]
fn archives_stay_below_their_destination() {
    let root = context("in/etc/f");
    tar(&["-cf", "a.tar", "-C", "in", "./etc/f"], root.path());
    let source = Context::open(root.path(), &(), None).unwrap();
    for (tree, wanted) in [
        ("", "x/* x/etc/* x/etc/f"),
        // The image's own links are followed with the destination as their root.
        ("x/ x/etc@/other", "x/* x/other/* x/other/f"),
        ("x/ x/etc@../../..", "x/* x/f"),
    ] {
        assert_eq!(show(&run(&source, &base(tree), "a.tar /x/", true).unwrap()), wanted, "{tree}");
    }
}

#[test]
fn what_is_no_archive_is_copied() {
    let root = context("plain empty");
    fs::write(root.path().join("empty"), [0; 1024]).unwrap();
    let gz = Command::new("gzip").args(["-kn", "plain"]).current_dir(root.path()).status().unwrap();
    assert!(gz.success());
    fs::write(root.path().join("cut.gz"), b"\x1f\x8b\x08").unwrap();
    settle(root.path());
    let source = Context::open(root.path(), &(), None).unwrap();
    for name in ["plain", "empty", "plain.gz", "cut.gz"] {
        let layer = run(&source, &View::empty(), &format!("{name} /x"), true).unwrap();
        assert_eq!(show(&layer), "x", "{name}");
    }
}

#[test]
fn hard_links_in_archives() {
    let root = context("in/b in/a=in/b in/c=in/b");
    tar(&["-cf", "a.tar", "-C", "in", "b", "a", "c"], root.path());
    let source = Context::open(root.path(), &(), None).unwrap();
    let layer = run(&source, &View::empty(), "a.tar /", true).unwrap();
    assert_eq!(show(&layer), "a b=a c=a");
    let Kind::File { hash, .. } = layer.index.find(b"a").unwrap().kind else { panic!() };
    assert_eq!(hash, ContentHash::of(b"in/b"));
}

#[test]
fn pipes_are_copied_and_sockets_refused() {
    let root = context("s/f");
    let fifo = root.path().join("s/pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    fs::set_permissions(&fifo, fs::Permissions::from_mode(0o644)).unwrap();
    settle(root.path());
    let source = Context::open(root.path(), &(), None).unwrap();
    assert_eq!(show(&run(&source, &View::empty(), "s /d", false).unwrap()), "d/ d/f d/pipe|");
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("s/socket")).unwrap();
    let error = run(&source, &View::empty(), "s /d", false).unwrap_err().to_string();
    assert!(error.starts_with("/s/socket: is a socket"), "{error}");
    // What is ignored disturbs nobody.
    let ignore = Named("socket");
    let source = Context::open(root.path(), &ignore, None).unwrap();
    assert_eq!(show(&run(&source, &View::empty(), "s/f /d", false).unwrap()), "d");
}

#[test]
fn markers_of_deletions_are_refused() {
    let root = context("s/.wh.f");
    let source = Context::open(root.path(), &(), None).unwrap();
    let error = run(&source, &View::empty(), "s /d", false).unwrap_err().to_string();
    assert!(error.contains("/d/.wh.f: names that start with `.wh.` mean deletions"), "{error}");
}

#[test]
fn ignored_files_do_not_exist() {
    let root = context("keep drop d/drop d/keep");
    let ignore = Named("drop");
    let source = Context::open(root.path(), &ignore, None).unwrap();
    assert_eq!(show(&run(&source, &View::empty(), ". /x", false).unwrap()), "x/* x/d/ x/d/keep x/keep");
    let error = run(&source, &View::empty(), "drop /x", false).unwrap_err().to_string();
    assert_eq!(error, "\"/drop\": not found");
}

#[test]
fn files_that_change_are_seen() {
    // The size stays, so only the content tells.
    let root = context("f");
    let source = Context::open(root.path(), &(), None).unwrap();
    let from: &dyn Source = &source;
    let hashed = select(&[(from, b"f")], Options::default()).unwrap().hash(1).unwrap();
    fs::write(root.path().join("f"), "F").unwrap();
    let scratch = std::env::temp_dir();
    let target = Target {
        path: b"/f",
        owner: None,
        chmod: None,
        unpack: false,
        now: NOW,
        scratch: &scratch,
        limits: Default::default(),
    };
    let placed = place(&hashed, &target, &View::empty()).unwrap();
    let mut layer = Pipeline::new(io::sink(), pipeline::Options::default()).unwrap();
    let error = placed.write(&mut layer).unwrap_err().to_string();
    assert!(error.starts_with("/f: changed while the image was built"), "{error}");
}

fn digest(root: &Path, known: Option<&Known>) -> String {
    let source = Context::open(root, &(), known).unwrap();
    let from: &dyn Source = &source;
    select(&[(from, b".")], Options::default()).unwrap().hash(4).unwrap().digest().to_string()
}

/// BuildKit compares path, size, mode and mtime, and here serves the old content.
#[test]
fn content_decides_never_the_time() {
    let root = context("f d/g");
    let old = digest(root.path(), None);
    settle(root.path());
    assert_eq!(digest(root.path(), None), old);
    Command::new("touch").arg("f").current_dir(root.path()).status().unwrap();
    assert_eq!(digest(root.path(), None), old, "a new time");
    let seen = [
        ("content", "printf F > f"),
        ("mode", "printf f > f; chmod 600 f"),
        ("name", "chmod 644 f; mv f e"),
        ("type", "mv e f; rm -r d; ln -s f d"),
    ];
    let mut digests = vec![old];
    for (what, script) in seen {
        assert!(Command::new("sh").args(["-ec", script]).current_dir(root.path()).status().unwrap().success());
        settle(root.path());
        digests.push(digest(root.path(), None));
        let mut unique = digests.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), digests.len(), "{what}");
    }
}

#[test]
fn hashes_are_remembered_but_not_of_young_files() {
    let root = context("f d/g");
    let known = Known::default();
    let first = digest(root.path(), Some(&known));
    assert_eq!(known.used(), 0, "files that were changed just now could change again within the clock's grain");
    assert_eq!(digest(root.path(), Some(&Known::from_bytes(b"not a table"))), first);
    // ctime cannot be set; the clock can.
    let known = known.with_clock(|| SystemTime::now() + Duration::from_secs(3));
    assert_eq!(digest(root.path(), Some(&known)), first);
    assert_eq!(known.used(), 2);
    let again = Known::from_bytes(&known.to_bytes());
    assert_eq!(digest(root.path(), Some(&again)), first);
    assert_eq!(again.used(), 2);
    fs::write(root.path().join("f"), "F").unwrap();
    settle(root.path());
    assert_ne!(digest(root.path(), Some(&again)), first, "same size, same mtime, other content");
}

/// The contents of one layer, by path.
struct Files(Mutex<HashMap<Vec<u8>, Vec<u8>>>);

impl Contents for Files {
    fn open(&self, layer: usize, path: &[u8]) -> io::Result<Box<dyn Read + '_>> {
        assert_eq!(layer, 0);
        let content = self.0.lock().unwrap().get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(content)))
    }
}

#[test]
fn stages_and_inline_files() {
    let view = base("etc/ etc/passwd l@/etc/passwd t/ t/a t/b");
    let names = ["etc/passwd", "t/a", "t/b"];
    let files =
        Files(Mutex::new(names.iter().map(|name| (name.as_bytes().to_vec(), name.as_bytes().to_vec())).collect()));
    let stage = Stage::new(&view, &files);
    assert_eq!(show(&run(&stage, &View::empty(), "/l /x/", false).unwrap()), "x/* x/l°");
    assert_eq!(show(&run(&stage, &View::empty(), "/t /x/", false).unwrap()), "x/° x/a° x/b°");
    assert_eq!(show(&run(&stage, &View::empty(), "/t/* /x/", false).unwrap()), "x/* x/a° x/b°");
    assert_eq!(stage.read(b"l", 100).unwrap().unwrap(), b"etc/passwd");
    assert_eq!(stage.read(b"nope", 100).unwrap(), None);
    let inline = Inline::new([(b"EOF".to_vec(), b"text\n".to_vec())], NOW);
    assert_eq!(show(&run(&inline, &View::empty(), "EOF /x/", false).unwrap()), "x/* x/EOF*");
    assert_eq!(show(&run(&inline, &View::empty(), "EOF /x", false).unwrap()), "x*");
}
