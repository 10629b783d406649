//! RUN: scripts over what is there, and their mounts.

use super::Writer;

impl Writer {
    pub(super) fn run(&mut self) {
        let mounts = if self.choose.chance(22) { self.mounts() } else { String::new() };
        let count = 1 + self.choose.below(5);
        let mut lines: Vec<String> = (0..count).map(|_| self.line()).collect();
        if !mounts.is_empty() {
            lines.push(self.look("/m"));
        }
        // What fails is no difference.
        lines.push("true".to_owned());
        let text = match self.choose.below(10) {
            0 => format!(
                "RUN{mounts} [\"sh\", \"-c\", \"{}\"]",
                lines.join("; ").replace('\\', "\\\\").replace('"', "\\\"")
            ),
            1 => format!("RUN{mounts} <<E\n{}\nE", lines.join("\n")),
            2 => format!("RUN{mounts} <<-'E' sh -x\n\t{}\nE", lines.join("\n\t")),
            3 => format!("RUN{mounts} {}", lines.join(&format!("; {}\n  ", self.escape))),
            _ => format!("RUN{mounts} {}", lines.join("; ")),
        };
        self.say(&text);
    }

    /// A path for a script; nothing that the script itself needs.
    fn path(&mut self) -> String {
        let tree = self.stage().tree.clone();
        let known = self.choose.of(&tree);
        let known = known.trim_end_matches(['/', '@']);
        let fresh = self.choose.one(&["n", "o", "o/p", "q/r", "srv", "a", "a/b", "etc/x", "tmp/t", "home/app"]);
        let path = if known.is_empty() || self.choose.chance(40) { fresh } else { known };
        let first = path.split('/').next().unwrap_or_default();
        // What is mounted over a step's own files has times of its own, so /etc is not moved as a whole.
        let path = if ["bin", "dev", "proc", "sys", ""].contains(&first) || path == "etc" { fresh } else { path };
        let slash = if self.choose.chance(90) { "/" } else { "" };
        if path.contains([' ', '[']) { format!("'{slash}{path}'") } else { format!("{slash}{path}") }
    }

    /// One command; what it makes is noted.
    fn line(&mut self) -> String {
        let (path, other) = (self.path(), self.path());
        let mode = self.choose.one(&["600", "755", "4755", "1777", "700", "2755", "0", "u+x", "go-rwx"]);
        let owner = self.choose.one(&["0:0", "5:6", "app", "app:staff", "7"]);
        let number = self.choose.below(9);
        let mut made = None;
        let text = match self.choose.below(37) {
            0 | 1 => {
                made = Some(path.clone());
                format!("echo {number} > {path}")
            }
            2 => format!("echo {number} >> {path}"),
            3..=5 => format!("rm -rf {path}"),
            6 | 7 => {
                made = Some(format!("{path}/"));
                format!("mkdir -p {path}")
            }
            8 => format!("mkdir {path}"),
            9 => format!("chmod {mode} {path}"),
            10 => format!("chmod -R {mode} {path}"),
            11 => format!("chown {owner} {path}"),
            12 => format!("chown -R {owner} {path}"),
            13 => format!("chown -h {owner} {path}"),
            14 | 15 => format!("ln -s {} {path}", self.target().replace(' ', "_")),
            16 => format!("ln -sfn {} {path}", self.target().replace(' ', "_")),
            17..=19 => format!("mv {path} {other}"),
            20 => format!("mv -T {path} {other}"),
            21 => format!("cp -a {path} {other}"),
            22 => format!("cp -r {path} {other}"),
            23 => format!("touch -d @100000000{number} {path}"),
            24 => format!("touch {path}"),
            25 => {
                made = Some(format!("{path}/"));
                format!("rm -rf {path}; mkdir -p {path}; echo {number} > {path}/x")
            }
            26 => format!("rm -rf {path}; echo {number} > {path}"),
            27 => format!("rm -rf {path}; ln -s {other} {path}"),
            28 => format!("rm -rf {path}/* {path}/.g"),
            29 => format!("mkdir -p {path}/k/l && mv {path} {other}"),
            30 => format!("mkfifo /fifo{number}"),
            31 => format!("mkdir -p /h && echo {number} > /h/{number} && ln /h/{number} /h/l{number}"),
            32 => format!("mv {path} /tmp/z; mkdir {path}; mv /tmp/z {path}/"),
            33 => format!("test ! -f {path} || ln {path} {other}.l"),
            34 => format!("test ! -f {path} || ln -f {path} {other}"),
            _ => self.look(&path),
        };
        let plain = |path: &String| path.starts_with('/');
        made.filter(plain).into_iter().for_each(|path| self.grow(path.trim_start_matches('/').to_owned()));
        text
    }

    /// Writes down what a step sees.
    fn look(&mut self, path: &str) -> String {
        let forms = [
            "stat -c '%a %u %g %h %F %N' P >> /seen",
            "ls -a P >> /seen",
            "cat P >> /seen",
            "readlink -f P >> /seen",
            "id >> /seen; pwd >> /seen; umask >> /seen",
            "find P | sort >> /seen",
            "env | grep -v -e OTEL -e TRACE | sort >> /seen",
            "echo $a ${b} \"$c\" '$a' \\$p >> /seen",
        ];
        self.choose.one(&forms).replace('P', path)
    }

    fn mounts(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..=self.choose.below(2) {
            let known = self.path();
            let known = known.trim_matches('\'').replace([' ', 'é'], "_");
            let target = self.choose.one(&["/m", "/m", "/m/n", "m", "/srv/m", "/x/y/z", "K"]).replace('K', &known);
            let number = self.stages.len();
            let more = self.choose.one(&["", "", ",rw", ",ro"]);
            let mount = match self.choose.below(6) {
                0 => format!("type=tmpfs,target={target}"),
                1 => {
                    let more = self.choose.one(&["", ",mode=0700", ",uid=500,gid=501", ",sharing=locked"]);
                    format!("type=cache,id=c{number},target={target}{more}")
                }
                2 | 3 => {
                    let source = self.choose.of(&self.context.clone());
                    let source = source.trim_end_matches(['/', '@']);
                    let source = if source.contains([' ', 'é']) { "" } else { source };
                    format!("type=bind,source={}{source},target={target}{more}", self.choose.one(&["", "/", "./"]))
                }
                _ => {
                    let (from, tree) = self.source_stage(false);
                    let source = self.choose.of(&tree);
                    let source = source.trim_end_matches(['/', '@']);
                    let source = if source.contains([' ', 'é']) { "" } else { source };
                    format!("type=bind,from={from},source=/{source},target={target}{more}")
                }
            };
            text += &format!(" --mount={mount}");
        }
        text
    }
}
