//! Who calls, and whether he may. Headers become an [`Identity`], rules say what that may do; nothing
//! here knows a store or an answer.
//!
//! ```text
//! Authorization ─▶ htpasswd | robots | oidc | signer ─▶ Identity ─▶ policy ─▶ Verdict
//!                  (passwords) (robot   (GitLab,  (our own             (rules, pure)
//!                               tokens)  Kubernetes) tokens)
//! ```

mod htpasswd;
mod identity;
mod jwt;
mod oidc;
mod policy;
mod remembered;
mod robots;
mod scope;
mod signer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use jiff::Timestamp;
use oci::RepoName;

pub use crate::pattern::{InvalidPattern, Pattern};
use crate::watched::ReadError;
use htpasswd::Htpasswd;
pub use identity::Identity;
use jwt::Unverified;
pub(crate) use oidc::is_safe;
use oidc::{Issuer, Untrusted};
pub use oidc::{IssuerSettings, KeySource};
pub use policy::{InvalidRight, InvalidSubject, Policy, Right, Rule, Subject, Target, Values};
use robots::Robots;
pub(crate) use robots::hex;
pub use robots::{NewRobot, Robot, RobotError, RobotFile};
pub(crate) use scope::{Action, Scopes};
use signer::{Holder, OwnToken, RefreshToken, Signer};

/// Shortest life of a token of ours, in seconds: clients take none for shorter.
pub const SHORTEST_LIFE: Duration = Duration::from_secs(60);
/// Life of a token of ours if nothing else is said.
pub const USUAL_LIFE: Duration = Duration::from_secs(300);
/// Life of a refresh token if nothing else is said.
pub const USUAL_REFRESH_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Longest user name that is looked at, in bytes.
const USER_LIMIT: usize = 1024;

/// Where a data directory keeps what concerns access.
pub(crate) fn directory(data: &Path) -> PathBuf {
    data.join("access")
}

/// Who may do what, and how callers show who they are.
#[derive(Debug, Clone)]
pub struct AccessSettings {
    /// The rules. What none allows is denied.
    pub rules: Vec<Rule>,
    /// A file of users, as `htpasswd -B` makes it.
    pub htpasswd: Option<PathBuf>,
    /// Issuers of identity tokens.
    pub issuers: Vec<IssuerSettings>,
    /// How long tokens of the registry's own `/token` live; at least [`SHORTEST_LIFE`].
    pub token_life: Duration,
    /// How long a login holds that a client keeps in place of a password; none is given if it is zero.
    pub refresh_life: Duration,
}

impl AccessSettings {
    /// Reads the files that are named, to see whether they are as they should be.
    pub fn check_files(&self) -> Result<(), ReadError> {
        self.htpasswd.as_deref().map(Htpasswd::open).transpose()?;
        self.issuers.iter().cloned().try_for_each(|issuer| Issuer::open(issuer).map(drop))
    }
}

impl Default for AccessSettings {
    /// Nobody but robots with rights of their own.
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            htpasswd: None,
            issuers: Vec::new(),
            token_life: USUAL_LIFE,
            refresh_life: USUAL_REFRESH_LIFE,
        }
    }
}

/// A caller, as far as one request is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) identity: Arc<Identity>,
    /// What the caller's token is for, if it came with one of ours.
    scopes: Option<Arc<OwnToken>>,
    /// When what it showed ends, in seconds since 1970, if it does.
    end: Option<i64>,
}

impl Caller {
    fn new(identity: Identity) -> Self {
        Self { identity: Arc::new(identity), scopes: None, end: None }
    }

    /// Somebody who showed nothing.
    pub(crate) fn anonymous() -> Self {
        Self::new(Identity::Anonymous)
    }

    /// Whether it came with a token of ours.
    pub(crate) fn has_token(&self) -> bool {
        self.scopes.is_some()
    }
}

/// Why what a caller showed is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadLogin {
    /// The header is none that is known here.
    #[error("the Authorization header is neither Basic nor Bearer")]
    Header,
    /// Not the user's password, or no such user.
    #[error("user or password is wrong")]
    Password,
    /// Not a robot's token, or one that ended.
    #[error("the robot token is unknown, expired or revoked")]
    Robot,
    /// No issuer that is known here made it.
    #[error("the token is of no issuer that this registry trusts")]
    Issuer,
    /// The token is not good.
    #[error("the token is not taken: {0}")]
    Token(#[from] Untrusted),
    /// Whoever the token was made for is gone.
    #[error("the token is of somebody who is gone")]
    Gone,
}

