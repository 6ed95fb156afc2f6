//! Disks that alter what was durable: told, set aside, and the rest is read.

use super::rig::{BOOT, NEXT_BOOT, Rig, keys, read_all, recover, sid, sinks};
use crate::spool::disk::Files;
use crate::spool::disk::sim::SimDisk;
use crate::spool::keys::Keys;
use crate::spool::recover::{Scanned, Unreadable, names, scan};
use crate::spool::{
    FIXED_RESERVE_BYTES, Fault, Place, REPLAY_NANOS_MAX, Read, ReadError, Reader, Untold, WriterSettings,
};

/// Several segments, each with several frames; the first one's entries end at the returned place.
fn segments() -> (Rig, u64) {
    let mut rig = Rig::new(11);
    let mut first_end = None;
    for _ in 0..60 {
        assert!(rig.commit(4, 900));
        let segments = rig.writer.shelf().segments.len();
        if segments == 2 && first_end.is_none() {
            first_end = rig.writer.shelf().segments.get(&0).map(|segment| segment.end().number());
        }
    }
    assert!(rig.writer.shelf().segments.len() > 3, "several segments");
    (rig, first_end.expect("a second segment"))
}

/// Bytes of a frame's part in clear: four entries.
const CLEAR_BYTES: usize = 16 + 4 * crate::spool::format::frame::ENTRY_BYTES + 4;

fn name(number: u64) -> String {
    format!("{number:020}.seg")
}

#[test]
fn a_frame_whose_content_is_damaged_is_told_with_its_leaves() {
    let (rig, _) = segments();
    let disk = rig.disk.killed();
    // Within the ciphertext of the first frame.
    let header = rig.writer.shelf().segments.get(&0).expect("a segment").header_bytes;
    let at = usize::try_from(header).expect("small") + CLEAR_BYTES + 10;
    disk.alter(&name(0), |bytes| bytes[at] ^= 1);
    let mut scanned = recover(&disk);
    let [damage] = scanned.report.damage.as_slice() else { panic!("{:?}", scanned.report.damage) };
    assert_eq!((damage.from, damage.to, damage.offset), (Place(0), Place(4), header));
    assert_eq!(damage.problem, "its checksum does not fit");
    let [lost] = damage.lost.as_slice() else { panic!("{damage:?}") };
    assert_eq!((lost.from, lost.nodes.as_ref()), (0, Some(&rig.leaves(0, 4))));
    // Sizes and roots are whole, and so is all the rest.
    let end = rig.given.len();
    assert_eq!(scanned.report.streams[&super::rig::sid(0)].leaves, rig.leaves(0, end));
    scanned.shelf.set_sinks(&sinks(), Place::default());
    let (found, lost) = read_all(Reader::new(disk, scanned.shelf.shared().clone(), Place(0)).expect("memory"));
    assert_eq!(lost, [(0, 4)]);
    assert!(found.keys().copied().eq(4..end as u64));
}

#[test]
fn the_rest_of_a_damaged_segment_is_told_by_the_next_ones_header() {
    let (rig, first_end) = segments();
    let disk = rig.disk.killed();
    let header = rig.writer.shelf().segments.get(&0).expect("a segment").header_bytes;
    // The first frame's length.
    let at = usize::try_from(header).expect("small");
    disk.alter(&name(0), |bytes| bytes[at] ^= 0x80);
    let scanned = recover(&disk);
    let [damage] = scanned.report.damage.as_slice() else { panic!("{:?}", scanned.report.damage) };
    assert_eq!((damage.from, damage.to), (Place(0), Place(first_end)));
    let [lost] = damage.lost.as_slice() else { panic!("{damage:?}") };
    let leaves = rig.leaves(0, usize::try_from(first_end).expect("small")).end();
    assert_eq!((lost.from, lost.to, &lost.nodes), (0, leaves, &None));
    let (found, lost) = read_all(Reader::new(disk, scanned.shelf.shared().clone(), Place(0)).expect("memory"));
    assert_eq!(lost, [(0, first_end)]);
    assert!(found.keys().copied().eq(first_end..rig.given.len() as u64));
}

