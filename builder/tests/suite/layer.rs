//! Layers as bytes and as trees: what is written is read back, the bytes depend on nothing but the
//! entries, views show what unpacking makes, and hostile archives end with an error.

use builder::layer::entry::{self, Entry, Kind};
use builder::layer::pipeline::Options;
use builder::layer::read::{Limits, Names, Reader};
use builder::layer::{Blocks, Compression, ContentHash, Index, Layer, Pipeline, View, read};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;

pub(super) fn made(entries: &[(Entry, Vec<u8>)], options: Options) -> (Layer, Vec<u8>) {
    let mut pipeline = Pipeline::new(Vec::new(), options).unwrap();
    for (entry, content) in entries {
        pipeline.add(entry.clone(), &mut content.as_slice()).unwrap();
    }
    pipeline.finish().unwrap()
}

pub(super) fn file(path: &str, content: &[u8]) -> (Entry, Vec<u8>) {
    let kind = Kind::File { size: content.len() as u64, hash: ContentHash::EMPTY };
    (Entry::new(path, kind, 0o644), content.to_vec())
}

fn plain(entry: Entry) -> (Entry, Vec<u8>) {
    (entry, Vec::new())
}

/// Bytes that compress somewhat, differently everywhere.
fn text(size: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = move || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        b"etaoinshrdlu \n01"[(state >> 28) as usize]
    };
    (0..size).map(|_| next()).collect()
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let entries = [file("a", &text(5 << 20)), file("b", b"small"), file("c", &text(1 << 20))];
    for compression in [Compression::Gzip(None), Compression::Gzip(Some(9)), Compression::Zstd(3), Compression::None] {
        let blobs = [1, 2, 7].map(|threads| made(&entries, Options { compression, threads, newest: None }));
        let tar = {
            let mut tar = Vec::new();
            read::decompress(&blobs[0].1[..]).unwrap().read_to_end(&mut tar).unwrap();
            tar
        };
        assert_eq!(oci::Digest::of(&tar).hex(), blobs[0].0.diff_id.hex());
        for (layer, blob) in &blobs {
            assert_eq!(blob, &blobs[0].1, "{compression:?}");
            assert_eq!(layer.blob.digest(), oci::Digest::of(blob));
            assert_eq!(layer.blob.size(), blob.len() as u64);
            assert_eq!(layer.tar_size, tar.len() as u64);
        }
    }
}

/// As others write it: one frame, whose decoder may hold output back when the end of a file is asked for.
#[test]
fn a_layer_of_one_zstd_frame_is_read_like_any_other() {
    for sizes in [&[3][..], &[0, 0, 600], &[0, 5_000, 1, 90 << 10, 0, 0], &[3 << 20, 0, 7, 1 << 20, 12]] {
        let entries = sizes.iter().enumerate().map(|(at, size)| file(&format!("f{at}"), &text(*size)));
        let (layer, tar) =
            made(&entries.collect::<Vec<_>>(), Options { compression: Compression::None, ..<_>::default() });
        for (level, checked) in [(1, false), (3, true), (19, true)] {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
            encoder.include_checksum(checked).unwrap();
            encoder.write_all(&tar).unwrap();
            let blob = encoder.finish().unwrap();
            let (index, diff_id) = read::index(&blob[..], Limits::default()).unwrap();
            assert_eq!((index, diff_id), (layer.index.clone(), layer.diff_id), "{sizes:?} at {level}");
        }
    }
}

/// A tree of small files, a large one and one that is several blocks long.
fn tree(edited: &str) -> Vec<(Entry, Vec<u8>)> {
    let small = text(3 << 20);
    let mut entries: Vec<_> =
        small.chunks(4_000).enumerate().map(|(at, part)| file(&format!("f{at:05}"), part)).collect();
    entries.push(file("large", &text(700 << 10)));
    entries.push(file("larger", &text(3 << 20)));
    for (entry, content) in &mut entries {
        if entry.path == edited.as_bytes() {
            content.insert(0, b'!');
            entry.kind = Kind::File { size: content.len() as u64, hash: ContentHash::EMPTY };
            entry.mtime = 7;
        }
    }
    entries
}

