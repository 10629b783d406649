//! Pins in the text of manifests: the image is put where the old one stands, and every other byte stays,
//! comments and all. Pure; what was changed is found out by reading the text again, so nothing else can.

use crate::apply::Surroundings;
use crate::render::presumed_name;
use crate::{Assignment, Error, Manifest, Options, plan_apply, workload};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One image in one document that is to be another.
struct Wish {
    /// From 0.
    document: usize,
    pointer: String,
    from: String,
    to: String,
}

/// Puts pinned images into the texts that manifests were read from, by the names of their sources. Texts in
/// which nothing changes are left out.
///
/// # Errors
///
/// Fails if no container fits, or if a text is written so that the image cannot be found in it: through an
/// anchor, in a `List`, or not at all.
pub fn rewrite(
    manifests: &[Manifest],
    images: &[Assignment],
    texts: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Error> {
    let documents: Vec<_> =
        manifests.iter().map(|manifest| (presumed_name(manifest), manifest.clone(), None)).collect();
    let plan = plan_apply(&documents, images, &Options::default(), &Surroundings::default())?;
    let mut wishes: BTreeMap<&str, Vec<Wish>> = BTreeMap::new();
    for (action, (name, manifest, _)) in plan.actions.iter().zip(&documents) {
        let pod_spec = workload::pod_spec_pointer(&name.resource).unwrap_or_default();
        let containers = workload::containers(&name.resource, &manifest.object);
        for image in &action.images {
            let Some(container) = containers.iter().find(|one| one.name == image.container) else { continue };
            let pointer = container.image_pointer(&pod_spec);
            let document = manifest.origin.1.saturating_sub(1);
            wishes.entry(&manifest.origin.0).or_default().push(Wish {
                document,
                pointer,
                from: container.image.clone(),
                to: image.to.clone(),
            });
        }
    }
    let mut written = BTreeMap::new();
    for (source, wishes) in wishes {
        let Some(text) = texts.get(source) else { continue };
        let new = replace(text, &wishes);
        let new = new.map_err(|reason| Error::Rewrite { source_name: source.to_owned(), reason })?;
        if new != *text {
            written.insert(source.to_owned(), new);
        }
    }
    Ok(written)
}

fn replace(text: &str, wishes: &[Wish]) -> Result<String, String> {
    let mut text = text.to_owned();
    for wish in wishes.iter().filter(|wish| wish.from != wish.to) {
        let to = wish.to.as_str();
        let mut wanted = documents(&text)?;
        let place = wanted.get_mut(wish.document).and_then(|document| document.pointer_mut(&wish.pointer));
        let missing =
            || format!("the image {:?} of document {} cannot be found in the text", wish.from, wish.document + 1);
        *place.ok_or_else(missing)? = Value::from(to);
        let candidates =
            occurrences(&text, &wish.from).map(|at| format!("{}{to}{}", &text[..at], &text[at + wish.from.len()..]));
        let found = candidates.into_iter().find(|candidate| documents(candidate).is_ok_and(|read| read == wanted));
        text = found.ok_or_else(missing)?;
    }
    Ok(text)
}

/// Where a word stands, not as a part of a longer one.
fn occurrences<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> {
    let is_edge = |c: Option<char>| c.is_none_or(|c| c.is_whitespace() || "\"',{}[]".contains(c));
    let is_whole =
        move |at: &usize| is_edge(text[..*at].chars().next_back()) && is_edge(text[at + word.len()..].chars().next());
    let all = if word.is_empty() { Vec::new() } else { text.match_indices(word).map(|(at, _)| at).collect() };
    all.into_iter().filter(is_whole)
}

fn documents(text: &str) -> Result<Vec<Value>, String> {
    serde_norway::Deserializer::from_str(text)
        .map(|one| Value::deserialize(one).map_err(|error| error.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::image;

    const TEXT: &str = "\
# Our shop.
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}   # the web
spec:
  template:
    spec:
      containers:
      - name: web
        image: web   # put in by the pipeline
      - {name: side, image: 'web-side'}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {image: web}
";

    fn rewritten(text: &str) -> Result<BTreeMap<String, String>, Error> {
        let manifests = Manifest::parse_all("web.yaml", text).unwrap();
        rewrite(&manifests, &[image().into()], &BTreeMap::from([("web.yaml".to_owned(), text.to_owned())]))
    }

    #[test]
    fn only_the_image_changes_and_comments_stay() {
        let pinned = image().pinned().to_string();
        let new = &rewritten(TEXT).unwrap()["web.yaml"];
        assert_eq!(*new, TEXT.replace("image: web   #", &format!("image: {pinned}   #")));
        assert!(rewritten(new).unwrap().is_empty(), "nothing to do the second time");
        let quoted = |image: &str| format!("{{name: web, image: \"{image}\"}}");
        let text = TEXT.replace("name: web\n        image: web   # put in by the pipeline", &quoted("web"));
        assert!(rewritten(&text).unwrap()["web.yaml"].contains(&quoted(&pinned)));
    }

    #[test]
    fn what_cannot_be_found_is_not_guessed() {
        let anchored = TEXT
            .replace("metadata: {name: web}   # the web", "metadata: {name: &w web}")
            .replace("image: web   #", "image: *w #");
        let error = rewritten(&anchored).unwrap_err();
        assert!(error.to_string().contains("cannot be found in the text"), "{error}");
    }
}
