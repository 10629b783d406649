//! What a disk may hold after the power went, for a traced process. The rules are those of POSIX, not of
//! one file system: a write is durable once its file was synced after it, a name once its directory was;
//! of everything else any part may have reached the disk, in any order, a write also in part. Only that a
//! file which is moved has at least one of its names is taken for granted, as every journal of a file
//! system gives it.

use std::collections::BTreeMap;
use std::path::Path;

use super::trace::Call;

/// Parts of this size, in bytes, are written whole or not at all.
const SECTOR: usize = 512;
const ROOT: Inode = 0;

type Inode = usize;
type Entry = (Inode, String);

/// What a call did to the disk, or to a client.
#[derive(Debug)]
pub enum Act {
    File {
        at: Entry,
        inode: Inode,
    },
    Directory {
        at: Entry,
        inode: Inode,
    },
    /// The file has its new name also where its old one never reached the disk.
    Move {
        from: Entry,
        to: Entry,
        inode: Inode,
    },
    Remove {
        at: Entry,
    },
    Write {
        inode: Inode,
        at: usize,
        data: Vec<u8>,
    },
    Resize {
        inode: Inode,
        length: usize,
    },
    Extend {
        inode: Inode,
        length: usize,
    },
    Sync {
        inode: Inode,
    },
    /// Everything on the file system.
    SyncAll,
    /// An answer to the request of this number, with its status.
    Answer {
        request: usize,
        status: u16,
    },
}

#[derive(Debug)]
pub struct Event {
    pub act: Act,
    began: usize,
    ended: usize,
}

/// Which of the events that nobody waited for have reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    /// None: the cruellest disk.
    None,
    /// All: as after `kill -9`.
    All,
    /// All names and no data.
    Names,
    /// All data and no names.
    Data,
    /// Some, and of writes some sectors.
    Some(u64),
}

impl Event {
    fn is_of(&self, inode: Inode) -> bool {
        match &self.act {
            Act::File { at, .. } | Act::Directory { at, .. } | Act::Remove { at } => at.0 == inode,
            Act::Move { from, to, .. } => from.0 == inode || to.0 == inode,
            Act::Write { inode: of, .. } | Act::Resize { inode: of, .. } | Act::Extend { inode: of, .. } => {
                *of == inode
            }
            Act::Sync { .. } | Act::SyncAll | Act::Answer { .. } => false,
        }
    }

    fn is_a_name(&self) -> bool {
        matches!(self.act, Act::File { .. } | Act::Directory { .. } | Act::Move { .. } | Act::Remove { .. })
    }
}

/// The disk while the events of a trace go by.
pub struct Disk<'a> {
    events: &'a [Event],
    passed: usize,
    durable: Vec<bool>,
}

impl<'a> Disk<'a> {
    pub fn new(events: &'a [Event]) -> Self {
        Self { events, passed: 0, durable: vec![false; events.len()] }
    }

    /// Lets one event happen and says which; `None` at the end.
    pub fn step(&mut self) -> Option<&'a Event> {
        let event = self.events.get(self.passed)?;
        for (earlier, durable) in self.events[..self.passed].iter().zip(&mut self.durable) {
            let synced = match event.act {
                Act::Sync { inode } => earlier.is_of(inode),
                Act::SyncAll => true,
                _ => false,
            };
            *durable |= synced && earlier.ended < event.began;
        }
        self.passed += 1;
        Some(event)
    }

    /// What the disk holds if the power goes now.
    pub fn after_the_cut(&self, luck: Luck) -> Tree {
        let mut tree = Tree::default();
        let mut random = Random(match luck {
            Luck::Some(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            _ => 1,
        });
        for (event, durable) in self.events[..self.passed].iter().zip(&self.durable) {
            let lucky = match luck {
                Luck::None => false,
                Luck::All => true,
                Luck::Names => event.is_a_name(),
                Luck::Data => !event.is_a_name(),
                Luck::Some(_) => random.next().is_multiple_of(2),
            };
            match (&event.act, *durable || lucky) {
                (act, true) => tree.apply(act),
                (Act::Write { inode, at, data }, false) if matches!(luck, Luck::Some(_)) => {
                    tree.tear(*inode, *at, data, &mut random);
                }
                _ => {}
            }
        }
        tree
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 32
    }
}

/// Files and directories by inode; the root is always there.
#[derive(Debug, Default, PartialEq, Eq, Hash, Clone)]
pub struct Tree {
    names: BTreeMap<Entry, Inode>,
    directories: Vec<Inode>,
    data: BTreeMap<Inode, Vec<u8>>,
}

