//! The server: a listening socket, connections, and an orderly end. What is answered is `api`'s.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures_util::future::BoxFuture;
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::access::{Access, AccessSettings, Gate};
use crate::api::{self, Api, Front, Peer};
use crate::hooks::{Event, HookSettings, Hooks, Pulls};
use crate::keeping::Keeping;
use crate::limit::{Limiter, Rate};
use crate::metrics::Metrics;
use crate::patience::Patient;
use crate::promise::Plain;
use crate::store::{OpenError, SNAPSHOT_EVERY, Store};
use crate::tls::{Tls, TlsSettings};
use crate::upkeep::Owner;
use crate::watched::ReadError;

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
/// How often logins of one user may fail from one address. Password checks are slow anyway.
const GUESSES: Rate = Rate { per_second: 0.2, burst: 20.0, patience: Duration::ZERO };

/// What is kept within bounds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest blob in bytes.
    pub blob: u64,
    /// How long a connection may take to send the head of a request, or stay unused between two.
    pub head: Duration,
    /// How long a body may pause, whichever way it goes. There is no limit on how long it takes in all.
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
    /// Who may do what. Without it everybody may do everything, on loopback.
    pub access: Option<AccessSettings>,
    /// TLS; without it connections are plain.
    pub tls: Option<TlsSettings>,
    /// How clients reach the registry, where proxies are in between.
    pub front: Front,
    /// How often callers may ask.
    pub pace: Option<Rate>,
    /// Another address, for `/metrics`, `/livez` and `/readyz` in plain HTTP.
    pub admin: Option<SocketAddr>,
    /// Whether the main address tells what it counts, where other machines reach it.
    pub public_metrics: bool,
    /// Who is told of pushes and deletes.
    pub hooks: Vec<HookSettings>,
    /// Bounds.
    pub limits: Limits,
    /// What is kept, and for how long.
    pub keeping: Keeping,
    /// After how many bytes of journal, at least, all rows are written to a snapshot, so that it stays short.
    pub snapshot_every: usize,
}

