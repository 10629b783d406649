//! The one contract of all stores, over those of this crate. The registry's store runs it too, and
//! `Remote` runs it over real HTTP there, where a server is at hand.

use std::io::Write;

use content::{Archive, ArchiveKind, Disk, Memory, contract};

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract::check(&Memory::new()).await;
}

#[tokio::test]
async fn a_layout_on_disk_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::create(directory.path().join("layout")).unwrap();
    contract::check(&disk.repository(None)).await;
}

#[tokio::test]
async fn two_repositories_of_one_layout_keep_apart() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::create(directory.path()).unwrap();
    contract::check(&disk.repository(Some("vm2:5000/a".to_owned()))).await;
    let names: Vec<String> = disk.images().unwrap().into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"vm2:5000/a:moving".to_owned()), "{names:?}");
    let other = disk.repository(Some("vm2:5000/b".to_owned()));
    let which = "moving".parse().unwrap();
    assert!(content::Source::manifest(&other, &which).await.unwrap_err().is_missing());
    assert!(disk.unname("vm2:5000/a:moving").unwrap());
    assert!(!disk.unname("vm2:5000/a:moving").unwrap());
}

#[tokio::test]
async fn damaged_layouts_are_told_apart_from_missing_ones() {
    let directory = tempfile::tempdir().unwrap();
    let error = Disk::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("not an OCI image layout"), "{error}");
    let disk = Disk::create(directory.path()).unwrap();
    std::fs::write(directory.path().join("index.json"), "{").unwrap();
    assert!(matches!(disk.images(), Err(content::Error::Format { .. })));
}

#[tokio::test]
async fn archives_carry_an_image_there_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::create(directory.path().join("from")).unwrap();
    contract::check(&disk.repository(None)).await;
    let which = "copied".parse().unwrap();
    let manifest = content::Source::manifest(&disk.repository(None), &which).await.unwrap();
    for kind in [ArchiveKind::Oci, ArchiveKind::Docker] {
        let path = directory.path().join(format!("{kind:?}.tar"));
        let names = ["vm2:5000/shop/api:v1".to_owned()];
        Archive::write(&disk, &manifest, &names, kind, &mut std::fs::File::create(&path).unwrap()).unwrap();
        let back = Disk::create(directory.path().join(format!("{kind:?}"))).unwrap();
        let images = Archive::read(&path, &back).unwrap();
        assert_eq!(images[0].digest, manifest.digest());
        let repository = back.repository(Some("vm2:5000/shop/api".to_owned()));
        let read = content::Source::manifest(&repository, &"v1".parse().unwrap()).await.unwrap();
        assert_eq!(read.bytes(), manifest.bytes());
    }
}

#[tokio::test]
async fn docker_archives_say_names_as_docker_does() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::create(directory.path().join("from")).unwrap();
    contract::check(&disk.repository(None)).await;
    let which = "copied".parse().unwrap();
    let manifest = content::Source::manifest(&disk.repository(None), &which).await.unwrap();
    let names = ["docker.io/library/shop:v1", "docker.io/corp/shop:v1", "vm2:5000/library/shop:v1"].map(str::to_owned);
    let mut bytes = Vec::new();
    Archive::write(&disk, &manifest, &names, ArchiveKind::Docker, &mut bytes).unwrap();
    let tags = r#""RepoTags":["shop:v1","corp/shop:v1","vm2:5000/library/shop:v1"]"#;
    assert!(String::from_utf8_lossy(&bytes).contains(tags));
}

#[test]
fn hostile_archives_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::create(directory.path().join("into")).unwrap();
    let archive = |files: &[(&str, &[u8])]| {
        let path = directory.path().join("archive.tar");
        let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        }
        tar.finish().unwrap();
        Archive::read(&path, &disk).map(|images| images.len()).map_err(|error| error.to_string())
    };
    assert!(archive(&[("../../evil", b"x")]).unwrap_err().contains("no image archive"));
    assert!(!directory.path().parent().unwrap().join("evil").exists());
    let claims = format!(r#"{{"manifests":[{{"mediaType":"","digest":"{}","size":1}}]}}"#, oci::Digest::of(b"absent"));
    assert!(archive(&[("index.json", claims.as_bytes())]).unwrap_err().contains("has no manifest"));
    let docker = br#"[{"Config":"../../../etc/passwd","Layers":[]}]"#;
    assert!(archive(&[("manifest.json", docker)]).unwrap_err().contains("not in the archive"));
}

