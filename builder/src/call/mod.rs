//! What `build --call` answers about a Dockerfile, as values, in the JSON and the tables of BuildKit.
//!
//! Pure: [`outline`] says what a target can be given, [`targets`] which stages there are, [`Lint`] is the answer to
//! `--call=check`. What is found by a check is decided in [`check`](crate::check).

mod lint;
mod location;
mod outline;
mod table;
mod targets;

pub use lint::Lint;
pub use location::Location;
pub use outline::{Arg, Asked, CacheMount, Outline, outline};
pub use targets::{Target, Targets, targets};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::dockerfile::Source;

/// The text of a Dockerfile as BuildKit has it in JSON.
fn encoded(source: &Source) -> String {
    STANDARD.encode(source.text())
}

#[cfg(test)]
mod tests;
