//! Query strings: `key=value` pairs, percent-encoded. Unknown keys are nobody's mistake.

/// Most pairs that are looked at; the rest is ignored.
const PAIRS_LIMIT: usize = 256;

/// The pairs of a query, decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string. Bytes that are no UTF-8 become the replacement character.
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).take(PAIRS_LIMIT);
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Every value of a key.
    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let escaped = (first == b'%').then(|| behind.first_chunk::<2>().and_then(hexadecimal)).flatten();
        rest = if escaped.is_some() { &behind[2..] } else { behind };
        bytes.push(escaped.unwrap_or(if first == b'+' { b' ' } else { first }));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hexadecimal(digits: &[u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()
}

/// Encodes a value so that [`Query::parse`] gives it back.
pub(super) fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").expect("writing to a String does not fail"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query::parse("tag=a&tag=b%2Fc&digest=sha256%3aff&empty=&flag&&x=1+1&bad=%zz%2");
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b/c"]);
        assert_eq!(query.get("digest"), Some("sha256:ff"));
        assert_eq!((query.get("empty"), query.get("flag"), query.get("none")), (Some(""), Some(""), None));
        assert_eq!((query.get("x"), query.get("bad")), (Some("1 1"), Some("%zz%2")));
    }

    proptest::proptest! {
        #[test]
        fn encoding_and_parsing_are_inverse(value: String) {
            let query = Query::parse(&format!("key={}", encode(&value)));
            proptest::prop_assert_eq!(query.get("key"), Some(value.as_str()));
        }

        #[test]
        fn parsing_never_panics(text: String) {
            let _ = Query::parse(&text); // only whether it returns matters here
        }
    }
}
