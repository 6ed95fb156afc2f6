//! The worker: data threads that move bytes, and a second runtime for everything else (export, admin, policy).

mod spooling;

use crate::admin::{Admin, ConfigView, Ready, State};
use crate::background;
use crate::config::{Config, PolicySource, Target};
use crate::data::{Recorder, Shared, declared, now, recover};
use crate::defect::{Panicked, contained_task};
use crate::drain::{
    EXPORT_DRAIN, WITNESS_DRAIN, all_adopted, close, finish_threads, skipped_told, spool_drained, tell_undelivered,
};
use crate::export::{Exporter, Queue, Settings, SinkFolders};
use crate::metrics::Metrics;
use crate::names::{Asker, Names};
use crate::origin;
use crate::poll::{self, Apply, Caller, PolicyState, Poller, Store};
use crate::proxy::{Drain, Listening, Pod, serve};
use crate::routes;
use crate::spool::{self, SpoolHandle};
use crate::supervisor::{Listeners, PreviousWorker, take_stop_signals};
use crate::tail::Tail;
use crate::unspooled::{self, Unspooled};
use crate::witness::{Ask, Messenger, Unlocker, accompany};
use anyhow::Context as _;
use arc_swap::ArcSwap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use testimony_core::contract::path;
use testimony_core::evidence::seal::Origin;
use testimony_core::otlp;
use testimony_core::policy::{Compiled, Direction, DocumentSink};
use testimony_core::record::Gap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};

/// Longest wait for the operator's first answer, where the document at admission is a stand-in. An operator that is away must
/// not keep a pod from starting.
const POLICY_WAIT_MAX: Duration = Duration::from_secs(5);

/// Runs until SIGTERM. Returns when every record is delivered or its time is over.
pub fn run(config: Config, listeners: Listeners, previous: Option<PreviousWorker>) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build().context("start the second runtime")?;
    runtime.block_on(supervise(config, listeners, previous))
}

