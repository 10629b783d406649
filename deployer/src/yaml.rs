//! YAML as kubectl reads it, which is YAML 1.1: `0440` is 288, `yes` is true, `<<` merges. The parser underneath reads
//! YAML 1.2, where both are strings; what stands plain in the text is read anew here, by the rules of sigs.k8s.io/yaml
//! (go-yaml v2). A key that stands twice in one mapping is refused, as kubectl does. Pure.

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// The largest number that a float holds exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Reads each document of a text.
pub(crate) fn documents(text: &str) -> impl Iterator<Item = Result<Value, serde_norway::Error>> + '_ {
    serde_norway::Deserializer::from_str(text).map(move |document| Reader { text }.deserialize(document))
}

/// Knows the whole text: whether a scalar stands in quotes is to be seen beside it.
#[derive(Clone, Copy)]
struct Reader<'t> {
    text: &'t str,
}

impl<'de> DeserializeSeed<'de> for Reader<'de> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'de> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        float(value).ok_or_else(|| E::custom(format!("{value} is no number that JSON has")))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into()) // of several lines, or with escapes: never a plain word
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Value, E> {
        Ok(if self.is_plain(value) { plain(value) } else { value.into() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let (mut fields, mut merged) = (Map::new(), Vec::new());
        while let Some(key) = entries.next_key_seed(self)? {
            let value = entries.next_value_seed(self)?;
            match key_text(key) {
                Some(key) if key == "<<" => merged.push(value),
                Some(key) if fields.contains_key(&key) => {
                    return Err(A::Error::custom(format!("the key {key:?} stands twice in one place")));
                }
                Some(key) => drop(fields.insert(key, value)),
                None => return Err(A::Error::custom("a key is neither a word nor a number")),
            }
        }
        merged.into_iter().try_for_each(|value| merge(&mut fields, value)).map_err(A::Error::custom)?;
        Ok(Value::Object(fields))
    }
}

impl Reader<'_> {
    /// Whether a part of the text stands there without quotes, and not under a tag that makes it a string.
    fn is_plain(&self, part: &str) -> bool {
        let offset = (part.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize);
        let Some(before) = offset.and_then(|offset| self.text.get(..offset)) else { return false };
        let is_tagged = ["!!str", "!<tag:yaml.org,2002:str>", "!"].iter().any(|tag| before.trim_end().ends_with(tag));
        !before.ends_with(['"', '\'']) && !is_tagged
    }
}

/// What is written plain and is a string to YAML 1.2.
fn plain(word: &str) -> Value {
    match word {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    number(word).unwrap_or_else(|| word.into())
}

/// A number as Go's parser reads it: with underscores, and octal after a 0; what is no octal is a float.
fn number(word: &str) -> Option<Value> {
    let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let joined = digits.replace('_', "");
    let lower = joined.to_ascii_lowercase();
    let (radix, rest) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    // A sign of its own would be taken by the parser of the digits.
    let whole = if rest.starts_with(['+', '-']) { None } else { u64::from_str_radix(rest, radix).ok() };
    match (whole, word.starts_with('-')) {
        (Some(whole), false) => Some(whole.into()),
        (Some(whole), true) => 0i64.checked_sub_unsigned(whole).map(Value::from),
        (None, _) if is_decimal(digits) => word.parse().ok().and_then(float),
        (None, _) => None,
    }
}

/// `[0-9]*(\.[0-9]*)?([eE][-+]?[0-9]+)?`, with a digit in it before the exponent.
fn is_decimal(digits: &str) -> bool {
    let (mantissa, exponent) = digits.split_once(['e', 'E']).map_or((digits, None), |(m, e)| (m, Some(e)));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent = exponent.map(|text| text.strip_prefix(['+', '-']).unwrap_or(text));
    all(whole)
        && all(part)
        && !(whole.is_empty() && part.is_empty())
        && exponent.is_none_or(|e| !e.is_empty() && all(e))
}

/// `1e3` is the whole number 1000 to a server that wants one.
fn float(value: f64) -> Option<Value> {
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[allow(clippy::cast_possible_truncation)] // it is whole, and small enough
        return Some((value as i64).into());
    }
    Number::from_f64(value).map(Value::Number)
}

