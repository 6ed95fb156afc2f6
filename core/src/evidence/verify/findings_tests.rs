//! What a report does not list counts all the same (V1), and limits of the input are told as such.

use super::removed_tests::{Operator, ledger_key};
use super::tamper_tests::honest;
use super::testing::*;
use super::*;
use std::borrow::Cow;

const MORE: usize = FINDINGS_MAX + 9;

/// Judges bodies that stand beside an attribute that none of their records has, and findings of the ledger.
fn judged(bodies: &[String], projection_of: &str, ledger: Vec<Finding>, settings: Settings) -> Report {
    let projector = Projector::new(Shape { underscores: false, numbers_as_text: false });
    let mut intake = Intake::of(&settings.scope);
    let mut rows: Vec<Vec<u8>> = Vec::new();
    for (place, body) in (0..).zip(bodies) {
        let event = body.contains(projection_of).then_some(Cow::Borrowed("audit.another"));
        let stored = Stored { event, ..Stored::default() };
        intake.record(body, &stored, &projector, place, |row| rows.push(row.to_vec()));
    }
    intake.ledger_findings(ledger);
    rows.sort_unstable();
    let mut verification = Verification::new(intake, settings, Trust::default());
    assert!(rows.iter().all(|row| verification.feed(row)));
    verification.finish()
}

fn in_shop() -> Settings {
    let scope = Scope { namespace: Some("shop".to_owned()), ..Scope::default() };
    Settings { scope, ..settings() }
}

fn long(sid: &str) -> Writer {
    let mut writer = Writer::new(sid.parse().expect("a name"), 3, &[]);
    (0..MORE).for_each(|_| writer.exchange("/a"));
    writer.close();
    writer
}

#[test]
fn v1_findings_of_another_namespace_hide_none_in_scope() {
    let other = long(&sid("p", 0).to_string().replace("c/shop/", "c/x/"));
    let shop = honest("p", 1);
    let mut bodies = [other.all(), shop.all()].concat();
    let report = judged(&bodies, "\"typ\"", Vec::new(), in_shop());
    assert!(found(&report).contains(&"PROJECTION 3..4".to_owned()), "{:?}", report.findings.first());
    assert_eq!((report.verdict, report.exit_code, report.more_findings), (Verdict::Projection, 1, 0));
    // Those of the export and of the ledger are there too.
    bodies.push(edit(&shop.bodies[3], "sid", None));
    let fork = Finding::whole(Verdict::Fork, &shop.sid, "two heads");
    let tampered = Finding::export(Verdict::Tampered, "the ledger");
    let projector = Projector::new(Shape { underscores: false, numbers_as_text: false });
    let mut intake = Intake::of(&in_shop().scope);
    for (place, body) in (0..).zip(&bodies) {
        let stored = Stored { event: Some(Cow::Borrowed("audit.another")), ..Stored::default() };
        intake.record(body, &stored, &projector, place, |_| {});
    }
    intake.ledger_findings(vec![tampered, fork]);
    let report = Verification::new(intake, in_shop(), Trust::default()).finish();
    let told: Vec<String> = found(&report).into_iter().filter(|found| !found.starts_with("UNKNOWN")).collect();
    assert_eq!(told[..3], ["FORK", "TAMPERED", "FOREIGN"]);
    assert_eq!((report.verdict, report.exit_code), (Verdict::Fork, 1));
    let projections = report.findings.iter().filter(|finding| finding.verdict == Verdict::Projection).count();
    assert_eq!((projections, report.more_findings), (shop.all().len(), 0), "what is out of scope takes no room");
}

#[test]
fn v1_when_the_list_is_full_the_mildest_makes_room_and_all_count() {
    let gaps = |count: usize| {
        let gap = |n| Finding::export(Verdict::Gap, format!("gap {n}"));
        (0..count).map(gap).collect::<Vec<_>>()
    };
    let tampered = || vec![Finding::export(Verdict::Tampered, "at the end")];
    let report = judged(&[], "-", [gaps(MORE), tampered()].concat(), settings());
    assert_eq!(report.findings.len(), FINDINGS_MAX);
    assert_eq!((report.verdict, report.findings[0].verdict), (Verdict::Tampered, Verdict::Tampered));
    // Beside it, one each is found that there are no records, no ledger and no roots.
    let listed = FINDINGS_MAX as u64 - 4;
    assert_eq!(report.more_by_verdict, [(Verdict::Gap, MORE as u64 - listed)].into());
    assert_eq!(report.more_findings, MORE as u64 - listed);
}

#[test]
fn v1_an_exit_code_but_for_some_verdicts_counts_what_is_not_listed() {
    let finding = |verdict, count: usize| (0..count).map(move |n| Finding::export(verdict, format!("{n}")));
    let full = |rest: Vec<Finding>| {
        let mut report = judged(&[], "-", Vec::new(), settings());
        report.findings = finding(Verdict::Gap, FINDINGS_MAX).collect();
        report.more_by_verdict.clear();
        for finding in rest {
            *report.more_by_verdict.entry(finding.verdict).or_default() += 1;
            report.more_findings += 1;
        }
        report.exit_code_but_for(&[Verdict::Gap, Verdict::Unanchored])
    };
    assert_eq!(full(Vec::new()), 0);
    assert_eq!(full(finding(Verdict::Gap, 3).collect()), 0, "what is accepted is accepted beyond the list too");
    assert_eq!(full(finding(Verdict::Unclosed, 1).collect()), 2);
    assert_eq!(full(finding(Verdict::Unknown, 1).collect()), 3);
    assert_eq!(full(finding(Verdict::Unknown, 1).chain(finding(Verdict::Missing, 1)).collect()), 1);
    // From the verification itself: one TAMPERED behind many that are worse, and accepted by nobody.
    let all = finding(Verdict::Fork, MORE).chain(finding(Verdict::Tampered, 1));
    let report = judged(&[], "-", all.collect(), settings());
    assert_eq!(report.more_by_verdict.get(&Verdict::Tampered), Some(&1));
    assert_eq!(report.exit_code_but_for(&[Verdict::Fork, Verdict::Unknown, Verdict::Unanchored]), 1);
}

#[test]
fn w1_more_of_a_ledger_than_is_kept_is_a_limit_and_no_damage() {
    let writer = honest("p", 1);
    let mut operator = Operator::new();
    operator.closed(&writer);
    let bytes: usize = operator.bodies.iter().map(String::len).sum();
    let told = |most: usize| {
        let mut intake = Intake::default();
        // The last one first, as some backends give them back.
        operator.bodies.iter().rev().for_each(|body| intake.ledger_entry(body, most));
        let mut trust = Trust::default();
        if !intake.ledger().is_empty() {
            let (ledger, findings) = Ledger::read(&[ledger_key()], intake.ledger());
            intake.ledger_findings(findings);
            trust.ledger = ledger;
        }
        Verification::new(intake, settings(), trust).finish()
    };
    let messages = |report: &Report| report.findings.iter().filter(|f| f.message.contains("--ledger FILE")).count();
    assert_eq!(messages(&told(bytes)), 0);
    for most in [0, bytes / 2, bytes - 1] {
        let report = told(most);
        assert_eq!(messages(&report), 1, "{:?}", report.findings);
        assert!(report.findings.iter().all(|f| f.verdict <= Verdict::Unknown), "{:?}", report.findings);
    }
}
