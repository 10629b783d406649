//! Processor time and memory of processes, as the kernel counts them in `/proc` (proc_pid_stat(5)).

use std::fs;
use std::time::Duration;

/// The processor time of all children that have ended and were waited for, with their own children.
pub fn of_ended_children() -> Duration {
    let fields = stat("self");
    ticks(fields[13]) + ticks(fields[14]) // cutime, cstime
}

/// The processor time of a process that runs.
pub fn of_process(pid: u32) -> Duration {
    let fields = stat(&pid.to_string());
    ticks(fields[11]) + ticks(fields[12]) // utime, stime
}

/// The processor time of a process that runs, and of its children that have ended.
pub fn of_family(pid: u32) -> Duration {
    let fields = stat(&pid.to_string());
    fields[11..15].iter().map(|count| ticks(*count)).sum() // utime, stime, cutime, cstime
}

/// The processor time of the thread that asks.
pub fn of_this_thread() -> Duration {
    let fields = stat("thread-self");
    ticks(fields[11]) + ticks(fields[12]) // utime, stime
}

/// The memory that a process holds now, in bytes (VmRSS).
pub fn memory_of_process(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel counts memory");
    let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
    kilobytes << 10
}

/// The numbers after the name, which may hold spaces; the first is the third field, `state`, read as zero.
fn stat(process: &str) -> Vec<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process runs");
    let (_, rest) = text.rsplit_once(") ").expect("the name is in parentheses");
    rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect()
}

fn ticks(count: u64) -> Duration {
    Duration::from_secs_f64(count as f64 / rustix::param::clock_ticks_per_second() as f64)
}
