//! The history of an image: one entry per instruction, and the times in it.

use serde::{Deserialize, Serialize};

/// What every entry of ours carries as its comment; tools know BuildKit's entries by it.
pub const COMMENT: &str = "buildkit.dockerfile.v0";

/// One entry of the history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When (RFC 3339), as it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether it made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

impl History {
    /// An entry of ours, its time still open.
    pub fn new(created_by: String, makes_layer: bool) -> Self {
        Self {
            created: None,
            created_by: Some(created_by),
            author: None,
            comment: Some(COMMENT.to_owned()),
            empty_layer: !makes_layer,
        }
    }
}

/// Fills in what is missing: entries for layers that have none, the times of new layers (`times`,
/// for the last layers), and the times of entries without a layer. `titles` are the steps of the new layers.
///
/// Such an entry takes the time of the next new layer, or of the last one before it; so the metadata
/// before the first layer is not as old as the base. Gives the time of the image: its last entry's.
pub(super) fn complete(
    history: &mut Vec<History>,
    layers: usize,
    times: &[String],
    titles: &[String],
) -> Option<String> {
    let recorded = history.iter().filter(|entry| !entry.empty_layer).count();
    let old = layers.saturating_sub(times.len());
    for number in recorded..layers {
        let created_by = number.checked_sub(old).and_then(|number| titles.get(number)).cloned();
        let comment = Some("buildkit.exporter.image.v0".to_owned());
        history.push(History { comment, created_by, ..History::default() });
    }
    let of_layers = history.iter_mut().filter(|entry| !entry.empty_layer).skip(old);
    for (entry, time) in of_layers.zip(times) {
        entry.created.get_or_insert_with(|| time.clone());
    }
    let first_open = history.iter().position(|entry| entry.created.is_none());
    let mut time = match first_open {
        Some(open) => {
            let next = history[open..].iter().find_map(|entry| entry.created.clone());
            next.or_else(|| history[..open].iter().rev().find_map(|entry| entry.created.clone()))
        }
        None => None,
    };
    for entry in history.iter_mut().skip(first_open.unwrap_or(usize::MAX)) {
        match &entry.created {
            Some(created) => time = Some(created.clone()),
            None => entry.created = time.clone(),
        }
    }
    history.iter().rev().find_map(|entry| entry.created.clone())
}

impl super::ImageConfig {
    /// Completes the history; `times` and `titles` are those of the newest layers, in their order.
    /// Where there is no time at all, it is `epoch`.
    pub fn complete_history(&mut self, times: &[String], titles: &[String], epoch: Option<String>) {
        let created = complete(&mut self.history, self.diff_ids.len(), times, titles);
        if created.is_none() {
            self.history.iter_mut().for_each(|entry| entry.created.clone_from(&epoch));
        }
        self.created = created.or(epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times_of(history: &[History]) -> Vec<&str> {
        history.iter().map(|entry| entry.created.as_deref().unwrap_or("-")).collect()
    }

    #[test]
    fn metadata_takes_the_time_of_the_next_layer_or_the_last() {
        let base = History { created: Some("old".into()), ..History::default() };
        let mut history = vec![
            base,
            History::new("ENV a=b".into(), false),
            History::new("RUN x".into(), true),
            History::new("CMD y".into(), false),
            History::new("RUN z".into(), true),
            History::new("USER u".into(), false),
        ];
        assert_eq!(complete(&mut history, 3, &["t1".into(), "t2".into()], &[]).as_deref(), Some("t2"));
        assert_eq!(times_of(&history), ["old", "t1", "t1", "t1", "t2", "t2"]);
    }

    #[test]
    fn without_new_layers_it_is_as_old_as_the_base() {
        let base = History { created: Some("old".into()), ..History::default() };
        let mut history = vec![base, History::new("ENV a=b".into(), false)];
        assert_eq!(complete(&mut history, 1, &[], &[]).as_deref(), Some("old"));
        let mut history = vec![History::new("ENV a=b".into(), false)];
        assert_eq!(complete(&mut history, 0, &[], &[]), None);
    }

    #[test]
    fn layers_without_an_entry_get_one() {
        let mut history = vec![];
        complete(&mut history, 2, &["t".into()], &["[2/2] COPY a b".into()]);
        assert_eq!(times_of(&history), ["t", "t"]);
        assert_eq!(history[0].created_by, None);
        assert_eq!(history[1].created_by.as_deref(), Some("[2/2] COPY a b"));
    }
}
