//! What is ordered of an export, and what stops it.

use super::plan::{Found, Plan, PlanError, Selection};
use super::{StreamId, export};
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{Range, leaf};
use crate::evidence::note::{Checkpoint, PublicKey, Signature, SignedNote};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

fn sid(namespace: &str) -> StreamId {
    start(namespace, 1)
}

/// A stream of one pod, of its n-th start.
fn start(namespace: &str, n: u8) -> StreamId {
    format!("c-1/{namespace}/pod/{n:032x}-0-0").parse().expect("a name")
}

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed")
}

fn public(seed: u8) -> PublicKey {
    PublicKey(pair(seed).public_key().as_ref().try_into().expect("32 bytes"))
}

/// `count` records of a stream, one each second from `1 s` on, under one key. The record at `next_at` names the next key.
fn stream_of(sid: &StreamId, count: u64, next_at: Option<u64>) -> Vec<String> {
    let mut prev: Option<Hash> = None;
    let record = |seq: u64| {
        let link = prev.map(|prev| format!("\"prev\":\"{prev}\",")).unwrap_or_default();
        let key = if seq == 0 { format!("\"key\":\"{}\",", public(1)) } else { String::new() };
        let next = if next_at == Some(seq) { format!("\"next_key\":\"{}\",", public(2)) } else { String::new() };
        let body = format!("{{{key}{next}{link}\"seq\":\"{seq}\",\"sid\":\"{sid}\",\"t0\":\"{}000000000\"}}", seq + 1);
        prev = Some(leaf(body.as_bytes()));
        body
    };
    (0..count).map(record).collect()
}

fn stream(sid: &StreamId, count: u64) -> Vec<String> {
    stream_of(sid, count, None)
}

/// The head over the first `size` of these records, signed by this key, with its frontier.
fn head(sid: &StreamId, bodies: &[String], size: usize, seed: u8) -> String {
    let mut range = Range::empty(0);
    let mut frontier = String::new();
    for body in &bodies[..size] {
        frontier = range.nodes().map(Hash::to_hex).collect::<Vec<_>>().join(",");
        range.push(leaf(body.as_bytes()));
    }
    let checkpoint = Checkpoint { origin: sid.to_string(), size: range.end(), root: range.root().expect("a root") };
    let signed = pair(seed).sign(checkpoint.text().as_bytes()).as_ref().try_into().expect("64 bytes");
    let signatures = vec![Signature::log(sid.as_str(), &public(seed), &signed)];
    let body = export::head_body(&SignedNote { checkpoint, signatures }.encode());
    let body = String::from_utf8(body).expect("text");
    if frontier.is_empty() { body } else { body.replacen('{', &format!("{{\"frontier\":\"{frontier}\","), 1) }
}

/// A whole stream, with the head over all of it.
fn whole(sid: &StreamId, count: u64) -> Vec<String> {
    let mut bodies = stream(sid, count);
    bodies.push(head(sid, &bodies, bodies.len(), 1));
    bodies
}

fn plan(selection: Selection, bodies: &[String]) -> Result<Found, PlanError> {
    let mut plan = Plan::new(selection);
    bodies.iter().try_for_each(|body| plan.body(body))?;
    Ok(plan.finish())
}

/// The first record of each, and the one after the last.
type Ranges = Vec<(u64, u64)>;

fn ranges(found: &Found) -> Ranges {
    assert_eq!(found.refused, []);
    found.parts.iter().map(|part| (part.range.begin(), part.range.end())).collect()
}

/// What is ordered of all records, and what is told as not proved; or why nothing of a stream is.
fn told(bodies: &[String]) -> Result<(Ranges, Ranges), PlanError> {
    let mut found = plan(Selection::default(), bodies)?;
    found.refused.pop().map_or(Ok(()), Err)?;
    let unproved = found.unproved.iter().map(|(_, range)| (range.start, range.end)).collect();
    Ok((ranges(&found), unproved))
}

#[test]
fn g2_what_is_chosen_is_found_with_its_hashes_in_any_order_and_with_repeats() {
    let (shop, bank) = (whole(&sid("shop"), 9), whole(&sid("bank"), 4));
    let mut all = [shop.clone(), bank, shop.clone()].concat();
    all.reverse();
    all.push("{\"typ\":\"head\"}".to_owned());
    all.push("a log line of somebody else".to_owned());
    let shop_only = Selection { namespace: Some("shop".to_owned()), ..Selection::default() };
    let before = Selection { before_ns: Some(6_000_000_000), ..shop_only.clone() };
    assert_eq!(ranges(&plan(shop_only, &all).expect("a plan")), [(0, 9)]);
    assert_eq!(ranges(&plan(Selection::default(), &all).expect("a plan")), [(0, 4), (0, 9)]);
    let some = plan(before, &all).expect("a plan");
    assert_eq!(ranges(&some), [(0, 5)]);
    let mut wanted = Range::empty(0);
    shop[..5].iter().for_each(|body| wanted.push(leaf(body.as_bytes())));
    assert_eq!(some.parts[0].range, wanted);
    assert_eq!(some.unproved, []);
    let prefix = Selection { stream: Some("c-1/bank/".to_owned()), ..Selection::default() };
    assert_eq!(ranges(&plan(prefix, &all).expect("a plan")), [(0, 4)]);
}

