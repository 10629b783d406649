//! What a step may expect and what it must not reach.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ::builder::sandbox::{Credentials, Limit, Mount, Network, Resource, Step};

use crate::Case;
use crate::builder::{Place, Who, id_of};
use crate::worker::{Answer, Image, Orders, Ran, busybox};

/// For all users.
pub const EVERYWHERE: &[Case] = &[
    ("mode_is_right", mode_is_right),
    ("commands_end_as_they_end", commands_end_as_they_end),
    ("what_cannot_be_executed_is_explained", what_cannot_be_executed_is_explained),
    ("output_streams_are_kept_apart", output_streams_are_kept_apart),
    ("the_environment_is_exactly_the_steps", the_environment_is_exactly_the_steps),
    ("a_step_sees_its_own_machine", a_step_sees_its_own_machine),
    ("devices_work", devices_work),
    ("the_kernel_is_out_of_reach", the_kernel_is_out_of_reach),
    ("capabilities_are_dockers", capabilities_are_dockers),
    ("changes_land_in_the_upper_directory", changes_land_in_the_upper_directory),
    ("mount_points_leave_buildkits_traces", mount_points_leave_buildkits_traces),
    ("files_for_the_network", files_for_the_network),
    ("no_network_means_loopback_only", no_network_means_loopback_only),
    ("mounts_of_the_step", mounts_of_the_step),
    ("scratch_has_no_layer", scratch_has_no_layer),
    ("many_layers", many_layers),
    ("a_layer_may_lie_twice", a_layer_may_lie_twice),
    ("limits_are_set", limits_are_set),
    ("processes_are_limited", processes_are_limited),
    ("background_processes_die", background_processes_die),
    ("cancelling_leaves_nothing", cancelling_leaves_nothing),
    ("killing_the_builder_leaves_nothing", killing_the_builder_leaves_nothing),
    ("removing_everything_harms_nobody", removing_everything_harms_nobody),
    ("links_of_the_image_lead_nowhere", links_of_the_image_lead_nowhere),
    ("threads_come_too_early", threads_come_too_early),
    ("programs_of_32_bits_run", programs_of_32_bits_run),
    ("deep_trees_are_removed", deep_trees_are_removed),
    ("overhead_is_printed", overhead_is_printed),
];

/// For those who have more than one id.
pub const WITH_IDS: &[Case] = &[("other_users", other_users), ("owners_are_kept", owners_are_kept)];

/// For a user with a range.
pub const WITH_RANGE: &[Case] = &[("without_new_privileges_one_id_is_left", without_new_privileges_one_id_is_left)];

/// For those who need no other user.
pub const ONLY_ORDINARY: &[Case] =
    &[("no_namespaces_is_explained", no_namespaces_is_explained), ("namespaces_of_others_do", namespaces_of_others_do)];

/// For a user without a range, whom only root can become.
pub const ONLY_ONE_ID: &[Case] =
    &[("owners_are_recorded", owners_are_recorded), ("a_masked_proc_is_lent", a_masked_proc_is_lent)];

/// For the machine's root.
pub const ONLY_ROOT: &[Case] = &[
    ("overlay_on_overlay_is_refused", overlay_on_overlay_is_refused),
    ("disks_stay_out_of_reach", disks_stay_out_of_reach),
];

fn shell(script: &str) -> Step {
    exec(&["/bin/sh", "-ec", script])
}

fn exec(words: &[&str]) -> Step {
    let mut step = Step::new("", "", words.iter().copied());
    step.env = vec![("PATH".into(), "/bin".into())];
    step
}

fn run_all(who: Who, image: Image, steps: Vec<Step>) -> Answer {
    Place::new(who).run(image, steps)
}

fn run_step(who: Who, image: Image, step: Step) -> Ran {
    run_all(who, image, vec![step]).steps.remove(0)
}

/// Runs a script that must succeed and returns what it printed.
fn said(who: Who, image: Image, script: &str) -> String {
    let ran = run_step(who, image, shell(script));
    assert_eq!((ran.code, ran.error.as_str()), (Some(0), ""), "{script}: {} {}", ran.stdout, ran.stderr);
    ran.stdout
}

