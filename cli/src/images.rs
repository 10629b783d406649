//! Base images for builds: from the local store where they are there, else from their registry.
//!
//! The builder asks from an ordinary thread and waits; the network is waited for on the runtime, and
//! Ctrl-C ends the waiting.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use builder::build::{BaseImages, Resolved};
use builder::remote::Answer;
use bytes::Bytes;
use content::remote::{Client, Version};
use content::{Body, Disk, Error, Result, Source, WithOrigins, collect, select_platform};
use futures_util::StreamExt;
use oci::{Descriptor, Manifest, ManifestKind, Platform, Reference, Selector, Verifier};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::command::LayoutImage;
use crate::exit::Exit;

/// Largest image config that is read, in bytes.
const CONFIG_LIMIT: usize = 8 << 20;

/// Where base images come from.
pub struct Images {
    runtime: Handle,
    client: Client,
    local: Disk,
    always_ask: bool,
    interrupted: watch::Receiver<Option<Exit>>,
    /// Images of layouts on this machine, which no registry has.
    layouts: BTreeMap<Reference, LayoutImage>,
}

impl Images {
    pub fn new(
        runtime: Handle,
        client: Client,
        local: Disk,
        always_ask: bool,
        interrupted: watch::Receiver<Option<Exit>>,
    ) -> Self {
        Self { runtime, client, local, always_ask, interrupted, layouts: BTreeMap::new() }
    }

    /// The same, and these images.
    pub fn with_layouts(self, layouts: BTreeMap<Reference, LayoutImage>) -> Self {
        Self { layouts, ..self }
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        wait(&self.runtime, self.interrupted.clone(), work)
    }

    async fn find(&self, reference: &Reference, platform: &Platform) -> Result<Resolved> {
        if let Some(LayoutImage { disk, digest }) = self.layouts.get(reference) {
            let source = disk.repository(None);
            let manifest = source.manifest(&Selector::Digest(*digest)).await?;
            return read_from(&source, manifest, reference, platform).await;
        }
        let local = self.local.repository(Some(reference.repository()));
        let asks = self.always_ask && reference.digest().is_none();
        if !asks && local.manifest(&reference.selector()).await.is_ok() {
            let local = WithOrigins::new(local, self.client.clone());
            let mut found = read(&local, reference, platform).await?;
            let layer = found.manifest.blobs().last().map(|layer| layer.digest);
            found.origin = layer.and_then(|layer| local.origins(layer).into_iter().next());
            if is_for(&found, platform) {
                return Ok(found);
            }
            // The store has it for another machine; the registry may have it for this one.
            return Ok(self
                .ask(reference, platform)
                .await
                .ok()
                .filter(|asked| is_for(asked, platform))
                .unwrap_or(found));
        }
        self.ask(reference, platform).await
    }

    async fn ask(&self, reference: &Reference, platform: &Platform) -> Result<Resolved> {
        let remote = self.client.repository(reference.host(), reference.name());
        let mut found = read(&remote, reference, platform).await?;
        found.origin = content::Sink::origin(&remote);
        Ok(found)
    }
}

async fn read<S: Source>(source: &S, reference: &Reference, platform: &Platform) -> Result<Resolved> {
    let manifest = source.manifest(&reference.selector()).await?;
    read_from(source, manifest, reference, platform).await
}

/// Whether the config says that it is for the platform; one that says nothing is for any.
fn is_for(image: &Resolved, platform: &Platform) -> bool {
    match builder::config::ImageConfig::parse(&image.config) {
        Ok(config) => config.platform.architecture.is_empty() || platform.accepts(&config.platform),
        Err(_) => true, // the builder tells what is wrong with it
    }
}

