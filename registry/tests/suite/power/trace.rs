//! Reads what strace wrote of a process (`-f -xx`, all strings in hexadecimal): its system calls that
//! succeeded, each with the moments at which it began and ended.

use std::collections::BTreeMap;

/// What is asked of strace: everything that changes files, their names and where writes go, and what is
/// sent to clients. Also what this model does not know, so that it fails instead of missing something.
pub const CALLS: &str = "trace=open,openat,openat2,creat,close,close_range,dup,dup2,dup3,fcntl,lseek,write,writev,\
    pwrite64,pwritev,pwritev2,sendto,sendmsg,ftruncate,truncate,fallocate,rename,renameat,renameat2,link,linkat,\
    symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,sync_file_range,syncfs,sync,\
    copy_file_range,splice,io_uring_setup";

/// One system call that succeeded. Moments are lines of the trace.
#[derive(Debug)]
pub struct Call<'a> {
    pub name: &'a str,
    pub arguments: Vec<String>,
    pub result: i64,
    pub began: usize,
    pub ended: usize,
}

/// The calls of a trace in the order in which they took effect.
pub fn calls(trace: &str) -> Vec<Call<'_>> {
    let mut begun = BTreeMap::new();
    let mut calls = Vec::new();
    for (moment, line) in trace.lines().enumerate() {
        let (thread, text) = line.split_once(' ').unwrap_or_else(|| panic!("no line of strace: {line}"));
        let text = text.trim_start();
        if text.starts_with("+++") || text.starts_with("---") {
            continue;
        }
        if let Some(start) = text.strip_suffix("<unfinished ...>") {
            begun.insert(thread, (moment, start));
            continue;
        }
        // It was under way when strace let go of the server, and nobody saw its end.
        if text.ends_with("<detached ...>") {
            continue;
        }
        let (began, whole) = match text.strip_prefix("<... ") {
            Some(rest) => {
                let (began, start) = begun.remove(thread).unwrap_or_else(|| panic!("resumed but never begun: {line}"));
                let rest = rest.split_once(" resumed>").unwrap_or_else(|| panic!("no line of strace: {line}")).1;
                (began, format!("{start}{rest}"))
            }
            None => (moment, text.to_owned()),
        };
        let (name, _) = text.trim_start_matches("<... ").split_once(['(', ' ']).unwrap_or((text, ""));
        calls.extend(call(name, &whole, began, moment));
    }
    // A descriptor is free as soon as its closing begins: another thread may have it before that ends.
    calls.sort_by_key(|call| if call.name == "close" { call.began } else { call.ended });
    calls
}

/// `name(arguments) = result`, unless it failed or never came back.
fn call<'a>(name: &'a str, text: &str, began: usize, ended: usize) -> Option<Call<'a>> {
    let (head, result) = text.rsplit_once(" = ").unwrap_or_else(|| panic!("no result: {text}"));
    let result = result.split(' ').next()?.parse().ok().filter(|result| *result >= 0)?;
    let inner = head.trim_end().strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')?;
    Some(Call { name, arguments: split(inner), result, began, ended })
}

/// Arguments are separated by commas outside brackets. Strings are hexadecimal, so they have none.
fn split(inner: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for letter in inner.chars() {
        match letter {
            '[' | '{' => depth += 1,
            ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("there is always one").push(letter);
    }
    parts.iter().map(|part| part.trim().to_owned()).collect()
}

impl Call<'_> {
    /// The call for a message: buffers are long.
    pub fn short(&self) -> String {
        let arguments = self.arguments.iter().map(|argument| argument.chars().take(200).collect::<String>());
        format!("{}({}) = {}", self.name, arguments.collect::<Vec<_>>().join(", "), self.result)
    }

    /// An argument that is a number.
    pub fn number(&self, which: usize) -> i64 {
        self.arguments[which].parse().unwrap_or_else(|_| panic!("argument {which} is no number: {}", self.short()))
    }

    /// The bytes of all strings in an argument: of a buffer, a list of buffers or a path.
    pub fn bytes(&self, which: usize) -> Vec<u8> {
        let argument = &self.arguments[which];
        assert!(!argument.contains("\"..."), "strace cut a string short: {}", self.short());
        argument.split('"').skip(1).step_by(2).flat_map(unhex).collect()
    }

    /// An argument that is an absolute path.
    pub fn path(&self, which: usize) -> String {
        String::from_utf8(self.bytes(which)).expect("the store's paths are text")
    }
}

fn unhex(text: &str) -> impl Iterator<Item = u8> {
    text.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).expect("strace writes hexadecimal"))
}
