//! push, pull and copy: the same movement between different ends.

use content::{Copied, CopyOptions, Source};
use oci::{Pinned, Platform, Reference};

use crate::args::{CopyArgs, PullArgs, PushArgs, RegistryArgs, StoreArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::location::Location;
use crate::place::{Opened, Opener, Target, To};
use crate::settings;
use crate::terminal::{Transfers, out, tell};

/// How often to look whether the local store is free again.
#[cfg(feature = "build")]
const LOOK: std::time::Duration = std::time::Duration::from_millis(100);

pub async fn opener(store: &StoreArgs, registry: &RegistryArgs) -> Outcome<Opener> {
    let data = settings::data_directory(store)?;
    let local = settings::local_store(&data)?;
    let client = settings::client(registry)?;
    #[cfg(feature = "build")]
    let in_use = hold(&data.join("build")).await?;
    Ok(Opener {
        data,
        local,
        client,
        #[cfg(feature = "build")]
        _in_use: Some(in_use),
    })
}

/// Keeps `cache prune` from removing what is about to be named. Waits without blocking, so that Ctrl-C is heard.
#[cfg(feature = "build")]
async fn hold(cache: &std::path::Path) -> Outcome<builder::cache::stock::InUse> {
    let mut waits = false;
    loop {
        let held = builder::cache::stock::InUse::try_hold(cache);
        match held.map_err(|error| Failure::because(Exit::Disk, "cannot hold the local store", &error))? {
            Some(held) => return Ok(held),
            None if !waits => tell("waiting until what is being removed from the local store is gone"),
            None => {}
        }
        waits = true;
        tokio::time::sleep(LOOK).await;
    }
}

pub fn location(text: &str) -> Outcome<Location> {
    text.parse().map_err(|error| Failure::because(Exit::Usage, format!("`{text}` names no image"), &error))
}

pub async fn push(args: &PushArgs) -> Outcome<()> {
    let opener = opener(&args.store, &args.registry).await?;
    let source = location(&args.image)?;
    let destination = match (&args.destination, &source) {
        (Some(destination), _) => location(destination)?,
        (None, Location::Bare(reference) | Location::Local(reference)) => Location::Registry(reference.clone()),
        (None, _) => {
            return Err(Failure::new(Exit::Usage, "where to? An archive or layout has no registry in its name")
                .hint("lighter push SOURCE HOST/NAME:TAG"));
        }
    };
    if !matches!(destination, Location::Bare(_) | Location::Registry(_)) {
        return Err(Failure::new(Exit::Usage, format!("{destination} is no registry"))
            .hint("use `lighter copy` to write layouts and archives"));
    }
    let opened = opener.source(&source, Opener::in_local_store)?;
    if let (Location::Bare(reference) | Location::Local(reference), Err(error)) =
        (&source, opened.from.manifest(&opened.which).await)
        && error.is_missing()
    {
        return Err(Failure::new(Exit::Unavailable, format!("there is no image `{reference}` in the local store"))
            .hint("build it with `lighter build -t NAME`, or see what is there with `lighter images`"));
    }
    let target = opener.target(&destination)?;
    let what = format!("push to `{destination}`");
    transfer(opened, target, &destination, &what, &settings::copy_options(None)).await
}

pub async fn pull(args: &PullArgs) -> Outcome<()> {
    let opener = opener(&args.store, &args.registry).await?;
    let source = location(&args.image)?;
    let (Location::Bare(reference) | Location::Registry(reference)) = &source else {
        return Err(Failure::new(Exit::Usage, format!("{source} is no registry"))
            .hint("use `lighter copy` to read layouts and archives"));
    };
    let platform = platform(args.platform.as_deref(), Some(Platform::of_this_machine()))?;
    let opened = opener.in_registry(reference);
    let destination = Location::Local(reference.clone());
    let target = opener.target(&destination)?;
    let what = format!("pull `{reference}`");
    transfer(opened, target, &destination, &what, &settings::copy_options(platform)).await
}

pub async fn copy(args: &CopyArgs) -> Outcome<()> {
    let opener = opener(&args.store, &args.registry).await?;
    let (source, destination) = (location(&args.source)?, location(&args.destination)?);
    // `docker load` knows no index, so an archive for it takes the image of this machine.
    let default = matches!(destination, Location::DockerArchive(..)).then(Platform::of_this_machine);
    let platform = platform(args.platform.as_deref(), default)?;
    let opened = opener.source(&source, Opener::in_registry)?;
    let target = opener.target(&destination)?;
    let what = format!("copy `{source}` to `{destination}`");
    transfer(opened, target, &destination, &what, &settings::copy_options(platform)).await
}

fn platform(typed: Option<&str>, default: Option<Platform>) -> Outcome<Option<Platform>> {
    match typed {
        None => Ok(default),
        Some("all") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|error| Failure::because(Exit::Usage, "--platform", &error)),
    }
}

async fn transfer(
    opened: Opened,
    target: Target,
    destination: &Location,
    what: &str,
    options: &CopyOptions,
) -> Outcome<()> {
    let copied = moved(&opened, &target, what, options).await?;
    let manifest = match (&target.to, copied.digest) {
        (To::Disk(disk), Some(digest)) => {
            let read = disk.manifest(&oci::Selector::Digest(digest)).await;
            Some(read.map_err(|error| Failure::content(format!("cannot read back {destination}"), &error))?)
        }
        _ => None,
    };
    if let Some(manifest) = &manifest {
        target.finish(manifest)?;
    }
    tell(&summary(&copied, destination));
    out(&printed(destination, &copied));
    Ok(())
}

/// Pushes to the destination of that name, drawing what happens.
#[cfg(feature = "build")]
pub async fn run(opened: &Opened, target: &Target, name: &str, options: &CopyOptions) -> Outcome<Copied> {
    moved(opened, target, &format!("push to `{name}`"), options).await
}

/// Copies, drawing what happens; `what` says what could not be done.
async fn moved(opened: &Opened, target: &Target, what: &str, options: &CopyOptions) -> Outcome<Copied> {
    let drawing = Transfers::new();
    let copied = content::copy(&opened.from, &opened.which, &target.to, &target.tags, options, &|progress| {
        drawing.show(progress)
    })
    .await;
    drop(drawing);
    copied.map_err(|error| Failure::content(format!("could not {what}"), &error))
}

/// One line about what moved.
pub fn summary(copied: &Copied, destination: &impl std::fmt::Display) -> String {
    let size = crate::terminal::bytes;
    let mut parts = vec![format!("{} sent ({})", copied.sent.0, size(copied.sent.1))];
    if copied.mounted.0 > 0 {
        parts.push(format!("{} mounted ({})", copied.mounted.0, size(copied.mounted.1)));
    }
    parts.push(format!("{} already there ({})", copied.present.0, size(copied.present.1)));
    let unchanged = if copied.unchanged { ", image unchanged" } else { "" };
    format!("{destination}: {}{unchanged}", parts.join(", "))
}

/// What goes to stdout: the pinned reference, or the digest where there is no reference.
fn printed(destination: &Location, copied: &Copied) -> String {
    let Some(digest) = copied.digest else { return String::new() };
    match destination {
        Location::Registry(reference) | Location::Local(reference) | Location::Bare(reference) => {
            pinned(reference, digest).to_string()
        }
        _ => digest.to_string(),
    }
}

fn pinned(reference: &Reference, digest: oci::Digest) -> Pinned {
    reference.pin(digest)
}
