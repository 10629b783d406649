//! Configurations: what they mean, and which are refused with which words.

use std::collections::BTreeMap;

use super::*;

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::read(text, |_| None)
}

fn refused(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

const WHOLE: &str = r#"
addr = "0.0.0.0:5000"
data = "/var/lib/lighter"
url = "https://registry.example"
proxies = ["10.0.0.0/8"]
tls = { certificate = "c.pem", key = "k.pem", client_ca = "ca.pem", client_certificates = "optional" }

[access]
htpasswd = "users"
token_life = "10m"
issuers = [
    { name = "gitlab", issuer = "https://gitlab.example", audiences = ["https://registry.example"], pause = "5s" },
    { name = "cluster", issuer = "https://kubernetes.default.svc", audiences = ["registry"], keys_file = "keys.json" },
]

[[access.rules]]
subjects = ["anonymous"]
repositories = ["public/**"]
rights = ["pull"]

[[access.rules]]
subjects = ["issuer:gitlab"]
claims = { project_id = "7", ref_protected = ["true"] }
repositories = ["{project_path}/**"]
tags = ["v*"]
rights = ["pull", "push", "overwrite"]

[limits]
blob = "10GiB"
requests_per_second = 50
burst = 200

[metrics]
addr = "127.0.0.1:9100"

[gc]
untagged = "forever"

[retention]
immutable = [{ repository = "shop/**", tags = "v[0-9]+" }]
rules = [{ repository = "ci/**", keep_last = 20, younger_than = "30d" }]

[[webhooks]]
name = "deploy"
url = "https://deploy.example/hook"
format = "cloudevents"
secret = "s3cret"
"#;

#[test]
fn a_whole_configuration_is_understood_and_printed_without_its_secrets() {
    let config = read(WHOLE).unwrap();
    let settings = config.settings(config.addr.unwrap(), config.data.clone().unwrap()).unwrap();
    assert_eq!(settings.limits.blob, 10 << 30);
    assert_eq!(settings.pace.unwrap().burst, 200.0);
    assert!(!settings.tls.unwrap().clients.unwrap().required);
    assert_eq!(settings.keeping.retention.rules[0].keep_last, Some(20));
    let access = settings.access.unwrap();
    assert_eq!(access.token_life, Duration::from_secs(600));
    assert_eq!(access.issuers[0].keys, KeySource::Discovery);
    assert_eq!(access.issuers[1].keys, KeySource::File("keys.json".into()));
    assert_eq!(access.rules.len(), 2);
    let printed = config.describe();
    assert!(!printed.contains("s3cret") && printed.contains("secret = \"***\""), "{printed}");
    assert_eq!(read(&printed).unwrap().describe(), printed);
    assert_eq!(config.warnings(), Vec::<String>::new());
}

#[test]
fn the_environment_wins_over_the_file() {
    let variables = BTreeMap::from([
        ("LIGHTER_REGISTRY_ADDR", "127.0.0.1:6000"),
        ("LIGHTER_REGISTRY_PROXIES", "10.0.0.1, 10.0.0.2"),
        ("LIGHTER_REGISTRY_ACCESS_TOKEN_LIFE", "2m"),
        ("LIGHTER_REGISTRY_METRICS_PUBLIC", "true"),
        ("LIGHTER_REGISTRY_LIMITS_BURST", "7"),
        (
            "LIGHTER_REGISTRY_ACCESS_RULES",
            "[{subjects = [\"anonymous\"], repositories = [\"a\"], rights = [\"pull\"]}]",
        ),
    ]);
    let get = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    let config = Config::read(WHOLE, get).unwrap();
    assert_eq!(config.addr.unwrap().port(), 6000);
    let settings = config.settings(config.addr.unwrap(), "d".into()).unwrap();
    assert_eq!(settings.front.proxies.len(), 2);
    assert_eq!(settings.pace.unwrap().burst, 7.0);
    assert!(settings.public_metrics);
    let access = settings.access.unwrap();
    assert_eq!((access.rules.len(), access.token_life), (1, Duration::from_secs(120)));
    let wrong = Config::read("", |name| (name == "LIGHTER_REGISTRY_METRICS_PUBLIC").then(|| "yes".to_owned()));
    assert!(wrong.unwrap_err().to_string().starts_with("the variable LIGHTER_REGISTRY_METRICS_PUBLIC: "));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_one() {
    for (text, words) in [
        ("adr = 1", "there is no key `adr`; is `addr` meant?"),
        ("[tls]\ncertificat = \"x\"", "there is no key `tls.certificat`; is `tls.certificate` meant?"),
        ("[acces]\nhtpasswd = \"x\"", "there is no key `acces`; is `access` meant?"),
        ("[[access.rules]]\nsubject = []", "`access.rules[].subject`; is `access.rules[].subjects` meant?"),
        ("[[webhooks]]\nuri = \"x\"", "`webhooks[].uri`; is `webhooks[].url` meant?"),
    ] {
        let error = refused(text);
        assert!(error.contains(words), "{error}");
    }
    let names = ["LIGHTER_REGISTRY_ADRR", "LIGHTER_REGISTRY_ADDR", "LIGHTER_REGISTRY_CA", "PATH"];
    let unknown = unknown_variables(names.iter().map(|name| (*name).to_owned()));
    assert_eq!(unknown.len(), 1);
    assert_eq!(unknown[0].nearest, "LIGHTER_REGISTRY_ADDR");
}

#[test]
fn what_would_open_a_door_by_mistake_is_refused() {
    let issuer = "issuers = [{name = \"g\", issuer = \"https://g\", audiences = [\"r\"]}]";
    let rule = |more: &str| {
        format!("[access]\n{issuer}\n[[access.rules]]\nrepositories = [\"**\"]\nrights = [\"push\"]\n{more}")
    };
    for (text, words) in [
        (rule("subjects = []"), "it needs subjects"),
        (rule("subjects = [\"issuer:g\"]"), "everybody who has a token"),
        (rule("subjects = [\"issuer:h\"]\nclaims = {a = \"b\"}"), "there is no issuer \"h\""),
        (rule("subjects = [\"anonymous\"]\nclaims = {a = \"b\"}"), "only tokens of issuers have claims"),
        (rule("subjects = [\"user:a\"]"), "access.htpasswd is not said"),
        (rule("subjects = [\"everyone\"]"), "is no subject"),
        (
            "[[access.rules]]\nsubjects=[\"anonymous\"]\nrepositories=[\"a**\"]\nrights=[\"pull\"]".to_owned(),
            "no pattern",
        ),
        ("[[access.rules]]\nsubjects=[\"anonymous\"]\nrepositories=[\"a\"]\nrights=[\"write\"]".to_owned(), "write"),
        ("[access]\nissuers = [{name=\"g\", issuer=\"https://g\", audiences=[]}]".to_owned(), "made for others"),
        ("[access]\nissuers = [{name=\"g\", issuer=\"http://g\", audiences=[\"r\"]}]".to_owned(), "https only"),
        ("[access]\nissuers = [{name=\"g/..\", issuer=\"https://g\", audiences=[\"r\"]}]".to_owned(), "no name"),
        ("insecure_allow_anonymous = true\n[access]".to_owned(), "say one of both"),
        ("tls = {certificate = \"c\", key = \"k\", client_certificates = \"required\"}".to_owned(), "tls.client_ca"),
        ("proxies = [\"x\"]".to_owned(), "is no network"),
        ("url = \"registry\"".to_owned(), "no URL"),
        ("[[webhooks]]\nname = \"../x\"\nurl = \"http://a\"".to_owned(), "is no name"),
        ("[[webhooks]]\nname = \"x\"\nurl = \"file:///etc\"".to_owned(), "is no http"),
        ("limits = {blob = \"big\"}".to_owned(), "is no size"),
        ("limits = {requests_per_second = -1}".to_owned(), "0 or more"),
        ("addr = \"5000\"".to_owned(), "socket address"),
        ("addr = ".to_owned(), "TOML parse error"),
    ] {
        let error = refused(&text);
        assert!(error.contains(words), "{text}\n{error}");
    }
}

#[test]
fn what_is_probably_not_meant_is_told() {
    let names = "[access]\nissuers = [{name = \"g\", issuer = \"https://g\", audiences = [\"r\"]}]\n\
        [[access.rules]]\nsubjects = [\"issuer:g\"]\nclaims = {project_path = \"a/b\"}\n\
        repositories = [\"**\"]\nrights = [\"push\"]";
    let warnings = read(names).unwrap().warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("add an id"), "{warnings:?}");
    let warnings = read("addr = \"0.0.0.0:1\"\n[access]\ntoken_life = \"1s\"").unwrap().warnings();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
}

#[test]
fn every_key_can_be_written_and_has_a_variable_of_its_own() {
    let mut variables: Vec<String> = KEYS.iter().filter_map(Key::variable).collect();
    let count = variables.len();
    variables.sort();
    variables.dedup();
    assert_eq!(variables.len(), count);
    let manual = include_str!("../../../docs/registry.md");
    for key in KEYS.iter().filter(|key| key.kind != Kind::Inner) {
        // Policies of what is kept have tables of their own there.
        let name = key.path.strip_prefix("gc.").or(key.path.strip_prefix("retention.")).unwrap_or(key.path);
        assert!(manual.contains(name), "docs/registry.md does not know {}", key.path);
    }
    // Everything that a configuration prints is a known key: reading it back finds none unknown.
    assert!(read(&read(WHOLE).unwrap().describe()).is_ok());
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text: String) {
        let _ = read(&text); // only whether it returns matters here
    }
}
