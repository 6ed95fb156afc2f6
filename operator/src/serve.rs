//! Small HTTP/1.1 servers on hyper, with or without TLS, for the webhook, the policy server and the admin port.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Time for a TLS handshake, and for a request's body, each.
const CLIENT_SECONDS_MAX: u64 = 10;

/// Time for a request's head, from the end of the request before. Longer than the 90 s for which the API server keeps an
/// idle connection: if we closed first, a review sent at that moment would be lost, and its pod left without a sidecar.
const IDLE_SECONDS_MAX: u64 = 120;

/// Time for open requests to end after the signal to stop.
const DRAIN_SECONDS_MAX: u64 = 5;

/// The signal to stop: `true` once, for good. Where there is a notice before it, clients are sent elsewhere meanwhile.
#[derive(Clone, Debug)]
pub struct Shutdown {
    notice: watch::Receiver<bool>,
    stop: watch::Receiver<bool>,
}

impl Shutdown {
    /// The signal, and its sender. Dropping the sender is the signal too.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (stop, receiver) = watch::channel(false);
        (stop, Self { notice: receiver.clone(), stop: receiver })
    }

    /// The signal, and the senders of the notice and of the signal itself.
    pub fn with_notice() -> (watch::Sender<bool>, watch::Sender<bool>, Self) {
        let ((notice, noticed), (stop, stopped)) = (watch::channel(false), watch::channel(false));
        (notice, stop, Self { notice: noticed, stop: stopped })
    }

    /// Returns when it is time to stop.
    pub async fn wait(&mut self) {
        // An error means that the sender is gone, which is the same.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }

    /// Whether this replica is on its way out: it still answers, but wants no more to do.
    pub fn is_leaving(&self) -> bool {
        *self.notice.borrow() || *self.stop.borrow()
    }
}

/// What a handler answers.
pub type Answer = Response<Full<Bytes>>;

/// Serves until the signal to stop, then lets open requests end. From the notice on, each answer closes its connection, so
/// that clients that keep connections open have none left here when the server stops.
///
/// At most `connections_max` connections at a time; more wait in the listener's backlog.
pub async fn serve<H, F>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    connections_max: usize,
    handler: H,
    mut shutdown: Shutdown,
) -> io::Result<()>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let limit = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            permit = limit.clone().acquire_owned() => permit.map_err(io::Error::other)?,
            () = shutdown.wait() => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or the client is gone already: neither ends the server.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = shutdown.wait() => break,
        };
        let (tls, handler, shutdown) = (tls.clone(), handler.clone(), shutdown.clone());
        connections.spawn(async move {
            connection(stream, tls, handler, shutdown).await;
            drop(permit);
        });
        while connections.try_join_next().is_some() {}
    }
    // Who comes now must not wait in the backlog of somebody who leaves: refused, it finds the next one.
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS_MAX), drained).await;
    Ok(())
}

async fn connection<H, F>(stream: TcpStream, tls: Option<TlsAcceptor>, handler: H, shutdown: Shutdown)
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return requests(stream, handler, shutdown).await };
    match tokio::time::timeout(Duration::from_secs(CLIENT_SECONDS_MAX), tls.accept(stream)).await {
        Ok(Ok(stream)) => requests(stream, handler, shutdown).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

async fn requests<S, H, F>(stream: S, handler: H, mut shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    let leaving = shutdown.clone();
    let service = service_fn(|request| {
        let (answer, leaving) = (handler(request), &leaving);
        async move {
            let mut answer = answer.await;
            if leaving.is_leaving() {
                answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(IDLE_SECONDS_MAX));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection failed");
    }
}

/// A whole body, or the answer that says why not: 413 or 408.
pub async fn body(request: Request<Incoming>, bytes_max: usize) -> Result<Bytes, Answer> {
    let collect = Limited::new(request.into_body(), bytes_max).collect();
    match tokio::time::timeout(Duration::from_secs(CLIENT_SECONDS_MAX), collect).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => {
            let text = format!("the body was not read ({error}); send at most {bytes_max} bytes");
            Err(text_answer(StatusCode::PAYLOAD_TOO_LARGE, text))
        }
        Err(_) => Err(text_answer(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
    }
}

/// An answer in plain text.
pub fn text_answer(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", text)
}

/// An answer in JSON.
pub fn json_answer(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "application/json", body)
}

/// An answer.
pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// The head and the body `ok` of one answer.
    async fn ask(client: &mut TcpStream) -> String {
        client.write_all(REQUEST).await.expect("written");
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            answer.push(client.read_u8().await.expect("an answer"));
        }
        String::from_utf8(answer).expect("UTF-8").to_lowercase()
    }

    async fn is_closed(client: &mut TcpStream) -> bool {
        matches!(tokio::time::timeout(Duration::from_secs(10), client.read(&mut [0])).await, Ok(Ok(0)))
    }

    #[tokio::test]
    async fn who_leaves_answers_everyone_and_keeps_no_connection() {
        let (notice, stop, shutdown) = Shutdown::with_notice();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address");
        let handler = |_| std::future::ready(text_answer(StatusCode::OK, "ok"));
        let server = tokio::spawn(serve(listener, None, 8, handler, shutdown.clone()));
        let connect = || async { TcpStream::connect(address).await.expect("connected") };
        let (mut busy, mut idle) = (connect().await, connect().await);
        for client in [&mut busy, &mut idle] {
            assert!(!ask(client).await.contains("connection: close"), "connections are kept");
        }
        notice.send_replace(true);
        assert!(shutdown.is_leaving());
        // What was connected before, and what still comes because others know it too late.
        let mut late = connect().await;
        for client in [&mut busy, &mut late] {
            assert!(ask(client).await.contains("connection: close"), "sent elsewhere");
            assert!(is_closed(client).await);
        }
        stop.send_replace(true);
        assert!(is_closed(&mut idle).await);
        server.await.expect("server").expect("ended well");
    }
}
