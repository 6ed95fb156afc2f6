//! Strict namespaces: no pod starts without its sidecar.

use super::tests::{cluster, excluded, patched, put, yaml};
use super::*;
use crate::index::Index;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use serde_json::{Value, json};

fn strict_cluster() -> Index {
    let mut index = cluster();
    let labels = json!({"testimony.dev/enforcement": "strict"});
    for namespace in ["shop", "bare", "kube-system", "testimony-system", "cni"] {
        put::<Namespace>(&mut index, json!({"metadata": {"name": namespace, "labels": labels}}));
    }
    index
}

fn admitted(index: &Index, namespace: &str, pod: &Value) -> Decision {
    let pod: Pod = serde_json::from_value(pod.clone()).expect("pod");
    admit(index, &excluded(), Enforcement::Strict, namespace, &PodTraits::of(&pod))
}

fn pod_with(extra: &Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "app"}]}});
    json_patch::merge(&mut pod, extra);
    pod
}

fn container(fields: Value) -> Value {
    let mut container = json!({"name": "app"});
    json_patch::merge(&mut container, &fields);
    json!({"spec": {"containers": [container]}})
}

#[test]
fn each_case_of_the_table_is_refused_with_what_to_do() {
    let capability = |name: &str| container(json!({"securityContext": {"capabilities": {"add": [name]}}}));
    let shared = |how: &str, name: &str| {
        let mut pod = capability(name);
        pod["spec"][how] = json!(true);
        pod
    };
    let cases = [
        (json!({"spec": {"hostNetwork": true}}), Reason::HostNetwork, "remove hostNetwork"),
        (json!({"spec": {"os": {"name": "windows"}}}), Reason::Windows, "namespace that is not strict"),
        (json!({"metadata": {"labels": {"testimony.dev/inject": "disabled"}}}), Reason::OptedOut, "remove the label"),
        (json!({"spec": {"containers": [{"name": "istio-proxy"}]}}), Reason::OtherProxy, "another mesh"),
        (container(json!({"ports": [{"containerPort": 24801}]})), Reason::PortCollision, "use others"),
        (json!({"spec": {"volumes": [{"name": "testimony-token"}]}}), Reason::NameCollision, "rename it"),
        (container(json!({"volumeMounts": [{"name": "testimony-state"}]})), Reason::NameCollision, "rename it"),
        (
            container(json!({"securityContext": {"runAsUser": 62819, "runAsGroup": 62820}})),
            Reason::UidCollision,
            "[app]. To fix it: set another runAsUser",
        ),
        (capability("NET_ADMIN"), Reason::NetworkAdmin, "[app]. To fix it: remove the capability"),
        (capability("CAP_NET_RAW"), Reason::NetworkAdmin, "remove the capability"),
        (capability("all"), Reason::NetworkAdmin, "remove the capability"),
        (capability("SYS_MODULE"), Reason::NetworkAdmin, "remove the capability"),
        (
            shared("shareProcessNamespace", "SYS_PTRACE"),
            Reason::NetworkAdmin,
            "[app]. To fix it: remove the capability",
        ),
        (shared("hostPID", "CAP_SYS_ADMIN"), Reason::NetworkAdmin, "remove the capability"),
        (container(json!({"securityContext": {"privileged": true}})), Reason::NetworkAdmin, "privileged"),
    ];
    let index = strict_cluster();
    for (extra, reason, fix) in cases {
        // In a strict namespace it is the same with a policy that selects the pod, and without one.
        for namespace in ["shop", "bare"] {
            let pod = pod_with(&extra);
            assert_eq!(admitted(&index, namespace, &pod), Decision::Deny(reason), "{pod}");
            let traits = PodTraits::of(&serde_json::from_value(pod).expect("pod"));
            // The status of such a pod that was there before the label names the same reason.
            assert_eq!(decide(&index, &excluded(), namespace, &traits), Decision::Deny(reason));
            let message = reason.denial(namespace, &traits);
            assert!(
                message
                    .starts_with(&format!("testimony: refused ({reason}), because namespace {namespace} is strict: "))
            );
            assert!(message.contains(fix) && message.contains("To fix it: "), "{message}");
        }
    }
}

