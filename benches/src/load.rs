//! Load: many connections that stay open, on each of which one request follows the other.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// How long requests took.
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// The time in which this share of the requests was answered.
    pub fn quantile(&self, share: f64) -> Duration {
        let at = ((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1));
        self.0.get(at).copied().unwrap_or_default()
    }
}

/// Sends a request again and again over `connections` connections, `each` times over each. Every answer
/// must have this status and as many bytes as the first one of its connection.
pub fn repeat(server: SocketAddr, request: &str, status: u16, connections: usize, each: usize) -> Latencies {
    let ready = Barrier::new(connections);
    let mut all = Vec::with_capacity(connections * each);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|_| {
                let (request, ready) = (request.as_bytes(), &ready);
                let work = move || {
                    let mut stream = TcpStream::connect(server).expect("the server answers");
                    stream.set_nodelay(true).expect("a socket without delay");
                    let size = first(&mut stream, request, status);
                    ready.wait();
                    let mut buffer = vec![0; size];
                    let mut taken = Vec::with_capacity(each);
                    for _ in 0..each {
                        let begun = Instant::now();
                        stream.write_all(request).expect("the server takes requests");
                        stream.read_exact(&mut buffer).expect("the server answers");
                        taken.push(begun.elapsed());
                        assert!(buffer.starts_with(b"HTTP/1.1 ") && buffer[9..12] == *status.to_string().as_bytes());
                    }
                    taken
                };
                std::thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, work).expect("a thread")
            })
            .collect();
        for thread in threads {
            all.extend(thread.join().expect("no thread panics"));
        }
    });
    all.sort_unstable();
    Latencies(all)
}

/// A connection that stays open, for requests that are not all the same.
pub struct Line {
    stream: TcpStream,
    server: SocketAddr,
    buffer: Vec<u8>,
}

impl Line {
    pub fn open(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).expect("the server answers");
        stream.set_nodelay(true).expect("a socket without delay");
        Self { stream, server, buffer: Vec::new() }
    }

    /// Sends a request and reads the answer, which must have this status and no body; gives its head.
    pub fn send(&mut self, method: &str, target: &str, kind: &str, body: &[u8], status: u16) -> String {
        self.buffer.clear();
        let (server, length) = (self.server, body.len());
        write!(
            self.buffer,
            "{method} {target} HTTP/1.1\r\nHost: {server}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        )
        .expect("a vector takes everything");
        self.buffer.extend_from_slice(body);
        self.stream.write_all(&self.buffer).expect("the server takes requests");
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        while !answer.ends_with(b"\r\n\r\n") {
            let read = self.stream.read(&mut part).expect("the server answers");
            assert!(read > 0, "the server hung up");
            answer.extend_from_slice(&part[..read]);
        }
        let head = String::from_utf8(answer).expect("a head is text");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {target}: {head}");
        head
    }
}

/// Sends the request once, and says how many bytes the answer has.
fn first(stream: &mut TcpStream, request: &[u8], status: u16) -> usize {
    stream.write_all(request).expect("the server takes requests");
    let mut answer = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let read = stream.read(&mut buffer).expect("the server answers");
        assert!(read > 0, "the server hung up");
        answer.extend_from_slice(&buffer[..read]);
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let is_whole = match length {
            _ if request.starts_with(b"HEAD") => answer.len() >= end + 4,
            Some(length) => answer.len() >= end + 4 + length.parse::<usize>().expect("a number"),
            // In chunks, as docker-registry sends its lists: the last one is empty.
            None => answer.ends_with(b"\r\n0\r\n\r\n"),
        };
        if is_whole {
            return answer.len();
        }
    }
}
