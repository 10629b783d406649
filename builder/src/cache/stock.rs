//! What the cache holds, how large it is, and what goes when it is too large or too old.
//!
//! Builds, and commands that bring images into the local store, hold the cache shared for as long as they live; whoever
//! removes something holds it alone, so nothing is taken from them. A blob that an image in the local store has stays with
//! the image. Those that no image has any more, as the layers of base images and what was left when a name went to
//! another image, go like everything else.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use content::Disk;
use oci::{Descriptor, Digest, MANIFEST_LIMIT, Manifest, ManifestKind};
use rustix::fs::{FlockOperation, flock};

use super::{Error, Record, at};
use crate::sandbox::remove_tree;

/// What kind of thing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The layer of a step, and the records that name it.
    Layer,
    /// The index of a layer.
    Index,
    /// A layer unpacked for RUN.
    Unpacked,
    /// A cache mount.
    Mount,
    /// A blob that neither a step nor an image has: of a base image, or of an image that lost its name.
    Loose,
}

/// One thing in the cache.
#[derive(Debug, Clone)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// Bytes that come free when it goes.
    pub size: u64,
    /// When it was used last.
    pub used: SystemTime,
    paths: Vec<PathBuf>,
    blob: Option<Digest>,
}

/// What is to go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    /// The cache may stay this large.
    pub keep: Option<u64>,
    /// What was not used for so long goes.
    pub older: Option<Duration>,
}

/// The cache, held alone.
#[derive(Debug)]
pub struct Stock<'a> {
    root: PathBuf,
    store: &'a Disk,
    _held: File,
}

/// The cache, held shared: nothing is removed while this lives.
#[derive(Debug)]
pub struct InUse {
    _held: File,
}

impl InUse {
    /// Takes the cache below `directory`; waits while somebody removes something.
    ///
    /// # Errors
    /// If it cannot be made or locked.
    pub fn hold(directory: &Path) -> Result<Self, Error> {
        let root = directory.join("v1");
        fs::create_dir_all(&root).map_err(at(&root))?;
        Ok(Self { _held: hold(&root, FlockOperation::LockShared).map_err(at(&root))? })
    }

    /// The same without waiting: none while somebody removes something.
    ///
    /// # Errors
    /// If it cannot be made or locked.
    pub fn try_hold(directory: &Path) -> Result<Option<Self>, Error> {
        let root = directory.join("v1");
        fs::create_dir_all(&root).map_err(at(&root))?;
        match hold(&root, FlockOperation::NonBlockingLockShared) {
            Ok(held) => Ok(Some(Self { _held: held })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(at(&root)(error)),
        }
    }
}

/// How the cache is held: shared by builds, alone by who removes something.
pub(super) fn hold(root: &Path, operation: FlockOperation) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(root.join("in-use"))?;
    flock(&file, operation)?;
    Ok(file)
}

impl<'a> Stock<'a> {
    /// Takes the cache below `directory`, whose layers are in `store`; none while a build runs.
    ///
    /// # Errors
    /// If there is none, or it cannot be locked.
    pub fn open(directory: &Path, store: &'a Disk) -> Result<Option<Self>, Error> {
        let root = directory.join("v1");
        fs::create_dir_all(&root).map_err(at(&root))?;
        match hold(&root, FlockOperation::NonBlockingLockExclusive) {
            Ok(held) => Ok(Some(Self { root, store, _held: held })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(at(&root)(error)),
        }
    }

    /// Everything, the longest unused first.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn items(&self) -> Result<Vec<Item>, Error> {
        let kept = self.blobs_of_images()?;
        let mut items = self.layers(&kept)?;
        let of_steps: HashSet<Digest> = items.iter().filter_map(|item| item.blob).collect();
        items.extend(self.loose(|blob| kept.contains(blob) || of_steps.contains(blob))?);
        for path in entries(&self.root.join("indexes"))? {
            items.push(item(Kind::Index, vec![path])?);
        }
        for boot in entries(&self.root.join("roots"))?.into_iter().filter(|path| path.is_dir()) {
            for kind in entries(&boot)?.into_iter().filter(|path| path.is_dir()) {
                for path in entries(&kind)? {
                    items.push(item(Kind::Unpacked, vec![path])?);
                }
            }
        }
        for kind in entries(&self.root.join("mounts"))? {
            for path in entries(&kind)?.into_iter().filter(|path| path.is_dir()) {
                let lock = path.with_extension("lock");
                let used = fs::metadata(&lock).and_then(|found| found.modified());
                let shared = path.with_extension("shared");
                let mut found = item(Kind::Mount, vec![shared, path, lock])?;
                found.used = used.unwrap_or(found.used);
                items.push(found);
            }
        }
        items.sort_by_key(|item| item.used);
        Ok(items)
    }

