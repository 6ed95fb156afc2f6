//! The judge: which level an exchange is recorded at. One function for the sidecar, for tests and for offline tools.

use super::cel::{Expression, ExpressionError, Undecided};
use super::{
    DOCUMENT_BYTES_MAX, DOCUMENT_VERSION, DeliveryMode, Direction, DocumentPolicy, DocumentRule, FailureMode, Level,
    PolicyDocument,
};
use crate::redact::{Redactor, percent_decode, percent_decode_all};
use httparse::Header;
use std::borrow::Cow;
use std::net::IpAddr;
use thiserror::Error;

/// Name of the rule when none of a policy matched.
pub const DEFAULT_RULE: &str = "default";

/// Most memory of all patterns of a document's expressions, in bytes.
pub const PATTERN_MEMORY_BYTES_MAX: usize = 4 * 1024 * 1024;

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
    /// An expression that does not compile.
    #[error("{field}: {error}")]
    Expression {
        /// Path of the field.
        field: String,
        /// Where it is wrong, and what to do.
        error: ExpressionError,
    },
}

/// What is known of an exchange when it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Direction of its connection.
    pub direction: Direction,
    /// Port of the original destination.
    pub port: u16,
    /// Inbound: the client. Outbound: the destination.
    pub peer: Option<IpAddr>,
    /// HTTP method; `None` for an opaque connection.
    pub method: Option<&'a str>,
    /// Path of the request target as sent; `None` for an opaque connection.
    pub path: Option<&'a str>,
    /// Query of the request target as sent, without its question mark.
    pub query: Option<&'a str>,
    /// Authority of the request: of its target, else its Host.
    pub authority: Option<&'a str>,
    /// Header fields of the request, in wire order.
    pub headers: Option<&'a [Header<'a>]>,
}

impl Facts<'_> {
    /// Of a connection that is not HTTP, or not yet.
    pub fn connection(direction: Direction, port: u16) -> Self {
        Self { direction, port, peer: None, method: None, path: None, query: None, authority: None, headers: None }
    }
}

/// The judgement: the highest level that any policy asks for, and which rule asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The level.
    pub level: Level,
    /// The first policy that asks for this level: `namespace/name`, or the name alone for a cluster policy.
    pub policy: &'a str,
    /// Its rule, or [`DEFAULT_RULE`].
    pub rule: &'a str,
    /// Whether a rule matches could not be told; then the higher of both levels counts.
    pub undecided: Option<Undecided>,
    /// The strictest of all policies that record the exchange; `Async` where none does.
    pub delivery: DeliveryMode,
    /// `Closed` if any policy that records the exchange says so; so what no policy records is never refused.
    pub failure: FailureMode,
}

/// A validated document, ready to judge and to redact.
#[derive(Clone, Debug)]
pub struct Compiled {
    document: PolicyDocument,
    /// By policy and rule, as in the document.
    expressions: Vec<Vec<Option<Expression>>>,
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
        let expressions = expressions(&document)?;
        let redactor = Redactor::new(&document.redact, document.correlation.header.as_deref());
        Ok(Self { redactor, expressions, document })
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
        let path = facts.path.map(Path::of);
        let mut best: Option<Verdict<'_>> = None;
        let mut undecided = None;
        let (mut delivery, mut failure) = (DeliveryMode::default(), FailureMode::default());
        let policies = self.document.policies.iter().zip(&self.expressions);
        for (policy, expressions) in policies.filter(|(policy, _)| covers(policy, facts.direction, facts.port)) {
            let verdict = judge_one(policy, expressions, facts, path.as_ref());
            undecided = undecided.or(verdict.undecided);
            if verdict.level > Level::None {
                delivery = delivery.max(policy.delivery);
                failure = failure.max(policy.failure_mode);
            }
            if best.is_none_or(|best| verdict.level > best.level) {
                best = Some(verdict);
            }
        }
        best.map(|best| Verdict { undecided, delivery, failure, ..best })
    }
}

/// The verdict of one policy: of its first rule that matches. A rule that is undecided may match or not: the higher level of
/// both counts, so that nobody hides by making an expression fail or by writing a path another way.
fn judge_one<'a>(
    policy: &'a DocumentPolicy,
    expressions: &[Option<Expression>],
    facts: &Facts<'_>,
    path: Option<&Path<'_>>,
) -> Verdict<'a> {
    let (delivery, failure) = (policy.delivery, policy.failure_mode);
    let verdict = |level, rule| Verdict { level, policy: &policy.name, rule, undecided: None, delivery, failure };
    let mut doubtful: Option<Verdict<'a>> = None;
    let mut reason = None;
    let mut found = verdict(Level::Metadata, DEFAULT_RULE);
    for (rule, expression) in policy.rules.iter().zip(expressions) {
        let mut answer = matches(rule, facts, path);
        if answer != Ok(false)
            && let Some(expression) = expression
        {
            answer = expression.evaluate(facts).and_then(|is| if is { answer } else { Ok(false) });
        }
        let this = verdict(rule.level, rule.name.as_str());
        match answer {
            Ok(true) => {
                found = this;
                break;
            }
            // As `methods` and `pathPrefixes`: what asks for a request matches nothing else.
            Ok(false) | Err(Undecided::NotHttp) => {}
            Err(why) => {
                reason = reason.or(Some(why));
                if doubtful.is_none_or(|doubtful| this.level > doubtful.level) {
                    doubtful = Some(this);
                }
            }
        }
    }
    let highest = doubtful.filter(|doubtful| doubtful.level > found.level).unwrap_or(found);
    Verdict { undecided: reason, ..highest }
}

