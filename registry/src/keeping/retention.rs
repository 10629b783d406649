//! Retention: which tags of a repository stay. A pure judgement over what is known of each tag.

use std::fmt;

use jiff::Timestamp;
use oci::{Digest, RepoName, Tag};
use serde::{Deserialize, Serialize};

use super::{Patience, Period, RepoGlob, TagPattern};

/// Which tags stay. Repositories that no rule is about keep all of theirs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// A tag stays if one rule that is about its repository keeps it.
    pub rules: Vec<Rule>,
    /// Tags that can be set once and never changed or deleted.
    pub immutable: Vec<Immutable>,
    /// How often the rules are applied while the registry serves; `forever` is never.
    pub interval: Patience,
    /// Whether the rules may take the last tag of a repository. Without it such a repository keeps all.
    pub may_empty: bool,
}

impl Default for Retention {
    fn default() -> Self {
        let interval = Patience::For(Period::of(std::time::Duration::from_secs(24 * 3600)));
        Self { rules: Vec::new(), immutable: Vec::new(), interval, may_empty: false }
    }
}

/// Keeps tags in some repositories: those that match `tags` and fulfil one of the conditions. A rule
/// without conditions keeps all that match.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which repositories.
    pub repository: RepoGlob,
    /// Which tags; all if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<TagPattern>,
    /// Keeps so many of them: those set last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<usize>,
    /// Keeps those that were set within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub younger_than: Option<Period>,
    /// Keeps those whose manifest was pulled within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled_within: Option<Period>,
}

/// Tags that can be set once.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Immutable {
    /// In which repositories.
    pub repository: RepoGlob,
    /// Which tags.
    pub tags: TagPattern,
}

impl Retention {
    /// The patterns of tags that are immutable in a repository.
    pub(crate) fn frozen(&self, repo: &RepoName) -> Vec<TagPattern> {
        let here = self.immutable.iter().filter(|immutable| immutable.repository.matches(repo));
        here.map(|immutable| immutable.tags.clone()).collect()
    }
}

/// What is known of a tag.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) tag: Tag,
    pub(crate) digest: Digest,
    pub(crate) set_at: Timestamp,
    pub(crate) pulled_at: Option<Timestamp>,
}

/// Whether a tag stays, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is immutable.
    Immutable,
    /// A rule keeps it among the last so many.
    Last(usize),
    /// A rule keeps it, since it was set so lately.
    Young(Period),
    /// A rule keeps it, since it was pulled so lately.
    Pulled(Period),
    /// A rule without conditions keeps it.
    Named,
    /// All others would go too, and a repository is not emptied.
    WouldEmpty,
    /// No rule keeps it.
    Expired,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Immutable => f.write_str("it is immutable"),
            Self::Last(count) => write!(f, "it is among the last {count}"),
            Self::Young(period) => write!(f, "it was set within {period}"),
            Self::Pulled(period) => write!(f, "it was pulled within {period}"),
            Self::Named => f.write_str("a rule keeps all such tags"),
            Self::WouldEmpty => f.write_str("no rule keeps any tag of the repository, and it may not be emptied"),
            Self::Expired => f.write_str("no rule keeps it"),
        }
    }
}

/// Judges all tags of a repository; `None` if no rule is about it.
pub(crate) fn judge(
    retention: &Retention,
    repo: &RepoName,
    tags: &[Candidate],
    now: Timestamp,
) -> Option<Vec<Verdict>> {
    let rules: Vec<&Rule> = retention.rules.iter().filter(|rule| rule.repository.matches(repo)).collect();
    if rules.is_empty() {
        return None;
    }
    let frozen = retention.frozen(repo);
    let mut verdicts: Vec<Verdict> = tags
        .iter()
        .map(|candidate| match frozen.iter().any(|pattern| pattern.matches(&candidate.tag)) {
            true => Verdict::Immutable,
            false => Verdict::Expired,
        })
        .collect();
    for rule in rules {
        apply(rule, tags, now, &mut verdicts);
    }
    let empties = verdicts.iter().all(|verdict| *verdict == Verdict::Expired);
    if empties && !retention.may_empty {
        verdicts.fill(Verdict::WouldEmpty);
    }
    Some(verdicts)
}