#[test]
fn a_segment_without_a_header_is_set_aside() {
    let (rig, first_end) = segments();
    let disk = rig.disk.killed();
    disk.alter(&name(1), |bytes| bytes[3] ^= 1);
    let scanned = recover(&disk);
    let second_end = rig.writer.shelf().segments.get(&1).expect("a segment").end();
    let [damage] = scanned.report.damage.as_slice() else { panic!("{:?}", scanned.report.damage) };
    assert_eq!((damage.file.as_str(), damage.from, damage.to), (name(1).as_str(), Place(first_end), second_end));
    assert_eq!(damage.problem, format!("the header: not a file of a spool; set aside as {}.corrupt", name(1)));
    let names: Vec<String> = disk.list().expect("listed").into_iter().map(|file| file.name).collect();
    assert!(names.contains(&format!("{}.corrupt", name(1))) && !names.contains(&name(1)));
    let (found, lost) = read_all(Reader::new(disk, scanned.shelf.shared().clone(), Place(0)).expect("memory"));
    assert_eq!(lost, [(first_end, second_end.number())]);
    assert_eq!(found.len() as u64, rig.given.len() as u64 - (second_end.number() - first_end));
}

/// It is told, then it stays as long as what is released does, and goes where its space is needed; whoever reads the folder
/// before it is told finds it.
#[test]
fn sp_3_what_is_set_aside_counts_and_goes_in_a_day_or_for_want_of_room_when_it_is_told() {
    let (rig, _) = segments();
    let newest = *rig.writer.shelf().segments.keys().next_back().expect("a segment");
    let all: Vec<u64> = rig.writer.shelf().segments.keys().copied().collect();
    // Of what stands before a header that one says how far it went.
    for (broken, headless) in [(vec![1], 0), (vec![newest], 1), (all.clone(), all.len() as u64)] {
        let disk = rig.disk.killed();
        broken.iter().for_each(|number| disk.alter(&name(*number), |bytes| bytes[3] ^= 1));
        let aside = |disk: &SimDisk| {
            let files = disk.list().expect("listed").into_iter();
            files.filter(|file| file.name.ends_with(".corrupt")).map(|file| file.bytes).collect::<Vec<_>>()
        };
        for told in [false, true] {
            let Scanned { mut shelf, report } = recover(&disk);
            assert_eq!((report.headless_segments, report.was_told, aside(&disk).len()), (headless, told, broken.len()));
            let segments: u64 = shelf.segments.values().map(|segment| segment.file_bytes).sum();
            assert_eq!(shelf.used_bytes(), segments + aside(&disk).iter().sum::<u64>());
            shelf.set_sinks(&sinks(), Place::default());
            assert_eq!(shelf.reclaimable_bytes(), 0);
            shelf.expire(u64::MAX);
            assert_eq!((shelf.make_room(u64::MAX), aside(&disk).len()), (0, broken.len()), "not before it is told");
            shelf.set_recovered();
            shelf.flush(1).expect("written");
        }
        let (day, room) = (disk.killed(), disk.killed());
        let mut shelf = recover(&day).shelf;
        shelf.flush(1).expect("written");
        shelf.expire(REPLAY_NANOS_MAX);
        assert_eq!(aside(&day).len(), broken.len());
        shelf.expire(1 + REPLAY_NANOS_MAX);
        assert!(aside(&day).is_empty());
        let mut shelf = recover(&room).shelf;
        shelf.set_sinks(&sinks(), Place::default());
        shelf.flush(1).expect("written");
        assert_eq!(shelf.reclaimable_bytes(), aside(&room).iter().sum::<u64>());
        assert!(shelf.make_room(1) > 0 && aside(&room).len() == broken.len() - 1, "no more than is needed");
    }
}

