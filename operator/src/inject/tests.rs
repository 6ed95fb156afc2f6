use super::*;
use crate::api::{AuditPolicy, AuditSink};
use crate::index::{Index, Indexed};
use expect_test::{Expect, expect_file};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use proptest::prelude::*;
use serde_json::{Value, json};

pub(super) fn put<K: Indexed + serde::de::DeserializeOwned>(index: &mut Index, object: Value) {
    K::apply(index, serde_json::from_value(object).expect("object"));
}

/// A cluster with one policy for all pods of `shop`, and one sink with credentials, client certificate and token.
pub(super) fn cluster() -> Index {
    let mut index = Index::new("cluster.local");
    put::<Namespace>(&mut index, json!({"metadata": {"name": "kube-system", "uid": "cluster-1"}}));
    put::<Namespace>(&mut index, json!({"metadata": {"name": "shop", "uid": "namespace-1"}}));
    put::<AuditSink>(
        &mut index,
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink", "metadata": {"name": "main", "uid": "s"},
               "spec": {"endpoint": "https://collector.obs:4317", "protocol": "Grpc", "default": true, "credentialsSecretName": "otlp",
                        "tls": {"clientCertificateSecretName": "otlp-client"}, "serviceAccountToken": {"audience": "collector.obs"}}}),
    );
    put::<AuditPolicy>(
        &mut index,
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy",
               "metadata": {"name": "all", "namespace": "shop", "uid": "p"},
               "spec": {"redact": {"query": ["$(HOME)"]}}}),
    );
    index
}

pub(super) fn config() -> SidecarConfig {
    SidecarConfig {
        image: "registry.example/testimony:1".to_owned(),
        pull_policy: Some("IfNotPresent".to_owned()),
        init_run_as_root: false,
        spool_mebibytes: 256,
        resources: Resources {
            cpu_request: "20m".to_owned(),
            cpu_limit: "1".to_owned(),
            memory_request: "32Mi".to_owned(),
            memory_limit: "128Mi".to_owned(),
        },
        init_resources: Resources {
            cpu_request: "10m".to_owned(),
            cpu_limit: "200m".to_owned(),
            memory_request: "16Mi".to_owned(),
            memory_limit: "32Mi".to_owned(),
        },
        log: "info".to_owned(),
        operator_url: "https://testimony-policy.testimony-system.svc:8443".to_owned(),
    }
}

pub(super) fn excluded() -> ExcludedNamespaces {
    ExcludedNamespaces { own: "testimony-system".to_owned(), further: vec!["cni".to_owned()] }
}

fn decision(index: &Index, namespace: &str, pod: &Value) -> Decision {
    let pod: Pod = serde_json::from_value(pod.clone()).expect("pod");
    decide(index, &excluded(), namespace, &PodTraits::of(&pod))
}

pub(super) fn injected(pod: &Value) -> Value {
    patched(pod, &decision(&cluster(), "shop", pod))
}

/// The pod after the patch of a decision to inject it.
pub(super) fn patched(pod: &Value, decision: &Decision) -> Value {
    let Decision::Inject(selection) = decision else { panic!("{decision:?}: {pod}") };
    let typed: Pod = serde_json::from_value(pod.clone()).expect("pod");
    let config = config();
    let plan = Plan {
        config: &config,
        selection,
        namespace: "shop",
        cluster_uid: "cluster-1",
        operator_ca: "-----BEGIN CERTIFICATE-----\n...\n",
        injection_id: "00112233",
    };
    apply(pod, &patch(&typed, Some(&plan)).expect("patch"))
}

pub(super) fn apply(pod: &Value, patch: &json_patch::Patch) -> Value {
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, patch).expect("applies");
    pod
}

pub(super) fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("yaml")
}

#[track_caller]
fn golden(input: &str, expected: expect_test::ExpectFile) {
    let patched = injected(&yaml(input));
    expected.assert_eq(&serde_saphyr::to_string(&patched).expect("yaml"));
}

#[test]
fn the_smallest_pod() {
    golden(
        include_str!("../../tests/fixtures/smallest.yaml"),
        expect_file!["../../tests/fixtures/smallest.injected.yaml"],
    );
}

