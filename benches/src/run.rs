//! `push-tree`, `push-binaries`, `run-steps`, `run-bytes`, `run-python`, `cached-rebuild` and `copy-on-base`: COPY, RUN
//! and the cache, pushed to a registry, with lighter, with buildah and, but for the last two, with BuildKit.
//!
//! push-tree: many files from the context. push-binaries: programs and libraries. run-steps: twenty small RUNs on busybox. run-bytes: one RUN that writes 5 000 files. run-python: a service on a
//! Debian base from the registry, whose packages pip installs from wheels in the context. cached-rebuild: a multi-stage
//! file of ten steps on a machine that has built nothing, with the cache that another one has left in the registry.
//! copy-on-base: the same files copied upon nothing, and upon a large image of the registry that is pushed to, which this
//! machine has built upon before, or knows from a shared cache, or sees for the first time.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixtures::buildkit::{self, BuildKit};
use fixtures::clients::{self, Buildah};
use fixtures::den::Den;
use fixtures::registry::Registry;
use fixtures::seed::Seed;

use crate::build_tree::{Tree, make_tree};
use crate::contest::{Contestant, Cost, hold, measure};
use crate::registry_requests::MANIFEST;
use crate::usage;

const FILES: u64 = 5000;
const BUSYBOX: &str = "/bin/busybox";

/// Twenty small RUNs.
pub fn steps(lighter: &Path, rounds: usize) {
    let runs: String = (0..20).map(|number| format!("RUN echo {number} > /{number}\n")).collect();
    let context = Context::new(&format!("FROM scratch\nCOPY busybox /bin/sh\n{runs}"));
    pushed("run-steps", lighter, rounds, &context);
}

/// One RUN that writes so many megabytes, half of which compress. One program copies them, so that the
/// step itself costs little of what is measured; what it costs alone is printed.
pub fn bytes(lighter: &Path, rounds: usize, megabytes: u64) {
    let context = Context::new(
        "FROM scratch\nCOPY busybox /bin/busybox\n\
         RUN --mount=type=bind,source=content,target=/src [\"/bin/busybox\", \"cp\", \"-r\", \"/src\", \"/data\"]\n",
    );
    let content = context.path().join("content");
    fs::create_dir(&content).expect("make a context");
    let half = usize::try_from(megabytes * 500_000 / FILES).expect("small files");
    let mut seed = Seed::new(5);
    for number in 0..FILES {
        let bytes = [seed.bytes(half), vec![0; half]].concat();
        fs::write(content.join(number.to_string()), bytes).expect("there is room");
    }
    println!("run-bytes: {megabytes} MB in {FILES} files\n");
    let alone = Den::new("alone");
    let mut copy = Command::new(BUSYBOX);
    copy.args(["cp", "-r"]).arg(&content).arg(alone.path().join("data"));
    let cost = measure(&mut copy);
    drop(alone);
    let (wall, processor) = (cost.wall.as_secs_f64(), cost.processor.as_secs_f64());
    println!("run-bytes/writing-alone  {wall:.3} s, processor {processor:.3} s\n");
    pushed("run-bytes", lighter, rounds, &context);
}

/// Programs and libraries of this machine, as binaries are: so many megabytes of them.
pub fn binaries(lighter: &Path, rounds: usize, megabytes: u64) {
    let context = Context::new("FROM scratch\nCOPY content /app\n");
    let content = context.path().join("content");
    fs::create_dir(&content).expect("make a context");
    let (mut left, mut count) = (megabytes * 1_000_000, 0);
    // The same files again under other names would compress no better: they are far apart.
    'filled: loop {
        let before = count;
        for directory in ["/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu", "/usr/local/bin"] {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                if !metadata.is_file() || metadata.len() < 100_000 {
                    continue;
                }
                if left == 0 {
                    break 'filled;
                }
                let bytes = fs::read(entry.path()).unwrap_or_default();
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                fs::write(content.join(count.to_string()), &bytes[..taken]).expect("there is room");
                (left, count) = (left - taken as u64, count + 1);
            }
        }
        assert!(count > before, "this machine has no programs");
    }
    println!("push-binaries: {megabytes} MB in {count} files\n");
    pushed("push-binaries", lighter, rounds, &context);
}