fn mode_is_right(who: Who) {
    let answer = run_all(who, Image::Busybox, vec![shell("cat /proc/self/uid_map")]);
    let map: Vec<&str> = answer.steps[0].stdout.split_whitespace().collect();
    match who {
        Who::Root => assert_eq!((answer.mode.as_str(), answer.overlay.as_str()), ("root", "Plain")),
        Who::Range => {
            assert!(answer.mode.starts_with("mapped 65537"), "{}", answer.mode);
            assert_eq!(map[0..3], ["0", &id_of(who).unwrap().to_string(), "1"]);
            assert_eq!(map[3], "1");
        }
        Who::Ordinary if id_of(who).is_some() => {
            assert_eq!((answer.mode.as_str(), map.len()), ("single", 3));
            assert!(answer.refused[0].contains("/etc/subuid grants no range to uid 54321"), "{:?}", answer.refused);
            assert!(answer.refused[0].contains("install the package uidmap"), "{:?}", answer.refused);
        }
        Who::Ordinary => assert!(answer.overlay == "UserXattr", "{answer:?}"),
    }
    assert_eq!(answer.left, Vec::<String>::new(), "the clean-up must leave nothing");
}

fn commands_end_as_they_end(who: Who) {
    let steps =
        [exec(&["/bin/busybox", "true"]), exec(&["false"]), shell("exit 7"), shell("kill -9 $$"), shell("kill -15 $$")];
    let answer = run_all(who, Image::Busybox, steps.to_vec());
    let ended: Vec<_> = answer.steps.iter().map(|ran| (ran.code, ran.signal)).collect();
    let wanted = [(0, false), (1, false), (7, false), (137, true), (143, true)];
    assert_eq!(ended, wanted.map(|(code, signal)| (Some(code), signal)), "{answer:?}");
}

fn what_cannot_be_executed_is_explained(who: Who) {
    let mut no_directory = exec(&["true"]);
    no_directory.cwd = "/not/there".into();
    let table = [
        (exec(&["nonsense"]), "exec: \"nonsense\": not found in PATH of the image"),
        (exec(&["/bin/nonsense"]), "exec: \"/bin/nonsense\": no such file in the image"),
        (exec(&["/etc/passwd"]), "exec: \"/etc/passwd\": permission denied"),
        (exec(&["orphan"]), "exec: \"orphan\": the file exists, but its interpreter"),
        (exec(&["/srv"]), "exec: \"/srv\": permission denied"),
        (no_directory, "opening the working directory /not/there"),
        (exec(&[""]), "its command is empty"),
        (exec(&["a\0b"]), "NUL byte"),
        (Step { user: user(u32::MAX, 0, &[]), ..exec(&["true"]) }, "4294967295 is not a user or group id"),
    ];
    for (step, wanted) in table {
        let ran = run_step(who, Image::Busybox, step);
        assert!(ran.code.is_none() && ran.error.contains(wanted), "{wanted}: {ran:?}");
    }
    let no_shell = run_step(who, Image::Scratch, shell("true"));
    assert!(
        no_shell.error.contains("\"/bin/sh\": no such file in the image; a shell-form RUN needs /bin/sh"),
        "{no_shell:?}"
    );
}

fn output_streams_are_kept_apart(who: Who) {
    let ran = run_step(who, Image::Busybox, shell("echo out; echo err >&2; seq 1 200000; echo end >&2"));
    assert_eq!(ran.stderr, "err\nend\n");
    assert_eq!((ran.stdout.lines().count(), ran.stdout.lines().last()), (200_001, Some("200000")));
}

fn the_environment_is_exactly_the_steps(who: Who) {
    let mut step = exec(&["/bin/busybox", "env"]);
    step.env = vec![("B".into(), "two words".into()), ("A".into(), "".into())];
    let ran = run_step(who, Image::Busybox, step);
    assert_eq!(ran.stdout, "B=two words\nA=\n");
}

fn a_step_sees_its_own_machine(who: Who) {
    let mut step = shell(
        "hostname; umask; pwd; id -u; id -g; echo $$ >/dev/null; tty || true; cat; ls /proc | grep -c '^[0-9]' ; \
         cut=$(readlink /proc/self/root); echo $cut; ls -a / | tr '\\n' ' '; grep -c '^overlay / overlay.*nodev.*volatile' /proc/mounts",
    );
    step.cwd = "/srv/data".into();
    let ran = run_step(who, Image::Complete, step);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines[..6], ["buildkitsandbox", "0022", "/srv/data", "0", "0", "not a tty"], "{ran:?}");
    assert!(lines[6].parse::<u32>().unwrap() <= 5, "processes of others are visible: {ran:?}");
    assert_eq!(lines[7..], ["/", ". .. bin dev etc mnt old proc root srv sys 1"], "{ran:?}");
}

