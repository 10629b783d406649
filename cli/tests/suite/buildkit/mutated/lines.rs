//! Lines: missing, doubled, elsewhere, split, joined; what ends them, and what stands above them all.

use super::Edit;
use super::text::splice;
use crate::buildkit::choice::Choice;

pub const EDITS: [Edit; 13] = [
    delete_line,
    double_line,
    move_line,
    move_line,
    join_lines,
    split_line,
    split_line,
    put_line,
    put_line,
    end_line,
    change_ends,
    put_directive,
    change_heredoc,
];

fn split(text: &str) -> Vec<String> {
    text.split_inclusive('\n').map(str::to_owned).collect()
}

fn number(choose: &mut Choice, lines: &[String]) -> usize {
    choose.below(lines.len().max(1) as u64) as usize
}

fn delete_line(choose: &mut Choice, text: &str) -> String {
    let mut lines = split(text);
    let at = number(choose, &lines);
    if lines.len() > 1 {
        lines.remove(at);
    }
    lines.concat()
}

fn double_line(choose: &mut Choice, text: &str) -> String {
    let mut lines = split(text);
    let at = number(choose, &lines);
    lines.insert(at, lines[at].clone());
    lines.concat()
}

fn move_line(choose: &mut Choice, text: &str) -> String {
    let mut lines = split(text);
    let line = lines.remove(number(choose, &lines));
    let to = choose.below(lines.len() as u64 + 1) as usize;
    lines.insert(to, line);
    lines.concat()
}

fn join_lines(choose: &mut Choice, text: &str) -> String {
    let mut lines = split(text);
    let at = number(choose, &lines);
    lines[at] = lines[at].trim_end_matches('\n').to_owned() + choose.one(&["", " ", " && ", ";"]);
    lines.concat()
}

fn split_line(choose: &mut Choice, text: &str) -> String {
    let at = choose.below(text.chars().count() as u64) as usize;
    let with = choose.one(&[
        "\n",
        "\\\n",
        " \\\n",
        "\\\n\n",
        " \\\n# comment\n",
        "\\ \n  # comment\n\n",
        "\\\n#\n",
        "`\n",
        "\\\\\n",
        "\\\t\n",
    ]);
    splice(text, at, 0, with)
}

fn put_line(choose: &mut Choice, text: &str) -> String {
    let mut lines = split(text);
    let at = choose.below(lines.len() as u64 + 1) as usize;
    let line = choose.one(&[
        "",
        "# comment",
        "  # comment",
        "\\",
        "\\\\",
        "\t",
        "#",
        "ARG a=1",
        "ARG a",
        "ENV a=2 b=$a",
        "ARG a=${a:-3} b",
        "FROM scratch",
        "FROM plain AS s",
        "ENV",
        "RUN",
        "COPY",
        "COPY . .",
        "CMD",
        "ENTRYPOINT",
        "SHELL [\"sh\"]",
        "USER",
        "USER 5:6",
        "WORKDIR /w",
        "WORKDIR",
        "ONBUILD",
        "ONBUILD RUN",
        "LABEL a b c",
        "LABEL",
        "EXPOSE 80",
        "EXPOSE",
        "VOLUME",
        "MAINTAINER",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "HEALTHCHECK NONE",
        "# escape=`",
        "ADD . /x",
        "ARG",
        "ONBUILD ENV a=$b",
        "EOF",
        "<<EOF",
        "RUN <<EOF",
        "COPY <<EOF /here",
        "FROM",
        "ONBUILD COPY . /o",
        "ONBUILD FROM x",
        "ONBUILD ONBUILD CMD x",
    ]);
    lines.insert(at, format!("{line}\n"));
    lines.concat()
}

fn end_line(choose: &mut Choice, text: &str) -> String {
    let mut lines = split(text);
    let at = number(choose, &lines);
    let end = choose.one(&[
        "\\",
        " \\",
        "\\ ",
        "\\\t",
        "`",
        " # no comment",
        " ",
        "\t",
        "\"",
        "'",
        "\\\\",
        "{0x0d}",
        " <<EOF",
        "\\{0x0d}",
    ]);
    lines[at] = format!("{}{end}\n", lines[at].trim_end_matches('\n'));
    lines.concat()
}

fn change_ends(choose: &mut Choice, text: &str) -> String {
    let ended = text.trim_end_matches('\n');
    match choose.below(5) {
        0 => text.replace('\n', "{0x0d}\n"),
        1 => format!("\u{feff}{text}"),
        2 => ended.to_owned(),
        3 => format!("{ended} \\"),
        _ => text.replace('\n', "\n\t"),
    }
}

fn put_directive(choose: &mut Choice, text: &str) -> String {
    let directive = choose.one(&[
        "# escape=`",
        "# escape=\\",
        "#escape = ` ",
        "# Escape=`",
        "# escape=x",
        "# escape=",
        "# escape=` x",
        "# escape=`\n# escape=`",
        "# check=skip=all",
        "# check=error=true",
        "# check=skip=JSONArgsRecommended;error=true",
        "# check=x",
        "# check=skip=a,b ; error=1",
        "# check=",
        "#!/bin/x",
        "#!/bin/x\n# escape=`",
        "# a=b\n# escape=`",
        "#\n# escape=`",
        " # escape=`",
        "\n# escape=`",
        "# check=error=x",
        "# check=experimental=all",
        "# check=skip=all\n# check=skip=all",
        "#\tcheck\t=\tskip=all\t",
        "// escape=`",
    ]);
    format!("{directive}\n{text}")
}

/// Changes the word that begins a heredoc, or the line that ends one.
fn change_heredoc(choose: &mut Choice, text: &str) -> String {
    let mut lines = split(text);
    let is_head = |line: &String| line.contains("<<");
    let Some(head) = lines.iter().position(is_head) else { return text.to_owned() };
    let (before, behind) = lines[head].split_once("<<").expect("it is one");
    let word: String = behind.chars().filter(char::is_ascii_alphanumeric).take(3).collect();
    let ends: Vec<usize> = (head + 1..lines.len()).filter(|at| lines[*at].contains(&word)).collect();
    if choose.chance(50) && !ends.is_empty() {
        let end = lines[choose.one(&ends)].trim_end_matches('\n').to_owned();
        let at = choose.one(&ends);
        let form = choose.one(&["\tE", " E", "E ", "E{0x0d}", "e", "E\\", "", "\\\nE", "EE", "\t \tE", "#E"]);
        lines[at] = format!("{}\n", form.replace('E', end.trim_matches('\t')));
    } else {
        let with = choose.one(&[
            "<<-", "<< ", "<<- ", "<<\"\"", "3<<", "<<<", "< <", "<<\\", "<<\t", "<<$", "<<''", " - <<", "<<-'", "x<<",
            "<<EOF <<",
        ]);
        lines[head] = format!("{before}{with}{behind}");
    }
    lines.concat()
}
