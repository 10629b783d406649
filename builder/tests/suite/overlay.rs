//! Unpacked layers under a real overlayfs, and what steps leave in its upper directory. These need root
//! to mount (`privileged_*`); the rest unpacks as whoever runs them.

use builder::layer::diff::{self, diff};
use builder::layer::entry::{CAPABILITY, Entry, Kind};
use builder::layer::pipeline::Options;
use builder::layer::read::Limits;
use builder::layer::unpack::{self, Marks, OWNER, Ownership, Unpacked, unpack};
use builder::layer::{ContentHash, Pipeline, View};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

fn file(path: &str, content: &str) -> (Entry, Vec<u8>) {
    let kind = Kind::File { size: content.len() as u64, hash: ContentHash::EMPTY };
    (at(Entry::new(path, kind, 0o644)), content.into())
}

fn dir(path: &str) -> (Entry, Vec<u8>) {
    (at(Entry::new(path, Kind::Directory, 0o755)), Vec::new())
}

fn node(path: &str, kind: Kind, mode: u32) -> (Entry, Vec<u8>) {
    (at(Entry::new(path, kind, mode)), Vec::new())
}

fn gone(path: &str) -> (Entry, Vec<u8>) {
    (Entry::whiteout(path), Vec::new())
}

fn at(entry: Entry) -> Entry {
    Entry { mtime: 1_000_000_000, ..entry }
}

fn blob(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut pipeline = Pipeline::new(Vec::new(), Options::default()).unwrap();
    for (entry, content) in entries {
        pipeline.add(entry.clone(), &mut content.as_slice()).unwrap();
    }
    pipeline.finish().unwrap().1
}

