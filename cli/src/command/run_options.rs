//! What was typed for the commands of RUN: secrets, SSH agents, network, hosts, limits.
//!
//! Secrets are read here, once, before the build begins; from here on they are values that nothing prints.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use builder::build::RunOptions;
use builder::dockerfile::{self, Network};
use builder::sandbox::Limit;
use builder::secret::{SECRET_LIMIT, Secret};

use crate::args::{NetworkKind, RunArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings;
use crate::terminal::tell;

/// Reads what was typed, and the secrets that it names.
pub fn parse(args: &RunArgs) -> Outcome<RunOptions> {
    Ok(RunOptions {
        isolation: args.isolation,
        secrets: secrets(&args.secret)?,
        ssh: args.ssh.iter().map(|text| agent(text)).collect::<Outcome<_>>()?,
        network: match args.network {
            NetworkKind::Default => Network::Default,
            NetworkKind::Host => Network::Host,
            NetworkKind::None => Network::None,
        },
        add_hosts: args.add_host.iter().map(|text| host(text)).collect::<Outcome<_>>()?,
        limits: limits(&args.ulimit)?,
        shm_size: args.shm_size.as_deref().map(shm_size).transpose()?,
    })
}

fn usage(flag: &str, text: &str, why: &str, hint: &str) -> Failure {
    Failure::new(Exit::Usage, format!("--{flag} `{text}` {why}")).hint(hint)
}

/// Where a secret comes from.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Variable(String),
    /// A variable of that name if there is one, else a file.
    Either(String),
}

fn secrets(typed: &[String]) -> Outcome<BTreeMap<String, Secret>> {
    let mut secrets = BTreeMap::new();
    for text in typed {
        let (id, place) = secret(text)?;
        let content = match place {
            Place::File(path) => Some(file(&id, &path)?),
            Place::Variable(name) => variable(&name),
            Place::Either(name) => match variable(&name) {
                Some(content) => Some(content),
                None => Some(file(&id, Path::new(&name))?),
            },
        };
        let Some(content) = content else {
            tell(&format!("note: --secret `{text}`: the variable is not set, so there is no such secret"));
            continue;
        };
        let content = Secret::new(content)
            .map_err(|error| Failure::because(Exit::Usage, format!("--secret `{text}`"), &error))?;
        secrets.insert(id, content);
    }
    Ok(secrets)
}

/// `id=ID[,src=FILE][,env=NAME][,type=file|env]`, by the rules of `docker buildx`.
fn secret(text: &str) -> Outcome<(String, Place)> {
    let wrong = |why: &str| usage("secret", text, why, "--secret id=ID,src=FILE or --secret id=ID,env=NAME");
    let (mut id, mut source, mut env, mut kind) = (None, None, None, None);
    for field in dockerfile::fields(text).map_err(|error| wrong(&format!("cannot be read: {error}")))? {
        let (key, value) = field.split_once('=').ok_or_else(|| wrong(&format!("has the field `{field}` without =")))?;
        let value = value.to_owned();
        match key.to_lowercase().as_str() {
            "id" => id = Some(value),
            "src" | "source" => source = Some(value),
            "env" => env = Some(value),
            "type" if matches!(value.as_str(), "file" | "env") => kind = Some(value),
            "type" => return Err(wrong(&format!("has the type {value}; there are file and env"))),
            _ => return Err(wrong(&format!("has the unknown field `{key}`"))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| wrong("has no id"))?;
    let place = match (kind.as_deref(), source, env) {
        (_, Some(_), Some(_)) => return Err(wrong("has both src and env")),
        (Some("file"), _, Some(_)) => return Err(wrong("is of type file and names a variable")),
        (Some("env"), Some(name), None) | (_, None, Some(name)) => Place::Variable(name),
        (Some("env"), None, None) => Place::Variable(id.clone()),
        (_, Some(path), None) => Place::File(path.into()),
        (Some(_), None, None) => Place::File((&id).into()),
        (None, None, None) => Place::Either(id.clone()),
    };
    Ok((id, place))
}

/// Nothing of a value is ever told, also where it is no text.
fn variable(name: &str) -> Option<Vec<u8>> {
    std::env::var_os(name).map(std::os::unix::ffi::OsStringExt::into_vec)
}

fn file(id: &str, path: &Path) -> Outcome<Vec<u8>> {
    let mut content = Vec::new();
    let limit = SECRET_LIMIT as u64 + 1; // one more shows that it is too large
    let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut content));
    read.map_err(|error| Failure::io(format!("cannot read the secret {id} from `{}`", path.display()), &error))?;
    Ok(content)
}

