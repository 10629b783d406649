//! TLS with an authority of one's own, with and without certificates of clients, through a renewal.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixtures::clients::{Containerd, Docker, Lighter, Podman, Skopeo};
use fixtures::images::Image;
use fixtures::network::Network;
use fixtures::registry::Registry;

use super::{
    ALICE, Caller, Trusting, done, everybody_pulls_and_alice_pushes, guarded, guarded_at, lighter, refused, run,
};

/// An address that is not loopback's, in a network of the test's own.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output();
    done(output.expect("openssl is missing; install the Debian package openssl"));
}

/// An authority (`ca.crt`), a certificate for 127.0.0.1 and [`ELSEWHERE`] that it signed, and one for a client
/// (`client.cert`, `client.key`).
fn certificate(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    let path = |name: &str| directory.join(name).display().to_string();
    let (ca, ca_key, request, names) = (path("ca.crt"), path("ca.key"), path("server.csr"), path("names"));
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority = ["req", "-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", &ca_key, "-out", &ca];
    openssl(&[&authority[..], &new_key].concat());
    let server = ["req", "-subj", "/CN=registry", "-keyout", &path("key.pem"), "-out", &request];
    openssl(&[&server[..], &new_key].concat());
    std::fs::write(&names, format!("subjectAltName=IP:127.0.0.1,IP:{ELSEWHERE}")).unwrap();
    let sign = ["x509", "-req", "-days", "1", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
    openssl(&[&sign[..], &["-extfile", &names, "-out", &path("server.pem")]].concat());
    let client = ["req", "-subj", "/CN=client", "-keyout", &path("client.key"), "-out", &request];
    openssl(&[&client[..], &new_key].concat());
    openssl(&[&sign[..], &["-extfile", &names, "-out", &path("client.cert")]].concat());
}

/// A guarded registry behind TLS, with more settings of it.
fn over_tls(more: fn(&Path) -> String) -> Registry {
    over_tls_at(Ipv4Addr::LOCALHOST, more)
}

fn over_tls_at(address: Ipv4Addr, more: fn(&Path) -> String) -> Registry {
    guarded_at(address, |den| {
        let tls = den.join("tls");
        certificate(&tls);
        let path = |name: &str| tls.join(name).display().to_string();
        format!("[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n{}", path("server.pem"), path("key.pem"), more(&tls))
    })
}

/// A directory with the files that a client of a registry is to have.
fn trusted(registry: &Registry, into: &Path, files: &[&str]) {
    std::fs::create_dir_all(into).unwrap();
    for file in files {
        std::fs::copy(registry.directory().join("tls").join(file), into.join(file)).unwrap();
    }
}

#[test]
fn privileged_public_pull_and_authenticated_push_over_tls() {
    let registry = over_tls(|_| String::new());
    let trust = registry.directory().join("trust");
    trusted(&registry, &trust, &["ca.crt"]);
    let hosts = hosts(&registry, &trust);
    let trust = trust.display();
    let callers: [Box<dyn Caller>; 4] = [
        // On loopback it believes every certificate.
        Box::new(Docker::start()),
        Box::new(Trusting(Podman::new(), format!("--cert-dir={trust}"))),
        Box::new(Trusting(Skopeo::new(), format!("cert-dir={trust}"))),
        Box::new(Trusting(Containerd::start(), format!("--hosts-dir={}", hosts.display()))),
    ];
    for (caller, seed) in callers.iter().zip(31..) {
        everybody_pulls_and_alice_pushes(&registry, &**caller, seed);
    }
}

/// Settings with which only clients that show a certificate get a connection.
fn certificates_required(tls: &Path) -> String {
    format!("client_ca = \"{}\"\nclient_certificates = \"required\"\n", tls.join("ca.crt").display())
}

#[test]
fn privileged_who_shows_no_certificate_gets_no_connection_where_one_is_required() {
    let registry = over_tls(certificates_required);
    let image = Image::small(36);
    let (with, without) = (registry.directory().join("with"), registry.directory().join("without"));
    let all = ["ca.crt", "client.cert", "client.key"];
    trusted(&registry, &with, &all);
    trusted(&registry, &without, &all[..1]);
    let skopeo = |trust: &Path| Trusting(Skopeo::new(), format!("cert-dir={}", trust.display()));
    let reference = registry.reference("private/a:v1");
    let failed = skopeo(&without).push(&image, &reference, ALICE);
    assert!(!failed.status.success(), "{failed:?}");
    done(skopeo(&with).push(&image, &reference, ALICE));
    refused(skopeo(&with).pull(&reference, None));
    // The same directory serves podman, and containerd in its own form.
    done(Trusting(Podman::new(), format!("--cert-dir={}", with.display())).pull(&reference, ALICE));
    let containerd = Trusting(Containerd::start(), format!("--hosts-dir={}", hosts(&registry, &with).display()));
    done(containerd.pull(&reference, ALICE));
}

/// A `hosts.toml` of containerd with the certificates in a directory.
fn hosts(registry: &Registry, certificates: &Path) -> PathBuf {
    let (host, hosts) = (registry.address().to_string(), registry.directory().join("hosts"));
    std::fs::create_dir_all(hosts.join(&host)).unwrap();
    let file = |name: &str| certificates.join(name).display().to_string();
    let mut text = format!("server = \"https://{host}\"\n[host.\"https://{host}\"]\nca = \"{}\"\n", file("ca.crt"));
    if certificates.join("client.cert").exists() {
        text += &format!("client = [[\"{}\", \"{}\"]]\n", file("client.cert"), file("client.key"));
    }
    std::fs::write(hosts.join(&host).join("hosts.toml"), text).unwrap();
    hosts
}

/// Away from loopback docker believes only what `/etc/docker/certs.d` tells it to, and shows the certificate there.
#[test]
fn privileged_docker_believes_and_shows_the_certificates_of_its_certs_d() {
    let _network = Network::enter(ELSEWHERE);
    let registry = over_tls_at(ELSEWHERE, certificates_required);
    let host = registry.address().to_string();
    let tls = registry.directory().join("tls");
    let files = ["ca.crt", "client.cert", "client.key"].map(|name| tls.join(name));
    let trusting = |count: usize| {
        let files: Vec<_> = files[..count].iter().map(PathBuf::as_path).collect();
        Docker::start_trusting(&host, &files)
    };
    let (image, reference) = (Image::small(38), registry.reference("private/a:v1"));
    done(trusting(3).push(&image, &reference, ALICE));
    done(trusting(3).pull(&reference, ALICE));
    for (docker, words) in [(trusting(0), "unknown authority"), (trusting(1), "certificate required")] {
        let output = docker.pull(&reference, ALICE);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{words}: {said}");
    }
}

#[test]
fn privileged_podman_and_skopeo_speak_tls_with_a_private_authority_through_a_renewal() {
    let registry = guarded(|den| {
        certificate(&den.join("tls"));
        let path = |name: &str| den.join("tls").join(name).display().to_string();
        format!("[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n", path("server.pem"), path("key.pem"))
    });
    let tls = registry.directory().join("tls");
    let trust = |name: &str| {
        let directory = registry.directory().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::copy(tls.join("ca.crt"), directory.join("ca.crt")).unwrap();
        format!("--cert-dir={}", directory.display())
    };
    let old = trust("old");
    let (podman, skopeo, image) = (Podman::new(), Skopeo::new(), Image::small(27));
    let reference = registry.reference("public/a:v1");
    let layout = format!("oci:{}:v1", image.layout().display());
    let push = |trust: &str| {
        let trust = trust.replace("--cert-dir", "--dest-cert-dir");
        let mut command =
            skopeo.command(&["--insecure-policy", "copy", "--quiet", "--dest-creds=alice:secret", &trust]);
        run(command.args([&layout, &format!("docker://{reference}")]))
    };
    let pull = |trust: &str| run(&mut podman.command(&["pull", "--quiet", trust, &reference]));
    done(push(&old));
    done(pull(&old));
    let new = registry.directory().join("new-tls");
    certificate(&new);
    for file in ["ca.crt", "server.pem", "key.pem"] {
        std::fs::rename(new.join(file), tls.join(file)).unwrap();
    }
    assert!(!pull(&old).status.success(), "the old authority did not sign the new certificate");
    let new = trust("new");
    done(push(&new));
    done(pull(&new));
    let authority = tls.join("ca.crt").display().to_string();
    let home = Lighter::new(lighter());
    done(run(&mut home.command(&["pull", "--registry-ca", &authority, &reference])));
}
