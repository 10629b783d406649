//! Where manifests come from: files, directories, stdin, and URLs. What they say is read by [`deployer::Manifest`].

use std::io::Read;
use std::path::Path;

use content::collect;
use content::remote::Client;
use deployer::Manifest;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::terminal::tell;

/// Largest manifest file that is read, in bytes; etcd takes 1.5 MB per object.
const LIMIT: usize = 16 << 20;

/// The manifests of a file, of all files in a directory by name, of stdin, or behind a URL.
pub async fn read(path: &Path, client: &Client) -> Outcome<Vec<Manifest>> {
    if let Some(url) = url(path) {
        return parse(&shown(path), &fetch(url, client).await?);
    }
    let mut manifests = Vec::new();
    for (name, text) in texts(path)? {
        manifests.extend(parse(&name, &text)?);
    }
    Ok(manifests)
}

/// Reads the manifests of one text.
pub fn parse(name: &str, text: &str) -> Outcome<Vec<Manifest>> {
    Manifest::parse_all(name, text)
        .map_err(|error| Failure::because(Exit::BadInput, "cannot read the manifest", &error))
}

/// Whether it can be written to as well.
pub fn is_local(path: &Path) -> bool {
    path != Path::new("-") && url(path).is_none()
}

/// The URL, if it is one.
pub fn url(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| text.starts_with("https://") || text.starts_with("http://"))
}

/// The name without what may be secret in a URL: a login, or what a signed link has after its `?`.
pub fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    let Some((scheme, rest)) = url(path).and_then(|url| url.split_once("://")) else { return text };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..end].rsplit_once('@').map_or(&rest[..end], |(_, host)| host);
    format!("{scheme}://{host}{}", &rest[end..])
}

/// Fetches a text; redirects are followed a few times, and what fails for a moment is asked for again.
async fn fetch(url: &str, client: &Client) -> Outcome<String> {
    let name = shown(Path::new(url));
    tell(&format!("fetching {name}"));
    let failed = |error: content::Error| refused(&name, &error);
    let body = client.download(url).await.map_err(failed)?.body;
    let bytes = collect(body, LIMIT).await.map_err(failed)?.ok_or_else(|| too_large(&name))?;
    String::from_utf8(bytes.to_vec())
        .map_err(|error| Failure::because(Exit::BadInput, format!("{name} is no text"), &error))
}

fn refused(name: &str, error: &content::Error) -> Failure {
    let mut failure = Failure::content(format!("cannot fetch {name}"), error);
    failure.hint = failure.hint.filter(|hint| hint.contains("--registry-ca")); // the others are of registries
    match error {
        content::Error::Refused { status: 401 | 403, .. } => {
            failure.exit = Exit::Forbidden;
            failure.hint("a login may stand in the URL, https://USER:PASSWORD@HOST/…; or fetch it yourself, for `-f -`")
        }
        content::Error::Refused { status: 404 | 410, .. } => Failure { exit: Exit::NoInput, ..failure },
        _ => failure,
    }
}

/// The texts of local manifests, each with the name of where it is from.
pub fn texts(path: &Path) -> Outcome<Vec<(String, String)>> {
    if path == Path::new("-") {
        return Ok(vec![("stdin".to_owned(), read_text(&mut std::io::stdin().lock(), "stdin")?)]);
    }
    let failed = |error: std::io::Error| Failure::io(format!("cannot read {}", path.display()), &error);
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        let mut file = std::fs::File::open(path).map_err(failed)?;
        let name = path.display().to_string();
        let text = read_text(&mut file, &name)?;
        return Ok(vec![(name, text)]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known)) {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Failure::new(Exit::NoInput, format!("{} holds no .yaml, .yml or .json file", path.display())));
    }
    let mut texts = Vec::new();
    for file in files.iter().filter(|file| !file.is_dir()) {
        texts.extend(self::texts(file)?);
    }
    Ok(texts)
}

fn read_text(from: &mut dyn Read, name: &str) -> Outcome<String> {
    let mut text = String::new();
    let read = from.take(LIMIT as u64 + 1).read_to_string(&mut text);
    let read = read.map_err(|error| Failure::io(format!("cannot read {name}"), &error))?;
    if read > LIMIT { Err(too_large(name)) } else { Ok(text) }
}

fn too_large(name: &str) -> Failure {
    Failure::new(Exit::BadInput, format!("{name} is larger than {LIMIT} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_files_and_shown_without_secrets() {
        for (typed, is_url, name) in [
            ("https://me:pw@h:8443/a/web.yaml?token=x#y", true, "https://h:8443/a/web.yaml"),
            ("http://h?token=x", true, "http://h"),
            ("http://h/a@b", true, "http://h/a@b"),
            ("manifests/web.yaml", false, "manifests/web.yaml"),
            ("ftp://h/web.yaml", false, "ftp://h/web.yaml"),
        ] {
            assert_eq!((url(Path::new(typed)).is_some(), shown(Path::new(typed)).as_str()), (is_url, name));
        }
        assert!(!is_local(Path::new("-")) && is_local(Path::new("a.yaml")) && !is_local(Path::new("http://h/a.yaml")));
    }
}
