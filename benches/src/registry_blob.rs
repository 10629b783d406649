//! `registry-blob`: one blob of 512 MB, received and served, by lighter and by Debian's docker-registry.
//!
//! The client is the same for both, and does little: it sends bytes that it has, and throws away what it
//! gets. Processor time is the server's alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fixtures::den::Den;
use fixtures::http;
use fixtures::registry::Registry;
use fixtures::seed::Seed;
use oci::Digest;

use crate::contest::{Contestant, hold, measure_server};

const SIZE: usize = 512 << 20;
const START_LIMIT: Duration = Duration::from_secs(30);

pub fn run(lighter: &Path, rounds: usize) {
    println!("registry-blob: {} MB\n", SIZE / 1_000_000);
    let content = Seed::new(1).bytes(SIZE);
    let (ours, theirs) = (Registry::start(lighter), DockerRegistry::start());
    let (mut ours_pushed, mut theirs_pushed) = (0, 0);
    hold(
        "registry-blob/receive",
        rounds,
        vec![
            Contestant::new("lighter", || receive(ours.process(), ours.address(), &content, &mut ours_pushed)),
            Contestant::new("docker-registry", || {
                receive(theirs.process, theirs.address, &content, &mut theirs_pushed)
            }),
        ],
    );
    let digest = Digest::of(&content[..SIZE - 1]);
    push(ours.address(), &content[..SIZE - 1], &digest);
    push(theirs.address, &content[..SIZE - 1], &digest);
    hold(
        "registry-blob/serve",
        rounds,
        vec![
            Contestant::new("lighter", || measure_server(ours.process(), || pull(ours.address(), &digest))),
            Contestant::new("docker-registry", || measure_server(theirs.process, || pull(theirs.address, &digest))),
        ],
    );
}

/// Each round sends another blob: one that is known already need not be kept.
fn receive(server: u32, address: SocketAddr, content: &[u8], pushed: &mut usize) -> crate::contest::Cost {
    *pushed += 1;
    let content = &content[*pushed + 1..];
    let digest = Digest::of(content);
    measure_server(server, || push(address, content, &digest))
}

fn push(server: SocketAddr, content: &[u8], digest: &Digest) {
    let opened = http::send(server, "POST", "/v2/bench/blobs/uploads/", &[], b"").expect("the registry answers");
    let opened = opened.expect(202);
    let sent = http::send(server, "PATCH", &target(&opened), &[("content-type", "application/octet-stream")], content);
    let sent = sent.expect("the registry takes a blob").expect(202);
    let location = target(&sent);
    let separator = if location.contains('?') { '&' } else { '?' };
    let closed = http::send(server, "PUT", &format!("{location}{separator}digest={digest}"), &[], b"");
    closed.expect("the registry files a blob").expect(201);
}

/// The path of a Location, which one of them writes with its host.
fn target(answer: &http::Answer) -> String {
    let location = answer.header("location").expect("the registry says where to go on");
    match location.strip_prefix("http://") {
        Some(rest) => rest[rest.find('/').expect("a path")..].to_owned(),
        None => location.to_owned(),
    }
}

/// Reads a blob to its last byte, and keeps none.
fn pull(server: SocketAddr, digest: &Digest) {
    let mut stream = TcpStream::connect(server).expect("the registry answers");
    write!(stream, "GET /v2/bench/blobs/{digest} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n")
        .expect("ask");
    let (mut buffer, mut total) = (vec![0; 1 << 20], 0);
    loop {
        match stream.read(&mut buffer).expect("read the blob") {
            0 => break,
            read => total += read,
        }
    }
    assert!(total >= SIZE - 1, "the registry sent {total} bytes");
}

/// The reference implementation, as Debian packages it, with its default settings.
pub struct DockerRegistry {
    pub address: SocketAddr,
    pub process: u32,
    _den: Den,
}

impl DockerRegistry {
    pub fn start() -> Self {
        let mut den = Den::new("docker-registry");
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let data = den.path().join("data");
        let configuration = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            data.display(),
        );
        let path = den.path().join("config.yml");
        std::fs::write(&path, configuration).expect("write a configuration");
        let program = "/usr/bin/docker-registry";
        assert!(Path::new(program).is_file(), "{program} is missing; install the Debian package docker-registry");
        let mut command = Command::new(program);
        command.arg("serve").arg(&path).env("HOME", den.path());
        let process = den.start("docker-registry", &mut command);
        wait_for(address);
        Self { address, process: process.as_raw_nonzero().get().unsigned_abs(), _den: den }
    }
}

/// Waits until a registry answers; asks often, because `start` measures it.
pub fn wait_for(address: SocketAddr) {
    let deadline = Instant::now() + START_LIMIT;
    while http::send(address, "GET", "/v2/", &[], b"").is_err() {
        assert!(Instant::now() < deadline, "no registry answers at {address}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
