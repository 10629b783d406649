//! What an image says about itself: the image config document (image-spec, config.md) with docker's
//! additions, as BuildKit writes it. No layer is looked at here, and nothing is stored.

mod history;

use std::collections::BTreeMap;

use oci::{DiffId, Platform};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use history::{COMMENT, History};

/// The PATH of an image whose base has none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Largest config document that is read.
pub const SIZE_LIMIT: usize = 8 << 20;

/// Why a document is no image config.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// Beyond reason.
    #[error("the image config is larger than {SIZE_LIMIT} bytes")]
    TooLarge,
    /// Not the document that the specification describes.
    #[error("the image config cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

/// An image config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// What the image runs on.
    pub platform: Platform,
    /// Who made it.
    pub author: Option<String>,
    /// When it was made (RFC 3339), as it is written.
    pub created: Option<String>,
    /// What a container of it runs.
    pub run: RunConfig,
    /// How it was made.
    pub history: Vec<History>,
    /// Its layers, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// What it wants of a system; only Windows has any.
    pub os_features: Vec<String>,
}

/// The `config` object: what a container of the image runs, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// USER, as it was written.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// EXPOSE, each `port/protocol`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// ENV, each `NAME=value`, in the order of first appearance.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// ENTRYPOINT.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// CMD.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// VOLUME.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// WORKDIR.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// LABEL.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// STOPSIGNAL.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Set by CMD; only Windows reads it.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// HEALTHCHECK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// ONBUILD.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// SHELL.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// How many seconds a container has to stop by itself; only a base can say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
}

/// The `{}` behind each key of a set written as a JSON object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// HEALTHCHECK, times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthConfig {
    /// The kind of test and its words.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two runs.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// How long one run may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// How long failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// Between two runs during the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    /// How many failures in a row count.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(switch: &bool) -> bool {
    !switch
}

/// Go writes `null` for an empty list or map.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl RunConfig {
    /// The value of an environment variable.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    }

    /// Sets an environment variable: in its old place, or at the end.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        let same = |old: &&mut String| old.split('=').next() == Some(name);
        match self.env.iter_mut().find(same) {
            Some(old) => *old = entry,
            None => self.env.push(entry),
        }
    }
}

/// The document as it is written, before its platform is put together.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, rename = "os.version")]
    os_version: Option<String>,
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    config: RunConfig,
    #[serde(default, deserialize_with = "or_default")]
    history: Vec<History>,
    #[serde(default, deserialize_with = "or_default")]
    rootfs: Rootfs,
    #[serde(default, rename = "os.features", deserialize_with = "or_default")]
    os_features: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Rootfs {
    #[serde(default, deserialize_with = "or_default")]
    diff_ids: Vec<DiffId>,
}

#[derive(Serialize)]
struct RootfsRef<'a> {
    r#type: &'static str,
    diff_ids: &'a [DiffId],
}

impl ImageConfig {
    /// The config of `FROM scratch`.
    pub fn scratch(platform: Platform) -> Self {
        let run = RunConfig {
            env: vec![format!("PATH={DEFAULT_PATH}")],
            working_dir: "/".to_owned(),
            ..RunConfig::default()
        };
        Self {
            platform,
            author: None,
            created: None,
            run,
            history: Vec::new(),
            diff_ids: Vec::new(),
            os_features: Vec::new(),
        }
    }

    /// Reads the config of an image that something is built on. Keys that BuildKit does not know are dropped, as there.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        if bytes.len() > SIZE_LIMIT {
            return Err(Invalid::TooLarge);
        }
        let document: Document = serde_json::from_slice(bytes)?;
        let Document { architecture, os, variant, os_version, author, created, config, history, .. } = document;
        Ok(Self {
            platform: Platform { os, architecture, variant: variant.filter(|variant| !variant.is_empty()), os_version },
            author: author.filter(|author| !author.is_empty()),
            created,
            run: config,
            history,
            diff_ids: document.rootfs.diff_ids,
            os_features: document.os_features,
        })
    }

    /// The document: compact JSON, keys at the top in alphabetical order, as BuildKit writes it.
    pub fn to_json(&self) -> Vec<u8> {
        let text = serde_json::to_string(self).expect("maps with string keys are always JSON");
        escape_html(&text).into_bytes()
    }
}

