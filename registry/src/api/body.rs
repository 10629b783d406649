//! Bodies: gathering what a client sends, and reading files for what it is sent. Memory is bounded in
//! both directions by the size of a piece, whatever the size of the body.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use oci::wire::ErrorCode;

use super::failure::Failure;
use crate::promise::{Part, Promised, Promises};
use crate::store::{Upload, blocking};

/// What a client sends is written in pieces of about this size, in bytes.
const WRITE: usize = 512 << 10;
/// Files are read in pieces of this size, in bytes.
const READ: usize = 256 << 10;
/// How many pieces are read ahead of the network.
const READ_AHEAD: usize = 2;
/// How much of an unwanted body is read and dropped, in bytes: what a sender has under way before it
/// reads the answer, with room to spare.
const DRAIN: usize = 64 << 20;
/// How long an unwanted body may take.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Why a body ended before its end.
enum Stop {
    /// The client went away, or broke HTTP.
    Broken(axum::Error),
    /// Nothing came for too long.
    Idle,
}

/// What came of a body at a time.
struct Piece {
    parts: Vec<Bytes>,
    /// Whether more may follow; or why not.
    end: Option<Result<(), Stop>>,
}

impl Piece {
    fn size(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }
}

/// Waits for the next piece: about `most` bytes, or the end.
async fn gather(body: &mut Body, most: usize, idle: Duration) -> Piece {
    let (mut parts, mut size) = (Vec::new(), 0);
    while size < most {
        let frame = match tokio::time::timeout(idle, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Piece { parts, end: Some(Err(Stop::Broken(error))) },
            Ok(None) => return Piece { parts, end: Some(Ok(())) },
            Err(_) => return Piece { parts, end: Some(Err(Stop::Idle)) },
        };
        if let Ok(bytes) = frame.into_data() {
            size += bytes.len();
            parts.push(bytes);
        }
    }
    Piece { parts, end: None }
}

/// Appends a whole body to an upload. While one piece is written and hashed, the next arrives. What
/// came before a body broke off stays, so that the client can go on from there.
pub(super) async fn fill(upload: &mut Upload, body: &mut Body, idle: Duration) -> Result<(), Failure> {
    let mut left = upload.room();
    let mut piece = gather(body, beyond(left), idle).await;
    loop {
        left = left.saturating_sub(piece.size());
        match piece.end {
            None => {
                let write = async { upload.append(piece.parts).await.map_err(Failure::from) };
                // What cannot be written is not waited for any longer.
                let next = async { Ok(gather(body, beyond(left), idle).await) };
                piece = tokio::try_join!(write, next)?.1;
            }
            Some(end) => {
                upload.append(piece.parts).await?;
                end.map_err(stopped)?;
                return Ok(upload.end_chunk().await?);
            }
        }
    }
}

/// How much to wait for where so much may come: the first byte too many decides, whether more comes or not.
fn beyond(left: u64) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).saturating_add(1).min(WRITE)
}

fn stopped(stop: Stop) -> Failure {
    match stop {
        Stop::Broken(error) => Failure::bad(ErrorCode::BlobUploadInvalid, format!("the body broke off: {error}")),
        Stop::Idle => {
            let status = http::StatusCode::REQUEST_TIMEOUT;
            Failure::new(status, ErrorCode::BlobUploadInvalid, "the body stopped coming")
        }
    }
}

/// Reads a whole body into memory; `None` as soon as it is larger than `limit` bytes, whether more of it
/// comes or not.
pub(super) async fn collect(body: &mut Body, limit: usize, idle: Duration) -> Result<Option<Vec<u8>>, Failure> {
    let mut all = Vec::new();
    loop {
        let piece = gather(body, limit + 1 - all.len(), idle).await;
        for part in piece.parts {
            if all.len() + part.len() > limit {
                return Ok(None);
            }
            all.extend_from_slice(&part);
        }
        if let Some(end) = piece.end {
            return end.map(|()| Some(all)).map_err(stopped);
        }
    }
}

/// Drops some of a body that nobody wants, while its sender reads why. Says whether it came to its end;
/// else the connection has to be closed.
pub(super) async fn drain(mut body: Body) -> bool {
    let drop_some = async {
        let mut dropped = 0;
        loop {
            match body.frame().await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => dropped += frame.data_ref().map_or(0, Bytes::len),
            }
            if dropped > DRAIN {
                return false;
            }
        }
    };
    tokio::time::timeout(DRAIN_TIME, drop_some).await.unwrap_or(false)
}

/// A body made of text and ranges of a file. A file that turns out to be shorter breaks the
/// connection off: a client must never take a short body for a whole one. Where the connection takes
/// promises, the kernel sends the file; else it is read here.
pub(super) fn of_file(file: File, parts: Vec<Part>, promises: Option<Promises>) -> Body {
    if let Some(promises) = promises {
        return Body::new(Promised::new(promises, file, parts));
    }
    let file = Arc::new(file);
    let pieces = parts.into_iter().flat_map(split).map(move |part| {
        let file = file.clone();
        async move {
            match part {
                Part::Text(text) => Ok(text),
                Part::Range(range) => match blocking(move || read(&file, range)).await {
                    Ok(read) => read,
                    Err(error) => Err(io::Error::other(error)),
                },
            }
        }
    });
    Body::from_stream(futures_util::stream::iter(pieces).buffered(READ_AHEAD))
}

/// Splits a range into pieces; lazily, since a blob may have many.
fn split(part: Part) -> Box<dyn Iterator<Item = Part> + Send> {
    match part {
        Part::Range(range) => {
            let end = range.end;
            let starts = (range.start..end).step_by(READ);
            Box::new(starts.map(move |start| Part::Range(start..end.min(start + READ as u64))))
        }
        text => Box::new(std::iter::once(text)),
    }
}

fn read(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, range.start)?;
    Ok(buffer.into())
}