    /// The layers of steps, each with all records that name it.
    fn layers(&self, kept: &HashSet<Digest>) -> Result<Vec<Item>, Error> {
        let mut layers: BTreeMap<String, Item> = BTreeMap::new();
        for path in entries(&self.root.join("steps"))? {
            let record = super::read_limited(&path, super::RECORD_LIMIT);
            let record: Option<Record> = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let single = item(Kind::Layer, vec![path.clone()])?;
            let Some(record) = record else {
                layers.insert(path.display().to_string(), Item { used: SystemTime::UNIX_EPOCH, ..single });
                continue;
            };
            let digest = record.blob.digest;
            let found = layers.entry(digest.to_string()).or_insert_with(|| {
                let is_free = !kept.contains(&digest);
                let size = if is_free { self.store.blob_size(&digest).ok().flatten().unwrap_or(0) } else { 0 };
                Item { size, paths: Vec::new(), blob: is_free.then_some(digest), ..single.clone() }
            });
            found.used = found.used.max(single.used);
            found.size += single.size;
            found.paths.push(path);
        }
        Ok(layers.into_values().collect())
    }

    /// The blobs of the store that nobody has, where `has` knows who has which.
    fn loose(&self, has: impl Fn(&Digest) -> bool) -> Result<Vec<Item>, Error> {
        let blobs = self.store.blobs().map_err(|error| self.failed(error))?;
        let loose = blobs.into_iter().filter(|blob| !has(blob)).map(|blob| Item {
            kind: Kind::Loose,
            size: self.store.blob_size(&blob).ok().flatten().unwrap_or(0),
            used: self.store.used(&blob).unwrap_or(SystemTime::UNIX_EPOCH),
            paths: Vec::new(),
            blob: Some(blob),
        });
        Ok(loose.collect())
    }

    fn failed(&self, error: content::Error) -> Error {
        at(self.store.root())(io::Error::other(error))
    }

    /// All blobs that images in the store name.
    fn blobs_of_images(&self) -> Result<HashSet<Digest>, Error> {
        self.blobs_of(self.store.entries().map_err(|error| self.failed(error))?)
    }

    /// All blobs that some images name, their manifests among them.
    fn blobs_of(&self, images: Vec<Descriptor>) -> Result<HashSet<Digest>, Error> {
        let mut waiting = images;
        let mut found = HashSet::new();
        while let Some(next) = waiting.pop() {
            if !found.insert(next.digest) {
                continue;
            }
            let Some(file) = self.store.open_blob(&next.digest).map_err(|error| self.failed(error))? else { continue };
            let mut bytes = Vec::new();
            file.take(MANIFEST_LIMIT as u64).read_to_end(&mut bytes).map_err(at(self.store.root()))?;
            let Ok(manifest) = Manifest::parse(Some(&next.media_type), bytes) else { continue };
            match manifest.kind() {
                ManifestKind::Index { manifests } => waiting.extend(manifests.iter().cloned()),
                ManifestKind::Image { .. } => found.extend(manifest.blobs().map(|blob| blob.digest)),
            }
        }
        Ok(found)
    }

