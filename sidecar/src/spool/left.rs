//! What sinks do not have of the spool when the process ends: with the pod it is gone (W3).

use super::disk::Files;
use super::handle::SpoolHandle;
use super::reader::{Read, Reader};
use super::recover::Unreadable;
use super::shelf::{self, Shared};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use testimony_core::evidence::seal::SinkHole;
use testimony_core::evidence::stream::StreamId;
use testimony_core::record::{Kept, Typ};

/// Records of a stream that one sink, or none, has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The stream.
    pub stream: StreamId,
    /// From the first record to the one after the last.
    pub records: Range<u64>,
    /// The only sink that lacks them; `None`: all do.
    pub sink: Option<String>,
}

/// How much is read at most, and until when: what is not read then is left out.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Bytes of payloads.
    pub bytes: usize,
    /// Time.
    pub until: Instant,
}

/// What these sinks have not acknowledged, what they will never get because its space was needed, and of what holes tell that
/// they do not have. Where there are none, those of before count: no other one gets it any more. Reads the files: not for a thread
/// that serves.
pub fn of(spool: &SpoolHandle, sinks: &[String], budget: Budget) -> Vec<Left> {
    let folders = spool.folders();
    let mut lacking = Lacking::new(&asked(sinks, folders.iter().map(|(_, shared)| shared)));
    let mut bytes_left = budget.bytes;
    for (files, shared) in folders {
        // What cannot be listed or read is told by others: as a hole, or by who finds it next.
        let listed = files.list().unwrap_or_default();
        for skipped in shelf::skipped(&files, &listed, Unreadable::Damaged).unwrap_or_default() {
            let ranges = skipped.shed.leaves.iter();
            ranges.for_each(|(stream, range)| lacking.add(&skipped.shed.sink, stream, range.begin()..range.end()));
        }
        unacknowledged(files, &shared, &mut lacking, &mut bytes_left, budget.until);
    }
    lacking.into_parts()
}

/// These sinks, those of before, or one that has nothing.
pub(super) fn asked<'a>(sinks: &[String], folders: impl Iterator<Item = &'a Arc<Shared>>) -> Vec<String> {
    if !sinks.is_empty() {
        return sinks.to_vec();
    }
    let folders: Vec<_> = folders.collect();
    // A log also names sinks that were gone long before the last one.
    let mut before: Vec<String> = folders.iter().flat_map(|shared| shared.sink_names()).collect();
    if before.is_empty() {
        before = folders.iter().flat_map(|shared| shared.found_names()).collect();
    }
    if before.is_empty() { vec![String::new()] } else { before }
}

/// Of one folder, what these sinks have not acknowledged.
pub(super) fn unacknowledged<F: Files>(
    files: F,
    shared: &Arc<Shared>,
    lacking: &mut Lacking,
    bytes_left: &mut usize,
    until: Instant,
) {
    let names = lacking.0.keys();
    let stands: Vec<_> = names.map(|sink| (shared.sink_stands(sink), sink.clone())).collect();
    let Some(first) = stands.iter().map(|(place, _)| *place).min() else { return };
    let Ok(mut reader) = Reader::new(files, shared.clone(), first) else { return };
    while *bytes_left > 0 && Instant::now() < until {
        let block = match reader.read() {
            Ok(Read::Block(block)) => block,
            Ok(Read::Lost { .. }) => continue,
            Ok(Read::End) | Err(_) => return,
        };
        *bytes_left = bytes_left.saturating_sub(block.payload_bytes());
        for one in block.iter().filter(|one| one.entry.kind.is_leaf()) {
            let seq = one.entry.seq;
            for (_, sink) in stands.iter().filter(|(place, _)| *place <= one.place) {
                lacking.add(sink, one.sid, seq..seq.saturating_add(1));
            }
            // Who does not get the hole is told by nobody else.
            let hole = Kept::decode(one.payload).filter(|kept| kept.event() == Typ::Hole.event());
            if let Some(hole) = hole.and_then(|kept| SinkHole::from_body(kept.body()))
                && stands.iter().any(|(place, sink)| *sink == hole.sink && *place <= one.place)
            {
                lacking.add(&hole.sink, &hole.stream, hole.range.begin()..hole.range.end());
            }
        }
    }
}

/// By sink and stream, what it lacks.
pub(super) struct Lacking(BTreeMap<String, BTreeMap<StreamId, Seqs>>);

impl Lacking {
    pub(super) fn new(sinks: &[String]) -> Self {
        Self(sinks.iter().map(|sink| (sink.clone(), BTreeMap::new())).collect())
    }

    /// Of sinks that there are no more, nobody asks.
    fn add(&mut self, sink: &str, stream: &StreamId, records: Range<u64>) {
        if let Some(streams) = self.0.get_mut(sink) {
            match streams.get_mut(stream) {
                Some(known) => known.add(records),
                None => streams.entry(stream.clone()).or_default().add(records),
            }
        }
    }

