//! Starts and ends the sinks' tasks as policy asks for.

use super::queue::Queue;
use super::sink::{Control, SinkTask};
use super::sink_queue::SinkQueue;
use crate::config::SinkHeader;
use crate::metrics::Metrics;
use crate::spool::{SinkRule, SpoolHandle};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use testimony_core::policy::DocumentSink;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

/// How long a sink that policy no longer names may still take what waits for it.
pub const REMOVED_SINK_DRAIN: Duration = Duration::from_secs(5);

/// What export needs to know.
pub struct Settings {
    /// The encoded OTLP Resource of the audited workload.
    pub resource: Bytes,
    /// Where the sinks' files stand.
    pub folders: SinkFolders,
    /// Namespace of the pod, for messages; absent outside Kubernetes.
    pub namespace: Option<String>,
    /// Headers from the configuration, by sink.
    pub sink_headers: BTreeMap<String, Vec<SinkHeader>>,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// Where records wait; `None`: data threads push them into the queues.
    pub spool: Option<SpoolHandle>,
}

/// Where the sinks' files stand: each folder has one folder of each sink's name.
#[derive(Clone, Debug, Default)]
pub struct SinkFolders {
    /// With one file for each header.
    pub headers: PathBuf,
    /// With `tls.crt` and `tls.key`.
    pub certificates: PathBuf,
    /// With `token`.
    pub tokens: PathBuf,
}

/// Sends what the [`Queue`] takes.
pub struct Exporter {
    queue: Queue,
    settings: Arc<Settings>,
    policy: watch::Receiver<Arc<[DocumentSink]>>,
    sinks: BTreeMap<String, Running>,
    tasks: JoinSet<Undelivered>,
    /// Which sink a task serves, with its queue.
    served: HashMap<Id, Arc<SinkQueue>>,
}

/// What was left when an exporter ended, over all sinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// Records that no answer acknowledged; the sink may have some of them.
    pub records: u64,
    /// Records lost before, of which no hole tells.
    pub undeclared: u64,
}

struct Running {
    queue: Arc<SinkQueue>,
    control: watch::Sender<Control>,
}

/// Makes the queue and its exporter. The sinks that `policy` holds now take batches at once; later ones from when
/// [`Exporter::run`] sees them.
pub fn new(settings: Settings, policy: watch::Receiver<Arc<[DocumentSink]>>) -> (Queue, Exporter) {
    let queue = Queue::new(settings.metrics.clone());
    let mut exporter = Exporter {
        queue: queue.clone(),
        settings: Arc::new(settings),
        policy,
        sinks: BTreeMap::new(),
        tasks: JoinSet::new(),
        served: HashMap::new(),
    };
    exporter.adopt();
    (queue, exporter)
}

impl Exporter {
    /// Exports until `shutdown` holds an instant (or is dropped: then at once); whoever sets it has ended the data
    /// threads. From then on what waits is sent until that instant at the latest. Ends when all sinks' tasks have ended.
    pub async fn run(mut self, mut shutdown: watch::Receiver<Option<Instant>>) -> Undelivered {
        let mut left = Undelivered::default();
        for name in self.sinks.keys().cloned().collect::<Vec<_>>() {
            self.start(&name);
        }
        let deadline = loop {
            if let Some(deadline) = *shutdown.borrow_and_update() {
                break deadline;
            }
            tokio::select! {
                changed = shutdown.changed() => if changed.is_err() { break Instant::now() },
                Ok(()) = self.policy.changed() => self.follow(),
                Some(ended) = self.tasks.join_next_with_id() => left.add(self.ended(ended)),
            }
        };
        for running in self.sinks.values() {
            running.control.send_modify(|control| control.drain = Some(deadline));
        }
        while let Some(ended) = self.tasks.join_next_with_id().await {
            left.add(self.ended(ended));
        }
        left
    }

