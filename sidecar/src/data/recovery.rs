//! What earlier processes left in the spool is told by the first data thread (D3): streams, exchanges of which nobody tells,
//! records that are gone. Runs behind traffic; each statement is repeated until it is durable.

use super::Recorder;
use crate::defect::{contained, contained_task};
use crate::spool::recover::OpenBegin;
use crate::spool::{Boot, Counters, Event, Found, Read, Skipped, SpoolHandle};
use std::collections::BTreeMap;
use std::time::Duration;
use testimony_core::capture::{Outcome, Shell as _};
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::seal::{HoleFacts, RecoveredFacts};
use testimony_core::evidence::stream::{StreamId, StreamParts};
use testimony_core::policy::Direction;
use testimony_core::record::{Field, Gap, GapReason, Record, Redacted, restore_exchange};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// What found no place is told again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// How long exchanges that were open at a node's restart wait for the operator to open what was put aside of them.
const UNLOCK_PATIENCE: Duration = Duration::from_secs(30);

/// Why records of a hole are gone. Of what is damaged each sink that comes to it tells: what it never gets is told once, and
/// it goes on behind it only when that is durable.
const QUOTA: &str = "spool_full";

/// Tells what the spool finds, for as long as it finds anything.
pub async fn recover(recorder: Recorder, mut events: mpsc::Receiver<Event>, spool: SpoolHandle) {
    while let Some(event) = events.recv().await {
        // A defect must not keep what comes next from being told.
        let told = contained_task(async {
            match event {
                Event::Found(found) => tell_found(&recorder, &found, &spool).await,
                Event::Skipped(boot, skipped) => tell_skipped(&recorder, boot, &skipped, &spool).await,
            }
        });
        if told.await.is_err() {
            tracing::error!("a defect: what an earlier process left is not told; the next process tries it once more");
            let (now, reason) = (super::now().wall_ns, GapReason::WorkerDied);
            recorder.lose(Gap { count: 0, exact: false, from_ns: now, to_ns: now, reason }, None);
        }
    }
}

/// Waits until the gaps of before are declared, durably.
pub async fn declared(recorder: &Recorder) {
    until(|| recorder.declare()).await;
    recorder.all_durable().await;
}

async fn tell_found(recorder: &Recorder, found: &Found, spool: &SpoolHandle) {
    let report = &found.report;
    let (boot, streams) = (report.boot, report.streams.len());
    if report.locked_segments > 0 {
        let segments = report.locked_segments;
        tracing::warn!(%boot, segments, "segments of the spool were written before the node restarted; they wait for the operator");
    }
    if report.was_told {
        return;
    }
    tracing::info!(%boot, streams, "an earlier process left a spool");
    for (stream, known) in &report.streams {
        let head_size = known.head.map_or(0, |head| head.size);
        if head_size > known.size() {
            tracing::error!(%stream, head_size, size = known.size(), "a head was signed beyond what is durable");
        }
        let (size, root, closed) = (known.size(), known.root(), known.closed);
        let facts = RecoveredFacts { stream, size, root, head_size, closed };
        until(|| recorder.tell(|own, now, desk| own.recovered(&facts, now, desk))).await;
    }
    tell_begun(recorder, found, spool).await;
    for (gap, stream) in untold(found, &recorder.stream_id()) {
        tracing::warn!(%boot, count = gap.count, exact = gap.exact, "exchanges of an earlier process have no record");
        recorder.lose(gap, stream);
        until(|| recorder.declare()).await;
    }
    for damage in &report.damage {
        let (file, offset, problem) = (&damage.file, damage.offset, &damage.problem);
        tracing::error!(%boot, file, offset, problem, "the spool is damaged; what can be read is delivered");
        for lost in damage.lost.iter().filter(|lost| lost.nodes.is_none()) {
            let (stream, from, to) = (&lost.sid, lost.from, lost.to);
            tracing::error!(%stream, from, to, "records are gone with their hashes: no hole can stand for them");
        }
    }
    recorder.all_durable().await;
    spool.set_recovered(boot);
}

/// Exchanges that began and have no record, under Strict and Closed (T2): what was put aside of each becomes its record.
async fn tell_begun(recorder: &Recorder, found: &Found, spool: &SpoolHandle) {
    let (boot, begins) = (found.report.boot, found.report.open_begins.clone());
    if begins.is_empty() {
        return;
    }
    // What cannot be read yet is counted by a gap: the wait has an end.
    let unlocked = async {
        while spool.locked().iter().any(|segment| segment.boot == boot) {
            sleep(AGAIN).await;
        }
    };
    let _ = timeout(UNLOCK_PATIENCE, unlocked).await;
    let handle = spool.clone();
    // Reading blocks on the disk, and traffic does not wait for that.
    let count = begins.len();
    let read = move || each_of(&begins, |begin| read_begin(&handle, boot, begin));
    let mut records = tokio::task::spawn_blocking(read).await.unwrap_or_default();
    records.resize_with(count, || None);
    tracing::warn!(%boot, count, "an earlier process died while exchanges were open");
    for record in records {
        let Some(record) = record else {
            let (now, reason) = (super::now().wall_ns, GapReason::WorkerDied);
            recorder.lose(Gap { count: 1, exact: true, from_ns: now, to_ns: now, reason }, None);
            continue;
        };
        let direction = match record.get().get(Field::Dir) {
            Some(b"outbound") => Direction::Outbound,
            _ => Direction::Inbound,
        };
        let mut recorder = recorder.clone();
        // It is durable where it stands, and waits there as long as there is no other place for it.
        until(|| recorder.can_record()).await;
        recorder.begin();
        recorder.count(direction, Outcome::Unknown, None);
        // Without a place it is counted by the next gap.
        let _ = recorder.emit(record);
    }
    // Who tells that all was told must have told these, too.
    until(|| recorder.declare()).await;
}

