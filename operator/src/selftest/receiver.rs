//! The sink of the test: an OTLP/HTTP receiver that keeps the one record that is looked for.

use super::judge::{Record, find_record};
use crate::serve::{Answer, answer, body, text_answer};
use bytes::Bytes;
use flate2::read::GzDecoder;
use hyper::body::Incoming;
use hyper::{Request, StatusCode, header};
use std::io::Read;
use std::sync::Arc;
use tokio::sync::watch;

/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 16;

/// Longest body of a request: sidecars send at most 1 MiB before compression.
const BODY_BYTES_MAX: usize = 2 << 20;

/// Longest body after decompression.
const DECODED_BYTES_MAX: u64 = 8 << 20;

/// What was received; cloning shares it.
#[derive(Clone, Debug)]
pub struct Receiver {
    path: Arc<str>,
    found: watch::Sender<Option<Record>>,
}

impl Receiver {
    /// Looks for the record whose path is `path`.
    pub fn new(path: &str) -> Self {
        Self { path: path.into(), found: watch::Sender::new(None) }
    }

    /// The record, once it has come.
    pub fn found(&self) -> Option<Record> {
        self.found.borrow().clone()
    }

    /// Takes one export.
    pub async fn take(self, request: Request<Incoming>) -> Answer {
        let gzip = request.headers().get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip");
        let bytes = match body(request, BODY_BYTES_MAX).await {
            Ok(bytes) => bytes,
            Err(answer) => return answer,
        };
        match decode(&bytes, gzip) {
            Ok(bytes) => {
                if let Some(record) = find_record(&bytes, &self.path) {
                    self.found.send_replace(Some(record));
                }
                // An empty ExportLogsServiceResponse: everything was taken.
                answer(StatusCode::OK, "application/x-protobuf", Bytes::new())
            }
            Err(error) => text_answer(StatusCode::BAD_REQUEST, format!("the body was not understood: {error}\n")),
        }
    }
}

/// The message of a request.
pub(super) fn decode(body: &[u8], gzip: bool) -> std::io::Result<Vec<u8>> {
    if !gzip {
        return Ok(body.to_vec());
    }
    let mut bytes = Vec::new();
    GzDecoder::new(body).take(DECODED_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}
