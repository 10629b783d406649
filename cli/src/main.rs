//! The one binary: `lighter`.
//!
//! `args` is what can be typed, `settings` what it means, `command` does it, `failure` and `exit` tell
//! how it ended. Only this crate prints, reads the environment and chooses exit codes.

mod args;
mod command;
mod config;
#[cfg(all(feature = "build", feature = "serve", feature = "deploy"))]
mod embedded;
#[cfg(feature = "build")]
mod exchange;
mod exit;
mod failure;
mod habits;
mod identity;
#[cfg(feature = "build")]
mod images;
mod interrupt;
mod location;
#[cfg(feature = "serve")]
mod log;
mod place;
#[cfg(feature = "build")]
mod progress;
#[cfg(all(feature = "build", feature = "serve", feature = "deploy"))]
mod project;
mod settings;
mod terminal;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::args::{Cli, Command};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

fn main() -> ExitCode {
    #[cfg(feature = "build")]
    builder::sandbox::init_if_requested(); // a step of a build starts here and never comes back
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    start_logging(&cli);
    let outcome = run(cli.command);
    #[cfg(feature = "serve")]
    log::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal::tell(&failure.to_string());
            failure.exit.into()
        }
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print(); // nobody is left to be told
    if let Some(hint) = habits::hint(error) {
        terminal::tell(&format!("hint: {hint}"));
    }
    if error.use_stderr() && error.kind() != clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        Exit::Usage.into()
    } else {
        ExitCode::SUCCESS
    }
}

fn run(command: Command) -> Outcome<()> {
    match command {
        #[cfg(feature = "build")]
        Command::Build(args) => command::build::run(*args),
        #[cfg(feature = "build")]
        Command::Cache(command) => command::cache::run(&command),
        Command::Push(args) => waiting(command::transfer::push(&args)),
        Command::Pull(args) => waiting(command::transfer::pull(&args)),
        Command::Copy(args) => waiting(command::transfer::copy(&args)),
        #[cfg(feature = "build")]
        Command::Index(args::index::IndexCommand::Create(args)) => waiting(command::index::create(&args)),
        Command::Inspect(args) => waiting(command::inspect::inspect(&args)),
        Command::Images(args) => command::images::images(&args),
        #[cfg(feature = "build")]
        Command::Tag(args) => command::naming::tag(&args),
        #[cfg(feature = "build")]
        Command::Rmi(args) => command::naming::rmi(&args),
        Command::Login(args) => waiting(command::login::login(&args)),
        Command::Logout(args) => command::login::logout(&args),
        Command::CredentialProvider(args) => command::credential_provider::run(&args),
        Command::Completions(args) => command::manual::completions(&args),
        Command::Man(args) => command::manual::man(&args),
        #[cfg(feature = "serve")]
        Command::Registry(command) => registry(command),
        #[cfg(feature = "deploy")]
        Command::Deploy(args) => runtime()?.block_on(command::deploy::deploy(*args)),
        #[cfg(feature = "deploy")]
        Command::Set(args::SetCommand::Image(args)) => runtime()?.block_on(command::deploy::set_image(*args)),
        #[cfg(feature = "deploy")]
        Command::Diff(args) => runtime()?.block_on(command::diff::diff(&args)),
        #[cfg(feature = "deploy")]
        Command::Inventory(args) => waiting(command::inventory::inventory(&args)),
        #[cfg(feature = "deploy")]
        Command::PullSecret(args::PullSecretCommand::Ensure(args)) => waiting(command::pull_secret::ensure(&args)),
        #[cfg(feature = "deploy")]
        Command::Rollout(command) => runtime()?.block_on(command::rollout::run(&command)),
        #[cfg(all(feature = "build", feature = "serve", feature = "deploy"))]
        Command::Ship(args) => command::ship::run(&args),
    }
}

#[cfg(feature = "serve")]
fn registry(command: args::RegistryCommand) -> Outcome<()> {
    use args::RegistryCommand as Registry;
    match command {
        Registry::Serve(args) => runtime()?.block_on(command::serve::serve(&args)),
        Registry::Init(args) => command::init::init(&args),
        Registry::Token(command) => command::robot::run(&command),
        Registry::CheckConfig(args) => command::serve::check_config(&args),
        Registry::Gc(args) => waiting(command::upkeep::gc(&args)),
        Registry::Retention(args) => waiting(command::upkeep::retention(&args)),
        Registry::Fsck(args) => waiting(command::upkeep::fsck(&args)),
        Registry::Export(args) => waiting(command::upkeep::export(&args)),
        Registry::Import(args) => waiting(command::upkeep::import(&args)),
        Registry::Backup(args) => command::upkeep::backup(&args),
    }
}

/// Runs a command that waits for the network; Ctrl-C drops it, and what it had half written with it.
fn waiting(work: impl Future<Output = Outcome<()>>) -> Outcome<()> {
    runtime()?.block_on(interrupt::until_signal(work))
}

/// Threads for the network. Made after everything that must happen in a single-threaded process.
pub fn runtime() -> Outcome<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|error| Failure::io("cannot start threads", &error))
}

fn start_logging(cli: &Cli) {
    let default = match cli.verbose {
        #[cfg(feature = "serve")]
        0 if matches!(cli.command, Command::Registry(args::RegistryCommand::Serve(_))) => "info",
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("LIGHTER_LOG");
    let filter = filter
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("{default},sled=warn,hyper=info,rustls=warn")));
    let writer = match cli.command {
        #[cfg(feature = "serve")]
        Command::Registry(_) => {
            log::Gathered::start().map_or_else(|_| BoxMakeWriter::new(std::io::stderr), BoxMakeWriter::new)
        }
        _ => BoxMakeWriter::new(std::io::stderr),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match settings::variable("LIGHTER_LOG_FORMAT").as_deref() {
        Some("json") => lines.json().init(),
        _ => lines.with_target(false).init(),
    }
}
