//! TLS as curl speaks it: a private authority, renewal without restart, client certificates.

use std::path::{Path, PathBuf};
use std::process::Command;

use registry::{ClientAuthority, Settings, TlsSettings};
use serde_json::json;

use crate::access::rules;
use crate::client::Registry;

/// A directory with certificates, made with openssl.
struct Authority {
    dir: PathBuf,
    name: &'static str,
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output();
    let output = output.expect("openssl is missing; install the Debian package openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Authority {
    fn new(dir: &Path, name: &'static str) -> Self {
        let authority = Self { dir: dir.to_owned(), name };
        let (key, pem) = (authority.path("ca.key"), authority.path("ca.pem"));
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &key,
            "-out",
            &pem,
        ]);
        authority
    }

    fn path(&self, file: &str) -> String {
        self.dir.join(format!("{}-{file}", self.name)).display().to_string()
    }

    /// Signs a certificate; gives the paths of certificate and key.
    fn sign(&self, name: &str, extension: &str) -> (String, String) {
        let file = |end: &str| self.path(&format!("{name}.{end}"));
        let (key, request, pem) = (file("key"), file("csr"), file("pem"));
        openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        std::fs::write(file("ext"), extension).unwrap();
        openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &self.path("ca.pem"),
            "-CAkey",
            &self.path("ca.key"),
            "-CAcreateserial",
            "-days",
            "1",
            "-extfile",
            &file("ext"),
            "-out",
            &pem,
        ]);
        (pem, key)
    }

    fn server(&self) -> (String, String) {
        self.sign("server", "subjectAltName=IP:127.0.0.1")
    }
}

async fn start(dir: &tempfile::TempDir, tls: TlsSettings) -> Registry {
    start_with(dir, tls, json!([])).await
}

/// The same, with more rules.
async fn start_with(dir: &tempfile::TempDir, tls: TlsSettings, mut more: serde_json::Value) -> Registry {
    let data = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), data.path());
    settings.tls = Some(tls);
    let public = json!({"subjects": ["anonymous"], "repositories": ["public/**"], "rights": ["pull"]});
    more.as_array_mut().unwrap().push(public);
    settings.access = Some(rules(more));
    assert!(dir.path().exists());
    Registry::start_with(data, settings).await
}

/// What curl says of the answer: version of HTTP, status, body.
async fn curl(registry: &Registry, arguments: &[&str], path: &str) -> Result<String, String> {
    let url = format!("https://{}{path}", registry.http.addr);
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "-w", "|%{http_version}|%{http_code}"]);
    command.args(arguments).arg(url);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = output.expect("curl is missing; install the Debian package curl");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn replace(path: &str, with: &str) {
    content::place::replace_file(Path::new(path), &std::fs::read(with).unwrap()).unwrap();
}

#[tokio::test]
async fn tls_speaks_http_1_and_2_and_follows_a_renewal() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(dir.path(), "old"), Authority::new(dir.path(), "new"));
    let (certificate, key) = old.server();
    let settings = TlsSettings { certificate: certificate.clone().into(), key: key.clone().into(), clients: None };
    let registry = start(&dir, settings).await;
    let (old_ca, new_ca) = (old.path("ca.pem"), new.path("ca.pem"));
    let path = "/v2/public/a/tags/list";
    let get = |ca: String, version: &'static str| {
        let registry = &registry;
        async move { curl(registry, &["--cacert", &ca, version], path).await }
    };
    assert!(get(old_ca.clone(), "--http2").await.unwrap().ends_with("|2|404"));
    assert!(get(old_ca.clone(), "--http1.1").await.unwrap().ends_with("|1.1|404"));
    assert!(get(new_ca.clone(), "--http2").await.is_err());
    let head = curl(&registry, &["--cacert", &old_ca, "-i"], "/v2/").await.unwrap();
    assert!(head.contains(&format!("Bearer realm=\"https://{}/token\"", registry.http.addr)), "{head}");

    let plain = registry.http.try_send("GET", "/v2/", &[], "").await.expect("a plain answer");
    assert_eq!((plain.status.as_u16(), plain.code().as_str()), (400, "UNSUPPORTED"));
    assert!(plain.json()["errors"][0]["message"].as_str().unwrap().contains("https://"));

    std::fs::write(&certificate, "broken").unwrap();
    assert!(get(old_ca.clone(), "--http2").await.is_ok(), "a broken renewal leaves the old certificate");
    let (new_certificate, new_key) = new.server();
    replace(&certificate, &new_certificate); // not yet with its key
    assert!(get(old_ca.clone(), "--http2").await.is_ok(), "certificate and key must belong together");
    replace(&key, &new_key);
    assert!(get(new_ca, "--http2").await.unwrap().ends_with("|2|404"));
    assert!(get(old_ca, "--http2").await.is_err());
}

#[tokio::test]
async fn client_certificates_are_asked_for_and_are_a_login() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (Authority::new(dir.path(), "ca"), Authority::new(dir.path(), "other"));
    let (certificate, key) = ca.server();
    let tls = |required| TlsSettings {
        certificate: certificate.clone().into(),
        key: key.clone().into(),
        clients: Some(ClientAuthority { file: ca.path("ca.pem").into(), required }),
    };
    let trust = ca.path("ca.pem");
    let extension = "extendedKeyUsage=clientAuth";
    let (mine, my_key) = ca.sign("node", extension);
    let (foreign, foreign_key) = other.sign("stranger", extension);
    let fingerprint =
        Command::new("openssl").args(["x509", "-noout", "-fingerprint", "-sha256", "-in", &mine]).output();
    let fingerprint = String::from_utf8(fingerprint.unwrap().stdout).unwrap();
    let fingerprint = fingerprint.trim().rsplit('=').next().unwrap().replace(':', "").to_ascii_lowercase();
    let subject = format!("certificate:{fingerprint}");
    let rule = json!([{"subjects": [subject], "repositories": ["nodes/**"], "rights": ["pull"]}]);
    let required = start_with(&dir, tls(true), rule).await;
    let path = "/v2/public/a/tags/list";
    assert!(curl(&required, &["--cacert", &trust], path).await.is_err());
    assert!(curl(&required, &["--cacert", &trust, "--cert", &foreign, "--key", &foreign_key], path).await.is_err());
    let known = ["--cacert", &trust, "--cert", &mine, "--key", &my_key];
    assert!(curl(&required, &known, path).await.unwrap().ends_with("|404"));
    assert!(curl(&required, &known, "/v2/").await.unwrap().ends_with("|200"), "a certificate is a login");
    assert!(curl(&required, &known, "/v2/nodes/a/tags/list").await.unwrap().ends_with("|404"));
    assert!(curl(&required, &known, "/v2/private/a/tags/list").await.unwrap().ends_with("|403"), "with no rights here");
    let (unnamed, its_key) = ca.sign("unnamed", extension);
    let unnamed = ["--cacert", &trust, "--cert", &unnamed, "--key", &its_key];
    assert!(curl(&required, &unnamed, path).await.unwrap().ends_with("|404"));
    assert!(curl(&required, &unnamed, "/v2/").await.unwrap().ends_with("|401"), "one that no rule names is none");
    let optional = start(&dir, tls(false)).await;
    assert!(curl(&optional, &["--cacert", &trust], path).await.unwrap().ends_with("|404"));
    assert!(curl(&optional, &["--cacert", &trust], "/v2/").await.unwrap().ends_with("|401"));
}
