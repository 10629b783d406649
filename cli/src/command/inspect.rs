//! inspect: looking without touching.

use content::{Source, collect, select_platform};
use oci::{Manifest, ManifestKind, Platform};
use serde_json::{Value, json};

use super::transfer;
use crate::args::InspectArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::location::Location;
use crate::place::{From, Opened, Opener};
use crate::terminal::out;

/// Largest image config that is read, in bytes.
const CONFIG_LIMIT: usize = 8 << 20;

pub async fn inspect(args: &InspectArgs) -> Outcome<()> {
    let opener = transfer::opener(&args.store, &args.registry).await?;
    let location = transfer::location(&args.image)?;
    let (opened, top) = find(&opener, &location).await?;
    if args.raw {
        return write_exact(top.bytes());
    }
    let failed = |error: content::Error| Failure::content(format!("cannot read `{location}`"), &error);
    let platform = args.platform.clone().unwrap_or_else(Platform::of_this_machine);
    let manifest = select_platform(&opened.from, top.clone(), &platform).await.map_err(failed)?;
    let config = config(&opened.from, &manifest).await.map_err(failed)?;
    if args.config {
        return write_exact(&config);
    }
    let config = serde_json::from_slice(&config).unwrap_or(Value::Null); // an artifact's config may be anything
    let text = serde_json::to_string_pretty(&describe(&location, &top, &manifest, &config));
    out(&text.map_err(|error| Failure::because(Exit::Bug, "cannot print the image", &error))?);
    Ok(())
}

/// A bare name is looked for here first, then in its registry.
async fn find(opener: &Opener, location: &Location) -> Outcome<(Opened, Manifest)> {
    if let Location::Bare(reference) = location {
        let opened = opener.in_local_store(reference);
        match opened.from.manifest(&opened.which).await {
            Ok(manifest) => return Ok((opened, manifest)),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(Failure::content(format!("cannot read `{location}`"), &error)),
        }
    }
    let opened = opener.source(location, Opener::in_registry)?;
    let manifest = opened.from.manifest(&opened.which).await;
    let manifest = manifest.map_err(|error| Failure::content(format!("cannot read `{location}`"), &error))?;
    Ok((opened, manifest))
}

async fn config(from: &From, manifest: &Manifest) -> content::Result<Vec<u8>> {
    let ManifestKind::Image { config, .. } = manifest.kind() else { return Ok(b"null".to_vec()) };
    let bytes = collect(from.blob(config, 0).await?, CONFIG_LIMIT).await?.unwrap_or_default();
    let mut verifier = oci::Verifier::new(config.digest.algorithm());
    verifier.update(&bytes);
    match verifier.finish(config.digest) {
        Ok(_) => Ok(bytes),
        Err(mismatch) => Err(content::Error::Wrong { place: "the image".to_owned(), mismatch }),
    }
}

fn describe(location: &Location, top: &Manifest, manifest: &Manifest, config: &Value) -> Value {
    let platforms: Vec<String> =
        top.children().iter().filter_map(|child| child.platform.as_ref()).map(Platform::to_string).collect();
    let layers: Vec<Value> = match manifest.kind() {
        ManifestKind::Image { layers, .. } => layers
            .iter()
            .map(|layer| json!({"digest": layer.digest, "mediaType": layer.media_type, "size": layer.size}))
            .collect(),
        ManifestKind::Index { .. } => Vec::new(),
    };
    let mut described = json!({
        "name": location.to_string(),
        "digest": top.digest(),
        "mediaType": top.media_type(),
        "os": config["os"],
        "architecture": config["architecture"],
        "created": config["created"],
        "size": manifest.blobs().map(|blob| blob.size).sum::<u64>(),
        "layers": layers,
        "config": config["config"],
        "history": config["history"],
    });
    if !platforms.is_empty() {
        described["platforms"] = json!(platforms);
        described["manifest"] = json!(manifest.digest());
    }
    if !manifest.annotations().is_empty() {
        described["annotations"] = json!(manifest.annotations());
    }
    described
}

fn write_exact(bytes: &[u8]) -> Outcome<()> {
    use std::io::Write;
    std::io::stdout().lock().write_all(bytes).map_err(|error| Failure::io("cannot write to stdout", &error))
}
