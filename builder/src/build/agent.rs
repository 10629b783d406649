//! The SSH agent of whoever builds, lent to a step: a socket of the step's own, behind which a thread
//! passes questions on. A step can list keys and have something signed; it cannot add, remove or lock
//! keys, and it never sees one.
//!
//! The protocol: <https://datatracker.ietf.org/doc/html/draft-miller-ssh-agent>.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// OpenSSH's own limit of a message, in bytes.
const MESSAGE_LIMIT: u32 = 256 << 10;
/// More connections of one step than this at a time are refused.
const CONNECTION_LIMIT: usize = 32;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;

/// A socket that leads to the agent for as long as this lives.
pub(super) struct Lent {
    socket: PathBuf,
    directory: File,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lent {
    /// Makes the socket in `directory`, which is made as well.
    pub fn new(agent: &Path, directory: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<Self> {
        UnixStream::connect(agent)?; // a dead agent is told now, by name
        fs::create_dir(directory)?;
        let socket = directory.join("agent");
        let directory = File::open(directory)?;
        let listener = UnixListener::bind(short(&directory))?;
        fs::set_permissions(&socket, Permissions::from_mode(mode & 0o777))?;
        if let Some((uid, gid)) = owner {
            chown(&socket, Some(uid), Some(gid))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (agent, stopped) = (agent.to_owned(), stop.clone());
        let thread = thread::Builder::new().name("ssh-agent".into()).spawn(move || {
            serve(&listener, &agent, &stopped);
        })?;
        Ok(Self { socket, directory, stop, thread: Some(thread) })
    }

    /// Where it is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread. Should that fail, it stays asleep until the process ends.
        if UnixStream::connect(short(&self.directory)).is_ok()
            && let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::debug!("the thread of an SSH agent panicked");
        }
    }
}

/// The address of a socket may have 107 bytes; through the descriptor it always fits.
fn short(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/agent", directory.as_raw_fd()))
}

fn serve(listener: &UnixListener, agent: &Path, stop: &AtomicBool) {
    let open = Arc::new(AtomicUsize::new(0));
    for client in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        if open.fetch_add(1, Ordering::SeqCst) >= CONNECTION_LIMIT {
            open.fetch_sub(1, Ordering::SeqCst);
            continue; // closes it
        }
        let (agent, open) = (agent.to_owned(), open.clone());
        // It ends with the processes of the step, or with an agent that does not answer any more.
        let connection = move || {
            if let Err(error) = UnixStream::connect(agent).and_then(|agent| pass(client, agent)) {
                tracing::debug!(%error, "a connection to the SSH agent ended");
            }
            open.fetch_sub(1, Ordering::SeqCst);
        };
        if let Err(error) = thread::Builder::new().name("ssh-agent".into()).spawn(connection) {
            tracing::debug!(%error, "no thread for a connection to the SSH agent"); // it is closed, and stays counted
        }
    }
}

/// One question after the other, until the client closes.
fn pass(mut client: impl Read + Write, mut agent: impl Read + Write) -> io::Result<()> {
    while let Some(question) = message(&mut client)? {
        let answer = match question.first() {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => {
                send(&mut agent, &question)?;
                message(&mut agent)?.ok_or(io::ErrorKind::UnexpectedEof)?
            }
            _ => vec![FAILURE],
        };
        send(&mut client, &answer)?;
    }
    Ok(())
}

/// A message without its length; none at the end.
fn message(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length);
    if length > MESSAGE_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of more than 256 KiB"));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

fn send(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    to.write_all(&[&length.to_be_bytes(), message].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A conversation: what it reads is given, what is written is kept.
    struct Talk(io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for &mut Talk {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Write for &mut Talk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn questions_pass_and_orders_do_not() {
        let framed = |messages: &[&[u8]]| {
            messages.iter().flat_map(|m| [&(m.len() as u32).to_be_bytes(), *m].concat()).collect::<Vec<u8>>()
        };
        let (list, sign, remove_all, extension): (&[u8], &[u8], &[u8], &[u8]) = (&[11], &[13, 1, 2], &[19], &[27, 0]);
        let mut client = Talk(io::Cursor::new(framed(&[list, remove_all, extension, &[], sign])), Vec::new());
        let mut agent = Talk(io::Cursor::new(framed(&[&[12, 0], &[14, 9]])), Vec::new());
        pass(&mut client, &mut agent).unwrap();
        assert_eq!(agent.1, framed(&[list, sign]));
        assert_eq!(client.1, framed(&[&[12, 0], &[5], &[5], &[5], &[14, 9]]));
    }

    #[test]
    fn a_huge_message_is_refused_before_it_is_read() {
        let mut client = Talk(io::Cursor::new(u32::MAX.to_be_bytes().to_vec()), Vec::new());
        let mut agent = Talk(io::Cursor::new(Vec::new()), Vec::new());
        assert!(pass(&mut client, &mut agent).is_err());
        assert!(agent.1.is_empty());
    }
}