/// Turns the verdict on each tag that the rule keeps, if none kept it before.
fn apply(rule: &Rule, tags: &[Candidate], now: Timestamp, verdicts: &mut [Verdict]) {
    let matches = |tag: &Tag| rule.tags.as_ref().is_none_or(|pattern| pattern.matches(tag));
    let mut newest_first: Vec<usize> = (0..tags.len()).filter(|&index| matches(&tags[index].tag)).collect();
    // Tags of one instant, as an import sets them, go by name.
    newest_first.sort_by_key(|&index| std::cmp::Reverse((tags[index].set_at, tags[index].tag.as_str().to_owned())));
    for (rank, index) in newest_first.into_iter().enumerate() {
        if verdicts[index] != Verdict::Expired {
            continue;
        }
        let within = |time: Option<Timestamp>, period: Period| {
            time.is_some_and(|time| now.duration_since(time).unsigned_abs() <= period.duration() || time > now)
        };
        let unconditional = rule.keep_last.is_none() && rule.younger_than.is_none() && rule.pulled_within.is_none();
        let last = rule.keep_last.filter(|&count| rank < count).map(Verdict::Last);
        let young = rule.younger_than.filter(|&period| within(Some(tags[index].set_at), period)).map(Verdict::Young);
        let pulled = rule.pulled_within.filter(|&period| within(tags[index].pulled_at, period)).map(Verdict::Pulled);
        let kept = last.or(young).or(pulled).or(unconditional.then_some(Verdict::Named));
        if let Some(kept) = kept {
            verdicts[index] = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;
    const NOW: i64 = 1000 * DAY;

    /// Tags by name, age in days, and days since the last pull.
    fn candidates(tags: &[(&str, i64, Option<i64>)]) -> Vec<Candidate> {
        let days_ago = |days: i64| Timestamp::from_second(NOW - days * DAY).unwrap();
        let candidate = |(tag, age, pulled): &(&str, i64, Option<i64>)| Candidate {
            tag: tag.parse().unwrap(),
            digest: Digest::of(tag.as_bytes()),
            set_at: days_ago(*age),
            pulled_at: pulled.map(days_ago),
        };
        tags.iter().map(candidate).collect()
    }

    fn verdicts(toml: &str, repo: &str, tags: &[(&str, i64, Option<i64>)]) -> Option<Vec<String>> {
        let retention: Retention = toml::from_str(toml).unwrap();
        let now = Timestamp::from_second(NOW).unwrap();
        let judged = judge(&retention, &repo.parse().unwrap(), &candidates(tags), now)?;
        Some(judged.iter().map(|verdict| verdict.to_string()).collect())
    }

    #[test]
    fn a_tag_stays_if_one_rule_keeps_it() {
        let rules = r#"
            immutable = [{ repository = "ci/**", tags = "release-.*" }]
            rules = [
                { repository = "ci/**", tags = "b[0-9]+", keep_last = 2, younger_than = "3d" },
                { repository = "ci/app", pulled_within = "7d" },
                { repository = "ci/app", tags = "latest" },
            ]"#;
        let tags = [
            ("b1", 40, None),
            ("b2", 30, Some(5)),
            ("b3", 20, None),
            ("b4", 10, Some(90)),
            ("b5", 2, None),
            ("latest", 99, None),
            ("release-1", 99, None),
            ("other", 1, Some(8)),
        ];
        let expected = [
            "no rule keeps it",
            "it was pulled within 1w",
            "no rule keeps it",
            "it is among the last 2",
            "it is among the last 2",
            "a rule keeps all such tags",
            "it is immutable",
            "no rule keeps it",
        ];
        assert_eq!(verdicts(rules, "ci/app", &tags).unwrap(), expected);
        assert_eq!(verdicts(rules, "shop/app", &tags), None, "no rule is about it");
    }

    #[test]
    fn a_repository_is_not_emptied_unless_that_is_said() {
        let tags = [("a", 9, None), ("b", 8, None)];
        let rule = r#"rules = [{ repository = "**", younger_than = "1d" }]"#;
        let spared = "no rule keeps any tag of the repository, and it may not be emptied";
        assert_eq!(verdicts(rule, "a", &tags).unwrap(), [spared; 2]);
        assert_eq!(verdicts(&format!("may_empty = true\n{rule}"), "a", &tags).unwrap(), ["no rule keeps it"; 2]);
    }

    #[test]
    fn a_clock_that_went_back_makes_nothing_older() {
        assert_eq!(
            verdicts(r#"rules = [{ repository = "**", younger_than = "1d" }]"#, "a", &[("a", -30, None)]).unwrap(),
            ["it was set within 1d"]
        );
    }
}
