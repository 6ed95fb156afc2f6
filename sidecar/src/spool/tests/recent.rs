//! What was just written is read from memory.

use super::rig::{BOOT, keys, sid, sinks};
use crate::spool::disk::sim::{Fault, SimDisk};
use crate::spool::entry::{Block, Entry, Kind, StreamNumber};
use crate::spool::{
    Place, RECENT_BYTES_MAX, Read, ReadError, Reader, SEGMENT_BYTES_MAX, Shelf, Writer, WriterSettings,
};
use testimony_core::evidence::merkle;

const PAYLOAD_BYTES: usize = 60 * 1024;

/// One more than there is memory for.
const BLOCKS: u64 = (RECENT_BYTES_MAX / PAYLOAD_BYTES) as u64 + 1;

/// Each block has one entry, which is full of its place's number.
fn written(disk: &SimDisk) -> Writer<SimDisk> {
    let settings = WriterSettings { limit_bytes: 4 * SEGMENT_BYTES_MAX, segment_bytes: SEGMENT_BYTES_MAX };
    let mut writer = Writer::new(settings, keys(), Shelf::new(disk.clone(), BOOT)).expect("a writer");
    writer.set_sinks(&sinks());
    writer.add_stream(StreamNumber(0), sid(0), 0);
    for seq in 0..BLOCKS {
        let payload = vec![seq as u8; PAYLOAD_BYTES];
        let mut block = Block::default();
        block.push(Entry::new(StreamNumber(0), Kind::Exchange, seq, merkle::leaf(&payload), 1), &payload);
        writer.commit(vec![block], seq).expect("durable");
    }
    writer
}

fn reader(writer: &Writer<SimDisk>, at: u64) -> Reader<SimDisk> {
    Reader::new(writer.shelf().disk.clone(), writer.shelf().shared().clone(), Place(at)).expect("memory")
}

/// The place that it reads next, with what stands there.
fn next(reader: &mut Reader<SimDisk>) -> Result<Option<u64>, ReadError> {
    match reader.read()? {
        Read::End => Ok(None),
        Read::Lost { from, .. } => panic!("{from:?} is lost"),
        Read::Block(block) => {
            let one = block.iter().next().expect("an entry");
            assert_eq!((one.sid, one.entry.seq, one.payload.len()), (&sid(0), one.place.number(), PAYLOAD_BYTES));
            assert!(one.payload.iter().all(|byte| u64::from(*byte) == one.place.number()));
            Ok(Some(one.place.number()))
        }
    }
}

#[test]
fn who_keeps_up_reads_no_file_and_who_does_not_reads_files_until_it_does() {
    let disk = SimDisk::new(1);
    let writer = written(&disk);
    (0..100).for_each(|_| disk.fail_next(Fault::Read));
    let mut late = reader(&writer, 1);
    for place in 1..BLOCKS {
        assert_eq!(next(&mut late), Ok(Some(place)), "from memory");
    }
    assert_eq!(next(&mut late), Ok(None));
    assert_eq!(late.read_at_hand(), Some(Read::End));
    let mut first = reader(&writer, 0);
    assert_eq!(first.read_at_hand(), None, "there is memory for the last ones only");
    assert_eq!(next(&mut first), Err(ReadError::Unreadable(0)), "the disk that memory did not need");
    disk.heal();
    let all: Vec<u64> = std::iter::from_fn(|| next(&mut first).expect("readable")).collect();
    assert_eq!(all, (0..BLOCKS).collect::<Vec<_>>());
}

#[test]
fn what_every_required_sink_has_is_forgotten_and_stands_in_the_file() {
    let disk = SimDisk::new(1);
    let writer = written(&disk);
    writer.shelf().shared().forget(Place(BLOCKS - 1));
    let mut reader = reader(&writer, 1);
    assert_eq!(reader.read_at_hand(), None);
    let mut from_file = 0;
    while reader.read_at_hand().is_none() {
        from_file += 1;
        assert_eq!(next(&mut reader), Ok(Some(from_file)));
    }
    assert_eq!((from_file, reader.position()), (BLOCKS - 2, Place(BLOCKS)), "the last one came from memory");
}
