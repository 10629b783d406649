//! What people meet who set lighter up for the first time, word for word: the wrong port, the wrong scheme, a
//! certificate that nobody knows, clocks that disagree, no cluster.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use fixtures::clients::Lighter;
use fixtures::den::Den;
use fixtures::http::Scripted;
use fixtures::images::Image;
use fixtures::issuer::Issuer;
use fixtures::kubernetes::{Cluster, User};
use fixtures::registry::Registry;
use rcgen::{Certificate, CertificateParams, KeyPair, SanType, date_time_ymd};
use serde_json::json;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

fn home() -> Lighter {
    Lighter::new(Path::new(LIGHTER))
}

/// Fails unless the command ends with this code, and says exactly this; ports become PORT.
fn says(command: &mut Command, code: i32, port: u16, expected: &str) {
    let output = command.output().expect("lighter starts");
    let told = String::from_utf8(output.stderr).unwrap().replace(&format!(":{port}"), ":PORT");
    assert_eq!(told.trim_end(), expected.trim_end());
    assert_eq!(output.status.code(), Some(code));
    assert!(output.stdout.is_empty(), "an error prints no data");
}

#[test]
fn nobody_listens_there() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let name = format!("127.0.0.1:{port}/shop/api:v1");
    says(
        &mut home().command(&["pull", &name]),
        69,
        port,
        "error: could not pull `127.0.0.1:PORT/shop/api:v1`
  caused by: cannot reach 127.0.0.1:PORT: tcp connect error: Connection refused (os error 111)
hint: nothing listens at 127.0.0.1:PORT; is the registry running, and is the port right?",
    );
}

#[test]
fn somebody_else_listens_there() {
    let web = Scripted::start(|_| (404, vec![("content-type", "text/html".into())], "<h1>GitLab</h1>".into()));
    let (image, port) = (Image::small(3), web.address().port());
    let name = format!("127.0.0.1:{port}/shop/api:v1");
    says(
        &mut home().command(&["push", &format!("oci:{}:v1", image.layout().display()), &name]),
        69,
        port,
        "error: could not push to `127.0.0.1:PORT/shop/api:v1`
  caused by: 127.0.0.1:PORT answered 404 to POST upload of shop/api
hint: this is not how a registry answers; is 127.0.0.1:PORT the right port?",
    );
}

/// Every address but those of loopback is expected to speak HTTPS; 0.0.0.0 leads here too.
#[test]
fn it_speaks_http_and_https_was_expected() {
    let registry = Registry::start(LIGHTER);
    let port = registry.address().port();
    let name = format!("0.0.0.0:{port}/shop/api:v1");
    says(
        &mut home().command(&["pull", &name]),
        69,
        port,
        "error: could not pull `0.0.0.0:PORT/shop/api:v1`
  caused by: 0.0.0.0:PORT answers in plain HTTP, where HTTPS is expected
hint: if that is meant, name it with --insecure-registry 0.0.0.0:PORT; else check the port",
    );
}

