//! Slips of the hand: characters and words that are missing, doubled, swapped or others.

use super::Edit;
use crate::buildkit::choice::Choice;

pub const EDITS: [Edit; 12] = [
    delete_character,
    double_character,
    swap_characters,
    put_character,
    put_character,
    change_quote,
    delete_word,
    double_word,
    swap_words,
    change_case,
    change_blank,
    put_byte,
];

/// Replaces the characters from `at`, `count` of them.
pub fn splice(text: &str, at: usize, count: usize, with: &str) -> String {
    let characters = || text.chars();
    characters().take(at).chain(with.chars()).chain(characters().skip(at + count)).collect()
}

/// A place in a text, in characters.
fn place(choose: &mut Choice, text: &str) -> usize {
    choose.below(text.chars().count().max(1) as u64) as usize
}

fn delete_character(choose: &mut Choice, text: &str) -> String {
    let at = place(choose, text);
    splice(text, at, 1, "")
}

fn double_character(choose: &mut Choice, text: &str) -> String {
    let at = place(choose, text);
    let character: String = text.chars().skip(at).take(1).collect();
    splice(text, at, 0, &character)
}

fn swap_characters(choose: &mut Choice, text: &str) -> String {
    let at = place(choose, text);
    let swapped: String = text.chars().skip(at).take(2).collect::<Vec<_>>().into_iter().rev().collect();
    splice(text, at, 2, &swapped)
}

fn put_character(choose: &mut Choice, text: &str) -> String {
    let at = place(choose, text);
    let all =
        ["\"", "'", "\\", "$", "{", "}", "`", "#", "=", "[", "]", ",", ":", "/", "*", "<", "-", " ", "\t", "é", "~"];
    splice(text, at, choose.below(2) as usize, choose.one(&all))
}

fn change_quote(choose: &mut Choice, text: &str) -> String {
    let quotes: Vec<usize> =
        text.chars().enumerate().filter(|(_, character)| "\"'".contains(*character)).map(|(at, _)| at).collect();
    if quotes.is_empty() {
        return text.to_owned();
    }
    let at = choose.one(&quotes);
    splice(text, at, 1, choose.one(&["\"", "'", "`", "\\\"", "\u{201c}", ""]))
}

/// The words of a text with the blanks between them: words have odd numbers if it begins with a blank.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    for character in text.chars() {
        let is_blank = character.is_whitespace();
        match tokens.last_mut().filter(|token| token.ends_with(char::is_whitespace) == is_blank) {
            Some(token) => token.push(character),
            None => tokens.push(character.to_string()),
        }
    }
    tokens
}

/// Changes one word, or one run of blanks.
fn change_token(choose: &mut Choice, text: &str, blanks: bool, change: impl Fn(&mut Choice, &str) -> String) -> String {
    let mut tokens = tokens(text);
    let which: Vec<usize> = (0..tokens.len()).filter(|at| tokens[*at].trim().is_empty() == blanks).collect();
    if !which.is_empty() {
        let at = choose.one(&which);
        tokens[at] = change(choose, &tokens[at]);
    }
    tokens.concat()
}

/// Changes one word.
pub fn change_word(choose: &mut Choice, text: &str, change: impl Fn(&mut Choice, &str) -> String) -> String {
    change_token(choose, text, false, change)
}

fn delete_word(choose: &mut Choice, text: &str) -> String {
    change_word(choose, text, |_, _| String::new())
}

fn double_word(choose: &mut Choice, text: &str) -> String {
    change_word(choose, text, |_, word| format!("{word} {word}"))
}

fn swap_words(choose: &mut Choice, text: &str) -> String {
    let mut tokens = tokens(text);
    if tokens.len() > 2 {
        let at = choose.below(tokens.len() as u64 - 2) as usize;
        tokens.swap(at, at + 2);
    }
    tokens.concat()
}

fn change_case(choose: &mut Choice, text: &str) -> String {
    change_word(choose, text, |choose, word| match choose.below(3) {
        0 => word.to_lowercase(),
        1 => word.to_uppercase(),
        _ => word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)).collect(),
    })
}

fn change_blank(choose: &mut Choice, text: &str) -> String {
    change_token(choose, text, true, |choose, _| {
        choose.one(&["\t", "  ", "\n", " \\\n", "\u{a0}", "\u{b}", "\u{c}", "\r", " \n ", "\\\n"]).to_owned()
    })
}

fn put_byte(choose: &mut Choice, text: &str) -> String {
    let at = place(choose, text);
    splice(text, at, 0, choose.one(&["{0x00}", "{0xff}", "{0x0d}", "\u{feff}", "\u{1}", "\u{85}", "\u{2028}"]))
}
