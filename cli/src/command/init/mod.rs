//! registry init: everything that a new registry and its clients need, written into one directory.
//!
//! `authority` makes the certificates, `texts` says what is in each file, and this module writes them: all of
//! them, or none if one of them is there already.
//!
//! ```text
//! DIR/
//! ├── README                      where each belongs
//! ├── registry.toml               the configuration of the registry
//! ├── tls/server.crt, server.key  its certificate
//! ├── authority/ca.crt, ca.key    who signed it; the key belongs into a safe
//! ├── containerd/HOST:PORT/       hosts.toml and ca.crt, for each worker
//! ├── docker/HOST:PORT/ca.crt     for machines with docker or podman
//! ├── kubernetes/*.yaml           pulls with service-account tokens, without imagePullSecrets
//! └── gitlab-ci.yml               the lines for a project
//! ```

mod authority;
mod renew;
mod texts;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci::Host;

use crate::args::InitArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::terminal::{out, tell};

/// What all the texts are about.
struct Plan {
    /// Names and addresses, as they stand in the certificate.
    names: Vec<String>,
    /// The same with the port, as clients write them.
    hosts: Vec<Host>,
    port: u16,
    data: PathBuf,
    /// Where configuration and certificate will lie.
    home: PathBuf,
    gitlab: Option<String>,
}

/// A file to be written.
struct Piece {
    path: PathBuf,
    text: String,
    mode: u32,
}

impl Piece {
    fn open(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into(), mode: 0o644 }
    }

    fn secret(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into(), mode: 0o600 }
    }
}

pub fn init(args: &InitArgs) -> Outcome<()> {
    if args.renew {
        return renew::renew(args);
    }
    let directory = absolute(&args.directory)?;
    let plan = plan(args, &directory)?;
    let today = jiff::Zoned::now().date();
    let certificates = authority::certificates(&plan.names, today)
        .map_err(|error| Failure::because(Exit::Usage, "cannot make a certificate for these hosts", &error))?;
    let pieces = texts::pieces(&plan, &certificates);
    refuse_existing(&directory, &pieces)?;
    for piece in &pieces {
        let path = directory.join(&piece.path);
        write(&path, piece).map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))?;
    }
    tell(&format!("{} says where each file belongs", directory.join(texts::README).display()));
    out(&directory.display().to_string());
    Ok(())
}

fn absolute(path: &Path) -> Outcome<PathBuf> {
    std::path::absolute(path).map_err(|error| Failure::io(format!("cannot use {}", path.display()), &error))
}

fn plan(args: &InitArgs, directory: &Path) -> Outcome<Plan> {
    let hosts = hosts(args)?;
    let names = hosts.iter().map(|host| host.name().to_owned()).collect();
    let home = args.install_in.clone().unwrap_or_else(|| directory.to_owned());
    for path in [&home, &args.data] {
        if !path.is_absolute() {
            let what = format!("{} has to be an absolute path: it will stand in a configuration", path.display());
            return Err(Failure::new(Exit::Usage, what));
        }
    }
    Ok(Plan { names, hosts, port: args.port, data: args.data.clone(), home, gitlab: gitlab(args)? })
}

/// The names and addresses, as they stand in a certificate.
fn names(args: &InitArgs) -> Outcome<Vec<String>> {
    Ok(hosts(args)?.iter().map(|host| host.name().to_owned()).collect())
}

/// What is named, with the port; each once.
fn hosts(args: &InitArgs) -> Outcome<Vec<Host>> {
    let mut hosts = Vec::new();
    for name in &args.host {
        let bracketed = if name.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{name}]") } else { name.clone() };
        let wrong = |error: oci::InvalidReference| {
            Failure::because(Exit::Usage, format!("--host `{name}` is no name and no IP address"), &error)
                .hint("name the host alone; the port has an option of its own: --host vm2 --port 5000")
        };
        let host: Host = format!("{bracketed}:{}", args.port).parse().map_err(wrong)?;
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    Ok(hosts)
}

/// The issuer of a GitLab's tokens is its URL without a slash at the end.
fn gitlab(args: &InitArgs) -> Outcome<Option<String>> {
    let Some(url) = &args.gitlab else { return Ok(None) };
    let issuer = url.trim_end_matches('/');
    let rest = issuer.strip_prefix("https://").or_else(|| issuer.strip_prefix("http://"));
    if rest.is_none_or(|rest| rest.is_empty() || rest.contains(['"', '\\', ' ', '\n'])) {
        return Err(Failure::new(Exit::Usage, format!("--gitlab `{url}` is no URL"))
            .hint("write it as people open it in a browser: https://gitlab.example.com"));
    }
    Ok(Some(issuer.to_owned()))
}

fn refuse_existing(directory: &Path, pieces: &[Piece]) -> Outcome<()> {
    let there = pieces.iter().map(|piece| directory.join(&piece.path)).find(|path| path.symlink_metadata().is_ok());
    match there {
        None => Ok(()),
        Some(path) => Err(Failure::new(Exit::Usage, format!("{} exists, and is not overwritten", path.display()))
            .hint("name another directory; a new authority would have to be told to every client")),
    }
}

/// Writes a file that must not exist yet. Directories that are made for it are for the owner alone if it is
/// a secret.
fn write(path: &Path, piece: &Piece) -> std::io::Result<()> {
    let parent = path.parent().expect("a file lies in a directory");
    let mode = if piece.mode == 0o600 { 0o700 } else { 0o755 };
    fs::DirBuilder::new().recursive(true).mode(mode).create(parent)?;
    let mut file = File::options().write(true).create_new(true).mode(piece.mode).open(path)?;
    file.write_all(piece.text.as_bytes())?;
    file.sync_all()
}