impl From<jwt::InvalidToken> for BadLogin {
    fn from(error: jwt::InvalidToken) -> Self {
        Self::Token(error.into())
    }
}

/// Whether something may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Yes.
    Allowed,
    /// The caller may, but not with the token that it showed; or nobody knows who it is.
    LoginNeeded,
    /// No, and another login of the same caller does not help.
    Denied,
}

/// The open doors and the closed ones.
pub(crate) enum Gate {
    /// Everybody may do everything.
    Open,
    /// Rules say who may do what.
    Guarded(Box<Access>),
}

impl Gate {
    /// Who calls, by the `Authorization` header or else by a client certificate.
    pub(crate) async fn caller(
        &self,
        authorization: Option<&HeaderValue>,
        certificate: Option<&str>,
    ) -> Result<Caller, BadLogin> {
        let Self::Guarded(access) = self else { return Ok(Caller::anonymous()) };
        match (authorization, certificate) {
            (Some(header), _) => access.by_header(header, Timestamp::now()).await,
            // One that no rule is about only opens the connection: its holder has yet to log in, and clients
            // do not if they are let in here.
            (None, Some(fingerprint)) if access.policy.has_certificate(fingerprint) => {
                Ok(Caller::new(Identity::Certificate(fingerprint.to_owned())))
            }
            (None, _) => Ok(Caller::anonymous()),
        }
    }

    /// Whether a caller may do something.
    pub(crate) fn judge(&self, caller: &Caller, right: Right, repository: &RepoName, target: Target<'_>) -> Verdict {
        let Self::Guarded(access) = self else { return Verdict::Allowed };
        let in_scope = caller.scopes.as_ref().is_none_or(|own| own.access.has(repository, Action::of(right)));
        match access.policy.allows(&caller.identity, right, repository, target) {
            true if in_scope => Verdict::Allowed,
            true => Verdict::LoginNeeded,
            false if caller.identity.is_anonymous() => Verdict::LoginNeeded,
            false => Verdict::Denied,
        }
    }

    /// The same as yes or no.
    pub(crate) fn allows(&self, caller: &Caller, right: Right, repository: &RepoName, target: Target<'_>) -> bool {
        self.judge(caller, right, repository, target) == Verdict::Allowed
    }

    /// Whether a caller may list the repositories that it may pull from.
    pub(crate) fn judge_catalog(&self, caller: &Caller) -> Verdict {
        let Self::Guarded(_) = self else { return Verdict::Allowed };
        match &caller.scopes {
            Some(own) if !own.access.catalog => Verdict::LoginNeeded,
            _ => Verdict::Allowed,
        }
    }

    /// Whether a caller sees a repository in lists: by what it may do, whatever its token is for.
    pub(crate) fn sees(&self, caller: &Caller, repository: &RepoName) -> bool {
        match self {
            Self::Open => true,
            Self::Guarded(access) => access.policy.allows(&caller.identity, Right::Pull, repository, Target::Content),
        }
    }

    /// Whether anything is ever denied.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }
}

/// The rules with everything that tells callers apart.
pub(crate) struct Access {
    policy: Policy,
    users: Option<Htpasswd>,
    robots: Robots,
    issuers: Vec<Issuer>,
    signer: Signer,
    life: Duration,
    refresh_life: Duration,
}

/// A token that was made for a caller.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) issued_at: Timestamp,
    pub(crate) life: Duration,
    pub(crate) scopes: Scopes,
}

impl Access {
    /// Reads the files that are named, and makes the key of a data directory.
    pub(crate) fn open(settings: AccessSettings, data: &Path) -> Result<Self, ReadError> {
        Ok(Self {
            policy: Policy(settings.rules),
            users: settings.htpasswd.as_deref().map(Htpasswd::open).transpose()?,
            robots: Robots::open(data)?,
            issuers: settings.issuers.into_iter().map(Issuer::open).collect::<Result<_, _>>()?,
            signer: Signer::open(data)?,
            life: settings.token_life.max(SHORTEST_LIFE),
            refresh_life: settings.refresh_life,
        })
    }

    async fn by_header(&self, header: &HeaderValue, now: Timestamp) -> Result<Caller, BadLogin> {
        match Credentials::parse(header).ok_or(BadLogin::Header)? {
            Credentials::Basic { user, password } => self.log_in(&user, &password, now).await,
            Credentials::Bearer(token) => self.by_token(token, now).await,
        }
    }