async fn supervise(config: Config, listeners: Listeners, previous: Option<PreviousWorker>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    take_stop_signals().context("take signals")?;
    let metrics = Arc::new(Metrics::default());
    let store = config.state_dir.as_deref().map(Store::new);
    let start = poll::start(&config, store.as_ref());
    let compiled = Compiled::new(start.document).context("the policy document")?;
    let (sinks, sinks_watch) = watch::channel(sinks_of(&compiled));
    let state = PolicyState::new(&compiled.document().revision, start.source, metrics.clone());
    let policy = Arc::new(ArcSwap::from_pointee(compiled));
    let mut origin = origin::of(&config);
    let spool_settings = spooling::settings(&config, origin.boot);
    let (spool, found) = spooling::start(spool_settings.as_ref(), &sinks.borrow()).unzip();
    let without = spool_settings.filter(|_| spool.is_none());
    metrics.spool_missing.set(without.is_some().into());
    origin.found = spool.as_ref().map(|spool| spool.found().to_vec()).unwrap_or_default();
    let handle = spool.as_ref().map(|spool| spool.handle().clone());
    let (queue, exporter) = exporter(&config, sinks_watch, metrics.clone(), handle.clone());
    let (predecessor, mark) = predecessor(&config, &metrics, previous, handle.is_some());

    // Without an operator nobody names addresses.
    let names = config.operator.is_some().then(Names::default);
    let tail = Tail::default();
    let shared = Shared {
        policy: policy.clone(),
        in_flight: Arc::default(),
        names: names.clone(),
        queue: queue.clone(),
        spool: handle.clone(),
        metrics: metrics.clone(),
        tail: tail.clone(),
    };
    let (drain, drain_watch) = watch::channel(Drain::No);
    let (admin_listener, threads) = split(&config, listeners)?;
    let pod = Arc::new(pod(&config));
    let (asks, asked): (Vec<_>, Vec<_>) = match &config.operator {
        Some(_) => threads.iter().map(|_| mpsc::channel(1)).unzip(),
        None => Default::default(),
    };
    let (spooled_mark, memory_mark) = if handle.is_some() { (mark, None) } else { (None, mark) };
    let first = First { lost: predecessor, mark: spooled_mark, found };
    let mut data_threads = start_threads(threads, &pod, &shared, &drain_watch, &origin, asks, first)?;
    background::lets_requests_go_first();

    let (stop_export, export_watch) = watch::channel(None);
    let (stop, stop_watch) = watch::channel(false);
    let ready = Ready::default();
    let mut tasks = JoinSet::new();
    if let Some(listener) = admin_listener {
        let listener = tokio::net::TcpListener::from_std(listener).context("the admin port")?;
        let admin = Admin::new(listener, admin_state(&config, &metrics, &queue, &state, ready.clone(), tail));
        let stopped = stop_watch.clone();
        tasks.spawn(async move { admin.run(until(stopped)).await });
    }
    let awaited = config.operator.as_ref().is_some_and(|o| o.awaited) && start.source == PolicySource::Environment;
    let patience = awaited.then_some(POLICY_WAIT_MAX);
    let opening_state = state.clone();
    let mut last_words = None;
    if let Some(operator) = config.operator.clone() {
        let apply = apply(policy, sinks);
        let caller = Caller::new(operator, start.operator_ca).context("the operator's URL")?;
        for asked in asked {
            let messenger = Messenger::new(caller.another(), asked);
            let stopped = stop_watch.clone();
            tasks.spawn(async move { messenger.run(until(stopped)).await });
        }
        if let Some(spool) = handle.clone() {
            let unlocker = Unlocker::new(caller.another(), spool, config.state_dir.as_deref());
            let stopped = stop_watch.clone();
            tasks.spawn(async move { unlocker.run(until(stopped)).await });
        }
        last_words = Some(caller.another());
        let asker = names.map(|names| Asker::new(names, caller.another()));
        let poller = Poller::new(caller, store, apply, state, queue, metrics);
        let stopped = stop_watch.clone();
        tasks.spawn(async move { poller.run(until(stopped)).await });
        if let Some(asker) = asker {
            let stopped = stop_watch.clone();
            tasks.spawn(async move { asker.run(until(stopped)).await });
        }
    }
    let export = exporter.run(export_watch);
    tokio::pin!(export);
    let opening = open(patience, &opening_state, &ready);
    let spool_is_back = spooling::is_back(without, &shared);

    tokio::select! {
        never = opening => match never {},
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = spool_is_back => tracing::warn!("the spool that could not be made can be made now: the next worker has it"),
        left = &mut export => anyhow::bail!("the exporter ended by itself: {left:?}"),
        Some(ended) = tasks.join_next() => anyhow::bail!("a task ended by itself: {ended:?}"),
        Some(ended) = data_threads.join_next() => anyhow::bail!("a data thread ended by itself: {ended:?}"),
    }
    tracing::info!("draining");
    let threads_ended = finish_threads(&mut data_threads, &drain, config.drain);
    tokio::pin!(threads_ended);
    tokio::select! {
        () = &mut threads_ended => {}
        left = &mut export => anyhow::bail!("the exporter ended by itself: {left:?}"),
    }
    if let Some(handle) = &handle {
        spool_drained(handle).await;
    }
    let drained = Instant::now() + EXPORT_DRAIN;
    all_adopted(handle.as_ref()).await;
    stop_export.send_replace(Some(drained));
    let left = export.await;
    // Ends its threads: acknowledgements become durable.
    drop(spool);
    if let (Some(handle), Some(caller)) = (handle, last_words) {
        let sinks = shared.policy.load().document().sinks.iter().map(|sink| sink.name.clone()).collect();
        tell_undelivered(handle, sinks, &caller).await;
    }
    stop.send_replace(true);
    while tasks.join_next().await.is_some() {}
    if left.records > 0 || left.undeclared > 0 {
        tracing::error!(records = left.records, undeclared = left.undeclared, "records were not delivered in time");
    } else if let Some(mark) = memory_mark {
        mark.clear();
    }
    Ok(())
}

/// Says that the pod's other containers may start: at once, or when the operator has told what to record.
async fn open(patience: Option<Duration>, state: &PolicyState, ready: &Ready) -> Infallible {
    if let Some(patience) = patience
        && timeout(patience, state.answered()).await.is_err()
    {
        tracing::warn!("no policy from the operator in time; the one in force until it comes is a stand-in");
    }
    ready.set();
    tracing::info!("ready");
    std::future::pending().await
}

async fn until(mut stop: watch::Receiver<bool>) {
    // A dropped sender means the same: stop.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn sinks_of(policy: &Compiled) -> Arc<[DocumentSink]> {
    policy.document().sinks.clone().into()
}

/// Puts a document into force for the data threads and the exporter.
fn apply(policy: Arc<ArcSwap<Compiled>>, sinks: watch::Sender<Arc<[DocumentSink]>>) -> Apply {
    Arc::new(move |document| {
        let compiled = Compiled::new(document.clone()).map_err(|error| error.to_string())?;
        sinks.send_replace(sinks_of(&compiled));
        tracing::info!(revision = compiled.document().revision, "policy in force");
        policy.store(Arc::new(compiled));
        Ok(())
    })
}

