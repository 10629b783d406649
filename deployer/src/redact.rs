//! Takes secrets out of text that others wrote (events, logs, pull errors) before it reaches a person
//! or a CI log. Nothing is known here about where the text comes from.

/// What stands where a secret stood.
const MASK: &str = "[redacted]";

/// Returns `text` without credentials in URLs (`://user:password@`), `Authorization` values, bearer and
/// basic tokens, and JSON web tokens.
pub(crate) fn redact(text: &str) -> String {
    text.split_inclusive('\n').map(line).collect()
}

fn line(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut hide_next = false;
    for word in text.split_inclusive([' ', '\t', '\n']) {
        let bare = word.trim_end();
        let tail = &word[bare.len()..];
        let core = bare.trim_matches(|c: char| "\"'`,;:()[]{}".contains(c)).to_ascii_lowercase();
        let scheme = matches!(core.as_str(), "bearer" | "basic");
        if hide_next && !scheme && !bare.is_empty() {
            words.push(format!("{MASK}{tail}"));
            hide_next = false;
        } else {
            words.push(format!("{}{tail}", word_without_secrets(bare)));
            hide_next = scheme || core == "authorization" || (hide_next && bare.is_empty());
        }
    }
    words.concat()
}

fn word_without_secrets(word: &str) -> String {
    let lower = word.to_ascii_lowercase();
    for name in ["authorization=", "authorization:", "password=", "access_token=", "token=", "x-amz-signature="] {
        if let Some(at) = lower.find(name) {
            let value = at + name.len();
            let end = word[value..].find(['&', '"', '\'', ',']).map_or(word.len(), |end| value + end);
            if end > value {
                return format!("{}{MASK}{}", &word[..value], word_without_secrets(&word[end..]));
            }
        }
    }
    without_tokens(&without_userinfo(word))
}

/// `https://user:password@host/` loses what stands before the `@`.
fn without_userinfo(word: &str) -> String {
    let Some(start) = word.find("://").map(|at| at + 3) else { return word.to_owned() };
    let authority = word[start..].find(['/', '?', '#', '"']).map_or(word.len(), |end| start + end);
    match word[start..authority].rfind('@') {
        Some(at) => format!("{}{MASK}{}", &word[..start], without_userinfo_rest(&word[start + at..])),
        None => format!("{}{}", &word[..authority], without_userinfo_rest(&word[authority..])),
    }
}

fn without_userinfo_rest(rest: &str) -> String {
    if rest.contains("://") { without_userinfo(rest) } else { rest.to_owned() }
}

/// A JSON web token is three base64url parts, the first two of which start as `{"` does: `eyJ`.
fn without_tokens(word: &str) -> String {
    let Some(start) = word.find("eyJ") else { return word.to_owned() };
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.=".contains(c);
    let end = word[start..].find(|c| !is_part(c)).map_or(word.len(), |end| start + end);
    let token = &word[start..end];
    let shown = if token.matches('.').count() >= 2 { MASK } else { token };
    format!("{}{shown}{}", &word[..start], without_tokens(&word[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        for (text, shown) in [
            ("plain text: nothing here\n", "plain text: nothing here\n"),
            ("Get \"https://bob:s3cret@registry.test/v2/\": EOF", "Get \"https://[redacted]@registry.test/v2/\": EOF"),
            ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
            ("authorization: Basic  Ym9iOnB3", "authorization: Basic  [redacted]"),
            ("?token=abc&scope=x", "?token=[redacted]&scope=x"),
            ("got eyJhbGciOi.eyJzdWIi.c2ln, refused", "got [redacted], refused"),
            ("http://a/b and user@example.test", "http://a/b and user@example.test"),
            ("{\"auth\":\"eyJx\"}", "{\"auth\":\"eyJx\"}"),
            ("", ""),
        ] {
            assert_eq!(redact(text), shown);
        }
    }
}