/// Keys of JSON are strings: `on` is `true`, and `010` is `8`.
fn key_text(key: Value) -> Option<String> {
    match key {
        Value::String(text) => Some(text),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What a mapping says itself goes before what is merged into it, and what is merged first before the rest.
fn merge(fields: &mut Map<String, Value>, value: Value) -> Result<(), &'static str> {
    match value {
        Value::Object(more) => {
            for (key, value) in more {
                fields.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(many) if many.iter().all(Value::is_object) => {
            many.into_iter().try_for_each(|one| merge(fields, one))
        }
        _ => Err("`<<` merges mappings, and this is none"),
    }
}

/// Prints a value so that both kinds of readers read the same: a word that either takes for something else is quoted.
pub(crate) fn print(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => print_fields(&mut text, fields, 0),
        Value::Array(items) if !items.is_empty() => print_items(&mut text, items, 0),
        scalar => text = print_scalar(scalar) + "\n",
    }
    text
}

fn print_fields(text: &mut String, fields: &Map<String, Value>, indent: usize) {
    for (key, value) in fields {
        *text += &format!("{:indent$}{}:", "", print_word(key));
        print_below(text, value, indent);
    }
}

/// As kubectl prints them: the dash stands below the key.
fn print_items(text: &mut String, items: &[Value], indent: usize) {
    for item in items {
        match item {
            Value::Object(fields) if !fields.is_empty() => {
                let mut inner = String::new();
                print_fields(&mut inner, fields, indent + 2);
                *text += &format!("{:indent$}- {}", "", &inner[indent + 2..]);
            }
            item => {
                *text += &format!("{:indent$}-", "");
                print_below(text, item, indent + 2);
            }
        }
    }
}

/// What comes after a colon or a dash.
fn print_below(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            print_fields(text, fields, indent + 2);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            print_items(text, items, indent);
        }
        Value::String(lines) if is_block(lines) => {
            let keep = if lines.ends_with('\n') { "" } else { "-" };
            *text += &format!(" |{keep}\n");
            for line in lines.trim_end_matches('\n').split('\n') {
                let indent = if line.is_empty() { 0 } else { indent + 2 };
                *text += &format!("{:indent$}{line}\n", "");
            }
        }
        scalar => *text += &format!(" {}\n", print_scalar(scalar)),
    }
}

/// Whether a text of several lines can be read as it stands: its first line tells the indent, and one end is kept.
fn is_block(text: &str) -> bool {
    let is_shown = |c: char| c == '\n' || (c.is_ascii() && !c.is_ascii_control());
    let body = text.strip_suffix('\n').unwrap_or(text);
    body.contains('\n') && !body.ends_with('\n') && !body.starts_with([' ', '\n']) && text.chars().all(is_shown)
}

fn print_scalar(value: &Value) -> String {
    match value {
        Value::String(word) => print_word(word),
        other => other.to_string(), // JSON is YAML
    }
}

