//! Dockerfiles that nobody wrote: a seed gives one, with its context and the flags it is built with, and the same for
//! ever. They are blocks of a table, so one that shows a difference can be put into a table as it is.
//!
//! What is generated should build, or there is little to compare: [`Writer`] keeps a rough picture of what the context
//! and the stages hold, and takes most paths from there. Output of programs in an order that file systems choose cannot
//! be compared, and is not made.

mod context;
mod paths;
mod script;
mod words;

use super::choice::Choice;

/// What a Dockerfile is mostly about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Theme {
    /// Variables and the config; nothing is copied.
    Words,
    /// COPY and ADD.
    Copies,
    /// RUN over what was there.
    Runs,
}

/// What a stage holds, roughly.
#[derive(Clone, Default)]
struct Stage {
    name: String,
    /// Paths without a slash in front; those of directories end in one.
    tree: Vec<String>,
    /// Whether it has a shell.
    runs: bool,
    /// Whether `/etc/passwd` has names.
    names: bool,
}

struct Writer {
    choose: Choice,
    theme: Theme,
    /// What ends a line that goes on.
    escape: char,
    lines: Vec<String>,
    flags: Vec<String>,
    /// Files of the context, as in `Stage::tree`.
    context: Vec<String>,
    /// The same as blocks of a table.
    files: Vec<String>,
    stages: Vec<Stage>,
}

/// The block of a table that a seed gives.
pub fn block(seed: u64) -> String {
    let mut choose = Choice::new(seed);
    let theme = choose.one(&[Theme::Words, Theme::Copies, Theme::Copies, Theme::Copies, Theme::Runs, Theme::Runs]);
    let mut writer = Writer {
        choose,
        theme,
        escape: '\\',
        lines: Vec::new(),
        flags: Vec::new(),
        context: Vec::new(),
        files: Vec::new(),
        stages: Vec::new(),
    };
    writer.write();
    let flags: String = writer.flags.iter().map(|flag| format!(" {flag}")).collect();
    let files = writer.files.concat();
    format!("\n=== random-{seed}{flags}\n{}\n{files}", writer.lines.join("\n"))
}

impl Writer {
    fn write(&mut self) {
        if self.choose.chance(8) {
            self.escape = '`';
            self.lines.push("# escape=`".to_owned());
        }
        self.fill_context();
        if self.choose.chance(40) {
            let value = self.choose.one(&["plain", "scratch", "busybox", "a/b", "x"]);
            self.lines.push(format!("ARG G={value} H=${{G:-z}}"));
        }
        let count = 1 + self.choose.below(if self.theme == Theme::Words { 2 } else { 4 });
        for number in 0..count {
            self.begin_stage(number);
            for _ in 0..2 + self.choose.below(6) {
                self.instruction();
            }
        }
        self.choose_flags();
        // What BuildKit's client does not send is not there, even a directory before a wildcard that matches nothing.
        let is_below = |line: &String| ["/*", "/?", "/["].iter().any(|wildcard| line.contains(wildcard));
        if self.lines.iter().any(is_below) {
            self.lines.push("COPY . /all/".to_owned());
            self.flags.retain(|flag| !flag.starts_with("--target"));
        }
    }

    fn choose_flags(&mut self) {
        if self.choose.chance(20) {
            let (name, value) = (self.variable(), self.choose.one(&["given", "", "a.b.c", "/d", "$a"]));
            self.flags.push(format!("--build-arg {name}={value}"));
        }
        if self.choose.chance(5) {
            self.flags.push("--label l=given".to_owned());
        }
        if self.choose.chance(10) {
            let target = self.choose.of(&self.stages.clone()).name;
            self.flags.push(format!("--target {target}"));
        }
        let kinds: &[&str] = match self.theme {
            Theme::Words => &["--call=outline", "--call=targets", "", "", "", "", ""],
            _ => &["-o type=tar", "-o type=local", "", "", "", "", ""],
        };
        let kind = self.choose.one(kinds);
        self.flags.extend((!kind.is_empty()).then(|| kind.to_owned()));
    }

    fn begin_stage(&mut self, number: u64) {
        let name = self.choose.one(&["s", "s", "s", "t.u-", "S"]).to_owned() + &number.to_string();
        let earlier = self.choose.chance(35).then(|| self.choose.of(&self.stages.clone()));
        let (from, mut stage) = match earlier.filter(|stage| !stage.name.is_empty()) {
            Some(stage) if self.choose.chance(95) => (stage.name.to_lowercase(), stage),
            Some(stage) => (stage.name.clone(), stage),
            None => self.base(),
        };
        stage.name.clone_from(&name);
        let platform = if self.choose.chance(4) { "--platform=linux/amd64 " } else { "" };
        self.say(&format!("FROM {platform}{from} AS {name}"));
        if self.theme != Theme::Runs || self.choose.chance(50) {
            self.lines.push("ENV a=x b=a.b.a c= p=80".to_owned());
        }
        self.stages.push(stage);
    }

    fn base(&mut self) -> (String, Stage) {
        let bases: &[&str] = match self.theme {
            Theme::Runs => &["busybox"],
            Theme::Words => &["scratch", "plain", "full", "bare"],
            Theme::Copies => &["scratch", "scratch", "plain", "plain", "plain", "full", "busybox", "bare"],
        };
        let base = self.choose.one(bases);
        let tree: &[&str] = match base {
            "plain" => &[
                "abs", "etc/", "etc/motd", "gone", "link", "link/old", "loop", "srv/", "srv/old", "srv/sub/", "tofile",
            ],
            "full" => &["srv/", "srv/x"],
            "bare" => &["etc/", "etc/os"],
            "busybox" => &["etc/", "etc/group", "home/", "root/", "tmp/"],
            _ => &[],
        };
        let tree = tree.iter().map(|path| (*path).to_owned()).collect();
        let (runs, names) = (base == "busybox", ["plain", "busybox"].contains(&base));
        (base.to_owned(), Stage { name: String::new(), tree, runs, names })
    }

