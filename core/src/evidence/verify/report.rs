//! The report (V1, V3).

use super::trust::Basis;
use super::verdict::{Finding, Verdict};
use crate::evidence::stream::StreamId;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a verification says.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The worst of the findings.
    pub verdict: Verdict,
    /// Exit code of the command line.
    pub exit_code: u8,
    /// Where trust comes from.
    pub trust: Basis,
    /// The witness outside, where trust comes from one.
    pub external: Option<External>,
    /// What was looked at, in words.
    pub scope: String,
    /// Records of streams in scope, each once.
    pub records: u64,
    /// Of them, those under a signed head of their stream.
    pub proved: u64,
    /// More copies of records.
    pub copies: u64,
    /// Entries of the input that are no records of Testimony.
    pub others: u64,
    /// Streams in scope, by name; of those that neither the ledger nor a certificate names, so many as there is room for.
    pub streams: Vec<StreamReport>,
    /// How many more of those there are.
    pub more_streams: u64,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// Findings beyond [`FINDINGS_MAX`](super::FINDINGS_MAX): none of them is worse than one that is listed.
    pub more_findings: u64,
    /// How many of them there are of each verdict.
    pub more_by_verdict: BTreeMap<Verdict, u64>,
    /// What may be the reason, and what to do: of whoever read the input, in words.
    pub hints: Vec<String>,
    /// For how long records were without a witness.
    pub exposure: Exposure,
    /// What the ledger says besides, in words.
    pub ledger: Vec<String>,
    /// What cannot be concluded from all this.
    pub not_concluded: Vec<String>,
}

impl Report {
    /// The exit code where these verdicts are accepted: that of what else was found.
    pub fn exit_code_but_for(&self, accepted: &[Verdict]) -> u8 {
        let listed = || self.findings.iter().map(|finding| finding.verdict);
        let rest =
            || listed().chain(self.more_by_verdict.keys().copied()).filter(|verdict| !accepted.contains(verdict));
        let broken = rest().any(|verdict| verdict.exit_code() == 1);
        match rest().max() {
            _ if broken => 1,
            Some(_) if accepted.is_empty() => self.exit_code,
            worst => worst.unwrap_or(Verdict::Ok).exit_code(),
        }
    }
}

/// A witness outside of the cluster.
#[derive(Clone, Debug, Serialize)]
pub struct External {
    /// What the ledger said until then is cosigned by it, in nanoseconds since the epoch; behind that, trust is the operator's.
    pub until_ns: u64,
    /// Its name.
    pub by: String,
}

/// One stream.
#[derive(Clone, Debug, Serialize)]
pub struct StreamReport {
    /// Its name.
    pub sid: StreamId,
    /// The worst of its findings.
    pub verdict: Verdict,
    /// Records, each once.
    pub records: u64,
    /// Of them, those under a signed head.
    pub proved: u64,
    /// Size of the largest head that holds.
    pub size: u64,
    /// Earliest time in a record, in nanoseconds since the epoch; 0: none.
    pub first_ns: u64,
    /// Latest time.
    pub last_ns: u64,
    /// Whether it ended in order.
    pub closed: bool,
    /// Whether its first key was certified.
    pub certified: bool,
}

/// For how long records were without a witness (W3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exposure {
    /// Longest time from a record to the first cosigned head that covers it, in nanoseconds; `None`: no head was cosigned. A
    /// bound: of the heads that were cosigned, the export holds one in [`COSIGNED_SECONDS`].
    ///
    /// [`COSIGNED_SECONDS`]: crate::evidence::seal::COSIGNED_SECONDS
    pub longest_ns: Option<u64>,
    /// Times longer than the lag that is allowed: from the record to the cosignature, in nanoseconds since the epoch.
    pub windows: Vec<(StreamId, u64, u64)>,
    /// Records that no cosigned head covers.
    pub uncovered: u64,
}

/// Most windows of exposure that a report lists.
pub(super) const WINDOWS_MAX: usize = 1000;

/// What no verification of records can say.
pub(super) fn limits(trust: Basis, has_ledger: bool, of_some_sink: bool) -> Vec<String> {
    let mut limits = vec![
        "traffic that was not redirected to a sidecar is in no record".to_owned(),
        "a sidecar that was taken over could leave exchanges out, or write what was not, from then on".to_owned(),
    ];
    if !has_ledger {
        limits.push(
            "without the ledger, a stream that is missing as a whole is noticed only where another one names it".into(),
        );
        limits.push(
            "without the ledger, a tail that was cut off together with its heads looks like a stream that ended there"
                .into(),
        );
    }
    if trust == Basis::None && !has_ledger {
        limits.push(
            "without trust roots and ledger, a stream that was made up excuses what is missing of others of its pod"
                .into(),
        );
    }
    if of_some_sink {
        limits.push(
            "whose export this is was not said: what only another sink never got was accepted as absent, so that it may have been \
             removed here"
                .into(),
        );
    }
    if trust == Basis::None {
        limits.push("without trust roots, a stream that was made up as a whole looks like a genuine one".to_owned());
    }
    if trust != Basis::External {
        limits.push(
            "without a witness outside of the cluster, whoever has the operator's keys could have rewritten the past"
                .into(),
        );
    }
    limits
}
