//! The folder of a real file system, and a disk that takes its time.

use super::rig::{BOOT, NEXT_BOOT, Rig, folder, keys, read_all, recover, sinks};
use crate::spool::disk::sim::Fault;
use crate::spool::disk::{Disk, Files, Folder, Syncer};
use crate::spool::recover::{Scanned, Unreadable, names, scan};
use crate::spool::shelf::is_log;
use crate::spool::{Durable, Place, Writer};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// The length from which on a file gets room ahead, and how much that is at most.
const AHEAD_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024..=512 * 1024;
/// A file takes whole blocks.
const BLOCK_BYTES: u64 = 4096;

#[test]
fn a_file_that_grows_has_room_ahead_until_it_is_closed() {
    let folder = folder("room-ahead");
    let mut disk = Folder::new(&folder);
    let (piece, name) = (vec![7_u8; 10_000], "00000000000000000000.seg");
    let taken = || {
        let metadata = fs::metadata(folder.join(name)).expect("a file");
        (metadata.len(), metadata.blocks() * 512)
    };
    disk.create(name).expect("made");
    disk.append(name, &piece).expect("written");
    disk.sync(name).expect("synced");
    assert!(taken().1 < *AHEAD_BYTES.start(), "a small file takes what it has: {:?}", taken());
    let mut ahead_bytes_max = 0;
    for count in 2..200 {
        disk.append(name, &piece).expect("written");
        let (bytes, blocks_bytes) = taken();
        assert_eq!(bytes, count * 10_000, "its length is what was appended");
        ahead_bytes_max = ahead_bytes_max.max(blocks_bytes.saturating_sub(bytes));
    }
    assert!(
        (AHEAD_BYTES.end() - 20_000..=AHEAD_BYTES.end() + 2 * BLOCK_BYTES).contains(&ahead_bytes_max),
        "{ahead_bytes_max}"
    );
    disk.sync(name).expect("synced");
    disk.close(name);
    let (bytes, blocks_bytes) = taken();
    assert_eq!(bytes, 199 * 10_000);
    assert!(blocks_bytes < bytes + 2 * BLOCK_BYTES, "what was not used is free: {blocks_bytes}");
    assert_eq!(disk.read_at(name, 0, 2_000_000).expect("read"), vec![7; 1_990_000]);
}

#[test]
fn d1_a_commit_that_fails_behind_the_writer_is_made_up_for_elsewhere() {
    let mut rig = Rig::new(7);
    rig.disk.fail_next(Fault::Sync);
    assert!(rig.put(Writer::begin_commit, 3, 100));
    assert_eq!(rig.writer.durable(), Durable::default(), "nobody has waited for the disk");
    assert!(rig.put(Writer::write, 2, 100), "it is written to meanwhile");
    assert!(rig.settles(100), "and nobody has to say again that all is to be durable");
    let (found, lost) = read_all(rig.reader(Place::default()));
    assert_eq!((found.len(), lost.len()), (5, 0));
}

#[test]
fn d1_where_a_segment_ends_nobody_waits_for_the_disk() {
    for seed in 0..20 {
        let mut rig = Rig::new(seed);
        for round in 0..40 {
            if round % 10 == 9 {
                rig.add_stream();
            }
            if round % 16 == 15 {
                rig.writer.end_segment();
            }
            assert!(rig.put(if round % 2 == 0 { Writer::begin_commit } else { Writer::write }, 2, 100));
            assert_eq!(rig.writer.written().end().number(), rig.given.len() as u64, "seed {seed}");
            let killed = recover(&rig.disk.killed()).shelf.durable();
            assert_eq!(killed.end(), rig.writer.written().end(), "seed {seed}: who is killed loses nothing of it");
        }
        assert_eq!(rig.disk.waits(), 0, "seed {seed}");
        let segments = rig.writer.shelf().segments.len();
        assert!(segments > 3, "seed {seed}: {segments}");
        assert!(rig.put(Writer::begin_commit, 1, 100) && rig.settles(100), "seed {seed}");
        assert_eq!(rig.disk.waits(), 0, "seed {seed}");
        let (found, lost) = read_all(rig.reader(Place::default()));
        assert_eq!((found.len(), lost.len()), (rig.given.len(), 0), "seed {seed}");
    }
}

