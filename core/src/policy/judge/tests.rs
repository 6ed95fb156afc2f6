use super::*;
use crate::policy::{ClientAddress, Correlation, ExcludePort, Redact, RuleMatch};
use proptest::prelude::*;

fn rule(name: &str, level: Level, matches: RuleMatch) -> DocumentRule {
    DocumentRule { name: name.into(), matches, level }
}

fn policy(name: &str, rules: Vec<DocumentRule>) -> DocumentPolicy {
    DocumentPolicy {
        name: name.into(),
        directions: vec![Direction::Inbound, Direction::Outbound],
        exclude_ports: Vec::new(),
        rules,
        delivery: DeliveryMode::Async,
        failure_mode: FailureMode::Open,
    }
}

fn compiled(policies: Vec<DocumentPolicy>) -> Compiled {
    Compiled::new(PolicyDocument {
        version: DOCUMENT_VERSION,
        revision: "r".into(),
        policies,
        client_address: ClientAddress::None,
        correlation: Correlation::default(),
        redact: Redact::default(),
        sinks: Vec::new(),
    })
    .expect("valid")
}

fn get(path: &str) -> Facts<'_> {
    Facts { method: Some("GET"), path: Some(path), ..Facts::connection(Direction::Inbound, 80) }
}

fn prefix(prefix: &str) -> RuleMatch {
    RuleMatch { path_prefixes: vec![prefix.into()], ..RuleMatch::default() }
}

#[test]
fn first_match_wins_and_no_match_is_metadata() {
    let judge = compiled(vec![policy("ns/p", vec![rule("probes", Level::None, prefix("/healthz"))])]);
    let level = |path| judge.judge(&get(path)).map(|verdict| (verdict.level, verdict.rule.to_owned()));
    assert_eq!(level("/healthz"), Some((Level::None, "probes".into())));
    assert_eq!(level("/healthz/db"), Some((Level::None, "probes".into())));
    assert_eq!(level("/healthzz"), Some((Level::Metadata, "default".into())));
}

#[test]
fn a_path_that_means_another_one_does_not_hide_behind_a_prefix() {
    let judge = compiled(vec![policy("ns/p", vec![rule("probes", Level::None, prefix("/healthz"))])]);
    for path in [
        "/healthz/../admin",
        "/healthz/%2e%2E/admin",
        "/healthz/..%2fadmin",
        "/healthz\\..\\admin",
        "/healthz/..;/admin",
        "/healthz/..;a=b/admin",
        "/healthz/..%5cadmin",
        "/healthz/%252e%252e/admin",
        "/healthz/..%25255cadmin",
        "/healthz/%2525252525",
        "/healthz#/../admin",
        "/healthz/#",
        // Back again for who takes `..;` or an escaped slash for what it may mean; not for who doesn't.
        "/healthz/../admin/..;/..;/healthz",
        "/healthz/../admin/x%2f..%2f..%2f..%2fhealthz",
        "/healthz;v=1",
    ] {
        assert_eq!(judge.judge(&get(path)).map(|v| v.level), Some(Level::Metadata), "{path}");
    }
    for path in [
        "/healthz/db;v=1",
        "/healthz/a%20b",
        "/healthz/a%252Fb",
        "/healthz/50%25",
        "/healthz/./db",
        "/healthz//db",
        "/healthz/.well",
    ] {
        assert_eq!(judge.judge(&get(path)).map(|v| (v.level, v.undecided)), Some((Level::None, None)), "{path}");
    }
}

#[test]
fn a_rule_that_records_is_not_escaped_by_writing_the_path_another_way() {
    let admin = RuleMatch { methods: vec!["GET".into()], ..prefix("/v1/admin") };
    let rules = vec![rule("admin", Level::Metadata, admin), rule("rest", Level::None, RuleMatch::default())];
    let judge = compiled(vec![policy("ns/p", rules)]);
    let verdict = |path| judge.judge(&get(path)).map(|v| (v.rule, v.undecided)).expect("covered");
    for path in [
        "/v1/%61dmin/users",
        "/v1/%2561dmin/users",
        "/v1%25252Fadmin",
        "/v1//admin",
        "/v1;x/admin;y=1/users",
        "/v1%2Fadmin",
        "/v1%5cadmin",
        "/v1\\admin",
        "/healthz/..;/v1/admin/users",
        "/healthz/..%5cv1/admin/users",
        "/v1/admin#",
        "/x#/../v1/admin",
        "/v1/admin/..;/..;/x",
        "/v1/admin%23x",
        "/v1/admin%3Fx/y",
        "/v1/admin%252523",
    ] {
        assert_eq!(verdict(path), ("admin", Some(Undecided::AmbiguousPath)), "{path}");
        let post = Facts { method: Some("POST"), ..get(path) };
        assert_eq!(judge.judge(&post).map(|v| (v.rule, v.undecided)), Some(("rest", None)), "{path}");
    }
    assert_eq!(verdict("/v1/admin/users;v=1"), ("admin", None));
    for path in ["/v1/orders;v=1", "/v1/a%20b", "//x/.y", "/v1/c%23", "/v1/what%3F/admin"] {
        assert_eq!(verdict(path), ("rest", None), "{path}");
    }
}

