//! Verdicts and findings (V1).

use super::fact::Place;
use crate::evidence::stream::StreamId;
use serde::Serialize;
use std::fmt;
use std::ops::Range;

/// What a finding amounts to. The order is that of severity; a report's verdict is the worst of its findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Everything is there, and proved.
    Ok,
    /// Removed by the ledger's order, which says by whom and why.
    Pruned,
    /// Erased, because somebody asked for it who may: the ledger says who did it and why.
    Erased,
    /// Newer than the last head, within the lag that is allowed.
    Pending,
    /// A filtered export: absence proves nothing.
    Partial,
    /// Exchanges that were not recorded, or records that were lost; declared and signed.
    Gap,
    /// A stream that neither ended in order nor is alive.
    Unclosed,
    /// No trusted key stands behind it.
    Unanchored,
    /// The attributes do not say what the body says.
    Projection,
    /// Of a version, or a form, that this verifier does not know.
    Unknown,
    /// Signed, but not there.
    Missing,
    /// There, but nothing signed proves it.
    Foreign,
    /// Not what was signed.
    Tampered,
    /// Two heads were signed that contradict each other.
    Fork,
}

impl Verdict {
    /// Exit code of the command line.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Ok | Self::Pruned | Self::Erased => 0,
            Self::Fork | Self::Tampered | Self::Foreign | Self::Missing | Self::Projection => 1,
            Self::Unclosed | Self::Gap => 2,
            Self::Unknown | Self::Unanchored | Self::Partial | Self::Pending => 3,
        }
    }

    /// All of them.
    const ALL: [Self; 14] = [
        Self::Ok,
        Self::Pruned,
        Self::Erased,
        Self::Pending,
        Self::Partial,
        Self::Gap,
        Self::Unclosed,
        Self::Unanchored,
        Self::Projection,
        Self::Unknown,
        Self::Missing,
        Self::Foreign,
        Self::Tampered,
        Self::Fork,
    ];

    /// The one that reports print so.
    pub(super) fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.as_str() == text)
    }

    /// Those that somebody may be content with: nothing is altered, and what is missing is declared or cannot be told yet.
    pub const ACCEPTABLE: [Self; 5] = [Self::Pending, Self::Partial, Self::Gap, Self::Unclosed, Self::Unanchored];

    /// As reports print it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Pruned => "PRUNED",
            Self::Erased => "ERASED",
            Self::Pending => "PENDING",
            Self::Partial => "PARTIAL",
            Self::Gap => "GAP",
            Self::Unclosed => "UNCLOSED",
            Self::Unanchored => "UNANCHORED",
            Self::Projection => "PROJECTION",
            Self::Unknown => "UNKNOWN",
            Self::Missing => "MISSING",
            Self::Foreign => "FOREIGN",
            Self::Tampered => "TAMPERED",
            Self::Fork => "FORK",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One thing that a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it amounts to.
    pub verdict: Verdict,
    /// Of which stream; `None`: of the export as a whole.
    pub stream: Option<StreamId>,
    /// Which records, by seq.
    pub records: Option<Range<u64>>,
    /// Where the record stands in the input.
    pub place: Option<Place>,
    /// For people.
    pub message: String,
}

impl Finding {
    /// A finding about records `[from, to)` of a stream.
    pub(super) fn of(verdict: Verdict, stream: &StreamId, records: Range<u64>, message: impl Into<String>) -> Self {
        Self { verdict, stream: Some(stream.clone()), records: Some(records), place: None, message: message.into() }
    }

    /// A finding about a stream as a whole.
    pub(super) fn whole(verdict: Verdict, stream: &StreamId, message: impl Into<String>) -> Self {
        Self { verdict, stream: Some(stream.clone()), records: None, place: None, message: message.into() }
    }

    /// A finding about the export.
    pub fn export(verdict: Verdict, message: impl Into<String>) -> Self {
        Self { verdict, stream: None, records: None, place: None, message: message.into() }
    }

    /// With where it stands in the input.
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<10} ", self.verdict)?;
        if let Some(stream) = &self.stream {
            write!(f, "{stream} ")?;
        }
        match &self.records {
            Some(records) if records.end == records.start.saturating_add(1) => write!(f, "record {}: ", records.start)?,
            Some(records) => write!(f, "records {} to {}: ", records.start, records.end.saturating_sub(1))?,
            None => {}
        }
        f.write_str(&self.message)
    }
}
