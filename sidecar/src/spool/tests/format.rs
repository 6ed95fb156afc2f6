//! The parsers on every prefix and every changed bit.

use super::rig::{BOOT, NEXT_BOOT, Rig, keys, recover};
use crate::spool::disk::Files;
use crate::spool::disk::sim::SimDisk;
use crate::spool::entry::{Block, Entry, Kind};
use crate::spool::format::acks::{self, Acks, Line};
use crate::spool::format::frame::{Clear, Decoder, Encoder};
use crate::spool::format::header::{Header, StreamStart};
use crate::spool::format::shed;
use crate::spool::format::{FormatError, Problem};
use crate::spool::keys::DataKey;
use crate::spool::recover::{Unreadable, scan};
use crate::spool::{Boot, Place};
use proptest::prelude::*;
use std::io::ErrorKind;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::Range;

const HASH: Hash = Hash([9; 32]);

fn key() -> DataKey {
    DataKey::new(&[5; 32]).expect("a key")
}

fn header() -> Header {
    let mut leaves = Range::empty(0);
    (0..5_u8).for_each(|leaf| leaves.push(Hash([leaf; 32])));
    let start = |number, leaves| StreamStart { sid: super::rig::sid(number), leaves, exchanges: 7 };
    Header {
        boot: Boot([1; 16]),
        number: 3,
        first: Place(17),
        created_unix_nanos: 99,
        pod_key: vec![4; 40],
        recovery_key: vec![6; 80],
        streams: vec![start(0, leaves), start(1, Range::empty(0))],
    }
}

fn block() -> Block<u16> {
    let mut block = Block::default();
    for (seq, payload) in [&b"one"[..], b"", b"three three three three three"].into_iter().enumerate() {
        let entry =
            Entry { stream: 1, kind: Kind::Exchange, seq: seq as u64, leaf: HASH, exchanges: 0, payload_bytes: 0 };
        block.push(entry, payload);
    }
    block
}

fn frame(number: u32, block: &Block<u16>) -> Vec<u8> {
    let mut encoder = Encoder::new().expect("memory");
    encoder.encode(&key(), HASH, number, false, &block.entries, &block.payload).expect("a frame").to_vec()
}

fn open(bytes: &[u8], number: u32) -> Result<Block<u16>, FormatError> {
    let clear = Clear::parse(bytes, number, 2)?;
    clear.check(bytes)?;
    decode(&clear, &key(), HASH, bytes)
}

fn decode(clear: &Clear, key: &DataKey, header: Hash, frame: &[u8]) -> Result<Block<u16>, FormatError> {
    Decoder::new().expect("memory").open(clear, key, header, frame)
}

#[test]
fn d4_a_header_and_every_prefix_and_bit_of_it() {
    let mut bytes = Vec::new();
    header().encode(&mut bytes).expect("a header");
    assert_eq!(Header::parse(&bytes), Ok((header(), bytes.len())));
    for end in 0..bytes.len() {
        assert_eq!(Header::parse(&bytes[..end]), Err(FormatError::Short), "{end}");
    }
    for at in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[at / 8] ^= 1 << (at % 8);
        assert!(Header::parse(&altered).is_err(), "bit {at}");
    }
}

#[test]
fn d4_a_frame_and_every_prefix_and_bit_of_it() {
    let bytes = frame(7, &block());
    assert_eq!(open(&bytes, 7), Ok(block()));
    assert_eq!(open(&bytes, 8), Err(Problem::Value("the frame's number").into()));
    for end in 0..bytes.len() {
        assert_eq!(open(&bytes[..end], 7), Err(FormatError::Short), "{end}");
    }
    for at in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[at / 8] ^= 1 << (at % 8);
        assert!(open(&altered, 7).is_err(), "bit {at}");
    }
}

#[test]
fn d4_what_is_in_clear_is_authenticated() {
    let bytes = frame(0, &block());
    let clear = Clear::parse(&bytes, 0, 2).expect("a frame");
    let other_header = decode(&clear, &key(), Hash([8; 32]), &bytes);
    assert_eq!(other_header, Err(Problem::Sealed.into()));
    let other_key = DataKey::new(&[6; 32]).expect("a key");
    assert_eq!(decode(&clear, &other_key, HASH, &bytes), Err(Problem::Sealed.into()));
    // A leaf changed, and the checksum with it: who can write the disk can do that.
    let mut altered = bytes.clone();
    altered[16 + 11] ^= 1;
    let content = 16 + 3 * crate::spool::format::frame::ENTRY_BYTES;
    let checksum = crc32c::crc32c(&altered[..content]);
    altered[content..content + 4].copy_from_slice(&checksum.to_le_bytes());
    let clear = Clear::parse(&altered, 0, 2).expect("its checksum fits");
    assert_eq!(decode(&clear, &key(), HASH, &altered), Err(Problem::Sealed.into()));
}

