//! What of a segment the disk does not give, told as far as parts in clear and headers say it (G2).

use super::disk::Files;
use super::entry::Entry;
use super::format::header::Header;
use super::format::{FormatError, Problem};
use super::position::Place;
use super::recover::walk::{Step, Walk};
use super::shelf::{self, Segment};
use std::collections::BTreeMap;
use std::ops::Range as Seqs;
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::stream::StreamId;

/// Entries of which not even the hashes are known any more: no hole can stand for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Untold {
    /// How many; heads and markers count, too.
    pub entries: u64,
    /// By stream, between which numbers their leaves stand: known where a segment follows, whose header tells how far the
    /// streams went.
    pub leaves: Vec<(StreamId, Seqs<u64>)>,
}

/// A part of a segment that cannot be read.
pub(super) struct Gone {
    /// Up to this place.
    pub(super) to: Place,
    /// By stream, the leaves of the frames whose part in clear can be read.
    pub(super) leaves: Vec<(StreamId, Range)>,
    /// The rest.
    pub(super) untold: Untold,
    /// The disk did not give a part in clear: it may the next time.
    pub(super) unreadable: bool,
}

/// What cannot be read from a place on: up to the next frame that can be, or to the segment's end. `next`: the header of the
/// segment that begins there.
pub(super) fn from<F: Files>(files: &F, segment: &Segment, at: Place, next: Option<&Header>) -> Gone {
    walk(files, segment, at, next, true)
}

/// The same of all from a place on, whether it can be read or not.
pub(super) fn rest<F: Files>(files: &F, segment: &Segment, at: Place, next: Option<&Header>) -> Gone {
    walk(files, segment, at, next, false)
}

fn walk<F: Files>(files: &F, segment: &Segment, at: Place, next: Option<&Header>, up_to_whole: bool) -> Gone {
    let header = segment.header();
    let sid = |stream: u16| header.streams.get(usize::from(stream)).map(|start| start.sid.clone());
    let mut seqs: BTreeMap<StreamId, u64> =
        header.streams.iter().map(|start| (start.sid.clone(), start.leaves.end())).collect();
    let mut walk = Walk::new(segment);
    walk.set_limit(segment.readable_bytes);
    let mut lost: Vec<Entry<u16>> = Vec::new();
    let mut place = segment.first();
    let (mut untold, mut unreadable) = (Untold::default(), false);
    while place < segment.end() {
        let step = walk.step(files);
        unreadable |= matches!(&step, Step::Broken(FormatError::Corrupt(Problem::Unreadable)));
        let Step::Frame(clear, whole) = step else {
            let end = segment.end();
            untold = Untold { entries: end.0.saturating_sub(place.max(at).0), leaves: beyond(&seqs, next) };
            place = end;
            break;
        };
        let end = Place(place.0.saturating_add(clear.entries.len() as u64));
        if up_to_whole && end > at && whole.is_ok() {
            break;
        }
        for (entry, number) in clear.entries.iter().zip(place.0..) {
            if let Some(seq) = sid(entry.stream).filter(|_| entry.kind.is_leaf()).and_then(|sid| seqs.get_mut(&sid)) {
                *seq = entry.seq.saturating_add(1);
            }
            if number >= at.0 {
                lost.push(*entry);
            }
        }
        place = end;
    }
    Gone { to: place.max(at), leaves: shelf::leaves_of(lost.iter(), sid), untold, unreadable }
}

/// How far the streams went beyond these numbers, until the next segment began.
fn beyond(seqs: &BTreeMap<StreamId, u64>, next: Option<&Header>) -> Vec<(StreamId, Seqs<u64>)> {
    let streams = next.map_or(&[][..], |next| &next.streams);
    let range = |sid: &StreamId, end: u64| seqs.get(sid).copied().unwrap_or(0)..end;
    let ranges = streams.iter().map(|start| (start.sid.clone(), range(&start.sid, start.leaves.end())));
    ranges.filter(|(_, range)| !range.is_empty()).collect()
}
