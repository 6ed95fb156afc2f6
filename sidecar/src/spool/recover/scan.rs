//! Reads a folder through.

use super::found::{Damage, HeadFound, Lost, OpenBegin, Report, StreamFound};
use super::headers::{headers, not_readable};
use super::walk::{Step, Walk};
use crate::spool::Boot;
use crate::spool::disk::{Disk, Files, Listed};
use crate::spool::entry::{Entry, Kind};
use crate::spool::format::acks::{self, Acks};
use crate::spool::format::header::{Header, StreamStart};
use crate::spool::format::{FormatError, Problem};
use crate::spool::keys::Keys;
use crate::spool::position::Place;
use crate::spool::shelf::{self, Segment, Shelf};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::stream::StreamId;

/// Begins without an end that are kept; more are counted.
const OPEN_BEGINS_MAX: usize = 65_536;

/// Bytes of a log of acknowledgements that are read.
const ACKS_BYTES_MAX: usize = 256 * 1024;

/// Ending of a file that was set aside.
const ASIDE: &str = ".corrupt";

/// A folder that was read.
pub struct Scanned<D> {
    /// Its segments, to be read and released.
    pub shelf: Shelf<D>,
    /// What it told.
    pub report: Report,
}

/// Whether what the disk cannot read counts as damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is an error: it may be there the next time.
    Retry,
    /// It does.
    Damaged,
}

/// Reads the folder of an earlier process. Writes into no file of it; a segment whose header is broken is set aside.
///
/// # Errors
/// The folder cannot be listed, or with [`Unreadable::Retry`] a file cannot be synced, or a part of a segment cannot be read.
/// [`io::ErrorKind::Interrupted`]: it does not go on, as `goes_on` says. [`io::ErrorKind::Unsupported`]: another version of the
/// program left it, and may read it again; nothing was altered.
pub fn scan<D: Disk>(
    mut disk: D,
    keys: &Keys,
    boot: Boot,
    reader: Boot,
    unreadable: Unreadable,
    goes_on: &dyn Fn() -> bool,
) -> io::Result<Scanned<D>> {
    let mut acks = Acks::default();
    let files = disk.list()?;
    sync_found(&mut disk, &files, unreadable, goes_on)?;
    for file in files.iter().filter(|file| shelf::is_log(&file.name)) {
        // A log that cannot be read means that records are sent again.
        if let Ok(bytes) = disk.read_at(&file.name, 0, ACKS_BYTES_MAX) {
            let _ = acks::read(&bytes, &mut acks);
        }
    }
    let mut scan = Scan::new(boot, acks.sinks.values().copied().max().unwrap_or_default());
    let headers = headers(&disk, &files, boot, unreadable)?;
    let aside = scan.set_aside(&mut disk, &files, headers.broken);
    let headers = headers.read;
    let last = headers.last().map(|(last, ..)| last.number);
    // A file that short was cut before anything stood in it.
    let is_headless = |number: u64, bytes| last.is_none_or(|last| last < number) && bytes >= Header::START_BYTES as u64;
    scan.headless = aside.iter().filter(|(number, file)| is_headless(*number, file.bytes)).count() as u64;
    let mut rewrapped = shelf::rewrapped_keys(&disk, &files);
    let segment = |(header, header_bytes, header_hash, file_bytes): (Header, u64, Hash, u64)| Segment {
        header_hash,
        header_bytes,
        rewrapped: rewrapped.remove(&header.number).unwrap_or_default().into(),
        key: keys.unwrap(&header.pod_key).ok().map(Arc::new),
        end: header.first,
        readable_bytes: header_bytes,
        file_bytes,
        released_at: None,
        header: Arc::new(header),
    };
    let mut segments: Vec<Segment> = headers.into_iter().map(segment).collect();
    scan.durable = segments.last().map(Segment::first).unwrap_or_default();
    let count = scan.counting(&disk, &segments, unreadable, goes_on)?;
    let left_out = segments.split_off(count);
    if let Some(first) = segments.first() {
        scan.lose_beginning(&first.header);
    }
    for at in 0..segments.len() {
        may_go_on(goes_on)?;
        let next = segments.get(at + 1).map(|next| next.header.clone());
        let Some(segment) = segments.get_mut(at) else { continue };
        scan.segment(&disk, segment, next.as_deref());
        scan.is_readable(segment, unreadable)?;
    }
    left_out.iter().for_each(|segment| scan.leave_out(segment));
    let _ = disk.sync_folder();
    let report = scan.report(&segments, acks.recovered);
    let skipped = shelf::skipped(&disk, &files, unreadable)?;
    let mut shelf = Shelf::with(disk, boot, reader, segments, acks);
    shelf.restore_skipped(skipped);
    shelf.keep_aside(aside.into_iter().map(|(_, file)| file).collect());
    Ok(Scanned { shelf, report })
}

