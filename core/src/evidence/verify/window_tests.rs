//! What a daily check sees: an export of the last hours, records and ledger alike, of streams that go on (V3, H4).

use super::removed_tests::{Operator, ledger_key, root};
use super::tamper_tests::honest;
use super::testing::*;
use super::*;
use crate::evidence::hash::Hash;
use crate::evidence::ledger::{Fact as Said, HeadRow};
use crate::evidence::merkle;
use crate::evidence::note::{Checkpoint, Signature, SignedNote};

const MINUTE_NS: u64 = 60_000_000_000;
const HOUR_NS: u64 = 60 * MINUTE_NS;

/// A stream of many hours: a checkpoint every five minutes, a new key every hour; and the ledger that was kept meanwhile.
pub(super) struct Long {
    writer: Writer,
    /// When each record and each head came into being.
    body_ns: Vec<u64>,
    head_ns: Vec<u64>,
    operator: Operator,
    ledger_ns: Vec<u64>,
    now_ns: u64,
}

/// Checkpoints of an hour: a stream that goes on is never silent for longer.
const HOURLY: u64 = 12;
const CHECKPOINTS: u64 = 30 * HOURLY;
const STEP_NS: u64 = HOUR_NS / HOURLY;

impl Long {
    pub(super) fn new() -> Self {
        Self::of(CHECKPOINTS)
    }

    fn of(checkpoints: u64) -> Self {
        let mut this = Self {
            writer: Writer::new(sid("p", 0), 1, &[]),
            body_ns: Vec::new(),
            head_ns: Vec::new(),
            operator: Operator::new(),
            ledger_ns: Vec::new(),
            now_ns: NOW,
        };
        let begin_ns = NOW - checkpoints * STEP_NS - 2_000_000_000;
        this.operator.now_ns = begin_ns;
        this.operator.certify(&this.writer);
        for n in 1..=checkpoints {
            this.writer.time = begin_ns + n * STEP_NS;
            this.writer.exchange("/a");
            this.step(n);
        }
        this.writer.exchange("/tail");
        this.note();
        this
    }

    fn step(&mut self, n: u64) {
        let rolls = n.is_multiple_of(HOURLY);
        if rolls {
            self.writer.rollover()
        } else {
            self.writer.checkpoint()
        }
        self.operator.now_ns = self.writer.time + 1_000_000_000;
        let (sid, size) = (self.writer.sid.clone(), self.writer.size());
        let root = root(&self.writer, self.writer.leaves.len());
        if rolls {
            self.operator.block(&[Said::Epoch(sid, size, root, self.writer.key.public())], &[]);
        } else {
            let stream = self.operator.book.tables().stream(&sid).expect("certified").number;
            self.operator.block(&[], &[HeadRow { stream, size, root }]);
        }
        // What others did meanwhile.
        for _ in 0..2 {
            self.operator.block(&[Said::Heads(Vec::new())], &[]);
        }
        self.note();
    }

    fn note(&mut self) {
        self.body_ns.resize(self.writer.bodies.len(), self.writer.time);
        self.head_ns.resize(self.writer.heads.len(), self.writer.time);
        self.ledger_ns.resize(self.operator.bodies.len(), self.operator.now_ns);
    }

    /// What a backend gives back of the last hours: records, heads, the ledger.
    pub(super) fn last(&self, hours: u64) -> [Vec<String>; 3] {
        let from_ns = self.now_ns - hours * HOUR_NS;
        let pick = |bodies: &[String], times: &[u64]| -> Vec<String> {
            let there = |at: u64| (from_ns..=self.now_ns).contains(&at);
            bodies.iter().zip(times).filter(|(_, at)| there(**at)).map(|(body, _)| body.clone()).collect()
        };
        [
            pick(&self.writer.bodies, &self.body_ns),
            pick(&self.writer.heads, &self.head_ns),
            pick(&self.operator.bodies, &self.ledger_ns),
        ]
    }

    /// The daily check of what is given, which looks at the last 24 hours.
    pub(super) fn check(&self, bodies: &[String]) -> Report {
        self.check_hours(24, bodies)
    }

