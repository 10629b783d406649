//! completions and man: the same definitions as `--help`, for shells and for man(1).

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs, ManArgs};
use crate::failure::{Failure, Outcome};
use crate::terminal::out_bytes;

pub fn completions(args: &CompletionsArgs) -> Outcome<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lighter", &mut script);
    out_bytes(&script);
    Ok(())
}

pub fn man(args: &ManArgs) -> Outcome<()> {
    let failed =
        |error: std::io::Error| Failure::io(format!("cannot write man pages to {}", args.directory.display()), &error);
    std::fs::create_dir_all(&args.directory).map_err(failed)?;
    // A page for `help` and its mirror of the whole tree would say everything twice.
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &args.directory).map_err(failed)
}
