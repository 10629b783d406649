//! What is fuzzed: every parser that reads what strangers send. Each target is a plain function of bytes
//! that panics when something is not as it should be; libFuzzer calls it (`fuzz_targets/`), and so does a
//! test on stable Rust (`cli/tests/fuzz.rs`), with inputs that it makes from `corpus/`.

use std::collections::HashMap;

use builder::dockerfile::{self, expand::Style};
use builder::ignore::Patterns;
use builder::layer::read::{self, Limits};
use oci::wire::Route;
use oci::wire::range::{self, Chunk, Requested};
use oci::{Algorithm, Digest, Manifest, Reference, RepoName};

/// A target: its name, which is that of its directory in `corpus/`, and what is done with an input.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub const TARGETS: &[Target] = &[
    Target { name: "route", run: route },
    Target { name: "name", run: name },
    Target { name: "digest", run: digest },
    Target { name: "range", run: range },
    Target { name: "manifest", run: manifest },
    Target { name: "token", run: token },
    Target { name: "dockerfile", run: dockerfile },
    Target { name: "expand", run: expand },
    Target { name: "ignore", run: ignore },
    Target { name: "tar", run: tar },
];

fn text(input: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(input)
}

/// A route that is read is written the same way again.
fn route(input: &[u8]) {
    if let Ok(route) = Route::parse(&text(input)) {
        assert_eq!(Route::parse(&route.path()).as_ref(), Ok(&route));
    }
}

/// A name is itself, and fits into a file system.
fn name(input: &[u8]) {
    let text = text(input);
    if let Ok(name) = text.parse::<RepoName>() {
        assert_eq!(name.to_string(), text);
        assert!(text.len() <= 255 && text.split('/').all(|part| !part.is_empty() && part != ".." && part != "."));
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse::<Reference>().as_ref(), Ok(&reference));
    }
}

/// A digest has one way to be written.
fn digest(input: &[u8]) {
    let text = text(input);
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
}

/// What is served lies within the blob, and is not more than the blob.
fn range(input: &[u8]) {
    let text = text(input);
    for size in [0, 1, 10, 4096, u64::MAX] {
        if let Requested::Parts(parts) = range::requested(&text, size) {
            assert!(!parts.is_empty() && parts.iter().all(|part| part.start < part.end && part.end <= size));
            let sum: u128 = parts.iter().map(|part| u128::from(part.end - part.start)).sum();
            assert!(parts.len() == 1 || sum <= u128::from(size), "{sum} of {size}");
        }
    }
    if let Ok(chunk) = text.parse::<Chunk>() {
        assert!(chunk.first <= chunk.last && chunk.size() > 0);
    }
}

/// A manifest stays what it is, byte for byte. The first line is the media type that is declared.
fn manifest(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (declared, document) = (text(&input[..end]), input.get(end + 1..).unwrap_or_default());
    for declared in [None, Some(declared.as_ref())] {
        if let Ok(manifest) = Manifest::parse_named(declared, document.to_vec(), Algorithm::Sha256) {
            assert_eq!((manifest.bytes(), manifest.digest()), (document, Digest::of(document)));
            let named = manifest.blobs().count() + manifest.children().len();
            assert!(named <= document.len() && manifest.subject().is_none_or(|subject| subject.size <= u64::MAX >> 1));
        }
    }
}

/// Nothing that a stranger sends as a login makes the server fall.
fn token(input: &[u8]) {
    registry::access::is_readable(&text(input));
}

/// A Dockerfile is read or refused with a place.
fn dockerfile(input: &[u8]) {
    match dockerfile::parse(input, "Dockerfile") {
        Ok(file) => assert!(!file.stages.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Words are expanded within bounds, whatever the variables hold. The first line is `NAME=value` several
/// times, with spaces between.
fn expand(input: &[u8]) {
    let text = text(input);
    let (variables, word) = text.split_once('\n').unwrap_or(("", &text));
    let variables: HashMap<&str, &str> = variables.split(' ').filter_map(|pair| pair.split_once('=')).collect();
    let lookup = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    for style in [Style::new('\\'), Style::new('`'), Style::heredoc()] {
        let (one, many) = (style.word(word, &lookup), style.words(word, &lookup));
        assert_eq!(one.is_ok(), many.is_ok());
    }
}

/// The last line is a path, what is before are patterns.
fn ignore(input: &[u8]) {
    let start = input.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (patterns, path) = input.split_at(start);
    if let Ok(patterns) = Patterns::parse(patterns) {
        let excluded = patterns.excludes(path);
        assert!(!(excluded && patterns.is_empty()));
        patterns.may_include_below(path);
    }
}

/// An archive is read or refused, as it is and with the checksums that its author would have made.
fn tar(input: &[u8]) {
    let limits = Limits { size: 1 << 20, ratio: 2000, entries: 1000, names: 1 << 20 };
    let checked = |archive: &[u8]| {
        if let Ok((index, _)) = read::index(archive, limits) {
            drop(index);
        }
    };
    checked(input);
    let mut repaired = input.to_vec();
    for header in repaired.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    checked(&repaired);
}
