//! Requests' bodies: OTLP, compressed and framed as a sink wants it.

use super::grpc;
use bytes::Bytes;
use libdeflater::{CompressionLvl, Compressor};
use std::io;
use testimony_core::otlp::append_export_request;
use testimony_core::policy::{Compression, DocumentSink, SinkProtocol};

/// Level of gzip: the lightest one that compresses (libdeflate's level 0 stores).
const GZIP_LEVEL: i32 = 1;

/// Level of zstd: as fast as the lightest gzip, with less memory than the higher ones.
const ZSTD_LEVEL: i32 = 1;

/// Room for a request, and for what is made of it, that stays between requests, in bytes each: what a busy pod's take.
const ROOM_BYTES_MAX: usize = 512 * 1024;

/// Makes bodies in one piece each: a processor that a request wants is free again soon. Compressors and room stay from one to the
/// next: to get them from the system each time, and cleared, costs more than what they are for.
#[derive(Default)]
pub(super) struct Packer {
    gzip: Option<Compressor>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    message: Vec<u8>,
    packed: Vec<u8>,
}

/// A request's body, and for which settings it was made.
pub(super) struct Body {
    protocol: SinkProtocol,
    compression: Compression,
    bytes: Bytes,
}

// === impl Packer ===

impl Packer {
    /// The body of an ExportLogsServiceRequest with these runs of LogRecords.
    ///
    /// # Errors
    /// The compressor gets no memory.
    pub(super) fn body(&mut self, sink: &DocumentSink, resource: &[u8], log_records: &[&[u8]]) -> io::Result<Body> {
        let (protocol, compression) = (sink.protocol, sink.compression);
        self.message.clear();
        append_export_request(resource, log_records, &mut self.message);
        let packed = match compression {
            Compression::None => self.message.as_slice(),
            Compression::Gzip | Compression::Zstd => {
                let length = self.compress(compression)?;
                self.packed.get(..length).unwrap_or_default()
            }
        };
        let bytes = match protocol {
            SinkProtocol::HttpProtobuf => Bytes::copy_from_slice(packed),
            SinkProtocol::Grpc => grpc::frame(compression != Compression::None, packed).into(),
        };
        for room in [&mut self.message, &mut self.packed] {
            if room.capacity() > ROOM_BYTES_MAX {
                *room = Vec::new();
            }
        }
        Ok(Body { protocol, compression, bytes })
    }

    /// Compresses the message; how long it is then.
    fn compress(&mut self, compression: Compression) -> io::Result<usize> {
        if compression == Compression::Zstd {
            let compressor = match &mut self.zstd {
                Some(compressor) => compressor,
                none => none.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
            };
            room_for(&mut self.packed, zstd::zstd_safe::compress_bound(self.message.len()));
            return compressor.compress_to_buffer(&self.message, self.packed.as_mut_slice());
        }
        let compressor = match &mut self.gzip {
            Some(compressor) => compressor,
            none => {
                let level = CompressionLvl::new(GZIP_LEVEL).map_err(|_| io::Error::other("no such level of gzip"))?;
                none.insert(Compressor::new(level))
            }
        };
        room_for(&mut self.packed, compressor.gzip_compress_bound(self.message.len()));
        compressor.gzip_compress(&self.message, &mut self.packed).map_err(io::Error::other)
    }
}

/// Makes it at least so long.
fn room_for(room: &mut Vec<u8>, length: usize) {
    if room.len() < length {
        room.resize(length, 0);
    }
}

// === impl Body ===

impl Body {
    /// Whether it is what the sink wants now.
    pub(super) fn fits(&self, sink: &DocumentSink) -> bool {
        (self.protocol, self.compression) == (sink.protocol, sink.compression)
    }

    /// What is sent.
    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::sink;
    use flate2::read::GzDecoder;
    use std::io::Read as _;
    use testimony_core::otlp::export_request;

    fn unpack(body: &Body) -> Vec<u8> {
        let framed = body.bytes();
        let (head, packed) = match body.protocol {
            SinkProtocol::HttpProtobuf => framed.split_at(0),
            SinkProtocol::Grpc => framed.split_at(5),
        };
        if body.protocol == SinkProtocol::Grpc {
            let length = u32::try_from(packed.len()).expect("short");
            assert_eq!(head, [&[u8::from(body.compression != Compression::None)][..], &length.to_be_bytes()].concat());
        }
        match body.compression {
            Compression::None => packed.to_vec(),
            Compression::Zstd => zstd::bulk::decompress(packed, 4 << 20).expect("zstd"),
            Compression::Gzip => {
                let mut plain = Vec::new();
                GzDecoder::new(packed).read_to_end(&mut plain).expect("gzip");
                plain
            }
        }
    }

    #[test]
    fn every_body_is_what_went_in_and_a_fraction_of_it_where_it_is_compressed() {
        let mut packer = Packer::default();
        let run = b"{\"http.request.method\":\"GET\",\"url.path\":\"/v1/orders\"}".repeat(400);
        // Long and short in turn: nothing of an earlier one is in a later one, however much room it left.
        for runs in [vec![&run[..]; 3], vec![&run[..100]], vec![&run[..]; 40], vec![], vec![&run[..]; 2]] {
            for protocol in [SinkProtocol::HttpProtobuf, SinkProtocol::Grpc] {
                for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
                    let sink = DocumentSink { protocol, compression, ..sink() };
                    let body = packer.body(&sink, b"resource", &runs).expect("memory");
                    let message = export_request(b"resource", &runs);
                    assert_eq!(unpack(&body), message, "{protocol:?} {compression:?}");
                    assert!(body.fits(&sink));
                    if compression != Compression::None && runs.len() > 1 {
                        assert!(body.bytes().len() < message.len() / 10, "{compression:?}: {}", body.bytes().len());
                    }
                    assert!(packer.message.capacity() <= ROOM_BYTES_MAX && packer.packed.capacity() <= ROOM_BYTES_MAX);
                }
            }
        }
    }
}
