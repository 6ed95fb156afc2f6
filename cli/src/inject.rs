//! `inject`: manifests in, manifests with sidecars out, by the webhook's own code.

use crate::args::{ClusterArgs, InjectArgs};
use crate::cluster::{Cluster, ca_bundle, settings_of};
use crate::manifest::{self, Manifest};
use crate::output::{print_data, tell};
use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::Api;
use serde_json::{Value, json};
use std::fmt::Write;
use testimony_operator::index::{Index, Indexed};
use testimony_operator::inject::{Decision, ExcludedNamespaces, Plan, PodTraits, SidecarConfig, decide, patch};
use testimony_operator::settings::InjectionMode;

/// Where the template of each kind's pods stands.
const TEMPLATES: [(&str, &str); 8] = [
    ("Pod", ""),
    ("Deployment", "/spec/template"),
    ("StatefulSet", "/spec/template"),
    ("DaemonSet", "/spec/template"),
    ("ReplicaSet", "/spec/template"),
    ("ReplicationController", "/spec/template"),
    ("Job", "/spec/template"),
    ("CronJob", "/spec/jobTemplate/spec/template"),
];

/// What every injected pod gets from the installation.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Image, resources, URL of the operator.
    pub config: SidecarConfig,
    /// PEM bundle that signs the operator's certificates.
    pub operator_ca: String,
    /// Uid of kube-system.
    pub cluster_uid: String,
    /// Namespaces that are never touched.
    pub excluded: ExcludedNamespaces,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Injected {
    /// It makes no pods.
    Other,
    /// It has its sidecar now; for each warning a line.
    Yes(Vec<String>),
    /// It is as it was, and why.
    No(String),
}

/// Runs the command.
///
/// # Errors
/// A file or policy is wrong, or the cluster was needed and not reached.
pub async fn run(args: &InjectArgs, cluster: &ClusterArgs) -> Result<u8> {
    let mut manifests = manifest::read_all(&args.files)?;
    let mut known = manifests.clone();
    known.extend(manifest::read_all(&args.policies)?);
    let offline = args.sidecar_image.is_some()
        && known.iter().any(|manifest| matches!(manifest.kind(), "AuditPolicy" | "ClusterAuditPolicy"));
    let connected = if offline { None } else { Some(Cluster::connect(cluster).await?) };
    let namespace = match &connected {
        Some(connected) => connected.namespace.clone(),
        None => cluster.namespace.clone().unwrap_or_else(|| "default".to_owned()),
    };
    let mut index = manifest::index(&known, &namespace)?;
    let has_policies = !index.policies.is_empty();
    let installation = match &connected {
        Some(connected) => {
            if !has_policies {
                index = cluster_index(connected, &known, &namespace).await?;
            }
            if args.sidecar_image.is_some() { given(args)? } else { installed(connected, args).await? }
        }
        None => given(args)?,
    };
    let mut out = String::new();
    for manifest in &mut manifests {
        let what = format!("{}/{}", manifest.kind().to_lowercase(), manifest.name());
        match inject(manifest, &index, &installation, &namespace)? {
            Injected::Other => {}
            Injected::No(why) => tell(format_args!("{what}: no sidecar: {why}")),
            Injected::Yes(warnings) => {
                tell(format_args!("{what}: sidecar added"));
                warnings.iter().for_each(|warning| tell(format_args!("{what}: {warning}")));
            }
        }
        let yaml = serde_saphyr::to_string(&manifest.object).map_err(|error| anyhow!("{what}: {error}"))?;
        let _ = write!(out, "---\n{yaml}");
    }
    print_data(&out)?;
    Ok(0)
}

/// Policies of the cluster, of every namespace that the manifests name.
async fn cluster_index(cluster: &Cluster, manifests: &[Manifest], namespace: &str) -> Result<Index> {
    let mut index = cluster.index(namespace, "cluster.local").await?;
    let mut seen = vec![namespace.to_owned()];
    for manifest in manifests {
        let other = manifest.namespace(namespace).to_owned();
        if seen.contains(&other) || !TEMPLATES.iter().any(|(kind, _)| *kind == manifest.kind()) {
            continue;
        }
        let api = Api::namespaced(cluster.client.clone(), &other);
        cluster.fill::<testimony_operator::api::AuditPolicy>("auditpolicies", api, &mut index).await?;
        if let Some(object) = cluster.get::<Namespace>(Api::all(cluster.client.clone()), &other).await? {
            Namespace::apply(&mut index, object);
        }
        seen.push(other);
    }
    Ok(index)
}

