//! What instructions are made of: their names, flags, paths, lists and stages.

use super::Edit;
use super::text::change_word;
use crate::buildkit::choice::Choice;

pub const EDITS: [Edit; 15] = [
    change_name,
    put_trigger,
    put_flag,
    put_flag,
    put_flag,
    change_flag,
    change_flag,
    to_list,
    change_list,
    change_list,
    change_path,
    change_path,
    change_from,
    change_stage,
    put_argument,
];

/// Changes one line that is said to be fit.
fn change_line(
    choose: &mut Choice,
    text: &str,
    is_fit: impl Fn(&str) -> bool,
    change: impl Fn(&mut Choice, &str) -> String,
) -> String {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let fit: Vec<usize> = (0..lines.len()).filter(|at| is_fit(&lines[*at])).collect();
    if !fit.is_empty() {
        let at = choose.one(&fit);
        lines[at] = format!("{}\n", change(choose, lines[at].trim_end_matches('\n')));
    }
    lines.concat()
}

fn is_instruction(line: &str) -> bool {
    line.chars().next().is_some_and(|first| first.is_ascii_uppercase()) && line.contains(' ')
}

fn is_of(names: &'static [&'static str]) -> impl Fn(&str) -> bool {
    move |line: &str| names.iter().any(|name| line.to_uppercase().trim_start().starts_with(&format!("{name} ")))
}

fn change_name(choose: &mut Choice, text: &str) -> String {
    change_line(choose, text, is_instruction, |choose, line| {
        let (_, rest) = line.split_once(' ').expect("it has a blank");
        let name = choose.one(&[
            "ADD",
            "ARG",
            "CMD",
            "COPY",
            "ENTRYPOINT",
            "ENV",
            "EXPOSE",
            "FROM",
            "HEALTHCHECK",
            "LABEL",
            "MAINTAINER",
            "ONBUILD",
            "RUN",
            "SHELL",
            "STOPSIGNAL",
            "USER",
            "VOLUME",
            "WORKDIR",
            "HEALTHCHECK CMD",
            "HEALTHCHECK NONE",
            "COPYY",
            "#",
            "run",
            "Env",
        ]);
        format!("{name} {rest}")
    })
}

fn put_trigger(choose: &mut Choice, text: &str) -> String {
    change_line(choose, text, is_instruction, |choose, line| {
        format!(
            "{}{line}",
            choose.one(&["ONBUILD ", "onbuild\t", "ONBUILD  ", "ONBUILD ONBUILD ", "ONBUILD --x ", "ONBUILD \\\n"])
        )
    })
}

/// Puts a flag behind the name of an instruction, or elsewhere.
fn put_flag(choose: &mut Choice, text: &str) -> String {
    change_line(choose, text, is_instruction, |choose, line| {
        let flag = choose.one(&[
            "--from=0",
            "--from=1",
            "--from=s0",
            "--from=S0",
            "--from=plain",
            "--from=",
            "--from",
            "--from=nowhere",
            "--from=$a",
            "--from=-1",
            "--from=scratch",
            "--from=context",
            "--from=9",
            "--chmod=755",
            "--chmod=0755",
            "--chmod=u+x",
            "--chmod=a=rwX,o-w",
            "--chmod=8",
            "--chmod=+x",
            "--chmod=",
            "--chmod",
            "--chmod=u+s,g-s",
            "--chmod=go=",
            "--chmod=-x",
            "--chmod=rwx",
            "--chmod=u=rw,g=u",
            "--chmod=99999",
            "--chmod=0o755",
            "--chmod=1777",
            "--chmod=4755",
            "--chmod=$a",
            "--chmod=u+x,",
            "--chmod=ugo+rwx",
            "--chmod=00755",
            "--chown=1",
            "--chown=1:2",
            "--chown=root",
            "--chown=root:root",
            "--chown=nobody:5",
            "--chown=",
            "--chown",
            "--chown=:2",
            "--chown=1:",
            "--chown=-1",
            "--chown=a:b:c",
            "--chown=4294967296",
            "--chown=$a:$b",
            "--chown=0x1",
            "--chown=01",
            "--link",
            "--link=true",
            "--link=false",
            "--link=1",
            "--link=TRUE",
            "--link=x",
            "--link=",
            "--parents",
            "--parents=false",
            "--parents=yes",
            "--exclude=a",
            "--exclude=*",
            "--exclude=!a",
            "--exclude=",
            "--exclude=[",
            "--exclude=**/a",
            "--exclude=$a",
            "--exclude",
            "--unpack",
            "--unpack=false",
            "--keep-git-dir",
            "--checksum=x",
            "--checksum=sha256:00",
            "--checksum=",
            "--platform=linux/amd64",
            "--platform=linux",
            "--platform=",
            "--platform=x/y",
            "--platform=$TARGETPLATFORM",
            "--platform=linux/arm64",
            "--platform",
            "--mount=type=tmpfs,target=/m",
            "--mount=x",
            "--mount=",
            "--mount",
            "--mount=type=bind,target=/m",
            "--mount=target=/m,from=nowhere",
            "--mount=type=cache,target=$a/c",
            "--mount=type=cache",
            "--mount=type=secret,id=x",
            "--mount=type=secret,id=x,required",
            "--mount=type=ssh",
            "--mount=type=bind,src=a,dst=/m",
            "--mount=type=tmpfs,target=/m,size=1k",
            "--mount=type=x,target=/m",
            "--mount=type=cache,target=/c,mode=x",
            "--network=none",
            "--network=host",
            "--network=default",
            "--network=x",
            "--network=",
            "--security=sandbox",
            "--security=x",
            "--interval=5s",
            "--interval=5",
            "--timeout=0",
            "--retries=-1",
            "--retries=x",
            "--start-period=1h",
            "--start-interval=1s",
            "--x",
            "--x=y",
            "--",
            "-",
            "--FROM=0",
            "--Chmod=1",
            "--link --link",
            "--chmod=1 --chmod=1",
            "--chown=\"1:2\"",
            "--chown='1'",
            "--chmod=\"75 5\"",
            "--chown=1\\:2",
            "--from=\"plain\"",
            "---",
            "--=",
            "--=x",
            "--from==x",
            "--device=x",
            "--secret=x",
        ]);
        let words: Vec<&str> = line.split(' ').collect();
        let at = if choose.chance(85) { 1 } else { choose.below(words.len() as u64 + 1) as usize };
        [&words[..at], &[flag], &words[at..]].concat().join(" ")
    })
}

