//! Which container takes which image, when there may be several of either. Pure. No container takes two images, and
//! no image is left without a container: what is asked for and cannot be done is an error.

use crate::error::Error;
use crate::image::{Image, Likeness};
use crate::object::ObjectName;
use crate::target::Which;
use crate::workload::{Container, List};

/// An image, and the containers that take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The image.
    pub image: Image,
    /// Its containers.
    pub which: Which,
}

/// A container and the image that it takes.
pub(crate) type Taken<'a> = (Container, &'a Image);

impl From<Image> for Assignment {
    /// The image goes where one like it is.
    fn from(image: Image) -> Assignment {
        Assignment { image, which: Which::Fitting }
    }
}

/// Chooses in one object. A container that the target names goes before what is said of the image; with several
/// images, only what is said of them counts.
pub(crate) fn to_object<'a>(
    object: &ObjectName,
    all: &[Container],
    named: &Which,
    images: &'a [Assignment],
) -> Result<Vec<Taken<'a>>, Error> {
    if let [only] = images {
        let which = if *named == Which::Fitting { &only.which } else { named };
        let chosen = choose(object, all, which, &only.image)?;
        return Ok(chosen.into_iter().map(|container| (container, &only.image)).collect());
    }
    if *named != Which::Fitting {
        let what = "is named with a container, and there are several images: name the container with each image".into();
        return Err(Error::Unfit { object: object.clone().into(), what });
    }
    let mut chosen = Vec::new();
    for one in images {
        let containers = matching(all, &one.which, &one.image);
        chosen.extend(containers.into_iter().map(|container| (container, &one.image)));
    }
    if chosen.is_empty() {
        return Err(which_container(object, all, images));
    }
    once_each(object, chosen)
}

/// Chooses in the documents of a manifest at once, so that the best fit wins wherever it stands.
pub(crate) fn to_documents<'a>(
    documents: &[(&ObjectName, Vec<Container>)],
    images: &'a [Assignment],
) -> Result<Vec<Vec<Taken<'a>>>, Error> {
    let mut chosen: Vec<Vec<Taken<'a>>> = vec![Vec::new(); documents.len()];
    for one in images {
        let everything: Vec<Container> = documents.iter().flat_map(|(_, containers)| containers.clone()).collect();
        let best = best_likeness(&everything, &one.image);
        let fits = |container: &&Container| is_meant(container, &one.which, &one.image, best);
        let mut is_taken = false;
        for ((_, containers), chosen) in documents.iter().zip(&mut chosen) {
            let before = chosen.len();
            chosen.extend(containers.iter().filter(fits).map(|container| (container.clone(), &one.image)));
            is_taken |= chosen.len() > before;
        }
        if !is_taken {
            return Err(no_place(&everything, one));
        }
    }
    documents.iter().zip(chosen).map(|((name, _), chosen)| once_each(name, chosen)).collect()
}

/// An image that none of these containers takes.
pub(crate) fn no_place(all: &[Container], one: &Assignment) -> Error {
    let known = all.iter().map(|container| format!("{} ({})", container.name, container.image)).collect();
    let container = one.which.name().map(str::to_owned);
    Error::NoImageFits { image: one.image.pinned().to_string(), container, known }
}

/// The same container twice is one; with two images it is a contradiction.
pub(crate) fn once_each<'a>(object: &ObjectName, chosen: Vec<Taken<'a>>) -> Result<Vec<Taken<'a>>, Error> {
    let mut once: Vec<Taken<'a>> = Vec::new();
    for (container, image) in chosen {
        match once.iter().find(|(other, _)| other.name == container.name) {
            None => once.push((container, image)),
            Some((_, other)) if other.pinned() == image.pinned() => {}
            Some((_, other)) => {
                return Err(Error::TwoImages {
                    object: object.clone().into(),
                    container: container.name,
                    images: [other.pinned().to_string(), image.pinned().to_string()],
                });
            }
        }
    }
    Ok(once)
}

/// Chooses the containers that are meant: the named one, all, or those whose image is the same repository,
/// else the only one.
fn choose(object: &ObjectName, all: &[Container], which: &Which, image: &Image) -> Result<Vec<Container>, Error> {
    let found = matching(all, which, image);
    if !found.is_empty() {
        return Ok(found);
    }
    let mut regular = all.iter().filter(|container| matches!(container.list, List::Containers | List::Field));
    match (which, regular.next(), regular.next()) {
        (Which::Fitting, Some(only), None) => Ok(vec![only.clone()]),
        (Which::Named(named), ..) => Err(Error::UnknownContainer {
            object: object.clone().into(),
            container: named.clone(),
            known: all.iter().map(|container| container.name.clone()).collect(),
        }),
        _ => Err(which_container(object, all, &[Assignment { image: image.clone(), which: which.clone() }])),
    }
}

