//! What was meant, as opposed to what was typed: directories, logins, registries.
//!
//! The only module that reads the environment. Everything below it gets values.

use std::path::{Path, PathBuf};

use content::credentials::Credentials;
use content::remote::{Client, ClientCertificate, InvalidMapping, Mappings, Proxies, Settings as ClientSettings};
use content::{CopyOptions, Disk};
use oci::Host;

use crate::args::{RegistryArgs, StoreArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::identity;

/// Reads one environment variable; empty is the same as unset.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The names of all environment variables.
#[cfg(feature = "serve")]
pub fn variables() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

/// The directory for everything that lighter keeps for this user.
pub fn data_directory(args: &StoreArgs) -> Outcome<PathBuf> {
    let chosen = args.data.clone();
    let xdg = || {
        variable("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).map(|path| path.join("lighter"))
    };
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".local/share/lighter"));
    let directory = chosen.or_else(xdg).or_else(home);
    let directory = directory.ok_or_else(|| {
        Failure::new(Exit::Usage, "there is no place for lighter's data").hint("set --data DIR, LIGHTER_DATA or HOME")
    })?;
    std::path::absolute(&directory).map_err(|error| Failure::io(format!("cannot use {}", directory.display()), &error))
}

/// The directory for what lighter can do without, and asks for anew when it is gone; `None` if there is no home.
#[cfg(feature = "deploy")]
pub fn cache_directory() -> Option<PathBuf> {
    let xdg = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".cache"));
    xdg.or_else(home).map(|cache| cache.join("lighter"))
}

/// The local store of images. What killed commands left beside it is removed.
pub fn local_store(data: &Path) -> Outcome<Disk> {
    crate::place::sweep(data);
    let root = data.join("images");
    Disk::create(&root)
        .map_err(|error| Failure::content(format!("cannot open the local store in {}", root.display()), &error))
}

/// A client with the logins, authorities and exceptions that apply.
pub fn client(args: &RegistryArgs) -> Outcome<Client> {
    client_with(args, credentials(args)?)
}

/// A client with other logins than our own.
pub fn client_with(args: &RegistryArgs, credentials: Credentials) -> Outcome<Client> {
    let args = &crate::config::with_file(args, variable)?;
    let settings = ClientSettings {
        insecure: insecure(args)?,
        authorities: authorities(args)?,
        client_certificates: client_certificates(args)?,
        certificate_directories: certificate_directories(),
        mappings: mappings(args)?,
        proxies: proxies()?,
        credentials,
    };
    Client::new(settings).map_err(|error| Failure::content("cannot prepare connections to registries", &error))
}

/// How many blobs travel at once, and for which platform.
pub fn copy_options(platform: Option<oci::Platform>) -> CopyOptions {
    CopyOptions { platform, ..CopyOptions::default() }
}

fn insecure(args: &RegistryArgs) -> Outcome<Vec<Host>> {
    let wrong = |error: oci::InvalidReference| Failure::because(Exit::Usage, "--insecure-registry", &error);
    args.insecure_registry.iter().map(|host| host.parse().map_err(wrong)).collect()
}

fn authorities(args: &RegistryArgs) -> Outcome<Vec<Vec<u8>>> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| Failure::io(format!("cannot read the CA file {}", path.display()), &error))
    };
    args.registry_ca.iter().map(read).collect()
}

/// `HOST=CERT[,KEY]`; without a key both stand in one file.
fn client_certificates(args: &RegistryArgs) -> Outcome<Vec<(Host, ClientCertificate)>> {
    let read = |path: &str| {
        std::fs::read(path).map_err(|error| Failure::io(format!("cannot read the client certificate {path}"), &error))
    };
    let certificate = |text: &String| {
        let wrong = || {
            Failure::new(Exit::Usage, format!("--registry-client-cert `{text}` cannot be read"))
                .hint("--registry-client-cert HOST=CERT,KEY")
        };
        let (host, files) = text.split_once('=').ok_or_else(wrong)?;
        let host = host.parse().map_err(|error| Failure::because(Exit::Usage, "--registry-client-cert", &error))?;
        let (chain, key) = files.split_once(',').unwrap_or((files, files));
        Ok((host, ClientCertificate { chain: read(chain)?, key: read(key)? }))
    };
    args.registry_client_cert.iter().map(certificate).collect()
}

/// The proxies of the environment.
pub fn proxies() -> Outcome<Proxies> {
    Proxies::from_variables(variable).map_err(|error| {
        Failure::because(Exit::Usage, "the proxy cannot be used", &error).hint("as in HTTPS_PROXY=http://proxy:3128")
    })
}

