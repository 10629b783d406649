//! `lighter build --check` and `--call` as they are typed: what they print where, and how they end.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fixtures::den::Den;
use serde_json::{Value, json};

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

/// A directory with a build context, and a home for lighter's data.
struct Bench {
    den: Den,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let bench = Self { den: Den::new("check") };
        std::fs::create_dir(bench.context()).unwrap();
        for (name, content) in files {
            std::fs::write(bench.context().join(name), content).unwrap();
        }
        bench
    }

    fn context(&self) -> PathBuf {
        self.den.path().join("context")
    }

    fn lighter(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(LIGHTER);
        command.arg("build").args(arguments).current_dir(self.context()).stdin(Stdio::null());
        command.env_clear().env("HOME", self.den.path().join("home"));
        Ended::from(command.output().expect("lighter starts"))
    }
}

/// Exit code, stdout, stderr.
struct Ended {
    code: Option<i32>,
    out: String,
    told: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), told: text(&output.stderr) }
    }
}

const CARELESS: &str = "FROM scratch AS Base\nCOPY a /\nENV k v\n\nFROM base\nCMD x $y\n";

#[test]
fn findings_are_data_and_give_exit_code_1() {
    let bench = Bench::new(&[("Dockerfile", CARELESS), ("a", "a")]);
    let expected = "\
./Dockerfile:1: StageNameCasing: Stage name 'Base' should be lowercase
   1 | >>> FROM scratch AS Base
   2 |     COPY a /
   3 |     ENV k v

./Dockerfile:3: LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format
   1 |     FROM scratch AS Base
   2 |     COPY a /
   3 | >>> ENV k v
   4 |
   5 |     FROM base

./Dockerfile:6: JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
   4 |
   5 |     FROM base
   6 | >>> CMD x $y
";
    for flag in ["--check", "--call=check", "--call=lint", "--call=format=text,check", "--print=lint"] {
        let ended = bench.lighter(&[flag, "."]);
        assert_eq!(ended.code, Some(1), "{}", ended.told);
        assert_eq!(ended.out, expected);
        assert_eq!(ended.told, "error: the check found 3 problems\n");
    }
    // The options of a build may stay; nothing is built.
    let ended = bench.lighter(&["--check", "-t", "x", "--push", "-o", "type=oci,dest=x.tar", "--target", "base", "."]);
    assert_eq!((ended.code, ended.out.lines().filter(|line| line.contains("Dockerfile:")).count()), (Some(1), 2));
    assert!(!bench.context().join("x.tar").exists());
}

#[test]
fn nothing_found_is_exit_code_0() {
    let clean = "# check=skip=JSONArgsRecommended\nFROM scratch AS a\nCOPY a /\nCMD x\n";
    let bench = Bench::new(&[("Dockerfile", clean), ("a", "a")]);
    let ended = bench.lighter(&["--check", "."]);
    assert_eq!((ended.code, ended.out.as_str(), ended.told.as_str()), (Some(0), "", "check: nothing found\n"));
    let ended = bench.lighter(&["--check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true", "."]);
    assert_eq!(ended.code, Some(1), "the argument replaces the directive: {}", ended.told);
}

/// What a base image says of variables is known from a `--build-context` that stands for it, too.
#[test]
fn base_images_come_from_contexts() {
    let text = "FROM base\nENV a=$said b=$unsaid\n";
    let bench = Bench::new(&[("Dockerfile", text), ("Base", "FROM scratch\nENV said=1\n")]);
    let ended = bench.lighter(&["-f", "Base", "-o", "type=oci,dest=layout,tar=false", "."]);
    assert_eq!(ended.code, Some(0), "{}", ended.told);
    let ended = bench.lighter(&["--check", "--build-context", "base=oci-layout://layout", "."]);
    assert_eq!(ended.told, "error: the check found 1 problem\n");
    assert!(ended.out.contains("UndefinedVar: Usage of undefined variable '$unsaid'"), "{}", ended.out);
}

