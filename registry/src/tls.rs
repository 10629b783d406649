//! TLS on accepted connections. Certificates are read again when their files change, so that a renewal
//! needs no restart; a broken renewal leaves the old one in use. What is said inside is not known here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::access::hex;
use crate::watched::{ReadError, Watched, read};

/// How long a client may take to agree on keys.
const HANDSHAKE_TIME: Duration = Duration::from_secs(15);
/// Largest file of certificates, in bytes: a bundle of all public authorities has 200 kB.
const FILE_LIMIT: u64 = 4 << 20;
/// The first byte of TLS: a handshake record.
const HANDSHAKE: u8 = 22;

/// How connections are protected.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// The certificate and its chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Authorities of client certificates.
    pub clients: Option<ClientAuthority>,
}

/// Which client certificates are taken.
#[derive(Debug, Clone)]
pub struct ClientAuthority {
    /// Authorities that sign them, PEM.
    pub file: PathBuf,
    /// Whether clients without one are refused.
    pub required: bool,
}

impl TlsSettings {
    /// Reads the files that are named, to see whether they are as they should be.
    pub fn check_files(&self) -> Result<(), ReadError> {
        config(self).map(drop)
    }
}

/// Accepts TLS.
pub(crate) struct Tls(Arc<Watched<Arc<ServerConfig>>>);

impl Tls {
    pub(crate) fn open(settings: TlsSettings) -> Result<Self, ReadError> {
        let mut files = vec![settings.certificate.clone(), settings.key.clone()];
        files.extend(settings.clients.iter().map(|clients| clients.file.clone()));
        Ok(Self(Arc::new(Watched::new(files, move || config(&settings))?)))
    }

    /// Agrees on keys with a client; gives the fingerprint of its certificate if it showed one.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Option<Arc<str>>)> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long");
        tokio::time::timeout(HANDSHAKE_TIME, self.shake_hands(stream)).await.map_err(late)?
    }

    async fn shake_hands(&self, mut stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Option<Arc<str>>)> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE {
            return Err(answer_in_plain(&mut stream).await);
        }
        let files = self.0.clone();
        let config = tokio::task::spawn_blocking(move || files.current()).await.map_err(io::Error::other)?;
        let stream = TlsAcceptor::from((*config).clone()).accept(stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let fingerprint = certificate
            .map(|certificate| Arc::from(hex(ring::digest::digest(&ring::digest::SHA256, certificate).as_ref())));
        Ok((stream, fingerprint))
    }
}

/// Tells somebody who speaks HTTP that this is HTTPS.
async fn answer_in_plain(stream: &mut TcpStream) -> io::Error {
    const BODY: &str = "{\"errors\":[{\"code\":\"UNSUPPORTED\",\"message\":\"this port speaks HTTPS, and this request came in plain HTTP: use https://\"}]}\n";
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{BODY}",
        BODY.len()
    );
    // Read what has come, so that closing does not reset the connection before the answer is read.
    let mut request = [0; 4096];
    let _ = tokio::io::AsyncReadExt::read(stream, &mut request).await; // what it asked for does not matter
    let _ = stream.write_all(answer.as_bytes()).await; // whoever hung up does not need it
    let _ = stream.shutdown().await;
    io::Error::new(io::ErrorKind::InvalidData, "the client spoke plain HTTP")
}

fn config(settings: &TlsSettings) -> Result<Arc<ServerConfig>, ReadError> {
    let chain = certificates(&settings.certificate)?;
    let key = read(&settings.key, FILE_LIMIT)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| wrong(&settings.key, error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions of TLS");
    let builder = match &settings.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&clients.file)? {
                roots.add(certificate).map_err(|error| wrong(&clients.file, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if clients.required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong(&clients.file, error))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| wrong(&settings.certificate, error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ReadError> {
    let text = read(path, FILE_LIMIT)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| wrong(path, error))?;
    if found.is_empty() {
        return Err(wrong(path, "there is no certificate in it"));
    }
    Ok(found)
}

fn wrong(path: &Path, error: impl std::fmt::Display) -> ReadError {
    ReadError::Content { path: path.to_owned(), reason: error.to_string() }
}