#[test]
fn a_pod_of_a_deployment_with_all_kinds_of_probes() {
    golden(
        include_str!("../../tests/fixtures/deployment.yaml"),
        expect_file!["../../tests/fixtures/deployment.injected.yaml"],
    );
}

#[test]
fn dollars_in_the_document_are_not_expanded_by_the_kubelet() {
    let pod = injected(&yaml(include_str!("../../tests/fixtures/smallest.yaml")));
    let policy = pod.pointer("/spec/initContainers/1/env/0/value").and_then(Value::as_str).expect("value");
    assert!(policy.contains("$$(HOME)"), "{policy}");
}

#[test]
fn volumes_of_every_sink_have_their_own_names_which_kubernetes_takes() {
    let pod = injected(&yaml(include_str!("../../tests/fixtures/smallest.yaml")));
    let names = |pointer: &str| -> Vec<String> {
        let list = pod.pointer(pointer).and_then(Value::as_array).expect("list").iter();
        list.filter_map(|item| item["name"].as_str()).map(str::to_owned).collect()
    };
    let volumes = names("/spec/volumes");
    for name in ["testimony-sink-main", "testimony-cert-main", "testimony-auth-main"] {
        assert!(volumes.iter().any(|volume| volume == name), "{name} is not in {volumes:?}");
        assert!(traits::is_our_volume(name), "{name} would not be taken away again");
        assert!(name.len() - "main".len() + crate::api::SINK_NAME_CHARS_MAX <= 63, "{name}");
    }
    let mounts = names("/spec/initContainers/1/volumeMounts");
    assert!(mounts.iter().all(|mount| volumes.contains(mount)), "{mounts:?} {volumes:?}");
    let token = pod.pointer("/spec/volumes").and_then(Value::as_array).expect("list").iter();
    let token = token.filter(|volume| volume["name"] == "testimony-auth-main").map(|volume| &volume["projected"]);
    let expected = json!({"sources": [
        {"serviceAccountToken": {"audience": "collector.obs", "expirationSeconds": 3600, "path": "token"}},
    ]});
    assert_eq!(token.collect::<Vec<_>>(), [&expected]);
}

#[test]
fn each_case_of_the_table_has_its_reason() {
    let skip = |pod: Value, reason: Reason| {
        assert_eq!(decision(&cluster(), "shop", &pod), Decision::Skip(reason), "{pod}");
    };
    let spec = |extra: Value| {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "app"}]}});
        json_patch::merge(&mut pod, &extra);
        pod
    };
    skip(spec(json!({"spec": {"hostNetwork": true}})), Reason::HostNetwork);
    skip(spec(json!({"spec": {"os": {"name": "windows"}}})), Reason::Windows);
    skip(spec(json!({"spec": {"nodeSelector": {"kubernetes.io/os": "windows"}}})), Reason::Windows);
    let os = |operator: &str, value: &str| json!({"matchExpressions": [{"key": "disk", "operator": "Exists"}, {"key": "kubernetes.io/os", "operator": operator, "values": [value]}]});
    let affinity = |terms: Value| {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        spec(json!({"spec": {"affinity": {"nodeAffinity": required}}}))
    };
    skip(affinity(json!([os("In", "windows")])), Reason::Windows);
    skip(affinity(json!([os("In", "windows"), os("NotIn", "linux")])), Reason::Windows);
    for terms in [json!([os("In", "windows"), os("In", "linux")]), json!([os("In", "linux")]), json!([{}])] {
        let either = decision(&cluster(), "shop", &affinity(terms.clone()));
        assert!(matches!(either, Decision::Inject(_)), "{terms}: {either:?}");
    }
    skip(spec(json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}})), Reason::MirrorPod);
    skip(spec(json!({"metadata": {"labels": {"testimony.dev/inject": "disabled"}}})), Reason::OptedOut);
    skip(spec(json!({"spec": {"containers": [{"name": "istio-proxy"}]}})), Reason::OtherProxy);
    skip(spec(json!({"spec": {"initContainers": [{"name": "linkerd-proxy"}]}})), Reason::OtherProxy);
    let port = json!({"spec": {"containers": [{"name": "app", "ports": [{"containerPort": 24803}]}]}});
    skip(spec(port), Reason::PortCollision);
    skip(spec(json!({"spec": {"containers": [{"name": "testimony-init"}]}})), Reason::NameCollision);
    skip(spec(json!({"spec": {"volumes": [{"name": "testimony-state"}]}})), Reason::NameCollision);
    let mount = json!({"spec": {"containers": [{"name": "app", "volumeMounts": [{"name": "testimony-token"}]}]}});
    skip(spec(mount), Reason::NameCollision);
}