#[test]
fn errors_are_errors() {
    for (dockerfile, arguments, code, wanted) in [
        ("FROM scratch\nRNU x\n", &["--check", "."][..], 65, &["Dockerfile:2", "did you mean RUN?"][..]),
        ("# check=skip\nFROM scratch\n", &["--check", "."], 65, &["Dockerfile:1", "invalid check option", "hint:"]),
        ("FROM scratch AS X\nSTOPSIGNAL y\n", &["--check", "."], 65, &["Dockerfile:2", "invalid signal"]),
        ("FROM scratch\nCOPY --from=3 a /\n", &["--check", "."], 65, &["Dockerfile:2", "invalid stage index 3"]),
        ("FROM scratch\n", &["--check", "--target", "no", "."], 65, &["target stage \"no\""]),
        ("FROM scratch\n", &["--check", "--call=check", "."], 64, &["cannot be used with"]),
        ("FROM scratch\n", &["--call=describe", "."], 64, &["describe", "build, check, outline and targets"]),
        ("FROM scratch\n", &["--call=outline,check", "."], 64, &["\"check\" is a second method"]),
        ("FROM scratch\n", &["--call=format=json", "."], 64, &["no method"]),
        ("FROM scratch\n", &["--call=outline,format=yaml", "."], 64, &["the formats are text and json"]),
        ("FROM scratch\n", &["--call=check,ignorestatus=maybe", "."], 64, &["it is true or false"]),
        ("FROM scratch\n", &["--call=check,status=1", "."], 64, &["there are format and ignorestatus"]),
        ("FROM scratch\n", &["--call=outline", "--plan", "."], 64, &["cannot be used with"]),
        ("FROM scratch\nRNU x\n", &["--call=targets", "."], 65, &["Dockerfile:2", "did you mean RUN?"]),
        ("FROM scratch AS X\nSTOPSIGNAL y\n", &["--call=check,ignorestatus=true", "."], 65, &["invalid signal"]),
        ("FROM scratch AS x\nSTOPSIGNAL y\n", &["--call=outline", "."], 65, &["Dockerfile:2", "invalid signal"]),
        ("FROM scratch\n", &["--call=outline", "--target", "no", "."], 65, &["target stage \"no\""]),
        ("FROM scratch\n", &["--check", "nowhere"], 66, &["nowhere"]),
    ] {
        let bench = Bench::new(&[("Dockerfile", dockerfile)]);
        let ended = bench.lighter(arguments);
        assert_eq!(ended.code, Some(code), "{dockerfile}{arguments:?}\n{}", ended.told);
        for part in wanted {
            assert!(ended.told.contains(part), "{dockerfile}\nwithout {part:?}:\n{}", ended.told);
        }
        assert_eq!(ended.out.contains("StageNameCasing"), dockerfile.contains("AS X"), "what was found is told first");
    }
}

#[test]
fn ignored_files_are_found() {
    let text = "FROM scratch\nCOPY a /\nCOPY b /\n";
    let bench = Bench::new(&[("Dockerfile", text), (".dockerignore", "b\n"), ("a", "a"), ("b", "b")]);
    let ended = bench.lighter(&["--check", "."]);
    assert_eq!(ended.code, Some(1), "{}", ended.told);
    let wanted = "Dockerfile:3: CopyIgnoredFile: Attempting to Copy file \"b\" that is excluded by .dockerignore";
    assert!(ended.out.contains(wanted), "{}", ended.out);
}

#[test]
fn a_base_image_that_cannot_be_had_is_told() {
    let text = "FROM 127.0.0.1:1/base:1\nCOPY $FROM_THE_BASE /\nENV PATH=$PAHT\n";
    let bench = Bench::new(&[("Dockerfile", text)]);
    let ended = bench.lighter(&["--check", "."]);
    assert_eq!(ended.code, Some(1), "{}", ended.told);
    assert!(ended.out.contains("did you mean $PATH?") && !ended.out.contains("FROM_THE_BASE'"), "{}", ended.out);
    assert_eq!(ended.told.matches("note: 127.0.0.1:1/base:1 cannot be had").count(), 1, "{}", ended.told);
}

#[test]
fn a_base_image_in_the_local_store_is_known() {
    let bench = Bench::new(&[
        ("Dockerfile", "FROM base:1\nCOPY a $HERE\nCOPY a /$THERE\n"),
        ("base", "FROM scratch\nCOPY a /\nENV HERE=/here\n"),
        ("a", "a"),
    ]);
    let ended = bench.lighter(&["-f", "base", "-t", "base:1", "."]);
    assert_eq!(ended.code, Some(0), "{}", ended.told);
    let ended = bench.lighter(&["--check", "."]);
    assert_eq!(ended.code, Some(1), "{}", ended.told);
    assert!(ended.out.contains("'$THERE'") && !ended.out.contains("'$HERE'"), "{}", ended.out);
}

