//! The webhook is away: pods of strict namespaces wait, others start; and the API server injects in its stead.

use super::chart::{helm_test, roll_back, while_requests_flow};
use super::{Scaled, alone};
use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, init_containers, marker, single};
use crate::objects::{ClusterPolicy, SELECT_SERVER, condition, in_force};
use crate::strict::{dry_run, label, strict_space};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testimony_e2e::install::{BACKEND_ENDPOINT, install_chart};

/// How long the cluster's garbage collector may take, in seconds.
const COLLECTED_SECONDS_MAX: u64 = 180;

/// A Deployment of one pod of a shell, not waited for.
fn deployment(space: &Space, name: &str) -> Result<()> {
    space.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  \
         template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         containers:\n      - {{name: toolbox, image: \"{{{{image:toolbox}}}}\"}}\n"
    ))?;
    Ok(())
}

#[test]
fn without_the_webhook_strict_pods_wait_and_come_up_by_themselves_when_it_is_back() -> Result<()> {
    let _alone = alone();
    let strict = strict_space("waits")?;
    let normal = Space::new("starts")?;
    let webhook = Scaled::to("webhook", 0)?;
    deployment(&strict, "worker")?;
    deployment(&normal, "worker")?;
    cluster().kubectl.rollout(&normal.name, "deployment/worker")?;
    eventually("the ReplicaSet to tell why it has no pod", OPERATOR_SECONDS_MAX, || {
        let events = cluster().kubectl.run(&["get", "events", "-n", &strict.name, "-o", "json"])?;
        Ok(events.contains("FailedCreate") && events.contains("strict.inject.testimony.dev"))
    })?;
    ensure!(strict.pods("worker")?.is_empty(), "no pod starts without a sidecar");

    webhook.scale(1)?;
    cluster().kubectl.rollout(&strict.name, "deployment/worker")?;
    let pod = single(strict.pods("worker")?)?;
    ensure!(init_containers(&pod) == ["testimony-init", "testimony-sidecar"], "{pod:#}");
    Ok(())
}

/// Pods that show what injection does: a workload's names, probes, lists that are there and lists that are not, resources of the
/// pod as a whole. One whose name begins with `guaranteed` has that QoS class, and must keep it; one with `empty` is BestEffort.
fn fixtures() -> Vec<Value> {
    let owner = |kind: &str, name: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "0", "controller": true}]);
    let probe = |port: Value| json!({"tcpSocket": {"port": port}, "periodSeconds": 7});
    let ports = json!([{"name": "web", "containerPort": 8080}]);
    let all = json!({"cpu": "100m", "memory": "64Mi"});
    let limited = json!([{"name": "app", "image": "a", "resources": {"limits": all}}]);
    vec![
        json!({"metadata": {"name": "bare"}}),
        json!({"metadata": {"name": "of-set", "labels": {"pod-template-hash": "abc12"},
                            "ownerReferences": owner("ReplicaSet", "pay-abc12")}}),
        json!({"metadata": {"name": "of-cron", "labels": {"app.kubernetes.io/name": "report"},
                            "ownerReferences": owner("Job", "nightly-29012345")}}),
        json!({"metadata": {"name": "of-dated-job", "ownerReferences": owner("Job", "migrate-30112026")}}),
        json!({"metadata": {"name": "of-job", "annotations": {"some": "thing"}, "ownerReferences": owner("Job", "once")}}),
        json!({"metadata": {"name": "probes"}, "spec": {
            "initContainers": [
                {"name": "native", "image": "a", "restartPolicy": "Always", "startupProbe": probe(json!(6000))},
                {"name": "setup", "image": "a"}],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [
                {"name": "app", "image": "a", "ports": ports, "readinessProbe": probe(json!("web")), "livenessProbe": probe(json!(9))},
                {"name": "other", "image": "a", "livenessProbe": {"tcpSocket": {"port": 1, "host": "10.0.0.1"}},
                 "readinessProbe": {"httpGet": {"port": 2}}}]}}),
        json!({"metadata": {"name": "guaranteed"}, "spec": {"containers": limited}}),
        // The API server takes an empty map for the pod's own: BestEffort, whatever the containers have.
        json!({"metadata": {"name": "empty-limited"}, "spec": {"resources": {}, "containers": limited}}),
        json!({"metadata": {"name": "empty-both"}, "spec": {"resources": {"limits": {}, "requests": {}}, "containers": limited}}),
        json!({"metadata": {"name": "empty"}, "spec": {"resources": {}}}),
        json!({"metadata": {"name": "guaranteed-whole"}, "spec": {"resources": {"limits": all, "requests": all}}}),
        json!({"metadata": {"name": "whole"}, "spec": {"resources": {"requests": all}, "containers": limited}}),
    ]
}