fn made_with(entries: &[(Entry, Vec<u8>)], options: Options, blocks: &Arc<Blocks>) -> (Layer, Vec<u8>) {
    let mut pipeline = Pipeline::reusing(Vec::new(), options, Some(blocks.clone())).unwrap();
    for (entry, content) in entries {
        pipeline.add(entry.clone(), &mut content.as_slice()).unwrap();
    }
    pipeline.finish().unwrap()
}

/// Blocks whose blobs lie in a directory, by their digests.
fn blocks_in(directory: &std::path::Path, table: &[u8]) -> Arc<Blocks> {
    let directory = directory.to_owned();
    Arc::new(Blocks::new(table, move |blob| std::fs::File::open(directory.join(blob.hex())).ok()))
}

#[test]
fn known_blocks_are_taken_and_change_nothing() {
    for compression in [Compression::Gzip(None), Compression::Zstd(3), Compression::None] {
        let directory = tempfile::tempdir().unwrap();
        let blocks = blocks_in(directory.path(), b"");
        let options = |threads| Options { compression, threads, newest: None };
        let (layer, blob) = made_with(&tree("none"), options(2), &blocks);
        assert_eq!((layer.reused, &blob), (0, &made(&tree("none"), options(1)).1), "{compression:?}");
        std::fs::write(directory.path().join(layer.blob.digest().hex()), &blob).unwrap();
        blocks.learn(&layer.blob.digest(), &layer.pieces);

        for edited in ["f00300", "larger"] {
            let alone = made(&tree(edited), options(3));
            for threads in [1, 4] {
                let table = blocks_in(directory.path(), &blocks.to_bytes());
                let (again, bytes) = made_with(&tree(edited), options(threads), &table);
                assert_eq!(bytes, alone.1, "{compression:?} {edited}");
                assert_eq!(again.diff_id, alone.0.diff_id);
                // Of the file that changed its own blocks are new, and for a small one those around it.
                let expected = if compression == Compression::None { 0 } else { layer.tar_size * 4 / 10 };
                assert!(again.reused >= expected, "{compression:?} {edited}: {}", again.reused);
            }
        }
    }
}

#[test]
fn damaged_blocks_are_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let blocks = blocks_in(directory.path(), b"");
    let (layer, blob) = made_with(&tree("none"), Options::default(), &blocks);
    let place = directory.path().join(layer.blob.digest().hex());
    blocks.learn(&layer.blob.digest(), &layer.pieces);
    let table = blocks.to_bytes();
    let again = |table: &[u8]| {
        let (again, bytes) = made_with(&tree("none"), Options::default(), &blocks_in(directory.path(), table));
        assert_eq!(bytes, blob);
        again.reused
    };

    assert_eq!(again(&table), 0, "the blob is gone");
    std::fs::write(&place, &blob).unwrap();
    let whole = again(&table);
    assert!(whole > layer.tar_size / 2);
    let mut damaged = blob.clone();
    damaged[blob.len() / 2] ^= 1;
    std::fs::write(&place, &damaged).unwrap();
    let reused = again(&table);
    assert!(reused > 0 && reused < whole, "{reused} of {whole}");
    std::fs::write(&place, &blob[..blob.len() / 2]).unwrap();
    assert!(again(&table) < whole, "the blob is cut off");
    std::fs::write(&place, &blob).unwrap();
    for at in [9, table.len() - 1] {
        let mut damaged = table.clone();
        damaged[at] ^= 1;
        assert_eq!(again(&damaged), 0, "byte {at} of the table");
    }
    assert_eq!(again(&table[..table.len() - 50]), 0);
}

#[test]
fn the_empty_layer_is_the_one_of_buildkit() {
    let (layer, blob) = Pipeline::empty(Vec::new(), Options::default()).unwrap();
    let known = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    assert_eq!(layer.diff_id.to_string(), known);
    assert_eq!(layer.tar_size, 1024);
    assert!(blob.len() < 64);
    assert_eq!(layer.index, Index::default());
}

