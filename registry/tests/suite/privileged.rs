//! A full disk: writes fail with a clear error, reads go on, and nothing acknowledged is lost.
//! Needs root, for a small file system of its own.

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
    let tags = registry.http.get("/v2/a/tags/list").await.expect(200).json();
    drop(registry.stop().await);
    let registry = start(&disk.data()).await;
    assert_eq!(registry.http.get("/v2/a/tags/list").await.expect(200).json(), tags);
    drop(registry.stop().await);
}
