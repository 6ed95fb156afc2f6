//! Limits of HTTP/2, and how a peer's SETTINGS become ours towards the other side.

use h2::{client, server};
use http::{HeaderMap, header};
use testimony_core::http1::Refusal;
use testimony_core::http2::Settings;

/// Most streams that a client may have open, where its server does not say less.
pub(super) const STREAMS_MAX: u32 = 1024;

/// Most bytes of one direction of a stream that are read and not passed on yet, beside [`SEND_BUFFER_BYTES_MAX`]: our window
/// for a new stream follows the other side's, within these bounds. The lower one is the protocol's initial window: a smaller
/// one may grow by WINDOW_UPDATE at any time.
const STREAM_WINDOW_BYTES_MIN: u32 = 65_535;
const STREAM_WINDOW_BYTES_MAX: u32 = 256 * 1024;

/// The same for all streams of a connection together. More than one stream's window, so that a stalled reader of some streams
/// does not stop the others.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Most bytes of one direction of a stream that wait to be written.
const SEND_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Largest payload of a frame that we take.
const FRAME_BYTES_MAX: u32 = 64 * 1024;
const FRAME_BYTES_MIN: u32 = 16_384;

/// Largest header list, by RFC 9113 section 6.5.2. The library bounds CONTINUATION frames by it. A request over it gets 431.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;

/// Most fields of a head, as for HTTP/1; pseudo header fields do not count. A request over it gets 431, an answer becomes 502.
const FIELDS_MAX: usize = 128;

/// The refusal of a head with more fields, in the words of HTTP/1.
pub(super) const TOO_MANY_FIELDS: &str = Refusal::TooManyHeaders.as_str();

/// What small DATA frames may take beyond their payload, for all streams of a connection that wait: 256 bytes each at most.
/// A client that sends more of them than its server takes loses the connection (ENHANCE_YOUR_CALM). Empty ones that do not end
/// their stream do not count here: of these the library takes 100 in the life of a connection, for which it has no option.
const SMALL_FRAMES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most streams that a client reset before we looked at them.
const PENDING_ACCEPT_RESETS_MAX: usize = 200;

/// Most streams that we have reset and whose late frames are still expected.
const EXPECTED_RESETS_MAX: usize = 1024;

/// Most resets that a peer's mistakes may cause in the life of a connection.
const ERROR_RESETS_MAX: usize = 16 * 1024;

/// A client that resets so many streams before their answer within [`RESETS_WINDOW_S`], and more than half of those that it
/// opened, loses the connection (rapid reset).
pub(super) const EARLY_RESETS_MAX: u32 = 1000;
/// The time over which early resets count, in seconds.
pub(super) const RESETS_WINDOW_S: u64 = 10;

/// Whether a head has more fields than may pass.
pub(super) fn has_too_many_fields(head: &HeaderMap) -> bool {
    if head.len() <= FIELDS_MAX {
        return false;
    }
    // A client may send each cookie as a field of its own, which all together are one (RFC 9113 section 8.2.3).
    let cookies = head.get_all(header::COOKIE).iter().count();
    head.len().saturating_sub(cookies.saturating_sub(1)) > FIELDS_MAX
}

fn window(other: Settings) -> u32 {
    let asked = other.initial_window_bytes.unwrap_or(STREAM_WINDOW_BYTES_MIN);
    asked.clamp(STREAM_WINDOW_BYTES_MIN, STREAM_WINDOW_BYTES_MAX)
}

fn frame_bytes(other: Settings) -> u32 {
    other.max_frame_bytes.unwrap_or(FRAME_BYTES_MIN).clamp(FRAME_BYTES_MIN, FRAME_BYTES_MAX)
}

fn header_list_bytes(other: Settings) -> u32 {
    other.max_header_list_bytes.unwrap_or(HEADER_LIST_BYTES_MAX).min(HEADER_LIST_BYTES_MAX)
}

/// What we are to the client, given what the server said.
pub(super) fn server(upstream: Settings) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(window(upstream))
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(frame_bytes(upstream))
        .max_header_list_size(header_list_bytes(upstream))
        .max_concurrent_streams(upstream.max_concurrent_streams.unwrap_or(STREAMS_MAX).min(STREAMS_MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
        .max_pending_accept_reset_streams(PENDING_ACCEPT_RESETS_MAX)
        .max_concurrent_reset_streams(EXPECTED_RESETS_MAX)
        .max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .data_frame_budget(SMALL_FRAMES_BYTES_MAX);
    if upstream.extended_connect {
        builder.enable_connect_protocol();
    }
    builder
}

/// What we are to the server, given what the client said. Server push ends at us: it is switched off.
pub(super) fn client(of_client: Settings) -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(window(of_client))
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(frame_bytes(of_client))
        .max_header_list_size(header_list_bytes(of_client))
        .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
        .max_concurrent_reset_streams(EXPECTED_RESETS_MAX)
        .max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .data_frame_budget(SMALL_FRAMES_BYTES_MAX);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_as_many_fields_as_one_of_http1() {
        assert_eq!(FIELDS_MAX, testimony_core::http1::Limits::default().header_count_max);
        let head = |fields: usize, cookies: usize| {
            let mut head = HeaderMap::new();
            for _ in 0..fields {
                head.append("x-many", http::HeaderValue::from_static("1"));
            }
            for _ in 0..cookies {
                head.append(header::COOKIE, http::HeaderValue::from_static("a=1"));
            }
            head
        };
        let refused = [(0, 0), (128, 0), (129, 0), (127, 1), (127, 500), (128, 1)]
            .map(|(fields, cookies)| has_too_many_fields(&head(fields, cookies)));
        assert_eq!(refused, [false, false, true, false, false, true]);
    }

    #[test]
    fn what_the_other_side_says_goes_on_within_bounds() {
        let says = |bytes| Settings {
            initial_window_bytes: Some(bytes),
            max_frame_bytes: Some(bytes),
            max_header_list_bytes: Some(bytes),
            ..Settings::default()
        };
        let all = |settings| (window(settings), frame_bytes(settings), header_list_bytes(settings));
        assert_eq!(all(Settings::default()), (65_535, 16_384, 65_536));
        assert_eq!(all(says(0)), (65_535, 16_384, 0));
        assert_eq!(all(says(100_000)), (100_000, 65_536, 65_536));
        assert_eq!(all(says(u32::MAX)), (262_144, 65_536, 65_536));
    }
}
