//! The threads on a real folder.

use super::rig::{folder, settings, sid};
use crate::spool::disk::{Files, Folder};
use crate::spool::format::acks::{self, Acks};
use crate::spool::pace::Waiting;
use crate::spool::recover::Report;
use crate::spool::shelf::is_log;
use crate::spool::{
    Boot, Class, Durable, Entry, Event, Inbox, Kind, Limits, Place, Read, Refusal, SinkRule, Spool, SpoolHandle,
    StreamNumber,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(20);

fn start(folder: &Path, boot: u8) -> (Spool, mpsc::Receiver<Event>) {
    let sinks = [SinkRule { name: "a".to_owned(), required: true }];
    Spool::start(settings(folder, boot), &sinks).expect("a spool")
}

fn put(spool: &SpoolHandle, stream: StreamNumber, seqs: std::ops::Range<u64>) -> Place {
    let mut last = Place::default();
    for seq in seqs {
        let payload = format!("record {seq}");
        let leaf = merkle::leaf(payload.as_bytes());
        let mut permit = spool.inbox().reserve(Class::Ordinary, 100).expect("room");
        last = permit.push(Entry::new(stream, Kind::Exchange, seq, leaf, 1), payload.as_bytes()).expect("in order");
    }
    last
}

async fn drained(spool: &SpoolHandle, boot: Boot, count: usize) -> Vec<String> {
    let mut durable = spool.inbox().durable();
    let mut found = Vec::new();
    while found.len() < count {
        let Some(mut reader) = spool.reader_at(boot, Place(found.len() as u64)) else { panic!("no such spool") };
        while let Read::Block(block) = reader.read().expect("readable") {
            found.extend(block.iter().map(|read| String::from_utf8_lossy(read.payload).into_owned()));
        }
        if found.len() < count {
            tokio::time::timeout(PATIENCE, durable.changed()).await.expect("in time").expect("it runs");
        }
    }
    found
}

#[tokio::test]
async fn d1_entries_come_out_when_they_are_durable() {
    let folder = folder("thread");
    let (spool, _events) = start(&folder, 1);
    let handle = spool.handle().clone();
    let stream = handle.inbox().add_stream(sid(0), 0);
    let last = put(&handle, stream, 0..100);
    assert!(handle.inbox().wait_durable(last, PATIENCE).await);
    let found = drained(&handle, handle.boot(), 100).await;
    assert_eq!(found.first().map(String::as_str), Some("record 0"));
    assert_eq!(found.len(), 100);
    handle.ack(handle.boot(), "a", last.next());
    spool.stop();
    assert_eq!(handle.inbox().reserve(Class::Evidence, 1).err(), Some(Refusal::Closed));
}

async fn found(events: &mut mpsc::Receiver<Event>) -> Report {
    match tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time") {
        Some(Event::Found(found)) => {
            assert!(found.counters_exact);
            assert_eq!(found.counters.first().map(|counters| counters.begun), Some(1));
            found.report
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn d3_the_next_process_delivers_what_was_left() {
    let folder = folder("restart");
    {
        let (spool, _events) = start(&folder, 1);
        let stream = spool.handle().inbox().add_stream(sid(0), 0);
        spool.handle().page().thread(0).expect("room").begin();
        let last = put(spool.handle(), stream, 0..10);
        assert!(spool.handle().inbox().wait_durable(last, PATIENCE).await);
        spool.handle().ack(Boot([1; 16]), "a", Place(4));
    }
    let (spool, mut events) = start(&folder, 2);
    let report = found(&mut events).await;
    assert_eq!(report.streams[&sid(0)].size(), 10);
    let before = Boot([1; 16]);
    let handle = spool.handle().clone();
    let mut reader = loop {
        if let Some(reader) = handle.reader(before, "a") {
            break reader;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(reader.position(), Place(4));
    let Ok(Read::Block(block)) = reader.read() else { panic!("entries were left") };
    let first = block.iter().next().expect("an entry");
    assert_eq!((first.place, first.payload), (Place(4), &b"record 4"[..]));
    handle.ack(before, "a", block.end());
    handle.set_recovered(before);
    spool.stop();
    // Released and told: the next process finds nothing to do, and the replay ring keeps the file.
    let (spool, mut events) = start(&folder, 3);
    let report = loop {
        let report = found_any(&mut events).await;
        if report.boot == before {
            break report;
        }
    };
    assert!(report.was_told);
    spool.stop();
}

/// More folders than syncs are begun at a time.
#[tokio::test]
async fn d3_what_many_processes_left_is_acknowledged_one_after_the_other() {
    let folder = folder("many");
    // More than are kept to be read again, too.
    let boots: Vec<u8> = (1..=40).collect();
    for boot in &boots {
        let (spool, _events) = start(&folder, *boot);
        let stream = spool.handle().inbox().add_stream(sid(u32::from(*boot)), 0);
        let last = put(spool.handle(), stream, 0..3);
        assert!(spool.handle().inbox().wait_durable(last, PATIENCE).await);
    }
    let (spool, mut events) = start(&folder, 99);
    for _ in &boots {
        let boot = found_any(&mut events).await.boot;
        while spool.handle().reader(boot, "a").is_none() {
            tokio::task::yield_now().await;
        }
        spool.handle().ack(boot, "a", Place(3));
        spool.handle().set_recovered(boot);
    }
    let begun = Instant::now();
    for boot in boots {
        let path = folder.join("disk").join(Boot([boot; 16]).to_string());
        let is_told = || {
            let (disk, mut acks) = (Folder::new(&path), Acks::default());
            for file in disk.list().unwrap_or_default().iter().filter(|file| is_log(&file.name)) {
                let bytes = disk.read_at(&file.name, 0, 4096).unwrap_or_default();
                let _ = acks::read(&bytes, &mut acks);
            }
            acks.recovered && acks.sinks.get("a") == Some(&Place(3))
        };
        while path.exists() && !is_told() {
            assert!(begun.elapsed() < PATIENCE, "{}", path.display());
            tokio::task::yield_now().await;
        }
    }
    // With its own.
    while std::fs::read_dir(folder.join("disk")).expect("a folder").count() > 33 {
        assert!(begun.elapsed() < PATIENCE, "what nobody waits for goes");
        tokio::task::yield_now().await;
    }
    spool.stop();
}

/// Where a segment's magic and its version stand.
const MAGIC_AT: usize = 3;
const VERSION_AT: usize = 8;

/// A process leaves records of which its sink has none.
async fn leave(folder: &Path, boot: u8) -> PathBuf {
    let (spool, _events) = start(folder, boot);
    let stream = spool.handle().inbox().add_stream(sid(0), 0);
    let last = put(spool.handle(), stream, 0..10);
    assert!(spool.handle().inbox().wait_durable(last, PATIENCE).await);
    spool.stop();
    folder.join("disk").join(Boot([boot; 16]).to_string())
}

fn alter(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).expect("a file");
    bytes[at] ^= 1;
    std::fs::write(file, bytes).expect("written");
}

/// The next process finds the folder of process 1, tells it and ends: that makes it keep house to the end.
async fn recovered(folder: &Path, boot: u8) -> Report {
    let (spool, mut events) = start(folder, boot);
    let report = loop {
        let report = found_any(&mut events).await;
        if report.boot == Boot([1; 16]) {
            break report;
        }
    };
    spool.handle().set_recovered(report.boot);
    spool.stop();
    report
}

fn names(folder: &Path) -> Vec<String> {
    Folder::new(folder).list().unwrap_or_default().into_iter().map(|file| file.name).collect()
}

#[tokio::test]
async fn d3_a_segment_that_is_set_aside_stays_for_people_when_it_is_told() {
    let folder = folder("aside");
    let left = leave(&folder, 1).await;
    let segment = format!("{:020}.seg", 0);
    alter(&left.join(&segment), MAGIC_AT);
    let report = recovered(&folder, 2).await;
    assert_eq!((report.streams.len(), report.headless_segments, report.was_told), (0, 1, false));
    let aside = format!("{segment}.corrupt");
    assert!(names(&left).contains(&aside), "{:?}", names(&left));
    // The next one tells nothing again, and it stays.
    let report = recovered(&folder, 3).await;
    assert!(report.was_told && names(&left).contains(&aside), "{:?}", names(&left));
}

#[tokio::test]
async fn d3_what_another_version_left_stays_as_it_is_and_that_version_reads_it() {
    let folder = folder("version");
    let left = leave(&folder, 1).await;
    let segment = left.join(format!("{:020}.seg", 0));
    let files = [(segment, VERSION_AT), (left.join("counters"), VERSION_AT)];
    files.iter().for_each(|(file, at)| alter(file, *at));
    let before = names(&left);
    let report = recovered(&folder, 2).await;
    assert_eq!(report, Report::unread(Boot([1; 16])));
    assert_eq!(names(&left), before);
    // A process of which no segment is there, but the page.
    let only_page = leave(&folder, 4).await;
    std::fs::remove_file(only_page.join(format!("{:020}.seg", 0))).expect("removed");
    alter(&only_page.join("counters"), VERSION_AT);
    let (spool, mut events) = start(&folder, 5);
    let unread = async {
        let mut unread = Vec::new();
        while unread.len() < 2 {
            let report = found_any(&mut events).await;
            unread.extend((report == Report::unread(report.boot)).then_some(report.boot));
        }
        unread
    };
    assert_eq!(unread.await, [1, 4].map(|boot| Boot([boot; 16])));
    spool.stop();
    // It is back.
    files.iter().for_each(|(file, at)| alter(file, *at));
    let report = recovered(&folder, 6).await;
    assert_eq!((report.streams[&sid(0)].size(), report.headless_segments, report.was_told), (10, 0, false));
}

async fn found_any(events: &mut mpsc::Receiver<Event>) -> Report {
    match tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time") {
        Some(Event::Found(found)) => found.report,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn s3_without_a_place_nothing_is_sealed() {
    let folder = folder("full");
    let mut settings = settings(&folder, 1);
    // Nothing is made durable before somebody waits.
    settings.limits = Limits {
        held_bytes_max: 1000,
        commit_after: Duration::from_secs(3600),
        commit_after_urgent: Duration::from_millis(1),
        commit_bytes: usize::MAX,
        ..Limits::default()
    };
    let (spool, _events) = Spool::start(settings, &[]).expect("a spool");
    let inbox = spool.handle().inbox().clone();
    let stream = inbox.add_stream(sid(0), 0);
    let mut first = inbox.reserve(Class::Ordinary, 600).expect("room");
    assert_eq!(inbox.reserve(Class::Evidence, 500).err(), Some(Refusal::QueueFull));
    assert_eq!(inbox.reserve(Class::Evidence, 1 << 20).err(), Some(Refusal::TooLong));
    let leaf = Hash([1; 32]);
    assert!(first.push(Entry::new(stream, Kind::Open, 1, leaf, 0), b"x").is_err(), "ch_1 seq 0 is due");
    assert!(first.push(Entry::new(stream, Kind::Open, 0, leaf, 0), &[0; 601]).is_err(), "longer than reserved");
    let place = first.push(Entry::new(stream, Kind::Open, 0, leaf, 0), &[0; 200]).expect("taken");
    drop(first);
    // What was reserved and not used is free again.
    let second = inbox.reserve(Class::Ordinary, 800).expect("room");
    drop(second);
    assert!(!inbox.durable().borrow().covers(place));
    assert!(inbox.wait_durable(place, PATIENCE).await);
    assert!(*inbox.durable().borrow() > Durable::default());
    spool.stop();
}

#[test]
fn a_batch_says_whether_somebody_waits_for_it() {
    let inbox = Inbox::new(Limits::default());
    let is_urgent = || inbox.shared().next(Duration::ZERO).urgent;
    assert!(!is_urgent());
    inbox.hurry();
    assert!(is_urgent());
    assert!(!is_urgent(), "they have what they waited for");
}

#[test]
fn what_was_written_counts_for_what_is_to_be_durable_at_once() {
    let limits = Limits {
        commit_after: Duration::from_secs(3600),
        commit_bytes: 300,
        write_bytes: 100,
        write_after: Duration::ZERO,
        ..Limits::default()
    };
    let inbox = Inbox::new(limits);
    let stream = inbox.add_stream(sid(0), 0);
    let commits: Vec<bool> = (0..6)
        .map(|seq| {
            let entry = Entry::new(stream, Kind::Exchange, seq, Hash([1; 32]), 1);
            inbox.reserve_opening(100).push(entry, &[0; 100]).expect("taken");
            inbox.shared().next(PATIENCE).commits
        })
        .collect();
    assert_eq!(commits, [false, false, true, false, false, true]);
}

#[test]
fn some_is_written_early_and_all_is_durable_in_time_or_as_soon_as_somebody_waits_and_the_last_commit_is_not_young() {
    let limits = Limits {
        commit_after: Duration::from_millis(50),
        commit_after_urgent: Duration::from_millis(2),
        write_within: Duration::from_millis(20),
        write_bytes: 1000,
        write_after: Duration::from_millis(4),
        ..Limits::default()
    };
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    for (what, written, bytes, urgent, committed, commit_due, due) in [
        ("little", None, 999, false, None, 150, 120),
        ("some", None, 1000, false, None, 150, 104),
        ("some, after a pause", Some(80), 1000, false, Some(80), 150, 104),
        ("some, after some", Some(104), 1000, false, Some(99), 150, 108),
        ("little after some", Some(106), 999, false, Some(99), 150, 126),
        ("little when all is to be durable", Some(138), 999, false, Some(99), 150, 150),
        ("some when all is to be durable", Some(148), 1000, false, Some(99), 150, 150),
        ("all is written", Some(104), 0, false, Some(99), 150, 150),
        ("urgent, the first of all", None, 1, true, None, 100, 100),
        ("urgent, after a pause", Some(90), 1, true, Some(90), 100, 100),
        ("urgent, just after a commit", Some(99), 1, true, Some(99), 101, 101),
        ("urgent, while the writer is at work", Some(100), 1, true, Some(100), 102, 102),
        ("urgent, and written", Some(100), 0, true, Some(90), 100, 100),
    ] {
        let (written_at, committed_at) = (written.map(at), committed.map(at));
        let waiting = Waiting { since: at(100), written_at, bytes, urgent, committed_at };
        assert_eq!((limits.commit_due(&waiting), limits.due(&waiting)), (at(commit_due), at(due)), "{what}");
    }

    // What comes meanwhile wakes nobody: it is looked for, less and less often.
    for (what, written, bytes, now, look) in [
        ("the first has come", None, 1, 100, 104),
        ("no more has come", None, 1, 104, 108),
        ("and still no more", None, 1, 108, 116),
        ("and then it is to be written", None, 1, 116, 120),
        ("some was written", Some(104), 0, 104, 108),
        ("some has come, but a write is young", Some(104), 1000, 106, 108),
        ("some is due", Some(104), 1000, 109, 108),
        ("long ago something was written", Some(80), 1, 100, 104),
        ("what comes now is not left lying for longer", Some(104), 0, 128, 148),
        ("and then it is time", Some(120), 0, 140, 150),
    ] {
        let written_at = written.map(at);
        let waiting = Waiting { since: at(100), written_at, bytes, urgent: false, committed_at: None };
        assert_eq!(limits.look(&waiting, at(now)), at(look), "{what}");
    }
}
