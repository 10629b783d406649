//! Everything that can go wrong before, between and instead of a rollout. A rollout that fails is no
//! error here but an [`crate::Outcome`].

use crate::manifest::InvalidManifest;
use crate::object::ObjectName;
use crate::ownership::Conflict;
use crate::rights::{RoleRule, role};
use crate::target::InvalidTarget;
use crate::ticket::Executed;
use std::path::PathBuf;
use std::time::Duration;

/// What a failure means for who ran us; one exit code each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// All is as wanted (0).
    Success,
    /// Refused before anything was written (10).
    Refused,
    /// Fields belong to somebody else (11).
    Ownership,
    /// A newer deploy took over (12).
    Superseded,
    /// The rollout failed, and the new version is left in place (20).
    Failed,
    /// The rollout failed, and the version before is back and well (21).
    RolledBack,
    /// The rollout failed, and the version before could not be brought back (22).
    RollbackFailed,
    /// The time is over, or nothing can be said yet (23).
    Undecided,
    /// What was asked for makes no sense (64).
    Usage,
    /// A manifest is broken (65).
    Manifest,
    /// There is no cluster to talk to, or it does not answer (69).
    Unreachable,
    /// Trying again may help (75).
    Transient,
    /// The cluster does not let this user do it (77).
    Forbidden,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image cannot be put into the text of a manifest.
    #[error("cannot write the image into {source_name}: {reason}")]
    Rewrite {
        /// The file.
        source_name: String,
        /// Why not.
        reason: String,
    },
    /// No kubeconfig and no pod to be in: a normal case for somebody who has no cluster.
    #[error("there is no Kubernetes cluster: no kubeconfig was found, and this is no pod")]
    NoCluster,
    /// A kubeconfig cannot be used.
    #[error("the kubeconfig {} cannot be used: {reason}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The context is not in the kubeconfig.
    #[error("{} in the kubeconfig; there {}", missing_context(wanted), listed(known, "are no contexts", "is", "are"))]
    UnknownContext {
        /// The one that was asked for; `None` if the file names no current one.
        wanted: Option<String>,
        /// Those that exist.
        known: Vec<String>,
    },
    /// The login of the kubeconfig or pod does not work.
    #[error("no way to log in to the cluster: {0}")]
    Login(String),
    /// The API server does not answer.
    #[error("the API server {server} cannot be reached: {reason}")]
    Unreachable {
        /// Its URL.
        server: String,
        /// The innermost reason.
        reason: String,
    },
    /// The API server did not answer in time.
    #[error("the API server {server} did not answer within {} s", limit.as_secs())]
    Timeout {
        /// Its URL.
        server: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The API server does not know us.
    #[error("the API server {server} does not accept this login: {message}")]
    Unauthorized {
        /// Its URL.
        server: String,
        /// Its words.
        message: String,
    },
    /// The API server knows us and does not let us.
    #[error("not allowed: {message}\nThis role, bound to you, would allow it:\n{}", role("lighter", std::slice::from_ref(rule.as_ref())).trim_end())]
    Forbidden {
        /// The server's words.
        message: String,
        /// What is missing.
        rule: Box<RoleRule>,
    },
    /// The API server would not let us do all that is needed; nothing was written.
    #[error("not allowed; nothing was written. This role, bound to you, would allow what is missing:\n{}", role("lighter", rules).trim_end())]
    MissingRights {
        /// What is missing.
        rules: Vec<RoleRule>,
    },
    /// Nodes could not pull the image.
    #[error("the pods of {object} could not pull {image}: {why}")]
    NotPullable {
        /// The workload.
        object: Box<ObjectName>,
        /// The image.
        image: String,
        /// What the registry said.
        why: String,
    },
    /// A guard does not hold: somebody else was faster.
    #[error("{object} is not written: {why}")]
    Overtaken {
        /// The object.
        object: Box<ObjectName>,
        /// Who, or what.
        why: String,
    },
    /// There is no such version to go back to.
    #[error("{object} has no version {goal}; there {}", listed_lines(known))]
    NoRevision {
        /// The object.
        object: Box<ObjectName>,
        /// The version that was asked for.
        goal: String,
        /// Those that exist.
        known: Vec<String>,
    },
    /// What was asked for cannot be done with this object.
    #[error("{object} {what}")]
    Unfit {
        /// The object.
        object: Box<ObjectName>,
        /// Why not.
        what: String,
    },
    /// A target cannot be read.
    #[error(transparent)]
    Target(#[from] InvalidTarget),
    /// There is nothing to do at all.
    #[error("nothing to deploy: name at least one target or manifest")]
    NoTargets,
    /// A selector selects nothing.
    #[error("no {kinds} in namespace {namespace} has the labels {selector}")]
    NothingSelected {
        /// The kinds that were looked at.
        kinds: String,
        /// Where.
        namespace: String,
        /// The selector.
        selector: String,
    },
    /// An image is needed.
    #[error("a target needs an image to run; name it with its digest")]
    NoImage,
    /// The server serves no such kind.
    #[error("the cluster serves no kind {0:?}")]
    UnknownKind(String),
    /// The object does not exist.
    #[error("{0} does not exist")]
    Missing(Box<ObjectName>),
    /// The kind's pods cannot be changed in place.
    #[error(
        "{object}: the image of this kind cannot be changed in place; a Job can be deleted and made anew (--replace-jobs), a custom resource needs to be told where its image is (--image-path)"
    )]
    Unpatchable {
        /// The object.
        object: Box<ObjectName>,
    },
    /// The container does not exist; nothing was written.
    #[error("{object} has no container {container:?}; it has {}", known.join(", "))]
    UnknownContainer {
        /// The object.
        object: Box<ObjectName>,
        /// The container that was asked for.
        container: String,
        /// Those that exist.
        known: Vec<String>,
    },
    /// Several containers and none that fits.
    #[error("{object} has several containers and none runs an image like {image}; name one: {}", known.join(", "))]
    WhichContainer {
        /// The object.
        object: Box<ObjectName>,
        /// Our image.
        image: String,
        /// Those that exist.
        known: Vec<String>,
    },
    /// Two images for one container.
    #[error("container {container} of {object} is to run both {} and {}; say with each image which container takes it", images[0], images[1])]
    TwoImages {
        /// The object.
        object: Box<ObjectName>,
        /// The container.
        container: String,
        /// Both images.
        images: [String; 2],
    },
    /// An image and manifests in which nothing stands for it.
    #[error("no container in the manifests {} {image}; there {}", match container { Some(name) => format!("is called {name:?} to take"), None => "runs an image like".into() }, listed(known, "are none", "is", "are"))]
    NoImageFits {
        /// Our image.
        image: String,
        /// The container that was asked for.
        container: Option<String>,
        /// Containers and their images.
        known: Vec<String>,
    },
    /// A manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    /// A manifest names another namespace than the command.
    #[error("{origin}: {object} names its own namespace, and {asked} was asked for; leave one of them out")]
    Namespace {
        /// File and document.
        origin: String,
        /// The object.
        object: Box<ObjectName>,
        /// The namespace of the command.
        asked: String,
    },
    /// No node can run the image.
    #[error("no node can run {image}: it is built for {}, and the nodes are {}", offered.join(", "), nodes.join(", "))]
    Platform {
        /// The image.
        image: String,
        /// Its platforms.
        offered: Vec<String>,
        /// Those of the nodes.
        nodes: Vec<String>,
    },
    /// Fields belong to somebody else.
    #[error("{object} has fields that belong to others; nothing was written to it:{}", conflicts.iter().map(|conflict| format!("\n  {conflict}")).collect::<String>())]
    Conflict {
        /// The object.
        object: Box<ObjectName>,
        /// Each field and its owner.
        conflicts: Vec<Conflict>,
    },
    /// The object changed, or was replaced, between looking and writing.
    #[error("{object} was changed by somebody else at this moment: {message}")]
    Changed {
        /// The object.
        object: Box<ObjectName>,
        /// The server's words.
        message: String,
    },
    /// The server refuses the content: validation, quota or admission.
    #[error("the API server refuses {what}: {message}")]
    Rejected {
        /// What was sent.
        what: String,
        /// The server's words.
        message: String,
    },
    /// The server has trouble of its own.
    #[error("the API server {server} has trouble ({code}): {message}")]
    Server {
        /// Its URL.
        server: String,
        /// The HTTP status code.
        code: u16,
        /// Its words.
        message: String,
    },
    /// Some objects were written, then one failed.
    #[error("{source}\nWritten before that: {}", executed.written().collect::<Vec<_>>().join(", "))]
    Halfway {
        /// What was done before.
        executed: Box<Executed>,
        /// What stopped it.
        source: Box<Error>,
    },
}

