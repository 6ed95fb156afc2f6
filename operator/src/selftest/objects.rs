//! What the test makes, as JSON for server-side apply.

use super::{RunArgs, SERVER_PORT};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Name of the test's AuditSink, AuditPolicy and pod: the chart's RBAC names it.
pub const NAME: &str = "testimony-selftest";

/// Label of the audited pod.
const LABEL: &str = "testimony.dev/selftest";

/// User and group of the audited pod, as of the operator's pods.
const USER: u32 = 65532;

/// The test's own sink; `owner` is name and uid of a ClusterRole.
pub fn sink(receiver: IpAddr, port: u16, owner: Option<(&str, &str)>) -> Value {
    let host = match receiver {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let mut sink = json!({
        "apiVersion": "audit.testimony.dev/v1alpha1",
        "kind": "AuditSink",
        "metadata": {"name": NAME, "labels": labels()},
        "spec": {"endpoint": format!("http://{host}:{port}")},
    });
    if let Some((name, uid)) = owner {
        sink["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": name, "uid": uid}]);
    }
    sink
}

/// The policy: it selects the audited pod alone. `default_sink` is the name of the sink that is marked default.
pub fn policy(namespace: &str, default_sink: Option<&str>) -> Value {
    let sinks: Vec<&str> = std::iter::once(NAME).chain(default_sink).collect();
    json!({
        "apiVersion": "audit.testimony.dev/v1alpha1",
        "kind": "AuditPolicy",
        "metadata": {"name": NAME, "namespace": namespace, "labels": labels()},
        "spec": {"podSelector": {"matchLabels": {LABEL: "true"}}, "sinks": sinks},
    })
}

/// The audited pod. It fits Pod Security `restricted`, but for what injection adds.
pub fn pod(args: &RunArgs) -> Value {
    let mut container = json!({
        "name": "server",
        "image": args.image,
        "args": ["selftest", "server", format!("--port={SERVER_PORT}")],
        "ports": [{"name": "http", "containerPort": SERVER_PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/", "port": SERVER_PORT}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if let Some(policy) = args.image_pull_policy {
        container["imagePullPolicy"] = json!(format!("{policy:?}"));
    }
    let secrets: Vec<Value> = args.image_pull_secret.iter().map(|name| json!({"name": name})).collect();
    let mut labels = labels();
    labels[LABEL] = json!("true");
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "namespace": args.namespace, "labels": labels},
        "spec": {
            "containers": [container],
            "imagePullSecrets": secrets,
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": false,
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": USER,
                "runAsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    })
}

fn labels() -> Value {
    json!({"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": "testimony"})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{AuditPolicySpec, AuditSinkSpec};
    use crate::compile::accept_policy;
    use crate::selftest::Command;
    use clap::Parser;
    use k8s_openapi::api::core::v1::Pod;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    fn args(more: &[&str]) -> RunArgs {
        let all = ["t", "run", "--operator-namespace=testimony-system", "--pod-ip=10.1.2.3", "--image=registry/op:1"];
        match Cli::try_parse_from(all.iter().chain(more)).map(|cli| cli.command) {
            Ok(Command::Run(args)) => *args,
            other => panic!("{:?}", other.map_err(|error| error.to_string())),
        }
    }

    #[test]
    fn the_objects_are_what_the_api_takes() {
        let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
        let sink = sink(v6, 4318, Some(("testimony-selftest", "u-1")));
        let spec: AuditSinkSpec = serde_json::from_value(sink["spec"].clone()).expect("a sink");
        assert_eq!((spec.endpoint.as_str(), spec.default), ("http://[fd00::1]:4318", false));
        assert_eq!(sink["metadata"]["ownerReferences"][0]["uid"], "u-1");

        let policy = policy("testimony-selftest", Some("default"));
        let spec: AuditPolicySpec = serde_json::from_value(policy["spec"].clone()).expect("a policy");
        accept_policy(&spec).expect("accepted");
        assert_eq!(spec.sinks, Some(vec![NAME.to_owned(), "default".to_owned()]));

        let pod: Pod =
            serde_json::from_value(pod(&args(&["--image-pull-policy=Never", "--image-pull-secret=a"]))).expect("a pod");
        let labels = pod.metadata.labels.unwrap_or_default();
        assert!(spec.pod_selector.match_labels.iter().all(|(name, value)| labels.get(name) == Some(value)));
        let spec = pod.spec.expect("a spec");
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Never"));
        assert_eq!(spec.image_pull_secrets.expect("secrets").len(), 1);
    }

    #[test]
    fn the_audited_pod_runs_this_very_command() {
        let pod = pod(&args(&[]));
        let args: Vec<&str> =
            pod["spec"]["containers"][0]["args"].as_array().expect("args").iter().filter_map(Value::as_str).collect();
        let parsed = Cli::try_parse_from(args).map(|cli| cli.command).map_err(|error| error.to_string());
        assert!(matches!(parsed, Ok(Command::Server(server)) if server.port == SERVER_PORT));
    }
}
