//! inventory: which images a cluster runs or would go back to, and keeping them in their registries by tags.
//!
//! A tag is all that every registry understands. It says which cluster and namespace it is for, and in which week it was
//! set: a tag that is set again keeps its age, so there is a new one each week, and a rule of the registry can let go of
//! those that are old.

use std::collections::BTreeSet;

use content::{Sink, Source};
use deployer::{Cluster, InUse};
use futures_util::{StreamExt, stream};
use oci::{Digest, Pinned, Selector, Tag};
use serde_json::json;

use super::deploy::{connect_options, failed};
use crate::args::{InventoryArgs, OutputFormat};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings;
use crate::terminal::{out, tell};

/// The format of the JSON document.
const FORMAT: u32 = 1;
/// Most images that are pinned at the same time.
const AT_ONCE: usize = 8;
/// How many digits tell clusters and images apart.
const DIGITS: usize = 12;

pub async fn inventory(args: &InventoryArgs) -> Outcome<()> {
    let told = |error: deployer::Error| failed("cannot list what is in use", &error);
    let cluster = Cluster::connect(&connect_options(&args.cluster)?).await.map_err(told)?;
    let uses = cluster.inventory(args.all_namespaces).await.map_err(told)?;
    match args.output {
        OutputFormat::Text => uses.iter().for_each(|one| out(&one.to_string())),
        OutputFormat::Json => {
            out(&format!("{:#}", json!({"format": FORMAT, "server": cluster.server(), "uses": uses})))
        }
        OutputFormat::Ndjson => uses.iter().for_each(|one| out(&json!(one).to_string())),
    }
    if args.pin {
        let namespace = if args.all_namespaces { "" } else { cluster.namespace() };
        let place = Digest::of(format!("{}\n{namespace}", cluster.server()).as_bytes());
        pin_all(args, &uses, place).await?;
    }
    Ok(())
}

async fn pin_all(args: &InventoryArgs, uses: &[InUse], place: Digest) -> Outcome<()> {
    let chosen = |pinned: &Pinned| args.registry.is_empty() || args.registry.contains(pinned.reference().host());
    let images: BTreeSet<String> =
        uses.iter().filter_map(InUse::pinned).filter(chosen).map(|pinned| pinned.without_tag().to_string()).collect();
    let client = settings::client(&args.registries)?;
    let pin = async |image: &String| -> (String, Outcome<Tag>) { (image.clone(), pin(&client, image, place).await) };
    let mut pins = stream::iter(&images).map(pin).buffered(AT_ONCE);
    let mut causes = Vec::new();
    while let Some((image, outcome)) = pins.next().await {
        match outcome {
            Ok(tag) => tell(&format!("{image}: kept as {tag}")),
            Err(failure) => causes.extend([format!("{image}: {}", failure.what), failure.causes.join(": ")]),
        }
    }
    match causes.is_empty() {
        true => Ok(()),
        false => Err(Failure { causes, ..Failure::new(Exit::Unavailable, "not all of it is kept") }),
    }
}

async fn pin(client: &content::remote::Client, image: &str, place: Digest) -> Outcome<Tag> {
    let failed = |error: content::Error| Failure::content("could not set a tag", &error);
    let pinned: Pinned = image.parse().map_err(|error| Failure::because(Exit::Bug, "an image that is none", &error))?;
    let repository = client.repository(pinned.reference().host(), pinned.reference().name());
    let manifest = repository.manifest(&Selector::Digest(pinned.digest())).await.map_err(failed)?;
    let tag = tag(place, pinned.digest(), jiff::Zoned::now().date());
    repository.put_manifest(&manifest, Some(&tag)).await.map_err(failed)?;
    Ok(tag)
}

/// `in-use-PLACE-IMAGE-2026w48`
fn tag(place: Digest, image: Digest, today: jiff::civil::Date) -> Tag {
    let digits = |digest: Digest| digest.to_string().split(':').next_back().unwrap_or_default()[..DIGITS].to_owned();
    let week = today.iso_week_date();
    let text = format!("in-use-{}-{}-{}w{:02}", digits(place), digits(image), week.year(), week.week());
    text.parse().expect("letters, digits and hyphens make a tag")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_the_place_the_image_and_the_week() {
        let [place, image] = ["a", "b"].map(|text| Digest::of(text.as_bytes()));
        let day = |day| tag(place, image, jiff::civil::date(2027, 1, day)).to_string();
        assert_eq!(day(3), "in-use-ca978112ca1b-3e23e8160039-2026w53");
        assert_eq!(day(4), "in-use-ca978112ca1b-3e23e8160039-2027w01");
    }
}