/// Go's encoder writes these characters as escapes, so that documents come out byte for byte the same.
/// In JSON they stand inside strings only.
fn escape_html(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text.push_str(&format!("\\u{:04x}", u32::from(character))),
            other => text.push(other),
        }
    }
    text
}

impl Serialize for ImageConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut keys: Vec<&str> = vec!["architecture", "config", "created", "os", "rootfs"];
        let optional = [
            ("author", self.author.is_some()),
            ("history", !self.history.is_empty()),
            ("os.features", !self.os_features.is_empty()),
            ("os.version", self.platform.os_version.is_some()),
            ("variant", self.platform.variant.is_some()),
        ];
        keys.extend(optional.iter().filter(|(_, present)| *present).map(|(key, _)| *key));
        keys.sort_unstable();
        let mut map = serializer.serialize_map(Some(keys.len()))?;
        for key in keys {
            match key {
                "architecture" => map.serialize_entry(key, &self.platform.architecture)?,
                "author" => map.serialize_entry(key, &self.author)?,
                "config" => map.serialize_entry(key, &self.run)?,
                "created" => map.serialize_entry(key, &self.created)?,
                "history" => map.serialize_entry(key, &self.history)?,
                "os" => map.serialize_entry(key, &self.platform.os)?,
                "os.features" => map.serialize_entry(key, &self.os_features)?,
                "os.version" => map.serialize_entry(key, &self.platform.os_version)?,
                "rootfs" => {
                    map.serialize_entry(key, &RootfsRef { r#type: "layers", diff_ids: &self.diff_ids })?;
                }
                _ => map.serialize_entry(key, &self.platform.variant)?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_what_buildkit_makes_of_it() {
        let json = String::from_utf8(ImageConfig::scratch(Platform::linux("amd64")).to_json()).unwrap();
        let expected = format!(
            r#"{{"architecture":"amd64","config":{{"Env":["PATH={DEFAULT_PATH}"],"WorkingDir":"/"}},"created":null,"os":"linux","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
        );
        assert_eq!(json, expected);
    }

    #[test]
    fn drops_what_buildkit_does_not_know() {
        let json = br#"{"architecture":"arm64","variant":"v8","os":"linux","x.custom":{"a":[1]},"docker_version":"20",
            "config":{"Hostname":"","Cmd":null,"Labels":null,"Env":["A=b","PATH=/x"],"Custom":"x","StopTimeout":7,"OnBuild":["RUN x"]},
            "history":[{"created":"2020-01-01T00:00:00.5Z","created_by":"x"}],
            "rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;
        let image = ImageConfig::parse(json).unwrap();
        assert_eq!((image.run.env("PATH"), image.run.env("PA")), (Some("/x"), None));
        assert_eq!(image.diff_ids.len(), 1);
        let written = String::from_utf8(image.to_json()).unwrap();
        assert!(written.contains(r#""StopTimeout":7"#), "{written}");
        for unknown in ["x.custom", "Custom", "docker_version", "Hostname"] {
            assert!(!written.contains(unknown), "{written}");
        }
        assert_eq!(ImageConfig::parse(written.as_bytes()).unwrap(), image);
    }

    #[test]
    fn variables_keep_their_place() {
        let mut run = RunConfig { env: vec!["A=1".into(), "AB=2".into()], ..RunConfig::default() };
        run.set_env("A", "3=4");
        run.set_env("C", "");
        assert_eq!(run.env, ["A=3=4", "AB=2", "C="]);
    }

    #[test]
    fn html_characters_are_escaped_as_go_does() {
        let mut image = ImageConfig::scratch(Platform::linux("amd64"));
        image.run.cmd = vec!["a && b > c".into()];
        let json = String::from_utf8(image.to_json()).unwrap();
        assert!(json.contains(r"a \u0026\u0026 b \u003e c"), "{json}");
        assert_eq!(ImageConfig::parse(json.as_bytes()).unwrap(), image);
    }
}
