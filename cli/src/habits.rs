//! Commands of docker, podman and skopeo that are called otherwise here, or are not done: said to whoever types them.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What to type in place of a command that is not known; none if nobody would expect it here.
pub fn hint(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let hint = match typed.as_str() {
        "image" => {
            "`lighter images`, `lighter inspect`, `lighter tag`, `lighter rmi`, `lighter pull` and `lighter push` do it"
        }
        "buildx" | "builder" | "bake" | "buildkitd" | "bud" => {
            "`lighter build` takes the flags of `docker buildx build`; `lighter cache` looks after what it keeps"
        }
        "save" => "`lighter copy local:NAME docker-archive:FILE` writes what `docker load` reads",
        "load" => "`lighter copy docker-archive:FILE local:NAME` reads what `docker save` writes",
        "import" => "`ADD FILE.tar /` upon `FROM scratch` makes an image of a tar",
        "export" => "`lighter build -o type=tar,dest=FILE` writes the files of an image",
        "manifest" => "`lighter inspect --raw` shows a manifest, `lighter index create` joins several",
        "history" => "`lighter inspect` shows the history of an image; `lighter rollout history` that of a workload",
        "system" | "prune" => "`lighter cache ls` and `lighter cache prune` do it",
        "version" => "`lighter --version` says it",
        "search" => "ask the registry: its /v2/_catalog lists what it has",
        "run" | "create" | "start" | "stop" | "exec" | "ps" | "logs" | "kill" | "rm" | "restart" | "attach"
        | "wait" | "compose" | "container" | "network" | "volume" | "top" | "stats" | "commit" | "cp" => {
            "containers are run by Kubernetes here (`lighter deploy`); on this machine, \
             `lighter build -o type=docker,dest=- … | docker load` (or `podman load`) hands an image to who runs it"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::Cli;

    fn of(words: &[&str]) -> Option<String> {
        hint(&Cli::try_parse_from(words).expect_err("there is no such command"))
    }

    #[test]
    fn commands_of_others_are_answered() {
        assert!(of(&["lighter", "save", "a"]).is_some_and(|hint| hint.contains("docker-archive")));
        assert!(of(&["lighter", "run", "a"]).is_some_and(|hint| hint.contains("docker load")));
        assert_eq!(of(&["lighter", "frobnicate"]), None);
        assert_eq!(of(&["lighter", "build", "--frobnicate"]), None);
    }

    /// A hint for a command that there is would never be seen.
    #[test]
    fn no_hint_is_for_a_command_of_ours() {
        let source = include_str!("habits.rs");
        let table = &source[..source.find("_ => return None").expect("the end of the table")];
        for command in Cli::command().get_subcommands() {
            let arm = format!("\"{}\" ", command.get_name());
            assert!(!table.contains(&arm), "{arm}");
        }
    }
}
