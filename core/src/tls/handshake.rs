//! Whether a handshake completed, told from the headers of the records of both directions, ServerHello, and alerts that come
//! in the clear. Nothing is decrypted.
//!
//! Up to TLS 1.2 a handshake is complete when each side has sent ChangeCipherSpec and, encrypted, its Finished. In TLS 1.3
//! all after ServerHello looks like application data. There the client's first such record proves that it has accepted the
//! server, and the server's next one that it has accepted the client; an alert among them is told by its length, which no
//! message of a handshake has.

use super::alert::{Alert, Side, is_harmless};
use super::records::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, Piece, Records};
use super::{Hello, Reader, client_hello, parse_alpn};

/// Most bytes of a ServerHello; the largest known, with a post-quantum key share, has a third of it.
pub const SERVER_HELLO_BYTES_MAX: usize = 4096;

/// The random of a HelloRetryRequest (RFC 8446 section 4.1.3): a ServerHello that asks for another ClientHello.
const RETRY_RANDOM: [u8; 32] = [
    0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11, 0xBE, 0x1D, 0x8C, 0x02, 0x1E, 0x65, 0xB8, 0x91, 0xC2, 0xA2, 0x11,
    0x16, 0x7A, 0xBB, 0x8C, 0x5E, 0x07, 0x9E, 0x09, 0xE2, 0xC8, 0xA8, 0x33, 0x9C,
];

/// How far a handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeStatus {
    /// It was not seen to complete.
    Incomplete,
    /// Each side has accepted the other.
    Completed,
    /// An alert ended it.
    Failed,
}

impl HandshakeStatus {
    /// As it stands in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

/// Watches one connection. Memory: the ClientHello until it is understood
/// ([`super::CLIENT_HELLO_BYTES_MAX`]), [`SERVER_HELLO_BYTES_MAX`] of the server's, two record headers.
#[derive(Clone, Debug)]
pub struct Handshake {
    client_hello: Option<Vec<u8>>,
    server_name: Option<String>,
    alpn_offered: Vec<String>,
    alpn_selected: Option<String>,
    version: Option<&'static str>,
    alert: Option<Alert>,
    client: Records,
    server: Records,
    /// Payload that is being put together: the server's hello; an alert of either side.
    server_hello: Vec<u8>,
    alert_bytes: [Vec<u8>; 2],
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before ServerHello.
    Begun {
        early_data: bool,
    },
    /// TLS 1.2 or older.
    Legacy {
        client: Half,
        server: Half,
    },
    /// TLS 1.3.
    Modern(Modern),
    Over(HandshakeStatus),
    /// It is no TLS.
    Foreign,
}

/// One side of a handshake up to TLS 1.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Half {
    #[default]
    Plain,
    Encrypts,
    Finished,
}

#[derive(Clone, Copy, Debug)]
struct Modern {
    /// Bytes that encryption adds: content type and tag.
    overhead: u16,
    /// The client sent data ahead of ServerHello, so that its records do not prove that it has seen the server's.
    early_data: bool,
    /// The client has accepted the server.
    client_flight: bool,
    /// The client has sent an alert after that: it goes, in order.
    client_goes: bool,
}

impl Default for Handshake {
    fn default() -> Self {
        Self {
            client_hello: Some(Vec::new()),
            server_name: None,
            alpn_offered: Vec::new(),
            alpn_selected: None,
            version: None,
            alert: None,
            client: Records::default(),
            server: Records::default(),
            server_hello: Vec::new(),
            alert_bytes: [Vec::new(), Vec::new()],
            state: State::Begun { early_data: false },
        }
    }
}

impl Handshake {
    /// Bytes from the client, in order.
    pub fn from_client(&mut self, input: &[u8]) {
        self.read_client_hello(input);
        self.read(Side::Client, input);
    }

    /// Bytes from the server, in order.
    pub fn from_server(&mut self, input: &[u8]) {
        self.read(Side::Server, input);
    }

