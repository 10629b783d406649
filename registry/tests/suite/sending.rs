//! Sending blobs: whatever is asked in whatever order on one connection, every byte is the right one.
//! The kernel sends files to plain connections (`promise`), so this reads from sockets as they come.

use std::time::{Duration, Instant};

use oci::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::client::{Http, Registry, noise};

/// A connection whose answers are read by hand.
struct Line {
    stream: TcpStream,
    /// What came behind the last answer.
    rest: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Line {
    /// Connects with a small receive buffer, so that the registry has to write in many parts.
    async fn open(http: &Http) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        Self { stream: socket.connect(http.addr).await.unwrap(), rest: Vec::new() }
    }

    async fn ask(&mut self, requests: &str) {
        self.stream.write_all(requests.as_bytes()).await.unwrap();
    }

    /// Reads one answer; that to a HEAD has no body.
    async fn answer(&mut self, is_head: bool) -> Answer {
        let end = loop {
            match self.rest.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => {
                    assert!(self.more().await > 0, "the connection ended: {:?}", String::from_utf8_lossy(&self.rest))
                }
            }
        };
        let body = self.rest.split_off(end);
        let head = String::from_utf8(std::mem::replace(&mut self.rest, body)).unwrap().to_ascii_lowercase();
        let status = head[9..12].parse().unwrap();
        let length = head.split_once("content-length: ").map_or("0", |(_, rest)| rest.split("\r\n").next().unwrap());
        let length: usize = if is_head || status == 304 { 0 } else { length.parse().unwrap() };
        while self.rest.len() < length {
            assert!(self.more().await > 0, "the body ended early: {head}");
        }
        let rest = self.rest.split_off(length);
        Answer { status, head, body: std::mem::replace(&mut self.rest, rest) }
    }

    async fn more(&mut self) -> usize {
        let mut buffer = [0; 70_000];
        let read = self.stream.read(&mut buffer).await.unwrap_or(0); // a reset is an end
        self.rest.extend_from_slice(&buffer[..read]);
        read
    }
}

/// Numbers that look random, and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// What is asked, and what must come.
struct Case {
    request: String,
    is_head: bool,
    status: u16,
    body: Vec<u8>,
}

