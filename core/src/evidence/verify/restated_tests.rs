//! A ledger of which the cluster holds the last blocks only says the same of what is not there (W1, G2, V2).

use super::removed_tests::{Operator, abandoned, pruned, report, root, sink_down};
use super::tamper_tests::honest;
use super::testing::*;
use super::*;
use crate::evidence::ledger::{Fact as Said, STATE_EVERY_BLOCKS};

/// The ledger without the blocks that may go.
fn last_blocks(operator: &mut Operator) -> Ledger {
    for _ in 0..=STATE_EVERY_BLOCKS {
        operator.block(&[Said::Heads(Vec::new())], &[]);
    }
    let first = operator.book.readable_from();
    assert!(first >= STATE_EVERY_BLOCKS);
    let mut heads = operator.bodies.iter().enumerate().filter(|(_, body)| body.contains("\"typ\":\"head\""));
    // A block ends with its head.
    let (end, _) = heads.nth(usize::try_from(first - 1).expect("small")).expect("a head");
    operator.bodies.drain(..=end);
    operator.ledger()
}

#[test]
fn w1_v2_what_was_abandoned_is_no_missing_record_once_it_is_restated() {
    let mut writer = sink_down("p");
    writer.close();
    let export = [&writer.bodies[..4], &writer.heads[..1]].concat();
    let mut operator = Operator::new();
    operator.certify(&writer).shown(&writer, 4);
    let end = Said::Closed(writer.sid.clone(), 10, root(&writer, 10));
    operator.block(&[end, abandoned(&writer, 4, 10)], &[]);
    assert_eq!(found(&report(&export, operator.ledger())), ["GAP 4..10"]);
    let ledger = last_blocks(&mut operator);
    assert!(!operator.bodies.iter().any(|body| body.contains("ledger-abandoned")));
    // The entry that certified its key is gone too: the row names it.
    assert!(!operator.bodies.iter().any(|body| body.contains("ledger-certified")));
    let told = report(&export, ledger.clone());
    assert_eq!(found(&told), ["GAP 4..10"]);
    assert!(told.streams[0].certified);
    let fewer = [&writer.bodies[..3], &writer.heads[..1]].concat();
    assert_eq!(found(&report(&fewer, ledger))[0], "MISSING 3..4", "and nothing else is excused");
}

#[test]
fn w1_g2_an_order_stands_once_it_is_restated() {
    let writer = honest("p", 1);
    let mut operator = Operator::new();
    operator.closed(&writer).block(&[pruned(&writer, 6, 8)], &[]);
    let mut export = writer.all();
    export.drain(6..8);
    let ledger = last_blocks(&mut operator);
    assert!(!operator.bodies.iter().any(|body| body.contains("ledger-pruned")));
    assert_eq!(found(&report(&export, ledger.clone())), ["GAP 9..10", "PRUNED 6..8"]);
    export.remove(6);
    assert_eq!(found(&report(&export, ledger))[0], "MISSING 8..9");
}

#[test]
fn k1_another_first_key_than_the_restated_one_is_tampered() {
    let writer = sink_down("p");
    let mut forger = Writer::new(sid("p", 0), 7, &[]);
    (0..2).for_each(|n| forger.exchange(&format!("/a/{n}")));
    forger.checkpoint();
    let forged = forger.all();
    let mut operator = Operator::new();
    operator.certify(&writer);
    let ledger = last_blocks(&mut operator);
    assert_eq!(found(&report(&forged, ledger)), ["TAMPERED", "UNANCHORED", "UNCLOSED"]);
    // Of a later epoch, which the ledger names too, the first key is not known; its own head denies the forger's.
    let writer = honest("q", 1);
    let mut operator = Operator::new();
    operator.closed(&writer);
    let ledger = last_blocks(&mut operator);
    let forged = honest("q", 7).all();
    assert!(found(&report(&forged, ledger)).contains(&"FORK".to_owned()));
}

#[test]
fn w2_the_key_of_a_head_that_was_taken_up_again_is_not_restated_as_the_first_one() {
    let writer = honest("p", 1);
    let mut operator = Operator::new();
    operator.certify(&writer).shown(&writer, 6);
    // The witness knew 6 records, and had cosigned 15: it went back behind the end of the first epoch.
    let rebased =
        Said::Rebased(writer.sid.clone(), (6, root(&writer, 6)), (15, root(&writer, 15)), writer.key.public());
    operator.block(&[rebased], &[]);
    let ledger = last_blocks(&mut operator);
    assert_eq!(ledger.streams[&writer.sid].key, None);
    let told = report(&writer.all(), ledger);
    assert_eq!(found(&told), ["GAP 9..10"]);
    assert!(told.streams[0].certified);
}

#[test]
fn w1_v3_of_two_ledgers_of_a_cluster_what_was_heard_later_counts_whichever_comes_first() {
    let writer = honest("p", 1);
    let mut before = Operator::new();
    before.certify(&writer).shown(&writer, 4);
    let mut after = Operator::new();
    after.now_ns += 1_000;
    after.closed(&writer).goes_on();
    for (first, second) in [(&before, &after), (&after, &before)] {
        let told = |bodies: &[String]| {
            let mut ledger = first.ledger();
            assert!(ledger.join(second.ledger()));
            found(&verify(bodies, settings(), Trust { ledger: Some(ledger), ..Trust::default() }))
        };
        assert_eq!(told(&writer.all()), ["GAP 9..10"]);
        // Cut back to what the ledger of before knew.
        let told = told(&writer.bodies[..4]);
        assert!(told.contains(&format!("MISSING 4..{}", writer.size())), "{told:?}");
    }
}
