//! Tokens that must not be taken, and the few that must.

use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::*;

const NOW: i64 = 1_700_000_000;

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn object(value: Value) -> Claims {
    let Value::Object(claims) = value else { panic!("an object") };
    claims
}

/// Signs with ES256 by a key whose set is given along.
fn signed(header: Value, claims: &Value) -> (String, Vec<Key>) {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).unwrap();
    let text = format!("{}.{}", encode(&header), encode(claims));
    let signature = key.sign(&random, text.as_bytes()).unwrap();
    let point = key.public_key().as_ref();
    let coordinate = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let set = json!({"keys": [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "k1"},
        {"kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256",
         "x": coordinate(&point[1..33]), "y": coordinate(&point[33..])},
    ]});
    let keys = parse_keys(set.to_string().as_bytes()).unwrap();
    assert_eq!(keys.len(), 1, "a shared secret is no key");
    (format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)), keys)
}

#[test]
fn a_good_token_is_taken_and_any_change_is_not() {
    let claims = json!({"iss": "i", "aud": "r", "exp": NOW + 300});
    let (token, keys) = signed(json!({"alg": "ES256", "kid": "k1"}), &claims);
    let read = Unverified::parse(&token).unwrap();
    assert_eq!(read.issuer(), Some("i"));
    assert_eq!(Value::Object(read.verify(&keys).unwrap().clone()), claims);
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        let taken = Unverified::parse(&changed).is_ok_and(|token| token.verify(&keys).is_ok());
        assert!(!taken, "byte {at}");
    }
    let (_, others) = signed(json!({"alg": "ES256"}), &claims);
    assert_eq!(read.verify(&others), Err(InvalidToken::Signature));
    assert_eq!(read.verify(&[]), Err(InvalidToken::UnknownKey));
}

#[test]
fn what_a_token_says_of_its_algorithm_opens_no_door() {
    let claims = json!({"iss": "i", "aud": "r", "exp": NOW + 300});
    let (good, keys) = signed(json!({"alg": "ES256", "kid": "k1"}), &claims);
    for alg in ["none", "None", "HS256", "HS512", "", "ES256K", "RSA1_5"] {
        let unsigned = format!("{}.{}.", encode(&json!({"alg": alg, "kid": "k1"})), encode(&claims));
        assert!(matches!(Unverified::parse(&unsigned), Err(InvalidToken::Algorithm(_))), "{alg}");
    }
    // The public key as the secret of an HMAC: the classic confusion.
    let Material::P256(point) = &keys[0].material else { panic!("a P-256 key") };
    let text = format!("{}.{}", encode(&json!({"alg": "HS256", "kid": "k1"})), encode(&claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, point), text.as_bytes());
    let forged = format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag));
    assert!(Unverified::parse(&forged).is_err());
    // A good signature under another name of the algorithm.
    for alg in ["RS256", "PS256", "ES384", "EdDSA"] {
        let (token, keys) = signed(json!({"alg": alg, "kid": "k1"}), &claims);
        assert_eq!(Unverified::parse(&token).unwrap().verify(&keys), Err(InvalidToken::Signature), "{alg}");
    }
    let (critical, _) = signed(json!({"alg": "ES256", "crit": ["b64"], "b64": false}), &claims);
    assert_eq!(Unverified::parse(&critical).err(), Some(InvalidToken::Critical));
    let cut = good.rsplit_once('.').unwrap().0;
    assert!(Unverified::parse(cut).is_err());
    assert!(Unverified::parse(&format!("{cut}.")).is_ok_and(|token| token.verify(&keys).is_err()));
}