fn options(ownership: Ownership) -> unpack::Options {
    unpack::Options { ownership, marks: Marks::Trusted, limits: Limits::default() }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn half_a_layer_is_never_seen() {
    let home = tempfile::tempdir().unwrap();
    let whole = blob(&[file("a", "x"), dir("d"), file("d/b", "y")]);
    let cut = &whole[..whole.len() / 2];
    assert!(unpack(cut, &home.path().join("l"), &options(Ownership::Recorded)).is_err());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    unpack(&whole[..], &home.path().join("l"), &options(Ownership::Recorded)).unwrap();
    // A second one that comes later leaves the first in place.
    unpack(&whole[..], &home.path().join("l"), &options(Ownership::Recorded)).unwrap();
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    assert_eq!(fs::read(home.path().join("l/root/d/b")).unwrap(), b"y");
}

#[test]
fn modes_times_and_contents() {
    let home = tempfile::tempdir().unwrap();
    let mut closed = dir("closed");
    closed.0.mode = 0o500;
    let mut special = file("closed/setuid", "#!");
    special.0.mode = 0o4751;
    let entries = [
        closed,
        special,
        node("closed/link", Kind::Symlink(b"/etc/passwd".to_vec()), 0o777),
        node("closed/hard", Kind::Hardlink(b"closed/setuid".to_vec()), 0o4751),
        node("pipe", Kind::Fifo, 0o620),
        file("implied/deep/f", "z"),
    ];
    let Unpacked { root, index, side, .. } =
        unpack(&blob(&entries)[..], &home.path().join("l"), &options(Ownership::Recorded)).unwrap();
    let meta = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
    assert_eq!(meta("closed").mode() & 0o7777, 0o500);
    assert_eq!(meta("closed/setuid").mode() & 0o7777, 0o4751);
    assert_eq!(meta("pipe").mode() & 0o7777, 0o620);
    assert_eq!(meta("closed/hard").ino(), meta("closed/setuid").ino());
    assert_eq!(fs::read_link(root.join("closed/link")).unwrap(), Path::new("/etc/passwd"));
    for path in ["closed", "closed/setuid", "closed/link", "pipe", "implied/deep/f"] {
        assert_eq!((meta(path).mtime(), meta(path).mtime_nsec()), (1_000_000_000, 0), "{path}");
    }
    // What the layer does not name depends on neither umask nor clock.
    for path in ["", "implied"] {
        assert_eq!((meta(path).mode() & 0o7777, meta(path).mtime()), (0o755, 0), "{path}");
    }
    assert!(index.find(b"implied/deep/f").is_some());
    assert_eq!(side, unpack::side(&home.path().join("l")).unwrap());
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn owners_are_recorded_where_they_cannot_be_given() {
    let home = tempfile::tempdir().unwrap();
    let owned = |(entry, content): (Entry, Vec<u8>)| (Entry { uid: 5, gid: 60, ..entry }, content);
    let entries = [
        owned(dir("d")),
        owned(file("d/f", "x")),
        file("d/root", "x"),
        owned(node("d/l", Kind::Symlink(b"f".to_vec()), 0o777)),
    ];
    let done = unpack(&blob(&entries)[..], &home.path().join("l"), &options(Ownership::Recorded)).unwrap();
    let owner = |path: &str| {
        let mut value = [0; 32];
        let size = rustix::fs::lgetxattr(done.root.join(path), OWNER, &mut value[..]).ok()?;
        Some(String::from_utf8_lossy(&value[..size]).into_owned())
    };
    assert_eq!(owner("d").as_deref(), Some("5:60"));
    assert_eq!(owner("d/f").as_deref(), Some("5:60"));
    assert_eq!(owner("d/root"), None);
    assert_eq!(done.side.find(b"d/l").map(|e| (e.uid, e.gid)), Some((5, 60)));
    assert_eq!(done.side.find(b"d/f"), None);
    // The same is read back when the directory is an upper one.
    let entries = changes(&done.root, &View::empty(), Ownership::Recorded);
    let found = entries.iter().find(|e| e.path == b"d/f").unwrap();
    assert_eq!((found.uid, found.gid), (5, 60));
}

#[test]
fn attributes_that_would_steer_overlayfs_are_not_set() {
    let home = tempfile::tempdir().unwrap();
    let mut evil = dir("d");
    evil.0.xattrs = vec![(b"user.overlay.opaque".to_vec(), b"y".to_vec()), (b"user.x".to_vec(), b"1".to_vec())];
    let done = unpack(&blob(&[evil])[..], &home.path().join("l"), &options(Ownership::Recorded)).unwrap();
    let mut value = [0; 8];
    assert!(rustix::fs::lgetxattr(done.root.join("d"), "user.overlay.opaque", &mut value[..]).is_err());
    assert_eq!(rustix::fs::lgetxattr(done.root.join("d"), "user.x", &mut value[..]), Ok(1));
    assert!(done.side.find(b"d").is_some());
}

#[test]
fn links_of_a_layer_lead_nowhere_outside() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("outside")).unwrap();
    let target = home.path().join("outside").into_os_string().into_encoded_bytes();
    for target in [target, b"../../outside".to_vec()] {
        let layer = blob(&[node("a", Kind::Symlink(target), 0o777), file("a/f", "x")]);
        let dest = home.path().join("l");
        unpack(&layer[..], &dest, &options(Ownership::Recorded)).unwrap();
        assert_eq!(fs::read_dir(home.path().join("outside")).unwrap().count(), 0);
        fs::remove_dir_all(dest).unwrap();
    }
    let layer = blob(&[node("a", Kind::Hardlink(b"b".to_vec()), 0o644)]);
    let error = unpack(&layer[..], &home.path().join("l"), &options(Ownership::Recorded)).unwrap_err();
    assert!(error.to_string().contains("/a: a hard link to /b, which is not in the same layer"), "{error}");
}

fn changes(upper: &Path, lower: &View, ownership: Ownership) -> Vec<Entry> {
    let mut pipeline = Pipeline::new(Vec::new(), Options::default()).unwrap();
    diff(upper, lower, &diff::Options { ownership, marks: Marks::Trusted }, &mut pipeline).unwrap();
    let (_, blob) = pipeline.finish().unwrap();
    // From the tar, not from the index: the order and every entry count.
    let mut reader =
        builder::layer::read::Reader::open(&blob[..], builder::layer::read::Names::Layer, Limits::default()).unwrap();
    std::iter::from_fn(|| reader.next_entry().unwrap()).collect()
}

/// A mounted overlay, taken down at the end.
struct Overlay {
    home: tempfile::TempDir,
}

