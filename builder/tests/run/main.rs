//! Whole builds with RUN, as root and as an ordinary user. A build that runs commands moves its process
//! into namespaces, so each case starts this executable again as a builder (the example `build`).
//! Needs the Debian package busybox-static; the `privileged_*` cases need root.
#![allow(clippy::print_stdout, clippy::print_stderr)] // this file is a test harness: printing is its job

#[path = "../../examples/build.rs"]
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

const BUILDER: &str = "as-builder";
const ASKER: &str = "as-asker";
const BUSYBOX: &str = "/bin/busybox";
/// A user id without a name and without a range of ids, so the one with the fewest rights.
const NOBODY: u32 = 64_321;

fn main() -> ExitCode {
    builder::sandbox::init_if_requested();
    match std::env::args().nth(1).as_deref() {
        Some(BUILDER) => return program::main(),
        Some(ASKER) => return ask_agent(),
        _ => {}
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_root = rustix::process::geteuid().is_root();
    let mut failed = Vec::new();
    for (name, as_root, case) in cases() {
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        if std::env::args().any(|word| word == "--list") {
            println!("{name}: test");
        } else if name.starts_with("privileged_") && !is_root {
            println!("test {name} ... skipped: it needs root");
        } else if catch_unwind(|| case(&Place::new(as_root || !is_root))).is_ok() {
            println!("test {name} ... ok");
        } else {
            println!("test {name} ... FAILED");
            failed.push(name);
        }
    }
    println!("\ntest result: {} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

type Action = fn(&Place);
type Case = (String, bool, Action);

/// Every case as an ordinary user with one id; as root as well, if it is one.
fn cases() -> Vec<Case> {
    let everywhere: [(&str, Action); 14] = [
        ("commands_see_what_the_dockerfile_says", commands_see_what_the_dockerfile_says),
        ("changes_become_layers", changes_become_layers),
        ("mounts_are_there_for_the_step_only", mounts_are_there_for_the_step_only),
        ("secrets_are_seen_by_their_step_only", secrets_are_seen_by_their_step_only),
        ("an_agent_is_lent_to_its_step_only", an_agent_is_lent_to_its_step_only),
        ("caches_are_kept_apart_and_can_begin_with_files", caches_are_kept_apart_and_can_begin_with_files),
        ("builds_at_once_share_a_locked_cache", builds_at_once_share_a_locked_cache),
        ("roots_of_another_boot_are_not_used", roots_of_another_boot_are_not_used),
        ("a_hit_runs_nothing", a_hit_runs_nothing),
        ("equal_layers_can_stand_on_each_other", equal_layers_can_stand_on_each_other),
        ("a_failure_is_told_and_leaves_nothing", a_failure_is_told_and_leaves_nothing),
        ("what_is_kept_for_the_next_run_is_the_layer", what_is_kept_for_the_next_run_is_the_layer),
        ("what_no_layer_tells_is_seen_by_later_steps", what_no_layer_tells_is_seen_by_later_steps),
        ("a_killed_build_leaves_no_process", a_killed_build_leaves_no_process),
    ];
    let ordinary = everywhere.map(|(name, case)| (format!("ordinary::{name}"), false, case));
    let root = everywhere.map(|(name, case)| (format!("privileged_root::{name}"), true, case));
    let only: [Case; 1] = [("privileged_root::owners_are_real".to_owned(), true, owners_are_real)];
    ordinary.into_iter().chain(root).chain(only).collect()
}

/// A context with busybox in it, a cache, and who builds.
struct Place {
    directory: tempfile::TempDir,
    as_myself: bool,
}

const BASE: &str =
    "FROM scratch AS base\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n";

impl Place {
    fn new(as_myself: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Self { directory, as_myself };
        fs::set_permissions(place.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["context", "work", "bases"] {
            fs::create_dir(place.path(name)).unwrap();
        }
        let copied = fs::copy(BUSYBOX, place.path("context/busybox"));
        copied.unwrap_or_else(|error| panic!("{BUSYBOX}: {error}; install the package busybox-static"));
        // An ordinary user must be able to read the program, wherever it was built.
        fs::copy(std::env::current_exe().unwrap(), place.path("builder")).unwrap();
        if !as_myself {
            chown(place.path("work"), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, dockerfile: &str) -> Command {
        fs::write(self.path("Dockerfile"), format!("{BASE}{dockerfile}")).unwrap();
        let mut command = Command::new(self.path("builder"));
        command.arg(BUILDER).arg(self.path("context")).arg("-f").arg(self.path("Dockerfile"));
        command.arg("-o").arg(self.path("work/layout")).arg("--tree").arg(self.path("work/tree.tar"));
        command.arg("--bases").arg(self.path("bases")).arg("--cache").arg(self.path("work"));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOST_ONLY", "1").stdin(Stdio::null());
        if !self.as_myself {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Puts this executable into the context, with the libraries that it is linked to.
    fn bring_asker(&self) {
        let exe = std::env::current_exe().unwrap();
        let root = self.path("context/asker");
        fs::create_dir(&root).unwrap();
        fs::copy(&exe, root.join("asker")).unwrap();
        let listed = Command::new("ldd").arg(&exe).output().unwrap_or_else(|e| panic!("ldd: {e}; install libc-bin"));
        let listed = String::from_utf8(listed.stdout).unwrap();
        for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            let place = root.join(library.trim_start_matches('/'));
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(library, place).unwrap();
        }
    }

    fn run(&self, dockerfile: &str) -> Output {
        self.command(dockerfile).output().unwrap()
    }

    /// What a build said; it must succeed.
    fn build(&self, dockerfile: &str) -> String {
        let output = self.run(dockerfile);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        text
    }

    /// The files of the image by name: mode, owner, link and content.
    fn files(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(fs::File::open(self.path("work/tree.tar")).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned();
            if name.starts_with("bin") {
                continue; // busybox and its hundreds of links
            }
            let header = entry.header();
            let owner = format!("{:o} {}:{}", header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap());
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let text = String::from_utf8_lossy(&content);
            files.insert(name, format!("{owner} {text}").trim_end().to_owned());
        }
        files
    }

    fn steps_left(&self) -> usize {
        let work = self.path("work/cache/v1/work");
        let is_step = |name: &Path| name.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-"));
        let entries = walk(&work);
        entries.iter().filter(|path| is_step(path)).count()
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

fn commands_see_what_the_dockerfile_says(place: &Place) {
    let said = place.build(
        "ENV who=env PATH=/bin\nARG who=arg arg=\"a b\"\nWORKDIR /srv/x/\nSHELL [\"/bin/sh\", \"-ec\"]\n\
         RUN echo \"$who|$arg|$PWD|$HOME|$(id -u)|$HOST_ONLY\" > /seen\n\
         RUN <<END\n#!/bin/sh\necho script $0 > /script\nEND\n\
         RUN --mount=type=tmpfs,target=/scratch touch /scratch/gone\n\
         RUN [\"/bin/sh\", \"-c\", \"echo to stdout; echo to stderr >&2\"]\n",
    );
    assert!(said.contains("to stdout") && said.contains("to stderr"), "{said}");
    let files = place.files();
    assert_eq!(files["seen"], "644 0:0 arg|a b|/srv/x|/|0|", "{said}");
    assert_eq!(files["script"], "644 0:0 script /dev/pipes/END");
    assert!(!files.contains_key("scratch"), "{files:?}");
    assert!(files["srv/x"].starts_with("755 0:0"));
}

fn changes_become_layers(place: &Place) {
    place.build(
        "COPY <<A <<B /d/\na\nA\nb\nB\nRUN rm /d/A && echo more >> /d/B && mkdir /e && ln /d/B /e/B && chmod 600 /d/B\n\
         RUN rm -r /d && mkdir /d && echo new > /d/C\n",
    );
    let files = place.files();
    assert_eq!(files["d/C"], "644 0:0 new");
    assert_eq!(files["e/B"], "600 0:0 b\nmore");
    assert!(!files.contains_key("d/A") && !files.contains_key("d/B"), "{files:?}");
}

fn mounts_are_there_for_the_step_only(place: &Place) {
    fs::write(place.path("context/f"), "file").unwrap();
    fs::create_dir(place.path("context/d")).unwrap();
    fs::write(place.path("context/d/x"), "one").unwrap();
    let text = "FROM base AS other\nCOPY <<O /o/p\nother\nO\nFROM base\nENV PATH=/bin\nWORKDIR /w\n\
                RUN --mount=target=d,source=d --mount=type=bind,from=other,source=/o,target=/o,rw --mount=source=f,target=/g \
                cat d/x /o/p /g > /seen && echo y > /o/new && ! touch d/y\n\
                RUN --mount=type=cache,target=/c echo again >> /c/log && cat /c/log > /log\n\
                RUN --mount=type=cache,target=/c,sharing=locked echo more >> /c/log && cat /c/log > /log2\n\
                RUN --mount=type=tmpfs,target=/t/n --mount=type=tmpfs,target=/t test -d /t/n\n";
    let said = place.build(text);
    let files = place.files();
    assert_eq!(files["seen"], "644 0:0 oneother\nfile", "{said}");
    assert_eq!((files["log"].as_str(), files["log2"].as_str()), ("644 0:0 again", "644 0:0 again\nmore"));
    for gone in ["w/d", "o", "g", "c"] {
        assert!(!files.contains_key(gone), "{gone} in {files:?}");
    }
    assert_eq!(place.build(text).matches("  cached").count(), 8);
    fs::write(place.path("context/d/x"), "two").unwrap();
    let said = place.build(text);
    assert_eq!(place.files()["seen"], "644 0:0 twoother\nfile", "what is mounted counts: {said}");
}

/// Everything below a directory that holds these bytes.
fn holding(directory: &Path, wanted: &[u8], found: &mut Vec<PathBuf>) {
    for path in walk(directory) {
        match fs::symlink_metadata(&path) {
            Ok(status) if status.is_dir() => holding(&path, wanted, found),
            Ok(status) if status.is_file() => {
                let content = fs::read(&path).unwrap_or_default();
                if content.windows(wanted.len()).any(|window| window == wanted) {
                    found.push(path);
                }
            }
            _ => {}
        }
    }
}

const SECRET: &str = "correct-horse-battery-staple-7391";

fn secrets_are_seen_by_their_step_only(place: &Place) {
    fs::write(place.path("key"), SECRET).unwrap();
    fs::set_permissions(place.path("key"), fs::Permissions::from_mode(0o644)).unwrap();
    let build = |text: &str| {
        let secret = format!("s={}", place.path("key").display());
        place.command(text).arg("--secret").arg(secret).output().unwrap()
    };
    // The hash shows that the right bytes were there, and is not them.
    let text = "ENV PATH=/bin\nWORKDIR /w\n\
         RUN --mount=type=secret,id=s stat -c '%a %u:%g' /run/secrets/s > /seen && sha256sum < /run/secrets/s >> /seen\n\
         RUN --mount=type=secret,id=s ! touch /run/secrets/s && ls /dev -A > /dev-list\n\
         RUN --mount=type=secret,id=s,target=deep/er/file,mode=0444 sha256sum < /w/deep/er/file > /second\n\
         RUN --mount=type=secret,id=s,env=TOKEN printf %s \"$TOKEN\" | sha256sum > /third; ls /run/secrets 2> /none || true\n\
         RUN --mount=type=secret,id=s,env=TOKEN,target=/both test \"$(cat /both)\" = \"$TOKEN\"\n\
         RUN --mount=type=secret,id=other test ! -e /run/secrets/other && test ! -e /run/secrets\n\
         RUN --mount=type=secret,id=../../etc/s,target=/ok true\n";
    let output = build(text);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let files = place.files();
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), SECRET.as_bytes()).unwrap();
    let hash = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned();
    assert_eq!(files["seen"], format!("644 0:0 400 0:0\n{hash}"), "{said}");
    assert_eq!((&files["second"], &files["third"]), (&format!("644 0:0 {hash}"), &format!("644 0:0 {hash}")));
    assert!(!files["dev-list"].contains("secret"), "{}", files["dev-list"]);
    for gone in ["run", "w/deep", "both", "ok"] {
        assert!(!files.contains_key(gone), "{gone} in {files:?}");
    }
    let mut found = Vec::new();
    holding(&place.path("work"), SECRET.as_bytes(), &mut found);
    assert_eq!(found, Vec::<PathBuf>::new());
    assert!(!said.contains(SECRET), "{said}");

    fs::write(place.path("key"), "another").unwrap();
    let said = String::from_utf8_lossy(&build(text).stderr).into_owned();
    assert_eq!(said.matches("  cached").count(), 10, "the value is in no key: {said}");
    let required = "RUN --mount=type=secret,id=none,required true\n";
    let said = String::from_utf8_lossy(&build(required).stderr).into_owned();
    assert!(said.contains("Dockerfile:4: secret none: not found") && said.contains("--secret id=none"), "{said}");
}

/// The program of a step: sends an agent messages of one byte, and prints its answers.
fn ask_agent() -> ExitCode {
    let mut words = std::env::args().skip(2);
    let mut agent = std::os::unix::net::UnixStream::connect(words.next().unwrap()).unwrap();
    for kind in words {
        std::io::Write::write_all(&mut agent, &[0, 0, 0, 1, kind.parse().unwrap()]).unwrap();
        let mut length = [0; 4];
        agent.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        agent.read_exact(&mut answer).unwrap();
        println!("{answer:?}");
    }
    ExitCode::SUCCESS
}

fn an_agent_is_lent_to_its_step_only(place: &Place) {
    use std::os::unix::net::UnixListener;
    // An agent that has no keys, and counts what it is asked.
    let socket = place.path("agent");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let asked = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut question = [0; 5];
            while connection.read_exact(&mut question).is_ok() {
                asked.push(question[4]);
                std::io::Write::write_all(&mut connection, &[0, 0, 0, 5, 12, 0, 0, 0, 0]).unwrap();
            }
            if asked.last() == Some(&11) {
                return asked;
            }
        }
        asked
    });
    place.bring_asker();
    let text = "ENV PATH=/bin\nCOPY asker /\n\
         RUN --mount=type=ssh { echo $SSH_AUTH_SOCK; stat -c '%F %a %u:%g' $SSH_AUTH_SOCK; \
         /asker as-asker $SSH_AUTH_SOCK 19 27 11; } > /seen\n\
         RUN --mount=type=ssh,id=none test \"$SSH_AUTH_SOCK\" = /run/buildkit/ssh_agent.0 && test ! -e /run/buildkit\n";
    let lent = format!("default={}", socket.display());
    let output = place.command(text).arg("--ssh").arg(&lent).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let seen = "644 0:0 /run/buildkit/ssh_agent.0\nsocket 600 0:0\n[5]\n[5]\n[12, 0, 0, 0, 0]";
    let files = place.files();
    assert_eq!(files["seen"], seen, "{said}");
    assert_eq!(asked.join().unwrap(), [11], "what changes the agent does not reach it");
    assert!(!files.contains_key("run"), "{files:?}");
    assert_eq!(place.steps_left(), 0);
    let said = String::from_utf8_lossy(&place.run("RUN --mount=type=ssh,required true\n").stderr).into_owned();
    assert!(said.contains("Dockerfile:4: ssh default: not found") && said.contains("--ssh default"), "{said}");
}

fn caches_are_kept_apart_and_can_begin_with_files(place: &Place) {
    fs::create_dir_all(place.path("context/d")).unwrap();
    fs::write(place.path("context/d/x"), "start").unwrap();
    let text = "ENV PATH=/bin\n\
         RUN --mount=type=cache,target=/c,id=../../../escape,mode=0700 stat -c %a /c > /mode && echo one > /c/one\n\
         RUN --mount=type=cache,target=/c,id=../../../escape ls /c > /other\n\
         RUN --mount=type=cache,target=/c,id=../../../escape,mode=0700,ro ! touch /c/two && ls /c > /same\n\
         RUN --mount=type=cache,target=/c,source=d cat /c/x > /start && echo more >> /c/x\n\
         RUN --mount=type=cache,target=/c,source=d cat /c/x > /grown\n\
         RUN --mount=type=cache,target=/a,id=1,sharing=locked --mount=type=cache,target=/b,id=1 echo 1 > /a/f && cat /b/f > /twice\n\
         RUN --mount=type=cache,target=/a,id=1,sharing=private cat /a/f > /private\n";
    let said = place.build(text);
    let files = place.files();
    for (name, content) in [
        ("mode", "700"),
        ("other", ""),
        ("same", "one"),
        ("start", "start"),
        ("grown", "startmore"),
        ("twice", "1"),
        ("private", "1"),
    ] {
        assert_eq!(files[name], format!("644 0:0 {content}").trim_end(), "{name}: {said}");
    }
    for directory in ["", "work", "work/cache"] {
        assert!(!place.path(directory).join("escape").exists());
    }
    assert_eq!(place.steps_left(), 0);
}

fn builds_at_once_share_a_locked_cache(place: &Place) {
    let mount = "RUN --mount=type=cache,target=/c,sharing=locked";
    // Both read, wait a little and write; whoever is not alone loses an increment.
    let count = "for i in 1 2 3 4 5; do n=$(cat /c/n 2>/dev/null || echo 0); usleep 20000; echo $((n+1)) > /c/n; done";
    place.build("ENV PATH=/bin\n"); // the base, once
    let builds: Vec<_> = ["a", "b"]
        .map(|name| {
            let mut command = place.command(&format!("ENV PATH=/bin\n{mount} {count} # {name}\n"));
            let file = place.path(&format!("Dockerfile.{name}"));
            fs::rename(place.path("Dockerfile"), &file).unwrap();
            command.arg("-f").arg(file).arg("-o").arg(place.path(&format!("work/layout-{name}")));
            command.arg("--tree").arg(place.path(&format!("work/tree-{name}"))).stderr(Stdio::null()).spawn().unwrap()
        })
        .into();
    for mut build in builds {
        assert!(build.wait().unwrap().success());
    }
    place.build(&format!("ENV PATH=/bin\n{mount} cat /c/n > /n\n"));
    assert_eq!(place.files()["n"], "644 0:0 10");
}

fn a_hit_runs_nothing(place: &Place) {
    let text = "RUN cat /proc/sys/kernel/random/uuid > /random\n";
    let first = place.build(text);
    let random = place.files()["random"].clone();
    let second = place.build(text);
    assert_eq!(place.files()["random"], random);
    assert_eq!(first.lines().last(), second.lines().last(), "the same digest");
    assert_eq!(second.matches("  cached").count(), 3, "{second}");
}

fn equal_layers_can_stand_on_each_other(place: &Place) {
    place.build(
        "RUN true\nRUN true\nCOPY <<F /\nf\nF\nRUN touch -d @0 /g\nRUN rm /g\nRUN touch -d @0 /g\nRUN cat /F /g\n",
    );
    assert_eq!(place.files()["g"], "644 0:0");
}

fn a_failure_is_told_and_leaves_nothing(place: &Place) {
    let output = place.run("ENV PATH=/bin\nRUN echo before\nRUN exit 3\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("Dockerfile:6: process \"/bin/sh -c exit 3\" did not complete successfully: exit code: 3"),
        "{said}"
    );
    assert!(said.contains(">>> RUN exit 3"), "{said}");
    assert!(!place.path("work/layout").exists() && !place.path("work/tree.tar").exists());
    assert_eq!(place.steps_left(), 0);
    let said = String::from_utf8_lossy(&place.run("RUN [\"/bin/nothing\"]\n").stderr).into_owned();
    assert!(said.contains("/bin/nothing") && said.contains("no such file"), "{said}");
    let said = String::from_utf8_lossy(&place.run("USER nobody-there\nRUN true\n").stderr).into_owned();
    assert!(said.contains("unable to find user nobody-there"), "{said}");
}

/// A touched directory is not in the layer, so it must not show up below another image that has an
/// equal layer.
fn what_is_kept_for_the_next_run_is_the_layer(place: &Place) {
    place.build("COPY <<F /d/f\nf\nF\nRUN touch -d @0 /d && echo same > /x && touch -d @0 /x\n");
    place.build("RUN echo same > /x && touch -d @0 /x\nRUN ls / > /list\n");
    let files = place.files();
    assert!(!files["list"].lines().any(|name| name == "d"), "{files:?}");
}

/// Touched directories and names that were linked later, on what the step itself has left, and when its layer was
/// unpacked again.
fn what_no_layer_tells_is_seen_by_later_steps(place: &Place) {
    let steps = "RUN mkdir /d && echo x > /d/a && ln /d/a /d/b && echo s > /d/s && touch -d @5 /d/a /d/s /d\n\
         RUN ln /d/a /d/c && touch -d @7 /d\n\
         RUN touch -d @9 /d\n";
    let look = "for f in a b c s; do stat -c '%h %Y' /d/$f; done; stat -c %Y /d";
    // An overlay counts the names that `b` had below.
    let seen = "644 0:0 2 5\n2 5\n2 5\n1 5\n9";
    place.build(&format!("{steps}RUN ({look}) > /seen\n"));
    assert_eq!(place.files()["seen"], seen);
    let roots = place.path("work/cache/v1/roots");
    fs::rename(&roots, place.path("work/aside")).unwrap();
    let said = place.build(&format!("{steps}RUN echo anew; ({look}) > /seen\n"));
    assert_eq!(said.matches("  cached").count(), 5, "{said}");
    assert_eq!(place.files()["seen"], seen);
}

/// As if the machine had lost its power after a build, and with it what was not on the disk yet.
fn roots_of_another_boot_are_not_used(place: &Place) {
    let text = "COPY <<F /f\nwhole\nF\nRUN cat /f > /g\n";
    place.build(text);
    let roots = place.path("work/cache/v1/roots");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let (ours, other) = (roots.join(boot.trim()), roots.join("00000000-0000-0000-0000-000000000000"));
    fs::rename(&ours, &other).unwrap();
    let damaged: Vec<_> = walk(&other).iter().flat_map(|kind| walk(kind)).map(|layer| layer.join("root/f")).collect();
    let damaged: Vec<_> = damaged.into_iter().filter(|file| file.exists()).collect();
    assert!(!damaged.is_empty());
    for file in damaged {
        fs::write(file, "").unwrap();
    }
    place.build(&format!("{text}RUN cat /f > /h\n"));
    assert_eq!((place.files()["g"].as_str(), place.files()["h"].as_str()), ("644 0:0 whole", "644 0:0 whole"));
}

fn owners_are_real(place: &Place) {
    place.build(
        "COPY <<passwd <<group /etc/\nroot:x:0:0::/root:/bin/sh\napp:x:7:8::/home/app:/bin/sh\npasswd\napp:x:8:\nlog:x:9:app\ngroup\n\
         RUN mkdir /data && chown app:app /data && chown 5:6 /etc/group\nUSER app\nWORKDIR /data\nRUN echo \"$(id -G) $HOME\" > mine\n",
    );
    let files = place.files();
    assert_eq!(files["data/mine"], "644 7:8 8 9 /home/app");
    assert!(files["etc/group"].starts_with("644 5:6"));
}

fn a_killed_build_leaves_no_process(place: &Place) {
    // So many seconds that nobody else sleeps as long.
    let seconds = 1_000_000 + std::process::id();
    let child = place.command(&format!("RUN sleep {seconds}\n")).stderr(Stdio::null()).spawn().unwrap();
    let mut child = Killed(child);
    wait_until("the command begins", || sleepers(seconds) > 0);
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    wait_until("the command dies with its builder", || sleepers(seconds) == 0);
    // The next build clears away what the killed one could not.
    place.build("RUN true\n");
    assert_eq!(place.steps_left(), 0);
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never happens that {what}");
        std::thread::yield_now();
    }
}

/// A process that does not outlive a failed test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill(); // dead already, if all went well
    }
}

/// How many processes sleep for that long.
fn sleepers(seconds: u32) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    let is_sleeper = |path: &Path| fs::read(path.join("cmdline")).is_ok_and(|words| words == wanted.as_bytes());
    walk(Path::new("/proc")).iter().filter(|path| is_sleeper(path)).count()
}
