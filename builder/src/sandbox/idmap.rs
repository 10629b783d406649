//! Maps user and group ids into a new user namespace, with the ranges that /etc/subuid and /etc/subgid grant and the
//! setuid programs of the package uidmap. Decides nothing about what a single id can still do.

use std::fs;
use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, WaitOptions, getegid, geteuid, getpid, waitpid};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities};

use super::sys::{self, Fork};
use super::{Error, IdRangeRefusal};

/// A run of ids of the machine, granted to one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u32,
    count: u32,
}

/// The kernel takes at most 340 lines of map; nobody has that many ranges.
const RANGE_LIMIT: usize = 339;

/// Moves this process into a new user and mount namespace in which it is root. Returns why only one id could be mapped,
/// or nothing when a range was.
pub(super) fn enter_user_namespace() -> Result<Option<IdRangeRefusal>, Error> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let refused = match own_ids() {
        Some((uids, gids)) => unshare_and_map(move |target| write_maps(target, &uids, &gids))?,
        None => match granted_ranges(uid) {
            Ok((uids, gids)) => {
                let (uids, gids) = (map_arguments(uid, &uids), map_arguments(gid, &gids));
                unshare_and_map(move |target| map_from_outside(target, &uids, &gids))?
            }
            Err(refused) => {
                unshare_user()?;
                Some(refused)
            }
        },
    };
    if refused.is_some() {
        map_single(uid, gid)?;
    }
    Ok(refused)
}

fn unshare_user() -> Result<(), Error> {
    sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).map_err(|source| Error::NoNamespaces { source })
}

/// The root of a container needs nobody's grant for the ids that it has: as it may become any of them, it may map them.
/// None if there is but one, or the capabilities are missing.
fn own_ids() -> Option<(String, String)> {
    let may = capabilities(None).ok()?.effective;
    let is_able = geteuid().is_root() && may.contains(CapabilitySet::SETUID | CapabilitySet::SETGID);
    let lines = |file| -> Option<String> {
        let map = id_map(file).ok()?;
        let many = map.iter().any(|line| line.2 > 1);
        many.then(|| map.iter().map(|(first, _, count)| format!("{first} {first} {count}\n")).collect())
    };
    if is_able { Some((lines("uid_map")?, lines("gid_map")?)) } else { None }
}