impl Overlay {
    fn mount(layers: &[PathBuf]) -> Self {
        assert!(is_root(), "mounting an overlay needs root: run the tests as root, or skip privileged_*");
        let home = tempfile::tempdir().unwrap();
        for name in ["upper", "work", "merged"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        let lower: Vec<String> = layers.iter().rev().map(|path| path.display().to_string()).collect();
        let at = home.path().display();
        let options = format!(
            "lowerdir={},upperdir={at}/upper,workdir={at}/work,index=off,metacopy=off,redirect_dir=off",
            lower.join(":")
        );
        let done = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options])
            .arg(home.path().join("merged"))
            .status()
            .expect("mount, of the package mount");
        assert!(done.success(), "mount of an overlay failed; is the temporary directory itself on one?");
        Self { home }
    }

    fn merged(&self) -> PathBuf {
        self.home.path().join("merged")
    }

    fn upper(&self) -> PathBuf {
        self.home.path().join("upper")
    }

    fn sh(&self, script: &str) {
        let status = Command::new("sh").args(["-ec", script]).current_dir(self.merged()).status().unwrap();
        assert!(status.success(), "{script}");
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(self.merged()).status();
        assert!(std::thread::panicking() || done.is_ok_and(|status| status.success()));
    }
}

fn base() -> Vec<(Entry, Vec<u8>)> {
    vec![
        dir("d"),
        file("d/a", "a"),
        file("d/b", "b"),
        dir("d/sub"),
        file("d/sub/x", "x"),
        dir("e"),
        file("e/f", "f"),
        node("e/link", Kind::Symlink(b"f".to_vec()), 0o777),
        file("top", "top"),
    ]
}

fn show(entries: &[Entry]) -> String {
    let line = |e: &Entry| {
        let path = String::from_utf8_lossy(&e.path);
        match &e.kind {
            Kind::Directory => format!("{path}/"),
            Kind::Whiteout => format!("-{path}"),
            Kind::Hardlink(to) => format!("{path}={}", String::from_utf8_lossy(to)),
            Kind::Symlink(to) => format!("{path}@{}", String::from_utf8_lossy(to)),
            Kind::Char(major, minor) => format!("{path}:{major}:{minor}"),
            Kind::Fifo => format!("{path}|"),
            _ => path.into_owned(),
        }
    };
    entries.iter().map(line).collect::<Vec<_>>().join(" ")
}

/// One row per rule of BuildKit's differ: what a step does, and the entries of its layer.
#[test]
fn privileged_changes_are_what_buildkit_writes() {
    let home = tempfile::tempdir().unwrap();
    let lower = unpack(&blob(&base())[..], &home.path().join("l"), &options(Ownership::Real)).unwrap();
    let view = View::empty().with(&lower.index);
    for (step, wanted) in [
        ("true", ""),
        ("echo new > top", "top"),
        ("echo new > d/new", "d/ d/new"),
        ("mkdir -p z/y", "z/ z/y/"),
        ("chmod 700 d", "d/"),
        ("touch d", ""),
        ("chmod 600 d/sub/x", "d/ d/sub/ d/sub/x"),
        // The same content with the same time: nothing changed.
        ("cp -p top t; mv t top", ""),
        ("printf tup > top; touch -d @1000000000 top", "top"),
        ("rm top", "-top"),
        ("rm -r d", "-d"),
        ("rm d/a", "d/ -d/a"),
        ("touch n; rm n", ""),
        // A directory made anew is opaque: what vanished is spelled out.
        ("rm -r d; mkdir d; echo > d/c", "d/ -d/a -d/b d/c -d/sub"),
        ("rm -r d; mkdir d; echo > d/b", "d/ -d/a d/b -d/sub"),
        ("rm -r d; mkdir -p d/sub; echo > d/sub/y", "d/ -d/a -d/b d/sub/ -d/sub/x d/sub/y"),
        ("rm -r d; echo > d", "d"),
        ("rm top; mkdir top; echo > top/in", "top/ top/in"),
        ("ln -s /etc/passwd s", "s@/etc/passwd"),
        ("rm e/link; ln -s f e/link; touch -h -d @1000000000 e/link", ""),
        ("rm e/link; ln -s g e/link", "e/ e/link@g"),
        // Links: the first name carries the data; to an unchanged file of below it is a copy.
        ("echo > p; ln p o; ln p q", "o p=o q=o"),
        ("ln top copy", "copy"),
        ("ln top copy; echo > copy", "copy top=copy"),
        ("mkfifo pipe; mknod null c 1 3", "null:1:3 pipe|"),
        ("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'", ""),
        ("mkdir a-b a; echo > a/x; echo > a.c", "a/ a/x a-b/ a.c"),
    ] {
        let overlay = Overlay::mount(std::slice::from_ref(&lower.root));
        overlay.sh(step);
        assert_eq!(show(&changes(&overlay.upper(), &view, Ownership::Real)), wanted, "{step}");
    }
}

