//! Each rule where it fires, and where it does not.

use super::*;
use crate::dockerfile;

fn options() -> Options {
    Options::new(Platform::linux("amd64"))
}

fn with_args(args: &[(&str, &str)]) -> Options {
    Options { build_args: args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(), ..options() }
}

fn read(text: &str) -> Dockerfile {
    dockerfile::parse(text.as_bytes(), "Dockerfile").unwrap_or_else(|error| panic!("{error}"))
}

/// Checks all stages; `base` is the config of every base image.
fn report(text: &str, options: &Options, ignore: &str, base: Option<&str>) -> Result<Report, Error> {
    let ignore = Patterns::parse(ignore.as_bytes()).unwrap();
    let base = |_: &Reference, _: &Platform| base.map(|json| ImageConfig::parse(json.as_bytes()).unwrap());
    check(&read(text), options, &Around { outline: None, ignore: &ignore, base: &base })
}

fn lines(report: Report) -> Vec<String> {
    report.findings.iter().map(|finding| format!("{} {finding}", finding.span.first)).collect()
}

fn found(text: &str) -> Vec<String> {
    lines(report(text, &options(), "", Some("{}")).unwrap())
}

fn found_with(text: &str, options: &Options) -> Vec<String> {
    lines(report(text, options, "", Some("{}")).unwrap())
}

#[track_caller]
fn table(cases: &[(&str, &[&str])]) {
    for (text, expected) in cases {
        assert_eq!(found(text), *expected, "{text}");
    }
}

#[test]
fn every_rule_has_a_name_and_a_sentence() {
    let names: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    assert_eq!(names.len(), 22);
    assert!(Rule::ALL.iter().all(|rule| format!("{rule:?}") == rule.name() && rule.description().len() > 20));
}

#[test]
fn contexts_that_are_files_have_no_variables() {
    let options = Options { contexts: BTreeSet::from(["files".to_owned()]), ..options() };
    let found = found_with("FROM files\nLABEL a=$b c=$PATH\n", &options);
    assert_eq!(found, ["2 UndefinedVar: Usage of undefined variable '$b'"]);
}

#[test]
fn stage_names() {
    table(&[
        ("FROM scratch AS Bad\n", &["1 StageNameCasing: Stage name 'Bad' should be lowercase"]),
        ("FROM scratch AS good\nFROM scratch\n", &[]),
        (
            "FROM scratch AS b\nFROM scratch AS b\n",
            &["2 DuplicateStageName: Duplicate stage name \"b\", stage names should be unique"],
        ),
        ("FROM scratch AS b1\nFROM scratch AS b2\n", &[]),
        (
            "FROM scratch AS scratch\nFROM scratch AS context\n",
            &[
                "1 ReservedStageName: Stage name should not use the same name as reserved stage \"scratch\"",
                "2 ReservedStageName: Stage name should not use the same name as reserved stage \"context\"",
            ],
        ),
        ("FROM scratch\nFROM scratch AS a\n", &[]),
    ]);
}

#[test]
fn keyword_casing() {
    table(&[
        ("FROM scratch as a\n", &["1 FromAsCasing: 'as' and 'FROM' keywords' casing do not match"]),
        ("from scratch AS a\n", &["1 FromAsCasing: 'AS' and 'from' keywords' casing do not match"]),
        ("FROM scratch As a\n", &["1 FromAsCasing: 'As' and 'FROM' keywords' casing do not match"]),
        ("from scratch as a\n", &[]),
        ("FROM --platform=$BUILDPLATFORM scratch AS a\n", &[]),
        (
            // The keyword itself is wrong already: one finding is enough.
            "From scratch as a\nFROM scratch AS b\n",
            &[
                "1 ConsistentInstructionCasing: Command 'From' should match the case of the command majority (uppercase)",
            ],
        ),
        (
            "FROM scratch\ncopy a /\nCOPY b /\n",
            &[
                "2 ConsistentInstructionCasing: Command 'copy' should match the case of the command majority (uppercase)",
            ],
        ),
        (
            "from scratch\nCOPY a /\ncopy b /\n",
            &[
                "2 ConsistentInstructionCasing: Command 'COPY' should match the case of the command majority (lowercase)",
            ],
        ),
        (
            // A tie is decided for capital letters.
            "FROM scratch\ncopy a /\n",
            &[
                "2 ConsistentInstructionCasing: Command 'copy' should match the case of the command majority (uppercase)",
            ],
        ),
        ("from scratch\ncopy a /\n", &[]),
        ("arg A\nFROM scratch\n", &[]), // arguments before the first FROM are not counted
        ("FROM scratch\nRUN <<'EOT'\nenv\nEOT\n", &[]),
    ]);
}

