//! Words with variables, quotes and escapes.

use super::Writer;

impl Writer {
    pub(super) fn variable(&mut self) -> &'static str {
        self.choose.one(&["a", "b", "c", "d", "p", "G", "H", "PATH", "TARGETARCH", "u"])
    }

    /// A word; `depth` is how deep variables may stand in variables.
    pub(super) fn word(&mut self, depth: u64) -> String {
        let count = 1 + self.choose.below(3);
        (0..count).map(|_| self.piece(depth)).collect()
    }

    fn piece(&mut self, depth: u64) -> String {
        if depth == 0 || self.choose.chance(35) {
            return self.literal();
        }
        match self.choose.below(10) {
            0 => format!("${}", self.variable()),
            1 => format!("\"{}\"", self.word(depth - 1).replace('"', "")),
            2 => format!("'{}'", self.word(depth - 1).replace('\'', "")),
            _ => self.braces(depth),
        }
    }

    fn literal(&mut self) -> String {
        let literals = [
            "x", "a.b", "a/b", "1", "-", "", "é", "a:b", "*", "'s t'", "\"d q\"", "\"\"", "''", "\\$a", "\\\"", "\\'",
            "\\\\", "\\x", "$$", "~", "#", "=", "\\ ", "\"'\"", "$1", "%", ",", "`", "}", "{", "\"\\$a\"", "'\\'", "$",
            "[x]", "?", "(",
        ];
        self.choose.one(&literals).to_owned()
    }

    fn braces(&mut self, depth: u64) -> String {
        let name = self.variable();
        let (word, other) = (self.word(depth - 1), self.word(depth - 1));
        let pattern = self.pattern();
        match self.choose.below(18) {
            0..=2 => format!("${{{name}}}"),
            3 | 4 => format!("${{{name}:-{word}}}"),
            5 => format!("${{{name}-{word}}}"),
            6 | 7 => format!("${{{name}:+{word}}}"),
            8 => format!("${{{name}+{word}}}"),
            9 => format!("${{{name}?{word}}}"),
            10 | 11 => format!("${{{name}#{pattern}}}"),
            12 => format!("${{{name}##{pattern}}}"),
            13 => format!("${{{name}%{pattern}}}"),
            14 => format!("${{{name}%%{pattern}}}"),
            15 => format!("${{{name}/{pattern}/{other}}}"),
            16 => format!("${{{name}//{pattern}/{other}}}"),
            _ => format!("${{{name}:-{word} {other}}}"),
        }
    }

    fn pattern(&mut self) -> String {
        let patterns = [
            "*", "?", "a*", "*.", "*.*", "x", "a", ".", "\\*", "[a]", "$a", "${c:-a}", "'a'", "\"a\"", "\\.", "", "*a",
            "\\/",
        ];
        let (one, other) = (self.choose.one(&patterns), self.choose.one(&patterns));
        if self.choose.chance(30) { format!("{one}{other}") } else { one.to_owned() }
    }
}