#[test]
fn namespaces_decide_too() {
    let pod = json!({"metadata": {"labels": {"app": "otelcol"}}, "spec": {"containers": [{"name": "app"}]}});
    let mut index = cluster();
    assert_eq!(decision(&index, "other", &pod), Decision::NotSelected);
    for namespace in ["kube-system", "kube-node-lease", "testimony-system", "cni"] {
        put::<AuditPolicy>(
            &mut index,
            json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": {},
                   "metadata": {"name": "all", "namespace": namespace, "uid": namespace}}),
        );
        assert_eq!(decision(&index, namespace, &pod), Decision::NotSelected, "{namespace}");
    }
    for level in ["baseline", "restricted"] {
        let labels = json!({"pod-security.kubernetes.io/enforce": level});
        put::<Namespace>(&mut index, json!({"metadata": {"name": "shop", "labels": labels}}));
        assert_eq!(decision(&index, "shop", &pod), Decision::Skip(Reason::PodSecurity), "{level}");
    }
    let labels = json!({"pod-security.kubernetes.io/enforce": "privileged"});
    put::<Namespace>(&mut index, json!({"metadata": {"name": "shop", "labels": labels}}));
    assert!(matches!(decision(&index, "shop", &pod), Decision::Inject(_)));
    put::<AuditPolicy>(
        &mut index,
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": {},
               "metadata": {"name": "all", "namespace": "obs", "uid": "obs"}}),
    );
    put::<Service>(
        &mut index,
        json!({"metadata": {"name": "collector", "namespace": "obs"}, "spec": {"selector": {"app": "otelcol"}}}),
    );
    assert_eq!(decision(&index, "obs", &pod), Decision::Skip(Reason::Sink));
}

