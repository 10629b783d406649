//! What the commands of a build get beside what the Dockerfile says: secrets, agents, network, limits.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::dockerfile::Network;
use crate::plan::RunStep;
use crate::sandbox::{Isolation, Limit};
use crate::secret::Secret;

/// For every RUN of a build.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// `--isolation`: for whoever enters the sandbox. In no key, as it changes no image.
    pub isolation: Isolation,
    /// `--secret`, by id. In no key, no layer and no message.
    pub secrets: BTreeMap<String, Secret>,
    /// `--ssh`: the socket of an SSH agent, by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// `--network`, for steps that do not say theirs.
    pub network: Network,
    /// `--add-host`.
    pub add_hosts: Vec<(String, IpAddr)>,
    /// `--ulimit`.
    pub limits: Vec<Limit>,
    /// `--shm-size`, in bytes; none means [`DEFAULT_SHM_SIZE`](crate::sandbox::DEFAULT_SHM_SIZE).
    pub shm_size: Option<u64>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            isolation: Isolation::Auto,
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            network: Network::Default,
            add_hosts: Vec::new(),
            limits: Vec::new(),
            shm_size: None,
        }
    }
}

impl RunOptions {
    /// The network that a step gets.
    pub(super) fn network_of(&self, step: &RunStep) -> Network {
        match step.network {
            Network::Default => self.network,
            said => said,
        }
    }
}