/// What is read of each; a defect costs no other one.
fn each_of<T, R>(all: &[T], read: impl Fn(&T) -> Option<R>) -> Vec<Option<R>> {
    all.iter().map(|one| contained(|| read(one)).ok().flatten()).collect()
}

/// What was put aside of an exchange; `None`: it cannot be read.
fn read_begin(spool: &SpoolHandle, boot: Boot, begin: &OpenBegin) -> Option<Redacted<Record>> {
    let mut reader = spool.reader_at(boot, begin.place)?;
    let Ok(Read::Block(block)) = reader.read() else { return None };
    let entry = block.iter().find(|entry| entry.place == begin.place)?;
    restore_exchange(entry.payload).ok()
}

async fn tell_skipped(recorder: &Recorder, boot: Boot, skipped: &Skipped, spool: &SpoolHandle) {
    let sink = &skipped.shed.sink;
    tracing::warn!(%boot, sink, "the spool had no more room for what this sink does not take");
    for (stream, range) in &skipped.shed.leaves {
        hole(recorder, stream, range, sink).await;
    }
    recorder.all_durable().await;
    spool.set_skipped_told(boot, &skipped.file);
}

async fn hole(recorder: &Recorder, stream: &StreamId, range: &Range, sink: &str) {
    let nodes: Vec<_> = range.nodes().collect();
    let (from, to) = (range.begin(), range.end());
    let facts = HoleFacts { stream, from, to, sink: Some(sink), reason: QUOTA, nodes: &nodes };
    until(|| recorder.tell(|own, now, desk| own.hole(&facts, now, desk))).await;
}

/// Tries until there is room; a recorder that is closed tells nothing more: the next process does.
async fn until(mut tell: impl FnMut() -> bool) {
    while !tell() {
        sleep(AGAIN).await;
    }
}

/// Exchanges that began and of which no entry tells, by data thread; with the thread's last stream. Where nothing of one was
/// durable that is its first: without a name, a gap that is told again after another death would count twice (D3). `own` is
/// any stream of the same pod.
fn untold(found: &Found, own: &StreamId) -> Vec<(Gap, Option<StreamId>)> {
    let mut last: BTreeMap<usize, (u64, &StreamId, u64, bool)> = BTreeMap::new();
    for (stream, known) in &found.report.streams {
        let Some(parts) = stream.parts() else { continue };
        let slot = last.entry(usize::try_from(parts.thread).unwrap_or(usize::MAX)).or_insert((0, stream, 0, true));
        slot.2 = slot.2.max(known.exchanges);
        if parts.rotation >= slot.0 {
            (slot.0, slot.1, slot.3) = (parts.rotation, stream, known.closed);
        }
    }
    // Of the end nothing is known but that it was there.
    let is_cut = found.report.headless_segments > 0;
    let threads = last.keys().next_back().map_or(0, |thread| thread.saturating_add(1));
    let threads = threads.max(found.counters.len()).max(usize::from(is_cut));
    let gap_of = |thread: usize| {
        let counted = found.counters.get(thread);
        let Counters { begun, none, last_unix_nanos, .. } = counted.copied().unwrap_or_default();
        let (stream, told, closed) =
            last.get(&thread).map_or((None, 0, false), |known| (Some(known.1), known.2, known.3));
        let exact = found.counters_exact && counted.is_some() && !is_cut;
        let open = found.report.open_begins.iter().filter(|begin| is_of(&begin.sid, thread)).count() as u64;
        // All that began may stand there.
        let begun = if is_cut { 0 } else { begun };
        let count = begun.saturating_sub(none).saturating_sub(told).saturating_sub(open);
        // A stream that closed told all; where the page is exact and nothing is missing, neither is there a gap.
        let complete = count == 0 && (exact || closed && !is_cut);
        let (from_ns, to_ns) = (last_unix_nanos, super::now().wall_ns.max(last_unix_nanos));
        let gap = Gap { count, exact, from_ns, to_ns, reason: GapReason::WorkerDied };
        (!complete).then(|| (gap, stream.cloned().or_else(|| first_of(found.report.boot, thread, own))))
    };
    (0..threads.min(crate::spool::COUNTED_THREADS_MAX)).filter_map(gap_of).collect()
}

