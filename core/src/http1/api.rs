//! What the framing machine tells its observer, and what the observer may ask of it.

use super::HeadEdit;
use httparse::Header;

/// Limits of one HTTP/1 connection, each with its behaviour when reached.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest request or response head, and longest trailer section, in bytes. Longer: refused.
    pub head_bytes_max: usize,
    /// Most header fields in one head or trailer section (at most 256). More: refused.
    pub header_count_max: usize,
    /// Longest chunk-size line with its extensions, in bytes. Longer: refused.
    pub chunk_line_bytes_max: usize,
    /// Most exchanges in flight on one connection. At the limit nothing more is read from the client until one ends.
    pub pipelined_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes_max: 64 * 1024, header_count_max: 128, chunk_line_bytes_max: 4096, pipelined_max: 32 }
    }
}

/// Number of an exchange on its connection, from 0: `conn_seq` of the record.
pub type ConnSeq = u64;

/// A complete request head that keeps to section 10 of the design, before anything was added to it.
#[derive(Debug)]
pub struct RequestHead<'a> {
    /// Method, as sent.
    pub method: &'a str,
    /// Request target, as sent: origin, absolute, authority or asterisk form (RFC 9112 section 3.2).
    pub target: &'a str,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor_version: u8,
    /// Fields in wire order, repeats kept.
    pub fields: &'a [Header<'a>],
    /// Length of the head on the wire.
    pub head_bytes: u64,
}

/// A complete response head: interim (1xx but 101) or final.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    /// Status code, 100 to 999.
    pub status: u16,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor_version: u8,
    /// Fields in wire order, repeats kept.
    pub fields: &'a [Header<'a>],
    /// Length of the head on the wire.
    pub head_bytes: u64,
}

/// What befell an exchange at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Request and response went through whole.
    Complete,
    /// The response was 101, or 2xx to CONNECT, and the tunnel that it opened was closed by both sides. A tunnel that was
    /// cut ends with one of the other values instead.
    TunnelClosed,
    /// The client went away before the response was whole.
    ClientGone,
    /// The upstream went away, or was never reached, before the response was whole.
    UpstreamGone,
    /// We refused the request (400) for this reason.
    RequestRefused(Refusal),
    /// We refused the response (502, or reset) for this reason.
    ResponseRefused(Refusal),
    /// A deadline passed.
    TimedOut,
    /// We are shutting down.
    Drained,
}

/// Why a message was refused: section 10 of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Refusal {
    MalformedHead,
    HeadTooLong,
    TooManyHeaders,
    LengthWithTransferEncoding,
    BadContentLength,
    BadTransferEncoding,
    TransferEncodingInHttp10,
    ObsoleteFold,
    BareCrLfOrNul,
    SpaceBeforeColon,
    BadFieldName,
    MissingHost,
    DuplicateHost,
    BadChunkSize,
    ChunkLineTooLong,
    BadTrailer,
    UnsolicitedResponse,
    /// `failureMode: Closed`, and it cannot be recorded: 503.
    AuditFailed,
}

impl Refusal {
    /// Stable name for records, metrics and docs: `length_with_transfer_encoding`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MalformedHead => "malformed_head",
            Self::HeadTooLong => "head_too_long",
            Self::TooManyHeaders => "too_many_headers",
            Self::LengthWithTransferEncoding => "length_with_transfer_encoding",
            Self::BadContentLength => "bad_content_length",
            Self::BadTransferEncoding => "bad_transfer_encoding",
            Self::TransferEncodingInHttp10 => "transfer_encoding_in_http10",
            Self::ObsoleteFold => "obsolete_fold",
            Self::BareCrLfOrNul => "bare_cr_lf_or_nul",
            Self::SpaceBeforeColon => "space_before_colon",
            Self::BadFieldName => "bad_field_name",
            Self::MissingHost => "missing_host",
            Self::DuplicateHost => "duplicate_host",
            Self::BadChunkSize => "bad_chunk_size",
            Self::ChunkLineTooLong => "chunk_line_too_long",
            Self::BadTrailer => "bad_trailer",
            Self::UnsolicitedResponse => "unsolicited_response",
            Self::AuditFailed => "audit_failed",
        }
    }
}

/// Told of everything that happens on one connection. Each `request_head` (or `request_unparsed`) with a `seq` is followed
/// by exactly one `exchange_end` with the same `seq` (EV-1), whatever happens, given that the shell calls
/// `Session::abort` when it stops early.
pub trait Observer {
    /// A request head is complete and valid; what `edit` collects goes upstream with it, from [`HeadEdit::at`] on; or it
    /// is refused there ([`HeadEdit::refuse`]).
    fn request_head(&mut self, seq: ConnSeq, head: &RequestHead<'_>, edit: &mut HeadEdit);
    /// A request was refused before its head could be understood; `exchange_end` follows. `line` is what can be told of
    /// its first line (it may be any bytes).
    fn request_unparsed(&mut self, seq: ConnSeq, line: &[u8]);
    /// So many payload bytes of the request body went by (without chunk framing).
    fn request_body(&mut self, seq: ConnSeq, payload_bytes: u64);
    /// The request is whole.
    fn request_end(&mut self, seq: ConnSeq);
    /// A response head is complete and valid: interim or final. It goes to the client behind so many bytes of this call.
    fn response_head(&mut self, seq: ConnSeq, head: &ResponseHead<'_>, at: usize);
    /// We answered it ourselves with this status, behind so many bytes of this call: nothing of the upstream's answer was,
    /// or will be, forwarded.
    fn answered(&mut self, seq: ConnSeq, status: u16, at: usize);
    /// So many payload bytes of the response body went by (without chunk framing).
    fn response_body(&mut self, seq: ConnSeq, payload_bytes: u64);
    /// Bytes in a tunnel (after 101, or 2xx to CONNECT).
    fn tunnel(&mut self, seq: ConnSeq, from_client_bytes: u64, from_upstream_bytes: u64);
    /// The exchange is over.
    fn exchange_end(&mut self, seq: ConnSeq, end: End);
}
