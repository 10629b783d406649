//! Tokens of our own: short-lived, signed with Ed25519, saying who the caller is and for what the token
//! is. They hold no rights: the rules are asked at each use, so a change of them holds at once.
//!
//! ```text
//! data/access/token.key    PKCS #8, mode 0600; delete it while stopped, and all tokens end
//! ```

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use content::place::replace_secret_file;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::identity::{Claims, Identity};
use super::jwt::{self, InvalidToken, Key, Unverified};
use super::remembered::Remembered;
use super::robots::{hex, make_directory};
use super::scope::Scopes;
use crate::watched::{ReadError, read};

/// Who makes our tokens and whom they are for. A key is of one data directory, so no name is needed.
const OURSELVES: &str = "lighter-registry";
/// Whom refresh tokens are for: the token endpoint, and nothing else here takes them.
const REFRESHING: &str = "lighter-registry-token-endpoint";
const KEY_LIMIT: u64 = 4 << 10;
/// How many checked tokens are remembered, at least: checking one costs more than serving a manifest.
const REMEMBERED: usize = 4096;

/// Signs and checks tokens.
pub(crate) struct Signer {
    pair: Ed25519KeyPair,
    kid: String,
    keys: [Key; 1],
    checked: Remembered<[u8; 32], Arc<OwnToken>>,
}

/// What a token of ours says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OwnToken {
    pub(crate) who: Holder,
    pub(crate) access: Scopes,
    pub(crate) exp: i64,
}

/// A login that a client keeps in place of a password.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RefreshToken {
    pub(crate) who: Holder,
    /// What tells the user's password from the next one.
    pub(crate) stamp: Option<String>,
    pub(crate) exp: i64,
}

/// The caller, with what is needed to find out later who that is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Holder {
    Anonymous,
    User(String),
    Robot(String),
    Issued { issuer: String, subject: String, claims: Claims },
    Certificate(String),
}

impl Holder {
    /// Keeps of a caller what will be needed: of its claims those that rules look at.
    pub(crate) fn of<'a>(who: &Identity, needed: impl Iterator<Item = &'a str>) -> Self {
        match who {
            Identity::Anonymous => Self::Anonymous,
            Identity::User(name) => Self::User(name.clone()),
            Identity::Robot { id, .. } => Self::Robot(id.clone()),
            Identity::Certificate(fingerprint) => Self::Certificate(fingerprint.clone()),
            Identity::Issued { issuer, subject, claims } => {
                let top = |name: &str| match name.strip_prefix('/') {
                    Some(path) => path.split('/').next().unwrap_or_default().replace("~1", "/").replace("~0", "~"),
                    None => name.to_owned(),
                };
                let kept = needed.map(top).filter_map(|name| Some((name.clone(), claims.get(&name)?.clone())));
                Self::Issued { issuer: issuer.clone(), subject: subject.clone(), claims: kept.collect() }
            }
        }
    }
}

impl Signer {
    /// Takes the key of a data directory, and makes it where there is none.
    pub(crate) fn open(data: &Path) -> Result<Self, ReadError> {
        let directory = super::directory(data);
        let path = directory.join("token.key");
        let failed = |source| ReadError::Io { path: path.clone(), source };
        let key = match read(&path, KEY_LIMIT) {
            Err(ReadError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
                let made = made.expect("the kernel gives random bytes");
                make_directory(&directory).map_err(failed)?;
                replace_secret_file(&path, made.as_ref()).map_err(failed)?;
                made.as_ref().to_vec()
            }
            found => found?,
        };
        let pair = Ed25519KeyPair::from_pkcs8(&key)
            .map_err(|error| ReadError::Content { path: path.clone(), reason: error.to_string() })?;
        let public = pair.public_key().as_ref();
        let kid = hex(&ring::digest::digest(&ring::digest::SHA256, public).as_ref()[..8]);
        let keys = [Key::ed25519(&kid, public)];
        Ok(Self { pair, kid, keys, checked: Remembered::new(REMEMBERED) })
    }

    /// Makes a token that ends at `token.exp`; `now` in seconds since 1970.
    pub(crate) fn sign(&self, token: &OwnToken, now: i64) -> String {
        self.seal(&json!({"iss": OURSELVES, "aud": OURSELVES, "iat": now, "exp": token.exp,
            "who": token.who, "access": token.access}))
    }

    /// Makes a refresh token.
    pub(crate) fn sign_refresh(&self, token: &RefreshToken, now: i64) -> String {
        self.seal(&json!({"iss": OURSELVES, "aud": REFRESHING, "iat": now, "exp": token.exp,
            "who": token.who, "stamp": token.stamp}))
    }