    fn check_hours(&self, hours: u64, bodies: &[String]) -> Report {
        let scope = Scope { from_ns: Some(self.now_ns - hours * HOUR_NS), ..Scope::default() };
        let settings = Settings { scope, now_ns: self.now_ns, ..settings() };
        let trust = Trust { ledger_keys: vec![ledger_key()], ..Trust::default() };
        judge_bodies(bodies.iter().map(String::as_str), settings, trust)
    }
}

fn only_cut(report: &Report) {
    let accepted = |found: &String| found.starts_with("PARTIAL") || found.starts_with("PENDING");
    assert!(found(report).iter().all(accepted), "{:?}", found(report));
    assert!(report.streams.iter().all(|stream| stream.certified), "{report:?}");
}

#[test]
fn h4_an_export_of_one_day_can_be_checked() {
    let long = Long::new();
    let [records, heads, ledger] = long.last(25);
    assert!(!ledger.iter().any(|body| body.contains("ledger-certified")));
    assert!(ledger.iter().any(|body| body.contains("\"frontier\"")), "restated within the window");
    let report = long.check(&[records, heads, ledger].concat());
    only_cut(&report);
    assert!(report.proved > 24 * HOURLY && !begins_late(&report), "{report:?}");
}

/// The last place at which reading of these entries can begin.
fn last_restated(ledger: &[String]) -> usize {
    ledger.iter().rposition(|body| body.contains("ledger-state")).expect("restated")
}

/// That the ledger begins within the time that is looked at.
fn begins_late(report: &Report) -> bool {
    let mut told = report.findings.iter().filter(|finding| finding.verdict == Verdict::Unanchored);
    told.any(|finding| finding.message.contains("after the time that is looked at begins"))
}

#[test]
fn v3_w1_the_first_hours_that_go_together_with_the_ledger_are_noticed() {
    let long = Long::new();
    let [records, heads, ledger] = long.last(31);
    let restated = last_restated(&ledger);
    let restated_ns = long.ledger_ns[restated];
    assert!(restated_ns > long.now_ns - 23 * HOUR_NS, "well within the day");
    // Of the stream all goes before the last rollover ahead of it: reading may begin there.
    let rolled = (1..=30).rev().map(|hour| long.now_ns - (30 - hour) * HOUR_NS - 2_000_000_000);
    let rolled_ns = rolled.into_iter().find(|at_ns| *at_ns < restated_ns).expect("an hour");
    let left = |bodies: &[String], times: &[u64]| -> Vec<String> {
        bodies.iter().zip(times).filter(|(_, at)| **at >= rolled_ns).map(|(body, _)| body.clone()).collect()
    };
    let cut = [left(&records, &long.body_ns), left(&heads, &long.head_ns), ledger[restated..].to_vec()].concat();
    let report = long.check(&cut);
    only_cut(&report);
    assert!(begins_late(&report), "{:?}", report.findings);
    // All of it, and from a place on that is before the day, are no such thing.
    assert!(!begins_late(&long.check(&[records.clone(), heads.clone(), ledger].concat())));
    let [.., day] = long.last(25);
    assert!(!begins_late(&long.check(&[records.clone(), heads.clone(), day.clone()].concat())));
    // One that begins later is told though all records are there.
    let late = day[last_restated(&day)..].to_vec();
    assert!(begins_late(&long.check(&[records, heads, late].concat())));
}

