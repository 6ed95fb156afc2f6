//! What injection adds to a pod on the cluster, and that it changes nothing else.

use crate::harness::Space;
use crate::pods::{AUDITED_PODS, INJECTED, is_injected, list, named, text};
use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A pod with some of everything, and one with as little as can be.
fn manifests(audited: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata:
  name: rich
  labels: {{audited: "{audited}", app: rich}}
  annotations: {{example.com/note: kept, cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes: scratch}}
spec:
  terminationGracePeriodSeconds: 3
  securityContext: {{runAsUser: 65532, fsGroup: 65532}}
  hostAliases: [{{ip: 192.0.2.1, hostnames: [other.example]}}]
  initContainers:
  - {{name: first, image: "{{{{image:toolbox}}}}", command: ["true"]}}
  - {{name: own-sidecar, image: "{{{{image:toolbox}}}}", restartPolicy: Always}}
  containers:
  - name: app
    image: "{{{{image:go-httpbin}}}}"
    args: [-host, "0.0.0.0", -port, "8080"]
    env: [{{name: PRICE, value: "$(PRICE) 5 $$"}}]
    ports: [{{containerPort: 8080, name: web}}]
    readinessProbe: {{httpGet: {{path: /status/200, port: web}}, periodSeconds: 1}}
    lifecycle: {{preStop: {{sleep: {{seconds: 1}}}}}}
    resources: {{requests: {{cpu: 10m}}, limits: {{memory: 128Mi}}}}
    volumeMounts: [{{name: scratch, mountPath: /scratch}}]
  - {{name: toolbox, image: "{{{{image:toolbox}}}}"}}
  volumes: [{{name: scratch, emptyDir: {{}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: poor, labels: {{audited: "{audited}"}}}}
spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: toolbox, image: "{{{{image:toolbox}}}}"}}]}}
"#
    )
}

/// The pod without what every created pod has of its own: identity, node, status, the token volume's random name.
fn comparable(mut pod: Value) -> Result<Value> {
    let token = list(&pod, "/spec/volumes").iter().map(|volume| text(volume, "/name"));
    let token = token.filter(|name| name.starts_with("kube-api-access-")).collect::<Vec<_>>().join(" ");
    let mut object = std::mem::take(pod.as_object_mut().context("a pod")?);
    object.remove("status");
    for (part, fields) in [
        (
            "metadata",
            ["uid", "namespace", "resourceVersion", "creationTimestamp", "managedFields", "generation"].as_slice(),
        ),
        ("spec", ["nodeName"].as_slice()),
    ] {
        let part = object.get_mut(part).and_then(Value::as_object_mut).context("a pod")?;
        for field in fields {
            part.remove(*field);
        }
    }
    let text = Value::Object(object).to_string().replace(&token, "api-token");
    Ok(serde_json::from_str(&text)?)
}

/// The autoscaler's list of volumes that keep no node.
const EVICTABLE: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";

/// Takes out of an injected pod what may be added: two init containers, our volumes, one label, four annotations.
fn without_ours(mut pod: Value) -> Result<Value> {
    for (pointer, ours) in [
        ("/spec/initContainers", INJECTED.as_slice()),
        ("/spec/volumes", &["testimony-token", "testimony-state", "testimony-key"]),
    ] {
        let items = pod.pointer_mut(pointer).and_then(Value::as_array_mut).context("a list")?;
        items.retain(|item| !ours.contains(&text(item, "/name")));
        if items.is_empty() {
            pod.pointer_mut("/spec").and_then(Value::as_object_mut).context("a spec")?.remove("initContainers");
        }
    }
    let labels = pod.pointer_mut("/metadata/labels").and_then(Value::as_object_mut).context("labels")?;
    assert_eq!(labels.remove("testimony.dev/injected"), Some(json!("true")));
    labels.insert("audited".to_string(), json!("no"));
    let annotations = pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut).context("annotations")?;
    for name in ["injection-id", "revision", "status"] {
        assert!(annotations.remove(&format!("testimony.dev/{name}")).is_some(), "{name}");
    }
    let ours = "testimony-state,testimony-key";
    let evictable = annotations.remove(EVICTABLE).context("the autoscaler's list")?;
    match evictable.as_str().context("text")?.strip_suffix(ours).context("our volumes")? {
        "" => {}
        own => {
            annotations.insert(EVICTABLE.to_string(), json!(own.trim_end_matches(',')));
        }
    }
    if annotations.is_empty() {
        pod.pointer_mut("/metadata").and_then(Value::as_object_mut).context("metadata")?.remove("annotations");
    }
    Ok(pod)
}