#[test]
fn s2_names_stand_in_the_newest_headers_and_what_cannot_be_read_is_left_out() {
    let (mut rig, _) = segments();
    rig.add_stream();
    assert!(rig.commit(40, 10), "both streams have entries");
    let disk = rig.disk.killed();
    let of = |boot| names([(boot, disk.clone())]);
    let all = of(BOOT);
    assert_eq!((all.len(), all.contains(&sid(0)), all.contains(&sid(1))), (2, true, true), "{all:?}");
    assert_eq!(of(NEXT_BOOT), [], "of another process");
    let (newest, segment) = rig.writer.shelf().segments.last_key_value().expect("a segment");
    assert_eq!(segment.header.streams.len(), 2);
    disk.alter(&name(*newest), |bytes| bytes[3] ^= 1);
    assert_eq!(of(BOOT), [sid(0)], "the header before names one");
    rig.writer.shelf().segments.keys().for_each(|number| disk.alter(&name(*number), |bytes| bytes[4] ^= 1));
    assert_eq!(of(BOOT), []);
    // However many processes there were, a start looks at few.
    let mut looked = 0;
    names((0..10_000).map(|_| (BOOT, disk.clone())).inspect(|_| looked += 1));
    assert!(looked <= 64, "{looked}");
}

/// Where the first frame of a segment begins, in bytes.
fn first_frame(rig: &Rig, number: u64) -> usize {
    let segment = rig.writer.shelf().segments.get(&number).expect("a segment");
    usize::try_from(segment.header_bytes).expect("small")
}

#[test]
fn g2_a_frame_of_which_the_disk_gives_the_part_in_clear_alone_is_lost_with_its_leaves() {
    let (rig, _) = segments();
    let at = first_frame(&rig, 0) + CLEAR_BYTES + 10;
    rig.disk.break_bytes(&name(0), at..at + 1);
    let mut reader = rig.reader(Place(0));
    assert_eq!(reader.read(), Err(ReadError::Unreadable(0)));
    assert_eq!(reader.position(), Place(0), "it stands where it stood");
    let Some(Read::Lost { from, to, leaves, untold, .. }) = reader.give_up() else { panic!("nothing is lost") };
    assert_eq!((from, to, untold), (Place(0), Place(4), Untold::default()));
    assert_eq!(leaves, [(sid(0), rig.leaves(0, 4))]);
    assert_eq!(reader.give_up(), None, "what follows can be read");
    let (found, lost) = read_all(reader);
    assert!(lost.is_empty() && found.keys().copied().eq(4..rig.given.len() as u64));
    // The next process tells the same.
    let disk = rig.disk.killed();
    let retry = scan(disk.clone(), &keys(), BOOT, NEXT_BOOT, Unreadable::Retry, &|| true);
    assert!(retry.is_err(), "it may be there the next time");
    let report = recover(&disk).report;
    let [damage] = report.damage.as_slice() else { panic!("{:?}", report.damage) };
    let [lost] = damage.lost.as_slice() else { panic!("{damage:?}") };
    assert_eq!((damage.from, damage.to, lost.nodes.as_ref()), (Place(0), Place(4), Some(&rig.leaves(0, 4))));
}