    /// First what all lack: a sink that has records must not be excused for them.
    pub(super) fn into_parts(self) -> Vec<Left> {
        let mut sinks = self.0.values();
        let mut by_all = sinks.next().cloned().unwrap_or_default();
        for streams in sinks {
            by_all.retain(|stream, seqs| {
                *seqs = streams.get(stream).map(|other| seqs.and(other)).unwrap_or_default();
                !seqs.0.is_empty()
            });
        }
        let part = |stream: &StreamId, records, sink: Option<&String>| Left {
            stream: stream.clone(),
            records,
            sink: sink.cloned(),
        };
        let of_all = by_all.iter().flat_map(|(stream, seqs)| seqs.ranges().map(move |range| part(stream, range, None)));
        let mut parts: Vec<Left> = of_all.collect();
        for (sink, streams) in &self.0 {
            for (stream, seqs) in streams {
                let own = by_all.get(stream).map_or_else(|| seqs.clone(), |all| seqs.without(all));
                parts.extend(own.ranges().map(|range| part(stream, range, Some(sink))));
            }
        }
        parts
    }
}

/// Numbers of records: where ranges begin and end, apart from each other and in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seqs(BTreeMap<u64, u64>);

impl Seqs {
    fn add(&mut self, Range { mut start, mut end }: Range<u64>) {
        if start >= end {
            return;
        }
        while let Some((&from, &to)) = self.0.range(..=end).next_back().filter(|(_, to)| **to >= start) {
            self.0.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.0.insert(start, end);
    }

    fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(from, to)| *from..*to)
    }

    /// Those in both.
    fn and(&self, other: &Self) -> Self {
        let mut both = Self::default();
        for Range { start, end } in self.ranges() {
            let meets = other.ranges().skip_while(|range| range.end <= start).take_while(|range| range.start < end);
            meets.for_each(|range| both.add(range.start.max(start)..range.end.min(end)));
        }
        both
    }

    /// Those that are not in the other.
    fn without(&self, other: &Self) -> Self {
        let mut rest = Self::default();
        for Range { start: begin, end } in self.ranges() {
            let mut start = begin;
            for gone in other.ranges().skip_while(|range| range.end <= begin).take_while(|range| range.start < end) {
                rest.add(start..gone.start);
                start = gone.end;
            }
            rest.add(start..end);
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What a sink lacks, and what is told.
    type Lacks<'a> = &'a [(&'a str, Range<u64>)];
    type Told<'a> = &'a [(Range<u64>, Option<&'a str>)];
    type Case<'a> = (&'a [&'a str], Lacks<'a>, Told<'a>);

    fn seqs(ranges: &[(u64, u64)]) -> (Seqs, BTreeSet<u64>) {
        let mut seqs = Seqs::default();
        ranges.iter().for_each(|(from, count)| seqs.add(*from..from + count));
        (seqs, ranges.iter().flat_map(|(from, count)| *from..from + count).collect())
    }

    fn each(seqs: &Seqs) -> BTreeSet<u64> {
        let apart = seqs.0.iter().zip(seqs.0.iter().skip(1)).all(|((_, end), (start, _))| end < start);
        assert!(apart && seqs.0.iter().all(|(from, to)| from < to), "{seqs:?}");
        seqs.ranges().flatten().collect()
    }

    proptest! {
        #[test]
        fn w3_ranges_are_the_sets_that_they_stand_for(
            a in proptest::collection::vec((0u64..40, 0u64..6), 0..12),
            b in proptest::collection::vec((0u64..40, 0u64..6), 0..12),
        ) {
            let ((a, all_a), (b, all_b)) = (seqs(&a), seqs(&b));
            prop_assert_eq!(each(&a), all_a.clone());
            prop_assert_eq!(each(&a.and(&b)), all_a.intersection(&all_b).copied().collect());
            prop_assert_eq!(each(&a.without(&b)), all_a.difference(&all_b).copied().collect());
        }
    }

    #[test]
    fn w3_what_one_sink_has_is_told_of_the_others_alone() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let stream: StreamId = format!("c/n/p/{:032x}-0-0", 5).parse().expect("a name");
        let table: [Case<'_>; 4] = [
            (&[], &[("main", 0..9)], &[]),
            (&["main"], &[("main", 3..9), ("gone", 0..9)], &[(3..9, None)]),
            (&["main", "side"], &[("main", 3..9), ("side", 3..9)], &[(3..9, None)]),
            (
                &["main", "side"],
                &[("main", 7..9), ("side", 2..5), ("side", 5..9), ("side", 0..1)],
                &[(7..9, None), (0..1, Some("side")), (2..7, Some("side"))],
            ),
        ];
        for (sinks, lacks, expected) in table {
            let mut lacking = Lacking::new(&names(sinks));
            lacks.iter().for_each(|(sink, records)| lacking.add(sink, &stream, records.clone()));
            let parts = lacking.into_parts();
            let parts: Vec<_> = parts.iter().map(|part| (part.records.clone(), part.sink.as_deref())).collect();
            assert_eq!(parts, expected);
        }
    }
}
