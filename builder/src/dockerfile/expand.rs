//! Word expansion: quotes, escapes and `${…}` of Dockerfile words.
//!
//! A small dialect of the POSIX shell, as BuildKit reads it: no commands, no arithmetic, no splitting
//! by IFS. Values come from a lookup that the caller gives; which variables are visible where is the
//! business of `plan`.

use std::iter::Peekable;
use std::str::Chars;

use super::pattern::{InvalidPattern, Pattern};

/// How deep `${a:-${b:-…}}` may be nested.
const DEPTH_LIMIT: usize = 100;
/// Longest result of one expansion, in bytes; the kernel takes no longer argument than 128 KiB.
const RESULT_LIMIT: usize = 1 << 20;

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A quote is never closed.
    #[error("a {0} quote is never closed")]
    Quote(&'static str),
    /// A `${` is never closed.
    #[error("`${{` is never closed by `}}`")]
    Brace,
    /// A `${x/pattern` has no second `/`.
    #[error("`${{name/pattern/replacement}}` needs its second `/`")]
    Slash,
    /// `${}`, `${{` or `${:`.
    #[error("`${{` is followed by no name")]
    Name,
    /// A modifier that does not exist.
    #[error("unsupported modifier `{0}` in `${{…}}`; there are :- - :+ + :? ? # ## % %% / and //")]
    Modifier(String),
    /// `${x?message}` of an unset or empty variable.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What its author wants to be said.
        message: String,
    },
    /// A pattern after `#`, `%` or `/`.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// Nested beyond reason.
    #[error("`${{…}}` is nested more than {DEPTH_LIMIT} deep")]
    Depth,
    /// Longer than reason.
    #[error("the expansion is longer than {RESULT_LIMIT} bytes")]
    Length,
}

/// Looks a variable up; `None` where it is not set at all.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// How to read a word. Start from [`Style::new`] and change what differs.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// The escape character of the Dockerfile, `\` or `` ` ``.
    pub escape: char,
    /// Quotes are ordinary characters (heredoc bodies).
    pub plain_quotes: bool,
    /// Quotes stay in the result.
    pub keep_quotes: bool,
    /// Escapes stay in the result.
    pub keep_escapes: bool,
    /// References to unset variables stay as they are written.
    pub keep_unset: bool,
}

impl Style {
    /// The usual style: quotes and escapes are taken away, unset variables are empty.
    pub fn new(escape: char) -> Self {
        Self { escape, plain_quotes: false, keep_quotes: false, keep_escapes: false, keep_unset: false }
    }

    /// The style of a heredoc's body.
    pub fn heredoc() -> Self {
        Self { plain_quotes: true, ..Self::new('\\') }
    }

    /// Expands to one single word; spaces stay.
    pub fn word(self, text: &str, lookup: &Lookup<'_>) -> Result<String, Invalid> {
        self.expand(text, lookup).map(|done| done.text)
    }

    /// Expands and splits at spaces that are neither quoted nor escaped.
    pub fn words(self, text: &str, lookup: &Lookup<'_>) -> Result<Vec<String>, Invalid> {
        self.expand(text, lookup).map(|done| done.words)
    }

    fn expand(self, text: &str, lookup: &Lookup<'_>) -> Result<Expanded, Invalid> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text); // BuildKit's reader takes it for that of a file
        let mut reader = Reader { rest: text.chars().peekable(), style: self, lookup, depth: 0 };
        reader.until(None, self.keep_escapes)
    }
}

/// The result twice: as one text, and split into words.
#[derive(Default)]
struct Expanded {
    text: String,
    words: Vec<String>,
    word: String,
}