/// A registry with a certificate of its own making, which is good for 0.0.0.0 in these years.
fn registry_with_certificate(years: (i32, i32), names: &[&str]) -> Registry {
    let den = Den::new("newcomer");
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.subject_alt_names = names.iter().map(|name| SanType::IpAddress(name.parse().unwrap())).collect();
    (parameters.not_before, parameters.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
    let certificate = parameters.self_signed(&key).unwrap();
    fs::write(den.path().join("tls.crt"), certificate.pem()).unwrap();
    fs::write(den.path().join("tls.key"), key.serialize_pem()).unwrap();
    let settings = format!("tls = {{ certificate = '{0}/tls.crt', key = '{0}/tls.key' }}\n", den.path().display());
    fs::write(den.path().join("registry.toml"), settings).unwrap();
    Registry::start_in(den, LIGHTER.into())
}

#[test]
fn its_certificate_is_not_trusted() {
    for (years, names, is_known, why, hint) in [
        (
            (2020, 2090),
            ["0.0.0.0"],
            false,
            "it is signed by an authority that this machine does not know",
            "name its authority with --registry-ca FILE or LIGHTER_REGISTRY_CA; `lighter registry init` wrote it as authority/ca.crt",
        ),
        (
            (2020, 2090),
            ["10.9.8.7"],
            true,
            "it is for 10.9.8.7",
            "use a name that the certificate has, or make one for this name: `lighter registry init --host NAME`",
        ),
        (
            (2020, 2021),
            ["0.0.0.0"],
            true,
            "it has expired, by this machine's clock",
            "0.0.0.0:PORT needs a new certificate; or the clock of this machine is wrong",
        ),
        (
            (2089, 2090),
            ["0.0.0.0"],
            true,
            "it is not valid yet, by this machine's clock",
            "set the clock of this machine, or of the one that made the certificate",
        ),
    ] {
        let registry = registry_with_certificate(years, &names);
        let port = registry.address().port();
        let home = home();
        let mut pull = home.command(&["pull", &format!("0.0.0.0:{port}/shop/api:v1")]);
        if is_known {
            pull.env("LIGHTER_REGISTRY_CA", registry.directory().join("tls.crt"));
        }
        let expected = format!(
            "error: could not pull `0.0.0.0:PORT/shop/api:v1`\n  \
             caused by: the certificate of 0.0.0.0:PORT is not trusted: {why}\nhint: {hint}"
        );
        says(&mut pull, 69, port, &expected);
    }
}

#[test]
fn the_clock_of_the_job_is_wrong() {
    let (issuer, den) = (Issuer::start(), Den::new("newcomer"));
    let settings = format!(
        "[[access.issuers]]\nname = 'gitlab'\nissuer = '{}'\naudiences = ['https://registry.example.test']\n\
         [[access.rules]]\nsubjects = ['issuer:gitlab']\nclaims = {{ project_id = '7' }}\nrepositories = ['**']\nrights = ['push']\n",
        issuer.url()
    );
    fs::write(den.path().join("registry.toml"), settings).unwrap();
    let registry = Registry::start_in(den, LIGHTER.into());
    let (image, port) = (Image::small(3), registry.address().port());
    let audience = json!(["https://registry.example.test", format!("https://127.0.0.1:{port}")]);
    for (claims, words) in [
        (json!({"aud": audience, "exp": 1_600_000_000}), "expired"),
        (json!({"aud": audience, "nbf": 4_000_000_000_u32, "exp": 4_000_000_600_u32}), "not valid yet"),
    ] {
        let home = home();
        let name = registry.reference("shop/api:v1");
        let mut push = home.command(&["push", &format!("oci:{}:v1", image.layout().display()), &name]);
        let output = push.env("LIGHTER_ID_TOKEN", issuer.token(&claims)).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(77), "{told}");
        assert!(told.contains(words) && told.contains("hint: the clocks of this machine"), "{told}");
    }
}

#[test]
fn the_job_has_no_token() {
    says(
        home().command(&["pull", "127.0.0.1:1/shop/api:v1"]).env("LIGHTER_ID_TOKEN", "$LIGHTER_ID_TOKEN"),
        65,
        1,
        "error: cannot use the token in LIGHTER_ID_TOKEN
  caused by: it is no JSON Web Token
hint: `id_tokens` of the GitLab job sets it; `aud` is \"https://HOST:PORT\" of the registry",
    );
}

#[test]
fn there_is_no_cluster() {
    let digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let home = home();
    let image = format!("127.0.0.1:1/shop/api@{digest}");
    let deploy = ["deploy", "--image", &image, "--target", "deployment/api"];
    says(
        &mut home.command(&deploy),
        69,
        1,
        "error: cannot deploy
  caused by: there is no Kubernetes cluster: no kubeconfig was found, and this is no pod
hint: name a kubeconfig with --kubeconfig FILE or KUBECONFIG",
    );
}

/// A registry that is told to serve the whole network, by somebody who has not heard of rules.
#[test]
fn the_registry_would_be_open_to_everybody() {
    let den = Den::new("newcomer");
    let mut serve = Command::new(LIGHTER);
    serve.args(["registry", "serve", "--addr", "0.0.0.0:0", "--data"]).arg(den.path().join("data"));
    serve.env("HOME", den.path());
    let output = serve.output().expect("lighter starts");
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(told.contains("hint: ") && told.contains("lighter registry token create"), "{told}");

    // And one on a port that is taken.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut serve = Command::new(LIGHTER);
    serve.args(["registry", "serve", "--addr", &address.to_string(), "--data"]).arg(den.path().join("data"));
    let output = serve.env("HOME", den.path()).output().expect("lighter starts");
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{told}");
    assert!(told.contains("hint: another program listens there"), "{told}");
}

/// A proxy of another make, which wants a password.
struct Proxy {
    den: Den,
    port: u16,
}

impl Proxy {
    /// Debian's tinyproxy.
    fn http() -> Self {
        let (mut den, port) = (Den::new("proxy"), free_port());
        let settings = format!("Port {port}\nListen 127.0.0.1\nLogLevel Connect\nBasicAuth me s3cret\n");
        let path = den.path().join("tinyproxy.conf");
        fs::write(&path, settings).unwrap();
        require("tinyproxy", "tinyproxy-bin");
        den.start("proxy", Command::new("tinyproxy").arg("-d").arg("-c").arg(&path));
        Self::ready(den, port)
    }

