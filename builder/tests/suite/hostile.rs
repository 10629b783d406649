//! Layers that somebody wrote to do harm, or with a broken tool: each ends with an error that says why, or below the root.

use crate::layer::{file, made};
use builder::layer::pipeline::Options;
use builder::layer::read::{self, Error, Limits, Names, Reader};

/// A tar header as an attacker writes it.
pub(super) fn raw(name: &[u8], flag: u8, link: &[u8], size: u64, content: &[u8]) -> Vec<u8> {
    let mut block = [0u8; 512];
    block[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = flag;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = [&block, content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A record of PAX in front of an entry, or of another record.
pub(super) fn pax(record: &str, entry: Vec<u8>) -> Vec<u8> {
    [extension(b'x', record), entry].concat()
}

/// A header with one record of PAX.
pub(super) fn extension(flag: u8, record: &str) -> Vec<u8> {
    let body = record.len() + 2; // the space and the newline
    let length = (body + 1..body + 9).find(|length| length.to_string().len() + body == *length).unwrap();
    let text = format!("{length} {record}\n");
    raw(b"x", flag, b"", text.len() as u64, text.as_bytes())
}

fn paths(tar: &[u8]) -> Result<Vec<String>, Error> {
    let mut reader = Reader::open(tar, Names::Layer, Limits::default())?;
    let mut paths = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        paths.push(String::from_utf8_lossy(&entry.path).into_owned());
    }
    Ok(paths)
}

#[test]
fn hostile_archives() {
    let long = vec![b'n'; 5000];
    let many = b"d/".repeat(3000);
    for (case, tar, wanted) in [
        ("absolute", raw(b"/etc/x", b'0', b"", 0, b""), Ok("etc/x")),
        ("dots", raw(b"./a/./b", b'0', b"", 0, b""), Ok("a/b")),
        ("dot dot", raw(b"a/../../etc/x", b'0', b"", 0, b""), Err("contains `..`")),
        ("only dot dot", raw(b"..", b'5', b"", 0, b""), Err("contains `..`")),
        ("root as file", raw(b"/", b'2', b"x", 0, b""), Err("only a directory can be the root")),
        ("hard link out", raw(b"a", b'1', b"../../etc/shadow", 0, b""), Err("contains `..`")),
        ("hard link to the root", raw(b"a", b'1', b"/", 0, b""), Err("must name a file")),
        ("link to nothing", raw(b"a", b'2', b"", 0, b""), Err("link target is empty")),
        ("whiteout of itself", raw(b"a/.wh..", b'0', b"", 0, b""), Err("hide nothing or too much")),
        ("whiteout of the parent", raw(b"a/.wh...", b'0', b"", 0, b""), Err("hide nothing or too much")),
        ("device 0:0", raw(b"a", b'3', b"", 0, b""), Err("deletion")),
        ("GNU sparse", raw(b"a", b'S', b"", 0, b""), Err("sparse files of GNU's old format")),
        ("half a map", pax("GNU.sparse.map=0,1,2", raw(b"a", b'0', b"", 1, b"x")), Err("leads out of it")),
        ("a map beyond the file", pax("GNU.sparse.map=0,9", raw(b"a", b'0', b"", 9, b"123456789")), Ok("a")),
        ("a map of less", pax("GNU.sparse.map=0,1", raw(b"a", b'0', b"", 2, b"xy")), Err("more or less")),
        ("a sparse link", pax("GNU.sparse.map=0,0", raw(b"a", b'2', b"x", 0, b"")), Err("no file")),
        (
            "a hole of the world",
            pax("GNU.sparse.size=18446744073709551615", pax("GNU.sparse.map=0,0", raw(b"a", b'0', b"", 0, b""))),
            Err("more than 274877906944 bytes"),
        ),
        (
            "half an end",
            [raw(b"a", b'0', b"", 0, b""), vec![0; 512], vec![1; 512]].concat(),
            Err("half of an end mark"),
        ),
        ("a volume's label", raw(b"a", b'V', b"", 0, b""), Err("entries of this type")),
        ("a contiguous file", raw(b"a", b'7', b"", 0, b""), Err("entries of this type")),
        ("unknown type", raw(b"a", b'Z', b"", 0, b""), Err("entries of this type")),
        ("huge extension", raw(b"x", b'x', b"", 1 << 32, b""), Err("more than 1 MiB")),
        (
            "long name",
            [raw(b"x", b'L', b"", 5000, &long), raw(b"a", b'0', b"", 0, b"")].concat(),
            Err("longer than 255"),
        ),
        (
            "deep name",
            [raw(b"x", b'L', b"", 6000, &many), raw(b"a", b'0', b"", 0, b"")].concat(),
            Err("longer than 4095"),
        ),
        ("cut in content", raw(b"a", b'0', b"", 9999, b"x"), Err("ends inside a file")),
        ("cut in header", raw(b"a", b'0', b"", 0, b"")[..300].to_vec(), Err("ends inside a block")),
        ("not a tar", vec![b'x'; 1024], Err("a header without checksum")),
        ("through a link", [raw(b"a", b'2', b"/etc", 0, b""), raw(b"a/x", b'0', b"", 0, b"")].concat(), Ok("a etc/x")),
        ("through a link up", [raw(b"a", b'2', b"../..", 0, b""), raw(b"a/x", b'0', b"", 0, b"")].concat(), Ok("a x")),
        ("circle", [raw(b"a", b'2', b"a", 0, b""), raw(b"a/x", b'0', b"", 0, b"")].concat(), Err("circle")),
    ] {
        match (paths(&tar), wanted) {
            (Ok(paths), Ok(wanted)) => assert_eq!(paths.join(" "), wanted, "{case}"),
            (Err(error), Err(wanted)) => assert!(error.to_string().contains(wanted), "{case}: {error}"),
            (found, _) => panic!("{case}: {found:?}"),
        }
    }
}

#[test]
fn gnu_and_pax_names() {
    let long = "n".repeat(120);
    let gnu =
        [raw(b"././@LongLink", b'L', b"", 121, format!("{long}\0").as_bytes()), raw(b"x", b'0', b"", 0, b"")].concat();
    assert_eq!(paths(&gnu).unwrap(), [long.as_str()]);
    let record = b"16 path=dir/\xff\xfe\n";
    let pax = [raw(b"x", b'x', b"", 15, &record[..15]), raw(b"x", b'0', b"", 0, b"")].concat();
    assert!(paths(&pax).is_err(), "a record longer than its header");
    let record = b"15 path=dir/\xff\xfe\n";
    let pax = [raw(b"x", b'x', b"", 15, record), raw(b"x", b'0', b"", 0, b"")].concat();
    let mut reader = Reader::open(&pax[..], Names::Layer, Limits::default()).unwrap();
    assert_eq!(reader.next_entry().unwrap().unwrap().path, b"dir/\xff\xfe");
}

#[test]
fn bombs_end() {
    let zeros = vec![0u8; 8 << 20];
    let (_, blob) = made(&[file("a", &zeros), file("b", b"")], Options::default());
    let limits = Limits { size: 4 << 20, ..Limits::default() };
    let error = read::index(&blob[..], limits).unwrap_err().to_string();
    assert!(error.contains("more than 4194304 bytes"), "{error}");
    let limits = Limits { entries: 1, ..Limits::default() };
    let error = read::index(&blob[..], limits).unwrap_err().to_string();
    assert!(error.contains("more than 1 entries"), "{error}");
    let limits = Limits { names: 1, ..Limits::default() };
    let error = read::index(&blob[..], limits).unwrap_err().to_string();
    assert!(error.contains("more than 1 bytes of names"), "{error}");
}