fn expressions(document: &PolicyDocument) -> Result<Vec<Vec<Option<Expression>>>, DocumentError> {
    let mut memory_bytes = 0_usize;
    let mut compile = |policy: usize, rule: usize, text: &str| {
        let field = format!("policies[{policy}].rules[{rule}].match.when");
        let expression = match Expression::compile(text) {
            Ok(expression) => expression,
            Err(error) => return Err(DocumentError::Expression { field, error }),
        };
        memory_bytes = memory_bytes.saturating_add(expression.pattern_bytes());
        match memory_bytes <= PATTERN_MEMORY_BYTES_MAX {
            true => Ok(expression),
            false => Err(DocumentError::Field { field, problem: "the patterns of all expressions need over 4 MiB" }),
        }
    };
    let policies = document.policies.iter().enumerate().map(|(p, policy)| {
        let rules = policy.rules.iter().enumerate();
        rules.map(|(r, rule)| rule.matches.when.as_deref().map(|text| compile(p, r, text)).transpose()).collect()
    });
    policies.collect()
}

fn covers(policy: &DocumentPolicy, direction: Direction, port: u16) -> bool {
    let excluded = policy.exclude_ports.iter().any(|exclude| exclude.port == port && exclude.direction == direction);
    policy.directions.contains(&direction) && !excluded
}

/// Whether a rule matches, but for its expression.
fn matches(rule: &DocumentRule, facts: &Facts<'_>, path: Option<&Path<'_>>) -> Result<bool, Undecided> {
    let wanted = &rule.matches;
    let method = wanted.methods.is_empty() || facts.method.is_some_and(|m| wanted.methods.iter().any(|w| w == m));
    if !method || !(wanted.ports.is_empty() || wanted.ports.contains(&facts.port)) {
        return Ok(false);
    }
    if wanted.path_prefixes.is_empty() {
        return Ok(true);
    }
    path.map_or(Ok(false), |path| path.begins_with_any(&wanted.path_prefixes))
}

/// A path in the forms in which applications may take it.
struct Path<'a> {
    sent: &'a str,
    normal: Option<Cow<'a, str>>,
}

impl<'a> Path<'a> {
    fn of(sent: &'a str) -> Self {
        Self { sent, normal: normalise(sent) }
    }

    /// `/healthz/../admin` is not `/healthz`, and `/%61dmin` not only what it says, whatever the application makes of them.
    fn begins_with_any(&self, prefixes: &[String]) -> Result<bool, Undecided> {
        let begins = |path: &str| prefixes.iter().any(|prefix| has_prefix(path, prefix));
        let as_sent = begins(self.sent);
        match self.normal.as_deref() {
            Some(normal) if begins(normal) == as_sent && begins(until_query(normal)) == as_sent => Ok(as_sent),
            _ => Err(Undecided::AmbiguousPath),
        }
    }
}

/// Compares whole segments.
fn has_prefix(path: &str, prefix: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Decodes percent-escapes until there are none, leaves out path parameters (`;...`), and removes empty and dot segments
/// (RFC 3986 section 6.2.2).
///
/// `None`: it steps up or has a `#`, so what it means depends on who reads it. Applications differ in whether `..;`, `..%2f`
/// and `..\` step up, in whether `#` ends the path, and in how often they decode: no single form stands for all.
pub(super) fn normalise(path: &str) -> Option<Cow<'_, str>> {
    if is_plain(path) {
        return Some(Cow::Borrowed(path));
    }
    if path.contains('#') {
        return None;
    }
    let mut decoded = percent_decode_all(path.as_bytes()).into_owned();
    // An escape is longer than what it stands for.
    if percent_decode(&decoded).len() < decoded.len() {
        return None;
    }
    decoded.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
    let decoded = String::from_utf8_lossy(&decoded);
    let mut normal = String::with_capacity(decoded.len() + 1);
    for segment in decoded.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => return None,
            name => normal.extend(["/", name]),
        }
    }
    Some(Cow::Owned(if normal.is_empty() { "/".to_owned() } else { normal }))
}

/// The path up to a `?` or `#` that was escaped: who decodes it and reads it again takes it to end there.
pub(super) fn until_query(normal: &str) -> &str {
    normal.split(['?', '#']).next().unwrap_or(normal)
}

/// Whether a path is its own normal form at first sight, as nearly every one is.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    path.bytes().all(|byte| {
        let pair = before == b'/' && matches!(byte, b'/' | b'.');
        before = byte;
        !pair && !matches!(byte, b'%' | b';' | b'\\' | b'#')
    })
}

/// A lower-case header field name (RFC 9110 section 5.1).
pub(super) fn is_field_name(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(token)
}

#[cfg(test)]
mod tests;
