//! What puts lighter on machines: completions, man pages, the kubelet's plugin, the files of a new registry,
//! and the Debian package.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use fixtures::clients::{Containerd, Lighter, Podman};
use fixtures::den::Den;
use serde_json::{Value, json};

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

fn home() -> Lighter {
    Lighter::new(Path::new(LIGHTER))
}

/// Runs a command to its end, with a text on stdin.
fn run(command: &mut Command, input: &str) -> Output {
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = started.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes()); // who reads nothing closes it
    child.wait_with_output().expect("a child can be waited for")
}

/// The same; the exit code must be this one. What went to stdout and stderr.
fn ends(command: &mut Command, input: &str, code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = run(command, input);
    let (data, told) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "{command:?}: {data}{told}");
    (data, told)
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn bash_completes_commands_and_options() {
    let home = home();
    let script = home.home().join("completions");
    fs::write(&script, ends(&mut home.command(&["completions", "bash"]), "", 0).0).unwrap();
    for (words, expected) in [
        ("lighter regis", "registry"),
        ("lighter registry se", "serve"),
        ("lighter push --regi", "--registry-ca"),
        ("lighter completions fi", "fish"),
    ] {
        let ask = r#"
            source "$1"; COMP_WORDS=($2); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _lighter lighter "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            printf '%s\n' "${COMPREPLY[@]}""#;
        let mut bash = Command::new("bash");
        let (offered, _) = ends(bash.args(["-c", ask, "bash"]).arg(&script).arg(words), "", 0);
        assert!(offered.lines().any(|offer| offer == expected), "{words}: {offered}");
    }
    for (shell, mark) in [("zsh", "#compdef lighter"), ("fish", "complete -c lighter")] {
        let (script, _) = ends(&mut home.command(&["completions", shell]), "", 0);
        assert!(script.contains(mark), "{shell}");
    }
}

#[test]
fn every_command_has_a_man_page_with_its_options() {
    let home = home();
    ends(&mut home.command(&["man", "pages"]), "", 0);
    let page = |name: &str| fs::read_to_string(home.home().join("pages").join(name)).expect("a page");
    assert!(page("lighter.1").contains("lighter\\-registry(1)"));
    assert!(page("lighter-registry-serve.1").contains("\\-\\-config"));
    assert!(page("lighter-push.1").contains("Examples:"));
    let pages = fs::read_dir(home.home().join("pages")).unwrap().map(|entry| entry.unwrap().file_name());
    let help = pages.filter(|name| name.to_string_lossy().contains("help")).count();
    assert_eq!(help, 0, "no page about help");
}

#[test]
fn a_kubelet_is_told_the_token_and_nobody_else() {
    let home = home();
    let request = |image: &str| {
        json!({"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderRequest",
            "image": image, "serviceAccountToken": "se.cr.et"})
        .to_string()
    };
    let arguments = ["credential-provider", "--registry", "vm2:5000"];
    let answer = |image: &str| -> Value {
        let (answer, told) = ends(&mut home.command(&arguments), &request(image), 0);
        assert!(!told.contains("se.cr.et"));
        serde_json::from_str(&answer).expect("one JSON document")
    };
    let auth = answer("vm2:5000/shop/api@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08");
    assert_eq!(auth["auth"], json!({"vm2:5000": {"username": "oidc", "password": "se.cr.et"}}));
    assert_eq!(answer("elsewhere.test/shop/api:v1")["auth"], json!({}));

    let logins = r#"{"auths": {"vm2:5000": {"auth": "bm9kZTpob3Jz"}}}"#; // node:hors
    fs::write(home.home().join("auth.json"), logins).unwrap();
    let bare = request("vm2:5000/a").replace("se.cr.et", "");
    let (answer, _) = ends(home.command(&arguments).args(["--authfile", "auth.json"]), &bare, 0);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["auth"]["vm2:5000"], json!({"username": "node", "password": "hors"}));

    let (data, told) = ends(&mut home.command(&arguments), "{\"kind\": \"se.cr.et", 65);
    assert!(data.is_empty() && !told.contains("se.cr.et") && told.contains("lighter registry init"), "{told}");
    ends(&mut home.command(&["credential-provider"]), "", 64);
}

