//! login and logout: entries of docker's config file, tried before they are kept.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use content::credentials::Login;
use content::remote::{Client, Settings};
use oci::Host;
use serde_json::{Map, Value, json};

use crate::args::{LoginArgs, LogoutArgs, RegistryArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings;
use crate::terminal::tell;

/// Longest password that is read, in bytes: identity tokens are a few kilobytes.
const PASSWORD_LIMIT: u64 = 64 << 10;

pub async fn login(args: &LoginArgs) -> Outcome<()> {
    let host = host(&args.host)?;
    let (user, password) = ask(args)?;
    try_login(&host, &user, &password, &args.registry).await?;
    let path = settings::login_file(&args.registry)?;
    let auth = STANDARD.encode(format!("{user}:{password}"));
    change(&path, |auths| {
        auths.insert(key(&host), json!({ "auth": auth }));
    })?;
    tell(&format!("logged in to {host}; kept in {}", path.display()));
    Ok(())
}

pub fn logout(args: &LogoutArgs) -> Outcome<()> {
    let host = host(&args.host)?;
    let path = settings::login_file(&args.registry)?;
    let mut found = false;
    change(&path, |auths| found = auths.remove(&key(&host)).is_some())?;
    tell(&if found {
        format!("forgot the login for {host}")
    } else {
        format!("there was no login for {host} in {}", path.display())
    });
    Ok(())
}

fn host(text: &str) -> Outcome<Host> {
    let bare = text.trim_start_matches("https://").trim_end_matches('/');
    bare.parse().map_err(|error| Failure::because(Exit::Usage, format!("`{text}` is no registry"), &error))
}

/// Docker knows its own hub by an old URL.
fn key(host: &Host) -> String {
    if host.is_docker_hub() { "https://index.docker.io/v1/".to_owned() } else { host.to_string() }
}

async fn try_login(host: &Host, user: &str, password: &str, args: &RegistryArgs) -> Outcome<()> {
    let mut credentials = content::credentials::Credentials::none();
    credentials.prefer(host, Login::Password { user: user.to_owned(), password: password.to_owned() });
    let insecure = args.insecure_registry.iter().filter_map(|host| host.parse().ok()).collect();
    let authorities = args.registry_ca.iter().map(std::fs::read).collect::<Result<_, _>>();
    let authorities = authorities.map_err(|error| Failure::io("cannot read the CA file", &error))?;
    let failed = |error: content::Error| Failure::content(format!("could not log in to {host}"), &error);
    let certificate_directories = crate::settings::certificate_directories();
    let client =
        Client::new(Settings { insecure, authorities, certificate_directories, credentials, ..Settings::default() })
            .map_err(failed)?;
    client.check_login(host).await.map_err(failed)
}

fn ask(args: &LoginArgs) -> Outcome<(String, String)> {
    let stdin = std::io::stdin();
    if args.password_stdin {
        let user = args.username.clone();
        let user = user.ok_or_else(|| Failure::new(Exit::Usage, "--password-stdin needs --username"))?;
        let mut password = String::new();
        let read = stdin.lock().take(PASSWORD_LIMIT).read_to_string(&mut password);
        read.map_err(|error| Failure::io("cannot read the password from stdin", &error))?;
        return Ok((user, password.trim_end_matches(['\n', '\r']).to_owned()));
    }
    if !stdin.is_terminal() {
        return Err(Failure::new(Exit::Usage, "there is no terminal to ask for the password")
            .hint("use --username USER --password-stdin"));
    }
    let user = match &args.username {
        Some(user) => user.clone(),
        None => prompt("user: ", false)?,
    };
    Ok((user, prompt("password: ", true)?))
}

/// Asks at the terminal, without echo for secrets.
fn prompt(question: &str, secret: bool) -> Outcome<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let failed = |error: std::io::Error| Failure::io("cannot read from the terminal", &error);
    let stdin = std::io::stdin();
    let saved = tcgetattr(&stdin).map_err(|error| failed(error.into()))?;
    if secret {
        let mut silent = saved.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(|error| failed(error.into()))?;
    }
    let _ = write!(std::io::stderr(), "{question}"); // nobody is left to be asked
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if secret {
        tcsetattr(&stdin, OptionalActions::Flush, &saved).map_err(|error| failed(error.into()))?;
        tell("");
    }
    read.map_err(failed)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Changes the `auths` of a docker config, leaving everything else as it is; for its owner's eyes only.
fn change(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) -> Outcome<()> {
    let failed = |error: std::io::Error| Failure::io(format!("cannot keep the login in {}", path.display()), &error);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "{}".to_owned(),
        Err(error) => return Err(failed(error)),
    };
    let no_config = || Failure::new(Exit::BadInput, format!("{} is not a docker config", path.display()));
    let mut config: Value = serde_json::from_str(&text).map_err(|_| no_config())?;
    let root = config.as_object_mut().ok_or_else(no_config)?;
    let auths = root.entry("auths").or_insert_with(|| json!({}));
    change(auths.as_object_mut().ok_or_else(no_config)?);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(failed)?;
    let mut aside = tempfile::Builder::new().prefix(".lighter-").tempfile_in(directory).map_err(failed)?; // mode 0600
    let text = serde_json::to_vec_pretty(&config).map_err(|error| failed(error.into()))?;
    aside.write_all(&text).map_err(failed)?;
    aside.persist(path).map(drop).map_err(|error| failed(error.error))
}