impl Tree {
    fn apply(&mut self, act: &Act) {
        match act {
            Act::File { at, inode } => {
                self.names.insert(at.clone(), *inode);
            }
            Act::Directory { at, inode } => {
                self.names.insert(at.clone(), *inode);
                self.directories.push(*inode);
            }
            Act::Move { from, to, inode } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *inode);
            }
            Act::Remove { at } => {
                self.names.remove(at);
            }
            Act::Write { inode, at, data } => self.write(*inode, *at, data),
            Act::Resize { inode, length } => self.data.entry(*inode).or_default().resize(*length, 0),
            Act::Extend { inode, length } => {
                let data = self.data.entry(*inode).or_default();
                data.resize(data.len().max(*length), 0);
            }
            Act::Sync { .. } | Act::SyncAll | Act::Answer { .. } => {}
        }
    }

    fn write(&mut self, inode: Inode, at: usize, bytes: &[u8]) {
        let data = self.data.entry(inode).or_default();
        data.resize(data.len().max(at + bytes.len()), 0);
        data[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes some of the sectors.
    fn tear(&mut self, inode: Inode, at: usize, bytes: &[u8], random: &mut Random) {
        let mut from = 0;
        while from < bytes.len() {
            let to = ((at + from) / SECTOR * SECTOR + SECTOR - at).min(bytes.len());
            if random.next().is_multiple_of(2) {
                self.write(inode, at + from, &bytes[from..to]);
            }
            from = to;
        }
    }

    /// Makes it a real directory.
    pub fn write_to(&self, root: &Path) {
        self.write_below(ROOT, root);
    }

    fn write_below(&self, directory: Inode, path: &Path) {
        std::fs::create_dir_all(path).unwrap();
        for ((_, name), inode) in self.names.range((directory, String::new())..(directory + 1, String::new())) {
            let path = path.join(name);
            if self.directories.contains(inode) {
                self.write_below(*inode, &path);
            } else {
                std::fs::write(path, self.data.get(inode).map_or(&[][..], Vec::as_slice)).unwrap();
            }
        }
    }
}

/// Follows the calls of a process and says what they did below `root`, which was empty before.
pub fn events(calls: &[Call<'_>], root: &str) -> Vec<Event> {
    let mut process = Process { root, tree: Tree::default(), open: BTreeMap::new(), files: Vec::new(), inodes: 1 };
    let mut events = Vec::new();
    for call in calls {
        let act = process.act(call);
        if let Some(act) = act {
            process.tree.apply(&act);
            events.push(Event { act, began: call.began, ended: call.ended });
        }
    }
    events
}

/// What the process sees: nothing is lost as long as it runs.
struct Process<'a> {
    root: &'a str,
    tree: Tree,
    /// Which open file a descriptor means.
    open: BTreeMap<i64, usize>,
    files: Vec<OpenFile>,
    inodes: Inode,
}

struct OpenFile {
    inode: Inode,
    offset: usize,
    append: bool,
}

impl Process<'_> {
    fn act(&mut self, call: &Call<'_>) -> Option<Act> {
        let unknown = || panic!("the model does not know this call: {}", call.short());
        match call.name {
            "openat" => self.opened(call),
            "close" => {
                self.open.remove(&call.number(0));
                None
            }
            "fcntl" if call.arguments[1].starts_with("F_DUPFD") => self.duplicated(call.number(0), call.result),
            "dup" | "dup2" | "dup3" => self.duplicated(call.number(0), call.result),
            "fcntl" => None,
            "lseek" => {
                if let Some(file) = self.file(call) {
                    file.offset = call.result as usize;
                }
                None
            }
            "write" | "writev" => {
                let data = taken(call);
                match self.open.get(&call.number(0)).map(|file| &mut self.files[*file]) {
                    Some(file) => {
                        let inode = file.inode;
                        let end = self.tree.data.get(&inode).map_or(0, Vec::len);
                        let at = if file.append { end } else { file.offset };
                        file.offset = at + data.len();
                        Some(Act::Write { inode, at, data })
                    }
                    None => answer(&data),
                }
            }
            "sendto" | "sendmsg" => answer(&call.bytes(1)),
            "pwrite64" | "pwritev" | "pwritev2" => {
                let (data, at) = (taken(call), call.number(3) as usize);
                self.file(call).map(|file| Act::Write { inode: file.inode, at, data })
            }
            "ftruncate" => {
                let length = call.number(1) as usize;
                self.file(call).map(|file| Act::Resize { inode: file.inode, length })
            }
            "fallocate" => {
                let length = (call.number(2) + call.number(3)) as usize;
                match call.arguments[1].as_str() {
                    "0" => self.file(call).map(|file| Act::Extend { inode: file.inode, length }),
                    "FALLOC_FL_KEEP_SIZE" => None,
                    _ => unknown(),
                }
            }
            "fsync" | "fdatasync" => self.file(call).map(|file| Act::Sync { inode: file.inode }),
            "syncfs" => self.file(call).map(|_| Act::SyncAll),
            // It says nothing about the disk's own memory nor about the file's size: worth nothing.
            "sync_file_range" => None,
            "rename" => match (self.entry(&call.path(0)), self.entry(&call.path(1))) {
                (Some(from), Some(to)) => {
                    let inode = *self.tree.names.get(&from).expect("it was moved, so it was there");
                    Some(Act::Move { from, to, inode })
                }
                (None, None) => None,
                _ => unknown(),
            },
            "unlink" | "rmdir" => self.entry(&call.path(0)).map(|at| Act::Remove { at }),
            "mkdir" => self.entry(&call.path(0)).map(|at| Act::Directory { at, inode: self.new_inode() }),
            // Directories are removed file by file, relative to an open directory.
            "unlinkat" if call.arguments[0] != "AT_FDCWD" => {
                let directory = self.file(call)?.inode;
                Some(Act::Remove { at: (directory, call.path(1)) })
            }
            "unlinkat" => self.entry(&call.path(1)).map(|at| Act::Remove { at }),
            _ => unknown(),
        }
    }

    fn opened(&mut self, call: &Call<'_>) -> Option<Act> {
        let path = call.path(1);
        let at = match call.arguments[0].as_str() {
            "AT_FDCWD" => self.entry(&path),
            _ => self.file(call).map(|directory| (directory.inode, path)),
        };
        let flag = |name: &str| call.arguments[2].split('|').any(|flag| flag == name);
        let is_root = call.path(1) == self.root;
        if at.is_none() && !is_root {
            return None;
        }
        let there = if is_root { Some(ROOT) } else { self.tree.names.get(at.as_ref()?).copied() };
        let inode = there.unwrap_or_else(|| self.new_inode());
        self.files.push(OpenFile { inode, offset: 0, append: flag("O_APPEND") });
        self.open.insert(call.result, self.files.len() - 1);
        match there {
            Some(inode) => flag("O_TRUNC").then_some(Act::Resize { inode, length: 0 }),
            None => {
                assert!(flag("O_CREAT"), "the model does not know this file: {}", call.path(1));
                at.map(|at| Act::File { at, inode })
            }
        }
    }

    fn duplicated(&mut self, from: i64, to: i64) -> Option<Act> {
        match self.open.get(&from).copied() {
            Some(file) => self.open.insert(to, file),
            None => self.open.remove(&to),
        };
        None
    }

    /// The open file that the first argument means, if it is below the root.
    fn file(&mut self, call: &Call<'_>) -> Option<&mut OpenFile> {
        self.open.get(&call.number(0)).map(|file| &mut self.files[*file])
    }

    fn new_inode(&mut self) -> Inode {
        self.inodes += 1;
        self.inodes - 1
    }

    /// The directory and the name in it that a path means, if it is below the root.
    fn entry(&self, path: &str) -> Option<Entry> {
        let inner = path.strip_prefix(self.root)?.strip_prefix('/')?;
        let mut directory = ROOT;
        let mut names: Vec<_> = inner.split('/').filter(|name| !name.is_empty()).collect();
        let last = names.pop()?;
        for name in names {
            directory = *self.tree.names.get(&(directory, name.to_owned()))?;
        }
        Some((directory, last.to_owned()))
    }
}

/// What was written of what was to be written.
fn taken(call: &Call<'_>) -> Vec<u8> {
    let mut data = call.bytes(1);
    data.truncate(call.result as usize);
    data
}

/// The head of an answer names the request that it is for.
fn answer(data: &[u8]) -> Option<Act> {
    let text = String::from_utf8_lossy(data);
    let status = text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let request = text.lines().find_map(|line| line.strip_prefix("x-request-id: "))?.trim().parse().ok()?;
    Some(Act::Answer { request, status })
}
