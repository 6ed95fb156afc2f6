//! The segments of one folder: who has acknowledged what of them, and when they go.

mod ack_log;
mod rewrap;
mod segment;
mod shared;
mod shed;

pub use segment::Segment;
pub use shared::Shared;
use shed::Sheds;
pub use shed::Skipped;

pub(super) use ack_log::is_log;
pub(super) use rewrap::read_all as rewrapped_keys;
pub(super) use segment::{name as segment_name, number as segment_number};
pub(super) use shared::{Placed, Spot};
pub(super) use shed::{leaves_of, read_all as skipped};

use super::disk::{Disk, Listed};
use super::format::acks::Acks;
use super::keys::DataKey;
use super::position::{Durable, Place, Released};
use super::{Boot, REPLAY_NANOS_MAX};
use ack_log::AckLog;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// A sink, as policy names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkRule {
    /// Its name.
    pub name: String,
    /// Whether segments wait for it, whatever space they take.
    pub required: bool,
}

/// Why an acknowledgement is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// No such sink.
    #[error("no sink of this name is known")]
    UnknownSink,
    /// Of what is not durable: nobody can have it (D1).
    #[error("entry {0} is not durable, so nobody can have it")]
    NotDurable(u64),
}

struct Sink {
    required: bool,
    /// Acknowledged, perhaps only in memory.
    told: Place,
    /// Acknowledged, and that is durable. SP-1 counts with it.
    durable: Place,
}

/// How a log is written.
type WriteLog<D> = fn(&mut AckLog, &mut D, &[(&str, Place)], bool) -> io::Result<()>;

/// The segments of one folder.
pub struct Shelf<D> {
    pub(super) disk: D,
    boot: Boot,
    /// The process that reads it, which names its files.
    reader: Boot,
    pub(super) segments: BTreeMap<u64, Segment>,
    shared: Arc<Shared>,
    sinks: BTreeMap<String, Sink>,
    log: AckLog,
    /// What the logs say of sinks that policy does not name now.
    known: BTreeMap<String, Place>,
    durable: Place,
    /// The segment that is being written: never removed.
    pub(super) open: Option<u64>,
    /// Files that could not be removed; they count, and are tried again.
    junk: Vec<(String, u64)>,
    sheds: Sheds,
    /// Segments without a header, for people: they stay as long as released ones, or until their space is needed.
    aside: Vec<Listed>,
    /// When it was told durably what is here, and so that nobody knows what they hold, in ns since the epoch.
    aside_since: Option<u64>,
    recovered: bool,
    /// Files of keys that this process made.
    rewraps: u64,
    /// The keys of segments before this one are wrapped to a recovery key of before.
    outdated_before: u64,
}

impl<D: Disk> Shelf<D> {
    /// An empty shelf, for the process that writes.
    pub fn new(disk: D, boot: Boot) -> Self {
        Self::with(disk, boot, boot, Vec::new(), Acks::default())
    }

    /// The shelf of a folder as it was found; `reader` is the process that found it, and names its log.
    pub fn with(disk: D, boot: Boot, reader: Boot, segments: Vec<Segment>, mut acks: Acks) -> Self {
        let durable = segments.iter().map(Segment::end).max().unwrap_or_default();
        // A process that died while it let segments go leaves logs that say more than there is.
        acks.sinks.values_mut().for_each(|place| *place = durable.min(*place));
        let shared = Arc::new(Shared::default());
        let shelf = Self {
            disk,
            boot,
            reader,
            segments: segments.into_iter().map(|segment| (segment.number(), segment)).collect(),
            shared,
            sinks: BTreeMap::new(),
            log: AckLog::new(reader, &acks),
            known: acks.sinks,
            durable,
            open: None,
            junk: Vec::new(),
            sheds: Sheds::default(),
            aside: Vec::new(),
            aside_since: None,
            recovered: acks.recovered,
            rewraps: 0,
            outdated_before: 0,
        };
        shelf.publish();
        shelf
    }

