//! Digests: the names of content, and the proof that content carries its name.
//!
//! A [`Digest`] is parsed once and copied freely. [`Verifier`] hashes a stream; only its `finish`
//! makes a [`Verified`], the value that every store demands before it files anything.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A hash algorithm that the OCI image specification registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// The default everywhere.
    Sha256,
    /// Optional in the specification, supported here for blobs and manifests alike.
    Sha512,
}

impl Algorithm {
    /// The name in front of the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of the hash in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(InvalidDigest::Algorithm),
        }
    }
}

/// Why a text is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// There is no `algorithm:` in front.
    #[error("a digest looks like sha256:<64 hexadecimal digits>")]
    Form,
    /// The algorithm is neither sha256 nor sha512.
    #[error("the digest algorithm is not supported; sha256 and sha512 are")]
    Algorithm,
    /// The encoded part has the wrong length or characters.
    #[error("the encoded part of the digest must be {} lower-case hexadecimal digits", .expected)]
    Encoded {
        /// How many digits this algorithm has.
        expected: usize,
    },
}

/// The name of some content: algorithm and hash (image-spec, descriptor.md, "Digests").
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64], // sha256 fills the first half and leaves the rest zero
}

impl Digest {
    /// Hashes a text that is already in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_with(Algorithm::Sha256, bytes)
    }

    /// Hashes a text that is already in memory with the given algorithm.
    pub fn of_with(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut verifier = Verifier::new(algorithm);
        verifier.update(bytes);
        verifier.seal().digest()
    }

    /// Builds a digest from the raw hash; `None` if its length is not the algorithm's.
    pub fn from_bytes(algorithm: Algorithm, hash: &[u8]) -> Option<Self> {
        if hash.len() != algorithm.size() {
            return None;
        }
        let mut bytes = [0; 64];
        bytes[..hash.len()].copy_from_slice(hash);
        Some(Self { algorithm, bytes })
    }

    /// The algorithm in front of the colon.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw hash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.size()]
    }

    /// The encoded part: what stands after the colon.
    pub fn hex(&self) -> String {
        self.encoded(&mut [0; 128]).to_owned()
    }

    /// The same in a buffer. Registries write digests several times for each answer, and formatting byte by
    /// byte is a tenth of what an answer costs.
    fn encoded<'a>(&self, buffer: &'a mut [u8; 128]) -> &'a str {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let text = &mut buffer[..self.algorithm.size() * 2];
        for (digits, byte) in text.chunks_exact_mut(2).zip(self.as_bytes()) {
            digits[0] = DIGITS[usize::from(byte >> 4)];
            digits[1] = DIGITS[usize::from(byte & 15)];
        }
        std::str::from_utf8(text).expect("hexadecimal digits are ASCII")
    }

    /// The first twelve hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.algorithm == other.algorithm && self.as_bytes() == other.as_bytes()
    }
}
impl Eq for Digest {}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.algorithm.hash(state);
        state.write(self.as_bytes());
    }
}

impl PartialOrd for Digest {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Digest {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.algorithm, self.as_bytes()).cmp(&(other.algorithm, other.as_bytes()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm.as_str())?;
        f.write_str(":")?;
        f.write_str(self.encoded(&mut [0; 128]))
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let (algorithm, encoded) = text.split_once(':').ok_or(InvalidDigest::Form)?;
        let algorithm: Algorithm = algorithm.parse()?;
        let expected = algorithm.size() * 2;
        let wrong = InvalidDigest::Encoded { expected };
        if encoded.len() != expected {
            return Err(wrong);
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(encoded.as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0]).ok_or(wrong)? << 4 | nibble(pair[1]).ok_or(wrong)?;
        }
        Ok(Self { algorithm, bytes })
    }
}

/// One lower-case hexadecimal digit; upper case is not a digest (image-spec, descriptor.md).
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}
impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// The digest of a layer's *uncompressed* tar, as the image config lists it.
///
/// A layer has two hashes, and mixing them up is the classic mistake of image tools. So neither
/// converts into the other:
///
/// ```compile_fail
/// let digest: oci::Digest = oci::Digest::of(b"layer");
/// let diff_id: oci::DiffId = digest;
/// ```
/// ```compile_fail
/// let diff_id = oci::DiffId::of_tar(&oci::Verifier::sha256().seal());
/// let digest: oci::Digest = diff_id.into();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(Digest);

