//! cache: what the build cache holds, and making room in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use builder::cache::stock::{Kind, Policy, Stock};
use builder::dockerfile;
use builder::sandbox::{self, Isolation};
use content::Disk;

use crate::args::{CacheCommand, CacheLsArgs, CachePruneArgs, CacheVerifyArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings;
use crate::terminal::{out, tell};

/// How large the cache may stay when nobody says otherwise.
const DEFAULT_SIZE: u64 = 20 << 30;

/// A build looks whether the cache has grown too large when nobody has done so for this long.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

pub fn run(command: &CacheCommand) -> Outcome<()> {
    match command {
        CacheCommand::Ls(args) => ls(args),
        CacheCommand::Prune(args) => prune(args),
        CacheCommand::Verify(args) => verify(args),
    }
}

fn failed(error: &builder::cache::Error) -> Failure {
    Failure::because(Exit::Disk, "cannot look after the build cache", error)
}

/// The cache held alone, for as long as `then` takes.
fn with_stock<T>(data: &Path, then: impl FnOnce(&Stock<'_>) -> Result<T, builder::cache::Error>) -> Outcome<T> {
    let local = settings::local_store(data)?;
    let stock = Stock::open(&data.join("build"), &local).map_err(|error| failed(&error))?;
    let busy = || Failure::new(Exit::Transient, "a build uses the cache").hint("try again when it has ended");
    then(&stock.ok_or_else(busy)?).map_err(|error| failed(&error))
}

fn ls(args: &CacheLsArgs) -> Outcome<()> {
    let data = settings::data_directory(&args.store)?;
    let items = with_stock(&data, |stock| stock.items())?;
    let mut kinds: BTreeMap<Kind, (usize, u64)> = BTreeMap::new();
    for item in &items {
        let kind = kinds.entry(item.kind).or_default();
        *kind = (kind.0 + 1, kind.1 + item.size);
    }
    for (kind, (count, size)) in kinds {
        out(&format!("{:<17} {count:>8} {:>12}", name(kind), megabytes(size)));
    }
    let total = items.iter().map(|item| item.size).sum();
    out(&format!("{:<17} {:>8} {:>12}", "all", items.len(), megabytes(total)));
    Ok(())
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Layer => "layers",
        Kind::Index => "indexes",
        Kind::Unpacked => "unpacked layers",
        Kind::Mount => "cache mounts",
        Kind::Loose => "blobs of no image",
    }
}

fn megabytes(size: u64) -> String {
    format!("{:.1} MB", size as f64 / 1e6)
}

fn prune(args: &CachePruneArgs) -> Outcome<()> {
    let data = settings::data_directory(&args.store)?;
    let policy = match (args.all, &args.keep, &args.older) {
        (true, ..) => Policy { keep: Some(0), older: None },
        (false, None, Some(older)) => Policy { keep: None, older: Some(time(older)?) },
        (false, keep, older) => Policy {
            keep: match keep {
                Some(keep) => Some(size(keep, "--keep")?),
                None => limit()?,
            },
            older: older.as_deref().map(time).transpose()?,
        },
    };
    enter(&data);
    let (count, bytes) = with_stock(&data, |stock| stock.prune(policy, SystemTime::now()))?;
    out(&format!("removed {count} things, {}", megabytes(bytes)));
    Ok(())
}

/// Files of unpacked layers belong to ids that only exist where steps run. Where that cannot be entered there are none.
fn enter(data: &Path) {
    let work = data.join("build/v1/work");
    if let Err(error) = std::fs::create_dir_all(&work).map(|()| sandbox::enter(&work, Isolation::Auto)).map(drop) {
        tracing::debug!(%error, "the cache is looked after from outside");
    }
}

fn verify(args: &CacheVerifyArgs) -> Outcome<()> {
    let data = settings::data_directory(&args.store)?;
    let (right, wrong) = with_stock(&data, |stock| stock.verify())?;
    out(&format!("{right} layers are right, {wrong} were not and are forgotten"));
    Ok(())
}

fn limit() -> Outcome<Option<u64>> {
    match settings::variable("LIGHTER_CACHE_SIZE").as_deref() {
        None => Ok(Some(DEFAULT_SIZE)),
        Some("unlimited") => Ok(None),
        Some(text) => size(text, "LIGHTER_CACHE_SIZE").map(Some),
    }
}

fn size(text: &str, what: &str) -> Outcome<u64> {
    let wrong =
        || Failure::new(Exit::Usage, format!("{what} `{text}` is not a size")).hint("a number, or 500m, or 20g");
    dockerfile::size(text).ok_or_else(wrong)
}

/// A number and s, m, h, d or w.
fn time(text: &str) -> Outcome<Duration> {
    let wrong = || Failure::new(Exit::Usage, format!("--older `{text}` is not a time")).hint("12h, 7d or 4w");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        'w' => 7 * 24 * 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// After a build: makes room if nobody has looked for a while, and no other build runs. The build went well whatever
/// comes of this.
pub fn keep_small(directory: &Path, local: &Disk) {
    let stamp = directory.join("v1/looked");
    let lately = |found: std::fs::Metadata| Some(found.modified().ok()?.elapsed().ok()? < LOOK_EVERY);
    if std::fs::metadata(&stamp).ok().and_then(lately).unwrap_or(false) {
        return;
    }
    let keep = match limit() {
        Ok(keep) => keep,
        Err(failure) => return tell(&failure.to_string()),
    };
    let pruned = Stock::open(directory, local).and_then(|stock| {
        let Some(stock) = stock else { return Ok((0, 0)) };
        stock.prune(Policy { keep, older: None }, SystemTime::now())
    });
    match pruned {
        Ok((0, _)) => {}
        Ok((count, bytes)) => {
            tell(&format!("note: removed {count} old things from the build cache, {}", megabytes(bytes)))
        }
        Err(error) => tell(&format!("warning: {error}")),
    }
    if let Err(error) = std::fs::write(&stamp, b"") {
        tracing::debug!(%error, "the next build looks again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        assert_eq!(time("7d").ok(), Some(Duration::from_secs(7 * 24 * 3600)));
        for text in ["", "7", "d", "7y", "-1h", "99999999999999999999w"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert_eq!(size("1g", "--keep").ok(), Some(1 << 30));
        assert!(size("much", "--keep").is_err());
    }
}
