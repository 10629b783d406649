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
    pub fn accepts(&self, offered: &Platform) -> bool {
        self.rank(offered).is_some()
    }

    /// How well an image for `offered` runs where this platform is asked for: 0 is as asked for, more is older; `None` if
    /// it does not run. The order is that of containerd's matcher (platforms, "Only"): variants downwards, and then the
    /// architecture of 32 bits that the processor understands as well.
    pub fn rank(&self, offered: &Platform) -> Option<usize> {
        if self.os != offered.os {
            return None;
        }
        let offered = normalise(&offered.architecture, offered.variant.as_deref());
        let (architecture, variant) = normalise(&self.architecture, self.variant.as_deref());
        runs(&architecture, variant.as_deref()).position(|platform| platform == offered)
    }
}

/// What a processor runs, the best first.
fn runs(architecture: &str, variant: Option<&str>) -> impl Iterator<Item = (String, Option<String>)> {
    let itself = (architecture.to_owned(), variant.map(str::to_owned));
    let below = |start: &str, stop: u32| {
        let number: Option<u32> = variant.and_then(|variant| variant.strip_prefix(start)?.parse().ok());
        let lower = move |number: u32| (stop..number.min(64)).rev();
        number.into_iter().flat_map(lower).collect::<Vec<_>>()
    };
    let of = |architecture: &str, variant: String| (architecture.to_owned(), Some(variant));
    let older: Vec<_> = match architecture {
        "amd64" => {
            let levels = below("v", 2).into_iter().map(|level| of("amd64", format!("v{level}")));
            levels.chain([("amd64".to_owned(), None), ("386".to_owned(), None)]).collect()
        }
        "arm" => below("v", 5).into_iter().map(|version| of("arm", format!("v{version}"))).collect(),
        "arm64" => {
            // Armv9.N has everything of Armv8.(N+5).
            let nine = below("v9.", 0).into_iter().map(|minor| of("arm64", format!("v9.{minor}")));
            let ninth = variant.filter(|variant| *variant == "v9" || variant.starts_with("v9."));
            let ninth: Option<u32> =
                ninth.map(|variant| variant.strip_prefix("v9.").map_or(0, |n| n.parse().unwrap_or(0)));
            let eight = ninth.map(|minor| (0..=minor.min(64) + 5).rev().collect()).unwrap_or(below("v8.", 0));
            let eight = eight.into_iter().filter(|minor| *minor > 0).map(|minor| of("arm64", format!("v8.{minor}")));
            let old = (5..=8).rev().map(|version| of("arm", format!("v{version}")));
            nine.chain(eight).chain([("arm64".to_owned(), None)]).chain(old).collect()
        }
        _ => Vec::new(),
    };
    std::iter::once(itself).chain(older)
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
        assert!(accepts("linux/arm/v7", "linux/arm/v6") && !accepts("linux/arm", "linux/arm/v8"));
        assert!(!accepts("linux/amd64", "linux/amd64/v2") && !accepts("linux/386", "linux/amd64"));
        assert!(!accepts("linux/riscv64", "linux/riscv64/x") && accepts("linux/riscv64", "linux/riscv64"));
        assert!(accepts("linux/arm", "linux/arm/v7"));
        assert!(!accepts("linux/arm/v6", "linux/arm/v7"));
        assert!(!accepts("linux/amd64", "linux/arm64"));
        assert!(!accepts("linux/amd64", "windows/amd64"));
    }

    /// As `platforms.Only` of containerd orders them.
    #[test]
    fn the_best_of_several_is_the_newest_that_runs() {
        for (wanted, order) in [
            ("linux/amd64", "amd64 386"),
            ("linux/amd64/v3", "amd64/v3 amd64/v2 amd64/v1 386"),
            ("linux/arm", "arm/v7 arm/v6 arm/v5"),
            ("linux/arm/v6", "arm/v6 arm/v5"),
            ("linux/arm64", "arm64/v8 arm/v8 arm/v7 arm/v6 arm/v5"),
            ("linux/arm64/v8.2", "arm64/v8.2 arm64/v8.1 arm64 arm/v8 arm/v7"),
            ("linux/arm64/v9.1", "arm64/v9.1 arm64/v9.0 arm64/v8.6 arm64/v8.5 arm64/v8.1 arm64 arm/v8"),
            ("linux/s390x", "s390x"),
        ] {
            let wanted: Platform = wanted.parse().unwrap();
            let ranks: Vec<_> =
                order.split(' ').map(|text| wanted.rank(&format!("linux/{text}").parse().unwrap())).collect();
            assert!(ranks.iter().all(Option::is_some) && ranks.is_sorted(), "{wanted}: {ranks:?}");
            assert_eq!(ranks[0], Some(0), "{wanted}");
        }
    }
}