#[test]
fn sp_2_who_is_killed_while_a_segment_is_begun_loses_nothing_that_was_written() {
    let (mut shorter, mut unheard) = (0, 0);
    for (seed, operations) in (0..20).flat_map(|seed| (0..12).map(move |operations| (seed, operations))) {
        let mut rig = Rig::new(seed);
        assert!(rig.put(Writer::begin_commit, 1, 10));
        (0..3).for_each(|_| assert!(rig.put(Writer::write, 1, 10)));
        let written = rig.writer.written().end();
        // A stream that begins needs a segment whose header names it.
        rig.add_stream();
        rig.disk.stop_after(operations);
        assert!(rig.put(Writer::write, 1, 10));
        let Some(stopped) = rig.disk.stopped() else { continue };
        let Scanned { mut shelf, report } = recover(&stopped);
        let durable = shelf.durable().end();
        assert!(durable >= written, "seed {seed}, after {operations}: {durable:?} of {written:?}");
        let segments = stopped.list().expect("listed").iter().filter(|file| file.name.ends_with(".seg")).count();
        shorter += usize::from(shelf.segments.len() < segments);
        // Its successor names what it finds (S2), and tells of each name (D3).
        let named = names([(BOOT, stopped.clone())]);
        assert!(
            named.iter().all(|name| report.streams.contains_key(name)),
            "seed {seed}, after {operations}: {named:?}"
        );
        unheard += usize::from(named.len() == 2 && shelf.segments.len() < segments);
        // Who comes after that finds the same,
        let next = recover(&stopped);
        assert_eq!((next.report, next.shelf.durable().end()), (report, durable));
        // and nothing that anybody waits for where it was told, and its sinks had it.
        shelf.set_sinks(&sinks(), Place::default());
        sinks().iter().for_each(|sink| shelf.ack(&sink.name, durable).expect("durable"));
        shelf.set_recovered();
        shelf.flush(1).expect("written");
        shelf.make_room(u64::MAX);
        assert!(shelf.segments.is_empty());
        let Scanned { mut shelf, report } = recover(&stopped);
        shelf.set_sinks(&sinks(), Place::default());
        assert!(report.was_told && report.damage.is_empty() && shelf.is_done(), "seed {seed}, after {operations}");
        assert!(sinks().iter().all(|sink| shelf.position(&sink.name) == Some(shelf.durable().end())));
    }
    assert!(shorter > 20, "a segment that was begun did not reach as far as the one before: {shorter} times");
    assert!(unheard > 20, "a stream that was begun there has nothing yet: {unheard} times");
}

#[test]
fn a_file_is_synced_behind_its_writer_once_at_a_time() {
    let folder = folder("behind");
    let mut disk = Folder::new(&folder);
    // The thread tells of the end of a sync, and goes on when that is taken.
    let (done, ends) = std::sync::mpsc::sync_channel(0);
    let syncer = Syncer::start(move || done.send(()).unwrap_or_default()).expect("a thread");
    disk.set_syncer(&Arc::new(syncer));
    for name in ["one", "two"] {
        disk.create(name).expect("made");
        disk.append(name, b"bytes").expect("written");
        disk.begin_sync(name).expect("begun");
    }
    assert!(disk.synced("two").is_none(), "it waits for its turn");
    assert!(disk.begin_sync("two").is_err());
    disk.append("two", b" and more").expect("written meanwhile");
    let is_good = |outcome: Option<std::io::Result<()>>| outcome.is_some_and(|outcome| outcome.is_ok());
    ends.recv().expect("the first has ended");
    assert!(is_good(disk.synced("one")) && is_good(disk.synced("one")));
    disk.end_sync("two").expect("synced");
    ends.recv().expect("the second has ended");
    disk.begin_sync("two").expect("the rest");
    disk.close("two");
    ends.recv().expect("the third has ended, though nobody asks for it");
    assert!(disk.synced("two").is_some_and(|outcome| outcome.is_err()), "it is closed");
}