#[test]
fn a_full_disk_is_reported_with_its_reason() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let content = text(32 << 20);
    let mut pipeline = Pipeline::new(Full(3 << 20), Options { threads: 2, ..Options::default() }).unwrap();
    let entry = Entry::new("a", Kind::File { size: content.len() as u64, hash: ContentHash::EMPTY }, 0o644);
    let error = pipeline.add(entry, &mut &content[..]).and_then(|_| pipeline.finish().map(drop)).unwrap_err();
    assert!(error.to_string().starts_with("cannot write the layer: "), "{error}");
}

/// Whoever gives a layer up may remove its file at once: no thread writes any more.
#[test]
fn a_layer_that_is_given_up_lets_go_of_its_writer() {
    struct Held(std::sync::Arc<()>);
    impl Write for Held {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            assert!(std::sync::Arc::strong_count(&self.0) > 1, "written to after it was given up");
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let held = std::sync::Arc::new(());
    let mut pipeline = Pipeline::new(Held(held.clone()), Options { threads: 2, ..Options::default() }).unwrap();
    let (entry, content) = file("a", &text(8 << 20));
    pipeline.add(entry, &mut &content[..]).unwrap();
    drop(pipeline);
    assert_eq!(std::sync::Arc::strong_count(&held), 1);
}

#[test]
fn files_that_change_stop_the_layer() {
    for content in [&b"ab"[..], b"abcd"] {
        let mut pipeline = Pipeline::new(Vec::new(), Options::default()).unwrap();
        let entry = Entry::new("a", Kind::File { size: 3, hash: ContentHash::EMPTY }, 0o644);
        let error = pipeline.add(entry, &mut &content[..]).unwrap_err().to_string();
        assert!(error.contains("/a: changed while it was read"), "{error}");
    }
}

#[test]
fn times_are_clamped() {
    let (mut entry, content) = file("a", b"x");
    entry.mtime = 500;
    let (layer, _) = made(&[(entry, content)], Options { newest: Some(100), ..Options::default() });
    assert_eq!(layer.index.find(b"a").unwrap().mtime, 100);
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop_oneof![
        Just(vec![b'x'; 101]),
        Just(vec![b'y'; 255]),
        Just("grüße".as_bytes().to_vec()),
        Just(vec![0xff, 0xfe]),
        Just(b"a b".to_vec()),
        Just(b"-".to_vec()),
    ];
    prop_oneof![8 => "[a-d]".prop_map(String::into_bytes), 1 => odd]
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(name(), 1..4).prop_map(|names| names.join(&b'/'))
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => Just(Kind::File { size: 0, hash: ContentHash::EMPTY }),
        4 => Just(Kind::Directory),
        1 => prop::collection::vec(1u8..255, 1..120).prop_map(Kind::Symlink),
        1 => Just(Kind::Char(1, 3)),
        1 => Just(Kind::Block(8, 1 << 20)),
        1 => Just(Kind::Fifo),
        2 => Just(Kind::Whiteout),
        1 => Just(Kind::Opaque),
    ]
}

prop_compose! {
    fn any_entry()(
        path in path(),
        kind in kind(),
        content in prop::collection::vec(any::<u8>(), 0..600),
        mode in 0u32..0o10000,
        uid in prop_oneof![0u32..3, Just(1 << 21), Just(u32::MAX - 1)],
        mtime in prop_oneof![0i64..1 << 33, Just(-7), Just(1 << 40)],
        capability in prop::option::of(prop::collection::vec(any::<u8>(), 1..30)),
    ) -> (Entry, Vec<u8>) {
        match kind {
            Kind::Whiteout => plain(Entry::whiteout(path)),
            Kind::Opaque => plain(Entry::new(path, Kind::Opaque, 0)),
            Kind::File { .. } => {
                let kind = Kind::File { size: content.len() as u64, hash: ContentHash::of(&content) };
                let xattrs = capability.map(|value| (entry::CAPABILITY.to_vec(), value)).into_iter().collect();
                (Entry { uid, gid: uid, mtime, xattrs, ..Entry::new(path, kind, mode) }, content)
            }
            Kind::Symlink(target) => plain(Entry { uid, mtime, ..Entry::new(path, Kind::Symlink(target), 0o777) }),
            kind => plain(Entry { uid, mtime, ..Entry::new(path, kind, mode) }),
        }
    }
}