    /// These files were set aside.
    pub(super) fn keep_aside(&mut self, files: Vec<Listed>) {
        self.aside = files;
    }

    /// Whose folder it is.
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// What readers see.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Everything before is durable.
    pub fn durable(&self) -> Durable {
        Durable(self.durable.0)
    }

    pub(super) fn set_durable(&mut self, durable: Place) {
        debug_assert!(self.durable <= durable, "durable goes forward only");
        self.durable = durable;
    }

    /// Shows readers what is durable now.
    pub(super) fn publish(&self) {
        self.shared.publish(self.segments.values(), self.durable);
    }

    /// Takes over which sinks there are. One that is known from a log goes on where it stood; another one begins at
    /// `start`. Where none is named any more, what those of before lack waits for the next one.
    pub fn set_sinks(&mut self, rules: &[SinkRule], start: Place) {
        if rules.is_empty() && !self.sinks.is_empty() {
            return;
        }
        let start = start.min(self.durable);
        let mut sinks = BTreeMap::new();
        for rule in rules {
            let sink = self.sinks.remove(&rule.name).unwrap_or_else(|| {
                let known = self.known.get(&rule.name).copied();
                let place = known.unwrap_or(start);
                Sink { required: rule.required, told: place, durable: known.unwrap_or_default() }
            });
            sinks.insert(rule.name.clone(), Sink { required: rule.required, ..sink });
        }
        for (name, gone) in std::mem::replace(&mut self.sinks, sinks) {
            self.known.insert(name, gone.told);
        }
        self.publish_sinks();
    }

    fn publish_sinks(&self) {
        let places = self.sinks.iter().map(|(name, sink)| (name.clone(), sink.told)).collect();
        self.shared.publish_sinks(places, self.taken());
    }

    /// Where a sink stands: what it is to get next.
    pub fn position(&self, sink: &str) -> Option<Place> {
        self.sinks.get(sink).map(|sink| sink.told)
    }

    /// A sink has everything before `end`. Durable after [`Shelf::flush`].
    ///
    /// # Errors
    /// It cannot have it.
    pub fn ack(&mut self, sink: &str, end: Place) -> Result<(), AckError> {
        if end > self.durable {
            return Err(AckError::NotDurable(end.0));
        }
        let sink = self.sinks.get_mut(sink).ok_or(AckError::UnknownSink)?;
        sink.told = sink.told.max(end);
        Ok(())
    }

    /// What is here was told, durably, in a stream of the reading process (D3).
    pub fn set_recovered(&mut self) {
        self.recovered = true;
    }

    /// Whether it was told.
    pub fn is_recovered(&self) -> bool {
        self.recovered
    }

    /// Writes acknowledgements down and waits until they are durable; what is released by them is marked.
    ///
    /// # Errors
    /// What the disk says; the next call tries again, in a new log.
    pub fn flush(&mut self, now_unix_nanos: u64) -> io::Result<()> {
        self.write_log(now_unix_nanos, AckLog::write)
    }

    /// The same, but a later call finds that they are durable.
    ///
    /// # Errors
    /// As [`Shelf::flush`].
    pub fn begin_flush(&mut self, now_unix_nanos: u64) -> io::Result<()> {
        self.write_log(now_unix_nanos, AckLog::begin_write)
    }

    fn write_log(&mut self, now_unix_nanos: u64, write: WriteLog<D>) -> io::Result<()> {
        let told: Vec<(&str, Place)> = self.sinks.iter().map(|(name, sink)| (name.as_str(), sink.told)).collect();
        write(&mut self.log, &mut self.disk, &told, self.recovered)?;
        for (name, sink) in &mut self.sinks {
            sink.durable = sink.durable.max(self.log.durable(name).unwrap_or_default());
        }
        self.publish_sinks();
        let released = self.released();
        debug_assert!(released.0 <= self.durable.0, "SP-1: released <= durable");
        for segment in self.segments.values_mut() {
            if segment.end() <= released.end() && segment.released_at.is_none() && Some(segment.number()) != self.open {
                segment.released_at = Some(now_unix_nanos);
            }
        }
        if self.log.is_recovered() {
            self.aside_since.get_or_insert(now_unix_nanos);
        }
        Ok(())
    }