    /// By user and password; the password may be a robot's token or an identity token.
    pub(crate) async fn log_in(&self, user: &str, password: &str, now: Timestamp) -> Result<Caller, BadLogin> {
        // Podman's libraries send an empty login where they know none.
        if user.is_empty() && password.is_empty() {
            return Ok(Caller::anonymous());
        }
        if robots::looks_like_robot(password) {
            return self.robots.identify(password, now).map(Caller::new).ok_or(BadLogin::Robot);
        }
        if jwt::looks_like_token(password) {
            return self.by_identity_token(&Unverified::parse(password)?, now).await;
        }
        match &self.users {
            Some(users) if user.len() <= USER_LIMIT && users.is_right(user, password).await => {
                Ok(Caller::new(Identity::User(user.to_owned())))
            }
            _ => Err(BadLogin::Password),
        }
    }

    async fn by_token(&self, text: &str, now: Timestamp) -> Result<Caller, BadLogin> {
        if robots::looks_like_robot(text) {
            return self.robots.identify(text, now).map(Caller::new).ok_or(BadLogin::Robot);
        }
        if let Some(own) = self.signer.remembered(text, now.as_second()) {
            return self.by_own_token(own, now);
        }
        let token = Unverified::parse(text)?;
        if Signer::made(&token) {
            return self.by_own_token(self.signer.check(text, &token, now.as_second())?, now);
        }
        self.by_identity_token(&token, now).await
    }

    async fn by_identity_token(&self, token: &Unverified<'_>, now: Timestamp) -> Result<Caller, BadLogin> {
        let issuer = self.issuers.iter().find(|issuer| issuer.made(token)).ok_or(BadLogin::Issuer)?;
        let (identity, end) = issuer.identify(token, now.as_second()).await?;
        Ok(Caller { end: Some(end), ..Caller::new(identity) })
    }

    /// A login that the caller may keep in place of its password: for users and robots that showed
    /// theirs just now, since only those can be ended. Tokens of issuers must not be made to live longer.
    pub(crate) fn refresh_token(&self, caller: &Caller, now: Timestamp) -> Option<String> {
        if self.refresh_life.is_zero() || caller.has_token() || caller.end.is_some() {
            return None;
        }
        let (who, stamp) = match &*caller.identity {
            Identity::User(name) => (Holder::User(name.clone()), Some(self.users.as_ref()?.stamp(name)?)),
            Identity::Robot { id, .. } => (Holder::Robot(id.clone()), None),
            _ => return None,
        };
        let life = i64::try_from(self.refresh_life.as_secs()).unwrap_or(i64::MAX);
        let token = RefreshToken { who, stamp, exp: now.as_second().saturating_add(life) };
        Some(self.signer.sign_refresh(&token, now.as_second()))
    }

    /// By a refresh token. It ends with its time, with its user or robot, and with the user's password.
    pub(crate) fn refresh(&self, text: &str, now: Timestamp) -> Result<Caller, BadLogin> {
        let RefreshToken { who, stamp, exp } = self.signer.check_refresh(text, now.as_second())?;
        let is_same = match &who {
            Holder::User(name) => self.users.as_ref().and_then(|users| users.stamp(name)) == stamp,
            _ => true,
        };
        let identity = self.holder(&who, now).filter(|_| is_same).ok_or(BadLogin::Gone)?;
        Ok(Caller { end: Some(exp), ..Caller::new(identity) })
    }

    /// Who that is now: users and robots may be gone since.
    fn by_own_token(&self, own: Arc<OwnToken>, now: Timestamp) -> Result<Caller, BadLogin> {
        let identity = self.holder(&own.who, now);
        let end = Some(own.exp);
        Ok(Caller { identity: Arc::new(identity.ok_or(BadLogin::Gone)?), scopes: Some(own), end })
    }

    fn holder(&self, who: &Holder, now: Timestamp) -> Option<Identity> {
        match who {
            Holder::Anonymous => Some(Identity::Anonymous),
            Holder::User(name) => {
                let known = self.users.as_ref().is_some_and(|users| users.knows(name));
                known.then(|| Identity::User(name.clone()))
            }
            Holder::Robot(id) => self.robots.by_id(id, now),
            Holder::Certificate(fingerprint) => Some(Identity::Certificate(fingerprint.clone())),
            Holder::Issued { issuer, subject, claims } => {
                let known = self.issuers.iter().any(|known| known.name() == issuer);
                let (issuer, subject, claims) = (issuer.clone(), subject.clone(), claims.clone());
                known.then_some(Identity::Issued { issuer, subject, claims })
            }
        }
    }