#[test]
fn acknowledgements_and_every_prefix_and_bit_of_them() {
    let mut bytes = Vec::new();
    acks::begin(&mut bytes);
    let begun = bytes.len();
    for line in [Line::Sink("a", Place(3)), Line::Recovered, Line::Sink("a", Place(9)), Line::Sink("b", Place(1))] {
        acks::append(&mut bytes, &line);
    }
    let all = Acks { sinks: [("a".to_owned(), Place(9)), ("b".to_owned(), Place(1))].into(), recovered: true };
    let read = |bytes: &[u8]| {
        let mut acks = Acks::default();
        acks::read(bytes, &mut acks).map(|()| acks)
    };
    assert_eq!(read(&bytes), Ok(all.clone()));
    for end in 0..bytes.len() {
        match read(&bytes[..end]) {
            Err(error) => assert!(end < begun && error == FormatError::Short, "{end}: {error}"),
            Ok(acks) => assert!(acks.sinks.iter().all(|(sink, place)| *place <= all.sinks[sink]), "{end}"),
        }
    }
    for at in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[at / 8] ^= 1 << (at % 8);
        if let Ok(acks) = read(&altered) {
            assert!(acks.sinks.iter().all(|(sink, place)| all.sinks.get(sink).is_some_and(|known| place <= known)));
            assert_ne!(acks, all, "bit {at}");
        }
    }
}

#[test]
fn the_layout_is_pinned() {
    let mut bytes = Vec::new();
    header().encode(&mut bytes).expect("a header");
    let frame = frame(7, &block());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    expect_test::expect!["54534d595345470002007001000001010101010101010101010101010101030000000000000011000000000000006300 e56e89a6d01e599ba3e042945807ffbc7e49e49fdda1593c6aae4ea12af6f606"].assert_eq(&format!("{} {}", hex(&bytes[..48]), hex(&Hash::of(&[&bytes]).0)));
    expect_test::expect!["d90000000000030007000000200000000100070000000000000000 217"].assert_eq(&format!(
        "{} {}",
        hex(&frame[..27]),
        frame.len()
    ));
}

/// Where a segment's version stands.
const VERSION: std::ops::Range<usize> = 8..10;

/// A segment cut at any byte, or with any byte changed, is read up to there and never further than it was written.
#[test]
fn sp_2_every_prefix_of_a_segment_recovers() {
    let mut rig = Rig::new(5);
    for _ in 0..4 {
        assert!(rig.commit(3, 40));
    }
    let name = format!("{:020}.seg", 0);
    let whole = rig.disk.bytes(&name);
    let ends = |disk: &SimDisk| recover(disk).shelf.durable().end().number();
    assert_eq!(ends(&rig.disk.killed()), 12);
    let mut last = 0;
    for cut in 0..whole.len() {
        let disk = rig.disk.killed();
        disk.alter(&name, |bytes| bytes.truncate(cut));
        let end = ends(&disk);
        assert!(end >= last && end % 3 == 0 && end < 12, "{cut} bytes: {end} entries");
        last = end;
    }
    assert_eq!(last, 9);
    for at in 0..whole.len() {
        let disk = rig.disk.killed();
        disk.alter(&name, |bytes| bytes[at] ^= 0x10);
        if VERSION.contains(&at) {
            // It may be whole for another version, which finds it as it was.
            let found = scan(disk.clone(), &keys(), BOOT, NEXT_BOOT, Unreadable::Damaged, &|| true);
            assert_eq!(found.err().map(|error| error.kind()), Some(ErrorKind::Unsupported), "byte {at}");
            assert!(disk.list().expect("listed").iter().any(|file| file.name == name));
            continue;
        }
        assert!(ends(&disk) < 12, "byte {at}");
    }
}

proptest! {
    #[test]
    fn blocks_come_back(
        number in 0..1000_u32,
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40),
    ) {
        let mut block = Block::default();
        for (seq, payload) in payloads.iter().enumerate() {
            let leaf = Hash::of(&[payload]);
            block.push(Entry { stream: 0, kind: Kind::Stage, seq: seq as u64, leaf, exchanges: 0, payload_bytes: 0 }, payload);
        }
        let bytes = frame(number, &block);
        prop_assert!(bytes.len() <= crate::spool::format::frame::frame_bytes_max(block.len(), block.payload.len()));
        prop_assert_eq!(open(&bytes, number), Ok(block));
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), number in any::<u32>()) {
        let _ = Header::parse(&bytes);
        let _ = Clear::parse(&bytes, number, 3);
        let _ = acks::read(&bytes, &mut Acks::default());
        let _ = shed::read(&bytes);
    }
}
