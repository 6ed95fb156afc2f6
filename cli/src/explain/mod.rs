//! `explain`: why a pod is recorded as it is, or not at all.

mod report;
#[cfg(test)]
mod tests;

pub use report::{LeftAlone, Pods, PolicyView, Report, RuleView, Sidecar, SinkView, Subject, report};

use crate::args::{ClusterArgs, ExplainArgs, Format};
use crate::cluster::{Cluster, SidecarStream};
use crate::inject::pod_of;
use crate::manifest::Manifest;
use crate::output::{print, print_json};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::{Api, ListParams};
use report::text;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use testimony_operator::index::Index;
use testimony_operator::inject::{ExcludedNamespaces, PodTraits};
use testimony_operator::settings::InjectionMode;

/// Runs the command.
///
/// # Errors
/// There is no such object, or the cluster is not reached.
pub async fn run(args: &ExplainArgs, cluster: &ClusterArgs) -> Result<u8> {
    let object = object(&args.object)?;
    let report = explain(&Cluster::connect(cluster).await?, object).await?;
    match args.output {
        Format::Json => print_json(&report)?,
        Format::Text => print(&text(&report)?)?,
    }
    Ok(0)
}

async fn explain(cluster: &Cluster, (kind, name): (&'static str, String)) -> Result<Report> {
    let webhook = cluster.webhook().await.ok().flatten();
    let own = webhook.iter().flat_map(|w| w.webhooks.iter().flatten()).find_map(|w| w.client_config.service.as_ref());
    let own = own.map_or_else(|| "testimony-system".to_owned(), |service| service.namespace.clone());
    // Whoever may not read the installation gets the defaults.
    let settings = cluster.settings(&own).await.ok();
    let domain = settings.as_ref().map_or("cluster.local", |settings| &settings.cluster_domain);
    let index = cluster.index(&cluster.namespace, domain).await?;
    let excluded = match &settings {
        Some(settings) => settings.excluded(),
        None => ExcludedNamespaces { own, ..ExcludedNamespaces::default() },
    };
    let mut report = if kind == "Pod" {
        explain_pod(cluster, &index, &excluded, &name).await?
    } else {
        explain_workload(cluster, &index, &excluded, kind, &name).await?
    };
    let by_api_server = settings.is_some_and(|settings| settings.injection_mode == InjectionMode::AdmissionPolicy);
    if webhook.is_none() && !by_api_server {
        let missing = "Testimony's webhook is not installed, or you may not see it: no new pod gets a sidecar";
        report.warnings.push(missing.to_owned());
    }
    Ok(report)
}

fn object(text: &str) -> Result<(&'static str, String)> {
    let Some((kind, name)) = text.split_once('/').filter(|(_, name)| !name.is_empty()) else {
        bail!("{text:?} is no object: write pod/NAME or deployment/NAME");
    };
    let kind = match kind.to_ascii_lowercase().as_str() {
        "pod" | "pods" | "po" => "Pod",
        "deployment" | "deployments" | "deploy" => "Deployment",
        "statefulset" | "statefulsets" | "sts" => "StatefulSet",
        "daemonset" | "daemonsets" | "ds" => "DaemonSet",
        _ => bail!("{kind:?} is none of pod, deployment, statefulset, daemonset"),
    };
    Ok((kind, name.to_owned()))
}

async fn explain_pod(cluster: &Cluster, index: &Index, excluded: &ExcludedNamespaces, name: &str) -> Result<Report> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let pod = cluster.get(api, name).await?;
    let pod =
        pod.with_context(|| format!("pod {name} is not in namespace {}: -n chooses another", cluster.namespace))?;
    let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    let sidecar = match PodTraits::of(&pod).injected && running {
        true => Some(ask(cluster, name).await),
        false => None,
    };
    Ok(report(index, excluded, &cluster.namespace, &pod, Subject::Pod(sidecar)))
}

/// What a sidecar's `/config` says.
async fn ask(cluster: &Cluster, name: &str) -> Sidecar {
    let answer = async {
        let stream = SidecarStream::open(cluster, &cluster.namespace, name, "/config").await?;
        let shown: Value = serde_json::from_slice(&stream.whole().await?).context("the sidecar's /config")?;
        anyhow::Ok(shown)
    };
    match answer.await {
        Ok(shown) => {
            let word = |value: &Value, field: &str| value[field].as_str().map(str::to_owned);
            let state = |sink: &Value| {
                let error = word(sink, "error").map(|error| format!(" ({error})")).unwrap_or_default();
                format!(
                    "{}: {}{error}",
                    word(sink, "name").unwrap_or_default(),
                    word(sink, "state").unwrap_or_default()
                )
            };
            let sinks = shown["sinks"].as_array().into_iter().flatten().map(state).collect();
            Sidecar { revision: word(&shown, "revision"), sinks, error: None }
        }
        Err(error) => Sidecar { error: Some(format!("{error:#}")), ..Sidecar::default() },
    }
}

async fn explain_workload(
    cluster: &Cluster,
    index: &Index,
    excluded: &ExcludedNamespaces,
    kind: &'static str,
    name: &str,
) -> Result<Report> {
    let object = match kind {
        "Deployment" => fetch::<Deployment>(cluster, name).await?,
        "StatefulSet" => fetch::<StatefulSet>(cluster, name).await?,
        _ => fetch::<DaemonSet>(cluster, name).await?,
    };
    let labels = object["spec"]["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
    let labels: Vec<String> =
        labels.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?))).collect();
    let mut manifest = Manifest { origin: format!("{}/{name}", kind.to_lowercase()), object };
    let pod = pod_of(&mut manifest, kind, "/spec/template", &cluster.namespace)?;
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let pods = match labels.is_empty() {
        true => Vec::new(),
        false => cluster.list("pods", api, ListParams::default().labels(&labels.join(","))).await?,
    };
    let live: Vec<&Pod> = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
    let injected = live.iter().filter(|pod| PodTraits::of(pod).injected).count();
    let counts = Pods { all: live.len(), injected };
    Ok(report(
        index,
        excluded,
        &cluster.namespace,
        &pod,
        Subject::Workload { kind, name: name.to_owned(), pods: counts },
    ))
}

async fn fetch<K>(cluster: &Cluster, name: &str) -> Result<Value>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize,
{
    let api: Api<K> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let found = cluster.get(api, name).await?;
    let found =
        found.with_context(|| format!("{name} is not in namespace {}: -n chooses another", cluster.namespace))?;
    let mut object = serde_json::to_value(found)?;
    object["metadata"]["name"] = json!(name);
    Ok(object)
}