#[test]
fn pod_security_and_sinks_are_refused_too() {
    let mut index = strict_cluster();
    let pod = pod_with(&json!({"metadata": {"labels": {"app": "otelcol"}}}));
    for level in ["baseline", "restricted"] {
        let labels = json!({"pod-security.kubernetes.io/enforce": level, "testimony.dev/enforcement": "strict"});
        put::<Namespace>(&mut index, json!({"metadata": {"name": "shop", "labels": labels}}));
        assert_eq!(admitted(&index, "shop", &pod), Decision::Deny(Reason::PodSecurity), "{level}");
    }
    let service =
        json!({"metadata": {"name": "collector", "namespace": "obs"}, "spec": {"selector": {"app": "otelcol"}}});
    put::<Service>(&mut index, service);
    assert_eq!(admitted(&index, "obs", &pod), Decision::Deny(Reason::Sink));
}

#[test]
fn every_pod_of_a_strict_namespace_is_injected() {
    let index = strict_cluster();
    let Decision::Inject(selection) = admitted(&index, "bare", &pod_with(&json!({}))) else { panic!("not injected") };
    assert_eq!(selection.document.policies, [], "what is recorded is what policies say");
    let Decision::Inject(selection) = admitted(&index, "shop", &pod_with(&json!({}))) else { panic!("not injected") };
    assert_eq!(selection.document.policies.len(), 1);
}

#[test]
fn system_namespaces_and_mirror_pods_start_in_any_case() {
    let index = strict_cluster();
    for namespace in ["kube-system", "kube-node-lease", "testimony-system", "cni"] {
        let pod = pod_with(&json!({"spec": {"hostNetwork": true}}));
        assert_eq!(admitted(&index, namespace, &pod), Decision::NotSelected, "{namespace}");
    }
    let mirror =
        json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}, "spec": {"hostNetwork": true}});
    assert_eq!(admitted(&index, "shop", &pod_with(&mirror)), Decision::Skip(Reason::MirrorPod));
}

#[test]
fn a_label_that_is_switched_off_means_nothing() {
    let mut index = strict_cluster();
    assert_eq!(index.enforcement("shop"), Enforcement::Strict);
    assert_eq!(index.enforcement("nowhere"), Enforcement::Default);
    index.strict_off = true;
    assert_eq!(index.enforcement("shop"), Enforcement::Default);
    let labels = json!({"testimony.dev/enforcement": "Strict"});
    put::<Namespace>(&mut index, json!({"metadata": {"name": "shop", "labels": labels}}));
    index.strict_off = false;
    assert_eq!(index.enforcement("shop"), Enforcement::Default, "exactly the label's value");
}

fn patched_under_strict(pod: &Value) -> Value {
    patched(pod, &admitted(&strict_cluster(), "shop", pod))
}

#[test]
fn op_1_a_second_look_in_a_strict_namespace_changes_nothing() {
    for fixture in
        [include_str!("../../tests/fixtures/smallest.yaml"), include_str!("../../tests/fixtures/deployment.yaml")]
    {
        let pod = yaml(fixture);
        let once = patched_under_strict(&pod);
        assert_ne!(once, pod);
        assert_eq!(patched_under_strict(&once), once);
        assert_eq!(undo(&once).expect("undone"), pod);
    }
}

#[test]
fn a_pod_that_was_written_to_look_injected_gets_the_true_sidecar() {
    let pod = yaml(include_str!("../../tests/fixtures/deployment.yaml"));
    let honest = patched_under_strict(&pod);
    let mut forged = honest.clone();
    // No policy server, other records, another image, and a sidecar that stands last.
    forged["spec"]["initContainers"][1]["env"] = json!([{"name": "TESTIMONY_POLICY", "value": "{}"}]);
    forged["spec"]["initContainers"][1]["image"] = json!("registry.example/sleep:1");
    forged["spec"]["initContainers"].as_array_mut().expect("list").reverse();
    let state = json!({"name": "testimony-state", "hostPath": {"path": "/tmp"}});
    for volume in forged["spec"]["volumes"].as_array_mut().expect("list") {
        if volume["name"] == "testimony-state" {
            *volume = state.clone();
        }
    }
    forged["metadata"]["annotations"]["testimony.dev/revision"] = json!("0");
    let mut repaired = patched_under_strict(&forged);
    // What is not ours keeps the place that its author chose.
    let containers =
        |pod: &mut Value| pod["spec"]["initContainers"].as_array_mut().expect("list").drain(..2).collect::<Vec<_>>();
    let mut wanted = honest;
    assert_eq!(containers(&mut repaired), containers(&mut wanted));
    assert_eq!(repaired["spec"]["volumes"], wanted["spec"]["volumes"]);
    assert_eq!(repaired["metadata"], wanted["metadata"]);
}