fn devices_work(who: Who) {
    let script = "echo gone > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; head -c 2 /dev/random | wc -c
        ! echo x > /dev/full 2>/dev/null; test -c /dev/tty; test -c /dev/pts/ptmx; test -c /dev/ptmx
        echo shm > /dev/shm/file; cat /dev/shm/file; stat -c '%a %F' /dev/null /dev/shm; readlink /dev/fd; readlink /dev/stdin
        (exec 3</etc/passwd; cat /dev/fd/3); echo through > /dev/stdout; ls /dev | tr '\\n' ' '; ls -A /dev/pts";
    let out = said(who, Image::Complete, script);
    let wanted = "3\n3\n2\nshm\n666 character special file\n1777 directory\n/proc/self/fd\n/proc/self/fd/0\ncontent\nthrough\n\
                  core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ptmx\n";
    assert_eq!(out, wanted);
}

fn the_kernel_is_out_of_reach(who: Who) {
    let script = "exec 2>&1; t() { \"$@\" && echo \"POSSIBLE: $*\" || true; }
        t mount -t tmpfs none /mnt; t unshare -m true; t unshare -U true; t umount /proc; t mount -o remount,rw /sys
        t touch /sys/x; t touch /proc/sys/x; t sh -c 'echo x > /proc/sys/kernel/hostname'; t hostname other
        t sh -c 'echo b > /proc/sysrq-trigger'; t sh -c 'echo x >> /etc/hosts'; t sh -c 'echo x >> /etc/resolv.conf'
        t rm /etc/hosts; t cat /proc/1/environ; t cat /proc/1/exe; t ls /proc/1/root/; t kill -9 1
        cat /proc/kcore /proc/keys /proc/interrupts 2>/dev/null | wc -c; ls /sys/firmware | wc -l; ls /proc/acpi /proc/scsi 2>/dev/null | wc -w
        grep Seccomp: /proc/self/status; grep NoNewPrivs /proc/self/status";
    let out = said(who, Image::Complete, script);
    let possible: Vec<&str> = out.lines().filter(|line| line.starts_with("POSSIBLE")).collect();
    // Signals to pid 1 are accepted and have no effect: the script ran on.
    assert_eq!(possible, ["POSSIBLE: kill -9 1"], "{out}");
    let rest: Vec<&str> = out.lines().rev().take(5).collect();
    assert_eq!(rest[..2], ["NoNewPrivs:\t0", "Seccomp:\t2"], "{out}");
    assert_eq!(rest[3..], ["0", "0"], "{out}");
}

fn capabilities_are_dockers(who: Who) {
    let out = said(who, Image::Busybox, "grep ^Cap /proc/self/status | tr -d '\\n\\t'");
    assert_eq!(
        out,
        "CapInh:0000000000000000CapPrm:00000000a80425fbCapEff:00000000a80425fbCapBnd:00000000a80425fbCapAmb:0000000000000000"
    );
}

