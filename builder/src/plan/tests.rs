//! Stages and steps that follow from a Dockerfile, as tables.

use super::*;
use crate::config::ImageConfig;
use crate::dockerfile::{self, Dockerfile};

fn options() -> Options {
    Options::new(Platform::linux("amd64"))
}

fn with_args(args: &[(&str, &str)]) -> Options {
    Options { build_args: args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(), ..options() }
}

fn read(text: &str) -> Dockerfile {
    dockerfile::parse(text.as_bytes(), "Dockerfile").unwrap_or_else(|error| panic!("{error}"))
}

fn image(json: &str) -> ImageConfig {
    ImageConfig::parse(json.as_bytes()).unwrap()
}

/// Plans every needed stage; images all have the given config.
fn plan_on(text: &str, options: &Options, base: &ImageConfig) -> Result<StagePlan, Error> {
    let file = read(text);
    let outline = outline(&file, options)?;
    let mut done: BTreeMap<StageId, StagePlan> = BTreeMap::new();
    for one in &outline.stages {
        let state = match &one.base {
            Base::Scratch | Base::Context(_) => BaseState::Scratch,
            Base::Stage(id) => BaseState::Stage(&done[id]),
            Base::Image(_) => BaseState::Image(base),
        };
        let plan = stage(&file, &outline, options, one.id, state)?;
        done.insert(one.id, plan);
    }
    Ok(done.remove(&outline.target).unwrap())
}

fn plan(text: &str, options: &Options) -> StagePlan {
    plan_on(text, options, &image("{}")).unwrap_or_else(|error| panic!("{error}"))
}

fn history(text: &str, options: &Options) -> Vec<String> {
    let plan = plan(text, options);
    plan.config.history.into_iter().map(|entry| entry.created_by.unwrap_or_default()).collect()
}

fn problem(text: &str, options: &Options) -> (Problem, usize, Option<String>) {
    let error = plan_on(text, options, &image("{}")).expect_err(text);
    (error.problem().clone(), error.span().first, error.hint().map(str::to_owned))
}

#[test]
fn history_is_written_as_buildkit_does() {
    for (text, expected) in [
        ("RUN echo  a", "RUN /bin/sh -c echo  a # buildkit"),
        ("RUN [\"/x\", \"a b\"]", "RUN /x a b # buildkit"),
        ("COPY --chown=1:2 --chmod=644 a ./b/ c/", "COPY --chown=1:2 --chmod=644 a ./b/ c/ # buildkit"),
        ("COPY --link --exclude=x --parents a b", "COPY --parents a b # buildkit"),
        ("COPY f <<EOF /d/\nx\nEOF", "COPY f <<EOF /d/ # buildkit"),
        ("ADD a.tar /", "ADD a.tar / # buildkit"),
        ("WORKDIR a/../b", "WORKDIR /b"),
        ("WORKDIR /a//b/../", "WORKDIR /a//b/../"), // an absolute path stays as it is written
        ("WORKDIR a//b/", "WORKDIR /a/b"),
        ("WORKDIR /", "WORKDIR /"),
        ("WORKDIR $unset", "WORKDIR /"),
        ("ENV a=\"b c\" d=e", "ENV a=b c d=e"),
        ("LABEL a='b' c=\"d\"", "LABEL a=b c=d"),
        ("EXPOSE 80 443/TCP 8000-8001/udp", "EXPOSE [443/tcp 80/tcp 8000/udp 8001/udp]"),
        ("VOLUME /v1 /v2", "VOLUME [/v1 /v2]"),
        ("USER x:y", "USER x:y"),
        ("CMD [\"a\", \"b\\\"c\"]", "CMD [\"a\" \"b\\\"c\"]"),
        ("CMD echo $x", "CMD [\"/bin/sh\" \"-c\" \"echo $x\"]"),
        ("ENTRYPOINT [\"/x\"]", "ENTRYPOINT [\"/x\"]"),
        ("SHELL [\"/bin/ash\", \"-ec\"]", "SHELL [/bin/ash -ec]"),
        ("STOPSIGNAL SIGQUIT", "STOPSIGNAL SIGQUIT"),
        (
            "HEALTHCHECK --interval=5m --timeout=3s --start-period=1m --start-interval=2s --retries=4 CMD curl x",
            "HEALTHCHECK {Test:[CMD-SHELL curl x] Interval:5m0s Timeout:3s StartPeriod:1m0s StartInterval:2s Retries:4}",
        ),
        ("ARG k=v", "ARG k=v"),
        ("ARG k", "ARG k"),
        ("MAINTAINER me", "MAINTAINER me"),
    ] {
        assert_eq!(history(&format!("FROM scratch\n{text}"), &options()), [expected], "{text}");
    }
    assert!(history("FROM scratch\nONBUILD RUN x", &options()).is_empty());
}

