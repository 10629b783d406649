//! `--label`, `--annotation`, `--compression` and what `-o` says about the same: what the image carries and
//! how it is written.

use std::collections::BTreeMap;

use builder::Request;
use builder::build::{Form, MediaTypes};
use builder::layer::Compression;
use oci::Platform;

use crate::args::build::ImageArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageOptions {
    pub labels: BTreeMap<String, String>,
    pub annotations: Vec<Annotation>,
    pub compression: Option<Compression>,
    pub force_compression: bool,
    pub media_types: MediaTypes,
}

/// What an annotation is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Manifest,
    Index,
    /// The entry of the image in the index.
    ManifestDescriptor,
    /// The entry of the index in a layout.
    IndexDescriptor,
}

/// An annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    pub scope: Scope,
    /// For the image of this platform alone.
    pub platform: Option<Platform>,
    pub key: String,
    pub value: String,
}

impl ImageOptions {
    /// Reads what was typed.
    pub fn new(args: &ImageArgs) -> Outcome<Self> {
        let mut options = Self { force_compression: args.force_compression, ..Self::default() };
        for text in &args.label {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            if key.is_empty() {
                return Err(Failure::new(Exit::Usage, format!("--label `{text}` has no key")).hint("--label KEY=VALUE"));
            }
            options.labels.insert(key.to_owned(), value.to_owned());
        }
        for text in &args.annotation {
            options.annotations.extend(annotations(text)?);
        }
        options.compression =
            args.compression.as_deref().map(|text| compression(text, args.compression_level)).transpose()?;
        if args.compression_level.is_some() && args.compression.is_none() {
            options.compression = Some(compression("gzip", args.compression_level)?);
        }
        Ok(options)
    }

    /// Takes what an output says; both may say the same, and nothing else.
    pub fn compress(&mut self, wanted: Compression, spec: &str) -> Outcome<()> {
        match self.compression.replace(wanted) {
            Some(before) if before != wanted => Err(Failure::new(
                Exit::Usage,
                format!("--output `{spec}` compresses otherwise than --compression or another output"),
            )
            .hint("a build writes its layers once; `lighter copy` cannot change them either")),
            _ => Ok(()),
        }
    }

    /// Puts it into a request for one platform.
    pub fn apply(&self, request: &mut Request) -> Outcome<()> {
        request.options.labels.extend(self.labels.clone());
        request.compression = self.compression.unwrap_or_default();
        request.form = self.form(&request.options.target_platform);
        Ok(())
    }

    /// How the manifest for a platform is written.
    pub fn form(&self, platform: &Platform) -> Form {
        Form {
            media_types: self.media_types,
            annotations: self.of(Scope::Manifest, Some(platform)),
            force_compression: self.force_compression,
            whole: false,
        }
    }

    /// The annotations of a scope, and of a platform where it is one's.
    pub fn of(&self, scope: Scope, platform: Option<&Platform>) -> BTreeMap<String, String> {
        let is_meant = |one: &&Annotation| {
            one.scope == scope
                && match (&one.platform, platform) {
                    (Some(wanted), Some(platform)) => wanted == platform,
                    (Some(_), None) => false,
                    (None, _) => true,
                }
        };
        self.annotations.iter().filter(is_meant).map(|one| (one.key.clone(), one.value.clone())).collect()
    }
}

/// `[SCOPE[PLATFORM],…:]KEY=VALUE`, as `docker buildx` reads it.
pub fn annotations(text: &str) -> Outcome<Vec<Annotation>> {
    let wrong = |why: &str| {
        Failure::new(Exit::Usage, format!("--annotation `{text}` {why}"))
            .hint("--annotation KEY=VALUE, or index:KEY=VALUE, manifest[linux/amd64]:KEY=VALUE")
    };
    let (key, value) = text.split_once('=').ok_or_else(|| wrong("has no value"))?;
    // A scope ends at the first colon; keys may have colons as well, so it must be one.
    let (scopes, key) = match key.split_once(':') {
        Some((scopes, key)) if scopes.split(',').all(|scope| self::scope(scope).is_some()) => (scopes, key),
        _ => ("manifest", key),
    };
    if key.is_empty() {
        return Err(wrong("has no key"));
    }
    scopes
        .split(',')
        .map(|text| {
            let (scope, platform) = scope(text).ok_or_else(|| wrong("has a scope that is not known"))?;
            let platform = platform.map(str::parse).transpose();
            let platform = platform.map_err(|_| wrong("has a platform that is none"))?;
            Ok(Annotation { scope, platform, key: key.to_owned(), value: value.to_owned() })
        })
        .collect()
}

