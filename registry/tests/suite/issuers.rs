//! Identity tokens of an issuer that the test plays: GitLab's claims, keys that change, and every way
//! in which such a token can be wrong.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use content::remote::Proxies;
use fixtures::http::Scripted;
use registry::access::{AccessSettings, IssuerSettings, KeySource};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};

use crate::access::{As, basic, guarded, rules};
use crate::client::Registry;

/// A key of the issuer.
enum Key {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Key {
    fn ec() -> Self {
        let random = SystemRandom::new();
        let bytes = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes.as_ref(), &random).unwrap())
    }

    /// As GitLab has; ring makes no RSA keys.
    fn rsa() -> Self {
        let made = Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-outform", "DER"])
            .output()
            .expect("openssl is missing; install the Debian package openssl");
        assert!(made.status.success());
        // Which of the two forms comes differs between versions of openssl.
        Self::Rsa(RsaKeyPair::from_pkcs8(&made.stdout).or_else(|_| RsaKeyPair::from_der(&made.stdout)).unwrap())
    }

    fn public(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": text(&point[1..33]), "y": text(&point[33..])})
            }
            Self::Rsa(key) => {
                let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": text(&n), "e": text(&e)})
            }
        }
    }

    fn sign(&self, kid: &str, claims: &Value) -> String {
        let alg = if matches!(self, Self::Ec(_)) { "ES256" } else { "RS256" };
        let text = unsigned(&json!({"alg": alg, "kid": kid, "typ": "JWT"}), claims);
        let random = SystemRandom::new();
        let signature = match self {
            Self::Ec(key) => key.sign(&random, text.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

/// An issuer on loopback whose keys the test changes; `None` is an issuer that is down.
struct Issuer {
    server: Scripted,
    keys: Arc<Mutex<Option<Value>>>,
}

impl Issuer {
    fn start(keys: Value) -> Self {
        let keys = Arc::new(Mutex::new(Some(keys)));
        let shown = keys.clone();
        let server = Scripted::start(move |request| {
            let url = format!("http://{}", request.header("host").unwrap());
            let Some(keys) = shown.lock().unwrap().clone() else { return (503, vec![], String::new()) };
            match request.target.as_str() {
                "/.well-known/openid-configuration" => {
                    (200, vec![], json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string())
                }
                "/keys" => (200, vec![], json!({"keys": keys}).to_string()),
                _ => (404, vec![], String::new()),
            }
        });
        Self { server, keys }
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    fn show(&self, keys: Option<Value>) {
        *self.keys.lock().unwrap() = keys;
    }

    fn asked(&self) -> usize {
        self.server.received().iter().filter(|request| request.target == "/keys").count()
    }

    /// What GitLab says of a job.
    fn claims(&self) -> Value {
        json!({"iss": self.url(), "aud": "https://registry.example", "exp": now() + 300, "nbf": now() - 5,
            "sub": "project_path:shop/api:ref_type:branch:ref:main", "project_id": "7", "project_path": "Shop/API",
            "ref_protected": "true", "jti": "1"})
    }

    async fn registry(&self, keys: KeySource, pause: Duration) -> Registry {
        let issuer = IssuerSettings {
            name: "gitlab".to_owned(),
            issuer: self.url(),
            audiences: vec!["https://registry.example".to_owned()],
            keys,
            ca: None,
            token: None,
            pause,
            proxies: Proxies::default(),
        };
        let rules = rules(json!([{"subjects": ["issuer:gitlab"],
            "claims": {"project_id": ["7", "8"], "ref_protected": "true"},
            "repositories": ["{project_path}", "{project_path}/**"], "rights": ["pull", "push"]}]));
        guarded(AccessSettings { issuers: vec![issuer], ..rules }).await
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn changed(claims: &Value, changes: Value) -> Value {
    let mut claims = claims.clone();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

async fn status(registry: &Registry, token: &str, repository: &str) -> u16 {
    let path = format!("/v2/{repository}/blobs/uploads/");
    As(&registry.http, format!("Bearer {token}")).send("POST", &path, "").await.status.as_u16()
}

#[tokio::test]
async fn a_job_pushes_with_its_identity_token_and_to_nowhere_else() {
    let key = Key::rsa();
    let issuer = Issuer::start(json!([key.public("k1")]));
    let registry = issuer.registry(KeySource::Discovery, Duration::ZERO).await;
    let token = key.sign("k1", &issuer.claims());
    for (repository, expected) in [("shop/api", 202), ("shop/api/web", 202), ("shop/other", 403), ("shop", 403)] {
        assert_eq!(status(&registry, &token, repository).await, expected, "{repository}");
    }
    // As docker login -u oidc would: the token as a password, changed into one of ours.
    let login = basic("oidc", &token);
    As(&registry.http, login.clone()).push("shop/api", "v1", b"layer").await.expect(201);
    let path = "/token?scope=repository:shop/api:pull,push&scope=repository:shop/other:push";
    let answer = registry.http.send("GET", path, &[("authorization", &login)], "").await.expect(200).json();
    assert_eq!(answer["scope"], json!("repository:shop/api:pull,push"));
    let ours = As(&registry.http, format!("Bearer {}", answer["token"].as_str().unwrap()));
    ours.push("shop/api", "v2", b"layer").await.expect(201);
    ours.push_blob("shop/other", b"x").await.refuses(403, "DENIED");
    let form = format!("grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token={token}");
    registry.http.send("POST", "/token", &[], form).await.expect(200);
    assert_eq!(issuer.asked(), 1, "keys are fetched once");
}

#[tokio::test]
async fn tokens_that_are_wrong_in_any_way_are_refused() {
    let (key, other) = (Key::ec(), Key::ec());
    let issuer = Issuer::start(json!([key.public("k1")]));
    let registry = issuer.registry(KeySource::Discovery, Duration::from_secs(3600)).await;
    let good = issuer.claims();
    assert_eq!(status(&registry, &key.sign("k1", &good), "shop/api").await, 202);
    for (changes, expected) in [
        (json!({"aud": "https://other.example"}), 401),
        (json!({"aud": null}), 401),
        (json!({"iss": "https://evil.example"}), 401),
        (json!({"iss": null}), 401),
        (json!({"exp": now() - 61}), 401),
        (json!({"exp": null}), 401),
        (json!({"nbf": now() + 120}), 401),
        (json!({"project_id": "9"}), 403),
        (json!({"project_id": null}), 403),
        (json!({"ref_protected": "false"}), 403),
        (json!({"ref_protected": null}), 403),
        (json!({"project_path": null}), 403),
        (json!({"project_path": "**"}), 403),
        (json!({"exp": now() - 30}), 202), // clocks differ
        (json!({"aud": ["x", "https://registry.example"]}), 202),
    ] {
        let token = key.sign("k1", &changed(&good, changes.clone()));
        assert_eq!(status(&registry, &token, "shop/api").await, expected, "{changes}");
    }
    let public = key.public("k1");
    let secret = URL_SAFE_NO_PAD.decode(public["x"].as_str().unwrap()).unwrap();
    let text = unsigned(&json!({"alg": "HS256", "kid": "k1"}), &good);
    for secret in [secret, public.to_string().into_bytes(), Vec::new()] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), text.as_bytes());
        let forged = format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag));
        assert_eq!(status(&registry, &forged, "shop/api").await, 401, "the public key is no secret");
    }
    let none = format!("{}.", unsigned(&json!({"alg": "none"}), &good));
    assert_eq!(status(&registry, &none, "shop/api").await, 401);
    assert_eq!(status(&registry, &other.sign("k1", &good), "shop/api").await, 401);
    assert_eq!(status(&registry, &other.sign("k2", &good), "shop/api").await, 401);
    assert!(issuer.asked() <= 2, "junk does not make us ask again and again: {}", issuer.asked());
}

#[tokio::test]
async fn keys_are_followed_when_they_change_and_kept_while_the_issuer_is_down() {
    let (old, new) = (Key::ec(), Key::ec());
    let issuer = Issuer::start(json!([old.public("k1")]));
    let registry = issuer.registry(KeySource::Discovery, Duration::ZERO).await;
    issuer.show(None);
    assert_eq!(status(&registry, &old.sign("k1", &issuer.claims()), "shop/api").await, 401, "no keys yet");
    issuer.show(Some(json!([old.public("k1")])));
    assert_eq!(status(&registry, &old.sign("k1", &issuer.claims()), "shop/api").await, 202);
    issuer.show(Some(json!([new.public("k2")])));
    assert_eq!(status(&registry, &new.sign("k2", &issuer.claims()), "shop/api").await, 202);
    assert_eq!(status(&registry, &old.sign("k1", &issuer.claims()), "shop/api").await, 401, "rotated out");
    issuer.show(None);
    assert_eq!(status(&registry, &new.sign("k2", &issuer.claims()), "shop/api").await, 202, "stale if down");
}

#[tokio::test]
async fn keys_may_lie_in_a_file_that_is_followed() {
    let (first, second) = (Key::ec(), Key::ec());
    let issuer = Issuer::start(json!([]));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    let write = |key: &Key| {
        let text = json!({"keys": [key.public("k")]}).to_string();
        content::place::replace_file(&path, text.as_bytes()).unwrap();
    };
    write(&first);
    let registry = issuer.registry(KeySource::File(path.clone()), Duration::ZERO).await;
    assert_eq!(status(&registry, &first.sign("k", &issuer.claims()), "shop/api").await, 202);
    write(&second);
    assert_eq!(status(&registry, &second.sign("k", &issuer.claims()), "shop/api").await, 202);
    assert_eq!(status(&registry, &first.sign("k", &issuer.claims()), "shop/api").await, 401);
    assert_eq!(issuer.server.received().len(), 0, "nobody is asked");
}
