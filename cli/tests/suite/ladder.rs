//! Every rung of the isolation ladder builds the same Dockerfile, as different users and in containers as CI jobs have
//! them, and the images are compared file by file. Needs root and the Debian packages docker.io, debootstrap, uidmap
//! and busybox-static.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use fixtures::clients::Docker;
use fixtures::den::Den;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

/// A user that /etc/subuid does not know.
const ALONE: u32 = 63_211;

const DOCKERFILE: &str = r#"FROM base:1 AS work
COPY probe.deb /tmp/
RUN dpkg -i /tmp/probe.deb && rm /tmp/probe.deb /var/log/dpkg.log && \
    useradd --create-home --uid 1234 --shell /bin/sh app && install -d -o app -g www-data -m 2755 /srv/data && \
    install -o app -g app -m 640 /etc/hostname /srv/data/installed && rm -f /var/log/lastlog /var/log/faillog
RUN echo x > /srv/file && ln -s file /srv/link && mkdir -p /srv/tree/deep && touch /srv/tree/deep/leaf && \
    chown -R app:app /srv/tree && chown -h 7:8 /srv/link && chown 9:10 /srv/file && chmod 4755 /srv/file && \
    touch /srv/data/in-group && mkdir /srv/data/dir-in-group && mkfifo /srv/pipe && chown 11:12 /srv/pipe && \
    su app -c 'touch ~/made; mkdir ~/dir; echo y > ~/dir/file; ln -s made ~/link' && \
    cp /bin/true /usr/local/bin/setuid && chown root:mail /usr/local/bin/setuid && chmod 6755 /usr/local/bin/setuid && \
    cp /bin/true /usr/local/bin/capable && setcap cap_net_bind_service+ep /usr/local/bin/capable && \
    cp /bin/true /usr/local/bin/lost && chmod 4755 /usr/local/bin/lost && chown 5:5 /usr/local/bin/lost
USER app
WORKDIR /home/app/work
RUN id -u > who && id -G >> who && stat -c %U:%G . /home/app /etc/shadow >> who && umask 027 && mkdir deep && \
    touch deep/file && ln -s file deep/link && chmod 700 deep
USER root
RUN rm -rf /srv/tree/deep && mkdir /srv/tree/deep && cp -a /home/app/work /srv/copied && ln /srv/file /srv/hard && \
    mv /srv/data/installed /srv/data/moved && echo more >> /etc/motd

FROM base:1
COPY --from=work /srv /srv
COPY --from=work /home /home
COPY --from=work /usr/local/bin /usr/local/bin
COPY --from=work --chown=33:33 /etc/os-release /moved
COPY --from=work /usr/share/probe /usr/share/probe
COPY --from=work /etc/passwd /etc/group /etc/motd /etc/
RUN --mount=type=bind,from=work,source=/srv,target=/mnt/work --mount=type=cache,target=/mnt/cache \
    --mount=type=tmpfs,target=/mnt/tmp --mount=type=secret,id=word,target=/run/word \
    find /srv /home -printf '%p %u:%g %m %y\n' | sort > /listing && ls /mnt/work > /mounted && cat /run/word > /mnt/tmp/x && \
    touch /mnt/cache/y && test ! -e /proc/1/environ -o ! -r /proc/1/environ || true
"#;

/// A directory with the context, and a data directory that has the base image.
struct Job {
    den: Den,
}

impl Job {
    fn new(uid: u32) -> Self {
        let den = Den::new("ladder");
        let home = den.path().join("home");
        copy_tree(prepared().path(), &home);
        let job = Self { den };
        if uid != 0 {
            run(Command::new("chown").arg("-R").arg(format!("{uid}:{uid}")).arg(&home));
        }
        fs::set_permissions(job.den.path(), fs::Permissions::from_mode(0o755)).unwrap();
        job
    }

    fn home(&self) -> PathBuf {
        self.den.path().join("home")
    }