    /// What is durable stays so; another acknowledgement opens another log.
    pub fn close_log(&mut self) {
        self.log.close(&mut self.disk);
    }

    /// Everything before was acknowledged by every required sink, durably. Without required sinks: by every sink. Without sinks:
    /// by all of those that the logs know.
    pub fn released(&self) -> Released {
        Released(self.least(|sink| sink.durable).0)
    }

    /// The same, but the acknowledgements may not be durable yet: nobody reads it again, unless the process dies.
    pub fn taken(&self) -> Place {
        self.least(|sink| sink.told)
    }

    /// The least place of the sinks that what is here waits for.
    fn least(&self, of: impl Fn(&Sink) -> Place) -> Place {
        let required = self.sinks.values().filter(|sink| sink.required).map(&of).min();
        let all = self.sinks.values().map(&of).min();
        required.or(all).unwrap_or_else(|| self.unnamed())
    }

    /// Where none is named yet, or none any more since this process began: all waits for the next one but what those of before
    /// have.
    fn unnamed(&self) -> Place {
        self.known.values().copied().min().unwrap_or_default()
    }

    /// Bytes of all segments, and of what was set aside.
    pub fn used_bytes(&self) -> u64 {
        let junk: u64 = self.junk.iter().map(|(_, bytes)| bytes).sum();
        let segments: u64 = self.segments.values().map(|segment| segment.file_bytes).sum();
        segments.saturating_add(self.aside_bytes()).saturating_add(junk)
    }

    fn aside_bytes(&self) -> u64 {
        self.aside.iter().map(|file| file.bytes).sum()
    }

    /// Of these, bytes that [`Shelf::make_room`] can give back at once.
    pub fn reclaimable_bytes(&self) -> u64 {
        let segments = self.segments.values().filter(|s| self.may_go(s) || self.may_be_shed(s));
        let aside = self.aside_since.map_or(0, |_| self.aside_bytes());
        segments.map(|s| s.file_bytes).sum::<u64>().saturating_add(aside)
    }

    /// Whether nothing is left that anybody waits for.
    pub fn is_done(&self) -> bool {
        let is_told = self.recovered && self.skipped_untold() == 0;
        is_told && self.open.is_none() && self.segments.values().all(|segment| self.may_go(segment))
    }

    /// Every sink has it, durably.
    fn may_go(&self, segment: &Segment) -> bool {
        let all = self.sinks.values().map(|sink| sink.durable).min();
        !self.is_kept(segment) && all.unwrap_or_else(|| self.unnamed()) >= segment.end()
    }

    /// Every required sink has it; sinks that are not required cannot keep it (T5).
    fn may_be_shed(&self, segment: &Segment) -> bool {
        let mut required = self.sinks.values().filter(|sink| sink.required);
        let is_taken = !self.sinks.is_empty() && required.all(|sink| sink.durable >= segment.end());
        self.may_shed_more() && !self.is_kept(segment) && is_taken
    }

    /// The segment that is being written stays, and the newest with entries: it alone says how far the streams went. When
    /// that was told (D3), and this is durable, it may go.
    fn is_kept(&self, segment: &Segment) -> bool {
        let newest = || self.segments.values().rev().find(|segment| segment.end() > segment.first());
        Some(segment.number()) == self.open
            || (!self.log.is_recovered() && newest().is_some_and(|newest| newest.number() == segment.number()))
    }

