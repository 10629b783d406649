//! `lighter build` of what is no directory: tars, repositories, URLs, named images; and ADD of the same.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use fixtures::den::Den;
use fixtures::http::Scripted;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

/// A directory to work in, and a home for lighter's data.
struct Bench {
    den: Den,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let bench = Self { den: Den::new("contexts") };
        bench.write(files);
        bench
    }

    fn path(&self) -> PathBuf {
        self.den.path().join("place")
    }

    fn write(&self, files: &[(&str, &str)]) {
        std::fs::create_dir_all(self.path()).unwrap();
        for (name, content) in files {
            let path = self.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(LIGHTER);
        command.arg("build").args(arguments).current_dir(self.path());
        command.env_clear().env("HOME", self.den.path().join("home")).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    fn build(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut child = self.command(arguments);
        let mut child =
            child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("lighter starts");
        // A build that needs nothing of stdin does not read it.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        child.wait_with_output().unwrap()
    }

    /// Builds, and lists the files of the image: `MODE UID/GID NAME` each.
    fn lists(&self, arguments: &[&str], stdin: &[u8]) -> (Vec<String>, String) {
        let output = self.build(&[&["-o", "-"], arguments].concat(), stdin);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{told}");
        (list(&output.stdout), told)
    }

    fn fails(&self, arguments: &[&str], stdin: &[u8]) -> (Option<i32>, String) {
        let output = self.build(arguments, stdin);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        let data = self.den.path().join("home/.local/share/lighter");
        let places = ["tmp", "build/v1/work", "images/ingest"].map(|place| data.join(place));
        let entries = places.iter().flat_map(|place| std::fs::read_dir(place).into_iter().flatten().flatten());
        entries.map(|entry| entry.path()).filter(|path| !path.ends_with("empty")).collect()
    }
}

fn list(tar: &[u8]) -> Vec<String> {
    let mut child = Command::new("tar")
        .args(["tv", "--numeric-owner", "--full-time", "--utc"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn tar(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, content) in entries {
        let mut block = [0u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000640");
        block[108..115].copy_from_slice(b"0000012");
        block[116..123].copy_from_slice(b"0000013");
        block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        block[136..147].copy_from_slice(b"10000000000");
        block[148..156].copy_from_slice(b"        ");
        block[156] = b'0';
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        block[154] = 0;
        tar.extend_from_slice(&block);
        tar.extend_from_slice(content.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn packed(program: &str, tar: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let child = child.as_mut().unwrap_or_else(|error| panic!("{program}: {error}; install it"));
    let (mut stdin, tar) = (child.stdin.take().unwrap(), tar.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&tar).unwrap());
    let mut packed = Vec::new();
    std::io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut packed).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    packed
}

pub(super) fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", directory)
        .envs([
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_AUTHOR_DATE", "1500000000 +0000"),
            ("GIT_COMMITTER_DATE", "1500000000 +0000"),
        ])
        .envs([
            ("GIT_AUTHOR_NAME", "a"),
            ("GIT_AUTHOR_EMAIL", "a@b"),
            ("GIT_COMMITTER_NAME", "a"),
            ("GIT_COMMITTER_EMAIL", "a@b"),
        ])
        .output()
        .unwrap_or_else(|error| panic!("git: {error}; install the package git"));
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository with two commits, a tag on the first, and a directory.
fn repository(bench: &Bench) -> (PathBuf, [String; 2]) {
    let path = bench.den.path().join("repository");
    std::fs::create_dir_all(path.join("sub")).unwrap();
    git(&path, &["init", "-q", "-b", "main"]);
    let mut commits = Vec::new();
    for (number, text) in ["one", "two"].iter().enumerate() {
        std::fs::write(path.join("Dockerfile"), "FROM scratch\nCOPY f /f\n").unwrap();
        std::fs::write(path.join("f"), text).unwrap();
        std::fs::write(path.join("sub/Dockerfile"), "FROM scratch\nCOPY . /all\n").unwrap();
        std::fs::write(path.join("sub/g"), "g").unwrap();
        git(&path, &["add", "-A"]);
        git(&path, &["commit", "-q", "-m", text]);
        if number == 0 {
            git(&path, &["tag", "v1"]);
        }
        commits.push(git(&path, &["rev-parse", "HEAD"]));
    }
    (path, [commits.remove(0), commits.remove(0)])
}

/// `git daemon` for the repositories below a directory, on a port that the kernel chose.
pub(super) fn git_daemon(root: &Path) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let root = root.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let out: OwnedFd = stream.try_clone().unwrap().into();
            let mut daemon = Command::new("git");
            daemon
                .args(["daemon", "--inetd", "--export-all"])
                .arg(format!("--base-path={}", root.display()))
                .arg(&root);
            daemon.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &root).stderr(Stdio::null());
            daemon.stdin(OwnedFd::from(stream)).stdout(out);
            std::thread::spawn(move || daemon.status().unwrap());
        }
    });
    format!("git://{address}")
}