/// The permissions of a file or directory.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o7777
}

#[test]
fn a_new_registry_gets_certificates_that_hold_and_files_for_its_clients() {
    let home = home();
    let arguments = ["registry", "init", "out", "--host", "vm2", "--host", "10.0.0.2", "--host", "fd00::2"];
    let (data, told) = ends(home.command(&arguments).args(["--install-in", "/etc/lighter"]), "", 0);
    let out = home.home().join("out");
    assert_eq!(data.trim(), out.to_str().unwrap());
    assert!(told.contains("README"), "{told}");

    let verify = |options: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"]).arg(out.join("authority/ca.crt"));
        let checked = run(openssl.args(options).arg(out.join("tls/server.crt")), "");
        checked.status.success()
    };
    assert!(verify(&["-verify_hostname", "vm2"]) && verify(&["-verify_ip", "10.0.0.2"]));
    assert!(verify(&["-verify_ip", "fd00::2"]));
    assert!(!verify(&["-verify_hostname", "vm3"]) && !verify(&["-verify_ip", "10.0.0.3"]));

    for secret in ["tls/server.key", "authority/ca.key"] {
        assert_eq!(mode(&out.join(secret)), 0o600, "{secret}");
    }
    let text = |path: &str| fs::read_to_string(out.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    for host in ["vm2:5000", "10.0.0.2:5000", "[fd00::2]:5000"] {
        let hosts = text(&format!("containerd/{host}/hosts.toml"));
        assert!(hosts.contains(&format!("[host.\"https://{host}\"]")), "{hosts}");
        assert_eq!(text(&format!("containerd/{host}/ca.crt")), text("authority/ca.crt"));
        assert_eq!(text(&format!("docker/{host}/ca.crt")), text("authority/ca.crt"));
        assert!(text("README").contains(host));
        assert!(text("kubernetes/credential-provider.yaml").contains(&format!("\"{host}\"")));
    }
    assert!(text("kubernetes/audience.yaml").contains("[\"https://vm2:5000\"]"));
    assert!(text("gitlab-ci.yml").contains("registry: \"vm2:5000\""));

    let before = text("authority/ca.crt");
    let (_, told) = ends(&mut home.command(&arguments), "", 64);
    assert!(told.contains("is not overwritten"), "{told}");
    assert_eq!(text("authority/ca.crt"), before);
    let old = text("tls/server.crt");
    let safe = home.home().join("safe");
    fs::rename(out.join("authority"), &safe).unwrap();
    let renew = ["registry", "init", "out", "--renew"];
    let (_, told) = ends(&mut home.command(&renew), "", 66);
    assert!(told.contains("--authority DIR"), "{told}");
    ends(home.command(&renew).arg("--authority").arg(&safe), "", 0);
    fs::rename(&safe, out.join("authority")).unwrap();
    assert!(text("tls/server.crt") != old && text("authority/ca.crt") == before);
    assert!(verify(&["-verify_hostname", "vm2"]) && verify(&["-verify_ip", "fd00::2"]), "the hosts are those before");
    ends(home.command(&renew).args(["--host", "vm3"]), "", 0);
    assert!(verify(&["-verify_hostname", "vm3"]) && !verify(&["-verify_hostname", "vm2"]));
    for wrong in ["vm2:5000", "https://vm2", "a b", ""] {
        let (_, told) = ends(&mut home.command(&["registry", "init", "other", "--host", wrong]), "", 64);
        assert!(told.contains("--port 5000"), "{wrong}: {told}");
        assert!(!home.home().join("other").exists());
    }
}

