//! images: what the local store has, under which names.

use std::io::Read;

use content::Disk;
use oci::{Descriptor, InvalidReference, Manifest, ManifestKind, Reference};
use serde::Serialize;

use crate::args::ImagesArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings;
use crate::terminal::{bytes, out};

/// Largest image config that is read, in bytes.
const CONFIG_LIMIT: u64 = 8 << 20;

fn failed(error: content::Error) -> Failure {
    Failure::content("cannot read the local store", &error)
}

/// What is told of an image.
#[derive(Serialize)]
struct Row {
    name: String,
    digest: String,
    platforms: Vec<String>,
    created: Option<String>,
    size: u64,
}

pub fn images(args: &ImagesArgs) -> Outcome<()> {
    let disk = settings::local_store(&settings::data_directory(&args.store)?)?;
    let wanted = args.name.as_deref().map(Wanted::parse).transpose()?;
    let wanted = |name: &str| wanted.as_ref().is_none_or(|wanted| wanted.is(name));
    let found = disk.images().map_err(failed)?.into_iter().filter(|(name, _)| wanted(name));
    if args.quiet {
        found.for_each(|(name, entry)| out(&format!("{name}@{}", entry.digest)));
        return Ok(());
    }
    let rows = found.map(|(name, entry)| row(&disk, name, &entry)).collect::<Outcome<Vec<Row>>>()?;
    if args.json {
        let text = serde_json::to_string_pretty(&rows);
        out(&text.map_err(|error| Failure::because(Exit::Bug, "cannot print the images", &error))?);
        return Ok(());
    }
    let width = rows.iter().map(|row| row.name.len() + 1 + row.digest.len()).max().unwrap_or_default();
    for row in rows {
        let pinned = format!("{}@{}", row.name, row.digest);
        // To the second, for people.
        let created: String = row.created.unwrap_or_else(|| "-".to_owned()).chars().take(19).collect();
        out(&format!("{pinned:width$}  {created:19}  {:>9}", bytes(row.size)));
    }
    Ok(())
}

/// Which images are to be listed.
struct Wanted {
    reference: Reference,
    /// Whether a tag was typed, which is `latest` elsewhere.
    is_tagged: bool,
}

impl Wanted {
    fn parse(typed: &str) -> Outcome<Self> {
        let wrong =
            |error: InvalidReference| Failure::because(Exit::Usage, format!("`{typed}` names no image"), &error);
        let last = typed.rsplit('/').next().unwrap_or_default();
        Ok(Self { reference: typed.parse().map_err(wrong)?, is_tagged: last.contains([':', '@']) })
    }

    fn is(&self, name: &str) -> bool {
        let Ok(name) = name.parse::<Reference>() else { return false };
        let is_tag = !self.is_tagged || self.reference.tag() == name.tag();
        name.repository() == self.reference.repository() && is_tag
    }
}

fn row(disk: &Disk, name: String, entry: &Descriptor) -> Outcome<Row> {
    let mut row =
        Row { name, digest: entry.digest.to_string(), platforms: Vec::new(), created: None, size: entry.size };
    let mut waiting = vec![entry.digest];
    // An index lists images, and images nothing more: a store that says otherwise is not followed far.
    while let Some(manifest) = waiting.pop().map(|digest| disk.manifest(&digest)) {
        let Some(manifest) = manifest.map_err(failed)? else { continue };
        row.size += manifest.blobs().map(|blob| blob.size).sum::<u64>();
        if manifest.digest() == entry.digest {
            row.size += manifest.children().iter().map(|child| child.size).sum::<u64>();
            waiting.extend(manifest.children().iter().map(|child| child.digest));
        }
        if let Some((created, platform)) = made(disk, &manifest).map_err(failed)? {
            row.created = row.created.max(created);
            row.platforms.extend(platform);
        }
    }
    Ok(row)
}

/// When an image was made, and for which platform; what its config does not say is not known.
fn made(disk: &Disk, manifest: &Manifest) -> content::Result<Option<(Option<String>, Option<String>)>> {
    let ManifestKind::Image { config, .. } = manifest.kind() else { return Ok(None) };
    let Some(file) = disk.open_blob(&config.digest)? else { return Ok(None) };
    let mut text = Vec::new();
    let read = file.take(CONFIG_LIMIT).read_to_end(&mut text);
    read.map_err(|source| content::Error::Disk { path: disk.blob_path(&config.digest), source })?;
    let Ok(config) = serde_json::from_slice::<serde_json::Value>(&text) else { return Ok(None) };
    let part = |name: &str| config[name].as_str().map(str::to_owned);
    let platform = part("os").zip(part("architecture")).map(|(os, architecture)| format!("{os}/{architecture}"));
    Ok(Some((part("created"), platform)))
}
