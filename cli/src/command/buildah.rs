//! Flags of `buildah build` and `podman build`, turned into ours where the meaning is the same. What cannot be meant
//! here is refused with the reason, and what has nothing to do here is told.

use super::docker::refused;
use crate::args::BuildArgs;
use crate::args::build::{BuildahArgs, ImageFormat};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// Rewrites what was typed in buildah's words; gives what is to be said of flags without an effect.
pub fn translate(args: &mut BuildArgs) -> Outcome<Vec<String>> {
    refuse(&args.buildah)?;
    let buildah = &mut args.buildah;
    args.tag.extend(buildah.manifest.take());
    args.pull |= buildah.pull_always;
    args.build_arg.extend(buildah.timestamp.map(|seconds| format!("SOURCE_DATE_EPOCH={seconds}")));
    if buildah.format == Some(ImageFormat::Docker) {
        if !args.output.is_empty() {
            return Err(Failure::new(Exit::Usage, "--format docker says nothing of --output")
                .hint("write oci-mediatypes=false into --output"));
        }
        let push = std::mem::take(&mut args.push);
        args.output.push(format!("type=image,oci-mediatypes=false,push={push}"));
    }
    let idle = [
        ("--layers", buildah.layers.is_some(), "every step is a layer, and cached"),
        ("--format oci", buildah.format == Some(ImageFormat::Oci), "it is so in any case"),
    ];
    let told = |(flag, _, why): &(&str, bool, &str)| format!("{flag} has no effect: {why}");
    Ok(idle.iter().filter(|(_, given, _)| *given).map(told).collect())
}

fn refuse(args: &BuildahArgs) -> Outcome<()> {
    let rights = "the rights of steps are fixed";
    let flags = [
        (
            "--tls-verify=false",
            args.tls_verify == Some(false),
            "a certificate that is not checked protects nobody",
            "--insecure-registry HOST for plain HTTP, --registry-ca FILE for a private authority",
        ),
        (
            "--creds",
            args.creds.is_some(),
            "everybody on this machine sees command lines",
            "lighter login HOST, or --authfile FILE",
        ),
        (
            "--squash-all",
            args.squash_all == Some(true),
            "every step is a layer, so that layers can be shared",
            "end the Dockerfile with `FROM scratch` and `COPY --from=STAGE / /`",
        ),
        (
            "--volume",
            !args.volume.is_empty(),
            "a build depends on its Dockerfile and contexts alone",
            "--build-context NAME=DIR, and RUN --mount=from=NAME,target=…",
        ),
        (
            "--device",
            !args.device.is_empty(),
            "steps have no devices of this machine",
            "docs/build.md says what they have",
        ),
        ("--cap-add or --cap-drop", !args.cap_add.is_empty(), rights, "docs/build.md says what steps may do"),
        ("--userns", !args.userns.is_empty(), rights, "--isolation says how steps are kept apart from this machine"),
    ];
    match flags.into_iter().find(|(_, given, ..)| *given) {
        Some((flag, _, why, hint)) => Err(refused(flag, why, hint)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn read(flags: &[&str]) -> Outcome<(BuildArgs, Vec<String>)> {
        let words = ["lighter", "build"].iter().chain(flags).copied();
        match Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{flags:?}: {error}")).command {
            Command::Build(mut args) => translate(&mut args).map(|notes| (*args, notes)),
            _ => panic!("this is a build"),
        }
    }

    #[test]
    fn flags_of_buildah_mean_the_same() {
        let (args, notes) =
            read(&["--manifest", "a:1", "--timestamp=7", "--format=docker", "--push", "--tls-verify=true"]).unwrap();
        assert_eq!((args.tag, args.build_arg), (vec!["a:1".to_owned()], vec!["SOURCE_DATE_EPOCH=7".to_owned()]));
        assert_eq!(args.output, ["type=image,oci-mediatypes=false,push=true"]);
        assert!(!args.push && notes.is_empty(), "{notes:?}");
        assert_eq!(read(&["--layers", "--format", "oci"]).unwrap().1.len(), 2);
        assert_eq!(read(&["--source-date-epoch", "9"]).unwrap().0.build_arg, ["SOURCE_DATE_EPOCH=9"]);
        for (flag, pull) in [
            ("--pull", true),
            ("--pull=always", true),
            ("--pull=newer", true),
            ("--pull-always", true),
            ("--pull=missing", false),
            ("--pull=false", false),
            ("--layers=false", false),
        ] {
            assert_eq!(read(&[flag]).unwrap().0.pull, pull, "{flag}");
        }
        for wrong in ["--pull=never", "--pull=x", "--format=v2"] {
            assert!(Cli::try_parse_from(["lighter", "build", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for flags in [
            &["--tls-verify=false"][..],
            &["--creds", "me:secret"],
            &["--squash-all"],
            &["--volume", "/a:/b"],
            &["--device", "/dev/fuse"],
            &["--cap-add", "all"],
            &["--cap-drop=all"],
            &["--userns", "host"],
            &["--format", "docker", "-o", "type=tar,dest=x"],
        ] {
            let failure = read(flags).unwrap_err();
            assert!(failure.exit == Exit::Usage && failure.hint.is_some(), "{flags:?}: {failure}");
            assert!(!failure.to_string().contains("secret"));
        }
    }
}
