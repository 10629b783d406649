//! What is in each file of `registry init`, and where it belongs. Texts only.

use std::fmt::Write;

use oci::Host;

use super::authority::Certificates;
use super::{Piece, Plan};

/// The file that explains the others.
pub const README: &str = "README";

/// All files, relative to the directory.
pub fn pieces(plan: &Plan, certificates: &Certificates) -> Vec<Piece> {
    let authority = &certificates.authority.certificate;
    let mut pieces = vec![
        Piece::open(README, readme(plan)),
        Piece::open("registry.toml", configuration(plan)),
        Piece::secret("tls/server.key", &certificates.server.key),
        Piece::open("tls/server.crt", &certificates.server.certificate),
        Piece::secret("authority/ca.key", &certificates.authority.key),
        Piece::open("authority/ca.crt", authority),
        Piece::open("kubernetes/credential-provider.yaml", credential_provider(plan)),
        Piece::open("kubernetes/audience.yaml", audience(plan)),
        Piece::open("gitlab-ci.yml", gitlab_ci(plan)),
    ];
    for host in &plan.hosts {
        pieces.push(Piece::open(format!("containerd/{host}/hosts.toml"), hosts_toml(host)));
        pieces.push(Piece::open(format!("containerd/{host}/ca.crt"), authority));
        pieces.push(Piece::open(format!("docker/{host}/ca.crt"), authority));
    }
    pieces
}

fn configuration(plan: &Plan) -> String {
    let quoted_path = |path: &std::path::Path| quoted(&path.display().to_string());
    // Not every machine has IPv6; one that is to be reached by it has.
    let everywhere = if plan.names.iter().any(|name| name.contains(':')) { "[::]" } else { "0.0.0.0" };
    let audience = quoted(&format!("https://{}", plan.hosts[0]));
    let mut text = format!(
        "# Settings of the registry. docs/registry.md has all keys; an unknown one is an error.\n\
         # `lighter registry check-config` says what this file means.\n\
         addr = \"{}:{}\"\ndata = {}\n\n[tls] # read again when the files change\ncertificate = {}\nkey = {}\n",
        everywhere,
        plan.port,
        quoted_path(&plan.data),
        quoted_path(&plan.home.join("tls/server.crt")),
        quoted_path(&plan.home.join("tls/server.key")),
    );
    text += "\n# Who may do what. What no rule allows is denied; the order does not matter.\n\
             # Programs get tokens: lighter registry token create NAME --allow pull,push\n\
             [[access.rules]] # everybody who reaches the registry may pull; remove this to ask for a login\n\
             subjects = [\"anonymous\"]\nrepositories = [\"**\"]\nrights = [\"pull\"]\n";
    if let Some(gitlab) = &plan.gitlab {
        text += &format!(
            "\n[[access.issuers]] # jobs show a token that GitLab signed: `id_tokens` in .gitlab-ci.yml\n\
             name = \"gitlab\"\nissuer = {}\naudiences = [{audience}]\n\n\
             [[access.rules]] # jobs on protected branches and tags push to the repositories of their own project.\n\
             # Paths can be given away: to bind a project for good, add  project_id = \"NUMBER\"  to the claims.\n\
             subjects = [\"issuer:gitlab\"]\nclaims = {{ ref_protected = \"true\" }}\n\
             repositories = [\"{{project_path}}\", \"{{project_path}}/**\"]\nrights = [\"pull\", \"push\", \"overwrite\"]\n",
            quoted(gitlab),
        );
    }
    text
}

/// A basic string of TOML, which JSON's strings are too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The [host] table has to be there: containerd 1.6 refuses a file without one. The certificate lies beside it.
fn hosts_toml(host: &Host) -> String {
    format!(
        "server = \"https://{host}\"\n\n[host.\"https://{host}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  \
         ca = \"ca.crt\"\n"
    )
}