/// A scope by its name, and the platform behind it in brackets.
pub fn scope(text: &str) -> Option<(Scope, Option<&str>)> {
    let (name, platform) = match text.split_once('[') {
        Some((name, rest)) => (name, Some(rest.strip_suffix(']')?)),
        None => (text, None),
    };
    let scope = match name {
        "manifest" => Scope::Manifest,
        "index" => Scope::Index,
        "manifest-descriptor" => Scope::ManifestDescriptor,
        "index-descriptor" => Scope::IndexDescriptor,
        _ => return None,
    };
    Some((scope, platform))
}

/// `gzip`, `zstd` or `none`, with a level behind a comma or apart.
pub fn compression(text: &str, level: Option<u8>) -> Outcome<Compression> {
    let wrong = |why: &str| {
        Failure::new(Exit::Usage, format!("--compression `{text}` {why}"))
            .hint("--compression gzip, zstd or none; gzip has the levels 1 to 12, zstd 1 to 22: --compression zstd,9")
    };
    let (method, behind) = text.split_once(',').map_or((text, None), |(method, level)| (method, Some(level)));
    let behind = behind.map(|level| level.trim_start_matches("level=").parse::<u8>());
    let behind = behind.transpose().map_err(|_| wrong("has a level that is no number"))?;
    if let (Some(a), Some(b)) = (behind, level)
        && a != b
    {
        return Err(wrong("says two levels"));
    }
    let level = behind.or(level);
    let within = |most: u8| match level {
        Some(level) if !(1..=most).contains(&level) => Err(wrong("has a level that is not one of the method's")),
        level => Ok(level),
    };
    match method {
        "gzip" => Ok(Compression::Gzip(within(12)?)),
        "zstd" => Ok(Compression::Zstd(within(22)?.unwrap_or(3))),
        "none" | "uncompressed" if level.is_none() => Ok(Compression::None),
        "none" | "uncompressed" => Err(wrong("has a level, and nothing to use it for")),
        "estargz" => Err(wrong("is a form of gzip that needs a snapshotter of its own; it is not written here")),
        _ => Err(wrong("is not known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressions() {
        for (text, level, wanted) in [
            ("gzip", None, Some(Compression::default())),
            ("gzip,9", None, Some(Compression::Gzip(Some(9)))),
            ("zstd", Some(7), Some(Compression::Zstd(7))),
            ("zstd,7", Some(7), Some(Compression::Zstd(7))),
            ("none", None, Some(Compression::None)),
            ("gzip,0", None, None),
            ("gzip,13", None, None),
            ("zstd,7", Some(8), None),
            ("zstd,x", None, None),
            ("none,1", None, None),
            ("estargz", None, None),
            ("brotli", None, None),
        ] {
            assert_eq!(compression(text, level).ok(), wanted, "{text} {level:?}");
        }
    }

    #[test]
    fn annotations_have_scopes_as_in_buildx() {
        for (text, scopes, key, value) in [
            ("a=b", &[Scope::Manifest][..], "a", "b"),
            ("index:a=b=c", &[Scope::Index], "a", "b=c"),
            ("index,manifest:a=", &[Scope::Index, Scope::Manifest], "a", ""),
            ("manifest-descriptor[linux/arm64]:a=b", &[Scope::ManifestDescriptor], "a", "b"),
            ("urn:a=b", &[Scope::Manifest], "urn:a", "b"),
        ] {
            let found = annotations(text).unwrap();
            assert_eq!(found.iter().map(|one| one.scope).collect::<Vec<_>>(), scopes, "{text}");
            assert!(found.iter().all(|one| one.key == key && one.value == value), "{text}");
        }
        for bad in ["a", "=b", "index:=b", "index[vax]:a=b"] {
            assert!(annotations(bad).is_err(), "{bad}");
        }
        let options =
            ImageOptions { annotations: annotations("manifest[linux/arm64]:a=b").unwrap(), ..Default::default() };
        assert_eq!(options.of(Scope::Manifest, Some(&"linux/arm64".parse().unwrap())).len(), 1);
        assert_eq!(options.of(Scope::Manifest, Some(&"linux/amd64".parse().unwrap())).len(), 0);
    }
}
