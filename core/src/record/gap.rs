//! Exchanges that have no record: how many, when and why (G1).

/// Why exchanges have no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GapReason {
    /// No place was left for the record.
    QueueFull,
    /// The worker died with exchanges in flight and records in memory.
    WorkerDied,
    /// A record over the limit of its body even after cutting.
    RecordTooLong,
    /// The stream was closed already.
    Closed,
    /// The spool is full: sinks take less than comes.
    SpoolFull,
    /// The spool's disk fails.
    DiskFailed,
    /// A defect of the sidecar; its log says more.
    Defect,
}

impl GapReason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::QueueFull,
        Self::WorkerDied,
        Self::RecordTooLong,
        Self::Closed,
        Self::SpoolFull,
        Self::DiskFailed,
        Self::Defect,
    ];

    /// As it stands in records and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::WorkerDied => "worker_died",
            Self::RecordTooLong => "record_too_long",
            Self::Closed => "closed",
            Self::SpoolFull => "spool_full",
            Self::DiskFailed => "disk_failed",
            Self::Defect => "defect",
        }
    }
}

/// Exchanges that were lost together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How many; a lower bound when not `exact`.
    pub count: u64,
    /// Whether `count` is exact.
    pub exact: bool,
    /// Earliest time of a lost exchange, in nanoseconds since the epoch.
    pub from_ns: u64,
    /// Latest time of a lost exchange, in nanoseconds since the epoch.
    pub to_ns: u64,
    /// Why.
    pub reason: GapReason,
}
