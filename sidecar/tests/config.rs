//! The configuration from the environment and from a file: what is right, and what people are told when it is wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use testimony_core::contract::env;
use testimony_core::policy::{Direction, Level};
use testimony_sidecar::config::{Config, ConfigError, HostPort, PolicySource, Target, from_env, from_file, from_yaml};

mod control_support;
use control_support::{Ca, document};

fn pod() -> BTreeMap<String, String> {
    let policy = serde_json::to_string(&document("0011223344556677")).expect("JSON");
    let ca = Ca::new().pem;
    [
        (env::POLICY, policy.as_str()),
        (env::CLUSTER_UID, "c-1"),
        (env::POD_NAMESPACE, "shop"),
        (env::POD_NAME, "pay-1"),
        (env::POD_UID, "u-1"),
        (env::NODE_NAME, "node-a"),
        (env::SERVICE_ACCOUNT, "pay"),
        (env::POD_IPS, "10.0.0.9,fd00::9"),
        (env::HOST_IPS, "192.168.0.1"),
        (env::WORKLOAD_KIND, "Deployment"),
        (env::WORKLOAD_NAME, "pay"),
        (env::SERVICE_NAME, "payments"),
        (env::CONTAINER_NAME, "app"),
        (env::INJECTION_ID, "i-1"),
        (env::OPERATOR_URL, "https://testimony.testimony.svc:8443"),
        (env::OPERATOR_CA, ca.as_str()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn fields(error: &ConfigError) -> Vec<&str> {
    error.problems.iter().map(|problem| problem.field.as_str()).collect()
}

fn yaml(text: &str) -> Result<Config, ConfigError> {
    from_yaml(text, &BTreeMap::from([("TOKEN".to_owned(), "Bearer s3cret".to_owned())]))
}

#[test]
fn an_injected_pod_is_read_whole() {
    let config = from_env(&pod()).expect("a configuration");
    assert_eq!(config.workload.service_name, "payments");
    assert_eq!(config.workload.namespace.as_deref(), Some("shop"));
    assert_eq!(config.workload.container.as_deref(), Some("app"));
    assert_eq!(config.pod_ips.len(), 2);
    assert_eq!(config.host_ips.len(), 1);
    let inbound = config.listen.inbound.expect("inbound");
    assert_eq!((inbound.addr.to_string().as_str(), inbound.target), ("[::]:24801", Target::OriginalDestination));
    let outbound = config.listen.outbound.expect("outbound");
    assert_eq!((outbound.addr.to_string().as_str(), outbound.target), ("[::]:24802", Target::OriginalDestination));
    assert_eq!(config.listen.admin.to_string(), "[::]:24803");
    assert_eq!(config.policy, document("0011223344556677"));
    assert_eq!(config.policy_source, PolicySource::Environment);
    assert_eq!(config.operator.expect("operator").injection_id, "i-1");
    assert_eq!(config.state_dir, Some(PathBuf::from("/var/lib/testimony")));
    assert_eq!(config.log, "info");
}

#[test]
fn the_resource_names_the_audited_pod() {
    let config = from_env(&pod()).expect("a configuration");
    let expected = [
        ("service.name", "payments"),
        ("service.namespace", "shop"),
        ("k8s.cluster.uid", "c-1"),
        ("k8s.namespace.name", "shop"),
        ("k8s.pod.name", "pay-1"),
        ("k8s.pod.uid", "u-1"),
        ("k8s.container.name", "app"),
        ("k8s.node.name", "node-a"),
        ("k8s.deployment.name", "pay"),
        ("testimony.k8s.service_account", "pay"),
    ];
    assert_eq!(config.workload.resource_attributes(), expected);
}

#[test]
fn what_may_be_absent_may_be_absent() {
    let mut pod = pod();
    for name in [env::OPERATOR_URL, env::OPERATOR_CA, env::SERVICE_NAME, env::HOST_IPS, env::NODE_NAME] {
        pod.remove(name);
    }
    let config = from_env(&pod).expect("a configuration");
    assert_eq!(config.operator, None);
    assert_eq!(config.workload.service_name, "pay");
}

#[test]
fn a_document_that_is_a_stand_in_is_awaited() {
    let mut pod = pod();
    let awaited =
        |pod: &BTreeMap<String, String>| from_env(pod).expect("a configuration").operator.expect("operator").awaited;
    assert!(!awaited(&pod));
    for (text, wanted) in [("true", true), ("false", false)] {
        pod.insert(env::POLICY_WAIT.to_owned(), text.to_owned());
        assert_eq!(awaited(&pod), wanted);
    }
}

#[test]
fn all_problems_of_the_environment_are_told_at_once() {
    let mut pod = pod();
    pod.remove(env::POD_NAME);
    pod.insert(env::POD_UID.to_owned(), "  ".to_owned());
    pod.insert(env::POD_IPS.to_owned(), "10.0.0.300".to_owned());
    pod.insert(env::OPERATOR_URL.to_owned(), "http://testimony:8443".to_owned());
    pod.insert(env::OPERATOR_CA.to_owned(), "none".to_owned());
    pod.insert(env::POLICY_WAIT.to_owned(), "perhaps".to_owned());
    pod.insert(env::LOG.to_owned(), "info,=x=".to_owned());
    let mut policy = document("");
    policy.version = 9;
    policy.sinks.push(policy.sinks[0].clone());
    policy.sinks[1].endpoint = "https://user:s3cret@host".to_owned();
    policy.sinks[1].timeout_ms = 0;
    policy.sinks[0].name = "../up".to_owned();
    pod.insert(env::POLICY.to_owned(), serde_json::to_string(&policy).expect("JSON"));
    let error = from_env(&pod).expect_err("problems");
    let expected = [
        env::POD_NAME,
        env::POD_UID,
        env::POD_IPS,
        "TESTIMONY_POLICY.version",
        "TESTIMONY_POLICY.revision",
        "TESTIMONY_POLICY.sinks[0].name",
        "TESTIMONY_POLICY.sinks[1].endpoint",
        "TESTIMONY_POLICY.sinks[1].timeoutMs",
        env::OPERATOR_URL,
        env::OPERATOR_CA,
        env::POLICY_WAIT,
        env::LOG,
    ];
    assert_eq!(fields(&error), expected);
    let text = error.to_string();
    assert!(text.starts_with("the configuration has 12 problems:\n"), "{text}");
    assert!(text.contains("TESTIMONY_POD_IPS=\"10.0.0.300\": is not an IP address; use addresses"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn a_policy_with_an_unknown_field_is_refused_and_the_field_named() {
    let mut pod = pod();
    let policy = pod[env::POLICY].replacen("\"version\"", "\"bodies\":1,\"version\"", 1);
    pod.insert(env::POLICY.to_owned(), policy);
    let error = from_env(&pod).expect_err("a problem").to_string();
    assert!(error.contains("TESTIMONY_POLICY") && error.contains("bodies"), "{error}");
}

#[test]
fn the_example_file_is_a_configuration() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/laptop.yaml");
    let config = from_file(&path, &BTreeMap::new()).expect("a configuration");
    assert_eq!(config.workload.service_name, "shop");
    let inbound = config.listen.inbound.expect("inbound");
    assert_eq!(inbound.addr.to_string(), "127.0.0.1:8080");
    assert_eq!(inbound.target, Target::Fixed(HostPort { host: "127.0.0.1".to_owned(), port: 3000 }));
    assert_eq!(config.listen.outbound, None);
    assert_eq!(config.policy_source, PolicySource::File);
    assert_eq!(config.policy.policies[0].directions, [Direction::Inbound]);
    assert_eq!(config.policy.policies[0].rules[0].level, Level::None);
    assert_eq!(config.policy.sinks[0].timeout_ms, 10_000);
    assert_eq!(config.policy.revision.len(), 16);
    assert_eq!((config.operator, config.state_dir), (None, None));
}

#[test]
fn the_revision_follows_the_content() {
    let file = |rest: &str| {
        let head = "service: {name: a}\nlisten: {inbound: '127.0.0.1:1'}\nforward: 'b:2'\nsinks: [{name: s, endpoint: 'http://c'}]\n";
        yaml(&format!("{head}{rest}")).expect("a configuration").policy.revision
    };
    assert_eq!(file(""), file("log: debug\n"));
    assert_ne!(file(""), file("policy: {redact: {headers: [x]}}\n"));
}

#[test]
fn headers_come_from_variables_and_are_never_shown() {
    let text = "service: {name: a}\nlisten: {outbound: '[::1]:1'}\n\
        sinks: [{name: s, endpoint: 'http://c', headersFromEnv: {Authorization: TOKEN}}]\n";
    let config = yaml(text).expect("a configuration");
    let header = &config.sink_headers["s"][0];
    assert_eq!(
        (header.name.as_str(), header.value.expose().to_str().expect("text")),
        ("authorization", "Bearer s3cret")
    );
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn all_problems_of_a_file_are_told_at_once() {
    let text = "service: {name: ''}\nlisten: {inbound: 'localhost:8080', admin: 'x'}\nforward: '127.0.0.1:0'\n\
        dataThreads: 0\ndrainSeconds: 99999\nlog: '=x='\n\
        sinks: [{name: S, endpoint: 'collector:4317', queueBytesMax: 0, caBundle: x, serverName: 'a b',\n  \
        headersFromEnv: {authorization: MISSING, host: TOKEN}}]\n";
    let error = yaml(text).expect_err("problems");
    let expected = [
        "listen.inbound",
        "listen.admin",
        "forward",
        "sinks[0].headersFromEnv.authorization",
        "sinks[0].headersFromEnv.host",
        "dataThreads",
        "drainSeconds",
        "log",
        "service.name",
        "sinks[0].name",
        "sinks[0].endpoint",
        "sinks[0].caBundle",
        "sinks[0].serverName",
        "sinks[0].queueBytesMax",
    ];
    assert_eq!(fields(&error), expected, "{error}");
    assert!(!error.to_string().contains("s3cret"), "{error}");
}

#[test]
fn unknown_missing_and_wrong_fields_of_a_file_are_named() {
    let cases = [
        ("service: {name: a}\nlisten: {}\nsinks: []\nbodies: 1\n", "bodies"),
        ("listen: {}\nsinks: []\n", "service"),
        ("service: {name: a}\nlisten: {}\nsinks: []\npolicy: {rules: [{name: r, level: Request}]}\n", "Request"),
        ("service: {name: a}\nlisten: {}\nsinks: []\ndataThreads: many\n", "many"),
        ("service: [", ""),
    ];
    for (text, named) in cases {
        let error = yaml(text).expect_err(text).to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
    let error = yaml("service: {name: a}\nlisten: {}\nforward: 'a:1'\nsinks: []\n").expect_err("problems");
    assert_eq!(fields(&error), ["listen", "listen.inbound", "sinks"], "{error}");
    let looped = "service: {name: a}\nlisten: {inbound: '127.0.0.1:1'}\nforward: '127.0.0.1:1'\nsinks: [{name: s, endpoint: 'http://c'}]\n";
    assert_eq!(fields(&yaml(looped).expect_err("a loop")), ["forward"]);
    let sampled = "service: {name: a}\nlisten: {outbound: '127.0.0.1:1'}\nsinks: [{name: s, endpoint: 'http://c'}]\n\
        policy: {correlation: {sampledPercent: 101}}\n";
    assert_eq!(fields(&yaml(sampled).expect_err("101 %")), ["policy.correlation.sampledPercent"]);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = from_file(Path::new("/no/such/file.yaml"), &BTreeMap::new()).expect_err("no file").to_string();
    assert!(error.contains("--config=\"/no/such/file.yaml\"") && error.contains("No such file"), "{error}");
}