fn may_go_on(goes_on: &dyn Fn() -> bool) -> io::Result<()> {
    if goes_on() { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
}

/// What is not durable is shown to nobody (D1), and nothing is removed on the word of a log that is not.
fn sync_found<D: Disk>(
    disk: &mut D,
    files: &[Listed],
    unreadable: Unreadable,
    goes_on: &dyn Fn() -> bool,
) -> io::Result<()> {
    for file in files {
        may_go_on(goes_on)?;
        match disk.sync_found(&file.name) {
            Err(error) if unreadable == Unreadable::Retry => return Err(error),
            // The others are synced nevertheless.
            Err(error) => tracing::warn!(file = file.name, %error, "a file of an earlier process cannot be synced"),
            Ok(()) => {}
        }
    }
    match disk.sync_folder() {
        Err(error) if unreadable == Unreadable::Retry => Err(error),
        Err(error) => {
            tracing::warn!(%error, "the folder of an earlier process cannot be synced");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// What was read so far.
struct Scan {
    boot: Boot,
    place: Place,
    /// Everything before was durable when the last segment began.
    durable: Place,
    streams: BTreeMap<StreamId, StreamFound>,
    begins: BTreeMap<(StreamId, u64), Place>,
    begins_beyond: u64,
    damage: Vec<Damage>,
    /// Segments without a header, by number, and why.
    aside: BTreeMap<u64, String>,
    /// As many of them stand behind all that have one.
    headless: u64,
    /// Some sink has everything before.
    acked: Place,
    /// The disk could not read something.
    unreadable: bool,
}

impl Scan {
    fn new(boot: Boot, acked: Place) -> Self {
        Self {
            boot,
            place: Place::default(),
            durable: Place::default(),
            streams: BTreeMap::new(),
            begins: BTreeMap::new(),
            begins_beyond: 0,
            damage: Vec::new(),
            aside: BTreeMap::new(),
            headless: 0,
            acked,
            unreadable: false,
        }
    }

    /// Sets segments aside that have no header. Returns those files, with what an earlier process set aside.
    fn set_aside<D: Disk>(
        &mut self,
        disk: &mut D,
        files: &[Listed],
        broken: Vec<(u64, Listed, FormatError)>,
    ) -> Vec<(u64, Listed)> {
        let number = |file: &Listed| file.name.strip_suffix(ASIDE).and_then(shelf::segment_number);
        let mut aside: Vec<_> = files.iter().filter_map(|file| Some((number(file)?, file.clone()))).collect();
        for (number, file) in &aside {
            self.aside.insert(*number, format!("the header; set aside before as {}", file.name));
        }
        for (number, mut file, error) in broken {
            let name = format!("{}{ASIDE}", file.name);
            // Where its first write was cut, nothing of it was durable; else the next one's header shows what is missing, and
            // `lose_rest` tells it.
            tracing::warn!(
                boot = %self.boot, file = name, %error,
                "a segment has no header and is set aside: the next one's header, or a gap of unknown size, tells what it may have held"
            );
            self.aside.insert(number, format!("the header: {error}; set aside as {name}"));
            if disk.rename(&file.name, &name).is_ok() {
                file.name = name;
            }
            aside.push((number, file));
        }
        aside
    }

    /// How many segments count, from the first on. What was not durable is written again where another one begins: who died
    /// meanwhile left more of it in the one before. So the one that reaches furthest is the last, the newest where several do.
    /// Those behind it stay in the folder as they are: who comes next finds the same.
    fn counting<F: Files>(
        &mut self,
        files: &F,
        segments: &[Segment],
        unreadable: Unreadable,
        goes_on: &dyn Fn() -> bool,
    ) -> io::Result<usize> {
        let (mut furthest, mut count) = (Place::default(), segments.len());
        if count < 2 {
            return Ok(count);
        }
        let again = segments.partition_point(|segment| segment.first() < self.durable);
        for (at, segment) in segments.iter().enumerate().skip(again.saturating_sub(1)) {
            may_go_on(goes_on)?;
            let reach = self.reach(files, segment);
            self.is_readable(segment, unreadable)?;
            if reach >= furthest {
                (furthest, count) = (reach, at.saturating_add(1));
            }
        }
        Ok(count)
    }

    /// Whether the disk could read all so far, or that counts as damaged.
    fn is_readable(&self, segment: &Segment, unreadable: Unreadable) -> io::Result<()> {
        if self.unreadable && unreadable == Unreadable::Retry {
            return Err(not_readable(&segment.name()));
        }
        Ok(())
    }

    /// Where a segment's whole frames end, if nothing follows on it.
    fn reach<F: Files>(&mut self, files: &F, segment: &Segment) -> Place {
        let mut place = segment.first();
        let mut walk = Walk::new(segment);
        loop {
            let (clear, whole) = match walk.step(files) {
                Step::Frame(clear, whole) => (clear, whole),
                Step::Broken(problem) => {
                    self.unreadable |= problem == Problem::Unreadable.into();
                    return place;
                }
                Step::Finished | Step::Unfinished => return place,
            };
            self.unreadable |= whole == Err(Problem::Unreadable.into());
            if whole.is_err() && place >= self.durable {
                return place;
            }
            place = Place(place.0.saturating_add(clear.entries.len() as u64));
        }
    }

    /// Reads one segment, up to where the next one begins.
    fn segment<F: Files>(&mut self, files: &F, segment: &mut Segment, next: Option<&Header>) {
        let header = segment.header.clone();
        self.begin(&header);
        let limit = next.map(|next| next.first);
        let mut walk = Walk::new(segment);
        let mut broken = None;
        while limit.is_none_or(|limit| self.place < limit) {
            let offset = walk.offset();
            match walk.step(files) {
                Step::Frame(clear, Ok(())) if self.follows(&header, &clear.entries) => {
                    clear.entries.iter().for_each(|entry| self.take(&header, entry));
                    segment.readable_bytes = walk.offset();
                }
                Step::Frame(clear, Err(problem))
                    if self.place < self.durable && self.follows(&header, &clear.entries) =>
                {
                    // What follows was written after this was durable, so this is no torn end. What is gone is known.
                    self.unreadable |= problem == Problem::Unreadable.into();
                    self.lose_frame(segment, offset, &problem, &clear.entries);
                    segment.readable_bytes = walk.offset();
                }
                Step::Frame(_, Ok(())) => {
                    broken = Some((offset, FormatError::from(Problem::Value("a seq"))));
                    break;
                }
                Step::Frame(_, Err(problem)) | Step::Broken(problem) => {
                    broken = Some((offset, problem));
                    break;
                }
                Step::Finished | Step::Unfinished => break,
            }
        }
        segment.end = self.place;
        self.unreadable |= matches!(broken, Some((_, FormatError::Corrupt(Problem::Unreadable))));
        if let Some(next) = next.filter(|next| self.place < next.first) {
            let (offset, problem) = broken.unwrap_or((walk.offset(), FormatError::Short));
            self.lose_rest(segment, offset, &problem, next);
        } else if let Some((offset, problem)) = broken.filter(|(_, problem)| limit.is_none() && is_damage(*problem)) {
            // A torn end, or damage at the end: it cannot be told apart, and nothing behind it was recovered.
            tracing::warn!(file = segment.name(), offset, %problem, "the segment ends here");
        }
    }

    /// A header says where each of its streams stands; it is right where nothing before it was read.
    fn begin(&mut self, header: &Header) {
        self.place = header.first;
        for start in &header.streams {
            let known = self.streams.entry(start.sid.clone()).or_insert_with(|| fresh(start));
            if known.leaves.end() < start.leaves.end() {
                known.leaves = start.leaves.clone();
                known.exchanges = start.exchanges;
                known.closed = false;
            }
        }
    }

    /// Of a segment that does not count only the header does: a stream that begins there has nothing yet, which must be told of
    /// it, because its name is.
    fn leave_out(&mut self, segment: &Segment) {
        tracing::info!(file = segment.name(), "a segment does not reach as far as one before it, which counts instead");
        for start in &segment.header.streams {
            self.streams.entry(start.sid.clone()).or_insert_with(|| fresh(start));
        }
    }

    /// Whether the leaves of a frame are those that are due.
    fn follows(&self, header: &Header, entries: &[Entry<u16>]) -> bool {
        let mut due: BTreeMap<u16, u64> = BTreeMap::new();
        entries.iter().filter(|entry| entry.kind.is_leaf()).all(|entry| {
            let Some(sid) = sid(header, entry.stream) else { return false };
            let known = || self.streams.get(sid).map_or(0, |stream| stream.leaves.end());
            let next = due.entry(entry.stream).or_insert_with(known);
            let fits = *next == entry.seq;
            *next = next.saturating_add(1);
            fits
        })
    }

    fn take(&mut self, header: &Header, entry: &Entry<u16>) {
        let place = self.place;
        self.place = place.next();
        let Some(sid) = sid(header, entry.stream) else { return };
        let Some(stream) = self.streams.get_mut(sid) else { return };
        match entry.kind {
            Kind::Head | Kind::WitnessHead => {
                let head = HeadFound { size: entry.seq, place };
                if stream.head.is_none_or(|known| known.size <= head.size) {
                    stream.head = Some(head);
                }
            }
            Kind::Begin if self.begins.len() < OPEN_BEGINS_MAX => {
                self.begins.insert((sid.clone(), entry.seq), place);
            }
            Kind::Begin => self.begins_beyond = self.begins_beyond.saturating_add(1),
            Kind::End => {
                if self.begins.remove(&(sid.clone(), entry.seq)).is_none() {
                    self.begins_beyond = self.begins_beyond.saturating_sub(1);
                }
            }
            leaf => {
                stream.leaves.push(entry.leaf);
                stream.exchanges = stream.exchanges.saturating_add(u64::from(entry.exchanges));
                stream.closed = leaf == Kind::Close;
            }
        }
    }

    /// A frame whose payloads are gone, but not its leaves.
    fn lose_frame(&mut self, segment: &Segment, offset: u64, problem: &FormatError, entries: &[Entry<u16>]) {
        let from = self.place;
        entries.iter().for_each(|entry| self.take(&segment.header, entry));
        let leaves = shelf::leaves_of(entries.iter(), |stream| sid(&segment.header, stream).cloned());
        let lost =
            |(sid, range): (StreamId, Range)| Lost { sid, from: range.begin(), to: range.end(), nodes: Some(range) };
        let lost = leaves.into_iter().map(lost).collect();
        let (file, problem, to) = (segment.name(), problem.to_string(), self.place);
        self.damage(Damage { file, offset, problem, from, to, lost });
    }

    /// From here on nothing of the segment can be read; the next one's header says what is missing.
    fn lose_rest(&mut self, segment: &Segment, offset: u64, problem: &FormatError, next: &Header) {
        let mut lost = Vec::new();
        for start in &next.streams {
            let from = self.streams.get(&start.sid).map_or(0, StreamFound::size);
            if from < start.leaves.end() {
                lost.push(Lost { sid: start.sid.clone(), from, to: start.leaves.end(), nodes: None });
            }
        }
        let (from, to) = (self.place, next.first);
        let aside = self.aside.range(segment.number()..next.number).next_back();
        let (file, offset, problem) = match aside {
            Some((number, problem)) => (shelf::segment_name(*number), 0, problem.clone()),
            None => (segment.name(), offset, problem.to_string()),
        };
        self.damage(Damage { file, offset, problem, from, to, lost });
    }

    /// Nothing before the first segment can be read. Where sinks have it, it was released.
    fn lose_beginning(&mut self, first: &Header) {
        if let Some((number, problem)) = self.aside.range(..first.number).next_back() {
            let (file, problem) = (shelf::segment_name(*number), problem.clone());
            let (from, to) = (self.acked, first.first);
            self.damage(Damage { file, offset: 0, problem, from, to, lost: Vec::new() });
        }
    }

    /// What some sink has was no loss: the file was on its way out.
    fn damage(&mut self, damage: Damage) {
        if damage.to > self.acked && damage.from < damage.to {
            self.damage.push(damage);
        }
    }

    fn report(self, segments: &[Segment], was_told: bool) -> Report {
        let begins = self.begins.into_iter().map(|((sid, number), place)| OpenBegin { sid, number, place });
        let mut open_begins: Vec<OpenBegin> = begins.collect();
        open_begins.sort_by_key(|begin| begin.place);
        Report {
            boot: self.boot,
            streams: self.streams,
            open_begins,
            open_begins_beyond: self.begins_beyond,
            damage: self.damage,
            headless_segments: self.headless,
            locked_segments: segments.iter().filter(|segment| segment.key.is_none()).count() as u64,
            was_told,
        }
    }
}

/// A stream of which a header says where it stands, and nothing else is known.
fn fresh(start: &StreamStart) -> StreamFound {
    StreamFound { leaves: start.leaves.clone(), exchanges: start.exchanges, head: None, closed: false }
}

fn is_damage(problem: FormatError) -> bool {
    problem != FormatError::Short
}

fn sid(header: &Header, stream: u16) -> Option<&StreamId> {
    header.streams.get(usize::from(stream)).map(|start| &start.sid)
}
