//! Runs real steps in real namespaces. Every case starts this executable again as a builder of its own (`worker`),
//! because a builder moves itself into namespaces; the cases run as root, as a user with a range of ids, and as an
//! ordinary user. Root is needed to become those users: without it the `privileged_*` cases are skipped, aloud.
#![allow(clippy::print_stdout, clippy::print_stderr)] // this file is a test harness: printing is its job

mod builder;
mod cases;
mod worker;

use std::panic::catch_unwind;
use std::process::ExitCode;

use builder::Who;

/// One case: its name and what it does.
pub type Case = (&'static str, fn(Who));

fn main() -> ExitCode {
    builder::sandbox_init();
    if std::env::args().nth(1).as_deref() == Some(worker::ARGUMENT) {
        worker::main();
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let list = words.iter().any(|word| word == "--list");
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(*filter));
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for (name, who, case) in all().into_iter().filter(|(name, ..)| chosen(name)) {
        if list {
            println!("{name}: test");
        } else if name.starts_with("privileged_") && !rustix::process::geteuid().is_root() {
            println!("test {name} ... skipped: it needs root");
            skipped += 1;
        } else if catch_unwind(|| case(who)).is_ok() {
            println!("test {name} ... ok");
            passed += 1;
        } else {
            println!("test {name} ... FAILED");
            failed.push(name);
        }
    }
    if !list {
        println!("\ntest result: {passed} passed; {} failed; {skipped} skipped {failed:?}", failed.len());
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every case by its full name, with the user it is for.
type Named = (String, Who, fn(Who));

fn all() -> Vec<Named> {
    let groups = [
        ("ordinary", Who::Ordinary, cases::EVERYWHERE),
        ("ordinary", Who::Ordinary, cases::ONLY_ORDINARY),
        ("privileged_single", Who::Ordinary, cases::ONLY_ONE_ID),
        ("privileged_range", Who::Range, cases::EVERYWHERE),
        ("privileged_range", Who::Range, cases::WITH_IDS),
        ("privileged_range", Who::Range, cases::WITH_RANGE),
        ("privileged_root", Who::Root, cases::EVERYWHERE),
        ("privileged_root", Who::Root, cases::WITH_IDS),
        ("privileged_root", Who::Root, cases::ONLY_ROOT),
    ];
    let name = |prefix, (name, case): &Case, who| (format!("{prefix}::{name}"), who, *case);
    groups.into_iter().flat_map(|(prefix, who, cases)| cases.iter().map(move |case| name(prefix, case, who))).collect()
}
