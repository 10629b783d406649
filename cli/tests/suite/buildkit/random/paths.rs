//! COPY and ADD: their flags, what they take, and where to.

use super::{Theme, Writer};

impl Writer {
    pub(super) fn transfer(&mut self) {
        let word = if self.choose.chance(75) { "COPY" } else { "ADD" };
        if self.choose.chance(5) {
            return self.here(word);
        }
        let from = (word == "COPY" && self.choose.chance(30)).then(|| self.source_stage(true));
        let (from, tree, rooted) = match from {
            Some((from, tree)) => (format!(" --from={from}"), tree, true),
            None => (String::new(), self.context.clone(), false),
        };
        let flags = from + &self.flags_of(word, &tree, rooted);
        let count = self.choose.one(&[1, 1, 1, 1, 2, 3]);
        let sources: Vec<String> = (0..count).map(|_| self.source(&tree)).collect();
        let mut destination = self.destination();
        if (count > 1 || sources[0].contains('*') || flags.contains("parents")) && self.choose.chance(95) {
            destination = destination.trim_end_matches('/').to_owned() + "/";
        }
        let trigger = if self.choose.chance(2) { "ONBUILD " } else { "" };
        let words = [sources.clone(), vec![destination.clone()]].concat();
        let needs_quotes = words.iter().any(|word| word.contains(' ') || word.is_empty());
        let text = if needs_quotes || self.choose.chance(6) {
            let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            format!("{trigger}{word}{flags} [{}]", quoted.join(", "))
        } else {
            format!("{trigger}{word}{flags} {}", words.join(" "))
        };
        self.say(&text);
        if trigger.is_empty() {
            sources.iter().for_each(|source| self.arrive(source, &destination, &tree));
        }
    }

    /// A stage or an image to copy from, as it may be named, and what it holds.
    pub(super) fn source_stage(&mut self, by_number: bool) -> (String, Vec<String>) {
        let earlier = self.stages.len() as u64 - 1;
        if earlier == 0 || self.choose.chance(10) {
            let base = self.choose.one(&["plain", "full", "bare"]);
            let paths: &[&str] = match base {
                "plain" => &["srv/", "srv/old", "srv/sub/", "etc/motd", "link@", "tofile@", "gone", "abs@", "etc/"],
                "full" => &["srv/", "srv/x"],
                _ => &["etc/", "etc/os"],
            };
            return (base.to_owned(), paths.iter().map(|path| (*path).to_owned()).collect());
        }
        let number = self.choose.below(earlier);
        let stage = self.stages[number as usize].clone();
        let name = if by_number && self.choose.chance(20) { number.to_string() } else { stage.name };
        (name, stage.tree)
    }

    fn flags_of(&mut self, word: &str, tree: &[String], rooted: bool) -> String {
        let mut flags = String::new();
        if self.choose.chance(18) {
            flags += &format!(" --chown={}", self.owner(false));
        }
        if self.choose.chance(18) {
            let modes = [
                "755",
                "0600",
                "4755",
                "2755",
                "1777",
                "u+x",
                "go=rX",
                "a-w",
                "u=rwX,go=rX",
                "+t",
                "g+s",
                "u=rw,g=u",
                "a=",
                "o-rwx",
                "777",
                "go-w+x",
                "$p",
                "00644",
                "u+s,g-r",
            ];
            flags += &format!(" --chmod={}", self.choose.one(&modes));
        }
        if self.choose.chance(10) {
            flags += self.choose.one(&[" --link", " --link", " --link=false"]);
        }
        // With patterns, BuildKit fails on links to nothing at the top.
        let has_links =
            tree.iter().any(|path| path.ends_with('@') || path == "gone") || (rooted && self.theme == Theme::Runs);
        if word == "COPY" && self.choose.chance(18) && !has_links {
            flags += " --parents";
        }
        if self.choose.chance(18) && !has_links {
            for _ in 0..=self.choose.below(2) {
                let path = self.choose.of(tree);
                let path = path.trim_end_matches(['/', '@']);
                let name = path.rsplit('/').next().unwrap_or_default();
                let form = self
                    .choose
                    .one(&["P", "N", "**/N", "*", "*.md", "!N", "P/", "/P", "*/N", "N/**", "a", "b/c", "**/*.txt"]);
                flags += &format!(" --exclude={}", form.replace('P', path).replace('N', name).replace([' ', 'é'], "?"));
            }
        }
        if word == "ADD" && self.choose.chance(15) {
            flags += self.choose.one(&[" --unpack=true", " --unpack=false", " --unpack"]);
        }
        flags
    }