    fn words<'a>(more: &[&'a str]) -> Vec<&'a str> {
        let mut words =
            vec!["build", "--progress=plain", "--secret", "id=word,src=word", "-o", "type=tar,dest=tree.tar"];
        words.extend(more);
        words.push("context");
        words
    }

    /// Builds as a user of this machine.
    fn on_the_machine(&self, uid: u32, more: &[&str]) -> Output {
        let program = self.home().join("lighter");
        let mut command = Command::new(program);
        command.args(Self::words(more)).current_dir(self.home()).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.home());
        if uid != 0 {
            command.uid(uid).gid(uid);
        }
        command.output().unwrap()
    }

    /// Builds in a container.
    fn in_a_container(&self, docker: &Docker, uid: u32, options: &[&str], more: &[&str]) -> Output {
        let user = format!("--user={uid}:{uid}");
        let mut all = options.to_vec();
        all.extend([user.as_str(), "--env=HOME=/home/job", "--workdir=/home/job"]);
        let home = self.home();
        let mut words = vec!["/home/job/lighter"];
        words.extend(Self::words(more));
        docker.container(&all, &[(home.as_path(), "/home/job")], &words)
    }

    /// Every file of the image but its times.
    fn files(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        let mut archive = tar::Archive::new(fs::File::open(self.home().join("tree.tar")).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned();
            let extensions: Vec<String> = entry
                .pax_extensions()
                .unwrap()
                .into_iter()
                .flatten()
                .filter_map(Result::ok)
                .filter(|extension| extension.key().is_ok_and(|key| key.starts_with("SCHILY")))
                .map(|extension| format!("{}={:?}", extension.key().unwrap(), extension.value_bytes()))
                .collect();
            let header = entry.header().clone();
            let link = entry.link_name().unwrap().map(|link| link.display().to_string()).unwrap_or_default();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let text = format!(
                "{:?} {:o} {}:{} {link} {} {extensions:?}",
                header.entry_type(),
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                oci::Digest::of(&content),
            );
            files.insert(name, text);
        }
        files
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
}

fn copy_tree(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// The context, and the base image in the local store: made once.
fn prepared() -> &'static Den {
    static PREPARED: OnceLock<Den> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let den = Den::new("ladder-base");
        let home = den.path();
        fs::copy(LIGHTER, home.join("lighter")).unwrap();
        fs::write(home.join("word"), "a secret word").unwrap();
        let context = home.join("context");
        fs::create_dir(&context).unwrap();
        fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
        make_package(home, &context.join("probe.deb"));
        let base = home.join("base");
        fs::create_dir(&base).unwrap();
        std::os::unix::fs::symlink(fixtures::debian::base(), base.join("base.tar")).unwrap();
        fs::copy(base.join("base.tar"), base.join("root.tar")).unwrap();
        fs::write(base.join("Dockerfile"), "FROM scratch\nADD root.tar /\n").unwrap();
        let mut build = Command::new(LIGHTER);
        build.args(["build", "-t", "base:1"]).arg(&base).env("HOME", home).env_remove("LIGHTER_DATA");
        run(&mut build);
        fs::remove_dir_all(&base).unwrap();
        fs::remove_dir_all(home.join(".local/share/lighter/build")).unwrap();
        den
    })
}

/// A package with files of several owners and a script.
fn make_package(home: &Path, place: &Path) {
    let root = home.join("package");
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    fs::create_dir_all(root.join("usr/share/probe/of-games")).unwrap();
    fs::write(root.join("usr/share/probe/file"), "content\n").unwrap();
    fs::write(root.join("usr/share/probe/of-games/score"), "0\n").unwrap();
    chown(root.join("usr/share/probe/of-games"), Some(0), Some(60)).unwrap();
    chown(root.join("usr/share/probe/of-games/score"), Some(5), Some(60)).unwrap();
    fs::set_permissions(root.join("usr/share/probe/of-games"), fs::Permissions::from_mode(0o2775)).unwrap();
    let control =
        "Package: probe\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: probe\n";
    fs::write(root.join("DEBIAN/control"), control).unwrap();
    let script = "#!/bin/sh\nset -e\nadduser --help >/dev/null 2>&1 || true\nchown mail:mail /usr/share/probe/file\n";
    fs::write(root.join("DEBIAN/postinst"), script).unwrap();
    fs::set_permissions(root.join("DEBIAN/postinst"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut pack = Command::new("dpkg-deb");
    run(pack.args(["--build", "-Zgzip"]).arg(&root).arg(place));
    fs::remove_dir_all(&root).unwrap();
}

/// What differs, as lines.
fn differences(wanted: &BTreeMap<String, String>, found: &BTreeMap<String, String>) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = wanted.keys().chain(found.keys()).collect();
    let missing = "missing".to_owned();
    let line = |name: &&String| {
        let (a, b) = (wanted.get(*name).unwrap_or(&missing), found.get(*name).unwrap_or(&missing));
        (a != b).then(|| format!("{name}:\n  wanted {a}\n  found  {b}"))
    };
    names.iter().filter_map(line).collect()
}

fn range_user() -> u32 {
    const NAME: &str = "lighter-sandbox-test";
    let find = || {
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd.lines().find(|line| line.starts_with(&format!("{NAME}:")))?;
        line.split(':').nth(2)?.parse().ok()
    };
    assert!(Path::new("/usr/bin/newuidmap").exists(), "newuidmap is missing; install the Debian package uidmap");
    find().unwrap_or_else(|| {
        run(Command::new("useradd").args(["--no-create-home", NAME]));
        find().unwrap()
    })
}

/// A step whose process can be told from all others.
fn sleeper() -> (String, impl Fn() -> bool) {
    let seconds = format!("{}", 800_000 + std::process::id());
    let word = seconds.clone();
    let is_running = move || {
        let lines =
            fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
        lines.into_iter().any(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes()))
    };
    (seconds, is_running)
}