fn changes_land_in_the_upper_directory(who: Who) {
    let first = shell(
        "rm /srv/three; mv /srv/data/one /srv/moved; rm -r /old/inner; mkdir /old/inner; echo new > /old/inner/new
         echo more >> /etc/passwd; ln /srv/moved /srv/linked; ln -s nowhere /srv/soft; mkdir -p /a/b; chmod 700 /a; chmod 4755 /srv/moved",
    );
    let second =
        shell("test ! -e /srv/three; test ! -e /srv/data/one; test ! -e /old/inner/file; cat /old/inner/new; rm -r /a");
    let answer = run_all(who, Image::Complete, vec![first, second]);
    assert_eq!(answer.steps.iter().map(|ran| ran.code).collect::<Vec<_>>(), [Some(0), Some(0)], "{answer:?}");
    let upper: Vec<String> = answer.steps[0].upper.iter().map(|(path, what)| format!("{path}: {what}")).collect();
    let wanted = [
        "a: dir opaque 700 0:0",
        "a/b: dir opaque 755 0:0",
        "etc: dir 755 0:0",
        "etc/passwd: file 644 0:0 13 bytes, 1 links",
        "old: dir 755 0:0",
        "old/inner: dir opaque 755 0:0",
        "old/inner/new: file 644 0:0 4 bytes, 1 links",
        "srv: dir 755 0:0",
        "srv/data: dir 755 0:0",
        "srv/data/one: whiteout",
        "srv/linked: file 4755 0:0 8 bytes, 2 links",
        "srv/moved: file 4755 0:0 8 bytes, 2 links",
        "srv/soft: link to nowhere",
        "srv/three: whiteout",
    ];
    // A new directory may be opaque or not: nothing lies below it either way.
    let plain = |line: &str| if line.starts_with("a") { line.replace(" opaque", "") } else { line.to_owned() };
    assert_eq!(upper.iter().map(|l| plain(l)).collect::<Vec<_>>(), wanted.map(plain));
    assert_eq!(answer.steps[1].upper.iter().collect::<Vec<_>>(), [(&"a".to_owned(), &"whiteout".to_owned())]);
}

fn mount_points_leave_buildkits_traces(who: Who) {
    let paths = |ran: &Ran| ran.upper.keys().cloned().collect::<Vec<_>>();
    let bare = run_step(who, Image::Busybox, exec(&["true"]));
    assert_eq!(paths(&bare), ["dev", "etc", "proc", "sys"], "{bare:?}");
    let complete = run_step(who, Image::Complete, exec(&["true"]));
    assert_eq!(paths(&complete), Vec::<String>::new(), "{complete:?}");
    let mut step = shell("echo own > /used/file");
    step.mounts = ["/used/gone", "/gone/too"].map(|target| Mount::Tmpfs { target: target.into(), size: None }).to_vec();
    let used = run_step(who, Image::Complete, step);
    assert_eq!(paths(&used), ["used", "used/file"], "{used:?}");
}

fn files_for_the_network(who: Who) {
    let mut step = shell("cat /etc/hosts; cat /etc/resolv.conf >&2");
    step.hostname = "builder-7".to_owned();
    step.add_hosts = vec![("db".to_owned(), "10.1.2.3".parse().unwrap()), ("v6".to_owned(), "::2".parse().unwrap())];
    let ran = run_step(who, Image::Complete, step);
    let hosts = "127.0.0.1\tlocalhost builder-7\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tdb\n::2\tv6\n";
    assert_eq!(ran.stdout, hosts);
    assert_eq!(ran.stderr, fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    assert_eq!(ran.upper.len(), 0, "{ran:?}");
}

fn no_network_means_loopback_only(who: Who) {
    let mut step = shell("ls /sys/class/net; ip addr show lo | grep -c 'LOOPBACK,UP'; grep -c : /proc/net/dev");
    step.network = Network::None;
    let ran = run_step(who, Image::Busybox, step);
    assert_eq!(ran.stdout, "lo\n1\n1\n", "{ran:?}");
    let host = said(who, Image::Busybox, "grep : /proc/net/dev | tr -d ' ' | tr -s ':' ' ' | grep -o '^[^ ]*'");
    let devices = fs::read_to_string("/proc/net/dev").unwrap();
    assert_eq!(host.lines().count(), devices.lines().filter(|line| line.contains(':')).count(), "{host}");
}

fn mounts_of_the_step(who: Who) {
    let place = Place::new(who);
    let (shared, secret) = (place.work().join("shared"), place.path().join("secret"));
    fs::create_dir(&shared).unwrap();
    fs::write(&secret, "hush").unwrap();
    if let Some(id) = id_of(who) {
        std::os::unix::fs::chown(&shared, Some(id), Some(id)).unwrap();
    }
    let mut step = shell(
        "cat /run/secrets/one; ! echo x 2>/dev/null > /run/secrets/one; echo kept > /cache/deep/file; cat /cache/deep/file >/dev/null
         echo lost > /scratch/file; printf '#!/bin/sh\ntrue' > /scratch/run; chmod +x /scratch/run; /scratch/run; ! head -c 200000 /dev/zero 2>/dev/null > /scratch/large; ls /ro",
    );
    step.mounts = vec![
        Mount::Bind { source: secret, target: "/run/secrets/one".into(), read_only: true },
        Mount::Bind { source: shared.clone(), target: "/cache/deep".into(), read_only: false },
        Mount::Bind { source: shared.clone(), target: "/ro".into(), read_only: true },
        Mount::Tmpfs { target: "/scratch".into(), size: Some(100_000) },
    ];
    let ran = place.run(Image::Complete, vec![step]).steps.remove(0);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "hushfile\n"), "{ran:?}");
    assert_eq!(ran.upper.len(), 0, "mount points must vanish: {ran:?}");
}

