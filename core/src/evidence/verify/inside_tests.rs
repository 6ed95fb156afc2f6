//! Records in a hole: those that were sealed, and others (G2, V4).

use super::removed_tests::{Operator, pruned, report};
use super::tamper_tests::honest;
use super::testing::*;
use crate::evidence::ledger::Fact as Said;
use crate::evidence::merkle::leaf;

/// Without the declared gap, which every honest stream here has.
fn check(bodies: &[String], operator: &Operator) -> Vec<String> {
    let told = found(&report(bodies, operator.ledger()));
    told.into_iter().filter(|told| told != "GAP 9..10").collect()
}

/// These records with another path, each naming the one before it as it is here.
fn forged(writer: &Writer, from: usize, to: usize) -> Vec<String> {
    let mut bodies: Vec<String> = Vec::new();
    for body in &writer.bodies[from..to] {
        let body = edit(body, "rule", Some("forged"));
        let prev = bodies.last().map(|before| leaf(before.as_bytes()).to_hex());
        bodies.push(prev.map_or(body.clone(), |prev| edit(&body, "prev", Some(&prev))));
    }
    bodies
}

#[test]
fn g2_v4_what_is_put_where_records_were_removed_is_foreign() {
    let writer = honest("p", 1);
    // Its hashes are those of [0, 8), [8, 12) and [12, 13).
    let mut by_age = Operator::new();
    by_age.closed(&writer).block(&[pruned(&writer, 0, 13)], &[]);
    let Said::Pruned(order) = pruned(&writer, 0, 13) else { unreachable!("an order") };
    let mut on_demand = Operator::new();
    on_demand.closed(&writer).block(&[Said::Erased(order)], &[]);
    let rest = [&writer.bodies[13..], &writer.heads[1..]].concat();
    let genuine = |from: usize, to: usize| writer.bodies[from..to].to_vec();
    let table: [(&str, Vec<String>, Option<&str>); 16] = [
        ("nothing", vec![], None),
        ("one", forged(&writer, 5, 6), Some("FOREIGN 5..6")),
        ("two that follow", forged(&writer, 4, 6), Some("FOREIGN 4..6")),
        ("all but the last", forged(&writer, 0, 12), Some("FOREIGN 0..8")),
        ("all", forged(&writer, 0, 13), Some("FOREIGN 0..8")),
        ("up to the record behind", forged(&writer, 6, 13), Some("FOREIGN 12..13")),
        ("a subtree", forged(&writer, 8, 12), Some("FOREIGN 8..12")),
        ("the last one", forged(&writer, 12, 13), Some("FOREIGN 12..13")),
        ("one beside the last ones", [forged(&writer, 3, 4), genuine(11, 13)].concat(), Some("FOREIGN 3..4")),
        ("one before the last ones", [forged(&writer, 9, 10), genuine(10, 13)].concat(), Some("FOREIGN 9..10")),
        ("one more of the last ones", [forged(&writer, 12, 13), genuine(9, 13)].concat(), Some("FOREIGN 12..13")),
        // Not removed yet, or after all not.
        ("the last ones", genuine(9, 13), None),
        ("a whole subtree", genuine(8, 12), None),
        ("a whole subtree, and what leads to it", genuine(6, 12), None),
        ("the first subtree", genuine(0, 8), None),
        ("all that was removed", genuine(0, 13), None),
    ];
    for (what, more, expected) in table {
        for (operator, verdict) in [(&by_age, "PRUNED 0..13"), (&on_demand, "ERASED 0..13")] {
            let told = check(&[rest.clone(), more.clone()].concat(), operator);
            let whole = more == genuine(0, 13);
            assert!(whole || told.contains(&verdict.to_owned()), "{what}: {told:?}");
            match expected {
                Some(expected) => assert!(told.contains(&expected.to_owned()), "{what}: {told:?}"),
                None => assert_eq!(told.len(), usize::from(!whole), "{what}: {told:?}"),
            }
        }
    }
}

#[test]
fn g2_v4_records_lead_over_one_hole_into_the_next() {
    let writer = honest("p", 1);
    let mut operator = Operator::new();
    operator.closed(&writer).block(&[pruned(&writer, 0, 5), pruned(&writer, 5, 9)], &[]);
    let rest = [&writer.bodies[9..], &writer.heads[1..]].concat();
    // What the second one stands for is all there, and so is proved.
    assert_eq!(check(&[&writer.bodies[3..9], &rest].concat(), &operator), ["PRUNED 0..5"]);
    let both = ["PRUNED 0..5", "PRUNED 5..9"];
    assert_eq!(check(&rest, &operator), both);
    let foreign = ["FOREIGN 3..5", "FOREIGN 5..6", "FOREIGN 6..7"];
    assert_eq!(check(&[forged(&writer, 3, 7), rest].concat(), &operator), [&foreign[..], &both].concat());
}

#[test]
fn g2_v4_one_pushed_record_after_another_costs_little() {
    let mut writer = Writer::new(sid("p", 0), 1, &[]);
    (0..3000).for_each(|_| writer.exchange("/a"));
    writer.close();
    let mut operator = Operator::new();
    operator.ended(&writer).block(&[pruned(&writer, 0, 3000)], &[]);
    let rest = [&writer.bodies[3000..], &writer.heads[..]].concat();
    // Eight at each place, each of which the eight behind it name.
    let crowd = (0..8).flat_map(|n| {
        let mut forger = Writer::new(writer.sid.clone(), 1, &[]);
        (0..2000).for_each(|_| forger.exchange(&format!("/forged/{n}")));
        forger.bodies.split_off(1)
    });
    let told = check(&rest.iter().cloned().chain(crowd).collect::<Vec<_>>(), &operator);
    assert!(told.contains(&"PRUNED 0..3000".to_owned()), "{:?}", told.last());
    assert!(told.contains(&"FOREIGN 1..2001".to_owned()), "{:?}", told.first());
}