/// What the modes of injection must have in common: all but what docs/strict.md names.
fn comparable(mut pod: Value) -> Value {
    let metadata = pod["metadata"].as_object_mut().map(std::mem::take).unwrap_or_default();
    let kept =
        ["labels", "annotations"].map(|field| (field.to_string(), metadata.get(field).cloned().unwrap_or_default()));
    pod["metadata"] = Value::Object(kept.into_iter().collect());
    for annotation in ["testimony.dev/injection-id", "testimony.dev/revision"] {
        pod["metadata"]["annotations"][annotation] = Value::Null;
    }
    let containers = pod["spec"]["initContainers"].as_array_mut();
    for environment in containers.into_iter().flatten().filter_map(|container| container["env"].as_array_mut()) {
        environment.retain(|variable| {
            !["TESTIMONY_POLICY", "TESTIMONY_INJECTION_ID", "TESTIMONY_POLICY_WAIT"]
                .map(Value::from)
                .contains(&variable["name"])
        });
    }
    // Its suffix is random.
    let text = pod.to_string();
    let api_token = text.split('"').find(|word| word.starts_with("kube-api-access-")).map(str::to_string);
    let text = api_token.map_or(text.clone(), |name| text.replace(&name, "kube-api-access"));
    serde_json::from_str(&text).unwrap_or_default()
}

fn injected(space: &Space) -> Result<Vec<Value>> {
    let mut pods = Vec::new();
    for fixture in fixtures() {
        let pod = dry_run(space, &fixture)?;
        let class = match fixture["metadata"]["name"].as_str().unwrap_or_default() {
            name if name.starts_with("guaranteed") => "Guaranteed",
            name if name.starts_with("empty") => "BestEffort",
            _ => "Burstable",
        };
        ensure!(pod["status"]["qosClass"] == class, "{fixture} is not {class}: {pod:#}");
        // Only where it keeps the class does ours request its limits.
        let ours = &pod["spec"]["initContainers"][1]["resources"];
        ensure!((ours["requests"] == ours["limits"]) == (class == "Guaranteed"), "{fixture}: {ours:#}");
        pods.push(comparable(pod));
    }
    for pod in &pods {
        ensure!(init_containers(pod).starts_with(&["testimony-init".into(), "testimony-sidecar".into()]), "{pod:#}");
    }
    Ok(pods)
}

/// A namespace label that no other test has.
const TEAM: &str = "testimony.example/nohook";

/// Two namespaces, the second one opted out of the cluster's defaults, and policies of the cluster that select in both.
struct Wide {
    spaces: [Space; 2],
    _policies: [ClusterPolicy; 2],
}

impl Wide {
    fn new() -> Result<Self> {
        let team = marker();
        let spaces = [Space::new("nohookwide")?, Space::new("nohookout")?];
        for space in &spaces {
            label(space, &format!("{TEAM}={team}"))?;
        }
        label(&spaces[1], "testimony.dev/cluster-defaults=disabled")?;
        let usual = json!({
            "namespaceSelector": {"matchExpressions": [{"key": TEAM, "operator": "In", "values": [team]}]},
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["floor"]}]},
            "exclusions": [{"namespaces": [spaces[0].name], "podSelector": {"matchLabels": {"app": "batch"}}, "reason": "loud"}],
        });
        let floor = json!({"namespaceSelector": {"matchLabels": {TEAM: team}}, "enforcement": "Baseline",
                           "podSelector": {"matchLabels": {"app": "floor"}}});
        let policies = [
            ClusterPolicy::new(&format!("usual-{team}"), &usual)?,
            ClusterPolicy::new(&format!("floor-{team}"), &floor)?,
        ];
        for policy in &policies {
            policy.when("to be accepted", |policy| condition(policy, "Accepted").starts_with("True"))?;
        }
        Ok(Self { spaces, _policies: policies })
    }

    /// Each pod as it comes, or an error where it has a sidecar and should not, or lacks one.
    fn pods(&self) -> Result<Vec<Value>> {
        let out = "testimony.dev/inject";
        let cases = [
            (0, json!({"app": "any"}), true),
            (0, json!({"app": "batch"}), false),
            (0, json!({"app": "any", out: "disabled"}), false),
            (0, json!({"app": "floor", out: "disabled"}), true),
            (1, json!({"app": "any"}), false),
            (1, json!({"app": "floor", out: "disabled"}), true),
        ];
        let pods = cases.iter().enumerate().map(|(i, (space, labels, wanted))| {
            let pod =
                dry_run(&self.spaces[*space], &json!({"metadata": {"name": format!("wide-{i}"), "labels": labels}}))?;
            ensure!(init_containers(&pod).is_empty() != *wanted, "{labels} in namespace {space}: {pod:#}");
            Ok(comparable(pod))
        });
        pods.collect()
    }
}

