//! What is told as left undelivered of folders of earlier processes.

use super::rig::{Rig, recover, sid, sinks};
use crate::spool::disk::sim::SimDisk;
use crate::spool::left::{Lacking, Left, asked, unacknowledged};
use crate::spool::{Place, Shelf};
use std::time::{Duration, Instant};

/// What these sinks lack of a folder.
fn left(shelf: &Shelf<SimDisk>, rig: &Rig, sinks: &[&str]) -> Vec<Left> {
    let names: Vec<String> = sinks.iter().map(|sink| (*sink).to_owned()).collect();
    let names = asked(&names, std::iter::once(shelf.shared()));
    let (mut lacking, mut bytes) = (Lacking::new(&names), usize::MAX);
    let until = Instant::now() + Duration::from_secs(60);
    unacknowledged(rig.disk.killed(), shelf.shared(), &mut lacking, &mut bytes, until);
    lacking.into_parts()
}

/// The process ends between a scan and the moment at which the spool's thread takes the folder over.
#[test]
fn w3_of_a_folder_that_nobody_took_over_what_sinks_acknowledged_is_not_told_as_left() {
    let mut rig = Rig::new(5);
    (0..20).for_each(|_| assert!(rig.commit(4, 900)));
    let end = rig.writer.durable().end();
    rig.writer.shelf_mut().ack("a", end).expect("known");
    rig.writer.shelf_mut().flush(1).expect("written");
    let mut scanned = recover(&rig.disk.killed());
    assert_eq!(left(&scanned.shelf, &rig, &["a"]), []);
    // The one that took nothing lacks all, and so does one that is new.
    let records = 0..rig.leaves(0, rig.given.len()).end();
    for sink in ["b", "new"] {
        assert_eq!(
            left(&scanned.shelf, &rig, &[sink]),
            [Left { stream: sid(0), records: records.clone(), sink: None }]
        );
        let told = left(&scanned.shelf, &rig, &["a", sink]);
        assert_eq!(told, [Left { stream: sid(0), records: records.clone(), sink: Some(sink.to_owned()) }]);
    }
    let before = left(&scanned.shelf, &rig, &["a", "b"]);
    scanned.shelf.set_sinks(&sinks(), Place::default());
    assert_eq!(left(&scanned.shelf, &rig, &["a", "b"]), before, "nothing changes when it is taken over");
}

/// Policy names it already: it would begin where those of before stand.
#[test]
fn w3_a_sink_that_the_spool_does_not_know_yet_lacks_what_the_others_lack() {
    let mut rig = Rig::new(5);
    (0..20).for_each(|_| assert!(rig.commit(4, 900)));
    let records = 0..rig.leaves(0, rig.given.len()).end();
    assert_eq!(left(rig.writer.shelf(), &rig, &["new"]), [Left { stream: sid(0), records, sink: None }]);
    let end = rig.writer.durable().end();
    rig.writer.shelf_mut().ack("a", end).expect("known");
    rig.writer.shelf_mut().flush(1).expect("written");
    assert_eq!(left(rig.writer.shelf(), &rig, &["new"]), []);
}

/// The last AuditSink is deleted, or there never was one, and the pod ends.
#[test]
fn w3_where_no_sink_is_named_what_those_of_before_lack_is_told() {
    for (sinks, first) in [(sinks(), 7), (Vec::new(), 0)] {
        let mut rig = Rig::with_sinks(5, &sinks);
        (0..20).for_each(|_| assert!(rig.commit(4, 900)));
        let records = rig.leaves(0, first).end()..rig.leaves(0, rig.given.len()).end();
        for sink in &sinks {
            rig.writer.shelf_mut().ack(&sink.name, Place(first as u64)).expect("known");
        }
        rig.writer.shelf_mut().flush(1).expect("written");
        rig.writer.set_sinks(&[]);
        let told = [Left { stream: sid(0), records, sink: None }];
        assert_eq!(left(rig.writer.shelf(), &rig, &[]), told);
        let mut scanned = recover(&rig.disk.killed());
        assert_eq!(left(&scanned.shelf, &rig, &[]), told);
        scanned.shelf.set_sinks(&[], Place::default());
        assert_eq!(left(&scanned.shelf, &rig, &[]), told);
    }
}

/// A log names for long whom the last sink took the place of.
#[test]
fn w3_where_no_sink_is_named_what_the_last_one_has_is_not_told_for_one_that_was_gone_before_it() {
    let mut rig = Rig::new(5);
    (0..20).for_each(|_| assert!(rig.commit(4, 900)));
    rig.writer.shelf_mut().ack("b", Place(3)).expect("known");
    rig.writer.shelf_mut().flush(1).expect("written");
    rig.writer.set_sinks(&sinks()[..1]);
    let end = rig.writer.durable().end();
    rig.writer.shelf_mut().ack("a", end).expect("known");
    rig.writer.shelf_mut().flush(1).expect("written");
    let mut shelf = recover(&rig.disk.killed()).shelf;
    shelf.set_sinks(&sinks()[..1], Place::default());
    shelf.set_sinks(&[], Place::default());
    assert_eq!(left(&shelf, &rig, &[]), []);
}
