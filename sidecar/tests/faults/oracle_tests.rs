//! The oracle finds what it is there to find.

use super::oracle::{Count, Request, Row, Typ, Wrong, count};

fn asked(count: usize) -> Vec<Request> {
    (0..count).map(|at| Request { path: format!("/{at}"), answered: true, reached: true }).collect()
}

fn row(seq: u64, typ: Typ) -> Row {
    Row { sid: "s".to_owned(), seq, body: format!("{seq} {typ:?}"), typ }
}

fn exchange(at: u64) -> Row {
    row(at, Typ::Exchange { path: Some(format!("/{at}")), told: None })
}

fn gap(seq: u64, count: u64, exact: bool, lost_sid: Option<&str>) -> Row {
    let lost_sid = lost_sid.map(str::to_owned);
    row(seq, Typ::Gap { count, exact, reason: "worker_died".to_owned(), lost_sid })
}

fn wrong(requests: &[Request], rows: &[Row], exact: bool) -> Vec<Wrong> {
    count(requests, rows, exact).wrong.into_iter().collect()
}

#[test]
fn what_is_recorded_or_declared_is_right_and_copies_are_no_fault() {
    let rows = [exchange(0), exchange(1), exchange(1), gap(7, 1, true, None), row(8, Typ::Other)];
    let got = count(&asked(3), &rows, true);
    let (copies, lost, untold) = (1, ["/2".to_owned()].into(), ["/2".to_owned()].into());
    let gaps = [("worker_died".to_owned(), 1)].into();
    assert_eq!(got, Count { asked: 3, answered: 3, recorded: 2, lost, untold, gaps, copies, ..Count::default() });
}

#[test]
fn a_lost_record_without_a_gap_is_found() {
    assert_eq!(wrong(&asked(3), &[exchange(0), exchange(2)], true), [Wrong::Undeclared { lost: 1, declared: 0 }]);
    let rows = [exchange(0), gap(7, 1, true, None)];
    assert_eq!(wrong(&asked(3), &rows, true), [Wrong::Undeclared { lost: 2, declared: 1 }]);
}

#[test]
fn a_request_that_reached_the_application_counts_although_nobody_got_its_answer() {
    let mut requests = asked(2);
    requests[1].answered = false;
    assert_eq!(wrong(&requests, &[exchange(0)], true), [Wrong::Undeclared { lost: 1, declared: 0 }]);
    requests[1].reached = false;
    assert_eq!(wrong(&requests, &[exchange(0)], true), []);
    assert_eq!(wrong(&requests, &[exchange(0), gap(7, 1, true, None)], true), []);
}

#[test]
fn a_gap_that_counts_too_many_is_found() {
    let rows = [exchange(0), exchange(1), gap(7, 1, true, None)];
    assert_eq!(wrong(&asked(2), &rows, true), [Wrong::TooMany { lost_at_most: 0, declared: 1 }]);
}

#[test]
fn a_gap_of_no_exact_count_is_found_where_it_must_be_exact_and_covers_more_where_not() {
    let rows = [exchange(0), gap(7, 0, false, None)];
    let expected = [Wrong::Inexact("worker_died".to_owned())];
    assert_eq!(wrong(&asked(3), &rows, true), expected);
    assert_eq!(wrong(&asked(3), &rows, false), []);
    let rows = [exchange(0), gap(7, 3, false, None)];
    assert_eq!(wrong(&asked(3), &rows, false), [Wrong::TooMany { lost_at_most: 2, declared: 3 }]);
}

#[test]
fn one_exchange_in_two_places_is_found() {
    let again = Row { seq: 9, ..exchange(0) };
    assert_eq!(wrong(&asked(1), &[exchange(0), again], true), [Wrong::TwoPlaces("/0".to_owned())]);
    let again = Row { sid: "t".to_owned(), ..exchange(0) };
    assert_eq!(wrong(&asked(1), &[exchange(0), again], true), [Wrong::TwoPlaces("/0".to_owned())]);
}

#[test]
fn two_bodies_in_one_place_are_found() {
    let other = Row { seq: 0, ..exchange(1) };
    let got = wrong(&asked(2), &[exchange(0), exchange(1), other], true);
    assert!(got.contains(&Wrong::TwoBodies("s".to_owned(), 0)), "{got:?}");
}

#[test]
fn a_record_of_a_request_that_nobody_sent_is_found() {
    assert_eq!(wrong(&asked(1), &[exchange(0), exchange(1)], true), [Wrong::Stranger("/1".to_owned())]);
}

#[test]
fn what_was_lost_with_a_stream_counts_once_and_must_be_told_the_same_way() {
    let told = |seq, count| gap(seq, count, true, Some("t"));
    assert_eq!(wrong(&asked(3), &[exchange(0), told(7, 2), told(8, 2)], true), []);
    let got = wrong(&asked(3), &[exchange(0), told(7, 2), told(8, 1)], true);
    assert_eq!(got, [Wrong::TwoCounts("t".to_owned())]);
    let other = gap(8, 1, true, Some("u"));
    assert_eq!(wrong(&asked(4), &[exchange(0), told(7, 2), other], true), []);
}

#[test]
fn a_hole_covers_only_what_is_not_there() {
    let hole = |from, to| row(9, Typ::Hole { sid: "s".to_owned(), from, to });
    assert_eq!(wrong(&asked(3), &[exchange(0), hole(1, 3)], true), []);
    let got = wrong(&asked(3), &[exchange(0), hole(0, 2)], true);
    assert_eq!(got, [Wrong::Undeclared { lost: 2, declared: 1 }]);
}

#[test]
fn a_burst_counts_as_what_it_folded_and_an_exchange_without_a_path_as_one() {
    let rows = [exchange(0), row(7, Typ::Burst { count: 2 }), row(8, Typ::Exchange { path: None, told: None })];
    assert_eq!(wrong(&asked(4), &rows, true), []);
    assert_eq!(wrong(&asked(5), &rows, true), [Wrong::Undeclared { lost: 4, declared: 3 }]);
}

#[test]
fn an_answered_request_of_which_nothing_tells_is_found_although_a_gap_counts_it() {
    let stage = row(8, Typ::Stage { path: Some("/1".to_owned()) });
    let got = count(&asked(3), &[exchange(0), stage, gap(7, 2, true, None)], true);
    assert_eq!((got.wrong.len(), got.lost.len()), (0, 2));
    assert_eq!(got.untold, ["/2".to_owned()].into());
}

#[test]
fn an_exchange_of_a_dead_process_may_be_told_again_in_the_same_words_alone() {
    let told = |seq, words: Option<&str>| {
        row(seq, Typ::Exchange { path: Some("/0".to_owned()), told: words.map(str::to_owned) })
    };
    let got = count(&asked(1), &[told(4, Some("id=a")), told(5, Some("id=a"))], true);
    assert_eq!((got.wrong, got.told_again, got.recorded), ([].into(), 1, 1));
    for (first, second) in [(Some("id=a"), Some("id=b")), (None, Some("id=a")), (Some("id=a"), None)] {
        assert_eq!(wrong(&asked(1), &[told(4, first), told(5, second)], true), [Wrong::TwoPlaces("/0".to_owned())]);
    }
}
