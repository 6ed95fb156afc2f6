//! What stands around a sidecar: an application and a sink in this process, and the sidecar in its own.

use crate::ports::free_port;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of each answer's body.
pub const BODY_BYTES: usize = 200;

/// A sidecar is ready within this.
const START_MAX: Duration = Duration::from_secs(20);

/// A sidecar.
pub struct Sidecar {
    /// Where clients connect.
    pub inbound: SocketAddr,
    child: Child,
}

impl Sidecar {
    /// Starts one whose files stand in this folder; `more` is YAML of its top level.
    pub fn start(folder: &Path, origin: SocketAddr, sink: SocketAddr, more: &str) -> Self {
        let [inbound, admin] = [free_port(), free_port()];
        let yaml = format!(
            "service: {{name: shop, namespace: shop}}\nlisten: {{inbound: '{inbound}', admin: '{admin}'}}\nforward: '{origin}'\n\
             log: error\nsinks: [{{name: default, endpoint: 'http://{sink}'}}]\n{more}"
        );
        let config = folder.join("sidecar.yaml");
        std::fs::write(&config, yaml).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_testimony-sidecar"));
        command.args(["run", "--config"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().expect("the sidecar starts");
        let end = Instant::now() + START_MAX;
        while TcpStream::connect(admin).is_err() {
            assert!(Instant::now() < end, "it does not listen");
            assert!(child.try_wait().expect("wait").is_none(), "it ended at once");
            thread::sleep(Duration::from_millis(20));
        }
        Self { inbound, child }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let id = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: sends a signal to a child that has not been waited for.
        unsafe { libc::kill(id, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

/// Serves each connection by a thread of its own.
fn serve(connection: fn(TcpStream) -> Option<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || connection(stream));
        }
    });
    address
}

/// Answers every request at once.
pub fn application() -> SocketAddr {
    serve(|stream| {
        stream.set_nodelay(true).ok()?;
        let body = "x".repeat(BODY_BYTES);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {BODY_BYTES}\r\n\r\n");
        let answer = [head, body].concat();
        let mut reader = BufReader::new(stream);
        loop {
            length_of_head(&mut reader)?;
            reader.get_mut().write_all(answer.as_bytes()).ok()?;
        }
    })
}

/// Takes all that comes.
pub fn sink() -> SocketAddr {
    serve(|stream| {
        let mut reader = BufReader::new(stream);
        loop {
            let mut body = vec![0; length_of_head(&mut reader)?];
            reader.read_exact(&mut body).ok()?;
            reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
        }
    })
}

/// Reads a request's head; how long its body is. `None`: the connection is over.
fn length_of_head(reader: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        if line == "\r\n" {
            return Some(length);
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
}
