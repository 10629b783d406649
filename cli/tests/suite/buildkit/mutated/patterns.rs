//! Other patterns of what is ignored.

use super::Edit;
use super::text;
use crate::buildkit::choice::Choice;

pub const EDITS: [Edit; 4] = [change_pattern, change_pattern, put_pattern, change_text];

const FORMS: [&str; 44] = [
    "!P", "!!P", "! P", " !P", "/P", "//P", "P/", "P//", "./P", "../P", "P/.", "P/..", "P/../P", "**/P", "**P", "P**",
    "P/**", "P/**/*", "*/P", "*P", "P*", "P?", "?P", "[P]", "[a-z]", "[^a]*", "[!a]*", "[", "P[", "\\P", "P\\", "\\!P",
    "#P", " P", "P ", "P\t", "P P", "{P,x}", "P.*", "**", "*", "!*", "!**", ".",
];

fn change_pattern(choose: &mut Choice, text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return text.to_owned();
    }
    let at = choose.below(lines.len() as u64) as usize;
    lines[at] = choose.one(&FORMS).replace('P', &lines[at]);
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn put_pattern(choose: &mut Choice, text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = choose.below(lines.len() as u64 + 1) as usize;
    let name = choose.one(&["a", "b", "d", "a/b", "file", "x y", "é", ".g", "Dockerfile", ".dockerignore", "a.txt"]);
    lines.insert(at, choose.one(&FORMS).replace('P', name));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn change_text(choose: &mut Choice, text: &str) -> String {
    choose.one(&text::EDITS)(choose, text)
}