/// Entries below a link land where it points; the model of these tests does not follow that.
fn below_a_link(entries: &[(Entry, Vec<u8>)]) -> bool {
    let links: Vec<_> = entries.iter().filter(|(e, _)| matches!(e.kind, Kind::Symlink(_))).collect();
    let through = |e: &Entry, link: &Entry| {
        entry::is_below(&e.path, &link.path) || (e.kind == Kind::Opaque && e.path == link.path)
    };
    entries.iter().any(|(e, _)| links.iter().any(|(link, _)| through(e, link)))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(entries in prop::collection::vec(any_entry(), 0..20)) {
        prop_assume!(!below_a_link(&entries));
        let (layer, blob) = made(&entries, Options::default());
        let mut reader = Reader::open(&blob[..], Names::Layer, Limits::default()).unwrap();
        for (entry, content) in &entries {
            let mut read = reader.next_entry().unwrap().unwrap();
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            if let Kind::File { hash, .. } = &mut read.kind {
                *hash = ContentHash::of(&bytes);
            }
            prop_assert_eq!(&read, entry);
            prop_assert_eq!(&bytes, content);
        }
        prop_assert!(reader.next_entry().unwrap().is_none());
        let (index, diff_id) = read::index(&blob[..], Limits::default()).unwrap();
        prop_assert_eq!(&index, &layer.index);
        prop_assert_eq!(diff_id, layer.diff_id);
        prop_assert_eq!(Index::from_bytes(&index.to_bytes()).unwrap(), index);
    }

    #[test]
    fn symbolic_links_have_one_mode(mode in 0u32..0o10000) {
        let link = Entry::new("l", Kind::Symlink(b"t".to_vec()), mode);
        let (_, blob) = made(&[plain(link)], Options::default());
        let index = read::index(&blob[..], Limits::default()).unwrap().0;
        prop_assert_eq!(index.find(b"l").unwrap().mode, 0o777);
    }

    #[test]
    fn views_show_what_applying_makes(layers in prop::collection::vec(prop::collection::vec(any_entry(), 0..12), 1..4)) {
        let indexes: Vec<Index> = layers.iter().map(|entries| made(entries, Options::default()).0.index).collect();
        let view = View::of(&indexes);
        let mut tree = BTreeMap::new();
        indexes.iter().for_each(|index| apply(&mut tree, index));
        let shown: Vec<_> = view.nodes().iter().map(|n| (n.path().to_vec(), n.entry.mode, n.entry.is_dir())).collect();
        let mut wanted: Vec<_> = tree.into_iter().map(|(path, (mode, dir))| (path, mode, dir)).collect();
        wanted.sort_by(|a, b| entry::compare(&a.0, &b.0));
        prop_assert_eq!(&shown, &wanted);
        // Listing finds all of it again, and so does asking for each path.
        let mut found = Vec::new();
        list(&view, b"", &mut found);
        prop_assert_eq!(found, wanted.iter().map(|(path, ..)| path.clone()).collect::<Vec<_>>());
        for (path, ..) in &wanted {
            prop_assert!(view.lstat(path).is_some());
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        drop(read::index(&bytes[..], Limits::default()));
        drop(Index::from_bytes(&bytes));
    }

    #[test]
    fn no_damage_makes_the_reader_panic(entries in prop::collection::vec(any_entry(), 1..6), at in 0usize..4000, to: u8) {
        let (_, mut blob) = made(&entries, Options { compression: Compression::None, ..Options::default() });
        let at = at % blob.len();
        blob[at] = to;
        drop(read::index(&blob[..], Limits::default()));
    }
}

/// The rules of image-spec, layer.md, on a plain map: slow and obvious.
fn apply(tree: &mut BTreeMap<Vec<u8>, (u32, bool)>, index: &Index) {
    for hidden in index.entries() {
        match hidden.kind {
            Kind::Whiteout => tree.retain(|path, _| *path != hidden.path && !entry::is_below(path, &hidden.path)),
            Kind::Opaque => tree.retain(|path, _| !entry::is_below(path, &hidden.path)),
            _ => {}
        }
    }
    for new in index.entries().iter().filter(|e| !matches!(e.kind, Kind::Whiteout | Kind::Opaque)) {
        if !new.is_dir() {
            tree.retain(|path, _| !entry::is_below(path, &new.path));
        }
        let stays = new.kind == Kind::Implicit && tree.get(&new.path).is_some_and(|(_, dir)| *dir);
        if !stays {
            tree.insert(new.path.clone(), (new.mode, new.is_dir()));
        }
    }
}

fn list(view: &View, dir: &[u8], found: &mut Vec<Vec<u8>>) {
    for node in view.read_dir(dir) {
        found.push(node.path().to_vec());
        list(view, node.path(), found);
    }
}

#[test]
fn links_resolve_inside_the_root() {
    let link = |path: &str, to: &str| plain(Entry::new(path, Kind::Symlink(to.into()), 0o777));
    let dir = |path: &str| plain(Entry::new(path, Kind::Directory, 0o755));
    let entries = [
        dir("usr"),
        dir("usr/bin"),
        file("usr/bin/sh", b"#"),
        link("bin", "usr/bin"),
        link("abs", "/usr/bin"),
        link("up", "../../../usr"),
        link("circle", "circle"),
        link("dangling", "nowhere/else"),
    ];
    let view = View::empty().with(&made(&entries, Options::default()).0.index);
    for (path, wanted) in [
        ("/bin/sh", Ok("usr/bin/sh")),
        ("abs/sh", Ok("usr/bin/sh")),
        ("up/bin/../bin/sh", Ok("usr/bin/sh")),
        ("../../etc", Ok("etc")),
        ("dangling/x", Ok("nowhere/else/x")),
        ("new/dir", Ok("new/dir")),
        ("", Ok("")),
        ("circle", Err("too many levels")),
        ("bin/sh/x", Err("/usr/bin/sh: not a directory")),
    ] {
        match (view.resolve(path.as_bytes()), wanted) {
            (Ok(found), Ok(wanted)) => assert_eq!(found, wanted.as_bytes(), "{path}"),
            (Err(error), Err(wanted)) => assert!(error.to_string().contains(wanted), "{path}: {error}"),
            (found, _) => panic!("{path}: {found:?}"),
        }
    }
}

#[test]
fn hard_links_show_their_file_in_any_order() {
    let hard = |path: &str, to: &str| plain(Entry::new(path, Kind::Hardlink(to.into()), 0o644));
    // The tar has the data under `z`, and `z` is then replaced: `a` keeps the old content.
    let entries = [file("z", b"old"), hard("a", "z"), hard("m", "a"), file("z", b"new")];
    let (layer, _) = made(&entries, Options::default());
    let view = View::empty().with(&layer.index);
    let hash = |path: &[u8]| match view.lstat(path).unwrap().entry.kind {
        Kind::File { hash, .. } => hash,
        ref other => panic!("{other:?}"),
    };
    assert_eq!([hash(b"a"), hash(b"m"), hash(b"z")], [b"old", b"old", b"new"].map(|c| ContentHash::of(c)));
    assert_eq!(view.lstat(b"a").unwrap().origin, view.lstat(b"m").unwrap().origin);
    // A later layer's link to a file below.
    let above = made(&[hard("b/link", "a")], Options::default()).0.index;
    let node = view.with(&above).lstat(b"b/link").unwrap().clone();
    assert_eq!((node.layer, &*node.origin), (0, &b"a"[..]));
}

#[test]
fn spooled_layers_know_every_name_of_a_file() {
    let hard = |path: &str, to: &str| plain(Entry::new(path, Kind::Hardlink(to.into()), 0o644));
    // Debian's tars have the data under any of the names, not under the first in order.
    let (layer, blob) = made(&[file("z", b"old"), hard("a", "z"), file("z", b"new")], Options::default());
    let file = tempfile::tempfile().unwrap();
    let (spool, _) =
        builder::layer::spool::Spool::read(&blob[..], file, Limits::default(), |_| Ok::<_, ()>(())).unwrap();
    let view = View::empty().with(&layer.index);
    for (path, wanted) in [("a", "old"), ("z", "new")] {
        let mut content = String::new();
        let node = view.lstat(path.as_bytes()).unwrap();
        spool.open(&node.origin).unwrap().read_to_string(&mut content).unwrap();
        assert_eq!(content, wanted, "{path}");
    }
    assert!(spool.open(b"nothing").is_none());
}
