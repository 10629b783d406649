//! The builder that a case starts: makes an image directory, enters the sandbox, runs the ordered steps on top of each
//! other, and answers in JSON on the last line.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use ::builder::sandbox::{Cancel, Isolation, Mode, Step, Stream, enter, remove_tree, run};
use serde::{Deserialize, Serialize};

pub const ARGUMENT: &str = "--worker";

/// What the lowest layer holds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Image {
    /// No layer at all.
    Scratch,
    /// A static busybox as /bin/sh and friends, /etc/passwd, and a few files to change.
    Busybox,
    /// The same, and /dev, /proc, /sys, /etc/hosts, /etc/resolv.conf.
    Complete,
    /// Busybox with links that lead outside.
    Hostile,
    /// Busybox with /proc as a link.
    LinkedProc,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Orders {
    pub image: Image,
    pub steps: Vec<Step>,
    /// Cancels the running step when it prints this.
    pub cancel_at: Option<String>,
    /// Adds this many layers with one file each.
    pub more_layers: usize,
    /// Lays the lowest layer a second time over all others.
    pub lowest_twice: bool,
    /// Starts a thread too early.
    pub thread: bool,
}

impl Orders {
    pub fn new(image: Image, steps: Vec<Step>) -> Self {
        Self { image, steps, cancel_at: None, more_layers: 0, lowest_twice: false, thread: false }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// `root`, `mapped`, `single`, or the error of `enter`.
    pub mode: String,
    pub overlay: String,
    pub proc: String,
    pub refused: Vec<String>,
    pub steps: Vec<Ran>,
    /// How long entering took, in microseconds.
    pub entering: u128,
    /// What the work directory still holds after the clean-up.
    pub left: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ran {
    /// Like `$?`; none if the step could not run.
    pub code: Option<i32>,
    pub signal: bool,
    pub error: String,
    pub stdout: String,
    pub stderr: String,
    /// The upper directory: path to description.
    pub upper: BTreeMap<String, String>,
    pub took: u128,
}

pub fn main() {
    let work = PathBuf::from(std::env::args_os().nth(2).unwrap());
    let mut json = String::new();
    std::io::stdin().read_to_string(&mut json).unwrap();
    let orders: Orders = serde_json::from_str(&json).unwrap();
    let answer = carry_out(&work, orders);
    println!("\n{}", serde_json::to_string(&answer).unwrap());
}

fn carry_out(work: &Path, orders: Orders) -> Answer {
    let mut answer = Answer::default();
    if orders.thread {
        std::thread::spawn(std::thread::park);
    }
    let started = std::time::Instant::now();
    let entered = match enter(work, Isolation::Namespaces) {
        Ok(entered) => entered,
        Err(error) => return Answer { mode: error.to_string(), ..answer },
    };
    answer.entering = started.elapsed().as_micros();
    answer.mode = match entered.mode {
        Mode::Root => "root".to_owned(),
        Mode::Mapped { ids } => format!("mapped {ids}"),
        Mode::SingleUid => "single".to_owned(),
    };
    answer.overlay = format!("{:?}", entered.overlay);
    answer.proc = format!("{:?}", entered.proc);
    answer.refused = entered.refused.iter().map(ToString::to_string).collect();

    let mut layers = lowest_layer(&entered.steps, orders.image);
    for number in 0..orders.more_layers {
        let layer = entered.steps.join(format!("layer-{number}"));
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join(format!("of-layer-{number}")), "").unwrap();
        layers.push(layer);
    }
    if orders.lowest_twice {
        layers.push(layers[0].clone());
    }
    for (number, mut step) in orders.steps.into_iter().enumerate() {
        let place = entered.steps.join(format!("step-{number}"));
        step.layers = layers.clone();
        (step.upper, step.work) = (place.join("upper"), place.join("work"));
        fs::create_dir_all(&step.upper).unwrap();
        fs::create_dir_all(&step.work).unwrap();
        // From here on there are threads, as in the real builder.
        answer.steps.push(std::thread::scope(|scope| {
            scope.spawn(|| run_one(&entered, &step, &orders.cancel_at)).join().unwrap()
        }));
        layers.push(step.upper);
    }
    for entry in fs::read_dir(&entered.steps).unwrap() {
        remove_tree(&entry.unwrap().path()).unwrap();
    }
    answer.left =
        fs::read_dir(&entered.steps).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into()).collect();
    answer
}

