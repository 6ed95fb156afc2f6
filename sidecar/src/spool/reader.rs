//! Reads durable entries back, in order: for one sink, or to send again what a backend lost.

use super::disk::Files;
use super::entry::Entry;
use super::format::frame::Decoder;
use super::format::{FormatError, Problem};
use super::gone::{self, Gone, Untold};
use super::position::Place;
use super::recover::walk::{Step, Walk};
use super::shelf::{self, Placed, Segment, Shared, Spot};
use std::io;
use std::sync::Arc;
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::stream::StreamId;

/// Why nothing can be read now. The reader stands where it stood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The pod's key does not open the segment: see [`super::Shelf::unlock`].
    #[error("segment {0} was written under another pod key; only the operator's recovery key opens it")]
    Locked(u64),
    /// The disk does not give it, after several tries. [`Reader::give_up`] goes on behind what it does not give.
    #[error("the disk does not give segment {0}")]
    Unreadable(u64),
}

/// What stands next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Entries.
    Block(ReadBlock),
    /// Entries that are gone: removed, or damaged.
    Lost {
        /// From this place on.
        from: Place,
        /// Up to this one.
        to: Place,
        /// By stream, the leaves, as far as they are known.
        leaves: Vec<(StreamId, Range)>,
        /// And those that are not.
        untold: Untold,
        /// Why.
        problem: String,
    },
    /// Nothing more is durable.
    End,
}

/// The entries of a frame, as far as they are due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadBlock {
    block: Placed,
    /// From here on its entries are due.
    due: Place,
}

/// One entry, read back.
#[derive(Clone, Copy, Debug)]
pub struct ReadEntry<'a> {
    /// Where it stands.
    pub place: Place,
    /// Its stream.
    pub sid: &'a StreamId,
    /// What it is.
    pub entry: &'a Entry<u16>,
    /// What it says.
    pub payload: &'a [u8],
}

impl ReadBlock {
    /// The entries that are due.
    pub fn iter(&self) -> impl Iterator<Item = ReadEntry<'_>> {
        let Placed { first, header, block } = &self.block;
        let entries = block.iter().zip(first.0..).map(|((entry, payload), place)| {
            let sid = &header.streams.get(usize::from(entry.stream))?.sid;
            Some(ReadEntry { place: Place(place), sid, entry, payload })
        });
        entries.flatten().filter(|entry| entry.place >= self.due)
    }

    /// The place after the last: what an acknowledgement of all names.
    pub fn end(&self) -> Place {
        self.block.end()
    }

    /// Bytes of all payloads.
    pub fn payload_bytes(&self) -> usize {
        self.block.block.payload.len()
    }
}

/// Reads one folder from a place on.
pub struct Reader<F> {
    files: F,
    shared: Arc<Shared>,
    at: Place,
    here: Option<Here>,
    decoder: Decoder,
}

struct Here {
    segment: Segment,
    walk: Walk,
    /// Place of the next frame's first entry.
    place: Place,
}

impl<F: Files> Reader<F> {
    /// A reader that stands at a place.
    ///
    /// # Errors
    /// No memory for the decompressor.
    pub fn new(files: F, shared: Arc<Shared>, at: Place) -> io::Result<Self> {
        Ok(Self { files, shared, at, here: None, decoder: Decoder::new()? })
    }

    /// What it reads next.
    pub fn position(&self) -> Place {
        self.at
    }

    /// Whether nothing follows now.
    pub fn is_at_end(&self) -> bool {
        self.shared.is_end(self.at)
    }

    /// Reads from this place on.
    pub fn seek(&mut self, place: Place) {
        self.at = place;
        self.here = None;
    }

    /// What stands next, where that takes no file: entries that were just written, or nothing more.
    pub fn read_at_hand(&mut self) -> Option<Read> {
        if let Some(block) = self.shared.recent(self.at) {
            let due = std::mem::replace(&mut self.at, block.end());
            return Some(Read::Block(ReadBlock { block, due }));
        }
        self.shared.is_end(self.at).then_some(Read::End)
    }

