//! kaniko's flags, turned into ours where the meaning is the same. What cannot be meant here is refused with
//! the reason, and what has nothing to do here is told.

use std::path::{Path, PathBuf};

use super::docker::refused;
use crate::args::BuildArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// Rewrites what was typed in kaniko's words; gives what is to be said of flags without an effect.
pub fn translate(args: &mut BuildArgs) -> Outcome<Vec<String>> {
    refuse(args)?;
    context(args)?;
    let kaniko = &mut args.kaniko;
    if !kaniko.destination.is_empty() {
        if args.push && kaniko.no_push == Some(true) {
            return Err(Failure::new(Exit::Usage, "--push and --no-push cannot both be meant"));
        }
        args.push |= kaniko.no_push != Some(true);
    } else if kaniko.no_push == Some(true) && args.push {
        return Err(Failure::new(Exit::Usage, "--push and --no-push cannot both be meant"));
    }
    args.tag.append(&mut kaniko.destination);
    if kaniko.insecure == Some(true) {
        let hosts = args.tag.iter().filter_map(|name| name.parse::<oci::Reference>().ok());
        args.registry.insecure_registry.extend(hosts.map(|name| name.host().to_string()));
    }
    args.platform.extend(kaniko.custom_platform.take());
    for certificate in &kaniko.registry_certificate {
        let (_, file) = certificate.split_once('=').ok_or_else(|| {
            Failure::new(Exit::Usage, format!("--registry-certificate `{certificate}` has no file"))
                .hint("--registry-certificate HOST=FILE, or --registry-ca FILE")
        })?;
        args.registry.registry_ca.push(PathBuf::from(file));
    }
    if kaniko.registry_mirror.len() > 1 {
        let hint = "name one, or write --registry-map docker.io=HOST";
        return Err(refused("--registry-mirror with several hosts", "one registry stands for another here", hint));
    }
    args.registry.registry_map.extend(kaniko.registry_mirror.iter().map(|host| format!("docker.io={host}")));
    if let Some(path) = kaniko.tar_path.take() {
        args.output.push(format!("\"type=docker\",\"dest={}\"", path.display()));
    }
    if let Some(path) = kaniko.oci_layout_path.take() {
        args.output.push(format!("\"type=oci\",\"tar=false\",\"dest={}\"", path.display()));
    }
    let has_epoch = crate::settings::variable("SOURCE_DATE_EPOCH").is_some()
        || args.build_arg.iter().any(|text| text.starts_with("SOURCE_DATE_EPOCH="));
    if args.kaniko.reproducible == Some(true) && !has_epoch {
        args.build_arg.push("SOURCE_DATE_EPOCH=0".to_owned());
    }
    Ok(notes(args))
}

/// `--context` in the words of kaniko, `--dockerfile`, `--context-sub-path`.
fn context(args: &mut BuildArgs) -> Outcome<()> {
    if let Some(text) = args.kaniko.kaniko_context.take() {
        let is_cloud = ["gs://", "s3://", "https://"].iter().any(|scheme| text.starts_with(scheme))
            && (text.starts_with("gs://") || text.starts_with("s3://") || text.contains(".blob.core.windows.net/"));
        if is_cloud {
            let hint = "fetch the tar with the provider's program: … | lighter build -";
            return Err(refused(&format!("--context {text}"), "object stores are not spoken to", hint));
        }
        args.context = match text.strip_prefix("dir://") {
            Some(path) => PathBuf::from(path),
            None if text.starts_with("git://") => PathBuf::from(git(&text)?),
            // tar:// stays, so that the context is known to be a file; tar://stdin is kaniko's name for -.
            None if text == "tar://stdin" => PathBuf::from("-"),
            None => PathBuf::from(text),
        };
    }
    if let Some(sub) = args.kaniko.context_sub_path.take() {
        if !args.context.is_dir() {
            let hint = "for a repository write URL#REF:DIRECTORY";
            return Err(refused("--context-sub-path", "the context is no directory", hint));
        }
        if Path::new(&sub).components().any(|part| matches!(part, std::path::Component::ParentDir)) {
            return Err(Failure::new(Exit::Usage, format!("--context-sub-path `{sub}` leads out of the context")));
        }
        args.context = args.context.join(sub.trim_start_matches('/'));
    }
    if let Some(file) = args.kaniko.dockerfile.take() {
        if args.file.is_some() {
            return Err(Failure::new(Exit::Usage, "--file and --dockerfile are the same; give one"));
        }
        let inside = args.context.join(&file);
        let elsewhere = file.is_relative() && !file.exists() && inside.exists();
        args.file = Some(if elsewhere { inside } else { file });
    }
    Ok(())
}

/// kaniko fetches `git://HOST/PATH[#REF[#COMMIT]]` over https.
fn git(text: &str) -> Outcome<String> {
    let mut parts = text.trim_start_matches("git://").split('#');
    let address = parts.next().unwrap_or_default();
    let (reference, commit) = (parts.next(), parts.next());
    if address.is_empty() || parts.next().is_some() {
        return Err(Failure::new(Exit::Usage, format!("--context `{text}` cannot be read"))
            .hint("--context git://HOST/PATH[#REF[#COMMIT]]"));
    }
    let address = if address.ends_with(".git") { address.to_owned() } else { format!("{address}.git") };
    let wanted = commit.or(reference).filter(|wanted| !wanted.is_empty());
    Ok(wanted.map_or(format!("https://{address}"), |wanted| format!("https://{address}#{wanted}")))
}

