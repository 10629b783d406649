//! An API server that answers what a test says, and keeps what it was asked.

use deployer::{Cluster, ConnectOptions, Error};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub url: String,
    pub content_type: String,
    pub body: Value,
}

/// What the script answers.
pub enum Reply {
    /// Status and JSON.
    Json(u16, Value),
    /// Lines of a watch, then the end of the stream after this time.
    Lines(Vec<Value>, Duration),
    /// The connection is closed without a word.
    Nothing,
}

pub struct Server {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub fn start(script: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::<Asked>::new()));
        let (log, script) = (Arc::clone(&asked), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, script) = (Arc::clone(&log), Arc::clone(&script));
                std::thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    let times = {
                        let mut log = log.lock().unwrap();
                        log.push(request.clone());
                        let is_same =
                            |other: &&Asked| other.method == request.method && kind(&other.url) == kind(&request.url);
                        log.iter().filter(is_same).count()
                    };
                    // A client that closed first is part of some scripts.
                    write(&stream, script(&request, times)).ok();
                });
            }
        });
        Server { address, asked }
    }

    pub async fn cluster(&self) -> Result<Cluster, Error> {
        self.cluster_that_remembers(None).await
    }

    pub async fn cluster_that_remembers(&self, discovery: Option<PathBuf>) -> Result<Cluster, Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "demo"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.address}}]});
        std::fs::write(&path, config.to_string()).unwrap();
        Cluster::connect(&ConnectOptions { kubeconfig: vec![path], discovery, ..ConnectOptions::default() }).await
    }

    pub fn asked(&self, method: &str) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.method == method).cloned().collect()
    }
}

/// The path, and whether it is a list or a watch.
pub fn kind(url: &str) -> (&str, bool) {
    (url.split('?').next().unwrap_or_default(), url.contains("watch=true"))
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut parts = line.split(' ').map(str::to_owned);
    let (method, url) = (parts.next()?, parts.next()?);
    let (mut length, mut content_type) = (0, String::new());
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "content-type" => content_type = value.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { method, url, content_type, body: serde_json::from_slice(&body).unwrap_or_default() })
}

fn write(mut stream: &TcpStream, reply: Reply) -> std::io::Result<()> {
    let head = |status: u16| format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n");
    match reply {
        Reply::Json(status, body) => {
            let body = body.to_string();
            write!(stream, "{}Content-Length: {}\r\n\r\n{body}", head(status), body.len())
        }
        Reply::Lines(lines, open) => {
            write!(stream, "{}\r\n", head(200))?;
            lines.iter().try_for_each(|line| writeln!(stream, "{line}"))?;
            stream.flush()?;
            std::thread::sleep(open); // the script: a stream that stays open for a while
            Ok(())
        }
        Reply::Nothing => Ok(()),
    }
}

pub fn refusal(code: u16, message: &str, more: Value) -> Reply {
    let mut status =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message});
    for (key, value) in more.as_object().cloned().unwrap_or_default() {
        status[key] = value;
    }
    Reply::Json(code, status)
}
