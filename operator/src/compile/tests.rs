use super::*;
use crate::api::{AuditPolicySpec, AuditSinkSpec};
use expect_test::{Expect, expect};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use testimony_core::policy::{DOCUMENT_BYTES_MAX, Direction, DocumentPolicy, DocumentSink, Level, PolicyDocument};

fn policy(spec: Value) -> AcceptedPolicy {
    accept_policy(&serde_json::from_value::<AuditPolicySpec>(spec).expect("spec")).expect("accepted")
}

fn sink(name: &str, spec: Value) -> DocumentSink {
    accept_sink(name, &serde_json::from_value::<AuditSinkSpec>(spec).expect("spec")).expect("accepted")
}

fn at(second: i64) -> Option<Timestamp> {
    Timestamp::from_second(second).ok()
}

fn input<'a>(name: &'a str, second: i64, accepted: &'a AcceptedPolicy) -> PolicyInput<'a> {
    PolicyInput { namespace: "shop", name, created: at(second), accepted, previous: None }
}

fn refused(spec: Value, expected: Expect) {
    let spec: AuditPolicySpec = serde_json::from_value(spec).expect("spec");
    expected.assert_eq(&accept_policy(&spec).expect_err("refused").to_string());
}

fn refused_sink(spec: Value, expected: Expect) {
    let spec: AuditSinkSpec = serde_json::from_value(spec).expect("spec");
    expected.assert_eq(&accept_sink("main", &spec).expect_err("refused").to_string());
}

#[test]
fn a_sink_becomes_a_part_of_the_document_in_which_defaults_are_left_out() {
    let plain = serde_json::to_value(sink("main", json!({"endpoint": "http://collector:4318"}))).expect("JSON");
    let expected = json!({
        "name": "main", "endpoint": "http://collector:4318", "timeoutMs": 10_000, "queueBytesMax": 8 * 1024 * 1024,
    });
    assert_eq!(plain, expected);
    let full = sink(
        "main",
        json!({
            "endpoint": "http://collector:4317/", "protocol": "Grpc", "compression": "Zstd", "credentialsSecretName": "otlp",
            "serviceAccountToken": {"audience": "collector", "allowHttp": true},
        }),
    );
    let expected = json!({
        "name": "main", "endpoint": "http://collector:4317/", "protocol": "Grpc", "compression": "Zstd",
        "credentials": true, "credentialsSecret": "otlp", "tokenAudience": "collector",
        "timeoutMs": 10_000, "queueBytesMax": 8 * 1024 * 1024,
    });
    assert_eq!(serde_json::to_value(&full).expect("JSON"), expected);
    let mutual = sink("main", json!({"endpoint": "https://x", "tls": {"clientCertificateSecretName": "client"}}));
    assert_eq!(mutual.client_certificate_secret.as_deref(), Some("client"));
    assert_eq!(serde_json::from_value::<DocumentSink>(serde_json::to_value(&full).expect("JSON")).expect("read"), full);
}

