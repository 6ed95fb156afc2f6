//! The two names of a record's kind: `typ` in the body (R5), and `event_name` in OTLP.

macro_rules! kinds {
    ($( $variant:ident $name:literal $doc:literal; )*) => {
        /// Kind of a record by its place in the evidence: `typ` in the body (R5).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Typ { $( #[doc = $doc] $variant, )* }

        impl Typ {
            /// All of them.
            pub const ALL: [Self; 13] = [ $( Self::$variant, )* ];

            /// As it stands in the body.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $name, )* }
            }

            /// What it tells.
            pub const fn doc(self) -> &'static str {
                match self { $( Self::$variant => $doc, )* }
            }
        }
    };
}

// New kinds come last: their numbers stand in spools.
kinds! {
    Open "open" "A stream begins: its first key, and who writes it.";
    Certified "certified" "The stream's first key has a certificate.";
    Recovered "recovered" "An earlier stream was found, and how far it went.";
    Policy "policy" "Another policy is in force.";
    Clock "clock" "The wall clock stepped by a second or more.";
    Stage "stage" "An exchange is still open.";
    Exchange "exchange" "An exchange, at its end.";
    Burst "burst" "Identical refused exchanges of one peer above 50 a second, folded, with their count.";
    Gap "gap" "Exchanges that have no record, with their count.";
    Hole "hole" "Sealed records that are not there, or that one sink never gets, with their hashes.";
    Checkpoint "checkpoint" "Totals of the stream so far, and at the end of an epoch the next key.";
    Close "close" "The stream ends: its totals.";
    Head "head" "A signed head: size and root of the stream. It is no record of the stream and has no `seq`.";
}

impl Typ {
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

// New events come last: their numbers stand in spools.
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
    /// Its number in what is kept of a record. Never given to another event.
    pub const fn code(self) -> u8 {
        self as u8 + 1
    }

    /// The event of this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code.checked_sub(1)?)).copied()
    }

    /// Whether it shows an exchange that is still open.
    pub const fn is_stage(self) -> bool {
        matches!(self, Self::StreamOpen | Self::StreamProgress | Self::TcpOpen | Self::TcpProgress)
    }
}
