//! What is looked at later: a time that is over, and an export that was kept for a while (V1, V2, V3).

use super::removed_tests::{Operator, root};
use super::testing::*;
use super::*;
use crate::evidence::ledger::Fact as Said;

const SECOND_NS: u64 = 1_000_000_000;

/// A checkpoint each 5 minutes and two exchanges behind each; the ledger that was kept meanwhile; when each record was made.
struct Kept {
    writer: Writer,
    operator: Operator,
    body_ns: Vec<u64>,
    head_ns: Vec<u64>,
}

impl Kept {
    fn new(checkpoints: usize) -> Self {
        let writer = Writer::new(sid("p", 0), 1, &[]);
        let mut operator = Operator::new();
        operator.now_ns = writer.time;
        operator.certify(&writer);
        let mut this = Self { writer, operator, body_ns: Vec::new(), head_ns: Vec::new() };
        for n in 0..checkpoints {
            this.writer.time += if n == 0 { 0 } else { 300 * SECOND_NS };
            this.note();
            this.writer.checkpoint();
            this.note();
            this.operator.now_ns = this.writer.time;
            this.operator.shown(&this.writer, this.writer.leaves.len());
            this.writer.exchange("/a");
            this.writer.exchange("/b");
            this.note();
        }
        this
    }

    fn note(&mut self) {
        self.body_ns.resize(self.writer.bodies.len(), self.writer.time);
        self.head_ns.resize(self.writer.heads.len(), self.writer.time);
    }

    fn close(&mut self) {
        self.writer.close();
        self.note();
        let (size, root) = (self.writer.size(), root(&self.writer, self.writer.leaves.len()));
        self.operator.now_ns = self.writer.time;
        self.operator.block(&[Said::Closed(self.writer.sid.clone(), size, root)], &[]);
    }

    /// What a backend gives back up to this time.
    fn until(&self, ns: u64) -> [Vec<String>; 2] {
        let pick = |bodies: &[String], times: &[u64]| -> Vec<String> {
            bodies.iter().zip(times).filter(|(_, at)| **at <= ns).map(|(body, _)| body.clone()).collect()
        };
        [pick(&self.writer.bodies, &self.body_ns), pick(&self.writer.heads, &self.head_ns)]
    }

    /// The time of the checkpoint with this number, and of what is sealed right behind it.
    fn at(&self, checkpoint: usize) -> u64 {
        self.head_ns[checkpoint] + SECOND_NS
    }

    fn check(&self, bodies: &[Vec<String>], to_ns: Option<u64>, now_ns: u64) -> Report {
        let settings = Settings { scope: Scope { to_ns, ..Scope::default() }, now_ns, ..settings() };
        verify(&bodies.concat(), settings, Trust { ledger: Some(self.operator.ledger()), ..Trust::default() })
    }
}

fn only(report: &Report, verdict: &str) -> bool {
    let found = found(report);
    !found.is_empty() && found.iter().all(|found| found.starts_with(verdict))
}

#[test]
fn v3_streams_that_went_on_behind_a_past_time_are_partial() {
    let mut kept = Kept::new(10);
    let to = kept.at(5);
    let export = kept.until(to);
    let told = |kept: &Kept, export: &[Vec<String>], to_ns| kept.check(export, Some(to_ns), NOW);
    assert!(only(&told(&kept, &export, to), "PARTIAL"), "{:?}", told(&kept, &export, to).findings);
    // An hour more than is looked at; without a record behind the last head.
    for (until, to) in [(kept.at(7), to), (kept.at(5) - SECOND_NS, to), (to, kept.at(6) - 2 * SECOND_NS)] {
        let report = told(&kept, &kept.until(until), to);
        assert!(only(&report, "PARTIAL"), "{until} {to}: {:?}", report.findings);
    }
    // What was in flight at the end: it began later than what was sealed behind it.
    let [mut records, heads] = export.clone();
    records.remove(records.len() - 2);
    let in_flight = [records, heads];
    assert!(only(&told(&kept, &in_flight, to), "PARTIAL"), "{:?}", told(&kept, &in_flight, to).findings);
    // It ended since.
    kept.close();
    for export in [&export, &in_flight] {
        assert!(only(&told(&kept, export, to), "PARTIAL"), "{:?}", told(&kept, export, to).findings);
    }
}