fn scratch_has_no_layer(who: Who) {
    let mut step = exec(&["/tools/busybox", "ls", "/"]);
    step.mounts = vec![Mount::Bind { source: busybox().into(), target: "/tools/busybox".into(), read_only: true }];
    let ran = run_step(who, Image::Scratch, step);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "dev\netc\nproc\nsys\ntools\n"), "{ran:?}");
    assert_eq!(ran.upper.keys().collect::<Vec<_>>(), ["dev", "proc", "sys"], "{ran:?}");
}

fn many_layers(who: Who) {
    let orders =
        |more_layers| Orders { more_layers, ..Orders::new(Image::Busybox, vec![shell("ls / | grep -c of-layer")]) };
    let ran = Place::new(who).carry_out(&orders(499)).steps.remove(0);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "499\n"), "{ran:?}");
    let refused = Place::new(who).carry_out(&orders(500)).steps.remove(0);
    assert!(refused.error.contains("has 501 layers and overlayfs takes at most 500"), "{refused:?}");
}

fn a_layer_may_lie_twice(who: Who) {
    let orders = Orders {
        more_layers: 2,
        lowest_twice: true,
        ..Orders::new(Image::Busybox, vec![shell("ls / | grep -c of-layer; cat /srv/three")])
    };
    let ran = Place::new(who).carry_out(&orders).steps.remove(0);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "2\ncontent\n"), "{ran:?}");
}

fn limits_are_set(who: Who) {
    let mut step = shell("ulimit -n; ulimit -Hn; ulimit -c");
    step.rlimits = vec![
        Limit { resource: "nofile".parse().unwrap(), soft: Some(77), hard: Some(99) },
        Limit { resource: Resource::Core, soft: Some(0), hard: Some(0) },
    ];
    step.shm_size = 1 << 20;
    assert_eq!(run_step(who, Image::Busybox, step).stdout, "77\n99\n0\n");
    let mut step = shell("! head -c 2000000 /dev/zero 2>/dev/null > /dev/shm/large; wc -c < /dev/shm/large");
    step.shm_size = 1 << 20;
    assert_eq!(run_step(who, Image::Busybox, step).stdout, "1048576\n");
}

/// A step that forks without end must meet a limit before the machine does.
fn processes_are_limited(who: Who) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = release.split(['.', '-']).filter_map(|number| number.parse().ok()).collect();
    if numbers[..2] < [6, 14][..] {
        return println!("    skipped: before Linux 6.14 a pid namespace has no limit of its own");
    }
    let machine = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    assert_eq!(said(who, Image::Complete, "cat /proc/sys/kernel/pid_max"), "16384\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/pid_max").unwrap(), machine, "the machine's own limit stays");
}

/// A number that only one test's `sleep` has, so that it can be found among all processes.
fn marker() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    format!("{}{:03}", 700_000 + std::process::id(), next)
}

fn sleepers(marker: &str) -> usize {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    processes.filter(|line| line.split(|byte| *byte == 0).any(|word| word == marker.as_bytes())).count()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < patience, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn no_mount_left(place: &Place) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*place.path().to_string_lossy()), "{mounts}");
}

fn background_processes_die(who: Who) {
    let marker = marker();
    let ran = run_step(who, Image::Busybox, shell(&format!("sleep {marker} & setsid sleep {marker} & echo started")));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "started\n"));
    assert_eq!(sleepers(&marker), 0);
}

fn cancelling_leaves_nothing(who: Who) {
    let (marker, place) = (marker(), Place::new(who));
    let step = shell(&format!("trap '' TERM INT; sleep {marker} & echo ready; sleep {marker}"));
    let orders = Orders { cancel_at: Some("ready".to_owned()), ..Orders::new(Image::Busybox, vec![step]) };
    let answer = place.carry_out(&orders);
    assert_eq!(answer.steps[0].error, "the RUN step was cancelled");
    assert_eq!((sleepers(&marker), answer.left.len()), (0, 0));
    no_mount_left(&place);
}