    /// Debian's microsocks.
    fn socks() -> Self {
        let (mut den, port) = (Den::new("proxy"), free_port());
        require("microsocks", "microsocks");
        let port_text = port.to_string();
        let arguments = ["-i", "127.0.0.1", "-p", &port_text, "-u", "me", "-P", "s3cret"];
        den.start("proxy", Command::new("microsocks").args(arguments));
        Self::ready(den, port)
    }

    fn ready(mut den: Den, port: u16) -> Self {
        let is_up = |_: &Den| std::net::TcpStream::connect(("127.0.0.1", port)).ok();
        den.wait("proxy", std::time::Duration::from_secs(20), is_up);
        Self { den, port }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://me:s3cret@127.0.0.1:{}", self.port)
    }

    /// Waits until it has noted so many lines with this text.
    fn notes(&mut self, text: &str, count: usize) {
        let noted = |den: &Den| (den.log("proxy").matches(text).count() >= count).then_some(());
        self.den.wait("proxy", std::time::Duration::from_secs(20), noted);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn require(program: &str, package: &str) {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().unwrap().status.success();
    assert!(found, "install the Debian package {package}");
}

/// Pushes and pulls with these variables set.
fn there_and_back(name: &str, variables: &[(&str, &str)], options: &[&str]) {
    let (image, home) = (Image::small(5), home());
    let layout = format!("oci:{}:v1", image.layout().display());
    for words in [&["push", &layout, name][..], &["pull", name]] {
        let output = home.command(words).args(options).envs(variables.iter().copied()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?} {told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
}

/// To this machine itself, lighter never goes through a proxy; 0.0.0.0 counts as another.
#[test]
fn between_them_stands_a_proxy() {
    let plain = Registry::start(LIGHTER);
    let tls = registry_with_certificate((2020, 2090), &["0.0.0.0"]);
    let (plain_host, tls_host) = (registry_host(&plain), registry_host(&tls));
    let authority = tls.directory().join("tls.crt").display().to_string();
    let secure = ["--registry-ca", &authority];
    let insecure = ["--insecure-registry", &plain_host];
    let (mut http, socks) = (Proxy::http(), Proxy::socks());

    there_and_back(&format!("{tls_host}/shop/api:v1"), &[("HTTPS_PROXY", &http.url("http"))], &secure);
    http.notes(&format!("CONNECT {tls_host}"), 2);
    there_and_back(&format!("{plain_host}/shop/api:v1"), &[("http_proxy", &http.url("http"))], &insecure);
    http.notes(&format!("http://{plain_host}/v2/"), 2);

    there_and_back(&format!("{tls_host}/shop/api:v2"), &[("ALL_PROXY", &socks.url("socks5h"))], &secure);
    there_and_back(&format!("{plain_host}/shop/api:v2"), &[("ALL_PROXY", &socks.url("socks5"))], &insecure);

    // Nothing listens on port 1: whoever goes there gets no answer.
    let nowhere = ("HTTPS_PROXY", "http://me:s3cret@127.0.0.1:1");
    there_and_back(&format!("{tls_host}/shop/api:v3"), &[nowhere, ("NO_PROXY", &tls_host)], &secure);
    let port = tls.address().port();
    let name = format!("{tls_host}/shop/api:v1");
    let pull = ["pull", &name, "--registry-ca", &authority];
    says(
        home().command(&pull).env(nowhere.0, nowhere.1),
        69,
        port,
        "error: could not pull `0.0.0.0:PORT/shop/api:v1`
  caused by: cannot reach 0.0.0.0:PORT through the proxy http://127.0.0.1:1: tcp connect error: Connection refused (os error 111)
hint: HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names this proxy; NO_PROXY=0.0.0.0:PORT would do without it",
    );
    let stranger = http.url("http").replace("s3cret", "other");
    let output = home().command(&pull).env("HTTPS_PROXY", &stranger).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains(": it refuses this connection: the user, the host or the port\n"), "{told}");
    says(
        home().command(&pull).env("HTTPS_PROXY", "ftp://me:s3cret@proxy"),
        64,
        port,
        "error: the proxy cannot be used
  caused by: the environment variable HTTPS_PROXY is no URL of a proxy: proxies are spoken to by http, https, socks5 or socks5h
hint: as in HTTPS_PROXY=http://proxy:3128",
    );
}

/// An API server is spoken to through the same proxies, and through the one that its kubeconfig names.
#[test]
fn between_us_and_the_cluster_stands_a_proxy() {
    let cluster = Cluster::shared();
    cluster.namespace("proxied");
    let home = home();
    let kubeconfig = cluster.kubeconfig(User::Admin, "proxied");
    let text = fs::read_to_string(&kubeconfig).unwrap();
    let far = format!("0.0.0.0:{}", cluster.server().rsplit_once(':').unwrap().1);
    let write = |proxy: Option<String>| {
        let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let there = &mut document["clusters"][0]["cluster"];
        there["server"] = format!("https://{far}").into();
        there["tls-server-name"] = "127.0.0.1".into();
        if let Some(proxy) = proxy {
            there["proxy-url"] = proxy.into();
        }
        let path = home.home().join("kubeconfig");
        fs::write(&path, document.to_string()).unwrap();
        path
    };
    // The namespace has no deployments: to learn that, one has to get there.
    let ask = |proxy: Option<String>, variables: &[(&str, &str)], code: i32, words: &str| {
        let ask = ["rollout", "status", "deployment/nobody", "--kubeconfig", write(proxy).to_str().unwrap()]
            .map(str::to_owned);
        let ask: Vec<&str> = ask.iter().map(String::as_str).collect();
        let output = home.command(&ask).envs(variables.iter().copied()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && told.contains(words), "{variables:?} {told}");
        assert!(!told.contains("s3cret"), "{told}");
    };
    let (mut http, socks) = (Proxy::http(), Proxy::socks());
    let (through_http, through_socks) = (http.url("http"), socks.url("socks5h"));
    let gets_there = "does not exist";
    ask(None, &[("HTTPS_PROXY", &through_http)], 10, gets_there);
    http.notes(&format!("CONNECT {far}"), 1);
    ask(None, &[("ALL_PROXY", &through_socks)], 10, gets_there);
    ask(Some(through_http.clone()), &[], 10, gets_there);
    http.notes(&format!("CONNECT {far}"), 2);
    // Nothing listens on port 1.
    let nowhere = "http://me:s3cret@127.0.0.1:1";
    ask(None, &[("HTTPS_PROXY", nowhere), ("NO_PROXY", &far)], 10, gets_there);
    ask(Some(through_socks), &[("HTTPS_PROXY", nowhere)], 10, gets_there);
    ask(None, &[("HTTPS_PROXY", nowhere)], 69, "through the proxy http://127.0.0.1:1: Connection refused");
    let stranger = through_http.replace("s3cret", "other");
    ask(None, &[("HTTPS_PROXY", &stranger)], 69, ": it refuses this connection: the user, the host or the port");
    let mut behind = Proxy::http();
    let veil = Veil::before(behind.port);
    let through_tls = format!("https://me:s3cret@127.0.0.1:{}", veil.port);
    let authority = home.home().join("proxy.crt");
    fs::write(&authority, veil.certificate.pem()).unwrap();
    let known = ("SSL_CERT_FILE", authority.to_str().unwrap());
    ask(None, &[("HTTPS_PROXY", &through_tls), known], 10, gets_there);
    behind.notes(&format!("CONNECT {far}"), 1);
    ask(Some(through_tls.clone()), &[known], 10, gets_there);
    behind.notes(&format!("CONNECT {far}"), 2);
    ask(Some(through_tls.replace("s3cret", "other")), &[known], 69, ": it refuses this connection");
    let unknown = format!("through the proxy https://127.0.0.1:{}: neither this machine nor the kubeconfig", veil.port);
    ask(Some(through_tls.clone()), &[], 69, &unknown);
    // As with kubectl, the authority of the cluster may have signed for its proxy, too.
    let path = write(Some(through_tls));
    let mut document: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let named = &mut document["clusters"][0]["cluster"]["certificate-authority"];
    let both = fs::read_to_string(named.as_str().unwrap()).unwrap() + &veil.certificate.pem();
    fs::write(&authority, both).unwrap();
    *named = authority.to_str().into();
    fs::write(&path, document.to_string()).unwrap();
    let ask_there = ["rollout", "status", "deployment/nobody", "--kubeconfig", path.to_str().unwrap()];
    assert_eq!(home.command(&ask_there).output().unwrap().status.code(), Some(10));
    behind.notes(&format!("CONNECT {far}"), 3);
    ask(Some("ftp://me:s3cret@proxy".into()), &[], 77, "proxies are spoken to by http, https, socks5 or socks5h");
}

/// A proxy that speaks TLS: what comes goes to another one, which does not.
struct Veil {
    port: u16,
    certificate: Certificate,
    _runtime: tokio::runtime::Runtime,
}

impl Veil {
    fn before(proxy: u16) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
        let certificate = parameters.self_signed(&key).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let settings = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let settings = settings.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let tls = TlsAcceptor::from(Arc::new(settings));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    let mut client = tls.accept(stream).await?; // some do not trust it
                    let mut server = tokio::net::TcpStream::connect(("127.0.0.1", proxy)).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self { port, certificate, _runtime: runtime }
    }
}

fn registry_host(registry: &Registry) -> String {
    format!("0.0.0.0:{}", registry.address().port())
}
