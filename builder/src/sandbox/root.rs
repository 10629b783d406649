//! The root file system of one step, seen by pid 1: overlay, /dev, /sys, the mounts of the step, /etc/hosts and
//! /etc/resolv.conf, /proc; and taking it down again.
//!
//! The order is the protection: we first make the image our root (so that absolute names and links can only lead into
//! it), keep the old root as current directory (so that relative names lead there), and mount /proc last, because its
//! links (`/proc/1/cwd`) lead anywhere.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, StatVfsMountFlags, makedev, mknodat, open, statvfs};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root, umask};
use rustix::system::sethostname;

use super::stubs::{self, Kind, Stubs};
use super::wire::{Doing, Failure, Spec};
use super::{Mount, Network, Proc, Step, overlay, sys};
use crate::secret::Secret;

/// What Docker hides (moby's oci/defaults.go). Files become /dev/null, directories an empty tmpfs.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What Docker makes read-only.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Device nodes by major and minor number; all have mode 0666.
pub(super) const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links in /dev. The last one exists for old programs; what it points to is masked.
pub(super) const DEVICE_LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// A prepared root file system, which is also the root of this process.
pub(super) struct Root {
    cwd: OwnedFd,
    stubs: Stubs,
    mounted: Vec<PathBuf>,
}

impl Root {
    /// Builds the root file system of a step and moves this process into it.
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Failure> {
        let step = &spec.step;
        umask(Mode::empty());
        identify(step)?;
        enter(spec)?;
        let mut root = Building { stubs: Stubs::default(), mounted: Vec::new() };
        note_mount_points(&mut root.stubs, step)?;
        root.base_directory("/sys")?;
        root.devices(step)?;
        sys_file_system()?;
        root.network_files(step, &spec.resolv_conf)?;
        step.mounts.iter().try_for_each(|mount| root.mount(mount))?;
        let cwd = working_directory(&step.cwd)?;
        root.proc(spec.proc)?;
        limit_processes();
        leave_old_root()?;
        root.protect()?;
        Ok(Self { cwd, stubs: root.stubs, mounted: root.mounted })
    }

    /// Borrows the working directory of the command.
    pub(super) fn cwd(&self) -> BorrowedFd<'_> {
        self.cwd.as_fd()
    }

    /// Takes everything down that was mounted over the overlay, and removes the mount points that the image did not
    /// have. The command and all it started are dead.
    pub(super) fn leave(self) {
        drop(self.cwd);
        for target in self.mounted.iter().rev() {
            // A step may have moved the directory around a mount point; then the mount goes with the namespace.
            let _ = unmount(target, UnmountFlags::DETACH);
        }
        self.stubs.remove();
    }
}

fn identify(step: &Step) -> Result<(), Failure> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .doing(|| "making mounts private".to_owned())?;
    sethostname(step.hostname.as_bytes()).doing(|| format!("setting the host name {:?}", step.hostname))?;
    match step.network {
        Network::Host => Ok(()),
        Network::None => sys::bring_up_loopback().doing(|| "starting the loopback device".to_owned()),
    }
}

/// Makes the overlay, or the tree, our root. Afterwards the current directory is the old root.
fn enter(spec: &Spec) -> Result<(), Failure> {
    let step = &spec.step;
    let empty = std::slice::from_ref(&spec.empty);
    let layers = if step.layers.is_empty() { empty } else { &step.layers };
    let old = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening /".to_owned())?;
    // The directory itself serves as mount point: only this namespace sees that it is covered.
    let root = match &step.tree {
        Some(tree) => {
            let mounted = mount_bind(tree, tree).map_err(io::Error::from).and_then(|()| restrict(tree, false));
            mounted.doing(|| format!("mounting the tree {}", tree.display()))?;
            tree
        }
        None => {
            overlay::mount_overlay(layers, &step.upper, &step.work, &step.upper, spec.overlay).doing(|| {
                format!("mounting an overlay of {} layers with upper directory {}", layers.len(), step.upper.display())
            })?;
            &step.upper
        }
    };
    chdir(root).doing(|| "entering the root file system".to_owned())?;
    pivot_root(".", ".").doing(|| "making the root file system the root".to_owned())?;
    fchdir(old).doing(|| "returning to the old root".to_owned())
}

