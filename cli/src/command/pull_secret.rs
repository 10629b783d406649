//! pull-secret: giving pods a login for a registry.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use content::credentials::{Credentials, Login};
#[cfg(feature = "serve")]
use deployer::KeptPullSecret;
use deployer::{Change, Cluster, WantedPullSecret};
use jiff::{SignedDuration, Timestamp};
use oci::{Host, RepoName};

use super::deploy::{connect_options, failed};
use crate::args::EnsureArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings;
use crate::terminal::tell;

/// Longest password that is read, in bytes; a token may have some thousands.
const PASSWORD_LIMIT: u64 = 64 << 10;

/// A password that ends this soon is told of.
const SOON: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What a Secret is to hold.
struct PullLogin {
    username: String,
    password: String,
    expires: Option<Timestamp>,
}

pub async fn ensure(args: &EnsureArgs) -> Outcome<()> {
    let typed = if is_robot(args) { None } else { Some(login(args)?) };
    let cluster = Cluster::connect(&connect_options(&args.cluster)?).await;
    let cluster = cluster.map_err(|error| failed("cannot talk to the cluster", &error))?;
    let login = match typed {
        Some((username, password)) => {
            let expires = expiry(args, &password)?;
            PullLogin { username, password, expires }
        }
        None => robot(args, &cluster).await?,
    };
    check(args, &login).await?;
    let wanted = WantedPullSecret {
        name: args.name.clone(),
        registry: args.repo.clone(),
        username: login.username,
        password: login.password,
        service_account: args.service_account.clone(),
        expires: login.expires,
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

/// When the password ends: as was typed, or as a JWT says itself.
fn expiry(args: &EnsureArgs, password: &str) -> Outcome<Option<Timestamp>> {
    match args.expires {
        Some(time) => after(time).map(Some),
        None => Ok(jwt_expiry(password)),
    }
}

fn after(time: std::time::Duration) -> Outcome<Timestamp> {
    // Whole seconds: what is written is read back as the same.
    let end = i64::try_from(time.as_secs()).ok().and_then(|left| Timestamp::now().as_second().checked_add(left));
    let end = end.and_then(|second| Timestamp::from_second(second).ok());
    end.ok_or_else(|| Failure::new(Exit::Usage, "--expires is too far away; leave it out for never"))
}

/// The claim `exp`; what the token says is not verified, since who takes it will.
fn jwt_expiry(token: &str) -> Option<Timestamp> {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Timestamp::from_second(claims["exp"].as_i64()?).ok()
}

/// Asks the registry whether it takes the login; one that is away says nothing.
async fn check(args: &EnsureArgs, login: &PullLogin) -> Outcome<()> {
    let left = login.expires.map(|end| end.duration_since(Timestamp::now()));
    match left {
        Some(left) if !left.is_positive() => {
            return Err(Failure::new(Exit::Preflight, format!("the password of {} has ended", login.username)));
        }
        Some(left) if left < SOON => {
            let hours = left.as_hours();
            tell(&format!(
                "warning: the password of {} ends in {hours} hours, and pods cannot pull after that",
                login.username
            ));
        }
        _ => {}
    }
    let (host, _) = place(args)?;
    let mut credentials = Credentials::none();
    credentials.prefer(&host, Login::Password { user: login.username.clone(), password: login.password.clone() });
    match settings::client_with(&args.registry, credentials)?.check_login(&host).await {
        Ok(()) => Ok(()),
        Err(error @ (content::Error::Unauthorized { .. } | content::Error::Denied { .. })) => {
            Err(Failure::because(Exit::Preflight, format!("{host} does not take this login"), &error))
        }
        Err(error) => {
            tell(&format!("warning: nobody checked whether {host} takes this login: {error}"));
            Ok(())
        }
    }
}

#[cfg(feature = "serve")]
fn is_robot(args: &EnsureArgs) -> bool {
    args.robot.is_some()
}

#[cfg(not(feature = "serve"))]
fn is_robot(_: &EnsureArgs) -> bool {
    false
}

/// The robot's token that the Secret holds, while it is good for long enough; else a new one, for pulls from these
/// repositories alone. The one before ends by itself: pods may be pulling with it.
#[cfg(feature = "serve")]
async fn robot(args: &EnsureArgs, cluster: &Cluster) -> Outcome<PullLogin> {
    use registry::access::{NewRobot, RobotFile};
    const LIFETIME: std::time::Duration = std::time::Duration::from_secs(90 * 24 * 3600);

    let (Some(name), Some(data)) = (&args.robot, &args.registry_data) else {
        return Err(Failure::new(Exit::Usage, "--robot wants --registry-data"));
    };
    let lifetime = args.expires.unwrap_or(LIFETIME);
    if lifetime <= args.renew_before {
        return Err(Failure::new(
            Exit::Usage,
            "--expires is no longer than --renew-before, so each run would make a token",
        ));
    }
    let kept =
        cluster.kept_pull_secret(&args.name).await.map_err(|error| failed("cannot read the pull secret", &error))?;
    let renew = after(args.renew_before)?;
    let is_good = |kept: &KeptPullSecret| {
        kept.registry == args.repo && kept.username == *name && kept.expires.is_some_and(|end| end > renew)
    };
    if let Some(kept) = kept.filter(is_good) {
        return Ok(PullLogin { username: kept.username, password: kept.password, expires: kept.expires });
    }
    let (_, path) = place(args)?;
    let patterns = match path {
        Some(path) => vec![path.to_string(), format!("{path}/**")],
        None => vec!["**".to_owned()],
    };
    let repositories = patterns.iter().map(|pattern| pattern.parse()).collect::<Result<Vec<_>, _>>();
    let repositories =
        repositories.map_err(|error| Failure::because(Exit::Usage, format!("--repo `{}`", args.repo), &error))?;
    let rights = vec!["pull".parse().expect("this is a right")];
    let expires = after(lifetime)?;
    let new = NewRobot { name: name.clone(), expires: Some(expires), repositories, rights };
    let (_, password) =
        RobotFile::of(data).create(new, Timestamp::now()).map_err(|error| super::robot::failed(&error))?;
    tell(&format!("made a token for robot:{name}, good until {expires}"));
    Ok(PullLogin { username: name.clone(), password, expires: Some(expires) })
}

#[cfg(not(feature = "serve"))]
async fn robot(_: &EnsureArgs, _: &Cluster) -> Outcome<PullLogin> {
    Err(Failure::new(Exit::Usage, "this lighter has no registry in it that could make tokens"))
}

/// The registry, and the path below which repositories are meant.
fn place(args: &EnsureArgs) -> Outcome<(Host, Option<RepoName>)> {
    let wrong = |error: &(dyn std::error::Error + 'static)| {
        Failure::because(Exit::Usage, format!("--repo `{}`", args.repo), error)
    };
    let (host, path) = args.repo.split_once('/').unwrap_or((&args.repo, ""));
    let host: Host = host.parse().map_err(|error: oci::InvalidReference| wrong(&error))?;
    let path = (!path.is_empty()).then(|| path.parse()).transpose();
    Ok((host, path.map_err(|error: oci::InvalidName| wrong(&error))?))
}

/// The login that was typed, or the one that we have for the place.
fn login(args: &EnsureArgs) -> Outcome<(String, String)> {
    let (host, path) = place(args)?;
    // A login of a registry is for any of its repositories.
    let name = path.unwrap_or_else(|| "any".parse().expect("this is a name"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_itself_when_it_ends() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(jwt_expiry(&token("{\"exp\": 1800000000}")).unwrap().as_second(), 1_800_000_000);
        for other in ["hunter2", "a.b.c", "a.b", &token("{}"), &token("{\"exp\": \"soon\"}"), &token("[")] {
            assert_eq!(jwt_expiry(other), None, "{other}");
        }
    }
}
