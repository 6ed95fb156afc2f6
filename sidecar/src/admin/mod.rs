//! The admin port: `/live`, `/ready`, `/metrics`, `/config`, `/tail`, and the stand-in for `tcpSocket` probes.
//!
//! It tells state and takes none: every path is a GET, nothing secret is shown, and numbers of connections, sizes of
//! heads and times are bounded.

mod probe;
mod server;

pub use server::{Admin, CONNECTIONS_MAX, HEAD_BYTES_MAX, HEADER_TIMEOUT, TAIL_PATH};

use crate::client::AGENT;
use crate::config::PolicySource;
use crate::metrics::Metrics;
use crate::tail::Tail;
use serde::Serialize;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use testimony_core::policy::{Refused, SinkState};

/// What `/config` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigView {
    /// Name and version of this program.
    pub version: &'static str,
    /// Revision in force.
    pub revision: String,
    /// Where the policy in force comes from.
    pub source: PolicySource,
    /// The last document that could not be run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// Each sink's state.
    pub sinks: Vec<SinkState>,
}

/// What the admin port tells of. The closures are called for each request.
pub struct State {
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Brings gauges up to date before a scrape.
    pub refresh: Box<dyn Fn() + Send + Sync>,
    /// Makes the view of `/config`.
    pub config: Box<dyn Fn() -> ConfigView + Send + Sync>,
    /// Whether traffic flows.
    pub ready: Ready,
    /// Where `/probe/tcp/<port>` dials: the pod's first address. Absent: loopback.
    pub probe_address: Option<IpAddr>,
    /// What `/tail` shows, to clients on the loopback interface alone.
    pub tail: Tail,
}

/// Set once traffic flows; `/ready` and the pod's startup probe wait for it. It stays set while draining.
#[derive(Clone, Debug, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    /// Traffic flows.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl ConfigView {
    /// A view of this program.
    pub fn new(revision: String, source: PolicySource, refused: Option<Refused>, sinks: Vec<SinkState>) -> Self {
        Self { version: AGENT, revision, source, refused, sinks }
    }
}