#[test]
fn what_the_logs_of_a_folder_say_is_not_written_down_again() {
    let mut rig = Rig::new(7);
    assert!(rig.commit(3, 100));
    let end = rig.writer.durable().end();
    for sink in ["a", "b"] {
        rig.writer.shelf_mut().ack(sink, end).expect("durable");
    }
    rig.writer.shelf_mut().flush(1).expect("written");
    let disk = rig.disk.killed();
    let logs = || disk.list().expect("listed").into_iter().filter(|file| is_log(&file.name)).count();
    let next = || {
        let mut shelf = recover(&disk).shelf;
        shelf.set_sinks(&sinks(), Place::default());
        assert_eq!(shelf.released().end(), end);
        shelf
    };
    let mut shelf = next();
    shelf.flush(2).expect("nothing to do");
    assert_eq!(logs(), 1);
    shelf.set_recovered();
    shelf.flush(2).expect("written");
    assert_eq!(logs(), 2);
    let mut shelf = next();
    shelf.flush(3).expect("nothing to do");
    assert!(shelf.is_recovered());
    assert_eq!(logs(), 2);
}

#[test]
fn d1_what_a_killed_process_left_and_the_disk_did_not_take_is_shown_to_nobody() {
    for seed in 0..40 {
        let mut rig = Rig::new(seed);
        assert!(rig.commit(4, 100));
        let durable = rig.writer.durable().end();
        assert!(rig.put(Writer::write, 8, 400), "written, and not synced");
        let disk = rig.disk.killed();
        disk.fail_next(Fault::Sync);
        let shown = recover(&disk).shelf.durable().end();
        assert!(shown >= durable, "seed {seed}");
        // Another sync would succeed: the system has told of it, and forgotten it.
        let after = recover(&disk.crashed(seed)).shelf.durable().end();
        assert!(after >= shown, "seed {seed}: {shown:?} was shown, {after:?} is there");
    }
}

#[test]
fn a_scan_ends_when_the_process_does() {
    let mut rig = Rig::new(5);
    assert!(rig.commit(4, 100));
    let looks = std::cell::Cell::new(0);
    let goes_on = || {
        looks.set(looks.get() + 1);
        looks.get() < 2
    };
    let disk = rig.disk.killed();
    let error = scan(disk, &keys(), BOOT, NEXT_BOOT, Unreadable::Damaged, &goes_on).err().expect("it ends");
    assert_eq!(error.kind(), std::io::ErrorKind::Interrupted);
}

#[test]
fn a_disk_that_takes_no_acknowledgements_is_not_filled_with_logs() {
    for fault in [Fault::Write, Fault::Sync] {
        let mut rig = Rig::new(9);
        let logs = |rig: &Rig| rig.disk.list().expect("listed").iter().filter(|file| is_log(&file.name)).count();
        for round in 0..100 {
            rig.disk.heal();
            assert!(rig.commit(1, 100));
            let end = rig.writer.durable().end();
            rig.writer.shelf_mut().ack("a", end).expect("known");
            rig.disk.fail_next(fault);
            if round % 2 == 1 {
                rig.disk.fail_next(Fault::Remove);
            }
            assert!(rig.writer.shelf_mut().flush(1).is_err(), "{fault:?}");
        }
        assert!(logs(&rig) < 20, "{fault:?}: {} logs", logs(&rig));
        rig.disk.heal();
        rig.writer.shelf_mut().flush(1).expect("written");
        assert_eq!(logs(&rig), 1, "{fault:?}");
        assert_eq!(rig.writer.shelf().released().end(), rig.writer.durable().end());
    }
}
