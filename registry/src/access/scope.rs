//! What a token is asked for and grants: `repository:shop/api:pull,push`, `registry:catalog:*`
//! (the token protocol of the distribution project). Pure.

use std::collections::BTreeSet;
use std::fmt;

use oci::RepoName;
use serde::{Deserialize, Serialize};

use super::policy::Right;

/// Most scopes of one token: a push with a mount from every repository of a build.
const SCOPES_LIMIT: usize = 64;

/// Something that a client wants to do with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// The action that a right comes with. There is none for overwriting: clients do not know it.
    pub(crate) fn of(right: Right) -> Self {
        match right {
            Right::Pull => Self::Pull,
            Right::Push | Right::Overwrite => Self::Push,
            Right::Delete => Self::Delete,
        }
    }

    /// The right that is needed for any of it.
    pub(crate) fn right(self) -> Right {
        match self {
            Self::Pull => Right::Pull,
            Self::Push => Right::Push,
            Self::Delete => Right::Delete,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.right().fmt(f)
    }
}

/// Actions on one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) name: RepoName,
    pub(crate) actions: BTreeSet<Action>,
}

/// What a token is asked for, or grants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scopes {
    pub(crate) repositories: Vec<Access>,
    /// Listing repositories.
    #[serde(default)]
    pub(crate) catalog: bool,
}

impl Scopes {
    /// Reads scopes, each of which may be several with spaces between. What is not understood is not
    /// granted, which the client learns from the token: so it is passed over here.
    pub(crate) fn parse<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut scopes = Self::default();
        for text in texts.flat_map(|text| text.split(' ')).filter(|text| !text.is_empty()).take(SCOPES_LIMIT) {
            scopes.add(text);
        }
        scopes
    }

    fn add(&mut self, text: &str) -> Option<()> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        if kind == "registry" {
            self.catalog |= name == "catalog" && actions.split(',').any(|action| action == "*");
            return None;
        }
        // Docker writes `repository(plugin)` for its plugins, which are images too.
        if kind != "repository" && !(kind.starts_with("repository(") && kind.ends_with(')')) {
            return None;
        }
        let name: RepoName = name.parse().ok()?;
        let wanted = |action: &Action| actions.split(',').any(|text| text == "*" || text == action.right().as_str());
        let actions: BTreeSet<Action> = Action::ALL.into_iter().filter(wanted).collect();
        match self.repositories.iter_mut().find(|access| access.name == name) {
            Some(access) => access.actions.extend(actions),
            None => self.repositories.push(Access { name, actions }),
        }
        Some(())
    }

    /// Adds actions on a repository.
    pub(crate) fn with(mut self, name: &RepoName, actions: &[Action]) -> Self {
        self.repositories.push(Access { name: name.clone(), actions: actions.iter().copied().collect() });
        self
    }

    /// Only the catalog.
    pub(crate) fn catalog() -> Self {
        Self { repositories: Vec::new(), catalog: true }
    }

    pub(crate) fn has(&self, name: &RepoName, action: Action) -> bool {
        self.repositories.iter().any(|access| access.name == *name && access.actions.contains(&action))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.repositories.is_empty() && !self.catalog
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        for Access { name, actions } in &self.repositories {
            let actions: Vec<String> = actions.iter().map(Action::to_string).collect();
            write!(f, "{space}repository:{name}:{}", actions.join(","))?;
            space = " ";
        }
        if self.catalog { write!(f, "{space}registry:catalog:*") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_as_clients_write_them() {
        for (text, meant) in [
            ("repository:a/b:pull", "repository:a/b:pull"),
            ("repository:a:push,pull", "repository:a:pull,push"),
            ("repository:a:*", "repository:a:pull,push,delete"),
            ("repository(plugin):a:pull", "repository:a:pull"),
            ("repository:a:pull repository:b:pull,push", "repository:a:pull repository:b:pull,push"),
            ("repository:a:pull repository:a:push", "repository:a:pull,push"),
            ("registry:catalog:*", "registry:catalog:*"),
            ("repository:a:metadata_read", "repository:a:"),
            ("repository:A:pull", ""),
            ("repository:a", ""),
            ("something:a:pull", ""),
            ("", ""),
        ] {
            assert_eq!(Scopes::parse([text].into_iter()).to_string(), meant, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics_and_is_stable(text: String, likely in "(repository:[a-z/]{0,5}:[a-z*,]{0,12} ?){0,3}") {
            for text in [text, likely] {
                let scopes = Scopes::parse([text.as_str()].into_iter());
                proptest::prop_assert_eq!(Scopes::parse([scopes.to_string().as_str()].into_iter()), scopes);
            }
        }
    }
}
