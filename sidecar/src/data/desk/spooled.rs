//! The way out by the spool: places in its inbox, and what becomes durable there.

use crate::spool::{
    Class as SpoolClass, Durable, Entry, Inbox, Kind, Permit, Place, Refusal, StreamNumber, ThreadCounters,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use testimony_core::evidence::hash::{HASH_BYTES, Hash};
use testimony_core::evidence::seal::{Class, Head, HeadUse, Position, Sealed};
use testimony_core::evidence::stream::StreamId;
use testimony_core::record::GapReason;
use tokio::sync::watch;

/// Places are reserved in steps of so many bytes and entries, so that most records take one lock, and not two.
const RESERVE_STEP_BYTES: usize = 16 * 1024;
const RESERVE_STEP_ENTRIES: u64 = 16;

/// A record, unless its headers are very long: whoever asks whether there is room asks for so much.
const RECORD_BYTES: usize = 16 * 1024;

/// Streams whose heads may still come: a stream closes before its last head is signed.
const STREAMS_MAX: usize = 4;

/// One data thread's side of the spool.
pub struct Spooled {
    inbox: Inbox,
    counters: ThreadCounters,
    durable: watch::Receiver<Durable>,
    permit: Option<Permit>,
    /// For what it was given.
    class: SpoolClass,
    left_bytes: usize,
    left_entries: u64,
    /// The present stream last.
    streams: VecDeque<(Arc<StreamId>, StreamNumber)>,
    /// Exchanges of this thread that entries tell of.
    told: u64,
    /// Where records stand of which somebody waits to hear that they are durable.
    marks: VecDeque<(Place, Position)>,
    /// The last entry, and how far the stream was with it.
    last: Option<(Place, Position)>,
    frame: Vec<u8>,
    /// Number of the next marker of a beginning, and the streams of those without an end.
    begun: u64,
    open_begins: BTreeMap<u64, StreamNumber>,
}

impl Spooled {
    pub fn new(inbox: Inbox, counters: ThreadCounters) -> Self {
        let durable = inbox.durable();
        Self {
            inbox,
            counters,
            durable,
            permit: None,
            class: SpoolClass::Ordinary,
            left_bytes: 0,
            left_entries: 0,
            streams: VecDeque::new(),
            told: 0,
            marks: VecDeque::new(),
            last: None,
            frame: Vec::new(),
            begun: 0,
            open_begins: BTreeMap::new(),
        }
    }

    pub fn counters(&self) -> &ThreadCounters {
        &self.counters
    }

    /// Tells when more is durable.
    pub fn watch(&self) -> watch::Receiver<Durable> {
        self.durable.clone()
    }

    /// The place of the last entry.
    pub fn last(&self) -> Option<Place> {
        self.last.map(|(place, _)| place)
    }

    pub fn reserve(&mut self, bytes: usize, class: Class) -> Result<(), GapReason> {
        let class = match class {
            Class::Traffic => SpoolClass::Ordinary,
            Class::Evidence => SpoolClass::Evidence,
            Class::Release => SpoolClass::Release,
        };
        // What was given from a reserve is for nothing less.
        let is_for = self.permit.is_some() && self.class <= class;
        if is_for && bytes <= self.left_bytes && self.left_entries > 0 {
            self.take(bytes);
            return Ok(());
        }
        // What is left of the old one is free again.
        self.permit = None;
        self.class = class;
        let step = RESERVE_STEP_BYTES.max(bytes);
        let (permit, bytes_got, entries) = match self.inbox.reserve_entries(class, step, RESERVE_STEP_ENTRIES) {
            Ok(permit) => (permit, step, RESERVE_STEP_ENTRIES),
            Err(_) => (self.inbox.reserve(class, bytes).map_err(reason)?, bytes, 1),
        };
        (self.permit, self.left_bytes, self.left_entries) = (Some(permit), bytes_got, entries);
        self.take(bytes);
        Ok(())
    }

    fn take(&mut self, bytes: usize) {
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
        self.left_entries = self.left_entries.saturating_sub(1);
    }

    pub fn write(&mut self, sealed: &Sealed<'_>) {
        let number = self.number(sealed.stream());
        self.frame.clear();
        sealed.kept().encode(&mut self.frame);
        self.told = self.told.saturating_add(sealed.exchanges());
        let entry = Entry::new(number, Kind::from(sealed.typ()), sealed.seq(), sealed.leaf(), sealed.exchanges());
        let opening = (sealed.seq() == 0).then(|| self.inbox.reserve_opening(self.frame.len()));
        let put = match opening {
            Some(mut permit) => permit.push(entry, &self.frame).ok(),
            None => self.permit.as_mut().and_then(|permit| permit.push(entry, &self.frame).ok()),
        };
        self.counters.seal(sealed.seq(), sealed.start_ns());
        match put {
            Some(place) => self.last = Some((place, sealed.position())),
            None => {
                tracing::error!(stream = %sealed.stream(), seq = sealed.seq(), "a defect: the spool took no record")
            }
        }
    }

    /// Where the head stands: it may be shown when that is durable (H1).
    pub fn head(&mut self, head: &Head<'_>) -> Option<Place> {
        let number = self.number_of(head.stream())?;
        self.frame.clear();
        head.kept().encode(&mut self.frame);
        let kind = match head.purpose() {
            HeadUse::Export | HeadUse::Cosigned => Kind::Head,
            HeadUse::Witness => Kind::WitnessHead,
        };
        let entry = Entry::new(number, kind, head.position().size, Hash([0; HASH_BYTES]), 0);
        let place = self.inbox.reserve_opening(self.frame.len()).push(entry, &self.frame).ok()?;
        if let Some((last, _)) = &mut self.last {
            *last = place;
        }
        Some(place)
    }

    /// Everything before this place of the spool is durable.
    pub fn end(&self) -> u64 {
        self.durable.borrow().end().number()
    }

    /// Somebody waits: what was put is written soon (Strict).
    pub fn hurry(&self) {
        self.inbox.hurry();
    }

    /// Whether a record of ordinary size would be taken now.
    pub fn has_room(&self) -> bool {
        self.inbox.reserve(SpoolClass::Ordinary, RECORD_BYTES).is_ok()
    }

    /// Puts what is known of an exchange that begins (T2): its number, and where it stands.
    pub fn begin(&mut self, body: &[u8]) -> Option<(u64, Place)> {
        let (_, stream) = self.streams.back()?;
        let number = self.begun;
        let entry = Entry::new(*stream, Kind::Begin, number, Hash([0; HASH_BYTES]), 0);
        let place = self.inbox.reserve(SpoolClass::Ordinary, body.len()).ok()?.push(entry, body).ok()?;
        self.begun = number.saturating_add(1);
        self.open_begins.insert(number, *stream);
        Some((number, place))
    }

    /// Its exchange has its record, or is counted.
    pub fn end_begin(&mut self, number: u64) {
        let Some(stream) = self.open_begins.remove(&number) else { return };
        let entry = Entry::new(stream, Kind::End, number, Hash([0; HASH_BYTES]), 0);
        // It is short, and comes once for each that was put: there is room for that.
        if self.inbox.reserve_opening(0).push(entry, &[]).is_err() {
            tracing::error!(number, "a defect: the spool took no end");
        }
    }

    /// Somebody waits until all records so far are durable.
    pub fn mark(&mut self) {
        if let Some(last) = self.last
            && self.marks.back().is_none_or(|(_, position)| *position < last.1)
        {
            self.marks.push_back(last);
        }
    }

    /// How far the marked records are durable, if that is news.
    pub fn durable(&mut self) -> Option<Position> {
        let durable = *self.durable.borrow_and_update();
        let mut upto = None;
        while self.marks.front().is_some_and(|(place, _)| durable.covers(*place)) {
            upto = self.marks.pop_front().map(|(_, position)| position);
        }
        upto
    }

    /// Whether this entry is durable.
    pub fn covers(&self, place: Place) -> bool {
        self.durable.borrow().covers(place)
    }

    fn number(&mut self, stream: &Arc<StreamId>) -> StreamNumber {
        if let Some(number) = self.number_of(stream) {
            return number;
        }
        let number = self.inbox.add_stream((**stream).clone(), self.told);
        if self.streams.len() >= STREAMS_MAX {
            self.streams.pop_front();
        }
        self.streams.push_back((stream.clone(), number));
        number
    }

    fn number_of(&self, stream: &Arc<StreamId>) -> Option<StreamNumber> {
        self.streams.iter().rev().find(|(known, _)| Arc::ptr_eq(known, stream)).map(|(_, number)| *number)
    }
}

fn reason(refusal: Refusal) -> GapReason {
    match refusal {
        Refusal::QueueFull => GapReason::QueueFull,
        Refusal::SpoolFull => GapReason::SpoolFull,
        Refusal::DiskFailed => GapReason::DiskFailed,
        Refusal::TooLong => GapReason::RecordTooLong,
        Refusal::Closed => GapReason::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::{folder, settings};
    use crate::spool::{Limits, Settings, Spool};

    #[test]
    fn t5_a_place_for_evidence_is_for_no_ordinary_record() {
        let folder = folder("desk");
        let limits = Limits { held_bytes_max: u64::MAX, ..Limits::default() };
        let settings = Settings { limits, ..settings(&folder, 1) };
        let (spool, _events) = Spool::start(settings, &[]).expect("a spool");
        let inbox = spool.handle().inbox();
        let all_of = |bytes| std::iter::from_fn(move || inbox.reserve(SpoolClass::Ordinary, bytes).ok());
        let all: Vec<Permit> = all_of(10_000).chain(all_of(100)).collect();
        assert!(all.len() > 500, "{}", all.len());
        let mut desk = Spooled::new(inbox.clone(), spool.handle().page().thread(0).expect("room"));
        let mut reserve = |class| desk.reserve(8_000, class);
        assert_eq!(reserve(Class::Traffic), Err(GapReason::SpoolFull));
        assert_eq!(reserve(Class::Evidence), Ok(()), "a gap");
        assert_eq!(reserve(Class::Traffic), Err(GapReason::SpoolFull), "what is left of that is for gaps");
        drop(all);
        assert_eq!([Class::Traffic, Class::Evidence].map(reserve), [Ok(()), Ok(())]);
    }
}
