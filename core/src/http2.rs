//! The frames of HTTP/2 as they go by: where each begins, and the few that tell something about the connection.
//!
//! This is no implementation of HTTP/2. The proxy speaks it by a library that keeps some things to itself: the peer's
//! SETTINGS, that a GOAWAY came, which streams it refused. A [`FrameWatch`] reads these from the bytes.

/// The client's connection preface (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's header.
const HEADER_BYTES: usize = 9;

/// Bytes of a payload that are kept: a setting has 6, RST_STREAM 4, of GOAWAY the first 8 count.
const PAYLOAD_BYTES_KEPT: usize = 8;

/// A peer's SETTINGS that matter to a proxy; absent ones have RFC 9113's initial value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Most streams that the other side may have open.
    pub max_concurrent_streams: Option<u32>,
    /// Window of a new stream, in bytes.
    pub initial_window_bytes: Option<u32>,
    /// Largest payload of a frame, in bytes.
    pub max_frame_bytes: Option<u32>,
    /// Largest header list, in bytes by RFC 9113 section 6.5.2.
    pub max_header_list_bytes: Option<u32>,
    /// Extended CONNECT (RFC 8441) is allowed.
    pub extended_connect: bool,
}

/// Something that a frame tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The first frame of the connection was SETTINGS, with these values.
    FirstSettings(Settings),
    /// The first frame was another one: this is not HTTP/2.
    NoSettings,
    /// HEADERS of this stream, without its CONTINUATION frames.
    Headers(u32),
    /// RST_STREAM.
    Reset {
        /// Of this stream,
        stream: u32,
        /// with this code.
        code: u32,
    },
    /// GOAWAY.
    GoAway {
        /// Highest stream that may have been processed.
        last_stream: u32,
        /// Why.
        code: u32,
    },
}

/// Follows the frames of one direction, in whatever pieces they come. Holds some 50 bytes.
#[derive(Clone, Debug)]
pub struct FrameWatch {
    /// Bytes of the preface that are still to come.
    preface: usize,
    header: [u8; HEADER_BYTES],
    have: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
    kept: [u8; PAYLOAD_BYTES_KEPT],
    kept_len: usize,
    settings: Settings,
    is_first: bool,
    /// In a header block that is not whole: HEADERS without END_HEADERS, and CONTINUATION.
    in_block: bool,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

impl FrameWatch {
    /// For what a client sends: its preface, then frames.
    pub const fn of_client() -> Self {
        Self::new(PREFACE.len())
    }

    /// For what a server sends.
    pub const fn of_server() -> Self {
        Self::new(0)
    }

    const fn new(preface: usize) -> Self {
        Self {
            preface,
            header: [0; HEADER_BYTES],
            have: 0,
            left: 0,
            kept: [0; PAYLOAD_BYTES_KEPT],
            kept_len: 0,
            settings: Settings {
                max_concurrent_streams: None,
                initial_window_bytes: None,
                max_frame_bytes: None,
                max_header_list_bytes: None,
                extended_connect: false,
            },
            is_first: true,
            in_block: false,
        }
    }

    /// Whether the peer is in the middle of a header block, or of a frame's header.
    pub fn is_in_head(&self) -> bool {
        let in_header = self.have > 0 && self.have < HEADER_BYTES;
        let in_headers = self.left > 0 && matches!(self.kind(), HEADERS | CONTINUATION);
        self.preface > 0 || self.in_block || in_header || in_headers
    }

    /// The next bytes; `tell` is called for what they show, in their order.
    pub fn feed(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Seen)) {
        let skipped = self.preface.min(bytes.len());
        self.preface = self.preface.saturating_sub(skipped);
        bytes = bytes.get(skipped..).unwrap_or_default();
        while !bytes.is_empty() {
            if self.have < HEADER_BYTES {
                let free = self.header.get_mut(self.have..).unwrap_or_default();
                let taken = free.len().min(bytes.len());
                let (now, rest) = bytes.split_at_checked(taken).unwrap_or((bytes, b""));
                for (slot, byte) in free.iter_mut().zip(now) {
                    *slot = *byte;
                }
                self.have = self.have.saturating_add(taken);
                bytes = rest;
                if self.have < HEADER_BYTES {
                    return;
                }
                self.begin(&mut tell);
            } else {
                let taken = self.left.min(bytes.len());
                let (now, rest) = bytes.split_at_checked(taken).unwrap_or((bytes, b""));
                if self.is_kept() {
                    self.keep(now);
                }
                self.left = self.left.saturating_sub(taken);
                bytes = rest;
            }
            if self.left == 0 {
                self.end(&mut tell);
                self.have = 0;
            }
        }
    }

