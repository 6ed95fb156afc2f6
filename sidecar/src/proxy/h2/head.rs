//! Heads between the library's types and those of capture.

use crate::data::Recorder;
use h2::ext::Protocol;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use testimony_core::capture::{ConnFacts, FieldEdit, Header, StreamCapture, StreamRequest};

/// The fields of a head, as capture reads them.
pub(super) fn fields(map: &HeaderMap) -> Vec<Header<'_>> {
    map.iter().map(|(name, value)| Header { name: name.as_str(), value: value.as_bytes() }).collect()
}

/// Begins the capture of a request.
pub(super) fn capture(
    parts: &Parts,
    recorder: Recorder,
    conn: ConnFacts,
    seq: u64,
) -> (StreamCapture<Recorder>, FieldEdit) {
    let is_tunnel = parts.method == http::Method::CONNECT && parts.extensions.get::<Protocol>().is_none();
    let scheme = if is_tunnel { "" } else { parts.uri.scheme_str().unwrap_or("http") };
    let path = if is_tunnel { "" } else { parts.uri.path_and_query().map_or("", |path| path.as_str()) };
    let head = StreamRequest {
        method: parts.method.as_str(),
        scheme,
        authority: parts.uri.authority().map_or("", |authority| authority.as_str()),
        path,
        fields: &fields(&parts.headers),
    };
    StreamCapture::begin(recorder, conn, seq, &head)
}

/// The request as it goes upstream.
pub(super) fn forward(parts: Parts, edit: FieldEdit) -> Request<()> {
    let mut request = Request::from_parts(parts, ());
    let headers = request.headers_mut();
    for name in &edit.removed {
        headers.remove(name.as_str());
    }
    for (name, value) in edit.added {
        // Both come from the policy or from us; what is no header is not added.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    if request.uri().authority().is_none() {
        // `:authority` may be absent where Host stands in for it. The library sends such a request only for one of HTTP/1,
        // and then says `:scheme http`.
        *request.version_mut() = Version::HTTP_11;
    }
    request
}
