//! Disks that are full or fail: writes fail with a clear error, reads go on, and nothing acknowledged is
//! lost. Needs root, for small file systems of its own.

use std::path::Path;
use std::process::Command;

use oci::Digest;

use crate::client::{MANIFEST, Registry, image, noise};

/// A small tmpfs; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).status();
        let mounted = mounted.expect("`mount` is needed: apt-get install mount");
        assert!(mounted.success(), "mounting a tmpfs needs root");
        Self(dir)
    }

    fn fill(&self) {
        let filler = self.0.path().join("filler");
        let mut file = std::fs::File::create(filler).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }

    fn data(&self) -> std::path::PathBuf {
        self.0.path().join("data")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the tmpfs must be unmounted");
    }
}

/// An ext4 in a file, which can be told that it is damaged: it takes no more writes then, and fails syncs,
/// while files are open, as a real one does on a failing disk.
struct FailingDisk {
    dir: tempfile::TempDir,
    mounted: bool,
}

impl FailingDisk {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new("/usr/sbin/mkfs.ext4").arg("-q").arg(&image).status();
        assert!(made.expect("`mkfs.ext4` is needed: apt-get install e2fsprogs").success());
        std::fs::create_dir(dir.path().join("mount")).unwrap();
        let mut disk = Self { dir, mounted: false };
        disk.mount();
        disk
    }

    fn point(&self) -> std::path::PathBuf {
        self.dir.path().join("mount")
    }

    fn mount(&mut self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop,errors=remount-ro"]);
        let mounted = mount.arg(self.dir.path().join("image")).arg(self.point()).status();
        assert!(mounted.expect("`mount` is needed: apt-get install mount").success(), "mounting needs root and loop");
        self.mounted = true;
    }

    fn unmount(&mut self) {
        let unmounted = Command::new("umount").arg(self.point()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the disk must be unmounted");
        self.mounted = false;
    }

    fn fail(&self) {
        let source = Command::new("findmnt").args(["-no", "SOURCE"]).arg(self.point()).output();
        let source = source.expect("`findmnt` is needed: apt-get install util-linux");
        let source = String::from_utf8(source.stdout).unwrap();
        let device = Path::new(source.trim()).file_name().expect("a loop device").to_owned();
        std::fs::write(Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error"), "1").unwrap();
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        if self.mounted {
            // Only where the test failed, and the registry still has files open.
            let _ = Command::new("umount").arg("--lazy").arg(self.point()).status();
        }
    }
}

async fn start(data: &Path) -> Registry {
    let settings = registry::Settings::new("127.0.0.1:0".parse().unwrap(), data);
    Registry::start_with(tempfile::tempdir().unwrap(), settings).await
}

#[tokio::test]
async fn privileged_a_full_disk_refuses_writes_and_serves_reads() {
    let disk = SmallDisk::mount("48m");
    let registry = start(&disk.data()).await;
    let manifest = registry.http.push_image("a", "v1", b"layer").await;
    let location = registry.http.open_upload("a").await;
    registry.http.send("PATCH", &location, &[], "begun").await.expect(202);
    let begun = registry.http.open_upload("a").await;
    registry.http.send("PATCH", &begun, &[], "begun").await.expect(202);
    disk.fill();

    registry.http.send("PATCH", &location, &[], noise(1, 1_000_000)).await.refuses(507, "DENIED");
    // The journal is full too, once what is left of its last page is used up.
    let mut refused = false;
    for number in 0..1000 {
        let text = image(b"layer");
        let put = registry.http.put_manifest("a", &format!("full-{number}"), MANIFEST, text).await;
        refused |= put.status.as_u16() != 201;
        if refused {
            put.refuses(507, "DENIED");
            break;
        }
    }
    assert!(refused, "a full disk takes no manifests for ever");
    assert_eq!(registry.http.get("/v2/a/manifests/v1").await.expect(200).body, manifest);
    assert_eq!(registry.http.get(&format!("/v2/a/blobs/{}", Digest::of(b"layer"))).await.expect(200).body, "layer");
    assert_eq!(
        registry.http.get(&location).await.expect(204).header("range"),
        "0-4",
        "nothing of the failed chunk stays"
    );

    // What makes room is still done: from the room that the journal has set aside for it.
    registry.http.push_is_refused("a", &noise(2, 100_000)).await;
    // A file may be had where the journal is full: its name costs nothing here. Nobody is told that it is there.
    let small = registry.http.send("PUT", &format!("{begun}?digest={}", Digest::of(b"begun")), &[], "").await;
    small.refuses(507, "DENIED");
    registry.http.get(&format!("/v2/a/blobs/{}", Digest::of(b"begun"))).await.expect(404);
    for number in 0..20 {
        let deleted = registry.http.delete(&format!("/v2/a/manifests/full-{number}")).await;
        assert!([202, 404].contains(&deleted.status.as_u16()), "{deleted:?}");
    }
    registry.http.delete("/v2/a/manifests/v1").await.expect(202);
    registry.http.get("/v2/a/manifests/v1").await.expect(404);

    disk.free();
    let digest = Digest::of(b"begun and ended");
    registry.http.send("PUT", &format!("{location}?digest={digest}"), &[], " and ended").await.expect(201);
    registry.http.push_image("a", "v2", b"new layer").await;
    registry.http.push_blob("a", b"begun").await;
    let tags = registry.http.get("/v2/a/tags/list").await.expect(200).json();
    drop(registry.stop().await);
    let registry = start(&disk.data()).await;
    assert_eq!(registry.http.get("/v2/a/tags/list").await.expect(200).json(), tags);
    let blob = registry.http.get(&format!("/v2/a/blobs/{}", Digest::of(b"begun"))).await.expect(200);
    assert_eq!(blob.body, "begun");
    drop(registry.stop().await);
}

#[tokio::test]
async fn privileged_a_failing_disk_makes_the_registry_read_only_and_unready() {
    let mut disk = FailingDisk::make();
    let data = disk.point().join("data");
    let registry = start(&data).await;
    let manifest = registry.http.push_image("a", "v1", b"layer").await;
    let location = registry.http.open_upload("a").await;
    registry.http.get("/readyz").await.expect(200);
    disk.fail();

    registry.http.send("PATCH", &location, &[], "more").await.refuses(503, "UNKNOWN");
    let ready = registry.http.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.json()["status"].as_str()), (503, Some("unready")), "{ready:?}");
    let metrics = registry.http.get("/metrics").await.expect(200).body;
    assert!(String::from_utf8_lossy(&metrics).contains("\nlighter_ready 0\n"));
    registry.http.put_manifest("a", "v2", MANIFEST, image(b"layer")).await.refuses(503, "UNKNOWN");
    registry.http.send("POST", "/v2/a/blobs/uploads/", &[], "").await.refuses(503, "UNKNOWN");
    registry.http.delete("/v2/a/manifests/v1").await.refuses(503, "UNKNOWN");
    registry.http.get("/livez").await.expect(200);
    assert_eq!(registry.http.get("/v2/a/manifests/v1").await.expect(200).body, manifest);
    assert_eq!(registry.http.get(&format!("/v2/a/blobs/{}", Digest::of(b"layer"))).await.expect(200).body, "layer");
    drop(registry.stop().await);

    // On a good disk everything goes on as of the last thing that was acknowledged. What it never took of
    // small blobs is in the journal; this machine was not started anew, but the page cache is gone.
    disk.unmount();
    disk.mount();
    let registry = start(&data).await;
    for blob in [b"layer".as_slice(), b"{}"] {
        assert_eq!(registry.http.get(&format!("/v2/a/blobs/{}", Digest::of(blob))).await.expect(200).body, blob);
    }
    assert_eq!(registry.http.get("/v2/a/tags/list").await.expect(200).json()["tags"], serde_json::json!(["v1"]));
    assert_eq!(registry.http.get("/v2/a/manifests/v1").await.expect(200).body, manifest);
    registry.http.push_image("a", "v2", b"another layer").await;
    drop(registry.stop().await);
}
