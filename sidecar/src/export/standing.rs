//! How far one sink is done with the spool, and how much of that may be acknowledged (G2): once a segment is released, nobody
//! can tell what of it the sink never gets. So no place is acknowledged before holes tell durably of all losses before it.
//!
//! Losses come all the time where a sink refuses much, so there may never be a moment without any. What counts is when they
//! were taken to be told: once the holes of all that was taken until then are durable, the sink stands where it stood then,
//! whatever was lost since.

use crate::spool::{Boot, Place};
use std::collections::{BTreeMap, VecDeque};

/// Places in the spool, by process.
pub(super) type Ends = BTreeMap<Boot, Place>;

/// Most places that are remembered until holes are durable; where more come, the last one is moved.
const MARKS_MAX: usize = 64;

/// One sink's standing. Holes become durable in the order in which their losses were taken: one thread seals them all.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Whatever stands before was delivered, or was told as a loss to whoever keeps them. Without what was acknowledged.
    done: Ends,
    /// Losses that were ever taken to be told,
    taken: u64,
    /// and those of them whose hole is durable, or that came back.
    settled: u64,
    /// Once so many are settled, all losses before these places are told.
    marks: VecDeque<(u64, Ends)>,
    /// What may be acknowledged.
    ready: Ends,
}

impl Standing {
    /// The sink has, or never gets, all before these places. `waits`: some losses are not taken to be told, or never will be.
    pub(super) fn done(&mut self, ends: Ends, waits: bool) {
        for (boot, end) in ends {
            let known = self.done.entry(boot).or_default();
            *known = end.max(*known);
        }
        self.mark(waits);
    }

    /// So many losses were taken: all that there were. `waits`: others could not be kept, and nobody takes them.
    pub(super) fn taken(&mut self, losses: usize, waits: bool) {
        self.taken = self.taken.saturating_add(u64::try_from(losses).unwrap_or(u64::MAX));
        self.mark(waits);
    }

    /// A loss of the last that were taken came back: it waits again, and with it all that stands behind it.
    pub(super) fn returned(&mut self) {
        self.settled = self.settled.saturating_add(1).min(self.taken);
        self.marks.clear();
    }

    /// The hole of the next loss that was taken is durable. Returns whether there is something to acknowledge.
    pub(super) fn durable(&mut self) -> bool {
        self.settled = self.settled.saturating_add(1).min(self.taken);
        while self.marks.front().is_some_and(|(settled, _)| *settled <= self.settled) {
            self.ready.extend(self.marks.pop_front().map(|(_, ends)| ends).unwrap_or_default());
        }
        !self.ready.is_empty()
    }

    /// What is to be acknowledged now.
    pub(super) fn take_ready(&mut self) -> Ends {
        let ready = std::mem::take(&mut self.ready);
        self.done.retain(|boot, end| ready.get(boot).is_none_or(|acknowledged| acknowledged < end));
        ready
    }

    /// All is read again from where the sink stands in the spool. What was taken to be told becomes durable all the same.
    pub(super) fn read_again(&mut self) {
        self.done.clear();
        self.marks.clear();
        self.ready.clear();
    }