#[test]
fn a_build_warns_about_the_stages_it_builds() {
    let text = "FROM scratch AS other\nENV k v\nFROM scratch as last\nCOPY a /\nCMD x\n";
    let bench = Bench::new(&[("Dockerfile", text), ("a", "a")]);
    let ended = bench.lighter(&["--progress=plain", "."]);
    assert_eq!(ended.code, Some(0), "{}", ended.told);
    let warnings: Vec<&str> = ended.told.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(
        warnings,
        [
            "warning: FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 3)",
            "warning: JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 5)",
        ]
    );
}

#[test]
fn findings_can_fail_a_build_before_its_first_step() {
    let text = "# check=error=true\nFROM scratch\nCOPY a /\nENV k v\n";
    let bench = Bench::new(&[("Dockerfile", text), ("a", "a")]);
    let ended = bench.lighter(&["--progress=plain", "."]);
    assert_eq!(ended.code, Some(65), "{}", ended.told);
    assert_eq!(ended.out, "");
    for part in
        ["warning: LegacyKeyValueFormat", "Dockerfile:4: lint violation found for rules: LegacyKeyValueFormat", "skip="]
    {
        assert!(ended.told.contains(part), "without {part:?}:\n{}", ended.told);
    }
    assert!(!ended.told.contains("COPY a / ") && !ended.told.contains("#1"), "no step was begun:\n{}", ended.told);
    let ended = bench.lighter(&["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all", "."]);
    assert_eq!(ended.code, Some(0), "{}", ended.told);
}

#[test]
fn findings_can_be_asked_for_without_failure() {
    let bench = Bench::new(&[("Dockerfile", CARELESS), ("a", "a")]);
    let ended = bench.lighter(&["--call=check,ignorestatus=true", "."]);
    assert_eq!((ended.code, ended.told.as_str()), (Some(0), "check: 3 problems\n"));
    assert_eq!(ended.out, bench.lighter(&["--check", "."]).out);
    let ended = bench.lighter(&["--call=check,ignorestatus=false", "."]);
    assert_eq!(ended.code, Some(1), "{}", ended.told);
}

#[test]
fn findings_as_json() {
    let bench = Bench::new(&[("Dockerfile", CARELESS), ("a", "a")]);
    let ended = bench.lighter(&["--call=check,format=json", "."]);
    assert_eq!((ended.code, ended.told.as_str()), (Some(1), "error: the check found 3 problems\n"));
    let found: Value = serde_json::from_str(&ended.out).unwrap();
    let rules: Vec<&str> = found["warnings"].as_array().unwrap().iter().map(|one| text(&one["ruleName"])).collect();
    assert_eq!(rules, ["StageNameCasing", "LegacyKeyValueFormat", "JSONArgsRecommended"]);
    let first = json!({
        "ruleName": "StageNameCasing",
        "description": "Stage names should be lowercase",
        "url": "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
        "detail": "Stage name 'Base' should be lowercase",
        "location": {"ranges": [{"start": {"line": 1}, "end": {"line": 1}}]},
    });
    assert_eq!(found["warnings"][0], first);
    let source = &found["sources"][0];
    assert_eq!((text(&source["filename"]), text(&source["language"])), ("Dockerfile", "Dockerfile"));
    assert_eq!(STANDARD.decode(text(&source["data"])).unwrap(), CARELESS.as_bytes());
    assert_eq!(found.get("buildError"), None);
    let clean = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a")]);
    let ended = clean.lighter(&["--call=check,format=json", "."]);
    let found: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((ended.code, &found["warnings"]), (Some(0), &json!([])));
}

