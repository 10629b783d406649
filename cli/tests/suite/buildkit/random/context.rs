//! The files of a context, and which of them are ignored.

use super::{Theme, Writer};

const NAMES: [&str; 16] = ["a", "b", "c", "d", "a", "b", "c", "d", "e.txt", "f.md", ".g", "A", "ab", "x y", "é", "[b]"];

impl Writer {
    pub(super) fn fill_context(&mut self) {
        if self.theme == Theme::Words {
            return;
        }
        for _ in 0..5 + self.choose.below(10) {
            let path = self.fresh();
            let is_taken = |other: &String| other.trim_end_matches(['/', '@']) == path;
            if !self.context.iter().any(is_taken) {
                self.file(path);
            }
        }
        if self.choose.chance(30) {
            self.ignore();
        }
    }

    /// A name in one of the directories.
    fn fresh(&mut self) -> String {
        let directories: Vec<String> = self.context.iter().filter(|path| path.ends_with('/')).cloned().collect();
        let parent = if self.choose.chance(65) { self.choose.of(&directories) } else { String::new() };
        parent + self.choose.one(&NAMES)
    }

    fn file(&mut self, path: String) {
        let files: Vec<String> = self.context.iter().filter(|path| !path.ends_with(['/', '@'])).cloned().collect();
        let (path, block) = match self.choose.below(20) {
            0..=9 => {
                let mode = self.choose.one(&["", "", "", " 755", " 4755", " 600", " 2711"]);
                (path.clone(), format!("--- {path}{mode}\n{path} {}\n", self.choose.below(3)))
            }
            10..=14 => {
                let mode = self.choose.one(&["", "", "", " 700", " 1777", " 2755"]);
                (format!("{path}/"), format!("--- {path}/{mode}\n"))
            }
            15..=17 => {
                let target = self.target();
                (format!("{path}@"), format!("--- {path} -> {target}\n"))
            }
            18 if self.theme == Theme::Copies && !files.is_empty() => {
                (path.clone(), format!("--- {path} => {}\n", self.choose.of(&files)))
            }
            _ => (format!("{path}.tar"), format!("--- {path}.tar (tar)\n{}", self.entries())),
        };
        self.context.push(path);
        self.files.push(block);
    }

    /// Where a link leads to.
    pub(super) fn target(&mut self) -> String {
        let name = self.choose.one(&NAMES);
        let form = self.choose.one(&[
            "N",
            "N",
            "./N",
            "../N",
            "/N",
            "N/",
            "a/N",
            "..",
            ".",
            "nowhere",
            "../../../N",
            "/etc/N",
        ]);
        form.replace('N', name)
    }

    /// What a tar holds; several entries may have one name.
    fn entries(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..1 + self.choose.below(6) {
            let directory = self.choose.one(&["", "", "a/", "b/", "a/b/", "./", "srv/"]);
            let path = format!("{directory}{}", self.choose.one(&["a", "b", "c", "d"]));
            let (mode, owner) = (self.choose.one(&["0644", "0755", "4711", "0700"]), self.choose.one(&["0:0", "7:8"]));
            let entry = match self.choose.below(10) {
                0..=4 => format!("file {mode} {owner} {path}"),
                5..=7 => format!("dir {mode} {owner} {path}"),
                _ => format!(
                    "symlink {mode} {owner} {path} -> {}",
                    self.choose.one(&["a", "b", "..", "/srv", "/a/b", "no"])
                ),
            };
            text += &format!("{entry}\n");
        }
        text
    }

    fn ignore(&mut self) {
        let mut text = String::new();
        if self.choose.chance(30) {
            text += self.choose.one(&["*\n", "**\n", "**/*\n", "*/*\n"]);
        }
        for _ in 0..1 + self.choose.below(4) {
            let path = self.choose.of(&self.context.clone());
            let path = path.trim_end_matches(['/', '@']);
            let name = path.rsplit('/').next().unwrap_or_default();
            let form = self.choose.one(&[
                "P", "P", "P", "P/", "/P", "!P", "!P", "!P", "!P/", "**/N", "*/N", "P/**", "P/*", "!P/**", "!**/N",
                "!*.md", "*.txt", "?", "[a-c]", "./P", "P/../a", " P ", "# P", "", "**/a/b", "a/**/b", "a*", "!a*",
                "!a/b/c", "! P",
            ]);
            text += &format!("{}\n", form.replace('P', path).replace('N', name));
        }
        // Where a pattern behind an exception takes a directory away again, BuildKit copies empty files.
        let (exceptions, patterns): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('!'));
        let text: String = patterns.into_iter().chain(exceptions).map(|line| format!("{line}\n")).collect();
        let place = self.choose.one(&[".dockerignore", ".dockerignore", "@dockerfile/Dockerfile.dockerignore"]);
        self.files.push(format!("--- {place}\n{text}"));
    }
}
