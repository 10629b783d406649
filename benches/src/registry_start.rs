//! `registry-start`: how long a registry takes from its start to the first tag that it serves, and what it
//! holds in memory then, with many manifests stored; after it was stopped, and after it was killed.
//!
//! The manifests are put into the store itself, since over HTTP a million would take minutes.

use std::path::Path;
use std::time::{Duration, Instant};

use content::Sink;
use fixtures::http;
use fixtures::registry::Registry;
use futures_util::{StreamExt, stream};
use oci::{Digest, Manifest, RepoName, Tag};
use registry::Store;

use crate::registry_blob::push;
use crate::registry_requests::{MANIFEST, image};
use crate::usage;

/// How many manifests are put at the same time, so that they share what they wait for.
const AT_ONCE: usize = 512;
const REPOSITORIES: usize = 100;
/// How long a registry is left alone before its memory is looked at.
const REST: Duration = Duration::from_secs(2);

pub fn run(lighter: &Path, rounds: usize, manifests: usize) {
    println!("registry-start: {manifests} manifests, each with a tag, in {REPOSITORIES} repositories\n");
    let mut registry = Registry::start(lighter);
    let layer = b"a layer";
    for content in [&layer[..], b"{}"] {
        let digest = Digest::of(content);
        push(registry.address(), content, &digest);
        for number in 0..REPOSITORIES {
            let mount = format!("/v2/bench/{number}/blobs/uploads/?mount={digest}&from=bench");
            registry.send("POST", &mount, &[], b"").expect(201);
        }
    }
    registry.stop();
    let begun = Instant::now();
    fill(&registry.data(), manifests, &image(layer));
    println!("  stored at {:.0}/s", manifests as f64 / begun.elapsed().as_secs_f64());
    for how in ["what was filled, then closed", "stop", "kill"] {
        let mut times = Vec::new();
        let mut memory = 0;
        for _ in 0..if how == "stop" || how == "kill" { rounds } else { 1 } {
            times.push(until_first_tag(&mut registry, manifests / 2));
            std::thread::sleep(REST);
            memory = usage::memory_of_process(registry.process());
            // What is written meanwhile has to be looked at by the next start.
            write_some(&registry, &image(layer));
            if how == "kill" {
                registry.kill();
            } else {
                registry.stop();
            }
        }
        times.sort();
        println!(
            "  start, {how:30} {:?} to the first tag (median of {}; best {:?}, worst {:?}), {:.1} MB at rest",
            times[times.len() / 2],
            times.len(),
            times[0],
            times[times.len() - 1],
            memory as f64 / 1e6
        );
    }
    println!();
}

/// Ready means that a tag is served that nobody asked for before.
fn until_first_tag(registry: &mut Registry, number: usize) -> Duration {
    let begun = Instant::now();
    registry.restart();
    let path = format!("/v2/bench/{}/manifests/v{number}", number % REPOSITORIES);
    let first = http::send(registry.address(), "GET", &path, &[], b"");
    first.expect("the registry answers").expect(200);
    begun.elapsed()
}

fn write_some(registry: &Registry, manifest: &[u8]) {
    for number in 0..1_000 {
        let target = format!("/v2/bench/manifests/w{number}");
        registry.send("PUT", &target, &[("content-type", MANIFEST)], manifest).expect(201);
    }
}

fn fill(data: &Path, manifests: usize, image: &[u8]) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(data).expect("the registry has let go of its data");
        let put = |number: usize| {
            let name: RepoName = format!("bench/{}", number % REPOSITORIES).parse().expect("a name");
            let (store, manifest) = (store.repository(name), unlike(image, number));
            let tag: Tag = format!("v{number}").parse().expect("a tag");
            async move { store.put_manifest(&manifest, Some(&tag)).await.expect("the store takes a manifest") }
        };
        stream::iter(0..manifests).map(put).buffer_unordered(AT_ONCE).collect::<()>().await;
        store.close().await;
    });
}

/// An image that differs from all others by an annotation.
fn unlike(image: &[u8], number: usize) -> Manifest {
    let text = std::str::from_utf8(image).expect("JSON is text");
    let text = format!(r#"{},"annotations":{{"number":"{number}"}}}}"#, &text[..text.len() - 1]);
    Manifest::parse(Some(MANIFEST), text.into_bytes()).expect("a manifest")
}
