//! Expanding a word while noting which variables it names, and which near name was meant.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::dockerfile::distance;
use crate::dockerfile::expand::{Lookup, Style};

/// Names further apart than this are not confused (BuildKit's limit, from HCL).
const NEAR: usize = 3;
/// Longer names are not compared: that costs the square of their length.
const LONG: usize = 256;

/// The variables that words name.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Those that are set.
    pub set: BTreeSet<String>,
    /// Those that are not, once for each word.
    pub unset: Vec<String>,
}

/// Expands a word; broken ones expand to nothing here and are told by the planner.
pub(crate) fn expand(style: Style, text: &str, lookup: &Lookup<'_>, named: &mut Named) -> Option<String> {
    let (set, unset) = (RefCell::new(&mut named.set), RefCell::new(BTreeSet::new()));
    let noting = |name: &str| {
        let value = lookup(name);
        match &value {
            Some(_) => set.borrow_mut().insert(name.to_owned()),
            None => unset.borrow_mut().insert(name.to_owned()),
        };
        value
    };
    let expanded = style.word(text, &noting).ok();
    named.unset.extend(unset.into_inner());
    expanded
}

/// The nearest known name and how many letters are wrong; the first of the alphabet where several are as near.
pub(super) fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<(usize, &'a str)> {
    known
        .filter(|candidate| name.len() <= LONG && candidate.len().abs_diff(name.len()) < NEAR)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance < NEAR)
        .min()
}

/// ` (did you mean X?)` or nothing.
pub(super) fn suggestion(meant: Option<(usize, &str)>, sigil: &str) -> String {
    meant.map_or_else(String::new, |(_, meant)| format!(" (did you mean {sigil}{meant}?)"))
}