/// More processes than any build step has; a step that forks without end meets this before the machine does.
const PROCESS_LIMIT: &str = "16384";

/// A pid namespace has a limit of its own from Linux 6.14; before that the file is the whole machine's and is left
/// alone, and the limits of the user and of the container count.
fn limit_processes() {
    if has_limit_of_its_own(&rustix::system::uname().release().to_string_lossy()) {
        let _ = fs::write("/proc/sys/kernel/pid_max", PROCESS_LIMIT); // not allowed with somebody else's /proc
    }
}

fn has_limit_of_its_own(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 14)
}

fn leave_old_root() -> Result<(), Failure> {
    unmount(".", UnmountFlags::DETACH).doing(|| "leaving the old root".to_owned())?;
    chdir("/").doing(|| "entering the root".to_owned())
}

pub(super) fn working_directory(path: &Path) -> Result<OwnedFd, Failure> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("opening the working directory {}", path.display()))
}

/// Names a path of the old root, which is the current directory.
pub(super) fn outside(path: &Path) -> PathBuf {
    Path::new(".").join(path.strip_prefix("/").unwrap_or(path))
}

/// Makes one of /dev, /proc, /sys if the image lacks it; as with BuildKit it stays.
pub(super) fn make_base_directory(path: &'static str) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            stubs::make(Path::new(path), Kind::Directory).doing(|| format!("making {path}"))
        }
        Err(error) => Err(Failure::new(format!("looking at {path} of the image"), error)),
        Ok(found) if found.is_dir() => Ok(()),
        // A link would let the image choose what our masks cover.
        Ok(_) => Err(Failure::new(format!("using {path} of the image, which must be a directory"), Errno::NOTDIR)),
    }
}

/// All mount points are noted before the first is made, else a directory made for one would seem to be the image's.
pub(super) fn note_mount_points(stubs: &mut Stubs, step: &Step) -> Result<(), Failure> {
    let ours = ["/etc/resolv.conf", "/etc/hosts"].map(Path::new);
    for target in ours.into_iter().chain(step.mounts.iter().map(Mount::target)) {
        stubs.note(target).doing(|| format!("finding the mount point {}", target.display()))?;
    }
    Ok(())
}

/// A root file system on its way.
struct Building {
    stubs: Stubs,
    mounted: Vec<PathBuf>,
}

impl Building {
    fn base_directory(&mut self, path: &'static str) -> Result<(), Failure> {
        make_base_directory(path)?;
        self.mounted.push(path.into());
        Ok(())
    }

    /// No file system of a step has working device nodes except those made here: a step of the machine's root has the
    /// capability to make nodes, and there is no device cgroup that would keep it from the disks.
    fn devices(&mut self, step: &Step) -> Result<(), Failure> {
        self.base_directory("/dev")?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::STRICTATIME;
        mount("tmpfs", "/dev", "tmpfs", flags, c"mode=755,size=65536k").doing(|| "mounting /dev".to_owned())?;
        device_nodes()?;
        for (name, target) in DEVICE_LINKS {
            symlink(target, Path::new("/dev").join(name)).doing(|| format!("making /dev/{name}"))?;
        }
        for name in ["pts", "shm", "mqueue"] {
            fs::create_dir(Path::new("/dev").join(name)).doing(|| format!("making /dev/{name}"))?;
        }
        pseudo_terminals().doing(|| "mounting /dev/pts".to_owned())?;
        let shm = format!("mode=1777,size={}", step.shm_size);
        mount_with(&shm, "/dev/shm", "tmpfs", QUIET).doing(|| "mounting /dev/shm".to_owned())?;
        // Kernels without message queues have none to offer.
        let _ = mount("mqueue", "/dev/mqueue", "mqueue", QUIET, None);
        Ok(())
    }

    /// Generates /etc/resolv.conf and /etc/hosts in /dev, binds them and forgets their first names.
    fn network_files(&mut self, step: &Step, resolv_conf: &[u8]) -> Result<(), Failure> {
        let files = [("/etc/resolv.conf", resolv_conf.to_vec()), ("/etc/hosts", hosts(step))];
        for (target, content) in files {
            self.network_file(Path::new(target), &content).doing(|| format!("mounting {target}"))?;
        }
        Ok(())
    }

