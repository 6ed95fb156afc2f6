//! An exporter with its queue, for the tests of export.

use super::{DEADLINE, Received};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use testimony_core::evidence::seal::Class;
use testimony_core::policy::{DocumentSink, SinkState};
use testimony_sidecar::config::SinkHeader;
use testimony_sidecar::export::{self, Batch, Queue, Settings, SinkFolders, Undelivered};
use testimony_sidecar::metrics::Metrics;
use testimony_sidecar::spool::SpoolHandle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub struct Rig {
    pub queue: Queue,
    pub policy: watch::Sender<Arc<[DocumentSink]>>,
    pub shutdown: watch::Sender<Option<Instant>>,
    pub task: JoinSet<Undelivered>,
    pub metrics: Arc<Metrics>,
}

pub struct Options {
    pub sinks: Vec<DocumentSink>,
    pub folders: SinkFolders,
    pub sink_headers: BTreeMap<String, Vec<SinkHeader>>,
    pub spool: Option<SpoolHandle>,
}

impl Options {
    pub fn new(sinks: Vec<DocumentSink>) -> Self {
        Self { sinks, folders: SinkFolders::default(), sink_headers: BTreeMap::new(), spool: None }
    }
}

impl Rig {
    pub fn start(sinks: Vec<DocumentSink>) -> Self {
        Self::with(Options::new(sinks), &[])
    }

    /// `before`: pushed before the exporter runs, so that it goes into one request.
    pub fn with(options: Options, before: &[Batch]) -> Self {
        let (policy, watched) = watch::channel(options.sinks.into());
        let (shutdown, ended) = watch::channel(None);
        let metrics = Arc::new(Metrics::default());
        let settings = Settings {
            resource: Resource::default().encode_to_vec().into(),
            folders: options.folders,
            namespace: Some("shop".to_owned()),
            sink_headers: options.sink_headers,
            metrics: metrics.clone(),
            spool: options.spool,
        };
        let (queue, exporter) = export::new(settings, watched);
        before.iter().cloned().for_each(|batch| queue.push(batch, None));
        let mut task = JoinSet::new();
        task.spawn(exporter.run(ended));
        Self { queue, policy, shutdown, task, metrics }
    }

    /// Pushes a batch as a data thread does: into the places that it reserved. Returns whether any sink had room.
    pub fn push(&self, batch: Batch) -> bool {
        let ticket = self.queue.ticket(batch.log_records.len(), Class::Traffic);
        let room = ticket.is_some();
        if let Some(ticket) = ticket {
            self.queue.push(batch, Some(ticket));
        }
        room
    }

    /// What is to be told of the sinks: name, first place, the place after the last, reason.
    pub fn losses(&self) -> Vec<(String, u64, u64, &'static str)> {
        let told = |(sink, loss): (Arc<str>, export::Loss)| {
            (sink.to_string(), loss.range.begin(), loss.range.end(), loss.reason.as_str())
        };
        self.queue.take_losses().into_iter().map(told).collect()
    }

    pub fn state(&self) -> SinkState {
        self.queue.sink_states().into_iter().next().expect("a sink")
    }

    pub async fn stop(mut self, drain: Duration) -> Undelivered {
        self.shutdown.send_replace(Some(Instant::now() + drain));
        let ended = tokio::time::timeout(DEADLINE, self.task.join_next()).await.expect("an end in time");
        ended.expect("a task").expect("no panic")
    }
}

/// Records of the requests that were answered with success.
pub fn taken(received: &[Received], success: impl Fn(usize) -> bool) -> Vec<String> {
    received.iter().enumerate().filter(|(number, _)| success(*number)).flat_map(|(_, one)| one.records()).collect()
}
