//! What a sink is told, from what its sidecars say. Pure.

use super::conditions::{Finding, conditions};
use super::status::{View, is_fresh};
use crate::api::{AuditSinkStatus, SinkCounts, SinkError};
use crate::index::{Index, SinkEntry};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeSet, HashMap};
use testimony_core::policy::{CERTIFICATE_MISSING, CREDENTIALS_MISSING, SinkCondition, SinkState};

/// Most namespaces that a message lists.
const NAMESPACES_LISTED_MAX: usize = 10;

/// An age is told in whole seconds, so that its begin moves a little with each report; a begin that moved by less than this
/// is the same, in seconds.
const BEGIN_SECONDS_SAME: i64 = 5;

/// A record that a sink has not acknowledged after this time, in seconds, is late. Healthy sidecars need less than a second.
const LATE_SECONDS: i64 = 30;

/// Whether records are acknowledged in time.
const DELIVERED: &str = "Delivered";

/// Longest error that is kept, in characters.
const ERROR_CHARS_MAX: usize = 512;

/// What all sidecars together say about one sink.
#[derive(Default)]
struct Heard {
    sidecars: SinkCounts,
    delivered: u64,
    lost: u64,
    /// Since when the oldest record waits.
    oldest: Option<Timestamp>,
    /// Sidecars with records that are late.
    late: i64,
    /// The smallest name of their pods.
    late_pod: Option<String>,
    /// The error of the pod whose name is the smallest, so that it does not change with the order of a map.
    error: Option<(String, String)>,
    /// Namespaces whose pods miss the Secret with the headers.
    without_headers: BTreeSet<String>,
    /// Namespaces whose pods miss the Secret with the client certificate.
    without_certificate: BTreeSet<String>,
}

/// Sums up, by sink, what sidecars said.
pub(super) struct Reports {
    sinks: HashMap<String, Heard>,
    /// Sidecars that send to a sink and that a new leader still waits for, by sink.
    unheard: HashMap<String, i64>,
}

impl Reports {
    /// Looks at each acknowledgement once.
    pub(super) fn of(view: View<'_>, unheard: HashMap<String, i64>) -> Self {
        let mut sinks: HashMap<String, Heard> = HashMap::new();
        for (uid, ack) in view.acks.iter().filter(|(_, ack)| is_fresh(ack, view.instant)) {
            let Some(pod) = view.index.pod(uid).filter(|pod| !pod.finished) else { continue };
            let age = SignedDuration::try_from(view.instant.saturating_duration_since(ack.at)).unwrap_or_default();
            let said_at = view.now - age;
            for state in &ack.sinks {
                let heard = match sinks.get_mut(&state.name) {
                    Some(heard) => heard,
                    None => sinks.entry(state.name.clone()).or_default(),
                };
                let pod = (pod.namespace.as_str(), pod.name.as_str());
                heard.add(state, pod, said_at, view.now);
            }
        }
        Self { sinks, unheard }
    }

    /// The status of one sink.
    pub(super) fn status(&self, view: View<'_>, sink: &SinkEntry) -> AuditSinkStatus {
        let nothing = Heard::default();
        let heard = self.sinks.get(&sink.name).unwrap_or(&nothing);
        let error = heard.error.as_ref();
        let oldest = heard.oldest.map(|begin| steady(sink.status.oldest_undelivered.as_ref(), begin));
        let unheard = self.unheard.get(&sink.name).copied().unwrap_or_default();
        let findings = vec![
            accepted(view.index, sink),
            resolved(sink, heard, unheard),
            encrypted(sink),
            settled(reachable(heard), unheard),
            settled(delivering(heard), unheard),
            settled(delivered(heard, oldest.as_ref()), unheard),
        ];
        let (taken, lost) = (i64::try_from(heard.delivered), i64::try_from(heard.lost));
        let (taken, lost) = (taken.unwrap_or(i64::MAX), lost.unwrap_or(i64::MAX));
        // Until all can have told again, what was counted last stays.
        let before = if unheard > 0 { (sink.status.delivered, sink.status.lost) } else { (0, 0) };
        AuditSinkStatus {
            observed_generation: sink.generation,
            conditions: conditions(&sink.status.conditions, findings, sink.generation, view.now),
            sidecars: heard.sidecars.clone(),
            delivered: taken.max(before.0),
            lost: lost.max(before.1),
            oldest_undelivered: oldest,
            last_error: error.map(|(pod, message)| SinkError {
                pod: pod.clone(),
                message: message.chars().take(ERROR_CHARS_MAX).collect(),
            }),
            last_good: sink.good_spec.clone().or(sink.status.last_good.clone()).filter(|_| sink.invalid.is_some()),
        }
    }
}

