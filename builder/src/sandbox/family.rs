//! The processes of a step that has no pid namespace of its own: its init adopts what they leave behind, and ends them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, getpid, kill_process};

/// More rounds than any family of processes outgrows: everything that was seen in a round is stopped and starts
/// nothing.
const ROUNDS: usize = 1000;

/// The machine's /proc, named from its root, which is the current directory of the init of a bare step.
const PROC: &str = "./proc";

/// Stops all descendants of this process until no new ones appear, then kills them.
pub(super) fn end() {
    let mut stopped = HashSet::new();
    for _ in 0..ROUNDS {
        let new: Vec<Pid> = descendants(Path::new(PROC)).into_iter().filter(|pid| stopped.insert(*pid)).collect();
        if new.is_empty() {
            break;
        }
        for pid in new {
            let _ = kill_process(pid, Signal::STOP); // it may have ended by itself
        }
    }
    for pid in descendants(Path::new(PROC)) {
        let _ = kill_process(pid, Signal::KILL); // as above
    }
}

/// Every process below this one, whatever has happened to those between.
fn descendants(proc: &Path) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some(parent) = parent_of(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut waiting = vec![getpid().as_raw_nonzero().get()];
    while let Some(pid) = waiting.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.extend(Pid::from_raw(child));
            waiting.push(child);
        }
    }
    found
}

/// The parent in `PID (NAME) STATE PARENT …`; the name may hold anything.
fn parent_of(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_found_behind_strange_names() {
        assert_eq!(parent_of("7 (a) b) S 5 7 7 0"), Some(5));
        assert_eq!(parent_of("7 (sh) S"), None);
    }

    #[test]
    fn children_are_found() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let found = descendants(Path::new("/proc"));
        assert!(found.contains(&Pid::from_child(&child)), "{found:?}");
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
