//! Splitting an instruction's line: its name, its flags, and its arguments in their several forms.
//! Quotes and variables are left as they are written; `expand` treats them later.

use serde_json::Value;

/// The blanks that separate words; other Unicode spaces are data.
const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// The instruction's name and what follows it.
pub(super) fn split_name(line: &str) -> (&str, &str) {
    let line = line.trim();
    match line.find(BLANKS) {
        Some(end) => (&line[..end], line[end..].trim_start_matches(BLANKS)),
        None => (line, ""),
    }
}

/// The leading words that begin with `--`, unquoted, and the rest of the line.
pub(super) fn split_flags(line: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = line.trim();
    while rest.starts_with("--") {
        let (word, after) = unquoted_word(rest, escape);
        rest = after.trim_start();
        if word == "--" {
            break;
        }
        flags.push(word);
    }
    (flags, rest)
}

/// Reads to the next blank; quotes group and vanish, the escape character takes the next character as it is.
fn unquoted_word(text: &str, escape: char) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match (character, quote) {
            (_, None) if character.is_whitespace() => return (word, &text[at..]),
            ('\'' | '"', None) => quote = Some(character),
            (_, Some(open)) if character == open => quote = None,
            _ if character == escape => word.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => word.push(character),
        }
    }
    (word, "")
}

/// Words between blanks.
pub(super) fn split_blanks(text: &str) -> Vec<String> {
    text.split(BLANKS).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// A word and what follows the blanks behind it, both as they are written.
pub(super) fn split_first(text: &str) -> Option<(&str, &str)> {
    let end = text.find(BLANKS)?;
    Some((&text[..end], text[end..].trim_start_matches(BLANKS)))
}

/// Words where quotes and escapes keep blanks together; they stay in the words.
pub(super) fn split_quoted(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if quote.is_none() && character.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        if character == escape && quote != Some('\'') {
            // An escape character at the very end is dropped.
            if let Some(escaped) = characters.next() {
                word.extend([character, escaped]);
            }
            continue;
        }
        match quote {
            None if character == '\'' || character == '"' => quote = Some(character),
            Some(open) if open == character => quote = None,
            _ => {}
        }
        word.push(character);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// The JSON (exec) form: `None` if the text is no JSON array at all, so it is the shell form, and an
/// error if it is one of anything but strings. With anything behind the array the text is no JSON.
pub(super) fn json_array(text: &str) -> Option<Result<Vec<String>, NotStrings>> {
    if !text.trim_start().starts_with('[') {
        return None;
    }
    let Ok(Value::Array(values)) = serde_json::from_str(text) else { return None };
    let strings = values.into_iter().map(|value| match value {
        Value::String(text) => Ok(text),
        _ => Err(NotStrings),
    });
    Some(strings.collect())
}

/// A JSON array with something else than strings in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotStrings;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_unquoted_and_end_at_a_double_dash() {
        for (line, flags, rest) in [
            ("foo /tmp/", vec![], "foo /tmp/"),
            ("--user=me foo", vec!["--user=me"], "foo"),
            ("--a=\"b c\" --d='e \"f' x", vec!["--a=b c", "--d=e \"f"], "x"),
            ("--a=b\\ c x", vec!["--a=b c"], "x"),
            ("--doit=true -- --foo /tmp/", vec!["--doit=true"], "--foo /tmp/"),
            ("-- foo", vec![], "foo"),
            ("--doit -- [ ]", vec!["--doit"], "[ ]"),
            ("-x", vec![], "-x"),
        ] {
            let (found, after) = split_flags(line, '\\');
            assert_eq!((found, after), (flags.into_iter().map(str::to_owned).collect(), rest), "{line}");
        }
        assert_eq!(split_flags("--a=b` c\\ x", '`'), (vec!["--a=b c\\".to_owned()], "x"));
    }

    #[test]
    fn json_or_not() {
        assert_eq!(json_array("[ \"a\",\t\"b\" ]"), Some(Ok(vec!["a".into(), "b".into()])));
        assert_eq!(json_array("[]"), Some(Ok(vec![])));
        assert_eq!(json_array("[\"a\"] \t"), Some(Ok(vec!["a".into()])));
        assert_eq!(json_array("[\"a\"] # trailing"), None);
        assert_eq!(json_array("[\"a\", 1]"), Some(Err(NotStrings)));
        assert_eq!(json_array("[[\"a\"]]"), Some(Err(NotStrings)));
        for shell in ["['a']", "[\"a\"", "[ -f /x ]", "\"a\"", "{}", ""] {
            assert_eq!(json_array(shell), None, "{shell}");
        }
    }

    #[test]
    fn quotes_keep_blanks_together() {
        for (text, words) in [
            ("a=b c=\"d e\" f='g h'", vec!["a=b", "c=\"d e\"", "f='g h'"]),
            ("a=b\\ c d", vec!["a=b\\ c", "d"]),
            ("a='\\' b", vec!["a='\\'", "b"]),
            ("a=\"\\\" b\"", vec!["a=\"\\\" b\""]),
            ("x\\", vec!["x"]),
        ] {
            assert_eq!(split_quoted(text, '\\'), words, "{text}");
        }
    }
}