fn exporter(
    config: &Config,
    sinks: watch::Receiver<Arc<[DocumentSink]>>,
    metrics: Arc<Metrics>,
    spool: Option<SpoolHandle>,
) -> (Queue, Exporter) {
    let settings = Settings {
        resource: otlp::resource(config.workload.resource_attributes()).into(),
        folders: SinkFolders {
            headers: config.sinks_dir.clone(),
            certificates: path::SINK_CERTIFICATES_DIR.into(),
            tokens: path::SINK_TOKENS_DIR.into(),
        },
        namespace: config.workload.namespace.clone(),
        sink_headers: config.sink_headers.clone(),
        metrics,
        spool,
    };
    crate::export::new(settings, sinks)
}

/// What an earlier process lost that no counter page tells, and its mark.
fn predecessor(
    config: &Config,
    metrics: &Metrics,
    previous: Option<PreviousWorker>,
    spooled: bool,
) -> (Option<Gap>, Option<Unspooled>) {
    if let Some(previous) = &previous {
        metrics.worker_restarts.inc_by(previous.restarts);
    }
    let died = previous.filter(|previous| !previous.end.is_in_order());
    if let Some(died) = &died {
        tracing::error!(end = %died.end, restarts = died.restarts, "the worker before this one died");
    }
    let mark = config.spool.as_ref().map(|spool| Unspooled::new(&spool.key_folder));
    let since = mark.as_ref().and_then(Unspooled::since);
    if !spooled && let Some(mark) = &mark {
        mark.set();
    }
    let ended = died.map(|died| died.ended_at_unix_nanos);
    (unspooled::lost(since, ended, spooled, now().wall_ns), mark)
}

/// The sockets of one data thread.
type ThreadListeners = Vec<(TcpListener, Direction, Arc<Target>)>;

fn split(config: &Config, listeners: Listeners) -> anyhow::Result<(Option<TcpListener>, Vec<ThreadListeners>)> {
    let mut threads: Vec<ThreadListeners> = (0..config.data_threads).map(|_| Vec::new()).collect();
    let sides = [
        (listeners.inbound, Direction::Inbound, &config.listen.inbound),
        (listeners.outbound, Direction::Outbound, &config.listen.outbound),
    ];
    for (sockets, direction, listener) in sides {
        let Some(listener) = listener else { continue };
        let target = Arc::new(listener.target.clone());
        anyhow::ensure!(sockets.len() == threads.len(), "{} sockets for {} data threads", sockets.len(), threads.len());
        for (thread, socket) in threads.iter_mut().zip(sockets) {
            thread.push((socket, direction, target.clone()));
        }
    }
    Ok((listeners.admin, threads))
}

/// What the first data thread tells of earlier processes.
#[derive(Default)]
struct First {
    /// What a worker lost that had no spool.
    lost: Option<Gap>,
    /// To be cleared once that is declared, durably.
    mark: Option<Unspooled>,
    /// What the spool finds.
    found: Option<mpsc::Receiver<spool::Event>>,
}

fn start_threads(
    threads: Vec<ThreadListeners>,
    pod: &Arc<Pod>,
    shared: &Shared,
    drain: &watch::Receiver<Drain>,
    origin: &Origin,
    asks: Vec<mpsc::Sender<Ask>>,
    mut first: First,
) -> anyhow::Result<JoinSet<()>> {
    let mut running = JoinSet::new();
    let mut asks = asks.into_iter();
    for (at, listeners) in threads.into_iter().enumerate() {
        let (pod, shared, drain) = (pod.clone(), shared.clone(), drain.clone());
        let (asks, first) = (asks.next(), std::mem::take(&mut first));
        let thread = u32::try_from(at).unwrap_or(u32::MAX);
        let origin = Origin { thread, witness: asks.is_some(), ..origin.clone() };
        let (ended, end) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name(format!("data-{at}"))
            .spawn(move || {
                if let Err(error) = data_thread(listeners, pod, shared, drain, origin, asks, first) {
                    tracing::error!(%error, "data thread");
                }
                drop(ended);
            })
            .context("start a data thread")?;
        running.spawn(async move {
            let _ = end.await;
        });
    }
    Ok(running)
}

