//! Which rules count: `# check=skip=A,B;error=true;experimental=C`, for the file or for one instruction.

use std::collections::BTreeSet;

use super::rule::Rule;

/// What a `check` directive says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    skipped: Names,
    experimental: Names,
    /// Whether findings fail the build.
    pub error: bool,
}

/// `all`, or some. Names that no rule has do nothing: the file may be read by newer builders too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    some: BTreeSet<String>,
}

/// Why a directive cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("invalid check option {0:?}")]
    Option(String),
    #[error("failed to parse check option {option:?}: {value:?} is neither true nor false")]
    Boolean { option: String, value: String },
}

impl Names {
    fn parse(value: &str) -> Self {
        match value.trim() {
            "all" => Self { all: true, some: BTreeSet::new() },
            list => Self { all: false, some: list.split(',').map(|name| name.trim().to_owned()).collect() },
        }
    }

    fn has(&self, rule: Rule) -> bool {
        self.all || self.some.contains(rule.name())
    }
}

impl Settings {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let mut settings = Self::default();
        if text.trim().is_empty() {
            return Ok(settings);
        }
        for option in text.trim().split(';') {
            let (key, value) = option.split_once('=').ok_or_else(|| Invalid::Option(option.to_owned()))?;
            match key.trim() {
                "skip" => settings.skipped = Names::parse(value),
                "experimental" => settings.experimental = Names::parse(value),
                "error" => settings.error = boolean(option, value.trim())?,
                key => return Err(Invalid::Option(key.to_owned())),
            }
        }
        Ok(settings)
    }

    /// What a comment above an instruction says about that instruction. What follows a blank explains it.
    /// A comment that cannot be understood is a comment.
    pub fn of_comments(comments: &[&str]) -> Option<Self> {
        let directive = comments.iter().find_map(|comment| {
            let (key, value) = comment.split_once('=')?;
            key.trim().eq_ignore_ascii_case("check").then(|| value.trim())
        })?;
        Self::parse(directive.split(' ').next().unwrap_or_default()).ok()
    }

    /// Whether what a rule finds is told. Experimental rules must be asked for, so nothing skips them.
    pub fn allow(&self, rule: Rule, own: Option<&Self>) -> bool {
        let any = |of: fn(&Self) -> &Names| of(self).has(rule) || own.is_some_and(|own| of(own).has(rule));
        if rule.is_experimental() { any(|settings| &settings.experimental) } else { !any(|settings| &settings.skipped) }
    }
}

/// What Go's `strconv.ParseBool` takes.
fn boolean(option: &str, value: &str) -> Result<bool, Invalid> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Invalid::Boolean { option: option.to_owned(), value: value.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let parsed = Settings::parse(" skip=StageNameCasing, FromAsCasing;error=True;experimental=all ").unwrap();
        assert!(parsed.error);
        assert!(!parsed.allow(Rule::FromAsCasing, None) && parsed.allow(Rule::UndefinedVar, None));
        assert!(parsed.allow(Rule::InvalidDefinitionDescription, None));
        let nothing = Settings::parse("").unwrap();
        assert!(!nothing.error && !nothing.allow(Rule::InvalidDefinitionDescription, None));
        let all = Settings::parse("skip=all").unwrap();
        assert!(Rule::ALL.iter().all(|rule| !all.allow(*rule, None)));
        for wrong in ["skip", "skips=all", "error=maybe", "skip=all;", "error=yes;skip=A"] {
            assert!(Settings::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn comments_of_one_instruction() {
        let file = Settings::default();
        for (comments, allowed) in [
            (&["check=skip=UndefinedVar"][..], false),
            (&["why", "check = skip=UndefinedVar // set by the base"], false),
            (&["CHECK=skip=all"], false),
            (&["check=skip=FromAsCasing"], true),
            (&["check=nonsense"], true),
            (&["checked"], true),
            (&[], true),
        ] {
            let own = Settings::of_comments(comments);
            assert_eq!(file.allow(Rule::UndefinedVar, own.as_ref()), allowed, "{comments:?}");
        }
    }
}