    /// What stands next: one frame at most. Waits for the disk only.
    ///
    /// # Errors
    /// Nothing can be read now.
    pub fn read(&mut self) -> Result<Read, ReadError> {
        if let Some(read) = self.read_at_hand() {
            return Ok(read);
        }
        loop {
            let segment = match self.shared.find(self.at) {
                Spot::End => return Ok(Read::End),
                Spot::Gone(to) => return Ok(self.lost(to, Vec::new(), "it was removed".to_owned())),
                Spot::In(segment) => segment,
            };
            let Some(key) = segment.key.clone() else { return Err(ReadError::Locked(segment.number())) };
            let number = segment.number();
            let here = match self.here.take() {
                Some(here) if here.segment.number() == number && here.place <= self.at => {
                    Here { segment: segment.clone(), ..here }
                }
                _ => Here { walk: Walk::new(&segment), place: segment.first(), segment: segment.clone() },
            };
            let here = self.here.insert(here);
            here.walk.set_limit(here.segment.readable_bytes);
            let Step::Frame(clear, whole) = ({
                match here.walk.step(&self.files) {
                    Step::Broken(FormatError::Corrupt(Problem::Unreadable)) => {
                        self.here = None;
                        return Err(ReadError::Unreadable(number));
                    }
                    step => step,
                }
            }) else {
                return Ok(self.lose_rest(&segment));
            };
            let first = here.place;
            here.place = Place(first.0.saturating_add(clear.entries.len() as u64));
            let frame_end = here.place;
            if frame_end <= self.at {
                continue;
            }
            if whole == Err(Problem::Unreadable.into()) {
                self.here = None;
                return Err(ReadError::Unreadable(number));
            }
            let (hash, frame) = (here.segment.header_hash, here.walk.frame_bytes());
            let opened = whole.and_then(|()| self.decoder.open(&clear, &key, hash, frame));
            let header = here.segment.header.clone();
            match opened {
                Ok(block) => {
                    let due = std::mem::replace(&mut self.at, frame_end);
                    let block = Placed { first, header, block: Arc::new(block) };
                    return Ok(Read::Block(ReadBlock { block, due }));
                }
                Err(error) => {
                    let due = usize::try_from(self.at.0.saturating_sub(first.0)).unwrap_or(usize::MAX);
                    let sid = |stream| header.streams.get(usize::from(stream)).map(|start| start.sid.clone());
                    let leaves = shelf::leaves_of(clear.entries.iter().skip(due), sid);
                    return Ok(self.lost(frame_end, leaves, format!("segment {number}: {error}")));
                }
            }
        }
    }

    /// Goes on behind what the disk does not give: before the next frame of the segment that it gives, else behind the
    /// segment. `None`: it gives what stands next.
    pub fn give_up(&mut self) -> Option<Read> {
        let Spot::In(segment) = self.shared.find(self.at) else { return None };
        let gone = self.gone(&segment);
        let problem = format!("the disk does not give segment {}", segment.number());
        (self.at < gone.to).then(|| self.pass(gone, problem))
    }

    /// What of the segment cannot be read from here on.
    fn gone(&mut self, segment: &Segment) -> Gone {
        self.here = None;
        let next = match self.shared.find(segment.end()) {
            Spot::In(next) => Some(next.header),
            // What stood between is gone, too, or nothing follows: nobody knows what this segment alone lacks.
            Spot::Gone(_) | Spot::End => None,
        };
        gone::from(&self.files, segment, self.at, next.as_deref())
    }

    fn pass(&mut self, gone: Gone, problem: String) -> Read {
        let Gone { to, leaves, untold, .. } = gone;
        let from = std::mem::replace(&mut self.at, to);
        Read::Lost { from, to, leaves, untold, problem }
    }

    /// A frame's part in clear is not one: nobody knows where the next one begins.
    fn lose_rest(&mut self, segment: &Segment) -> Read {
        let gone = self.gone(segment);
        // Read again, it may be another; the walk has no way behind it all the same.
        let to = gone.to.max(segment.end());
        self.pass(Gone { to, ..gone }, format!("segment {} ends too early", segment.number()))
    }

    fn lost(&mut self, to: Place, leaves: Vec<(StreamId, Range)>, problem: String) -> Read {
        let from = std::mem::replace(&mut self.at, to);
        Read::Lost { from, to, leaves, untold: Untold::default(), problem }
    }
}