/// What is wrong with one sidecar is wrong; what is well with those that a new leader has heard is not yet well with all.
fn settled(finding: Finding, unheard: i64) -> Finding {
    if unheard == 0 || finding.holds == Some(false) {
        return finding;
    }
    let text = format!("{unheard} of its sidecars have not reported since the controller started");
    Finding::unknown(finding.kind, "Reconciling", text)
}

impl Heard {
    fn add(&mut self, state: &SinkState, (namespace, name): (&str, &str), said_at: Timestamp, now: Timestamp) {
        let count = match state.state {
            SinkCondition::Delivering => &mut self.sidecars.delivering,
            SinkCondition::Failing => &mut self.sidecars.failing,
            SinkCondition::Parked => &mut self.sidecars.parked,
            SinkCondition::Unknown => &mut self.sidecars.unknown,
        };
        *count += 1;
        self.delivered = self.delivered.saturating_add(state.delivered);
        self.lost = self.lost.saturating_add(state.lost);
        // Most have nothing to tell, and need no text.
        let pod = || format!("{namespace}/{name}");
        let fails = matches!(state.state, SinkCondition::Failing | SinkCondition::Parked);
        if let Some(begin) = waits_since(state, fails, said_at) {
            self.oldest = Some(self.oldest.map_or(begin, |known| known.min(begin)));
            if now.duration_since(begin).as_secs() > LATE_SECONDS {
                self.late += 1;
                let pod = pod();
                if self.late_pod.as_ref().is_none_or(|known| pod < *known) {
                    self.late_pod = Some(pod);
                }
            }
        }
        if !fails {
            return;
        }
        let error = state.error.as_deref().unwrap_or("no error was given");
        if state.state == SinkCondition::Parked && error.contains(CREDENTIALS_MISSING) {
            self.without_headers.insert(namespace.to_owned());
        }
        if state.state == SinkCondition::Parked && error.contains(CERTIFICATE_MISSING) {
            self.without_certificate.insert(namespace.to_owned());
        }
        let pod = pod();
        if self.error.as_ref().is_none_or(|(known, _)| pod < *known) {
            self.error = Some((pod, error.to_owned()));
        }
    }

    fn total(&self) -> i64 {
        let s = &self.sidecars;
        s.delivering + s.failing + s.parked + s.unknown
    }

    fn error_text(&self) -> String {
        self.error.as_ref().map(|(pod, message)| format!("{message} (pod {pod})")).unwrap_or_default()
    }
}

/// Since when the oldest record of a sidecar waits; `None`: none does. A sidecar that delivers has records on their way, of
/// which it says no more until its next report: only one that was late already waits.
fn waits_since(state: &SinkState, fails: bool, said_at: Timestamp) -> Option<Timestamp> {
    let age = i64::try_from(state.oldest_undelivered_seconds).unwrap_or(i64::MAX);
    if age == 0 || !fails && age <= LATE_SECONDS {
        return None;
    }
    said_at.checked_sub(SignedDuration::from_secs(age)).ok()
}

/// Whole seconds; the known begin, where it is about the same.
fn steady(known: Option<&Time>, begin: Timestamp) -> Time {
    let begin = Timestamp::from_second(begin.as_second()).unwrap_or(begin);
    match known {
        Some(known) if known.0.duration_since(begin).as_secs().abs() <= BEGIN_SECONDS_SAME => known.clone(),
        _ => Time(begin),
    }
}

/// Whether the status differs from the known one in more than what changes with each record.
pub(super) fn is_news(known: &AuditSinkStatus, status: &AuditSinkStatus) -> bool {
    let mut same = AuditSinkStatus { delivered: known.delivered, lost: known.lost, ..status.clone() };
    // While sidecars catch up, the oldest record is another one with each report.
    if let (Some(oldest), Some(_)) = (&known.oldest_undelivered, &same.oldest_undelivered) {
        same.oldest_undelivered = Some(oldest.clone());
    }
    let was = known.conditions.iter().find(|c| c.type_ == DELIVERED);
    if let (Some(was), Some(is)) = (was, same.conditions.iter_mut().find(|c| c.type_ == DELIVERED))
        && was.status == is.status
    {
        is.message.clone_from(&was.message);
    }
    same != *known
}

fn accepted(index: &Index, sink: &SinkEntry) -> Finding {
    let stays = if sink.good.is_some() { "; the last good revision stays in force" } else { "" };
    if let Some(invalid) = &sink.invalid {
        return Finding::no("Accepted", invalid.reason, format!("{invalid}{stays}"));
    }
    match index.default_sink() {
        Some(default) if sink.default && default != sink.name => Finding::yes(
            "Accepted",
            "Conflicted",
            format!("spec.default: the older AuditSink {default} is the default; remove the mark from one of them"),
        ),
        _ => Finding::yes("Accepted", "Accepted", "the sink is valid"),
    }
}

