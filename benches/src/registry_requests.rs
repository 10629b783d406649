//! `registry-requests`: small requests of pulls over 64 connections that stay open, by lighter, by Debian's
//! docker-registry, and by nginx, which only sends a file of the same size.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use fixtures::docker_registry::DockerRegistry;
use fixtures::http;
use fixtures::registry::Registry;
use fixtures::seed::Seed;
use oci::Digest;

use crate::contest::{Contestant, Cost, hold, measure_server};
use crate::load::{Latencies, repeat};
use crate::nginx::Nginx;
use crate::registry_blob::push;

const CONNECTIONS: usize = 64;
/// Requests over each connection.
const EACH: usize = 400;
/// What docker-registry does in the time that the others take for [`EACH`].
const EACH_OF_THE_PEER: usize = 40;
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub fn run(lighter: &Path, rounds: usize) {
    let (ours, theirs) = (Registry::start(lighter), DockerRegistry::start());
    let layer = Seed::new(3).bytes(100_000);
    let manifest = image(&layer);
    for server in [ours.address(), theirs.address] {
        fill(server, &layer, &manifest);
    }
    let (digest, blob) = (Digest::of(&manifest), Digest::of(&layer));
    let nginx = Nginx::start(|files| std::fs::write(files.join("manifest"), &manifest).expect("write a file"));
    println!("registry-requests: {CONNECTIONS} connections, a manifest of {} bytes\n", manifest.len());
    for (name, method, path) in [
        ("HEAD manifest by tag", "HEAD", "/v2/bench/manifests/v1".to_owned()),
        ("GET manifest by tag", "GET", "/v2/bench/manifests/v1".to_owned()),
        ("GET manifest by digest", "GET", format!("/v2/bench/manifests/{digest}")),
        ("HEAD blob", "HEAD", format!("/v2/bench/blobs/{blob}")),
    ] {
        compare(name, method, &path, rounds, &ours, &theirs, &nginx);
    }
}

fn compare(
    name: &str,
    method: &str,
    path: &str,
    rounds: usize,
    ours: &Registry,
    theirs: &DockerRegistry,
    nginx: &Nginx,
) {
    let (mut of_ours, mut of_theirs, mut of_nginx) = (Vec::new(), Vec::new(), Vec::new());
    hold(
        &format!("registry-requests/{name}"),
        rounds,
        vec![
            Contestant::new("lighter", || ask(ours.process(), ours.address(), method, path, EACH, &mut of_ours)),
            Contestant::new("docker-registry", || {
                ask(theirs.process, theirs.address, method, path, EACH_OF_THE_PEER, &mut of_theirs)
            }),
            Contestant::new("nginx", || ask(nginx.process, nginx.address, method, "/manifest", EACH, &mut of_nginx)),
        ],
    );
    for (who, mut figures) in [("lighter", of_ours), ("docker-registry", of_theirs), ("nginx", of_nginx)] {
        figures.sort_by_key(|figures| figures.processor);
        let Some(median) = figures.get(figures.len() / 2) else { continue };
        println!(
            "  {who:16} {:6.1} us processor, {:7.0} requests/s, p50 {:?}, p99 {:?}",
            median.processor.as_secs_f64() * 1e6,
            median.rate,
            median.half,
            median.slow
        );
    }
    println!();
}

/// One round, for each request.
struct Figures {
    processor: Duration,
    rate: f64,
    half: Duration,
    slow: Duration,
}

fn ask(process: u32, server: SocketAddr, method: &str, path: &str, each: usize, figures: &mut Vec<Figures>) -> Cost {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nAccept: {MANIFEST}\r\n\r\n");
    let mut latencies = None;
    let cost = measure_server(process, || latencies = Some(repeat(server, &request, 200, CONNECTIONS, each)));
    let latencies: Latencies = latencies.expect("the work was done");
    let requests = (CONNECTIONS * each) as f64;
    figures.push(Figures {
        processor: cost.processor.div_f64(requests),
        rate: requests / cost.wall.as_secs_f64(),
        half: latencies.quantile(0.5),
        slow: latencies.quantile(0.99),
    });
    cost
}

/// A manifest of one layer and an empty config.
pub fn image(layer: &[u8]) -> Vec<u8> {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
        Digest::of(b"{}"),
        Digest::of(layer),
        layer.len(),
    )
    .into_bytes()
}

/// Pushes an image as `bench:v1`.
pub fn fill(server: SocketAddr, layer: &[u8], manifest: &[u8]) {
    push(server, layer, &Digest::of(layer));
    push(server, b"{}", &Digest::of(b"{}"));
    put(server, "v1", manifest);
}

/// Lets a tag name a manifest.
pub fn put(server: SocketAddr, tag: &str, manifest: &[u8]) {
    let target = format!("/v2/bench/manifests/{tag}");
    let put = http::send(server, "PUT", &target, &[("content-type", MANIFEST)], manifest);
    put.expect("the registry takes a manifest").expect(201);
}
