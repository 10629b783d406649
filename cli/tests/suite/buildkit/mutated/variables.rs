//! Other forms of variables, where one stands or where a word does.

use super::Edit;
use super::text::change_word;
use crate::buildkit::choice::Choice;

pub const EDITS: [Edit; 4] = [change_variable, change_variable, put_variable, change_value];

const FORMS: [&str; 62] = [
    "$N",
    "${N}",
    "${N",
    "$N}",
    "${ N}",
    "${N }",
    "$ N",
    "${}",
    "$",
    "${",
    "$$N",
    "$${N}",
    "\\$N",
    "\\${N}",
    "'$N'",
    "\"$N\"",
    "'${N}\"",
    "${N:-y}",
    "${N-y}",
    "${N:+y}",
    "${N+y}",
    "${N:?y}",
    "${N?y}",
    "${N:=y}",
    "${N=y}",
    "${N:y}",
    "${N:1:2}",
    "${N:-}",
    "${N:+}",
    "${N:-y",
    "${N:-${M}}",
    "${N:-${M:-z}}",
    "${N:+${M:-\"z z\"}}",
    "${N:-'y z'}",
    "${N:-\"y z\"}",
    "${N:-\\}}",
    "${N:-$M}",
    "${N#?}",
    "${N##*/}",
    "${N%?}",
    "${N%%.*}",
    "${N#*[a-c]}",
    "${N#}",
    "${N%\\*}",
    "${N/a/b}",
    "${N//a/b}",
    "${N/a}",
    "${N//a}",
    "${N/a/}",
    "${N/\\//_}",
    "${N/}",
    "${N/?/$M}",
    "${N/#a/b}",
    "${N^^}",
    "${N,,}",
    "${N@Q}",
    "${#N}",
    "${!N}",
    "${1}",
    "$1",
    "$(N)",
    "${N.x}",
];

const NAMES: [&str; 12] = ["a", "b", "c", "G", "PATH", "TARGETARCH", "HOME", "é", "_x", "x-y", "1a", "HTTP_PROXY"];

fn form(choose: &mut Choice, name: &str) -> String {
    let other = choose.one(&NAMES);
    choose.one(&FORMS).replace('N', name).replace('M', other)
}

/// Changes the form of one variable.
fn change_variable(choose: &mut Choice, text: &str) -> String {
    let starts: Vec<usize> = text.match_indices('$').map(|(at, _)| at).collect();
    if starts.is_empty() {
        return text.to_owned();
    }
    let at = choose.one(&starts);
    let rest = text[at + 1..].strip_prefix('{');
    let (name_at, has_brace) = if rest.is_some() { (at + 2, true) } else { (at + 1, false) };
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let name: String = text[name_at..].chars().take_while(|character| is_name(*character)).collect();
    let behind = &text[name_at + name.len()..];
    let end = if has_brace { behind.find('}').map_or(behind.len(), |at| at + 1) } else { 0 };
    format!("{}{}{}", &text[..at], form(choose, &name), &behind[end..])
}

/// Puts a variable into a word, or instead of it.
fn put_variable(choose: &mut Choice, text: &str) -> String {
    change_word(choose, text, |choose, word| {
        let name = choose.one(&NAMES);
        let variable = form(choose, name);
        match choose.below(4) {
            0 => variable,
            1 => format!("{variable}{word}"),
            _ => format!("{word}{variable}"),
        }
    })
}

/// Changes what stands behind an equals sign.
fn change_value(choose: &mut Choice, text: &str) -> String {
    let signs: Vec<usize> = text.match_indices('=').map(|(at, _)| at + 1).collect();
    if signs.is_empty() {
        return text.to_owned();
    }
    let at = choose.one(&signs);
    let end = text[at..].find(char::is_whitespace).map_or(text.len(), |length| at + length);
    let with = choose.one(&[
        "",
        "\"\"",
        "''",
        "\"a b\"",
        "'a b'",
        "a\\ b",
        "\"a",
        "a'b",
        "\\",
        "a\\",
        "\"\\\"\"",
        "'\\''",
        "\"'\"",
        "a=b",
        "=",
        "a,b",
        "a#b",
        "$",
        "\"$a\"",
        "'$a'",
        "a\"b\"c",
        "\"a\\nb\"",
        "a\\tb",
        "~",
        "*",
        "\"a\"\"b\"",
        "é",
        "${a}",
        "a;b",
        "(",
        "`a`",
        "\"\\$a\"",
        "\\$a",
        "\\\\",
    ]);
    format!("{}{with}{}", &text[..at], &text[end..])
}