    /// Removes segments until this many bytes are free of them: the oldest that all sinks have, then what was set aside, then
    /// the oldest that only sinks wait for that are not required. Returns what was freed.
    pub fn make_room(&mut self, bytes: u64) -> u64 {
        let mut freed = self.release(bytes);
        freed = freed.saturating_add(self.free_aside(bytes.saturating_sub(freed)));
        freed.saturating_add(self.free(bytes.saturating_sub(freed), Self::may_be_shed))
    }

    /// Not before it is told: it alone shows the next process that something is missing.
    fn free_aside(&mut self, bytes: u64) -> u64 {
        let before = self.used_bytes();
        let freed = |shelf: &Self| before.saturating_sub(shelf.used_bytes());
        while self.aside_since.is_some() && freed(self) < bytes {
            let Some(Listed { name, bytes }) = self.aside.pop() else { break };
            self.discard(name, bytes);
        }
        freed(self)
    }

    /// The same, of those that all sinks have.
    pub fn release(&mut self, bytes: u64) -> u64 {
        self.free(bytes, Self::may_go)
    }

    fn free(&mut self, bytes: u64, may: fn(&Self, &Segment) -> bool) -> u64 {
        let before = self.used_bytes();
        let freed = |shelf: &Self| before.saturating_sub(shelf.used_bytes());
        self.clear_junk();
        while freed(self) < bytes {
            let Some(number) = self.segments.values().find(|s| may(self, s)).map(Segment::number) else { break };
            let left = self.used_bytes();
            if !self.shed_before_removal(number) {
                break;
            }
            self.remove(number);
            if self.used_bytes() >= left {
                break;
            }
        }
        self.publish();
        freed(self)
    }

    /// Removes segments that were released long ago.
    pub fn expire(&mut self, now_unix_nanos: u64) {
        let old = |segment: &&Segment| {
            segment.released_at.is_some_and(|at| now_unix_nanos.saturating_sub(at) >= REPLAY_NANOS_MAX)
        };
        let expired: Vec<u64> =
            self.segments.values().filter(|s| self.may_go(s)).filter(old).map(Segment::number).collect();
        if !expired.is_empty() {
            expired.into_iter().for_each(|number| self.remove(number));
            self.publish();
        }
        if self.aside_since.is_some_and(|at| now_unix_nanos.saturating_sub(at) >= REPLAY_NANOS_MAX) {
            self.free_aside(u64::MAX);
        }
        self.clear_junk();
    }

    /// The key of a segment that the pod's key does not open.
    pub fn unlock(&mut self, number: u64, key: DataKey) {
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.key = Some(Arc::new(key));
            self.publish();
        }
    }

    /// Segments whose keys only the operator can unwrap, with the wrapped keys.
    pub fn locked(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let locked = self.segments.values().filter(|segment| segment.key.is_none());
        locked.map(|segment| (segment.number(), segment.recovery_key()))
    }

    /// Makes removals durable.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sync_folder(&mut self) -> io::Result<()> {
        self.disk.sync_folder()
    }

    fn remove(&mut self, number: u64) {
        if let Some(segment) = self.segments.remove(&number) {
            self.discard(segment.name(), segment.file_bytes);
        }
    }

    /// Makes a file of its own, whole and durable. Of one that cannot be written nothing stays, but where it cannot be removed
    /// either.
    fn write_file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.disk.create(name)?;
        let written = self.disk.append(name, bytes).and_then(|()| self.disk.sync(name));
        self.disk.close(name);
        if written.is_err() {
            self.discard(name.to_owned(), bytes.len() as u64);
        }
        written
    }

    /// Removes a file that nobody needs; one that stays still counts.
    pub(super) fn discard(&mut self, name: String, bytes: u64) {
        if self.disk.remove(&name).is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
            self.junk.push((name, bytes));
        }
    }

    fn clear_junk(&mut self) {
        for (name, bytes) in std::mem::take(&mut self.junk) {
            self.discard(name, bytes);
        }
    }
}