#[tokio::test]
async fn layers_of_docker_archives_are_what_their_bytes_say() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::create(directory.path().join("into")).unwrap();
    let path = directory.path().join("archive.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let document = br#"[{"Config":"c.json","RepoTags":["a:v1"],"Layers":["plain.tar","a.tar.gz","b.tar.zst"]}]"#;
    for (name, content) in [
        ("manifest.json", &document[..]),
        ("c.json", b"{}"),
        ("plain.tar", b"a file of a tar"),
        ("a.tar.gz", b"\x1f\x8b\x08 and so on"),
        ("b.tar.zst", b"\x28\xb5\x2f\xfd and so on"),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    }
    tar.finish().unwrap();
    drop(tar);
    let image = Archive::read(&path, &disk).unwrap().remove(0);
    let which = oci::Selector::Digest(image.digest);
    let manifest = content::Source::manifest(&disk.repository(None), &which).await.unwrap();
    let oci::ManifestKind::Image { layers, .. } = manifest.kind() else { panic!("an image") };
    let types: Vec<&str> = layers.iter().map(|layer| layer.media_type.as_str()).collect();
    assert_eq!(types, [oci::media_type::OCI_LAYER, oci::media_type::OCI_LAYER_GZIP, oci::media_type::OCI_LAYER_ZSTD]);
}

/// As containerd does it: the newest variant that runs, whatever stands first, and nothing that does not run.
#[tokio::test]
async fn of_an_index_the_best_image_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::create(directory.path()).unwrap();
    let repository = disk.repository(None);
    let kept = |text: String| {
        let manifest = oci::Manifest::parse(None, text.into_bytes()).unwrap();
        disk.put_manifest(&manifest, None).unwrap();
        manifest
    };
    let image = |name: &str| {
        let config = oci::Digest::of(name.as_bytes());
        let mut incoming = disk.incoming().unwrap();
        incoming.write_all(name.as_bytes()).unwrap();
        disk.keep(incoming.finish(config).unwrap()).unwrap();
        let size = name.len();
        kept(format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{size}}},"layers":[]}}"#
        ))
    };
    let index = |platforms: &[&str]| {
        let entries = platforms.iter().map(|text| {
            let manifest = image(text);
            let (platform, size) = (text.parse::<oci::Platform>().unwrap(), manifest.bytes().len());
            let platform = serde_json::to_string(&platform).unwrap();
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{size},"platform":{platform}}}"#,
                manifest.digest()
            )
        });
        let entries = entries.collect::<Vec<_>>().join(",");
        kept(format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{entries}]}}"#
        ))
    };
    for (offered, wanted, taken) in [
        (&["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"][..], "linux/arm/v7", Some("linux/arm/v6")),
        (&["linux/amd64/v3", "linux/386", "linux/amd64"], "linux/amd64", Some("linux/amd64")),
        (&["linux/386"], "linux/amd64", Some("linux/386")),
        (&["linux/amd64/v3"], "linux/amd64", None),
        (&["linux/arm64", "unknown/unknown"], "linux/amd64", None),
    ] {
        let index = index(offered);
        let found = content::select_platform(&repository, index, &wanted.parse().unwrap()).await;
        match (found, taken) {
            (Ok(found), Some(taken)) => assert_eq!(found.digest(), image(taken).digest(), "{offered:?} for {wanted}"),
            (Err(error), None) => {
                let error = error.to_string();
                assert!(error.contains("has no image for linux/amd64") && !error.contains("unknown"), "{error}");
            }
            (found, _) => panic!("{offered:?} for {wanted}: {:?}", found.map(|manifest| manifest.digest())),
        }
    }
}