impl Expanded {
    /// A character that splits words where it is a space.
    fn push(&mut self, character: char) {
        self.text.push(character);
        if !character.is_whitespace() {
            self.word.push(character);
        } else if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    /// A character that was escaped, so it belongs to the word in any case.
    fn push_raw(&mut self, character: char) {
        self.text.push(character);
        self.word.push(character);
    }

    fn push_str(&mut self, text: &str) {
        text.chars().for_each(|character| self.push(character));
    }

    fn push_raw_str(&mut self, text: &str) {
        self.text.push_str(text);
        self.word.push_str(text);
    }

    fn finish(mut self) -> Self {
        if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
        self
    }
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    style: Style,
    lookup: &'a Lookup<'a>,
    depth: usize,
}

impl Reader<'_> {
    /// Reads to the end, or past the given closing character.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<Expanded, Invalid> {
        let mut done = Expanded::default();
        while let Some(&next) = self.rest.peek() {
            if Some(next) == stop {
                self.rest.next();
                return Ok(done.finish());
            }
            match next {
                '$' => done.push_str(&self.dollar(keep_escapes)?),
                '\'' if !self.style.plain_quotes => done.push_raw_str(&self.single_quoted()?),
                '"' if !self.style.plain_quotes => done.push_raw_str(&self.double_quoted(keep_escapes)?),
                _ => self.plain(keep_escapes, &mut done),
            }
            if done.text.len() > RESULT_LIMIT {
                return Err(Invalid::Length);
            }
        }
        match stop {
            None => Ok(done.finish()),
            Some('/') => Err(Invalid::Slash),
            Some(_) => Err(Invalid::Brace),
        }
    }

    fn plain(&mut self, keep_escapes: bool, done: &mut Expanded) {
        let Some(character) = self.rest.next() else { return };
        if character != self.style.escape {
            return done.push(character);
        }
        if keep_escapes {
            done.push_raw(character);
        }
        if let Some(escaped) = self.rest.next() {
            done.push_raw(escaped);
        }
    }

    fn single_quoted(&mut self) -> Result<String, Invalid> {
        let mut text = String::new();
        self.rest.next();
        loop {
            match self.rest.next() {
                None => return Err(Invalid::Quote("single")),
                Some('\'') => break,
                Some(character) => text.push(character),
            }
        }
        Ok(if self.style.keep_quotes { format!("'{text}'") } else { text })
    }

    fn double_quoted(&mut self, keep_escapes: bool) -> Result<String, Invalid> {
        let mut text = String::new();
        self.rest.next();
        loop {
            match self.rest.peek().copied() {
                None => return Err(Invalid::Quote("double")),
                Some('"') => break,
                Some('$') => text.push_str(&self.dollar(keep_escapes)?),
                Some(character) => {
                    self.rest.next();
                    if character == self.style.escape {
                        self.escaped_in_quotes(keep_escapes, &mut text);
                    } else {
                        text.push(character);
                    }
                }
            }
        }
        self.rest.next();
        Ok(if self.style.keep_quotes { format!("\"{text}\"") } else { text })
    }

    /// Between double quotes only the quote, the dollar and the escape itself can be escaped.
    fn escaped_in_quotes(&mut self, keep_escapes: bool, text: &mut String) {
        let escape = self.style.escape;
        if keep_escapes {
            text.push(escape);
        }
        match self.rest.peek().copied() {
            None => {}
            Some(next) if next == '"' || next == '$' || next == escape => {
                self.rest.next();
                text.push(next);
            }
            Some(_) => text.push(escape),
        }
    }

    fn dollar(&mut self, keep_escapes: bool) -> Result<String, Invalid> {
        self.rest.next();
        if self.rest.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match (self.lookup)(&name) {
                None if self.style.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.rest.next();
        self.depth += 1;
        if self.depth > DEPTH_LIMIT {
            return Err(Invalid::Depth);
        }
        let text = self.braced(keep_escapes);
        self.depth -= 1;
        text
    }

    /// What stands after `${`.
    fn braced(&mut self, keep_escapes: bool) -> Result<String, Invalid> {
        match self.rest.peek() {
            None => return Err(Invalid::Brace),
            Some('{' | '}' | ':') => return Err(Invalid::Name),
            Some(_) => {}
        }
        let name = self.name();
        let value = (self.lookup)(&name);
        let kept = self.style.keep_unset && value.is_none();
        match self.rest.next() {
            None => Err(Invalid::Brace),
            Some('}') if kept => Ok(format!("${{{name}}}")),
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => match self.rest.next() {
                Some(modifier @ ('-' | '+' | '?')) => {
                    let word = self.until(Some('}'), keep_escapes && kept)?.text;
                    if kept {
                        return Ok(format!("${{{name}:{modifier}{word}}}"));
                    }
                    choose(modifier, &name, value, true, word)
                }
                Some(other) => Err(Invalid::Modifier(format!(":{other}"))),
                None => Err(Invalid::Brace),
            },
            Some(modifier @ ('-' | '+' | '?')) => {
                let word = self.until(Some('}'), keep_escapes && kept)?.text;
                if kept {
                    return Ok(format!("${{{name}{modifier}{word}}}"));
                }
                choose(modifier, &name, value, false, word)
            }
            Some(modifier @ ('#' | '%')) => {
                let word = self.until(Some('}'), true)?.text;
                if kept {
                    return Ok(format!("${{{name}{modifier}{word}}}"));
                }
                trim(modifier, &value.unwrap_or_default(), &word)
            }
            Some('/') => self.replace(&name, value, kept),
            Some(other) => Err(Invalid::Modifier(other.to_string())),
        }
    }

    /// `${x/pattern/replacement}` and `${x//pattern/replacement}`, after the first slash.
    fn replace(&mut self, name: &str, value: Option<String>, kept: bool) -> Result<String, Invalid> {
        let everywhere = self.rest.next_if_eq(&'/').is_some();
        let pattern = self.until(Some('/'), true)?.text;
        let replacement = self.until(Some('}'), true)?.text;
        if kept {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        let replaced = Pattern::new(&pattern)?.replace(&value, &replacement, everywhere);
        if replaced.len() > RESULT_LIMIT { Err(Invalid::Length) } else { Ok(replaced) }
    }

    /// A name, a number, or one of the special parameters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(&character) = self.rest.peek() {
            if name.is_empty() {
                if character.is_numeric() {
                    while let Some(digit) = self.rest.next_if(|next| next.is_numeric()) {
                        name.push(digit);
                    }
                    return name;
                }
                if "@*#?-$!0".contains(character) {
                    self.rest.next();
                    return character.to_string();
                }
            }
            if !character.is_alphanumeric() && character != '_' {
                break;
            }
            name.push(character);
            self.rest.next();
        }
        name
    }
}

