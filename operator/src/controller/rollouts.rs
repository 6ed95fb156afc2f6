//! Restarts workloads as [`super::rollout`] decides.

use super::events::Events;
use super::rollout::{
    Asked, Id, Kind, OwnerId, RESTARTED_FOR, Rolling, Step, Workload, next, resource, still, wanted, workload_of,
};
use super::tell::News;
use crate::inject::ExcludedNamespaces;
use crate::metrics::{Metrics, ResultLabels};
use crate::plain::Plain;
use crate::serve::Shutdown;
use crate::state::State;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks, in seconds.
const LOOK_SECONDS: u64 = 5;

/// Looks after which everything is looked at anew: an owner may have resumed what was paused.
const LOOKS_REMEMBERED: u32 = 60;

/// Field manager of the annotation.
const MANAGER: &str = "testimony-operator";

/// Restarts workloads, one of a namespace at a time.
pub(super) struct Rollouts {
    client: Client,
    state: Arc<State>,
    excluded: ExcludedNamespaces,
    metrics: Metrics,
    events: Events,
    enabled: bool,
    /// What was asked of a namespace when nothing was left to do there: until something else is asked, nobody looks again.
    done: HashMap<String, BTreeMap<OwnerId, String>>,
}

impl Rollouts {
    pub(super) fn new(
        client: Client,
        state: Arc<State>,
        excluded: ExcludedNamespaces,
        metrics: Metrics,
        replica: String,
        enabled: bool,
    ) -> Self {
        let events = Events::new(client.clone(), metrics.clone(), replica);
        Self { client, state, excluded, metrics, events, enabled, done: HashMap::new() }
    }

