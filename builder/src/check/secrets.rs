//! Names that look like secrets: `DATABASE_PASSWORD`, `api_key`, `AUTH`.

/// Words that make a name a secret.
const SECRET: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
/// Words that make it none again.
const HARMLESS: [&str; 3] = ["public", "file", "version"];

/// Whether one of the words between underscores says so, and none the contrary.
pub(super) fn is_secret(name: &str) -> bool {
    let has = |words: &[&str]| name.split('_').any(|word| words.contains(&word.to_lowercase().as_str()));
    has(&SECRET) && !has(&HARMLESS)
}