/// `-`, `+` and `?`: which of value and word it is.
fn choose(
    modifier: char,
    name: &str,
    value: Option<String>,
    empty_is_unset: bool,
    word: String,
) -> Result<String, Invalid> {
    let was_set = value.is_some();
    let value = value.filter(|value| !(empty_is_unset && value.is_empty()));
    match (modifier, value) {
        ('-', Some(value)) | ('?', Some(value)) => Ok(value),
        ('-', None) | ('+', Some(_)) => Ok(word),
        ('?', None) => {
            let usual = if was_set { "is not allowed to be empty" } else { "is not allowed to be unset" };
            let message = if word.is_empty() { usual.to_owned() } else { word };
            Err(Invalid::Required { name: name.to_owned(), message })
        }
        _ => Ok(String::new()),
    }
}

/// `#`, `##`, `%` and `%%`: the value without what the pattern matches at its start or end.
fn trim(modifier: char, value: &str, word: &str) -> Result<String, Invalid> {
    let (word, longest) = match word.strip_prefix(modifier) {
        Some(rest) => (rest, true),
        None => (word, false),
    };
    let pattern = Pattern::new(word)?;
    Ok(match modifier {
        '#' => value[pattern.prefix(value, longest).unwrap_or(0)..].to_owned(),
        _ => value[..pattern.suffix(value, longest).unwrap_or(value.len())].to_owned(),
    })
}

#[cfg(test)]
#[path = "expand_tests.rs"]
mod tests;
