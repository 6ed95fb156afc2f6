//! A ledger that was cut back, or is not the whole one; and honest ones that only look like it (V2, W1).

use super::removed_tests::{Operator, report};
use super::tamper_tests::honest;
use super::testing::*;
use super::*;

const SECOND_NS: u64 = 1_000_000_000;

/// A sign of life each 300 s, 40 s between two blocks at most, 10 s of lag, 300 s of margin.
const TOLERATED_S: u64 = 650;

const WITNESS: &str = "c/testimony-system/witness";

/// A stream that goes on after the ledger's end: a checkpoint each 5 minutes, `heads` of them.
fn goes_on(heads: usize) -> Writer {
    let mut writer = Writer::new(sid("p", 0), 1, &[]);
    writer.exchange("/a");
    writer.checkpoint();
    for _ in 0..heads {
        writer.time += 300 * SECOND_NS;
        writer.checkpoint();
    }
    writer
}

/// A ledger that knows the first head of this stream, at this time.
fn knows(writer: &Writer, at_ns: u64) -> Operator {
    let mut operator = Operator::new();
    operator.now_ns = at_ns;
    operator.certify(writer).shown(writer, 3);
    operator
}

/// What was found, without what is found where a stream is alive no more.
fn found_of(report: &Report) -> Vec<String> {
    found(report).into_iter().filter(|found| found != "UNCLOSED").collect()
}

