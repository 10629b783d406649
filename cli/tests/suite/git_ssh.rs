//! Build contexts and sources that come from a git repository behind ssh: a real server on a loopback interface of its
//! own, a real agent, host keys that are known and one that is not. Needs the Debian packages openssh-server,
//! openssh-client, git and busybox-static.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use fixtures::scene::Scene;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

/// In a network where nobody else listens, so that the server can have port 22, and with a user `git` whose home is in
/// the directory of the test: ssh takes known hosts and keys from the home that the machine's list of users says.
const STAGE: &str = r#"
set -e
ip link set lo up
mount --bind "$DEN/passwd" /etc/passwd
mkdir -p /run/sshd
/usr/sbin/sshd -D -f "$DEN/sshd_config" -E "$DEN/sshd.log" &
for n in $(seq 200); do grep -q 'listening on' "$DEN/sshd.log" 2>/dev/null && break; sleep 0.05; done
eval "$(ssh-agent -s)" >/dev/null
"$@"
"#;

struct Stage {
    scene: Scene,
}

impl Stage {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this needs root: run ./test, or use sudo");
        for (program, package) in
            [("/usr/sbin/sshd", "openssh-server"), ("/usr/bin/ssh-agent", "openssh-client"), ("/usr/bin/git", "git")]
        {
            assert!(Path::new(program).exists(), "{program} is missing; install the package {package}");
        }
        let stage = Self { scene: Scene::new(Path::new(LIGHTER), "FROM scratch\n") };
        let den = stage.scene.path();
        fs::set_permissions(den, fs::Permissions::from_mode(0o755)).unwrap();
        let ssh = den.join("people/.ssh");
        fs::create_dir_all(&ssh).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700)).unwrap();
        for key in ["host", "user"] {
            stage.does(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(den.join(key)));
        }
        fs::copy(den.join("user.pub"), ssh.join("authorized_keys")).unwrap();
        let people = den.join("people");
        let users: String =
            fs::read_to_string("/etc/passwd").unwrap().lines().filter(|line| !line.starts_with("root:")).fold(
                format!("root:x:0:0:root:{0}:/bin/sh\ngit:x:0:0:git:{0}:/bin/sh\n", people.display()),
                |all, line| if line.starts_with("git:") { all } else { all + line + "\n" },
            );
        fs::write(den.join("passwd"), users).unwrap();
        let config = format!(
            "ListenAddress 127.0.0.1:22\nListenAddress 127.0.0.1:2222\nHostKey {0}/host\nUsePAM no\nPidFile none\n\
             PasswordAuthentication no\nPermitRootLogin yes\nStrictModes no\nAuthorizedKeysFile {0}/people/.ssh/authorized_keys\n",
            den.display()
        );
        fs::write(den.join("sshd_config"), config).unwrap();
        stage.repository();
        stage
    }

    /// A repository in the home of `git`: a Dockerfile, and a directory with another one.
    fn repository(&self) {
        let tree = self.scene.path().join("people/app");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("Dockerfile"), "FROM scratch\nCOPY text /text\n").unwrap();
        fs::write(tree.join("text"), "from the repository\n").unwrap();
        fs::write(tree.join("sub/Dockerfile"), "FROM scratch\nCOPY text /text\n").unwrap();
        fs::write(tree.join("sub/text"), "from below\n").unwrap();
        let git = |words: &[&str]| {
            let mut git = Command::new("git");
            git.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]).args(words);
            self.does(git.current_dir(&tree).env("GIT_CONFIG_GLOBAL", "/dev/null").stdout(Stdio::null()));
        };
        git(&["init", "-q"]);
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "all"]);
    }

    fn does(&self, command: &mut Command) {
        assert!(command.status().unwrap().success(), "{command:?}");
    }

    fn knows_host(&self) {
        let key = fs::read_to_string(self.scene.path().join("host.pub")).unwrap();
        let hosts = self.scene.path().join("people/.ssh/known_hosts");
        fs::write(hosts, format!("127.0.0.1 {key}[127.0.0.1]:2222 {key}")).unwrap();
    }

    /// Runs shell words beside the server and an agent.
    fn runs(&self, script: &str) -> Output {
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            STAGE,
            "stage",
            "sh",
            "-c",
            script,
        ]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEN", self.scene.path());
        command.env("HOME", self.scene.path().join("home")).env("LIGHTER", LIGHTER).stdin(Stdio::null());
        command.current_dir(self.scene.context()).output().unwrap()
    }

    /// Builds with the user's key in the agent, and gives what the image has as `/text`.
    fn builds(&self, words: &str) -> String {
        let place = self.scene.path().join("tree");
        let output = self.runs(&format!(
            "ssh-add -q \"$DEN/user\" && \"$LIGHTER\" build --progress=plain --ssh default -o type=local,dest=\"$DEN/tree\" {words}"
        ));
        let log = fs::read_to_string(self.scene.path().join("sshd.log")).unwrap_or_default();
        assert!(output.status.success(), "{}\n{log}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(place.join("text")).unwrap()
    }
}

#[test]
fn privileged_contexts_and_sources_come_over_ssh() {
    let stage = Stage::new();
    stage.knows_host();
    let den = stage.scene.path().display();
    assert_eq!(stage.builds("git@127.0.0.1:app"), "from the repository\n");
    assert_eq!(stage.builds(&format!("ssh://git@127.0.0.1:2222{den}/people/app#main:sub")), "from below\n");
    stage.scene.file("Dockerfile", format!("FROM scratch\nADD git@127.0.0.1:{den}/people/app#main:sub /\n"));
    assert_eq!(stage.builds("."), "from below\n");
    stage.scene.file("Dockerfile", "FROM scratch\nCOPY --from=other text /text\n");
    assert_eq!(stage.builds("--build-context other=git@127.0.0.1:app ."), "from the repository\n");
}

#[test]
fn privileged_hosts_that_nobody_knows_and_keys_that_nobody_lent_are_refused() {
    let stage = Stage::new();
    let build = "\"$LIGHTER\" build --progress=plain";
    let told = |script: &str| {
        let output = stage.runs(script);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code().is_some_and(|code| code != 0), "{told}");
        told
    };
    let unknown = told(&format!("ssh-add -q \"$DEN/user\" && {build} --ssh default git@127.0.0.1:app"));
    assert!(unknown.contains("Host key verification failed"), "{unknown}");
    stage.knows_host();
    // The agent is there, and not lent.
    let unlent = told(&format!("ssh-add -q \"$DEN/user\" && {build} git@127.0.0.1:app"));
    assert!(unlent.contains("Permission denied") && unlent.contains("--ssh default"), "{unlent}");
}