impl DiffId {
    /// The diff ID of a tar stream that was just hashed.
    pub fn of_tar(tar: &Verified) -> Self {
        Self(tar.digest())
    }

    /// The raw hash, for keys and file names.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The encoded part: what stands after the colon.
    pub fn hex(&self) -> String {
        self.0.hex()
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DiffId {
    type Err = InvalidDigest;
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        text.parse().map(Self)
    }
}

/// Content that was hashed to its end: a digest and a size, in bytes, that are known to be true.
///
/// There is no other way to make one than [`Verifier`], so a store that takes a `Verified` never
/// files content under a name that nobody checked:
///
/// ```compile_fail
/// let claimed = oci::Verified { digest: oci::Digest::of(b"x"), size: 1 };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    digest: Digest,
    size: u64,
}

impl Verified {
    /// The name that the content was found to carry.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many bytes were hashed.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// The content does not hash to the name that was claimed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content is {actual} ({size} bytes), not {expected}")]
pub struct Mismatch {
    /// The name that was claimed.
    pub expected: Digest,
    /// The name that the content really has.
    pub actual: Digest,
    /// How many bytes were hashed.
    pub size: u64,
}

/// Hashes a stream of bytes, to compare it with a claimed digest or to name it.
#[derive(Clone)]
pub struct Verifier {
    state: State,
    size: u64,
}

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Verifier {
    /// Starts a hash.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        };
        Self { state, size: 0 }
    }

    /// Starts a sha256, which is what everything uses unless told otherwise.
    pub fn sha256() -> Self {
        Self::new(Algorithm::Sha256)
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(hash) => hash.update(bytes),
            State::Sha512(hash) => hash.update(bytes),
        }
        self.size += bytes.len() as u64;
    }

    /// How many bytes were taken so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Ends the stream, which must be `expected`.
    pub fn finish(self, expected: Digest) -> Result<Verified, Mismatch> {
        let verified = self.seal();
        if verified.digest == expected {
            return Ok(verified);
        }
        Err(Mismatch { expected, actual: verified.digest, size: verified.size })
    }

    /// Ends the stream and names it: for content that we make ourselves.
    pub fn seal(self) -> Verified {
        let digest = match self.state {
            State::Sha256(hash) => Digest::from_bytes(Algorithm::Sha256, &hash.finalize()),
            State::Sha512(hash) => Digest::from_bytes(Algorithm::Sha512, &hash.finalize()),
        };
        Verified { digest: digest.expect("a hash has its algorithm's length"), size: self.size }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("size", &self.size).finish_non_exhaustive()
    }
}

impl std::io::Write for Verifier {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_hashes() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        let sha512 = Digest::of_with(Algorithm::Sha512, b"abc").to_string();
        assert!(sha512.starts_with("sha512:ddaf35a193617abacc417349ae204131"), "{sha512}");
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        for (text, error) in [
            ("", InvalidDigest::Form),
            ("sha256", InvalidDigest::Form),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", InvalidDigest::Algorithm),
            ("SHA256:00", InvalidDigest::Algorithm),
            ("sha256:", InvalidDigest::Encoded { expected: 64 }),
            (&EMPTY[..70], InvalidDigest::Encoded { expected: 64 }),
            (upper.as_str(), InvalidDigest::Encoded { expected: 64 }),
            (
                "sha512:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                InvalidDigest::Encoded { expected: 128 },
            ),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }

    #[test]
    fn finish_compares_with_the_claim() {
        let mut verifier = Verifier::sha256();
        verifier.update(b"hello");
        assert_eq!(verifier.clone().finish(Digest::of(b"hello")).unwrap().size(), 5);
        let mismatch = verifier.finish(Digest::of(b"other")).unwrap_err();
        assert_eq!(mismatch.actual, Digest::of(b"hello"));
    }

    proptest::proptest! {
        #[test]
        fn text_round_trips(bytes: Vec<u8>, long: bool) {
            let algorithm = if long { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let digest = Digest::of_with(algorithm, &bytes);
            proptest::prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        }

        #[test]
        fn parsing_never_panics(text: String) {
            let _ = text.parse::<Digest>(); // only whether it returns matters here
        }
    }
}