#[test]
fn run_shows_the_build_arguments() {
    let text = "FROM scratch\nARG A=1 B\nARG N\nARG A=2\nENV B=env\nRUN x";
    let shown = history(text, &with_args(&[("N", "nn")]));
    assert_eq!(shown.last().unwrap(), "RUN |3 A=2 B=env N=nn /bin/sh -c x # buildkit");
    let shown = history("FROM scratch\nRUN x", &with_args(&[("HTTP_PROXY", "p"), ("UNKNOWN", "u")]));
    assert_eq!(shown, ["RUN /bin/sh -c x # buildkit"]);
}

#[test]
fn arguments_have_their_scopes() {
    for (text, args, expected) in [
        ("ARG V=1\nFROM scratch\nARG V\nENV r=$V", vec![], "1"),
        ("ARG V=1\nFROM scratch\nENV r=$V", vec![], ""),
        ("ARG V=1\nFROM scratch\nARG V=2\nENV r=$V", vec![], "2"),
        ("ARG V=1\nFROM scratch\nARG V=2\nENV r=$V", vec![("V", "3")], "3"),
        ("ARG V=1\nARG W=$V-w\nFROM scratch\nARG W\nENV r=$W", vec![], "1-w"),
        ("ARG V=1\nARG W=$V-w\nFROM scratch\nARG W\nENV r=$W", vec![("V", "3")], "3-w"),
        ("FROM scratch\nARG V=\"a b\" W=$V\nENV r=$W", vec![], "a b"),
        ("FROM scratch AS a\nARG V=1\nFROM a\nENV r=$V", vec![], "1"),
        ("FROM scratch AS a\nARG V=1\nFROM scratch\nENV r=$V", vec![], ""),
        ("FROM scratch\nENV V=env\nENV V=bye r=$V", vec![], "env"),
        ("FROM scratch\nARG V=arg\nENV V=env\nENV r=$V", vec![("V", "given")], "env"),
        // Whichever stands later wins, in BuildKit too, whatever docker's manual says of ENV.
        ("FROM scratch\nENV V=env\nARG V=arg\nENV r=$V", vec![], "arg"),
        ("FROM scratch AS a\nENV V=env\nFROM a\nARG V\nENV r=$V", vec![("V", "given")], "given"),
        ("FROM scratch AS a\nENV V=env\nFROM a\nARG V\nENV r=$V", vec![], "env"),
        ("FROM scratch\nENV r=$TARGETARCH", vec![], ""),
        ("FROM scratch\nARG TARGETARCH TARGETPLATFORM\nENV r=$TARGETARCH-$TARGETPLATFORM", vec![], "amd64-linux/amd64"),
        ("FROM scratch AS x\nARG TARGETSTAGE\nENV r=$TARGETSTAGE", vec![], "x"),
        ("FROM scratch\nARG TARGETARCH\nENV r=$TARGETARCH", vec![("TARGETARCH", "mine")], "mine"),
        ("FROM scratch\nENV r=$HTTP_PROXY", vec![("HTTP_PROXY", "p")], ""),
        ("FROM scratch\nARG U\nENV r=${U:-none}", vec![], "none"),
    ] {
        let plan = plan(text, &with_args(&args));
        assert_eq!(plan.config.run.env("r"), Some(expected), "{text} {args:?}");
    }
}