#[test]
fn empty_continuations() {
    table(&[
        ("FROM scratch\nCOPY a \\\n\n /\nCOPY a \\\n /\n", &["4 NoEmptyContinuation: Empty continuation line"]),
        ("FROM scratch\nCOPY a \\\n# why\n /\n", &[]),
        ("FROM scratch\n# check=skip=NoEmptyContinuation\nCOPY a \\\n\n /\n", &[]),
    ]);
}

#[test]
fn json_arguments() {
    let message = |line, name| {
        format!(
            "{line} JSONArgsRecommended: JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
        )
    };
    assert_eq!(found("FROM scratch\nCMD x\n"), [message(2, "CMD")]);
    assert_eq!(found("FROM scratch\nENTRYPOINT x\n"), [message(2, "ENTRYPOINT")]);
    assert_eq!(found("FROM scratch\nENTRYPOINT\n"), [message(2, "ENTRYPOINT")], "nothing is a shell's, too");
    assert_eq!(found("from scratch\ncmd x\n"), [message(2, "cmd")]);
    assert_eq!(found("FROM scratch AS a\nONBUILD CMD x\nFROM a\n"), [message(3, "CMD")]);
    table(&[
        ("FROM scratch\nCMD [\"x\"]\nENTRYPOINT [\"x\"]\n", &[]),
        ("FROM scratch\nSHELL [\"/x\"]\nCMD x\nENTRYPOINT y\n", &[]),
        ("FROM scratch AS base\nSHELL [\"/x\"]\nFROM base\nCMD x\n", &[]),
        ("FROM scratch\nHEALTHCHECK CMD x\nRUN x\n", &[]),
    ]);
    let shell = Some(r#"{"config":{"Shell":["/x"]}}"#);
    assert_eq!(lines(report("FROM image\nCMD x\n", &options(), "", shell).unwrap()), [""; 0]);
}

#[test]
fn maintainer_and_legacy_pairs() {
    table(&[
        (
            "FROM scratch\nMAINTAINER me\n",
            &["2 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label"],
        ),
        ("FROM scratch\nLABEL org.opencontainers.image.authors=me\n", &[]),
        (
            "FROM scratch\nENV k v\nLABEL k v\n",
            &[
                "2 LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
                "3 LegacyKeyValueFormat: \"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format",
            ],
        ),
        ("FROM scratch\nENV k=v\nLABEL k=v l=\"a b\"\n", &[]),
    ]);
}

#[test]
fn arguments_in_from() {
    table(&[
        ("ARG base=scratch\nFROM $base\n", &[]),
        ("FROM --platform=$BUILDPLATFORM scratch\n", &[]),
        ("ARG D\nFROM scratch${D}\n", &[]), // declared is enough
        ("ARG D\nFROM scra${D:-tch}\n", &[]),
        (
            "FROM --platform=$BULIDPLATFORM scratch\n",
            &["1 UndefinedArgInFrom: FROM argument 'BULIDPLATFORM' is not declared (did you mean BUILDPLATFORM?)"],
        ),
        (
            "ARG MY_ARCH=amd64\nFROM --platform=linux/${MYARCH} busybox\n",
            &["2 UndefinedArgInFrom: FROM argument 'MYARCH' is not declared (did you mean MY_ARCH?)"],
        ),
        (
            "ARG tag=latest\nFROM busybox:${tag}${version} AS b\n",
            &["2 UndefinedArgInFrom: FROM argument 'version' is not declared"],
        ),
        (
            "ARG VERSION\nFROM busybox:$VERSION\n",
            &[
                "2 InvalidDefaultArgInFrom: Default value for ARG busybox:$VERSION results in empty or invalid base image name",
            ],
        ),
        (
            "ARG IMAGE\nFROM $IMAGE\n",
            &["2 InvalidDefaultArgInFrom: Default value for ARG $IMAGE results in empty or invalid base image name"],
        ),
        ("ARG V=latest\nFROM busybox:${V}\n", &[]),
        ("ARG V=\"\"\nFROM busybox:stable${V}\n", &[]),
    ]);
    // What is given does not excuse what is missing without it.
    let given = with_args(&[("SFX", "box:latest")]);
    assert_eq!(
        found_with("ARG SFX=\"box:\"\nFROM busy${SFX}\n", &given),
        ["2 InvalidDefaultArgInFrom: Default value for ARG busy${SFX} results in empty or invalid base image name"]
    );
}

#[test]
fn platforms_in_from() {
    table(&[
        (
            "FROM --platform=$TARGETPLATFORM scratch\n",
            &[
                "1 RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            ],
        ),
        (
            "FROM --platform=${TARGETPLATFORM} scratch\n",
            &[
                "1 RedundantTargetPlatform: Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant as this is the default behavior",
            ],
        ),
        ("FROM --platform=${TARGETOS}/${TARGETARCH} scratch\n", &[]),
        (
            "FROM --platform=linux/amd64 scratch\n",
            &["1 FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/amd64\""],
        ),
        ("FROM --platform=linux/amd64 scratch AS my_amd64_stage\n", &[]),
        ("FROM --platform=linux/amd64 scratch AS linux\n", &[]),
    ]);
    let layer = r#"{"os":"linux","architecture":"arm64","rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}}"#;
    assert_eq!(
        lines(report("FROM image\n", &options(), "", Some(layer)).unwrap()),
        [
            "1 InvalidBaseImagePlatform: Base image image was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build"
        ]
    );
    let fitting = layer.replace("arm64", "amd64");
    assert_eq!(lines(report("FROM image\n", &options(), "", Some(&fitting)).unwrap()), [""; 0]);
    let empty = r#"{"os":"linux","architecture":"arm64"}"#;
    assert_eq!(lines(report("FROM image\n", &options(), "", Some(empty)).unwrap()), [""; 0]);
}

#[test]
fn working_directories() {
    let relative = |line, path| {
        format!(
            "{line} WorkdirRelativePath: Relative workdir {path:?} can have unexpected results if the base image changes"
        )
    };
    assert_eq!(found("FROM scratch\nWORKDIR app/\nWORKDIR more\n"), [relative(2, "app/")]);
    assert_eq!(found("FROM scratch\nARG D=x\nWORKDIR $D\n"), [relative(3, "x")]);
    table(&[
        ("FROM scratch AS a\nWORKDIR /app\nFROM a\nWORKDIR sub\n", &[]),
        ("FROM scratch\nWORKDIR /a\nWORKDIR b\n", &[]),
    ]);
}

#[test]
fn undefined_variables() {
    table(&[
        ("FROM scratch\nARG foo\nCOPY Dockerfile${foo} .\n", &[]),
        ("FROM scratch AS base\nARG foo=Dockerfile\nFROM base\nCOPY $foo .\n", &[]),
        ("FROM scratch\nRUN echo $PATH $foo\nCMD [\"$foo\"]\n", &[]),
        ("FROM scratch\nCOPY a ${%x}\nENV a=$ b=\"$\"\n", &["2 UndefinedVar: Usage of undefined variable '$'"]),
        ("FROM scratch\nCOPY $foo .\nARG foo=bar\n", &["2 UndefinedVar: Usage of undefined variable '$foo'"]),
        (
            "FROM scratch\nARG DIR_BINARIES=b/\nARG DIR_ASSETS=a/\nCOPY $DIR_ASSET .\n",
            &["4 UndefinedVar: Usage of undefined variable '$DIR_ASSET' (did you mean $DIR_ASSETS?)"],
        ),
        (
            "FROM scratch\nENV PATH=$PAHT:/tmp/bin\n",
            &["2 UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?)"],
        ),
        (
            // A global ARG is not visible until the stage declares it.
            "ARG VERSION=1\nFROM scratch\nLABEL v=$VERSION\n",
            &["3 UndefinedVar: Usage of undefined variable '$VERSION'"],
        ),
        ("ARG VERSION=1\nFROM scratch\nARG VERSION\nLABEL v=$VERSION\n", &[]),
        (
            // All words of ENV see what was before.
            "FROM scratch\nENV first=1 second=$first\n",
            &["2 UndefinedVar: Usage of undefined variable '$first'"],
        ),
        (
            "FROM scratch\nUSER ${nobody:-root}\nVOLUME /$v\nWORKDIR /$w\nARG x=$y\n",
            &[
                "2 UndefinedVar: Usage of undefined variable '$nobody'",
                "3 UndefinedVar: Usage of undefined variable '$v'",
                "4 UndefinedVar: Usage of undefined variable '$w'",
                "5 UndefinedVar: Usage of undefined variable '$y'",
            ],
        ),
        (
            "FROM scratch\nCOPY <<E <<'F' /\n$inside\nE\n$quoted\nF\n",
            &["2 UndefinedVar: Usage of undefined variable '$inside'"],
        ),
        (
            "FROM scratch\nRUN --mount=type=bind,source=$mounted,target=/m true\n",
            &["2 UndefinedVar: Usage of undefined variable '$mounted'"],
        ),
        ("FROM scratch\nLABEL a='$b' c=\\$d\n", &[]),
    ]);
    assert_eq!(found_with("FROM scratch\nARG x=$y\n", &with_args(&[("x", "1")])), [""; 0]);
}

#[test]
fn variables_of_base_images() {
    let text = "FROM golang\nCOPY x $GOPATH/$other\n";
    let known = Some(r#"{"config":{"Env":["GOPATH=/go"]}}"#);
    assert_eq!(
        lines(report(text, &options(), "", known).unwrap()),
        ["2 UndefinedVar: Usage of undefined variable '$other'"]
    );
    // An unknown image may set anything, but hardly what the file itself was about to set or nearly sets.
    assert_eq!(lines(report(text, &options(), "", None).unwrap()), [""; 0]);
    for (text, expected) in [
        ("FROM golang\nCOPY x $out\nARG out=1\n", "2 UndefinedVar: Usage of undefined variable '$out'"),
        ("FROM golang\nENV PATH=$PAHT\n", "2 UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?)"),
    ] {
        assert_eq!(lines(report(text, &options(), "", None).unwrap()), [expected], "{text}");
    }
}

#[test]
fn instructions_that_count_once() {
    let once = |line, name| {
        format!(
            "{line} MultipleInstructionsDisallowed: Multiple {name} instructions should not be used in the same stage because only the last one will be used"
        )
    };
    assert_eq!(
        found(
            "FROM scratch\nENTRYPOINT [\"/a\"]\nCMD [\"/a\"]\nHEALTHCHECK CMD [\"/a\"]\nCOPY a /\nENTRYPOINT [\"/b\"]\nCMD [\"/b\"]\nHEALTHCHECK NONE\n"
        ),
        [once(2, "ENTRYPOINT"), once(3, "CMD"), once(4, "HEALTHCHECK")]
    );
    table(&[("FROM scratch AS a\nCMD [\"/a\"]\nFROM a\nCMD [\"/b\"]\n", &[])]);
}

#[test]
fn secrets_in_variables() {
    let secret = |line: usize, what: &str| {
        format!("{line} SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data ({what})")
    };
    let text = "FROM scratch\nARG SECRET_PASSPHRASE\nENV SUPER_Secret=foo\nENV password=bar secret=baz\n\
                ARG super_duper_secret_token=foo auth=bar\nENV apikey=bar sunflower=foo\nENV git_key=\n";
    assert_eq!(
        found(text),
        [
            secret(2, "ARG \"SECRET_PASSPHRASE\""),
            secret(3, "ENV \"SUPER_Secret\""),
            secret(4, "ENV \"password\""),
            secret(4, "ENV \"secret\""),
            secret(5, "ARG \"auth\""),
            secret(5, "ARG \"super_duper_secret_token\""),
            secret(6, "ENV \"apikey\""),
            secret(7, "ENV \"git_key\""),
        ]
    );
    table(&[
        ("FROM scratch\nENV PUBLIC_KEY=\nARG public_token\nARG SECRET_PASSPHRASE_FILE\nENV password_file=b\n", &[]),
        ("FROM scratch\nARG AUTH_MODULE_VERSION\nENV MONKEY=1 authority=2\n", &[]),
    ]);
}

#[test]
fn exposed_ports() {
    let casing =
        |port| format!("2 ExposeProtoCasing: Defined protocol '{port}' in EXPOSE instruction should be lowercase");
    let format = |port| {
        format!(
            "2 ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
        )
    };
    assert_eq!(found("FROM scratch\nEXPOSE 80/TcP 8080/TCP 8080/udp\n"), [casing("80/TcP"), casing("8080/TCP")]);
    assert_eq!(
        found("FROM scratch\nEXPOSE 127.0.0.1:80:80 [::1]:8080:8080 5000:5000 8000\n"),
        [format("127.0.0.1:80:80"), format("5000:5000"), format("[::1]:8080:8080")]
    );
    table(&[("FROM scratch\nARG P=80\nEXPOSE $P/tcp 81-83\n", &[])]);
}

#[test]
fn ignored_sources() {
    let ignored = |line, verb, file| {
        format!("{line} CopyIgnoredFile: Attempting to {verb} file {file:?} that is excluded by .dockerignore")
    };
    let text = "FROM scratch AS base\nCOPY ./tmp/x a /\nADD x/y https://h/x.tgz /\nFROM base\nCOPY --from=base tmp/x /\nCOPY . /\n";
    let with = |ignore: &str| lines(report(text, &options(), ignore, None).unwrap());
    assert_eq!(with("tmp\nx\n"), [ignored(2, "Copy", "tmp/x"), ignored(3, "Add", "x/y")]);
    assert_eq!(with("other\n"), [""; 0]);
    assert_eq!(with(""), [""; 0]);
    assert_eq!(with("**\n!tmp/x\n"), [""; 0]);
}

#[test]
fn descriptions() {
    let comment = |line, instruction, name| {
        format!(
            "{line} InvalidDefinitionDescription: Comment for {instruction} should follow the format: `# {name} <description>`"
        )
    };
    let text = "# check=experimental=InvalidDefinitionDescription\n# bar this is the bar\nARG foo=bar\n\
                # BasE this is the BasE image\nFROM scratch AS base\n# a bad comment\nARG version=latest\n\
                # a bad comment\nARG foo=baz bar=qux baz=quux\n";
    assert_eq!(
        found(text),
        [
            comment(3, "ARG", "foo"),
            comment(5, "FROM", "base"),
            comment(7, "ARG", "version"),
            comment(9, "ARG", "<arg_key>")
        ]
    );
    // It is off unless it is asked for.
    assert_eq!(found(text.trim_start_matches("# check=experimental=InvalidDefinitionDescription\n")), [""; 0]);
    let good = "# check=skip=all;experimental=InvalidDefinitionDescription\n# foo this is the foo\nARG foo=bar\n\n\
                # base this is the base image\nFROM scratch AS base\n\n# baz this is the baz\n\
                ARG foo=baz bar=qux baz=quux\n# something else\n#\nARG bit=bat\n# something else\n#\n\nARG b\n\
                # comment of no ARG or FROM\nCOPY Dockerfile .\n# check=skip=all\nARG c\n";
    assert_eq!(found(good), [""; 0]);
    assert_eq!(found("# check=experimental=all\nFROM scratch AS a\n"), [""; 0]);
}

#[test]
fn directives_choose_rules() {
    let casing = "FROM scratch as base\ncopy Dockerfile .\n";
    let both = [
        "FromAsCasing: 'as' and 'FROM' keywords' casing do not match",
        "ConsistentInstructionCasing: Command 'copy' should match the case of the command majority (uppercase)",
    ];
    for (directive, argument, expected, fails) in [
        ("", None, &both[..], false),
        ("#check=skip=all\n", None, &[], false),
        ("#check=skip=all;error=true\n", None, &[], false),
        ("# check=skip=ConsistentInstructionCasing,FromAsCasing;error=true\n", None, &[], false),
        ("# Check = skip=ConsistentInstructionCasing;error=true\n", None, &both[..1], true),
        ("#check=skip=NoSuchRule\n", None, &both, false),
        // The build argument replaces the directive.
        ("#check=skip=all\n", Some("skip=ConsistentInstructionCasing;error=true"), &both[..1], true),
        ("#check=error=true\n", Some("skip=all"), &[], false),
        ("#check=error=true\n", Some(""), &both, false),
    ] {
        let text = format!("{directive}{casing}");
        let args: Vec<(&str, &str)> = argument.iter().map(|value| (ARGUMENT, *value)).collect();
        let report = report(&text, &with_args(&args), "", None).unwrap();
        let found: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{directive}{argument:?}");
        let verdict = report.verdict(&read(&text).source);
        assert_eq!(verdict.is_err(), fails, "{directive}{argument:?}");
        if let Err(error) = verdict {
            assert_eq!(error.problem().to_string(), "lint violation found for rules: FromAsCasing");
            assert_eq!(error.span(), Span::line(2));
        }
    }
}

#[test]
fn comments_choose_rules_for_one_instruction() {
    table(&[
        ("FROM scratch\n# check=skip=JSONArgsRecommended // no signals here\nCMD x\n", &[]),
        ("FROM scratch\n# check=skip=all\nENV password=x\n", &[]),
        ("FROM scratch\n# check=skip=MaintainerDeprecated\nMAINTAINER me\n", &[]),
        ("FROM scratch\n# check=skip=LegacyKeyValueFormat\nENV k v\n", &[]),
        ("\n# check=skip=RedundantTargetPlatform\nFROM --platform=$TARGETPLATFORM scratch\n", &[]),
        (
            "FROM scratch\n# check=skip=all\nENV a=1\nENV b 2\n",
            &["4 LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format"],
        ),
        ("FROM scratch\n# check=skip=all\n\nENV b 2\n", &[]),
        (
            "FROM scratch\n# check=skip=all\n#\nENV b 2\n",
            &["4 LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format"],
        ),
    ]);
}

#[test]
fn directives_that_cannot_be_understood() {
    for (directive, argument, place) in [
        ("# check=skip\n", None, "Dockerfile:1: failed to parse check options: invalid check option \"skip\""),
        (
            "# syntax=x\n# check=erorr=true\n",
            None,
            "Dockerfile:2: failed to parse check options: invalid check option \"erorr\"",
        ),
        (
            "",
            Some("error=perhaps"),
            "BUILDKIT_DOCKERFILE_CHECK:1: failed to parse check options: failed to parse check option \"error=perhaps\"",
        ),
    ] {
        let args: Vec<(&str, &str)> = argument.iter().map(|value| (ARGUMENT, *value)).collect();
        let error = report(&format!("{directive}FROM scratch\n"), &with_args(&args), "", None).unwrap_err();
        assert!(error.to_string().starts_with(place), "{error}");
    }
}

#[test]
fn only_needed_stages_are_walked_in_a_build() {
    let text = "FROM scratch AS first\nCOPY $foo .\nFROM scratch AS second\nCOPY $bar .\nFROM second AS third\n";
    assert_eq!(found(text).len(), 2);
    let (file, options) = (read(text), options());
    let outline = plan::outline(&file, &options).unwrap();
    let around = Around { outline: Some(&outline), ignore: &Patterns::default(), base: &|_, _| None };
    let report = check(&file, &options, &around).unwrap();
    assert_eq!(lines(report), ["4 UndefinedVar: Usage of undefined variable '$bar'"]);
}

#[test]
fn what_cannot_be_planned_is_checked_as_far_as_possible() {
    for text in [
        "ARG a=${b:?no}\nFROM $a AS X\n",
        "FROM ${a:?no} AS X\nENV k=v\n",
        "FROM UPPER/case AS X\nENV k=$PATH\n",
        "FROM scratch AS X\nENV k=${PATH\nRUN --mount=type=nonsense x\n",
    ] {
        assert!(found(text).iter().any(|line| line.contains("StageNameCasing")), "{text}");
    }
    let unknown = |text: &str| evaluate(&read(text), &options(), &|_, _| None);
    assert!(unknown("FROM scratch\nSTOPSIGNAL nonsense\n").is_err());
    assert!(unknown("FROM nowhere\nEXPOSE $PORT/tcp\n").is_ok());
    assert!(unknown("FROM scratch\nCOPY --from=2 a /\n").is_err());
}

#[test]
fn a_base_image_is_asked_for_once() {
    let asked = std::cell::Cell::new(0);
    let base = |_: &Reference, _: &Platform| {
        asked.set(asked.get() + 1);
        None
    };
    let file = read("FROM image\nFROM image\nFROM image:other\nFROM scratch\n");
    check(&file, &options(), &Around { outline: None, ignore: &Patterns::default(), base: &base }).unwrap();
    assert_eq!(asked.get(), 2);
}

proptest::proptest! {
    #[test]
    fn never_panics(lines in proptest::collection::vec(
        "(# check=[a-z=;,]{0,9}|#|ARG a(=\\$b)?|ENV a \\$\\{a|ENV a=\\$[a-c]|EXPOSE [:/0-9T]{1,6}|WORKDIR \\$a|COPY \\.?/? \\$a|ONBUILD ENV b \\$c|FROM \\$a( AS [a-cA-C])?|CMD x \\\\|)", 0..9
    )) {
        let text = format!("FROM scratch AS a\n{}\n", lines.join("\n"));
        if let Ok(file) = dockerfile::parse(text.as_bytes(), "Dockerfile") {
            let ignore = Patterns::default();
            let report = check(&file, &options(), &Around { outline: None, ignore: &ignore, base: &|_, _| None });
            if let Ok(report) = report {
                let last = text.lines().count();
                proptest::prop_assert!(report.findings.iter().all(|finding| finding.span.last <= last));
            }
        }
    }
}
