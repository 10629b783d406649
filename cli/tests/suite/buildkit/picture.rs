//! What came out of a build, as lines to compare: every key of every document and every entry of every layer. What is
//! never the same twice (the time of the build) is named and not shown.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use fixtures::described::kind;
use flate2::read::MultiGzDecoder;
use oci::Digest;
use serde_json::Value;

/// An archive of an image in words. `began` is when the build did.
pub fn of_archive(path: &Path, began: i64) -> Vec<String> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(File::open(path).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(entry.path().unwrap().to_string_lossy().into_owned(), content);
    }
    let mut picture = Picture { files, began, lines: Vec::new() };
    let index = picture.json("index.json");
    picture.index("", &index);
    if let Some(list) = picture.files.get("manifest.json") {
        let list: Value = serde_json::from_slice(list).unwrap();
        let list = list.as_array().unwrap();
        for image in list {
            let layers = image["Layers"].as_array().map_or(0, Vec::len);
            picture.lines.push(format!("for docker load: {} with {layers} layers", image["RepoTags"]));
        }
    }
    picture.lines
}

/// A root file system in words: a tar, or a directory.
pub fn of_tree(path: &Path, began: i64) -> Vec<String> {
    if path.is_file() {
        return entries(File::open(path).unwrap(), began).0;
    }
    let tar = path.with_extension("listed");
    let done = std::process::Command::new("tar")
        .args(["--sort=name", "--numeric-owner", "--format=pax", "-cf"])
        .arg(&tar)
        .arg("-C")
        .arg(path)
        .arg(".")
        .status();
    assert!(done.unwrap().success());
    let mut lines = entries(File::open(&tar).unwrap(), began).0;
    lines.retain(|line| !line.contains(" ./ ") && !line.ends_with(" ./")); // the directory itself is whoever's made it
    lines
}

struct Picture {
    files: BTreeMap<String, Vec<u8>>,
    began: i64,
    lines: Vec<String>,
}

impl Picture {
    fn json(&self, path: &str) -> Value {
        let text = self.files.get(path).unwrap_or_else(|| panic!("the archive has no {path}"));
        serde_json::from_slice(text).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn blob(&self, descriptor: &Value) -> String {
        format!("blobs/{}", descriptor["digest"].as_str().expect("a digest").replace(':', "/"))
    }

    fn index(&mut self, indent: &str, index: &Value) {
        self.document(&format!("{indent}index"), index, &["manifests"]);
        // In the archive's own index BuildKit repeats what the config says, and the time.
        let repeated: &[&str] = if indent.is_empty() { &["annotations", "platform"] } else { &[] };
        for descriptor in index["manifests"].as_array().unwrap() {
            self.document(&format!("{indent}descriptor"), descriptor, &[&["digest", "size"], repeated].concat());
            let document = self.json(&self.blob(descriptor));
            if document.get("manifests").is_some() {
                self.index(&format!("{indent}inner "), &document);
            } else {
                self.manifest(&document);
            }
        }
    }

    fn manifest(&mut self, manifest: &Value) {
        self.document("manifest", manifest, &["config", "layers"]);
        self.document("descriptor of the config", &manifest["config"], &["digest", "size"]);
        let config = self.json(&self.blob(&manifest["config"]));
        self.document("config", &config, &["history", "rootfs"]);
        for entry in config["history"].as_array().into_iter().flatten() {
            let mut entry = entry.clone();
            self.hide_times(&mut entry);
            self.lines.push(format!("history {entry}"));
        }
        let ids: Vec<Value> = config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
        let layers: Vec<Value> = manifest["layers"].as_array().cloned().unwrap_or_default();
        self.lines.push(format!("{} diff IDs, {} layers", ids.len(), layers.len()));
        for (layer, id) in layers.iter().zip(&ids) {
            self.layer(layer, id);
        }
    }

    fn layer(&mut self, layer: &Value, id: &Value) {
        // What BuildKit notes for itself on a layer whose times it has changed says nothing else.
        let mut layer = layer.clone();
        layer.as_object_mut().expect("an object").remove("annotations");
        self.document("layer", &layer, &["digest", "size"]);
        let blob = &self.files[&self.blob(&layer)];
        let mut tar = Vec::new();
        if blob.starts_with(&[0x1f, 0x8b]) {
            MultiGzDecoder::new(&blob[..]).read_to_end(&mut tar).unwrap();
        } else {
            tar.clone_from(blob);
        }
        let (entries, is_fixed) = entries(&tar[..], self.began);
        self.lines.extend(entries.into_iter().map(|entry| format!("  {entry}")));
        let digest = Digest::of(&tar).to_string();
        assert_eq!(id, digest.as_str(), "a diff ID is the digest of its layer");
        if is_fixed {
            self.lines.push(format!("  diff ID {digest}"));
        }
    }

    /// The keys of a document, each with its value, but for some.
    fn document(&mut self, what: &str, document: &Value, without: &[&str]) {
        let mut document = document.clone();
        without.iter().for_each(|key| drop(document.as_object_mut().expect("an object").remove(*key)));
        self.hide_times(&mut document);
        flatten(what, &document, &mut self.lines);
    }

    /// Replaces times of the build: where they stand as text, they are the only text of that form.
    fn hide_times(&self, value: &mut Value) {
        match value {
            Value::Object(map) => map.values_mut().for_each(|value| self.hide_times(value)),
            Value::Array(list) => list.iter_mut().for_each(|value| self.hide_times(value)),
            Value::String(text) if text.parse::<jiff::Timestamp>().is_ok_and(|time| time.as_second() >= self.began) => {
                "now".clone_into(text);
            }
            _ => {}
        }
    }
}

fn flatten(what: &str, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(key, value)| flatten(&format!("{what}.{key}"), value, lines));
        }
        _ => lines.push(format!("{what} {value}")),
    }
}

