//! Dockerfiles of the cases, the tables and the random ones with one to three small mistakes in them: a seed gives one,
//! and the same as long as the one that it is made of stays as it is.
//!
//! Most of them fail, and most mistakes that people make are here. Left out is what says nothing about a Dockerfile:
//! `# syntax=` at its top, for which BuildKit asks a registry, sources that are fetched from elsewhere, annotations,
//! which are looked at before the Dockerfile is, SOURCE_DATE_EPOCH, which is wanted to count for files too, and
//! words of EXPOSE of which BuildKit loses the start. Where both refuse, the line that they blame is compared, but not the
//! words; nor the line where several steps fail, of which BuildKit tells the one that happened to fail first.

mod forms;
mod lines;
mod patterns;
mod text;
mod variables;

use fixtures::seed::Seed;

use super::choice::Choice;
use super::recipe::Recipe;

/// A change of a text; one that finds nothing to change leaves it as it is.
type Edit = fn(&mut Choice, &str) -> String;

/// Which of the random Dockerfiles are changed.
pub const RANDOM: std::ops::Range<u64> = 0..150;

/// How often another edit is tried where one changes nothing.
const TRIES: usize = 20;

/// The one that a seed gives, made of one of some.
pub fn recipe(seed: u64, of: &[Recipe]) -> Recipe {
    let mut choose = Choice::new(seed ^ 0x006d_7574_6174_6564);
    let mut recipe = of.iter().max_by_key(|recipe| affinity(seed, &recipe.name)).expect("there are some").clone();
    recipe.name = format!("mutated-{seed}");
    for _ in 0..choose.one(&[1, 1, 1, 2, 2, 3]) {
        edit(&mut choose, &mut recipe);
    }
    recipe
}

/// Whether one can be changed: nothing of it comes from elsewhere, and it has something that can be changed.
pub fn is_fit(recipe: &Recipe) -> bool {
    let text = recipe.dockerfile.to_lowercase();
    let is_other = recipe.flags.iter().any(|flag| flag == "--annotation" || flag.starts_with("SOURCE_DATE_EPOCH"));
    !is_other
        && !text.is_empty()
        && !["git", "://", "{http}", "syntax", "expose $p-${"].iter().any(|word| text.contains(word))
}

/// How near a seed is to a name. One name more takes few seeds from others.
fn affinity(seed: u64, name: &str) -> u64 {
    let of_name = name.bytes().fold(0, |number, byte| Seed::new(number ^ u64::from(byte)).number());
    Seed::new(seed ^ of_name).number()
}

fn edit(choose: &mut Choice, recipe: &mut Recipe) {
    let percent = choose.below(100);
    for _ in 0..TRIES {
        let (edits, text): (&[Edit], &mut String) = match percent {
            0..25 if recipe.ignore().is_some() => (&patterns::EDITS, recipe.ignore().expect("it has one")),
            0..20 => (&text::EDITS, &mut recipe.dockerfile),
            20..45 => (&lines::EDITS, &mut recipe.dockerfile),
            45..70 => (&variables::EDITS, &mut recipe.dockerfile),
            _ => (&forms::EDITS, &mut recipe.dockerfile),
        };
        let changed = choose.one(edits)(choose, text);
        if changed != *text && !names_a_frontend(&changed) {
            *text = changed;
            return;
        }
    }
}

/// Whether BuildKit would ask a registry for something that reads it.
fn names_a_frontend(text: &str) -> bool {
    text.to_lowercase().contains("syntax")
}
