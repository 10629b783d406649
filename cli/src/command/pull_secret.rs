//! pull-secret: giving pods a login for a registry.

use std::io::Read;

use content::credentials::Login;
use deployer::{Change, Cluster, WantedPullSecret};
use oci::{Host, RepoName};

use super::deploy::{connect_options, failed};
use crate::args::EnsureArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings;
use crate::terminal::tell;

/// Longest password that is read, in bytes; a token may have some thousands.
const PASSWORD_LIMIT: u64 = 64 << 10;

pub async fn ensure(args: &EnsureArgs) -> Outcome<()> {
    let (username, password) = login(args)?;
    let cluster = Cluster::connect(&connect_options(&args.cluster)?).await;
    let cluster = cluster.map_err(|error| failed("cannot talk to the cluster", &error))?;
    let wanted = WantedPullSecret {
        name: args.name.clone(),
        registry: args.repo.clone(),
        username,
        password,
        service_account: args.service_account.clone(),
    };
    let changes =
        cluster.ensure_pull_secret(&wanted).await.map_err(|error| failed("cannot make the pull secret", &error))?;
    for (object, change) in changes {
        let state = match change {
            Change::Create => "made",
            Change::Nothing => "as it is to be already",
            _ => "brought up to date",
        };
        tell(&format!("{object}: {state}"));
    }
    Ok(())
}

/// The login that was typed, or the one that we have for the place.
fn login(args: &EnsureArgs) -> Outcome<(String, String)> {
    let wrong = |error: &(dyn std::error::Error + 'static)| {
        Failure::because(Exit::Usage, format!("--repo `{}`", args.repo), error)
    };
    let (host, path) = args.repo.split_once('/').unwrap_or((&args.repo, ""));
    let host: Host = host.parse().map_err(|error: oci::InvalidReference| wrong(&error))?;
    // A login of a registry is for any of its repositories.
    let name: RepoName =
        if path.is_empty() { "any" } else { path }.parse().map_err(|error: oci::InvalidName| wrong(&error))?;
    if let Some(username) = &args.username {
        let mut password = String::new();
        let read = std::io::stdin().lock().take(PASSWORD_LIMIT).read_to_string(&mut password);
        read.map_err(|error| Failure::io("cannot read the password from stdin", &error))?;
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        if password.is_empty() {
            return Err(Failure::new(Exit::Usage, "stdin holds no password"));
        }
        return Ok((username.clone(), password));
    }
    let found = settings::credentials(&args.registry)?.lookup(&host, &name);
    let found = found.map_err(|error| Failure::because(Exit::BadInput, "cannot read the logins", &error))?;
    match found {
        Some(Login::Password { user, password }) => Ok((user, password)),
        Some(Login::Identity(_) | Login::Bearer(_)) => Err(Failure::new(
            Exit::Usage,
            format!("the login for {} is a token of this session, which would end before the pods do", args.repo),
        )
        .hint("give a user and a password, or a robot's token: --username USER --password-stdin")),
        None => Err(Failure::new(Exit::Usage, format!("no login for {} is known", args.repo))
            .hint("log in with `lighter login`, or give --username USER --password-stdin")),
    }
}