/// A tree of many files.
pub fn tree(lighter: &Path, rounds: usize, asked: Tree) {
    let context = Context::new("FROM scratch\nCOPY tree/src /app\n");
    make_tree(&context.path(), asked);
    println!("push-tree: {} files\n", asked.files);
    pushed("push-tree", lighter, rounds, &context);
}

/// What the service of run-python needs. Wheels of a fixed version, so that each round installs the same.
const REQUIREMENTS: &str = "fastapi==0.115.6\nuvicorn==0.34.0\nsqlalchemy==2.0.36\nnumpy==2.2.1\nrequests==2.32.3\n";

/// A service in Python, as people build them.
pub fn python(lighter: &Path, rounds: usize) {
    let registry = Registry::start(lighter);
    let base = Context::new("FROM scratch\nADD base.tar /\n");
    fs::copy(fixtures::debian::python(), base.path().join("base.tar")).expect("there is room");
    let name = registry.reference("base/python:3");
    Ours::new(lighter).build(&base, &name, &[]);
    let context = Context::new(&format!(
        "FROM {name}\nENV PYTHONUNBUFFERED=1\nWORKDIR /app\nCOPY requirements.txt ./\nCOPY wheels /wheels\n\
         RUN pip install --break-system-packages --no-index --find-links=/wheels -r requirements.txt\n\
         COPY main.py ./\nCMD [\"uvicorn\", \"main:app\"]\n"
    ));
    fs::write(context.path().join("requirements.txt"), REQUIREMENTS).expect("make a context");
    let app = "from fastapi import FastAPI\nimport numpy\n\napp = FastAPI()\n";
    fs::write(context.path().join("main.py"), app).expect("make a context");
    let mut download = Command::new("python3");
    download.args(["-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version=3.11"]);
    download.args(["--platform=manylinux2014_x86_64", "--requirement"]).arg(context.path().join("requirements.txt"));
    let downloaded = download.arg("--dest").arg(context.path().join("wheels")).status();
    let downloaded = downloaded.expect("install the Debian packages python3 and python3-pip");
    assert!(downloaded.success(), "pip could not download wheels: run-python needs a package index");
    pushed_to("run-python", lighter, rounds, &context, &registry);
}

/// A rebuild with nothing but a cache in a registry.
pub fn cached(lighter: &Path, rounds: usize) {
    let runs = |name: &str| (0..4).map(|n| format!("RUN echo {name} {n} > /{name}-{n}\n")).collect::<String>();
    let file = format!(
        "FROM scratch AS tools\nCOPY busybox /bin/sh\n{}FROM scratch\nCOPY busybox /bin/sh\n{}COPY --from=tools /tools-3 /t\n",
        runs("tools"),
        runs("last")
    );
    let (context, registry) = (Context::new(&file), Registry::start(lighter));
    let (ours, theirs) = (registry.reference("ours/cache"), registry.reference("theirs/cache"));
    let our_words = [format!("--cache-from={ours}:main"), format!("--cache-to=type=registry,ref={ours}:main,mode=max")];
    let their_words = [format!("--cache-from={theirs}"), format!("--cache-to={theirs}")];
    Ours::new(lighter).build(&context, &registry.reference("ours/app:1"), &our_words);
    Theirs::new().build(&context, &registry.reference("theirs/app:1"), &their_words);
    let hold_words = |words: &[String]| words[..1].to_vec();
    hold(
        "cached-rebuild",
        rounds,
        vec![
            Contestant::new("lighter", || {
                Ours::new(lighter).build(&context, &registry.reference("ours/app:2"), &hold_words(&our_words))
            }),
            Contestant::new("buildah", || {
                Theirs::new().build(&context, &registry.reference("theirs/app:2"), &hold_words(&their_words))
            }),
        ],
    );
}

