//! What the builder and the init process of a step say to each other over their socket: a length and a JSON [`Spec`]
//! one way, a JSON [`Report`] the other way. Nothing is sent here.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use serde::{Deserialize, Serialize};

use super::{ExecFailure, Overlay, Proc, Rung, Step};
use crate::secret::Secret;

/// More than any step needs: 500 layers and two megabytes of arguments and environment, each byte as a JSON number.
const SPEC_LIMIT: u64 = 64 << 20;

/// A report is a number or two sentences.
pub(super) const REPORT_LIMIT: u64 = 64 << 10;

/// All that the init process of a step must know.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub step: Step,
    pub rung: Rung,
    /// Whether a supervisor answers for owners.
    pub records_owners: bool,
    pub overlay: Overlay,
    pub proc: Proc,
    /// The lower layer of images without any.
    #[serde(with = "path")]
    pub empty: PathBuf,
    /// The contents of /etc/resolv.conf.
    pub resolv_conf: Vec<u8>,
    /// False in a user namespace whose `setgroups` is denied.
    pub setgroups: bool,
}

/// How a step ended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    Exited(i32),
    Signaled(i32),
    Failed(Failure),
    NotExecuted { program: String, errno: i32, why: NotExecuted },
}

/// What the process that called execve knows about a failure beyond the errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum NotExecuted {
    NotInPath,
    Missing,
    NoInterpreter,
    Other,
}

impl NotExecuted {
    pub(super) fn explain(self, errno: i32) -> ExecFailure {
        match (self, errno) {
            (Self::NotInPath, _) => ExecFailure::NotInPath,
            (Self::Missing, _) => ExecFailure::Missing,
            (Self::NoInterpreter, _) => ExecFailure::NoInterpreter,
            (Self::Other, libc::ENOEXEC) => ExecFailure::Format,
            (Self::Other, libc::EACCES | libc::EPERM) => ExecFailure::Denied,
            (Self::Other, errno) => ExecFailure::Errno(errno),
        }
    }
}

/// A system call that failed inside the sandbox, and what it was for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub doing: String,
    pub errno: i32,
}

impl Failure {
    pub(super) fn new(doing: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self { doing: doing.into(), errno: error.into().raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// Says what was being done when a system call failed.
pub(super) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(what(), error))
    }
}

pub(super) fn send(mut socket: impl Write, spec: &Spec) -> io::Result<()> {
    let json = serde_json::to_vec(spec)?;
    socket.write_all(&(json.len() as u64).to_le_bytes())?;
    socket.write_all(&json)
}

pub(super) fn receive(mut socket: impl Read) -> io::Result<Spec> {
    let mut length = [0; 8];
    socket.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > SPEC_LIMIT {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let mut json = Vec::new();
    socket.take(length).read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// Sends a descriptor to the builder, before any report.
pub(super) fn hand_over(socket: impl AsFd, descriptor: impl AsFd) -> io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // JSON allows white space: the byte that carries the descriptor is none of the report's.
    let sent = retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(b" ")], &mut rights, SendFlags::empty()))?;
    if sent == 1 { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Reads a part of the report, and the descriptor that may come with it.
pub(super) fn hear(socket: impl AsFd, buffer: &mut [u8]) -> rustix::io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let heard =
        retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(&mut *buffer)], &mut rights, RecvFlags::CMSG_CLOEXEC))?;
    let mut descriptors = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((heard.bytes, descriptors.next().and_then(|mut descriptors| descriptors.next())))
}

/// Paths as bytes: serde would refuse those that are not UTF-8.
pub(super) mod path {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(path: &std::path::Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        OsString::deserialize(deserializer).map(PathBuf::from)
    }
}

/// The same for one that may not be there.
pub(super) mod optional_path {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(|path| path.as_os_str()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<OsString>::deserialize(deserializer)?.map(PathBuf::from))
    }
}

/// The same for a list.
pub(super) mod paths {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| path.as_os_str()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        Ok(Vec::<OsString>::deserialize(deserializer)?.into_iter().map(PathBuf::from).collect())
    }
}

/// A secret as bytes; only here does one leave the process, to the init process of its step.
pub(super) mod secret {
    use super::*;
    use serde::de::Error;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(secret.reveal())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        Secret::new(Vec::<u8>::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// The same for variables.
pub(super) mod secrets {
    use super::*;
    use serde::de::Error;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(secrets: &[(OsString, Secret)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(secrets.iter().map(|(name, secret)| (name, secret.reveal())))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(OsString, Secret)>, D::Error> {
        let pairs = Vec::<(OsString, Vec<u8>)>::deserialize(deserializer)?.into_iter();
        pairs.map(|(name, bytes)| Ok((name, Secret::new(bytes).map_err(D::Error::custom)?))).collect()
    }
}