impl Error {
    /// What it means for who ran us.
    pub fn class(&self) -> Class {
        match self {
            Error::NoCluster | Error::Unreachable { .. } | Error::Timeout { .. } => Class::Unreachable,
            Error::Kubeconfig { .. }
            | Error::UnknownContext { .. }
            | Error::Target(_)
            | Error::NoTargets
            | Error::NoImage => Class::Usage,
            Error::Login(_) | Error::Unauthorized { .. } | Error::Forbidden { .. } => Class::Forbidden,
            Error::Manifest(_) | Error::Namespace { .. } | Error::Rewrite { .. } => Class::Manifest,
            Error::UnknownKind(_)
            | Error::Missing(_)
            | Error::Unpatchable { .. }
            | Error::NoRevision { .. }
            | Error::Unfit { .. }
            | Error::UnknownContainer { .. }
            | Error::WhichContainer { .. }
            | Error::NoImageFits { .. }
            | Error::TwoImages { .. }
            | Error::Platform { .. }
            | Error::NothingSelected { .. }
            | Error::NotPullable { .. }
            | Error::Rejected { .. } => Class::Refused,
            Error::MissingRights { .. } => Class::Forbidden,
            Error::Overtaken { .. } => Class::Superseded,
            Error::Conflict { .. } => Class::Ownership,
            Error::Changed { .. } | Error::Server { .. } => Class::Transient,
            Error::Halfway { source, .. } => source.class(),
        }
    }
}

impl Error {
    /// Whether a write that ended so may have been done all the same.
    pub(crate) fn is_lost_answer(&self) -> bool {
        matches!(self, Error::Unreachable { .. } | Error::Timeout { .. } | Error::Server { .. })
    }
}

fn missing_context(wanted: &Option<String>) -> String {
    match wanted {
        Some(wanted) => format!("there is no context {wanted:?}"),
        None => "no context was chosen".into(),
    }
}

fn listed(names: &[String], none: &str, one: &str, several: &str) -> String {
    match names {
        [] => none.to_owned(),
        [name] => format!("{one} {name}"),
        names => format!("{several} {}", names.join(", ")),
    }
}

fn listed_lines(lines: &[String]) -> String {
    match lines {
        [] => "are none".to_owned(),
        lines => format!("are:{}", lines.iter().map(|line| format!("\n  {line}")).collect::<String>()),
    }
}
