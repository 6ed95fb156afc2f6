use super::*;
use crate::api::AuditPolicy;
use crate::index::Indexed;
use crate::inject::Resources;
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

fn mutator(synced: bool, bundle: Option<&str>) -> Mutator {
    let state = Arc::new(State::new("cluster.local"));
    let put = |object: Value| {
        let object: AuditPolicy = serde_json::from_value(object).expect("object");
        state.change(|index| AuditPolicy::apply(index, object));
    };
    put(json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": {},
               "metadata": {"name": "all", "namespace": "shop", "uid": "p"}}));
    let namespace: Namespace =
        serde_json::from_value(json!({"metadata": {"name": "kube-system", "uid": "c"}})).expect("ns");
    state.change(|index| Namespace::apply(index, namespace));
    let resources = Resources {
        cpu_request: "1m".to_owned(),
        cpu_limit: "1".to_owned(),
        memory_request: "1Mi".to_owned(),
        memory_limit: "1Gi".to_owned(),
    };
    Mutator {
        state,
        excluded: ExcludedNamespaces { own: "testimony-system".to_owned(), further: Vec::new() },
        config: SidecarConfig {
            image: "testimony:1".to_owned(),
            pull_policy: None,
            init_run_as_root: false,
            spool_mebibytes: 256,
            init_resources: resources.clone(),
            resources,
            log: "info".to_owned(),
            operator_url: "https://p".to_owned(),
        },
        bundle: watch::Sender::new(bundle.map(Arc::from)).subscribe(),
        synced: vec![watch::Sender::new(synced).subscribe()],
        metrics: Metrics::new().0,
    }
}

fn review(namespace: &str, pod: Value) -> Vec<u8> {
    let gvk = json!({"group": "", "version": "v1", "kind": "Pod"});
    let resource = json!({"group": "", "version": "v1", "resource": "pods"});
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "review-1", "kind": gvk, "resource": resource, "namespace": namespace, "operation": "CREATE",
        "userInfo": {"username": "u"}, "object": pod, "dryRun": true}});
    serde_json::to_vec(&review).expect("json")
}

async fn answer(mutator: &Mutator, body: &[u8]) -> (StatusCode, Value) {
    answer_under(mutator, Enforcement::Default, body).await
}

async fn answer_under(mutator: &Mutator, enforcement: Enforcement, body: &[u8]) -> (StatusCode, Value) {
    let answer = mutator.review(enforcement, body);
    let status = answer.status();
    let body = answer.into_body().collect().await.expect("body").to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"}, "spec": spec})
}