/// Where docker, podman and skopeo look for certificates of registries.
pub fn certificate_directories() -> Vec<PathBuf> {
    let mut directories = ["/etc/docker/certs.d", "/etc/containers/certs.d"].map(PathBuf::from).to_vec();
    if let Some(home) = variable("HOME") {
        let below = [".docker/certs.d", ".config/docker/certs.d", ".config/containers/certs.d"];
        directories.extend(below.map(|below| Path::new(&home).join(below)));
    }
    directories
}

fn mappings(args: &RegistryArgs) -> Outcome<Mappings> {
    let wrong = |error: InvalidMapping| Failure::because(Exit::Usage, "--registry-map cannot be used", &error);
    let mappings = args.registry_map.iter().map(|text| text.parse().map_err(wrong)).collect::<Outcome<_>>()?;
    Mappings::new(mappings).map_err(wrong)
}

/// All logins, by precedence: the identity of a CI job, the file named for this command, then what else CI sets,
/// then what docker and podman keep in the home directory.
pub fn credentials(args: &RegistryArgs) -> Outcome<Credentials> {
    let mut credentials = Credentials::none();
    let named = args.authfile.clone().or_else(|| variable("REGISTRY_AUTH_FILE").map(PathBuf::from));
    if let Some(path) = named {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Failure::io(format!("cannot read the logins in {}", path.display()), &error))?;
        add(&mut credentials, &path.display().to_string(), &text)?;
    }
    if let Some(text) = variable("DOCKER_AUTH_CONFIG") {
        add(&mut credentials, "DOCKER_AUTH_CONFIG", &text)?;
    }
    for path in usual_files() {
        match std::fs::read_to_string(&path) {
            Ok(text) => add(&mut credentials, &path.display().to_string(), &text)?,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound
                        | std::io::ErrorKind::PermissionDenied
                        | std::io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(Failure::io(format!("cannot read the logins in {}", path.display()), &error)),
        }
    }
    add_gitlab(&mut credentials)?;
    if let Some(token) = variable(identity::VARIABLE) {
        let (hosts, login) = identity::login(token.trim()).map_err(|error| {
            Failure::because(Exit::BadInput, format!("cannot use the token in {}", identity::VARIABLE), &error)
                .hint("`id_tokens` of the GitLab job sets it; `aud` is \"https://HOST:PORT\" of the registry")
        })?;
        for host in hosts {
            credentials.prefer(&host, login.clone());
        }
    }
    Ok(credentials)
}

fn add(credentials: &mut Credentials, place: &str, text: &str) -> Outcome<()> {
    credentials.add(place, text).map_err(|error| Failure::because(Exit::BadInput, "cannot read the logins", &error))
}

/// Where docker and podman keep logins; the file that `lighter login` writes comes first.
fn usual_files() -> Vec<PathBuf> {
    let docker = variable("DOCKER_CONFIG").map(|directory| PathBuf::from(directory).join("config.json"));
    let home = |file: &str| variable("HOME").map(|home| PathBuf::from(home).join(file));
    let podman = variable("XDG_RUNTIME_DIR").map(|directory| PathBuf::from(directory).join("containers/auth.json"));
    let files = [docker.or_else(|| home(".docker/config.json")), podman, home(".config/containers/auth.json")];
    files.into_iter().flatten().collect()
}

/// GitLab gives each job a login for its own registry.
fn add_gitlab(credentials: &mut Credentials) -> Outcome<()> {
    let (Some(host), Some(user), Some(password)) =
        (variable("CI_REGISTRY"), variable("CI_REGISTRY_USER"), variable("CI_REGISTRY_PASSWORD"))
    else {
        return Ok(());
    };
    let text = serde_json::json!({"auths": {host: {"username": user, "password": password}}}).to_string();
    add(credentials, "CI_REGISTRY", &text)
}

/// The file that `lighter login` writes to.
pub fn login_file(args: &RegistryArgs) -> Outcome<PathBuf> {
    let named = args.authfile.clone().or_else(|| variable("REGISTRY_AUTH_FILE").map(PathBuf::from));
    let none = || {
        Failure::new(Exit::Usage, "there is no place to keep the login")
            .hint("set --authfile FILE, DOCKER_CONFIG or HOME")
    };
    named.or_else(|| usual_files().into_iter().next()).ok_or_else(none)
}