#[test]
fn op_2_injection_adds_two_init_containers_first_and_changes_nothing_else() -> Result<()> {
    let audited = Space::new("shape")?;
    audited.policy("audited", AUDITED_PODS)?;
    let plain = Space::new("plain")?;
    audited.apply(&manifests("yes"))?;
    plain.apply(&manifests("no"))?;
    for name in ["rich", "poor"] {
        let (pod, original) = (audited.pod(name)?, plain.pod(name)?);
        assert!(is_injected(&pod), "{pod:#}");
        pretty_equal(&without_ours(comparable(pod)?)?, &comparable(original)?);
    }
    expect_our_containers(&audited.pod("rich")?)?;
    audited.ready(&["rich", "poor"])
}

fn pretty_equal(left: &Value, right: &Value) {
    assert_eq!(left, right, "injected, without ours: {left:#}\nthe original: {right:#}");
}

/// DESIGN's contract of the two containers.
fn expect_our_containers(pod: &Value) -> Result<()> {
    let containers = list(pod, "/spec/initContainers");
    let (init, sidecar) = (named(containers, INJECTED[0])?, named(containers, INJECTED[1])?);
    let context = |user: u32, group: u32, capabilities: Value| {
        json!({
            "runAsUser": user, "runAsGroup": group, "runAsNonRoot": true, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true, "capabilities": capabilities, "seccompProfile": {"type": "RuntimeDefault"},
        })
    };
    let net_admin = json!({"drop": ["ALL"], "add": ["NET_ADMIN"]});
    assert_eq!(init.get("securityContext"), Some(&context(62817, 62818, net_admin)));
    assert_eq!(sidecar.get("securityContext"), Some(&context(62819, 62820, json!({"drop": ["ALL"]}))));
    assert_eq!(init.get("image"), sidecar.get("image"));
    assert_eq!((init.get("restartPolicy"), text(sidecar, "/restartPolicy")), (None, "Always"));
    assert_eq!(text(sidecar, "/startupProbe/httpGet/path"), "/ready");
    assert_eq!((sidecar.get("readinessProbe"), sidecar.get("livenessProbe")), (None, None));
    for container in [init, sidecar] {
        for kind in ["requests", "limits"] {
            for resource in ["cpu", "memory"] {
                let pointer = format!("/resources/{kind}/{resource}");
                assert!(!text(container, &pointer).is_empty(), "{pointer} of {container:#}");
            }
        }
        let mounts = list(container, "/volumeMounts").iter().map(|mount| text(mount, "/name"));
        let foreign: Vec<&str> = mounts.filter(|name| !name.starts_with("testimony-")).collect();
        assert!(foreign.is_empty(), "{} mounts {foreign:?}", text(container, "/name"));
    }
    Ok(())
}

#[test]
fn the_sidecar_cannot_read_the_applications_token() -> Result<()> {
    let space = Space::new("token")?;
    space.policy("audited", AUDITED_PODS)?;
    space.toolbox("app", "{audited: \"yes\"}")?;
    let application = space.sh("app", "cat /var/run/secrets/kubernetes.io/serviceaccount/token")?;
    assert_eq!(application.split('.').count(), 3, "the application has its token");
    // As the sidecar's user, in the sidecar's file system.
    space.debug_sidecar("app")?;
    let own = space.debugger("app", "cat /proc/1/root/var/run/testimony/token/token")?;
    assert_eq!(own.split('.').count(), 3, "the debugger reads what the sidecar reads");
    assert_ne!(own, application);
    let found = space.debugger("app", "ls -A /proc/1/root/var/run/secrets/kubernetes.io/serviceaccount/")?;
    assert!(!found.contains("token") && !found.contains("ca.crt"), "{found}");
    let files =
        space.debugger("app", "cat /proc/1/root/var/run/secrets/kubernetes.io/serviceaccount/* 2>&1 || true")?;
    assert!(!files.contains(application.trim()), "{files}");
    Ok(())
}