#[test]
fn v1_v3_an_end_that_was_cut_off_within_a_past_time_is_unclosed() {
    let mut kept = Kept::new(9);
    let unclosed = |kept: &Kept, until, to| {
        let report = kept.check(&kept.until(until), Some(to), NOW);
        found(&report).contains(&"UNCLOSED".to_owned())
    };
    // It went on for longer than any stream is silent.
    assert!(!unclosed(&kept, kept.at(5), kept.at(6)));
    assert!(unclosed(&kept, kept.at(5), kept.at(7)));
    // A record that nothing proves does not make it last longer.
    let mut pushed = kept.until(kept.at(5));
    let at = pushed[0].len();
    pushed[0].push(kept.writer.bodies[at].clone());
    pushed[0][at] = edit(&pushed[0][at], "t0", Some(&kept.at(7).to_string()));
    assert!(found(&kept.check(&pushed, Some(kept.at(7)), NOW)).contains(&"UNCLOSED".to_owned()));
    let far = edit(&pushed[0][at], "seq", Some(&(at + 2).to_string()));
    pushed[0][at] = far;
    assert!(kept.check(&pushed, Some(kept.at(7)), NOW).exit_code == 1);
    // It ended within that time, and its end is not there.
    kept.close();
    let end = kept.writer.time;
    let report = kept.check(&kept.until(kept.at(7)), Some(end + 20 * SECOND_NS), NOW);
    assert!(found(&report).contains(&"UNCLOSED".to_owned()), "{:?}", report.findings);
    assert!(!unclosed(&kept, end, end + 20 * SECOND_NS));
}

#[test]
fn v3_a_stream_that_had_just_begun_at_the_end_of_a_past_time_is_partial() {
    let mut kept = Kept::new(3);
    let to = kept.body_ns[0] + SECOND_NS;
    let [records, _] = kept.until(to);
    assert!(records.len() > 2, "{records:?}");
    // No head of it is there; of its records one was in flight.
    let mut in_flight = records.clone();
    in_flight.remove(1);
    let records = [records[..1].to_vec(), in_flight];
    kept.close();
    for records in records {
        let report = kept.check(std::slice::from_ref(&records), Some(to), NOW);
        let told = found(&report);
        assert!(told.iter().all(|f| f.starts_with("PARTIAL") || f == "UNANCHORED"), "{told:?}");
        // Long after it began some head must be there.
        let told = found(&kept.check(&[records], Some(to + 400 * SECOND_NS), NOW));
        assert!(told.iter().any(|f| f == "FOREIGN" || f == "UNCLOSED"), "{told:?}");
    }
}

#[test]
fn v1_v2_an_export_of_a_living_stream_is_judged_by_the_end_of_its_ledger() {
    let kept = Kept::new(6);
    let all = kept.until(u64::MAX);
    let end = kept.operator.now_ns;
    let told = |bodies: &[Vec<String>], after_s| found(&kept.check(bodies, None, end + after_s * SECOND_NS));
    // Two records are newer than the last head, however long it is ago.
    for after_s in [1, 300, 311, 90_000] {
        assert_eq!(told(&all, after_s), ["PENDING 17..19"], "{after_s}");
    }
    // The ledger goes on for longer than a stream is silent, and this one does not.
    let mut later = Kept::new(6);
    later.operator.now_ns += 312 * SECOND_NS;
    later.operator.block(&[Said::Heads(Vec::new())], &[]);
    assert_eq!(found(&later.check(&all, None, NOW)), ["UNCLOSED"]);
    // Records of long after its end are no sign that it was whole.
    let cut = Kept::new(2);
    let report = cut.check(&all, None, NOW);
    assert!(found(&report).contains(&"UNCLOSED".to_owned()), "{:?}", report.findings);
    // One that the ledger knows as ended was not alive at its end.
    let mut ended = Kept::new(6);
    ended.close();
    let report = ended.check(&all, None, NOW);
    assert!(found(&report).contains(&"UNCLOSED".to_owned()), "{:?}", report.findings);
}