    /// Where no loss waits, those before what is done were all taken.
    fn mark(&mut self, waits: bool) {
        if waits || self.done.is_empty() {
            return;
        }
        if self.settled == self.taken {
            self.ready.extend(self.done.clone());
            return;
        }
        let is_full = self.marks.len() >= MARKS_MAX;
        match self.marks.back_mut() {
            Some(last) if is_full || last.0 == self.taken => *last = (self.taken, self.done.clone()),
            _ => self.marks.push_back((self.taken, self.done.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ends(boot: u8, number: usize) -> Ends {
        let place = (0..number).fold(Place::default(), |place, _| place.next());
        [(Boot([boot; 16]), place)].into()
    }

    #[test]
    fn g2_what_was_lost_since_does_not_hold_back_what_was_told() {
        let mut standing = Standing::default();
        standing.done(ends(1, 5), true);
        assert_eq!(standing.take_ready(), Ends::new(), "a loss waits");
        standing.taken(1, false);
        standing.done(ends(1, 9), true);
        assert_eq!(standing.take_ready(), Ends::new(), "its hole is not durable");
        assert!(standing.durable());
        assert_eq!(standing.take_ready(), ends(1, 5));
        standing.taken(1, false);
        // Delivered meanwhile, without another loss: it waits for the same hole.
        standing.done(ends(1, 12), false);
        assert_eq!(standing.take_ready(), Ends::new());
        assert!(standing.durable());
        assert_eq!(standing.take_ready(), ends(1, 12));
        standing.done(ends(2, 3), false);
        assert_eq!((standing.take_ready(), standing.take_ready()), (ends(2, 3), Ends::new()));
    }

    #[test]
    fn g2_a_loss_that_comes_back_keeps_what_was_taken_with_it() {
        let mut standing = Standing::default();
        standing.done(ends(1, 5), true);
        standing.taken(2, false);
        standing.returned();
        assert!(!standing.durable(), "the other one is durable");
        standing.taken(1, false);
        assert!(standing.durable());
        assert_eq!(standing.take_ready(), ends(1, 5));
    }

    #[test]
    fn marks_are_bounded_and_all_of_it_is_acknowledged_in_the_end() {
        let mut standing = Standing::default();
        for number in 1..=3 * MARKS_MAX {
            standing.done(ends(1, number), true);
            standing.taken(1, false);
            assert!(standing.marks.len() <= MARKS_MAX);
        }
        assert!(standing.durable());
        assert_eq!(standing.take_ready(), ends(1, 1));
        (1..3 * MARKS_MAX).for_each(|_| _ = standing.durable());
        assert_eq!(standing.take_ready(), ends(1, 3 * MARKS_MAX));
    }

    /// What happens to a sink.
    #[derive(Clone, Debug)]
    enum Step {
        /// One record is read from the spool of a process: delivered or not, and if not, whether the loss could be kept.
        Read {
            boot: u8,
            delivered: bool,
            kept: bool,
        },
        /// All that was read is done with.
        Pass,
        /// Losses are taken; of so many there is no room for their hole.
        Take {
            returned: usize,
        },
        Durable,
        Acknowledge,
        ReadAgain,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..3_u8, any::<bool>(), prop::bool::weighted(0.98))
                .prop_map(|(boot, delivered, kept)| Step::Read { boot, delivered, kept }),
            4 => Just(Step::Pass),
            3 => (0..3_usize).prop_map(|returned| Step::Take { returned }),
            6 => Just(Step::Durable),
            2 => Just(Step::Acknowledge),
            1 => Just(Step::ReadAgain),
        ]
    }

    type Record = (u8, usize);

    /// Who lost what, and who was told.
    #[derive(Default)]
    struct World {
        standing: Standing,
        read: BTreeMap<u8, usize>,
        acknowledged: BTreeMap<u8, usize>,
        /// Delivered, or told by a durable hole.
        settled: BTreeSet<Record>,
        waiting: Vec<Record>,
        telling: VecDeque<Record>,
        overflowed: bool,
    }

    impl World {
        fn waits(&self) -> bool {
            self.overflowed || !self.waiting.is_empty()
        }

        fn step(&mut self, step: &Step) {
            match *step {
                Step::Read { boot, delivered, kept } => {
                    let read = self.read.entry(boot).or_default();
                    let record = (boot, *read);
                    *read += 1;
                    match (delivered, kept) {
                        (true, _) => _ = self.settled.insert(record),
                        (false, true) => self.waiting.push(record),
                        (false, false) => self.overflowed = true,
                    }
                }
                Step::Pass => {
                    let all = self.read.iter().flat_map(|(boot, read)| ends(*boot, *read)).collect();
                    self.standing.done(all, self.waits());
                }
                Step::Take { returned } => {
                    let mut taken = std::mem::take(&mut self.waiting);
                    if taken.is_empty() {
                        return;
                    }
                    self.standing.taken(taken.len(), self.waits());
                    self.waiting = taken.split_off(taken.len().saturating_sub(returned));
                    self.waiting.iter().for_each(|_| self.standing.returned());
                    self.telling.extend(taken);
                }
                Step::Durable => {
                    if let Some(told) = self.telling.pop_front() {
                        self.settled.insert(told);
                        self.standing.durable();
                    }
                }
                Step::Acknowledge => {
                    for (boot, end) in self.standing.take_ready() {
                        let (boot, end) = (boot.0[0], usize::try_from(end.number()).expect("few"));
                        let known = self.acknowledged.entry(boot).or_default();
                        *known = end.max(*known);
                        for at in 0..end {
                            assert!(self.settled.contains(&(boot, at)), "record {at} of {boot}, acknowledged {end}");
                        }
                    }
                }
                Step::ReadAgain => {
                    self.read.clone_from(&self.acknowledged);
                    self.overflowed = false;
                    self.standing.read_again();
                }
            }
        }
    }

    proptest! {
        /// Nothing is acknowledged that is neither delivered nor told durably; and once all is told, all is.
        #[test]
        fn g2_nothing_untold_is_acknowledged_and_all_that_is_told_is(steps in prop::collection::vec(step(), 0..200)) {
            let mut world = World::default();
            steps.iter().for_each(|step| world.step(step));
            if !world.overflowed {
                for last in [Step::Pass, Step::Take { returned: 0 }] {
                    world.step(&last);
                }
                (0..world.telling.len()).for_each(|_| world.step(&Step::Durable));
                world.step(&Step::Acknowledge);
                let read: BTreeMap<u8, usize> = world.read.clone();
                prop_assert!(read.iter().all(|(boot, read)| world.acknowledged.get(boot) == Some(read)), "{:?}", world.acknowledged);
            }
        }
    }
}