/// The entries of a tar, and whether none of them has the time of the build.
fn entries(tar: impl Read, began: i64) -> (Vec<String>, bool) {
    let (mut lines, mut is_fixed) = (Vec::new(), true);
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        let kind = kind(header.entry_type());
        let mut extra = String::new();
        for extension in entry.pax_extensions().unwrap().into_iter().flatten() {
            let extension = extension.unwrap();
            let key = String::from_utf8_lossy(extension.key_bytes()).into_owned();
            if key.contains("xattr") {
                extra += &format!(" {key}={:02x?}", extension.value_bytes());
            }
        }
        if let (Ok(Some(major)), Ok(Some(minor))) = (header.device_major(), header.device_minor())
            && (major, minor) != (0, 0)
        {
            extra += &format!(" device {major}:{minor}");
        }
        let names = (header.username(), header.groupname());
        if let (Ok(Some(user)), Ok(Some(group))) = names
            && !(user.is_empty() && group.is_empty())
        {
            extra += &format!(" names {user}:{group}");
        }
        let mut time = header.mtime().unwrap().cast_signed().to_string();
        if header.mtime().unwrap().cast_signed() >= began {
            is_fixed = false;
            "now".clone_into(&mut time);
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let link = entry.link_name_bytes().map(|link| format!(" -> {}", String::from_utf8_lossy(&link)));
        let (uid, gid) = (header.uid().unwrap(), header.gid().unwrap());
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if kind == "file" {
            extra += &format!(" {} {}", content.len(), &Digest::of(&content).hex()[..8]);
        }
        let mode = header.mode().unwrap();
        lines.push(format!("{kind} {mode:04o} {uid}:{gid} {time} {path}{}{extra}", link.unwrap_or_default()));
    }
    (lines, is_fixed)
}

/// The findings of a check, as `RULE LINE: TEXT`, sorted: those of `lighter build --check`.
pub fn of_our_check(said: &str) -> Vec<String> {
    let finding = |line: &str| {
        let (_, rest) = line.split_once("/Dockerfile:")?;
        let (number, rest) = rest.split_once(": ")?;
        let (rule, text) = rest.split_once(": ")?;
        let is_finding = number.bytes().all(|byte| byte.is_ascii_digit()) && !line.starts_with(' ');
        is_finding.then(|| format!("{rule} {number}: {text}"))
    };
    let mut findings: Vec<String> = said.lines().filter_map(finding).collect();
    findings.sort();
    findings
}

/// The same of BuildKit's: `WARNING: RULE - ADDRESS`, the text, and the place, each on a line.
pub fn of_their_check(said: &str) -> Vec<String> {
    let lines: Vec<&str> = said.lines().collect();
    let finding = |lines: &[&str]| {
        let [head, text, place] = lines else { return None };
        let rule = head.strip_prefix("WARNING: ")?.split(" - ").next()?;
        Some(format!("{rule} {}: {text}", place.strip_prefix("Dockerfile:")?))
    };
    let mut findings: Vec<String> = lines.windows(3).filter_map(finding).collect();
    findings.sort();
    findings
}

/// The tables of an answer. What stands on one line of the Dockerfile BuildKit gives in any order, so rows are sorted.
pub fn of_answer(said: &str) -> Vec<String> {
    let mut rows: Vec<String> = said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    rows.sort();
    rows
}
