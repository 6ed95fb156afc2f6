//! SIGTERM while streams are open.

use crate::panics;
use crate::ports::free_port;
use crate::rig::*;
use crate::support::Sink;
use bytes::Bytes;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// A sidecar in processes of its own.
struct Process {
    child: Child,
    inbound: SocketAddr,
    config: PathBuf,
    log: PathBuf,
}

impl Process {
    async fn start(origin: SocketAddr, sink: &Sink) -> Self {
        let (inbound, admin) = (free_port(), free_port());
        let file = |ending| std::env::temp_dir().join(format!("testimony-http2-drain-{}.{ending}", std::process::id()));
        let (config, log) = (file("yaml"), file("log"));
        let yaml = format!(
            "service: {{name: test}}\nlisten: {{inbound: '{inbound}', admin: '{admin}'}}\nforward: '{origin}'\n\
             sinks: [{{name: default, endpoint: 'http://{}'}}]\n",
            sink.address
        );
        std::fs::write(&config, yaml).expect("the configuration");
        let mut command = Command::new(env!("CARGO_BIN_EXE_testimony-sidecar"));
        command.args(["run", "--config"]).arg(&config).stdout(Stdio::null());
        let child = command.stderr(File::create(&log).expect("a log")).spawn().expect("the sidecar");
        Self { child, inbound, config, log }
    }

    fn terminate(&self) {
        let id = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: sends a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for file in [&self.config, &self.log] {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[test]
fn px_1_a_drain_tells_the_client_by_goaway_and_lets_its_last_stream_finish() {
    play(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let sink = Sink::start();
        let mut sidecar = Process::start(listener.local_addr().expect("address"), &sink).await;
        let socket = within(async {
            loop {
                match TcpStream::connect(sidecar.inbound).await {
                    Ok(socket) => return socket,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        let socket = socket.await;
        let (sender, connection) = h2::client::handshake(socket).await.expect("handshake");
        let client = tokio::spawn(connection);
        let (server, _) = within(listener.accept()).await.expect("accept");
        let mut server = within(h2::server::handshake(server)).await.expect("handshake");
        let mut sender = within(sender.ready()).await.expect("ready");
        let (response, _up) = sender.send_request(get("/last"), true).expect("a request");
        let (_request, mut respond) = within(server.accept()).await.expect("a request").expect("a request");
        let served = tokio::spawn(async move { while server.accept().await.is_some() {} });
        sidecar.terminate();
        // Told at once, while the stream is open.
        within(async {
            while sender.clone().ready().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let mut down = respond.send_response(answer(200, &[]), false).expect("head");
        down.send_data(Bytes::from_static(b"bye"), true).expect("data");
        let mut body = within(response).await.expect("the answer").into_body();
        assert_eq!(read(&mut body).await.expect("the body").0, b"bye");
        drop((body, sender, _up, down, respond));
        within(client).await.expect("joined").expect("the client's connection ends in order");
        within(served).await.expect("joined");
        let ended = tokio::task::spawn_blocking(move || {
            let status = sidecar.child.wait().expect("the sidecar");
            (status, std::fs::read_to_string(&sidecar.log).expect("a log"))
        });
        let (status, log) = within(ended).await.expect("joined");
        assert!(status.success() && panics::first(&log).is_none(), "{status}\n{log}");
        let records = tokio::task::spawn_blocking(move || sink.wait_for(1)).await.expect("joined");
        assert_eq!((records.len(), records[0]["outcome"].as_str()), (1, "success"));
    });
}