impl Settings {
    /// Settings for one address and directory; everything else by default.
    pub fn new(addr: SocketAddr, data: impl Into<PathBuf>) -> Self {
        Self {
            addr,
            data: data.into(),
            allow_anonymous: false,
            access: None,
            tls: None,
            front: Front::default(),
            pace: None,
            admin: None,
            public_metrics: false,
            hooks: Vec::new(),
            limits: Limits::default(),
            keeping: Keeping::default(),
            snapshot_every: SNAPSHOT_EVERY,
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address can be reached from other machines, and nothing protects the registry.
    #[error(
        "refusing to listen on {0}: other machines can reach it and everybody could push and delete; listen on 127.0.0.1, give access rules, or allow anonymous access explicitly"
    )]
    Unprotected(SocketAddr),
    /// A file of users, keys or certificates cannot be used.
    #[error("could not prepare logins and TLS")]
    Prepare(#[source] ReadError),
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
    admin: Option<TcpListener>,
    addr: SocketAddr,
    hooks: Vec<HookSettings>,
    data: PathBuf,
    opened: Opened,
}

impl Server {
    /// Takes the address, opens the store, and reads the files that are named.
    pub async fn bind(settings: Settings) -> Result<Self, BindError> {
        let addr = settings.addr;
        if !addr.ip().is_loopback() && settings.access.is_none() && !settings.allow_anonymous {
            return Err(BindError::Unprotected(addr));
        }
        // The address first: it is the likelier one to be taken, and nothing was written yet then.
        let (listener, addr) = listen(addr).await?;
        let admin = match settings.admin {
            Some(addr) => Some(listen(addr).await?.0),
            None => None,
        };
        let (hooks, data) = (settings.hooks.clone(), settings.data.clone());
        let opened = tokio::task::spawn_blocking(move || open(settings, addr)).await;
        let opened = match opened {
            Ok(opened) => opened?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        Ok(Self { listener, admin, addr, hooks, data, opened })
    }

    /// Where it listens, with the port that was found if any was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it tells operators how it is, if that is an address of its own.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// The store behind it, for use in the same process.
    pub fn store(&self) -> &Store {
        &self.opened.api.store
    }

    /// Answers requests until `shutdown` ends; then lets running requests end and closes the store.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, admin, addr, hooks, data, opened: Opened { api, tls, owner, pulls } } = self;
        let drain = api.limits.drain;
        let api = Arc::new(api);
        let mut beside = JoinSet::new(); // what runs until the end, and no longer
        if let Some(listener) = admin {
            let api = api.clone();
            let answer: Answer = |api, request| Box::pin(api::answer_operator(api, request));
            beside.spawn(async move { match accept(listener, api, answer, None, &GracefulShutdown::new()).await {} });
        }
        let shared = Hooks {
            store: api.store.clone(),
            metrics: api.metrics.clone(),
            directory: data.join("hooks"),
            source: api.front.url.clone(),
        };
        for hook in hooks {
            beside.spawn(shared.clone().run(hook));
        }
        for (hook, pulls) in pulls {
            beside.spawn(shared.clone().run_pulls(hook, pulls));
        }
        drop(shared);
        let (stop, stopped) = watch::channel(false);
        let upkeep = owner.map(|owner| tokio::spawn(owner.run(stopped, drain)));
        let connections = GracefulShutdown::new();
        tracing::info!(%addr, tls = tls.is_some(), "serving");
        let answer: Answer = |api, request| Box::pin(api::answer(api, request));
        tokio::select! {
            never = accept(listener, api.clone(), answer, tls, &connections) => match never {},
            () = pin!(shutdown) => {}
        }
        api.draining.store(true, Ordering::Relaxed);
        tracing::info!(open = connections.count(), "shutting down");
        if tokio::time::timeout(drain, connections.shutdown()).await.is_err() {
            tracing::warn!("some requests did not end in time and are cut off");
        }
        beside.shutdown().await;
        let _ = stop.send(true); // there may be nobody to hear it
        if let Some(upkeep) = upkeep
            && let Err(error) = upkeep.await
        {
            tracing::error!(%error, "answering the operator failed");
        }
        api.store.close().await;
    }
}

async fn listen(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let failed = |source| BindError::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    Ok((listener, addr))
}

/// What was opened for a server.
struct Opened {
    api: Api,
    tls: Option<Tls>,
    owner: Option<Owner>,
    /// The pulls that receivers are to be told of.
    pulls: Vec<(HookSettings, mpsc::Receiver<Event>)>,
}

/// Opens everything that lies on disk.
fn open(settings: Settings, addr: SocketAddr) -> Result<Opened, BindError> {
    let tls = settings.tls.map(Tls::open).transpose().map_err(BindError::Prepare)?;
    let store = Store::open_serving(&settings.data, settings.keeping, settings.snapshot_every)?;
    // A registry on a file system without sockets serves all the same.
    let owner = Owner::bind(&settings.data, store.clone())
        .inspect_err(|error| tracing::warn!(%error, "gc, fsck and their like will not work while this registry runs"))
        .ok();
    let gate = match settings.access {
        Some(access) => Gate::Guarded(Box::new(Access::open(access, &settings.data).map_err(BindError::Prepare)?)),
        None => Gate::Open,
    };
    let metrics = Arc::new(Metrics::default());
    let (pulls, told) = Pulls::new(&settings.hooks, metrics.clone());
    let api = Api {
        store,
        pulls,
        limits: settings.limits,
        gate,
        front: settings.front,
        metrics,
        pace: settings.pace.map(Limiter::new),
        guesses: Limiter::new(GUESSES),
        draining: AtomicBool::new(false),
        shows_metrics: settings.public_metrics || (settings.admin.is_none() && addr.ip().is_loopback()),
    };
    Ok(Opened { api, tls, owner, pulls: told })
}

/// How the requests of an address are answered.
type Answer = fn(Arc<Api>, http::Request<Body>) -> BoxFuture<'static, http::Response<Body>>;

/// Takes connections for ever.
async fn accept(
    listener: TcpListener,
    api: Arc<Api>,
    answer: Answer,
    tls: Option<Tls>,
    connections: &GracefulShutdown,
) -> Infallible {
    let tls = tls.map(Arc::new);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                tokio::spawn(connection(stream, peer, api.clone(), answer, tls.clone(), connections.watcher()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    addr: SocketAddr,
    api: Arc<Api>,
    answer: Answer,
    tls: Option<Arc<Tls>>,
    watcher: Watcher,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %addr, "answers may be delayed");
    }
    let hang_up = Arc::<Notify>::default();
    match tls {
        None => {
            let stream = Plain::new(stream, api.limits.head);
            let peer = Peer { addr, secure: false, certificate: None, promises: Some(stream.promises()), hang_up };
            converse(stream, api, answer, peer, watcher).await;
        }
        Some(tls) => match tls.accept(stream).await {
            Ok((stream, certificate)) => {
                let peer = Peer { addr, secure: true, certificate, promises: None, hang_up };
                converse(TokioIo::new(stream), api, answer, peer, watcher).await;
            }
            Err(error) => tracing::debug!(%error, %addr, "no TLS connection came about"),
        },
    }
}

async fn converse(
    stream: impl Read + Write + Unpin + Send + 'static,
    api: Arc<Api>,
    answer: Answer,
    peer: Peer,
    watcher: Watcher,
) {
    let (addr, head, hang_up) = (peer.addr, api.limits.head, peer.hang_up.clone());
    let stream = Patient::new(stream, api.limits.idle);
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
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        let answered = answer(api.clone(), request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let serving = builder.serve_connection(stream, service).into_owned();
    tokio::select! {
        // Clients that hang up early are normal: parallel range readers do it all the time.
        ended = watcher.watch(serving) => if let Err(error) = ended {
            tracing::debug!(%error, %addr, "a connection ended early");
        },
        () = hang_up.notified() => tracing::debug!(%addr, "a client that sends what nobody wants is hung up on"),
    }
}