    /// Looks again and again until the signal to stop; only waits for it where restarts are switched off.
    pub(super) async fn run(mut self, mut shutdown: Shutdown) {
        let mut looks = 0u32;
        let mut before = Asked::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(LOOK_SECONDS)), if self.enabled => {}
                () = shutdown.wait() => return,
            }
            let asked = wanted(&self.state.index(), &self.excluded);
            looks = looks.wrapping_add(1);
            let forget = looks.is_multiple_of(LOOKS_REMEMBERED);
            self.done.retain(|namespace, _| !forget && asked.contains_key(namespace));
            for (namespace, owners) in still(&asked, &before) {
                if self.done.get(namespace) == Some(&owners) {
                    continue;
                }
                match self.look(namespace, &owners).await {
                    Ok(true) => {
                        self.done.insert(namespace.to_owned(), owners);
                    }
                    Ok(false) => {}
                    Err(error) => {
                        self.count("error");
                        tracing::warn!(error = %Plain(&error), namespace, "workloads not restarted, trying again");
                    }
                }
            }
            before = asked;
        }
    }

    /// Does the next step in one namespace; `true`: nothing is left to do.
    async fn look(&self, namespace: &str, owners: &BTreeMap<OwnerId, String>) -> kube::Result<bool> {
        let mut deployments = BTreeMap::new();
        if owners.keys().any(|(kind, _)| kind == "ReplicaSet") {
            let sets: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), namespace, &resource("ReplicaSet"));
            for set in sets.list_metadata(&ListParams::default()).await? {
                let owner =
                    set.owner_references().iter().find(|o| o.controller == Some(true) && o.kind == "Deployment");
                if let Some(owner) = owner {
                    deployments.insert(set.name_any(), owner.name.clone());
                }
            }
        }
        let mut asked: BTreeMap<Id, String> = BTreeMap::new();
        for (owner, key) in owners {
            if let Some(id) = workload_of(owner, &deployments) {
                asked.insert(id, key.clone());
            }
        }
        if asked.is_empty() {
            return Ok(true);
        }
        let mut workloads = Vec::new();
        for kind in Kind::ALL {
            let list = self.api(kind, namespace).list(&ListParams::default()).await?;
            workloads.extend(list.iter().map(|object| Workload::of(kind, object)));
        }
        match next(&workloads, &asked) {
            Step::Done => Ok(true),
            Step::Wait((kind, name)) => {
                self.count("waiting");
                tracing::debug!(namespace, ?kind, name, "a workload is not fully available; no other is restarted");
                Ok(false)
            }
            Step::Restart(id) => {
                let uid = workloads.iter().find(|w| w.id == id).map(|w| w.uid.clone()).unwrap_or_default();
                let key = asked.get(&id).cloned().unwrap_or_default();
                self.restart(namespace, &id, &uid, &key).await?;
                Ok(false)
            }
        }
    }

    fn api(&self, kind: Kind, namespace: &str) -> Api<Rolling> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.resource())
    }

    async fn restart(&self, namespace: &str, (kind, name): &Id, uid: &str, key: &str) -> kube::Result<()> {
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED_FOR: key}}}}});
        let (patch, params) =
            (Patch::Merge(patch), PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() });
        self.api(*kind, namespace).patch_metadata(name, &params, &patch).await?;
        self.count("restarted");
        tracing::info!(namespace, ?kind, name, policies = key, "restarted, so that its pods get their sidecars");
        let at = ObjectReference {
            api_version: Some("apps/v1".to_owned()),
            kind: Some(format!("{kind:?}")),
            namespace: Some(namespace.to_owned()),
            name: Some(name.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let news = News {
            action: "Rollout".to_owned(),
            reason: "RestartedForAudit".to_owned(),
            note: format!("its pods need a restart to be audited; rollout: Restart of {key}"),
            warning: false,
        };
        self.events.publish(&news, &at).await;
        Ok(())
    }

    fn count(&self, result: &'static str) {
        self.metrics.rollouts.get_or_create(&ResultLabels { result }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::{policy, put};
    use crate::testing::FakeApi;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::Value;

    const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/web";

    fn of(kind: &str, name: &str, owner: (&str, &str)) -> Value {
        json!({"kind": kind, "metadata": {"name": name, "namespace": "shop", "uid": name, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": owner.0, "name": owner.1, "uid": owner.1, "controller": true}]}})
    }

    fn deployment(available: i32) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
               "metadata": {"name": "web", "namespace": "shop", "uid": "web", "generation": 1},
               "spec": {"replicas": 1, "selector": {}, "template": {"metadata": {"labels": {"app": "web"}}}},
               "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": available}})
    }

    fn restarted_for(api: &FakeApi) -> Value {
        let now = api.get(DEPLOYMENT).expect("deployment");
        now["spec"]["template"]["metadata"]["annotations"][RESTARTED_FOR].clone()
    }

    /// A pod of `web` and a bare one, both without a sidecar; a policy that asks for restarts.
    fn shop(api: &FakeApi) -> Arc<State> {
        api.put("/apis/apps/v1/namespaces/shop/replicasets/web-1", of("ReplicaSet", "web-1", ("Deployment", "web")));
        let state = Arc::new(State::new("cluster.local"));
        state.remember(|index| {
            put::<crate::api::AuditPolicy>(index, policy("all", json!({"rollout": "Restart"})));
            let mut pod = of("Pod", "web-1-a", ("ReplicaSet", "web-1"));
            pod["spec"] = json!({"containers": [{"name": "app"}]});
            put::<Pod>(index, pod);
            put::<Pod>(index, crate::controller::tests::pod("bare", false));
        });
        state
    }

    /// Runs for a while of the paused clock.
    async fn run(api: &FakeApi, state: &Arc<State>, seconds: u64) {
        let (_stop, shutdown) = Shutdown::new();
        let excluded = ExcludedNamespaces { own: "testimony-system".to_owned(), ..Default::default() };
        let metrics = Metrics::new().0;
        let rollouts = Rollouts::new(api.client(), state.clone(), excluded, metrics, "me".to_owned(), true);
        let _ = tokio::time::timeout(Duration::from_secs(seconds), rollouts.run(shutdown)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_deployment_is_restarted_once_at_the_second_look_whatever_becomes_of_its_pods() {
        let api = FakeApi::default();
        api.put(DEPLOYMENT, deployment(1));
        let state = shop(&api);
        run(&api, &state, LOOK_SECONDS + 1).await;
        assert_eq!(restarted_for(&api), Value::Null, "the webhook may not know the policy yet");
        run(&api, &state, 2 * LOOK_SECONDS + 1).await;
        assert_eq!(restarted_for(&api), "all@3.all");
        let version = api.get(DEPLOYMENT).expect("deployment")["metadata"]["resourceVersion"].clone();
        // Its pod still needs a restart; the operator, which forgets at times and is replaced at times, leaves it alone.
        run(&api, &state, u64::from(LOOKS_REMEMBERED + 3) * LOOK_SECONDS).await;
        run(&api, &state, 4 * LOOK_SECONDS).await;
        assert_eq!(api.get(DEPLOYMENT).expect("deployment")["metadata"]["resourceVersion"], version);
        // Another edit asks anew.
        state.remember(|index| {
            let mut edited = policy("all", json!({"rollout": "Restart"}));
            edited["metadata"]["generation"] = json!(4);
            put::<crate::api::AuditPolicy>(index, edited);
        });
        run(&api, &state, 2 * LOOK_SECONDS + 1).await;
        assert_eq!(restarted_for(&api), "all@4.all");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_available_is_waited_for() {
        let api = FakeApi::default();
        api.put(DEPLOYMENT, deployment(0));
        let state = shop(&api);
        run(&api, &state, 5 * LOOK_SECONDS).await;
        assert_eq!(restarted_for(&api), Value::Null);
        api.put(DEPLOYMENT, deployment(1));
        run(&api, &state, 2 * LOOK_SECONDS + 1).await;
        assert_eq!(restarted_for(&api), "all@3.all");
    }
}