fn refuse(args: &BuildArgs) -> Outcome<()> {
    let kaniko = &args.kaniko;
    if kaniko.insecure_pull == Some(true) {
        let hint = "say which registry speaks plain HTTP: --insecure-registry HOST[:PORT]";
        return Err(refused("--insecure-pull", "it would open every connection", hint));
    }
    if kaniko.skip_tls_verify == Some(true) || !kaniko.skip_tls_verify_registry.is_empty() {
        let hint = "give the registry's CA with --registry-ca FILE";
        return Err(refused("--skip-tls-verify", "a certificate that is not checked protects nobody", hint));
    }
    if kaniko.single_snapshot == Some(true) {
        let hint = "end the Dockerfile with `FROM scratch` and `COPY --from=STAGE / /`";
        return Err(refused("--single-snapshot", "every step is a layer, so that layers can be shared", hint));
    }
    if let Some(path) = kaniko.ignore_path.first() {
        let hint = "remove it in the step that makes it, or mount over it: RUN --mount=type=tmpfs,target=…";
        return Err(refused(&format!("--ignore-path {path}"), "what a step changes is in its layer", hint));
    }
    if let Some(text) = &kaniko.git {
        let hint = "write the branch into the address: URL#BRANCH";
        return Err(refused(&format!("--git {text}"), "what is fetched is said in the address", hint));
    }
    Ok(())
}

fn notes(args: &BuildArgs) -> Vec<String> {
    let kaniko = &args.kaniko;
    let on = |flag: Option<bool>| flag == Some(true);
    let idle = [
        (
            "--snapshot-mode",
            kaniko.snapshot_mode.is_some(),
            "changes are read from the step's own directory, never looked for",
        ),
        ("--use-new-run", on(kaniko.use_new_run), "changes are read from the step's own directory, never looked for"),
        ("--cleanup", on(kaniko.cleanup), "the file system of the job is never touched"),
        ("--force", on(kaniko.force), "the file system of the job is never touched"),
        ("--ignore-var-run", on(kaniko.ignore_var_run), "the file system of the job is never part of the image"),
        ("--skip-unused-stages", on(kaniko.skip_unused_stages), "they are never built"),
        ("--skip-push-permission-check", on(kaniko.skip_push_permission_check), "there is none"),
        ("--compressed-caching", kaniko.compressed_caching.is_some(), "layers are never held in memory"),
        ("--force-build-metadata", on(kaniko.force_build_metadata), "metadata is always written"),
        ("--push-retry", kaniko.push_retry.is_some(), "passing faults are tried again in any case"),
        ("--verbosity", kaniko.verbosity.is_some(), "-v, -vv and -vvv say more"),
        ("--log-format", kaniko.log_format.is_some(), "--progress says how the build tells what it does"),
        ("--log-timestamp", on(kaniko.log_timestamp), "--progress says how the build tells what it does"),
        ("--kaniko-dir", kaniko.kaniko_dir.is_some(), "--data says where lighter keeps its files"),
        (
            "--registry-mirror",
            !kaniko.registry_mirror.is_empty() && !on(kaniko.skip_default_registry_fallback),
            "falling back to docker.io: the mirror alone is asked",
        ),
    ];
    let told = |(flag, _, why): &(&str, bool, &str)| format!("{flag} has no effect: {why}");
    idle.iter().filter(|(_, given, _)| *given).map(told).collect()
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
    fn flags_of_kaniko_mean_the_same() {
        let (args, notes) = read(&[
            "--context=dir:///w",
            "--dockerfile=D",
            "--destination=h:1/a:1",
            "-d",
            "h:1/a:2",
            "--insecure",
            "--tarPath=x.tar",
            "--oci-layout-path=l",
            "--customPlatform=linux/arm64",
            "--reproducible",
            "--registry-mirror=m",
            "--skip-default-registry-fallback",
            "--registry-certificate=h=ca.pem",
        ])
        .unwrap();
        assert_eq!((args.context, args.file), (PathBuf::from("/w"), Some(PathBuf::from("D"))));
        assert_eq!((args.tag, args.push), (vec!["h:1/a:1".to_owned(), "h:1/a:2".to_owned()], true));
        assert_eq!(args.registry.insecure_registry, ["h:1", "h:1"]);
        assert_eq!((args.output.len(), args.platform.len()), (2, 1));
        assert_eq!(
            (args.build_arg, args.registry.registry_map),
            (vec!["SOURCE_DATE_EPOCH=0".to_owned()], vec!["docker.io=m".to_owned()])
        );
        assert_eq!((args.registry.registry_ca, notes), (vec![PathBuf::from("ca.pem")], Vec::new()));
        assert!(!read(&["-d", "a", "--no-push"]).unwrap().0.push);
        assert!(read(&["-d", "a", "--no-push", "--push"]).is_err());
        for (context, wanted) in [
            ("git://h/a/b#refs/heads/x", "https://h/a/b.git#refs/heads/x"),
            ("git://h/b.git#refs/heads/x#0123456", "https://h/b.git#0123456"),
            ("tar://stdin", "-"),
            ("tar://x.tar.gz", "tar://x.tar.gz"),
        ] {
            assert_eq!(read(&["--context", context]).unwrap().0.context, PathBuf::from(wanted));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_what_has_nothing_to_do_is_told() {
        for refused in [
            &["--skip-tls-verify"][..],
            &["--skip-tls-verify-registry=h"],
            &["--insecure-pull"],
            &["--single-snapshot"],
            &["--ignore-path=/x"],
            &["--git=branch=x"],
            &["--context=s3://b/x"],
            &["--registry-mirror=a,b"],
            &["--registry-certificate=x"],
        ] {
            assert_eq!(read(refused).map(drop).unwrap_err().exit, Exit::Usage, "{refused:?}");
        }
        let (_, notes) = read(&["--snapshotMode=redo", "--cleanup", "--push-retry=3", "--use-new-run=false"]).unwrap();
        assert_eq!(notes.len(), 3, "{notes:?}");
    }
}
