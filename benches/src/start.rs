//! `start`: the time until a registry on empty data answers, the memory it holds then, and its size.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

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
