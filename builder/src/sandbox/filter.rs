//! The system call filter of a step, equal in effect to Docker's default profile without extra capabilities: what is
//! not in the table fails with EPERM, `clone` makes no namespaces, `clone3` does not exist (libc falls back to
//! `clone`), and what is newer than the table does not exist either (as runc does it, so that libc falls back).
//!
//! Where owners are recorded, the calls that speak of owners wait for the answer of a supervisor, see `owners`; that is
//! for the machine's own ABI only.
//!
//! Differences from Docker: on x86-64 the x32 ABI does not exist, on arm64 32-bit programs cannot run.

use super::owners::calls;
use super::syscalls::{ALLOWED, NONE};

/// The last system call that the table's profile knows of; from 424 on all architectures share the numbers.
const LAST_KNOWN: u32 = 466;

const CLONE3: u32 = 435;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NEW_NAMESPACES: u32 = 0x7E02_0000;

/// Address families that moby allows; not AX.25, IrDA, ALG, VSOCK and their like, which have seen too many holes.
const FAMILIES: [(u32, u32); 8] = [(0, 11), (13, 18), (21, 22), (24, 24), (26, 33), (35, 36), (39, 39), (41, 45)];

/// Linux, uname26, no ASLR, both, and the question.
const PERSONALITIES: [(u32, u32); 5] = [(0, 0), (8, 8), (0x20000, 0x20000), (0x20008, 0x20008), (u32::MAX, u32::MAX)];

