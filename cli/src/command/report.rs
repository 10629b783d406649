//! What a build leaves in files for those who come after it: digests, metadata, variables.

use std::path::Path;

use oci::Reference;

use super::build::Finished;
use crate::args::BuildArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// Writes every file that was asked for.
pub fn write(args: &BuildArgs, built: &Finished, names: &[Reference]) -> Outcome<()> {
    let digest = built.manifest.digest();
    if let Some(path) = &args.iidfile {
        file(path, built.image_id.to_string().as_bytes())?;
    }
    if let Some(path) = &args.metadata_file {
        let text = serde_json::to_vec_pretty(&built.metadata)
            .map_err(|error| Failure::because(Exit::Bug, "cannot print the metadata", &error))?;
        file(path, &text)?;
    }
    if let Some(path) = &args.image.digest_file {
        file(path, digest.to_string().as_bytes())?;
    }
    if let Some(path) = &args.image.dotenv {
        file(path, dotenv(built, names).as_bytes())?;
    }
    let pinned = names.iter().map(|name| name.pin(digest));
    if let Some(path) = &args.kaniko.image_name_with_digest_file {
        let lines: Vec<String> = pinned.clone().map(|name| name.without_tag().to_string()).collect();
        file(path, lines.join("\n").as_bytes())?;
    }
    if let Some(path) = &args.kaniko.image_name_tag_with_digest_file {
        let lines: Vec<String> = pinned.map(|name| name.to_string()).collect();
        file(path, lines.join("\n").as_bytes())?;
    }
    Ok(())
}

/// Variables for the jobs that follow: the image by its first name, pinned, and its digest.
fn dotenv(built: &Finished, names: &[Reference]) -> String {
    let digest = built.manifest.digest();
    let image = names.first().map_or_else(|| digest.to_string(), |name| name.pin(digest).to_string());
    format!("LIGHTER_IMAGE={image}\nLIGHTER_DIGEST={digest}\n")
}

fn file(path: &Path, text: &[u8]) -> Outcome<()> {
    content::place::replace_file(path, text)
        .map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))
}