/// `ID[=SOCKET]`; without a socket the agent of this session.
fn agent(text: &str) -> Outcome<(String, PathBuf)> {
    let wrong = |why: &str| usage("ssh", text, why, "--ssh default or --ssh ID=SOCKET");
    let (id, path) = match text.split_once('=') {
        Some((id, path)) => (id, Some(path.to_owned())),
        None => (text, settings::variable("SSH_AUTH_SOCK")),
    };
    if id.is_empty() {
        return Err(wrong("has no id"));
    }
    let path = path.ok_or_else(|| wrong("names no socket, and SSH_AUTH_SOCK is not set"))?;
    let found = std::fs::metadata(&path)
        .map_err(|error| Failure::io(format!("cannot use the SSH agent at `{path}`"), &error))?;
    if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) {
        return Err(wrong("is not a socket; keys are lent through an agent: ssh-agent, then ssh-add KEY"));
    }
    let path = std::path::absolute(&path)
        .map_err(|error| Failure::io(format!("cannot use the SSH agent at `{path}`"), &error))?;
    Ok((id.to_owned(), path))
}

/// `NAME=IP` or, as docker always had it, `NAME:IP`; an address of version 6 may stand in brackets.
fn host(text: &str) -> Outcome<(String, IpAddr)> {
    let wrong = |why: &str| usage("add-host", text, why, "--add-host NAME=IP");
    let (name, address) =
        text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(|| wrong("has no address"))?;
    if name.is_empty() || name.contains(|char: char| char.is_whitespace() || char.is_control() || char == '#') {
        return Err(wrong("has no usable name"));
    }
    if address == "host-gateway" {
        return Err(wrong("asks for a gateway; RUN steps share this machine's network, use 127.0.0.1"));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    Ok((name.to_owned(), bare.parse().map_err(|_| wrong("has no IP address"))?))
}

/// What is said last of a resource counts.
fn limits(typed: &[String]) -> Outcome<Vec<Limit>> {
    let mut limits: Vec<Limit> = Vec::new();
    for text in typed {
        let limit = limit(text)?;
        limits.retain(|known| known.resource != limit.resource);
        limits.push(limit);
    }
    Ok(limits)
}

/// `NAME=SOFT[:HARD]`; one number is both.
fn limit(text: &str) -> Outcome<Limit> {
    let wrong = |why: &str| usage("ulimit", text, why, "--ulimit nofile=1024:4096");
    let number = |number: &str| match number {
        "-1" | "unlimited" => Ok(None),
        number => number.parse::<u64>().map(Some).map_err(|_| wrong("has no number")),
    };
    let (name, values) = text.split_once('=').ok_or_else(|| wrong("has no value"))?;
    let resource = name.parse().map_err(|error| Failure::because(Exit::Usage, format!("--ulimit `{text}`"), &error))?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let limit = Limit { resource, soft: number(soft)?, hard: number(hard)? };
    if limit.hard.is_some_and(|hard| limit.soft.is_none_or(|soft| soft > hard)) {
        return Err(wrong("has a soft limit above the hard one"));
    }
    Ok(limit)
}

fn shm_size(text: &str) -> Outcome<u64> {
    let size = dockerfile::size(text).filter(|size| *size > 0); // to tmpfs 0 would mean: no limit
    size.ok_or_else(|| usage("shm-size", text, "is not a size", "--shm-size 64m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_where_docker_takes_them() {
        let file = |path: &str| Place::File(path.into());
        for (text, id, place) in [
            ("id=a,src=x", "a", file("x")),
            ("source=x/y,id=a", "a", file("x/y")),
            ("id=a,\"src=x,y\"", "a", file("x,y")),
            ("id=a,env=B", "a", Place::Variable("B".into())),
            ("type=env,id=a", "a", Place::Variable("a".into())),
            ("type=env,id=a,src=B", "a", Place::Variable("B".into())),
            ("type=file,id=a", "a", file("a")),
            ("id=a", "a", Place::Either("a".into())),
        ] {
            assert_eq!(secret(text).ok(), Some((id.to_owned(), place)), "{text}");
        }
        for text in ["", "a", "id=", "src=x", "id=a,src=x,env=Y", "id=a,type=x", "id=a,type=file,env=X", "id=a,nope=1"]
        {
            assert!(secret(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_and_limits() {
        for (text, name, address) in [
            ("db=10.0.0.1", "db", "10.0.0.1"),
            ("db:10.0.0.1", "db", "10.0.0.1"),
            ("six:::1", "six", "::1"),
            ("six=[::1]", "six", "::1"),
        ] {
            assert_eq!(host(text).ok(), Some((name.to_owned(), address.parse().unwrap())), "{text}");
        }
        for text in ["db", "=1.2.3.4", "a b=1.2.3.4", "db=300.1.1.1", "db:host-gateway", "a\n=1.2.3.4"] {
            assert!(host(text).is_err(), "{text}");
        }
        let ends = |text| limit(text).ok().map(|limit| (limit.soft, limit.hard));
        assert_eq!(ends("nofile=5"), Some((Some(5), Some(5))));
        assert_eq!(ends("nofile=5:-1"), Some((Some(5), None)));
        for text in ["nofile", "nofile=", "nofile=7:5", "nofile=-1:5", "files=5", "nofile=5:6:7"] {
            assert!(limit(text).is_err(), "{text}");
        }
        assert_eq!(limits(&["core=1".into(), "core=2".into()]).ok().map(|all| all.len()), Some(1));
    }
}