    fn network_file(&mut self, target: &Path, content: &[u8]) -> io::Result<()> {
        let source = Path::new("/dev/.generated");
        fs::write(source, content)?;
        fs::set_permissions(source, Permissions::from_mode(0o644))?;
        let real = stubs::resolve(target)?;
        stubs::make(&real, Kind::File)?;
        mount_bind(source, &real)?;
        self.mounted.push(real.clone());
        remount(&real, MountFlags::RDONLY | MountFlags::NODEV)?;
        fs::remove_file(source)
    }

    fn mount(&mut self, mounted: &Mount) -> Result<(), Failure> {
        let target = mounted.target();
        let real = match mounted {
            Mount::Bind { source, read_only, .. } => bind(source, target, *read_only),
            Mount::Tmpfs { size, .. } => tmpfs(target, *size),
            Mount::Secret { content, mode, uid, gid, .. } => secret(target, content, *mode, (*uid, *gid)),
        };
        self.mounted.push(real.doing(|| format!("mounting {}", target.display()))?);
        Ok(())
    }

    fn proc(&mut self, proc: Proc) -> Result<(), Failure> {
        self.base_directory("/proc")?;
        match proc {
            Proc::Fresh => mount("proc", "/proc", "proc", QUIET, None),
            Proc::Outer => mount_bind_recursive("./proc", "/proc"),
            Proc::Absent => Ok(()), // only where nothing is mounted, see `bare`
        }
        .doing(|| "mounting /proc".to_owned())
    }

    fn protect(&mut self) -> Result<(), Failure> {
        for path in MASKED {
            unless_missing(mask(path)).doing(|| format!("masking {path}"))?;
        }
        for path in READ_ONLY {
            let bound =
                mount_bind(path, path).map_err(Into::into).and_then(|()| remount(Path::new(path), MountFlags::RDONLY));
            unless_missing(bound).doing(|| format!("making {path} read-only"))?;
        }
        Ok(())
    }
}

impl Mount {
    /// Where in the root file system.
    pub fn target(&self) -> &Path {
        match self {
            Self::Bind { target, .. } | Self::Tmpfs { target, .. } | Self::Secret { target, .. } => target,
        }
    }
}

fn bind(source: &Path, target: &Path, only_read: bool) -> io::Result<PathBuf> {
    let source = outside(source);
    let kind = if fs::metadata(&source)?.is_dir() { Kind::Directory } else { Kind::File };
    let real = stubs::resolve(target)?;
    stubs::make(&real, kind)?;
    mount_bind_recursive(&source, &real)?;
    restrict(&real, only_read)?;
    Ok(real)
}

fn tmpfs(target: &Path, size: Option<u64>) -> io::Result<PathBuf> {
    let real = stubs::resolve(target)?;
    stubs::make(&real, Kind::Directory)?;
    let options = size.map_or("mode=1777".to_owned(), |size| format!("mode=1777,size={size}"));
    // Programs may run from it, as with BuildKit.
    mount_with(&options, &real, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV)?;
    Ok(real)
}

/// The file lies on a file system of its own in memory, which has no other name once it is bound, and is not swapped
/// out where the kernel can promise that (Linux 6.4, as the machine's root).
fn secret(target: &Path, content: &Secret, mode: u32, owner: (u32, u32)) -> io::Result<PathBuf> {
    let place = Path::new("/dev/.secret");
    fs::create_dir(place)?;
    mount_with("mode=700,size=1m,noswap", place, "tmpfs", QUIET)
        .or_else(|_| mount_with("mode=700,size=1m", place, "tmpfs", QUIET))?;
    let source = place.join("secret");
    fs::write(&source, content.reveal())?;
    chown(&source, Some(owner.0), Some(owner.1))?;
    fs::set_permissions(&source, Permissions::from_mode(mode & 0o7777))?;
    let real = stubs::resolve(target)?;
    stubs::make(&real, Kind::File)?;
    mount_bind(&source, &real)?;
    restrict(&real, true)?;
    unmount(place, UnmountFlags::DETACH)?;
    fs::remove_dir(place)?;
    Ok(real)
}

fn mount_with(options: &str, target: impl AsRef<Path>, kind: &str, flags: MountFlags) -> io::Result<()> {
    let options = std::ffi::CString::new(options)?;
    Ok(mount(kind, target.as_ref(), kind, flags, options.as_c_str())?)
}

