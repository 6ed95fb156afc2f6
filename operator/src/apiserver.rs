//! The API server's client: no call waits longer than its deadline, and none is tried again behind its caller's back. A server
//! that lost its power answers nothing and closes nothing; kube by itself would wait for as long as TCP does, and repeat a 503
//! for minutes.

use http_body_util::BodyExt as _;
use hyper::Request;
use kube::client::Body;
use kube::runtime::watcher;
use kube::{Client, Config, Error};
use std::time::Duration;

/// Deadline of one call, in seconds: of a watch, until it begins. The API server itself queues a call for 15 s at most.
pub const CALL_SECONDS_MAX: u64 = 30;

/// How long one watch goes on before it is begun anew from where it was, in seconds: 5 s later it is given up where nothing comes.
const WATCH_SECONDS_MAX: u32 = 60;

/// A watch whose silence is noticed soon: what is decided on old policies is wrong.
pub(crate) fn watch() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS_MAX)
}

/// A client whose calls fail after `deadline`, and once: those who call try again by themselves. A watch that has begun goes on;
/// who watches notices by itself when nothing comes any more.
///
/// # Errors
/// The configuration is unusable.
pub fn client(mut config: Config, deadline: Duration) -> kube::Result<Client> {
    config.default_retry = false;
    let inner = Client::try_from(config)?;
    let (namespace, until) = (inner.default_namespace().to_owned(), *inner.valid_until());
    let service = tower::service_fn(move |request: Request<Body>| {
        let inner = inner.clone();
        async move {
            let is_watch = is_watch(request.uri().query().unwrap_or_default());
            let call = async {
                let (head, body) = inner.send(request).await?.into_parts();
                let body = if is_watch { body } else { Body::from(body.collect().await?.to_bytes()) };
                Ok::<_, Error>(hyper::Response::from_parts(head, body))
            };
            let late = |_| Error::Service(format!("no answer within {} s", deadline.as_secs_f64()).into());
            tokio::time::timeout(deadline, call).await.map_err(late)?
        }
    });
    Ok(Client::new(service, namespace).with_valid_until(until))
}

fn is_watch(query: &str) -> bool {
    query.split('&').any(|pair| pair == "watch=true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt as _, pin_mut};
    use k8s_openapi::api::core::v1::Namespace;
    use kube::api::{Api, WatchEvent, WatchParams};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::{Instant, sleep, timeout};

    const DEADLINE: Duration = Duration::from_millis(300);
    const WATCH: &str = "{\"type\":\"ADDED\",\"object\":{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"a\"}}}\n";

    /// A server that writes these pieces to whoever asks, with twice the deadline after each but the last, and holds the
    /// connection; and how often it was asked.
    async fn server(pieces: &'static [&'static str]) -> (Api<Namespace>, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let counter = counter.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while socket.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                        counter.fetch_add(1, Ordering::SeqCst);
                        for (place, piece) in pieces.iter().enumerate() {
                            if place > 0 {
                                sleep(2 * DEADLINE).await;
                            }
                            let _ = socket.write_all(piece.as_bytes()).await;
                        }
                    }
                });
            }
        });
        let config = Config::new(url.parse().expect("URL"));
        (Api::all(client(config, DEADLINE).expect("client")), asked)
    }

    #[tokio::test]
    async fn a_busy_server_is_asked_once() {
        let (api, asked) =
            server(&["HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 4\r\n\r\nbusy"]).await;
        let error = timeout(Duration::from_secs(10), api.get("a")).await.expect("in time").expect_err("busy");
        assert!(matches!(&error, Error::Api(status) if status.code == 503), "{error:?}");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_server_that_never_answers_or_not_to_its_end_is_given_up() {
        let silent: [&[&str]; 2] = [&[], &["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{"]];
        for pieces in silent {
            let (api, _) = server(pieces).await;
            let begun = Instant::now();
            let call = timeout(Duration::from_secs(10), api.get("a")).await.expect("a deadline");
            let error = call.expect_err("no answer").to_string();
            assert!(error.contains("no answer within 0.3 s"), "{error}");
            assert!(begun.elapsed() >= DEADLINE);
            // Nor is its connection used again.
            let again = timeout(Duration::from_secs(10), api.watch(&WatchParams::default(), "0")).await;
            assert_eq!(again.expect("a deadline").is_err(), pieces.is_empty(), "a watch must begin");
        }
    }

    #[tokio::test]
    async fn a_watch_goes_on() {
        let (api, _) = server(&["HTTP/1.1 200 OK\r\n\r\n", WATCH, WATCH]).await;
        let events = api.watch(&WatchParams::default(), "0").await.expect("a watch");
        pin_mut!(events);
        for _ in 0..2 {
            let event = timeout(Duration::from_secs(10), events.next()).await.expect("in time");
            assert!(matches!(event, Some(Ok(WatchEvent::Added(_)))), "{event:?}");
        }
    }
}