/// One data thread: a runtime of its own, its listeners, its recorder with its stream.
fn data_thread(
    listeners: ThreadListeners,
    pod: Arc<Pod>,
    shared: Shared,
    drain: watch::Receiver<Drain>,
    origin: Origin,
    asks: Option<mpsc::Sender<Ask>>,
    first: First,
) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let spool = shared.spool.clone();
        let recorder = Recorder::new(shared, origin).context("open the stream")?;
        let mut recovering = JoinSet::new();
        if let Some(gap) = first.lost {
            recorder.lose(gap, None);
            let (recorder, mark) = (recorder.clone(), first.mark);
            recovering.spawn_local(async move {
                match contained_task(declared(&recorder)).await {
                    Ok(()) => mark.iter().for_each(Unspooled::clear),
                    Err(Panicked) => tracing::error!("a defect: what the worker before lost may be told once more"),
                }
            });
        }
        let mut telling = None;
        if let (Some(found), Some(spool)) = (first.found, spool) {
            recovering.spawn_local(recover(recorder.clone(), found, spool.clone()));
            telling = Some(spool);
        }
        let mut loops = JoinSet::new();
        for (listener, direction, target) in listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let listening = Listening { listener, direction, target };
            loops.spawn_local(serve(listening, pod.clone(), recorder.clone(), drain.clone()));
        }
        let mut accompanied = JoinSet::new();
        if let Some(asks) = asks {
            accompanied.spawn_local(accompany(recorder.clone(), asks));
        }
        // A task: what is ready before it goes first.
        let mut sealing = JoinSet::new();
        let late = recorder.clone();
        sealing.spawn_local(async move { late.catch_up().await });
        tokio::select! {
            ended = all(&mut loops) => ended.context("a listener broke off")?,
            () = recorder.keep() => {}
            ended = all(&mut sealing) => ended.context("sealing broke off")?,
        }
        skipped_told(telling.as_ref()).await;
        recovering.abort_all();
        close(&recorder, drain).await;
        if timeout(WITNESS_DRAIN, accompanied.join_next()).await.is_err() {
            tracing::warn!("the witness did not see the stream's end in time");
        }
        Ok(())
    })
}

/// Returns when all have ended. Where one broke off nobody would accept connections that come to its socket, which stays open.
async fn all(loops: &mut JoinSet<()>) -> Result<(), JoinError> {
    while let Some(ended) = loops.join_next().await {
        ended?;
    }
    Ok(())
}

fn pod(config: &Config) -> Pod {
    let workload = &config.workload;
    let actor = workload.service_account.as_ref().map(|account| {
        let namespace = workload.namespace.as_deref().unwrap_or("default");
        Arc::from(format!("system:serviceaccount:{namespace}:{account}"))
    });
    let mut node_ips = config.host_ips.clone();
    node_ips.extend(routes::default_gateways());
    let listeners = [&config.listen.inbound, &config.listen.outbound];
    let mut own_ports: Vec<u16> = listeners.into_iter().flatten().map(|listener| listener.addr.port()).collect();
    own_ports.push(config.listen.admin.port());
    Pod { ips: config.pod_ips.clone(), node_ips, actor, own_ports }
}

fn admin_state(
    config: &Config,
    metrics: &Arc<Metrics>,
    queue: &Queue,
    state: &PolicyState,
    ready: Ready,
    tail: Tail,
) -> State {
    let (for_refresh, for_config, state) = (queue.clone(), queue.clone(), state.clone());
    State {
        metrics: metrics.clone(),
        refresh: Box::new(move || for_refresh.refresh_metrics()),
        config: Box::new(move || {
            let (revision, source, refused) = state.get();
            ConfigView::new(revision, source, refused, for_config.sink_states())
        }),
        ready,
        probe_address: config.pod_ips.first().copied(),
        tail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stand_in() -> PolicyState {
        PolicyState::new("r0", PolicySource::Environment, Arc::default())
    }

    /// Whether the pod's other containers may start after a moment of the paused clock.
    async fn opened(patience: Option<Duration>, state: &PolicyState) -> bool {
        let ready = Ready::default();
        tokio::select! {
            biased;
            never = open(patience, state, &ready) => match never {},
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        ready.is_set()
    }

    #[tokio::test]
    async fn one_listener_that_breaks_off_ends_the_data_thread() {
        let mut loops = JoinSet::new();
        loops.spawn(async {});
        assert!(all(&mut loops).await.is_ok());
        loops.spawn(std::future::pending());
        loops.spawn(async { panic!("as the test wants it") });
        assert!(all(&mut loops).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stand_in_keeps_the_pod_waiting_but_not_for_ever() {
        let hour = Duration::from_secs(3600);
        assert!(opened(None, &stand_in()).await);
        assert!(!opened(Some(hour), &stand_in()).await);
        assert!(opened(Some(Duration::ZERO), &stand_in()).await);
        let answered = stand_in();
        answered.in_force("r1");
        assert!(opened(Some(hour), &answered).await);
    }
}