fn resolved(sink: &SinkEntry, heard: &Heard, unheard: i64) -> Finding {
    const KIND: &str = "ResolvedRefs";
    let good = sink.good.as_ref();
    let needed = [
        ("spec.credentialsSecretName", good.and_then(|g| g.credentials_secret.as_ref()), &heard.without_headers),
        (
            "spec.tls.clientCertificateSecretName",
            good.and_then(|g| g.client_certificate_secret.as_ref()),
            &heard.without_certificate,
        ),
    ];
    let needed: Vec<_> =
        needed.into_iter().filter_map(|(field, secret, without)| Some((field, secret?, without))).collect();
    if needed.is_empty() {
        return Finding::yes(KIND, "ResolvedRefs", "the sink needs no Secret");
    }
    let missing = needed.iter().filter(|(_, _, without)| !without.is_empty());
    let missing: Vec<String> =
        missing.map(|(field, secret, without)| secret_not_found(field, secret, without)).collect();
    if missing.is_empty() {
        return settled(Finding::yes(KIND, "ResolvedRefs", "no sidecar misses a Secret"), unheard);
    }
    Finding::no(KIND, "SecretNotFound", missing.join("; "))
}

fn secret_not_found(field: &str, secret: &str, without: &BTreeSet<String>) -> String {
    let listed: Vec<&str> = without.iter().take(NAMESPACES_LISTED_MAX).map(String::as_str).collect();
    let more = match without.len().saturating_sub(listed.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{field}: the Secret {secret} is missing in, or not mounted from, the namespaces {}{more}; create it there; records \
         wait",
        listed.join(", ")
    )
}

fn encrypted(sink: &SinkEntry) -> Finding {
    match &sink.good {
        Some(good) if good.endpoint.starts_with("https://") => {
            Finding::yes("Encrypted", "Tls", "records travel over TLS")
        }
        Some(_) => Finding::no("Encrypted", "PlainHttp", "spec.endpoint: records travel in plain text; use https"),
        None => Finding::unknown("Encrypted", "NotAccepted", "the sink was never valid"),
    }
}

fn reachable(heard: &Heard) -> Finding {
    const KIND: &str = "Reachable";
    let (sidecars, total) = (&heard.sidecars, heard.total());
    if total == 0 {
        return Finding::unknown(KIND, "NotUsed", "no sidecar sends to this sink");
    }
    if sidecars.failing > 0 {
        let text = format!("{} of {total} sidecars cannot deliver: {}", sidecars.failing, heard.error_text());
        return Finding::no(KIND, "Unreachable", text);
    }
    if sidecars.delivering > 0 {
        return Finding::yes(KIND, "Reachable", format!("it answers {} of {total} sidecars", sidecars.delivering));
    }
    if sidecars.parked > 0 {
        return Finding::unknown(
            KIND,
            "Parked",
            format!("all that send wait for credentials or settings: {}", heard.error_text()),
        );
    }
    Finding::unknown(KIND, "NoReports", "no sidecar has sent a record to this sink yet")
}

fn delivering(heard: &Heard) -> Finding {
    const KIND: &str = "Delivering";
    let (sidecars, total) = (&heard.sidecars, heard.total());
    if sidecars.parked > 0 {
        let text =
            format!("{} of {total} sidecars wait for credentials or settings: {}", sidecars.parked, heard.error_text());
        return Finding::no(KIND, "Parked", text);
    }
    if sidecars.failing > 0 {
        let text = format!("{} of {total} sidecars cannot deliver: {}", sidecars.failing, heard.error_text());
        return Finding::no(KIND, "Failing", text);
    }
    if sidecars.delivering > 0 {
        let text = format!("{} of {total} sidecars deliver, the others have sent nothing yet", sidecars.delivering);
        return Finding::yes(KIND, "Delivering", text);
    }
    Finding::unknown(KIND, "NoReports", "no sidecar has sent a record to this sink yet")
}

/// What `Delivering` does not say: a sink that takes records may be far behind.
fn delivered(heard: &Heard, oldest: Option<&Time>) -> Finding {
    let total = heard.total();
    if let (Some(oldest), Some(pod)) = (oldest, &heard.late_pod) {
        let text = format!(
            "{} of {total} sidecars have records that wait for over {LATE_SECONDS} s, the oldest since {}, such as pod {pod}",
            heard.late, oldest.0
        );
        return Finding::no(DELIVERED, "Late", text);
    }
    if total == 0 {
        return Finding::unknown(DELIVERED, "NotUsed", "no sidecar sends to this sink");
    }
    if heard.delivered == 0 {
        return Finding::unknown(DELIVERED, "NoReports", "no sidecar has delivered a record to this sink yet");
    }
    let text = format!("no record of its {total} sidecars waits for over {LATE_SECONDS} s");
    Finding::yes(DELIVERED, "Delivered", text)
}