    /// Makes a token for a caller, for as much of what it asks for as it may do.
    pub(crate) fn issue(&self, caller: &Caller, wanted: Scopes, now: Timestamp) -> Issued {
        let mut scopes = wanted;
        for access in &mut scopes.repositories {
            access.actions.retain(|action| {
                let may = self.policy.allows(&caller.identity, action.right(), &access.name, Target::Content);
                may && caller.scopes.as_ref().is_none_or(|own| own.access.has(&access.name, *action))
            });
        }
        scopes.repositories.retain(|access| !access.actions.is_empty());
        let left = caller
            .end
            .map_or(self.life, |end| Duration::from_secs(end.saturating_sub(now.as_second()).try_into().unwrap_or(0)));
        let life = self.life.min(left).max(SHORTEST_LIFE);
        let exp = now.as_second().saturating_add(life.as_secs().try_into().unwrap_or(i64::MAX));
        let own = OwnToken { who: Holder::of(&caller.identity, self.policy.claims()), access: scopes.clone(), exp };
        Issued { token: self.signer.sign(&own, now.as_second()), issued_at: now, life, scopes }
    }
}

/// What an `Authorization` header holds.
enum Credentials<'a> {
    Basic { user: String, password: String },
    Bearer(&'a str),
}

impl<'a> Credentials<'a> {
    fn parse(header: &'a HeaderValue) -> Option<Self> {
        let (scheme, rest) = header.to_str().ok()?.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(rest.trim()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Self::Basic { user: user.to_owned(), password: password.to_owned() })
    }
}

/// Reads a text as everything that a stranger may send to be let in: a header, a token, the keys of an
/// issuer, scopes. Says whether it is any of these. For fuzzing.
#[doc(hidden)]
pub fn is_readable(text: &str) -> bool {
    let header = HeaderValue::from_str(text).ok();
    let is_header =
        header.is_some_and(|header| claimed_user(&header).is_some() | Credentials::parse(&header).is_some());
    let token = Unverified::parse(text.strip_prefix("Bearer ").unwrap_or(text));
    let is_token = token.is_ok_and(|token| {
        let keys = jwt::parse_keys(br#"{"keys":[]}"#).unwrap_or_default();
        token.issuer().is_some() | token.verify(&keys).is_ok()
    });
    let scopes = Scopes::parse([text].into_iter());
    assert_eq!(Scopes::parse([scopes.to_string().as_str()].into_iter()), scopes);
    is_header
        | is_token
        | jwt::parse_keys(text.as_bytes()).is_ok()
        | robots::looks_like_robot(text)
        | !scopes.is_empty()
}

/// The user that a header names, for limits and logs; whether it is true is not known here.
pub(crate) fn claimed_user(header: &HeaderValue) -> Option<String> {
    match Credentials::parse(header)? {
        Credentials::Basic { user, .. } => Some(user),
        Credentials::Bearer(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorization_headers_are_read() {
        let read = |text: &str| match Credentials::parse(&HeaderValue::from_str(text).unwrap()) {
            Some(Credentials::Basic { user, password }) => format!("{user}|{password}"),
            Some(Credentials::Bearer(token)) => token.to_owned(),
            None => "none".to_owned(),
        };
        for (text, meant) in [
            ("Basic YWxpY2U6YTpi", "alice|a:b"),
            ("basic Og==", "|"),
            ("BEARER  x.y.z ", "x.y.z"),
            ("Basic", "none"),
            ("Basic YWxpY2U=", "none"),
            ("Basic /w==", "none"),
            ("Digest YWxpY2U6YTpi", "none"),
        ] {
            assert_eq!(read(text), meant, "{text}");
        }
    }

    proptest::proptest! {
        // Each case makes files that are forced to disk.
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

        #[test]
        fn no_header_panics_or_is_taken(bytes: Vec<u8>, text in "(Basic|Bearer) [ -~]{0,40}") {
            let dir = tempfile::tempdir().unwrap();
            let access = Access::open(AccessSettings::default(), dir.path()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for header in [HeaderValue::from_bytes(&bytes).ok(), HeaderValue::from_str(&text).ok()].into_iter().flatten() {
                let caller = runtime.block_on(access.by_header(&header, Timestamp::now()));
                proptest::prop_assert!(caller.is_err() || caller.is_ok_and(|caller| caller.identity.is_anonymous()));
            }
        }
    }
}
