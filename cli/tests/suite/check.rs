//! `lighter build --check` as it is typed: what it prints where, and how it ends.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use fixtures::den::Den;

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
    for flag in ["--check", "--call=check"] {
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
        ("FROM scratch\n", &["--call=outline", "."], 64, &["outline", "check"]),
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
