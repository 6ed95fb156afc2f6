//! What the leader makes and keeps besides statuses: the default AuditSink, and owners for what the operator made, so that
//! the cluster collects all of it once the chart's ClusterRoles are gone.

use crate::api::AuditSink;
use crate::serve::Shutdown;
use crate::settings::Settings;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use std::time::Duration;

/// Name of the AuditSink that the chart's values describe.
const DEFAULT_SINK: &str = "default";

/// Field manager of what is applied here.
pub(super) const MANAGER: &str = "testimony-operator";

/// Time before a failed attempt is repeated, in seconds: the definitions may not be served yet.
const RETRY_SECONDS: u64 = 3;

/// Time after which everything is applied again, in seconds, in case somebody removed it.
const REPEAT_SECONDS: u64 = 120;

/// Keeps what the leader owns.
pub(super) struct Owned {
    client: Client,
    settings: Settings,
}

impl Owned {
    pub(super) fn new(client: Client, settings: Settings) -> Self {
        Self { client, settings }
    }

    /// Applies all of it, again and again, until the signal to stop.
    pub(super) async fn run(self, mut shutdown: Shutdown) {
        let mut told = false;
        loop {
            let pause = match self.apply().await {
                Ok(()) => {
                    told = false;
                    REPEAT_SECONDS
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "default sink or owners not applied, trying again");
                    }
                    RETRY_SECONDS
                }
            };
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(pause)) => {}
                () = shutdown.wait() => return,
            }
        }
    }

    async fn apply(&self) -> kube::Result<()> {
        if let Some(sink) = default_sink(&self.settings) {
            let sink = self.owned(sink, self.settings.default_sink_owner.as_deref()).await?;
            let sinks = Api::<AuditSink>::all(self.client.clone());
            sinks.patch(DEFAULT_SINK, &PatchParams::apply(MANAGER).force(), &Patch::Apply(sink)).await?;
        }
        let Some(role) = self.settings.owner_cluster_role.as_deref() else { return Ok(()) };
        let namespace = &self.settings.namespace;
        let params = PatchParams::apply(MANAGER).force();
        let (secret, lease) = (&self.settings.ca_secret, &self.settings.lease_name);
        let object = self.owned(named("v1", "Secret", secret), Some(role)).await?;
        Api::<Secret>::namespaced(self.client.clone(), namespace).patch(secret, &params, &Patch::Apply(object)).await?;
        let object = self.owned(named("coordination.k8s.io/v1", "Lease", lease), Some(role)).await?;
        Api::<Lease>::namespaced(self.client.clone(), namespace).patch(lease, &params, &Patch::Apply(object)).await?;
        Ok(())
    }

    async fn owned(&self, object: Value, role: Option<&str>) -> kube::Result<Value> {
        owned_by(&self.client, object, role).await
    }
}

/// Gives an object its owner, a ClusterRole.
pub(super) async fn owned_by(client: &Client, mut object: Value, role: Option<&str>) -> kube::Result<Value> {
    let Some(role) = role else { return Ok(object) };
    let uid = Api::<ClusterRole>::all(client.clone()).get(role).await?.uid();
    object["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": role, "uid": uid}]);
    Ok(object)
}

fn named(api_version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}})
}

/// The AuditSink that the flags describe.
fn default_sink(settings: &Settings) -> Option<Value> {
    let endpoint = settings.default_sink_endpoint.as_deref()?;
    let mut sink = named("audit.testimony.dev/v1alpha1", "AuditSink", DEFAULT_SINK);
    sink["spec"] = json!({"endpoint": endpoint, "default": true});
    if let Some(protocol) = settings.default_sink_protocol {
        sink["spec"]["protocol"] = json!(protocol);
    }
    if let Some(compression) = settings.default_sink_compression {
        sink["spec"]["compression"] = json!(compression);
    }
    if let Some(bundle) = &settings.default_sink_ca_bundle {
        sink["spec"]["tls"] = json!({"caBundle": bundle});
    }
    if let Some(secret) = &settings.default_sink_credentials_secret {
        sink["spec"]["credentialsSecretName"] = json!(secret);
    }
    Some(sink)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        settings: Settings,
    }

    fn sink(flags: &[&str]) -> Option<Value> {
        let all = ["test", "--namespace=testimony-system"].iter().chain(flags);
        default_sink(&Cli::try_parse_from(all).expect("valid flags").settings)
    }

    #[test]
    fn the_default_sink_is_what_the_flags_say() {
        assert_eq!(sink(&[]), None);
        let endpoint = "--default-sink-endpoint=https://otlp.example:4318";
        let spec = |flags: &[&str]| sink(flags).map(|sink| sink["spec"].clone());
        assert_eq!(spec(&[endpoint]), Some(json!({"endpoint": "https://otlp.example:4318", "default": true})));
        let all = [
            endpoint,
            "--default-sink-protocol=HttpProtobuf",
            "--default-sink-compression=Zstd",
            "--default-sink-ca-bundle=PEM",
            "--default-sink-credentials-secret=otlp",
        ];
        let wanted = json!({
            "endpoint": "https://otlp.example:4318", "default": true, "protocol": "HttpProtobuf",
            "compression": "Zstd", "tls": {"caBundle": "PEM"},
            "credentialsSecretName": "otlp",
        });
        assert_eq!(spec(&all), Some(wanted));
    }

    #[test]
    fn a_bad_endpoint_is_named() {
        let flags = ["test", "--namespace=a", "--default-sink-endpoint=collector:4318"];
        let error = Cli::try_parse_from(flags).map(|_| ()).map_err(|error| error.to_string());
        assert!(error.is_err_and(|error| error.contains("--default-sink-endpoint") && error.contains("http://")));
    }
}