    /// How far it is; `None`: it is no TLS.
    pub fn status(&self) -> Option<HandshakeStatus> {
        match self.state {
            State::Over(status) => Some(status),
            State::Foreign => None,
            // Nothing more came from the server, but the client has accepted it and went in order.
            State::Modern(modern) if modern.client_goes => Some(HandshakeStatus::Completed),
            State::Begun { .. } | State::Legacy { .. } | State::Modern(_) => Some(HandshakeStatus::Incomplete),
        }
    }

    /// The server name that the client asked for.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The protocols that the client offered, at most [`super::ALPN_COUNT_MAX`].
    pub fn alpn_offered(&self) -> &[String] {
        &self.alpn_offered
    }

    /// The protocol that the server chose; it is encrypted from TLS 1.3 on.
    pub fn alpn_selected(&self) -> Option<&str> {
        self.alpn_selected.as_deref()
    }

    /// The version that the server chose: `1.3`, `1.2`, `1.1`, `1.0`.
    pub fn version(&self) -> Option<&'static str> {
        self.version
    }

    /// The alert that ended it.
    pub fn alert(&self) -> Option<Alert> {
        self.alert
    }

    fn read_client_hello(&mut self, input: &[u8]) {
        let Some(prefix) = &mut self.client_hello else { return };
        prefix.extend_from_slice(input);
        match client_hello(prefix) {
            Hello::NeedMore => return,
            Hello::Parsed { server_name, alpn } => {
                self.server_name = server_name;
                self.alpn_offered = alpn;
            }
            // An alert that ended it before stays what it was.
            Hello::Invalid if matches!(self.state, State::Over(_)) => {}
            Hello::Invalid => self.state = State::Foreign,
        }
        self.client_hello = None;
    }

    fn read(&mut self, side: Side, mut input: &[u8]) {
        while !matches!(self.state, State::Over(_) | State::Foreign) {
            let records = if side == Side::Client { &mut self.client } else { &mut self.server };
            match records.next(&mut input) {
                None => return,
                Some(Piece::Malformed) => self.over(HandshakeStatus::Incomplete),
                Some(Piece::Record { kind, length }) => self.record(side, kind, length),
                Some(Piece::Payload { kind, bytes }) => self.payload(side, kind, bytes),
            }
        }
    }

    fn over(&mut self, status: HandshakeStatus) {
        self.state = State::Over(status);
        self.server_hello = Vec::new();
        self.alert_bytes = [Vec::new(), Vec::new()];
    }

    fn failed(&mut self, side: Side, description: Option<u8>) {
        self.alert = Some(Alert { side, description });
        self.over(HandshakeStatus::Failed);
    }

    /// A record begins.
    fn record(&mut self, side: Side, kind: u8, length: u16) {
        if kind == ALERT {
            // In the clear it is two bytes, which come as payload.
            if length != 2 {
                self.failed(side, None);
            }
            return;
        }
        match &mut self.state {
            State::Begun { early_data } if kind == APPLICATION_DATA && side == Side::Client => *early_data = true,
            State::Begun { .. } if kind == APPLICATION_DATA => self.over(HandshakeStatus::Incomplete),
            State::Legacy { client, server } => {
                let half = if side == Side::Client { &mut *client } else { &mut *server };
                match (*half, kind) {
                    (Half::Plain, CHANGE_CIPHER_SPEC) => *half = Half::Encrypts,
                    (Half::Encrypts, HANDSHAKE) => *half = Half::Finished,
                    _ => {}
                }
                if (*client, *server) == (Half::Finished, Half::Finished) {
                    self.over(HandshakeStatus::Completed);
                }
            }
            State::Modern(modern) if kind == APPLICATION_DATA => {
                let alert = length == 2 + modern.overhead;
                match (side, modern.client_flight) {
                    (_, false) if alert => self.failed(side, None),
                    (Side::Client, false) => modern.client_flight = modern.is_flight(length),
                    (Side::Client, true) => modern.client_goes |= alert,
                    (Side::Server, false) => {}
                    (Side::Server, true) if alert && !modern.client_goes => self.failed(side, None),
                    (Side::Server, true) => self.over(HandshakeStatus::Completed),
                }
            }
            State::Begun { .. } | State::Modern(_) | State::Over(_) | State::Foreign => {}
        }
    }

    fn payload(&mut self, side: Side, kind: u8, bytes: &[u8]) {
        if kind == ALERT {
            let [client, server] = &mut self.alert_bytes;
            let gathered = if side == Side::Client { client } else { server };
            gathered.extend(bytes.iter().take(2));
            if let [level, description, ..] = *gathered.as_slice() {
                gathered.clear();
                let modern = matches!(self.state, State::Modern(_));
                if modern || !is_harmless(level, description) {
                    self.failed(side, Some(description));
                }
            }
        } else if let (State::Begun { early_data }, Side::Server, HANDSHAKE) = (self.state, side, kind) {
            let room = SERVER_HELLO_BYTES_MAX.saturating_sub(self.server_hello.len());
            self.server_hello.extend(bytes.iter().take(room));
            match server_hello(&self.server_hello) {
                ServerHello::NeedMore if room > bytes.len() => {}
                ServerHello::NeedMore | ServerHello::Invalid => self.over(HandshakeStatus::Incomplete),
                ServerHello::Retry => self.server_hello.clear(),
                ServerHello::Chosen { version, overhead, alpn } => {
                    self.server_hello = Vec::new();
                    self.version = version_name(version);
                    self.alpn_selected = alpn;
                    self.state = if version >= 0x0304 {
                        State::Modern(Modern { overhead, early_data, client_flight: false, client_goes: false })
                    } else {
                        State::Legacy { client: Half::Plain, server: Half::Plain }
                    };
                }
            }
        }
    }
}