/// Files of 50 MB upon nothing and upon a base of so many megabytes: one that this machine has never seen, so that it
/// has to read once what is in it; one that it has built upon before; and one that only a shared cache has seen.
pub fn on_base(lighter: &Path, rounds: usize, megabytes: u64) {
    let registry = Registry::start(lighter);
    let base = registry.reference("base:v1");
    let size = usize::try_from(megabytes * 1_000_000).expect("it fits into memory");
    let large = Context::new("FROM scratch\nCOPY content /base\n");
    large.fill(1, size);
    Ours::new(lighter).build(&large, &base, &[]);
    drop(large);
    let manifest = registry.send("GET", "/v2/base/manifests/v1", &[("accept", MANIFEST)], b"").expect(200);
    let manifest: serde_json::Value = serde_json::from_slice(&manifest.body).expect("a manifest");
    let layer = manifest["layers"][0]["digest"].as_str().expect("an image of one layer");
    let on_base = Context::new(&format!("FROM {base}\nCOPY content /app\n"));
    let alone = Context::new("FROM scratch\nCOPY content /app\n");
    [&on_base, &alone].iter().for_each(|context| context.fill(500, 100_000));
    // Other files upon the same base.
    let other = Context::new(&format!("FROM {base}\nCOPY busybox /app/\n"));
    let cache = format!("ref={}", registry.reference("cache:main"));
    let [import, export] = ["from", "to"].map(|way| vec![format!("--cache-{way}=type=registry,{cache}")]);
    Ours::new(lighter).build(&other, &registry.reference("other:v1"), &export);

    let count = Cell::new(0);
    let build = |ours: Ours<'_>, context: &Context, words: &[String], count_of_layers: &Cell<usize>| {
        count.set(count.get() + 1);
        let name = registry.reference(&format!("app-{}:v1", count.get())); // nothing of an earlier round is there
        let before = registry.requests().len();
        let cost = ours.build(context, &name, words);
        count_of_layers.set(count_of_layers.get() + fetched(&registry, before, layer));
        cost
    };
    let counts: [Cell<usize>; 4] = Default::default();
    let [nothing, seen, shared, unseen] = &counts;
    hold(
        "copy-on-base",
        rounds,
        vec![
            Contestant::new("upon nothing", || build(Ours::new(lighter), &alone, &[], nothing)),
            Contestant::new("base seen before", || {
                let ours = Ours::new(lighter);
                ours.build(&other, &registry.reference("other:v2"), &[]);
                build(ours, &on_base, &[], seen)
            }),
            Contestant::new("base seen by others", || build(Ours::new(lighter), &on_base, &import, shared)),
            Contestant::new("base never seen", || build(Ours::new(lighter), &on_base, &[], unseen)),
        ],
    );
    println!(
        "copy-on-base/layers-of-the-base-fetched  seen before {}, seen by others {}, never seen {}, in {rounds} rounds\n",
        seen.get(),
        shared.get(),
        unseen.get()
    );
    let mut round = 0;
    hold(
        "copy-on-base/peer",
        rounds,
        vec![Contestant::new("buildah", || {
            round += 1;
            Theirs::new().build(&on_base, &registry.reference(&format!("theirs-{round}:v1")), &[])
        })],
    );
}

/// How often the one layer of an image was asked for since there were so many requests.
fn fetched(registry: &Registry, before: usize, layer: &str) -> usize {
    let requests = registry.requests().split_off(before);
    requests.iter().filter(|ask| ask.method == "GET" && ask.path.ends_with(layer)).count()
}

fn pushed(what: &str, lighter: &Path, rounds: usize, context: &Context) {
    pushed_to(what, lighter, rounds, context, &Registry::start(lighter));
}

/// Builds and pushes, with BuildKit too where `fixtures/buildkit/build.sh` has built it.
fn pushed_to(what: &str, lighter: &Path, rounds: usize, context: &Context, registry: &Registry) {
    let count = Cell::new(0);
    let fresh = |who: &str| {
        count.set(count.get() + 1);
        format!("{who}-{}", count.get()) // nothing of an earlier round is there
    };
    let sizes: [Cell<u64>; 3] = Default::default();
    let [our_size, buildah_size, buildkit_size] = &sizes;
    let push = |who: &str, size: &Cell<u64>, build: &dyn Fn(&str) -> Cost| {
        let name = fresh(who);
        let cost = build(&registry.reference(&format!("{name}:v1")));
        size.set(size_of_layers(registry, &name));
        cost
    };
    let mut contestants = vec![
        Contestant::new("lighter", || push("ours", our_size, &|name| Ours::new(lighter).build(context, name, &[]))),
        Contestant::new("buildah", || push("buildah", buildah_size, &|name| Theirs::new().build(context, name, &[]))),
    ];
    if buildkit::is_built() {
        contestants.push(Contestant::new("BuildKit", || {
            push("buildkit", buildkit_size, &|name| build_with_buildkit(context, name, registry))
        }));
    } else {
        println!("{what}: without BuildKit, which fixtures/buildkit/build.sh builds");
    }
    hold(what, rounds, contestants);
    let megabytes = sizes.each_ref().map(|size| format!("{:.1}", size.get() as f64 / 1e6));
    println!("{what}/compressed-layers  MB: {} (BuildKit 0.0: it did not run)\n", megabytes.join(", "));
}

