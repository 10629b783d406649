//! Asking the process that has the data open.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;

use super::failed::Failed;
use super::owner::socket_in;
use super::{Done, Request, Said};

/// Longest line of an answer, in bytes: a digest that very many repositories hold.
const LINE_LIMIT: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Whoever has the data open takes no requests.
    #[error("the process that uses {} does not answer", data.display())]
    Silent {
        /// The data directory.
        data: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended, or does not take requests of this user.
    #[error("the registry stopped before it was done, or does not take this from the user that asks")]
    BrokeOff,
    /// It speaks another language.
    #[error("the registry is of another version")]
    Foreign(#[source] serde_json::Error),
    /// It did not do it.
    #[error(transparent)]
    Failed(#[from] Failed),
}

/// A line of an answer.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Said(Said),
    Done(Done),
    Failed(Failed),
}

/// Asks the process that has `data` open to do something, with the layout in `directory` if that is
/// needed; `said` hears what it tells meanwhile. It stops when this is dropped.
pub async fn ask(
    data: &Path,
    request: &Request,
    directory: Option<&Path>,
    said: &mut (dyn FnMut(Said) + Send),
) -> Result<Done, AskError> {
    let silent = |source| AskError::Silent { data: data.to_owned(), source };
    let opened = File::open(data).map_err(silent)?;
    let mut stream = UnixStream::connect(socket_in(&opened)).await.map_err(silent)?;
    let layout = match directory {
        Some(directory) => Some(
            File::open(directory)
                .map_err(|source| Failed::from(content::Error::Disk { path: directory.to_owned(), source }))?,
        ),
        None => None,
    };
    let mut line = serde_json::to_vec(request).map_err(AskError::Foreign)?;
    line.push(b'\n');
    let sent = send(&stream, &line, layout.as_ref().map(AsFd::as_fd)).await.map_err(silent)?;
    stream.write_all(&line[sent..]).await.map_err(silent)?;
    let mut answer = BufReader::new(stream);
    loop {
        let mut text = Vec::new();
        // A connection that is reset is one that ended.
        let read = (&mut answer).take(LINE_LIMIT).read_until(b'\n', &mut text).await.unwrap_or(0);
        if read == 0 {
            return Err(AskError::BrokeOff);
        }
        match serde_json::from_slice(&text).map_err(AskError::Foreign)? {
            Line::Said(told) => said(told),
            Line::Done(done) => return Ok(done),
            Line::Failed(failed) => return Err(failed.into()),
        }
    }
}

/// Sends the beginning of a request and the directory; says how much of it went.
async fn send(stream: &UnixStream, line: &[u8], directory: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let descriptors: Vec<BorrowedFd<'_>> = directory.into_iter().collect();
    loop {
        stream.writable().await?;
        let sent = stream.try_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)); // there is room for one
            }
            Ok(sendmsg(stream, &[IoSlice::new(line)], &mut ancillary, SendFlags::NOSIGNAL)?)
        });
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
    }
}
