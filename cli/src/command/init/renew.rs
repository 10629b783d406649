//! registry init --renew: a new certificate for a registry, from the authority that its clients know already. The
//! registry notices the new files by itself.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::authority::{self, Pair};
use crate::args::InitArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::terminal::{out, tell};

/// Largest file that is read, in bytes: keys and certificates of ours have less than 2 kB.
const FILE_LIMIT: u64 = 64 << 10;

pub fn renew(args: &InitArgs) -> Outcome<()> {
    let directory = super::absolute(&args.directory)?;
    let place =
        args.authority.as_ref().map_or_else(|| Ok(directory.join("authority")), |place| super::absolute(place))?;
    let authority = Pair { key: read(&place.join("ca.key"))?, certificate: read(&place.join("ca.crt"))? };
    let [certificate, key] = ["tls/server.crt", "tls/server.key"].map(|name| directory.join(name));
    let names = if args.host.is_empty() { names_of(&certificate)? } else { super::names(args)? };
    let today = jiff::Zoned::now().date();
    let unfit = |error: authority::Unfit| {
        Failure::because(Exit::BadInput, format!("cannot renew with the authority in {}", place.display()), &error)
    };
    let server = authority::renewed(&authority, &names, today).map_err(unfit)?;
    // The key first: until its certificate is there too, the registry goes on with what it has.
    replace(&key, &server.key, 0o600)?;
    replace(&certificate, &server.certificate, 0o644)?;
    tell(&format!(
        "a certificate for {}, good for {} days; the registry takes it by itself",
        names.join(", "),
        authority::SERVER_DAYS - 1
    ));
    out(&certificate.display().to_string());
    Ok(())
}

fn read(path: &Path) -> Outcome<String> {
    let failed = |error: std::io::Error| {
        let failure = Failure::io(format!("cannot read {}", path.display()), &error);
        failure.hint("--authority DIR says where ca.key and ca.crt are kept")
    };
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(FILE_LIMIT).read_to_string(&mut text)).map_err(failed)?;
    Ok(text)
}

/// The names and addresses in a certificate that `registry init` made.
fn names_of(path: &Path) -> Outcome<Vec<String>> {
    let text = read(path)?;
    let names = der(&text).and_then(|bytes| alternative_names(&bytes)).unwrap_or_default();
    if names.is_empty() {
        let what = format!("{} names no hosts that could be read", path.display());
        return Err(Failure::new(Exit::BadInput, what).hint("say them: --host NAME"));
    }
    Ok(names)
}

/// Replaces a file as a whole; whoever may read the old one may read the new one.
fn replace(path: &Path, text: &str, mode: u32) -> Outcome<()> {
    let failed = |error: std::io::Error| Failure::io(format!("cannot write {}", path.display()), &error);
    let before = fs::metadata(path).ok();
    let mode = before.as_ref().map_or(mode, |before| before.mode() & 0o777);
    let new = PathBuf::from(format!("{}.new", path.display()));
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        if let Some(before) = &before {
            fchown(&file, Some(before.uid()), Some(before.gid()))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(failed)
}

/// The bytes of the first block in a PEM text.
pub(super) fn der(pem: &str) -> Option<Vec<u8>> {
    let mut lines = pem.lines().skip_while(|line| !line.starts_with("-----BEGIN ")).skip(1);
    let text: String = lines.by_ref().take_while(|line| !line.starts_with("-----END ")).collect();
    STANDARD.decode(text.trim()).ok()
}

/// `subjectAltName` (2.5.29.17), as it stands in an extension.
const ALTERNATIVE_NAMES: [u8; 5] = [6, 3, 0x55, 0x1d, 0x11];
/// `commonName` (2.5.4.3), as it stands in a name.
const COMMON_NAME: [u8; 5] = [6, 3, 0x55, 4, 3];

/// The names and addresses of a certificate.
fn alternative_names(certificate: &[u8]) -> Option<Vec<String>> {
    let (_, octets, _) = element(after(certificate, &ALTERNATIVE_NAMES)?)?;
    let (_, mut rest, _) = element(octets)?;
    let mut names = Vec::new();
    while !rest.is_empty() {
        let (tag, value, more) = element(rest)?;
        rest = more;
        names.push(match (tag, value.len()) {
            (0x82, _) => String::from_utf8(value.to_vec()).ok()?,
            (0x87, 4) => IpAddr::from(<[u8; 4]>::try_from(value).ok()?).to_string(),
            (0x87, 16) => IpAddr::from(<[u8; 16]>::try_from(value).ok()?).to_string(),
            _ => return None,
        });
    }
    Some(names)
}

/// The common name of the issuer, which stands first; of an authority, that is its own.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, name, _) = element(after(certificate, &COMMON_NAME)?)?;
    String::from_utf8(name.to_vec()).ok()
}

fn after<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let at = bytes.windows(mark.len()).position(|window| window == mark)?;
    bytes.get(at + mark.len()..)
}

/// One element of DER: its tag, what is in it, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 | 0x82 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None, // more than 64 kB, or no end
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_read() {
        let names = ["vm2", "10.0.0.2", "fd00::2", "registry.example.com"].map(str::to_owned);
        let today = jiff::civil::date(2026, 11, 1);
        let made = authority::certificates(&names, today).unwrap();
        let server = der(&made.server.certificate).unwrap();
        assert_eq!(alternative_names(&server).unwrap(), names);
        let name = common_name(&der(&made.authority.certificate).unwrap()).unwrap();
        assert_eq!(name, "Lighter registry authority of vm2");
        for length in 0..server.len() {
            alternative_names(&server[..length]); // it ends, whatever is missing
        }
        let other = authority::certificates(&names, today).unwrap();
        let mixed = Pair { key: other.authority.key, certificate: made.authority.certificate };
        assert!(authority::renewed(&mixed, &names, today).is_err(), "a key of another authority");
    }
}
