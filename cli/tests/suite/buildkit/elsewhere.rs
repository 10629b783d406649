//! What Dockerfiles fetch: a web of a few pages, and a git repository.

use std::fs;
use std::path::Path;

use fixtures::http::{Received, Reply};

use crate::contexts::git;

/// What the web has: `/f` with a time, `/a.tar` without one, and `/moved` elsewhere.
pub fn page(request: &Received) -> Reply {
    let time = || ("last-modified", "Thu, 01 Jan 2015 00:00:00 GMT".to_owned());
    match request.target.split('?').next().unwrap_or_default() {
        "/f" | "/dir/f.txt" => (200, vec![time()], "content\n".to_owned()),
        "/untimed" => (200, Vec::new(), "content\n".to_owned()),
        "/named" => (
            200,
            vec![("content-disposition", "attachment; filename=\"other.txt\"".to_owned()), time()],
            "content\n".to_owned(),
        ),
        "/a.tar" => (200, vec![time()], archive()),
        "/moved" => (302, vec![("location", "/dir/f.txt".to_owned())], String::new()),
        "/" => (200, vec![time()], "root\n".to_owned()),
        _ => (404, Vec::new(), "there is no such page\n".to_owned()),
    }
}

/// A tar of one file.
fn archive() -> String {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o640);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1_400_000_000);
    header.set_size(3);
    tar.append_data(&mut header, "in/side", &b"abc"[..]).unwrap();
    String::from_utf8(tar.into_inner().unwrap()).expect("a tar of plain text is text")
}

/// A repository with a tag, a directory, a link and a program; gives the commit.
pub fn repository(path: &Path) -> String {
    fs::create_dir_all(path.join("sub")).unwrap();
    git(path, &["init", "-q", "-b", "main"]);
    fs::write(path.join("f"), "one\n").unwrap();
    fs::write(path.join("sub/g"), "g\n").unwrap();
    fs::write(path.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(path.join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("sub/g", path.join("link")).unwrap();
    fs::write(path.join(".gitattributes"), "*.x text\n").unwrap();
    git(path, &["add", "-A"]);
    git(path, &["commit", "-q", "-m", "one"]);
    git(path, &["tag", "v1"]);
    fs::write(path.join("f"), "two\n").unwrap();
    git(path, &["commit", "-q", "-a", "-m", "two"]);
    git(path, &["rev-parse", "HEAD"])
}