#[test]
fn an_opaque_connection_never_matches_http_fields() {
    let methods = RuleMatch { methods: vec!["GET".into()], ..RuleMatch::default() };
    let judge = compiled(vec![policy("ns/p", vec![rule("gets", Level::None, methods)])]);
    let facts = Facts { method: None, path: None, ..get("") };
    assert_eq!(judge.judge(&facts).map(|v| v.rule), Some(DEFAULT_RULE));
}

#[test]
fn an_excluded_port_is_one_that_every_policy_excludes() {
    let mut excluding = policy("ns/a", Vec::new());
    excluding.exclude_ports.push(ExcludePort { port: 9090, direction: Direction::Inbound });
    assert!(!compiled(vec![excluding.clone()]).captures(Direction::Inbound, 9090));
    assert!(compiled(vec![excluding.clone()]).captures(Direction::Outbound, 9090));
    assert!(compiled(vec![excluding, policy("ns/b", Vec::new())]).captures(Direction::Inbound, 9090));
}

#[test]
fn bad_documents_name_the_field() {
    let mut document = compiled(vec![policy("ns/a", Vec::new())]).document.clone();
    document.correlation.header = Some("X-Request-Id".into());
    let error = Compiled::new(document.clone()).map(|_| ()).map_err(|e| e.to_string());
    assert_eq!(error, Err("correlation.header: must be the name of a header field, in lower case".into()));
    document.version = 9;
    assert!(matches!(Compiled::new(document), Err(DocumentError::Version(9))));
    assert!(Compiled::parse(br#"{"version":1,"surprise":true}"#).is_err());
}

fn any_policy() -> impl Strategy<Value = DocumentPolicy> {
    let level = prop_oneof![Just(Level::None), Just(Level::Metadata)];
    let matches = prop_oneof![
        Just(RuleMatch::default()),
        "/[ab]{0,2}".prop_map(|p| prefix(&p)),
        Just(RuleMatch { methods: vec!["GET".into()], ..RuleMatch::default() }),
        Just(RuleMatch { ports: vec![80], ..RuleMatch::default() }),
    ];
    let rules = proptest::collection::vec((level, matches).prop_map(|(l, m)| rule("r", l, m)), 0..4);
    let directions = prop_oneof![Just(vec![Direction::Inbound]), Just(vec![Direction::Outbound])];
    let ports = proptest::collection::vec(Just(ExcludePort { port: 80, direction: Direction::Inbound }), 0..2);
    let delivery = prop_oneof![Just(DeliveryMode::Async), Just(DeliveryMode::Strict)];
    let failure = prop_oneof![Just(FailureMode::Open), Just(FailureMode::Closed)];
    (rules, directions, ports, delivery, failure).prop_map(
        |(rules, directions, exclude_ports, delivery, failure_mode)| DocumentPolicy {
            name: "ns/x".into(),
            directions,
            exclude_ports,
            rules,
            delivery,
            failure_mode,
        },
    )
}

proptest! {
    #[test]
    fn op_3_adding_a_policy_never_audits_less(
        policies in proptest::collection::vec(any_policy(), 0..4), added in any_policy(), path in "/[ab./%2e]{0,6}",
        inbound: bool, port in 80..82_u16,
    ) {
        let direction = if inbound { Direction::Inbound } else { Direction::Outbound };
        let facts = Facts { method: Some("GET"), path: Some(&path), ..Facts::connection(direction, port) };
        let before = compiled(policies.clone());
        let after = compiled([policies, vec![added]].concat());
        let (before, after) = (before.judge(&facts), after.judge(&facts));
        prop_assert!(after.map(|v| v.level) >= before.map(|v| v.level));
        prop_assert!(after.map(|v| v.delivery) >= before.map(|v| v.delivery));
        prop_assert!(after.map(|v| v.failure) >= before.map(|v| v.failure));
    }
}

#[test]
fn closed_and_strict_win_among_the_policies_that_record_the_exchange() {
    use DeliveryMode::{Async, Strict};
    use FailureMode::{Closed, Open};
    let with =
        |name: &str, rules, delivery, failure_mode| DocumentPolicy { delivery, failure_mode, ..policy(name, rules) };
    let probes = || vec![rule("probes", Level::None, prefix("/healthz"))];
    for (policies, path, expected) in [
        (vec![with("a", vec![], Async, Open)], "/", (Async, Open)),
        (vec![with("a", vec![], Strict, Open), with("b", vec![], Async, Closed)], "/", (Strict, Closed)),
        (vec![with("b", vec![], Async, Closed), with("a", vec![], Strict, Open)], "/", (Strict, Closed)),
        (vec![with("a", probes(), Strict, Closed)], "/healthz", (Async, Open)),
        (vec![with("a", probes(), Strict, Closed), with("b", vec![], Async, Open)], "/healthz", (Async, Open)),
        (vec![with("a", probes(), Strict, Closed), with("b", vec![], Async, Open)], "/x", (Strict, Closed)),
    ] {
        let judge = compiled(policies);
        let verdict = judge.judge(&get(path)).expect("covered");
        assert_eq!((verdict.delivery, verdict.failure), expected, "{path}");
    }
}

// === expressions ===

fn when(name: &str, level: Level, when: &str) -> DocumentRule {
    rule(name, level, RuleMatch { when: Some(when.into()), ..RuleMatch::default() })
}

#[test]
fn an_expression_is_one_more_condition_of_its_rule() {
    let mut gets = when("gets", Level::None, "request.path.endsWith('.css') && connection.port == 80");
    gets.matches.methods = vec!["GET".into()];
    let judge = compiled(vec![policy("ns/p", vec![gets])]);
    let level = |facts: &Facts<'_>| judge.judge(facts).map(|v| (v.level, v.undecided));
    assert_eq!(level(&get("/a.css")), Some((Level::None, None)));
    assert_eq!(level(&get("/a.js")), Some((Level::Metadata, None)));
    assert_eq!(level(&Facts { method: Some("POST"), ..get("/a.css") }), Some((Level::Metadata, None)));
    assert_eq!(level(&Facts { port: 81, ..get("/a.css") }), Some((Level::Metadata, None)));
    let opaque = Facts::connection(Direction::Inbound, 80);
    assert_eq!(level(&opaque), Some((Level::Metadata, None)), "it is no request, and that is no failure");
}

#[test]
fn an_expression_that_cannot_be_decided_never_audits_less() {
    let no_header = Some(Undecided::NoHeader);
    let verdict = |rules: Vec<DocumentRule>| {
        let judge = compiled(vec![policy("ns/p", rules)]);
        let verdict = judge.judge(&get("/")).expect("covered");
        (verdict.level, verdict.rule.to_owned(), verdict.undecided)
    };
    let debug = "request.headers['x-debug'] == 'yes'";
    let rest = |level| rule("rest", level, RuleMatch::default());
    let is = |level, rule: &str| (level, rule.to_owned(), no_header);
    assert_eq!(verdict(vec![when("quiet", Level::None, debug)]), is(Level::Metadata, "default"));
    assert_eq!(verdict(vec![when("quiet", Level::None, debug), rest(Level::Metadata)]), is(Level::Metadata, "rest"));
    assert_eq!(verdict(vec![when("loud", Level::Metadata, debug), rest(Level::None)]), is(Level::Metadata, "loud"));
    assert_eq!(verdict(vec![when("quiet", Level::None, debug), rest(Level::None)]), is(Level::None, "rest"));
    let sure = "'x-debug' in request.headers && request.headers['x-debug'] == 'yes'";
    let told = verdict(vec![when("loud", Level::Metadata, sure), rest(Level::None)]);
    assert_eq!(told, (Level::None, "rest".to_owned(), None));
}

#[test]
fn a_document_with_a_bad_expression_names_its_field_and_column() {
    let mut document = compiled(vec![policy("ns/a", vec![rule("r", Level::None, RuleMatch::default())])]).document;
    document.policies[0].rules[0].matches.when = Some("request.path = '/'".into());
    let error = Compiled::new(document).map(|_| ()).map_err(|e| e.to_string());
    let wanted = "policies[0].rules[0].match.when: column 14: '=' has no meaning here; compare with ==";
    assert_eq!(error, Err(wanted.to_owned()));
}

#[test]
fn the_patterns_of_a_document_have_a_limit_together() {
    let large = r"request.path.matches('[a-f]{20}[0-9]{20}(x|yz){9}')";
    let bytes = Expression::compile(large).expect("compiles").pattern_bytes();
    let many = PATTERN_MEMORY_BYTES_MAX / bytes + 1;
    let rules: Vec<DocumentRule> = (0..many).map(|i| when(&format!("r{i}"), Level::None, large)).collect();
    let document = PolicyDocument { policies: vec![policy("ns/a", rules)], ..compiled(Vec::new()).document };
    let error = Compiled::new(document).map(|_| ()).map_err(|e| e.to_string()).expect_err("too many");
    assert!(error.ends_with("match.when: the patterns of all expressions need over 4 MiB"), "{error}");
}
