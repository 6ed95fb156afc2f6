//! One supervisor awaits every task: a task that ends before its time ends the process.

use crate::admin;
use crate::serve::{Shutdown, serve};
use anyhow::{Context, anyhow};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

/// Time for all tasks to end after the signal, in seconds.
const STOP_SECONDS_MAX: u64 = 10;

/// Awaits tasks and signals.
pub struct Supervisor {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    notice: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    shutdown: Shutdown,
    terminate: Signal,
    interrupt: Signal,
    linger: Duration,
}

impl Supervisor {
    /// A supervisor without tasks; from now on signals wait for [`Supervisor::run`]. After a signal, tasks go on for
    /// `linger`, while they are told that this replica goes: clients learn it late.
    ///
    /// # Errors
    /// Signals cannot be caught.
    pub fn new(linger: Duration) -> anyhow::Result<Self> {
        let (notice, stop, shutdown) = Shutdown::with_notice();
        let terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        Ok(Self { tasks: JoinSet::new(), notice, stop, shutdown, terminate, interrupt, linger })
    }

    /// The signal for tasks.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Starts a task. Its end before the signal is an error.
    pub fn add<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.tasks.spawn(async move { (name, task.await) });
    }

    /// Waits for a signal or the first task to end, then stops all.
    ///
    /// # Errors
    /// A task ended before the signal.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let outcome = tokio::select! {
            () = signalled(&mut self.terminate, &mut self.interrupt) => Ok(()),
            ended = self.tasks.join_next() => Err(early(ended)),
        };
        self.notice.send_replace(true);
        let outcome = match outcome {
            Ok(()) => tokio::select! {
                () = tokio::time::sleep(self.linger) => Ok(()),
                () = signalled(&mut self.terminate, &mut self.interrupt) => Ok(()),
                ended = self.tasks.join_next() => Err(early(ended)),
            },
            early => early,
        };
        tracing::info!("stopping");
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(STOP_SECONDS_MAX), all).await.is_err() {
            tracing::warn!(seconds = STOP_SECONDS_MAX, "some tasks did not stop in time");
        }
        outcome
    }
}

async fn signalled(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// A task that ended before the signal.
fn early(ended: Option<Result<(&'static str, anyhow::Result<()>), JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok((name, Ok(())))) => anyhow!("task {name} ended before its time"),
        Some(Ok((name, Err(error)))) => error.context(format!("task {name}")),
        Some(Err(error)) => anyhow!("a task died: {error}"),
        None => anyhow!("there is no task"),
    }
}

/// A listener on all addresses of both families.
///
/// # Errors
/// The port is taken: names the flag.
pub async fn bind(port: u16, flag: &str) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(("::", port)).await {
        Ok(listener) => Ok(listener),
        // A kernel without IPv6.
        Err(_) => TcpListener::bind(("0.0.0.0", port))
            .await
            .with_context(|| format!("{flag}: port {port} cannot be bound; choose another")),
    }
}

/// Serves the admin port.
pub fn serve_admin(
    listener: TcpListener,
    readiness: admin::Readiness,
    registry: Registry,
    shutdown: Shutdown,
) -> impl Future<Output = anyhow::Result<()>> + Send + 'static {
    let handler = admin::handler(readiness, Arc::new(registry), shutdown.clone());
    async move { serve(listener, None, admin::CONNECTIONS_MAX, handler, shutdown).await.context("admin server") }
}

/// Waits until all hold; `false`: the signal to stop came first.
pub async fn wait_for(conditions: Vec<watch::Receiver<bool>>, shutdown: &mut Shutdown) -> bool {
    for mut condition in conditions {
        tokio::select! {
            held = condition.wait_for(|holds| *holds) => if held.is_err() { return false },
            () = shutdown.wait() => return false,
        }
    }
    true
}
