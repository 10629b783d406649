//! Whole builds without RUN: they need no sandbox, so they run in the test's own process. Base images
//! are results of earlier builds of the same test.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use builder::build::{BaseImages, Built, Directory, Error, LayerOrigin, Request, Resolved, Workshop};
use builder::cache::Cache;
use builder::config::ImageConfig;
use builder::event::Event;
use builder::ignore::Patterns;
use builder::output::Output;
use builder::sandbox::Cancel;
use builder::{build, dockerfile};
use content::{ArchiveKind, Disk};
use oci::{Descriptor, Platform, Reference};

/// A store, a cache, a context, and the images that were built.
struct Place {
    directory: tempfile::TempDir,
    images: Mutex<BTreeMap<String, Built>>,
    opened: AtomicUsize,
    events: Mutex<Vec<String>>,
}

impl BaseImages for Place {
    fn resolve(&self, reference: &Reference, _: &Platform) -> content::Result<Resolved> {
        let images = self.images.lock().unwrap();
        let which = reference.selector();
        let built =
            images.get(&reference.to_string()).ok_or(content::Error::NoManifest { place: "the test".into(), which })?;
        let origin = Some(content::Origin { host: "registry.test".parse().unwrap(), name: "base".parse().unwrap() });
        let (manifest, config) = (built.manifest.clone(), built.config.clone());
        Ok(Resolved { reference: reference.clone(), manifest, config, origin })
    }

    fn open(&self, _: &Resolved, layer: &Descriptor) -> content::Result<Box<dyn Read + Send>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let store = Disk::open(self.path("registry"))?;
        Ok(Box::new(store.open_blob(&layer.digest)?.expect("the registry of the test has all it was given")))
    }
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("context")).unwrap();
        Self { directory, images: Mutex::default(), opened: AtomicUsize::new(0), events: Mutex::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.path("context").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn request(&self, text: &str) -> Request {
        let file = dockerfile::parse(text.as_bytes(), "Dockerfile").unwrap_or_else(|error| panic!("{error}"));
        Request::new(file, Directory { path: self.path("context"), ignore: Patterns::default() })
    }

    fn try_build(&self, request: &Request) -> Result<Built, Error> {
        self.try_build_in(request, "store", &Cancel::new().unwrap())
    }

    fn try_build_in(&self, request: &Request, store: &str, cancel: &Cancel) -> Result<Built, Error> {
        let store = Disk::create(self.path(store)).unwrap();
        let cache = Cache::open(&self.path("cache")).unwrap();
        self.events.lock().unwrap().clear();
        let events = |event: Event| {
            self.events.lock().unwrap().push(match event {
                Event::Started(step) => format!("{}/{} {}", step.number, step.total, step.title),
                Event::Cached(_) => "cached".to_owned(),
                Event::Done { .. } => "done".to_owned(),
                Event::Base { step, .. } => step.title.clone(),
                Event::Fetch { .. } => "fetch".to_owned(),
                Event::Failed(step) => format!("{} failed", step.title),
                Event::Warning { message, .. } => message,
                Event::Output { .. } => "output".to_owned(),
            });
        };
        let workshop = Workshop { store: &store, cache: &cache, images: self, sandbox: None, events: &events, cancel };
        build(request, &workshop)
    }

    fn build(&self, text: &str) -> Built {
        self.try_build(&self.request(text)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Builds an image into the test's registry, under a name, with a cache of its own.
    fn publish(&self, name: &str, text: &str) {
        let built = self.try_build_in(&self.request(text), "registry", &Cancel::new().unwrap()).unwrap();
        self.images.lock().unwrap().insert(name.parse::<Reference>().unwrap().to_string(), built);
        fs::remove_dir_all(self.path("cache")).unwrap();
    }

    fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }

    fn problem(&self, text: &str) -> String {
        let error = self.try_build(&self.request(text)).expect_err(text);
        format!("{error}\nhint: {}", error.hint().unwrap_or_default())
    }
}

/// The files of an image by name, with what matters of each.
fn files(place: &Place, request: &mut Request) -> BTreeMap<String, String> {
    let path = place.path("files.tar");
    request.outputs = vec![Output::Tar(path.clone())];
    place.try_build(request).unwrap_or_else(|error| panic!("{error}"));
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(fs::File::open(path).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned();
        let (mode, uid, gid) =
            (entry.header().mode().unwrap(), entry.header().uid().unwrap(), entry.header().gid().unwrap());
        let link = entry.link_name().unwrap().map(|link| format!(" -> {}", link.display())).unwrap_or_default();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name, format!("{mode:o} {uid}:{gid}{link} {text}").trim_end().to_owned());
    }
    files
}

