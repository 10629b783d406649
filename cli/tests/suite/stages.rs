//! Stages that are built at the same time: as many as asked for, the same image for every number, and a failure of one
//! that ends all. Needs the Debian package busybox-static.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use fixtures::scene::Scene;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

fn scene(dockerfile: &str) -> Scene {
    Scene::new(Path::new(LIGHTER), dockerfile)
}

/// What steps have left behind.
fn work(scene: &Scene) -> Vec<PathBuf> {
    let work = scene.path().join("home/.local/share/lighter/build/v1/work");
    let entries = fs::read_dir(&work).unwrap_or_else(|error| panic!("{}: {error}", work.display()));
    entries.map(|entry| entry.unwrap().path()).filter(|path| !path.is_dir() || holds_steps(path)).collect()
}

fn holds_steps(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-"))
        || fs::read_dir(path).is_ok_and(|mut inside| inside.any(|entry| holds_steps(&entry.unwrap().path())))
}

/// Each stage says that it is there, and waits until it hears the other; ten seconds are enough to give up.
const MEETING: &str = r#"FROM scratch AS base
COPY busybox /bin/sh
COPY busybox /bin/busybox
FROM base AS one
RUN --mount=type=cache,id=meeting,target=/m for n in $(/bin/busybox seq 100); do : > /m/one; if [ -e /m/two ]; then echo one met; : > /met; exit 0; fi; /bin/busybox sleep 0.1; done; exit 9
FROM base AS two
RUN --mount=type=cache,id=meeting,target=/m for n in $(/bin/busybox seq 100); do : > /m/two; if [ -e /m/one ]; then echo two met; : > /met; exit 0; fi; /bin/busybox sleep 0.1; done; exit 9
FROM scratch
COPY --from=one /met /one
COPY --from=two /met /two
"#;

#[test]
fn stages_that_wait_for_each_other_run_at_the_same_time() {
    let (_, told) = scene(MEETING).built(&["--jobs=2"]);
    assert!(told.contains("one met") && told.contains("two met"), "{told}");
    // Every line of output says which step it is of.
    let number = |title: &str| {
        let line = told.lines().find(|line| line.contains(title)).unwrap_or_else(|| panic!("{title}: {told}"));
        line.split_whitespace().next().unwrap().to_owned()
    };
    for (stage, words) in [("[one 1/1] RUN", "one met"), ("[two 1/1] RUN", "two met")] {
        let is_its_line = |line: &str| line.starts_with(&number(stage)) && line.ends_with(words);
        assert!(told.lines().any(is_its_line), "{stage}: {told}");
    }
}

#[test]
fn a_stage_that_fails_stops_the_ones_beside_it() {
    let file = r#"FROM scratch AS base
COPY busybox /bin/sh
COPY busybox /bin/busybox
FROM base AS slow
RUN --mount=type=cache,id=meeting,target=/m : > /m/begun; exec /bin/busybox sleep 86397
FROM base AS bad
RUN --mount=type=cache,id=meeting,target=/m until [ -e /m/begun ]; do /bin/busybox sleep 0.05; done; echo alas; exit 7
FROM scratch
COPY --from=slow /x /x
COPY --from=bad /x /y
"#;
    let scene = scene(file);
    let output = scene.build(&["--jobs=3"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("alas") && told.contains("exit code: 7"), "{told}");
    let ends = |word: &str| told.lines().filter(|line| line.starts_with('#') && line.ends_with(word)).count();
    assert_eq!((ends(" ERROR"), ends(" CANCELED") >= 1), (1, true), "{told}");
    assert!(!is_running(b"86397"), "the slow step still runs");
    assert_eq!(work(&scene), Vec::<PathBuf>::new());
}

fn is_running(wanted: &[u8]) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == wanted)
    })
}

#[test]
fn ctrl_c_stops_all_stages() {
    let file = "FROM scratch AS base\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n\
                FROM base AS one\nRUN /bin/busybox sleep 86395\n\
                FROM base AS two\nRUN /bin/busybox sleep 86396\n\
                FROM scratch\nCOPY --from=one /x /x\nCOPY --from=two /x /y\n";
    let scene = scene(file);
    let building = scene.build(&["--jobs=2"]).stderr(Stdio::piped()).spawn().unwrap();
    let both = || is_running(b"86395") && is_running(b"86396");
    for _ in 0..600 {
        if both() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(both(), "the stages do not run at the same time");
    let process = rustix::process::Pid::from_raw(i32::try_from(building.id()).unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    let output = building.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert_eq!(told.lines().filter(|line| line.ends_with(" CANCELED")).count(), 2, "{told}");
    assert!(!is_running(b"86395") && !is_running(b"86396"));
    assert_eq!(work(&scene), Vec::<PathBuf>::new());
}

#[test]
fn the_image_is_the_same_for_every_number_of_jobs() {
    let mut file = "FROM scratch AS base\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n".to_owned();
    for stage in 0..5 {
        // Two stages are alike: their step is done once.
        let name = stage.min(3);
        file.push_str(&format!("FROM base AS s{stage}\nRUN echo {name} > /out\nRUN echo more >> /out\n"));
    }
    file.push_str("FROM base\n");
    (0..5).for_each(|stage| file.push_str(&format!("COPY --from=s{stage} /out /out{stage}\n")));
    let digests: Vec<String> = ["--jobs=1", "--jobs=2", "--jobs=0"]
        .map(|jobs| {
            let (digest, told) = scene(&file).built(&[jobs, "--build-arg=SOURCE_DATE_EPOCH=1700000000"]);
            assert_eq!(told.lines().filter(|line| line.ends_with(" CACHED")).count(), 2, "{told}");
            digest
        })
        .into();
    assert!(digests[0].starts_with("sha256:") && digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

/// Most memory that a build may take, in kB, whatever it writes.
const MEMORY_LIMIT: u64 = 100 << 10;

#[test]
fn memory_does_not_grow_with_what_a_step_writes() {
    let scene = scene(
        "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n\
         RUN /bin/busybox dd if=/dev/zero of=/zero bs=1M count=200 2>&1 && \
         /bin/busybox dd if=/dev/urandom of=/noise bs=1M count=32 2>&1\n",
    );
    let registry = fixtures::registry::Registry::start(Path::new(LIGHTER));
    let mut command = scene.build(&["-t", &registry.reference("large:1"), "--push"]);
    let mut building = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", building.id());
    let mut most = 0;
    let ended = loop {
        // The kernel remembers the most; when the process is gone the last look counts.
        let told = fs::read_to_string(&status).unwrap_or_default();
        let peak = told.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        most = most.max(peak.unwrap_or(0));
        if let Some(ended) = building.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    assert!(ended.success());
    assert!(most > 0 && most < MEMORY_LIMIT, "{most} kB");
}

#[test]
fn a_stage_that_failed_is_told_of_once() {
    let machine = scene("FROM scratch\nCOPY busybox /bin/sh\n");
    machine.built(&["-t", "base"]);
    machine.file("failing", "FROM base AS a\nRUN exit 3\nFROM a\nRUN true\n");
    let output = machine.build(&["-f", "failing"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), told.matches("FROM docker.io/library/base").count()), (Some(1), 1), "{told}");
    assert!(told.contains("failing:2: ") && told.contains("exit code: 3"), "{told}");
}