/// As the chart does it (`verify.hours`), with `startingDeadlineSeconds` of an hour.
#[test]
fn v3_each_record_must_be_there_in_one_of_two_daily_checks_also_where_the_second_is_late() {
    const HOURS: u64 = 26;
    let mut long = Long::of(60 * HOURLY);
    let late_ns = long.now_ns;
    let first_ns = late_ns - 25 * HOUR_NS;
    // What is told of records of this time, which are removed with their heads.
    let mut told = |now_ns: u64, hours: u64, gone: std::ops::Range<u64>| {
        long.now_ns = now_ns;
        let all = long.last(hours + 7);
        let is_gone = |at: &u64| gone.contains(at);
        let seqs: Vec<usize> = (0..long.body_ns.len()).filter(|seq| is_gone(&long.body_ns[*seq])).collect();
        let lost = |bodies: &[String], times: &[u64]| -> Vec<String> {
            bodies.iter().zip(times).filter(|(_, at)| is_gone(at)).map(|(body, _)| body.clone()).collect()
        };
        let lost = [lost(&long.writer.bodies, &long.body_ns), lost(&long.writer.heads, &long.head_ns)].concat();
        let left: Vec<String> = all.concat().into_iter().filter(|body| !lost.contains(body)).collect();
        let report = long.check_hours(hours, &left);
        assert!(!begins_late(&report), "{:?}", report.findings);
        let (from, to) = (seqs[0], seqs[seqs.len() - 1] + 1);
        (found(&report), format!("MISSING {from}..{to}"))
    };
    // All but the last minutes by the first one, and these by the second.
    let minutes = |minutes: u64| first_ns - minutes * MINUTE_NS;
    for (now_ns, gone) in [
        (first_ns, first_ns - (HOURS * 60 - 10) * MINUTE_NS..minutes(600)),
        (first_ns, minutes(600)..minutes(6)),
        (late_ns, minutes(50)..first_ns + 60 * MINUTE_NS),
    ] {
        let (told, missing) = told(now_ns, HOURS, gone);
        assert!(told.contains(&missing), "{missing}: {told:?}");
    }
    // A day alone would leave an hour that nobody looks at.
    let (told, missing) = told(late_ns, 24, minutes(6)..first_ns + 60 * MINUTE_NS);
    assert!(!told.contains(&missing), "{told:?}");
}

#[test]
fn h4_v3_what_was_in_flight_at_the_edge_of_an_export_is_partial() {
    let mut long = Long::new();
    // A record is exported with the time of its start: what began before the export and was sealed within it is not there.
    let checked = |long: &Long, absent: &[usize]| {
        let [mut records, heads, ledger] = long.last(25);
        absent.iter().rev().for_each(|at| drop(records.remove(*at)));
        long.check(&[records, heads, ledger].concat())
    };
    // The first records are 0 an exchange, 1 its checkpoint, 2 an exchange, 3 its checkpoint ...
    for absent in [&[1_usize][..], &[2], &[1, 4], &[2, 4, 6]] {
        only_cut(&checked(&long, absent));
    }
    // With all of the ledger, and so the first key.
    long.ledger_ns.fill(long.now_ns);
    for absent in [&[1_usize][..], &[2], &[1, 4], &[2, 4, 6]] {
        only_cut(&checked(&long, absent));
    }
    // Behind the first checkpoint of the time that is looked at everything must be there.
    for at in [40, 41] {
        let report = checked(&long, &[at]);
        assert!(report.exit_code == 1 && found(&report).iter().any(|f| f.starts_with("MISSING")), "{at}: {report:?}");
    }
}

#[test]
fn k1_a_stream_of_another_key_in_an_export_of_one_day_is_not_believed() {
    let long = Long::new();
    let [_, _, ledger] = long.last(25);
    // The same pod's stream, made up from the middle on: its heads fit, its keys are nobody's.
    let mut forger = Long::new();
    forger.writer = Writer::new(sid("p", 0), 9, &[]);
    (forger.body_ns, forger.head_ns) = (Vec::new(), Vec::new());
    for n in 1..=CHECKPOINTS {
        forger.writer.time = NOW - (CHECKPOINTS - n) * STEP_NS - 2_000_000_000;
        forger.writer.exchange("/forged");
        forger.step(n);
    }
    let [records, heads, _] = forger.last(25);
    let report = long.check(&[records, heads, ledger].concat());
    assert_eq!(report.exit_code, 1, "{:?}", found(&report));
    assert!(!report.streams[0].certified);
}

