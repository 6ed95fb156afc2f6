//! The spool against a model: random operations, faults and crashes; a seed makes a run.

use super::rig::{BOOT, Rig, read_all, recover, sinks};
use crate::spool::disk::sim::{Dice, Fault, SimDisk};
use crate::spool::recover::{Report, names};
use crate::spool::{AckError, FIXED_RESERVE_BYTES, Place, REPLAY_NANOS_MAX, Shelf, SinkRule, Skipped, Writer};
use std::collections::BTreeSet;

/// Seeds of an ordinary run; `TESTIMONY_SPOOL_SEEDS` says another number.
const SEEDS: u64 = 200;

/// A sync ends with a chance of one in two each time that is asked for it.
const SETTLED_AFTER: usize = 100;

/// What a run takes of the fixed reserve at most.
const RESERVE_USED_BYTES: u64 = 64 * 1024;

/// Somebody dies in one of so many steps, after fewer operations of the disk than this.
const STOPS_ONE_IN: u64 = 4;
const OPERATIONS_MAX: u64 = 8;

fn seeds() -> u64 {
    std::env::var("TESTIMONY_SPOOL_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS)
}

struct Run {
    rig: Rig,
    seed: u64,
    /// What the sinks acknowledged; the second is what was flushed.
    told: [u64; 2],
    flushed: [u64; 2],
    /// What was shed and is not told.
    skipped: Vec<Skipped>,
    crashes: u64,
}

/// What is true when a step begins, and so wherever in it somebody dies.
struct Before {
    durable: u64,
    written: u64,
    flushed: [u64; 2],
    failures: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self { rig: Rig::new(seed), seed, told: [0; 2], flushed: [0; 2], skipped: Vec::new(), crashes: 0 }
    }

    fn step(&mut self) {
        let before = Before {
            durable: self.rig.writer.durable().end().number(),
            written: self.rig.writer.written().end().number(),
            flushed: self.flushed,
            failures: self.rig.disk.failures(),
        };
        if self.rig.dice.one_in(STOPS_ONE_IN) {
            self.rig.disk.stop_after(self.rig.dice.below(OPERATIONS_MAX));
        }
        self.act();
        self.check();
        if let Some(stopped) = self.rig.disk.stopped() {
            self.stop(&stopped, &before);
        }
        self.let_go();
    }

    fn act(&mut self) {
        match self.rig.dice.below(20) {
            0..=3 => self.write(),
            4..=7 => self.commit(),
            8 | 9 => self.ack(),
            10 | 11 => self.flush(),
            12 => self.fault(),
            13 => {
                let used = self.rig.disk.used();
                let more = self.rig.dice.below(4096);
                self.rig.disk.set_capacity(used + more);
            }
            14 => self.rig.disk.set_capacity(u64::MAX),
            15 => self.read(),
            16 => self.crash(),
            17 if self.rig.dice.one_in(4) => self.rig.add_stream(),
            18 if self.rig.dice.one_in(4) => {
                self.rig.now += REPLAY_NANOS_MAX;
                let now = self.rig.now;
                self.rig.writer.shelf_mut().expire(now);
            }
            19 if self.rig.dice.one_in(4) => {
                let _ = self.rig.writer.finish();
            }
            19 => self.rig.writer.end_segment(),
            _ => {
                let now = self.rig.now;
                let _ = self.rig.writer.retry(now);
            }
        }
    }

    fn commit(&mut self) {
        let entries = 1 + self.rig.dice.below(12);
        let committed = self.rig.commit(entries, 1200);
        if committed {
            assert_eq!(self.rig.writer.durable().end().number(), self.rig.given.len() as u64, "seed {}", self.seed);
        }
    }

    /// With a sync that is not waited for, or none.
    fn write(&mut self) {
        let entries = 1 + self.rig.dice.below(12);
        // Of small ones many wait for a sync where a segment ends.
        let payload_bytes_max = if self.rig.dice.one_in(2) { 1200 } else { 30 };
        let is_commit = self.rig.dice.one_in(2);
        if self.rig.put(if is_commit { Writer::begin_commit } else { Writer::write }, entries, payload_bytes_max) {
            assert_eq!(self.rig.writer.written().end().number(), self.rig.given.len() as u64, "seed {}", self.seed);
            // A sync that was begun ends or fails, and what waited for it has its turn, without another commit.
            if is_commit && self.rig.dice.one_in(4) {
                self.rig.disk.set_capacity(u64::MAX);
                assert!(self.rig.settles(SETTLED_AFTER), "seed {}", self.seed);
            }
        }
    }

    fn ack(&mut self) {
        let durable = self.rig.writer.durable().end().number();
        let end = self.rig.dice.below(durable + 1);
        for (at, sink) in ["a", "b"].into_iter().enumerate() {
            if self.rig.dice.one_in(2) {
                self.rig.writer.shelf_mut().ack(sink, Place(end)).expect("durable entries of a known sink");
                self.told[at] = self.told[at].max(end);
            }
        }
        let beyond = self.rig.writer.shelf_mut().ack("a", Place(durable + 1));
        assert_eq!(beyond, Err(AckError::NotDurable(durable + 1)));
    }

    fn flush(&mut self) {
        let now = self.rig.now;
        let shelf = self.rig.writer.shelf_mut();
        if self.rig.dice.one_in(2) {
            if shelf.flush(now).is_ok() {
                self.flushed = self.told;
            }
        } else {
            let _ = shelf.begin_flush(now);
        }
        let _ = shelf.sync_folder();
    }

    fn fault(&mut self) {
        let all = [Fault::Write, Fault::Sync, Fault::Read, Fault::Create, Fault::SyncFolder, Fault::Remove];
        for _ in 0..=self.rig.dice.below(4) {
            let at = usize::try_from(self.rig.dice.below(all.len() as u64)).expect("small");
            self.rig.disk.fail_next(all[at]);
        }
        if self.rig.dice.one_in(2) {
            self.commit();
            self.rig.disk.heal();
        }
    }

    /// A sink reads on from where it stands: exactly what was given, nothing that is not durable.
    fn read(&mut self) {
        self.rig.disk.heal();
        for sink in ["a", "b"] {
            let at = self.rig.writer.shelf().position(sink).expect("a sink");
            let at_hand = self.rig.dice.one_in(2);
            let reader = if at_hand { self.rig.reader_at_hand(at) } else { self.rig.reader(at) };
            let (found, lost) = read_all(reader);
            assert!(lost.is_empty(), "seed {}: {sink} at {at:?} lost {lost:?}", self.seed);
            let durable = self.rig.writer.durable().end().number();
            assert!(found.keys().copied().eq(at.number()..durable), "seed {}: {sink}", self.seed);
            self.check_read(found.iter());
        }
    }

    fn check_read<'a>(&self, found: impl Iterator<Item = (&'a u64, &'a super::rig::Given)>) {
        for (place, given) in found {
            let at = usize::try_from(*place).expect("small");
            assert_eq!(self.rig.given.get(at), Some(given), "seed {}: place {place}", self.seed);
        }
    }

    fn check(&mut self) {
        let writer = &self.rig.writer;
        let (released, durable, written) = (writer.shelf().released(), writer.durable(), writer.written());
        assert!(released.end() <= durable.end(), "sp_1 released <= durable, seed {}", self.seed);
        assert!(durable.end() <= written.end(), "sp_1 durable <= written, seed {}", self.seed);
        // The reserve is for logs of acknowledgements and for the last frames of segments, which are small here.
        let limit = self.rig.settings.limit_bytes - FIXED_RESERVE_BYTES + RESERVE_USED_BYTES;
        let used = self.rig.disk.used();
        assert!(used <= limit, "sp_3 {used} bytes of {limit}, seed {}", self.seed);
        // What sinks that are not required never get moves them on.
        for skipped in self.rig.writer.shelf_mut().take_skipped() {
            assert_eq!(skipped.shed.sink, "b");
            self.told[1] = self.told[1].max(skipped.shed.to.number());
            self.skipped.push(skipped);
        }
    }

    fn let_go(&mut self) {
        if self.rig.dice.one_in(8)
            && let Some(told) = self.skipped.pop()
        {
            self.rig.writer.shelf_mut().set_skipped_told(&told.file);
        }
    }

    /// The node or the process dies at this point; the run itself goes on.
    fn crash(&mut self) {
        self.crashes += 1;
        let died = self.seed.wrapping_mul(1000).wrapping_add(self.crashes);
        let node = self.rig.disk.crashed(died);
        let process = self.rig.disk.killed();
        let durable = self.rig.writer.durable().end().number();
        self.check_recovery(&node, durable, self.flushed);
        // A process that dies leaves all that it wrote, unless it wrote it anew elsewhere.
        self.check_recovery(&process, self.rig.writer.written().end().number(), self.flushed);
    }

    /// The same in the midst of a step, with the disk as it was there.
    fn stop(&mut self, stopped: &SimDisk, before: &Before) {
        self.crashes += 1;
        let died = self.seed.wrapping_mul(3000).wrapping_add(self.crashes);
        self.check_recovery(&stopped.crashed(died), before.durable, before.flushed);
        // Of a file in which something failed nobody knows what stands there.
        let is_sound = stopped.failures() == before.failures;
        let at_least = if is_sound { before.written } else { before.durable };
        self.check_recovery(&stopped.killed(), at_least, before.flushed);
    }

    fn check_recovery(&self, disk: &SimDisk, at_least: u64, flushed: [u64; 2]) {
        let seed = self.seed;
        let mut scanned = recover(disk);
        let again = recover(disk);
        assert_eq!(scanned.report, again.report, "d3 the same twice, seed {seed}");
        assert!(scanned.report.damage.is_empty(), "seed {seed}: {:?}", scanned.report.damage);
        let end = scanned.shelf.durable().end().number();
        let written = self.rig.given.len() as u64;
        assert!(at_least <= end && end <= written, "sp_2 {at_least} <= {end} <= {written}, seed {seed}");
        self.check_report(&scanned.report, usize::try_from(end).expect("small"));
        let named = names([(BOOT, disk.clone())]);
        assert!(named.iter().all(|name| scanned.report.streams.contains_key(name)), "s2 seed {seed}: {named:?}");
        // What is shown now survives the death of the node, though who wrote it may not have synced it.
        if !disk.has_dropped() {
            let after = recover(&disk.crashed(seed)).shelf;
            assert!(after.durable().end().number() >= end, "d1 {end}, seed {seed}");
            assert!(scanned.shelf.is_recovered() <= after.is_recovered(), "d3 seed {seed}");
        }
        let skipped = scanned.shelf.take_skipped();
        scanned.shelf.set_sinks(&sinks(), Place::default());
        for (at, sink) in ["a", "b"].into_iter().enumerate() {
            let position = scanned.shelf.position(sink).expect("a sink").number();
            assert!(flushed[at] <= position && position <= self.told[at].max(flushed[at]), "seed {seed}: {sink}");
            let reader = crate::spool::Reader::new(disk.clone(), scanned.shelf.shared().clone(), Place(position))
                .expect("memory");
            let (found, lost) = read_all(reader);
            self.check_read(found.iter());
            if sink == "a" {
                assert!(lost.is_empty(), "sp_2 {sink} at {position} of {end}: lost {lost:?}, seed {seed}");
                assert!(found.keys().copied().eq(position..end), "sp_2 {sink}, seed {seed}");
            } else {
                // What a sink never gets is told, whenever its process dies; or it has not gone.
                for Skipped { shed, .. } in self.skipped.iter().filter(|one| !skipped.contains(one)) {
                    let (from, end) = (shed.from.number().max(position), shed.to.number());
                    let is_read = lost.iter().all(|(first, last)| *last <= from || *first >= end);
                    assert!(position < end && is_read, "t5 {shed:?} at {position}, lost {lost:?}, seed {seed}");
                }
                // Only what was told as skipped is gone.
                assert!(
                    lost.iter().all(|(_, to)| *to <= self.told[1]),
                    "{sink}: {lost:?} of {}, seed {seed}",
                    self.told[1]
                );
            }
        }
        self.check_shed(disk);
        self.check_successor(disk, scanned.shelf);
    }

    /// Who comes next tells what is here, its sinks take some of it, and it dies at any point of letting that go.
    fn check_successor(&self, disk: &SimDisk, mut shelf: Shelf<SimDisk>) {
        let (seed, end) = (self.seed, shelf.durable().end());
        let mut dice = Dice::new(seed.wrapping_mul(1000).wrapping_add(self.crashes));
        shelf.set_sinks(&sinks(), Place::default());
        shelf.set_recovered();
        for sink in ["a", "b"] {
            let taken = if dice.one_in(2) { end } else { Place(dice.below(end.number() + 1)) };
            shelf.ack(sink, taken).expect("durable entries of a known sink");
        }
        // The disk may fail.
        let _ = shelf.flush(self.rig.now);
        shelf.release(dice.below(2 * shelf.used_bytes() + 1));
        let taken = shelf.released();
        assert!(taken.end() <= end, "sp_1 {taken:?} of {end:?}, seed {seed}");
        let after = self.check_next(disk, &sinks());
        let durable = after.durable();
        if shelf.segments.is_empty() {
            // A file that had not counted may be left: sinks have all that it holds.
            assert!(after.is_recovered() && after.taken() == durable.end(), "sp_2 {durable:?} of {end:?}, seed {seed}");
        } else {
            assert_eq!(durable.end(), end, "sp_2 seed {seed}");
        }
    }

    /// Where no sink is required, all may go for want of room, the newest segment too: who finds nothing but what was written
    /// down of that goes on nevertheless.
    fn check_shed(&self, disk: &SimDisk) {
        let seed = self.seed;
        let mut dice = Dice::new(seed.wrapping_mul(2000).wrapping_add(self.crashes));
        let rules: Vec<_> = sinks().into_iter().map(|rule| SinkRule { required: false, ..rule }).collect();
        let disk = disk.killed();
        let mut shelf = recover(&disk).shelf;
        shelf.set_sinks(&rules, Place::default());
        shelf.set_recovered();
        let _ = shelf.flush(self.rig.now);
        shelf.make_room(dice.below(2 * shelf.used_bytes() + 1));
        let mut after = self.check_next(&disk, &rules);
        let told = after.take_skipped().len();
        assert!(told >= shelf.skipped_untold(), "t5 {told} of {}, seed {seed}", shelf.skipped_untold());
    }

    /// The process dies; what the next one finds.
    fn check_next(&self, disk: &SimDisk, rules: &[SinkRule]) -> Shelf<SimDisk> {
        let mut after = recover(&disk.killed()).shelf;
        after.set_sinks(rules, Place::default());
        // The disk may fail.
        let _ = after.flush(self.rig.now);
        let (released, durable) = (after.released(), after.durable());
        assert!(released.end() <= durable.end(), "sp_1 {released:?} <= {durable:?}, seed {}", self.seed);
        after
    }

    /// Sizes, roots and open begins are those of the prefix.
    fn check_report(&self, report: &Report, end: usize) {
        let seed = self.seed;
        for (sid, found) in &report.streams {
            let stream = sid.parts().expect("a name").thread;
            assert_eq!(found.leaves, self.rig.leaves(stream, end), "sp_2 stream {stream}, seed {seed}");
        }
        let prefix = &self.rig.given[..end];
        let named: BTreeSet<u32> = report.streams.keys().map(|sid| sid.parts().expect("a name").thread).collect();
        let first = end.checked_sub(1).and_then(|last| prefix.get(last));
        assert!(
            first.is_none_or(|given| named.contains(&given.stream)),
            "seed {seed}: the last entry's stream is told"
        );
    }
}