fn config(built: &Built) -> ImageConfig {
    ImageConfig::parse(&built.config).unwrap()
}

#[test]
fn stages_contexts_and_heredocs_become_files() {
    let place = Place::new();
    place.file("a/x", "one");
    place.file("a/y", "two");
    place.file("passwd", "root:x:0:0::/:/bin/sh\napp:x:7:70::/:/bin/sh\n");
    let mut request = place.request(
        "FROM scratch AS first\nCOPY passwd /etc/\nCOPY --chown=app --chmod=640 a /data\nWORKDIR /data/sub\nUSER app\nWORKDIR own\n\
         FROM scratch\nENV who=me\nCOPY --from=first /data/ /d/\nCOPY <<EOF <<'RAW' /h/\nhi $who\nEOF\n$who\nRAW\nCOPY a/x a/",
    );
    let found = files(&place, &mut request);
    let expected = [
        ("a", "755 0:0"),
        ("a/x", "644 0:0 one"),
        ("d", "755 0:0"),
        ("d/sub", "755 0:0"),
        ("d/sub/own", "755 7:70"),
        ("d/x", "640 7:70 one"),
        ("d/y", "640 7:70 two"),
        ("h", "755 0:0"),
        ("h/EOF", "644 0:0 hi me"),
        ("h/RAW", "644 0:0 $who"),
    ];
    let expected: BTreeMap<String, String> = expected.map(|(name, what)| (name.into(), what.into())).into();
    assert_eq!(found, expected);
}

#[test]
fn what_was_built_is_not_built_again() {
    let place = Place::new();
    place.file("f", "one");
    let text = "FROM scratch\nCOPY f /\nENV a=b\nWORKDIR /w\nCOPY f g /x/\n";
    place.file("g", "two");
    let first = place.build(text);
    assert_eq!((first.steps_done, first.steps_cached), (3, 0));
    let again = place.build(text);
    assert_eq!((again.steps_done, again.steps_cached), (0, 3));
    assert_eq!(again.manifest.digest(), first.manifest.digest(), "times come from the cache, too");
    assert_eq!(place.events(), ["1/3 COPY f /", "cached", "2/3 WORKDIR /w", "cached", "3/3 COPY f g /x/", "cached"]);

    let file = fs::File::open(place.path("context/f")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(place.build(text).steps_cached, 3, "a time is no content");
    let times = fs::metadata(place.path("context/g")).unwrap().modified().unwrap();
    place.file("g", "TWO");
    fs::File::open(place.path("context/g")).unwrap().set_modified(times).unwrap();
    let changed = place.build(text);
    assert_eq!(
        (changed.steps_done, changed.steps_cached),
        (1, 2),
        "content decides, also under the same time and size"
    );
    assert_eq!(
        changed.layers.iter().map(|layer| layer.origin).collect::<Vec<_>>(),
        [LayerOrigin::Cache, LayerOrigin::Cache, LayerOrigin::Built]
    );
    let mut request = place.request(text);
    request.no_cache = true;
    assert_eq!(place.try_build(&request).unwrap().steps_done, 3);
}

#[test]
fn a_stage_that_changes_in_vain_changes_nothing_after_it() {
    let place = Place::new();
    place.file("f", "one");
    let text = |extra: &str| {
        format!("FROM scratch AS a\nCOPY f /\nCOPY <<E /other\n{extra}\nE\nFROM scratch\nCOPY --from=a /f /\n")
    };
    place.build(&text("1"));
    let built = place.build(&text("2"));
    assert_eq!((built.steps_done, built.steps_cached), (1, 2));
}

#[test]
fn base_layers_are_fetched_only_if_a_step_needs_them() {
    let place = Place::new();
    place.file("f", "one");
    place.publish("base", "FROM scratch\nCOPY f /etc/f\nENV FROM_BASE=1 PATH=/p\nCMD [\"sh\"]\nONBUILD LABEL l=v");
    let built = place.build("FROM base\nENV x=$FROM_BASE");
    assert_eq!(place.opened.load(Ordering::SeqCst), 0, "only the config changed");
    let made = config(&built);
    assert_eq!((made.run.env("x"), made.run.env("PATH"), made.run.labels["l"].as_str()), (Some("1"), Some("/p"), "v"));
    assert_eq!(made.diff_ids.len(), 1);
    assert_eq!(built.layers[0].origin, LayerOrigin::Base);
    let store = Disk::open(place.path("store")).unwrap();
    assert_eq!(store.blob_size(&built.layers[0].digest).unwrap(), None, "the store knows where to get it");

    let mut request = place.request("FROM base\nCOPY f /etc/g");
    let found = files(&place, &mut request);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["etc", "etc/f", "etc/g"]);
    assert_eq!(place.opened.load(Ordering::SeqCst), 1, "fetched once for the destination and the output");
}