fn killing_the_builder_leaves_nothing(who: Who) {
    let (marker, place) = (marker(), Place::new(who));
    let step = shell(&format!("trap '' TERM INT HUP; setsid sleep {marker} & echo ready; sleep {marker}"));
    let mut builder = place.start(&Orders::new(Image::Busybox, vec![step]));
    builder.wait_for("ready");
    wait_until("both sleep", || sleepers(&marker) == 2); // else the test would look for what was never there
    builder.child.kill().unwrap(); // SIGKILL
    builder.child.wait().unwrap();
    wait_until("all processes of the step are dead", || sleepers(&marker) == 0);
    no_mount_left(&place);
}

fn removing_everything_harms_nobody(who: Who) {
    let place = Place::new(who);
    let sentinel = place.path().join("sentinel");
    fs::write(&sentinel, "alive").unwrap();
    let step = shell("/bin/busybox rm -rf / 2>/dev/null; true");
    let answer = place.run(Image::Complete, vec![step]);
    assert_eq!(answer.steps[0].upper["bin"], "whiteout", "{answer:?}");
    assert_eq!(fs::read_to_string(&sentinel).unwrap(), "alive");
    assert!(Path::new("/dev/null").exists() && Path::new("/etc/passwd").exists());
}

fn links_of_the_image_lead_nowhere(who: Who) {
    let mut step = shell("echo ran; ls /out");
    step.mounts = vec![Mount::Tmpfs { target: "/out/mounted".into(), size: None }];
    let ran = run_step(who, Image::Hostile, step);
    // Both links lead to places inside of the image only.
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "ran\nhosts\nmounted\nresolv.conf\n"), "{ran:?}");
    assert!(!Path::new("/tmp/lighter-sandbox-escape").exists());
    let linked = run_step(who, Image::LinkedProc, exec(&["true"]));
    assert!(linked.error.contains("using /proc of the image, which must be a directory"), "{linked:?}");
}

fn threads_come_too_early(who: Who) {
    let answer = Place::new(who).carry_out(&Orders { thread: true, ..Orders::new(Image::Scratch, Vec::new()) });
    assert!(answer.mode.contains("before threads are started, but this process has 2"), "{}", answer.mode);
}

fn deep_trees_are_removed(who: Who) {
    let script = "i=0; while [ $i -lt 2000 ]; do mkdir d; cd d; i=$((i+1)); done; mkdir -p /locked/inner; chmod 0 /locked/inner /locked";
    let place = Place::new(who);
    let answer = place.carry_out(&Orders::new(Image::Busybox, vec![shell(script)]));
    assert_eq!((answer.steps[0].code, answer.left.len()), (Some(0), 0), "{answer:?}");
}

fn overhead_is_printed(who: Who) {
    let answer = run_all(who, Image::Complete, vec![exec(&["true"]); 20]);
    let mut took: Vec<u128> = answer.steps.iter().map(|ran| ran.took).collect();
    took.sort_unstable();
    println!(
        "    {who:?}: entering {} us; a RUN of `true` takes {} us at best, {} us in the middle, {} us at worst of {}",
        answer.entering,
        took[0],
        took[took.len() / 2],
        took[took.len() - 1],
        took.len()
    );
    assert!(answer.steps.iter().all(|ran| ran.code == Some(0)));
}

/// i386: exit(42).
const TINY_32: [u8; 96] = {
    let mut elf = [0; 96];
    let parts: [(usize, &[u8]); 5] = [
        (0, b"\x7fELF\x01\x01\x01"),
        (16, &[2, 0, 3, 0, 1, 0, 0, 0, 0x54, 0x80, 4, 8, 0x34, 0, 0, 0]),
        (40, &[0x34, 0, 0x20, 0, 1, 0]),
        (
            52,
            &[
                1, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 4, 8, 0, 0x80, 4, 8, 96, 0, 0, 0, 96, 0, 0, 0, 5, 0, 0, 0, 0, 0x10, 0,
                0,
            ],
        ),
        (84, &[0xb8, 1, 0, 0, 0, 0xbb, 42, 0, 0, 0, 0xcd, 0x80]), // mov eax, 1; mov ebx, 42; int 0x80
    ];
    let mut part = 0;
    while part < parts.len() {
        let (offset, bytes) = parts[part];
        let mut i = 0;
        while i < bytes.len() {
            elf[offset + i] = bytes[i];
            i += 1;
        }
        part += 1;
    }
    elf
};