/// The installation by the command line.
fn given(args: &InjectArgs) -> Result<Installation> {
    let (Some(image), Some(ca)) = (&args.sidecar_image, &args.operator_ca) else {
        bail!("--sidecar-image and --operator-ca are needed to inject without the cluster");
    };
    let operator_ca =
        String::from_utf8(manifest::read(ca)?).with_context(|| format!("--operator-ca {}", ca.display()))?;
    if !operator_ca.contains("-----BEGIN CERTIFICATE-----") {
        bail!(
            "--operator-ca {}: no PEM certificate; get it by: kubectl get mutatingwebhookconfiguration testimony-default -o jsonpath='{{.webhooks[0].clientConfig.caBundle}}' | base64 -d",
            ca.display()
        );
    }
    let flags = vec!["webhook".to_owned(), format!("--sidecar-image={image}")];
    let settings = settings_of(&args.operator_namespace, flags)?;
    Ok(Installation {
        config: settings.sidecar()?,
        operator_ca,
        cluster_uid: args.cluster_uid.clone(),
        excluded: settings.excluded(),
    })
}

/// The installation of the cluster.
async fn installed(cluster: &Cluster, args: &InjectArgs) -> Result<Installation> {
    let settings = cluster.settings(&args.operator_namespace).await?;
    let webhook = cluster.webhook().await?;
    if webhook.is_none() && settings.injection_mode == InjectionMode::AdmissionPolicy {
        bail!(
            "the API server injects (injection.mode: AdmissionPolicy), and there is no webhook that names the authority: \
             give --sidecar-image and --operator-ca; the authority is ca.crt of Secret {} in namespace {}",
            settings.ca_secret,
            args.operator_namespace
        );
    }
    let bundle = webhook.as_ref().and_then(ca_bundle).context(
        "the webhook has no caBundle yet: wait until the operator runs (`testimony check` says what is in its way)",
    )?;
    let system: Option<Namespace> = cluster.get(Api::all(cluster.client.clone()), "kube-system").await?;
    Ok(Installation {
        config: settings.sidecar()?,
        operator_ca: String::from_utf8(bundle.0.clone()).context("the webhook's caBundle")?,
        cluster_uid: system.and_then(|namespace| namespace.metadata.uid).unwrap_or_default(),
        excluded: settings.excluded(),
    })
}

/// Adds the sidecar to an object that makes pods, where policies select them. Pure, but for the injection id.
///
/// # Errors
/// Its pods are none that the API server would take.
pub fn inject(
    manifest: &mut Manifest,
    index: &Index,
    installation: &Installation,
    namespace: &str,
) -> Result<Injected> {
    let found = TEMPLATES.iter().find(|(kind, _)| *kind == manifest.kind());
    let Some((kind, pointer)) = found.filter(|(_, pointer)| manifest.object.pointer(pointer).is_some()) else {
        return Ok(Injected::Other);
    };
    let namespace = manifest.namespace(namespace).to_owned();
    let pod = pod_of(manifest, kind, pointer, &namespace)?;
    let selection = match decide(index, &installation.excluded, &namespace, &PodTraits::of(&pod)) {
        Decision::NotSelected => {
            return Ok(Injected::No(format!("no policy of namespace {namespace} or of the cluster selects it")));
        }
        Decision::Already => return Ok(Injected::No("it has one".to_owned())),
        Decision::Skip(reason) | Decision::Deny(reason) => {
            return Ok(Injected::No(format!("{reason}: {}", reason.explain())));
        }
        Decision::Inject(selection) => selection,
    };
    let injection_id = injection_id()?;
    let plan = Plan {
        config: &installation.config,
        selection: &selection,
        namespace: &namespace,
        cluster_uid: &installation.cluster_uid,
        operator_ca: &installation.operator_ca,
        injection_id: &injection_id,
    };
    let patch = patch(&pod, Some(&plan))?;
    let Some(template) = manifest.object.pointer_mut(pointer) else { return Ok(Injected::Other) };
    json_patch::patch(template, &patch).with_context(|| manifest.origin.clone())?;
    Ok(Injected::Yes(selection.warnings.clone()))
}

/// The pod that an object makes, as far as injection looks at it.
///
/// # Errors
/// It is none.
pub fn pod_of(manifest: &mut Manifest, kind: &str, pointer: &str, namespace: &str) -> Result<Pod> {
    let name = manifest.name().to_owned();
    let template = manifest.object.pointer_mut(pointer).context("the pod template is missing")?;
    if let Value::Object(fields) = template {
        // The patch adds to what is there.
        fields.entry("metadata").or_insert_with(|| json!({}));
    }
    let mut pod: Pod = serde_json::from_value(template.clone()).with_context(|| manifest.origin.clone())?;
    pod.metadata.namespace = Some(namespace.to_owned());
    if kind != "Pod" {
        // Records name the workload by what the template belongs to.
        pod.metadata.owner_references = Some(vec![OwnerReference {
            kind: kind.to_owned(),
            name,
            controller: Some(true),
            ..OwnerReference::default()
        }]);
    }
    Ok(pod)
}

