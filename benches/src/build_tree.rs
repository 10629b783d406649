//! `build-tree`: an image of many small files (20 000 unless told otherwise), with lighter and with buildah.
//!
//! Cold: nothing was built before. Unchanged: the same again, with the cache that each keeps. One changed:
//! a line was added to one file. To an archive: cold, and written out as an OCI archive, which makes buildah
//! compress too; lighter always does. Limits: what reading, hashing and compressing the same files takes at least.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use builder::layer::Compression;
use builder::layer::compress::Encoder;
use fixtures::clients::{self, Buildah};
use fixtures::den::Den;
use fixtures::seed::Seed;

use crate::contest::{Contestant, Cost, hold, measure};

const DIRECTORIES: u64 = 400;

/// What is built.
#[derive(Debug, Clone, Copy)]
pub struct Tree {
    /// How many files.
    pub files: u64,
    /// What they hold together; as much as sources do if nothing is said.
    pub megabytes: Option<u64>,
}

pub fn run(lighter: &Path, rounds: usize, asked: Tree, alone: bool) {
    let den = Den::new("build-tree");
    let tree = make_tree(den.path(), asked);
    let size: u64 = bytes_below(&tree);
    println!("build-tree: {} files, {:.1} MB\n", asked.files, size as f64 / 1e6);
    let contest = |what: &str, mut contestants: Vec<Contestant<'_>>| {
        contestants.truncate(if alone { 1 } else { 2 });
        hold(what, rounds, contestants);
    };

    limits(&tree);
    contest(
        "build-tree/cold",
        vec![
            Contestant::new("lighter", || Ours::new(lighter).build(&tree)),
            Contestant::new("buildah", || Theirs::new().build(&tree)),
        ],
    );
    contest(
        "build-tree/to-an-archive",
        vec![
            Contestant::new("lighter", || Ours::new(lighter).build_to_archive(&tree)),
            Contestant::new("buildah", || Theirs::new().build_to_archive(&tree)),
        ],
    );
    let (ours, theirs) = (Ours::new(lighter), Theirs::new());
    ours.build(&tree);
    if !alone {
        theirs.build(&tree);
    }
    contest(
        "build-tree/unchanged",
        vec![Contestant::new("lighter", || ours.build(&tree)), Contestant::new("buildah", || theirs.build(&tree))],
    );
    let (mut edits, mut their_edits) = (0, 1_000_000);
    contest(
        "build-tree/one-file-changed",
        vec![
            Contestant::new("lighter", || {
                edit(&tree, &mut edits);
                ours.build(&tree)
            }),
            Contestant::new("buildah", || {
                edit(&tree, &mut their_edits);
                theirs.build(&tree)
            }),
        ],
    );
}

/// What each part of the work takes on one core, from files that were just read.
fn limits(tree: &Path) {
    let (mut files, mut contents) = (Vec::new(), Vec::new());
    files_below(&tree.join("src"), &mut files);
    let took = |what: &str, begun: Instant| println!("  {what:44} {:8.3} s", begun.elapsed().as_secs_f64());
    println!("build-tree/limits (one core)");
    let begun = Instant::now();
    for file in &files {
        contents.extend_from_slice(&fs::read(file).expect("read the tree"));
    }
    took("opening and reading the files", begun);
    let begun = Instant::now();
    std::hint::black_box(oci::Digest::of(&contents));
    took("hashing their contents once", begun);
    let begun = Instant::now();
    let mut encoder = Encoder::new(std::io::sink(), Compression::default(), 1).expect("the default is right");
    encoder.push(&contents).and_then(|()| encoder.finish()).expect("nothing is written anywhere");
    took("compressing, on one more core, and two hashes", begun);
    println!();
}