async fn read_from<S: Source>(
    source: &S,
    manifest: Manifest,
    reference: &Reference,
    platform: &Platform,
) -> Result<Resolved> {
    let manifest = select_platform(source, manifest, platform).await?;
    let config = match manifest.kind() {
        ManifestKind::Image { config, .. } => checked(source, config, reference).await?,
        ManifestKind::Index { .. } => Vec::new(), // the builder refuses what is no image
    };
    Ok(Resolved { reference: reference.clone(), manifest, config, origin: None })
}

async fn checked<S: Source>(source: &S, config: &Descriptor, reference: &Reference) -> Result<Vec<u8>> {
    let place = || reference.repository();
    let too_large =
        || Error::Protocol { host: place(), reason: "its image config is larger than any that is known".to_owned() };
    let bytes = collect(source.blob(config, 0).await?, CONFIG_LIMIT).await?.ok_or_else(too_large)?;
    let mut verifier = Verifier::new(config.digest.algorithm());
    verifier.update(&bytes);
    verifier.finish(config.digest).map_err(|mismatch| Error::Wrong { place: place(), mismatch })?;
    Ok(bytes)
}

impl BaseImages for Images {
    fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Resolved> {
        self.wait(self.find(reference, platform))
    }

    fn open(&self, image: &Resolved, layer: &Descriptor) -> Result<Box<dyn Read + Send>> {
        if let Some(LayoutImage { disk, .. }) = self.layouts.get(&image.reference) {
            let missing = || Error::NoBlob { place: disk.root().display().to_string(), digest: layer.digest };
            return Ok(Box::new(disk.open_blob(&layer.digest)?.ok_or_else(missing)?));
        }
        let body = match &image.origin {
            Some(origin) => self.wait(self.client.repository(&origin.host, &origin.name).blob(layer, 0))?,
            None => self.wait(self.local.repository(None).blob(layer, 0))?,
        };
        let reader =
            Reader { runtime: self.runtime.clone(), interrupted: self.interrupted.clone(), body, part: Bytes::new() };
        Ok(Box::new(reader))
    }

    fn download(&self, url: &str, known: &Version, into: &mut dyn Write) -> Result<Option<Answer>> {
        let Some(download) = self.wait(self.client.download_unless(url, known))? else { return Ok(None) };
        let answer = Answer::new(download.version, download.content_type.as_deref());
        let (runtime, interrupted) = (self.runtime.clone(), self.interrupted.clone());
        let mut reader = Reader { runtime, interrupted, body: download.body, part: Bytes::new() };
        let broken = |error: io::Error| Error::Broken { place: builder::remote::shown(url), reason: error.to_string() };
        io::copy(&mut reader, into).map_err(broken)?;
        Ok(Some(answer))
    }
}

/// A stream that a thread without a runtime can read.
pub fn reader(runtime: &Handle, body: Body) -> Box<dyn Read + Send> {
    let (_, interrupted) = watch::channel(None); // who reads is stopped by where it writes to
    Box::new(Reader { runtime: runtime.clone(), interrupted, body, part: Bytes::new() })
}

/// A stream, read by a thread that waits.
struct Reader {
    runtime: Handle,
    interrupted: watch::Receiver<Option<Exit>>,
    body: Body,
    part: Bytes,
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            let body = &mut self.body;
            let next = wait(&self.runtime, self.interrupted.clone(), async { body.next().await.transpose() });
            match next.map_err(io::Error::other)? {
                Some(part) => self.part = part,
                None => return Ok(0),
            }
        }
        let size = self.part.len().min(into.len());
        into[..size].copy_from_slice(&self.part.split_to(size));
        Ok(size)
    }
}

fn wait<T>(
    runtime: &Handle,
    mut interrupted: watch::Receiver<Option<Exit>>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let stopped = || Error::Broken { place: "the base image".to_owned(), reason: "interrupted".to_owned() };
    runtime.block_on(async {
        let signal = async {
            if interrupted.wait_for(Option::is_some).await.is_err() {
                std::future::pending::<()>().await; // nobody is left to interrupt us
            }
        };
        tokio::select! {
            done = work => done,
            () = signal => Err(stopped()),
        }
    })
}