    /// The stage that is being written.
    fn stage(&mut self) -> &mut Stage {
        self.stages.last_mut().expect("a stage has begun")
    }

    fn instruction(&mut self) {
        let number = self.choose.below(100);
        let runs = self.stage().runs;
        match self.theme {
            Theme::Words => self.setting(),
            Theme::Copies if number < 72 => self.transfer(),
            Theme::Copies if number < 80 && runs => self.run(),
            Theme::Copies if number < 88 => self.workdir(),
            Theme::Runs if number < 60 => self.run(),
            Theme::Runs if number < 84 => self.transfer(),
            Theme::Runs if number < 92 => self.workdir(),
            Theme::Copies | Theme::Runs => self.setting(),
        }
    }

    /// An instruction that makes nothing but the config.
    fn setting(&mut self) {
        let word = self.word(2);
        let (name, other) = (self.variable(), self.variable());
        let text = match self.choose.below(26) {
            0..=5 => format!("ENV {name}={word}"),
            6 | 7 => format!("ENV {name}={word} {other}={}", self.word(2)),
            8 => format!("ENV {name} {word}"),
            9..=11 => format!("ARG {name}={word}"),
            12 => format!("ARG {name} {other}={word}"),
            13 | 14 => format!("LABEL {name}={word} \"k {other}\"={}", self.word(1)),
            15 => format!("LABEL {name} {word}"),
            16 => format!(
                "EXPOSE {}",
                self.choose.one(&["80", "$p", "80/udp 90-92", "${p}/tcp", "$p-${p:-9}", "8080:80"])
            ),
            17 => format!("VOLUME {}", self.choose.one(&["/v", "/v $a", "[\"/v\", \"w x\"]", "/srv", "${b}/$a"])),
            18 => format!("USER {}", self.owner(true)),
            19 => format!("CMD {}", self.command()),
            20 => format!("ENTRYPOINT {}", self.command()),
            21 => format!("SHELL {}", self.choose.one(&["[\"/bin/sh\", \"-c\"]", "[\"/bin/sh\",\"-ec\"]", "[\"sh\"]"])),
            22 => format!("HEALTHCHECK {}", self.health()),
            23 => format!(
                "STOPSIGNAL {}",
                self.choose.one(&["SIGTERM", "9", "$p", "SIG${a}", "SIGRTMIN+3", "${c:-KILL}"])
            ),
            24 => format!("MAINTAINER {word}"),
            _ => return self.workdir(),
        };
        if text.starts_with("SHELL") && self.theme == Theme::Runs {
            return;
        }
        let trigger = if self.choose.chance(4) { "ONBUILD " } else { "" };
        self.say(&format!("{trigger}{text}"));
    }

    fn command(&mut self) -> String {
        let forms =
            ["a b", "[\"a\", \"b c\"]", "[ \"$a\" ]", "echo $a ${b}", "[a]", "[\"a\",]", "[]", "\"a b\" 'c'", "['a']"];
        let form = self.choose.one(&forms).to_owned();
        if self.choose.chance(25) { self.word(1) } else { form }
    }

    fn health(&mut self) -> String {
        let mut text = String::new();
        for (name, values) in [
            ("interval", ["5s", "1m30s", "0s", "1.5h"]),
            ("timeout", ["3s", "200ms", "1h", "$a"]),
            ("start-period", ["0s", "1s", "2ms", "1us"]),
            ("retries", ["3", "0", "1", "05"]),
        ] {
            if self.choose.chance(40) {
                text += &format!("--{name}={} ", self.choose.one(&values));
            }
        }
        if self.choose.chance(15) { "NONE".to_owned() } else { text + "CMD " + &self.command() }
    }

    fn workdir(&mut self) {
        let path = self.destination();
        let path = path.trim_matches(['"', '\'']);
        let path = if path.is_empty() { "/w" } else { path };
        self.say(&format!("WORKDIR {path}"));
        let path = path.trim_matches('/');
        if path.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'/') && !path.is_empty() {
            self.grow(format!("{path}/"));
        }
    }

    /// Notes that the stage has a path now.
    fn grow(&mut self, path: String) {
        let tree = &mut self.stage().tree;
        if !tree.contains(&path) {
            tree.push(path);
        }
    }

    /// Writes an instruction in one of the ways in which it can be written.
    fn say(&mut self, text: &str) {
        let mut text = text.to_owned();
        if self.choose.chance(4) {
            let (name, rest) = text.split_once(' ').expect("an instruction has arguments");
            text = format!("{} {rest}", name.to_lowercase());
        }
        let is_here = text.contains("<<");
        if self.choose.chance(8) && !is_here {
            let blanks: Vec<usize> = text.match_indices(' ').map(|(at, _)| at).collect();
            let at = self.choose.of(&blanks);
            let between = self.choose.one(&["", "", "# a comment\n", "\n", "   # c\n", "  "]);
            text.replace_range(at..=at, &format!(" {}\n{between} ", self.escape));
        }
        if self.choose.chance(3) && !is_here {
            text += self.choose.one(&[" ", "\t", "  "]);
        }
        if self.choose.chance(3) {
            text.insert_str(0, self.choose.one(&["  ", "\t", "# a comment\n", "\n"]));
        }
        self.lines.push(text);
    }
}
