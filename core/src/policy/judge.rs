//! The judge: which level an exchange is recorded at. One function for the sidecar, for tests and for offline tools.

use super::{DOCUMENT_BYTES_MAX, DOCUMENT_VERSION, Direction, DocumentPolicy, DocumentRule, Level, PolicyDocument};
use crate::redact::Redactor;
use std::borrow::Cow;
use thiserror::Error;

/// Name of the rule when none of a policy matched.
pub const DEFAULT_RULE: &str = "default";

/// A document that a sidecar can't run. The last good one stays in force.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// Another version of the format.
    #[error("version: {0} is not {DOCUMENT_VERSION}; upgrade the sidecar by restarting the pod")]
    Version(u16),
    /// Over [`DOCUMENT_BYTES_MAX`].
    #[error(
        "document of {0} bytes: at most {DOCUMENT_BYTES_MAX}; split the policies over more workloads or drop rules"
    )]
    TooLong(usize),
    /// Not the JSON of a document.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A field with an impossible value.
    #[error("{field}: {problem}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
}

/// What is known of an exchange when it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Direction of its connection.
    pub direction: Direction,
    /// Port of the original destination.
    pub port: u16,
    /// HTTP method; `None` for an opaque connection.
    pub method: Option<&'a str>,
    /// Path of the request target as sent; `None` for an opaque connection.
    pub path: Option<&'a str>,
}

/// The judgement: the highest level that any policy asks for, and which rule asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The level.
    pub level: Level,
    /// `namespace/name` of the first policy that asks for this level.
    pub policy: &'a str,
    /// Its rule, or [`DEFAULT_RULE`].
    pub rule: &'a str,
}

/// A validated document, ready to judge and to redact.
#[derive(Clone, Debug)]
pub struct Compiled {
    document: PolicyDocument,
    redactor: Redactor,
}

impl Compiled {
    /// Parses and validates the JSON of a document.
    pub fn parse(json: &[u8]) -> Result<Self, DocumentError> {
        if json.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::TooLong(json.len()));
        }
        Self::new(serde_json::from_slice(json)?)
    }

    /// Validates a document.
    pub fn new(document: PolicyDocument) -> Result<Self, DocumentError> {
        if document.version != DOCUMENT_VERSION {
            return Err(DocumentError::Version(document.version));
        }
        let field = |field: String, problem| Err(DocumentError::Field { field, problem });
        if document.correlation.sampled_percent > 100 {
            return field("correlation.sampledPercent".into(), "must be 0 to 100");
        }
        if let Some(name) = &document.correlation.header
            && !is_field_name(name)
        {
            return field("correlation.header".into(), "must be the name of a header field, in lower case");
        }
        for (at, policy) in document.policies.iter().enumerate() {
            if policy.directions.is_empty() {
                return field(format!("policies[{at}].directions"), "must name Inbound, Outbound or both");
            }
        }
        for (at, sink) in document.sinks.iter().enumerate() {
            if !sink.endpoint.starts_with("http://") && !sink.endpoint.starts_with("https://") {
                return field(format!("sinks[{at}].endpoint"), "must be an http or https URL");
            }
        }
        Ok(Self { redactor: Redactor::new(&document.redact), document })
    }

    /// The document itself.
    pub fn document(&self) -> &PolicyDocument {
        &self.document
    }

    /// The redaction that goes with it.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Whether any policy looks at connections of this direction and port. If not, they pass without being parsed.
    pub fn captures(&self, direction: Direction, port: u16) -> bool {
        self.document.policies.iter().any(|policy| covers(policy, direction, port))
    }

    /// Judges one exchange. `None`: no policy looks at it.
    pub fn judge(&self, facts: &Facts<'_>) -> Option<Verdict<'_>> {
        let mut best: Option<Verdict<'_>> = None;
        for policy in self.document.policies.iter().filter(|policy| covers(policy, facts.direction, facts.port)) {
            let rule = policy.rules.iter().find(|rule| matches(rule, facts));
            let level = rule.map_or(Level::Metadata, |rule| rule.level);
            if best.is_none_or(|best| level > best.level) {
                let rule = rule.map_or(DEFAULT_RULE, |rule| rule.name.as_str());
                best = Some(Verdict { level, policy: &policy.name, rule });
            }
        }
        best
    }
}

fn covers(policy: &DocumentPolicy, direction: Direction, port: u16) -> bool {
    let excluded = policy.exclude_ports.iter().any(|exclude| exclude.port == port && exclude.direction == direction);
    policy.directions.contains(&direction) && !excluded
}

fn matches(rule: &DocumentRule, facts: &Facts<'_>) -> bool {
    let wanted = &rule.matches;
    let method = wanted.methods.is_empty() || facts.method.is_some_and(|m| wanted.methods.iter().any(|w| w == m));
    let path = wanted.path_prefixes.is_empty()
        || facts.path.is_some_and(|path| {
            // Both forms must match: `/healthz/../admin` is not `/healthz`, whatever the application makes of it.
            let normal = normalise(path);
            wanted.path_prefixes.iter().any(|prefix| has_prefix(path, prefix) && has_prefix(&normal, prefix))
        });
    method && path && (wanted.ports.is_empty() || wanted.ports.contains(&facts.port))
}

/// Compares whole segments.
fn has_prefix(path: &str, prefix: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Decodes percent-escapes, and removes empty and dot segments (RFC 3986 section 6.2.2).
fn normalise(path: &str) -> Cow<'_, str> {
    if !path.contains('%') && !path.contains("//") && !path.contains("/.") && !path.contains('\\') {
        return Cow::Borrowed(path);
    }
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match hex.filter(|_| byte == b'%').and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None => {
                decoded.push(if byte == b'\\' { b'/' } else { byte });
                at += 1;
            }
        }
    }
    let decoded = String::from_utf8_lossy(&decoded);
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    Cow::Owned(format!("/{}", segments.join("/")))
}

/// A lower-case header field name (RFC 9110 section 5.1).
fn is_field_name(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(token)
}

#[cfg(test)]
mod tests {
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
        Facts { direction: Direction::Inbound, port: 80, method: Some("GET"), path: Some(path) }
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
        for path in ["/healthz/../admin", "/healthz/%2e%2E/admin", "/healthz/..%2fadmin", "/healthz\\..\\admin"] {
            assert_eq!(judge.judge(&get(path)).map(|v| v.level), Some(Level::Metadata), "{path}");
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
        (rules, directions, ports).prop_map(|(rules, directions, exclude_ports)| DocumentPolicy {
            name: "ns/x".into(),
            directions,
            exclude_ports,
            rules,
        })
    }

    proptest! {
        #[test]
        fn op_3_adding_a_policy_never_audits_less(
            policies in proptest::collection::vec(any_policy(), 0..4), added in any_policy(), path in "/[ab./%2e]{0,6}",
            inbound: bool, port in 80..82_u16,
        ) {
            let direction = if inbound { Direction::Inbound } else { Direction::Outbound };
            let facts = Facts { direction, port, method: Some("GET"), path: Some(&path) };
            let before = compiled(policies.clone()).judge(&facts).map(|v| v.level);
            let after = compiled([policies, vec![added]].concat()).judge(&facts).map(|v| v.level);
            prop_assert!(after >= before);
        }
    }
}
