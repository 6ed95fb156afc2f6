//! Core's machines on one exchange, without sockets, clocks and randomness.

use super::Message;
use anyhow::{Context, Result};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use testimony_core::capture::{self, Begun, ConnFacts, HttpCapture, InFlight, Receipt, Shell};
use testimony_core::http1::{ConnSeq, End, HeadEdit, Limits, Next, Observer, RequestHead, ResponseHead, Session};
use testimony_core::policy::{Compiled, DeliveryMode, Direction, FailureMode, Level, PolicyDocument};
use testimony_core::record::{Record, Redacted, Stamp, body_of};

/// Time of the placeholder clock: 2023-11-14T22:13:20Z.
const WALL_NS: u64 = 1_700_000_000_000_000_000;

/// What is known of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// Seen from the pod.
    pub direction: Direction,
    /// Port of the destination.
    pub port: u16,
}

/// What became of a request.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Method and target, as sent.
    #[serde(skip)]
    pub request: String,
    /// The level; absent: no policy looks at it.
    pub level: Option<Level>,
    /// The policy that gave it.
    pub policy: Option<String>,
    /// The rule that gave it.
    pub rule: Option<String>,
    /// When its answer may leave; absent: at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryMode>,
    /// What happens while it cannot be recorded; absent: it passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_mode: Option<FailureMode>,
    /// What each policy says.
    pub judged: Vec<Judged>,
    /// Why the proxy refuses the request, if it does.
    pub refused: Option<String>,
    /// Lines that are added to the request's head.
    pub added: Vec<String>,
    /// The records, one for each exchange.
    pub records: Vec<ShownRecord>,
}

/// What one policy says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// `namespace/name`.
    pub policy: String,
    /// Its level; absent: it does not look at this direction and port.
    pub level: Option<Level>,
    /// Its rule.
    pub rule: String,
}

/// A record as it would leave the pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownRecord {
    /// Name of the event.
    pub event: &'static str,
    /// The canonical body.
    #[serde(rename = "record")]
    pub fields: BTreeMap<String, String>,
}

/// Runs one exchange.
///
/// # Errors
/// The document is none that a sidecar runs.
pub fn exchange(document: PolicyDocument, facts: Exchange, request: &Message, response: &Message) -> Result<Outcome> {
    let policy = Arc::new(Compiled::new(document).context("the compiled policies")?);
    let shared = Rc::new(RefCell::new(Seen::default()));
    let shell = Dry { policy: policy.clone(), seen: shared.clone() };
    let capture = HttpCapture::new(shell, connection(facts));
    let mut watcher = Watcher { capture, policy, facts, outcome: Outcome::default() };
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let mut session = Session::new(Limits::default());
    let mut rest = request.bytes.as_slice();
    let mut over = false;
    while !over && !rest.is_empty() && session.wants_client() {
        let progress = session.client_bytes(rest, &mut watcher, &mut up, &mut down);
        over = matches!(progress.next, Next::Close | Next::Reset);
        rest = rest.get(progress.consumed..).unwrap_or_default();
        if progress.consumed == 0 {
            break;
        }
    }
    if !over {
        let progress = session.upstream_bytes(&response.bytes, &mut watcher, &mut down, &mut up);
        over = matches!(progress.next, Next::Close | Next::Reset);
    }
    if !over {
        let _ = session.upstream_eof(&mut watcher, &mut down);
        session.abort(&mut watcher, End::ClientGone);
    }
    let mut outcome = watcher.outcome;
    // The capture records what is still open when it goes.
    drop(watcher.capture);
    outcome.added = added(&request.bytes, &up);
    let seen = std::mem::take(&mut *shared.borrow_mut());
    for (event, body) in seen.records {
        let fields = serde_json::from_slice(&body).context("a record's body")?;
        outcome.records.push(ShownRecord { event, fields });
    }
    outcome.refused = seen.refused.map(str::to_owned);
    Ok(outcome)
}

/// Addresses of RFC 5737, which belong to nobody.
fn connection(facts: Exchange) -> ConnFacts {
    let address = |last, port| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)), port);
    let (client, server) = (address(1, 40_000), address(2, facts.port));
    let (peer, local) = match facts.direction {
        Direction::Inbound => (client, server),
        Direction::Outbound => (server, client),
    };
    ConnFacts {
        direction: facts.direction,
        conn_id: 0,
        peer,
        local,
        upstream_local: None,
        pod_actor: Some(Arc::from("system:serviceaccount:example:default")),
        from_node: false,
        peer_name: None,
    }
}

/// Lines of the head that went upstream and did not come from the client.
fn added(sent: &[u8], forwarded: &[u8]) -> Vec<String> {
    let head = |bytes: &[u8]| -> Vec<String> {
        let lines = bytes.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        lines.take_while(|line| !line.is_empty()).map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    };
    let sent = head(sent);
    head(forwarded).into_iter().filter(|line| !sent.contains(line)).collect()
}

#[derive(Default)]
struct Seen {
    in_flight: InFlight,
    records: Vec<(&'static str, Vec<u8>)>,
    refused: Option<&'static str>,
    randoms: u128,
}

/// A data thread that is none: its clock stands still and its random numbers are counted.
struct Dry {
    policy: Arc<Compiled>,
    seen: Rc<RefCell<Seen>>,
}

impl Shell for Dry {
    fn now(&self) -> Stamp {
        Stamp { wall_ns: WALL_NS, mono_ns: 0 }
    }