/// Everything below comes out of `registry init` alone; only the address is made one of loopback, for the
/// length of a test.
#[test]
fn privileged_podman_and_containerd_pull_from_a_registry_that_was_set_up_by_init() {
    let mut den = Den::new("init");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let home = home();
    let (out, data) = (den.path().join("out"), den.path().join("data"));
    let mut init = home.command(&["registry", "init", "--host", "127.0.0.1", "--port", &port]);
    ends(init.arg("--data").arg(&data).arg(&out), "", 0);
    let mut create = home.command(&["registry", "token", "create", "ci", "--allow", "pull,push,overwrite"]);
    let (token, _) = ends(create.arg("--data").arg(&data), "", 0);

    let mut serve = Command::new(LIGHTER);
    serve.args(["registry", "serve", "--config"]).arg(out.join("registry.toml"));
    serve.env("LIGHTER_REGISTRY_ADDR", format!("127.0.0.1:{port}")).env("HOME", den.path());
    den.start("registry", &mut serve);
    den.wait("registry", Duration::from_secs(60), |den| {
        den.log("registry").contains("lighter registry on https://").then_some(())
    });

    let host = format!("127.0.0.1:{port}");
    let (image, name) = (fixtures::images::Image::small(23), format!("{host}/shop/api:v1"));
    let source = format!("oci:{}:v1", image.layout().display());
    let lighter = |arguments: &[&str]| {
        let mut command = home.command(arguments);
        command.env("LIGHTER_REGISTRY_CA", out.join("authority/ca.crt"));
        command
    };
    ends(&mut lighter(&["login", &host, "-u", "ci", "--password-stdin"]), token.trim(), 0);
    ends(&mut lighter(&["push", &source, &name]), "", 0);
    ends(&mut lighter(&["logout", &host]), "", 0);
    ends(&mut lighter(&["pull", &name]), "", 0);

    // A new certificate, in time: who trusts the authority notices nothing, and nothing is started anew.
    let serial = || {
        let mut ask = Command::new("sh");
        let served = "openssl s_client -connect \"$1\" -CAfile \"$2\" -verify_return_error </dev/null 2>/dev/null | openssl x509 -noout -serial";
        ends(ask.args(["-c", served, "sh", &host]).arg(out.join("authority/ca.crt")), "", 0).0
    };
    let before = serial();
    let (renewed, told) = ends(home.command(&["registry", "init", "--renew"]).arg(&out), "", 0);
    assert!(renewed.trim() == out.join("tls/server.crt").to_str().unwrap() && told.contains("127.0.0.1"), "{told}");
    assert_eq!(mode(&out.join("tls/server.key")), 0o600);
    den.wait("registry", Duration::from_secs(60), |_| (serial() != before).then_some(()));
    ends(&mut lighter(&["pull", &name]), "", 0);

    // podman looks for docker's form of these files below its own directory too.
    let certificates = den.path().join(".config/containers/certs.d");
    fs::create_dir_all(certificates.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(out.join("docker"), &certificates).unwrap();
    let podman = Podman::new();
    let policy = den.path().join("policy.json");
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let policy = format!("--signature-policy={}", policy.display());
    let pull = ["pull", "--quiet", "--tls-verify=true", &policy, &name];
    let (_, told) = ends(&mut podman.command(&pull), "", 125);
    assert!(told.contains("certificate signed by unknown authority"), "podman does not know it yet: {told}");
    ends(podman.command(&pull).env("HOME", den.path()), "", 0);

    let containerd = Containerd::start();
    let hosts = out.join("containerd");
    let pull = ["images", "pull", "--hosts-dir", hosts.to_str().unwrap(), &name];
    ends(&mut containerd.command(&pull), "", 0);
}

/// Runs a script in a root file system that is this machine's own with a writable layer in memory above it,
/// without its network: what is installed there is gone afterwards.
const ELSEWHERE: &str = r#"
set -eu
den=$1; script=$2
mkdir "$den/memory"
mount -t tmpfs none "$den/memory"
mkdir "$den/memory/upper" "$den/memory/work" "$den/memory/root"
root=$den/memory/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$den/memory/upper,workdir=$den/memory/work" "$root"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mkdir -p "$root/given" && mount --bind "$den/given" "$root/given"
ip link set lo up
exec chroot "$root" sh -c "$script"
"#;

const INSTALL: &str = r#"
set -eu
export HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
dpkg --install /given/lighter.deb
dpkg --verify lighter
echo "version: $(lighter --version)"
echo "user: $(getent passwd lighter | cut -d : -f 1,6)"
stat -c 'mode: %n %a %U:%G' /etc/lighter/registry.toml /var/lib/lighter
systemd-analyze verify --man=no /usr/lib/systemd/system/lighter-registry.service
test -s /usr/share/man/man1/lighter-registry-serve.1.gz
grep -q complete /usr/share/bash-completion/completions/lighter

# What the service does, as the user that it does it as.
setpriv --reuid lighter --regid lighter --init-groups --no-new-privs \
    lighter registry serve --config /etc/lighter/registry.toml 2>/tmp/registry.log &
registry=$!
tries=0
until curl -fsS http://127.0.0.1:5000/v2/ >/dev/null 2>&1; do
    tries=$((tries + 1)); kill -0 $registry && [ $tries -lt 600 ] || { cat /tmp/registry.log; exit 1; }
    sleep 0.1
done
echo "pushed: $(lighter push oci:/given/image:v1 127.0.0.1:5000/shop/api:v1)"
kill -TERM $registry
wait $registry
stat -c 'mode: %n %a %U:%G' /var/lib/lighter/registry

echo '# changed here' >>/etc/lighter/registry.toml
dpkg --remove lighter
test -e /etc/lighter/registry.toml -a ! -e /usr/bin/lighter
dpkg --purge lighter
test ! -e /etc/lighter/registry.toml -a -d /var/lib/lighter/registry/blobs
echo "images outlive a purge"
"#;

#[test]
fn privileged_the_debian_package_installs_serves_and_goes_away_again() {
    let den = Den::new("package");
    let given = den.path().join("given");
    fs::create_dir(&given).unwrap();
    let image = fixtures::images::Image::small(7);
    let copied = Command::new("cp").arg("-r").arg(image.layout()).arg(given.join("image")).status().unwrap();
    assert!(copied.success());

    let pack = |directory: &str| {
        let output = den.path().join(directory);
        let mut script = Command::new(project("packaging/deb.sh"));
        script.args(["--fast", "--binary", LIGHTER, "--output"]).arg(&output).env("SOURCE_DATE_EPOCH", "1700000000");
        let (package, _) = ends(&mut script, "", 0);
        PathBuf::from(package.trim())
    };
    let package = pack("first");
    assert_eq!(fs::read(&package).unwrap(), fs::read(pack("second")).unwrap(), "the same input, the same package");
    fs::copy(&package, given.join("lighter.deb")).unwrap();

    let mut elsewhere = Command::new("unshare");
    elsewhere.args(["--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child"]);
    elsewhere.args(["sh", "-c", ELSEWHERE, "sh"]).arg(den.path()).arg(INSTALL);
    let (told, warnings) = ends(&mut elsewhere, "", 0);
    let version = format!("version: lighter {}", env!("CARGO_PKG_VERSION"));
    for line in [
        version.as_str(),
        "user: lighter:/var/lib/lighter",
        "mode: /etc/lighter/registry.toml 640 root:lighter",
        "mode: /var/lib/lighter 700 lighter:lighter",
        &format!("pushed: 127.0.0.1:5000/shop/api:v1@{}", image.manifest.digest),
        "images outlive a purge",
    ] {
        assert!(told.lines().any(|told| told == line), "{line:?} is not in:\n{told}{warnings}");
    }
}