fn files_below(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("read the tree") {
        let path = entry.expect("read the tree").path();
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
}

/// Sources as a web service has them: a few hundred bytes to some kilobytes of text that compresses.
pub fn make_tree(parent: &Path, Tree { files, megabytes }: Tree) -> PathBuf {
    let (tree, mut seed) = (parent.join("tree"), Seed::new(1));
    for directory in 0..DIRECTORIES {
        fs::create_dir_all(tree.join(format!("src/{}/{directory}", directory % 20))).expect("make the tree");
    }
    let size = megabytes.map_or(0, |megabytes| megabytes * 1_000_000 / files.max(1)) as usize;
    for file in 0..files {
        let directory = file % DIRECTORIES;
        let path = tree.join(format!("src/{}/{directory}/{file}.js", directory % 20));
        let mut content = text(&mut seed);
        while content.len() < size {
            content += &text(&mut seed);
        }
        if size > 0 {
            content.truncate(size);
        }
        fs::write(path, content).expect("make the tree");
    }
    fs::write(tree.join("Dockerfile"), "FROM scratch\nCOPY src /app\n").expect("make the tree");
    tree
}

fn text(seed: &mut Seed) -> String {
    const WORDS: [&str; 16] = [
        "const",
        "return",
        "function",
        "=>",
        "await",
        "import",
        "value",
        "index",
        "items.map(",
        "});",
        "{",
        "}",
        "if (error)",
        "throw",
        "export default",
        "null",
    ];
    let mut text = String::new();
    for _ in 0..20 + seed.below(300) {
        text += WORDS[seed.below(16) as usize];
        text += if seed.below(6) == 0 { "\n" } else { " " };
        if seed.below(8) == 0 {
            text += &format!("{:x} ", seed.below(1 << 32));
        }
    }
    text
}

fn edit(tree: &Path, edits: &mut u64) {
    *edits += 1;
    fs::write(tree.join("src/0/0/0.js"), format!("// edit {edits}\n")).expect("edit the tree");
}

fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).expect("read the tree").map(|entry| entry.expect("read the tree"));
    let size = |entry: fs::DirEntry| match entry.metadata().expect("read the tree") {
        metadata if metadata.is_dir() => bytes_below(&entry.path()),
        metadata => metadata.len(),
    };
    entries.map(size).sum()
}

/// Lighter with an empty home. It runs in a mount namespace too, so that both pay for that.
struct Ours<'a> {
    den: Den,
    lighter: &'a Path,
}

impl<'a> Ours<'a> {
    fn new(lighter: &'a Path) -> Self {
        Self { den: Den::new("ours"), lighter }
    }

    fn command(&self) -> Command {
        let lighter = self.lighter.to_str().expect("a path that is text");
        let mut command = clients::private(self.den.path(), lighter, "lighter");
        command.args(["build", "--progress", "plain", "-t", "bench/tree:v1"]);
        command
    }

    fn build(&self, tree: &Path) -> Cost {
        measure(self.command().arg(tree))
    }

    fn build_to_archive(&self, tree: &Path) -> Cost {
        let output = format!("type=oci,dest={}", self.den.path().join("image.tar").display());
        measure(self.command().args(["-o", &output]).arg(tree))
    }
}

/// Buildah with empty storage.
struct Theirs {
    den: Den,
    buildah: Buildah,
}

impl Theirs {
    fn new() -> Self {
        Self { den: Den::new("theirs"), buildah: Buildah::new() }
    }

    fn command(&self) -> Command {
        self.buildah.command(&["build", "--layers", "--isolation=chroot", "-t", "bench/tree:v1"])
    }

    fn build(&self, tree: &Path) -> Cost {
        measure(self.command().arg(tree))
    }

    fn build_to_archive(&self, tree: &Path) -> Cost {
        let built = self.build(tree);
        let archive = format!("oci-archive:{}", self.den.path().join("image.tar").display());
        let pushed = measure(&mut self.buildah.command(&["push", "bench/tree:v1", &archive]));
        Cost { wall: built.wall + pushed.wall, processor: built.processor + pushed.processor }
    }
}
