//! The bytes, compared with Go's.

use super::super::entry::{CAPABILITY, ContentHash};
use super::*;

/// cap_net_raw=ep, as `setcap` stores it.
const PING: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn file(path: impl Into<Vec<u8>>, size: u64) -> Entry {
    Entry::new(path, Kind::File { size, hash: ContentHash::EMPTY }, 0o644)
}
fn dir(path: impl Into<Vec<u8>>, mode: u32) -> Entry {
    Entry::new(path, Kind::Directory, mode)
}
fn link(path: &str, kind: Kind) -> Entry {
    Entry::new(path, kind, 0o777)
}
fn at(entry: Entry, mtime: i64) -> Entry {
    Entry { mtime, ..entry }
}
fn owned(entry: Entry, uid: u32, gid: u32) -> Entry {
    Entry { uid, gid, ..entry }
}
fn capable(entry: Entry, value: &[u8]) -> Entry {
    Entry { xattrs: vec![(CAPABILITY.to_vec(), value.to_vec())], ..entry }
}
fn r(text: &str, times: usize) -> String {
    text.repeat(times)
}

/// Size and SHA-256 of the tar that Go's `archive/tar` 1.2x writes for one entry (`FormatPAX`, for
/// whiteouts no format, as containerd's differ sets them).
#[test]
fn equals_go() {
    for (case, entry, content, size, hash) in [
        (
            "file",
            at(file("a", 3), 1485449953),
            &b"abc"[..],
            2048,
            "e79fec521853d2e4f5193919a59991f25f233816dc08a8a3769bb3b87d846c6e",
        ),
        (
            "dir",
            owned(at(dir("usr/bin", 0o1777), 1), 1, 2),
            &b""[..],
            1536,
            "266d59661f9a2620166d053976c9eaee2ca1f9c773fb970f2bf8ad6aee19a040",
        ),
        (
            "symlink",
            link("l", Kind::Symlink(b"/etc/passwd".to_vec())),
            &b""[..],
            1536,
            "ee96b67a712fd3fd65e4af8068b49c7b7e12bed4c8917216c2905dbc8ba762d4",
        ),
        (
            "hardlink",
            Entry::new("h", Kind::Hardlink(b"a".to_vec()), 0o644),
            &b""[..],
            1536,
            "01b67d238d19989d66bf50b231349874e068debbe04e750c1d9df8c642f1c2b1",
        ),
        (
            "char",
            Entry::new("null", Kind::Char(1, 3), 0o666),
            &b""[..],
            1536,
            "03cfd378dea749ffe0f62107be98f032950e09d6713dd326b7454ae0989eca65",
        ),
        (
            "block",
            Entry::new("sda", Kind::Block(8, 2097151), 0o660),
            &b""[..],
            1536,
            "b78ce197608bc7d4238fe9cf85ad87ed31fb8d910e3b83ac183fdab3a890d44c",
        ),
        (
            "fifo",
            Entry::new("p", Kind::Fifo, 0o600),
            &b""[..],
            1536,
            "d386337cc35ea4f9f139df6f9fc8b34987917177ff7412229a3ce87adaba43fe",
        ),
        (
            "whiteout",
            Entry::whiteout("d/x"),
            &b""[..],
            1536,
            "5e30573fd4a9fc7972258db84dee437bb724584cbb5744cc32a14d882a005053",
        ),
        (
            "whiteout long",
            Entry::whiteout(format!("d/{}/{}", r("w", 40), r("x", 80))),
            &b""[..],
            1536,
            "98dbc84de4521607fc136db530143ae7ebee01778655e4b4695d7d7a02c063f4",
        ),
        (
            "name 100",
            file(r("n", 100), 0),
            &b""[..],
            1536,
            "f0bdbc85156b6bd656f8517ad18ad5ba3259fe8374ebfa7693e214d2a4aef57b",
        ),
        (
            "name 101",
            file(r("n", 101), 0),
            &b""[..],
            2560,
            "81e575cb68250048d5e24f01b2d42eb3c30e596a49367e3266082f1c509003c9",
        ),
        (
            "name split",
            file(format!("{}/{}", r("d", 60), r("n", 60)), 0),
            &b""[..],
            1536,
            "17b19ae0b2f4203dcc6a153ba89507057ae122f24105e486fd9aac439691a0e3",
        ),
        (
            "name split at 155",
            file(format!("{}/{}/{}", r("d", 77), r("e", 77), r("n", 100)), 0),
            &b""[..],
            1536,
            "6348d6557ab1adc5716c441527affa390ea2b66737e01b5f45a8d6257a2e9f05",
        ),
        (
            "name not split",
            file(format!("{}/{}", r("d", 156), r("n", 10)), 0),
            &b""[..],
            2560,
            "0a3812ca89947ff5f8cacda16aba026130b973d04df069801d9c8870c078c05c",
        ),
        (
            "long directory",
            dir(format!("{}/{}", r("d", 99), r("n", 99)), 0o755),
            &b""[..],
            1536,
            "e94cbe951adac29de1dfa81c9cfad5122800cd44656c6cdda577f38fad0e4ac5",
        ),
        (
            "long directory name",
            dir(format!("{}/{}", r("d", 10), r("n", 120)), 0o755),
            &b""[..],
            2560,
            "5a5b9c6c037a6d7db06037adec737dfdb468a498064fce6ba49f8da6915beb7e",
        ),
        (
            "cut at a slash",
            file(format!("{}/{}", r("d", 99), r("n", 120)), 0),
            &b""[..],
            2560,
            "a25992e8a69ec8d1fdfd2ef09840f085de8eb69c1ce2a20cd27bc31ffb165f9f",
        ),
        (
            "link 101",
            link("l", Kind::Symlink(r("t", 101).into_bytes())),
            &b""[..],
            2560,
            "cfcbb71d0740e7ebd3c35fca66b5ba0753a91d754c5a6e4ea203cc16e564f1d2",
        ),
        (
            "utf-8",
            file("dir/grüße", 1),
            &b"x"[..],
            3072,
            "82732f0ab0bca3ee9b9cd50df7aa31810c371bb36e1cc00f5912116c206095a3",
        ),
        (
            "not utf-8",
            file(b"dir/\xff\xfe".to_vec(), 0),
            &b""[..],
            2560,
            "b40190b6c0e9b991fa43cfa40545e7d968f1aa2c49b72c4ae823ce1acc51ffbb",
        ),
        (
            "utf-8 link",
            link("l", Kind::Symlink("grüße".into())),
            &b""[..],
            2560,
            "ff2a95801f107bcd3dff447bcd5cc4192eca01bcb6a2a80ca6ba70235d6179da",
        ),
        (
            "big owner",
            owned(file("a", 0), 1 << 21, (1 << 21) - 1),
            &b""[..],
            2560,
            "da33d9f6df61a7ea2e500a5b7c8716643c9a9196913ad1c94c736e383644f9c2",
        ),
        (
            "big group",
            owned(file("a", 0), 0, u32::MAX),
            &b""[..],
            2560,
            "cff554b34e7f1cc28ab159c7dd69c0595127fdca0c453afef05cc9840f2d180d",
        ),
        (
            "old",
            at(file("a", 0), -5),
            &b""[..],
            2560,
            "3613a11c9fe24f1be8f5060429b370118f86ea50a4f435f6013f29e9021c6c50",
        ),
        (
            "far future",
            at(file("a", 0), 1 << 33),
            &b""[..],
            2560,
            "aefdeefc14a388fb4febdcaa132622973ebd2a77839b8649d4986e670fe72580",
        ),
        (
            "capability",
            capable(Entry { mode: 0o755, ..file("bin/ping", 0) }, PING),
            &b""[..],
            2560,
            "b025f5835edc9c60beb2af14147ec9edbee185fed7d1ec37e893522e205975e3",
        ),
        (
            "capability, long name",
            capable(Entry { mode: 0o755, ..file(format!("{}/{}", r("d", 60), r("n", 60)), 0) }, b"x"),
            &b""[..],
            2560,
            "f2c02328776c8622a4ed30bbab529cfcc254f9abf5cdd5789c78078737c7d92d",
        ),
        (
            "set-uid",
            Entry { mode: 0o6755, ..file("su", 0) },
            &b""[..],
            1536,
            "bf2b701163c4070ec4584221a9d77347d61569e6c26706c6890419d04002e720",
        ),
    ] {
        let mut writer = Writer::new(Vec::new());
        writer.entry(&entry).unwrap();
        writer.content(content).unwrap();
        let tar = writer.finish().unwrap();
        assert_eq!(tar.len(), size, "{case}");
        assert_eq!(oci::Digest::of(&tar).hex(), hash, "{case}");
    }
}

#[test]
fn size_beyond_octal() {
    let header = Header::of(&file("big", 1 << 33)).unwrap().bytes();
    assert_eq!(header.len(), 1536);
    assert_eq!(oci::Digest::of(&header).hex(), "17d96f133b60826f0e4950a557763433c264c08eafe87e0c8458faaee0ca3edd");
}

#[test]
fn content_must_fit() {
    let mut short = Writer::new(Vec::new());
    short.entry(&file("a", 3)).unwrap();
    short.content(b"ab").unwrap();
    assert!(matches!(short.finish(), Err(Error::Size { expected: 1 })));
    let mut long = Writer::new(Vec::new());
    long.entry(&file("a", 3)).unwrap();
    assert!(matches!(long.content(b"abcd"), Err(Error::Size { expected: 3 })));
}

#[test]
fn refuses_what_a_layer_cannot_say() {
    for (entry, wanted) in [
        (dir("", 0o755), "the root directory"),
        (file("a/.wh.b", 0), "/a/.wh.b: names that start with"),
        (file(b"a\0b".to_vec(), 0), "NUL"),
        (Entry::new("d", Kind::Char(1 << 21, 0), 0), "2097152:0"),
    ] {
        let error = Writer::new(Vec::new()).entry(&entry).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}
