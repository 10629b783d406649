//! `registry-blob`: one blob of 512 MB, received and served, by lighter, by Debian's docker-registry, and by
//! nginx, which only sends a file: the limit.
//!
//! The client is the same for both, and does little: it sends bytes that it has, and throws away what it
//! gets. Processor time is the server's alone.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use fixtures::docker_registry::DockerRegistry;
use fixtures::http;
use fixtures::registry::Registry;
use fixtures::seed::Seed;
use oci::Digest;

use crate::contest::{Contestant, hold, measure_server};
use crate::nginx::Nginx;
use crate::usage;

const SIZE: usize = 512 << 20;
/// The parts of receiving alone work in pieces of this size, as the registry does.
const PIECE: usize = 512 << 10;

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
    limits(&content, &ours.directory().join("limit"));
    let digest = Digest::of(&content[..SIZE - 1]);
    push(ours.address(), &content[..SIZE - 1], &digest);
    push(theirs.address, &content[..SIZE - 1], &digest);
    let nginx = Nginx::start(|files| fs::write(files.join("blob"), &content[..SIZE - 1]).expect("write a file"));
    let blob = format!("/v2/bench/blobs/{digest}");
    for streams in [1, 4] {
        let pull = |server, path: &str| pull_in(streams, server, path);
        hold(
            &format!("registry-blob/serve-{streams}"),
            rounds,
            vec![
                Contestant::new("lighter", || measure_server(ours.process(), || pull(ours.address(), &blob))),
                Contestant::new("docker-registry", || measure_server(theirs.process, || pull(theirs.address, &blob))),
                Contestant::new("nginx", || measure_server(nginx.process, || pull(nginx.address, "/blob"))),
            ],
        );
    }
    memory(&ours, &blob);
}

/// What the parts of receiving cost alone on this machine, in the simplest way: what a registry that hashes
/// and makes durable cannot be below.
fn limits(content: &[u8], path: &Path) {
    let per_gigabyte = |part: &dyn Fn()| {
        let before = usage::of_this_thread();
        part();
        usage::of_this_thread().saturating_sub(before).as_secs_f64() * 1e9 / content.len() as f64
    };
    let hashed = per_gigabyte(&|| {
        std::hint::black_box(Digest::of(content));
    });
    let written = per_gigabyte(&|| {
        let mut file = fs::File::create(path).expect("create a file");
        content.chunks(PIECE).try_for_each(|piece| file.write_all(piece)).expect("write a file");
        file.sync_data().expect("make a file durable");
    });
    fs::remove_file(path).expect("remove a file");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it has an address");
    let received = std::thread::scope(|scope| {
        scope.spawn(|| TcpStream::connect(address).and_then(|mut to| to.write_all(content)).expect("send"));
        let (mut from, _) = listener.accept().expect("somebody connects");
        let from = std::cell::RefCell::new(&mut from);
        per_gigabyte(&|| {
            let mut piece = vec![0; PIECE];
            while from.borrow_mut().read(&mut piece).expect("receive") > 0 {}
        })
    });
    println!(
        "registry-blob/receive, the parts alone, in processor seconds for a GB: hash {hashed:.2}, write and sync {written:.2}, socket {received:.2}, together {:.2}\n",
        hashed + written + received
    );
}

/// What a thousand clients cost that all pull at once and take their time.
fn memory(ours: &Registry, path: &str) {
    let before = usage::memory_of_process(ours.process());
    let slow: Vec<_> = (0..1000)
        .map(|_| {
            let mut stream = TcpStream::connect(ours.address()).expect("the registry answers");
            write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").expect("ask");
            stream
        })
        .map(|mut stream| {
            stream.read_exact(&mut [0; 4096]).expect("the blob begins");
            stream
        })
        .collect();
    let during = usage::memory_of_process(ours.process());
    println!(
        "registry-blob/memory  lighter {:.1} MB, with {} pulls at once {:.1} MB\n",
        before as f64 / 1e6,
        slow.len(),
        during as f64 / 1e6
    );
}

fn pull_in(streams: usize, server: SocketAddr, path: &str) {
    std::thread::scope(|scope| {
        for _ in 0..streams {
            scope.spawn(|| pull(server, path));
        }
    });
}

/// Each round sends another blob: one that is known already need not be kept.
fn receive(server: u32, address: SocketAddr, content: &[u8], pushed: &mut usize) -> crate::contest::Cost {
    *pushed += 1;
    let content = &content[*pushed + 1..];
    let digest = Digest::of(content);
    measure_server(server, || push(address, content, &digest))
}

pub fn push(server: SocketAddr, content: &[u8], digest: &Digest) {
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
    path(answer.header("location").expect("the registry says where to go on"))
}

/// The same of the head of an answer as it came.
pub fn path_of(head: &str) -> String {
    let location = head.lines().find_map(|line| line.strip_prefix("Location: ").or(line.strip_prefix("location: ")));
    path(location.expect("the registry says where to go on"))
}

fn path(location: &str) -> String {
    match location.strip_prefix("http://") {
        Some(rest) => rest[rest.find('/').expect("a path")..].to_owned(),
        None => location.to_owned(),
    }
}

/// Reads a blob to its last byte, and keeps none.
fn pull(server: SocketAddr, path: &str) {
    let mut stream = TcpStream::connect(server).expect("the registry answers");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n").expect("ask");
    let (mut buffer, mut total) = (vec![0; 1 << 20], 0);
    loop {
        match stream.read(&mut buffer).expect("read the blob") {
            0 => break,
            read => total += read,
        }
    }
    assert!(total >= SIZE - 1, "the registry sent {total} bytes");
}