fn run(seed: u64, lie: Option<Fault>) -> (u64, usize) {
    let mut run = Run::new(seed);
    if let Some(lie) = lie {
        run.rig.disk.lie_about(lie);
    }
    let steps = 20 + run.rig.dice.below(100);
    for _ in 0..steps {
        run.step();
    }
    run.rig.disk.heal();
    run.rig.disk.set_capacity(u64::MAX);
    run.crash();
    (run.crashes, run.rig.given.len())
}

#[test]
fn sp_1_sp_2_sp_3_hold_through_faults_and_crashes() {
    let (mut crashes, mut entries) = (0, 0);
    for seed in 0..seeds() {
        let (more, given) = run(seed, None);
        crashes += more;
        entries += given;
    }
    println!("{} seeds, {crashes} crashes of node and process, {entries} entries", seeds());
    assert!(crashes >= seeds() && entries > 0);
}

/// The checks of this file can fail.
#[test]
fn the_model_notices_a_disk_that_lies() {
    for lie in [Fault::Sync, Fault::SyncFolder] {
        let noticed = (0..20).any(|seed| std::panic::catch_unwind(|| run(seed, Some(lie))).is_err());
        assert!(noticed, "{lie:?}");
    }
}

/// After you found a seed that fails, put it here and run this test alone.
#[test]
fn one_seed() {
    run(1, None);
}