/// 128 random bits, in hex.
fn injection_id() -> Result<String> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow!("random numbers are unavailable"))?;
    Ok(bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "{apiVersion: audit.testimony.dev/v1alpha1, kind: AuditPolicy, metadata: {name: p, namespace: shop}, spec: {podSelector: {matchLabels: {app: api}}}}";

    fn installation() -> Installation {
        let settings = settings_of("testimony-system", vec!["webhook".into(), "--sidecar-image=s:1".into()]);
        let settings = settings.expect("settings");
        Installation {
            config: settings.sidecar().expect("an image"),
            operator_ca: "CA".to_owned(),
            cluster_uid: "uid".to_owned(),
            excluded: settings.excluded(),
        }
    }

    fn injected(object: &str) -> (Injected, Value) {
        let index = manifest::index(&manifest::parse("p", POLICY).expect("yaml"), "default").expect("valid");
        let mut manifest = manifest::parse("m", object).expect("yaml").remove(0);
        let result = inject(&mut manifest, &index, &installation(), "shop").expect("an answer");
        (result, manifest.object)
    }

    #[test]
    fn templates_of_every_kind_get_the_sidecar_and_name_their_workload() {
        let template = "{metadata: {labels: {app: api}}, spec: {containers: [{name: c, image: i}]}}";
        for (kind, pointer) in TEMPLATES.iter().filter(|(kind, _)| *kind != "Pod") {
            let spec = match *kind {
                "CronJob" => format!("{{jobTemplate: {{spec: {{template: {template}}}}}}}"),
                _ => format!("{{template: {template}}}"),
            };
            let (result, object) = injected(&format!("{{kind: {kind}, metadata: {{name: api}}, spec: {spec}}}"));
            assert_eq!(result, Injected::Yes(Vec::new()), "{kind}");
            let pod = object.pointer(pointer).expect("a template");
            assert_eq!(pod["spec"]["initContainers"][1]["name"], "testimony-sidecar", "{kind}");
            let env = pod["spec"]["initContainers"][1]["env"].as_array().expect("variables");
            let value = |name: &str| env.iter().find(|v| v["name"] == name).map(|v| v["value"].clone());
            assert_eq!(value("TESTIMONY_WORKLOAD_KIND"), Some(json!(kind)));
            assert_eq!(value("TESTIMONY_WORKLOAD_NAME"), Some(json!("api")));
            assert!(pod["metadata"].get("ownerReferences").is_none());
        }
    }

    #[tokio::test]
    async fn policies_of_the_cluster_are_read_with_every_namespace_that_the_files_name() {
        use crate::testing::{cluster, list};
        let floor = json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "ClusterAuditPolicy", "metadata": {"name": "floor"},
                           "spec": {"namespaceSelector": {"matchLabels": {"tier": "prod"}}}});
        let namespace = |name: &str, tier: &str| json!({"metadata": {"name": name, "labels": {"tier": tier}}});
        let (cluster, _) = cluster(std::collections::BTreeMap::from([
            ("/api/v1/namespaces/shop", namespace("shop", "test")),
            ("/api/v1/namespaces/pay", namespace("pay", "prod")),
            ("/apis/audit.testimony.dev/v1alpha1/namespaces/shop/auditpolicies", list(&[])),
            ("/apis/audit.testimony.dev/v1alpha1/namespaces/pay/auditpolicies", list(&[])),
            ("/apis/audit.testimony.dev/v1alpha1/clusterauditpolicies", list(&[floor])),
            ("/apis/audit.testimony.dev/v1alpha1/auditsinks", list(&[])),
            ("/api/v1/namespaces/shop/services", list(&[])),
        ]));
        let pod = |namespace: &str| {
            let text = format!(
                "{{kind: Pod, metadata: {{name: a, namespace: {namespace}}}, spec: {{containers: [{{name: c}}]}}}}"
            );
            manifest::parse("m", &text).expect("yaml").remove(0)
        };
        let mut pods = [pod("shop"), pod("pay")];
        let index = cluster_index(&cluster, &pods, "shop").await.expect("an index");
        let results = pods.each_mut().map(|pod| inject(pod, &index, &installation(), "shop").expect("an answer"));
        assert!(matches!(&results[0], Injected::No(why) if why.contains("or of the cluster")), "{results:?}");
        assert_eq!(results[1], Injected::Yes(Vec::new()));
    }

    #[test]
    fn op_1_injecting_twice_is_injecting_once() {
        let (_, once) =
            injected("{kind: Pod, metadata: {name: a, labels: {app: api}}, spec: {containers: [{name: c}]}}");
        let text = serde_json::to_string(&once).expect("JSON");
        assert_eq!(injected(&text), (Injected::No("it has one".to_owned()), once));
    }

    #[test]
    fn others_stay_as_they_are_and_the_reason_is_told() {
        let (result, object) = injected("{kind: Service, metadata: {name: a}, spec: {ports: []}}");
        assert_eq!(
            (result, object),
            (Injected::Other, json!({"kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": []}}))
        );
        let (result, _) = injected("{kind: Pod, metadata: {name: a}, spec: {containers: [{name: c}]}}");
        assert_eq!(result, Injected::No("no policy of namespace shop or of the cluster selects it".to_owned()));
        let host =
            "{kind: Pod, metadata: {name: a, labels: {app: api}}, spec: {hostNetwork: true, containers: [{name: c}]}}";
        assert!(matches!(injected(host).0, Injected::No(why) if why.starts_with("HostNetwork: ")));
    }
}
