//! Starts builders: this executable as a worker, as some user, with a work directory and orders of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ::builder::sandbox::Step;

use crate::worker::{ARGUMENT, Answer, Image, Orders};

/// Who builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The machine's root.
    Root,
    /// A user with a range in /etc/subuid.
    Range,
    /// A user that no file knows; if we are not root, ourselves.
    Ordinary,
}

/// No user database knows it.
const NOBODYS_ID: u32 = 54321;
const RANGE_USER: &str = "lighter-sandbox-test";

pub fn sandbox_init() {
    ::builder::sandbox::init_if_requested();
}

/// A place for one builder, removed at the end.
pub struct Place {
    home: tempfile::TempDir,
    who: Who,
}

impl Place {
    pub fn new(who: Who) -> Self {
        let home = tempfile::Builder::new().prefix("lighter-sandbox-").tempdir().unwrap();
        // The executable may lie where another user cannot go.
        fs::copy("/proc/self/exe", home.path().join("worker")).unwrap();
        for path in ["work", "worker", ""] {
            let path = home.path().join(path);
            if path.ends_with("work") {
                fs::create_dir(&path).unwrap();
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            if let Some(id) = id_of(who) {
                chown(&path, Some(id), Some(id)).unwrap();
            }
        }
        Self { home, who }
    }

    pub fn path(&self) -> &Path {
        self.home.path()
    }

    pub fn work(&self) -> PathBuf {
        self.home.path().join("work")
    }

    /// Carries the orders out and returns what came of it.
    pub fn carry_out(&self, orders: &Orders) -> Answer {
        self.start(orders).answer()
    }

    /// Runs steps one on top of the other.
    pub fn run(&self, image: Image, steps: Vec<Step>) -> Answer {
        self.carry_out(&Orders::new(image, steps))
    }

    pub fn start(&self, orders: &Orders) -> Builder {
        self.start_as_user(Command::new(self.home.path().join("worker")), orders)
    }

    /// Starts a command as the user, which ends up as the worker.
    pub fn start_as_user(&self, mut command: Command, orders: &Orders) -> Builder {
        if let Some(id) = id_of(self.who) {
            command.uid(id).gid(id);
        }
        self.start_as(command, orders)
    }

    /// The same as ourselves.
    pub fn start_as(&self, mut command: Command, orders: &Orders) -> Builder {
        command.arg(ARGUMENT).arg(self.work()).env("LIGHTER_TEST_SECRET", "leaked").current_dir("/");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&serde_json::to_vec(orders).unwrap()).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Builder { child, lines }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Files of mapped ids can only be removed by root or by the builder, whose orders say so; the rest is tempfile's.
        let _ = ::builder::sandbox::remove_tree(self.home.path());
    }
}

/// A running builder.
pub struct Builder {
    pub child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Builder {
    /// Waits until a step has printed this line.
    pub fn wait_for(&mut self, wanted: &str) {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if line.trim() == wanted {
                return;
            }
            line.clear();
        }
        panic!("the builder ended without printing {wanted}");
    }

    pub fn answer(mut self) -> Answer {
        let mut text = String::new();
        self.lines.read_to_string(&mut text).unwrap();
        let status = self.child.wait().unwrap();
        let answer = text.lines().last().unwrap_or_default();
        serde_json::from_str(answer).unwrap_or_else(|error| panic!("builder: {status}, {error}, it said {text:?}"))
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        // After a failed assertion; otherwise it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn id_of(who: Who) -> Option<u32> {
    match who {
        _ if !rustix::process::geteuid().is_root() => None,
        Who::Root => None,
        Who::Ordinary => Some(NOBODYS_ID),
        Who::Range => Some(range_user()),
    }
}

/// Makes the user once; Debian's useradd grants it a range.
fn range_user() -> u32 {
    let find = || {
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd.lines().find(|line| line.starts_with(&format!("{RANGE_USER}:")))?;
        line.split(':').nth(2)?.parse().ok()
    };
    assert!(Path::new("/usr/bin/newuidmap").exists(), "newuidmap is missing; install the Debian package uidmap");
    find().unwrap_or_else(|| {
        let made =
            Command::new("useradd").args(["--no-create-home", RANGE_USER]).status().expect("useradd: install passwd");
        assert!(made.success(), "useradd {RANGE_USER}: {made}");
        find().unwrap()
    })
}