#[test]
fn g2_a_segment_of_which_the_disk_gives_nothing_is_lost_up_to_the_next_one() {
    let (rig, first_end) = segments();
    let at = first_frame(&rig, 0) + 5;
    rig.disk.break_bytes(&name(0), at..at + 1);
    let mut reader = rig.reader(Place(0));
    assert_eq!(reader.read(), Err(ReadError::Unreadable(0)));
    let Some(Read::Lost { from, to, leaves, untold, .. }) = reader.give_up() else { panic!("nothing is lost") };
    assert_eq!((from, to, leaves), (Place(0), Place(first_end), Vec::new()));
    let end = rig.leaves(0, usize::try_from(first_end).expect("small")).end();
    assert_eq!(untold, Untold { entries: first_end, leaves: vec![(sid(0), 0..end)] });
    assert!(matches!(reader.read(), Ok(Read::Block(_))));
    // Of the last one nobody knows yet how far its streams go.
    let (last, segment) = rig.writer.shelf().segments.last_key_value().expect("a segment");
    let (at, first, end) = (first_frame(&rig, *last) + 5, segment.first(), segment.end());
    rig.disk.break_bytes(&name(*last), at..at + 1);
    reader.seek(first);
    assert_eq!(reader.read(), Err(ReadError::Unreadable(*last)));
    let Some(Read::Lost { to, untold, .. }) = reader.give_up() else { panic!("nothing is lost") };
    assert_eq!((to, untold), (end, Untold { entries: end.number() - first.number(), leaves: Vec::new() }));
    assert_eq!(reader.read(), Ok(Read::End));
}

#[test]
fn g2_what_follows_a_frame_whose_part_in_clear_is_broken_is_lost_and_counted() {
    let (rig, first_end) = segments();
    let at = first_frame(&rig, 0);
    rig.disk.alter(&name(0), |bytes| bytes[at + 20] ^= 1);
    let mut reader = rig.reader(Place(0));
    let Ok(Read::Lost { from, to, untold, .. }) = reader.read() else { panic!("nothing is lost") };
    let end = rig.leaves(0, usize::try_from(first_end).expect("small")).end();
    assert_eq!((from, to), (Place(0), Place(first_end)));
    assert_eq!(untold, Untold { entries: first_end, leaves: vec![(sid(0), 0..end)] });
    assert!(matches!(reader.read(), Ok(Read::Block(_))), "the next segment is whole");
}

#[test]
fn d5_without_the_pods_key_the_size_is_known_and_the_content_waits() {
    let (rig, _) = segments();
    let disk = rig.disk.killed();
    let other = Keys::with_pod_key([4; 32], None);
    let mut scanned = scan(disk.clone(), &other, BOOT, NEXT_BOOT, Unreadable::Damaged, &|| true).expect("listed");
    assert_eq!(scanned.report.locked_segments, rig.writer.shelf().segments.len() as u64);
    assert_eq!(scanned.report.streams[&super::rig::sid(0)].leaves, rig.leaves(0, rig.given.len()));
    let mut reader = Reader::new(disk, scanned.shelf.shared().clone(), Place(0)).expect("memory");
    assert_eq!(reader.read(), Err(ReadError::Locked(0)));
    let wrapped = rig.writer.shelf().segments.get(&0).expect("a segment").header.pod_key.clone();
    scanned.shelf.unlock(0, keys().unwrap(&wrapped).expect("the pod's key"));
    assert!(reader.read().is_ok());
}