#[test]
fn privileged_capabilities_are_kept() {
    let overlay = Overlay::mount(&[tempfile::tempdir().unwrap().keep()]);
    let path = overlay.merged().join("ping");
    fs::write(&path, "x").unwrap();
    let value = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    rustix::fs::setxattr(&path, "security.capability", value, rustix::fs::XattrFlags::empty()).unwrap();
    let entries = changes(&overlay.upper(), &View::empty(), Ownership::Real);
    assert_eq!(entries[0].xattrs, [(CAPABILITY.to_vec(), value.to_vec())]);
    let home = tempfile::tempdir().unwrap();
    let done =
        unpack(&blob(&[(entries[0].clone(), b"x".to_vec())])[..], &home.path().join("l"), &options(Ownership::Real))
            .unwrap();
    let mut read = [0; 64];
    let size = rustix::fs::getxattr(done.root.join("ping"), "security.capability", &mut read[..]).unwrap();
    assert_eq!(&read[..size], value);
}

/// What an overlay of unpacked layers shows is what the view of their indexes says.
#[test]
fn privileged_views_equal_overlays() {
    let home = tempfile::tempdir().unwrap();
    let layers = [
        base(),
        vec![gone("d/a"), gone("e"), file("top", "changed"), dir("n"), file("n/1", "1")],
        vec![
            node("d", Kind::Opaque, 0),
            dir("d"),
            file("d/only", "o"),
            dir("e"),
            file("e/again", "g"),
            gone("n"),
            dir("n"),
            file("n/2", "2"),
            node("dev", Kind::Char(1, 3), 0o666),
        ],
    ];
    let mut view = View::empty();
    let mut roots = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let dest = home.path().join(i.to_string());
        let done = unpack(&blob(layer)[..], &dest, &options(Ownership::Real)).unwrap();
        view = view.with(&done.index);
        roots.push(done.root);
    }
    let overlay = Overlay::mount(&roots);
    let mut seen = Vec::new();
    walk(&overlay.merged(), Path::new(""), &mut seen);
    let known: Vec<(String, u32)> =
        view.nodes().iter().map(|n| (String::from_utf8_lossy(n.path()).into_owned(), n.entry.mode)).collect();
    let mut sorted = known.clone();
    sorted.sort();
    seen.sort();
    assert_eq!(seen, sorted);
    assert_eq!(
        known.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
        ["d", "d/only", "dev", "e", "e/again", "n", "n/2", "top"]
    );
    for node in view.nodes().iter().filter(|n| matches!(n.entry.kind, Kind::File { .. })) {
        let path = String::from_utf8_lossy(node.path()).into_owned();
        let content = fs::read(overlay.merged().join(&path)).unwrap();
        let Kind::File { hash, .. } = node.entry.kind else { continue };
        assert_eq!(hash, ContentHash::of(&content), "{path}");
    }
}

fn walk(root: &Path, dir: &Path, seen: &mut Vec<(String, u32)>) {
    for found in fs::read_dir(root.join(dir)).unwrap() {
        let path = dir.join(found.unwrap().file_name());
        let meta = fs::symlink_metadata(root.join(&path)).unwrap();
        seen.push((path.display().to_string(), meta.mode() & 0o7777));
        if meta.is_dir() {
            walk(root, &path, seen);
        }
    }
}

/// A layer that does not name its directories leaves those of the layers below as they are.
#[test]
fn privileged_implied_directories_show_what_is_below() {
    let home = tempfile::tempdir().unwrap();
    let mut shared = dir("tmp");
    shared.0.mode = 0o1777;
    shared.0.gid = 7;
    let below = unpack(&blob(&[shared])[..], &home.path().join("0"), &options(Ownership::Real)).unwrap();
    let view = View::empty().with(&below.index);
    let careless = blob(&[file("tmp/x", "x"), file("new/y", "y")]);
    let above = unpack::unpack_over(&careless[..], &home.path().join("1"), &options(Ownership::Real), &view).unwrap();
    assert!(above.index.has_implied() && !below.index.has_implied());
    let overlay = Overlay::mount(&[below.root, above.root]);
    let meta = fs::metadata(overlay.merged().join("tmp")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.gid(), meta.mtime()), (0o1777, 7, 1_000_000_000));
    assert_eq!(view.with(&above.index).lstat(b"tmp").unwrap().entry.mode, 0o1777);
}

