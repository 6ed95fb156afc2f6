//! Keeps the MutatingAdmissionPolicies of the injection mode `AdmissionPolicy`. They hold all that injection needs, so that
//! the API server injects also while the operator is away.

use super::owned::{MANAGER, owned_by};
use crate::inject::admission_policy::{INJECTION_ID, NAMES, Surroundings, bootstrap, objects};
use crate::inject::{Plan, SidecarConfig};
use crate::plain::Plain;
use crate::serve::Shutdown;
use crate::settings::Settings;
use crate::state::State;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Time before a failed attempt is repeated, in seconds.
const RETRY_SECONDS: u64 = 3;

/// Time after which everything is applied again, in seconds, in case somebody changed or removed it.
const REPEAT_SECONDS: u64 = 15;

/// Time after which it is looked whether anything else is wanted, in seconds: Services wake nobody.
const LOOK_SECONDS: u64 = 5;

/// Kinds and their plurals, in the order in which they are removed.
const KINDS: [(&str, &str); 2] = [
    ("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings"),
    ("MutatingAdmissionPolicy", "mutatingadmissionpolicies"),
];

/// Keeps the policies; see [`Injection::run`].
pub(super) struct Injection {
    pub(super) client: Client,
    pub(super) settings: Settings,
    pub(super) config: SidecarConfig,
    pub(super) state: Arc<State>,
    pub(super) bundle: watch::Receiver<Option<Arc<str>>>,
}

impl Injection {
    /// Applies what is wanted whenever it changes, until the signal to stop. Errors are logged and tried again.
    pub(super) async fn run(self, mut shutdown: Shutdown) {
        let mut epochs = self.state.epochs();
        let mut bundle = self.bundle.clone();
        let mut applied = Vec::new();
        let mut due = tokio::time::Instant::now();
        loop {
            epochs.mark_unchanged();
            bundle.mark_unchanged();
            let wanted = self.wanted();
            let now = tokio::time::Instant::now();
            let mut pause = LOOK_SECONDS;
            if !wanted.is_empty() && (wanted != applied || now >= due) {
                match self.apply(&wanted).await {
                    Ok(()) => {
                        if wanted != applied {
                            tracing::info!(objects = wanted.len(), "admission policies applied");
                        }
                        (applied, due) = (wanted, now + Duration::from_secs(REPEAT_SECONDS));
                    }
                    Err(error) => {
                        tracing::warn!(error = %Plain(&error), "admission policies not applied, trying again");
                        (applied, pause) = (Vec::new(), RETRY_SECONDS);
                    }
                }
            }
            tokio::select! {
                changed = epochs.changed() => if changed.is_err() { return },
                changed = bundle.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(Duration::from_secs(pause)) => {}
                () = shutdown.wait() => return,
            }
        }
    }

    /// The objects; none before there is a certificate.
    fn wanted(&self) -> Vec<Value> {
        let Some(operator_ca) = self.bundle.borrow().clone() else { return Vec::new() };
        let index = self.state.index();
        let bootstrap = bootstrap(&index, &self.settings.namespace);
        let plan = Plan {
            config: &self.config,
            selection: &bootstrap.start,
            namespace: "",
            cluster_uid: index.cluster_uid().unwrap_or_default(),
            operator_ca: &operator_ca,
            injection_id: INJECTION_ID,
        };
        let excluded = self.settings.excluded();
        let strict = self.settings.strict_namespaces;
        let (mounts, sink_services) = (&bootstrap.mounts, index.sink_services());
        objects(&plan, &Surroundings { excluded: &excluded, strict, mounts, sink_services })
    }

    async fn apply(&self, wanted: &[Value]) -> kube::Result<()> {
        let params = PatchParams::apply(MANAGER).force();
        for object in wanted {
            let text = |field: &str| object.pointer(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (kind, name) = (text("/kind"), text("/metadata/name"));
            let owner = self.settings.injection_owner.as_deref();
            let object = owned_by(&self.client, object.clone(), owner).await?;
            self.api(&kind).patch(&name, &params, &Patch::Apply(object)).await?;
        }
        for (kind, _) in KINDS {
            for name in NAMES {
                let is_wanted = |object: &Value| object["kind"] == kind && object["metadata"]["name"] == name;
                if !wanted.iter().any(is_wanted) {
                    let deleted = self.api(kind).delete(name, &DeleteParams::default()).await;
                    match deleted {
                        Ok(_) => tracing::info!(kind, name, "no longer wanted, deleted"),
                        Err(kube::Error::Api(status)) if status.code == 404 => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let plural = KINDS.iter().find(|(known, _)| *known == kind).map_or("", |(_, plural)| plural);
        let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
        Api::all_with(self.client.clone(), &ApiResource::from_gvk_with_plural(&gvk, plural))
    }
}
