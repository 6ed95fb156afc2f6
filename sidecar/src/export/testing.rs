//! A sink for the tests of this module.

use testimony_core::policy::{Compression, DocumentSink, SinkProtocol};

pub(super) fn sink() -> DocumentSink {
    DocumentSink {
        name: "main".to_owned(),
        endpoint: "http://127.0.0.1:9".to_owned(),
        protocol: SinkProtocol::HttpProtobuf,
        compression: Compression::Gzip,
        ca_bundle: None,
        server_name: None,
        credentials: false,
        credentials_secret: None,
        client_certificate_secret: None,
        token_audience: None,
        timeout_ms: 10_000,
        queue_bytes_max: 1 << 20,
        required: true,
    }
}