    fn kind(&self) -> u8 {
        let [_, _, _, kind, ..] = self.header;
        kind
    }

    fn flags(&self) -> u8 {
        let [_, _, _, _, flags, ..] = self.header;
        flags
    }

    fn stream(&self) -> u32 {
        let [.., a, b, c, d] = self.header;
        u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff
    }

    fn is_kept(&self) -> bool {
        match self.kind() {
            RST_STREAM | GOAWAY => true,
            SETTINGS => self.is_first,
            _ => false,
        }
    }

    /// A frame's header is whole.
    fn begin(&mut self, tell: &mut impl FnMut(Seen)) {
        let [a, b, c, ..] = self.header;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        self.kept_len = 0;
        let kind = self.kind();
        if self.is_first && (kind != SETTINGS || self.flags() & ACK != 0) {
            self.is_first = false;
            tell(Seen::NoSettings);
        }
        match kind {
            HEADERS => {
                self.in_block = self.flags() & END_HEADERS == 0;
                tell(Seen::Headers(self.stream()));
            }
            CONTINUATION if self.flags() & END_HEADERS != 0 => self.in_block = false,
            _ => {}
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(slot) = self.kept.get_mut(self.kept_len) {
                *slot = *byte;
                self.kept_len = self.kept_len.saturating_add(1);
            }
            let [a, b, c, d, e, f, ..] = self.kept;
            if self.kind() == SETTINGS && self.kept_len == 6 {
                self.set(u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]));
                self.kept_len = 0;
            }
        }
    }

    fn set(&mut self, id: u16, value: u32) {
        match id {
            3 => self.settings.max_concurrent_streams = Some(value),
            4 => self.settings.initial_window_bytes = Some(value),
            5 => self.settings.max_frame_bytes = Some(value),
            6 => self.settings.max_header_list_bytes = Some(value),
            8 => self.settings.extended_connect = value == 1,
            _ => {}
        }
    }

    /// A frame is whole.
    fn end(&mut self, tell: &mut impl FnMut(Seen)) {
        let [a, b, c, d, e, f, g, h] = self.kept;
        let (first, second) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        match self.kind() {
            SETTINGS if self.is_first => {
                self.is_first = false;
                tell(Seen::FirstSettings(self.settings));
            }
            RST_STREAM if self.kept_len >= 4 => tell(Seen::Reset { stream: self.stream(), code: first }),
            GOAWAY if self.kept_len >= 8 => {
                tell(Seen::GoAway { last_stream: first & 0x7fff_ffff, code: second });
            }
            DATA => {}
            _ => {}
        }
    }
}

/// Whether these first bytes of a server can begin HTTP/2: with a SETTINGS frame that is no acknowledgement (RFC 9113
/// section 3.4). A server need not wait for the client's preface.
pub fn begins_settings(bytes: &[u8]) -> bool {
    // Length below 2^14, a multiple of 6; type; flags; stream 0.
    let checks: [fn(u8) -> bool; HEADER_BYTES] = [
        |b| b == 0,
        |b| b < 0x40,
        |_| true,
        |b| b == SETTINGS,
        |b| b == 0,
        |b| b == 0,
        |b| b == 0,
        |b| b == 0,
        |b| b == 0,
    ];
    let length_fits = match bytes {
        [_, high, low, ..] => u16::from_be_bytes([*high, *low]).is_multiple_of(6),
        _ => true,
    };
    length_fits && bytes.iter().zip(checks).all(|(byte, check)| check(*byte))
}

