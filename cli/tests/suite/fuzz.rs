//! Every fuzz target, with inputs made from its corpus by a mutation engine that always does the same: so
//! the targets run with each change, without nightly Rust. libFuzzer finds more: see `fuzz/`.

#[path = "../../../fuzz/src/targets.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use targets::{TARGETS, Target};

/// Inputs of each target.
const INPUTS: u32 = 20_000;
/// Targets that take ten times as long as the others, and have a tenth of the inputs.
const SLOW: [&str; 4] = ["dockerfile", "expand", "ignore", "tar"];
/// Longest input that is made, in bytes.
const LONGEST: usize = 16 << 10;

/// What parsers stumble over.
const TOKENS: &[&[u8]] = &[
    b"",
    b"/",
    b"..",
    b"//",
    b"\0",
    b"\n",
    b"\r\n",
    b" ",
    b"%3A",
    b":",
    b"@",
    b"-",
    b"--",
    b"*",
    b"**",
    b"[",
    b"]",
    b"{",
    b"}",
    b"\"",
    b"\\",
    b"`",
    b"'",
    b"$",
    b"${",
    b"${a:-",
    b"${a//",
    b"#",
    b"!",
    b"<<EOF\n",
    b"EOF\n",
    b"=",
    b",",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-1",
    b"0",
    b"9999999999999999999999",
    b"null",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\xa6\x80",
    b"bytes=",
    b"sha256:",
    b"sha512:",
    b"FROM a\n",
    b"ONBUILD ",
    b"RUN --mount=",
    b"# syntax=",
    b"# escape=`\n",
    b"eyJ",
    b"Bearer ",
    b"Basic ",
    b"7777777",
    b"\x80\0\0\0\0\0\0\0",
];

/// xorshift64*: as good as is needed, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        high as usize % limit.max(1)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A piece of something, empty where that is.
    fn piece<'a>(&mut self, of: &'a [u8]) -> &'a [u8] {
        let start = self.below(of.len() + 1);
        let longest = (of.len() - start).min(if self.below(4) == 0 { 4096 } else { 16 });
        &of[start..start + self.below(longest + 1)]
    }

    fn mutate(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.below(256) as u8,
            2 => {
                let gone = self.piece(&input[at..]).len();
                drop(input.drain(at..at + gone));
            }
            3 => {
                let twice = self.piece(input).to_vec();
                drop(input.splice(at..at, twice));
            }
            4 => {
                let other = self.pick(corpus);
                let piece = self.piece(other).to_vec();
                drop(input.splice(at..at, piece));
            }
            5 => {
                let other = self.pick(corpus);
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            6 => {
                let byte = [self.below(256) as u8];
                let many = byte.repeat(1 << self.below(10));
                drop(input.splice(at..at, many));
            }
            _ => {
                let token = self.pick(TOKENS).to_vec();
                let end = (at + if self.below(2) == 0 { token.len() } else { 0 }).min(input.len());
                drop(input.splice(at..end, token));
            }
        }
        input.truncate(LONGEST);
    }
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target.name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort(); // the same order everywhere
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(!corpus.is_empty(), "{} is empty", directory.display());
    corpus
}

/// Runs one input; says which it was if the target panics.
fn run(target: &Target, input: &[u8]) {
    let ended = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(ended.is_ok(), "{} falls on {} bytes: \"{}\"", target.name, input.len(), input.escape_ascii());
}

/// Runs all targets, each with so many inputs or a tenth of them.
fn run_many(inputs: u32, seed: u64) {
    std::thread::scope(|scope| {
        for (number, target) in TARGETS.iter().enumerate() {
            scope.spawn(move || {
                let (corpus, mut random) = (corpus(target), Random(seed + number as u64));
                corpus.iter().for_each(|input| run(target, input));
                let inputs = if SLOW.contains(&target.name) { inputs / 10 } else { inputs };
                for _ in 0..inputs {
                    let mut input = random.pick(&corpus).clone();
                    for _ in 0..=random.below(6) {
                        random.mutate(&mut input, &corpus);
                    }
                    run(target, &input);
                }
            });
        }
    });
}

#[test]
fn no_input_makes_a_parser_fall() {
    run_many(INPUTS, 1);
}

/// For minutes, when something about a parser has changed: `cargo test -p cli --test suite -- --ignored fuzz`.
#[test]
#[ignore = "takes minutes"]
fn no_input_of_very_many_makes_a_parser_fall() {
    run_many(100 * INPUTS, 1 << 32);
}
