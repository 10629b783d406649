//! credential-provider: the kubelet asks for the login of an image, and gets it.
//!
//! The protocol is `credentialprovider.kubelet.k8s.io`: one request on stdin, one answer on stdout. The kubelet
//! can hand over a token of the pod's own service account, made for our registry (KEP-4412); the registry
//! checks it like any other identity token, so pods need no imagePullSecrets and nodes keep no password.

use std::collections::BTreeMap;
use std::io::Read;

use content::credentials::{Credentials, Login};
use oci::{Host, Reference};
use serde::{Deserialize, Serialize};

use crate::args::CredentialProviderArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::terminal::out;

/// Largest request that is read, in bytes; a token has some thousand.
const REQUEST_LIMIT: u64 = 1 << 20;
/// The versions of the protocol; they differ in nothing that is used here.
const VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];
/// The user beside an identity token. The registry looks at the token alone.
const TOKEN_USER: &str = "oidc";
/// The kubelet must not give the token of one pod to another one: it asks again for each pull.
const NEVER_KEPT: &str = "0s";
/// How long the kubelet may keep a login of a file without asking again.
const KEPT: &str = "5m0s";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    image: String,
    #[serde(default)]
    service_account_token: String,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Response {
    api_version: String,
    kind: &'static str,
    cache_key_type: &'static str,
    cache_duration: &'static str,
    auth: BTreeMap<String, Auth>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
struct Auth {
    username: String,
    password: String,
}

/// Why there is no answer. Never quotes the request: there is a token in it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum Problem {
    #[error("the request on stdin is no CredentialProviderRequest: {0}")]
    Request(String),
    #[error("the kubelet speaks {0:?}; known are {known}", known = VERSIONS.join(", "))]
    Version(String),
    #[error("the request is about no image: {0}")]
    Image(#[from] oci::InvalidReference),
}

pub fn run(args: &CredentialProviderArgs) -> Outcome<()> {
    let mut request = Vec::new();
    let read = std::io::stdin().lock().take(REQUEST_LIMIT + 1).read_to_end(&mut request);
    let read = read.map_err(|error| Failure::io("cannot read the request on stdin", &error))?;
    if read as u64 > REQUEST_LIMIT {
        let what = format!("the request on stdin is larger than {REQUEST_LIMIT} bytes");
        return Err(Failure::new(Exit::BadInput, what));
    }
    let file = match &args.authfile {
        Some(path) => read_logins(path)?,
        None => Credentials::none(),
    };
    let failed = |error: Problem| {
        Failure::because(Exit::BadInput, "there is no login for this request", &error)
            .hint("the kubelet starts this command; `lighter registry init` writes its configuration")
    };
    let request = parse(&request).map_err(failed)?;
    let image: Reference = request.image.parse().map_err(|error| failed(Problem::Image(error)))?;
    let known = file.lookup(image.host(), image.name());
    let known = known.map_err(|error| Failure::because(Exit::BadInput, "cannot read the logins", &error))?;
    let response = answer(&request, &image, &args.registry, known);
    if response.auth.is_empty() {
        tracing::warn!(host = %image.host(), "no login is known for this registry");
    }
    out(&serde_json::to_string(&response).expect("strings become JSON"));
    Ok(())
}

fn read_logins(path: &std::path::Path) -> Outcome<Credentials> {
    let what = || format!("cannot read the logins in {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| Failure::io(what(), &error))?;
    let mut credentials = Credentials::none();
    let added = credentials.add(&path.display().to_string(), &text);
    added.map_err(|error| Failure::because(Exit::BadInput, what(), &error))?;
    Ok(credentials)
}

fn parse(text: &[u8]) -> Result<Request, Problem> {
    // serde's messages may quote what they choke on.
    let wrong = |error: serde_json::Error| {
        Problem::Request(format!("no JSON of its form at line {}, column {}", error.line(), error.column()))
    };
    let request: Request = serde_json::from_slice(text).map_err(wrong)?;
    if request.kind != "CredentialProviderRequest" {
        return Err(Problem::Request(format!("its kind is {:?}", request.kind)));
    }
    if !VERSIONS.contains(&request.api_version.as_str()) {
        return Err(Problem::Version(request.api_version));
    }
    Ok(request)
}

/// The token for registries that may see it; else a login that is kept on the node; else nothing, which the
/// kubelet takes for a pull without login.
fn answer(request: &Request, image: &Reference, registries: &[Host], known: Option<Login>) -> Response {
    let login = match known {
        _ if !registries.contains(image.host()) => None,
        _ if !request.service_account_token.is_empty() => {
            Some((Auth { username: TOKEN_USER.into(), password: request.service_account_token.clone() }, NEVER_KEPT))
        }
        Some(Login::Password { user, password }) => Some((Auth { username: user, password }, KEPT)),
        Some(Login::Bearer(token) | Login::Identity(token)) => {
            Some((Auth { username: TOKEN_USER.into(), password: token }, KEPT))
        }
        None => None,
    };
    let (auth, cache_duration) = match login {
        Some((auth, kept)) => (BTreeMap::from([(image.host().to_string(), auth)]), kept),
        None => (BTreeMap::new(), NEVER_KEPT),
    };
    Response {
        api_version: request.api_version.clone(),
        kind: "CredentialProviderResponse",
        cache_key_type: "Registry",
        cache_duration,
        auth,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const V1: &str = "credentialprovider.kubelet.k8s.io/v1";

    fn request(image: &str, token: &str) -> String {
        json!({"apiVersion": V1, "kind": "CredentialProviderRequest", "image": image,
            "serviceAccountToken": token, "serviceAccountAnnotations": {"a": "b"}})
        .to_string()
    }

    fn answered(image: &str, token: &str, known: Option<Login>) -> serde_json::Value {
        let request = parse(request(image, token).as_bytes()).unwrap();
        let registries = ["vm2:5000".parse().unwrap(), "10.0.0.2:5000".parse().unwrap()];
        serde_json::to_value(answer(&request, &image.parse().unwrap(), &registries, known)).unwrap()
    }

    #[test]
    fn each_request_has_its_answer() {
        let login = || Some(Login::Password { user: "node".into(), password: "secret".into() });
        let token = json!({"username": "oidc", "password": "jwt"});
        let kept = json!({"username": "node", "password": "secret"});
        for (image, jwt, known, cache, auth) in [
            ("vm2:5000/shop/api:v1", "jwt", None, "0s", json!({"vm2:5000": token})),
            ("10.0.0.2:5000/shop/api:v1", "jwt", None, "0s", json!({"10.0.0.2:5000": token})),
            ("vm2:5000/shop/api:v1", "jwt", login(), "0s", json!({"vm2:5000": token})), // a pod's own comes first
            ("vm2:5000/shop/api:v1", "", login(), "5m0s", json!({"vm2:5000": kept})),
            ("vm2:5000/shop/api:v1", "", None, "0s", json!({})),
            ("vm2:5001/shop/api:v1", "jwt", login(), "0s", json!({})), // another registry sees neither
            ("busybox", "jwt", login(), "0s", json!({})),
        ] {
            let answer = answered(image, jwt, known);
            let expected = json!({"apiVersion": V1, "kind": "CredentialProviderResponse",
                "cacheKeyType": "Registry", "cacheDuration": cache, "auth": auth});
            assert_eq!(answer, expected, "{image}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused_without_being_quoted() {
        let with = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut value: serde_json::Value = serde_json::from_str(&request("vm2:5000/a", "se.cr.et")).unwrap();
            change(&mut value);
            value.to_string()
        };
        for text in [
            String::new(),
            "{".to_owned(),
            "[]".to_owned(),
            "\"se.cr.et\"".to_owned(),
            with(&|value| value["kind"] = "Pod".into()),
            with(&|value| value["apiVersion"] = "credentialprovider.kubelet.k8s.io/v2".into()),
            with(&|value| value["serviceAccountToken"] = json!(["se.cr.et"])),
        ] {
            let problem = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(!problem.contains("se.cr.et"), "{problem}");
        }
        for version in VERSIONS {
            let text = with(&|value| value["apiVersion"] = version.into());
            assert_eq!(parse(text.as_bytes()).unwrap().api_version, version, "the answer has the request's version");
        }
    }
}
