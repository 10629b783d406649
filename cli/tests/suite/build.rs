//! `lighter build` as it is typed: what it prints where, what it leaves behind, and how it fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fixtures::den::Den;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");
const BUSYBOX: &str = "/bin/busybox";

/// A directory with a build context, and a home for lighter's data.
struct Bench {
    den: Den,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let bench = Self { den: Den::new("build") };
        std::fs::create_dir(bench.context()).unwrap();
        for (name, content) in files {
            let path = bench.context().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        bench
    }

    /// The same with a static busybox in the context, for Dockerfiles that run something.
    fn with_busybox(files: &[(&str, &str)]) -> Self {
        let bench = Self::new(files);
        let copied = std::fs::copy(BUSYBOX, bench.context().join("busybox"));
        copied.unwrap_or_else(|error| panic!("{BUSYBOX}: {error}; install the package busybox-static"));
        bench
    }

    fn context(&self) -> PathBuf {
        self.den.path().join("context")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(LIGHTER);
        command.arg("build").args(arguments).current_dir(self.context());
        command.env_clear().env("HOME", self.den.path().join("home")).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    fn build(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("lighter starts")
    }

    fn builds(&self, arguments: &[&str]) -> (String, String) {
        let output = self.build(arguments);
        let told = text(&output.stderr);
        assert!(output.status.success(), "{told}");
        (text(&output.stdout).trim().to_owned(), told)
    }

    /// Everything below lighter's data directory that is no finished content.
    fn leftovers(&self) -> Vec<PathBuf> {
        let data = self.den.path().join("home/.local/share/lighter");
        let mut found = Vec::new();
        for place in ["images/ingest", "build/v1/work", "tmp"] {
            walk(&data.join(place), &mut found);
        }
        found
    }
}

fn walk(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn bad_input_says_what_where_and_what_to_do() {
    for (dockerfile, code, wanted) in [
        ("FROM scratch\nRNU echo hi\n", 65, &["Dockerfile:2", ">>> RNU echo hi", "did you mean RUN?"][..]),
        ("FROM scratch\nCOPY nothere /\n", 66, &["Dockerfile:2", "\"/nothere\": not found"]),
        ("FROM scratch\nCOPY --nosuch=1 a /\n", 65, &["Dockerfile:2", "unknown flag: --nosuch of COPY", "--chown"]),
        ("FROM 127.0.0.1:1/base:1\nCOPY a /\n", 69, &["Dockerfile:1", "cannot reach 127.0.0.1:1", "refused"]),
        ("FROM scratch\nRUN echo hi\n", 1, &["Dockerfile:2", "/bin/sh"]),
        (
            "FROM scratch\nRUN --security=insecure true\n",
            65,
            &["Dockerfile:2", "RUN --security=insecure", "not supported"],
        ),
        ("FROM scratch\nENV A=${B:?must be set}\n", 65, &["Dockerfile:2", "must be set"]),
        ("# nothing\n", 65, &["no instructions"]),
        ("", 65, &["cannot be empty"]),
        ("COPY a /\n", 65, &["Dockerfile:1", "FROM"]),
        (
            "FROM scratch AS a\nCOPY --from=later a /\nFROM scratch AS later\nCOPY --from=a a /\n",
            65,
            &["Dockerfile:2", "later"],
        ),
    ] {
        let bench = Bench::new(&[("Dockerfile", dockerfile), ("a", "a")]);
        let output = bench.build(&["."]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{dockerfile}\n{told}");
        for part in wanted {
            assert!(told.contains(part), "{dockerfile}\nwithout {part:?}:\n{told}");
        }
        assert!(output.stdout.is_empty(), "a failure prints nothing on stdout");
        assert_eq!(bench.leftovers(), Vec::<PathBuf>::new(), "{dockerfile}");
    }
}

#[test]
fn missing_files_and_wrong_flags_have_their_own_exit_codes() {
    let bench = Bench::new(&[("a", "a"), ("ok", "FROM scratch\nCOPY a /\n")]);
    for (arguments, code, wanted) in [
        (&["."][..], 66, "cannot read the Dockerfile"),
        (&["nowhere"], 66, "build context `nowhere`"),
        (&["-f", "nofile", "."], 66, "nofile"),
        (&["-f", "ok", "--target", "nope", "."], 65, "nope"),
        (&["-f", "ok", "-t", "UPPER", "."], 64, "UPPER"),
        (&["-f", "ok", "-o", "type=zip,dest=x", "."], 64, "zip"),
        (&["-f", "ok", "--push", "."], 64, "--tag"),
        (&["-f", "ok", "--nosuch", "."], 64, "--nosuch"),
        (&["-f", "ok", "--build-context", "x=target:y", "."], 64, "target"),
        (&["-f", "ok", "-o", "type=oci,dest=/nonexistent/x.tar", "."], 66, "/nonexistent/x.tar"),
    ] {
        let output = bench.build(arguments);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{told}");
        assert!(told.contains(wanted), "{arguments:?}\n{told}");
    }
}

#[test]
fn stdout_carries_the_pinned_reference_and_files_what_was_asked_for() {
    let bench = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY a /\nLABEL x=y\n"), ("a", "content")]);
    let (printed, _) =
        bench.builds(&["-t", "vm2:5000/shop/a:v1", "-t", "a", "--iidfile", "id", "--metadata-file", "meta", "."]);
    let lines: Vec<&str> = printed.lines().collect();
    let metadata: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bench.context().join("meta")).unwrap()).unwrap();
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    assert_eq!(lines, [format!("vm2:5000/shop/a:v1@{digest}"), format!("docker.io/library/a:latest@{digest}")]);
    let id = std::fs::read_to_string(bench.context().join("id")).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], id);
    let (again, told) = bench.builds(&["-t", "a", "."]);
    assert!(told.contains("CACHED"), "{told}");
    assert_eq!(again, lines[1], "an unchanged build is the same image");
}

