//! Contests: every contestant does the same, in turns, for several rounds; medians and ratios are printed.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{machine, usage};

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Time on the clock.
    pub wall: Duration,
    /// Time of all processors together.
    pub processor: Duration,
}

/// Somebody who does the work, and says what it took. Preparations are not counted.
pub struct Contestant<'a> {
    name: &'static str,
    run: Box<dyn FnMut() -> Cost + 'a>,
}

impl<'a> Contestant<'a> {
    /// Names what is measured.
    pub fn new(name: &'static str, run: impl FnMut() -> Cost + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// Lets everybody run in each round, so that what else the machine does disturbs all alike. The first
/// contestant is the one that the ratios compare with.
pub fn hold(what: &str, rounds: usize, mut contestants: Vec<Contestant<'_>>) {
    let mut costs = vec![Vec::new(); contestants.len()];
    for round in 0..rounds.max(1) {
        for turn in 0..contestants.len() {
            let at = (turn + round) % contestants.len(); // nobody always goes first
            costs[at].push((contestants[at].run)());
        }
    }
    println!("{what} ({rounds} rounds, load {})", machine::load());
    let medians: Vec<(f64, f64)> = costs
        .iter()
        .map(|costs| (median(costs.iter().map(|cost| cost.wall)), median(costs.iter().map(|cost| cost.processor))))
        .collect();
    for (at, contestant) in contestants.iter().enumerate() {
        let (wall, processor) = medians[at];
        let worst = costs[at].iter().map(|cost| cost.wall.as_secs_f64()).fold(0.0, f64::max);
        let best = costs[at].iter().map(|cost| cost.wall.as_secs_f64()).fold(f64::INFINITY, f64::min);
        print!("  {:16} {wall:8.3} s ({best:.3}-{worst:.3})  processor {processor:8.3} s", contestant.name);
        if at > 0 {
            print!("  = {} wall, {} processor", ratio(wall, medians[0].0), ratio(processor, medians[0].1));
        }
        println!();
    }
    println!();
}

fn median(times: impl Iterator<Item = Duration>) -> f64 {
    let mut times: Vec<f64> = times.map(|time| time.as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    if times.len() % 2 == 1 { times[middle] } else { f64::midpoint(times[middle - 1], times[middle]) }
}

/// How many times as much; the kernel counts processor time in hundredths of seconds.
fn ratio(theirs: f64, ours: f64) -> String {
    if ours < 0.02 { "?".to_owned() } else { format!("{:.1}x", theirs / ours) }
}

/// Runs a command to its good end, and counts it and all its children.
pub fn measure(command: &mut Command) -> Cost {
    let (before, begun) = (usage::of_ended_children(), Instant::now());
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let wall = begun.elapsed();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    Cost { wall, processor: usage::of_ended_children().saturating_sub(before) }
}

/// Counts what a server that runs all the time does for some work.
pub fn measure_server(server: u32, work: impl FnOnce()) -> Cost {
    let (before, begun) = (usage::of_process(server), Instant::now());
    work();
    let wall = begun.elapsed();
    Cost { wall, processor: usage::of_process(server).saturating_sub(before) }
}