impl Modern {
    /// Whether a record of the client that is no alert can be its answer to the server's Finished. After early data only
    /// EndOfEarlyData (no bytes) and a Finished of 32 or 48 are taken for it: each has a header of 4.
    const fn is_flight(&self, length: u16) -> bool {
        let message = length.saturating_sub(self.overhead);
        !self.early_data || matches!(message, 4 | 36 | 52)
    }
}

const fn version_name(version: u16) -> Option<&'static str> {
    match version {
        0x0304 => Some("1.3"),
        0x0303 => Some("1.2"),
        0x0302 => Some("1.1"),
        0x0301 => Some("1.0"),
        _ => None,
    }
}

enum ServerHello {
    NeedMore,
    Invalid,
    /// HelloRetryRequest.
    Retry,
    Chosen {
        version: u16,
        overhead: u16,
        alpn: Option<String>,
    },
}

/// Reads the server's first handshake message.
fn server_hello(message: &[u8]) -> ServerHello {
    let body = match message {
        [] => return ServerHello::NeedMore,
        [2, a, b, c, rest @ ..] => rest.get(..u32::from_be_bytes([0, *a, *b, *c]) as usize),
        [2, ..] => None,
        _ => return ServerHello::Invalid,
    };
    match body {
        None => ServerHello::NeedMore,
        Some(body) => parse_server_hello(body).unwrap_or(ServerHello::Invalid),
    }
}

/// `None` when it is malformed.
fn parse_server_hello(body: &[u8]) -> Option<ServerHello> {
    let mut reader = Reader(body);
    let mut version = reader.u16()?;
    let random = reader.take(32)?;
    let _session_id = reader.vec8()?;
    let cipher_suite = reader.u16()?;
    let _compression = reader.u8()?;
    let mut alpn = None;
    reader.extensions(|kind, data| {
        match kind {
            16 => alpn = parse_alpn(data)?.into_iter().next(),
            43 => version = Reader(data).u16()?,
            _ => {}
        }
        Some(())
    })?;
    if random == RETRY_RANDOM {
        return Some(ServerHello::Retry);
    }
    // TLS_AES_128_CCM_8_SHA256 has a tag of 8 bytes, all others of TLS 1.3 have one of 16.
    let overhead = if cipher_suite == 0x1305 { 9 } else { 17 };
    Some(ServerHello::Chosen { version: u16::try_from(version).ok()?, overhead, alpn })
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
