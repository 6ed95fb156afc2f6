//! Parsing one policy into what documents are made of.

use super::Scope;
use crate::api::{AuditPolicySpec, Correlation, PodSelector, Rollout, Rule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;
use std::collections::BTreeSet;
use testimony_core::contract::port;
use testimony_core::policy::{self, Direction, DocumentRule, Expression};

/// Headers that carry something else than an id: never made or read as correlation header.
const CORRELATION_HEADERS_NEVER: [&str; 23] = [
    "authorization",
    "proxy-authorization",
    "proxy-authenticate",
    "www-authenticate",
    "cookie",
    "set-cookie",
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "te",
    "trailer",
    "connection",
    "keep-alive",
    "proxy-connection",
    "upgrade",
    "expect",
    "date",
    "traceparent",
    "tracestate",
    "x-forwarded-for",
    "forwarded",
];

/// Why an object is not in force: for `Accepted=False`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}; {fix}")]
pub struct Invalid {
    /// CamelCase reason for the condition.
    pub reason: &'static str,
    /// Path of the field, as the user wrote it.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

/// An AuditPolicy or a ClusterAuditPolicy that can be in force.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptedPolicy {
    /// Of which namespaces.
    pub scope: Scope,
    /// Which pods of these.
    pub selector: Selector,
    /// Sinks by name; `None` means the default one.
    pub sinks: Option<Vec<String>>,
    /// Directions that are recorded.
    pub directions: Vec<Direction>,
    /// Ports that are left alone.
    pub exclude_ports: Vec<policy::ExcludePort>,
    /// A scalar that cannot merge.
    pub client_address: policy::ClientAddress,
    /// Rules in order.
    pub rules: Vec<DocumentRule>,
    /// When an answer may leave.
    pub delivery: policy::DeliveryMode,
    /// What happens to what cannot be recorded.
    pub failure_mode: policy::FailureMode,
    /// Memory of the patterns in the rules' expressions, in bytes.
    pub pattern_bytes: usize,
    /// Scalars that cannot merge.
    pub correlation: policy::Correlation,
    /// Added to all other policies' redaction.
    pub redact: policy::Redact,
    /// Injects, but records nothing.
    pub suspend: bool,
    /// What happens to pods that need a restart.
    pub rollout: Rollout,
}

/// Parses a policy's spec.
///
/// # Errors
/// The first field that is wrong, with the fix. The API server's schema refuses most of it earlier; an object may be older
/// than the schema.
pub fn accept_policy(spec: &AuditPolicySpec) -> Result<AcceptedPolicy, Invalid> {
    let selector = selector(&spec.pod_selector, || "spec.podSelector".to_owned())?;
    if spec.sinks.as_ref().is_some_and(Vec::is_empty) {
        return Err(invalid("InvalidSinks", "spec.sinks", "is empty", "name a sink or leave the field out"));
    }
    if spec.capture.directions.is_empty() {
        return Err(invalid(
            "InvalidCapture",
            "spec.capture.directions",
            "is empty",
            "name Inbound, Outbound or both, or set suspend: true",
        ));
    }
    let mut exclude_ports = Vec::with_capacity(spec.capture.exclude_ports.len());
    for (i, exclude) in spec.capture.exclude_ports.iter().enumerate() {
        if exclude.port == 0 || (port::INBOUND..=port::ADMIN).contains(&exclude.port) {
            return Err(invalid(
                "InvalidCapture",
                format!("spec.capture.excludePorts[{i}].port"),
                format!("{} is not a port that is captured", exclude.port),
                "remove the entry",
            ));
        }
        exclude_ports.push(policy::ExcludePort { port: exclude.port, direction: exclude.direction.into() });
    }
    let directions: BTreeSet<Direction> = spec.capture.directions.iter().map(|d| (*d).into()).collect();
    Ok(AcceptedPolicy {
        scope: Scope::Namespace,
        selector,
        sinks: spec.sinks.clone(),
        directions: directions.into_iter().collect(),
        exclude_ports,
        client_address: spec.capture.client_address.into(),
        rules: rules(&spec.rules)?,
        delivery: spec.delivery.unwrap_or_default().mode.into(),
        failure_mode: spec.failure_mode.unwrap_or_default().into(),
        pattern_bytes: pattern_bytes(&spec.rules)?,
        correlation: correlation(&spec.correlation)?,
        redact: policy::Redact {
            headers: spec.redact.headers.iter().map(|h| h.to_ascii_lowercase()).collect(),
            query: spec.redact.query.clone(),
        },
        suspend: spec.suspend,
        rollout: spec.rollout,
    })
}

/// Parses a selector; `field` is its path.
pub(super) fn selector(spec: &PodSelector, field: impl FnOnce() -> String) -> Result<Selector, Invalid> {
    Selector::try_from(LabelSelector::from(spec)).map_err(|e| {
        invalid("InvalidSelector", field(), e.to_string(), "use In or NotIn with values, Exists or DoesNotExist")
    })
}

fn rules(rules: &[Rule]) -> Result<Vec<DocumentRule>, Invalid> {
    let mut names = BTreeSet::new();
    for (i, rule) in rules.iter().enumerate() {
        if !names.insert(rule.name.as_str()) {
            let field = format!("spec.rules[{i}].name");
            return Err(invalid(
                "InvalidRules",
                field,
                format!("{:?} is taken by an earlier rule", rule.name),
                "rename it",
            ));
        }
        if rule.matches.is_empty() && i + 1 < rules.len() {
            return Err(invalid(
                "InvalidRules",
                format!("spec.rules[{i}].match"),
                "is empty and matches everything, so later rules never match",
                "move the rule to the end or give it a match",
            ));
        }
        if rule.matches.ports.contains(&0) {
            let field = format!("spec.rules[{i}].match.ports");
            return Err(invalid("InvalidRules", field, "0 is no port", "use 1 to 65535"));
        }
        if let Some(prefix) = rule.matches.path_prefixes.iter().find(|p| !p.starts_with('/')) {
            let field = format!("spec.rules[{i}].match.pathPrefixes");
            return Err(invalid("InvalidRules", field, format!("{prefix:?} does not start with /"), "add the slash"));
        }
    }
    let document = rules.iter().map(|rule| DocumentRule {
        name: rule.name.clone(),
        matches: policy::RuleMatch {
            methods: rule.matches.methods.clone(),
            path_prefixes: rule.matches.path_prefixes.clone(),
            ports: rule.matches.ports.clone(),
            when: rule.matches.when.clone(),
        },
        level: rule.level.into(),
    });
    Ok(document.collect())
}

/// Compiles the rules' expressions, as the sidecar will.
fn pattern_bytes(rules: &[Rule]) -> Result<usize, Invalid> {
    let mut bytes = 0_usize;
    for (i, rule) in rules.iter().enumerate() {
        let Some(when) = &rule.matches.when else { continue };
        let expression = Expression::compile(when).map_err(|error| {
            let problem = format!("{}: {}", error.place(), error.problem);
            invalid("InvalidExpression", format!("spec.rules[{i}].match.when"), problem, error.fix)
        })?;
        bytes = bytes.saturating_add(expression.pattern_bytes());
    }
    Ok(bytes)
}

fn correlation(spec: &Correlation) -> Result<policy::Correlation, Invalid> {
    let header = spec.header.to_ascii_lowercase();
    if CORRELATION_HEADERS_NEVER.contains(&header.as_str()) {
        return Err(invalid(
            "InvalidCorrelation",
            "spec.correlation.header",
            format!("{header:?} has a meaning of its own"),
            "use a header that only carries an id, such as x-request-id",
        ));
    }
    if !header.bytes().all(is_token) {
        return Err(invalid(
            "InvalidCorrelation",
            "spec.correlation.header",
            format!("{header:?} is no header name"),
            "use letters, digits and dashes",
        ));
    }
    if spec.sampled_percent > 100 {
        let problem = format!("{} is more than 100", spec.sampled_percent);
        return Err(invalid("InvalidCorrelation", "spec.correlation.sampledPercent", problem, "use 0 to 100"));
    }
    Ok(policy::Correlation {
        trace_context: spec.trace_context.into(),
        when_absent: spec.when_absent.into(),
        sampled_percent: spec.sampled_percent,
        header: (!header.is_empty()).then_some(header),
        infer_from_single_in_flight: spec.infer_from_single_in_flight,
    })
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

pub(super) fn invalid(
    reason: &'static str,
    field: impl Into<String>,
    problem: impl Into<String>,
    fix: impl Into<String>,
) -> Invalid {
    Invalid { reason, field: field.into(), problem: problem.into(), fix: fix.into() }
}
