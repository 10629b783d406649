//! `start`: the time until a build begins its first step and until a registry on empty data answers, the memory that
//! holds then, and the size of the program.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fixtures::clients::Buildah;
use fixtures::den::Den;
use fixtures::docker_registry::wait_for;

use crate::contest::{Contestant, Cost, hold, measure};
use crate::usage;

const PEER: &str = "/usr/bin/docker-registry";

pub fn run(lighter: &Path, rounds: usize) {
    hold(
        "start/version",
        rounds,
        vec![
            Contestant::new("lighter", || measure(Command::new(lighter).arg("--version"))),
            Contestant::new("docker-registry", || measure(Command::new(PEER).arg("--version"))),
            Contestant::new("buildah", || measure(Command::new("buildah").arg("--version"))),
        ],
    );
    let context = Den::new("first-step");
    fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").expect("make a context");
    hold(
        "start/build-until-its-first-step",
        rounds,
        vec![
            Contestant::new("lighter", || {
                let home = Den::new("home");
                let mut command = Command::new(lighter);
                command.args(["build", "--progress=plain"]).arg(context.path()).env("HOME", home.path());
                until_it_says(command.stderr(Stdio::piped()), "#1 [")
            }),
            Contestant::new("buildah", || {
                let buildah = Buildah::new();
                let mut command = buildah.command(&["build", "--isolation=chroot"]);
                until_it_says(command.arg(context.path()).stdout(Stdio::piped()), "STEP 1")
            }),
        ],
    );
    let (mut our_memory, mut their_memory) = (0, 0);
    hold(
        "start/registry-until-it-answers",
        rounds,
        vec![
            Contestant::new("lighter", || {
                until_it_answers(&mut our_memory, |den, address| {
                    let mut command = Command::new(lighter);
                    command.args(["registry", "serve", "--addr", &address.to_string(), "--data"]);
                    command.arg(den.path().join("data"));
                    command
                })
            }),
            Contestant::new("docker-registry", || {
                until_it_answers(&mut their_memory, |den, address| {
                    let path = den.path().join("config.yml");
                    let data = den.path().join("data");
                    let text = format!(
                        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
                        data.display(),
                    );
                    fs::write(&path, text).expect("write a configuration");
                    let mut command = Command::new(PEER);
                    command.arg("serve").arg(path);
                    command
                })
            }),
        ],
    );
    let size = |path: &Path| fs::metadata(path).map_or(0.0, |metadata| metadata.len() as f64 / 1e6);
    println!(
        "start/memory-at-rest   lighter {:.1} MB, docker-registry {:.1} MB",
        megabytes(our_memory),
        megabytes(their_memory)
    );
    println!(
        "start/size-of-program  lighter {:.1} MB, docker-registry {:.1} MB, buildah {:.1} MB\n",
        size(lighter),
        size(Path::new(PEER)),
        size(Path::new("/usr/bin/buildah")),
    );
}

/// Until a line begins like that, on the one stream that is piped; what comes after it is not waited for in what is
/// counted.
fn until_it_says(command: &mut Command, wanted: &str) -> Cost {
    let before = usage::of_ended_children();
    let begun = Instant::now();
    let mut process = command.stdin(Stdio::null()).spawn().expect("start a build");
    let stream: Box<dyn Read> = match (process.stdout.take(), process.stderr.take()) {
        (Some(stream), _) => Box::new(stream),
        (None, stream) => Box::new(stream.expect("a pipe")),
    };
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with(wanted)), "it never said {wanted}");
    let wall = begun.elapsed();
    lines.for_each(drop);
    assert!(process.wait().expect("wait for it").success(), "{command:?}");
    Cost { wall, processor: usage::of_ended_children().saturating_sub(before) }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn until_it_answers(memory: &mut u64, command: impl Fn(&Den, SocketAddr) -> Command) -> Cost {
    let mut den = Den::new("start");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("a free port");
    let mut command = command(&den, address);
    command.env("HOME", den.path());
    let begun = Instant::now();
    let process = den.start("registry", &mut command);
    wait_for(address);
    let wall = begun.elapsed();
    let process = process.as_raw_nonzero().get().unsigned_abs();
    let processor = usage::of_process(process);
    std::thread::sleep(Duration::from_millis(200)); // at rest
    *memory = usage::memory_of_process(process);
    Cost { wall, processor }
}
