//! Mounts overlayfs over a chain of layer directories, through the mount API of Linux 6.8 (any number of layers, any
//! path) or through mount(2) before. Whether a place is fit for it is asked with [`probe`].

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
};
use rustix::process::chdir;

use super::Overlay;

/// fsconfig(2) copies strings of at most this many bytes, the final NUL included.
const FSCONFIG_STRING: usize = 256;

/// mount(2) takes one page of options.
const OPTIONS_LIMIT: usize = 4095;

/// No hidden second name for a file, no copy-up of metadata alone, no redirected directories: the upper directory says
/// everything by itself, and hostile layers cannot point elsewhere.
const SETTINGS: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow")];

/// Nothing is synced to the disk before the step has become a layer: package managers call fsync after every file, and
/// after a crash of the machine the step runs again anyway. From Linux 5.10.
const VOLATILE: &str = "volatile";

/// Mounts `layers` (bottom first, at least one) under `upper` at `target`, without working device nodes. May change the
/// current directory.
pub(super) fn mount_overlay(
    layers: &[PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
    kind: Overlay,
) -> io::Result<()> {
    match mount_with_descriptors(layers, upper, work, target, kind) {
        // No fsopen (before 5.2), no lowerdir+ (before 6.8), or an option this kernel does not know.
        Err(Errno::NOSYS | Errno::INVAL | Errno::PERM) => mount_with_options(layers, upper, work, target, kind),
        other => other.map_err(Into::into),
    }
}

fn mount_with_descriptors(
    layers: &[PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
    kind: Overlay,
) -> rustix::io::Result<()> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mut held = Vec::new();
    for (key, value) in [("source", "overlay")].into_iter().chain(SETTINGS) {
        fsconfig_set_string(overlay.as_fd(), key, value)?;
    }
    fsconfig_set_flag(overlay.as_fd(), VOLATILE)?;
    if kind == Overlay::UserXattr {
        fsconfig_set_flag(overlay.as_fd(), "userxattr")?;
    }
    for layer in layers.iter().rev() {
        set_path(overlay.as_fd(), "lowerdir+", layer, &mut held)?;
    }
    set_path(overlay.as_fd(), "upperdir", upper, &mut held)?;
    set_path(overlay.as_fd(), "workdir", work, &mut held)?;
    fsconfig_create(overlay.as_fd())?;
    let mounted = fsmount(overlay.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?;
    move_mount(mounted.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// A long path goes in as the name of a descriptor.
fn set_path(overlay: BorrowedFd<'_>, key: &str, path: &Path, held: &mut Vec<OwnedFd>) -> rustix::io::Result<()> {
    if path.as_os_str().len() < FSCONFIG_STRING {
        return fsconfig_set_string(overlay, key, path);
    }
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    fsconfig_set_string(overlay, key, format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    held.push(directory);
    Ok(())
}

/// The old way: everything in one string of at most a page, so we go to where the layers lie and name them from there.
fn mount_with_options(layers: &[PathBuf], upper: &Path, work: &Path, target: &Path, kind: Overlay) -> io::Result<()> {
    let base = common_parent(layers);
    chdir(&base)?;
    let with = |more| {
        let options = options(layers, &base, upper, work, kind, more).ok_or(Errno::NAMETOOLONG)?;
        mount("overlay", target, "overlay", MountFlags::NODEV, options.as_c_str())
    };
    match with(&[VOLATILE]) {
        Err(Errno::INVAL) => Ok(with(&[])?),
        done => Ok(done?),
    }
}

fn options(
    layers: &[PathBuf],
    base: &Path,
    upper: &Path,
    work: &Path,
    kind: Overlay,
    more: &[&str],
) -> Option<CString> {
    let mut text = b"lowerdir=".to_vec();
    for (i, layer) in layers.iter().rev().enumerate() {
        if i > 0 {
            text.push(b':');
        }
        text.extend(escape(layer.strip_prefix(base).unwrap_or(layer).as_os_str()));
    }
    for (key, path) in [("upperdir", upper), ("workdir", work)] {
        text.extend(format!(",{key}=").as_bytes());
        text.extend(escape(path.as_os_str()));
    }
    for (key, value) in SETTINGS {
        text.extend(format!(",{key}={value}").as_bytes());
    }
    for flag in more.iter().copied().chain((kind == Overlay::UserXattr).then_some("userxattr")) {
        text.extend(format!(",{flag}").as_bytes());
    }
    (text.len() <= OPTIONS_LIMIT).then(|| CString::new(text).ok())?
}

/// overlayfs splits at commas and colons that no backslash precedes.
fn escape(path: &OsStr) -> Vec<u8> {
    let escaped = |&byte: &u8| if matches!(byte, b'\\' | b',' | b':') { vec![b'\\', byte] } else { vec![byte] };
    path.as_bytes().iter().flat_map(escaped).collect()
}

fn common_parent(layers: &[PathBuf]) -> PathBuf {
    let first = layers.first().and_then(|layer| layer.parent()).unwrap_or(Path::new("/"));
    let shared = first.ancestors().find(|base| layers.iter().all(|layer| layer.starts_with(base) && layer != base));
    shared.unwrap_or(Path::new("/")).to_owned()
}

/// Mounts a tiny overlay below `directory` and does in it what decides: deletes, and replaces a directory.
pub(super) fn probe(directory: &Path, kind: Overlay) -> io::Result<()> {
    // Builders in several containers may share the directory, and have the same process id.
    let mut number = [0; 8];
    rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty())?;
    let place = directory.join(format!(".probe-{:016x}", u64::from_ne_bytes(number)));
    let probed = probe_in(&place, kind);
    // What cannot be removed is an empty directory tree of ours; the next builder's clean-up takes it.
    let _ = super::remove_tree(&place);
    probed
}

fn probe_in(place: &Path, kind: Overlay) -> io::Result<()> {
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| place.join(name));
    for directory in [&lower.join("replaced"), &upper, &work, &merged] {
        fs::create_dir_all(directory)?;
    }
    File::create(lower.join("deleted"))?;
    File::create(lower.join("replaced/inside"))?;
    mount_overlay(std::slice::from_ref(&lower), &upper, &work, &merged, kind)?;
    let changed = change(&merged);
    let unmounted = unmount(&merged, UnmountFlags::DETACH);
    changed?;
    unmounted?;
    let whiteout = fs::symlink_metadata(upper.join("deleted"))?;
    let mut opaque = [0; 8];
    let length = rustix::fs::lgetxattr(upper.join("replaced"), kind.opaque_xattr(), &mut opaque[..])?;
    let right = whiteout.file_type().is_char_device() && whiteout.rdev() == 0 && &opaque[..length] == b"y";
    if right { Ok(()) } else { Err(Errno::OPNOTSUPP.into()) }
}

fn change(merged: &Path) -> io::Result<()> {
    fs::remove_file(merged.join("deleted"))?;
    fs::remove_dir_all(merged.join("replaced"))?;
    fs::create_dir(merged.join("replaced"))?;
    rustix::fs::statat(CWD, merged.join("replaced"), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_name_layers_top_first_and_relative() {
        let layers = ["/store/layers/a", "/store/layers/b:1", "/store/other/c,d"].map(PathBuf::from);
        let base = common_parent(&layers);
        assert_eq!(base, Path::new("/store"));
        let options =
            options(&layers, &base, Path::new("/w/up"), Path::new("/w/wo"), Overlay::UserXattr, &[VOLATILE]).unwrap();
        assert_eq!(
            options.to_str().unwrap(),
            "lowerdir=other/c\\,d:layers/b\\:1:layers/a,upperdir=/w/up,workdir=/w/wo,index=off,metacopy=off,\
             redirect_dir=nofollow,volatile,userxattr"
        );
    }

    /// What kernels before 6.8 get. Mounts in a namespace of the test's own thread.
    #[test]
    fn privileged_many_layers_are_mounted_with_options_too() {
        // A user namespace would need a process without threads.
        assert!(
            rustix::process::geteuid().is_root(),
            "mounts in a thread of its own need root: run ./test, or use sudo"
        );
        let home = tempfile::tempdir().unwrap();
        let layers: Vec<_> = (0..100).map(|i| home.path().join(format!("layer:{i},"))).collect();
        for (i, layer) in layers.iter().enumerate() {
            fs::create_dir(layer).unwrap();
            fs::write(layer.join("top"), i.to_string()).unwrap();
        }
        let [upper, work, merged] = ["upper", "work", "merged"].map(|name| home.path().join(name));
        for path in [&upper, &work, &merged] {
            fs::create_dir(path).unwrap();
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                crate::sandbox::sys::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
                let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
                rustix::mount::mount_change("/", private).unwrap();
                mount_with_options(&layers, &upper, &work, &merged, Overlay::Plain).unwrap();
                assert_eq!(fs::read_to_string(merged.join("top")).unwrap(), "99");
                fs::remove_file(merged.join("top")).unwrap();
                unmount(&merged, UnmountFlags::DETACH).unwrap();
            });
        });
        assert!(fs::symlink_metadata(upper.join("top")).unwrap().file_type().is_char_device());
    }

    #[test]
    fn a_layer_is_never_its_own_base() {
        assert_eq!(common_parent(&["/a/b".into()]), Path::new("/a"));
        assert_eq!(common_parent(&["/a/b".into(), "/a/b/c".into()]), Path::new("/a"));
        assert_eq!(common_parent(&[]), Path::new("/"));
    }

    #[test]
    fn too_long_options_are_refused_before_the_kernel_cuts_them() {
        let layers: Vec<_> = (0..200).map(|i| PathBuf::from(format!("/l/{i:064}"))).collect();
        assert!(options(&layers, Path::new("/l"), Path::new("/u"), Path::new("/w"), Overlay::Plain, &[]).is_none());
    }
}