    /// Removes what the policy says, the longest unused first; gives how many things and bytes. Unpacked layers can
    /// only be removed where steps run, see [`sandbox::enter`](crate::sandbox::enter).
    ///
    /// # Errors
    /// The first thing that cannot be removed; what was removed before stays removed.
    pub fn prune(&self, policy: Policy, now: SystemTime) -> Result<(usize, u64), Error> {
        let items = self.items()?;
        let mut total: u64 = items.iter().map(|item| item.size).sum();
        let (mut count, mut bytes) = (0, 0);
        for item in items {
            let age = now.duration_since(item.used).unwrap_or_default();
            let is_old = policy.older.is_some_and(|older| age > older);
            let is_too_much = policy.keep.is_some_and(|keep| total > keep);
            if !is_old && !is_too_much {
                continue;
            }
            self.remove(&item)?;
            total = total.saturating_sub(item.size);
            count += 1;
            bytes += item.size;
        }
        Ok((count, bytes))
    }

    fn remove(&self, item: &Item) -> Result<(), Error> {
        // Records go before what they name, so that none ever names what is not there.
        for path in &item.paths {
            remove_tree(path).map_err(at(path))?;
        }
        item.blob.iter().try_for_each(|blob| self.store.remove_blob(blob)).map_err(|error| self.failed(error))
    }

    /// Removes what only an image has that has lost its name; gives how many blobs and bytes. What the cache has of it
    /// stays there.
    ///
    /// # Errors
    /// The first blob that cannot be removed.
    pub fn remove_image(&self, image: Descriptor) -> Result<(usize, u64), Error> {
        let kept = self.blobs_of_images()?;
        let of_steps: HashSet<Digest> = self.layers(&kept)?.into_iter().filter_map(|item| item.blob).collect();
        let of_image = self.blobs_of(vec![image])?;
        let (mut count, mut bytes) = (0, 0);
        for item in self.loose(|blob| !of_image.contains(blob) || kept.contains(blob) || of_steps.contains(blob))? {
            self.remove(&item)?;
            count += 1;
            bytes += item.size;
        }
        Ok((count, bytes))
    }

    /// Hashes every layer of a step; damaged ones are removed, and records without a layer forgotten. Gives how many
    /// were right and how many were not.
    ///
    /// # Errors
    /// If something cannot be read or removed.
    pub fn verify(&self) -> Result<(usize, usize), Error> {
        let (mut right, mut wrong) = (0, 0);
        for path in entries(&self.root.join("steps"))? {
            let record = super::read_limited(&path, super::RECORD_LIMIT);
            let record: Option<Record> = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let digest = record.map(|record| record.blob.digest);
            let is_right = match digest {
                Some(digest) => self.is_right(&digest)?,
                None => Some(false),
            };
            if is_right == Some(true) {
                right += 1;
                continue;
            }
            wrong += 1;
            fs::remove_file(&path).map_err(at(&path))?;
            if let (Some(digest), Some(false)) = (digest, is_right) {
                let blob = self.store.blob_path(&digest);
                match fs::remove_file(&blob) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&blob)(error)),
                    _ => {}
                }
            }
        }
        Ok((right, wrong))
    }

    /// Whether a blob is what its name says; none if it is not there.
    fn is_right(&self, digest: &Digest) -> Result<Option<bool>, Error> {
        let path = self.store.blob_path(digest);
        let file = self.store.open_blob(digest).map_err(|error| at(&path)(io::Error::other(error)))?;
        let Some(mut file) = file else { return Ok(None) };
        let mut verifier = oci::Verifier::new(digest.algorithm());
        io::copy(&mut file, &mut verifier).map_err(at(&path))?;
        Ok(Some(verifier.finish(*digest).is_ok()))
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at(directory)(error)),
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(at(directory))).collect(),
    }
}

