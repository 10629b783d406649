//! nginx over a directory of files: the limit of what a registry can reach, since it does nothing but send.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use fixtures::den::Den;
use fixtures::docker_registry::wait_for;

/// One process that serves files.
pub struct Nginx {
    pub address: SocketAddr,
    pub process: u32,
    /// It and its files go away together.
    _den: Den,
}

impl Nginx {
    /// Starts it; `fill` puts the files into its directory.
    pub fn start(fill: impl FnOnce(&Path)) -> Self {
        let mut den = Den::new("nginx");
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let here = den.path().to_owned();
        let files = here.join("files");
        fs::create_dir(&files).expect("make a directory");
        // So that its answer to the question whether it is there is a good one.
        fs::create_dir(files.join("v2")).expect("make a directory");
        fs::write(files.join("v2/index.html"), "{}").expect("write a file");
        fill(&files);
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {};", here.join(kind).display()))
            .join(" ");
        let configuration = format!(
            "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log;\n\
             events {{ worker_connections 2048; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; {temporary}\n\
             server {{ listen {address}; root {1}; }} }}\n",
            here.display(),
            files.display(),
        );
        let path = here.join("nginx.conf");
        fs::write(&path, configuration).expect("write a configuration");
        let program = ["/usr/sbin/nginx", "nginx"]
            .into_iter()
            .find(|program| Command::new(program).arg("-v").output().is_ok_and(|output| output.status.success()));
        let program = program.expect("nginx is missing; install the Debian package nginx-light");
        let process = den.start("nginx", Command::new(program).arg("-c").arg(&path).arg("-p").arg(&here));
        wait_for(address);
        Self { address, process: process.as_raw_nonzero().get().unsigned_abs(), _den: den }
    }
}
