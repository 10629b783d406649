//! registry serve: the registry until a signal comes.

use std::net::SocketAddr;
use std::path::PathBuf;

use registry::keeping::{GcSettings, Retention};
use registry::{BindError, Keeping, OpenError, Server, Settings};
use serde::Deserialize;

use crate::args::{ServeArgs, StoreArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::settings;
use crate::terminal::tell;

/// Where a registry listens that nobody told where.
pub const DEFAULT_ADDR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5000);

/// The keys of the configuration file. An unknown one is an error: a typo must not open a door.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    addr: Option<SocketAddr>,
    data: Option<PathBuf>,
    allow_anonymous: Option<bool>,
    allow_sparse: Option<bool>,
    gc: GcSettings,
    retention: Retention,
}

pub async fn serve(args: &ServeArgs) -> Outcome<()> {
    let settings = meant(args)?;
    let data = settings.data.clone();
    // Heard from here on: whoever reads that we serve may ask us to stop at once.
    let mut signals = interrupt::Signals::listen();
    let server = Server::bind(settings).await.map_err(|error| not_started(&error))?;
    crate::embedded::remember(&data, server.local_addr())?; // so that `ship` finds us
    tell(&format!("lighter registry on http://{} keeps images in {}", server.local_addr(), data.display()));
    server
        .serve(async {
            signals.next().await;
        })
        .await;
    Ok(())
}

fn meant(args: &ServeArgs) -> Outcome<Settings> {
    let file = match &args.config {
        Some(path) => read(path)?,
        None => File::default(),
    };
    let addr = args.addr.or(file.addr).unwrap_or(DEFAULT_ADDR);
    let data = match args.data.clone().or(file.data.clone()) {
        Some(data) => data,
        None => embedded_data(&StoreArgs { data: settings::variable("LIGHTER_DATA").map(PathBuf::from) })?,
    };
    let data =
        std::path::absolute(&data).map_err(|error| Failure::io(format!("cannot use {}", data.display()), &error))?;
    let mut settings = Settings::new(addr, data);
    settings.keeping = Keeping { gc: file.gc, retention: file.retention };
    settings.allow_anonymous = args.allow_anonymous || file.allow_anonymous.unwrap_or(false);
    settings.allow_sparse = args.allow_sparse || file.allow_sparse.unwrap_or(false);
    Ok(settings)
}

/// Where the registry of this user keeps its images; `ship` uses the same.
pub fn embedded_data(store: &StoreArgs) -> Outcome<PathBuf> {
    Ok(settings::data_directory(store)?.join("registry"))
}

fn read(path: &PathBuf) -> Outcome<File> {
    let what = || format!("cannot read the configuration in {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| Failure::io(what(), &error))?;
    toml::from_str(&text).map_err(|error| Failure::because(Exit::BadInput, what(), &error))
}

/// Why the registry did not start, and what to do.
pub fn not_started(error: &BindError) -> Failure {
    let exit = match error {
        BindError::Unprotected(_) => Exit::Usage,
        BindError::Listen { .. } => Exit::Unavailable,
        BindError::Open(OpenError::InUse { .. }) => Exit::Unavailable,
        BindError::Open(_) => Exit::Disk,
    };
    let failure = Failure::because(exit, "the registry did not start", error);
    match error {
        BindError::Unprotected(_) => {
            failure.hint("put it behind something that asks for a login, and say --allow-anonymous")
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