#[test]
fn w1_v2_a_ledger_cut_back_with_the_records_of_a_pod_is_noticed() {
    let (a, b) = (goes_on(1), honest("q", 2));
    let mut operator = knows(&a, NOW - 7_200 * SECOND_NS);
    let cut = operator.bodies.len();
    operator.now_ns = NOW - 3_600 * SECOND_NS;
    operator.closed(&b).shown(&a, 4).goes_on();
    // Nothing of pod q is in the export; pod p goes on, and is cosigned an hour after the place of the cut.
    let mut export = a.all();
    let last = export.last_mut().expect("a head");
    *last = cosigned(last, WITNESS, &Key::new(9), (NOW - 3_600 * SECOND_NS) / SECOND_NS);
    let whole = report(&export, operator.ledger());
    assert!(found(&whole).contains(&"MISSING".to_owned()), "{:?}", whole.findings);
    operator.bodies.truncate(cut);
    let told = report(&export, operator.ledger());
    assert_eq!(told.verdict, Verdict::Unanchored);
    let finding = told.findings.iter().find(|finding| finding.stream.is_none() && finding.message.contains("cosigned"));
    let message = &finding.expect("told").message;
    for part in ["ends at 2027-01-15T06:00:00Z", "at 2027-01-15T07:00:00Z", "--scope to=2027-01-15T06:00:00Z"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn w1_v2_an_honest_ledger_that_is_idle_is_whole() {
    let a = goes_on(0);
    let operator = knows(&a, NOW - 7_200 * SECOND_NS);
    let end_s = operator.now_ns / SECOND_NS;
    let told = |at_s: u64, witness: &Key, to_ns: Option<u64>| {
        let mut export = a.all();
        let last = export.last_mut().expect("a head");
        *last = cosigned(last, WITNESS, witness, at_s);
        let settings = Settings { scope: Scope { to_ns, ..Scope::default() }, ..settings() };
        let report = verify(&export, settings, Trust { ledger: Some(operator.ledger()), ..Trust::default() });
        report.findings.iter().any(|finding| finding.message.contains("the ledger that was given ends"))
    };
    let own = Key::new(9);
    // The known head is cosigned again and again, without an entry, until the next sign of life.
    for seconds in [0, 1, 300, 340, TOLERATED_S] {
        assert!(!told(end_s + seconds, &own, None), "{seconds}");
    }
    assert!(told(end_s + TOLERATED_S + 1, &own, None));
    assert!(!told(end_s + 10_000, &Key::new(10), None), "no cosignature of this ledger's witness");
    // Only the time that is looked at counts.
    for (to_s, expected) in [(0, false), (TOLERATED_S, false), (TOLERATED_S + 1, true), (20_000, true)] {
        assert_eq!(told(end_s + 10_000, &own, Some((end_s + to_s) * SECOND_NS)), expected, "{to_s}");
    }
}

#[test]
fn w1_v2_a_ledger_cut_back_is_noticed_without_cosignatures() {
    let told = |heads: usize, to: Option<usize>| {
        let a = goes_on(heads);
        let operator = knows(&a, NOW - 7_200 * SECOND_NS);
        // Up to a checkpoint.
        let to_ns = to.map(|to| crate::canon::parse_body(a.bodies[to].as_bytes()).expect("a body")["t0"].clone());
        let to_ns = to_ns.map(|text| String::from_utf8(text).expect("text").parse().expect("a number"));
        let settings = Settings { scope: Scope { to_ns, ..Scope::default() }, ..settings() };
        found_of(&verify(&a.all(), settings, Trust { ledger: Some(operator.ledger()), ..Trust::default() }))
    };
    // By the clock of the stream: idle for 5 minutes and more after the head that the ledger has is no sign of anything.
    assert_eq!(told(0, None), [""; 0]);
    assert_eq!(told(3, None), [""; 0]);
    assert_eq!(told(4, None), ["UNANCHORED 3..7"]);
    assert_eq!(told(4, Some(5)), [""; 0], "not within the time that is looked at");
    // The ledger knows all of it.
    let a = goes_on(9);
    let mut operator = knows(&a, NOW - 7_200 * SECOND_NS);
    operator.shown(&a, 12);
    assert_eq!(found_of(&report(&a.all(), operator.ledger())), [""; 0]);
}

#[test]
fn w1_d3_what_a_later_stream_tells_is_not_beyond_the_ledger() {
    // The operator was away for half an hour; meanwhile the sidecar was killed, and its next start told how far it was.
    let crashed = goes_on(6);
    let name = crashed.sid.to_string().replace("0123456789abcdef0123456789abcdef", &"f".repeat(32));
    let mut next = Writer::new(name.parse().expect("a name"), 2, &[("found", crashed.sid.as_str())]);
    let (size, root) =
        (crashed.size().to_string(), crashed.range(crashed.leaves.len()).root().expect("from 0").to_hex());
    let told = [("rec_sid", crashed.sid.as_str()), ("size", &size), ("root", &root), ("state", "lost")];
    next.record("recovered", &[&told[..], &[("head_size", &size)]].concat());
    next.close();
    let mut operator = knows(&crashed, NOW - 7_200 * SECOND_NS);
    operator.ended(&next);
    assert_eq!(found_of(&report(&[crashed.all(), next.all()].concat(), operator.ledger())), [""; 0]);
}

#[test]
fn v2_w1_an_old_answer_given_again_is_not_good_for_a_later_time() {
    let a = honest("q", 2);
    let mut operator = Operator::new();
    operator.now_ns = NOW - 100_000 * SECOND_NS;
    operator.closed(&a);
    let end_s = operator.now_ns / SECOND_NS;
    let scoped = |from_s: Option<u64>, to_s: Option<u64>, partial: bool| {
        let ns = |at_s: u64| at_s * SECOND_NS;
        let scope = Scope { from_ns: from_s.map(ns), to_ns: to_s.map(ns), ..Scope::default() };
        let settings = Settings { scope, partial, ..settings() };
        verify(&a.all(), settings, Trust { ledger: Some(operator.ledger()), ..Trust::default() })
    };
    let told = |from_s, to_s| {
        let message = |finding: &Finding| {
            finding.verdict == Verdict::Unanchored && finding.message.contains("before the time that is looked at does")
        };
        scoped(from_s, to_s, false).findings.iter().any(message)
    };
    let now_s = NOW / SECOND_NS;
    let table = [
        (None, None, false),
        (Some(now_s - 3_600), None, true),
        (Some(now_s - 200_000), None, true),
        (Some(now_s - 200_000), Some(end_s), false),
        (Some(now_s - 200_000), Some(end_s + TOLERATED_S), false),
        (None, Some(end_s + TOLERATED_S + 1), true),
        // The future has not come.
        (None, Some(now_s + 200_000), true),
    ];
    for (from_s, to_s, expected) in table {
        assert_eq!(told(from_s, to_s), expected, "{from_s:?} {to_s:?}");
    }
    assert!(!scoped(Some(now_s - 3_600), None, true).findings.iter().any(|one| one.message.contains("looked at does")));
}