/// One machine language that the kernel runs, and the numbers in it of the calls that depend on their arguments.
struct Abi {
    /// AUDIT_ARCH_* of linux/audit.h.
    audit: u32,
    column: fn(&(&'static str, u16, u16, u16)) -> u16,
    clone: u32,
    socket: u32,
    personality: u32,
}

#[cfg(target_arch = "x86_64")]
const ABIS: [Abi; 2] = [
    Abi { audit: 0xC000_003E, column: |row| row.1, clone: 56, socket: 41, personality: 135 },
    Abi { audit: 0x4000_0003, column: |row| row.2, clone: 120, socket: 359, personality: 136 },
];

#[cfg(target_arch = "aarch64")]
const ABIS: [Abi; 1] = [Abi { audit: 0xC000_00B7, column: |row| row.3, clone: 220, socket: 198, personality: 92 }];

/// Offsets in struct seccomp_data (little endian).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
const ARGUMENT_LOW: u32 = FIRST_ARGUMENT;
const ARGUMENT_HIGH: u32 = 20;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const FORBID: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

type Code = Vec<libc::sock_filter>;

const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;

/// The flags of open that can make a file: O_CREAT, and the bit of O_TMPFILE that no other flag has.
const MAKES: u32 = (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

/// Assembles the filter for this machine; `asks` leaves the calls that speak of owners to a supervisor.
pub(super) fn program(asks: bool) -> Code {
    let mut code = vec![step(LOAD, ARCHITECTURE)];
    for (number, abi) in ABIS.iter().enumerate() {
        let body = body(abi, asks && number == 0);
        code.push(branch(IF_EQUAL, abi.audit, 1, 0));
        code.push(step(JUMP, body.len() as u32));
        code.extend(body);
    }
    code.push(step(RETURN, FORBID));
    code
}

/// Decides one ABI; every path ends in a return.
fn body(abi: &Abi, asks: bool) -> Code {
    let mut code = vec![step(LOAD, NUMBER)];
    for (number, call) in calls().filter(|_| asks) {
        code.extend(only_for(
            number,
            match call.open_flags() {
                None => vec![step(RETURN, ASK)],
                Some(argument) => vec![
                    step(LOAD, FIRST_ARGUMENT + 8 * argument),
                    branch(IF_ANY_BIT, MAKES, 0, 1),
                    step(RETURN, ASK),
                    step(RETURN, ALLOW),
                ],
            },
        ));
    }
    code.extend([branch(IF_ABOVE, LAST_KNOWN, 0, 1), step(RETURN, UNKNOWN)]);
    code.extend([branch(IF_EQUAL, CLONE3, 0, 1), step(RETURN, UNKNOWN)]);
    code.extend(only_for(abi.clone, plain_clone()));
    code.extend(only_for(abi.socket, first_argument_in(&FAMILIES)));
    code.extend(only_for(abi.personality, first_argument_in(&PERSONALITIES)));
    code.extend(in_ranges(&ranges(abi)));
    code
}

/// Runs `block`, which must end in a return, for one system call.
fn only_for(number: u32, block: Code) -> Code {
    let skip = u8::try_from(block.len()).expect("the blocks above have a few dozen steps");
    [vec![branch(IF_EQUAL, number, 0, skip)], block].concat()
}

fn plain_clone() -> Code {
    vec![step(LOAD, ARGUMENT_LOW), branch(IF_ANY_BIT, NEW_NAMESPACES, 0, 1), step(RETURN, FORBID), step(RETURN, ALLOW)]
}

fn first_argument_in(ranges: &[(u32, u32)]) -> Code {
    let mut code =
        vec![step(LOAD, ARGUMENT_HIGH), branch(IF_EQUAL, 0, 1, 0), step(RETURN, FORBID), step(LOAD, ARGUMENT_LOW)];
    code.extend(in_ranges(ranges));
    code
}

/// Allows what lies in one of the ranges, which are sorted, and forbids the rest.
fn in_ranges(ranges: &[(u32, u32)]) -> Code {
    let mut code = Vec::new();
    for &(first, last) in ranges {
        code.push(branch(IF_ABOVE, last, 3, 0));
        code.push(branch(IF_AT_LEAST, first, 0, 1));
        code.push(step(RETURN, ALLOW));
        code.push(step(RETURN, FORBID));
    }
    code.push(step(RETURN, FORBID));
    code
}

/// The allowed numbers of an ABI, neighbours joined.
fn ranges(abi: &Abi) -> Vec<(u32, u32)> {
    let mut numbers: Vec<u32> = ALLOWED.iter().map(abi.column).filter(|n| *n != NONE).map(u32::from).collect();
    numbers.sort_unstable();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if number <= *last + 1 => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

fn step(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would.
    fn decide(audit: u32, number: u32, argument: u64) -> u32 {
        let code = program(false);
        assert!(code.len() <= 4096, "the kernel takes no longer programs");
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let now = code[at];
            let jump = |taken: bool| 1 + usize::from(if taken { now.jt } else { now.jf });
            at += match now.code {
                LOAD => {
                    accumulator = match now.k {
                        NUMBER => number,
                        ARCHITECTURE => audit,
                        ARGUMENT_LOW => argument as u32,
                        ARGUMENT_HIGH => (argument >> 32) as u32,
                        other => panic!("loads from {other}"),
                    };
                    1
                }
                RETURN => return now.k,
                JUMP => 1 + now.k as usize,
                IF_EQUAL => jump(accumulator == now.k),
                IF_ABOVE => jump(accumulator > now.k),
                IF_AT_LEAST => jump(accumulator >= now.k),
                IF_ANY_BIT => jump(accumulator & now.k != 0),
                other => panic!("unknown code {other}"),
            };
        }
    }

    #[test]
    fn exactly_the_table_is_allowed() {
        for abi in &ABIS {
            let allowed: Vec<u32> = ALLOWED.iter().map(abi.column).filter(|n| *n != NONE).map(u32::from).collect();
            for number in 0..=LAST_KNOWN {
                if [abi.clone, abi.socket, abi.personality, CLONE3].contains(&number) {
                    assert!(!allowed.contains(&number), "{number} depends on its arguments");
                    continue;
                }
                let wanted = if allowed.contains(&number) { ALLOW } else { FORBID };
                assert_eq!(decide(abi.audit, number, u64::MAX), wanted, "call {number} of {:x}", abi.audit);
            }
        }
    }

    #[test]
    fn arguments_decide() {
        for abi in &ABIS {
            let table = [
                (abi.clone, 0x11, ALLOW),
                (abi.clone, 0x1000_0011, FORBID), // a user namespace
                (abi.clone, 0x3D0F00, ALLOW),     // a thread
                (abi.socket, 1, ALLOW),           // AF_UNIX
                (abi.socket, 10, ALLOW),          // AF_INET6
                (abi.socket, 16, ALLOW),          // AF_NETLINK
                (abi.socket, 12, FORBID),         // AF_DECnet
                (abi.socket, 38, FORBID),         // AF_ALG
                (abi.socket, 40, FORBID),         // AF_VSOCK
                (abi.socket, 46, FORBID),
                (abi.socket, 1 << 32 | 1, FORBID),
                (abi.personality, 0, ALLOW),
                (abi.personality, 0xFFFF_FFFF, ALLOW),
                (abi.personality, 0x0040_0000, FORBID), // READ_IMPLIES_EXEC
                (CLONE3, 0, UNKNOWN),
                (LAST_KNOWN + 1, 0, UNKNOWN),
                (0x4000_0000, 0, UNKNOWN), // x32
            ];
            for (number, argument, wanted) in table {
                assert_eq!(decide(abi.audit, number, argument), wanted, "call {number} with {argument:#x}");
            }
        }
    }

    #[test]
    fn unknown_machine_languages_are_forbidden() {
        assert_eq!(decide(0x1234, 1, 0), FORBID);
    }

    #[test]
    fn what_docker_forbids_is_not_in_the_table() {
        let forbidden = [
            "mount",
            "umount2",
            "pivot_root",
            "unshare",
            "setns",
            "keyctl",
            "add_key",
            "request_key",
            "bpf",
            "kexec_load",
            "init_module",
            "reboot",
            "swapon",
            "userfaultfd",
            "perf_event_open",
            "io_uring_setup",
            "open_by_handle_at",
        ];
        for name in forbidden {
            assert!(ALLOWED.iter().all(|row| row.0 != name), "{name}");
        }
    }
}
