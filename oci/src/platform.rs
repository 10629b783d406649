//! Platforms: `os/architecture[/variant]`, or one of the two where the rest is this machine's, and which of several
//! fits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform; write it as os/architecture[/variant], for instance linux/amd64")]
pub struct InvalidPlatform(String);

/// What an image runs on (image-spec, image-index.md, `platform`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// GOOS: `linux`.
    pub os: String,
    /// GOARCH: `amd64`.
    pub architecture: String,
    /// The CPU's variant: `v8` of arm64, `v7` of arm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The version of the system, for Windows.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

impl Platform {
    /// Linux on the given architecture, normalised (`x86_64` is `amd64`).
    pub fn linux(architecture: &str) -> Self {
        let (architecture, variant) = normalise(architecture, None);
        Self { os: "linux".to_owned(), architecture, variant, os_version: None }
    }

    /// Linux on the architecture that this program was compiled for.
    pub fn of_this_machine() -> Self {
        Self::linux(std::env::consts::ARCH)
    }

    /// The same with Go's names, and without a variant that is the usual one.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let (architecture, variant) = normalise(&self.architecture.to_lowercase(), self.variant.as_deref());
        Self { os: self.os.to_lowercase(), architecture, variant, os_version: self.os_version.clone() }
    }

    /// Whether an image for `offered` runs where this platform is asked for.
    ///
    /// A missing variant matches every variant, as containerd's matcher reads it.
    pub fn accepts(&self, offered: &Platform) -> bool {
        let (wanted, wanted_variant) = normalise(&self.architecture, self.variant.as_deref());
        let (architecture, variant) = normalise(&offered.architecture, offered.variant.as_deref());
        self.os == offered.os
            && wanted == architecture
            && (wanted_variant.is_none() || variant.is_none() || wanted_variant == variant)
    }
}

/// Whether a word alone is an architecture (containerd's platforms package, "isKnownArch").
fn is_architecture(word: &str) -> bool {
    let (name, _) = normalise(&word.to_lowercase(), None);
    let others = ["loong64", "mips64", "mips64le", "ppc64", "ppc64le", "riscv64", "s390x"];
    ["386", "amd64", "arm", "arm64"].contains(&&*name) || others.contains(&&*name)
}

/// Go's names for what others call differently (containerd's platforms package, "normalize").
fn normalise(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let (architecture, variant) = match (architecture, variant) {
        ("x86_64" | "x86-64" | "amd64", Some("v1") | None) => ("amd64", None),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", Some("v8" | "8") | None) => ("arm64", None),
        ("aarch64", variant) => ("arm64", variant),
        ("arm", None | Some("7")) => ("arm", Some("v7")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("8")) => ("arm", Some("v8")),
        ("armhf", _) => ("arm", Some("v7")),
        ("armel", _) => ("arm", Some("v6")),
        ("i386" | "i686" | "x86", variant) => ("386", variant),
        ("powerpc64le", variant) => ("ppc64le", variant),
        other => other,
    };
    (architecture.to_owned(), variant.map(str::to_owned))
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let is_word = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let wrong = || InvalidPlatform(text.chars().take(80).collect());
        if text.len() > 128 || !parts.iter().all(|part| is_word(part)) {
            return Err(wrong());
        }
        let (os, architecture, variant) = match parts[..] {
            [os] if os.eq_ignore_ascii_case("linux") => ("linux", std::env::consts::ARCH, None),
            [architecture] if is_architecture(architecture) => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(wrong()),
        };
        let (architecture, variant) = normalise(&architecture.to_lowercase(), variant);
        Ok(Self { os: os.to_lowercase(), architecture, variant, os_version: None })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_matched() {
        for (text, printed) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), printed);
        }
        let here = Platform::of_this_machine();
        assert_eq!("linux".parse(), Ok(here.clone()));
        assert_eq!("ARM64".parse::<Platform>().unwrap().to_string(), "linux/arm64");
        assert_eq!("x86_64".parse(), "linux/amd64".parse::<Platform>());
        for bad in ["", "linus", "windows", "linux/", "/amd64", "linux/amd64/v1/x", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
        let accepts =
            |wanted: &str, offered: &str| wanted.parse::<Platform>().unwrap().accepts(&offered.parse().unwrap());
        assert!(accepts("linux/arm64", "linux/arm64/v8"));
        assert!(accepts("linux/arm", "linux/arm/v7"));
        assert!(!accepts("linux/arm/v6", "linux/arm/v7"));
        assert!(!accepts("linux/amd64", "linux/arm64"));
        assert!(!accepts("linux/amd64", "windows/amd64"));
    }
}