fn which_container(object: &ObjectName, all: &[Container], images: &[Assignment]) -> Error {
    Error::WhichContainer {
        object: object.clone().into(),
        image: images.iter().map(|one| one.image.pinned().to_string()).collect::<Vec<_>>().join(", "),
        known: all.iter().map(|container| container.name.clone()).collect(),
    }
}

fn matching(all: &[Container], which: &Which, image: &Image) -> Vec<Container> {
    let best = best_likeness(all, image);
    all.iter().filter(|container| is_meant(container, which, image, best)).cloned().collect()
}

fn best_likeness(all: &[Container], image: &Image) -> Likeness {
    all.iter().map(|container| image.likeness(&container.image)).max().unwrap_or(Likeness::None)
}

/// Whether a container is one of those; of images that fit, only the best fit counts.
fn is_meant(container: &Container, which: &Which, image: &Image, best: Likeness) -> bool {
    match which {
        Which::Named(named) => container.name == *named,
        Which::All => container.list != List::Volumes,
        Which::Fitting => best != Likeness::None && image.likeness(&container.image) == best,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Resource;
    use oci::{Digest, Reference};

    fn image(name: &str) -> Image {
        let reference: Reference = format!("registry.test/shop/{name}:2").parse().unwrap();
        Image::new(reference.pin(Digest::of(name.as_bytes())), [], vec![])
    }

    /// `CONTAINER=IMAGE`, `*=IMAGE` or `IMAGE`.
    fn assignments(words: &[&str]) -> Vec<Assignment> {
        let one = |word: &&str| match word.split_once('=') {
            Some((which, name)) => Assignment { image: image(name), which: which.parse().unwrap() },
            None => image(word).into(),
        };
        words.iter().map(one).collect()
    }

    fn pod(containers: &[(&str, &str)]) -> Vec<Container> {
        let place = |(index, (name, image)): (usize, &(&str, &str))| Container {
            list: List::Containers,
            index,
            name: (*name).to_owned(),
            image: (*image).to_owned(),
        };
        containers.iter().enumerate().map(place).collect()
    }

    fn web() -> ObjectName {
        ObjectName::new(Resource::new("apps", "v1", "Deployment", "deployments"), "demo", "web")
    }

    /// `CONTAINER=IMAGE …`, or the error.
    fn taken(images: &[&str], containers: &[(&str, &str)]) -> String {
        let images = assignments(images);
        match to_object(&web(), &pod(containers), &Which::Fitting, &images) {
            Ok(taken) => {
                let one = |(container, image): &Taken<'_>| {
                    let name = image.pinned().reference().name().to_string();
                    format!("{}={}", container.name, name.rsplit('/').next().unwrap_or_default())
                };
                taken.iter().map(one).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        }
    }

    const TWO: [(&str, &str); 2] = [("app", "registry.test/shop/web:1"), ("side", "registry.test/shop/proxy:1")];

    #[test]
    fn each_image_finds_its_containers() {
        for (images, expected) in [
            (vec!["web", "proxy"], "app=web side=proxy"),
            (vec!["side=proxy", "app=web"], "side=proxy app=web"),
            (vec!["app=proxy", "side=web"], "app=proxy side=web"),
            (vec!["web", "web"], "app=web"),
            (vec!["*=web"], "app=web side=web"),
        ] {
            assert_eq!(taken(&images, &TWO), expected, "{images:?}");
        }
    }

    #[test]
    fn no_container_takes_two_images_and_none_is_made_up() {
        for (images, containers, expected) in [
            (
                vec!["app=web", "app=proxy"],
                &TWO[..],
                "container app of deployment/web in namespace demo is to run both",
            ),
            (vec!["*=web", "side=proxy"], &TWO[..], "container side of"),
            (vec!["web", "other/web"], &TWO[..], "container app of"),
            (vec!["x", "y"], &[("only", "z")][..], "has several containers and none runs an image like"),
        ] {
            let said = taken(&images, containers);
            assert!(said.contains(expected), "{images:?}: {said}");
        }
        let images = assignments(&["web", "proxy"]);
        let error = to_object(&web(), &pod(&TWO), &Which::Named("app".into()), &images).unwrap_err();
        assert!(error.to_string().contains("several images"), "{error}");
    }

    #[test]
    fn every_image_has_a_place_in_some_document() {
        let (one, two) = (web(), web());
        let documents = [(&one, pod(&TWO[..1])), (&two, pod(&TWO[1..]))];
        let images = assignments(&["web", "side=proxy"]);
        let chosen = to_documents(&documents, &images).unwrap();
        assert_eq!(chosen.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        let images = assignments(&["web", "nobody=proxy"]);
        let error = to_documents(&documents, &images).unwrap_err().to_string();
        assert!(error.contains("is called \"nobody\"") && error.contains("app (registry.test/shop/web:1)"), "{error}");
    }
}
