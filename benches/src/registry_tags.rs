//! `registry-tags`: what 100 000 tags cost: setting them with 16 clients, a page of them, the start over
//! them, and a few referrers among many.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use fixtures::docker_registry::DockerRegistry;
use fixtures::http;
use fixtures::registry::Registry;
use fixtures::seed::Seed;
use oci::Digest;

use crate::contest::{Contestant, Cost, hold, measure_server};
use crate::load::{Line, repeat};
use crate::registry_blob::push;
use crate::registry_requests::{MANIFEST, fill, image};
use crate::usage;

const TAGS: usize = 100_000;
/// docker-registry writes some files for each tag; more would take minutes.
const TAGS_OF_THE_PEER: usize = 2_000;
const CLIENTS: usize = 16;
const REFERRERS: usize = 10_000;
const WANTED: usize = 5;
const BLOBS: usize = 2_000;

pub fn run(lighter: &Path, rounds: usize) {
    let layer = Seed::new(5).bytes(10_000);
    let manifest = image(&layer);
    let mut ours = Registry::start(lighter);
    let theirs = DockerRegistry::start();
    println!("registry-tags: {TAGS} tags; docker-registry has {TAGS_OF_THE_PEER}\n");
    for (name, process, server, tags) in [
        ("lighter", ours.process(), ours.address(), TAGS),
        ("docker-registry", theirs.process, theirs.address, TAGS_OF_THE_PEER),
    ] {
        fill(server, &layer, &manifest);
        let cost = measure_server(process, || set(server, tags, &manifest));
        each("set with 16 clients", name, &cost, tags);
        let blobs = measure_server(process, || push_small(server));
        each("push of a small blob with 16 clients", name, &blobs, BLOBS);
    }
    let request = |server: SocketAddr, path: &str| format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n");
    let page = "/v2/bench/tags/list?n=1000&last=v50000";
    let ask = |server: SocketAddr| {
        let latencies = repeat(server, &request(server, page), 200, 1, 50);
        println!("  page of 1000 tags: p50 {:?}, p99 {:?}", latencies.quantile(0.5), latencies.quantile(0.99));
    };
    hold(
        "registry-tags/50-pages-of-1000",
        rounds,
        vec![
            Contestant::new("lighter", || measure_server(ours.process(), || ask(ours.address()))),
            Contestant::new("docker-registry", || measure_server(theirs.process, || ask(theirs.address))),
        ],
    );
    let subject = Digest::of(&manifest);
    attach(ours.address(), &layer, &manifest);
    let path = format!("/v2/bench/referrers/{subject}?artifactType=application/vnd.bench.wanted");
    let latencies = repeat(ours.address(), &request(ours.address(), &path), 200, 1, 200);
    println!(
        "registry-tags/{WANTED}-referrers-of-{REFERRERS}  lighter p50 {:?}, p99 {:?}\n",
        latencies.quantile(0.5),
        latencies.quantile(0.99)
    );
    println!("registry-tags/memory  lighter {:.1} MB", usage::memory_of_process(ours.process()) as f64 / 1e6);
    for how in ["stop", "kill"] {
        if how == "stop" {
            ours.stop()
        } else {
            ours.kill()
        }
        let begun = Instant::now();
        ours.restart();
        let first = http::send(ours.address(), "HEAD", "/v2/bench/manifests/v99999", &[], b"");
        first.expect("the registry answers").expect(200);
        println!("registry-tags/start after {how}  lighter {:?} to the first tag", begun.elapsed());
    }
    println!();
}

fn each(what: &str, name: &str, cost: &Cost, count: usize) {
    println!(
        "  {what:36} {name:16} {:8.0}/s, {:6.0} us processor each",
        count as f64 / cost.wall.as_secs_f64(),
        cost.processor.as_secs_f64() * 1e6 / count as f64
    );
}

/// Every client takes the next number until there are none left.
fn shared(server: SocketAddr, count: usize, work: impl Fn(&mut Line, usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut line = Line::open(server);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    work(&mut line, number);
                }
            });
        }
    });
}

fn set(server: SocketAddr, count: usize, manifest: &[u8]) {
    shared(server, count, |line, number| {
        line.send("PUT", &format!("/v2/bench/manifests/v{number}"), MANIFEST, manifest, 201);
    });
}

fn push_small(server: SocketAddr) {
    shared(server, BLOBS, |line, number| {
        let content = Seed::new(number as u64).bytes(2_000);
        let opened = line.send("POST", "/v2/bench/blobs/uploads/", "application/octet-stream", b"", 202);
        let location = crate::registry_blob::path_of(&opened);
        let separator = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{separator}digest={}", Digest::of(&content));
        line.send("PUT", &target, "application/octet-stream", &content, 201);
    });
}

/// Many manifests that refer to one, few of them of the wanted type.
fn attach(server: SocketAddr, layer: &[u8], subject: &[u8]) {
    push(server, b"{}", &Digest::of(b"{}"));
    shared(server, REFERRERS, |line, number| {
        let kind = if number < WANTED { "wanted" } else { "other" };
        let image = String::from_utf8(image(layer)).expect("JSON is text");
        let more = format!(
            r#","artifactType":"application/vnd.bench.{kind}","annotations":{{"number":"{number}"}},"subject":{{"mediaType":"{MANIFEST}","digest":"{}","size":{}}}}}"#,
            Digest::of(subject),
            subject.len(),
        );
        let manifest = format!("{}{more}", &image[..image.len() - 1]);
        let target = format!("/v2/bench/manifests/{}", Digest::of(manifest.as_bytes()));
        line.send("PUT", &target, MANIFEST, manifest.as_bytes(), 201);
    });
}
