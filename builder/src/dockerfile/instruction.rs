//! What the instructions say, as values. Variables stay as they are written; they are expanded when the
//! stage is planned. How they are read stands in `read`.

use std::time::Duration;

use super::heredoc::{self, Heredoc};

/// One instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// ADD: copies files, unpacks archives, fetches URLs and git repositories.
    Add(Add),
    /// ARG: declares build arguments.
    Arg(Vec<Argument>),
    /// CMD: the default command of a container.
    Cmd(CommandLine),
    /// COPY: copies files.
    Copy(Copy),
    /// ENTRYPOINT: the program that a container runs.
    Entrypoint(CommandLine),
    /// ENV: sets environment variables.
    Env(Vec<Assignment>),
    /// EXPOSE: names ports.
    Expose(Vec<String>),
    /// HEALTHCHECK: how to see whether a container is well.
    Healthcheck(Healthcheck),
    /// LABEL: sets labels.
    Label(Vec<Assignment>),
    /// MAINTAINER: the author; deprecated.
    Maintainer(String),
    /// ONBUILD: an instruction for images built from this one, kept as text.
    Onbuild(String),
    /// RUN: runs a command.
    Run(Run),
    /// SHELL: the shell of the shell form.
    Shell(Vec<String>),
    /// STOPSIGNAL: the signal that stops a container.
    Stopsignal(String),
    /// USER: who runs commands.
    User(String),
    /// VOLUME: names volumes.
    Volume(Vec<String>),
    /// WORKDIR: where commands run.
    Workdir(String),
}

/// `NAME` or `NAME=default` of ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The name.
    pub name: String,
    /// The default, as it is written.
    pub default: Option<String>,
}

/// `name=value` of ENV and LABEL, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// The words of RUN, CMD and ENTRYPOINT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// One text for the shell.
    Shell(String),
    /// The JSON form: a program and its arguments.
    Exec(Vec<String>),
}

/// What COPY and ADD have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// What is copied, without heredocs.
    pub sources: Vec<String>,
    /// Files that stand in the Dockerfile.
    pub heredocs: Vec<Heredoc>,
    /// Where it goes.
    pub destination: String,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--exclude`, each.
    pub excludes: Vec<String>,
}

/// COPY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Sources, destination and the flags shared with ADD.
    pub transfer: Transfer,
    /// `--from`.
    pub from: Option<String>,
    /// `--parents`.
    pub parents: bool,
}

/// ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// Sources, destination and the flags shared with COPY.
    pub transfer: Transfer,
    /// `--checksum`.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`.
    pub unpack: Option<bool>,
}

/// The network of a RUN.
#[derive(Debug, Clone, std::marker::Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// What the builder gives.
    Default,
    /// None.
    None,
    /// The host's.
    Host,
}

/// `--security` of a RUN.
#[derive(Debug, Clone, std::marker::Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// In the sandbox, as always.
    Sandbox,
    /// With all capabilities.
    Insecure,
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command.
    pub command: CommandLine,
    /// The heredocs behind it.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, each as it is written; [`Mount::parse`](super::Mount::parse) reads it.
    pub mounts: Vec<String>,
    /// The `from` of the mounts that have one.
    pub mount_sources: Vec<String>,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
    /// `--device`, each.
    pub devices: Vec<String>,
}

/// HEALTHCHECK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// Switches off what the base image says.
    None,
    /// A command to run now and then.
    Probe(Probe),
}

/// The command of a HEALTHCHECK; a time of zero means docker's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What to run.
    pub command: CommandLine,
    /// Between two runs.
    pub interval: Duration,
    /// How long one run may take.
    pub timeout: Duration,
    /// How long failures do not count after the start.
    pub start_period: Duration,
    /// Between two runs during the start period.
    pub start_interval: Duration,
    /// How many failures in a row count; zero means docker's default.
    pub retries: u32,
}

impl Run {
    /// Whether the command is nothing but one heredoc, which then is the script.
    pub(crate) fn is_lone_heredoc(&self) -> bool {
        match &self.command {
            CommandLine::Shell(text) => matches!(heredoc::parse(text), Ok(Some(_))),
            CommandLine::Exec(_) => false,
        }
    }
}

impl Instruction {
    /// The name of the instruction in capital letters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}