#[test]
fn a_tar_on_stdin_is_a_context_whatever_it_is_packed_with() {
    let bench = Bench::new(&[]);
    let context = tar(&[
        ("Dockerfile", "FROM scratch\nCOPY dir /copied/\n"),
        ("dir/f", "content"),
        (".dockerignore", "dir\n"),
        ("other/dockerfile", "FROM scratch\nCOPY dir/f /g\n"),
    ]);
    // Owners and times are the tar's, and its ignore file does not count: BuildKit unpacks such contexts as ADD does.
    let wanted = "-rw-r----- 10/11 7 2004-01-10 13:37:04 copied/f";
    for program in ["cat", "gzip", "bzip2", "xz"] {
        let stdin = if program == "cat" { context.clone() } else { packed(program, &context) };
        let (found, _) = bench.lists(&["-"], &stdin);
        assert!(found.contains(&wanted.to_owned()), "{program}: {found:?}");
    }
    let (found, _) = bench.lists(&["-f", "other/Dockerfile", "-"], &context);
    assert_eq!(found, ["-rw-r----- 10/11 7 2004-01-10 13:37:04 g"], "a Dockerfile may be written small");
    std::fs::write(bench.path().join("context.tar"), &context).unwrap();
    let (found, _) = bench.lists(&["--context=tar://context.tar"], b"");
    assert!(found.contains(&wanted.to_owned()), "{found:?}");
    let (code, told) = bench.fails(&["-f", "nothere", "-"], &context);
    assert!(code == Some(66) && told.contains("the build context has no `nothere`"), "{told}");
    assert_eq!(bench.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn a_dockerfile_alone_has_an_empty_context() {
    let bench = Bench::new(&[("ctx/f", "f"), ("unused/f", "f")]);
    let (found, _) = bench.lists(&["-"], b"FROM scratch\nCOPY . /d/\nWORKDIR /w\n");
    assert!(found.len() == 2 && found.iter().all(|line| line.starts_with('d')), "{found:?}");
    let (found, _) = bench.lists(&["-f", "-", "ctx"], b"FROM scratch\nCOPY f /f\n");
    assert_eq!(found.len(), 1);
    let (code, told) = bench.fails(&["-"], b"FROM scratch\nCOPY f /\n");
    assert!(code == Some(66) && told.contains("stdin:2") && told.contains("\"/f\": not found"), "{told}");
    let (code, told) = bench.fails(&["-f", "-", "-"], b"FROM scratch\n");
    assert!(code == Some(64) && told.contains("both come from stdin"), "{told}");
}

#[test]
fn hostile_tars_are_refused_or_stay_inside() {
    let bench = Bench::new(&[("victim", "untouched")]);
    let dockerfile = ("Dockerfile", "FROM scratch\nCOPY . /\n");
    // What is outside of the root lands in it, as where moby extracts.
    let (found, _) = bench.lists(&["-"], &tar(&[dockerfile, ("../../victim", "x"), ("/absolute", "y")]));
    let names: Vec<&str> = found.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(names, ["Dockerfile", "absolute", "victim"]);
    assert_eq!(std::fs::read_to_string(bench.path().join("victim")).unwrap(), "untouched");
    // The last of two entries of one name counts.
    let (found, _) = bench.lists(&["-"], &tar(&[dockerfile, ("f", "first"), ("f", "second!")]));
    assert!(found.iter().any(|line| line.contains(" 7 ") && line.ends_with(" f")), "{found:?}");
    let whole = tar(&[dockerfile, ("f", "content")]);
    for (what, broken) in [
        ("cut off", whole[..1600].to_vec()),
        ("a wrong checksum", {
            let mut broken = whole.clone();
            broken[1024] ^= 1;
            broken
        }),
        ("no tar in the gzip", packed("gzip", b"hello")),
        ("cut gzip", packed("gzip", &whole)[..40].to_vec()),
    ] {
        let (code, told) = bench.fails(&["-"], &broken);
        assert!(code == Some(65) && told.contains("build context from stdin cannot be used"), "{what}: {told}");
    }
    assert_eq!(bench.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn a_repository_is_a_context_by_branch_tag_commit_and_directory() {
    let bench = Bench::new(&[]);
    let (path, [first, second]) = repository(&bench);
    let daemon = git_daemon(bench.den.path());
    let local = path.display();
    for (context, size) in [
        (format!("{local}#main"), 3),
        (format!("file://{local}#v1"), 3),
        (format!("{daemon}/repository"), 3),
        (format!("{daemon}/repository?tag=v1"), 3),
        (format!("{daemon}/repository#{first}"), 3),
        (format!("{daemon}/repository?ref=main&commit={}", &second[..12]), 3),
    ] {
        let (found, _) = bench.lists(&[&context], b"");
        assert_eq!(found, [format!("-rw-r--r-- 0/0 {size} 2017-07-14 02:40:00 f")], "{context}");
    }
    let (found, _) = bench.lists(&[&format!("{daemon}/repository#main:sub")], b"");
    let names: Vec<&str> = found.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(names, ["all/", "all/Dockerfile", "all/g"], "no .git, and only the directory");
    let keep = ["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", "-f", "-", "."];
    let (_, told) = bench.fails(&keep, b"FROM scratch\nCOPY .git/HEAD /\n");
    assert!(told.contains("not found"), "a directory has what it has: {told}");
    let (found, _) =
        bench.lists(&[&keep[..2], &["-f", "sub/Dockerfile", &format!("{daemon}/repository")]].concat(), b"");
    assert!(found.iter().any(|line| line.ends_with(" all/.git/HEAD")), "{found:?}");
    for (context, wanted) in [
        (format!("{daemon}/nothing"), "cannot fetch"),
        (format!("{daemon}/repository#nobranch"), "nobranch"),
        (format!("{daemon}/repository?ref=main&commit={first}"), "was asked for"),
        (format!("{daemon}/repository#main:nodir"), "no directory"),
    ] {
        let (code, told) = bench.fails(&[&context], b"");
        assert!(code == Some(69) && told.contains(wanted), "{context}: {told}");
    }
    assert_eq!(bench.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn submodules_come_along_unless_they_are_not_wanted() {
    let bench = Bench::new(&[]);
    let [part, whole] = ["part", "whole"].map(|name| bench.den.path().join(name));
    for (path, file) in [(&part, "p"), (&whole, "w")] {
        std::fs::create_dir(path).unwrap();
        git(path, &["init", "-q", "-b", "main"]);
        std::fs::write(path.join(file), file).unwrap();
        std::fs::write(path.join("Dockerfile"), "FROM scratch\nCOPY . /all\n").unwrap();
        git(path, &["add", "-A"]);
        git(path, &["commit", "-q", "-m", "first"]);
    }
    // As forges have them: beside the repository, wherever that is.
    git(&whole, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "../part", "inner"]);
    git(&whole, &["commit", "-q", "-m", "second"]);
    let daemon = git_daemon(bench.den.path());
    let names = |context: String| {
        let (found, _) = bench.lists(&[&context], b"");
        found.iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let found = names(format!("{daemon}/whole#main"));
    assert!(found.contains(&"all/inner/p".to_owned()) && !found.iter().any(|name| name.contains(".git/")), "{found:?}");
    assert_eq!(names(format!("{daemon}/whole#main:inner")).last().map(String::as_str), Some("all/p"));
    let found = names(format!("{daemon}/whole?branch=main&submodules=false"));
    assert!(found.contains(&"all/w".to_owned()) && !found.contains(&"all/inner/p".to_owned()), "{found:?}");
    assert_eq!(bench.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn add_fetches_repositories_and_keeps_them_only_if_asked() {
    let bench = Bench::new(&[]);
    let (_, [first, second]) = repository(&bench);
    let daemon = git_daemon(bench.den.path());
    let dockerfile = format!(
        "FROM scratch\nADD {daemon}/repository#main:sub /sub\nADD --keep-git-dir=true {daemon}/repository#v1 /whole/\n\
         ADD --checksum={second} {daemon}/repository#main /pinned/\n"
    );
    bench.write(&[
        ("Dockerfile", &dockerfile),
        ("wrong", &format!("FROM scratch\nADD --checksum={first} {daemon}/repository#main /\n")),
    ]);
    let (found, _) = bench.lists(&["."], b"");
    let names: Vec<&str> = found.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
    for wanted in ["sub/g", "whole/f", "whole/.git/", "pinned/f"] {
        assert!(names.contains(&wanted), "{wanted}: {names:?}");
    }
    assert!(!names.contains(&"sub/.git/") && !names.contains(&"pinned/.git/"), "{names:?}");
    let (_, told) = bench.lists(&["."], b"");
    assert!(told.matches("CACHED").count() >= 2, "{told}");
    let (code, told) = bench.fails(&["-f", "wrong", "."], b"");
    assert!(code == Some(69) && told.contains("wrong:2") && told.contains("was asked for"), "{told}");
    assert_eq!(bench.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn add_fetches_urls_as_buildkit_does() {
    let bench = Bench::new(&[]);
    let archive = String::from_utf8(tar(&[("inside", "x")])).unwrap();
    let server = Scripted::start(move |request| {
        let modified = ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT".to_owned());
        match request.target.as_str() {
            "/f.txt?x=y" => (200, vec![modified], "hello".to_owned()),
            "/moved" => (302, vec![("location", "/plain".to_owned())], String::new()),
            "/plain" => (200, Vec::new(), "plain".to_owned()),
            "/a.tar" => (200, Vec::new(), archive.clone()),
            "/" => (200, Vec::new(), "unnamed".to_owned()),
            _ => (404, Vec::new(), "no such file".to_owned()),
        }
    });
    let address = server.address();
    let sha = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; // of "hello"
    let dockerfile = format!(
        "FROM scratch\nADD http://{address}/f.txt?x=y /d/\nADD --chmod=755 --chown=3:4 http://{address}/moved /named\n\
         ADD http://{address}/a.tar /kept/\nADD --unpack=true http://{address}/a.tar /unpacked/\nADD http://{address} /d/\n\
         ADD --checksum=sha256:{sha} http://{address}/f.txt?x=y /pinned\n"
    );
    bench.write(&[("Dockerfile", &dockerfile)]);
    let (found, _) = bench.lists(&["."], b"");
    for wanted in [
        "-rw------- 0/0 5 2015-10-21 07:28:00 d/f.txt",
        "-rw------- 0/0 7 1970-01-01 00:00:00 d/__unnamed__",
        "-rwxr-xr-x 3/4 5 1970-01-01 00:00:00 named",
        "-rw------- 0/0 2048 1970-01-01 00:00:00 kept/a.tar",
        "-rw-r----- 10/11 1 2004-01-10 13:37:04 unpacked/inside",
        "-rw------- 0/0 5 2015-10-21 07:28:00 pinned",
    ] {
        assert!(found.contains(&wanted.to_owned()), "{wanted}: {found:#?}");
    }
    let before = server.received().len();
    let (_, told) = bench.lists(&["."], b"");
    assert_eq!(told.matches("CACHED").count(), 6, "{told}");
    assert_eq!(server.received().len() - before, 6, "what has a checksum is not asked for again; /moved asks twice");
    for (line, code, wanted) in [
        (format!("ADD --checksum=sha256:{} http://{address}/plain /", "0".repeat(64)), 65, "and --checksum says"),
        (format!("ADD http://{address}/nothing /"), 69, "answered 404"),
        ("ADD http://127.0.0.1:1/x /".to_owned(), 69, "cannot reach 127.0.0.1:1"),
    ] {
        bench.write(&[("bad", &format!("FROM scratch\n{line}\n"))]);
        let (found, told) = bench.fails(&["-f", "bad", "."], b"");
        assert!(found == Some(code) && told.contains(wanted) && told.contains("bad:2"), "{line}: {told}");
    }
    assert_eq!(bench.leftovers(), Vec::<PathBuf>::new());
}

/// Versions are as servers have them; what did not change does not come again, unless somebody needs its content.
#[test]
fn add_asks_whether_a_url_has_changed() {
    let bench = Bench::new(&[("f", "1")]);
    let content = Arc::new(Mutex::new("first"));
    let served = content.clone();
    let server = Scripted::start(move |request| {
        let content = *served.lock().unwrap();
        let (tag, date) = (format!("\"{content}\""), "Wed, 21 Oct 2015 07:28:00 GMT");
        let same = match request.target.as_str() {
            "/tagged" => request.header("if-none-match") == Some(tag.as_str()),
            "/dated" => content == "first" && request.header("if-modified-since") == Some(date),
            _ => false,
        };
        let headers = match request.target.as_str() {
            "/tagged" => vec![("etag", tag)],
            "/dated" => vec![("last-modified", date.to_owned())],
            _ => Vec::new(),
        };
        if same { (304, headers, String::new()) } else { (200, headers, content.to_owned()) }
    });
    let address = server.address();
    let add = format!("ADD http://{address}/tagged http://{address}/dated http://{address}/bare /d/\n");
    bench.write(&[
        ("Dockerfile", &format!("FROM scratch\n{add}")),
        ("after", &format!("FROM scratch\nCOPY f /\n{add}")),
    ]);
    let requests = |words: &[&str]| {
        let before = server.received().len();
        let (found, told) = bench.lists(words, b"");
        (server.received().len() - before, told.matches("CACHED").count(), found)
    };
    assert_eq!(requests(&["."]).0, 3);
    let (asked, cached, first) = requests(&["."]);
    assert_eq!((asked, cached), (3, 1), "unchanged");
    assert!(first.iter().any(|line| line.starts_with("-rw------- 0/0 5 2015-10-21 07:28:00 d/dated")), "{first:?}");
    let (asked, cached, found) = requests(&["-f", "after", "."]);
    assert_eq!((asked, cached), (6, 0), "the content is needed for another place");
    assert!(found.iter().any(|line| line.contains(" 5 ") && line.ends_with("d/tagged")), "{found:?}");
    *content.lock().unwrap() = "another";
    let (asked, cached, found) = requests(&["."]);
    assert_eq!((asked, cached), (3, 0), "changed");
    assert!(found.iter().any(|line| line.contains(" 7 ") && line.ends_with("d/tagged")), "{found:?}");
    assert_eq!(requests(&["--no-cache", "."]).0, 3);
    assert_eq!(bench.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn a_url_is_a_context_if_a_tar_or_a_dockerfile_is_behind_it() {
    let bench = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY --from=remote context /f\n")]);
    let archive = String::from_utf8(tar(&[("Dockerfile", "FROM scratch\nCOPY f /g\n"), ("f", "x")])).unwrap();
    let server = Scripted::start(move |request| match request.target.as_str() {
        "/c.tar" => (200, Vec::new(), archive.clone()),
        "/Dockerfile" => (200, Vec::new(), "FROM scratch\nWORKDIR /w\n".to_owned()),
        _ => (404, Vec::new(), String::new()),
    });
    let url = |path: &str| format!("http://{}/{path}", server.address());
    assert_eq!(bench.lists(&[&url("c.tar")], b"").0, ["-rw-r----- 10/11 1 2004-01-10 13:37:04 g"]);
    assert_eq!(bench.lists(&[&url("Dockerfile")], b"").0.len(), 1);
    let (code, told) = bench.fails(&[&url("nothing")], b"");
    assert!(code == Some(69) && told.contains("404"), "{told}");
    let named = format!("remote={}", url("Dockerfile"));
    let (found, _) = bench.lists(&["--build-context", &named, "."], b"");
    assert!(found.len() == 1 && found[0].starts_with("-rw------- 0/0 24 "), "{found:?}");
}

#[test]
fn names_stand_for_directories_images_layouts_and_repositories() {
    let bench = Bench::new(&[
        ("base/Dockerfile", "FROM scratch\nCOPY Dockerfile /from-base\nENV WHO=base\nONBUILD COPY late /late\n"),
        ("files/f", "f"),
        ("files/sub/g", "g"),
        ("late", "late"),
        ("as-base", "FROM debian:12\nCOPY late /x\n"),
        ("as-source", "FROM scratch\nCOPY --from=lib /from-base /y\n"),
        ("as-files", "FROM lib\nCOPY late /x\n"),
        ("replaced", "FROM nowhere.invalid/x AS lib\nRUN false\nFROM scratch\nCOPY --from=lib f /f\n"),
    ]);
    let output = bench.build(&["-t", "local/base:1", "-o", "type=oci,tar=false,dest=layout", "base"], b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let digest = String::from_utf8_lossy(&output.stdout).trim().rsplit('@').next().unwrap().to_owned();
    let names = |arguments: &[&str]| -> Vec<String> {
        let (found, _) = bench.lists(arguments, b"");
        found.iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
    };
    for source in [
        "docker-image://local/base:1".to_owned(),
        "oci-layout://layout".to_owned(),
        "oci-layout://layout:1".to_owned(),
        format!("oci-layout://layout@{digest}"),
    ] {
        let named = format!("docker.io/library/debian:12={source}");
        assert_eq!(names(&["-f", "as-base", "--build-context", &named, "."]), ["from-base", "late", "x"], "{source}");
        let named = format!("lib={source}");
        assert_eq!(names(&["-f", "as-source", "--build-context", &named, "."]), ["y"], "{source}");
    }
    let files = "lib=files";
    assert_eq!(names(&["-f", "as-files", "--build-context", files, "."]), ["f", "sub/", "sub/g", "x"]);
    assert_eq!(names(&["-f", "replaced", "--build-context", files, "."]), ["f"]);
    let (path, _) = repository(&bench);
    let named = format!("lib={}#v1", path.display());
    assert_eq!(names(&["-f", "replaced", "--build-context", &named, "."]), ["f"]);
    for (named, code, wanted) in [
        ("lib=nodir", 66, "nodir"),
        ("lib=oci-layout://nodir", 66, "nodir"),
        ("lib=oci-layout://layout:v9", 66, "has no image v9"),
        ("lib=docker-image://127.0.0.1:1/x", 69, "cannot reach"),
        ("lib=target:x", 64, "target"),
    ] {
        let (found, told) = bench.fails(&["-f", "as-source", "--build-context", named, "."], b"");
        assert!(found == Some(code) && told.contains(wanted), "{named}: {told}");
    }
}

#[test]
fn odd_files_of_a_context_are_handled_or_told() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY d /d/\n"), ("d/f", "f")]);
    let directory = bench.path().join("d");
    std::fs::write(directory.join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "latin").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, directory.join("pipe"), rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    let mut deep = directory.clone();
    (0..120).for_each(|_| deep.push("deeper"));
    std::fs::create_dir_all(&deep).unwrap();
    let output = bench.build(&["-o", "-", "."], b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let has = |name: &[u8]| output.stdout.windows(name.len()).any(|window| window == name);
    assert!(has(b"caf\xe9") && has(b"d/pipe") && has("/deeper".repeat(120).as_bytes()));
    let _socket = std::os::unix::net::UnixListener::bind(directory.join("socket")).unwrap();
    let (code, told) = bench.fails(&["."], b"");
    assert!(
        code == Some(65) && told.contains("/d/socket") && told.contains("socket, which an image cannot hold"),
        "{told}"
    );
    bench.write(&[(".dockerignore", "d/socket\n")]);
    assert!(bench.build(&["."], b"").status.success(), "what is ignored disturbs nobody");
}