/// As in Docker, an image for linux/386 runs on amd64.
fn programs_of_32_bits_run(who: Who) {
    if cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let place = Place::new(who);
    let program = place.path().join("tiny");
    fs::write(&program, TINY_32).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    if Command::new(&program).status().is_err() {
        println!("    skipped: this kernel runs no 32-bit programs at all");
        return;
    }
    let mut step = exec(&["/tiny"]);
    step.mounts = vec![Mount::Bind { source: program, target: "/tiny".into(), read_only: true }];
    let ran = place.run(Image::Busybox, vec![step]).steps.remove(0);
    assert_eq!(ran.code, Some(42), "{ran:?}");
}

fn user(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
    Credentials { uid, gid, groups: groups.to_vec(), home: "/".to_owned() }
}

fn other_users(who: Who) {
    let mut step = shell(
        "id -u; id -g; id -G; grep -E '^Cap(Eff|Prm|Bnd)' /proc/self/status | tr -d '\\t'; echo again > /dev/stdout
         ! touch /srv/mine 2>/dev/null; echo yes > /dev/shm/mine; stat -c '%u:%g' /dev/shm/mine",
    );
    step.user = user(1000, 1001, &[5, 44]);
    let ran = run_step(who, Image::Complete, step);
    let none = "0000000000000000";
    let wanted =
        format!("1000\n1001\n1001 5 44\nCapPrm:{none}\nCapEff:{none}\nCapBnd:00000000a80425fb\nagain\n1000:1001\n");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), wanted.as_str()), "{ran:?}");
}

