//! Watches: events of the API server into the index. One undecodable object never stops a watch.

use crate::apiserver;
use crate::index::{Guarded, Indexed, Key, key_of};
use crate::metrics::{KindLabels, Metrics};
use crate::serve::Shutdown;
use crate::state::State;
use crate::supervise::Supervisor;
use futures::StreamExt;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::watch;

/// The watches of one process, each a task of its supervisor.
pub struct Watches<'a> {
    supervisor: &'a mut Supervisor,
    client: &'a Client,
    state: &'a Arc<State>,
    metrics: &'a Metrics,
    synced: Vec<(&'static str, watch::Receiver<bool>)>,
}

impl<'a> Watches<'a> {
    /// No watch yet.
    pub fn new(
        supervisor: &'a mut Supervisor,
        client: &'a Client,
        state: &'a Arc<State>,
        metrics: &'a Metrics,
    ) -> Self {
        Self { supervisor, client, state, metrics, synced: Vec::new() }
    }

    /// Starts to watch one kind.
    #[must_use]
    pub fn add<K>(mut self) -> Self
    where
        K: Indexed + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (sender, receiver) = watch::channel(false);
        self.synced.push((K::KIND, receiver));
        let api = Api::all(self.client.clone());
        let shutdown = self.supervisor.shutdown();
        let task = watch_kind::<K>(api, self.state.clone(), self.metrics.clone(), sender, shutdown);
        self.supervisor.add(K::KIND, async move {
            task.await;
            Ok(())
        });
        self
    }

    /// Each kind, and whether its first list is complete.
    pub fn synced(self) -> Vec<(&'static str, watch::Receiver<bool>)> {
        self.synced
    }
}

/// Watches one kind until the signal to stop; says when the first list is complete.
async fn watch_kind<K>(
    api: Api<Guarded<K>>,
    state: Arc<State>,
    metrics: Metrics,
    synced: watch::Sender<bool>,
    mut shutdown: Shutdown,
) where
    K: Indexed + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let labels = KindLabels { kind: K::KIND };
    let mut events = pin!(watcher(api, apiserver::watch()).default_backoff());
    let mut listed: HashSet<Key> = HashSet::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = shutdown.wait() => return,
        };
        match event {
            Some(Ok(watcher::Event::Apply(object))) => apply(&state, &metrics, object),
            Some(Ok(watcher::Event::Delete(object))) => {
                let key = key_of(object.meta());
                state.change(|index| K::delete(index, &key));
            }
            Some(Ok(watcher::Event::Init)) => listed.clear(),
            Some(Ok(watcher::Event::InitApply(object))) => {
                listed.insert(key_of(object.meta()));
                apply(&state, &metrics, object);
            }
            Some(Ok(watcher::Event::InitDone)) => {
                prune::<K>(&state, &listed);
                listed.clear();
                synced.send_replace(true);
            }
            Some(Err(error)) => {
                metrics.watch_errors.get_or_create(&labels).inc();
                tracing::warn!(%error, kind = K::KIND, "watch failed, trying again");
            }
            // The stream of a watcher has no end; if it had, the supervisor would end the process.
            None => return,
        }
        let count = i64::try_from(K::count(&state.index())).unwrap_or(i64::MAX);
        metrics.objects.get_or_create(&labels).set(count);
    }
}

fn apply<K: Indexed + Resource<DynamicType = ()>>(state: &State, metrics: &Metrics, guarded: Guarded<K>) {
    match guarded.0 {
        Ok(object) => state.change(|index| K::apply(index, object)),
        Err(undecodable) => {
            metrics.undecodable.get_or_create(&KindLabels { kind: K::KIND }).inc();
            let (namespace, name) = key_of(&undecodable.metadata);
            tracing::warn!(kind = K::KIND, namespace, name, error = undecodable.error, "undecodable object skipped");
            state.change(|index| K::undecodable(index, &undecodable));
        }
    }
}

/// What was in the index and is not in the list was deleted while the watch was down.
fn prune<K: Indexed>(state: &State, listed: &HashSet<Key>) {
    let gone: Vec<Key> = K::keys(&state.index()).into_iter().filter(|key| !listed.contains(key)).collect();
    for key in gone {
        state.change(|index| K::delete(index, &key));
    }
}