    /// Checks a refresh token.
    pub(crate) fn check_refresh(&self, text: &str, now: i64) -> Result<RefreshToken, InvalidToken> {
        let token = Unverified::parse(text)?;
        let claims = token.verify(&self.keys)?;
        jwt::check_claims(claims, OURSELVES, &[REFRESHING.to_owned()], now)?;
        let found: RefreshToken = serde_json::from_value(claims.clone().into()).map_err(|_| InvalidToken::Form)?;
        if now < found.exp { Ok(found) } else { Err(InvalidToken::Expired) } // no skew: the clock is our own
    }

    fn seal(&self, claims: &serde_json::Value) -> String {
        let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": self.kid});
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(&header), encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes()));
        format!("{text}.{signature}")
    }

    /// Whether a token says that it is one of ours.
    pub(crate) fn made(token: &Unverified<'_>) -> bool {
        token.issuer() == Some(OURSELVES)
    }

    /// A token that was found good before.
    pub(crate) fn remembered(&self, text: &str, now: i64) -> Option<Arc<OwnToken>> {
        self.checked.get(&fingerprint(text)).filter(|token| now < token.exp)
    }

    /// Checks a token of ours.
    pub(crate) fn check(&self, text: &str, token: &Unverified<'_>, now: i64) -> Result<Arc<OwnToken>, InvalidToken> {
        let claims = token.verify(&self.keys)?;
        jwt::check_claims(claims, OURSELVES, &[OURSELVES.to_owned()], now)?;
        let own: OwnToken = serde_json::from_value(claims.clone().into()).map_err(|_| InvalidToken::Form)?; // of another version
        if now >= own.exp {
            return Err(InvalidToken::Expired); // no skew: the clock is our own
        }
        let own = Arc::new(own);
        self.checked.insert(fingerprint(text), own.clone());
        Ok(own)
    }
}

fn fingerprint(text: &str) -> [u8; 32] {
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(exp: i64) -> OwnToken {
        let access = Scopes::parse(["repository:a:pull,push"].into_iter());
        OwnToken { who: Holder::User("alice".to_owned()), access, exp }
    }

    fn check(signer: &Signer, text: &str, now: i64) -> Result<Arc<OwnToken>, InvalidToken> {
        let read = Unverified::parse(text)?;
        assert!(Signer::made(&read));
        signer.check(text, &read, now)
    }

    #[test]
    fn a_token_says_the_same_after_a_restart_until_its_end() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let text = Signer::open(dir.path()).unwrap().sign(&token(400), 100);
        let signer = Signer::open(dir.path()).unwrap();
        assert_eq!(signer.remembered(&text, 100), None);
        assert_eq!(*check(&signer, &text, 399).unwrap(), token(400));
        assert_eq!(*signer.remembered(&text, 399).unwrap(), token(400));
        assert_eq!(signer.remembered(&text, 400), None);
        assert_eq!(check(&signer, &text, 400), Err(InvalidToken::Expired));
        let mode = std::fs::metadata(dir.path().join("access/token.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        let foreign = Signer::open(other.path()).unwrap();
        assert_eq!(check(&foreign, &text, 100), Err(InvalidToken::UnknownKey));
    }

    #[test]
    fn a_refresh_token_is_for_one_thing_and_for_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::open(dir.path()).unwrap();
        let refresh = RefreshToken { who: Holder::Robot("r".to_owned()), stamp: None, exp: 400 };
        let text = signer.sign_refresh(&refresh, 100);
        assert_eq!(signer.check_refresh(&text, 399), Ok(refresh));
        assert_eq!(signer.check_refresh(&text, 400), Err(InvalidToken::Expired));
        assert_eq!(check(&signer, &text, 100), Err(InvalidToken::Audience), "it opens no door by itself");
        assert_eq!(signer.check_refresh(&signer.sign(&token(400), 100), 100), Err(InvalidToken::Audience));
        let other = tempfile::tempdir().unwrap();
        let foreign = Signer::open(other.path()).unwrap().check_refresh(&text, 100);
        assert_eq!(foreign, Err(InvalidToken::UnknownKey));
    }

    #[test]
    fn only_claims_that_rules_look_at_are_kept() {
        let serde_json::Value::Object(claims) =
            json!({"project_id": "7", "user_email": "a@b", "kubernetes.io": {"namespace": "x"}})
        else {
            panic!("an object")
        };
        let who = Identity::Issued { issuer: "i".to_owned(), subject: "s".to_owned(), claims };
        let Holder::Issued { claims, .. } =
            Holder::of(&who, ["project_id", "/kubernetes.io/namespace", "none"].into_iter())
        else {
            panic!("an issued one")
        };
        assert_eq!(serde_json::Value::from(claims), json!({"project_id": "7", "kubernetes.io": {"namespace": "x"}}));
    }

    #[test]
    fn a_broken_key_is_told_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        make_directory(&dir.path().join("access")).unwrap();
        std::fs::write(dir.path().join("access/token.key"), "broken").unwrap();
        assert!(matches!(Signer::open(dir.path()), Err(ReadError::Content { .. })));
        assert_eq!(std::fs::read(dir.path().join("access/token.key")).unwrap(), b"broken");
    }
}