#[test]
fn v4_a_record_before_all_that_is_there_is_not_proved_by_what_comes_behind() {
    let long = Long::new();
    // The first rollover's key is not known: reading begins at its head.
    let [records, heads, ledger] = long.last(27);
    let honest = long.check(&[records.clone(), heads.clone(), ledger.clone()].concat());
    only_cut(&honest);
    let within = (long.now_ns - HOUR_NS).to_string();
    for (t0, expected) in [(None, "3..4"), (Some(within.as_str()), "FOREIGN 3..4")] {
        let forged = edit(&long.writer.bodies[3], "path", Some("/forged"));
        let forged = t0.map_or(forged.clone(), |t0| edit(&forged, "t0", Some(t0)));
        let report = long.check(&[records.clone(), heads.clone(), ledger.clone(), vec![forged]].concat());
        let told = found(&report);
        assert!(told.iter().any(|told| told.ends_with(expected)), "{told:?}");
        assert_eq!(report.proved, honest.proved, "{told:?}");
        assert!(t0.is_none() || report.exit_code == 1, "{told:?}");
    }
}

#[test]
fn v3_a_tail_that_was_cut_off_a_living_stream_is_missing() {
    let long = Long::new();
    let [records, heads, ledger] = long.last(25);
    let verdict = |records: &[String], heads: &[String], ledger: &[String]| {
        let report = long.check(&[records, heads, ledger].concat());
        (report.exit_code, found(&report))
    };
    // What was sealed in the last hours.
    for hours in [1, 5, 20, 23] {
        let checkpoints = usize::try_from(hours * HOURLY + 1).expect("small");
        let (cut, heads) = (&records[..records.len() - 2 * checkpoints], &heads[..heads.len() - checkpoints]);
        let (code, told) = verdict(cut, heads, &ledger);
        let missing = told.iter().any(|found| found.starts_with("MISSING"));
        assert!(code == 1 && missing, "{hours} h: {told:?}");
    }
    let (cut, head) = (&records[..8], &heads[..4]);
    let (code, told) = verdict(cut, head, &ledger);
    assert!(code == 1, "nothing of the time that is looked at is left: {told:?}");
    // The first hours of that time, with the whole ledger: it has a head in them.
    for hours in [1, 2, 6] {
        let [records, heads, _] = long.last(24 - hours);
        let (code, told) = verdict(&records, &heads, &long.operator.bodies);
        assert!(code == 1 && told.iter().any(|found| found.starts_with("MISSING")), "{hours} h: {told:?}");
    }
    // As far as the ledger knows of that time, where it was restated in the middle.
    let (code, told) = verdict(&records[440..], &heads[220..], &ledger);
    assert!(code == 1 && told.iter().any(|found| found.starts_with("MISSING")), "{told:?}");
}

#[test]
fn v3_a_stream_that_the_ledger_took_up_within_the_lag_is_pending() {
    let mut long = Long::new();
    let [records, heads, _] = long.last(25);
    long.operator.now_ns += 60_000_000_000;
    long.operator.certify(&Writer::new(sid("q", 0), 5, &[]));
    let mut told = |later_ns: u64| {
        long.operator.now_ns += later_ns;
        long.operator.block(&[Said::Heads(Vec::new())], &[]);
        long.note();
        long.now_ns = long.operator.now_ns;
        let [.., ledger] = long.last(25);
        let report = long.check(&[records.clone(), heads.clone(), ledger].concat());
        let of_other = report.findings.iter().filter(|finding| finding.stream == Some(sid("q", 0)));
        of_other.map(|finding| finding.verdict).collect::<Vec<_>>()
    };
    assert_eq!(told(5_000_000_000), [Verdict::Pending], "what is sent with the ledger may come after it");
    assert_eq!(told(20_000_000_000), [Verdict::Missing]);
}

#[test]
fn v3_what_the_ledger_had_within_the_lag_only_is_pending() {
    let mut long = Long::new();
    // A head that the ledger had 5 s before its end: its records may be on their way.
    let [records, heads, _] = long.last(25);
    long.writer.time += 5 * MINUTE_NS;
    long.writer.exchange("/b");
    long.step(1);
    long.now_ns = long.operator.now_ns + 5_000_000_000;
    let [.., ledger] = long.last(25);
    let report = long.check(&[records.clone(), heads.clone(), ledger].concat());
    only_cut(&report);
    assert!(found(&report).iter().any(|found| found.starts_with("PENDING")), "{report:?}");
    // Later than that it is missing.
    long.operator.now_ns += 20_000_000_000;
    long.operator.block(&[Said::Heads(Vec::new())], &[]);
    long.note();
    long.now_ns = long.operator.now_ns;
    let [.., ledger] = long.last(25);
    let report = long.check(&[records, heads, ledger].concat());
    assert_eq!(report.exit_code, 1, "{report:?}");
}

