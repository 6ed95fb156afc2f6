//! Bodies: where they end, and which bytes of them are payload (RFC 9112 sections 6 and 7).

use super::gather::{Gather, Line};
use super::head::{check_field_line, is_control};
use super::{Limits, Refusal};
use memchr::memchr2;

/// Most hexadecimal digits of a chunk size: what fits 64 bits, leading zeros included.
const CHUNK_SIZE_DIGITS_MAX: usize = 16;

/// How much of a body is still to come.
#[derive(Debug)]
pub(super) enum Body {
    /// So many bytes, never 0.
    Length(u64),
    /// Chunked, standing at this point.
    Chunked(Chunk),
    /// All until the connection ends; responses only.
    UntilEof,
}

/// Where in a chunked body we stand.
#[derive(Debug)]
pub(super) enum Chunk {
    /// At or in a chunk-size line.
    Size,
    /// So many bytes of this chunk are to come, never 0.
    Data(u64),
    /// Before the CR behind the data.
    DataCr,
    /// Before the LF behind the data.
    DataLf,
    /// In the trailer section, of which so much has gone by.
    Trailer { bytes: usize, fields: usize },
}

/// Result of [`Body::feed`].
#[derive(Debug)]
pub(super) struct Fed {
    /// Bytes of the input that were used: all, unless the body is whole.
    pub consumed: usize,
    /// Payload bytes among them.
    pub payload_bytes: u64,
    /// How the body stands.
    pub status: BodyStatus,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyStatus {
    More,
    Whole,
    Bad(Refusal),
}

impl Body {
    pub const fn chunked() -> Self {
        Self::Chunked(Chunk::Size)
    }

    /// `None` for a length of 0.
    pub const fn length(bytes: u64) -> Option<Self> {
        if bytes == 0 { None } else { Some(Self::Length(bytes)) }
    }

    /// Forwards body bytes to `out`. A line of the chunk framing is forwarded when it is whole and valid.
    pub fn feed(&mut self, input: &[u8], partial: &mut Gather, limits: &Limits, out: &mut Vec<u8>) -> Fed {
        match self {
            Self::UntilEof => {
                out.extend_from_slice(input);
                Fed { consumed: input.len(), payload_bytes: input.len() as u64, status: BodyStatus::More }
            }
            Self::Length(left) => {
                let run = run_of(input, *left);
                out.extend_from_slice(run);
                *left = left.saturating_sub(run.len() as u64);
                let status = if *left == 0 { BodyStatus::Whole } else { BodyStatus::More };
                Fed { consumed: run.len(), payload_bytes: run.len() as u64, status }
            }
            Self::Chunked(chunk) => {
                let mut fed = Fed { consumed: 0, payload_bytes: 0, status: BodyStatus::More };
                while fed.status == BodyStatus::More
                    && let Some(rest @ [_, ..]) = input.get(fed.consumed..)
                {
                    chunk.step(rest, partial, limits, out, &mut fed);
                }
                fed
            }
        }
    }
}

/// The first `left` bytes of `input`, or all.
fn run_of(input: &[u8], left: u64) -> &[u8] {
    usize::try_from(left).ok().and_then(|left| input.get(..left)).unwrap_or(input)
}

impl Chunk {
    fn step(&mut self, input: &[u8], partial: &mut Gather, limits: &Limits, out: &mut Vec<u8>, fed: &mut Fed) {
        let used = match self {
            Self::Size => self.size_line(input, partial, limits, out),
            Self::Data(left) => {
                let run = run_of(input, *left);
                out.extend_from_slice(run);
                fed.payload_bytes = fed.payload_bytes.saturating_add(run.len() as u64);
                *left = left.saturating_sub(run.len() as u64);
                if *left == 0 {
                    *self = Self::DataCr;
                }
                Ok((run.len(), false))
            }
            Self::DataCr => self.expect(b'\r', Self::DataLf, input, out),
            Self::DataLf => self.expect(b'\n', Self::Size, input, out),
            Self::Trailer { .. } => self.trailer_line(input, partial, limits, out),
        };
        match used {
            Ok((bytes, whole)) => {
                fed.consumed = fed.consumed.saturating_add(bytes);
                if whole {
                    fed.status = BodyStatus::Whole;
                }
            }
            Err(refusal) => fed.status = BodyStatus::Bad(refusal),
        }
    }

