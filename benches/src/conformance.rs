//! `conformance`: how many checks of the specification's own program a registry passes. Counts, not times.

use std::net::SocketAddr;
use std::path::Path;

use fixtures::conformance;
use fixtures::docker_registry::DockerRegistry;
use fixtures::registry::Registry;

pub fn run(lighter: &Path) {
    let (ours, theirs) = (Registry::start_with(lighter, &["--allow-sparse"]), DockerRegistry::start());
    for version in ["1.1", "dev"] {
        count("lighter", ours.address(), version);
        count("docker-registry", theirs.address, version);
    }
    println!();
}

fn count(name: &str, registry: SocketAddr, version: &str) {
    let report = conformance::run(registry, version);
    let (passed, failed, skipped) = (report.passed, report.failed, report.skipped);
    println!("conformance/{version:4} {name:16} {passed:5} passed {failed:5} failed {skipped:5} skipped");
}
