//! Reads what the checks look at. What cannot be read is told by the check that wanted it.

use super::{After, Before, Right, Seen};
use crate::cluster::Cluster;
use crate::status::LEASE;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, PostParams};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use testimony_operator::plain::Plain;

/// What an installation creates: group and resource, and whether it stands in the operator's namespace.
const INSTALLS: [(&str, &str, bool); 11] = [
    ("", "namespaces", false),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", false),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("apps", "deployments", true),
    ("", "services", true),
    ("", "serviceaccounts", true),
    ("", "secrets", true),
];

/// What matters before an installation.
///
/// # Errors
/// The API server is not reached.
pub async fn before(cluster: &Cluster, operator_namespace: &str) -> Result<Before, String> {
    let version = cluster.client.apiserver_version().await;
    let version = version.map_err(|error| format!("{:#}", cluster.explain("ask the API server's version", &error)))?;
    let minor: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    Ok(Before {
        version: (version.git_version, minor.parse().unwrap_or_default()),
        rights: rights(cluster, operator_namespace).await,
        nodes: all(cluster, "nodes").await,
        namespaces: all(cluster, "namespaces").await,
        webhooks: all(cluster, "mutatingwebhookconfigurations").await,
        mutating_policies: mutating_policies(cluster).await,
        operator_namespace: operator_namespace.to_owned(),
    })
}

async fn all<K>(cluster: &Cluster, what: &str) -> Seen<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    some(cluster, what, Api::all(cluster.client.clone()), ListParams::default()).await
}

async fn some<K>(cluster: &Cluster, what: &str, api: Api<K>, params: ListParams) -> Seen<Vec<K>>
where
    K: Clone + Debug + DeserializeOwned,
{
    cluster.list(what, api, params).await.map_err(|error| format!("{error:#}"))
}

async fn rights(cluster: &Cluster, operator_namespace: &str) -> Seen<Vec<Right>> {
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let mut rights = Vec::with_capacity(INSTALLS.len());
    for (group, resource, namespaced) in INSTALLS {
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            verb: Some("create".to_owned()),
            namespace: namespaced.then(|| operator_namespace.to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() },
            ..SelfSubjectAccessReview::default()
        };
        let answer = api.create(&PostParams::default(), &review).await.map_err(|error| Plain(&error).to_string())?;
        let dot = if group.is_empty() { "" } else { "." };
        let name = format!("create {resource}{dot}{group}");
        rights.push(Right { name, allowed: answer.status.is_some_and(|status| status.allowed) });
    }
    Ok(rights)
}

async fn mutating_policies(cluster: &Cluster) -> Seen<bool> {
    let listed = cluster.client.list_api_group_resources("admissionregistration.k8s.io/v1").await;
    let listed = listed.map_err(|error| Plain(&error).to_string())?;
    Ok(listed.resources.iter().any(|resource| resource.name == "mutatingadmissionpolicies"))
}

/// What matters after an installation.
pub async fn after(cluster: &Cluster, operator_namespace: &str) -> After {
    let client = || cluster.client.clone();
    let ours = ListParams::default().labels("app.kubernetes.io/name=testimony");
    let crds: Seen<Vec<CustomResourceDefinition>> = all(cluster, "customresourcedefinitions").await;
    let slices = Api::namespaced(client(), operator_namespace);
    let lease = cluster.get(Api::namespaced(client(), operator_namespace), LEASE).await;
    After {
        webhook: cluster.webhook().await.map_err(|error| format!("{error:#}")),
        deployments: some(cluster, "deployments", Api::namespaced(client(), operator_namespace), ours).await,
        slices: some(cluster, "endpointslices", slices, ListParams::default()).await,
        lease: lease.map_err(|error| format!("{error:#}")),
        crds,
        policies: all(cluster, "auditpolicies").await,
        cluster_policies: all(cluster, "clusterauditpolicies").await,
        sinks: all(cluster, "auditsinks").await,
        now: Timestamp::now(),
    }
}