fn wait_until(what: &str, is_true: impl Fn() -> bool) {
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !is_true() {
        assert!(std::time::Instant::now() < patience, "not within a minute: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// No pid namespace ends the processes here: the init of the step does.
#[test]
fn privileged_a_killed_build_in_a_chroot_leaves_no_process_and_no_tree() {
    let den = Den::new("killed");
    let context = den.path().join("context");
    fs::create_dir(&context).unwrap();
    fs::copy("/bin/busybox", context.join("busybox")).expect("install the Debian package busybox-static");
    let (seconds, is_running) = sleeper();
    let script = format!("RUN [\"/bin/sh\", \"-c\", \"trap '' TERM HUP; setsid sleep {seconds} & sleep {seconds}\"]\n");
    let install = "RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n";
    fs::write(context.join("Dockerfile"), format!("FROM scratch\nCOPY busybox /bin/busybox\n{install}{script}"))
        .unwrap();
    let build = |file: &str| {
        let mut command = Command::new(LIGHTER);
        command.args(["build", "--isolation=chroot", "-f", file]).arg(&context).current_dir(&context);
        command.env_clear().env("HOME", den.path()).env("PATH", "/usr/bin:/bin");
        command
    };
    let mut child = build("Dockerfile").spawn().unwrap();
    wait_until("the step runs", &is_running);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("all processes of the step are dead", || !is_running());
    fs::write(context.join("After"), format!("FROM scratch\nCOPY busybox /bin/busybox\n{install}")).unwrap();
    run(&mut build("After"));
    let work = den.path().join(".local/share/lighter/build/v1/work");
    let left: Vec<_> = fs::read_dir(work).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["empty"], "what a killed step leaves is swept");
}

#[test]
fn privileged_every_rung_makes_the_same_image() {
    let docker = Docker::start();
    let reference = Job::new(0);
    let built = reference.on_the_machine(0, &["--isolation=namespaces"]);
    assert!(built.status.success(), "{}", said(&built));
    let wanted = reference.files();
    let listing = &wanted["srv/tree/deep"];
    assert!(listing.contains("0:0") && wanted["srv/link"].contains(" 7:8 "), "{listing}");

    type Build<'a> = Box<dyn Fn(&Job) -> Output + 'a>;
    let here = |uid: u32, more: &'static [&'static str]| -> (u32, Build<'_>) {
        (uid, Box::new(move |job| job.on_the_machine(uid, more)))
    };
    let contained = |uid: u32, options: &'static [&'static str], more: &'static [&'static str]| -> (u32, Build<'_>) {
        let docker = &docker;
        (uid, Box::new(move |job| job.in_a_container(docker, uid, options, more)))
    };
    let range = range_user();
    let cases: Vec<(&str, &str, (u32, Build<'_>))> = vec![
        ("root, a plain tree", "namespaces and a plain tree", here(0, &["--isolation=tree"])),
        ("root, chroot", "RUN steps run in a chroot", here(0, &["--isolation=chroot"])),
        ("a user with a range of ids", "", here(range, &[])),
        ("a user with one id", "owners are recorded", here(ALONE, &[])),
        ("a user with one id, a plain tree", "owners are recorded", here(ALONE, &["--isolation=tree"])),
        ("docker's defaults", "RUN steps run in a chroot", contained(0, &[], &[])),
        ("seccomp off", "a fresh /proc is not allowed", contained(0, &["--security-opt", "seccomp=unconfined"], &[])),
        (
            "hardened but for seccomp",
            "owners are recorded",
            contained(
                1000,
                &[
                    "--cap-drop=ALL",
                    "--security-opt=no-new-privileges",
                    "--security-opt=seccomp=unconfined",
                    "--read-only",
                ],
                &[],
            ),
        ),
    ];
    for (name, note, (uid, build)) in &cases {
        let job = Job::new(*uid);
        let built = build(&job);
        let said = said(&built);
        assert!(built.status.success(), "{name}: {said}");
        assert!(note.is_empty() || said.contains(note), "{name} says {note}: {said}");
        let differ = differences(&wanted, &job.files());
        assert!(differ.is_empty(), "{name}:\n{}\n{said}", differ.join("\n"));
    }
    for (name, uid, options) in [
        ("docker's defaults, not root", 1000, &[][..]),
        ("no capabilities", 0, &["--cap-drop=ALL"]),
        ("hardened", 1000, &["--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only"]),
    ] {
        let refused = Job::new(uid).in_a_container(&docker, uid, options, &[]);
        assert_eq!(refused.status.code(), Some(78), "{name}: {}", said(&refused));
        assert!(said(&refused).contains("refuses chroot too"), "{name}: {}", said(&refused));
    }
}