#[test]
fn a_refusal_names_field_problem_and_fix() {
    refused(
        json!({"rules": [{"name": "a", "level": "None"}, {"name": "b", "level": "None"}]}),
        expect![
            "spec.rules[0].match: is empty and matches everything, so later rules never match; move the rule to the end or give it a match"
        ],
    );
    refused(
        json!({"rules": [{"name": "a", "match": {"ports": [1]}, "level": "None"}, {"name": "a", "level": "None"}]}),
        expect![[r#"spec.rules[1].name: "a" is taken by an earlier rule; rename it"#]],
    );
    refused(
        json!({"capture": {"excludePorts": [{"port": 24802, "direction": "Inbound"}]}}),
        expect!["spec.capture.excludePorts[0].port: 24802 is not a port that is captured; remove the entry"],
    );
    refused(
        json!({"correlation": {"header": "Host"}}),
        expect![[
            r#"spec.correlation.header: "host" has a meaning of its own; use a header that only carries an id, such as x-request-id"#
        ]],
    );
    refused_sink(
        json!({"endpoint": "ftp://x"}),
        expect![[
            r#"spec.endpoint: "ftp://x" starts with neither http:// nor https://; give a URL such as https://collector.example:4318"#
        ]],
    );
    refused_sink(
        json!({"endpoint": "https://x/v1/logs", "protocol": "Grpc"}),
        expect![[
            r#"spec.endpoint: "/v1/logs" is a path, which gRPC has no use for; remove it, or use protocol: HttpProtobuf"#
        ]],
    );
    refused_sink(
        json!({"endpoint": "http://x", "serviceAccountToken": {"audience": "x"}}),
        expect![
            "spec.serviceAccountToken: over http anybody on the way can read and use the token; change the endpoint's scheme to https, or set serviceAccountToken.allowHttp: true"
        ],
    );
    for audience in ["testimony.dev/operator", "https://kubernetes.default.svc.cluster.local", ""] {
        let spec = json!({"endpoint": "https://x", "serviceAccountToken": {"audience": audience}});
        let spec: AuditSinkSpec = serde_json::from_value(spec).expect("spec");
        let refusal = accept_sink("main", &spec).expect_err(audience).to_string();
        assert!(refusal.starts_with("spec.serviceAccountToken.audience: "), "{refusal}");
    }
    refused_sink(
        json!({"endpoint": "http://x", "tls": {"clientCertificateSecretName": "client"}}),
        expect!["spec.tls: only an https endpoint has TLS; change the endpoint's scheme to https or remove tls"],
    );
    refused_sink(
        json!({"endpoint": "http://x", "tls": {}}),
        expect!["spec.tls: only an https endpoint has TLS; change the endpoint's scheme to https or remove tls"],
    );
    refused_sink(
        json!({"endpoint": "https://x", "tls": {"caBundle": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}}),
        expect![
            "spec.tls.caBundle: certificate 1 is not usable (invalid peer certificate: BadEncoding); paste the authorities' certificates in PEM form"
        ],
    );
}

#[test]
fn policies_stay_apart_and_redaction_and_sinks_add_up() {
    let wide = policy(json!({"redact": {"headers": ["X-B"], "query": ["q"]}, "correlation": {"header": "x-wide"}}));
    let narrow = policy(json!({
        "podSelector": {"matchLabels": {"app": "a"}}, "sinks": ["second"], "redact": {"headers": ["x-a"]},
        "correlation": {"header": "X-Narrow"}
    }));
    let first = sink("first", json!({"endpoint": "http://first:4318", "default": true}));
    let second = sink("second", json!({"endpoint": "http://second:4318"}));
    let sinks = [
        SinkInput { created: at(1), default: true, sink: &first },
        SinkInput { created: at(2), default: false, sink: &second },
    ];
    let compiled = compile(&[input("wide", 1, &wide), input("narrow", 2, &narrow)], &sinks);
    expect![[r#"
        {
          "version": 1,
          "revision": "90309eb73e27ba84",
          "policies": [
            {
              "name": "shop/narrow",
              "directions": [
                "Inbound",
                "Outbound"
              ]
            },
            {
              "name": "shop/wide",
              "directions": [
                "Inbound",
                "Outbound"
              ]
            }
          ],
          "clientAddress": "None",
          "correlation": {
            "traceContext": "Continue",
            "whenAbsent": "Make",
            "sampledPercent": 100,
            "header": "x-narrow",
            "inferFromSingleInFlight": true
          },
          "redact": {
            "headers": [
              "x-a",
              "x-b"
            ],
            "query": [
              "q"
            ]
          },
          "sinks": [
            {
              "name": "first",
              "endpoint": "http://first:4318",
              "timeoutMs": 10000,
              "queueBytesMax": 8388608
            },
            {
              "name": "second",
              "endpoint": "http://second:4318",
              "timeoutMs": 10000,
              "queueBytesMax": 8388608
            }
          ]
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&compiled.document).expect("json"));
}

#[test]
fn order_of_arrival_changes_nothing() {
    let a = policy(json!({}));
    let b = policy(json!({"suspend": true}));
    let c = policy(json!({"podSelector": {"matchLabels": {"x": "y"}}}));
    let there = compile(&[input("a", 3, &a), input("b", 2, &b), input("c", 9, &c)], &[]);
    let back = compile(&[input("c", 9, &c), input("b", 2, &b), input("a", 3, &a)], &[]);
    assert_eq!(there, back);
    assert_eq!(there.document.policies.len(), 2, "a suspended policy records nothing");
}

#[test]
fn the_oldest_default_sink_counts() {
    let one = sink("b", json!({"endpoint": "http://b"}));
    let two = sink("a", json!({"endpoint": "http://a"}));
    let sinks = [
        SinkInput { created: at(5), default: true, sink: &one },
        SinkInput { created: at(9), default: true, sink: &two },
    ];
    assert_eq!(default_sink(&sinks).map(|s| s.sink.name.as_str()), Some("b"));
}

#[test]
fn a_document_that_is_too_large_loses_the_youngest_policy_or_goes_back_to_its_last_good_spec() {
    let small = policy(json!({}));
    let prefixes: Vec<String> = (0..32).map(|i| format!("/{i}{}", "x".repeat(250))).collect();
    let rules: Vec<Value> = (0..7)
        .map(|i| json!({"name": format!("r{i}"), "level": "None", "match": {"pathPrefixes": prefixes}}))
        .collect();
    let large = policy(json!({"rules": rules}));
    let both = compile(&[input("old", 1, &large), input("new", 2, &large)], &[]);
    assert_eq!(both.too_large, ["shop/new"]);
    assert_eq!(both.document.policies.len(), 1);
    assert!(serde_json::to_vec(&both.document).expect("json").len() <= DOCUMENT_BYTES_MAX);

    let edited = PolicyInput { previous: Some(&small), ..input("new", 2, &large) };
    let both = compile(&[input("old", 1, &large), edited], &[]);
    assert_eq!(both.too_large, ["shop/new"]);
    let last_good: Vec<&str> = both.document.policies.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(last_good, ["shop/old", "shop/new"]);
}

// === OP-3 ===

#[derive(Clone, Debug)]
struct Exchange {
    direction: Direction,
    port: u16,
    method: &'static str,
    path: &'static str,
}

/// The document's semantics, written as plainly as possible.
fn judge(document: &PolicyDocument, exchange: &Exchange) -> Option<Level> {
    document.policies.iter().filter_map(|policy| judge_one(policy, exchange)).max()
}

fn judge_one(policy: &DocumentPolicy, exchange: &Exchange) -> Option<Level> {
    if !policy.directions.contains(&exchange.direction)
        || policy.exclude_ports.iter().any(|e| e.port == exchange.port && e.direction == exchange.direction)
    {
        return None;
    }
    let within = |prefix: &String| {
        let prefix = prefix.trim_end_matches('/');
        exchange.path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let rule = policy.rules.iter().find(|rule| {
        let m = &rule.matches;
        (m.methods.is_empty() || m.methods.iter().any(|x| x == exchange.method))
            && (m.path_prefixes.is_empty() || m.path_prefixes.iter().any(within))
            && (m.ports.is_empty() || m.ports.contains(&exchange.port))
    });
    Some(rule.map_or(Level::Metadata, |r| r.level))
}

fn any_spec() -> impl Strategy<Value = Value> {
    let ports = || proptest::sample::select(vec![80u16, 443, 8080]);
    let direction = || proptest::sample::select(vec!["Inbound", "Outbound"]);
    let rule = (
        proptest::collection::btree_set(proptest::sample::select(vec!["GET", "POST"]), 0..2),
        proptest::collection::btree_set(proptest::sample::select(vec!["/api", "/healthz", "/"]), 0..2),
        proptest::collection::btree_set(ports(), 1..3),
        proptest::sample::select(vec!["None", "Metadata"]),
    );
    (
        proptest::collection::btree_set(direction(), 1..3),
        proptest::collection::vec((ports(), direction()), 0..3),
        proptest::collection::vec(rule, 0..4),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(directions, exclude, rules, suspend, labelled)| {
            let exclude: Vec<Value> = exclude.iter().map(|(p, d)| json!({"port": p, "direction": d})).collect();
            let rules: Vec<Value> = rules
                .iter()
                .enumerate()
                .map(|(i, (methods, paths, ports, level))| {
                    json!({"name": format!("r{i}"), "level": level,
                           "match": {"methods": methods, "pathPrefixes": paths, "ports": ports}})
                })
                .collect();
            let selector = if labelled { json!({"matchLabels": {"a": "b"}}) } else { json!({}) };
            json!({"podSelector": selector, "suspend": suspend, "rules": rules,
                   "capture": {"directions": directions, "excludePorts": exclude}})
        })
}

proptest! {
    #[test]
    fn op_3_adding_a_policy_never_audits_less(
        specs in proptest::collection::vec((any_spec(), 0i64..5), 0..4),
        added in (any_spec(), 0i64..5),
        direction in proptest::sample::select(vec![Direction::Inbound, Direction::Outbound]),
        port in proptest::sample::select(vec![80u16, 443, 8080, 9000]),
        method in proptest::sample::select(vec!["GET", "POST", "PUT"]),
        path in proptest::sample::select(vec!["/", "/api", "/api/x", "/apiary", "/healthz"]),
    ) {
        let exchange = Exchange { direction, port, method, path };
        let accepted: Vec<(String, i64, AcceptedPolicy)> = specs
            .into_iter()
            .chain([added])
            .enumerate()
            .map(|(i, (spec, second))| (format!("p{i}"), second, policy(spec)))
            .collect();
        let inputs: Vec<PolicyInput<'_>> = accepted.iter().map(|(n, s, p)| input(n, *s, p)).collect();
        let (_, before) = inputs.split_last().expect("one was added");
        let before = judge(&compile(before, &[]).document, &exchange);
        let after = judge(&compile(&inputs, &[]).document, &exchange);
        prop_assert!(after >= before, "{exchange:?}: {before:?} became {after:?}");
    }
}