#[test]
fn triggers_of_an_image_may_need_a_stage_that_nobody_else_needs() {
    let place = Place::new();
    place.file("f", "one");
    place.publish("base", "FROM scratch\nONBUILD COPY --from=tools /t /t");
    let built = place.build("FROM scratch AS below\nCOPY f /t\nFROM below AS tools\nFROM base\nCOPY f /f");
    assert_eq!(built.layers.len(), 2);
    assert!(config(&built).run.on_build.is_empty());
}

#[test]
fn every_output_holds_the_same_image() {
    let place = Place::new();
    place.file("bin/tool", "#!/bin/sh\n");
    fs::set_permissions(place.path("context/bin/tool"), fs::Permissions::from_mode(0o750)).unwrap();
    std::os::unix::fs::symlink("tool", place.path("context/bin/link")).unwrap();
    let mut request = place.request("FROM scratch\nCOPY . /\n");
    request.names = vec!["shop/api:v1".parse().unwrap()];
    request.outputs = vec![
        Output::Layout(place.path("layout")),
        Output::Archive(ArchiveKind::Oci, place.path("oci.tar")),
        Output::Archive(ArchiveKind::Docker, place.path("docker.tar")),
        Output::Directory(place.path("tree")),
    ];
    let built = place.try_build(&request).unwrap();
    for name in ["oci.tar", "docker.tar"] {
        let disk = Disk::create(place.path(&format!("read-{name}"))).unwrap();
        let found = content::Archive::read(&place.path(name), &disk).unwrap();
        assert_eq!(found.iter().map(|image| image.digest).collect::<Vec<_>>(), [built.manifest.digest()], "{name}");
    }
    let layout = Disk::open(place.path("layout")).unwrap();
    assert_eq!(layout.images().unwrap()[0].0, "v1");
    assert_eq!(layout.images().unwrap()[0].1.digest, built.manifest.digest());
    let store = Disk::open(place.path("store")).unwrap();
    assert_eq!(store.images().unwrap()[0].0, "docker.io/shop/api:v1");
    let tool = place.path("tree/bin/tool");
    assert_eq!(fs::read_to_string(&tool).unwrap(), "#!/bin/sh\n");
    assert_eq!(fs::metadata(&tool).unwrap().permissions().mode() & 0o7777, 0o750);
    assert_eq!(fs::read_link(place.path("tree/bin/link")).unwrap(), Path::new("tool"));
    // Once more into the same places: archives are replaced, directories take in what is new.
    fs::write(place.path("tree/mine"), "stays").unwrap();
    place.try_build(&request).unwrap();
    assert_eq!(fs::read_to_string(place.path("tree/mine")).unwrap(), "stays");
    let left: Vec<_> = fs::read_dir(place.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".partial")), "{left:?}");
}

/// Docker's own base images have devices, and whoever may make them finds them in the directory.
#[test]
fn a_directory_has_the_devices_of_an_image_where_that_is_allowed() {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let place = Place::new();
    let mut archive = tar::Builder::new(fs::File::create(place.path("context/a.tar")).unwrap());
    for (name, kind, minor) in
        [("null", tar::EntryType::Char, 3), ("also", tar::EntryType::Link, 3), ("f", tar::EntryType::Regular, 0)]
    {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o640);
        header.set_device_major(1).unwrap();
        header.set_device_minor(minor).unwrap();
        if kind == tar::EntryType::Link {
            header.set_link_name("null").unwrap();
        }
        header.set_cksum();
        archive.append(&header, std::io::empty()).unwrap();
    }
    archive.finish().unwrap();
    let mut request = place.request("FROM scratch\nADD a.tar /d/\n");
    request.outputs = vec![Output::Directory(place.path("tree"))];
    place.try_build(&request).unwrap();
    assert!(place.path("tree/d/f").is_file());
    let may = mknodat(CWD, place.path("probe"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(1, 3));
    let names = ["tree/d/null", "tree/d/also"].map(|name| place.path(name));
    if may.is_ok() {
        let [null, also] = names.map(|name| fs::symlink_metadata(name).unwrap());
        assert!(null.file_type().is_char_device() && null.rdev() == makedev(1, 3) && null.mode() & 0o7777 == 0o640);
        assert_eq!(null.ino(), also.ino());
    } else {
        assert!(names.iter().all(|name| fs::symlink_metadata(name).is_err()));
        let told = place.events();
        assert!(told.iter().any(|text| text.contains("d/also and 1 more devices are left out")), "{told:?}");
    }
}

