//! JSON Web Tokens (RFC 7519) and the keys that they are checked with (RFC 7517). Pure: where keys come
//! from, and what the claims are good for, is not known here.
//!
//! What a token says of its algorithm is never trusted: each key knows which algorithms it is for, all
//! of them are asymmetric, and `none` and the HMACs do not exist here. So a public key cannot be
//! mistaken for a shared secret.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

use super::identity::Claims;

/// Longest token, in bytes: GitLab's have about 2 kB.
pub(crate) const TOKEN_LIMIT: usize = 16 << 10;
/// How far the clocks of issuer and registry may be apart, in seconds.
pub(crate) const SKEW: i64 = 60;
/// Most keys of one issuer.
const KEYS_LIMIT: usize = 100;

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidToken {
    /// It is no token at all.
    #[error("it is not a signed JWT")]
    Form,
    /// It asks for what is not known here, and says that this is critical.
    #[error("it has critical extensions")]
    Critical,
    /// Its algorithm is none of ours.
    #[error("its algorithm {0:?} is not allowed")]
    Algorithm(String),
    /// No key has the id that it names.
    #[error("its key is unknown")]
    UnknownKey,
    /// The signature is not of this key.
    #[error("its signature is wrong")]
    Signature,
    /// It is of somebody else.
    #[error("its issuer is another one")]
    Issuer,
    /// It is not meant for us, or for nobody.
    #[error("its audience (aud) is not this registry")]
    Audience,
    /// It has no end, or its end was before.
    #[error("it is expired, or has no end (exp)")]
    Expired,
    /// It begins later.
    #[error("it is not valid yet")]
    Early,
}

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }

    /// The parameters, if this is an algorithm of RSA keys. Keys below 2048 bits are refused by them.
    fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Es256 | Self::Es384 | Self::EdDsa => return None,
        })
    }
}

/// A token that was read and not checked yet.
pub(crate) struct Unverified<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    signed: &'a str,
    signature: Vec<u8>,
    claims: Claims,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

/// Whether a text has the shape of a token, so that it is worth looking at.
pub(crate) fn looks_like_token(text: &str) -> bool {
    text.starts_with("eyJ") && text.split('.').count() == 3
}

impl<'a> Unverified<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, InvalidToken> {
        if text.len() > TOKEN_LIMIT {
            return Err(InvalidToken::Form);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(InvalidToken::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(InvalidToken::Form)?;
        if claims.contains('.') {
            return Err(InvalidToken::Form);
        }
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| InvalidToken::Form)?;
        if header.crit.is_some() {
            return Err(InvalidToken::Critical);
        }
        let algorithm = Algorithm::parse(&header.alg)
            .ok_or_else(|| InvalidToken::Algorithm(header.alg.chars().take(20).collect()))?;
        let claims = serde_json::from_slice(&decode(claims)?).map_err(|_| InvalidToken::Form)?;
        Ok(Self { algorithm, kid: header.kid, signed, signature: decode(signature)?, claims })
    }

    /// Who says that he made it. Not true before [`Unverified::verify`].
    pub(crate) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// Checks the signature with the keys of an issuer, and gives the claims.
    pub(crate) fn verify(&self, keys: &[Key]) -> Result<&Claims, InvalidToken> {
        let named = |key: &&Key| match &self.kid {
            Some(kid) => key.kid.as_deref() == Some(kid),
            None => true,
        };
        let mut candidates = keys.iter().filter(named).peekable();
        candidates.peek().ok_or(InvalidToken::UnknownKey)?;
        match candidates.any(|key| key.verifies(self.algorithm, self.signed.as_bytes(), &self.signature)) {
            true => Ok(&self.claims),
            false => Err(InvalidToken::Signature),
        }
    }
}

fn decode(text: &str) -> Result<Vec<u8>, InvalidToken> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidToken::Form)
}

