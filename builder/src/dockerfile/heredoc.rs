//! Heredocs: `<<EOF`, `<<-EOF`, `<<"EOF"`, `3<<EOF`. Their bodies are collected by `lines`.

use super::expand::{Invalid, Style};

/// A document written into the Dockerfile itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it; also the file's name in COPY and ADD.
    pub name: String,
    /// The lines between, with their line ends.
    pub body: String,
    /// `<<-`: leading tabs do not count.
    pub strip_tabs: bool,
    /// Whether variables in it are expanded: not if any part of the word was quoted.
    pub expand: bool,
}

impl Heredoc {
    /// The body as it is meant: without leading tabs where `<<-` says so.
    pub fn text(&self) -> String {
        if !self.strip_tabs {
            return self.body.clone();
        }
        self.body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// Reads one word as the announcement of a heredoc; `None` if it is none.
pub(super) fn parse(word: &str) -> Result<Option<Heredoc>, Invalid> {
    let Some((descriptor, rest)) = word.split_once("<<") else { return Ok(None) };
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start();
    let is_number = descriptor.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let style = Style { keep_unset: true, ..Style::new('\\') };
    let unset = |_: &str| None;
    let mut plain = style.words(rest, &unset)?;
    let quoted = Style { keep_quotes: true, ..style }.words(rest, &unset)?;
    if plain.len() != 1 {
        return Ok(None);
    }
    let expand = quoted == plain;
    Ok(plain.pop().map(|name| Heredoc { name, body: String::new(), strip_tabs, expand }))
}

/// The heredocs that an instruction announces, in order, their bodies still empty.
///
/// Only RUN, COPY and ADD (also behind ONBUILD) have heredocs, and not in their JSON form.
pub(super) fn announced(line: &str, escape: char) -> Result<Vec<Heredoc>, Invalid> {
    if !line.contains("<<") || !can_have_heredocs(line, escape) {
        return Ok(Vec::new());
    }
    let style = Style { keep_quotes: true, keep_escapes: true, keep_unset: true, ..Style::new('\\') };
    let words = style.words(line, &|_: &str| None).unwrap_or_default(); // a broken quote is the shell's business
    join_operators(words).iter().filter_map(|word| parse(word).transpose()).collect()
}

/// `<< EOF` may be written with spaces: puts the operator and its word together.
fn join_operators(words: Vec<String>) -> Vec<String> {
    let is_operator = |word: &str| {
        let word = word.trim_start_matches(|character: char| character.is_ascii_digit());
        word == "<<" || word == "<<-"
    };
    let mut joined = Vec::with_capacity(words.len());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match is_operator(&word).then(|| words.next()).flatten() {
            Some(name) => joined.push(format!("{word} {name}")),
            None => joined.push(word),
        }
    }
    joined
}

fn can_have_heredocs(line: &str, escape: char) -> bool {
    let (mut name, mut rest) = super::words::split_name(line);
    while name.eq_ignore_ascii_case("onbuild") {
        (name, rest) = super::words::split_name(rest);
    }
    match name.to_ascii_lowercase().as_str() {
        "run" | "copy" | "add" => {
            let (_, arguments) = super::words::split_flags(rest, escape);
            super::words::json_array(arguments).is_none()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_announce_a_heredoc() {
        for word in ["<<EOF", "<<'EOF'", "<<\"EOF\"", "<<-EOF", "<<-'EOF'", "<<EO\"F\"", "<< EOF", "<<- EOF", "3<<EOF"]
        {
            assert_eq!(parse(word).unwrap().map(|heredoc| heredoc.name), Some("EOF".to_owned()), "{word}");
        }
        for word in ["", "EOF", "<<", "<<-", "<EOF", "<<<EOF", "<<EOF sh", "a<<EOF"] {
            assert_eq!(parse(word).unwrap(), None, "{word}");
        }
        for word in ["<<'EOF", "<<\"EOF", "<<EOF'", "<<EOF\""] {
            assert!(parse(word).is_err(), "{word}");
        }
    }

    #[test]
    fn quoting_any_part_stops_expansion() {
        for (word, name, expand) in [
            ("<<eo'f'", "eof", false),
            ("<<eo\\'f", "eo'f", true),
            ("<<'one two'", "one two", false),
            ("<<$EOF", "$EOF", true),
        ] {
            let heredoc = parse(word).unwrap().unwrap();
            assert_eq!((heredoc.name.as_str(), heredoc.expand), (name, expand), "{word}");
        }
    }

    #[test]
    fn lines_that_announce_heredocs() {
        for (line, names) in [
            ("RUN <<EOF <<EOF2", vec!["EOF", "EOF2"]),
            ("RUN <<- EOF", vec!["EOF"]),
            ("RUN << -EOF", vec!["-EOF"]),
            ("RUN 4<<EOF", vec!["EOF"]),
            ("ONBUILD RUN --mount=type=cache,target=/x <<EOF", vec!["EOF"]),
            ("RUN '<<EOF'", vec![]),
            ("RUN [\"<<EOF\"]", vec![]),
            ("USER <<EOF", vec![]),
            ("RUN cat <<<x", vec![]),
        ] {
            let found: Vec<String> = announced(line, '\\').unwrap().into_iter().map(|heredoc| heredoc.name).collect();
            assert_eq!(found, names, "{line}");
        }
    }
}
