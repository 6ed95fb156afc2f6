//! A client for the audited pod and its sidecar.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time for one request, in seconds.
const REQUEST_SECONDS_MAX: u64 = 5;

/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A GET by HTTP/1.1 on a connection of its own.
pub async fn get(address: &str, port: u16, path: &str) -> Result<(StatusCode, String), String> {
    let ip = address.parse().map_err(|_| format!("{address:?} is no address"))?;
    let address = SocketAddr::new(ip, port);
    let exchange = exchange(address, path);
    match timeout(Duration::from_secs(REQUEST_SECONDS_MAX), exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("{address}: {error:#}")),
        Err(_) => Err(format!("{address} did not answer within {REQUEST_SECONDS_MAX} s")),
    }
}

async fn exchange(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, "testimony-selftest")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let asking = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection moves the bytes of both; its own error shows in the answer.
    let (answer, _) = tokio::join!(asking, connection);
    answer
}