    fn expect(&mut self, byte: u8, then: Self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, bool), Refusal> {
        if input.first() != Some(&byte) {
            return Err(Refusal::BadChunkSize);
        }
        out.push(byte);
        *self = then;
        Ok((1, false))
    }

    fn size_line(
        &mut self,
        input: &[u8],
        partial: &mut Gather,
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Result<(usize, bool), Refusal> {
        let used = match partial.line(input, limits.chunk_line_bytes_max) {
            Line::More => return Ok((input.len(), false)),
            Line::TooLong => return Err(Refusal::ChunkLineTooLong),
            Line::Whole(line, used) => {
                *self = match chunk_size(line)? {
                    0 => Self::Trailer { bytes: 0, fields: 0 },
                    size => Self::Data(size),
                };
                out.extend_from_slice(line);
                used
            }
        };
        partial.clear();
        Ok((used, false))
    }

    fn trailer_line(
        &mut self,
        input: &[u8],
        partial: &mut Gather,
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Result<(usize, bool), Refusal> {
        let Self::Trailer { bytes, fields } = self else { return Ok((0, false)) };
        let (used, whole) = match partial.line(input, limits.head_bytes_max.saturating_sub(*bytes)) {
            Line::More => return Ok((input.len(), false)),
            Line::TooLong => return Err(Refusal::HeadTooLong),
            Line::Whole(line, used) => {
                let content = line.strip_suffix(b"\r\n").ok_or(Refusal::BadTrailer)?;
                if !content.is_empty() {
                    *fields = fields.saturating_add(1);
                    if *fields > limits.header_count_max {
                        return Err(Refusal::TooManyHeaders);
                    }
                    check_trailer(content)?;
                }
                *bytes = bytes.saturating_add(line.len());
                out.extend_from_slice(line);
                (used, content.is_empty())
            }
        };
        partial.clear();
        Ok((used, whole))
    }
}

/// A trailer field as strict as a header field; framing and routing fields are no trailers (RFC 9110 section 6.5.1).
fn check_trailer(content: &[u8]) -> Result<(), Refusal> {
    let (name, value) = check_field_line(content).map_err(|_| Refusal::BadTrailer)?;
    let forbidden = [&b"content-length"[..], b"transfer-encoding", b"host"];
    if value.iter().any(|byte| is_control(*byte)) || forbidden.iter().any(|field| name.eq_ignore_ascii_case(field)) {
        return Err(Refusal::BadTrailer);
    }
    Ok(())
}

/// `chunk-size [ chunk-ext ] CRLF` (RFC 9112 section 7.1). White space is allowed only before the `;` of an extension.
fn chunk_size(line: &[u8]) -> Result<u64, Refusal> {
    let content = line.strip_suffix(b"\r\n").ok_or(Refusal::BareCrLfOrNul)?;
    if memchr2(b'\r', 0, content).is_some() {
        return Err(Refusal::BareCrLfOrNul);
    }
    let digits = content.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = content.split_at_checked(digits).ok_or(Refusal::BadChunkSize)?;
    if digits == 0 || digits > CHUNK_SIZE_DIGITS_MAX {
        return Err(Refusal::BadChunkSize);
    }
    if !extension.is_empty() && extension.trim_ascii_start().first() != Some(&b';') {
        return Err(Refusal::BadChunkSize);
    }
    if extension.iter().any(|byte| is_control(*byte)) {
        return Err(Refusal::BadChunkSize);
    }
    let size = size.iter().fold(0_u64, |size, digit| (size << 4) | u64::from(hex_value(*digit)));
    Ok(size)
}

/// Value of a hexadecimal digit.
fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit.wrapping_sub(b'0'),
        _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10),
    }
}
