//! The two names of a record's kind: `typ` in the body (R5), and `event_name` in OTLP.

/// Kind of a record by its place in the evidence: `typ` in the body (R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Typ {
    /// A stream begins.
    Open,
    /// Its first key has a certificate.
    Certified,
    /// An earlier stream was found, and how far it went.
    Recovered,
    /// Another policy is in force.
    Policy,
    /// The wall clock stepped.
    Clock,
    /// An exchange is still open.
    Stage,
    /// An exchange.
    Exchange,
    /// Identical refused exchanges, folded.
    Burst,
    /// Exchanges that have no record.
    Gap,
    /// Sealed records that are not there.
    Hole,
    /// Totals, and at the end of an epoch the next key.
    Checkpoint,
    /// A stream ends.
    Close,
    /// A signed head: no leaf of a stream.
    Head,
}

impl Typ {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Open,
        Self::Certified,
        Self::Recovered,
        Self::Policy,
        Self::Clock,
        Self::Stage,
        Self::Exchange,
        Self::Burst,
        Self::Gap,
        Self::Hole,
        Self::Checkpoint,
        Self::Close,
        Self::Head,
    ];

    /// As it stands in the body.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Certified => "certified",
            Self::Recovered => "recovered",
            Self::Policy => "policy",
            Self::Clock => "clock",
            Self::Stage => "stage",
            Self::Exchange => "exchange",
            Self::Burst => "burst",
            Self::Gap => "gap",
            Self::Hole => "hole",
            Self::Checkpoint => "checkpoint",
            Self::Close => "close",
            Self::Head => "head",
        }
    }

    /// The kind that is written so.
    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|typ| typ.as_str().as_bytes() == text)
    }

    /// Its number in the frames of a spool. Never given to another kind.
    pub const fn code(self) -> u8 {
        self as u8 + 1
    }

    /// The event of a record that is made of our own facts alone.
    pub const fn event(self) -> EventName {
        match self {
            Self::Open => EventName::RecordingStarted,
            Self::Certified => EventName::RecordingCertified,
            Self::Recovered => EventName::RecordingRecovered,
            Self::Policy => EventName::RecordingPolicy,
            Self::Clock => EventName::RecordingClock,
            Self::Stage => EventName::StreamProgress,
            Self::Exchange => EventName::HttpRequest,
            Self::Burst => EventName::RecordingBurst,
            Self::Gap => EventName::Gap,
            Self::Hole => EventName::Hole,
            Self::Checkpoint | Self::Head => EventName::Checkpoint,
            Self::Close => EventName::RecordingStopped,
        }
    }
}

macro_rules! events {
    ($( $variant:ident $name:literal, $doc:literal; )*) => {
        /// What kind of event a record is: `event_name` in OTLP, from a closed set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum EventName { $( #[doc = $doc] $variant, )* }

        impl EventName {
            /// All of them.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// As it stands in OTLP.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $name, )* }
            }
        }
    };
}

events! {
    HttpRequest "audit.http.request", "One HTTP request with its response.";
    RpcCall "audit.rpc.call", "One call of gRPC.";
    StreamOpen "audit.stream.open", "A stream (WebSocket, CONNECT, server-sent events) or a slow HTTP exchange, early in its life.";
    StreamProgress "audit.stream.progress", "The same, still open later.";
    StreamClose "audit.stream.close", "A stream, at its end.";
    TcpOpen "audit.tcp.open", "An opaque connection, early in its life.";
    TcpProgress "audit.tcp.progress", "An opaque connection, still open later.";
    TcpClose "audit.tcp.close", "An opaque connection, at its end.";
    TlsFailed "audit.tls.failed", "A TLS connection whose handshake failed, at its end.";
    Gap "audit.gap", "Exchanges that have no record.";
    Hole "audit.hole", "Sealed records that are not there.";
    Checkpoint "audit.checkpoint", "Totals of a stream, or its signed head.";
    RecordingStarted "audit.recording.started", "A stream begins.";
    RecordingStopped "audit.recording.stopped", "A stream ends.";
    RecordingCertified "audit.recording.certified", "A stream's first key has a certificate.";
    RecordingRecovered "audit.recording.recovered", "An earlier stream was found, and how far it went.";
    RecordingPolicy "audit.recording.policy", "Another policy is in force.";
    RecordingClock "audit.recording.clock", "The wall clock stepped.";
    RecordingBurst "audit.recording.burst", "Identical refused exchanges, folded.";
}

impl EventName {
    /// Whether it shows an exchange that is still open.
    pub const fn is_stage(self) -> bool {
        matches!(self, Self::StreamOpen | Self::StreamProgress | Self::TcpOpen | Self::TcpProgress)
    }
}
