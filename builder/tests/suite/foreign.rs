//! Archives as others write them: what `docker build` makes of them, ADD does.

use crate::copy::{base, context, run, show, tar};
use crate::hostile::{extension, pax, raw};
use builder::copy::Context;
use builder::layer::View;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What ADD makes of an archive in a directory, or why not.
fn added(bytes: &[u8], destination: &str) -> Result<String, String> {
    let root = context("");
    fs::write(root.path().join("a"), bytes).unwrap();
    added_from(root.path(), "a", destination)
}

fn added_from(root: &Path, archive: &str, destination: &str) -> Result<String, String> {
    let source = Context::open(root, &(), None).unwrap();
    let layer = run(&source, &View::empty(), &format!("{archive} {destination}"), true);
    layer.map(|layer| show(&layer)).map_err(|error| error.to_string())
}

#[test]
fn sparse_files_are_written_out() {
    let root = context("in/plain");
    let hole = fs::File::create(root.path().join("in/hole")).unwrap();
    let holey = fs::File::create(root.path().join("in/holey")).unwrap();
    hole.set_len(100_000).unwrap();
    let written = |at: u64, bytes: &[u8]| std::os::unix::fs::FileExt::write_all_at(&holey, bytes, at).unwrap();
    written(0, &[b'a'; 4096]);
    written(1 << 20, b"end of a piece");
    holey.set_len(3 << 20).unwrap();
    let mut indexes = Vec::new();
    let versions = ["--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"];
    for (number, version) in versions.iter().map(Some).chain([None]).enumerate() {
        let (name, mut args) = (format!("{number}.tar"), vec!["--format=posix", "--owner=0", "--group=0"]);
        args.extend(version.map(|version| ["--sparse", version]).into_iter().flatten());
        args.extend(["--sort=name", "-cf", &name, "-C", "in", "."]);
        tar(&args, root.path());
        let source = Context::open(root.path(), &(), None).unwrap();
        let layer = run(&source, &View::empty(), &format!("{name} /x/"), true).unwrap();
        assert_eq!(show(&layer), "x/* x/hole x/holey x/plain", "{version:?}");
        let size = fs::metadata(root.path().join(&name)).unwrap().len();
        assert_eq!(size < 1 << 20, version.is_some(), "{size} bytes with {version:?}");
        indexes.push(layer.index);
    }
    assert!(indexes.iter().all(|index| *index == indexes[3]), "the same contents, whoever leaves zeros out");
}

fn packed(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let child = child.as_mut().unwrap_or_else(|error| panic!("{program}: {error}: is it installed?"));
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), bytes).unwrap();
    let mut packed = Vec::new();
    std::io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut packed).unwrap();
    assert!(child.wait().unwrap().success(), "{program}");
    packed
}

#[test]
fn what_follows_the_end_of_an_archive_means_nothing() {
    let archive = [raw(b"f", b'0', b"", 2, b"hi"), vec![0; 1024]].concat();
    for program in ["cat", "gzip", "bzip2", "xz", "zstd"] {
        let whole = if program == "cat" { archive.clone() } else { packed(program, &archive) };
        for behind in [&b""[..], b"garbage", &[0; 512]] {
            let bytes = [&whole, behind].concat();
            assert_eq!(added(&bytes, "/x/").as_deref(), Ok("x/* x/f"), "{program} {behind:?}");
        }
    }
    // A sum at the end is not waited for, but what belongs to the archive is.
    let gzip = packed("gzip", &archive);
    assert_eq!(added(&gzip[..gzip.len() - 8], "/x/").as_deref(), Ok("x/* x/f"));
    let broken = added(&[&archive[..1000]].concat(), "/x/").unwrap_err();
    assert!(broken.contains("it ends inside"), "{broken}");
}

#[test]
fn zstd_may_begin_with_a_frame_to_skip() {
    let archive = packed("zstd", &[raw(b"f", b'0', b"", 2, b"hi"), vec![0; 1024]].concat());
    let skipped = b"\x50\x2a\x4d\x18\x04\0\0\0skip";
    assert_eq!(added(&[&skipped[..], &archive].concat(), "/x/").as_deref(), Ok("x/* x/f"));
    assert_eq!(added(&[&archive, &skipped[..]].concat(), "/x/").as_deref(), Ok("x/* x/f"));
}

#[test]
fn headers_mean_what_they_mean_to_go() {
    let file = || raw(b"f", b'0', b"", 0, b"");
    let mut star = raw(b"f", b'0', b"", 0, b"");
    star[345..348].copy_from_slice(b"dir");
    star[476..484].copy_from_slice(b"00000000"); // when it was read, where others have more of the name
    star[508..512].copy_from_slice(b"tar\0");
    star[148..156].fill(b' ');
    let sum: u32 = star[..512].iter().map(|byte| u32::from(*byte)).sum();
    star[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for (what, archive, wanted) in [
        ("global records", [extension(b'g', "path=other"), extension(b'g', "mtime=7"), file()].concat(), Ok("x/* x/f")),
        ("a value that is none", pax("path=", file()), Ok("x/* x/f")),
        ("an owner that is none", pax("uid=", file()), Ok("x/* x/f")),
        ("an owner", pax("uid=7", file()), Ok("x/* x/f:7")),
        ("a file with a slash", raw(b"f/", b'0', b"", 0, b""), Ok("x/* x/f")),
        ("a directory of old", raw(b"f/", 0, b"", 0, b""), Ok("x/* x/f/:644")),
        ("a file of old", raw(b"f", 0, b"", 0, b""), Ok("x/* x/f")),
        ("the destination itself", raw(b"./", b'5', b"", 0, b""), Ok("x/*")),
        ("a name that is none", [raw(b"", b'0', b"", 0, b""), file()].concat(), Ok("x/* x/f")),
        ("the root", raw(b"/", b'5', b"", 0, b""), Ok("x/:644")),
        ("a name of star", star, Ok("x/* x/dir/* x/dir/f")),
        (
            "a link to itself",
            raw(b"f", b'1', b"f", 0, b""),
            Err("a hard link to a file that the archive does not hold"),
        ),
    ] {
        match (added(&archive, "/x/"), wanted) {
            (Err(error), Err(wanted)) => assert!(error.contains(wanted), "{what}: {error}"),
            (found, wanted) => assert_eq!(found.as_deref().ok(), wanted.ok(), "{what}: {found:?}"),
        }
    }
    assert_eq!(added(&raw(b"/", b'5', b"", 0, b""), "/").as_deref(), Ok(""), "no layer says anything of it");
}

#[test]
fn times_before_1970_are_1970() {
    let root = context("");
    for (number, (time, wanted)) in
        [("-5.5", 0), ("-1", 0), ("0", 0), ("1.9", 1), ("9223372036", 9_223_372_036), ("9223372037", 0)]
            .iter()
            .enumerate()
    {
        let name = format!("{number}.tar");
        let archive = pax(&format!("mtime={time}"), raw(b"f", b'0', b"", 0, b""));
        fs::write(root.path().join(&name), archive).unwrap();
        let source = Context::open(root.path(), &(), None).unwrap();
        let layer = run(&source, &base(""), &format!("{name} /"), true).unwrap();
        assert_eq!(layer.index.find(b"f").unwrap().mtime, *wanted, "{time}");
    }
}
