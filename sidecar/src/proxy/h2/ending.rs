//! How streams end, by what befell either side.

use h2::Reason;
use testimony_core::capture::StreamEnd;

/// How a stream ends, and who is told.
pub(super) struct Ending {
    pub end: StreamEnd,
    pub to_client: Option<Reason>,
    pub to_upstream: Option<Reason>,
    /// The server's connection broke it.
    pub is_broken: bool,
}

impl Ending {
    pub const fn of(end: StreamEnd) -> Self {
        Self { end, to_client: None, to_upstream: None, is_broken: false }
    }
}

pub(super) fn reset_by_client(reason: Reason) -> Ending {
    Ending { to_upstream: Some(reason), ..Ending::of(StreamEnd::ClientReset(reason.into())) }
}

pub(super) fn reset_by_upstream(reason: Reason) -> Ending {
    Ending { to_client: Some(reason), ..Ending::of(StreamEnd::UpstreamReset(reason.into())) }
}

/// What became of a stream whose client's side failed so.
pub(super) fn client_failed(error: &h2::Error) -> Ending {
    let to_upstream = Some(Reason::CANCEL);
    match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => reset_by_client(reason),
        // The library has reset it: what came breaks the protocol.
        Some(_) if error.is_reset() => {
            Ending { to_upstream, ..Ending::of(StreamEnd::RequestRefused("malformed_request")) }
        }
        Some(reason) if error.is_library() => {
            let why = testimony_core::http2::error_name(reason.into());
            Ending { to_upstream, ..Ending::of(StreamEnd::RequestRefused(why)) }
        }
        _ => Ending { to_upstream, ..Ending::of(StreamEnd::ClientGone) },
    }
}

/// What became of a stream whose server's side failed so.
pub(super) fn upstream_failed(error: &h2::Error) -> Ending {
    match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => reset_by_upstream(reason),
        Some(_) if error.is_reset() => Ending {
            to_client: Some(Reason::PROTOCOL_ERROR),
            ..Ending::of(StreamEnd::ResponseRefused("malformed_response"))
        },
        // A GOAWAY that does not count this stream in: the server never looked at it.
        Some(Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => reset_by_upstream(Reason::REFUSED_STREAM),
        Some(reason) if error.is_go_away() && error.is_remote() => {
            Ending { is_broken: true, ..Ending::of(StreamEnd::UpstreamReset(reason.into())) }
        }
        Some(reason) if error.is_library() => {
            let why = testimony_core::http2::error_name(reason.into());
            Ending { is_broken: true, ..Ending::of(StreamEnd::ResponseRefused(why)) }
        }
        _ => Ending { is_broken: true, ..Ending::of(StreamEnd::UpstreamGone) },
    }
}