#[test]
fn sp_3_t5_a_full_spool_refuses_sheds_what_nobody_must_have_and_goes_on_after_acknowledgements() {
    let mut rig = Rig::new(3);
    let settings = WriterSettings { limit_bytes: FIXED_RESERVE_BYTES + 32 * 1024, segment_bytes: 4096 };
    let shelf = crate::spool::Shelf::new(rig.disk.clone(), BOOT);
    rig.writer = crate::spool::Writer::new(settings, keys(), shelf).expect("a writer");
    rig.writer.set_sinks(&sinks());
    rig.writer.add_stream(crate::spool::StreamNumber(0), super::rig::sid(0), 0);
    let room = rig.writer.room();
    assert!(room.ordinary_bytes > 0 && room.ordinary_bytes < room.evidence_bytes / 100 * 94);
    assert!(room.evidence_bytes < room.release_bytes / 100 * 99, "gaps do not take the place of what ends them");
    let full = (0..1000).find_map(|_| {
        let block = rig.block(8, 900);
        rig.writer.commit(vec![block], 1).err()
    });
    assert!(matches!(full, Some(Fault::Full { .. })), "{full:?}");
    let durable = rig.writer.durable().end();
    assert!(durable.number() < rig.given.len() as u64);
    assert!(rig.writer.room().ordinary_bytes < 4096);
    // One sink is not enough; the other is not required, and loses what is in the way.
    rig.writer.shelf_mut().ack("b", Place(0)).expect("known");
    rig.writer.shelf_mut().flush(1).expect("written");
    assert!(matches!(rig.writer.retry(1), Err(Fault::Full { .. })));
    rig.writer.shelf_mut().ack("a", durable).expect("known");
    rig.writer.shelf_mut().flush(1).expect("written");
    assert_eq!(rig.writer.retry(1).expect("room").end().number(), rig.given.len() as u64);
    let skipped = rig.writer.shelf_mut().take_skipped();
    let first = skipped.first().expect("b never gets the first segment");
    assert_eq!((first.shed.sink.as_str(), first.shed.from), ("b", Place(0)));
    let (sid, leaves) = first.shed.leaves.first().expect("a stream");
    assert_eq!(sid, &super::rig::sid(0));
    assert_eq!(leaves, &rig.leaves(0, usize::try_from(first.shed.to.number()).expect("small")));
}

/// A spool of which `b` lacks all, and whose first segment goes for want of room.
fn behind() -> (Rig, std::ops::Range<usize>) {
    let (mut rig, _) = segments();
    let end = rig.writer.durable().end();
    rig.writer.shelf_mut().ack("a", end).expect("known");
    rig.writer.shelf_mut().flush(1).expect("written");
    let header = usize::try_from(rig.writer.shelf().segments.get(&0).expect("a segment").header_bytes).expect("small");
    (rig, header..header + CLEAR_BYTES)
}

#[test]
fn t5_g2_what_can_be_told_of_a_segment_that_is_damaged_is_told_to_who_never_gets_it() {
    let (mut rig, first) = behind();
    // The second frame's length: it follows the first one, whose length is the first number of its part in clear.
    let second = {
        let bytes = rig.disk.read_at(&name(0), first.start as u64, 4).expect("readable");
        first.start + u32::from_le_bytes(bytes.try_into().expect("four")) as usize
    };
    rig.disk.alter(&name(0), |bytes| bytes[second] ^= 1);
    assert!(rig.writer.shelf_mut().make_room(1) > 0);
    let skipped = rig.writer.shelf_mut().take_skipped();
    let [one] = &skipped[..] else { panic!("{skipped:?}") };
    assert_eq!(one.shed.leaves, [(sid(0), rig.leaves(0, 4))]);
}

#[test]
fn t5_what_the_disk_does_not_give_just_then_stays_for_a_while_and_is_asked_for_again_at_recovery() {
    let (mut rig, first) = behind();
    let end = rig.writer.shelf().segments.get(&0).expect("a segment").end();
    rig.disk.break_bytes(&name(0), first);
    assert_eq!(rig.writer.shelf_mut().make_room(1), 0, "it may be there the next time");
    assert!(rig.writer.shelf_mut().take_skipped().is_empty());
    let tries = (0..1000).position(|_| rig.writer.shelf_mut().make_room(1) > 0).expect("not for ever");
    assert!(tries > 10, "{tries}");
    let skipped = rig.writer.shelf_mut().take_skipped();
    assert_eq!((skipped.len(), skipped[0].shed.to, skipped[0].shed.leaves.len()), (1, end, 0));
    // Nobody was told; the next process cannot read that at first.
    let disk = rig.disk.killed();
    disk.break_bytes(&skipped[0].file, 0..1);
    let again = |unreadable| scan(disk.clone(), &keys(), BOOT, NEXT_BOOT, unreadable, &|| true);
    assert!(again(Unreadable::Retry).is_err());
    assert!(again(Unreadable::Damaged).is_ok());
}