#[test]
fn every_output_holds_the_image() {
    let bench =
        Bench::new(&[("Dockerfile", "FROM scratch\nCOPY a /dir/a\nENTRYPOINT [\"/dir/a\"]\n"), ("a", "content")]);
    bench.builds(&[
        "-t",
        "a:1",
        "-o",
        "type=oci,dest=oci.tar",
        "-o",
        "type=oci,dest=layout,tar=false",
        "-o",
        "type=docker,dest=docker.tar",
        "-o",
        "type=local,dest=files",
        "-o",
        "type=tar,dest=root.tar",
        ".",
    ]);
    let context = bench.context();
    assert_eq!(std::fs::read_to_string(context.join("files/dir/a")).unwrap(), "content");
    let listed = Command::new("tar").arg("tf").arg(context.join("root.tar")).output().unwrap();
    assert_eq!(text(&listed.stdout), "dir/\ndir/a\n");
    let inspect = |place: &str| {
        let output = Command::new(LIGHTER)
            .args(["inspect", place])
            .current_dir(&context)
            .env("HOME", bench.den.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let image: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (image["digest"].clone(), image["config"]["Entrypoint"][0].clone())
    };
    let expected = inspect("oci:layout");
    assert_eq!(expected.1, "/dir/a");
    for place in ["oci-archive:oci.tar", "docker-archive:docker.tar"] {
        assert_eq!(inspect(place), expected, "{place}");
    }
    let (to_stdout, code) = {
        let output = bench.build(&["-o", "-", "."]);
        (output.stdout, output.status.code())
    };
    assert_eq!(code, Some(0));
    assert_eq!(
        to_stdout,
        std::fs::read(context.join("root.tar")).unwrap(),
        "a tar on stdout is the tar and nothing else"
    );
}

const RUNS: &str = "FROM scratch\nCOPY busybox /bin/sh\n\
    RUN [\"/bin/sh\", \"-c\", \"mkdir /made\"]\nRUN echo visible; echo hidden >/dev/null; id -u >/made/uid\nRUN test \"$(cat /made/uid)\" = 0\n";

#[test]
fn run_works_as_whoever_runs_the_tests_and_each_way_of_telling_tells_it() {
    // busybox under the name sh is the shell; its other programs are found by the shell itself.
    let bench = Bench::with_busybox(&[("Dockerfile", RUNS)]);
    let (_, plain) = bench.builds(&["--progress=plain", "."]);
    let printed = |word: &str| plain.lines().any(|line| line.ends_with(&format!(" {word}")));
    assert!(printed("visible") && !printed("hidden"), "{plain}");
    let (_, raw) = bench.builds(&["--progress=rawjson", "--no-cache", "."]);
    let values: Vec<serde_json::Value> = raw.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(
        values
            .iter()
            .any(|value| value["vertexes"][0]["name"].as_str().is_some_and(|name| name.contains("RUN echo visible")))
    );
    assert!(values.iter().any(|value| value["logs"][0]["data"] == "dmlzaWJsZQo="), "{raw}"); // "visible\n"
    let (_, quiet) = bench.builds(&["--quiet", "--no-cache", "."]);
    assert_eq!(quiet, "");
}

#[test]
fn a_failing_command_fails_the_build_with_its_own_words() {
    let bench =
        Bench::with_busybox(&[("Dockerfile", "FROM scratch\nCOPY busybox /bin/sh\nRUN echo to stderr >&2; exit 7\n")]);
    let output = bench.build(&["."]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for part in ["to stderr", "exit code: 7", "Dockerfile:3"] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(bench.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn a_program_of_another_machine_is_told_with_what_helps() {
    let dockerfile = "FROM scratch\nCOPY --chmod=755 foreign /foreign\nRUN [\"/foreign\"]\n";
    let bench = Bench::with_busybox(&[("Dockerfile", dockerfile), ("foreign", "no program of this machine\n")]);
    let output = bench.build(&["--platform", "linux/arm64", "."]);
    let told = text(&output.stderr);
    assert!(!output.status.success(), "{told}");
    for part in ["exec format error", "Dockerfile:3", "qemu-user-static and binfmt-support"] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn ctrl_c_leaves_no_process_no_mount_and_no_half_layer() {
    let bench =
        Bench::with_busybox(&[("Dockerfile", "FROM scratch\nCOPY busybox /bin/sh\nRUN echo started; sleep 3571\n")]);
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let log = bench.den.path().join("log");
        let stderr = std::fs::File::create(&log).unwrap();
        let mut child = bench.command(&["--progress=plain", "."]).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        wait_until("the step runs", || std::fs::read_to_string(&log).unwrap().contains("started"));
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        let code = if signal == rustix::process::Signal::INT { 130 } else { 143 };
        assert_eq!(status.code(), Some(code), "{}", std::fs::read_to_string(&log).unwrap());
        assert_nothing_left(&bench);
    }
}

#[test]
fn kill_leaves_no_process_and_the_next_build_goes_well() {
    let slow = "FROM scratch\nCOPY busybox /bin/sh\nRUN echo started; sleep 3572\n";
    let bench =
        Bench::with_busybox(&[("Dockerfile", "FROM scratch\nCOPY busybox /bin/sh\nRUN echo fine\n"), ("slow", slow)]);
    let log = bench.den.path().join("log");
    let stderr = std::fs::File::create(&log).unwrap();
    let mut child =
        bench.command(&["-f", "slow", "--progress=plain", "."]).stderr(stderr).stdout(Stdio::null()).spawn().unwrap();
    wait_until("the step runs", || std::fs::read_to_string(&log).unwrap().contains("started"));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the step is gone", || !is_running("3572"));
    bench.builds(&["."]);
    assert_nothing_left(&bench);
}

fn assert_nothing_left(bench: &Bench) {
    assert!(!is_running("3571") && !is_running("3572"), "the step's process is left");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(bench.den.path().to_str().unwrap()), "{mounts}");
    assert_eq!(bench.leftovers(), Vec::<PathBuf>::new());
}

/// Whether a process sleeps for so many seconds; the numbers are used nowhere else.
fn is_running(seconds: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        command.split(|byte| *byte == 0).eq([&b"sleep"[..], seconds.as_bytes(), b""])
    })
}

fn wait_until(what: &str, is_true: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_true() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn privileged_a_full_disk_is_told_as_such_and_leaves_no_half_image() {
    let bench = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY big /\n")]);
    // Content that does not compress, four times as much as there is room for.
    let mut big = std::fs::File::create(bench.context().join("big")).unwrap();
    std::io::copy(&mut std::io::Read::take(std::fs::File::open("/dev/urandom").unwrap(), 16 << 20), &mut big).unwrap();
    let small = bench.den.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "lighter-test"]).arg(&small).status().unwrap();
    assert!(mounted.success(), "this test mounts a small tmpfs and needs root");
    let output = bench.build(&["--data", small.to_str().unwrap(), "."]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(74), "{told}");
    assert!(told.contains("No space left") && told.contains("make room"), "{told}");
    let mut left = Vec::new();
    walk(&small.join("images/ingest"), &mut left);
    walk(&small.join("images/blobs"), &mut left);
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn secrets_of_the_environment_do_not_leak_into_a_step() {
    let dockerfile = "FROM scratch\nCOPY busybox /bin/sh\nARG GIVEN\nRUN env >/seen; test \"$GIVEN\" = yes\n";
    let bench = Bench::with_busybox(&[("Dockerfile", dockerfile)]);
    let output = bench
        .command(&["--build-arg", "GIVEN", "-o", "out", "."])
        .env("GIVEN", "yes")
        .env("CI_JOB_TOKEN", "hush")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let seen = std::fs::read_to_string(bench.context().join("out/seen")).unwrap();
    assert!(!seen.contains("hush") && !seen.contains("CI_JOB_TOKEN"), "{seen}");
}

#[test]
fn layers_of_a_base_image_are_mounted_where_the_registry_has_them() {
    let registry = fixtures::registry::Registry::start(LIGHTER);
    let base = Bench::with_busybox(&[("Dockerfile", "FROM scratch\nCOPY busybox /bin/sh\nENV FROM_BASE=yes\n")]);
    base.builds(&["-t", &registry.reference("base:1"), "--push", "."]);
    // Another machine: an empty store.
    let dockerfile = format!("FROM {}\nCOPY a /etc/a\n", registry.reference("base:1"));
    let child = Bench::new(&[("Dockerfile", &dockerfile), ("a", "a")]);
    let (_, told) = child.builds(&["-t", &registry.reference("child:1"), "--push", "."]);
    assert!(told.contains("1 mounted"), "{told}");
    let again = Bench::new(&[("Dockerfile", &format!("FROM {}\nLABEL only=config\n", registry.reference("base:1")))]);
    let (_, told) = again.builds(&["-t", &registry.reference("again:1"), "--push", "."]);
    assert!(
        told.contains("1 mounted") && !told.contains("fetching"),
        "a layer that no step needs is never fetched: {told}"
    );
}

#[test]
fn a_base_image_that_cannot_be_had_is_told_in_the_registrys_words() {
    let registry = fixtures::registry::Registry::start(LIGHTER);
    let bench = Bench::new(&[("Dockerfile", &format!("FROM {}\n", registry.reference("nobody/knows:1")))]);
    let output = bench.build(&["."]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{told}");
    assert!(told.contains("Dockerfile:1") && told.contains("nobody/knows"), "{told}");
}

/// Every file below a directory that holds these bytes.
fn holding(directory: &Path, wanted: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    walk(directory, &mut files);
    let holds = |path: &PathBuf| {
        let content = std::fs::read(path).unwrap_or_default();
        content.windows(wanted.len()).any(|window| window == wanted.as_bytes())
    };
    files.retain(holds);
    files
}

#[test]
fn secrets_stay_secret() {
    const VALUE: &str = "xyzzy-plugh-4711-from-the-environment";
    let dockerfile = "FROM scratch\nCOPY busybox /bin/\nENV PATH=/bin\n\
        RUN --mount=type=secret,id=token,env=TOKEN,required [\"/bin/busybox\", \"test\", \"-e\", \"/bin/busybox\"]\n\
        RUN --mount=type=secret,id=token,required [\"/bin/busybox\", \"test\", \"-s\", \"/run/secrets/token\"]\n\
        RUN --mount=type=secret,id=token [\"/bin/busybox\", \"false\"]\n";
    let bench = Bench::with_busybox(&[("Dockerfile", dockerfile)]);
    for progress in ["plain", "rawjson"] {
        let mut command =
            bench.command(&["--secret", "id=token,env=MY_TOKEN", "--progress", progress, "--no-cache", "."]);
        command
            .args(["--metadata-file", "metadata", "--iidfile", "id"])
            .env("MY_TOKEN", VALUE)
            .env("LIGHTER_LOG", "trace");
        let output = command.arg("-vv").stdin(Stdio::null()).output().unwrap();
        let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "the last step fails, the others have their secret: {told}");
        assert!(!told.contains(VALUE) && told.contains("false"), "{told}");
    }
    assert_eq!(holding(bench.den.path(), VALUE), Vec::<PathBuf>::new());
    let output = bench.build(&["--no-cache", "."]);
    assert_eq!(output.status.code(), Some(66), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("secret token: not found"), "{}", text(&output.stderr));
}

#[test]
fn run_flags_are_checked_before_anything_is_built() {
    let bench = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a")]);
    for (arguments, code, wanted) in [
        (&["--secret", "id=a,src=nofile", "."][..], 66, "nofile"),
        (&["--secret", "src=a", "."], 64, "has no id"),
        (&["--secret", "id=a,type=vault", "."], 64, "there are file and env"),
        (&["--ssh", "default", "."], 64, "SSH_AUTH_SOCK is not set"),
        (&["--ssh", "k=a", "."], 64, "not a socket"),
        (&["--add-host", "db", "."], 64, "has no address"),
        (&["--ulimit", "files=1", "."], 64, "unknown resource"),
        (&["--shm-size", "0", "."], 64, "not a size"),
        (&["--network", "bridge", "."], 64, "bridge"),
    ] {
        let output = bench.build(arguments);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{told}");
        assert!(told.contains(wanted), "{arguments:?}\n{told}");
    }
    let (_, told) = bench.builds(&["--secret", "id=a,env=NOT_SET", "."]);
    assert!(told.contains("no such secret"), "{told}");
}

#[test]
fn run_flags_reach_the_command() {
    let bench = Bench::with_busybox(&[(
        "Dockerfile",
        "FROM scratch\nCOPY busybox /bin/\nENV PATH=/bin\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
         RUN grep db /etc/hosts && ulimit -n && df -k /dev/shm | tail -n1 && ls /sys/class/net\n\
         RUN --network=host grep -c : /proc/net/dev\n",
    )]);
    let flags = ["--add-host", "db=10.9.8.7", "--ulimit", "nofile=321", "--shm-size", "8m", "--network", "none", "."];
    let (_, told) = bench.builds(&flags);
    for wanted in ["10.9.8.7\tdb", "321", "8192", "lo"] {
        assert!(told.contains(wanted), "without {wanted}: {told}");
    }
    let (_, told) = bench.builds(&["--ulimit", "nofile=322", "."]);
    assert!(told.contains("322") && !told.contains("321"), "a limit is in the key: {told}");
}