/// The same tree in a user namespace with one id, as an ordinary user has it: runs this test program
/// again through `unshare`.
#[test]
fn user_namespaces_with_one_id() {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = home.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let inner = ["--exact", "overlay::inside_a_user_namespace", "--ignored", "--nocapture"];
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "unshare"]);
        command
    } else {
        Command::new("unshare")
    };
    let out = command
        .args(["-Urm", "--propagation=private"])
        .arg(&program)
        .args(inner)
        .env("TMPDIR", home.path())
        .current_dir(home.path())
        .output()
        .expect("setpriv and unshare, of the package util-linux");
    let text = String::from_utf8_lossy(&out.stdout);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("1 passed"), "{text}{errors}");
}

#[test]
#[ignore = "user_namespaces_with_one_id runs it, in a user namespace"]
fn inside_a_user_namespace() {
    let home = tempfile::tempdir().unwrap();
    let user = unpack::Options { ownership: Ownership::Recorded, marks: Marks::User, limits: Limits::default() };
    let mut owned = file("e/owned", "x");
    (owned.0.uid, owned.0.gid) = (5, 60);
    let layers = [
        blob(&base()),
        blob(&[gone("top"), node("d", Kind::Opaque, 0), dir("d"), file("d/only", "o"), owned]),
        blob(&[node("dev", Kind::Char(1, 3), 0o666)]),
    ];
    let done: Vec<Unpacked> = (0..)
        .zip(&layers)
        .map(|(i, blob)| unpack(&blob[..], &home.path().join(i.to_string()), &user).unwrap())
        .collect();
    // Real owners cannot be given here.
    let real = unpack::Options { ownership: Ownership::Real, ..user };
    assert!(unpack(&layers[1][..], &home.path().join("real"), &real).is_err());
    // Neither can devices be made: empty files say what they stand for.
    let placeholder = done[2].root.join("dev");
    let mut says = [0; 16];
    let length = rustix::fs::lgetxattr(&placeholder, "user.lighter.device", &mut says).unwrap();
    assert_eq!((&says[..length], fs::read(&placeholder).unwrap().len()), (&b"c 1:3"[..], 0));
    let view = View::of(done[..2].iter().map(|layer| &layer.index));
    for name in ["upper", "work", "merged"] {
        fs::create_dir(home.path().join(name)).unwrap();
    }
    let at = home.path().display();
    let script = format!(
        "mount -t overlay o -o lowerdir={at}/1/root:{at}/0/root,upperdir={at}/upper,workdir={at}/work,userxattr {at}/merged
         cd {at}/merged; find . -mindepth 1 | sort
         rm d/only e/f; rm -r d; mkdir d; echo > d/new; chmod 600 e/owned
         cd /; umount {at}/merged"
    );
    let out = Command::new("sh").args(["-ec", &script]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let listed = String::from_utf8_lossy(&out.stdout).replace("./", "");
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["d", "d/only", "e", "e/f", "e/link", "e/owned"]);
    let mut pipeline = Pipeline::new(Vec::new(), Options::default()).unwrap();
    let how = diff::Options { ownership: Ownership::Recorded, marks: Marks::User };
    diff(&home.path().join("upper"), &view, &how, &mut pipeline).unwrap();
    let layer = pipeline.finish().unwrap().0;
    let entries: Vec<Entry> = layer.index.entries().iter().map(|e| Entry::clone(e)).collect();
    assert_eq!(show(&entries), "d/ d/new -d/only e/ -e/f e/owned");
    assert_eq!((entries[5].uid, entries[5].gid), (5, 60));
}

#[test]
fn replaced_entries_unpack_as_the_index_says() {
    let home = tempfile::tempdir().unwrap();
    let layer = blob(&[
        dir("a"),
        file("a/x", "1"),
        file("a", "now a file"),
        file("b", "1"),
        dir("b"),
        file("b/x", "2"),
        file("c", "first"),
        file("c", "second"),
    ]);
    let done = unpack(&layer[..], &home.path().join("l"), &options(Ownership::Recorded)).unwrap();
    let mut seen = Vec::new();
    walk(&done.root, Path::new(""), &mut seen);
    seen.sort();
    let view = View::empty().with(&done.index);
    let known: Vec<_> =
        view.nodes().iter().map(|n| (String::from_utf8_lossy(n.path()).into_owned(), n.entry.mode)).collect();
    assert_eq!(seen, known);
    assert_eq!(fs::read(done.root.join("c")).unwrap(), b"second");
}
