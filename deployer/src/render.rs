//! Manifests with the image put in, as text: what would be applied if there were a cluster. Pure.

use serde_json::Value;

use crate::apply::Surroundings;
use crate::object::{ObjectName, Resource};
use crate::plan::Step;
use crate::yaml;
use crate::{Assignment, Error, Manifest, Options, plan_apply};

/// Prints manifests as YAML, in the order in which they would be applied, images pinned in them.
///
/// # Errors
///
/// Fails if there is no container for an image.
pub fn render(manifests: &[Manifest], images: &[Assignment]) -> Result<String, Error> {
    let documents: Vec<(ObjectName, Manifest, Option<Value>)> =
        manifests.iter().map(|manifest| (presumed_name(manifest), manifest.clone(), None)).collect();
    let plan = plan_apply(&documents, images, &Options::default(), &Surroundings::default())?;
    let bodies = plan.actions.iter().filter_map(|action| match &action.step {
        Step::Apply { body, .. } => Some(body),
        Step::Nothing | Step::Patch(_) | Step::Replace(_) | Step::Delete => None,
    });
    Ok(bodies.map(yaml::print).collect::<Vec<_>>().join("---\n"))
}

/// The name of an object as far as its manifest tells; without a server nobody knows the rest, and
/// nothing here asks for it.
pub(crate) fn presumed_name(manifest: &Manifest) -> ObjectName {
    let (group, version) = manifest.api_version().rsplit_once('/').unwrap_or(("", manifest.api_version()));
    let resource = Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: manifest.kind().to_owned(),
        plural: format!("{}s", manifest.kind().to_lowercase()),
        namespaced: manifest.namespace().is_some(),
        image_path: None,
    };
    ObjectName::new(resource, manifest.namespace().unwrap_or_default(), manifest.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;

    #[test]
    fn the_image_is_put_where_it_belongs_and_nothing_else_changes() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: hello}\n---\n\
            apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: hello}\n\
            spec: {template: {spec: {containers: [{name: web, image: hello}, {name: side, image: other}]}}}\n";
        let manifests = Manifest::parse_all("test", text).unwrap();
        let reference: oci::Reference = "127.0.0.1:5000/hello:latest".parse().unwrap();
        let image = Image::new(reference.pin(oci::Digest::of(b"x")), [], vec![]);
        let printed = render(&manifests, &[image.clone().into()]).unwrap();
        assert!(printed.contains(&format!("image: {}", image.pinned())), "{printed}");
        assert!(printed.contains("image: other") && !printed.contains("namespace"), "{printed}");
        let again = Manifest::parse_all("printed", &printed).unwrap();
        assert_eq!(again.len(), 2);
        let stranger: oci::Reference = "127.0.0.1:5000/stranger".parse().unwrap();
        let stranger = Image::new(stranger.pin(oci::Digest::of(b"x")), [], vec![]);
        assert!(render(&manifests, &[stranger.into()]).is_err());
    }
}