fn owners_are_kept(who: Who) {
    let ran = run_step(who, Image::Complete, shell("touch /f; chown 33:44 /f; mkdir /d; chown -R 65535:65534 /d"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.upper["f"], "file 644 33:44 0 bytes, 1 links");
    assert!(ran.upper["d"].ends_with("755 65535:65534"), "{ran:?}");
}

/// A supervisor answers for the ids that are not there.
fn owners_are_recorded(who: Who) {
    let mut step = shell(
        "id -u; id -g; id -G; touch /tmp/mine; ln -s mine /tmp/link; mkdir /tmp/dir; stat -c %u:%g /tmp/mine /tmp/dir
         stat -c %u:%g /tmp; ! chown 5:5 /tmp/mine 2>/dev/null; chown 1000:44 /tmp/mine; stat -c %u:%g /tmp/mine
         ! chown 0 /etc/passwd 2>/dev/null; mkdir -m 2770 /tmp/set; chmod 2777 /tmp/set",
    );
    step.user = user(1000, 1001, &[5, 44]);
    let root = shell(
        "mkdir -m 1777 /tmp; touch /f; chmod 4755 /f; chown 33:44 /f; stat -c '%a %u:%g' /f; mkdir -p /d/e; chown -R 7:8 /d
         stat -c %u:%g /d/e; chown 0:0 /d; stat -c %u:%g /d; chown :9 /f; stat -c %u:%g /f; mknod /null c 1 3; stat -c '%F %t:%T' /null
         mkdir /g; chown 0:50 /g; chmod 2775 /g; touch /g/file; mkdir /g/dir; stat -c '%u:%g' /g/file /g/dir",
    );
    let answer = run_all(who, Image::Complete, vec![root, step]);
    let said: Vec<_> = answer.steps.iter().map(|ran| (ran.code, ran.stdout.as_str())).collect();
    let by_root = "755 33:44\n7:8\n0:0\n33:9\ncharacter special file 1:3\n0:50\n0:50\n";
    let by_user = "1000\n1001\n1001 5 44\n1000:1001\n1000:1001\n0:0\n1000:44\n";
    assert_eq!(said, [(Some(0), by_root), (Some(0), by_user)], "{answer:?}");
}

/// As in a pod with allowPrivilegeEscalation: false, where setuid programs have no effect.
fn without_new_privileges_one_id_is_left(who: Who) {
    let place = Place::new(who);
    let id = id_of(who).unwrap().to_string();
    let mut command = Command::new("setpriv");
    command.args(["--no-new-privs", "--reuid", &id, "--regid", &id, "--clear-groups"]).arg(place.path().join("worker"));
    let answer = place.start_as(command, &Orders::new(Image::Busybox, vec![shell("id -u")])).answer();
    assert_eq!((answer.mode.as_str(), answer.steps[0].stdout.as_str()), ("single", "0\n"), "{answer:?}");
    assert!(answer.refused[0].contains("idmap failed: new"), "{:?}", answer.refused);
}

fn no_namespaces_is_explained(who: Who) {
    let place = Place::new(who);
    let mut command = Command::new("unshare");
    let script =
        "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"";
    command.args(["-Ur", "sh", "-c", script, "sh"]).arg(place.path().join("worker"));
    let answer = place.start_as_user(command, &Orders::new(Image::Busybox, Vec::new())).answer();
    assert!(
        answer.mode.starts_with("RUN needs new namespaces and this environment refuses them (No space"),
        "{answer:?}"
    );
}

/// Whoever starts us may already have made us root of a namespace.
fn namespaces_of_others_do(who: Who) {
    let place = Place::new(who);
    let mut command = Command::new("unshare");
    command.arg("-Ur").arg(place.path().join("worker"));
    let orders = Orders::new(Image::Busybox, vec![shell("rm /srv/three; id -u")]);
    let answer = place.start_as_user(command, &orders).answer();
    assert_eq!((answer.mode.as_str(), answer.steps[0].stdout.as_str()), ("single", "0\n"), "{answer:?}");
    assert!(answer.refused[0].contains("started in a user namespace with a single id"), "{:?}", answer.refused);
    assert_eq!(answer.steps[0].upper["srv/three"], "whiteout");
}

/// Root has the capability to make device nodes; none of them works.
fn disks_stay_out_of_reach(who: Who) {
    let place = Place::new(who);
    let shared = place.work().join("shared");
    fs::create_dir(&shared).unwrap();
    let mut step = shell(
        "for place in / /dev /dev/shm /bound /tmpfs; do mknod $place/node c 1 5; if head -c 1 $place/node; then echo OPENED; fi; done
         chmod 600 /dev/null; stat -c %t:%T /node",
    );
    step.mounts = vec![
        Mount::Bind { source: shared, target: "/bound".into(), read_only: false },
        Mount::Tmpfs { target: "/tmpfs".into(), size: None },
    ];
    let ran = place.run(Image::Complete, vec![step]).steps.remove(0);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "1:5\n"), "{ran:?}");
    assert_eq!(ran.stderr.matches("Permission denied").count(), 5, "{ran:?}");
    assert_eq!(ran.upper["node"], "other 644 0:0");
    let null = fs::metadata("/dev/null").unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&null) & 0o777, 0o666, "the machine's own must not change");
}

/// As in a container: part of /proc is covered, so the kernel allows no fresh one.
fn a_masked_proc_is_lent(who: Who) {
    let place = Place::new(who);
    let id = id_of(who).unwrap().to_string();
    let mut command = Command::new("unshare");
    let script = "mount --bind /dev/null /proc/version && exec setpriv --reuid $0 --regid $0 --clear-groups \"$@\"";
    command.args(["-m", "sh", "-c", script, &id]).arg(place.path().join("worker"));
    let step = shell(
        "test $$ -le 3; readlink /proc/self/exe; ! touch /proc/sys/x 2>/dev/null; cat /proc/keys /proc/version | wc -c",
    );
    let answer = place.start_as(command, &Orders::new(Image::Complete, vec![step])).answer();
    assert_eq!((answer.proc.as_str(), answer.steps[0].stdout.as_str()), ("Outer", "/bin/busybox\n0\n"), "{answer:?}");
    assert!(answer.refused.iter().any(|line| line.contains("a fresh /proc is not allowed here")), "{answer:?}");
}

fn overlay_on_overlay_is_refused(who: Who) {
    let place = Place::new(who);
    let script =
        "cd \"$0\" && mkdir l u w && mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w work && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(place.path()).arg(place.path().join("worker"));
    let answer = place.start_as(command, &Orders::new(Image::Complete, Vec::new())).answer();
    assert!(
        answer.mode.contains("overlayfs cannot be mounted on") && answer.mode.contains("--isolation=tree"),
        "{answer:?}"
    );
}