fn case(dice: &mut Dice, path: &str, content: &[u8]) -> Case {
    let is_head = dice.roll(8) == 0;
    let method = if is_head { "HEAD" } else { "GET" };
    let (mut range, mut status, mut body) = (String::new(), 200, content.to_vec());
    if !is_head && !content.is_empty() {
        let start = dice.roll(content.len());
        let end = (start + 1 + dice.roll(content.len())).min(content.len());
        match dice.roll(5) {
            0 => {}
            1 => (range, status, body) = (format!("{start}-{}", end - 1), 206, content[start..end].to_vec()),
            2 => (range, status, body) = (format!("{start}-"), 206, content[start..].to_vec()),
            3 => {
                (range, status, body) =
                    (format!("-{}", end - start), 206, content[content.len() - (end - start)..].to_vec())
            }
            _ => {
                let parts = [start..end, 0..1, content.len() - 1..content.len()];
                range =
                    parts.iter().map(|part| format!("{}-{}", part.start, part.end - 1)).collect::<Vec<_>>().join(",");
                // More than everything is asked for: everything comes, once.
                let is_too_much = end - start + 2 > content.len();
                (status, body) =
                    if is_too_much { (200, content.to_vec()) } else { (206, multipart(path, content, &parts)) };
            }
        }
    }
    let range = if range.is_empty() { range } else { format!("range: bytes={range}\r\n") };
    let body = if is_head { Vec::new() } else { body };
    Case { request: format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{range}\r\n"), is_head, status, body }
}

fn multipart(path: &str, content: &[u8], parts: &[std::ops::Range<usize>]) -> Vec<u8> {
    let digest = path.rsplit_once(':').unwrap().1;
    let (boundary, size) = (&digest[..32], content.len());
    let mut body = Vec::new();
    for part in parts {
        let range = format!("{}-{}/{size}", part.start, part.end - 1);
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {range}\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&content[part.clone()]);
    }
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_is_right_over_many_requests_of_one_connection() {
    let registry = Registry::start().await;
    let mut blobs = Vec::new();
    for size in [0, 1, 700, 65_536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 2_500_000] {
        let content = noise(size as u64, size);
        let digest = registry.http.push_blob("a", &content).await;
        blobs.push((format!("/v2/a/blobs/{digest}"), content));
    }
    let connections = (0..4).map(|seed| {
        let (http, blobs) = (registry.http.clone(), blobs.clone());
        tokio::spawn(async move {
            let (mut dice, mut line) = (Dice(seed), Line::open(&http).await);
            for _ in 0..40 {
                // Several requests at once, as pipelining clients send them.
                let cases: Vec<_> = (0..1 + dice.roll(5))
                    .map(|_| {
                        let (path, content) = &blobs[dice.roll(blobs.len())];
                        case(&mut dice, path, content)
                    })
                    .collect();
                let requests: String = cases.iter().map(|case| case.request.as_str()).collect();
                line.ask(&requests).await;
                for case in cases {
                    let answer = line.answer(case.is_head).await;
                    assert_eq!(answer.status, case.status, "{}{}", case.request, answer.head);
                    assert!(answer.body == case.body, "other bytes came: {}{}", case.request, answer.head);
                }
            }
        })
    });
    for connection in connections.collect::<Vec<_>>() {
        connection.await.unwrap();
    }
}

/// Files below a directory that this process holds open.
fn open_below(directory: &std::path::Path) -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    // A handle may be closed while they are listed.
    all.filter_map(|entry| entry.ok()?.path().read_link().ok()).filter(|path| path.starts_with(directory)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_away_disturb_nobody_and_leave_nothing_open() {
    let registry = Registry::start().await;
    let content = noise(9, 6_000_000);
    let digest = registry.http.push_blob("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");
    for round in 0..30 {
        let mut line = Line::open(&registry.http).await;
        line.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        for _ in 0..round % 4 {
            line.more().await;
        }
    }
    let whole = registry.http.get(&path).await.expect(200);
    assert!(whole.body == content, "the same bytes come back");
    while open_below(registry.data().join("blobs").as_path()) > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_no_more_is_hung_up_on_and_a_slow_one_gets_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = registry::Settings::new("127.0.0.1:0".parse().unwrap(), dir.path());
    settings.limits.idle = Duration::from_secs(2);
    let registry = Registry::start_with(dir, settings).await;
    let content = noise(10, 32_000_000);
    let digest = registry.http.push_blob("a", &content).await;
    let ask = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nhost: x\r\n\r\n");
    let (mut stalled, mut slow) = (Line::open(&registry.http).await, Line::open(&registry.http).await);
    stalled.ask(&ask).await;
    stalled.more().await;
    slow.ask(&ask).await;
    // So slow that all of it takes longer than any pause may.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        assert!(slow.more().await > 0, "the slow one was hung up on after {} bytes", slow.rest.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(slow.answer(false).await.body == content, "the same bytes come back");
    drop(slow);
    while open_below(registry.data().join("blobs").as_path()) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(120), "the file stays open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while stalled.more().await > 0 {}
    assert!(stalled.rest.len() < content.len(), "nobody waited for the one that did not read");
}

#[tokio::test]
async fn a_file_that_is_shorter_than_it_was_breaks_the_answer_off() {
    let registry = Registry::start().await;
    let content = noise(11, 24 << 20);
    let digest = registry.http.push_blob("a", &content).await;
    let mut line = Line::open(&registry.http).await;
    line.ask(&format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    line.more().await;
    let hex = digest.hex();
    let file = registry.data().join("blobs/sha256").join(&hex[..2]).join(&hex);
    let mut permissions = std::fs::metadata(&file).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&file, permissions).unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_len(20 << 20).unwrap();
    while line.more().await > 0 {}
    assert!(line.rest.starts_with(b"HTTP/1.1 200 OK\r\n"));
    let body = line.rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let body = &line.rest[body..];
    assert!(body.len() < content.len() && content.starts_with(body), "{} bytes came", body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_lets_a_blob_arrive_whole() {
    let registry = Registry::start().await;
    let content = noise(12, 12 << 20);
    let digest = registry.http.push_blob("a", &content).await;
    let mut line = Line::open(&registry.http).await;
    line.ask(&format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    line.more().await;
    let (answer, _) = tokio::join!(line.answer(false), registry.stop());
    assert!(answer.body == content, "the same bytes come back");
    assert_eq!(line.more().await, 0, "then the connection ends");
}

#[tokio::test]
async fn http_2_gets_the_same_bytes() {
    let registry = Registry::start().await;
    let content = noise(13, 3_000_000);
    let digest = registry.http.push_blob("a", &content).await;
    let http = registry.http.over_http_2();
    let path = format!("/v2/a/blobs/{digest}");
    assert!(http.get(&path).await.expect(200).body == content);
    let part = http.send("GET", &path, &[("range", "bytes=1000000-2000000")], "").await.expect(206);
    assert!(part.body == content[1_000_000..=2_000_000]);
    assert_eq!(Digest::of(&http.get(&path).await.expect(200).body), digest);
}
