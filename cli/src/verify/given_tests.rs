//! What was given with an export, and does not fit: no records, no ledger, other roots.

use super::ledger_tests::evidence_support::{TestKey, origin};
use super::ledger_tests::{Authority, head_of, held_against, judged, ledger, ledger_name, report, roots_of, seal};
use super::tests::Temporary;
use super::*;
use testimony_core::evidence::note::Role;
use testimony_core::evidence::roots::NamedKey;
use testimony_core::evidence::seal::Signer as _;

#[test]
fn v1_v2_where_all_records_are_gone_what_the_ledger_expects_is_missing() {
    let authority = Authority::new();
    let a = seal(origin(1), 1, &authority);
    let (ledger, roots) = (ledger(&[&a], &authority), roots_of(&authority));
    for (export, given) in [("", Some(ledger.as_str())), (&ledger, None), (&ledger, Some(&ledger))] {
        let report = report(export, given, &roots);
        assert_eq!((report.verdict, report.exit_code), (Verdict::Missing, 1), "{:#?}", report.findings);
        let hinted = report.hints.iter().any(|hint| hint.contains("is for --ledger"));
        assert_eq!(hinted, given.is_none(), "{:?}", report.hints);
        assert!(text(&report, &[]).contains("\nExposure: there is no record\n"), "{}", text(&report, &[]));
    }
    // Neither is a kept head forgotten.
    let head = head_of(ledger.lines().last().expect("a block"));
    for given in [None, Some(a.lines.concat()), Some(String::new())] {
        let (verdict, code, findings) = held_against("", given.as_deref(), &roots, std::slice::from_ref(&head));
        assert_eq!((verdict, code), (Verdict::Tampered, 1), "{findings:#?}");
    }
}

#[test]
fn v1_a_file_without_a_ledger_is_told_as_that() {
    let authority = Authority::new();
    let a = seal(origin(1), 1, &authority);
    let export = Temporary::new("records", a.lines.concat().as_bytes());
    for (name, content) in [("empty-ledger", String::new()), ("no-ledger", a.lines.concat())] {
        let file = Temporary::new(name, content.as_bytes());
        let input = Input { files: std::slice::from_ref(&export.0), ledger: Some(&file.0), ..Input::default() };
        let error = verification(input, Settings::default(), Trust::default(), 10_000).expect_err(name);
        let told =
            format!("--ledger {}: holds no ledger entry (make one with: testimony ledger export)", file.0.display());
        assert_eq!(format!("{error:#}"), told);
    }
}

#[test]
fn v4_the_roots_of_another_cluster_are_told_as_that() {
    let (authority, other) = (Authority::new(), Authority::new());
    let a = seal(origin(1), 1, &authority);
    let ledger = ledger(&[&a], &authority);
    let name = ledger_name("another-cluster").to_string();
    let key = NamedKey { name, key: TestKey::new(9).public() };
    let roots = format!("ledger {}\n{}", key.vkey(Role::Log), other.pem());
    let (verdict, code, findings) = judged(&a.lines.concat(), Some(&ledger), &roots);
    assert_eq!((verdict, code), (Verdict::Foreign, 1), "{findings:#?}");
    let told = |text: &str| findings.iter().any(|finding| finding.contains(text));
    assert!(told("The roots may be another cluster's, or older"), "{findings:#?}");
    assert!(told("no ledger was used") && !told("no ledger was given"), "{findings:#?}");
    let (verdict, code, findings) = judged(&a.lines.concat(), None, &roots);
    assert_eq!((verdict, code), (Verdict::Unanchored, 3), "{findings:#?}");
    assert!(findings.iter().any(|finding| finding.contains("no ledger was given")), "{findings:#?}");
}
