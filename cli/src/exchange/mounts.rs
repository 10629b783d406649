//! Cache mounts that machines share: a mount begins with what other machines have left, beside what is here already, and
//! what a build has put into its mounts is there for the next one. Only chunks that are new are sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use builder::cache::Cache;
use builder::cache::mounts::{Chunk, DOCUMENT_LIMIT, DOCUMENT_TYPE, Document, Import, Tree, Used};
use content::remote::Client;
use content::{Disk, Error, Sink, Source};
use futures_util::{StreamExt, TryStreamExt, stream};
use oci::{Descriptor, Digest, Tag};
use tokio::runtime::Handle;

use super::publish::{InMemory, Shared, current, publish};
use super::{Directory, LOCAL_TAG, Place, Remote, SETTLE, hold, name, place, tag};
use crate::failure::{Failure, Outcome};
use crate::terminal::tell;

/// How large a mount may be when nobody says otherwise, in bytes of its tar.
const LIMIT: u64 = 2 << 30;

/// How many chunks are sent at once.
const AT_ONCE: usize = 4;

/// A mount that was used lately is not written again only to say so.
const LATELY: i64 = 24 * 3600;

/// Where cache mounts are kept for others.
#[derive(Debug)]
pub struct SharedMounts {
    place: Place,
    limit: u64,
}

impl Shared for Document {
    const TYPE: &'static str = DOCUMENT_TYPE;
    const LIMIT: usize = DOCUMENT_LIMIT;

    fn read(bytes: &[u8], blobs: &[Descriptor]) -> Option<Self> {
        Self::parse(bytes, blobs)
    }

    fn take_in(&mut self, other: Self) {
        self.merge(other);
    }

    fn holds(&self, other: &Self) -> bool {
        self.covers(other)
    }

    fn written(&self) -> (Vec<u8>, Vec<u8>) {
        self.written()
    }
}

impl SharedMounts {
    /// Reads what was typed.
    pub fn parse(text: &str) -> Outcome<Self> {
        let typed = place(text, "cache-mounts", "dir")?;
        Ok(Self { place: typed.place, limit: typed.limit.unwrap_or(LIMIT) })
    }

    /// What others have left. A place that cannot be read is told, and the mounts are empty.
    pub async fn import(&self, client: &Client) -> Option<Import> {
        match self.read(client).await {
            Ok(import) => import,
            Err(error) => {
                tell(&format!("warning: the cache mounts of {} cannot be used: {error}", name(&self.place)));
                None
            }
        }
    }

    async fn read(&self, client: &Client) -> content::Result<Option<Import>> {
        let (mut document, blobs): (Document, Arc<dyn builder::build::Blobs>) = match &self.place {
            Place::Registry(reference) => {
                let repository = client.repository(reference.host(), reference.name());
                let tag = reference.tag().cloned().unwrap_or_else(|| tag("latest"));
                let found = current(&repository, &tag).await?.document();
                (found, Arc::new(Remote { runtime: Handle::current(), repository }))
            }
            Place::Directory(path) if path.join("oci-layout").exists() => {
                let disk = Disk::open(path)?;
                let found = current(&disk.repository(None), &tag(LOCAL_TAG)).await?.document();
                (found, Arc::new(Directory(disk)))
            }
            Place::Directory(_) | Place::Inline => return Ok(None),
        };
        document.mounts.retain(|_, tree| tree.size() <= self.limit);
        Ok(Some(Import { document, blobs, name: name(&self.place) }))
    }

    /// Keeps the mounts that a build has used for others.
    pub async fn export(&self, used: &BTreeMap<Digest, Used>, cache: &Cache, client: &Client) -> Outcome<()> {
        if used.is_empty() {
            return Ok(());
        }
        let written = match &self.place {
            Place::Registry(reference) => {
                let repository = client.repository(reference.host(), reference.name());
                let tag = reference.tag().cloned().unwrap_or_else(|| tag("latest"));
                self.write(&repository, &tag, Some(SETTLE), used, cache).await
            }
            Place::Directory(path) => {
                let within = async {
                    let disk = Disk::create(path)?;
                    let _held = hold(path).await?;
                    self.write(&disk.repository(None), &tag(LOCAL_TAG), None, used, cache).await
                };
                within.await
            }
            Place::Inline => Ok(()), // is not parsed
        };
        written
            .map_err(|error| Failure::content(format!("cannot keep the cache mounts in {}", name(&self.place)), &error))
    }

    async fn write<P: Source + Sink>(
        &self,
        place: &P,
        name: &Tag,
        settle: Option<std::time::Duration>,
        used: &BTreeMap<Digest, Used>,
        cache: &Cache,
    ) -> content::Result<()> {
        let there: Document = current(place, name).await?.document();
        let known = there.chunks();
        let mut ours = Document::default();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
        for (key, mount) in used {
            let Some(chunks) = self.send(place, mount, cache, &known).await? else { continue };
            if let Err(error) = mount.given(&chunks) {
                tracing::debug!(%error, "the mount is compared with the one of others once more than needed");
            }
            let is_news = |tree: &Tree| tree.chunks != chunks || tree.used < now - LATELY;
            if there.mounts.get(key).is_none_or(is_news) {
                ours.mounts.insert(*key, Tree { chunks, used: now });
            }
        }
        if ours.mounts.is_empty() { Ok(()) } else { publish(place, name, &ours, settle).await }
    }

    /// Sends the chunks of a mount that are not there. None if the mount is too large, or cannot be read.
    async fn send<P: Sink>(
        &self,
        place: &P,
        mount: &Used,
        cache: &Cache,
        known: &BTreeMap<Digest, Chunk>,
    ) -> content::Result<Option<Vec<Chunk>>> {
        let shown = mount.place.display();
        let chunks = match mount.chunks(&cache.work()) {
            Ok(chunks) => chunks,
            Err(error) => {
                tell(&format!("warning: the cache mount in {shown} is not kept for others: {error}"));
                return Ok(None);
            }
        };
        let failed = |source| Error::Disk { path: mount.place.clone(), source };
        let (mut size, mut seen) = (0, BTreeSet::new());
        let within = chunks.map_while(|chunk| {
            let chunk = chunk.map_err(failed).and_then(|plain| {
                size += plain.len() as u64;
                let is_new = seen.insert(Digest::of(&plain));
                match known.get(&Digest::of(&plain)) {
                    Some(chunk) => Ok((chunk.clone(), None)),
                    None => {
                        Chunk::pack(&plain).map(|(chunk, packed)| (chunk, is_new.then_some(packed))).map_err(failed)
                    }
                }
            });
            (size <= self.limit).then_some(chunk)
        });
        let sent = stream::iter(within).map(|chunk| async move {
            let (chunk, packed) = chunk?;
            if let Some(packed) = packed {
                place.put_blob(&chunk.descriptor(), &InMemory(packed)).await?;
            }
            Ok::<_, Error>(chunk)
        });
        let sent: Vec<Chunk> = sent.buffered(AT_ONCE).try_collect().await?;
        if size > self.limit {
            let limit = self.limit;
            tell(&format!(
                "warning: the cache mount in {shown} is not kept for others: it is larger than {limit} bytes"
            ));
            return Ok(None);
        }
        Ok(Some(sent))
    }
}
