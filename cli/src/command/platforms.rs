//! Several platforms in one build: one image after the other, and an index of all of them.

use builder::build::{self as parts, Form};
use builder::output::Output;
use content::remote::Client;
use content::{ArchiveKind, Disk};
use oci::{Descriptor, Platform, Reference};
use tokio::runtime::Runtime;

use super::build::{self, Finished, Prepared};
use super::image_options::{ImageOptions, Scope};
use super::output::Outputs;
use super::request::{self, Job};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::terminal::tell;

/// Whether an index is made: for several platforms, or for one if BuildKit's own build argument asks for it.
pub fn is_index(job: &mut Job) -> Outcome<bool> {
    let mut seen = std::collections::BTreeSet::new();
    job.platforms.retain(|platform| seen.insert(platform.to_string()));
    let asked = request::is_on(&request::build_args(&job.build_args)?, "BUILDKIT_MULTI_PLATFORM");
    if asked && job.platforms.is_empty() {
        job.platforms.push(Platform::of_this_machine());
    }
    Ok(asked || job.platforms.len() > 1)
}

/// Refuses what cannot be had for that many platforms.
pub fn check(job: &Job, outputs: &Outputs, is_index: bool) -> Outcome<()> {
    let usage = |what: &str, hint: &str| Err(Failure::new(Exit::Usage, what).hint(hint));
    if !is_index {
        let scoped = job.image.annotations.iter().find(|one| one.scope != Scope::Manifest);
        return match scoped {
            Some(one) => usage(
                &format!("the annotation {} is for an index, and an image for one platform has none", one.key),
                "leave the prefix away, or build for several platforms with --platform",
            ),
            None => Ok(()),
        };
    }
    for output in &outputs.files {
        match output {
            Output::Archive(ArchiveKind::Docker, _) => {
                return usage("type=docker holds an image for one platform, and several are built", "use type=oci");
            }
            Output::Tar(_) => {
                return usage("type=tar holds the files of one image, and several are built", "use type=local");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Builds for every platform, and puts the images together under the names.
pub fn build(
    prepared: &mut Prepared,
    job: &Job,
    names: &[Reference],
    runtime: &Runtime,
    local: &Disk,
    client: &Client,
) -> Outcome<Finished> {
    let (trees, images): (Vec<Output>, Vec<Output>) = std::mem::take(&mut prepared.request.outputs)
        .into_iter()
        .partition(|output| matches!(output, Output::Directory(_)));
    let mut entries = Vec::new();
    for platform in &job.platforms {
        tell(&format!("building for {platform}"));
        prepared.request.options.target_platform = platform.clone();
        prepared.request.outputs = trees.iter().map(|output| below(output, platform)).collect();
        prepared.request.form = Form { whole: !images.is_empty(), ..job.image.form(platform) };
        let built = build::build(prepared, runtime, local, client)?;
        entries.push(entry(&built, platform, &job.image));
    }
    let annotations = job.image.of(Scope::Index, None);
    let index = parts::index(&entries, job.image.media_types, &annotations)
        .map_err(|error| Failure::because(Exit::Bug, "cannot put the index together", &error))?;
    let failed = |error: content::Error| Failure::content("cannot keep the index", &error);
    local.put_manifest(&index, None).map_err(failed)?;
    for output in &images {
        builder::output::write(output, local, &index, names)
            .map_err(|error| build::told(&builder::Error::Output(error)))?;
    }
    for name in names {
        local.put_manifest(&index, Some(name.to_string())).map_err(failed)?;
    }
    Ok(Finished::of_index(index, names))
}

fn entry(built: &builder::Built, platform: &Platform, image: &ImageOptions) -> Descriptor {
    let annotations = image.of(Scope::ManifestDescriptor, Some(platform));
    Descriptor { platform: Some(platform.clone()), annotations, ..built.manifest.descriptor() }
}

/// A directory for each platform, named as BuildKit names them.
fn below(output: &Output, platform: &Platform) -> Output {
    match output {
        Output::Directory(path) => Output::Directory(path.join(platform.to_string().replace('/', "_"))),
        other => other.clone(),
    }
}