/// Changes a flag that stands there.
fn change_flag(choose: &mut Choice, text: &str) -> String {
    change_line(
        choose,
        text,
        |line| is_instruction(line) && line.contains(" --"),
        |choose, line| {
            let (before, behind) = line.split_once(" --").expect("it has a flag");
            let (flag, rest) = behind.split_once(' ').unwrap_or((behind, ""));
            let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
            let form = choose.one(&[
                "--F",
                "--F=",
                "--F = V",
                "-F=V",
                "--F=V --F=V",
                "--F=\"V\"",
                "--F='V'",
                "--F=V,",
                "--F=V,x",
                "--F=V,x=y",
                "--F=,V",
                "--F=$V",
                "--F=V$a",
                "--F=V${a:-}",
                "--FF=V",
                "--f=V",
                "-- --F=V",
                "--F V",
                "\u{2014}F=V",
                "--F=V:1",
                "--F=V/../V",
                "--F=/V",
                "--F=v",
                "--F=!V",
                "--F=0",
                "--F=V,ro",
                "--F=V,rw",
                "--F=V,from=0",
                "--F=V,source=a",
                "--F=V,target=x",
                "--F=V,readonly=false",
                "--F=V,\"x=a,b\"",
                "--F= V",
                "--F=V,uid=1,mode=0",
                "--F=V,id=x",
                "--F=V,required=true",
                "--F=V,sharing=x",
                "--F=V,type=tmpfs",
                "--F=V,env=E",
                "--F=V,size=1m",
                "--F=V=V",
                "--F=V\\",
            ]);
            let form = match form {
                "--f=V" => format!("--{}={value}", name.to_uppercase()),
                "--F=v" => format!("--{name}={}", value.to_uppercase()),
                form => form.replace('V', "\u{1}").replace('F', name).replace('\u{1}', value),
            };
            format!("{before} {form} {rest}")
        },
    )
}

/// Makes a JSON list of what is none.
fn to_list(choose: &mut Choice, text: &str) -> String {
    change_line(choose, text, is_instruction, |choose, line| {
        let (name, rest) = line.split_once(' ').expect("it has a blank");
        let words: Vec<String> = rest.split_whitespace().map(|word| format!("{word:?}")).collect();
        format!("{name} [{}]", words.join(choose.one(&[", ", ",", " , ", " ", ",\t"])))
    })
}