#[test]
fn v2_v3_what_no_head_proves_within_the_time_that_is_looked_at_is_not_cut_off() {
    let long = Long::new();
    let [mut records, mut heads, _] = long.last(27);
    let ledger = long.operator.bodies.clone();
    // Behind two records that may have been cut off, all is rewritten; heads stay, but nobody signs what they say of the tree.
    let cut = 58;
    let signed: Vec<String> = records.drain(cut - 2..).skip(2).collect();
    let mut last: Option<Hash> = None;
    for body in &signed {
        let forged = edit(body, "rule", Some("forged"));
        let forged = last.map_or(forged.clone(), |last| edit(&forged, "prev", Some(&last.to_hex())));
        last = Some(merkle::leaf(forged.as_bytes()));
        records.push(forged);
    }
    let report = long.check(&[records.clone(), heads.clone(), ledger.clone()].concat());
    assert_ne!(report.exit_code_but_for(&[Verdict::Partial, Verdict::Pending]), 0, "{:?}", found(&report));
    heads.iter_mut().skip(cut / 2 - 1).for_each(|head| *head = edit(head, "frontier", None));
    let report = long.check(&[records, heads, ledger].concat());
    let told = found(&report);
    assert_ne!(report.exit_code_but_for(&[Verdict::Partial, Verdict::Pending]), 0, "{told:?}");
    assert!(told.iter().any(|told| told.starts_with("MISSING")), "{told:?}");
}

/// What a copy says of the tree is not signed, and neither is who cosigned it.
#[test]
fn v4_a_copy_of_a_head_takes_nothing_from_it() {
    let long = Long::new();
    let [records, heads, ledger] = long.last(25);
    let honest = long.check(&[records.clone(), heads.clone(), ledger.clone()].concat());
    only_cut(&honest);
    let with_tree = heads.iter().filter_map(|head| {
        let fields = crate::canon::parse_body(head.as_bytes()).expect("a body");
        let frontier = fields.get("frontier").map(|hashes| String::from_utf8(hashes.clone()).expect("text"))?;
        Some((head, frontier, String::from_utf8(fields["note"].clone()).expect("text")))
    });
    let forged: Vec<String> = with_tree
        .map(|(head, frontier, note)| {
            let zeros = vec!["0".repeat(64); frontier.split(',').count()].join(",");
            edit(&edit(head, "frontier", Some(&zeros)), "cosig", Some(&note))
        })
        .collect();
    assert!(forged.len() > 20);
    let report = long.check(&[records, heads, forged, ledger].concat());
    assert_eq!((report.proved, found(&report)), (honest.proved, found(&honest)));
}

/// However many claim the same size.
#[test]
fn v4_heads_that_are_pushed_beside_a_head_take_nothing_from_it() {
    let writer = honest("p", 1);
    let expected = verify(&writer.all(), settings(), Trust::default());
    let forger = Key::new(99);
    let mut bodies = writer.all();
    for head in &writer.heads {
        let fields = crate::canon::parse_body(head.as_bytes()).expect("a body");
        let SignedNote { checkpoint, .. } = SignedNote::from_base64(&fields["note"]).expect("a note");
        bodies.extend((0..40).map(|n| {
            // They come first, by the text of their notes.
            let checkpoint = Checkpoint { root: Hash([n; 32]), ..checkpoint.clone() };
            let signature = Signature::log(writer.sid.as_str(), &forger.public(), &forger.sign(&checkpoint.text()));
            head_body(&SignedNote { checkpoint, signatures: vec![signature] }, None)
        }));
    }
    let report = verify(&bodies, settings(), Trust::default());
    let rest: Vec<String> = found(&report).into_iter().filter(|told| !told.starts_with("FOREIGN")).collect();
    assert_eq!((report.proved, rest), (expected.proved, found(&expected)));
}