#[test]
fn archives_are_extracted_and_a_nameless_entry_means_nothing() {
    let place = Place::new();
    let mut archive = tar::Builder::new(fs::File::create(place.path("context/a.tar")).unwrap());
    for name in ["", "d/f"] {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(1);
        header.set_mode(0o640);
        header.set_uid(5);
        header.set_gid(6);
        header.set_cksum();
        archive.append(&header, b"x".as_slice()).unwrap();
    }
    archive.finish().unwrap();
    drop(archive);
    let found = files(&place, &mut place.request("FROM scratch\nADD a.tar /to/\nADD --unpack=false a.tar /kept/"));
    assert_eq!(found.keys().collect::<Vec<_>>(), ["kept", "kept/a.tar", "to", "to/d", "to/d/f"]);
    assert_eq!(found["to/d/f"], "640 5:6 x");
}

#[test]
fn the_epoch_makes_builds_equal_everywhere() {
    let digest = |epoch: &str| {
        let place = Place::new();
        place.file("f", "one");
        let mut request = place.request("FROM scratch\nCOPY f /new/dir/\nWORKDIR /w\nCMD [\"x\"]");
        request.options.build_args.insert("SOURCE_DATE_EPOCH".into(), epoch.into());
        let built = place.try_build(&request).unwrap();
        assert_eq!(config(&built).created.as_deref(), Some("2001-09-09T01:46:40Z"));
        built.manifest.digest()
    };
    assert_eq!(digest("1000000000"), digest("1000000000"));
}

#[test]
fn errors_name_the_line_and_leave_nothing() {
    let place = Place::new();
    place.file("f", "one");
    for (text, parts) in [
        (
            "FROM scratch AS tools\nFROM scratch\nCOPY --from=tolos x /",
            vec!["Dockerfile:3: ", "did you mean the stage tools?"],
        ),
        ("FROM nowhere\nENV a=b", vec!["Dockerfile:1: docker.io/library/nowhere:latest", ">>> FROM nowhere"]),
        (
            "FROM scratch\n\nCOPY missing /",
            vec!["Dockerfile:3: ", "missing", "not found", "hint: sources are looked up"],
        ),
        ("FROM scratch\nCOPY f /\nCOPY f /f/x/", vec!["Dockerfile:3: ", "not a directory"]),
        ("FROM scratch\nCOPY f /\nWORKDIR /f", vec!["Dockerfile:3: cannot make the directory /f"]),
        ("FROM scratch\nRUN [\"x\"]", vec!["Dockerfile:2: RUN needs a sandbox"]),
        ("FROM scratch\nCOPY --chmod=u=z f /", vec!["Dockerfile:2: --chmod=u=z"]),
    ] {
        let problem = place.problem(text);
        for part in parts {
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
    let mut request = place.request("FROM scratch\nCOPY f /");
    let ignore = Patterns::new(["f"]).unwrap();
    request.context = Directory { path: place.path("context"), ignore }.into();
    let error = place.try_build(&request).unwrap_err();
    assert_eq!(error.hint(), Some("f is excluded by the ignore file of the build context"));
    assert!(Disk::open(place.path("store")).unwrap().entries().unwrap().is_empty(), "no half image is filed");
    assert_eq!(fs::read_dir(place.path("store/ingest")).map(Iterator::count).unwrap_or(0), 0);
}

#[test]
fn a_cancelled_build_says_so() {
    let place = Place::new();
    place.file("f", "one");
    let cancel = Cancel::new().unwrap();
    cancel.cancel();
    let mut request = place.request("FROM scratch\nCOPY f /");
    request.outputs = vec![Output::Tar(place.path("out.tar"))];
    assert!(matches!(place.try_build_in(&request, "store", &cancel), Err(Error::Cancelled)));
    assert!(!place.path("out.tar").exists());
}

#[test]
fn named_contexts_are_copied_from_and_built_on() {
    let place = Place::new();
    fs::create_dir(place.path("more")).unwrap();
    fs::write(place.path("more/m"), "m").unwrap();
    let mut request = place.request("FROM scratch\nCOPY --from=more m /");
    let directory = Directory { path: place.path("more"), ignore: Patterns::default() };
    request.contexts.insert("more".into(), directory.into());
    assert_eq!(files(&place, &mut request)["m"], "644 0:0 m");
    request.dockerfile = place.request("FROM more\nCOPY --from=more m /n").dockerfile;
    let found = files(&place, &mut request);
    assert_eq!((found["m"].as_str(), found["n"].as_str()), ("644 0:0 m", "644 0:0 m"));
}