/// What cannot be built is in the document too, so that a program finds everything there.
#[test]
fn errors_as_json() {
    for (dockerfile, arguments, message, location, warnings) in [
        ("FROM scratch\nRNU \\\nx\n", &["."][..], "unknown instruction: RNU", lines(2, 3), 0),
        ("FROM scratch AS X\nSTOPSIGNAL y\n", &["."], "invalid signal: y", lines(2, 2), 1),
        ("# check=skip\nFROM scratch\n", &["."], "failed to parse check options", lines(1, 1), 0),
        // This stands on the command line, and at no line of the Dockerfile.
        (
            "FROM scratch\n",
            &["--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip", "."],
            "failed to parse check options",
            json!({}),
            0,
        ),
    ] {
        let bench = Bench::new(&[("Dockerfile", dockerfile)]);
        let ended = bench.lighter(&[&["--call=check,format=json,ignorestatus=true"], arguments].concat());
        assert_eq!(ended.code, Some(65), "{dockerfile}{}", ended.told);
        assert!(ended.told.contains(message), "{}", ended.told);
        let found: Value = serde_json::from_str(&ended.out).unwrap();
        assert!(text(&found["buildError"]["message"]).starts_with(message), "{}", ended.out);
        assert_eq!(found["buildError"]["location"], location, "{dockerfile}");
        assert_eq!(found["warnings"].as_array().map(Vec::len), Some(warnings), "{dockerfile}");
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn lines(first: usize, last: usize) -> Value {
    let range = |line| json!({"start": {"line": line}, "end": {"line": line}});
    json!({"ranges": (first..=last).map(range).collect::<Vec<Value>>()})
}

const DESCRIBED: &str = "\
# BASE what the service runs on
ARG BASE=scratch
FROM ${BASE} AS tools
FROM tools AS service
# PORT where it listens
ARG PORT=80
RUN --mount=type=secret,id=npm,required --mount=type=ssh true
# test runs what nobody ships
FROM service AS test
ARG LEVEL
";

#[test]
fn an_outline_says_what_a_target_can_be_given() {
    let bench = Bench::new(&[("Dockerfile", DESCRIBED)]);
    let ended = bench.lighter(&["--call=outline", "."]);
    let expected = [
        "TARGET:      test",
        "DESCRIPTION: runs what nobody ships",
        "",
        "BUILD ARG   VALUE     DESCRIPTION",
        "BASE        scratch   what the service runs on",
        "PORT        80        where it listens",
        "LEVEL                 ",
        "",
        "SECRET   REQUIRED",
        "npm      true",
        "",
        "SSH       REQUIRED",
        "default   ",
    ];
    assert_eq!((ended.code, ended.told.as_str()), (Some(0), ""));
    assert_eq!(ended.out.lines().collect::<Vec<&str>>(), expected);
    // Nothing is built, whatever else is asked for.
    let flags = ["--call=outline,format=json", "--target=service", "--build-arg=PORT=81", "-t", "x", "--push", "."];
    let ended = bench.lighter(&flags);
    assert_eq!((ended.code, ended.told.as_str()), (Some(0), ""));
    let outline: Value = serde_json::from_str(&ended.out).unwrap();
    let expected = json!([
        {"name": "BASE", "value": "scratch", "description": "what the service runs on", "location": lines(2, 2)},
        {"name": "PORT", "value": "81", "description": "where it listens", "location": lines(6, 6)},
    ]);
    assert_eq!((text(&outline["name"]), &outline["args"]), ("service", &expected));
    assert_eq!(STANDARD.decode(text(&outline["sources"][0])).unwrap(), DESCRIBED.as_bytes());
}

/// An answer needs no registry; it says what it did without.
#[test]
fn an_outline_does_without_a_base_image_that_cannot_be_had() {
    let bench = Bench::new(&[("Dockerfile", "FROM 127.0.0.1:1/base:1\nARG HERE=$THERE\n")]);
    let ended = bench.lighter(&["--call=outline", "."]);
    assert_eq!((ended.code, ended.out.contains("HERE")), (Some(0), true), "{}", ended.told);
    assert_eq!(ended.told.matches("note: 127.0.0.1:1/base:1 cannot be had").count(), 1, "{}", ended.told);
}

#[test]
fn targets_are_the_stages() {
    let bench = Bench::new(&[("Dockerfile", DESCRIBED)]);
    let ended = bench.lighter(&["--call=targets", "."]);
    assert_eq!((ended.code, ended.told.as_str()), (Some(0), ""));
    let expected =
        "TARGET         DESCRIPTION\ntools          \nservice        \ntest (default) runs what nobody ships\n";
    assert_eq!(ended.out, expected);
    let ended = bench.lighter(&["--call=targets,format=json", "."]);
    let found: Value = serde_json::from_str(&ended.out).unwrap();
    let expected = json!([
        {"name": "tools", "base": "${BASE}", "location": lines(3, 3)},
        {"name": "service", "base": "tools", "location": lines(4, 4)},
        {
            "name": "test",
            "default": true,
            "description": "runs what nobody ships",
            "base": "service",
            "location": lines(9, 9)
        },
    ]);
    assert_eq!(found["targets"], expected);
}
