//! The patterns of `${name#pattern}` and its relatives: `*`, `?` and escapes, no brackets.
//! Patterns of file names are something else; see `ignore` and `copy`.

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid pattern `{0}`: only *, ?, \\, / and }} can be escaped")]
pub struct InvalidPattern(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// Any character but a line break.
    Any,
    /// Any run of characters without a line break.
    Run,
}

/// A pattern, ready to match. Matching costs at most its length times the value's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Token>);

impl Pattern {
    /// Reads a pattern; `\` escapes whatever the Dockerfile's own escape character is.
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        let mut tokens = Vec::new();
        let mut rest = text.chars();
        while let Some(character) = rest.next() {
            tokens.push(match character {
                '*' => Token::Run,
                '?' => Token::Any,
                '\\' => match rest.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '/' | '}')) => Token::Literal(escaped),
                    _ => return Err(InvalidPattern(text.to_owned())),
                },
                literal => Token::Literal(literal),
            });
        }
        Ok(Self(tokens))
    }

    /// Where the shortest or longest match at the start of the value ends, in bytes.
    pub fn prefix(&self, value: &str, longest: bool) -> Option<usize> {
        let ends = value.char_indices().map(|(at, character)| (at + character.len_utf8(), character));
        run(&self.0, ends, 0, longest)
    }

    /// Where the shortest or longest match at the end of the value starts, in bytes.
    pub fn suffix(&self, value: &str, longest: bool) -> Option<usize> {
        let tokens: Vec<Token> = self.0.iter().rev().copied().collect();
        run(&tokens, value.char_indices().rev(), value.len(), longest)
    }

    /// The value with the first match, or every one, replaced; matches are as long as they can be.
    pub fn replace(&self, value: &str, replacement: &str, everywhere: bool) -> String {
        let mut text = String::new();
        let mut at = 0;
        let mut after_match = false; // where one match ends, no empty one begins
        while at <= value.len() {
            let length = self.prefix(&value[at..], true).filter(|length| *length > 0 || !after_match);
            after_match = length.is_some_and(|length| length > 0);
            if let Some(length) = length {
                text.push_str(replacement);
                at += length;
                if !everywhere {
                    break;
                }
                if length > 0 {
                    continue;
                }
            }
            match value[at..].chars().next() {
                Some(character) => {
                    text.push(character);
                    at += character.len_utf8();
                }
                None => break,
            }
        }
        text.push_str(value.get(at..).unwrap_or_default());
        text
    }
}

/// Feeds characters to the tokens, keeping every state that is still possible; gives the position
/// after the first or the last character at which all tokens are used up.
fn run(
    tokens: &[Token],
    characters: impl Iterator<Item = (usize, char)>,
    start: usize,
    longest: bool,
) -> Option<usize> {
    let mut states = vec![false; tokens.len() + 1];
    states[0] = true;
    skip_runs(tokens, &mut states);
    let mut found = states[tokens.len()].then_some(start);
    for (position, character) in characters {
        if found.is_some() && !longest {
            break;
        }
        let mut next = vec![false; tokens.len() + 1];
        for (state, token) in tokens.iter().enumerate().filter(|(state, _)| states[*state]) {
            match token {
                Token::Literal(literal) => next[state + 1] |= *literal == character,
                Token::Any => next[state + 1] |= character != '\n',
                Token::Run => next[state] |= character != '\n',
            }
        }
        skip_runs(tokens, &mut next);
        if next[tokens.len()] {
            found = Some(position);
        }
        states = next;
    }
    found
}

/// A run may be empty: whoever stands before it stands behind it too.
fn skip_runs(tokens: &[Token], states: &mut [bool]) {
    for (state, token) in tokens.iter().enumerate() {
        if states[state] && *token == Token::Run {
            states[state + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_suffixes() {
        for (pattern, value, longest, prefix, suffix) in [
            ("*", "xxyy", false, Some(0), Some(4)),
            ("*", "xxyy", true, Some(4), Some(0)),
            ("*x", "xxyy", false, Some(1), None),
            ("*x", "xxyy", true, Some(2), None),
            ("", "xxyy", true, Some(0), Some(4)),
            ("?\\?", "???", false, Some(2), Some(1)),
            ("y", "xxyy", false, None, Some(3)),
            ("é*", "éa", true, Some(3), Some(0)),
            ("a*", "a\nb", true, Some(1), None),
        ] {
            let parsed = Pattern::new(pattern).unwrap();
            assert_eq!(parsed.prefix(value, longest), prefix, "prefix {pattern} of {value}");
            assert_eq!(parsed.suffix(value, longest), suffix, "suffix {pattern} of {value}");
        }
        for bad in ["\\", "\\x", "a\\"] {
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn replaces_once_or_everywhere() {
        for (pattern, replacement, everywhere, result) in [
            ("/", ".", false, ".tmp/a"),
            ("/", ".", true, ".tmp.a"),
            ("", "-", false, "-/tmp/a"),
            ("", "-", true, "-/-t-m-p-/-a-"),
            ("*", "x", true, "x"),
            ("zz", "x", true, "/tmp/a"),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().replace("/tmp/a", replacement, everywhere), result, "{pattern}");
        }
    }
}
