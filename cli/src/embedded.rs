//! The registry inside `ship`: this user's own, on loopback, for the time of the command.
//!
//! Its address is kept in `registry.addr` beside its data, so that a `ship` that finds the data in use
//! asks the registry that uses it instead of failing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use content::remote::Client;
use oci::Host;
use registry::{BindError, OpenError, Server, Settings};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::command::serve::{DEFAULT_ADDR, address_file, not_started, remember};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// How many ports after the first are tried.
const PORTS: u16 = 100;

/// A registry to push to.
pub struct Embedded {
    /// Its host and port.
    pub host: Host,
    /// Where it keeps images.
    pub data: PathBuf,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Embedded {
    /// Starts the registry, or finds the one that runs already on the same data.
    pub async fn start(data: PathBuf, client: &Client) -> Outcome<Self> {
        let first = remembered(&data).unwrap_or(DEFAULT_ADDR);
        let mut addr = first;
        loop {
            match Server::bind(Settings::new(addr, data.clone())).await {
                Ok(server) => return Self::run(server, data),
                Err(BindError::Open(OpenError::InUse { .. })) => return Self::find(data, client).await,
                Err(BindError::Listen { source, .. })
                    if source.kind() == std::io::ErrorKind::AddrInUse && addr.port() < first.port() + PORTS =>
                {
                    // Whoever listens there may be our own registry, on the same data.
                    if addr == first && remembered(&data).is_some() && in_use(&data) {
                        return Self::find(data, client).await;
                    }
                    addr.set_port(addr.port() + 1);
                }
                Err(error) => return Err(not_started(&error)),
            }
        }
    }

    fn run(server: Server, data: PathBuf) -> Outcome<Self> {
        let host = host(server.local_addr())?;
        remember(&data, server.local_addr())?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(async {
            let _ = stopped.await; // an end that was dropped means stop as well
        }));
        Ok(Self { host, data, running: Some((stop, serving)) })
    }

    async fn find(data: PathBuf, client: &Client) -> Outcome<Self> {
        let busy = || {
            Failure::new(
                Exit::Unavailable,
                format!("the registry data in {} is in use, and no registry answers for it", data.display()),
            )
            .hint("wait for the other command, or name a registry with --registry HOST:PORT")
        };
        let host = host(remembered(&data).ok_or_else(busy)?)?;
        client.check_login(&host).await.map_err(|_| busy())?;
        Ok(Self { host, data, running: None })
    }

    /// Whether the registry ends with this command.
    pub fn is_ours(&self) -> bool {
        self.running.is_some()
    }

    /// Lets running requests end and closes the store.
    pub async fn stop(self) {
        if let Some((stop, serving)) = self.running {
            let _ = stop.send(()); // a server that ended by itself needs no word
            if let Err(error) = serving.await {
                tracing::warn!(%error, "the embedded registry did not end well");
            }
        }
    }
}

fn host(addr: SocketAddr) -> Outcome<Host> {
    addr.to_string()
        .parse()
        .map_err(|error| Failure::because(Exit::Bug, "the registry has an address that is none", &error))
}

fn remembered(data: &Path) -> Option<SocketAddr> {
    std::fs::read_to_string(address_file(data)).ok()?.trim().parse().ok()
}

/// Whether another process holds the store's lock.
fn in_use(data: &Path) -> bool {
    use rustix::fs::{FlockOperation, flock};
    std::fs::File::open(data.join("LOCK"))
        .is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err())
}