    /// An owner; names only where there are names.
    pub(super) fn owner(&mut self, of_user: bool) -> &'static str {
        let numbers = ["0", "5", "5:6", "500:501", "0:0", "7:", "$p", "4000000000:1"];
        let names = ["app", "app:staff", "root", "root:5", "500:staff", "app:0", "app", "7:8"];
        let stage = self.stage();
        let has_names = stage.names && (!of_user || stage.runs);
        if has_names && self.choose.chance(60) { self.choose.one(&names) } else { self.choose.one(&numbers) }
    }

    /// Something to copy.
    fn source(&mut self, tree: &[String]) -> String {
        let path = self.choose.of(tree);
        let is_directory = path.ends_with('/');
        let path = path.trim_end_matches(['/', '@']).to_owned();
        if path.is_empty() || self.choose.chance(2) {
            return self.choose.one(&[".", "/", "missing", "*", "./"]).to_owned();
        }
        let (parent, name) = path.rsplit_once('/').map_or(("", &*path), |(parent, name)| (parent, name));
        let up = if parent.is_empty() { ".".to_owned() } else { parent.to_owned() };
        // A name with a bracket in it is a pattern if it stands alone.
        let plain = path.replace("[b]", "[[]b]");
        let forms: &[&str] = if is_directory {
            &["P", "P", "P/", "P/.", "P/*", "P/*", "/P", "./P/", "U", "P/..", "P/?", "P/*/*", "*", "P/../P", "P//", "."]
        } else {
            &[
                "P", "P", "P", "P", "/P", "./P", "P/", "P/.", "U/*", "U/?", "U/N*", "*", "U/[a-d]*", "../P", "U//N",
                "U/./N", "*/N", "U/x/../N",
            ]
        };
        self.choose.one(forms).replace('P', &plain).replace('U', &up).replace('N', &name.replace("[b]", "[[]b]"))
    }

    /// Where to copy to, or to work.
    pub(super) fn destination(&mut self) -> String {
        let tree = self.stage().tree.clone();
        let known = self.choose.of(&tree);
        let known = known.trim_end_matches(['/', '@']);
        let fresh = self.choose.one(&["n", "o/p", "q/r/s", "new", "a", "b/c", "d/e.txt"]);
        let path = if known.is_empty() || self.choose.chance(45) { fresh } else { known };
        let forms = [
            "/P", "/P", "/P", "/P/", "/P/", "/P/", "P", "P/", "/", "/", ".", "./", "./P", "../P", "/P/.", "/P/..",
            "/./P/", "/P/../P", "//P", "/P/n", "/P/n/", "/$a/P", "${b}", "/P/$c", "/srv", "/srv/", "/P//n/",
        ];
        self.choose.one(&forms).replace('P', path)
    }

    /// Notes roughly what a copy has made.
    fn arrive(&mut self, source: &str, destination: &str, tree: &[String]) {
        let plain = |text: &str| !text.contains(['*', '?', '$', '[']) && !text.contains("..");
        if !plain(source) || !plain(destination) {
            return;
        }
        let source = source.trim_start_matches(['.', '/']).trim_end_matches(['.', '/']);
        let to = destination.trim_start_matches(['.', '/']);
        let name = source.rsplit('/').next().unwrap_or_default();
        let below = format!("{source}/");
        let base = to.trim_end_matches(['.', '/']);
        if source.is_empty() || tree.contains(&below) {
            let below = if source.is_empty() { "" } else { &below };
            let rest: Vec<String> =
                tree.iter().filter_map(|path| path.strip_prefix(below)).map(str::to_owned).collect();
            rest.iter().filter(|rest| !rest.is_empty()).for_each(|rest| self.grow(join(base, rest)));
            self.grow(join(base, ""));
        } else if destination.ends_with(['/', '.']) {
            self.grow(join(base, name));
        } else {
            self.grow(base.to_owned());
        }
        self.stage().tree.retain(|path| !path.is_empty() && path != "/");
    }

    /// Files that stand in the Dockerfile.
    fn here(&mut self, word: &str) {
        let head = self.choose.one(&[
            "<<E /f",
            "<<-E /h/",
            "<<\"E\" /f",
            "<<E <<F /two/",
            "<<'E' n",
            "--chmod=600 <<E /f",
            "--chown=5:6 <<E /x/",
        ]);
        let body = self.choose.one(&[
            "x $a\n",
            "\ttab ${b#*.}\n",
            "",
            "a\n\nb\\\nc\n",
            "\"q\" 's' \\$a $$\n",
            "# no comment\n",
        ]);
        let second = if head.contains("<<F") { "two\nF\n" } else { "" };
        self.say(&format!("{word} {head}\n{body}E\n{second}"));
        let is_run = self.theme == Theme::Runs;
        self.grow(if is_run { "f".to_owned() } else { "two/".to_owned() });
    }
}

fn join(directory: &str, rest: &str) -> String {
    if directory.is_empty() { rest.to_owned() } else { format!("{directory}/{rest}") }
}
