//! Dev only: side-by-side measurements against peers, in one run, as ratios.
//!
//! `contest` measures and prints, `usage` reads processor time and memory from the kernel, `machine` says
//! what it ran on; each other module is one program. Numbers are printed, never asserted on.
#![allow(clippy::print_stdout)] // printing is what this program is for

mod build_tree;
mod conformance;
mod contest;
mod deploy;
mod load;
mod machine;
mod nginx;
mod registry_blob;
mod registry_requests;
mod registry_start;
mod registry_tags;
mod run;
mod start;
mod usage;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Measures lighter and its peers on this machine, in turns.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo build --release && cargo run --release -p benches -- all --rounds 3
  cargo run --release -p benches -- build-tree

Peers come from Debian (buildah, docker-registry, nginx, kubernetes-client); `deploy` wants the API server of
fixtures/kubernetes/build.sh. Root is needed to give them storage of their own.")]
struct Arguments {
    /// What to measure
    program: Program,
    /// How often each contestant runs; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How many files build-tree has [default: 20000], or push-tree [default: 50000]
    #[arg(long, value_name = "N")]
    files: Option<u64>,
    /// How much run-bytes writes [default: 1000], the base of copy-on-base has [default: 300], push-tree [default: 1000] and push-binaries [default: 500] hold, or build-tree holds [default: what sources of so many files are]
    #[arg(long, value_name = "MB")]
    megabytes: Option<u64>,
    /// How many manifests registry-start has [default: 100 000, then 1 000 000]
    #[arg(long, value_name = "N")]
    manifests: Option<usize>,
    /// Without buildah in build-tree, which takes minutes for large trees
    #[arg(long)]
    alone: bool,
    /// The program to measure [default: lighter beside this program]
    #[arg(long)]
    lighter: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Program {
    /// An image of many small files: lighter build and buildah build, and what lighter could be at best
    BuildTree,
    /// One blob of 512 MB, received and served: lighter registry, docker-registry and nginx
    RegistryBlob,
    /// Small requests of pulls over 64 connections: lighter registry, docker-registry and nginx
    RegistryRequests,
    /// 100 000 tags: set, listed, started over; referrers: lighter registry and docker-registry
    RegistryTags,
    /// A million manifests: the start over them, and memory then: lighter registry
    RegistryStart,
    /// Checks of the OCI conformance program that are passed: lighter registry and docker-registry
    Conformance,
    /// The time until a first answer and a first step, memory at rest, and the size of the program
    Start,
    /// A new image on a Deployment until it runs: lighter deploy, and kubectl set image with rollout status
    Deploy,
    /// An image of 50 000 small files, pushed: lighter, buildah, and BuildKit where it was built
    PushTree,
    /// An image of programs and libraries, pushed: the same
    PushBinaries,
    /// Twenty small RUNs, pushed: the same
    RunSteps,
    /// A RUN that writes 5 000 files, pushed: the same
    RunBytes,
    /// A service in Python on a Debian base, pushed: the same
    RunPython,
    /// An unchanged build on a machine that has built nothing, with a cache in the registry
    CachedRebuild,
    /// COPY upon a base of 300 MB in the registry that is pushed to, seen before or not, and upon nothing: lighter; and buildah
    CopyOnBase,
    /// All of these
    All,
}

fn main() {
    let arguments = Arguments::parse();
    let lighter = arguments.lighter.unwrap_or_else(beside_this_program);
    assert!(lighter.is_file(), "{} is not there: cargo build --release", lighter.display());
    println!("{}\n", machine::describe());
    let wanted = |program| arguments.program == program || arguments.program == Program::All;
    if wanted(Program::BuildTree) {
        let tree = build_tree::Tree { files: arguments.files.unwrap_or(20_000), megabytes: arguments.megabytes };
        build_tree::run(&lighter, arguments.rounds, tree, arguments.alone);
    }
    if wanted(Program::RegistryBlob) {
        registry_blob::run(&lighter, arguments.rounds);
    }
    if wanted(Program::RegistryRequests) {
        registry_requests::run(&lighter, arguments.rounds);
    }
    if wanted(Program::RegistryTags) {
        registry_tags::run(&lighter, arguments.rounds);
    }
    if wanted(Program::RegistryStart) {
        for manifests in arguments.manifests.map_or(vec![100_000, 1_000_000], |manifests| vec![manifests]) {
            registry_start::run(&lighter, arguments.rounds, manifests);
        }
    }
    if wanted(Program::Conformance) {
        conformance::run(&lighter);
    }
    if wanted(Program::Start) {
        start::run(&lighter, arguments.rounds);
    }
    if wanted(Program::Deploy) {
        deploy::run(&lighter, arguments.rounds);
    }
    if wanted(Program::PushTree) {
        let megabytes = arguments.megabytes.or(Some(1000));
        let files = arguments.files.unwrap_or(50_000);
        run::tree(&lighter, arguments.rounds, build_tree::Tree { files, megabytes });
    }
    if wanted(Program::PushBinaries) {
        run::binaries(&lighter, arguments.rounds, arguments.megabytes.unwrap_or(500));
    }
    if wanted(Program::RunSteps) {
        run::steps(&lighter, arguments.rounds);
    }
    if wanted(Program::RunBytes) {
        run::bytes(&lighter, arguments.rounds, arguments.megabytes.unwrap_or(1000));
    }
    if wanted(Program::RunPython) {
        run::python(&lighter, arguments.rounds);
    }
    if wanted(Program::CachedRebuild) {
        run::cached(&lighter, arguments.rounds);
    }
    if wanted(Program::CopyOnBase) {
        run::on_base(&lighter, arguments.rounds, arguments.megabytes.unwrap_or(300));
    }
    println!("load at the end: {}", machine::load());
}

fn beside_this_program() -> PathBuf {
    let here = std::env::current_exe().expect("a program knows where it is");
    here.with_file_name("lighter")
}
