//! Images in one tar file: what `docker save`, `podman save` and `skopeo` exchange.
//!
//! An OCI archive is a tar of an OCI image layout. A Docker archive written here is the same with a
//! `manifest.json` beside it, which every `docker load` reads. Reading takes both, and Docker's older
//! form with one directory per layer. An archive is hostile: only the names that the formats have
//! are looked at, and content is kept only under a digest that it was found to have.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use oci::{Algorithm, Descriptor, Digest, Manifest, ManifestKind, media_type};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::disk::{Disk, REF_NAME};
use crate::{Error, Result};

/// Largest JSON document in an archive that is read, in bytes.
const DOCUMENT_LIMIT: u64 = 64 << 20;

/// How much of an archive is read at once, in bytes.
const CHUNK: usize = 1 << 20;

/// Which form an archive is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// An OCI image layout.
    Oci,
    /// The same, and what `docker load` looks for.
    Docker,
}

/// Reads and writes archives.
#[derive(Debug, Clone, Copy)]
pub struct Archive;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Archive {
    /// Writes an image whose blobs are all in `disk`; its manifest need not be. `names` are references or plain tags.
    pub fn write(
        disk: &Disk,
        manifest: &Manifest,
        names: &[String],
        kind: ArchiveKind,
        out: &mut dyn Write,
    ) -> Result<()> {
        let failed = || Error::disk(disk.root());
        let mut tar = tar::Builder::new(out);
        add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(failed())?;
        add(&mut tar, "index.json", &index(manifest, names)).map_err(failed())?;
        if kind == ArchiveKind::Docker {
            add(&mut tar, "manifest.json", &docker_manifest(manifest, names)?).map_err(failed())?;
        }
        let mut blobs: BTreeMap<Digest, ()> = BTreeMap::new();
        collect_blobs(disk, manifest, &mut blobs)?;
        for digest in blobs.keys() {
            if *digest == manifest.digest() {
                add(&mut tar, &blob_path(digest), manifest.bytes()).map_err(failed())?;
                continue;
            }
            let missing = || Error::NoBlob { place: disk.root().display().to_string(), digest: *digest };
            let mut file = disk.open_blob(digest)?.ok_or_else(missing)?;
            let size = file.metadata().map_err(failed())?.len();
            let mut header = header(size);
            tar.append_data(&mut header, blob_path(digest), &mut file).map_err(failed())?;
        }
        tar.into_inner().and_then(|out| out.flush()).map_err(failed())
    }

    /// Reads an archive into a layout, and says which images it held.
    pub fn read(path: &Path, into: &Disk) -> Result<Vec<Descriptor>> {
        let mut found = Found::default();
        let file = File::open(path).map_err(Error::disk(path))?;
        let mut tar = tar::Archive::new(file);
        for entry in tar.entries().map_err(unreadable(path))? {
            let mut entry = entry.map_err(unreadable(path))?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path().map_err(unreadable(path))?.to_string_lossy().into_owned();
            found.take(name.trim_start_matches("./"), path, &mut entry, into)?;
        }
        found.images(path, into)
    }
}

/// A tar that ends early or holds nonsense is bad input; everything else is the disk's fault.
fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    let path = path.to_owned();
    |error| match error.kind() {
        InvalidData | InvalidInput | Other | UnexpectedEof => {
            Error::Format { path, reason: format!("it is no tar archive, or a broken one: {error}") }
        }
        _ => Error::Disk { path, source: error },
    }
}

fn index(manifest: &Manifest, names: &[String]) -> Vec<u8> {
    let entry = |name: Option<&String>| {
        let mut entry = manifest.descriptor();
        entry.annotations.extend(name.map(|name| (REF_NAME.to_owned(), name.clone())));
        entry
    };
    let entries: Vec<Descriptor> =
        if names.is_empty() { vec![entry(None)] } else { names.iter().map(|name| entry(Some(name))).collect() };
    json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries}).to_string().into_bytes()
}

fn docker_manifest(manifest: &Manifest, names: &[String]) -> Result<Vec<u8>> {
    let ManifestKind::Image { config, layers } = manifest.kind() else {
        let wanted = "one platform: a Docker archive holds no index".to_owned();
        return Err(Error::NoPlatform { place: manifest.digest().to_string(), wanted, offered: Vec::new() });
    };
    let entry = DockerEntry {
        config: blob_path(&config.digest),
        repo_tags: (!names.is_empty()).then(|| names.iter().map(|name| familiar(name).to_owned()).collect()),
        layers: layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
    };
    Ok(json!([entry]).to_string().into_bytes())
}