/// Runs in the helper, as below.
fn write_maps(target: &str, uids: &str, gids: &str) -> String {
    let write = |file: &str, text: &str| fs::write(format!("/proc/{target}/{file}"), text);
    match write("uid_map", uids).and_then(|()| write("gid_map", gids)) {
        Ok(()) => String::new(),
        Err(error) => format!("{WRITING}\n\n{}", error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

/// Maps must be written outside of the new namespace, and we want to be inside of it: a child made before waits for us.
/// `map` gets our process id and answers nothing, or `program\nwhat it said`.
fn unshare_and_map(map: impl FnOnce(&str) -> String) -> Result<Option<IdRangeRefusal>, Error> {
    let (mut go, mut said) = (io::pipe().map_err(Error::Start)?, io::pipe().map_err(Error::Start)?);
    let target = getpid().as_raw_nonzero().to_string();
    match sys::fork().map_err(Error::Start)? {
        Fork::Child => {
            drop(go.1);
            let answer = match go.0.read(&mut [0]) {
                Ok(1) => map(&target),
                _ => String::new(), // we could not be unshared, or have died
            };
            let _ = said.1.write_all(answer.as_bytes()); // nobody reads if the parent has died
            sys::exit(0)
        }
        Fork::Parent(helper) => {
            drop(said.1);
            let unshared = unshare_user();
            if unshared.is_ok() {
                go.1.write_all(b"1").map_err(Error::Start)?;
            }
            drop(go.1);
            let mut answer = String::new();
            let read = said.0.read_to_string(&mut answer);
            reap(helper);
            unshared.and(read.map_err(Error::Start))?;
            Ok(refusal_of(&answer))
        }
    }
}

fn reap(helper: Pid) {
    // The helper has answered or died; that it is gone is all we want to know.
    while let Err(rustix::io::Errno::INTR) = waitpid(Some(helper), WaitOptions::empty()) {}
}

const PROGRAMS: [&str; 2] = ["newuidmap", "newgidmap"];
const WRITING: &str = "writing the map";

/// Runs in the helper: maps both, and answers nothing or `program\nwhat it said`. The two run at the same time: each
/// takes milliseconds, most of them to be loaded.
fn map_from_outside(target: &str, uids: &[String], gids: &[String]) -> String {
    let start = |program, map: &[String]| {
        Command::new(program)
            .arg(target)
            .args(map)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    };
    let started = [(PROGRAMS[0], start(PROGRAMS[0], uids)), (PROGRAMS[1], start(PROGRAMS[1], gids))];
    let answers = started.map(|(program, child)| match child.and_then(Child::wait_with_output) {
        Ok(output) if output.status.success() => String::new(),
        Ok(output) => format!("{program}\n{}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => format!("{program}\n\n{}", error.raw_os_error().unwrap_or(libc::EIO)),
    });
    answers.into_iter().find(|answer| !answer.is_empty()).unwrap_or_default()
}

fn refusal_of(answer: &str) -> Option<IdRangeRefusal> {
    let (program, said) = answer.split_once('\n')?;
    let program = PROGRAMS.into_iter().chain([WRITING]).find(|name| *name == program)?;
    Some(match said.strip_prefix('\n').and_then(|errno| errno.parse().ok()) {
        Some(errno) => IdRangeRefusal::NoProgram { program, source: io::Error::from_raw_os_error(errno) },
        None => IdRangeRefusal::Failed { program, said: said.to_owned() },
    })
}

/// The one mapping that needs no privilege: root inside is the user outside.
fn map_single(uid: u32, gid: u32) -> Result<(), Error> {
    let write = |file: &str, text: &str| fs::write(format!("/proc/self/{file}"), text);
    let mapped = (|| {
        if id_map("gid_map")?.is_empty() {
            write("setgroups", "deny")?;
            write("gid_map", &format!("0 {gid} 1\n"))?;
        }
        if id_map("uid_map")?.is_empty() {
            write("uid_map", &format!("0 {uid} 1\n"))?;
        }
        Ok(())
    })();
    mapped.map_err(|source| Error::NoNamespaces { source })
}

/// Reads the map of this process: (first inside, first outside, count) per line.
pub(super) fn id_map(file: &str) -> io::Result<Vec<(u32, u32, u32)>> {
    let text = fs::read_to_string(format!("/proc/self/{file}"))?;
    let parse = |line: &str| {
        let mut numbers = line.split_whitespace().map(|n| n.parse().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    };
    Ok(text.lines().filter_map(parse).collect())
}

/// The words of newuidmap after the pid: our own id becomes 0, the granted ranges follow from 1 on.
fn map_arguments(own: u32, ranges: &[Range]) -> Vec<String> {
    let mut words = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut inside: u32 = 1;
    for range in ranges {
        let count = range.count.min(u32::MAX - inside);
        words.extend([inside.to_string(), range.start.to_string(), count.to_string()]);
        inside += count;
    }
    words
}

fn granted_ranges(uid: u32) -> Result<(Vec<Range>, Vec<Range>), IdRangeRefusal> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default(); // without names, numbers still match
    let name = passwd.lines().find_map(|line| user_name(line, uid)).unwrap_or_default();
    let read = |file: &'static str| {
        // A missing file grants as little as an empty one.
        let ranges = ranges_of(&fs::read_to_string(file).unwrap_or_default(), name, uid);
        if ranges.is_empty() { Err(IdRangeRefusal::NoGrant { file, uid }) } else { Ok(ranges) }
    };
    Ok((read("/etc/subuid")?, read("/etc/subgid")?))
}

fn user_name(line: &str, uid: u32) -> Option<&str> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
}

/// The grants of one user in a file like /etc/subuid: `name-or-uid:start:count`.
fn ranges_of(file: &str, name: &str, uid: u32) -> Vec<Range> {
    let parse = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let range = Range { start: fields.next()?.parse().ok()?, count: fields.next()?.parse().ok()? };
        let ours = (!name.is_empty() && owner == name) || owner.parse() == Ok(uid);
        (ours && range.count > 0).then_some(range)
    };
    file.lines().filter_map(parse).take(RANGE_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_found_by_name_and_by_number() {
        let file = "root:1:2\nann:100000:65536\n# ann:5:5\n1000:300000:10\nann:bad:1\nann:7:0\n";
        let wanted = [Range { start: 100_000, count: 65536 }, Range { start: 300_000, count: 10 }];
        assert_eq!(ranges_of(file, "ann", 1000), wanted);
        assert_eq!(ranges_of(file, "", 1000), wanted[1..]);
        assert_eq!(ranges_of(file, "bob", 7), []);
    }

    #[test]
    fn ranges_follow_each_other_inside() {
        let ranges = [Range { start: 100_000, count: 65536 }, Range { start: 300_000, count: u32::MAX }];
        let words = map_arguments(1000, &ranges).join(" ");
        assert_eq!(words, "0 1000 1 1 100000 65536 65537 300000 4294901758");
    }

    #[test]
    fn the_helpers_answer_is_understood() {
        assert!(refusal_of("").is_none());
        assert!(matches!(refusal_of("newuidmap\n\n2"), Some(IdRangeRefusal::NoProgram { program: "newuidmap", .. })));
        let failed = refusal_of("newgidmap\nnewgidmap: gid range [1-2) -> [3-4) not allowed").unwrap();
        assert_eq!(failed.to_string(), "newgidmap failed: newgidmap: gid range [1-2) -> [3-4) not allowed");
    }
}
