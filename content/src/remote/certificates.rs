//! Certificates by registry, where docker, podman and skopeo keep them: `DIRECTORY/HOST[:PORT]/` holds authorities
//! as `*.crt`, and certificates of our own as `NAME.cert` with `NAME.key`. They count for that registry alone, and are
//! read when it is first spoken to.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci::Host;

use super::transport::ClientCertificate;
use crate::{Error, Result};

/// Largest file that is read, in bytes.
const SIZE_LIMIT: u64 = 1 << 20;

/// What the directories say of one registry.
#[derive(Debug, Default)]
pub(super) struct OfHost {
    /// Authorities, as PEM.
    pub authorities: Vec<Vec<u8>>,
    /// The first certificate of ours.
    pub client: Option<ClientCertificate>,
}

impl OfHost {
    /// Looks into all directories; one that is not there says nothing.
    pub fn read(directories: &[PathBuf], host: &Host) -> Result<Self> {
        let mut found = Self::default();
        for directory in directories {
            found.add(&directory.join(host.to_string()))?;
        }
        Ok(found)
    }

    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty() && self.client.is_none()
    }

    fn add(&mut self, directory: &Path) -> Result<()> {
        use io::ErrorKind::{NotADirectory, NotFound};
        let entries = match fs::read_dir(directory) {
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(()),
            entries => entries.map_err(Error::disk(directory))?,
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
        let mut paths = paths.map_err(Error::disk(directory))?;
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.authorities.push(read(&path)?),
                Some("cert") => {
                    let certificate =
                        ClientCertificate { chain: read(&path)?, key: read(&path.with_extension("key"))? };
                    self.client.get_or_insert(certificate);
                }
                Some("key") if !path.with_extension("cert").exists() => {
                    let reason = "a key without its certificate, which is a .cert file of the same name".to_owned();
                    return Err(Error::Format { path, reason });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::disk(path))?;
    file.take(SIZE_LIMIT).read_to_end(&mut bytes).map_err(Error::disk(path))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_registry_has_its_own() {
        let place = tempfile::tempdir().unwrap();
        let host = place.path().join("reg:5000");
        fs::create_dir(&host).unwrap();
        let directories = [place.path().join("absent"), place.path().to_owned()];
        let read = |name: &str| OfHost::read(&directories, &name.parse().unwrap());
        assert!(read("reg:5000").unwrap().is_empty());
        for (name, text) in [("b.crt", "b"), ("a.crt", "a"), ("own.cert", "chain"), ("own.key", "key"), ("README", "x")]
        {
            fs::write(host.join(name), text).unwrap();
        }
        let found = read("reg:5000").unwrap();
        assert_eq!(found.authorities, [b"a".to_vec(), b"b".to_vec()]);
        let client = found.client.unwrap();
        assert_eq!((client.chain, client.key), (b"chain".to_vec(), b"key".to_vec()));
        assert!(read("reg:5001").unwrap().is_empty() && read("other:5000").unwrap().is_empty());

        fs::remove_file(host.join("own.cert")).unwrap();
        assert!(read("reg:5000").unwrap_err().to_string().contains("own.key"));
        fs::rename(host.join("own.key"), host.join("own.cert")).unwrap();
        assert!(read("reg:5000").unwrap_err().to_string().contains("own.key"));
    }
}
