//! The token by which a CI system says who a job is (`LIGHTER_ID_TOKEN`, GitLab's `id_tokens`), as a login.
//!
//! Nothing is verified here, that is the registry's business. Only one thing is read: for whom the token was made,
//! because it is shown to nobody else. A token in the hands of another registry could be used at ours.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use content::credentials::Login;
use oci::Host;
use serde_json::Value;

/// The variable.
pub const VARIABLE: &str = "LIGHTER_ID_TOKEN";
/// The user beside the token. A registry looks at the token alone.
const USER: &str = "oidc";

/// Why a token cannot be used. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// It is no JSON Web Token.
    #[error("it is no JSON Web Token")]
    Form,
    /// It is for nobody, or for something that is no registry.
    #[error("its audience (`aud`) names no registry; write it as https://HOST[:PORT]")]
    Audience,
}

/// The login that a token is, and the registries that it may be shown to.
pub fn login(token: &str) -> Result<(Vec<Host>, Login), InvalidIdentity> {
    let hosts = audiences(token)?;
    if hosts.is_empty() {
        return Err(InvalidIdentity::Audience);
    }
    Ok((hosts, Login::Password { user: USER.to_owned(), password: token.to_owned() }))
}

fn audiences(token: &str) -> Result<Vec<Host>, InvalidIdentity> {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(InvalidIdentity::Form);
    };
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).map_err(|_| InvalidIdentity::Form)?;
    let claims: Value = serde_json::from_slice(&claims).map_err(|_| InvalidIdentity::Form)?;
    let named = match &claims["aud"] {
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        value => value.as_str().into_iter().collect::<Vec<_>>(),
    };
    Ok(named.into_iter().filter_map(host).collect())
}

/// `https://HOST[:PORT]`, or the host alone.
fn host(audience: &str) -> Option<Host> {
    let rest = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://")).unwrap_or(audience);
    rest.trim_end_matches('/').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn token(claims: &Value) -> String {
        format!("eyJhbGciOiJSUzI1NiJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn a_token_is_shown_to_its_audience() {
        for (audience, hosts) in [
            (json!("https://vm2:5000"), vec!["vm2:5000"]),
            (json!("https://registry.example.com/"), vec!["registry.example.com"]),
            (json!("vm2:5000"), vec!["vm2:5000"]),
            (json!(["https://vm2:5000", "https://vm3", 7]), vec!["vm2:5000", "vm3"]),
        ] {
            let (shown, login) = login(&token(&json!({"aud": audience}))).unwrap();
            assert_eq!(shown.iter().map(Host::as_str).collect::<Vec<_>>(), hosts);
            assert!(matches!(login, Login::Password { user, .. } if user == "oidc"));
        }
    }

    #[test]
    fn what_is_no_token_or_for_no_registry_is_refused() {
        for text in ["", "a.b", "a.b.c", "a.b.c.d", "..", &token(&json!({})).replace('.', "!")] {
            assert_eq!(login(text).err(), Some(InvalidIdentity::Form), "{text}");
        }
        for claims in [json!({}), json!({"aud": "https://gitlab.example.com/path"}), json!({"aud": []}), json!([])] {
            assert_eq!(login(&token(&claims)).err(), Some(InvalidIdentity::Audience), "{claims}");
        }
    }
}
