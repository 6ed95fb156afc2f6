//! Where a stream leaves what it makes, with a place reserved before anything is sealed (S3): in the spool, or in memory
//! where there is none.

mod memory;
mod spooled;

use super::{EpochKey, Random};
use crate::metrics::Metrics;
use crate::spool::Place;
use crate::tail::Tail;
use crate::witness::Shown;
use memory::Memory;
use spooled::Spooled;
use std::collections::VecDeque;
use std::sync::Arc;
use testimony_core::evidence::note::{PublicKey, SignedNote};
use testimony_core::evidence::seal::{Head, HeadUse, Host, Position, Sealed, Wanted};
use testimony_core::evidence::stream::StreamId;
use testimony_core::record::{GapReason, Typ};

/// What one data thread makes goes here.
pub struct Desk {
    out: Out,
    metrics: Arc<Metrics>,
    tail: Tail,
    pub random: Random,
    /// What the witness must see; `None`: there is no witness.
    pub shown: Option<Shown>,
    /// Heads for the witness that are not durable.
    heads: VecDeque<(Place, WitnessHead)>,
}

/// The way out.
pub enum Out {
    /// Batches in memory.
    Memory(Box<Memory>),
    /// The spool.
    Spool(Box<Spooled>),
}

/// A head, kept until it may be shown.
struct WitnessHead {
    stream: Arc<StreamId>,
    note: SignedNote,
    next_key: Option<PublicKey>,
}

impl Desk {
    pub fn new(out: Out, metrics: Arc<Metrics>, tail: Tail, shown: Option<Shown>) -> Self {
        Self { out, metrics, tail, random: Random::default(), shown, heads: VecDeque::new() }
    }

    /// Whether a batch has begun since this was last asked: it is to be flushed in time.
    pub fn has_begun(&mut self) -> bool {
        match &mut self.out {
            Out::Memory(memory) => memory.has_begun(),
            Out::Spool(_) => false,
        }
    }

    /// Hands over what is full.
    pub fn flush_full(&mut self) {
        if let Out::Memory(memory) = &mut self.out {
            memory.flush_full();
        }
    }

    /// Hands over what there is.
    pub fn flush(&mut self) {
        if let Out::Memory(memory) = &mut self.out {
            memory.flush();
        }
    }

    /// The spool's side, where there is a spool.
    pub fn spooled(&mut self) -> Option<&mut Spooled> {
        match &mut self.out {
            Out::Memory(_) => None,
            Out::Spool(spooled) => Some(spooled),
        }
    }

    /// Whether a record would be taken now.
    pub fn has_room(&mut self) -> bool {
        match &mut self.out {
            Out::Memory(memory) => memory.has_room(),
            Out::Spool(spooled) => spooled.has_room(),
        }
    }

    /// How far the stream is durable, given where it is; what waits in memory is as durable as it gets. `None`: no news.
    pub fn durable(&mut self, position: Position) -> Option<Position> {
        match &mut self.out {
            Out::Memory(_) => Some(position),
            Out::Spool(spooled) => {
                spooled.mark();
                spooled.durable()
            }
        }
    }

    /// Shows the witness the heads that have become durable.
    pub fn show_heads(&mut self) {
        let Out::Spool(spooled) = &self.out else { return };
        while self.heads.front().is_some_and(|(place, _)| spooled.covers(*place)) {
            if let (Some((_, head)), Some(shown)) = (self.heads.pop_front(), &mut self.shown) {
                shown.head(&head.stream, head.note, head.next_key);
            }
        }
    }

    /// Whether heads wait to become durable.
    pub fn has_heads(&self) -> bool {
        !self.heads.is_empty()
    }
}

impl Out {
    /// By batches in memory.
    pub fn memory(queue: crate::export::Queue) -> Self {
        Self::Memory(Box::new(Memory::new(queue)))
    }

    /// By the spool.
    pub fn spool(inbox: crate::spool::Inbox, counters: crate::spool::ThreadCounters) -> Self {
        Self::Spool(Box::new(Spooled::new(inbox, counters)))
    }
}

impl Host for Desk {
    type Key = EpochKey;

    fn random(&mut self) -> u128 {
        self.random.next_u128()
    }

    fn key(&mut self) -> Option<EpochKey> {
        let key = EpochKey::generate();
        if key.is_none() {
            tracing::error!("no randomness for a new key; the present one goes on");
        }
        key
    }

    fn opens(&mut self, stream: &Arc<StreamId>, key: &EpochKey) {
        if let Some(shown) = &mut self.shown {
            shown.opens(stream, key);
        }
    }

    fn reserve(&mut self, wanted: Wanted) -> Result<(), GapReason> {
        match &mut self.out {
            Out::Memory(memory) => memory.reserve_record(wanted).then_some(()).ok_or(GapReason::QueueFull),
            Out::Spool(spooled) => spooled.reserve(wanted.kept_bytes, wanted.class),
        }
    }

    fn write(&mut self, sealed: Sealed<'_>) {
        match &mut self.out {
            Out::Memory(memory) => memory.write(&sealed),
            Out::Spool(spooled) => spooled.write(&sealed),
        }
        self.metrics.sealed(sealed.typ());
        if let Some(shown) = &mut self.shown {
            shown.sealed(&sealed);
        }
        if matches!(sealed.typ(), Typ::Exchange | Typ::Stage | Typ::Burst | Typ::Gap) {
            self.tail.publish(sealed.event().as_str(), sealed.body());
        }
    }

    fn head(&mut self, head: Head<'_>) {
        if head.purpose() == HeadUse::Export {
            self.metrics.heads.inc();
        }
        let place = match &mut self.out {
            Out::Memory(memory) => {
                if head.purpose() != HeadUse::Witness {
                    memory.head(&head);
                }
                None
            }
            Out::Spool(spooled) => match spooled.head(&head) {
                Some(place) => Some(place),
                None => return tracing::error!(stream = %head.stream(), "a defect: the spool took no head"),
            },
        };
        let Some(shown) = self.shown.as_mut().filter(|_| head.purpose() != HeadUse::Cosigned) else { return };
        let (stream, note, next_key) = (head.stream().clone(), head.note().clone(), head.next_key());
        match place {
            Some(place) => self.heads.push_back((place, WitnessHead { stream, note, next_key })),
            None => shown.head(&stream, note, next_key),
        }
    }
}
