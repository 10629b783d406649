//! Registries in place of others: `docker.io=HOST[/PREFIX]` sends everything that names docker.io to HOST,
//! there below PREFIX. A mirror is spoken to like any registry, with its own login.

use std::str::FromStr;

use oci::{Host, InvalidReference, RepoName};

/// Why a text is no mapping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMapping {
    /// Nothing stands on one side.
    #[error("{0:?} maps nothing; write it as HOST=HOST[/PREFIX], for instance docker.io=mirror.corp:5000")]
    Form(String),
    /// A host that is none.
    #[error("{text:?}: {reason}")]
    Host {
        /// The text.
        text: String,
        /// Why.
        reason: InvalidReference,
    },
    /// A prefix that no repository can have.
    #[error("{text:?}: {reason}")]
    Prefix {
        /// The text.
        text: String,
        /// Why.
        reason: oci::InvalidName,
    },
    /// A target that is itself mapped: it would depend on the order.
    #[error("{0} is both mapped and mapped to; say where it really is")]
    Chain(String),
}

/// One registry in place of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The registry that is named.
    pub from: Host,
    /// The registry that is asked.
    pub to: Host,
    /// What stands before every repository there.
    pub prefix: Option<RepoName>,
}

impl FromStr for Mapping {
    type Err = InvalidMapping;

    fn from_str(text: &str) -> Result<Self, InvalidMapping> {
        let form = || InvalidMapping::Form(text.to_owned());
        let host = |host: &str| {
            let reason = |reason| InvalidMapping::Host { text: text.to_owned(), reason };
            canonical(host).parse::<Host>().map_err(reason)
        };
        let (from, to) = text.split_once('=').ok_or_else(form)?;
        let (to, prefix) = to.split_once('/').map_or((to, ""), |(host, prefix)| (host, prefix.trim_matches('/')));
        if from.is_empty() || to.is_empty() {
            return Err(form());
        }
        let prefix = match prefix {
            "" => None,
            prefix => {
                let wrong = |reason| InvalidMapping::Prefix { text: text.to_owned(), reason };
                Some(prefix.parse().map_err(wrong)?)
            }
        };
        Ok(Self { from: host(from)?, to: host(to)?, prefix })
    }
}

/// Docker Hub has several names, and references have one of them.
fn canonical(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => "docker.io",
        host => host,
    }
}

/// All mappings of a client; the last one of a registry counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mappings(Vec<Mapping>);

impl Mappings {
    /// Takes mappings in the order in which they were said.
    ///
    /// # Errors
    /// If one leads to a registry that is mapped itself.
    pub fn new(mappings: Vec<Mapping>) -> Result<Self, InvalidMapping> {
        let chained = mappings.iter().find(|one| mappings.iter().any(|other| other.from == one.to));
        match chained {
            Some(mapping) => Err(InvalidMapping::Chain(mapping.to.to_string())),
            None => Ok(Self(mappings)),
        }
    }

    /// Where a repository really is.
    pub fn resolve(&self, host: &Host, name: &RepoName) -> (Host, RepoName) {
        let Some(mapping) = self.0.iter().rev().find(|mapping| mapping.from == *host) else {
            return (host.clone(), name.clone());
        };
        let name = match &mapping.prefix {
            // A name that becomes too long for any registry is asked for as it is; the registry says no.
            Some(prefix) => format!("{prefix}/{name}").parse().unwrap_or_else(|_| name.clone()),
            None => name.clone(),
        };
        (mapping.to.clone(), name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sent_where_the_map_says() {
        let map: Vec<Mapping> = ["docker.io=m:5000/hub", "quay.io=m:5000", "ghcr.io=a", "ghcr.io=b"]
            .map(|text| text.parse().unwrap())
            .into();
        let map = Mappings::new(map).unwrap();
        for (host, name, mapped) in [
            ("docker.io", "library/debian", ("m:5000", "hub/library/debian")),
            ("quay.io", "a/b", ("m:5000", "a/b")),
            ("ghcr.io", "a", ("b", "a")),
            ("vm2:5000", "a", ("vm2:5000", "a")),
        ] {
            let (to, found) = map.resolve(&host.parse().unwrap(), &name.parse().unwrap());
            assert_eq!((to.as_str(), found.to_string().as_str()), mapped);
        }
        assert_eq!("index.docker.io=m".parse::<Mapping>().unwrap().from.as_str(), "docker.io");
        for bad in ["", "a", "a=", "=b", "a=b/UPPER", "a b=c", "a=b:x"] {
            assert!(bad.parse::<Mapping>().is_err(), "{bad}");
        }
        let chain = ["a=b", "b=c"].map(|text| text.parse().unwrap()).into();
        assert_eq!(Mappings::new(chain), Err(InvalidMapping::Chain("b".to_owned())));
    }
}
