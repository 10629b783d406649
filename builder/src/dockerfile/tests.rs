//! Dockerfiles, good and bad, and how they are read.

use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Dockerfile {
    parse(text.as_bytes(), "Dockerfile").unwrap_or_else(|error| panic!("{error}"))
}

fn instructions(text: &str) -> Vec<Instruction> {
    let file = read(&format!("FROM scratch\n{text}"));
    file.stages.into_iter().next_back().unwrap().instructions.into_iter().map(|node| node.value).collect()
}

fn one(text: &str) -> Instruction {
    let mut all = instructions(text);
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

fn shell(text: &str) -> CommandLine {
    CommandLine::Shell(text.to_owned())
}

fn exec(words: &[&str]) -> CommandLine {
    CommandLine::Exec(words.iter().map(|word| (*word).to_owned()).collect())
}

fn problem(text: &str) -> (Problem, usize, Option<String>) {
    let error = parse(text.as_bytes(), "Dockerfile").expect_err(text);
    (error.problem().clone(), error.span().first, error.hint().map(str::to_owned))
}

#[test]
fn continuations_comments_and_blanks() {
    for (text, expected) in [
        ("RUN a \\\n  b", "a   b"),
        ("RUN a \\  \n# comment\n  b", "a   b"),
        ("RUN a \\\n   # comment\n\n  b", "a   b"),
        ("RUN a \\\\\nUSER x", "a \\\\"),
        ("RUN a # b", "a # b"),
        ("RUN a \\", "a"),
        ("  run   a  ", "a"),
        ("RUN a\\\r\nb\r\n", "ab"),
        ("\t# comment\n\nRUN\ta", "a"),
    ] {
        let Instruction::Run(run) = instructions(text).remove(0) else { panic!("{text}") };
        assert_eq!(run.command, shell(expected), "{text}");
    }
    let file = read("FROM a\nRUN x \\\n\n y\n");
    assert_eq!(file.warnings[0].rule, "NoEmptyContinuation");
    assert_eq!(file.stages[0].instructions[0].span, Span { first: 2, last: 4 });
}

#[test]
fn directives_stand_at_the_top() {
    let file = read("#!/usr/bin/env x\n# syntax = docker/dockerfile:1 \n#escape=`\n# check=skip=all\nFROM a");
    assert_eq!(
        (file.escape, file.syntax.as_deref(), file.check.as_deref()),
        ('\\', Some("docker/dockerfile:1"), Some("skip=all"))
    );
    let file = read("# escape=`\n# check=skip=all\nFROM a\nRUN a `\n b");
    assert_eq!((file.escape, file.check.as_deref()), ('`', Some("skip=all")));
    assert_eq!(file.stages[0].instructions[0].text, "RUN a  b");
    assert_eq!(read("# check=skip=all for now\nFROM a").check.as_deref(), Some("skip=all"));
    for text in
        ["# comment\n# escape=`\nFROM a", "\n# escape=`\nFROM a", "# x=y\n# escape=`\nFROM a", "FROM a\n# escape=`"]
    {
        assert_eq!(read(text).escape, '\\', "{text}");
    }
    assert_eq!(read("\u{feff}FROM a").stages[0].base, "a");
    assert!(matches!(problem("# escape=x\nFROM a").0, Problem::EscapeDirective(_)));
    assert!(matches!(problem("# escape=`\n# escape=`\nFROM a").0, Problem::DirectiveTwice(_)));
}

#[test]
fn stages_and_global_arguments() {
    let file = read("ARG V=1 W\nFROM --platform=$BUILDPLATFORM go:$V AS Build\nRUN x\nFROM scratch\n");
    assert_eq!(file.globals[0].value.len(), 2);
    assert_eq!(file.stages.len(), 2);
    assert_eq!(file.stages[0].name.as_deref(), Some("build"));
    assert_eq!(file.stages[0].platform.as_deref(), Some("$BUILDPLATFORM"));
    assert_eq!(file.stages[1].name, None);
}

#[test]
fn assignments_in_both_forms() {
    for (text, expected) in [
        ("ENV a=b", vec![("a", "b")]),
        ("ENV a=b c=\"d e\" f='g h' i=j\\ k", vec![("a", "b"), ("c", "\"d e\""), ("f", "'g h'"), ("i", "j\\ k")]),
        ("ENV a b=c  d", vec![("a", "b=c  d")]),
        ("LABEL maintainer Me  <me@x>", vec![("maintainer", "Me  <me@x>")]),
        ("ENV a=", vec![("a", "")]),
        ("ENV a=b=c", vec![("a", "b=c")]),
    ] {
        let (Instruction::Env(found) | Instruction::Label(found)) = one(text) else { panic!("{text}") };
        let found: Vec<(&str, &str)> = found.iter().map(|pair| (pair.name.as_str(), pair.value.as_str())).collect();
        assert_eq!(found, expected, "{text}");
    }
    assert_eq!(read("FROM a\nENV a b").warnings[0].rule, "LegacyKeyValueFormat");
}

#[test]
fn commands_in_both_forms() {
    for (text, expected) in [
        ("CMD [\"a\", \"b\"]", exec(&["a", "b"])),
        ("CMD []", exec(&[])),
        ("CMD", shell("")),
        ("CMD ['a']", shell("['a']")),
        ("CMD [\"a\" trailing", shell("[\"a\" trailing")),
        ("ENTRYPOINT a \"b\"", shell("a \"b\"")),
        ("ENTRYPOINT [ \"\\u00e9\\n\" ]", exec(&["é\n"])),
    ] {
        let (Instruction::Cmd(found) | Instruction::Entrypoint(found)) = one(text) else { panic!("{text}") };
        assert_eq!(found, expected, "{text}");
    }
    assert_eq!(problem("FROM a\nCMD [\"a\", 1]").0, Problem::NotStrings("CMD"));
}

#[test]
fn copy_with_its_flags_and_heredocs() {
    let Instruction::Copy(copy) =
        one("COPY --from=0 --chown=1:2 --chmod=755 --link --parents --exclude=*.o --exclude=x a b /c/")
    else {
        panic!()
    };
    assert_eq!(copy.from.as_deref(), Some("0"));
    assert!(copy.parents && copy.transfer.link);
    assert_eq!(copy.transfer.excludes, ["*.o", "x"]);
    assert_eq!((copy.transfer.sources.len(), copy.transfer.destination.as_str()), (2, "/c/"));
    let Instruction::Copy(copy) = one("COPY f <<A <<-\"B\" /d/\nB\nA\n\t$x\n\tB") else { panic!() };
    assert_eq!(copy.transfer.sources, ["f"]);
    let heredocs = &copy.transfer.heredocs;
    assert_eq!((heredocs[0].text(), heredocs[0].expand), ("B\n".to_owned(), true));
    assert_eq!((heredocs[1].text(), heredocs[1].expand), ("$x\n".to_owned(), false));
    let Instruction::Add(add) = one("ADD --checksum=sha256:0 --keep-git-dir --unpack=false [\"a b\", \"/\"]") else {
        panic!()
    };
    assert_eq!((add.keep_git_dir, add.unpack, add.transfer.sources), (Some(true), Some(false), vec!["a b".to_owned()]));
}

#[test]
fn run_with_its_flags_and_heredocs() {
    let Instruction::Run(run) = one(
        "RUN --mount=type=cache,target=/x --mount=from=b,target=/y --network=none --security=insecure <<EOF\n# no comment\na \\\nb\nEOF",
    ) else {
        panic!()
    };
    assert_eq!((run.mounts.len(), run.mount_sources, run.network), (2, vec!["b".to_owned()], Network::None));
    assert_eq!(run.security, Security::Insecure);
    assert_eq!(run.heredocs[0].body, "# no comment\na \\\nb\n");
    let Instruction::Run(run) = one("RUN [\"<<EOF\"]") else { panic!() };
    assert!(run.heredocs.is_empty());
    assert_eq!(one("ONBUILD RUN <<EOF\nx\nEOF"), Instruction::Onbuild("RUN <<EOF\nx\nEOF".to_owned()));
    let trigger = parse_trigger("RUN <<EOF\nx\nEOF", &Source::new("D", b"FROM a"), Span::line(1)).unwrap();
    assert!(matches!(trigger.value, Instruction::Run(run) if run.heredocs[0].body == "x\n"));
}

#[test]
fn the_other_instructions() {
    assert_eq!(one("EXPOSE 80 443/tcp"), Instruction::Expose(vec!["443/tcp".into(), "80".into()]));
    assert_eq!(one("VOLUME /a /b"), one("VOLUME [\"/a\", \"/b\"]"));
    assert_eq!(one("SHELL [\"/bin/bash\", \"-c\"]"), Instruction::Shell(vec!["/bin/bash".into(), "-c".into()]));
    assert_eq!(one("USER a b"), Instruction::User("a b".into()));
    assert_eq!(read("FROM --platform= a").stages[0].platform, None);
    assert_eq!(one("STOPSIGNAL --x 9"), Instruction::Stopsignal("9".into())); // it looks at no flag, nor does ARG
    assert_eq!(one("ARG --x=y a"), one("ARG a"));
    assert_eq!(one("healthcheck none"), Instruction::Healthcheck(Healthcheck::None));
    let Instruction::Healthcheck(Healthcheck::Probe(probe)) =
        one("HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=0 --retries=3 CMD curl x")
    else {
        panic!()
    };
    assert_eq!((probe.interval.as_secs(), probe.timeout.as_millis(), probe.retries), (90, 1500, 3));
    assert_eq!(probe.command, shell("curl x"));
    assert_eq!(
        one("ARG a b=\"c d\""),
        Instruction::Arg(vec![
            Argument { name: "a".into(), default: None },
            Argument { name: "b".into(), default: Some("\"c d\"".into()) },
        ])
    );
}

#[test]
fn errors_name_the_line_and_help() {
    for (text, line, part, hint) in [
        ("", 1, "cannot be empty", ""),
        ("# x\n", 1, "no instructions", ""),
        ("# check=skip=all\n# x", 2, "no instructions", ""),
        ("FORM a\nENV a\n", 2, "must have two", ""), // what cannot be taken apart is found first
        ("FORM a\nLABEL --x a=b c", 2, "can't find =", ""),
        ("FORM a\nONBUILD VOLUME [\"/a\", {}]", 2, "array of strings", ""),
        ("FORM a\nHEALTHCHECK --x CMD [1]", 2, "array of strings", ""),
        ("FORM a\nRUN <<EOF", 2, "unterminated heredoc", ""),
        ("RUN <<EOF\nx\nEOF\nENV a", 4, "must have two", ""),
        ("ARG a", 1, "no stages", ""),
        ("RUN x\nFROM a", 1, "before the first FROM", ""),
        ("FROM a\n\nRNU x", 3, "unknown instruction: RNU", "RUN"),
        ("FROM a\n\\", 2, "unknown instruction: ", ""),
        ("FROM a\nFETCH x", 2, "unknown instruction: FETCH", ""),
        ("FROM a b", 1, "one or three", ""),
        ("FROM a AS 1b", 1, "invalid name for build stage", ""),
        ("FROM", 1, "one or three", ""),
        ("FROM a\nCOPY --form=x a b", 2, "unknown flag: --form of COPY", "--from"),
        ("FROM a\nENV --x a=b", 2, "unknown flag: --x of ENV", "no flags"),
        ("FROM a\nCOPY ----from=0 a b", 2, "unknown flag: ----from of COPY", "--from"),
        ("FROM a\nCOPY --chown=a --chown=b a b", 2, "duplicate flag", ""),
        ("FROM a\nCOPY --chown a b", 2, "missing a value", ""),
        ("FROM a\nCOPY --link=maybe a b", 2, "boolean", ""),
        ("FROM a\nCOPY --form=x a", 2, "Destination could not be determined", ""),
        ("FROM a\nHEALTHCHECK --x=5s FOO x", 2, "unknown flag: --x", ""),
        ("FROM a\nCOPY a", 2, "Destination could not be determined", ""),
        ("FROM a\nCOPY", 2, "at least one", ""),
        ("FROM a\nCOPY a <<EOF\nEOF", 2, "heredoc as a destination", ""),
        ("FROM a\nRUN <<EOF\nx", 2, "unterminated heredoc", ""),
        ("FROM a\nONBUILD --x RUN b", 2, "unknown flag: --x of ONBUILD", "ONBUILD has no flags"),
        ("FROM a\nENV a", 2, "must have two", ""),
        ("FROM a\nENV a=b c", 2, "can't find =", ""),
        ("FROM a\nENV =b", 2, "blank", ""),
        ("FROM a\nARG =b", 2, "blank", ""),
        ("FROM a\nWORKDIR", 2, "exactly one", ""),
        ("FROM a\nSHELL sh", 2, "JSON form", ""),
        ("FROM a\nVOLUME [\"\"]", 2, "empty string", ""),
        ("FROM a\nONBUILD ONBUILD RUN x", 2, "chaining ONBUILD", ""),
        ("FROM a\nONBUILD FROM x", 2, "FROM isn't allowed", ""),
        ("FROM a\nONBUILD MAINTAINER x", 2, "MAINTAINER isn't allowed", ""),
        ("FROM a\nHEALTHCHECK FOO x", 2, "unknown type", ""),
        ("FROM a\nHEALTHCHECK NONE x", 2, "takes no arguments", ""),
        ("FROM a\nHEALTHCHECK CMD", 2, "missing command", ""),
        ("FROM a\nHEALTHCHECK --interval=1us CMD x", 2, "less than 1ms", ""),
        ("FROM a\nHEALTHCHECK --interval=soon CMD x", 2, "invalid duration", ""),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", 2, "at least 0", ""),
        ("FROM a\nRUN --network=bridge x", 2, "invalid value for flag --network", ""),
        ("FROM a\nRUN --mount=from=$x,target=/y x", 2, "variable expansion", ""),
    ] {
        let (found, at, given) = problem(text);
        assert_eq!(at, line, "{text}");
        assert!(found.to_string().contains(part), "{text}: {found}");
        assert!(given.unwrap_or_default().contains(hint), "{text}");
    }
    for (text, line) in
        [(&b"FROM a\nRUN \xff"[..], 2), (b"FROM a\nRUN <<E\n\xff\nE", 2), (b"FROM a\nCOPY <<\"E\" /\n\xff\nE", 2)]
    {
        let error = parse(text, "D").unwrap_err();
        assert_eq!((error.problem(), error.span().first), (&Problem::NotUtf8, line));
    }
}

#[test]
fn what_is_not_utf8_is_replaced_where_nothing_depends_on_it() {
    let text = b"FROM a\nMAINTAINER M\xfcller\nLABEL a=\xfc\nCOPY <<E /\n\xfc\nE\n# \xfc\n";
    let file = parse(text, "D").unwrap();
    let [maintainer, label, copy] = &file.stages[0].instructions[..] else { panic!() };
    assert_eq!(maintainer.value, Instruction::Maintainer("M\u{fffd}ller".into()));
    assert_eq!(label.text, "LABEL a=\u{fffd}");
    let Instruction::Copy(copy) = &copy.value else { panic!() };
    assert_eq!(copy.transfer.heredocs[0].body, "\u{fffd}\n");
}

/// One way to write an instruction down, of those that are read as the same.
fn written(instruction: &Instruction, layout: usize) -> String {
    let command = |command: &CommandLine| match command {
        CommandLine::Shell(text) => text.clone(),
        CommandLine::Exec(words) => serde_json::to_string(words).unwrap(),
    };
    let pairs = |pairs: &[Assignment]| {
        let pair = |pair: &Assignment| format!("{}={}", pair.name, pair.value);
        pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
    };
    let name = instruction.name();
    let name = [name.to_owned(), name.to_lowercase()][layout % 2].clone();
    let arguments = match instruction {
        Instruction::Arg(arguments) => {
            let one = |argument: &Argument| match &argument.default {
                Some(default) => format!("{}={default}", argument.name),
                None => argument.name.clone(),
            };
            arguments.iter().map(one).collect::<Vec<_>>().join(" ")
        }
        Instruction::Cmd(line) | Instruction::Entrypoint(line) => command(line),
        Instruction::Env(all) | Instruction::Label(all) => pairs(all),
        Instruction::Expose(words) => words.join(" "),
        Instruction::Shell(words) | Instruction::Volume(words) => serde_json::to_string(words).unwrap(),
        Instruction::Copy(Copy { transfer, from, parents }) => {
            let mut words: Vec<String> = from.iter().map(|from| format!("--from={from}")).collect();
            words.extend(transfer.chown.iter().map(|chown| format!("--chown={chown}")));
            words.extend(transfer.chmod.iter().map(|chmod| format!("--chmod={chmod}")));
            words.extend(transfer.excludes.iter().map(|exclude| format!("--exclude={exclude}")));
            words.extend(transfer.link.then(|| "--link".to_owned()));
            words.extend(parents.then(|| "--parents=true".to_owned()));
            let paths: Vec<&String> = transfer.sources.iter().chain([&transfer.destination]).collect();
            words.push(serde_json::to_string(&paths).unwrap());
            words.join(" ")
        }
        Instruction::Run(run) => {
            let mut words: Vec<String> = run.mounts.iter().map(|mount| format!("--mount={mount}")).collect();
            words.push(command(&run.command));
            words.join(" ")
        }
        Instruction::User(text) | Instruction::Workdir(text) | Instruction::Stopsignal(text) => text.clone(),
        other => panic!("{other:?} is not generated"),
    };
    match layout % 3 {
        0 => format!("{name} {arguments}"),
        1 => format!("   {name} \\\n# a comment\n{arguments}  "),
        _ => format!("{name}\t{arguments}"),
    }
}

fn any_instruction() -> impl Strategy<Value = Instruction> {
    let word = "[a-zA-Z0-9/._-]{1,8}";
    // Where flags may stand, `--` would be the end of them, and `--x` one.
    let first = "[a-zA-Z0-9/._][a-zA-Z0-9/._-]{0,7}";
    let name = "[A-Z][A-Z0-9_]{0,5}";
    let value = prop_oneof![Just(String::new()), word.prop_map(String::from), "\"[a-z $]{0,6}\"", "'[a-z\"$ ]{0,6}'"];
    let shell = "[a-z][a-z0-9 ${}&|;='.-]{0,20}[a-z]".prop_map(CommandLine::Shell);
    let exec = prop::collection::vec("[ -~é]{0,8}", 1..4).prop_map(CommandLine::Exec);
    let command = prop_oneof![shell, exec].boxed();
    let pair = (name, value).prop_map(|(name, value)| Assignment { name, value });
    let pairs = prop::collection::vec(pair, 1..4).boxed();
    let argument = (name, prop::option::of(word)).prop_map(|(name, default)| Argument { name, default });
    let paths = prop::collection::vec("[ -~]{1,8}", 1..4);
    let flags = (prop::option::of(word), prop::option::of("[0-7]{3}"), prop::collection::vec(word, 0..3));
    let copy = (paths, "[ -~]{1,8}", flags, any::<bool>(), any::<bool>(), prop::option::of("[a-z]{1,8}"));
    let copy = copy.prop_map(|(sources, destination, (chown, chmod, excludes), link, parents, from)| {
        let heredocs = Vec::new();
        let transfer = Transfer { sources, heredocs, destination, chown, chmod, link, excludes };
        Instruction::Copy(Copy { transfer, from, parents })
    });
    let run = (command.clone(), any::<bool>()).prop_map(|(command, mount)| {
        let mounts = if mount { vec!["type=tmpfs,target=/t".to_owned()] } else { Vec::new() };
        let (network, security) = (Network::Default, Security::Sandbox);
        let (heredocs, mount_sources, devices) = (Vec::new(), Vec::new(), Vec::new());
        Instruction::Run(Run { command, heredocs, mounts, mount_sources, network, security, devices })
    });
    let ports = prop::collection::btree_set("[1-9][0-9]{0,3}(/tcp|/udp)?", 1..4);
    prop_oneof![
        copy,
        run,
        prop::collection::vec(argument, 1..4).prop_map(Instruction::Arg),
        pairs.clone().prop_map(Instruction::Env),
        pairs.prop_map(Instruction::Label),
        command.clone().prop_map(Instruction::Cmd),
        command.prop_map(Instruction::Entrypoint),
        ports.prop_map(|ports| Instruction::Expose(ports.into_iter().collect())),
        prop::collection::vec("[!-~]{1,8}", 1..4).prop_map(Instruction::Volume),
        prop::collection::vec("[ -~]{1,8}", 1..4).prop_map(Instruction::Shell),
        first.prop_map(Instruction::User),
        first.prop_map(Instruction::Workdir),
        first.prop_map(Instruction::Stopsignal),
    ]
}

proptest::proptest! {
    #[test]
    fn what_is_written_down_is_read(all in prop::collection::vec((any_instruction(), 0..6usize), 1..8)) {
        let text: Vec<String> = all.iter().map(|(instruction, layout)| written(instruction, *layout)).collect();
        let text = format!("FROM scratch\n{}\n", text.join("\n"));
        let expected: Vec<Instruction> = all.into_iter().map(|(instruction, _)| instruction).collect();
        let found = parse(text.as_bytes(), "Dockerfile").unwrap_or_else(|error| panic!("{error}\n{text}"));
        let found: Vec<Instruction> = found.stages[0].instructions.iter().map(|node| node.value.clone()).collect();
        proptest::prop_assert_eq!(found, expected, "{}", text);
    }

    #[test]
    fn parsing_never_panics(bytes: Vec<u8>) {
        let _ = parse(&bytes, "Dockerfile"); // only whether it returns matters here
    }

    #[test]
    fn instructions_never_panic(lines in proptest::collection::vec("(FROM|RUN|COPY|ENV|ARG|HEALTHCHECK|ONBUILD|EXPOSE) [-a-z=$\"'{}<\\[\\], \\\\0-9:/]{0,20}", 1..6)) {
        let _ = parse(lines.join("\n").as_bytes(), "Dockerfile");
    }
}
