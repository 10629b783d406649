//! Arguments of what installs lighter on machines: completions, man pages, the kubelet's plugin, and the
//! first steps of a registry.

use std::path::PathBuf;

use clap::Args;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter completions bash > /usr/share/bash-completion/completions/lighter
  lighter completions zsh > /usr/share/zsh/vendor-completions/_lighter
  lighter completions fish > ~/.config/fish/completions/lighter.fish

The Debian package brings them along.")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Write man pages, one for each command
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lighter man /usr/local/share/man/man1

The Debian package brings them along.")]
pub struct ManArgs {
    /// Where to; made if it is not there
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// Tell a kubelet the login for an image: a credential provider plugin
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lighter credential-provider --registry vm2:5000 < request.json

The kubelet starts it, with a CredentialProviderRequest on stdin; the answer goes to stdout. The token of the
pod's service account, made for the registry (Kubernetes 1.34 or newer), is the password; without one, the
login for the registry in --authfile is. `lighter registry init` writes the configuration for the kubelet.")]
pub struct CredentialProviderArgs {
    /// A registry that may see tokens; for images of others there is no answer [repeatable]
    #[arg(long, value_name = "HOST[:PORT]", required = true, value_delimiter = ',')]
    pub registry: Vec<oci::Host>,
    /// Logins in docker's format, for requests without a token
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
}

/// Write what a new registry and its clients need: configuration, certificates, and where each belongs
#[cfg(feature = "serve")]
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter registry init --host vm2
  lighter registry init out --host registry.example.com --host 10.0.0.2 --install-in /etc/lighter
  lighter registry init /etc/lighter --renew --authority /media/safe/authority

Makes a private certificate authority and a certificate for the hosts; a configuration that serves TLS;
the settings by which containerd, docker, podman and kubelets trust it; and the lines for .gitlab-ci.yml.
README in DIR says where each belongs. Nothing that exists is overwritten. Keys are readable by their owner only.
With --renew, only DIR/tls gets a new key and certificate, from the authority that clients know already; a registry
that runs takes them by itself. A certificate is good for 825 days.")]
pub struct InitArgs {
    /// Where to write
    #[arg(value_name = "DIR", default_value = "lighter-registry")]
    pub directory: PathBuf,
    /// A name or IP address by which clients reach the registry; the first is the one in examples [repeatable]
    #[arg(long, value_name = "NAME|IP", required_unless_present = "renew")]
    pub host: Vec<String>,
    /// The port
    #[arg(long, value_name = "PORT", default_value_t = 5000)]
    pub port: u16,
    /// Where the registry will keep images
    #[arg(long, value_name = "DIR", default_value = "/var/lib/lighter/registry")]
    pub data: PathBuf,
    /// Where the configuration and the certificate will lie on the registry's machine [default: where they are written]
    #[arg(long, value_name = "DIR")]
    pub install_in: Option<PathBuf>,
    /// Make a new certificate in DIR/tls, for the hosts of the old one unless --host names others
    #[arg(long, conflicts_with_all = ["port", "data", "install_in", "gitlab"])]
    pub renew: bool,
    /// Where ca.key and ca.crt are kept [default: DIR/authority]
    #[arg(long, value_name = "DIR", requires = "renew")]
    pub authority: Option<PathBuf>,
    /// A GitLab whose jobs may push to the repositories of their own projects
    #[arg(long, value_name = "URL")]
    pub gitlab: Option<String>,
}