/// Name of an error code (RFC 9113 section 7), as it stands in records.
pub const fn error_name(code: u32) -> &'static str {
    match code {
        0 => "no_error",
        1 => "protocol_error",
        2 => "internal_error",
        3 => "flow_control_error",
        4 => "settings_timeout",
        5 => "stream_closed",
        6 => "frame_size_error",
        7 => "refused_stream",
        8 => "cancel",
        9 => "compression_error",
        10 => "connect_error",
        11 => "enhance_your_calm",
        12 => "inadequate_security",
        13 => "http_1_1_required",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn setting(id: u16, value: u32) -> Vec<u8> {
        [id.to_be_bytes().as_slice(), &value.to_be_bytes()].concat()
    }

    fn watch<'a>(mut watch: FrameWatch, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Seen>, bool) {
        let mut seen = Vec::new();
        pieces.into_iter().for_each(|piece| watch.feed(piece, |s| seen.push(s)));
        (seen, watch.is_in_head())
    }

    fn sample() -> Vec<u8> {
        let settings =
            [setting(3, 7), setting(0xf000, 1), setting(4, 65_535), setting(5, 20_000), setting(6, 900), setting(8, 1)];
        [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &settings.concat()),
            frame(SETTINGS, ACK, 0, &[]),
            frame(HEADERS, END_HEADERS, 1, b"block"),
            frame(DATA, 0, 1, &[RST_STREAM; 40]),
            frame(HEADERS, 0, 3, b"bl"),
            frame(CONTINUATION, END_HEADERS, 3, b"ock"),
            frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()),
            frame(SETTINGS, 0, 0, &setting(3, 1)),
            frame(GOAWAY, 0, 0, &[3_u32.to_be_bytes().as_slice(), &11_u32.to_be_bytes(), b"too_many_pings"].concat()),
        ]
        .concat()
    }

    #[test]
    fn every_split_of_a_connection() {
        let bytes = sample();
        let settings = Settings {
            max_concurrent_streams: Some(7),
            initial_window_bytes: Some(65_535),
            max_frame_bytes: Some(20_000),
            max_header_list_bytes: Some(900),
            extended_connect: true,
        };
        let wanted = vec![
            Seen::FirstSettings(settings),
            Seen::Headers(1),
            Seen::Headers(3),
            Seen::Reset { stream: 1, code: 8 },
            Seen::GoAway { last_stream: 3, code: 11 },
        ];
        for at in 0..=bytes.len() {
            let (before, after) = bytes.split_at(at);
            assert_eq!(watch(FrameWatch::of_client(), [before, after]), (wanted.clone(), false), "split at {at}");
            let (seen, _) = watch(FrameWatch::of_client(), [before]);
            assert!(wanted.starts_with(&seen), "prefix of {at}");
        }
        assert_eq!(watch(FrameWatch::of_client(), bytes.chunks(1)).0, wanted);
    }

    #[test]
    fn a_head_that_is_not_whole_shows() {
        let cut = |kind, flags, bytes: usize| {
            let head = frame(kind, flags, 1, b"block");
            watch(FrameWatch::of_server(), [frame(SETTINGS, 0, 0, &[]).as_slice(), &head[..bytes]]).1
        };
        assert!(!cut(HEADERS, END_HEADERS, 0) && cut(HEADERS, END_HEADERS, 1) && cut(HEADERS, END_HEADERS, 13));
        assert!(!cut(HEADERS, END_HEADERS, 14) && cut(HEADERS, 0, 14));
        assert!(!cut(DATA, 0, 12) && cut(DATA, 0, 8));
    }

    #[test]
    fn what_is_no_http2_shows_at_once() {
        let (seen, _) = watch(FrameWatch::of_server(), [b"HTTP/1.1 400 Bad Request\r\n".as_slice()]);
        assert_eq!(seen.first(), Some(&Seen::NoSettings));
        let ack = frame(SETTINGS, ACK, 0, &[]);
        assert_eq!(watch(FrameWatch::of_server(), [ack.as_slice()]).0, [Seen::NoSettings]);
    }

    #[test]
    fn a_server_that_speaks_first_can_be_told() {
        let settings = frame(SETTINGS, 0, 0, &setting(3, 7));
        assert!((0..=settings.len()).all(|end| begins_settings(&settings[..end])));
        assert!(begins_settings(&frame(SETTINGS, 0, 0, &[])));
        for other in [
            frame(SETTINGS, 0, 0, b"12345"),
            frame(SETTINGS, ACK, 0, &[]),
            frame(DATA, 0, 0, &[]),
            frame(SETTINGS, 0, 1, &[]),
            b"SSH-2.0-x".to_vec(),
            b"220 smtp".to_vec(),
            b"\x4a\x00\x00\x00\x0a8.0.36".to_vec(),
        ] {
            assert!(!begins_settings(&other), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_show_the_same(
            bytes in proptest::collection::vec(prop_oneof![4 => Just(0_u8), 2 => 0..10_u8, 1 => any::<u8>()], 0..300),
            size in 1..20_usize,
        ) {
            let whole = watch(FrameWatch::of_server(), [bytes.as_slice()]);
            prop_assert_eq!(whole, watch(FrameWatch::of_server(), bytes.chunks(size)));
        }
    }
}
