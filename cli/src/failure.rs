//! Errors, told for people: what failed, why, and what to do now. One place for all commands.

use std::error::Error;
use std::fmt;

use content::remote::Distrust;

use crate::exit::Exit;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What failed, on what.
    pub what: String,
    /// Why, from the outside in.
    pub causes: Vec<String>,
    /// What to do now.
    pub hint: Option<String>,
}

/// The result of a command.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure that needs no cause.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), causes: Vec::new(), hint: None }
    }

    /// A failure with all the causes of an error.
    pub fn because(exit: Exit, what: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        let mut causes = vec![error.to_string()];
        let mut next = error.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Errors that print their source in their own sentence would say everything twice.
            if !causes.last().is_some_and(|last| last.contains(&text)) {
                causes.push(text);
            }
            next = cause.source();
        }
        Self { causes, ..Self::new(exit, what) }
    }

    /// A failure of the file system.
    pub fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        let failure = Self::because(disk_exit(error), what, error);
        match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::NOSPC.raw_os_error() => {
                failure.hint("the disk is full: make room, or choose another place with --data DIR")
            }
            _ => failure,
        }
    }

    /// A failure to read or write content.
    pub fn content(what: impl Into<String>, error: &content::Error) -> Self {
        let failure = Self::because(content_exit(error), what, error);
        match content_hint(error) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// Says what was typed in front of what is wrong with it.
    #[cfg(feature = "build")]
    pub fn about(mut self, typed: &str) -> Self {
        self.causes.insert(0, std::mem::replace(&mut self.what, format!("`{typed}` cannot be used")));
        self
    }

    /// Adds what to do now.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

fn disk_exit(error: &std::io::Error) -> Exit {
    if error.kind() == std::io::ErrorKind::NotFound { Exit::NoInput } else { Exit::Disk }
}

fn content_exit(error: &content::Error) -> Exit {
    match error {
        content::Error::Unauthorized { .. } | content::Error::Denied { .. } => Exit::Forbidden,
        content::Error::Disk { source, .. } => disk_exit(source),
        content::Error::Format { .. } | content::Error::Manifest { .. } | content::Error::Wrong { .. } => {
            Exit::BadInput
        }
        content::Error::Refused { .. } | content::Error::Broken { .. } if error.is_transient() => Exit::Transient,
        _ => Exit::Unavailable,
    }
}

fn content_hint(error: &content::Error) -> Option<String> {
    match error {
        content::Error::Unauthorized { reason, .. } if is_about_time(reason) => Some(
            "the clocks of this machine, of the registry and of who made the token have to agree to a minute"
                .to_owned(),
        ),
        content::Error::Unauthorized { host, .. } => {
            Some(format!("log in with `lighter login {host}`, or set DOCKER_AUTH_CONFIG in the CI job"))
        }
        content::Error::Denied { .. } => {
            Some("ask for the right to do this, or log in as somebody who has it".to_owned())
        }
        content::Error::NoManifest { .. } => {
            Some("check the name and the tag; `lighter inspect` shows what is there".to_owned())
        }
        content::Error::Refused { host, status: 507, .. } => {
            Some(format!("make room on {host}, then try again; what it has already will not be sent twice"))
        }
        content::Error::Unreachable { host, reason } if reason.contains("refused") => {
            Some(format!("nothing listens at {host}; is the registry running, and is the port right?"))
        }
        content::Error::BehindProxy { host, .. } => {
            Some(format!("HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names this proxy; NO_PROXY={host} would do without it"))
        }
        content::Error::Unreachable { host, reason } if reason.contains("dns error") => {
            Some(format!("no machine is called that; is `{host}` written right, and does this machine know it?"))
        }
        content::Error::Unreachable { host, reason } if is_silence(reason) => Some(format!(
            "nothing comes back from {host}: is the machine up, and does a firewall let this port through?"
        )),
        content::Error::Untrusted { host, why } => Some(distrust_hint(host, why)),
        content::Error::PlainHttp { host } => {
            Some(format!("if that is meant, name it with --insecure-registry {host}; else check the port"))
        }
        content::Error::Refused { host, status: 404 | 405, problems, .. } if problems.is_empty() => {
            Some(format!("this is not how a registry answers; is {host} the right port?"))
        }
        content::Error::Disk { source, .. }
            if source.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error()) =>
        {
            Some("the disk is full: make room, or choose another place with --data DIR".to_owned())
        }
        _ => None,
    }
}

/// What to do about a certificate that is not believed.
fn distrust_hint(host: &str, why: &Distrust) -> String {
    match why {
        Distrust::UnknownAuthority => {
            "name its authority with --registry-ca FILE or LIGHTER_REGISTRY_CA; `lighter registry init` wrote it as authority/ca.crt".to_owned()
        }
        Distrust::Expired => format!("{host} needs a new certificate; or the clock of this machine is wrong"),
        Distrust::NotYetValid => "set the clock of this machine, or of the one that made the certificate".to_owned(),
        Distrust::OtherName(_) => {
            "use a name that the certificate has, or make one for this name: `lighter registry init --host NAME`".to_owned()
        }
        Distrust::Other(_) => format!("look at it with `openssl s_client -connect {host}`"),
    }
}

/// Whether nothing was heard at all. The words are those of the connector.
fn is_silence(reason: &str) -> bool {
    ["deadline has elapsed", "timed out", "no answer within"].iter().any(|words| reason.contains(words))
}

/// Whether a token came too late or too early, in the words of our registry or of others.
fn is_about_time(reason: &str) -> bool {
    ["expired", "not valid yet", "not yet valid"].iter().any(|words| reason.contains(words))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {}", cause.replace('\n', "\n    "))?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_says_what_to_do() {
        let error = content::Error::Unauthorized {
            host: "vm2:5000".to_owned(),
            scope: "shop/api".to_owned(),
            reason: "it wants a login, and none is known".to_owned(),
        };
        let failure = Failure::content("could not push to `vm2:5000/shop/api`", &error);
        assert_eq!(failure.exit, Exit::Forbidden);
        assert_eq!(
            failure.to_string(),
            "error: could not push to `vm2:5000/shop/api`\n  \
             caused by: vm2:5000 refused the login for shop/api: it wants a login, and none is known\n\
             hint: log in with `lighter login vm2:5000`, or set DOCKER_AUTH_CONFIG in the CI job"
        );
    }

    #[test]
    fn causes_are_not_said_twice() {
        let source = std::io::Error::from_raw_os_error(28);
        let error = content::Error::Disk { path: "/data/x".into(), source };
        let failure = Failure::content("could not build", &error);
        assert_eq!((failure.exit, failure.causes.len()), (Exit::Disk, 1), "{failure}");
        assert!(failure.to_string().contains("the disk is full"));
    }
}
