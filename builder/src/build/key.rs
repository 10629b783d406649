//! The name of a step's result: a hash of everything that it is made from. Never a time, never a path
//! of this machine; texts and numbers are framed, so that no two different steps give the same bytes.

use oci::{Digest, Verifier};

use super::RunOptions;
use crate::dockerfile::Network;
use crate::layer::Compression;
use crate::layer::pipeline::Options;
use crate::plan::{CopyStep, RunStep};

/// Changes when steps are made in another way than before.
const VERSION: &[u8] = b"lighter step 3";

/// A hash in the making.
pub(super) struct Key(Verifier);

impl Key {
    /// The start of every key: what the step is put upon, and how layers are made.
    pub fn new<'l>(kind: &str, below: impl IntoIterator<Item = &'l [u8]>, options: &Options) -> Self {
        let mut key = Self(Verifier::sha256());
        key.bytes(VERSION);
        key.text(kind);
        let below: Vec<&[u8]> = below.into_iter().collect();
        key.number(below.len() as u64);
        below.iter().for_each(|layer| key.bytes(layer));
        key.text(&compression(options.compression));
        key.optional(options.newest.map(|newest| newest.to_string()).as_deref());
        key
    }

    pub fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub fn optional(&mut self, text: Option<&str>) {
        self.number(u64::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    fn texts<'t>(&mut self, texts: impl ExactSizeIterator<Item = &'t str>) {
        self.number(texts.len() as u64);
        texts.for_each(|text| self.text(text));
    }

    /// RUN: the command and all that it sees beside the tree; proxies and the values of secrets are left out.
    pub fn run(&mut self, step: &RunStep, options: &RunOptions) {
        self.texts(step.arguments.iter().map(String::as_str));
        let mut env = step.env.clone();
        env.sort();
        self.number(env.len() as u64);
        for (name, value) in &env {
            self.text(name);
            self.text(value);
        }
        self.text(&step.cwd);
        self.text(&step.user);
        self.optional(step.script.as_ref().map(|script| script.name.as_str()));
        self.optional(step.script.as_ref().map(|script| script.text.as_str()));
        self.number(match options.network_of(step) {
            Network::Default => 0,
            Network::None => 1,
            Network::Host => 2,
        });
        self.number(step.mounts.len() as u64);
        for (mount, _) in &step.mounts {
            self.text(&format!("{mount:?}"));
        }
        if let Some(hostname) = &step.hostname {
            self.text("hostname");
            self.text(hostname);
        }
        self.text(&format!("{:?} {:?} {:?}", options.add_hosts, options.limits, options.shm_size));
    }

    /// COPY and ADD: where it goes and how, and the digest of what is copied.
    pub fn copy(&mut self, step: &CopyStep, selected: &Digest) {
        self.bytes(selected.as_bytes());
        self.text(&step.destination);
        self.optional(step.chown.as_deref());
        self.optional(step.chmod.as_deref());
        for switch in [step.add, step.link, step.unpack, step.parents] {
            self.number(u64::from(switch));
        }
    }

    pub fn finish(self) -> Digest {
        self.0.seal().digest()
    }
}

fn compression(compression: Compression) -> String {
    format!("{compression:?}")
}