    fn random(&mut self) -> u128 {
        let mut seen = self.seen.borrow_mut();
        seen.randoms += 1;
        // The same bits in both halves: ids are made of either.
        seen.randoms << 64 | seen.randoms
    }

    fn policy(&self) -> Arc<Compiled> {
        self.policy.clone()
    }

    fn in_flight<R>(&mut self, f: impl FnOnce(&mut InFlight) -> R) -> R {
        f(&mut self.seen.borrow_mut().in_flight)
    }

    fn emit(&mut self, record: Redacted<Record>) -> Receipt {
        let mut guard = self.seen.borrow_mut();
        let seen = &mut *guard;
        seen.records.push((record.get().event().as_str(), body_of(&record).unwrap_or_default()));
        Receipt::Counted
    }

    fn emit_begin(&mut self, _: Redacted<Record>) -> Begun {
        Begun { number: None, receipt: Receipt::Counted }
    }

    fn emit_end(&mut self, record: Redacted<Record>, _: Begun) -> Receipt {
        self.emit(record)
    }

    fn can_record(&self) -> bool {
        true
    }

    fn begin(&mut self) {}

    fn count(&mut self, _: Direction, _: capture::Outcome, _: Option<capture::Unrecorded<'_>>) {}

    fn count_refused(&mut self, reason: &'static str) {
        self.seen.borrow_mut().refused = Some(reason);
    }

    fn count_undecided(&mut self, _: &'static str) {}
}

/// Judges each policy by itself, and lets the sidecar's capture do the rest.
struct Watcher {
    capture: HttpCapture<Dry>,
    policy: Arc<Compiled>,
    facts: Exchange,
    outcome: Outcome,
}

impl Watcher {
    fn judge(&mut self, head: &RequestHead<'_>) {
        let conn = connection(self.facts);
        let facts = conn.facts(head);
        let outcome = &mut self.outcome;
        outcome.request = format!("{} {}", head.method, path(head.target));
        if let Some(verdict) = self.policy.judge(&facts) {
            outcome.level = Some(verdict.level);
            outcome.delivery = Some(verdict.delivery).filter(|mode| *mode != DeliveryMode::default());
            outcome.failure_mode = Some(verdict.failure).filter(|mode| *mode != FailureMode::default());
            outcome.policy = Some(verdict.policy.to_owned());
            outcome.rule = Some(verdict.rule.to_owned());
        }
        let document = self.policy.document();
        for policy in &document.policies {
            let alone = PolicyDocument { policies: vec![policy.clone()], ..document.clone() };
            // What was valid in company is valid alone.
            let Ok(alone) = Compiled::new(alone) else { continue };
            let verdict = alone.judge(&facts);
            outcome.judged.push(Judged {
                policy: policy.name.clone(),
                level: verdict.map(|verdict| verdict.level),
                rule: verdict.map_or("does not look at this direction or port".to_owned(), |v| v.rule.to_owned()),
            });
        }
    }
}

/// Path of a request target, in each of its forms (RFC 9112 section 3.2).
fn path(target: &str) -> &str {
    let after = match target.find("://") {
        Some(at) if !target.starts_with('/') => {
            let authority = target.get(at + 3..).unwrap_or_default();
            authority.find('/').and_then(|slash| authority.get(slash..)).unwrap_or("/")
        }
        _ => target,
    };
    after.split('?').next().unwrap_or_default()
}

impl Observer for Watcher {
    fn request_head(&mut self, seq: ConnSeq, head: &RequestHead<'_>, edit: &mut HeadEdit) {
        if self.outcome.request.is_empty() {
            self.judge(head);
        }
        self.capture.request_head(seq, head, edit);
    }

    fn request_unparsed(&mut self, seq: ConnSeq, line: &[u8]) {
        if self.outcome.request.is_empty() {
            let line = String::from_utf8_lossy(line);
            let mut words = line.trim_end().split(' ');
            let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            self.judge(&RequestHead { method, target, minor_version: 1, fields: &[], head_bytes: 0 });
        }
        self.capture.request_unparsed(seq, line);
    }

    fn request_body(&mut self, seq: ConnSeq, payload_bytes: u64) {
        self.capture.request_body(seq, payload_bytes);
    }

    fn request_end(&mut self, seq: ConnSeq) {
        self.capture.request_end(seq);
    }

    fn response_head(&mut self, seq: ConnSeq, head: &ResponseHead<'_>, at: usize) {
        self.capture.response_head(seq, head, at);
    }

    fn answered(&mut self, seq: ConnSeq, status: u16, at: usize) {
        self.capture.answered(seq, status, at);
    }

    fn response_body(&mut self, seq: ConnSeq, payload_bytes: u64) {
        self.capture.response_body(seq, payload_bytes);
    }

    fn tunnel(&mut self, seq: ConnSeq, from_client_bytes: u64, from_upstream_bytes: u64) {
        self.capture.tunnel(seq, from_client_bytes, from_upstream_bytes);
    }

    fn exchange_end(&mut self, seq: ConnSeq, end: End) {
        self.capture.exchange_end(seq, end);
    }
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn paths_of_all_forms() {
        let table = [
            ("/a?b", "/a"),
            ("http://h/a?b", "/a"),
            ("http://h", "/"),
            ("*", "*"),
            ("h:443", "h:443"),
            ("/a?u=http://x", "/a"),
        ];
        for (target, expected) in table {
            assert_eq!(path(target), expected);
        }
    }
}