#[test]
fn variables_of_the_base_count() {
    let base = image(
        r#"{"os":"linux","config":{"Env":["PATH=/p","B=base"],"WorkingDir":"/w","User":"u","Shell":["/bin/b","-c"],"Cmd":["sh"]}}"#,
    );
    let plan = plan_on("FROM img\nENV r=$B$PATH\nRUN x\nCOPY a b", &options(), &base).unwrap();
    assert_eq!(plan.config.run.env("r"), Some("base/p"));
    let Action::Run(run) = &plan.steps[0].action else { panic!() };
    assert_eq!(
        (run.arguments.as_slice(), run.cwd.as_str(), run.user.as_str()),
        (["/bin/b".to_owned(), "-c".to_owned(), "x".to_owned()].as_slice(), "/w", "u")
    );
    let Action::Copy(copy) = &plan.steps[1].action else { panic!() };
    assert_eq!(copy.destination, "/w/b");
    assert_eq!(plan.config.run.cmd, ["sh"]);
    let plan = plan_on("FROM img\nENTRYPOINT [\"/e\"]", &options(), &base).unwrap();
    assert!(plan.config.run.cmd.is_empty(), "ENTRYPOINT clears the CMD of the base");
    let plan = plan_on("FROM img\nCMD [\"c\"]\nENTRYPOINT [\"/e\"]", &options(), &base).unwrap();
    assert_eq!(plan.config.run.cmd, ["c"]);
    assert!(plan.config.run.args_escaped);
}