/// As backends file them: what lasted for over an hour, when it ended.
#[test]
fn g2_what_goes_before_a_time_is_what_backends_have_from_before_it() {
    let before = |before_s: u64| {
        let selection = Selection { before_ns: Some(before_s * 1_000_000_000), unproved: true, ..Selection::default() };
        let t1 = |seconds: u64| format!("000000000\",\"t1\":\"{seconds}000000000\"}}");
        let bodies = stream(&sid("shop"), 1).remove(0);
        let ends = [3_601, 3_602].map(|end| bodies.replace("000000000\"}", &t1(end)));
        ends.map(|body| ranges(&plan(selection.clone(), &[body]).expect("a plan")).len())
    };
    // It began at 1 s.
    assert_eq!((before(1), before(2), before(3_602), before(3_603)), ([0, 0], [1, 0], [1, 0], [1, 1]));
}

#[test]
fn g2_records_that_are_not_there_are_told_and_never_ordered() {
    let bodies = stream_of(&sid("shop"), 9, Some(5));
    let heads = [(2, 1), (6, 1), (9, 2)].map(|(size, key)| head(&sid("shop"), &bodies, size, key));
    let there = [&bodies[..2], &bodies[4..], &heads].concat();
    let plan = plan(Selection::default(), &there).expect("a plan");
    assert_eq!(ranges(&plan), [(0, 2), (4, 9)]);
    assert_eq!(plan.absent, [(sid("shop"), 2..4)]);
}

#[test]
fn g2_of_a_stream_with_a_changed_record_nothing_is_ordered() {
    for changed in [2, 4] {
        let mut bodies = whole(&sid("shop"), 5);
        bodies[changed] = bodies[changed].replace("000000000\"", "000000001\"");
        let wanted = match changed {
            2 => PlanError::Broken(sid("shop"), 2),
            // No record follows it: the head says so.
            _ => PlanError::Unsigned(sid("shop"), 4),
        };
        assert_eq!(told(&bodies), Err(wanted.clone()));
        // Of other streams it is.
        let found = plan(Selection::default(), &[bodies.clone(), whole(&sid("bank"), 3)].concat()).expect("a plan");
        assert_eq!((found.refused, found.parts.len(), &found.parts[0].sid), (vec![wanted], 1, &sid("bank")));
        // Beside the genuine one it is one that somebody pushed; without a head nothing tells which it is.
        bodies.extend(stream(&sid("shop"), 5));
        assert_eq!(told(&bodies), Ok((vec![(0, 5)], vec![])));
        bodies.retain(|body| !body.contains("\"typ\":\"head\""));
        assert_eq!(told(&bodies), Err(PlanError::Twice(sid("shop"), changed as u64)));
    }
    // All from one on, tied together anew: so much can be done without the key.
    let genuine = whole(&sid("shop"), 5);
    let mut forged = genuine.clone();
    forged[2] = forged[2].replace("000000000\"", "000000001\"");
    for at in 3..5 {
        let [old, new] = [&genuine, &forged].map(|bodies| leaf(bodies[at - 1].as_bytes()).to_hex());
        forged[at] = forged[at].replace(&old, &new);
    }
    assert_eq!(told(&forged), Err(PlanError::Unsigned(sid("shop"), 4)));
    // With a key of somebody's own in it, no head counts from there on.
    let mut named = stream_of(&sid("shop"), 5, Some(3));
    named.extend([genuine[5].clone(), head(&sid("shop"), &named, 5, 2)]);
    assert_eq!(told(&named), Ok((vec![], vec![(0, 5)])));
}