fn credential_provider(plan: &Plan) -> String {
    let listed = |indent: &str| {
        plan.hosts.iter().fold(String::new(), |text, host| text + indent + "- \"" + host.as_str() + "\"\n")
    };
    let arguments = plan.hosts.iter().map(|host| format!("--registry={host}"));
    let arguments = arguments.fold(String::new(), |text, argument| text + "      - \"" + &argument + "\"\n");
    format!(
        "# For the kubelet of every worker (Kubernetes 1.34 or newer):\n\
         #   --image-credential-provider-config=/etc/kubernetes/credential-provider.yaml\n\
         #   --image-credential-provider-bin-dir=/usr/libexec/kubernetes/credential-providers, with a `lighter` in it\n\
         apiVersion: kubelet.config.k8s.io/v1\n\
         kind: CredentialProviderConfig\n\
         providers:\n  - name: lighter\n    apiVersion: credentialprovider.kubelet.k8s.io/v1\n    matchImages:\n{}    \
         defaultCacheDuration: \"0s\"\n    args:\n      - credential-provider\n{arguments}    tokenAttributes:\n      \
         serviceAccountTokenAudience: \"https://{}\"\n      cacheType: Token\n      requireServiceAccount: true\n",
        listed("      "),
        plan.hosts[0],
    )
}

/// Since 1.33 a kubelet may only ask for tokens for audiences that it was allowed.
fn audience(plan: &Plan) -> String {
    let host = &plan.hosts[0];
    format!(
        "# Lets the kubelets ask for tokens that are good for the registry, and for nothing else:\n\
         #   kubectl apply -f audience.yaml\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: lighter-registry-audience\n\
         rules:\n  - apiGroups: [\"\"]\n    resources: [\"https://{host}\"]\n    \
         verbs: [\"request-serviceaccounts-token-audience\"]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata:\n  \
         name: lighter-registry-audience\nroleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: ClusterRole\n  \
         name: lighter-registry-audience\nsubjects:\n  - apiGroup: rbac.authorization.k8s.io\n    kind: Group\n    \
         name: system:nodes\n"
    )
}

fn gitlab_ci(plan: &Plan) -> String {
    let gitlab = plan.gitlab.as_deref().unwrap_or("https://gitlab.example.com");
    let server = gitlab.split_once("://").map_or(gitlab, |(_, host)| host);
    let host = &plan.hosts[0];
    format!(
        "# For .gitlab-ci.yml of a project. docs/ci.md explains the inputs.\n\
         include:\n  - component: {server}/platform/lighter/lighter@1\n    inputs:\n      registry: \"{host}\"\n      \
         toolchain_image: \"{host}/lighter/ci:1\"\n      target: \"deployment/web/web\"\n"
    )
}

fn readme(plan: &Plan) -> String {
    let home = plan.home.display();
    let host = &plan.hosts[0];
    let mut text = format!(
        "The registry {host}: what is here, and where it belongs.\n\
         \n\
         On the registry's machine:\n\
         \x20 registry.toml            {home}/registry.toml\n\
         \x20 tls/                     {home}/tls/, the key readable by the user of the registry\n\
         \x20 start it:                lighter registry serve --config {home}/registry.toml\n\
         \x20                          or, with the Debian package: systemctl enable --now lighter-registry\n\
         \n\
         On every Kubernetes worker (no restart; config_path of containerd has to be /etc/containerd/certs.d):\n\
         \x20 containerd/*             /etc/containerd/certs.d/\n\
         \n\
         On machines with docker, or with podman, buildah and skopeo:\n\
         \x20 docker/*                 /etc/docker/certs.d/, or /etc/containers/certs.d/\n\
         \n\
         For lighter itself, for instance in CI:\n\
         \x20 authority/ca.crt         LIGHTER_REGISTRY_CA=/path/to/ca.crt, or --registry-ca\n\
         \n\
         Pulls without imagePullSecrets:\n\
         \x20 kubernetes/credential-provider.yaml   on every worker; its first lines say how\n\
         \x20 kubernetes/audience.yaml              kubectl apply -f\n\
         \n\
         In a GitLab project:\n\
         \x20 gitlab-ci.yml            the lines for .gitlab-ci.yml\n\
         \n\
         In a safe, off the registry's machine:\n\
         \x20 authority/ca.key         whoever has it can pass for the registry\n\
         \n\
         Good for these names: "
    );
    let names: Vec<&str> = plan.hosts.iter().map(Host::as_str).collect();
    writeln!(text, "{}", names.join(", ")).expect("a String takes everything");
    text
}
