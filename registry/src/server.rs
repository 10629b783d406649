//! The server: a listening socket, connections, and an orderly end. What is answered is `api`'s.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};

use crate::api::{self, Api};
use crate::keeping::Keeping;
use crate::promise::Plain;
use crate::store::{OpenError, Store};

/// Most bytes of a connection of HTTP/1 that are held here, and so the most that a head may have.
const BUFFER: usize = 128 << 10;
/// The same for a head of HTTP/2, as it is counted there.
const HEAD: u32 = 128 << 10;
/// Requests at once over one connection of HTTP/2.
const STREAMS: u32 = 256;
/// Receive window of an HTTP/2 stream and connection, in bytes: a layer at full speed needs more than
/// the 64 KiB of the standard.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How long to wait after the system refused a connection, for want of file descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is kept within bounds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest blob in bytes.
    pub blob: u64,
    /// How long a connection may take to send the head of a request, or stay unused between two.
    pub head: Duration,
    /// How long a body may pause. There is no limit on how long it takes in all.
    pub idle: Duration,
    /// How long requests may go on after the server was told to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blob: 1 << 40,
            head: Duration::from_secs(75),
            idle: Duration::from_secs(120),
            drain: Duration::from_secs(30),
        }
    }
}

/// What a server needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen. Port 0 takes any free one.
    pub addr: SocketAddr,
    /// The data directory; made if it is missing.
    pub data: PathBuf,
    /// Whether everybody who can reach an address that is not loopback may read, write and delete.
    pub allow_anonymous: bool,
    /// Whether manifests may be pushed that name content which is not here: images of some platforms
    /// only, say. Whoever pulls what is missing is told so.
    pub allow_sparse: bool,
    /// Bounds.
    pub limits: Limits,
    /// What is kept, and for how long.
    pub keeping: Keeping,
}

impl Settings {
    /// Settings for one address and directory; everything else by default.
    pub fn new(addr: SocketAddr, data: impl Into<PathBuf>) -> Self {
        Self {
            addr,
            data: data.into(),
            allow_anonymous: false,
            allow_sparse: false,
            limits: Limits::default(),
            keeping: Keeping::default(),
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address can be reached from other machines, and nothing protects the registry.
    #[error(
        "refusing to listen on {0}: other machines can reach it and everybody could push and delete; listen on 127.0.0.1, or allow anonymous access explicitly"
    )]
    Unprotected(SocketAddr),
    /// The address cannot be had.
    #[error("could not listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// A registry that listens. It answers once [`Server::serve`] runs.
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    store: Store,
    allow_sparse: bool,
    limits: Limits,
}

impl Server {
    /// Takes the address and opens the store.
    pub async fn bind(settings: Settings) -> Result<Self, BindError> {
        let Settings { addr, data, allow_anonymous, allow_sparse, limits, keeping } = settings;
        if !addr.ip().is_loopback() && !allow_anonymous {
            return Err(BindError::Unprotected(addr));
        }
        let listen = |source| BindError::Listen { addr, source };
        // The address first: it is the likelier one to be taken, and nothing was written yet then.
        let listener = TcpListener::bind(addr).await.map_err(listen)?;
        let addr = listener.local_addr().map_err(listen)?;
        let opened = tokio::task::spawn_blocking(move || Store::open_keeping(&data, keeping)).await;
        let store = match opened {
            Ok(opened) => opened?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        Ok(Self { listener, addr, store, allow_sparse, limits })
    }

    /// Where it listens, with the port that was found if any was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The store behind it, for use in the same process.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Answers requests until `shutdown` ends; then lets running requests end and closes the store.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, addr, store, allow_sparse, limits } = self;
        let drain = limits.drain;
        let api = Arc::new(Api { store: store.clone(), limits, sparse: allow_sparse });
        let connections = GracefulShutdown::new();
        tracing::info!(%addr, "serving");
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut shutdown => break,
            };
            match accepted {
                Ok((stream, peer)) => connection(stream, peer, api.clone(), &connections),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        tracing::info!(open = connections.count(), "shutting down");
        if tokio::time::timeout(drain, connections.shutdown()).await.is_err() {
            tracing::warn!("some requests did not end in time and are cut off");
        }
        store.close().await;
    }
}

fn connection(stream: TcpStream, peer: SocketAddr, api: Arc<Api>, connections: &GracefulShutdown) {
    let head = api.limits.head;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "answers may be delayed");
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Slices as they are: copies of promises would be worthless.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(BUFFER)
        .half_close(true)
        .writev(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(head)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let plain = Plain::new(stream, head);
    let promises = plain.promises();
    let answer = move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(promises.clone());
        api::handle(api.clone(), request.map(Body::new))
    };
    let serving = builder.serve_connection(plain, service_fn(answer)).into_owned();
    let watched = connections.watch(serving);
    tokio::spawn(async move {
        // Clients that hang up early are normal: parallel range readers do it all the time.
        if let Err(error) = watched.await {
            tracing::debug!(%error, %peer, "a connection ended early");
        }
    });
}