/// The first stream of a data thread of another process of this pod.
fn first_of(boot: Boot, thread: usize, own: &StreamId) -> Option<StreamId> {
    let thread = u32::try_from(thread).ok()?;
    StreamId::new(&StreamParts { boot: &boot.to_string(), thread, rotation: 0, ..own.parts()? }).ok()
}

/// Whether a stream is of this data thread.
fn is_of(stream: &StreamId, thread: usize) -> bool {
    stream.parts().is_some_and(|parts| usize::try_from(parts.thread) == Ok(thread))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::recover::{Report, StreamFound};

    fn sid(thread: u32, rotation: u64) -> StreamId {
        format!("c/n/p/{:032x}-{thread}-{rotation}", 7).parse().expect("a name")
    }

    fn found(streams: &[(u32, u64, u64, bool)], counters: &[(u64, u64)], exact: bool) -> Found {
        let stream = |&(thread, rotation, exchanges, closed): &(u32, u64, u64, bool)| {
            (sid(thread, rotation), StreamFound { leaves: Range::empty(0), exchanges, head: None, closed })
        };
        let report = Report {
            boot: Boot([7; 16]),
            streams: streams.iter().map(stream).collect(),
            open_begins: Vec::new(),
            open_begins_beyond: 0,
            damage: Vec::new(),
            locked_segments: 0,
            headless_segments: 0,
            was_told: false,
        };
        let counters = counters.iter().map(|&(begun, none)| Counters { begun, none, ..Counters::default() }).collect();
        Found { report, counters, counters_exact: exact }
    }

    #[test]
    fn d3_what_began_and_is_told_by_nobody_is_a_gap_of_its_thread() {
        // One was in flight, and three records were not durable.
        let told = untold(&found(&[(0, 0, 90, true), (0, 1, 96, false)], &[(110, 10)], true), &sid(0, 0));
        let [(gap, stream)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((gap.count, gap.exact, stream.as_ref()), (4, true, Some(&sid(0, 1))));
        // Two threads; the second began nothing.
        assert!(untold(&found(&[(0, 0, 5, false), (1, 0, 0, false)], &[(5, 0), (0, 0)], true), &sid(0, 0)).is_empty());
    }

    #[test]
    fn d3_what_cannot_be_read_of_one_exchange_costs_no_other() {
        let read = |number: &u8| if *number == 2 { panic!("as the test wants it") } else { Some(*number) };
        assert_eq!(each_of(&[1, 2, 3], read), [Some(1), None, Some(3)]);
    }

    #[test]
    fn d2_after_the_node_s_death_the_count_is_a_bound() {
        let told = untold(&found(&[(0, 0, 9, false)], &[(9, 0)], false), &sid(0, 0));
        assert_eq!((told.len(), told[0].0.count, told[0].0.exact), (1, 0, false));
        assert!(untold(&found(&[(0, 0, 9, true)], &[(9, 0)], false), &sid(0, 0)).is_empty(), "it closed in order");
    }

    /// What was sealed and what was lost may stand in it: nobody knows.
    #[test]
    fn d3_where_the_end_has_no_header_nothing_is_exact_and_a_gap_says_so() {
        type Case<'a> = (&'a [(u32, u64, u64, bool)], &'a [(u64, u64)], Vec<StreamId>);
        let first: StreamId = format!("c/n/p/{}-0-0", "07".repeat(16)).parse().expect("a name");
        let table: [Case<'_>; 4] = [
            (&[], &[], vec![first.clone()]),
            (&[], &[(9, 0)], vec![first]),
            (&[(0, 1, 5, false)], &[(9, 0)], vec![sid(0, 1)]),
            (&[(0, 0, 5, true), (1, 0, 0, true)], &[(5, 0), (0, 0)], vec![sid(0, 0), sid(1, 0)]),
        ];
        for (streams, counters, names) in table {
            let mut found = found(streams, counters, true);
            found.report.headless_segments = 1;
            let told = untold(&found, &sid(0, 0));
            assert!(told.iter().all(|(gap, _)| (gap.count, gap.exact) == (0, false)), "{told:?}");
            let told: Vec<StreamId> = told.into_iter().filter_map(|(_, stream)| stream).collect();
            assert_eq!(told, names);
        }
    }

    #[test]
    fn d3_without_a_page_nothing_is_exact() {
        let told = untold(&found(&[(0, 0, 9, false)], &[], true), &sid(0, 0));
        assert_eq!((told.len(), told[0].0.exact), (1, false));
    }

    #[test]
    fn d3_a_gap_of_a_process_of_which_nothing_is_durable_has_a_name() {
        let told = untold(&found(&[], &[(0, 0), (2, 0)], true), &sid(0, 3));
        let [(gap, stream)] = &told[..] else { panic!("{told:?}") };
        let name = format!("c/n/p/{}-1-0", "07".repeat(16));
        assert_eq!((gap.count, stream.as_ref().map(StreamId::as_str)), (2, Some(name.as_str())));
    }
}
