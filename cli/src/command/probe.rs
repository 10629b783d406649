//! Asking a registry, before a deploy, whether nodes could pull an image with the logins of its pods.

use content::credentials::Credentials;
use content::remote::{Client, Repository};
use content::{Sink, Source};
use deployer::{Image, Probe, PullSecret, Pullable};
use futures_util::{StreamExt, TryStreamExt, stream};
use oci::{Digest, Manifest, ManifestKind, Platform, Selector};
use serde_json::{Value, json};

use crate::args::RegistryArgs;
use crate::failure::Outcome;
use crate::settings;

/// Most blobs that are asked for at the same time.
const AT_ONCE: usize = 8;

/// Asks registries in the way that the command line says.
pub struct Prober {
    args: RegistryArgs,
    own: Client,
}

impl Prober {
    /// Makes one; nothing is asked yet.
    pub fn new(args: &RegistryArgs) -> Outcome<Self> {
        Ok(Self { args: args.clone(), own: settings::client(args)? })
    }

    /// The clients of those who may pull: each secret by itself, as a kubelet tries them; nobody at all if there is none.
    fn clients(&self, logins: Option<&[PullSecret]>) -> Result<Vec<Client>, String> {
        let Some(logins) = logins else { return Ok(vec![self.own.clone()]) };
        let mut clients = Vec::new();
        for login in logins {
            let mut credentials = Credentials::none();
            let named = format!("the pull secret {}", login.name);
            credentials.add(&named, &logins_only(&login.config)).map_err(|error| error.to_string())?;
            clients.push(settings::client_with(&self.args, credentials).map_err(|failure| failure.to_string())?);
        }
        if clients.is_empty() {
            let anonymous = settings::client_with(&self.args, Credentials::none());
            clients.push(anonymous.map_err(|failure| failure.to_string())?);
        }
        Ok(clients)
    }
}

/// The logins of a docker config and nothing else of it: what it says of helpers, a node does not run, and we do
/// not either.
fn logins_only(config: &str) -> String {
    let document: Value = serde_json::from_str(config).unwrap_or_default();
    json!({"auths": document.get("auths").cloned().unwrap_or_else(|| json!({}))}).to_string()
}

impl deployer::Registry for Prober {
    fn probe<'a>(&'a self, image: &'a Image, platforms: &'a [Platform], logins: Option<&'a [PullSecret]>) -> Probe<'a> {
        Box::pin(async move {
            let reference = image.pinned().reference();
            let clients = match self.clients(logins) {
                Ok(clients) => clients,
                Err(why) => return Pullable::Denied(why),
            };
            let mut worst = Pullable::Yes;
            for client in clients {
                let repository = client.repository(reference.host(), reference.name());
                match whole(&repository, image.pinned().digest(), platforms).await {
                    Ok(()) => return Pullable::Yes,
                    Err(error) => worst = refusal(error),
                }
            }
            worst
        })
    }
}

fn refusal(error: content::Error) -> Pullable {
    let text = error.to_string();
    match error {
        content::Error::Unauthorized { .. } | content::Error::Denied { .. } => Pullable::Denied(text),
        error if error.is_missing() => Pullable::Missing(text),
        content::Error::Unreachable { .. }
        | content::Error::BehindProxy { .. }
        | content::Error::Refused { .. }
        | content::Error::Protocol { .. } => Pullable::Unknown(text),
        _ => Pullable::Missing(text),
    }
}

/// Asks for the manifest, and by name for everything that it names, on the platforms that are wanted.
async fn whole(repository: &Repository, digest: Digest, platforms: &[Platform]) -> content::Result<()> {
    let manifest = repository.manifest(&Selector::Digest(digest)).await?;
    let mut images = Vec::new();
    match manifest.kind() {
        ManifestKind::Image { .. } => images.push(manifest),
        ManifestKind::Index { manifests } => {
            let is_wanted = |platform: &Platform| {
                platform.os != "unknown"
                    && (platforms.is_empty() || platforms.iter().any(|node| node.accepts(platform)))
            };
            for entry in manifests.iter().filter(|entry| entry.platform.as_ref().is_none_or(is_wanted)) {
                images.push(repository.manifest(&Selector::Digest(entry.digest)).await?);
            }
        }
    }
    for image in &images {
        blobs(repository, image).await?;
    }
    Ok(())
}

async fn blobs(repository: &Repository, image: &Manifest) -> content::Result<()> {
    let digests: Vec<Digest> = image.blobs().map(|blob| blob.digest).collect();
    let all = stream::iter(digests.into_iter().map(|digest| blob(repository, digest))).buffer_unordered(AT_ONCE);
    all.try_collect::<Vec<()>>().await.map(drop)
}

async fn blob(repository: &Repository, digest: Digest) -> content::Result<()> {
    let missing = || content::Error::NoBlob { place: "the registry".to_owned(), digest };
    repository.has_blob(digest).await?.then_some(()).ok_or_else(missing)
}
