//! Flags that scripts of `docker build` have in them: done elsewhere, of no effect here, or refused with the
//! reason. Nothing is ignored without a word.

use crate::args::build::DockerArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// What cannot be meant here, why, and what to do instead.
pub(super) fn refused(flag: &str, why: &str, hint: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{flag} is not done here: {why}")).hint(hint)
}

/// Checks the flags; gives what is to be said of those that have no effect.
pub fn notes(args: &DockerArgs) -> Outcome<Vec<String>> {
    refuse(args)?;
    let mut notes = Vec::new();
    if args.load == Some(true) {
        notes.push(
            "--load: the image is in the local store; `lighter build -o type=docker,dest=- … | docker load` gives it to docker"
                .to_owned(),
        );
    }
    let idle = [
        ("--rm", args.rm.is_some(), "no containers are left behind in any case"),
        ("--force-rm", args.force_rm.is_some(), "no containers are left behind in any case"),
        ("--compress", args.compress == Some(true), "the context is never sent anywhere"),
        ("--builder", args.builder.is_some(), "there is one builder, this program"),
    ];
    notes.extend(
        idle.iter().filter(|(_, given, _)| *given).map(|(flag, _, why)| format!("{flag} has no effect: {why}")),
    );
    Ok(notes)
}

fn refuse(args: &DockerArgs) -> Outcome<()> {
    if args.squash == Some(true) {
        let hint = "end the Dockerfile with `FROM scratch` and `COPY --from=STAGE / /`";
        return Err(refused("--squash", "every step is a layer, so that layers can be shared", hint));
    }
    let groups = [
        ("--cgroup-parent", &args.cgroup_parent),
        ("--memory", &args.memory),
        ("--memory-swap", &args.memory_swap),
        ("--cpu-shares", &args.cpu_shares),
        ("--cpuset-cpus", &args.cpuset_cpus),
    ];
    if let Some((flag, _)) = groups.iter().find(|(_, value)| value.is_some()) {
        let hint = "limit the job that builds, or the processes of steps with --ulimit";
        return Err(refused(flag, "steps have no control group of their own", hint));
    }
    if !args.security_opt.is_empty() {
        let hint = "what steps may do is in docs/build.md";
        return Err(refused("--security-opt", "the profile of steps is fixed", hint));
    }
    if args.disable_content_trust == Some(false) {
        let hint = "name base images by digest: FROM NAME@sha256:…";
        return Err(refused("--disable-content-trust=false", "Notary signatures are not checked", hint));
    }
    for entitlement in &args.allow {
        if entitlement != "network.host" {
            let flag = format!("--allow {entitlement}");
            return Err(refused(&flag, "no step gets more rights than the sandbox gives", "leave it away"));
        }
    }
    for (flag, value) in [("--provenance", &args.provenance), ("--sbom", &args.sbom)] {
        if value.as_deref().is_some_and(|value| !is_off(value)) {
            return Err(attestation(&format!("{flag}={}", value.as_deref().unwrap_or_default())));
        }
    }
    match args.attest.iter().find(|text| !text.split(',').any(|field| field == "disabled=true")) {
        Some(text) => Err(attestation(&format!("--attest {text}"))),
        None => Ok(()),
    }
}

fn is_off(value: &str) -> bool {
    matches!(value, "false" | "0") || value.split(',').any(|field| field == "disabled=true")
}

fn attestation(flag: &str) -> Failure {
    let hint = "leave it away, or say --provenance=false --sbom=false; attach documents to the image with a tool of your choice";
    refused(flag, "attestations are not made", hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn read(flags: &[&str]) -> Outcome<Vec<String>> {
        let words = ["lighter", "build"].iter().chain(flags).copied();
        match Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{flags:?}: {error}")).command {
            Command::Build(args) => notes(&args.docker),
            _ => panic!("this is a build"),
        }
    }

    #[test]
    fn flags_of_scripts_are_done_noted_or_refused() {
        for harmless in [
            &["--provenance=false"][..],
            &["--provenance", "disabled=true,mode=max"],
            &["--sbom=false", "--attest", "type=sbom,disabled=true"],
            &["--allow", "network.host"],
            &["--disable-content-trust"],
            &["--load=false", "--compress=false", "--squash=false"],
        ] {
            assert_eq!(read(harmless).unwrap(), Vec::<String>::new(), "{harmless:?}");
        }
        for (flags, count) in
            [(&["--rm", "--force-rm"][..], 2), (&["--load"], 1), (&["--builder", "x", "--compress"], 2)]
        {
            assert_eq!(read(flags).unwrap().len(), count, "{flags:?}");
        }
        for refused in [
            &["--squash"][..],
            &["--memory", "1g"],
            &["-m", "1g"],
            &["--memory-swap", "-1"],
            &["--cpu-quota", "1"],
            &["--cgroup-parent", "x"],
            &["--security-opt", "seccomp=unconfined"],
            &["--disable-content-trust=false"],
            &["--allow", "security.insecure"],
            &["--provenance", "mode=max"],
            &["--sbom=true"],
            &["--attest", "type=sbom"],
        ] {
            let failure = read(refused).unwrap_err();
            assert!(failure.exit == Exit::Usage && failure.hint.is_some(), "{refused:?}: {failure}");
        }
    }
}
