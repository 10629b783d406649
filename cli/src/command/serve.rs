//! registry serve: the registry until a signal comes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use registry::access::{AccessSettings, RobotFile};
use registry::config::{Config, ConfigError, unknown_variables};
use registry::keeping::Sparse;
use registry::{BindError, OpenError, Server, Settings};

use crate::args::{CheckConfigArgs, ServeArgs, StoreArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::settings;
use crate::terminal::{out, tell};

/// Where a registry listens that nobody told where.
pub const DEFAULT_ADDR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5000);

pub async fn serve(args: &ServeArgs) -> Outcome<()> {
    let settings = meant(args)?;
    let data = settings.data.clone();
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    // Heard from here on: whoever reads that we serve may ask us to stop at once.
    let mut signals = interrupt::Signals::listen();
    let server = Server::bind(settings).await.map_err(|error| not_started(&error))?;
    remember(&data, server.local_addr())?; // so that `ship` finds us
    if let Some(addr) = server.admin_addr() {
        tell(&format!("metrics on http://{addr}/metrics"));
    }
    tell(&format!("lighter registry on {scheme}://{} keeps images in {}", server.local_addr(), data.display()));
    server
        .serve(async {
            signals.next().await;
        })
        .await;
    Ok(())
}

/// Says what a configuration means.
pub fn check_config(args: &CheckConfigArgs) -> Outcome<()> {
    let config = read(args.file.as_deref())?;
    let settings = config.settings(config.addr.unwrap_or(DEFAULT_ADDR), config.data.clone().unwrap_or_default());
    let settings = settings.map_err(|error| wrong(args.file.as_deref(), &error))?;
    let access = settings.access.as_ref().map_or(Ok(()), AccessSettings::check_files);
    let files = access.and_then(|()| settings.tls.as_ref().map_or(Ok(()), registry::TlsSettings::check_files));
    files.map_err(|error| Failure::because(Exit::BadInput, "a file that the configuration names", &error))?;
    if !settings.addr.ip().is_loopback() && settings.access.is_none() && !settings.allow_anonymous {
        tell(&format!("warning: {}", BindError::Unprotected(settings.addr)));
    }
    for warning in config.warnings() {
        tell(&format!("warning: {warning}"));
    }
    out(config.describe().trim_end());
    Ok(())
}

fn meant(args: &ServeArgs) -> Outcome<Settings> {
    let mut config = read(args.config.as_deref())?;
    if args.insecure_allow_anonymous && config.has_access_rules() {
        return Err(Failure::new(Exit::Usage, "--insecure-allow-anonymous and access rules do not go together"));
    }
    config.insecure_allow_anonymous |= args.insecure_allow_anonymous;
    if args.allow_sparse {
        config.allow_sparse = Sparse::Everywhere(true);
    }
    let addr = args.addr.or(config.addr).unwrap_or(DEFAULT_ADDR);
    let data = match args.data.clone().or_else(|| config.data.clone()) {
        Some(data) => data,
        None => embedded_data(&StoreArgs { data: settings::variable("LIGHTER_DATA").map(PathBuf::from) })?,
    };
    let data =
        std::path::absolute(&data).map_err(|error| Failure::io(format!("cannot use {}", data.display()), &error))?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let mut settings = config.settings(addr, data).map_err(|error| wrong(args.config.as_deref(), &error))?;
    if settings.access.is_none() && !settings.allow_anonymous && has_robots(&settings.data)? {
        tracing::info!("there are robot tokens, so only robots get in");
        settings.access = Some(AccessSettings::default());
    }
    Ok(settings)
}

fn has_robots(data: &Path) -> Outcome<bool> {
    let robots = RobotFile::of(data).list();
    let robots = robots.map_err(|error| Failure::because(Exit::Disk, "cannot read the robot tokens", &error))?;
    Ok(!robots.is_empty())
}

/// Reads the file, if there is one, with the environment on top.
pub(super) fn read(path: Option<&Path>) -> Outcome<Config> {
    let text = match path {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Failure::io(format!("cannot read the configuration in {}", path.display()), &error))?,
        None => String::new(),
    };
    for unknown in unknown_variables(settings::variables()) {
        tracing::warn!("{unknown}");
    }
    Config::read(&text, settings::variable).map_err(|error| wrong(path, &error))
}

fn wrong(path: Option<&Path>, error: &ConfigError) -> Failure {
    let what = match path {
        Some(path) => format!("cannot read the configuration in {}", path.display()),
        None => "cannot read the configuration in the environment".to_owned(),
    };
    Failure::because(Exit::BadInput, what, error)
}

/// Where the registry of this user keeps its images; `ship` uses the same.
pub fn embedded_data(store: &StoreArgs) -> Outcome<PathBuf> {
    Ok(settings::data_directory(store)?.join("registry"))
}

/// Why the registry did not start, and what to do.
pub fn not_started(error: &BindError) -> Failure {
    let exit = match error {
        BindError::Unprotected(_) => Exit::Usage,
        BindError::Prepare(_) => Exit::BadInput,
        BindError::Listen { .. } => Exit::Unavailable,
        BindError::Open(OpenError::InUse { .. }) => Exit::Unavailable,
        BindError::Open(_) => Exit::Disk,
    };
    let failure = Failure::because(exit, "the registry did not start", error);
    match error {
        BindError::Unprotected(_) => {
            failure.hint(
                "make a robot token with `lighter registry token create NAME --allow pull,push`, or write access rules (docs/registry.md); if something else protects it, say --insecure-allow-anonymous",
            )
        }
        BindError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            failure.hint("another program listens there; choose another port with --addr IP:PORT")
        }
        BindError::Open(OpenError::InUse { .. }) => {
            failure.hint("stop the other one, or choose another directory with --data DIR")
        }
        _ => failure,
    }
}

/// Where the address of a registry is kept, beside its data.
pub fn address_file(data: &Path) -> PathBuf {
    data.with_extension("addr")
}

/// Keeps the address of the registry that serves this data.
pub fn remember(data: &Path, addr: SocketAddr) -> Outcome<()> {
    let path = address_file(data);
    content::place::replace_file(&path, addr.to_string().as_bytes())
        .map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))
}
