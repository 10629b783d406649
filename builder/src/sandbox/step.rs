//! The description of one RUN step: what to run, as whom, over which layers. It only says; [`run`](super::run) does.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Credentials, wire};
use crate::secret::Secret;

/// overlayfs refuses more lower layers than this (OVL_MAX_STACK in fs/overlayfs/super.c).
pub const LAYER_LIMIT: usize = 500;

/// The host name that BuildKit gives its steps.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// The size of /dev/shm in bytes when nobody asks for another; Docker's default.
pub const DEFAULT_SHM_SIZE: u64 = 64 << 20;

/// One command over a chain of layers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// Unpacked layer directories, bottom first, at most [`LAYER_LIMIT`]; none at all is `FROM scratch`.
    #[serde(with = "wire::paths")]
    pub layers: Vec<PathBuf>,
    /// The directory that receives what the step changes, in overlayfs form. Must exist; its mode and owner are those
    /// of
    /// `/` inside. Must lie on [`Entered::steps`](super::Entered::steps). What lands in it is not synced to the disk.
    #[serde(with = "wire::path")]
    pub upper: PathBuf,
    /// overlayfs's scratch directory: exists, is empty, was never used, on the same file system as `upper`.
    #[serde(with = "wire::path")]
    pub work: PathBuf,
    /// A plain tree that is the root file system, in place of `layers`, `upper` and `work`: the step changes it itself.
    /// Must lie on [`Entered::steps`](super::Entered::steps), in a directory of its own, in which what the step's own
    /// files cover is kept aside. Where [`Rung`](super::Rung) asks for it.
    #[serde(with = "wire::optional_path")]
    pub tree: Option<PathBuf>,
    /// Program and arguments. A program without `/` is looked for in `PATH` of `env`, inside the root file system.
    pub args: Vec<OsString>,
    /// The whole environment of the command; nothing is added and nothing of the builder's own leaks in.
    pub env: Vec<(OsString, OsString)>,
    /// More of the environment, whose values nobody else may see.
    #[serde(with = "wire::secrets")]
    pub secret_env: Vec<(OsString, Secret)>,
    /// The working directory, absolute; must exist in the root file system.
    #[serde(with = "wire::path")]
    pub cwd: PathBuf,
    /// Who runs the command.
    pub user: Credentials,
    /// Which network the command sees.
    pub network: Network,
    /// The host name inside.
    pub hostname: String,
    /// More lines for /etc/hosts: name and address.
    pub add_hosts: Vec<(String, IpAddr)>,
    /// What is mounted into the root file system for this step only.
    pub mounts: Vec<Mount>,
    /// Resource limits; what is not named is inherited.
    pub rlimits: Vec<Limit>,
    /// The size of /dev/shm in bytes.
    pub shm_size: u64,
}

impl Step {
    /// Makes a step with Docker's defaults: root, cwd `/`, the host's network, an empty environment.
    pub fn new(
        upper: impl Into<PathBuf>,
        work: impl Into<PathBuf>,
        args: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Self {
            layers: Vec::new(),
            tree: None,
            upper: upper.into(),
            work: work.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            secret_env: Vec::new(),
            cwd: PathBuf::from("/"),
            user: Credentials::root(),
            network: Network::Host,
            hostname: DEFAULT_HOSTNAME.to_owned(),
            add_hosts: Vec::new(),
            mounts: Vec::new(),
            rlimits: Vec::new(),
            shm_size: DEFAULT_SHM_SIZE,
        }
    }
}

/// The network of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The network of the builder itself.
    Host,
    /// A network of its own with nothing but the loopback device.
    None,
}

/// Something mounted for one step. Mount points that do not exist are made and removed again afterwards.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Mount {
    /// A file or directory of the machine.
    Bind {
        /// The path outside; absolute.
        #[serde(with = "wire::path")]
        source: PathBuf,
        /// The path inside; absolute.
        #[serde(with = "wire::path")]
        target: PathBuf,
        /// Refuses writes.
        read_only: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// The path inside; absolute.
        #[serde(with = "wire::path")]
        target: PathBuf,
        /// Its limit in bytes; none means half of the memory, as tmpfs does by itself.
        size: Option<u64>,
    },
    /// A read-only file in memory that is on no disk.
    Secret {
        /// The path inside; absolute.
        #[serde(with = "wire::path")]
        target: PathBuf,
        /// What stands in it.
        #[serde(with = "wire::secret")]
        content: Secret,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What is limited.
    pub resource: Resource,
    /// The soft limit in the resource's unit; none is unlimited.
    pub soft: Option<u64>,
    /// The hard limit; none is unlimited. Raising it above the builder's own needs CAP_SYS_RESOURCE.
    pub hard: Option<u64>,
}

/// A kind of resource, by the names of `docker --ulimit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are those of setrlimit(2)
pub enum Resource {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

/// A resource name that setrlimit(2) does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown resource {0:?}; use one of core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack"
)]
pub struct UnknownResource(String);

impl FromStr for Resource {
    type Err = UnknownResource;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        // serde already knows the names.
        serde_json::from_value(serde_json::Value::from(name)).map_err(|_| UnknownResource(name.to_owned()))
    }
}