/// A name as docker says it in an archive: `docker.io/library/shop:v1` is `shop:v1`.
fn familiar(name: &str) -> &str {
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    match short.strip_prefix("library/") {
        Some(rest) if short.len() < name.len() && !rest.contains('/') => rest,
        _ => short,
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn collect_blobs(disk: &Disk, manifest: &Manifest, blobs: &mut BTreeMap<Digest, ()>) -> Result<()> {
    blobs.insert(manifest.digest(), ());
    blobs.extend(manifest.blobs().filter(|blob| blob.urls.is_empty()).map(|blob| (blob.digest, ())));
    for child in
        manifest.children().iter().filter(|child| !blobs.contains_key(&child.digest)).cloned().collect::<Vec<_>>()
    {
        collect_blobs(disk, &disk.read_manifest(&child, &oci::Selector::Digest(child.digest))?, blobs)?;
    }
    Ok(())
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header
}

fn add<W: Write>(tar: &mut tar::Builder<W>, name: &str, content: &[u8]) -> std::io::Result<()> {
    tar.append_data(&mut header(content.len() as u64), name, content)
}

/// How a layer is compressed, by its first bytes (RFC 1952, RFC 8878).
fn layer_type(beginning: &[u8]) -> &'static str {
    match beginning {
        [0x1f, 0x8b, ..] => media_type::OCI_LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => media_type::OCI_LAYER_ZSTD,
        _ => media_type::OCI_LAYER,
    }
}

/// What an archive turned out to hold.
#[derive(Default)]
struct Found {
    index: Option<Vec<u8>>,
    docker: Option<Vec<u8>>,
    /// Files by their name in the archive, as they were filed.
    files: BTreeMap<String, Filed>,
}

/// A file of an archive that lies in the layout now.
#[derive(Clone, Copy)]
struct Filed {
    digest: Digest,
    size: u64,
    /// What it is if it is a layer.
    layer: &'static str,
}

#[derive(Deserialize)]
struct IndexDocument {
    manifests: Vec<Descriptor>,
}

impl Found {
    fn take(&mut self, name: &str, path: &Path, entry: &mut impl Read, into: &Disk) -> Result<()> {
        let document = |entry: &mut dyn Read| {
            let mut text = Vec::new();
            entry.take(DOCUMENT_LIMIT).read_to_end(&mut text).map(|_| text).map_err(unreadable(path))
        };
        match name {
            "index.json" => self.index = Some(document(entry)?),
            "manifest.json" => self.docker = Some(document(entry)?),
            "oci-layout" | "repositories" => {}
            _ => {
                let algorithm = if name.starts_with("blobs/sha512/") { Algorithm::Sha512 } else { Algorithm::Sha256 };
                let mut incoming = into.incoming_with(algorithm)?;
                let mut chunk = vec![0; CHUNK];
                let mut layer = None;
                // Not `io::copy`: whether the archive or the disk failed is what people want to know.
                loop {
                    let read = entry.read(&mut chunk).map_err(unreadable(path))?;
                    if read == 0 {
                        break;
                    }
                    layer.get_or_insert_with(|| layer_type(&chunk[..read]));
                    incoming.write_all(&chunk[..read]).map_err(Error::disk(into.root()))?;
                }
                let verified = into.keep(incoming.seal())?;
                let layer = layer.unwrap_or(media_type::OCI_LAYER);
                self.files.insert(name.to_owned(), Filed { digest: verified.digest(), size: verified.size(), layer });
            }
        }
        Ok(())
    }

    fn images(&self, path: &Path, into: &Disk) -> Result<Vec<Descriptor>> {
        let wrong = |reason: String| Error::Format { path: path.to_owned(), reason };
        if let Some(index) = &self.index {
            let index: IndexDocument =
                serde_json::from_slice(index).map_err(|error| wrong(format!("index.json: {error}")))?;
            for entry in &index.manifests {
                let manifest = into.read_manifest(entry, &oci::Selector::Digest(entry.digest))?;
                into.put_manifest(&manifest, entry.annotations.get(REF_NAME).cloned())?;
            }
            return Ok(index.manifests);
        }
        let docker = self.docker.as_ref().ok_or_else(|| {
            wrong("it has neither index.json nor manifest.json, so it is no image archive".to_owned())
        })?;
        let entries: Vec<DockerEntry> =
            serde_json::from_slice(docker).map_err(|error| wrong(format!("manifest.json: {error}")))?;
        entries.iter().map(|entry| self.docker_image(entry, path, into)).collect()
    }

    /// An image of Docker's older archives. Docker writes its layers as plain tars, kaniko and others with
    /// gzip; both stay as they are.
    fn docker_image(&self, entry: &DockerEntry, path: &Path, into: &Disk) -> Result<Descriptor> {
        let file = |name: &String| {
            let missing = || Error::Format {
                path: path.to_owned(),
                reason: format!("manifest.json names {name}, which is not in the archive"),
            };
            self.files.get(name).copied().ok_or_else(missing)
        };
        let describe = |media_type: &str, filed: Filed| Descriptor::new(media_type, filed.digest, filed.size);
        let config = describe(media_type::OCI_CONFIG, file(&entry.config)?);
        let layers = entry
            .layers
            .iter()
            .map(|layer| file(layer).map(|filed| describe(filed.layer, filed)))
            .collect::<Result<Vec<_>>>()?;
        let document =
            json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers});
        let manifest = Manifest::parse(None, document.to_string().into_bytes())
            .map_err(|source| Error::Manifest { place: path.display().to_string(), source })?;
        let mut descriptor = manifest.descriptor();
        let name = entry.repo_tags.as_ref().and_then(|tags| tags.first()).cloned();
        descriptor.annotations.extend(name.iter().map(|name| (REF_NAME.to_owned(), name.clone())));
        into.put_manifest(&manifest, name)?;
        Ok(descriptor)
    }
}