#[test]
fn g2_what_no_signed_head_vouches_for_is_left_out_and_told() {
    let sid = sid("shop");
    let bodies = stream_of(&sid, 9, Some(5));
    let of = |size: usize, seed: u8| head(&sid, &bodies, size, seed);
    // Records, heads, what is ordered, what is not.
    type Case<'a> = (&'a [String], Vec<String>, &'a [(u64, u64)], &'a [(u64, u64)]);
    let table: [Case<'_>; 9] = [
        (&bodies, vec![], &[], &[(0, 9)]),
        (&bodies, vec![of(4, 1)], &[(0, 4)], &[(4, 9)]),
        (&bodies, vec![of(4, 9)], &[], &[(0, 9)]),
        (&bodies, vec![of(6, 1), of(9, 2)], &[(0, 9)], &[]),
        // A key counts once the one before has signed the head over the record that names it.
        (&bodies, vec![of(9, 2)], &[], &[(0, 9)]),
        (&bodies, vec![of(4, 1), of(9, 2)], &[(0, 4)], &[(4, 9)]),
        (&bodies, vec![of(6, 1), of(9, 1)], &[(0, 6)], &[(6, 9)]),
        // From the middle on: the head's own frontier, and the first key that is named.
        (&bodies[3..], vec![of(9, 2)], &[(3, 9)], &[]),
        (&bodies[3..], vec![of(5, 1)], &[], &[(3, 9)]),
    ];
    for (number, (records, heads, ordered, unproved)) in table.into_iter().enumerate() {
        let told = told(&[records, &heads].concat()).expect("nothing was changed");
        assert_eq!(told, (ordered.to_vec(), unproved.to_vec()), "{number}");
        let all = Selection { unproved: true, ..Selection::default() };
        let from = 9 - records.len() as u64;
        assert_eq!(ranges(&plan(all, &[records, &heads].concat()).expect("a plan")), [(from, 9)], "{number}");
    }
    // From the middle on a changed record fits no frontier.
    let mut changed = bodies[3..].to_vec();
    changed[5] = changed[5].replace("000000000\"", "000000001\"");
    changed.push(of(9, 2));
    assert_eq!(told(&changed), Ok((vec![], vec![(3, 9)])));
}

#[test]
fn g2_heads_that_others_add_stop_nothing_and_vouch_for_nothing() {
    let bodies = whole(&sid("shop"), 5);
    let (forged, longer) = (stream_of(&sid("shop"), 5, Some(2)), stream(&sid("shop"), 7));
    let added = [
        head(&sid("shop"), &forged, 5, 9),
        head(&sid("shop"), &forged, 3, 1).replace(&public(1).to_string(), ""),
        head(&sid("shop"), &longer, 7, 9),
        head(&sid("bank"), &forged, 5, 9),
    ];
    assert_eq!(told(&[&bodies[..], &added[..1], &added[2..]].concat()), Ok((vec![(0, 5)], vec![])));
    // A record that somebody puts behind the last one, and a head of theirs over it.
    let behind = [longer[5].clone(), head(&sid("shop"), &longer, 6, 9)];
    assert_eq!(told(&[&bodies[..], &behind].concat()), Ok((vec![(0, 5)], vec![(5, 6)])));
}

#[test]
fn g2_what_a_later_start_found_is_vouched_for_by_it() {
    let [first, second] = [start("shop", 1), start("shop", 2)];
    let old = stream(&first, 6);
    let mut found = Range::empty(0);
    old.iter().for_each(|body| found.push(leaf(body.as_bytes())));
    let recovered = |of: &StreamId, root: Hash, size: u64| {
        let open = stream(&second, 1).remove(0);
        let prev = leaf(open.as_bytes());
        let body = format!(
            "{{\"prev\":\"{prev}\",\"rec_sid\":\"{of}\",\"root\":\"{root}\",\"seq\":\"1\",\"sid\":\"{second}\",\"size\":\"{size}\",\
             \"t0\":\"9000000000\",\"typ\":\"recovered\"}}"
        );
        let new = vec![open, body];
        let signed = head(&second, &new, 2, 1);
        [new, vec![signed]].concat()
    };
    let root = found.root().expect("a root");
    let heads = [head(&first, &old, 4, 1)];
    let with = |new: &[String]| told(&[&old[..], &heads, new].concat());
    assert_eq!(with(&[]), Ok((vec![(0, 4)], vec![(4, 6)])), "its process was killed");
    assert_eq!(with(&recovered(&first, root, 6)), Ok((vec![(0, 6), (0, 2)], vec![])));
    // Unsigned, of another pod, or with records that are not here.
    assert_eq!(with(&recovered(&first, root, 6)[..2]), Ok((vec![(0, 4)], vec![(4, 6), (0, 2)])));
    assert_eq!(with(&recovered(&start("bank", 1), root, 6)), Ok((vec![(0, 4), (0, 2)], vec![(4, 6)])));
    assert_eq!(with(&recovered(&first, root, 7)), Ok((vec![(0, 4), (0, 2)], vec![(4, 6)])));
    // What it found is something else.
    assert_eq!(with(&recovered(&first, leaf(b"x"), 6)), Err(PlanError::Unsigned(first.clone(), 5)));
}

