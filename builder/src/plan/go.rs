//! How Go prints lists, quoted strings and spans of time: the history of an image is written that way.

use std::time::Duration;

/// `%v` of a list of strings: `[a b]`.
pub(super) fn list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// `%q` of a list of strings: `["a" "b\"c"]`.
pub(super) fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    list(&words)
}

/// `strconv.Quote`.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            character if character.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(character))),
            character if is_printable(character) => out.push(character),
            character if u32::from(character) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            character => out.push_str(&format!("\\U{:08x}", u32::from(character))),
        }
    }
    out.push('"');
    out
}

/// Near enough to Go's IsPrint: no controls, and no space but the plain one.
fn is_printable(character: char) -> bool {
    character == ' ' || !(character.is_control() || character.is_whitespace() || character == '\u{feff}')
}

/// `Duration.String`: `1m30s`, `1.5s`, `300ms`, `0s`.
pub(super) fn duration(time: Duration) -> String {
    let nanoseconds = time.as_nanos();
    let fraction = |unit: u128, digits: usize, name: &str| {
        let whole = nanoseconds / unit;
        let rest = format!("{:0digits$}", nanoseconds % unit);
        let rest = rest.trim_end_matches('0');
        if rest.is_empty() || digits == 0 { format!("{whole}{name}") } else { format!("{whole}.{rest}{name}") }
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => fraction(1, 0, "ns"),
        1_000..1_000_000 => fraction(1_000, 3, "µs"),
        1_000_000..1_000_000_000 => fraction(1_000_000, 6, "ms"),
        _ => {
            let seconds = nanoseconds % 60_000_000_000;
            let minutes = nanoseconds / 60_000_000_000;
            let seconds_text = {
                let rest = format!("{:09}", seconds % 1_000_000_000);
                let rest = rest.trim_end_matches('0');
                let dot = if rest.is_empty() { "" } else { "." };
                format!("{}{dot}{rest}s", seconds / 1_000_000_000)
            };
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds_text,
                (0, minutes) => format!("{minutes}m{seconds_text}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds_text}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_like_go() {
        let words = ["a".to_owned(), "b\"c\n\u{1}é\u{200}\\".to_owned()];
        assert_eq!(quoted_list(&words), "[\"a\" \"b\\\"c\\n\\x01éȀ\\\\\"]");
        for (milliseconds, text) in
            [(0, "0s"), (300, "300ms"), (1500, "1.5s"), (90_000, "1m30s"), (3_600_000, "1h0m0s"), (300_000, "5m0s")]
        {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
        assert_eq!(duration(Duration::from_micros(1500)), "1.5ms");
        assert_eq!(duration(Duration::from_nanos(1500)), "1.5µs");
    }
}
