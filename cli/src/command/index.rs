//! index create: images for several platforms under one name.

use builder::build::{MediaTypes, index};
use content::{Sink, Source};
use oci::{Descriptor, Manifest, ManifestKind, Platform};

use super::image_options::{Scope, annotations};
use super::transfer;
use crate::args::index::CreateArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::location::Location;
use crate::place::{Opened, Opener};
use crate::settings;
use crate::terminal::{out, tell};

/// Largest image config that is read, in bytes.
const CONFIG_LIMIT: usize = 8 << 20;

pub async fn create(args: &CreateArgs) -> Outcome<()> {
    let opener = transfer::opener(&args.store, &args.registry).await?;
    let destination = transfer::location(&args.destination)?;
    if matches!(destination, Location::OciArchive(..) | Location::DockerArchive(..)) {
        return Err(Failure::new(Exit::Usage, format!("{destination} is an archive, which is written in one go"))
            .hint("put the index into a layout (oci:DIR), then `lighter copy` it"));
    }
    let mut on_index = std::collections::BTreeMap::new();
    for text in &args.annotation {
        let read = annotations(text)?;
        on_index.extend(
            read.into_iter()
                .filter(|one| matches!(one.scope, Scope::Manifest | Scope::Index))
                .map(|one| (one.key, one.value)),
        );
    }
    let target = opener.target(&destination)?;
    let mut entries: Vec<Descriptor> = Vec::new();
    for source in &args.source {
        let location = transfer::location(source)?;
        let opened = opener.source(&location, Opener::in_registry)?;
        for entry in entries_of(&opened, source).await? {
            let known = entries.iter().find(|known| known.platform == entry.platform);
            if let (Some(known), Some(platform)) = (known, &entry.platform)
                && known.digest != entry.digest
            {
                return Err(Failure::new(
                    Exit::BadInput,
                    format!("two parts are for {platform}: {} and {}", known.digest, entry.digest),
                )
                .hint("name the part for each platform once"));
            }
            if known.is_some() {
                continue;
            }
            entries.push(entry);
        }
        let mut untagged = opener.target(&destination)?;
        untagged.tags.clear();
        let copied = transfer::run(&opened, &untagged, &destination.to_string(), &settings::copy_options(None)).await?;
        tell(&format!("{source}: {}", transfer::summary(&copied, &destination)));
    }
    let manifest = index(&entries, MediaTypes::Oci, &on_index)
        .map_err(|error| Failure::because(Exit::Bug, "cannot put the index together", &error))?;
    let failed = |error: content::Error| Failure::content(format!("cannot write {destination}"), &error);
    if target.tags.is_empty() {
        target.to.put_manifest(&manifest, None).await.map_err(failed)?;
    }
    for tag in &target.tags {
        target.to.put_manifest(&manifest, Some(tag)).await.map_err(failed)?;
    }
    out(&match &destination {
        Location::Registry(reference) | Location::Local(reference) | Location::Bare(reference) => {
            reference.pin(manifest.digest()).to_string()
        }
        _ => manifest.digest().to_string(),
    });
    Ok(())
}

/// The images of a part, each with its platform: an index gives its own, an image what its config says.
async fn entries_of(opened: &Opened, source: &str) -> Outcome<Vec<Descriptor>> {
    let failed = |error: content::Error| Failure::content(format!("cannot read {source}"), &error);
    let manifest = opened.from.manifest(&opened.which).await.map_err(failed)?;
    match manifest.kind() {
        ManifestKind::Index { manifests } => Ok(manifests.clone()),
        ManifestKind::Image { config, .. } => {
            let platform = platform_of(opened, config, source).await?;
            Ok(vec![Descriptor { platform: Some(platform), ..Manifest::descriptor(&manifest) }])
        }
    }
}

async fn platform_of(opened: &Opened, config: &Descriptor, source: &str) -> Outcome<Platform> {
    let failed = |error: content::Error| Failure::content(format!("cannot read {source}"), &error);
    let body = opened.from.blob(config, 0).await.map_err(failed)?;
    let bytes = content::collect(body, CONFIG_LIMIT).await.map_err(failed)?.unwrap_or_default();
    if oci::Digest::of_with(config.digest.algorithm(), &bytes) != config.digest {
        return Err(Failure::new(Exit::BadInput, format!("the config of {source} is not what its manifest says")));
    }
    let config = builder::config::ImageConfig::parse(&bytes)
        .map_err(|error| Failure::because(Exit::BadInput, format!("{source} is no image of a platform"), &error))?;
    if config.platform.os.is_empty() || config.platform.architecture.is_empty() {
        return Err(Failure::new(Exit::BadInput, format!("{source} does not say which platform it is for")));
    }
    Ok(config.platform.normalised())
}
