//! Records live from the sidecars, by port-forward.

use super::Printer;
use super::record::{Line, Source, from_stream};
use crate::args::{ClusterArgs, TailArgs};
use crate::cluster::{Cluster, SidecarStream};
use crate::output::{plural, tell};
use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use testimony_core::contract::label;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Most sidecars that are listened to at the same time.
const PODS_MAX: usize = 100;

/// Between two looks for new pods, and before a broken stream is tried again.
const RELIST: Duration = Duration::from_secs(5);

/// Lines that wait to be printed; more wait in the sidecars, which tell what they drop.
const LINES_WAITING_MAX: usize = 1024;

/// Longest line, in bytes: a record has 64 KiB at most.
const LINE_BYTES_MAX: usize = 128 * 1024;

/// What a listener says.
enum Said {
    Line(Source, String),
    Ended(Source, String),
}

/// Shows records until it is interrupted or enough were shown.
pub async fn run(args: &TailArgs, cluster: &ClusterArgs, now: Timestamp) -> Result<()> {
    let cluster = Cluster::connect(cluster).await?;
    let namespace = (!args.all_namespaces).then(|| cluster.namespace.clone());
    let mut printer = Printer::new(args, namespace.as_deref(), now);
    let mut listeners = Listeners::new(&cluster, args.pod.clone(), namespace);
    let (sender, mut receiver) = mpsc::channel(LINES_WAITING_MAX);
    let count = listeners.look(&sender).await?;
    if count == 0 {
        let place = listeners.place();
        tell(format_args!("no running pod with a sidecar {place}: waiting for one; -A looks at all namespaces"));
    } else {
        tell(format_args!("listening to {}", plural(count, "pod")));
    }
    let mut again = tokio::time::interval_at(tokio::time::Instant::now() + RELIST, RELIST);
    loop {
        tokio::select! {
            said = receiver.recv() => match said {
                Some(Said::Line(source, line)) => match from_stream(&line, &source) {
                    Ok(Line::Record(entry)) => if !printer.show(&entry)? { return Ok(()) },
                    Ok(Line::Dropped(count)) => tell(format_args!("{}/{}: {count} records were made faster than they could be shown", source.namespace, source.pod)),
                    Err(error) => tell(format_args!("{}/{}: a line that is no record: {error}", source.namespace, source.pod)),
                },
                Some(Said::Ended(source, why)) => listeners.ended(&source, &why)?,
                None => return Ok(()),
            },
            _ = again.tick() => { listeners.look(&sender).await?; }
            Some(_) = listeners.tasks.join_next() => {}
        }
    }
}

struct Listeners<'a> {
    cluster: &'a Cluster,
    pod: Option<String>,
    namespace: Option<String>,
    open: BTreeSet<(String, String)>,
    /// Last trouble of each pod: told once.
    told: BTreeMap<(String, String), String>,
    tasks: JoinSet<()>,
}

impl<'a> Listeners<'a> {
    fn new(cluster: &'a Cluster, pod: Option<String>, namespace: Option<String>) -> Self {
        Self { cluster, pod, namespace, open: BTreeSet::new(), told: BTreeMap::new(), tasks: JoinSet::new() }
    }

    fn place(&self) -> String {
        self.namespace.as_ref().map_or("in the cluster".to_owned(), |namespace| format!("in namespace {namespace}"))
    }

    /// Listens to pods that are not listened to yet; returns how many are.
    async fn look(&mut self, sender: &mpsc::Sender<Said>) -> Result<usize> {
        let api: Api<Pod> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.cluster.client.clone(), namespace),
            None => Api::all(self.cluster.client.clone()),
        };
        let wanted = ListParams::default().labels(&format!("{}=true", label::INJECTED)).fields("status.phase=Running");
        let pods = api.list(&wanted).await.map_err(|error| self.cluster.explain("list pods", &error))?;
        for pod in pods {
            let key = (pod.namespace().unwrap_or_default(), pod.name_any());
            let named = self.pod.as_ref().is_none_or(|wanted| match wanted.strip_suffix('*') {
                Some(prefix) => key.1.starts_with(prefix),
                None => *wanted == key.1,
            });
            if !named || self.open.contains(&key) {
                continue;
            }
            if self.open.len() >= PODS_MAX {
                tell(format_args!("more than {PODS_MAX} pods: narrow with -n or --pod"));
                break;
            }
            self.open.insert(key.clone());
            let source = Source { namespace: key.0, pod: key.1 };
            self.tasks.spawn(listen(self.cluster.clone(), source, sender.clone()));
        }
        Ok(self.open.len())
    }

    fn ended(&mut self, source: &Source, why: &str) -> Result<()> {
        let key = (source.namespace.clone(), source.pod.clone());
        self.open.remove(&key);
        if self.told.get(&key).map(String::as_str) != Some(why) {
            tell(format_args!("{}/{}: {why}", source.namespace, source.pod));
            self.told.insert(key, why.to_owned());
        }
        if why.contains("pods/portforward") && self.open.is_empty() {
            bail!("no sidecar can be listened to: ask for the right to create pods/portforward");
        }
        Ok(())
    }
}

/// Passes the lines of one sidecar on until its stream ends.
async fn listen(cluster: Cluster, source: Source, sender: mpsc::Sender<Said>) {
    let why = match stream(&cluster, &source, &sender).await {
        Ok(()) => "the stream ended".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    // Without a receiver the command is over.
    let _ = sender.send(Said::Ended(source, why)).await;
}

async fn stream(cluster: &Cluster, source: &Source, sender: &mpsc::Sender<Said>) -> Result<()> {
    let mut stream = SidecarStream::open(cluster, &source.namespace, &source.pod, "/tail").await?;
    let mut partial = Vec::new();
    while let Some(bytes) = stream.read().await? {
        for &byte in &bytes {
            if byte != b'\n' {
                partial.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut partial)).into_owned();
            if sender.send(Said::Line(source.clone(), line)).await.is_err() {
                return Ok(());
            }
        }
        if partial.len() > LINE_BYTES_MAX {
            bail!("a line over {LINE_BYTES_MAX} bytes");
        }
    }
    Ok(())
}
