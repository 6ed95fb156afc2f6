//! The worker's spool: what it needs, and what becomes of a worker that could not make it.

use crate::client::error_line;
use crate::config::Config;
use crate::data::{Shared, now};
use crate::export;
use crate::spool::keys::RecoveryKey;
use crate::spool::{Boot, Event, Limits, Settings, Spool};
use std::sync::Arc;
use std::time::Duration;
use testimony_core::policy::DocumentSink;
use tokio::sync::mpsc;

/// How often a worker without the spool that it should have looks whether it could have it.
const SPOOL_LOOK: Duration = Duration::from_secs(5);

/// What the spool needs; `None`: none is wanted.
pub(super) fn settings(config: &Config, boot: u128) -> Option<Settings> {
    let wanted = config.spool.as_ref()?;
    Some(Settings {
        folder: wanted.folder.clone(),
        key_folder: wanted.key_folder.clone(),
        limit_bytes: wanted.bytes_max,
        limits: Limits::default(),
        boot: Boot(boot.to_be_bytes()),
        recovery: config.operator.is_some().then(|| Arc::new(recovery_key(config))),
        now_unix_nanos: || now().wall_ns,
    })
}

/// Starts the spool. Where it cannot be, records wait in memory: audit is never in the way.
pub(super) fn start(settings: Option<&Settings>, sinks: &[DocumentSink]) -> Option<(Spool, mpsc::Receiver<Event>)> {
    match Spool::start(settings?.clone(), &export::rules(sinks)) {
        Ok(started) => Some(started),
        Err(error) => {
            tracing::error!(error = error_line(&error), "there is no spool; records wait in memory");
            None
        }
    }
}

/// Returns when the next worker would have the spool that this one could not make, and it costs nobody anything to end this
/// one: no connection is open, or what policy records is refused without a spool.
pub(super) async fn is_back(without: Option<Settings>, shared: &Shared) {
    let Some(settings) = without else { return std::future::pending().await };
    loop {
        tokio::time::sleep(SPOOL_LOOK).await;
        let is_idle = shared.metrics.connections_open.get() == 0;
        if !is_idle && !shared.policy.load().document().may_refuse() {
            continue;
        }
        let settings = settings.clone();
        if let Ok(Ok(())) = tokio::task::spawn_blocking(move || Spool::could_start(&settings)).await {
            return;
        }
    }
}

/// The operator opens what is wrapped to it for this pod alone.
fn recovery_key(config: &Config) -> RecoveryKey {
    RecoveryKey::new(config.workload.pod_uid.as_deref().unwrap_or_default())
}