fn item(kind: Kind, paths: Vec<PathBuf>) -> Result<Item, Error> {
    let first = &paths[0];
    let found = fs::symlink_metadata(first).map_err(at(first))?;
    let used = found.modified().map_err(at(first))?;
    let size = if found.is_dir() { size_below(first) } else { found.len() };
    Ok(Item { kind, size, used, paths, blob: None })
}

/// What the files of a tree take; what cannot be looked into counts nothing.
fn size_below(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut size = 0;
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                waiting.push(entry.path());
            }
            size += found.blocks() * 512 / found.nlink().max(1);
        }
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;

    fn record(store: &Disk, text: &str) -> Record {
        let blob = store.put_bytes(text.as_bytes()).unwrap();
        Record {
            diff_id: Digest::of(text.as_bytes()).to_string().parse().unwrap(),
            blob: Descriptor::new(oci::media_type::OCI_LAYER_GZIP, blob.digest(), blob.size()),
            created: String::new(),
            likeness: None,
            residue: None,
        }
    }

    fn aged(home: &Path, key: &Digest, days: u64) {
        let file = File::options().write(true).open(home.join("v1/steps").join(key.hex())).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 3600)).unwrap();
    }

    #[test]
    fn the_old_goes_first_and_what_images_have_stays() {
        let home = tempfile::tempdir().unwrap();
        let store = Disk::create(home.path().join("images")).unwrap();
        let cache = Cache::open(home.path()).unwrap();
        let keys = ["old", "older", "new"].map(|name| Digest::of(name.as_bytes()));
        let records = ["a".repeat(1000), "b".repeat(2000), "c".repeat(3000)].map(|text| record(&store, &text));
        for (key, record) in keys.iter().zip(&records) {
            cache.remember_step(key, record).unwrap();
        }
        aged(home.path(), &keys[0], 5);
        aged(home.path(), &keys[1], 9);
        let config = store.put_bytes(b"{}").unwrap();
        let config = Descriptor::new(oci::media_type::OCI_CONFIG, config.digest(), config.size());
        let json = serde_json::json!({"schemaVersion": 2, "mediaType": oci::media_type::OCI_MANIFEST, "config": config,
            "layers": [records[1].blob]});
        let manifest = Manifest::parse(Some(oci::media_type::OCI_MANIFEST), json.to_string().into_bytes()).unwrap();
        store.put_manifest(&manifest, Some("named:1".into())).unwrap();

        assert!(Stock::open(home.path(), &store).unwrap().is_none(), "a build holds it");
        drop(cache);
        let stock = Stock::open(home.path(), &store).unwrap().unwrap();
        let policy = Policy { keep: Some(3500), older: None };
        let (count, _) = stock.prune(policy, SystemTime::now()).unwrap();
        let has = |record: &Record| store.blob_size(&record.blob.digest).unwrap().is_some();
        assert_eq!((count, records.each_ref().map(has)), (2, [false, true, true]));
        let day = Policy { older: Some(Duration::from_secs(24 * 3600)), keep: None };
        assert_eq!(stock.prune(day, SystemTime::now()).unwrap().0, 0);
        assert_eq!(stock.prune(Policy { keep: Some(0), older: None }, SystemTime::now()).unwrap().0, 1);
        assert_eq!(records.each_ref().map(has), [false, true, false]);
    }

    #[test]
    fn damage_is_found_and_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let store = Disk::create(home.path().join("images")).unwrap();
        let cache = Cache::open(home.path()).unwrap();
        let (good, bad) = (record(&store, "good"), record(&store, "bad"));
        cache.remember_step(&Digest::of(b"good"), &good).unwrap();
        cache.remember_step(&Digest::of(b"bad"), &bad).unwrap();
        drop(cache);
        let path = store.blob_path(&bad.blob.digest);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "BAD").unwrap();
        let stock = Stock::open(home.path(), &store).unwrap().unwrap();
        assert_eq!(stock.verify().unwrap(), (1, 1));
        assert_eq!(stock.verify().unwrap(), (1, 0));
        assert!(!path.exists() && store.blob_path(&good.blob.digest).exists());
    }
}