/// A record that claims this place, as anybody can send one.
fn pushed(sid: &StreamId, seq: u64, more: &str) -> String {
    format!("{{{more}\"seq\":\"{seq}\",\"sid\":\"{sid}\",\"t0\":\"1000000000\"}}")
}

#[test]
fn g2_records_that_somebody_pushes_beside_the_genuine_ones_stop_nothing() {
    let sid = sid("shop");
    let bodies = stream_of(&sid, 9, Some(5));
    let heads = [(6, 1), (9, 2)].map(|(size, key)| head(&sid, &bodies, size, key));
    let genuine = [&bodies[..], &heads].concat();
    let mut wanted = Range::empty(0);
    bodies.iter().for_each(|body| wanted.push(leaf(body.as_bytes())));
    let key = format!("\"key\":\"{}\",", public(9));
    let next = format!("\"next_key\":\"{}\",", public(9));
    let prev = |seq: usize| format!("\"prev\":\"{}\",", leaf(bodies[seq].as_bytes()));
    let cases: [Vec<String>; 6] = [
        vec![pushed(&sid, 0, "")],
        vec![pushed(&sid, 0, &key)],
        // Each names a genuine record; one names a key, too.
        (1..9).map(|seq| pushed(&sid, seq as u64, &prev(seq - 1))).collect(),
        vec![pushed(&sid, 6, &[next.as_str(), &prev(5)].concat())],
        // Behind the last one, and tied to nothing.
        vec![pushed(&sid, 9, ""), pushed(&sid, 9, &next), pushed(&sid, 2, &next)],
        (0..900).map(|n| pushed(&sid, 3, &format!("\"id\":\"{n}\",{}", prev(2)))).collect(),
    ];
    for (number, more) in cases.iter().enumerate() {
        for bodies in [[&genuine[..], more].concat(), [more, &genuine[..]].concat()] {
            let found = plan(Selection::default(), &bodies).expect("a plan");
            assert_eq!((ranges(&found), &found.unproved), (vec![(0, 9)], &vec![]), "{number}");
            assert_eq!(found.parts[0].range, wanted, "{number}");
        }
    }
    // A history of their own, signed: nothing here says whose is genuine, but that is told of this stream alone.
    let own = pushed(&sid, 0, &key);
    let signed = head(&sid, std::slice::from_ref(&own), 1, 9);
    let found =
        plan(Selection::default(), &[genuine, vec![own, signed], whole(&super::plan_tests::sid("bank"), 3)].concat());
    let found = found.expect("a plan");
    assert_eq!(found.refused, [PlanError::Signed(sid, 0)]);
    assert_eq!(found.parts.iter().map(|part| part.range.end()).collect::<Vec<_>>(), [3]);
}

/// Where the export does not hold the stream's begin.
#[test]
fn g2_records_that_somebody_pushes_into_the_rest_of_a_stream_stop_nothing() {
    let sid = sid("shop");
    let bodies = stream_of(&sid, 9, Some(5));
    let genuine = [&bodies[3..], &[head(&sid, &bodies, 9, 2)]].concat();
    assert_eq!(told(&genuine), Ok((vec![(3, 9)], vec![])));
    for seq in [3, 7] {
        let found = plan(Selection::default(), &[&genuine[..], &[pushed(&sid, seq, "")]].concat()).expect("a plan");
        assert_eq!((ranges(&found), found.unproved.len()), (vec![(3, 9)], 0), "{seq}");
    }
    // A begin of their own, signed: it orders nothing in place of the genuine records, however far it goes.
    for count in [3, 4, 8, 9, 12] {
        let own: Vec<String> = (0..count)
            .scan(None, |prev: &mut Option<Hash>, seq| {
                let link = prev.map(|prev| format!("\"prev\":\"{prev}\",")).unwrap_or_default();
                let key = if seq == 0 { format!("\"key\":\"{}\",", public(9)) } else { String::new() };
                let body = pushed(&sid, seq, &[key, link].concat());
                *prev = Some(leaf(body.as_bytes()));
                Some(body)
            })
            .collect();
        let all = [&genuine[..], &own, &[head(&sid, &own, own.len(), 9)]].concat();
        assert_eq!(told(&all), Err(PlanError::Signed(sid.clone(), 3)), "{count}");
    }
    // Ahead of them it is one that nothing proves, also if it is meant without that.
    for more in [vec![pushed(&sid, 2, "")], vec![pushed(&sid, 2, ""), pushed(&sid, 2, "\"id\":\"1\",")]] {
        let all = [&genuine[..], &more].concat();
        assert_eq!(told(&all), Ok((vec![(3, 9)], vec![(2, 3)])));
        let selection = Selection { unproved: true, ..Selection::default() };
        assert_eq!(ranges(&plan(selection, &all).expect("a plan")), [(3, 9)]);
    }
}