#[test]
fn triggers_run_first_and_once() {
    let base = image(r#"{"config":{"OnBuild":["RUN a","COPY --from=tools x /"]}}"#);
    let text = "FROM scratch AS tools\nFROM img\nRUN b";
    let plan = plan_on(text, &options(), &base).unwrap();
    let titles: Vec<&str> = plan.steps.iter().map(|step| step.title.as_str()).collect();
    assert_eq!(titles, ["ONBUILD RUN a", "ONBUILD COPY --from=tools x /", "RUN b"]);
    let Action::Copy(copy) = &plan.steps[1].action else { panic!() };
    assert_eq!(copy.from, Origin::Stage(StageId(0)));
    assert!(plan.config.run.on_build.is_empty());
    let text = "FROM scratch AS a\nONBUILD ENV x=1\nFROM a AS b\nENV y=$x\nFROM b\nENV z=$y$x";
    let config = self::plan(text, &options()).config;
    assert_eq!(
        config.history.iter().filter_map(|entry| entry.created_by.as_deref()).collect::<Vec<_>>(),
        ["ENV x=1", "ENV y=1", "ENV z=11"]
    );
    let file = read("FROM scratch AS t\nFROM scratch AS a\nONBUILD COPY --from=t x /\nFROM a");
    let stages = outline(&file, &options()).unwrap().stages;
    assert_eq!(stages.len(), 3, "the trigger needs the first stage");
}

#[test]
fn heredocs_of_run() {
    for (text, words, script) in [
        ("RUN <<EOF\na\nb\nEOF", "a\nb\n", None),
        ("RUN <<-EOF\n\ta\n\tEOF", "a\n", None),
        ("RUN cat <<A <<B\n1\nA\n2\nB", "cat <<A <<B\n1\nA\n2\nB", None),
        ("RUN <<EOF\n#!/bin/x\na\nEOF", "/dev/pipes/EOF", Some("#!/bin/x\na\n")),
    ] {
        let plan = plan(&format!("FROM scratch\n{text}"), &options());
        let Action::Run(run) = &plan.steps[0].action else { panic!() };
        assert_eq!(run.arguments, ["/bin/sh", "-c", words], "{text}");
        assert_eq!(run.script.as_ref().map(|script| script.text.as_str()), script, "{text}");
    }
    let plan = plan("FROM scratch\nENV x=1\nCOPY <<A <<'B' /\n\"$x\" $y\nA\n$x\nB", &options());
    let Action::Copy(copy) = &plan.steps[0].action else { panic!() };
    assert_eq!((copy.inline[0].text.as_str(), copy.inline[1].text.as_str()), ("\"1\" \n", "$x\n"));
}

#[test]
fn only_what_the_target_needs() {
    let text = "FROM a AS one\nFROM b AS two\nFROM c AS three\nCOPY --from=one x /\nFROM three AS four\nRUN --mount=from=two,target=/x y\nFROM d AS five";
    let names = |target: Option<&str>| -> Vec<String> {
        let options = Options { target: target.map(str::to_owned), ..options() };
        outline(&read(text), &options).unwrap().stages.into_iter().map(|stage| stage.name).collect()
    };
    assert_eq!(names(None), ["five"]);
    assert_eq!(names(Some("Three")), ["one", "three"]);
    assert_eq!(names(Some("four")), ["one", "two", "three", "four"]);
    let options = Options { target: Some("1".to_owned()), ..options() };
    assert!(outline(&read(text), &options).is_err(), "a number is no name, as in BuildKit");
}

#[test]
fn names_mean_stages_contexts_and_images() {
    let text = "FROM alpine AS alpine\nFROM scratch\nCOPY --from=alpine x /\nCOPY --from=0 x /\nCOPY --from=busybox x /\nCOPY --from=files x /\nCOPY --from=scratch x /";
    let mut options = options();
    options.contexts.insert("files".to_owned());
    let outline = outline(&read(text), &options).unwrap();
    let stage = outline.stage(StageId(1)).unwrap();
    let busybox = Origin::Image("busybox".parse().unwrap());
    let zero = Origin::Stage(StageId(0));
    assert_eq!(stage.origins, [zero.clone(), zero, busybox, Origin::Named("files".into()), Origin::Scratch]);
    assert_eq!(outline.stages[0].base, Base::Image("alpine".parse().unwrap()));
    // A context of a stage's own name stands in its place, and whoever copies from it takes the files.
    options.contexts.insert("alpine".to_owned());
    let outline = self::outline(&read(text), &options).unwrap();
    let files = Origin::Named("alpine".into());
    assert_eq!(outline.stage(StageId(1)).unwrap().origins[..2], [files.clone(), files]);
    assert_eq!(outline.stages.len(), 1);
    let mut options = self::options();
    options.images.insert("debian:12".to_owned(), "h/other:1".parse().unwrap());
    for (from, base) in [
        ("debian:12", Base::Image("h/other:1".parse().unwrap())),
        ("docker.io/library/debian:12", Base::Image("h/other:1".parse().unwrap())),
        ("debian:13", Base::Image("debian:13".parse().unwrap())),
    ] {
        let outline = self::outline(&read(&format!("FROM {from}")), &options).unwrap();
        assert_eq!(outline.stages[0].base, base, "{from}");
    }
}

#[test]
fn a_context_that_is_a_base_is_its_first_layer() {
    let mut options = options();
    options.contexts.insert("files".to_owned());
    let plan = plan("FROM files\nENV a=b\nCOPY \"$a\" /$c\nRUN echo \"$a\" $c", &options);
    let titles: Vec<&str> = plan.steps.iter().map(|step| step.title.as_str()).collect();
    assert_eq!(titles, ["FROM files", "COPY b /", "RUN echo \"b\" $c"]);
    let replaced = self::plan("FROM scratch AS files\nSTOPSIGNAL nonsense", &options);
    assert_eq!(replaced.steps.len(), 1);
}

#[test]
fn errors_name_the_line_and_help() {
    for (text, line, part, hint) in [
        ("FROM $X", 1, "should not be blank", ""),
        ("FROM scratch\nFROM UPPER", 2, "failed to parse stage name", ""),
        ("FROM --platform=$X scratch", 1, "empty platform", ""),
        ("FROM --platform=pdp11 scratch", 1, "failed to parse platform", ""),
        ("FROM scratch AS b\nFROM Bulid AS c", 2, "failed to parse stage name", ""),
        ("FROM scratch\nCOPY --from=7 a b", 2, "invalid stage index 7", ""),
        ("FROM scratch AS a\nCOPY --from=a x y", 2, "needs to be defined before", ""),
        ("FROM scratch AS a\nCOPY --from=b x y\nFROM scratch AS b\nFROM a", 2, "needs to be defined before", ""),
        ("FROM scratch\nCOPY --from=$x a b", 2, "variable expansion is not supported", ""),
        ("FROM scratch\nENV a=\"${x?must be set}\"", 2, "x: must be set", ""),
        ("FROM scratch\nENV a=\"b", 2, "quote is never closed", ""),
        ("FROM scratch\nEXPOSE http", 2, "invalid port", ""),
        ("FROM scratch\nSTOPSIGNAL SIGFOO", 2, "invalid signal", ""),
        ("FROM scratch\nVOLUME $x", 2, "empty", ""),
        ("FROM scratch\nCOPY --chmod=999 a b", 2, "invalid chmod", ""),
        ("FROM scratch\nCOPY --chmod=17777 a b", 2, "invalid chmod", ""),
        ("FROM scratch\nCOPY --exclude=[ a b", 2, "--exclude", ""),
        ("FROM scratch\nCOPY https://x/y b", 2, "source can't be a URL", ""),
        ("FROM scratch\nADD https://x/y.git?nope=1 b", 2, "unexpected query", ""),
        ("FROM scratch\nADD --checksum=x https://x/y b", 2, "--checksum=x", ""),
        ("FROM scratch\nADD --checksum=sha256:0 a b", 2, "--checksum requires", ""),
        ("FROM scratch\nRUN --security=insecure x", 2, "RUN --security=insecure is not supported", ""),
        ("FROM scratch\nRUN --device=x y", 2, "RUN --device is not supported", ""),
        ("FROM scratch\nRUN --mount=type=cache,target=$x y", 2, "needs a target", ""),
    ] {
        let (found, at, given) = problem(text, &options());
        assert!(found.to_string().contains(part), "{text}: {found}");
        assert_eq!(at, line, "{text}");
        assert!(given.unwrap_or_default().contains(hint), "{text}");
    }
    let wanted = Options { target: Some("biuld".into()), ..options() };
    let (found, _, hint) = problem("FROM scratch AS build", &wanted);
    assert_eq!(found, Problem::UnknownTarget("biuld".into()));
    assert_eq!(hint.as_deref(), Some("did you mean build?"));
}

#[test]
fn build_arguments_of_buildkit_need_no_declaration() {
    let mut options = options();
    for (name, value) in [("BUILDKIT_SANDBOX_HOSTNAME", "host"), ("BUILDKIT_CACHE_MOUNT_NS", "team")] {
        options.build_args.insert(name.to_owned(), value.to_owned());
    }
    let text = "FROM scratch\nRUN --mount=type=cache,target=/a/../b --mount=type=cache,id=x,target=/c y";
    let plan = plan(text, &options);
    let Action::Run(run) = &plan.steps[0].action else { panic!("this is a RUN") };
    assert_eq!(run.hostname.as_deref(), Some("host"));
    let ids: Vec<&str> = run.mounts.iter().filter_map(|(mount, _)| mount.id.as_deref()).collect();
    assert_eq!(ids, ["team//b", "team/x"]);
    assert!(plan.config.history[0].created_by.as_deref().is_some_and(|text| !text.contains("BUILDKIT")));
}

#[test]
fn problems_of_unneeded_instructions_do_not_stop_a_build() {
    let text = "FROM a AS unused\nENV x=${y?never}\nSTOPSIGNAL nonsense\nFROM scratch";
    assert!(plan(text, &options()).steps.is_empty());
    let text = "FROM scratch\nCOPY --from=b x y\nFROM scratch AS b\nFROM scratch";
    assert!(plan(text, &options()).steps.is_empty());
}

#[test]
fn labels_and_platform_of_the_command_line_go_to_the_target_only() {
    let mut options = options();
    options.labels.insert("l".into(), "v".into());
    options.target_platform = Platform::linux("arm64");
    options.platform_is_explicit = true;
    let config = plan_on("FROM img", &options, &image(r#"{"os":"linux","architecture":"amd64"}"#)).unwrap().config;
    assert_eq!((config.run.labels["l"].as_str(), config.platform.architecture.as_str()), ("v", "arm64"));
}

proptest::proptest! {
    #[test]
    fn planning_never_panics(lines in proptest::collection::vec("(FROM|RUN|COPY|ENV|ARG|EXPOSE|WORKDIR|USER|VOLUME|ADD) [-a-z=$\"'{}<\\[\\], \\\\0-9:/]{0,20}", 1..6)) {
        let text = format!("FROM scratch\n{}", lines.join("\n"));
        if let Ok(file) = dockerfile::parse(text.as_bytes(), "Dockerfile")
            && let Ok(outline) = outline(&file, &options())
        {
            for one in &outline.stages {
                let _ = stage(&file, &outline, &options(), one.id, BaseState::Scratch);
            }
        }
    }
}
