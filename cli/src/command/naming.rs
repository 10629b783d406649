//! tag and rmi: names of images in the local store.

use builder::cache::stock::{InUse, Stock};
use content::Disk;
use oci::{Descriptor, Digest, Reference};

use crate::args::{RmiArgs, TagArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings;
use crate::terminal::{bytes, out, tell};

/// Fewest digits of a digest that stand for it.
const DIGITS: usize = 6;

fn failed(error: content::Error) -> Failure {
    Failure::content("cannot change the local store", &error)
}

fn of_cache(error: builder::cache::Error) -> Failure {
    Failure::because(Exit::Disk, "cannot hold the build cache", &error)
}

pub fn tag(args: &TagArgs) -> Outcome<()> {
    let data = settings::data_directory(&args.store)?;
    let disk = settings::local_store(&data)?;
    if let Some(name) = args.names.iter().find(|name| name.digest().is_some()) {
        return Err(Failure::new(Exit::Usage, format!("`{name}` cannot be a name: it has a digest"))
            .hint("leave out what stands behind the @"));
    }
    let _held = InUse::hold(&data.join("build")).map_err(of_cache)?;
    let found = find(&disk, &args.image)?;
    let Some((_, entry)) = found.first() else { return Err(missing(&args.image)) };
    let manifest = disk.manifest(&entry.digest).map_err(failed)?;
    let manifest = manifest.ok_or_else(|| missing(&args.image).hint("pull or build it again"))?;
    for name in &args.names {
        disk.put_manifest(&manifest, Some(full(name))).map_err(failed)?;
        out(&name.pin(entry.digest).to_string());
    }
    Ok(())
}

pub fn rmi(args: &RmiArgs) -> Outcome<()> {
    let data = settings::data_directory(&args.store)?;
    let disk = settings::local_store(&data)?;
    let mut removed = Vec::new();
    for image in &args.images {
        let found = find(&disk, image)?;
        if found.is_empty() && !args.force {
            return Err(missing(image));
        }
        for (name, entry) in found {
            if disk.unname(&name).map_err(failed)? {
                out(&format!("{name}@{}", entry.digest));
                removed.push(entry);
            }
        }
    }
    let Some(stock) = Stock::open(&data.join("build"), &disk).map_err(of_cache)? else {
        tell("note: a build or a transfer runs; `lighter cache prune` makes the room free later");
        return Ok(());
    };
    let (mut count, mut size) = (0, 0);
    for entry in removed {
        let freed = stock.remove_image(entry).map_err(of_cache)?;
        count += freed.0;
        size += freed.1;
    }
    if count > 0 {
        tell(&format!("{count} blobs removed, {}", bytes(size)));
    }
    Ok(())
}

/// The images that are meant: the one of that name, or all names of one digest.
fn find(disk: &Disk, typed: &str) -> Outcome<Vec<(String, Descriptor)>> {
    let images = disk.images().map_err(failed)?;
    let text = typed.strip_prefix("local:").unwrap_or(typed);
    let reference = text.parse::<Reference>().ok();
    if let Some(reference) = &reference {
        let is_meant = |name: &str, digest: Digest| match (reference.tag(), reference.digest()) {
            (None, Some(wanted)) => name.starts_with(&format!("{}:", reference.repository())) && digest == wanted,
            (_, wanted) => name == full(reference) && wanted.is_none_or(|wanted| wanted == digest),
        };
        let named: Vec<_> = images.iter().filter(|(name, entry)| is_meant(name, entry.digest)).cloned().collect();
        if !named.is_empty() {
            return Ok(named);
        }
    }
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let is_digest = digits.len() >= DIGITS && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_digest {
        return match reference {
            Some(_) => Ok(Vec::new()),
            None => Err(Failure::new(Exit::Usage, format!("`{typed}` names no image"))),
        };
    }
    let same: Vec<_> = images.into_iter().filter(|(_, entry)| entry.digest.hex().starts_with(digits)).collect();
    match same.iter().find(|(_, entry)| entry.digest != same[0].1.digest) {
        None => Ok(same),
        Some(_) => Err(Failure::new(Exit::Usage, format!("`{typed}` is the beginning of several digests"))),
    }
}

/// A reference as names stand in the store: without a digest.
fn full(reference: &Reference) -> String {
    Reference::new(reference.host().clone(), reference.name().clone(), reference.tag().cloned(), None).to_string()
}

fn missing(image: &str) -> Failure {
    Failure::new(Exit::Unavailable, format!("there is no image `{image}` in the local store"))
        .hint("`lighter images` lists what is there")
}