#[test]
fn pods_that_can_avoid_the_audit_are_injected_with_a_warning() {
    let warned = |spec: Value, expected: Expect| {
        let Decision::Inject(selection) = decision(&cluster(), "shop", &json!({"spec": spec})) else {
            panic!("{spec}")
        };
        expected.assert_eq(&selection.warnings.join("\n"));
    };
    warned(
        json!({"securityContext": {"runAsUser": 62819, "runAsGroup": 62820}, "containers": [{"name": "app"}]}),
        expect_test::expect![
            "testimony: container app runs as the sidecar's user and group: its connections are not audited"
        ],
    );
    warned(
        json!({"containers": [{"name": "app", "securityContext": {"runAsUser": 62819, "runAsGroup": 1}}]}),
        expect_test::expect![""],
    );
    warned(
        json!({"containers": [{"name": "app", "securityContext": {"capabilities": {"add": ["NET_RAW"]}}}]}),
        expect_test::expect![
            "testimony: container app may change the network or reach into the sidecar (NET_ADMIN, NET_RAW, SYS_MODULE or privileged; SYS_PTRACE or SYS_ADMIN with shareProcessNamespace or hostPID): it can avoid the audit"
        ],
    );
    warned(
        json!({"hostPID": true, "containers": [
            {"name": "a", "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}},
            {"name": "b", "securityContext": {"capabilities": {"add": ["SYS_CHROOT"]}}},
        ]}),
        expect_test::expect![
            "testimony: container a may change the network or reach into the sidecar (NET_ADMIN, NET_RAW, SYS_MODULE or privileged; SYS_PTRACE or SYS_ADMIN with shareProcessNamespace or hostPID): it can avoid the audit"
        ],
    );
    warned(
        json!({"containers": [{"name": "app", "securityContext": {"capabilities": {"add": ["SYS_PTRACE", "SYS_ADMIN"]}}}]}),
        expect_test::expect![""],
    );
}

#[test]
fn workloads_are_named_by_their_owner() {
    let of = |meta: Value| {
        let pod: Pod = serde_json::from_value(json!({"metadata": meta})).expect("pod");
        workload(&pod)
    };
    let owner = |kind: &str, name: &str| json!([{"kind": kind, "name": name, "controller": true, "apiVersion": "v1", "uid": "u"}]);
    let named = |kind: &str, name: &str| (kind.to_owned(), Some(name.to_owned()));
    let labels = json!({"pod-template-hash": "abc12"});
    assert_eq!(
        of(json!({"labels": labels, "ownerReferences": owner("ReplicaSet", "web-abc12")})),
        named("Deployment", "web")
    );
    assert_eq!(of(json!({"ownerReferences": owner("ReplicaSet", "web-abc12")})), named("ReplicaSet", "web-abc12"));
    assert_eq!(of(json!({"ownerReferences": owner("Job", "nightly-29012345")})), named("CronJob", "nightly"));
    // Minutes in which a date would have no such month or year.
    for name in ["nightly-30132026", "nightly-30002026", "nightly-30111926", "nightly-30112126"] {
        assert_eq!(of(json!({"ownerReferences": owner("Job", name)})), named("CronJob", "nightly"), "{name}");
    }
    let dates = ["migrate-20261130", "migrate-11302026", "migrate-28022026", "migrate-30112026", "migrate-31012099"];
    for name in ["migrate-00000001", "migrate-50000000", "migrate-2901234"].iter().chain(&dates) {
        assert_eq!(of(json!({"ownerReferences": owner("Job", name)})), named("Job", name), "{name}");
    }
    assert_eq!(of(json!({"ownerReferences": owner("Job", "once")})), named("Job", "once"));
    assert_eq!(of(json!({"ownerReferences": owner("StatefulSet", "db")})), named("StatefulSet", "db"));
    assert_eq!(of(json!({"name": "bare"})), named("Pod", "bare"));
    assert_eq!(of(json!({"generateName": "bare-"})), ("Pod".to_owned(), None));
}

#[test]
fn a_container_that_comes_after_us_gets_its_tcp_probe_changed_and_undo_knows_it() {
    let before = yaml(include_str!("../../tests/fixtures/deployment.yaml"));
    let mut reviewed = injected(&before);
    let late = json!({"name": "late", "readinessProbe": {"tcpSocket": {"port": 81}, "periodSeconds": 3}});
    reviewed.pointer_mut("/spec/containers").and_then(Value::as_array_mut).expect("list").push(late.clone());
    let typed: Pod = serde_json::from_value(reviewed.clone()).expect("pod");
    assert_eq!(decide(&cluster(), &excluded(), "shop", &PodTraits::of(&typed)), Decision::Already);
    let again = apply(&reviewed, &patch(&typed, None).expect("patch"));
    assert_eq!(
        again.pointer("/spec/containers/2/readinessProbe/httpGet/path").and_then(Value::as_str),
        Some("/probe/tcp/81")
    );
    let mut expected = before;
    expected.pointer_mut("/spec/containers").and_then(Value::as_array_mut).expect("list").push(late);
    assert_eq!(undo(&again).expect("undone"), expected);
}

// === OP-1, OP-2 ===

fn any_probe() -> impl Strategy<Value = Option<Value>> {
    proptest::option::of(prop_oneof![
        (1u16..30000, 1..9).prop_map(|(port, period)| json!({"tcpSocket": {"port": port}, "periodSeconds": period})),
        Just(json!({"tcpSocket": {"port": "web"}, "timeoutSeconds": 2})),
        Just(json!({"tcpSocket": {"port": "nowhere"}})),
        Just(json!({"tcpSocket": {"port": 80, "host": "10.0.0.1"}})),
        Just(json!({"httpGet": {"path": "/", "port": 80}})),
        Just(json!({"grpc": {"port": 9000}})),
        Just(json!({"exec": {"command": ["true"]}})),
    ])
}

prop_compose! {
    fn any_container(name: &'static str)(
        readiness in any_probe(), liveness in any_probe(), startup in any_probe(), ports in any::<bool>(), user in any::<bool>(),
    ) -> Value {
        let mut container = json!({"name": name, "image": "app", "x-unknown": {"kept": true}});
        if ports {
            container["ports"] = json!([{"name": "web", "containerPort": 8080}]);
        }
        if user {
            container["securityContext"] = json!({"runAsUser": 62819});
        }
        for (field, probe) in [("readinessProbe", readiness), ("livenessProbe", liveness), ("startupProbe", startup)] {
            if let Some(probe) = probe {
                container[field] = probe;
            }
        }
        container
    }
}

prop_compose! {
    fn any_pod()(
        first in any_container("app"),
        second in proptest::option::of(any_container("second")),
        init in proptest::option::of(any_container("native")),
        (empty_init, volumes, labels, annotations) in (any::<bool>(), 0usize..3, 0usize..3, 0usize..3),
        evictable in proptest::option::of("[a-z,]{0,8}"),
        whole in proptest::option::of(prop_oneof![
            Just(json!({})),
            Just(json!({"requests": {"cpu": "1"}})),
            Just(json!({"limits": {"cpu": "0.5", "memory": "1Gi"}, "requests": {"memory": "100M"}})),
        ]),
    ) -> Value {
        let containers: Vec<Value> = std::iter::once(first).chain(second).collect();
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}});
        if let Some(mut init) = init {
            init["restartPolicy"] = json!("Always");
            pod["spec"]["initContainers"] = json!([init]);
        } else if empty_init {
            pod["spec"]["initContainers"] = json!([]);
        }
        if let Some(whole) = whole {
            pod["spec"]["resources"] = whole;
        }
        if volumes > 0 {
            pod["spec"]["volumes"] = (1..volumes).map(|i| json!({"name": format!("v{i}")})).collect();
        }
        for (field, n) in [("labels", labels), ("annotations", annotations)] {
            if n > 0 {
                pod["metadata"][field] = (1..n).map(|i| (format!("k/{i}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
            }
        }
        if let (Some(list), true) = (evictable, annotations > 0) {
            pod["metadata"]["annotations"][EVICTABLE] = json!(list);
        }
        pod
    }
}

const EVICTABLE: &str = testimony_core::contract::annotation::EVICTABLE_VOLUMES;

#[test]
fn d5_our_volumes_keep_no_node_and_those_of_the_pod_stay_listed() {
    let listed = |pod: &Value| injected(pod)["metadata"]["annotations"][EVICTABLE].clone();
    let mut pod = yaml(include_str!("../../tests/fixtures/smallest.yaml"));
    assert_eq!(listed(&pod), "testimony-state,testimony-key");
    pod["metadata"]["annotations"] = json!({EVICTABLE: "cache,tmp"});
    assert_eq!(listed(&pod), "cache,tmp,testimony-state,testimony-key");
    // Every volume of ours that lies on the node stands in it.
    let volumes = injected(&pod)["spec"]["volumes"].as_array().expect("list").clone();
    let local = volumes.iter().filter(|v| v.get("emptyDir").is_some()).filter_map(|v| v["name"].as_str());
    let list = listed(&pod);
    let list: Vec<&str> = list.as_str().expect("text").split(',').collect();
    assert!(local.filter(|name| traits::is_our_volume(name)).all(|name| list.contains(&name)), "{list:?}");
}

proptest! {
    #[test]
    fn op_1_patching_twice_is_patching_once(pod in any_pod()) {
        let once = injected(&pod);
        let typed: Pod = serde_json::from_value(once.clone()).expect("pod");
        prop_assert_eq!(decide(&cluster(), &excluded(), "shop", &PodTraits::of(&typed)), Decision::Already);
        let twice = apply(&once, &patch(&typed, None).expect("patch"));
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn op_2_undoing_the_patch_restores_the_pod(pod in any_pod()) {
        let patched = injected(&pod);
        prop_assert_ne!(&patched, &pod);
        prop_assert_eq!(undo(&patched).expect("undone"), pod);
    }

    #[test]
    fn our_containers_stand_first_and_nothing_else_of_a_pod_changes_but_tcp_probes(pod in any_pod()) {
        let mut patched = injected(&pod);
        let names: Vec<&str> = patched["spec"]["initContainers"].as_array().expect("list").iter()
            .filter_map(|c| c["name"].as_str()).take(2).collect();
        prop_assert_eq!(names, ["testimony-init", "testimony-sidecar"]);
        let mut pod = pod;
        for pod in [&mut pod, &mut patched] {
            for list in ["containers", "initContainers"] {
                for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
                        container.as_object_mut().expect("object").remove(probe);
                    }
                }
            }
        }
        prop_assert_eq!(&patched["spec"]["containers"], &pod["spec"]["containers"]);
    }
}
