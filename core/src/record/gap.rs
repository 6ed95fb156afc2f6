//! Gap records: how many records were lost, when and why (G1, as far as a queue in memory knows it).

use super::{EventName, Field, RECORD_VERSION, Record, Redacted, Stamp, uuid_v7};

/// Why records were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GapReason {
    /// The sink's queue was full.
    QueueFull,
    /// The sink refused them for good.
    Rejected,
    /// The worker died with exchanges in flight and records in memory.
    WorkerDied,
    /// A record over the limit of its body even after cutting.
    RecordTooLong,
}

impl GapReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::QueueFull, Self::Rejected, Self::WorkerDied, Self::RecordTooLong];

    /// As it stands in records and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Rejected => "rejected",
            Self::WorkerDied => "worker_died",
            Self::RecordTooLong => "record_too_long",
        }
    }
}

/// Records that were lost together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How many; a lower bound when not `exact`.
    pub count: u64,
    /// Whether `count` is exact.
    pub exact: bool,
    /// Earliest time of a lost record, in nanoseconds since the epoch.
    pub from_ns: u64,
    /// Latest time of a lost record, in nanoseconds since the epoch.
    pub to_ns: u64,
    /// Why.
    pub reason: GapReason,
}

/// The record of a gap. It holds nothing but our own counters, so there is nothing to redact.
pub fn gap_record(gap: &Gap, revision: &str, now: Stamp, random: u128) -> Redacted<Record> {
    let mut record = Record::new(EventName::Gap);
    record.set(Field::V, RECORD_VERSION.as_bytes());
    record.set(Field::Typ, b"gap");
    record.set(Field::Id, &uuid_v7(now.wall_ns, random));
    record.set_int(Field::T0, now.wall_ns);
    record.set_int(Field::Count, gap.count);
    record.set(Field::Exact, if gap.exact { b"1" } else { b"0" });
    record.set_int(Field::From, gap.from_ns);
    record.set_int(Field::T1, gap.to_ns);
    record.set(Field::GapReason, gap.reason.as_str().as_bytes());
    record.set(Field::PolicyRevision, revision.as_bytes());
    record.set(Field::Outcome, b"unknown");
    record.set(Field::Action, b"GAP");
    record.set(Field::Actor, b"testimony");
    record.set(Field::ActorType, b"system");
    Redacted::new(record)
}