fn change_list(choose: &mut Choice, text: &str) -> String {
    change_line(
        choose,
        text,
        |line| is_instruction(line) && line.contains('['),
        |choose, line| {
            let (before, list) = line.split_once('[').expect("it has a bracket");
            match choose.below(14) {
                0 => format!("{before}[{}", list.replace(']', "")),
                1 => format!("{before}{list}"),
                2 => format!("{before}[{}", list.replace('"', "'")),
                3 => format!("{before}[{} x", list),
                4 => format!("{before}[1, {list}"),
                5 => format!("{before}[{}", list.replace(']', ",]")),
                6 => format!("{before}[{}", list.replacen('"', "\"\\u0041\\n\\t\\/", 1)),
                7 => format!("{before}[{}", list.replacen('"', "\"\\x", 1)),
                8 => format!("{before}[{}", list.replacen('"', "\"$a \\\\", 1)),
                9 => format!("{before}[null, {list}"),
                10 => format!("{before}[[{list}]"),
                11 => format!("{before}[\"\", {list}"),
                12 => format!("{before}[{}", list.replacen('"', "\"\\ud800", 1)),
                _ => format!("{before}[{}", list.replacen(',', "", 1)),
            }
        },
    )
}

/// Changes the last word of a line, which is often where something goes.
fn change_path(choose: &mut Choice, text: &str) -> String {
    change_line(choose, text, is_of(&["COPY", "ADD", "WORKDIR", "VOLUME"]), |choose, line| {
        let (before, path) = line.rsplit_once(' ').expect("it has a blank");
        let form = choose.one(&[
            ".", "./", "..", "../", "/", "//", "P/", "/P", "P/.", "P/..", "./P", "../P", "../../P", "P//x", "P/../x",
            "$a/P", "P/$b", "${c}", "~/P", "P*", "C:\\P", "\"P\"", "'P'", "P\\", "\\P", "P\\ x", "P /", "/P /P", "P P",
            "", "*", "[P]", "P/./x/", "é/P", "P?", "...", "<<P", "-", "--P", "$HOME/P",
        ]);
        format!("{before} {}", form.replace('P', path))
    })
}

fn change_from(choose: &mut Choice, text: &str) -> String {
    change_line(choose, text, is_of(&["FROM"]), |choose, line| {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let base = words.first().copied().unwrap_or_default();
        let name = words.get(2).copied().unwrap_or("s");
        let form = choose.one(&[
            "FROM",
            "FROM % AS",
            "FROM % as &",
            "FROM % &",
            "FROM % AS & x",
            "FROM % AS 0",
            "FROM % AS & AS &",
            "FROM %:latest AS &",
            "FROM $B AS &",
            "FROM ${x:-%} AS &",
            "FROM ${G:-%} AS &",
            "FROM \"%\" AS &",
            "FROM '%' AS &",
            "FROM scratch AS &",
            "FROM % AS &.x",
            "FROM % AS &/x",
            "FROM % AS scratch",
            "FROM % AS context",
            "FROM % AS $a",
            "FROM 0 AS &",
            "FROM ^ AS &",
            "FROM --platform=$BUILDPLATFORM % AS &",
            "FROM --platform=$x % AS &",
            "FROM % # comment",
            "FROM % AS & # comment",
            "FROM %@sha256:00 AS &",
            "FROM docker.io/library/% AS &",
            "FROM [\"%\"]",
            "FROM %\tAS\tN",
            "FROM  %  AS  &",
            "FROM % AS _&",
            "FROM % AS &-1_2",
            "FROM % AS \"&\"",
            "FROM library/% AS &",
            "FROM %:x AS &",
            "FROM ./%",
            "FROM % AS plain",
            "FROM ARG",
        ]);
        form.replace('%', base).replace('&', name).replace('^', &base.to_uppercase())
    })
}

/// Changes a word into the name of a stage, a number, or an image.
fn change_stage(choose: &mut Choice, text: &str) -> String {
    change_word(choose, text, |choose, word| {
        let name = choose.one(&[
            "0", "1", "s", "s0", "S0", "s1", "plain", "full", "bare", "busybox", "BusyBox", "scratch", "a/b", "last",
        ]);
        match word.split_once('=') {
            Some((flag, _)) => format!("{flag}={name}"),
            None => name.to_owned(),
        }
    })
}

/// Puts an ARG somewhere and uses it in the next line.
fn put_argument(choose: &mut Choice, text: &str) -> String {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let at = choose.below(lines.len() as u64) as usize;
    let argument = choose.one(&[
        "ARG z",
        "ARG z=",
        "ARG z=/z",
        "ARG z=a=b",
        "ARG z='q q'",
        "ARG z=\"${z:-w}\"",
        "ARG z=1 y=$z",
        "ENV z=/e",
        "ARG z y z=2",
        "arg z=l",
    ]);
    let used = choose.one(&["$z", "${z}", "${z:-d}", "x$z", "$z/x", "${z:+d}", "${z#/}"]);
    let line = lines[at].trim_end_matches('\n');
    lines[at] = match line.rsplit_once(' ') {
        Some((before, last)) if choose.chance(50) => format!("{argument}\n{before} {used}{last}\n"),
        Some((before, _)) => format!("{argument}\n{before} {used}\n"),
        None => format!("{argument}\n{line}\n"),
    };
    lines.concat()
}