fn print_word(word: &str) -> String {
    let is_shown = |c: char| c.is_ascii_alphanumeric() || "_./:@+-".contains(c);
    let is_simple = word.starts_with(|c: char| c.is_ascii_alphanumeric() || "_/".contains(c))
        && !word.ends_with(':')
        && word.chars().all(is_shown);
    let is_word = || documents(word).next().is_some_and(|read| read.is_ok_and(|read| read == *word));
    if is_simple && is_word() { word.to_owned() } else { Value::from(word).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Value, String> {
        let mut all: Vec<_> = documents(text).collect();
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0).map_err(|error| error.to_string())
    }

    #[test]
    fn scalars_are_what_kubectl_takes_them_for() {
        for (text, expected) in [
            ("0440", json!(288)),
            ("-0440", json!(-288)),
            ("+0440", json!(288)),
            ("0o440", json!(288)),
            ("0x1F", json!(31)),
            ("0b101", json!(5)),
            ("0", json!(0)),
            ("420", json!(420)),
            ("1_000", json!(1000)),
            ("089", json!(89)),
            ("1e3", json!(1000)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("1.", json!(1)),
            ("18446744073709551615", json!(18_446_744_073_709_551_615u64)),
            ("1.2.3", json!("1.2.3")),
            ("1:30", json!("1:30")),
            ("0x", json!("0x")),
            ("1Gi", json!("1Gi")),
            ("100m", json!("100m")),
            ("2026-11-25", json!("2026-11-25")),
            ("2e", json!("2e")),
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("n", json!(false)),
            ("True", json!(true)),
            ("yEs", json!("yEs")),
            ("no way", json!("no way")),
            ("~", json!(null)),
            ("Null", json!(null)),
            ("'0440'", json!("0440")),
            ("\"0440\"", json!("0440")),
            ("'yes'", json!("yes")),
            ("\"no\"", json!("no")),
            ("!!str yes", json!("yes")),
            ("!!str 0440", json!("0440")),
            ("|-\n  yes", json!("yes")),
            ("\"\\x79es\"", json!("yes")),
        ] {
            for (whole, pointer) in
                [(format!("a: {text}\n"), "/a"), (format!("- {text}\n"), "/0"), (format!("{{\"a\": {text} }}\n"), "/a")]
            {
                if text.starts_with('|') && whole.starts_with('{') {
                    continue; // no blocks in flows
                }
                assert_eq!(read(&whole).unwrap().pointer(pointer), Some(&expected), "{whole:?}");
            }
        }
    }

    #[test]
    fn what_is_printed_is_read_again_as_it_was() {
        let words =
            ["yes", "n", "0440", "1_000", "0b1", "089", "1e3", "true", "null", "~", "", "a b", "a: b", "#x", "- x"];
        let texts = ["a\nb", "a\n\nb\n", " a\nb", "a\n\n", "\n", "a\tb\nc", "ä\nö", "x:", "...", "---", "\u{1}", "\"'"];
        for word in words.into_iter().chain(texts) {
            for value in
                [json!({"a": word}), json!([word]), json!([[word]]), json!([{"a": {word: [{"b": word}]}}]), json!(word)]
            {
                let printed = print(&value);
                assert_eq!(read(&printed).unwrap(), value, "{printed}");
                let other: Value = serde_norway::from_str(&printed).unwrap();
                assert_eq!(other, value, "{printed}");
            }
        }
        let value = json!({"kind": "Pod", "list": [], "of": {}, "n": 1.5, "on": null,
            "spec": {"containers": [{"image": "127.0.0.1:5000/a:1@sha256:ab", "args": ["x", "0440"]}], "script": "one\ntwo\n"}});
        let expected = "\
kind: Pod
list: []
\"n\": 1.5
of: {}
\"on\": null
spec:
  containers:
  - args:
    - x
    - \"0440\"
    image: 127.0.0.1:5000/a:1@sha256:ab
  script: |
    one
    two
";
        assert_eq!(print(&value), expected);
    }

    #[test]
    fn keys_are_words_and_stand_once() {
        assert_eq!(read("{on: 1, 'on': 2, 010: 3, x: 4}").unwrap(), json!({"true": 1, "on": 2, "8": 3, "x": 4}));
        for (text, why) in
            [("a: 1\na: 2\n", "stands twice"), ("on: 1\nyes: 2\n", "stands twice"), ("? [a]\n: 1\n", "neither a word")]
        {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        assert!(read("a: .inf\n").unwrap_err().contains("no number"));
    }

    #[test]
    fn mappings_are_merged_and_aliases_keep_their_kind() {
        let text = "base: &base {mode: 0440, on: yes}\nown: {<<: *base, mode: 1}\nlist: {<<: [*base, {z: 2, mode: 3}]}\nsame: *base\n";
        let base = json!({"mode": 288, "true": true});
        assert_eq!(
            read(text).unwrap(),
            json!({"base": base, "own": {"mode": 1, "true": true}, "list": {"mode": 288, "true": true, "z": 2}, "same": base})
        );
        assert!(read("a: {<<: 1}\n").unwrap_err().contains("merges mappings"));
    }
}
