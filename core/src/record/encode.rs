//! From a redacted record to its canonical body.

use super::{Field, Record, Redacted, Side, decimal};
use crate::canon::{BODY_BYTES_MAX, BodyWriter, Escaped};
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{LEAF_PREFIX, leaf_of_prefixed};

/// Scratch space of one data thread; reused for every record.
#[derive(Default)]
pub struct Encoder {
    /// The canonical body behind [`LEAF_PREFIX`], so that its leaf is hashed without a copy. Empty before the first record.
    prefixed: Vec<u8>,
    pair: Vec<u8>,
    /// Value of the field `trunc`; empty: there is none.
    trunc: Vec<u8>,
}

/// Where a record stands in its stream (L1).
pub struct Place<'a> {
    sid: &'a str,
    prev: Option<&'a [u8]>,
    seq: u64,
    digits: [u8; 20],
}

impl<'a> Place<'a> {
    /// Place `seq` of the stream `sid`; `prev` is the hash before it, in hex.
    pub fn new(sid: &'a str, seq: u64, prev: Option<&'a [u8]>) -> Self {
        Self { sid, prev, seq, digits: [0; 20] }
    }
}

/// A record with its place, if it has one: what there is to write.
struct Source<'a> {
    record: &'a Record,
    sid: Option<&'a [u8]>,
    seq: Option<&'a [u8]>,
    prev: Option<&'a [u8]>,
    bits: u128,
}

impl<'a> Source<'a> {
    fn new(record: &'a Record, place: Option<&'a mut Place<'_>>) -> Self {
        let Some(place) = place else {
            return Self { record, sid: None, seq: None, prev: None, bits: record.present };
        };
        let mut bits = record.present | Field::Sid.bit() | Field::Seq.bit();
        if place.prev.is_some() {
            bits |= Field::Prev.bit();
        }
        let Place { sid, prev, seq, digits } = place;
        Self { record, sid: Some(sid.as_bytes()), seq: Some(decimal(*seq, digits)), prev: *prev, bits }
    }

    /// What there is to write, in order.
    fn fields(&self) -> impl Iterator<Item = (Field, &'a [u8])> {
        Field::of_bits(self.bits).filter_map(|field| {
            let value = match field {
                Field::Sid => self.sid,
                Field::Seq => self.seq,
                Field::Prev => self.prev,
                _ => self.record.get(field),
            };
            Some((field, value?))
        })
    }
}

/// The canonical body that a record would have outside a stream: to look at, for it proves nothing. `None` when it is over
/// [`BODY_BYTES_MAX`].
pub fn body_of(record: &Redacted<Record>) -> Option<Vec<u8>> {
    let mut encoder = Encoder::default();
    encoder.encode(record, None).then(|| encoder.body().to_vec())
}

impl Encoder {
    /// Makes the body of a record at this place of its stream. False: it would be over [`BODY_BYTES_MAX`] even without
    /// headers.
    pub(crate) fn encode(&mut self, record: &Redacted<Record>, place: Option<&mut Place<'_>>) -> bool {
        let source = Source::new(record.get(), place);
        self.write_body(&source, true);
        if self.body().len() > BODY_BYTES_MAX {
            // R3: headers are cut before anything that identifies the exchange.
            self.write_body(&source, false);
        }
        self.body().len() <= BODY_BYTES_MAX
    }

    /// The canonical body of the last record.
    pub(crate) fn body(&self) -> &[u8] {
        self.prefixed.get(1..).unwrap_or_default()
    }

    /// The leaf of the last record (L1).
    pub(crate) fn leaf(&self) -> Hash {
        leaf_of_prefixed(&self.prefixed)
    }

    fn write_body(&mut self, source: &Source<'_>, with_headers: bool) {
        let Self { prefixed, pair, trunc } = self;
        let record = source.record;
        prefixed.clear();
        prefixed.push(LEAF_PREFIX);
        trunc.clear();
        trunc.extend_from_slice(if with_headers { b"" } else { b"headers," });
        trunc.extend_from_slice(&record.truncated);
        trunc.truncate(Field::Trunc.bytes_max());
        let mut writer = BodyWriter::new(prefixed);
        let mut headers_due = with_headers;
        let mut trunc_due = Some(trunc.as_slice()).filter(|trunc| !trunc.is_empty());
        for (field, value) in source.fields() {
            if headers_due && field >= Field::Id {
                write_headers(&mut writer, record, pair);
                headers_due = false;
            }
            if field > Field::Trunc
                && let Some(trunc) = trunc_due.take()
            {
                writer.member(Field::Trunc.key(), trunc);
            }
            if field != Field::Trunc {
                writer.escaped_member(field.joint(), Escaped::of(value, pair));
            }
        }
        if headers_due {
            write_headers(&mut writer, record, pair);
        }
        if let Some(trunc) = trunc_due {
            writer.member(Field::Trunc.key(), trunc);
        }
        writer.finish();
    }
}

fn write_headers(writer: &mut BodyWriter<'_>, record: &Record, scratch: &mut Vec<u8>) {
    for (prefix, side) in [("hq", Side::Request), ("hs", Side::Response)] {
        for (at, (name, value)) in record.headers(side).enumerate() {
            let mut digits = [0; 20];
            let number = decimal(at as u64, &mut digits);
            let mut key = [0_u8; 4];
            key[..2].copy_from_slice(prefix.as_bytes());
            key[2..].copy_from_slice(if number.len() == 1 { b"00" } else { b"  " });
            for (slot, digit) in key.iter_mut().rev().zip(number.iter().rev()) {
                *slot = *digit;
            }
            if let Ok(key) = std::str::from_utf8(&key) {
                writer.header(key, name, value, scratch);
            }
        }
    }
}
