//! The accept loop of one listener on one data thread.

use super::connection::{CONNECTIONS_MAX, serve_one};
pub use super::connection::{Drain, Pod};
use crate::config::Target;
use crate::data::Recorder;
use std::sync::Arc;
use std::time::Duration;
use testimony_core::policy::Direction;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Pause after a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// One listener and where its connections go.
pub struct Listening {
    /// The socket.
    pub listener: TcpListener,
    /// To the pod or from it.
    pub direction: Direction,
    /// Where its connections go.
    pub target: Arc<Target>,
}

/// Accepts and serves until drained; returns when its last connection is over. Runs inside a `LocalRuntime`.
pub async fn serve(listening: Listening, pod: Arc<Pod>, recorder: Recorder, mut drain: watch::Receiver<Drain>) {
    let mut connections = JoinSet::new();
    let open = recorder.shared().metrics.connections_open.clone();
    while *drain.borrow_and_update() == Drain::No {
        let accepted = tokio::select! {
            accepted = listening.listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
            Some(_) = connections.join_next() => {
                open.dec();
                continue;
            }
            _ = drain.changed() => continue,
        };
        match accepted {
            Ok((client, peer)) => {
                open.inc();
                let (pod, recorder, target) = (pod.clone(), recorder.clone(), listening.target.clone());
                let (direction, drain) = (listening.direction, drain.clone());
                connections.spawn_local(async move {
                    serve_one(client, peer, direction, &target, &pod, recorder, drain).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listening.listener);
    while connections.join_next().await.is_some() {
        open.dec();
    }
}