/// Of an image in a registry, in bytes; of an index, that of its first image.
fn size_of_layers(registry: &Registry, name: &str) -> u64 {
    let get = |tag: &str| {
        let answer = registry.send("GET", &format!("/v2/{name}/manifests/{tag}"), &[("accept", MANIFEST)], b"");
        serde_json::from_slice::<serde_json::Value>(&answer.expect(200).body).expect("a manifest")
    };
    let mut manifest = get("v1");
    if let Some(first) = manifest["manifests"][0]["digest"].as_str() {
        manifest = get(first);
    }
    let layers = manifest["layers"].as_array().expect("an image");
    layers.iter().filter_map(|layer| layer["size"].as_u64()).sum()
}

/// With an empty buildkitd, whose start is not counted; the daemon and its client are.
fn build_with_buildkit(context: &Context, name: &str, registry: &Registry) -> Cost {
    let buildkit = BuildKit::start_beside(&[registry.address()]);
    let mut command = buildkit.buildctl();
    command.args(["build", "--progress=plain", "--frontend=dockerfile.v0"]);
    for local in ["context", "dockerfile"] {
        command.arg("--local").arg(format!("{local}={}", context.path().display()));
    }
    command.arg("--output").arg(format!("type=image,name={name},push=true"));
    let before = usage::of_family(buildkit.process());
    let client = measure(&mut command);
    let daemon = usage::of_family(buildkit.process()).saturating_sub(before);
    Cost { processor: client.processor + daemon, ..client }
}

struct Context {
    den: Den,
}

impl Context {
    fn new(dockerfile: &str) -> Self {
        let den = Den::new("context");
        fs::write(den.path().join("Dockerfile"), dockerfile).expect("make a context");
        fs::copy(BUSYBOX, den.path().join("busybox")).expect("install the Debian package busybox-static");
        Self { den }
    }

    fn path(&self) -> PathBuf {
        self.den.path().to_owned()
    }

    /// Files without a pattern, so many and so large.
    fn fill(&self, files: u64, size: usize) {
        let (place, mut seed) = (self.path().join("content"), Seed::new(files));
        fs::create_dir(&place).expect("make a context");
        (0..files).for_each(|n| fs::write(place.join(n.to_string()), seed.bytes(size)).expect("there is room"));
    }
}

/// Lighter with an empty home, in a mount namespace as the other one.
struct Ours<'a> {
    den: Den,
    lighter: &'a Path,
}

impl<'a> Ours<'a> {
    fn new(lighter: &'a Path) -> Self {
        Self { den: Den::new("ours"), lighter }
    }

    fn build(&self, context: &Context, name: &str, words: &[String]) -> Cost {
        let lighter = self.lighter.to_str().expect("a path that is text");
        let mut command: Command = clients::private(self.den.path(), lighter, "lighter");
        command.args(["build", "--progress=plain", "--push", "-t", name]).args(words);
        measure(command.arg(context.path()))
    }
}

/// Buildah with empty storage.
struct Theirs {
    buildah: Buildah,
}

impl Theirs {
    fn new() -> Self {
        Self { buildah: Buildah::new() }
    }

    fn build(&self, context: &Context, name: &str, words: &[String]) -> Cost {
        let plain = ["build", "--layers", "--isolation=chroot", "--tls-verify=false", "-t", name];
        let built = measure(self.buildah.command(&plain).args(words).arg(context.path()));
        let pushed = measure(&mut self.buildah.command(&["push", "--tls-verify=false", name]));
        Cost { wall: built.wall + pushed.wall, processor: built.processor + pushed.processor }
    }
}
