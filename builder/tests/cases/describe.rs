//! An image in the words of `expected.json`, and the difference between two of them. Nothing of this is
//! taken from the builder: layers are read as any reader of tar archives would.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use builder::Built;
use builder::build::LayerOrigin;
use content::Disk;
use fixtures::cases::{BASE_TIME, CONTEXT_TIME, Expected};
use fixtures::described::{changes, kind};
use oci::Digest;
use serde_json::Value;

/// What came out of a build.
pub struct Found {
    document: serde_json::Map<String, Value>,
    layers: Vec<Vec<String>>,
    diff_ids: Vec<String>,
    rootfs: Vec<String>,
    files: BTreeMap<String, String>,
}

impl Found {
    /// Reads an image from the store, and its tree from a tar; `began` is when the build did.
    pub fn new(built: &Built, store: &Disk, tree: &Path, began: i64) -> Self {
        let document = serde_json::from_slice(&built.config).unwrap();
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for layer in built.layers.iter().filter(|layer| layer.origin != LayerOrigin::Base) {
            let mut tar = Vec::new();
            let blob = store.open_blob(&layer.digest).unwrap().unwrap();
            flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut tar).unwrap();
            diff_ids.push(Digest::of(&tar).to_string());
            layers.push(entries(&tar[..], began).0);
        }
        let (mut rootfs, files) = entries(File::open(tree).unwrap(), began);
        rootfs.retain(|line| !line.contains(" bin/")); // busybox and its links
        rootfs.sort_by(|a, b| path_of(a).cmp(path_of(b)));
        Self { document, layers, diff_ids, rootfs, files }
    }

    /// What is expected and missing (`-`), and what is there and unexpected (`+`).
    pub fn differences(&self, expected: &Expected) -> Vec<String> {
        let mut all = Vec::new();
        let mut compare = |what: &str, wanted: &[String], found: &[String]| {
            if wanted != found {
                all.push(format!("{what}:"));
                all.extend(changes(wanted, found));
            }
        };
        compare("config", &lines(&expected.config), &lines(&self.document["config"]));
        compare("document", &lines(&expected.document.clone().into()), &lines(&self.rest()));
        compare("history", &expected.history, &self.history());
        compare("number of layers", &[expected.layers.len().to_string()], &[self.layers.len().to_string()]);
        for (number, (wanted, found)) in expected.layers.iter().zip(&self.layers).enumerate() {
            compare(&format!("layer {number}"), wanted, found);
        }
        for (number, (wanted, found)) in expected.diff_ids.iter().zip(&self.diff_ids).enumerate() {
            let Some(wanted) = wanted else { continue };
            compare(&format!("diff ID of layer {number}"), std::slice::from_ref(wanted), std::slice::from_ref(found));
        }
        compare("root file system", &expected.rootfs, &self.rootfs);
        for (path, wanted) in &expected.files {
            let found = self.files.get(path).map_or("(no such file)", String::as_str);
            compare(path, &[format!("{wanted:?}")], &[format!("{found:?}")]);
        }
        all
    }

    /// The history as `layer` or `empty` and text; every entry of ours has BuildKit's comment.
    fn history(&self) -> Vec<String> {
        let entry = |entry: &Value| {
            let text = entry["created_by"].as_str().unwrap_or("(nothing)");
            let kind = if entry["empty_layer"] == true { "empty" } else { "layer" };
            let comment = if entry["comment"] == "buildkit.dockerfile.v0" { "" } else { " (another comment)" };
            format!("{kind} {text}{comment}")
        };
        let entries = self.document.get("history").and_then(Value::as_array).into_iter().flatten();
        entries.filter(|entry| entry["created_by"] != "base").map(entry).collect()
    }

    /// What is not the same in every image, and not compared elsewhere.
    fn rest(&self) -> Value {
        let known = ["architecture", "config", "created", "history", "os", "rootfs"];
        let rest = self.document.iter().filter(|(key, _)| !known.contains(&key.as_str()));
        rest.map(|(key, value)| (key.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into()
    }
}

fn lines(value: &Value) -> Vec<String> {
    serde_json::to_string_pretty(value).unwrap().lines().map(str::to_owned).collect()
}

/// The entries of a tar in words, and the contents of its files.
fn entries(tar: impl Read, began: i64) -> (Vec<String>, BTreeMap<String, String>) {
    let (mut lines, mut files) = (Vec::new(), BTreeMap::new());
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8_lossy(&entry.path_bytes()).trim_end_matches('/').to_owned();
        let line = line(&entry, &path, began);
        if entry.header().entry_type().is_file() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(path, String::from_utf8_lossy(&content).into_owned());
        }
        lines.push(line);
    }
    (lines, files)
}

fn line(entry: &tar::Entry<'_, impl Read>, path: &str, began: i64) -> String {
    let header = entry.header();
    let kind = kind(header.entry_type());
    let time = match header.mtime().unwrap().cast_signed() {
        CONTEXT_TIME => "context".to_owned(),
        BASE_TIME => "base".to_owned(),
        time if time >= began => "now".to_owned(),
        time => time.to_string(),
    };
    let owner = format!("{}:{}", header.uid().unwrap(), header.gid().unwrap());
    let size = if kind == "file" { format!("{} ", header.size().unwrap()) } else { String::new() };
    let link =
        entry.link_name_bytes().map(|link| format!(" -> {}", String::from_utf8_lossy(&link))).unwrap_or_default();
    format!("{kind} {:04o} {owner} {time} {size}{path}{link}", header.mode().unwrap())
}

/// The path in a line: paths of these cases have no space before them that is not a separator.
fn path_of(line: &str) -> &str {
    let words = if line.starts_with("file ") { 6 } else { 5 };
    line.splitn(words, ' ').nth(words - 1).unwrap_or_default().split(" -> ").next().unwrap_or_default()
}
