//! The application in the audited pod.

use super::ServerArgs;
use crate::serve::{serve, text_answer};
use crate::supervise::{Supervisor, bind};
use anyhow::Context;
use hyper::StatusCode;
use std::time::Duration;

/// What every request is answered with.
pub const ANSWER: &str = "audited\n";

/// Connections at a time.
const CONNECTIONS_MAX: usize = 16;

/// Answers until SIGTERM.
///
/// # Errors
/// The port is taken.
pub async fn run(args: ServerArgs) -> anyhow::Result<()> {
    let listener = bind(args.port, "--port").await?;
    let mut supervisor = Supervisor::new(Duration::ZERO)?;
    let shutdown = supervisor.shutdown();
    let handler = |_| std::future::ready(text_answer(StatusCode::OK, ANSWER));
    supervisor.add("server", async move {
        serve(listener, None, CONNECTIONS_MAX, handler, shutdown).await.context("server")
    });
    supervisor.run().await
}