#[tokio::test]
async fn a_selected_pod_gets_a_patch_under_the_reviews_uid() {
    let body = review("shop", pod(json!({"containers": [{"name": "app"}]})));
    let (status, answer) = answer(&mutator(true, Some("CA")), &body).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    let response = &answer["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("review-1"), &json!(true)));
    assert_eq!(response["patchType"], "JSONPatch");
    let bytes: Vec<u8> = serde_json::from_value(response["patch"].clone()).expect("bytes");
    let operations: Vec<Value> = serde_json::from_slice(&bytes).expect("patch");
    assert!(operations.iter().any(|o| o["path"] == "/spec/initContainers"), "{operations:?}");
}

#[tokio::test]
async fn a_skipped_pod_is_admitted_with_the_reason() {
    let body = review("shop", pod(json!({"hostNetwork": true, "containers": [{"name": "app"}]})));
    let mutator = mutator(true, Some("CA"));
    let (_, answer) = answer(&mutator, &body).await;
    assert_eq!(answer["response"]["allowed"], true);
    assert_eq!(answer["response"]["patch"], Value::Null);
    let warning = answer["response"]["warnings"][0].as_str().expect("warning");
    assert_eq!(warning, "testimony: no sidecar (HostNetwork): the pod uses hostNetwork, which cannot be audited");
    let labels = InjectionLabels { result: "skipped", reason: "HostNetwork" };
    assert_eq!(mutator.metrics.injections.get_or_create(&labels).get(), 1);
}

#[tokio::test]
async fn a_pod_that_no_policy_selects_is_left_alone_without_a_word() {
    let body = review("other", pod(json!({"containers": [{"name": "app"}]})));
    let (_, answer) = answer(&mutator(true, Some("CA")), &body).await;
    let response = &answer["response"];
    assert_eq!(
        (&response["allowed"], &response["warnings"], &response["patch"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
}

#[tokio::test]
async fn failures_of_the_webhook_admit_the_pod_with_a_warning() {
    let good = review("shop", pod(json!({"containers": [{"name": "app"}]})));
    let broken = review("shop", pod(json!({"containers": "none"})));
    for (mutator, body) in
        [(mutator(false, Some("CA")), &good), (mutator(true, None), &good), (mutator(true, Some("CA")), &broken)]
    {
        let (status, answer) = answer(&mutator, body).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!((&answer["response"]["uid"], &answer["response"]["allowed"]), (&json!("review-1"), &json!(true)));
        let warning = answer["response"]["warnings"][0].as_str().expect("warning");
        assert!(warning.starts_with("testimony: no sidecar was added: "), "{warning}");
        let labels = InjectionLabels { result: "error", reason: "" };
        assert_eq!(mutator.metrics.injections.get_or_create(&labels).get(), 1);
    }
}

#[tokio::test]
async fn every_prefix_of_a_review_is_answered() {
    let mutator = mutator(true, Some("CA"));
    let body = review("shop", pod(json!({"containers": [{"name": "app"}]})));
    for end in 0..body.len() {
        let (status, _) = answer(&mutator, &body[..end]).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{end}");
    }
}

#[tokio::test]
async fn a_strict_namespace_gets_a_sidecar_without_a_policy_and_a_refusal_with_a_fix() {
    let mutator = mutator(true, Some("CA"));
    let strict = async |pod: Value| {
        answer_under(&mutator, Enforcement::Strict, &review("other", pod)).await.1["response"].clone()
    };
    let good = strict(pod(json!({"containers": [{"name": "app"}]}))).await;
    assert_eq!((&good["allowed"], &good["patchType"]), (&json!(true), &json!("JSONPatch")));
    let bad = strict(pod(json!({"hostNetwork": true, "containers": [{"name": "app"}]}))).await;
    assert_eq!((&bad["allowed"], &bad["patch"]), (&json!(false), &Value::Null));
    assert_eq!(
        bad["status"]["message"],
        "testimony: refused (HostNetwork), because namespace other is strict: the pod uses hostNetwork, which cannot be audited. \
         To fix it: remove hostNetwork, or run the pod in a namespace that is not strict"
    );
    let labels = InjectionLabels { result: "denied", reason: "HostNetwork" };
    assert_eq!(mutator.metrics.injections.get_or_create(&labels).get(), 1);
}

#[tokio::test]
async fn failures_of_the_webhook_keep_pods_of_strict_namespaces_waiting() {
    let good = review("shop", pod(json!({"containers": [{"name": "app"}]})));
    let broken = review("shop", pod(json!({"containers": "none"})));
    for (mutator, body, code) in [
        (mutator(false, Some("CA")), &good, 503),
        (mutator(true, None), &good, 503),
        (mutator(true, Some("CA")), &broken, 403),
    ] {
        let (status, answer) = answer_under(&mutator, Enforcement::Strict, body).await;
        let response = &answer["response"];
        assert_eq!(
            (status, &response["uid"], &response["allowed"]),
            (StatusCode::OK, &json!("review-1"), &json!(false))
        );
        assert_eq!(response["status"]["code"], code);
        let message = response["status"]["message"].as_str().expect("message");
        assert!(message.starts_with("testimony: refused, because this namespace is strict"), "{message}");
    }
}