#[test]
fn claims_are_checked_with_a_minute_of_skew() {
    let ours = ["r".to_owned(), "https://r".to_owned()];
    for (claims, expected) in [
        (json!({"iss": "i", "aud": "r", "exp": NOW}), Ok(())),
        (json!({"iss": "i", "aud": ["x", "https://r"], "exp": NOW + 1, "nbf": NOW}), Ok(())),
        (json!({"iss": "i", "aud": "r", "exp": NOW - SKEW + 1, "nbf": NOW + SKEW}), Ok(())),
        (json!({"iss": "i", "aud": "r", "exp": (NOW + 10) as f64 + 0.5}), Ok(())),
        (json!({"iss": "i", "aud": "r", "exp": NOW - SKEW}), Err(InvalidToken::Expired)),
        (json!({"iss": "i", "aud": "r"}), Err(InvalidToken::Expired)),
        (json!({"iss": "i", "aud": "r", "exp": "soon"}), Err(InvalidToken::Expired)),
        (json!({"iss": "i", "aud": "r", "exp": null}), Err(InvalidToken::Expired)),
        (json!({"iss": "i", "aud": "r", "exp": NOW + 1, "nbf": NOW + SKEW + 1}), Err(InvalidToken::Early)),
        (json!({"iss": "i", "aud": "r", "exp": NOW + 1, "nbf": "x"}), Err(InvalidToken::Early)),
        (json!({"iss": "j", "aud": "r", "exp": NOW + 1}), Err(InvalidToken::Issuer)),
        (json!({"aud": "r", "exp": NOW + 1}), Err(InvalidToken::Issuer)),
        (json!({"iss": "i", "exp": NOW + 1}), Err(InvalidToken::Audience)),
        (json!({"iss": "i", "aud": [], "exp": NOW + 1}), Err(InvalidToken::Audience)),
        (json!({"iss": "i", "aud": "rr", "exp": NOW + 1}), Err(InvalidToken::Audience)),
        (json!({"iss": "i", "aud": {"r": 1}, "exp": NOW + 1}), Err(InvalidToken::Audience)),
    ] {
        assert_eq!(check_claims(&object(claims.clone()), "i", &ours, NOW), expected, "{claims}");
    }
}

#[test]
fn ed25519_keys_are_taken_and_short_rsa_keys_are_not() {
    let pair = Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref());
    let pair = pair.unwrap();
    let text = format!("{}.{}", encode(&json!({"alg": "EdDSA"})), encode(&json!({})));
    let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(pair.sign(text.as_bytes())));
    let keys = [Key::ed25519("k", pair.public_key().as_ref())];
    assert!(Unverified::parse(&token).unwrap().verify(&keys).is_ok());
    let short = Key { kid: None, algorithm: None, material: Material::Rsa { n: vec![0xff; 128], e: vec![1, 0, 1] } };
    assert!(!short.verifies(Algorithm::Rs256, b"m", &[0; 128]));
}

#[test]
fn key_sets_that_hold_no_key() {
    for text in [
        "",
        "{}",
        "[]",
        "{\"keys\":[]}",
        "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"}]}",
        "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AA\"}]}",
        "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AA\",\"e\":\"AQAB\",\"use\":\"enc\"}]}",
        "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\",\"y\":\"AA\"}]}",
        "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AA\",\"e\":\"AQAB\",\"alg\":\"HS256\"}]}",
    ] {
        assert!(parse_keys(text.as_bytes()).is_err(), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_is_taken_and_none_panics(text: String, header: String, claims: String, signature: Vec<u8>) {
        let keys = [Key::ed25519("k", &[7; 32])];
        let made = format!(
            "{}.{}.{}",
            URL_SAFE_NO_PAD.encode(&header), URL_SAFE_NO_PAD.encode(&claims), URL_SAFE_NO_PAD.encode(&signature)
        );
        let likely = format!(
            "{}.{}.{}",
            encode(&json!({"alg": "EdDSA", "kid": header})), encode(&json!({"sub": claims})),
            URL_SAFE_NO_PAD.encode(&signature)
        );
        for token in [text, made, likely] {
            proptest::prop_assert!(!Unverified::parse(&token).is_ok_and(|token| token.verify(&keys).is_ok()));
        }
        let _ = parse_keys(header.as_bytes()); // only whether it returns matters here
    }
}