fn policies() -> Result<String> {
    let kinds = "mutatingadmissionpolicies,mutatingadmissionpolicybindings";
    cluster().kubectl.run(&["get", kinds, "-o", "name"])
}

/// The chart as it was, whatever happened.
pub struct Restored;

impl Restored {
    /// The test has put the chart back itself: an upgrade more would only take time.
    pub fn by_the_test(self) {
        std::mem::forget(self);
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if let Err(error) = install_chart(cluster(), BACKEND_ENDPOINT, &[]) {
            eprintln!("the chart is not as it was: {error:#}");
        }
    }
}

#[test]
fn the_api_server_injects_what_the_webhook_injects() -> Result<()> {
    let _alone = alone();
    let space = Space::new("nohook")?;
    space.policy("audit", &format!("{{{SELECT_SERVER}}}"))?;
    space.policy("fixtures", "{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [client]}]}}")?;
    let strict = strict_space("nohookstrict")?;
    let wide = Wide::new()?;
    let everything = || Ok::<_, anyhow::Error>([injected(&space)?, injected(&strict)?, wide.pods()?].concat());
    let mut by_webhook = Vec::new();
    // The webhook may see the label of a namespace after the controller has accepted the policy.
    eventually("the webhook to inject", OPERATOR_SECONDS_MAX, || {
        Ok(everything().map(|pods| by_webhook = pods).is_ok())
    })?;

    let restored = Restored;
    install_chart(cluster(), BACKEND_ENDPOINT, &["injection.mode=AdmissionPolicy"])?;
    ensure!(
        cluster().kubectl.run(&["get", "mutatingwebhookconfigurations", "-o", "name"])?.find("testimony").is_none()
    );
    eventually("the API server to inject", OPERATOR_SECONDS_MAX, || Ok(everything().is_ok()))?;
    let by_policy = everything()?;
    ensure!(by_webhook.len() == by_policy.len());
    for (webhook, policy) in by_webhook.iter().zip(&by_policy) {
        pretty(webhook, policy)?;
    }
    let (passed, printed) = helm_test()?;
    ensure!(passed && printed.contains("ok      the API server adds the sidecar to a new pod"), "{printed}");
    let opted_out = dry_run(&space, &json!({"metadata": {"labels": {"app": "client"}}}))?;
    ensure!(init_containers(&opted_out).is_empty(), "the selector does not select it: {opted_out:#}");

    // A real pod gets its own document before its first request.
    space.httpbin("server")?;
    space.toolbox("client", "{app: client}")?;
    in_force(&space, "audit", 1)?;
    let records = space.recorded_request()?;
    ensure!(!records.iter().any(|r| r.attribute("testimony.policy").contains("bootstrap")), "{records:#?}");

    // Injection needs no operator: it is the API server's own.
    let controller = Scaled::to("controller", 0)?;
    everything()?;
    drop(controller);

    // The way back: what the operator owns must not be in the way of a rollback, and no request goes unrecorded.
    while_requests_flow(&space, || {
        roll_back()?;
        eventually("the admission policies to be collected", COLLECTED_SECONDS_MAX, || {
            Ok(!policies()?.contains("testimony"))
        })?;
        eventually("the webhook to inject again", OPERATOR_SECONDS_MAX, || Ok(injected(&space).is_ok()))
    })?;
    restored.by_the_test();
    Ok(())
}

/// The first difference is easier to read than two pods.
fn pretty(webhook: &Value, policy: &Value) -> Result<()> {
    let [left, right] = [webhook, policy].map(|pod| format!("{pod:#}"));
    let differs = left.lines().zip(right.lines()).find(|(left, right)| left != right);
    ensure!(webhook == policy, "the modes differ, first at {differs:?}:\n{left}\n{right}");
    Ok(())
}