fn run_one(entered: &::builder::sandbox::Entered, step: &Step, cancel_at: &Option<String>) -> Ran {
    let cancel = Cancel::new().unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let started = std::time::Instant::now();
    let exit = run(entered, step, &cancel, |stream, bytes| {
        match stream {
            Stream::Stdout => stdout.extend_from_slice(bytes),
            Stream::Stderr => stderr.extend_from_slice(bytes),
        }
        if cancel_at.as_ref().is_some_and(|wanted| String::from_utf8_lossy(&stdout).contains(wanted)) {
            cancel.cancel();
        }
        if stdout.len() < 4096 {
            print!("{}", String::from_utf8_lossy(bytes));
            std::io::stdout().flush().unwrap();
        }
    });
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let mut ran =
        Ran { took: started.elapsed().as_micros(), stdout: text(stdout), stderr: text(stderr), ..Ran::default() };
    match exit {
        Ok(exit) => {
            ran.code = Some(exit.code());
            ran.signal = matches!(exit, ::builder::sandbox::Exit::Signal(_));
        }
        Err(error) => ran.error = error.to_string(),
    }
    describe(&step.upper, entered.overlay.opaque_xattr(), &mut ran.upper);
    ran
}

/// Every entry below a directory. A list instead of calls: steps make deep trees.
fn describe(top: &Path, opaque: &str, into: &mut BTreeMap<String, String>) {
    let mut directories = vec![top.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().display().to_string();
            into.insert(name, described(&path, opaque));
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                directories.push(path);
            }
        }
    }
}

fn described(path: &Path, opaque: &str) -> String {
    let found = fs::symlink_metadata(path).unwrap();
    let mode = found.permissions().mode() & 0o7777;
    let owner = format!("{:o} {}:{}", mode, found.uid(), found.gid());
    let kind = found.file_type();
    if kind.is_dir() {
        let is_opaque = rustix::fs::lgetxattr(path, opaque, &mut [0u8; 4]).is_ok();
        format!("dir{} {owner}", if is_opaque { " opaque" } else { "" })
    } else if kind.is_symlink() {
        format!("link to {}", fs::read_link(path).unwrap().display())
    } else if kind.is_file() {
        format!("file {owner} {} bytes, {} links", found.len(), found.nlink())
    } else if found.rdev() == 0 {
        "whiteout".to_owned()
    } else {
        format!("other {owner}")
    }
}

fn lowest_layer(steps: &Path, image: Image) -> Vec<PathBuf> {
    if matches!(image, Image::Scratch) {
        return Vec::new();
    }
    let layer = steps.join("base");
    for directory in ["bin", "etc", "srv/data", "old/inner", "root", "mnt"] {
        fs::create_dir_all(layer.join(directory)).unwrap();
    }
    fs::copy(busybox(), layer.join("bin/busybox")).unwrap();
    fs::set_permissions(layer.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    for applet in APPLETS {
        symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
    for file in ["etc/passwd", "srv/data/one", "srv/data/two", "srv/three", "old/inner/file"] {
        fs::write(layer.join(file), "content\n").unwrap();
    }
    fs::write(layer.join("bin/orphan"), "#!/no/interpreter\n").unwrap();
    fs::set_permissions(layer.join("bin/orphan"), fs::Permissions::from_mode(0o755)).unwrap();
    match image {
        Image::Complete => {
            for directory in ["dev", "proc", "sys"] {
                fs::create_dir(layer.join(directory)).unwrap();
            }
            for file in ["etc/hosts", "etc/resolv.conf"] {
                fs::write(layer.join(file), "of the image\n").unwrap();
            }
        }
        Image::Hostile => {
            fs::remove_dir_all(layer.join("etc")).unwrap();
            symlink("/proc/1/cwd/../../../../../../tmp/lighter-sandbox-escape", layer.join("etc")).unwrap();
            symlink("/../../../../../../tmp/lighter-sandbox-escape", layer.join("out")).unwrap();
        }
        Image::LinkedProc => symlink("/etc", layer.join("proc")).unwrap(),
        Image::Busybox | Image::Scratch => {}
    }
    vec![layer]
}

const APPLETS: [&str; 41] = [
    "sh", "cat", "ls", "echo", "rm", "mv", "ln", "mkdir", "rmdir", "touch", "chown", "chmod", "id", "pwd", "env",
    "sleep", "mount", "umount", "unshare", "hostname", "ip", "ps", "grep", "seq", "head", "wc", "dd", "test", "true",
    "false", "tty", "stat", "mknod", "kill", "cp", "setsid", "readlink", "chroot", "tail", "tr", "xargs",
];

/// The one program that the images of these tests need.
pub fn busybox() -> &'static str {
    let found = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    found.expect("busybox is missing; install the Debian package busybox-static")
}
