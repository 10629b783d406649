//! `lighter build` inside containers, as CI jobs run: what needs no RUN builds everywhere, and a RUN works
//! or is refused with the reason and its own exit code. Needs root and the Debian packages docker.io and
//! busybox-static.

use std::path::Path;
use std::process::Output;

use fixtures::clients::Docker;
use fixtures::den::Den;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");
const BUSYBOX: &str = "/bin/busybox";

/// A container's options, and who it runs as.
const ENVIRONMENTS: [(&str, &[&str], u32); 6] = [
    ("docker's defaults", &[], 0),
    ("docker's defaults, not root", &[], 1000),
    ("seccomp off", &["--security-opt", "seccomp=unconfined"], 0),
    ("seccomp off, not root", &["--security-opt", "seccomp=unconfined"], 1000),
    ("no capabilities", &["--cap-drop", "ALL"], 0),
    ("hardened", &["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only"], 1000),
];

#[test]
fn privileged_containers_build_or_say_why_not() {
    let docker = Docker::start();
    for (name, options, uid) in ENVIRONMENTS {
        let copied = build(&docker, options, uid, "FROM scratch\nCOPY --chown=5:6 busybox /bin/sh\nENV A=b\n");
        assert!(copied.status.success(), "{name}: {}", told(&copied));

        let ran = build(&docker, options, uid, "FROM scratch\nCOPY busybox /bin/sh\nRUN echo it-works-$((6*7))\n");
        let said = told(&ran);
        match ran.status.code() {
            Some(0) => assert!(said.contains("it-works-42"), "{name}: {said}"),
            Some(78) => {
                assert!(
                    said.contains("does not let RUN be isolated") && said.contains("refuses them"),
                    "{name}: {said}"
                );
                assert!(said.contains("seccomp=unconfined"), "{name} says what to do: {said}");
            }
            code => panic!("{name}: {code:?}: {said}"),
        }
        if name.starts_with("seccomp off") {
            assert_eq!(ran.status.code(), Some(0), "{name}: {said}");
        }
    }
}

fn build(docker: &Docker, options: &[&str], uid: u32, dockerfile: &str) -> Output {
    let den = Den::new("environment");
    let home = den.path().join("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("Dockerfile"), dockerfile).unwrap();
    let copied = std::fs::copy(BUSYBOX, home.join("busybox"));
    copied.unwrap_or_else(|error| panic!("{BUSYBOX}: {error}; install the package busybox-static"));
    std::os::unix::fs::chown(&home, Some(uid), Some(uid)).unwrap();
    let user = format!("--user={uid}:{uid}");
    let mut options = options.to_vec();
    options.extend([user.as_str(), "--env=HOME=/home/job"]);
    let mounts = [(home.as_path(), "/home/job"), (Path::new(LIGHTER), "/lighter")];
    docker.container(&options, &mounts, &["/lighter", "build", "/home/job"])
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