fn sys_file_system() -> Result<(), Failure> {
    // A fresh one belongs to the owner of the network namespace, and to those whose own is not masked.
    let fresh = mount("sysfs", "/sys", "sysfs", QUIET | MountFlags::RDONLY, None);
    if fresh.is_ok() {
        control_groups();
        return Ok(());
    }
    mount_bind_recursive("./sys", "/sys").doing(|| "binding /sys".to_owned())?;
    restrict("/sys", true).doing(|| "making /sys read-only".to_owned())
}

/// Shows the control groups, read-only: language runtimes read there how much memory they may use. Nobody needs them to
/// be right, so where they cannot be shown, or not be protected, there are none.
fn control_groups() {
    let path = "/sys/fs/cgroup";
    if mount_bind_recursive(outside(Path::new(path)), path).is_ok() && restrict(path, true).is_err() {
        let _ = unmount(path, UnmountFlags::DETACH);
    }
}

/// Makes the nodes of /dev out of reach, where /sys will be, and binds each to its place.
fn device_nodes() -> Result<(), Failure> {
    let workshop = Path::new("/sys");
    mount("tmpfs", workshop, "tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=700")
        .doing(|| "mounting a place to make devices".to_owned())?;
    for (name, major, minor) in DEVICES {
        device(&workshop.join(name), name, makedev(major, minor)).doing(|| format!("making /dev/{name}"))?;
    }
    unmount(workshop, UnmountFlags::DETACH).doing(|| "leaving the place where devices were made".to_owned())
}

/// Makes a node; where that is forbidden (user namespaces), lends the machine's own.
fn device(node: &Path, name: &str, number: u64) -> io::Result<()> {
    let path = Path::new("/dev").join(name);
    fs::File::create(&path)?;
    let made = match mknodat(CWD, node, FileType::CharacterDevice, Mode::from_raw_mode(0o666), number) {
        Err(Errno::PERM) => outside(&path),
        made => made.map(|()| node.to_owned())?,
    };
    Ok(mount_bind(made, &path)?)
}

/// Group 5 is `tty`; where it does not exist the terminals go without.
fn pseudo_terminals() -> rustix::io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let with_group = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount("devpts", "/dev/pts", "devpts", flags, with_group)
        .or_else(|_| mount("devpts", "/dev/pts", "devpts", flags, c"newinstance,ptmxmode=0666,mode=0620"))
}

/// The text that BuildKit writes.
pub(super) fn hosts(step: &Step) -> Vec<u8> {
    let mut text = format!("127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n", step.hostname);
    for (name, address) in &step.add_hosts {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text.into_bytes()
}

fn mask(path: &str) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => mount("tmpfs", path, "tmpfs", QUIET | MountFlags::RDONLY, None)?,
        false => mount_bind("/dev/null", path)?,
    }
    Ok(())
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
        done => done,
    }
}

/// Forbids device nodes, and writing if wished, with all that is mounted below where the kernel can (Linux 5.12).
fn restrict(target: impl AsRef<Path>, read_only: bool) -> io::Result<()> {
    let path = std::ffi::CString::new(target.as_ref().as_os_str().as_bytes())?;
    let (attribute, flag) = match read_only {
        true => (libc::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
        false => (0, MountFlags::empty()),
    };
    sys::restrict_mounts(&path, libc::MOUNT_ATTR_NODEV | attribute)
        .or_else(|_| remount(target.as_ref(), MountFlags::NODEV | flag))
}

/// A remount states all flags; those of the mount stay, since a user namespace may not clear what it has inherited.
fn remount(target: &Path, more: MountFlags) -> io::Result<()> {
    let now = statvfs(target)?.f_flag;
    let known = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    let kept =
        known.into_iter().filter(|(has, _)| now.contains(*has)).fold(MountFlags::empty(), |all, (_, flag)| all | flag);
    Ok(mount_remount(target, MountFlags::BIND | more | kept, "")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_kernels_count_the_processes_of_a_namespace() {
        for (release, limited) in
            [("6.18.44-x", true), ("6.14.0", true), ("7.0", true), ("6.13.9", false), ("5.15", false), ("", false)]
        {
            assert_eq!(has_limit_of_its_own(release), limited, "{release}");
        }
    }
}