    /// Sinks of the policy that have no queue get one; the queues of others are handed out no more.
    fn adopt(&mut self) {
        let wanted = self.policy.borrow_and_update().clone();
        let names: Vec<&str> = wanted.iter().map(|sink| sink.name.as_str()).collect();
        let gone: Vec<String> = self.sinks.keys().filter(|name| !names.contains(&name.as_str())).cloned().collect();
        for name in gone {
            if let Some(running) = self.sinks.remove(&name) {
                let deadline = Instant::now() + REMOVED_SINK_DRAIN;
                running.control.send_modify(|control| control.drain = Some(deadline));
            }
        }
        for sink in wanted.iter() {
            let bytes_max = usize::try_from(sink.queue_bytes_max).unwrap_or(usize::MAX);
            match self.sinks.get(&sink.name) {
                Some(running) => {
                    running.queue.set_bytes_max(bytes_max);
                    running.control.send_if_modified(|control| {
                        let altered = *control.sink != *sink;
                        if altered {
                            control.sink = Arc::new(sink.clone());
                        }
                        altered
                    });
                }
                None => {
                    let queue = self.queue.add_sink(&sink.name, bytes_max);
                    let (control, _) = watch::channel(Control { sink: Arc::new(sink.clone()), drain: None });
                    self.sinks.insert(sink.name.clone(), Running { queue, control });
                }
            }
        }
        self.queue.replace_sinks(self.sinks.values().map(|running| running.queue.clone()).collect());
        if let Some(spool) = &self.settings.spool {
            spool.set_sinks(rules(&wanted));
        }
    }

    fn follow(&mut self) {
        let before: Vec<String> = self.sinks.keys().cloned().collect();
        self.adopt();
        for name in self.sinks.keys().filter(|name| !before.contains(name)).cloned().collect::<Vec<_>>() {
            self.start(&name);
        }
    }

    fn start(&mut self, name: &str) {
        if let Some(running) = self.sinks.get(name) {
            let task = SinkTask::new(running.queue.clone(), running.control.subscribe(), self.settings.clone());
            let id = self.tasks.spawn(task.run()).id();
            self.served.insert(id, running.queue.clone());
        }
    }

    /// A sink's task ended: when told to, or by a defect; then another takes its queue over.
    fn ended(&mut self, ended: Result<(Id, Undelivered), tokio::task::JoinError>) -> Undelivered {
        let (id, left) = match ended {
            Ok((id, left)) => (id, Some(left)),
            Err(error) => (error.id(), None),
        };
        let Some(queue) = self.served.remove(&id) else { return left.unwrap_or_default() };
        let current = self.sinks.get(&*queue.name).is_some_and(|running| Arc::ptr_eq(&running.queue, &queue));
        match left {
            Some(left) => {
                queue.metrics.undelivered.inc_by(left.records);
                if left != Undelivered::default() {
                    tracing::warn!(sink = %queue.name, records = left.records, undeclared = left.undeclared, "undelivered");
                }
                if !current && !self.sinks.contains_key(&*queue.name) {
                    self.queue.metrics().forget_sink(&queue.name);
                }
                left
            }
            None => {
                tracing::error!(sink = %queue.name, "the export task broke off and is started anew");
                // What the spool has is read again.
                if self.settings.spool.is_some() {
                    queue.clear();
                } else {
                    queue.abandon_sending();
                }
                if current {
                    let name = queue.name.to_string();
                    self.start(&name);
                    return Undelivered::default();
                }
                queue.left()
            }
        }
    }
}

/// What the spool has to know of the sinks.
pub fn rules(sinks: &[DocumentSink]) -> Vec<SinkRule> {
    sinks.iter().map(|sink| SinkRule { name: sink.name.clone(), required: sink.required }).collect()
}

impl Undelivered {
    fn add(&mut self, other: Self) {
        self.records = self.records.saturating_add(other.records);
        self.undeclared = self.undeclared.saturating_add(other.undeclared);
    }
}