/// Checks what a token says of itself; `now` in seconds since 1970.
pub(crate) fn check_claims(claims: &Claims, issuer: &str, audiences: &[String], now: i64) -> Result<(), InvalidToken> {
    if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err(InvalidToken::Issuer);
    }
    let is_ours = |value: &Value| value.as_str().is_some_and(|value| audiences.iter().any(|ours| ours == value));
    let meant = match claims.get("aud") {
        Some(Value::Array(values)) => values.iter().any(is_ours),
        Some(value) => is_ours(value),
        None => false,
    };
    if !meant {
        return Err(InvalidToken::Audience);
    }
    let time = |name: &str| claims.get(name).map(seconds);
    match time("exp") {
        Some(Some(end)) if now < end.saturating_add(SKEW) => {}
        _ => return Err(InvalidToken::Expired),
    }
    match time("nbf") {
        None => Ok(()),
        Some(Some(begin)) if begin <= now.saturating_add(SKEW) => Ok(()),
        Some(_) => Err(InvalidToken::Early),
    }
}

/// A NumericDate (RFC 7519 §2), which may have a fraction.
fn seconds(value: &Value) -> Option<i64> {
    // A float that is too large ends at the largest number: `as` saturates.
    value.as_i64().or_else(|| value.as_f64().filter(|seconds| seconds.is_finite()).map(|seconds| seconds as i64))
}

/// A public key that tokens are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    kid: Option<String>,
    /// The one algorithm that the issuer uses it for, if it says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Key {
    /// An Ed25519 key of ours.
    pub(crate) fn ed25519(kid: &str, public: &[u8]) -> Self {
        let material = Material::Ed25519(public.to_vec());
        Self { kid: Some(kid.to_owned()), algorithm: Some(Algorithm::EdDsa), material }
    }

    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if self.algorithm.is_some_and(|pinned| pinned != algorithm) {
            return false;
        }
        let verifies = |with: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(with, key).verify(message, signature).is_ok()
        };
        match (&self.material, algorithm) {
            (Material::Rsa { n, e }, algorithm) => algorithm
                .rsa()
                .is_some_and(|with| RsaPublicKeyComponents { n, e }.verify(with, message, signature).is_ok()),
            (Material::P256(point), Algorithm::Es256) => verifies(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Material::P384(point), Algorithm::Es384) => verifies(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Material::Ed25519(key), Algorithm::EdDsa) => verifies(&signature::ED25519, key),
            _ => false,
        }
    }
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

/// A document that holds no keys.
#[derive(Debug, thiserror::Error)]
#[error("this is not a JSON Web Key Set with at least one key to check signatures with")]
pub(crate) struct InvalidKeys;

/// Reads a JSON Web Key Set. Keys of other kinds, and for other uses, are passed over.
pub(crate) fn parse_keys(document: &[u8]) -> Result<Vec<Key>, InvalidKeys> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(document).map_err(|_| InvalidKeys)?;
    let keys = set.keys.into_iter().take(KEYS_LIMIT);
    let keys: Vec<Key> = keys.filter_map(|key| key_of(serde_json::from_value(key).ok()?)).collect();
    if keys.is_empty() { Err(InvalidKeys) } else { Ok(keys) }
}

fn key_of(jwk: Jwk) -> Option<Key> {
    if jwk.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let algorithm = match &jwk.alg {
        Some(text) => Some(Algorithm::parse(text)?),
        None => None,
    };
    let bytes = |field: &Option<String>| decode(field.as_deref()?).ok();
    let point = |size: usize| {
        let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
        (x.len() == size && y.len() == size).then(|| [&[4][..], &x, &y].concat()) // 4: uncompressed
    };
    let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => Material::Rsa { n: bytes(&jwk.n)?, e: bytes(&jwk.e)? },
        ("EC", Some("P-256")) => Material::P256(point(32)?),
        ("EC", Some("P-384")) => Material::P384(point(48)?),
        ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(&jwk.x).filter(|key| key.len() == 32)?),
        _ => return None,
    };
    Some(Key { kid: jwk.kid, algorithm, material })
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
