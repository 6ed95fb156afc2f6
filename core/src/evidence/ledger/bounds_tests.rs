//! What others write stays within what a reader takes, and a restatement comes in time and to its end.

use super::entry::Entry;
use super::outline::start;
use super::tests::{Keeper, START_NS, abandoned, certified, pod, public, root, sid};
use super::*;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use crate::evidence::note::Checkpoint;
use proptest::prelude::*;

/// Texts that are long, or long once they are escaped.
fn text() -> impl Strategy<Value = String> {
    let long = (0usize..5, 1usize..100_000).prop_map(|(which, bytes)| {
        let of = ["x", "\u{e4}", "\"", " ", "\u{1f980}"].get(which).copied().unwrap_or("%");
        of.repeat(bytes / of.len())
    });
    prop_oneof![any::<String>(), long]
}

fn fact() -> impl Strategy<Value = Fact> {
    let range = || {
        let mut range = Range::empty(3);
        range.push(Hash::of(&[b"x"]));
        range
    };
    let pruned = move |n, reason, by| Pruned { sid: sid(n), range: range(), reason, by };
    let pod_row = |(n, namespace, name, injection_id): (u64, String, String, String)| {
        Fact::Expected(PodRow { uid: format!("pod-{n}"), namespace, name, injection_id, from_ns: 1 })
    };
    let uncovered = |(n, namespace, name, reason): (u64, String, String, String)| {
        Fact::Uncovered(UncoveredRow { uid: format!("bare-{n}"), namespace, name, reason, from_ns: 1 }, None)
    };
    prop_oneof![
        (0..9u64, text(), text(), text()).prop_map(pod_row),
        (0..9u64, text(), text(), text()).prop_map(uncovered),
        text().prop_map(Fact::Gone),
        (0..3u64, text()).prop_map(|(n, why)| abandoned(sid(n), 1, 5, &why)),
        (0..3u64, text()).prop_map(|(n, pod)| Fact::Unwrapped(sid(n), pod)),
        (0..3u64, text(), text()).prop_map(move |(n, reason, by)| Fact::Pruned(pruned(n, reason, by))),
        text().prop_map(Fact::Witnessed),
        (0..3u64, text()).prop_map(|(n, note)| Fact::Fork(sid(n), note)),
        // Of streams that are known, of one that may become known, and of one that never is.
        (0..4u64, 0..9u64).prop_map(|(n, size)| Fact::Closed(sid(n + n / 3), size, root(size))),
        (0..4u64, 0..9u64).prop_map(|(n, size)| Fact::Epoch(sid(n + n / 3), size, root(size), public(3))),
        (0..4u64, 0..9u64).prop_map(|(n, size)| Fact::Lost(sid(n + n / 3), size, root(size))),
        (0..4u64, 0..9u64).prop_map(|(n, size)| Fact::Rebased(
            sid(n + n / 3),
            (0, root(0)),
            (size, root(size)),
            public(3)
        )),
        (0..4u64).prop_map(certified),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn r3_whatever_others_write_every_entry_is_read_and_a_restatement_ends(facts in prop::collection::vec(fact(), 1..40)) {
        let mut keeper = Keeper::new();
        keeper.commit(&[certified(0), certified(1), certified(2)], &[]);
        let mut at = 0;
        while at < facts.len() {
            let taken = keeper.commit(&facts[at..], &[]).0;
            prop_assert!(taken > 0, "{:?} is waited for", facts[at]);
            at += taken;
        }
        let heads = [0, 7, 99].map(|stream| HeadRow { stream, size: 9, root: root(9) });
        prop_assert_eq!(keeper.commit(&[], &heads).1, 3);
        keeper.later(STATE_EVERY_SECONDS);
        for _ in 0..8 {
            keeper.commit(&[], &[]);
        }
        prop_assert!(!keeper.book.is_restating() && keeper.book.readable_from() > 0);
        for line in keeper.blocks.iter().flat_map(|block| block.entries.lines()) {
            prop_assert!(Entry::parse(line.as_bytes()).is_ok(), "{}", line.len());
        }
        keeper.check();
        read(&keeper);
        let from = keeper.book.readable_from();
        keeper.blocks.retain(|block| block.number >= from);
        keeper.check();
    }
}

#[test]
fn r3_what_fits_no_entry_is_passed_over_and_told() {
    let mut keeper = Keeper::new();
    keeper.commit(&[certified(1)], &[]);
    let facts = [Fact::Gone("a".to_owned()), Fact::Fork(sid(1), "x".repeat(60_000)), Fact::Gone("b".to_owned())];
    let proposed = keeper.propose(&facts, &[]).expect("a block");
    assert_eq!((proposed.facts_taken, &proposed.dropped[..]), (3, &[1][..]));
    // It alone makes a block, so that nobody waits for it.
    let proposed = keeper.propose(&facts[1..2], &[]).expect("a block");
    assert_eq!((proposed.facts_taken, &proposed.dropped[..]), (1, &[0][..]));
    assert_eq!(keeper.commit(&facts, &[]).0, 3);
    keeper.check();
}

#[test]
fn w1_facts_leave_room_for_heads() {
    let mut keeper = Keeper::new();
    let count = 2_000;
    let facts: Vec<Fact> = (0..count).map(certified).collect();
    let mut at = 0;
    while at < facts.len() {
        at += keeper.commit(&facts[at..], &[]).0;
    }
    let heads: Vec<HeadRow> = (0..count).map(|n| keeper.head(n, n + 1)).collect();
    let flood: Vec<Fact> = (0..5_000).map(|n| abandoned(sid(n), 0, 1, &"x".repeat(400))).collect();
    let few: Vec<Fact> = (0..3_000).map(|n| Fact::Gone(n.to_string())).collect();
    for facts in [flood, few] {
        let (taken, shown, _) = keeper.commit(&facts, &heads);
        assert!(taken > 400 && taken < facts.len(), "{taken}");
        assert!(shown >= HEADS_RESERVED_BYTES / HEAD_ROW_BYTES_MAX - HEADS_PER_ENTRY_MAX, "{shown}");
    }
    keeper.check();
}

#[test]
fn w1_all_is_restated_after_a_time_and_after_bytes() {
    let mut keeper = Keeper::new();
    keeper.commit(&[Fact::Expected(pod(1)), certified(1)], &[]);
    // A quiet ledger: a block each five minutes.
    for _ in 0..STATE_EVERY_SECONDS / HEARTBEAT_SECONDS - 1 {
        keeper.later(HEARTBEAT_SECONDS);
        keeper.commit(&[Fact::Heads(Vec::new())], &[]);
    }
    assert_eq!(keeper.book.readable_from(), 0, "it is not six hours yet");
    keeper.later(HEARTBEAT_SECONDS);
    keeper.commit(&[], &[]);
    let from = keeper.book.readable_from();
    assert_eq!(from, STATE_EVERY_SECONDS / HEARTBEAT_SECONDS);
    // The time since is known to the next keeper, too.
    let mut next = Keeper::new();
    (next.book, next.blocks) = (keeper.read(), keeper.blocks.clone());
    for keeper in [&mut keeper, &mut next] {
        keeper.later(HEARTBEAT_SECONDS);
        keeper.commit(&[Fact::Heads(Vec::new())], &[]);
        assert_eq!(keeper.book.readable_from(), from);
    }
    // A busy one: blocks of nearly half a megabyte.
    let many: Vec<Fact> = (0..800).map(|n| abandoned(sid(n), 0, 1, &"x".repeat(250))).collect();
    let mut blocks = 0;
    while keeper.book.readable_from() == from {
        keeper.commit(&many, &[]);
        blocks += 1;
        assert!(blocks < 60);
    }
    let bytes: usize = keeper.blocks.iter().rev().take(blocks).map(Block::bytes).sum();
    assert!((STATE_EVERY_BYTES..STATE_EVERY_BYTES + BLOCK_BYTES_MAX * 2).contains(&bytes), "{blocks} {bytes}");
    keeper.check();
}

#[test]
fn w1_a_ledger_is_read_block_by_block_from_the_newest_whole_restatement() {
    let mut keeper = Keeper::new();
    keeper.commit(&[Fact::Expected(pod(1)), certified(1)], &[]);
    for _ in 0..3 {
        keeper.later(STATE_EVERY_SECONDS);
        keeper.commit(&[], &[]);
        keeper.commit(&[Fact::Heads(Vec::new())], &[]);
    }
    let outlines: Vec<Outline> = keeper.blocks.iter().map(Outline::of).collect();
    let at = start(&outlines).expect("whole").expect("a block");
    assert_eq!(outlines[at].number, keeper.book.readable_from());
    assert_eq!(
        outlines.iter().map(|outline| outline.bytes).sum::<usize>(),
        keeper.blocks.iter().map(Block::bytes).sum::<usize>()
    );
    // What stands ahead of it is not looked at.
    keeper.blocks[1].entries.clear();
    keeper.check();
}

#[test]
fn w1_a_block_follows_the_one_before_it_and_no_other() {
    let mut keeper = Keeper::new();
    let mut other = Keeper::new();
    for n in 0..3 {
        keeper.commit(&[certified(n)], &[]);
        other.commit(&[certified(n + 1)], &[]);
    }
    let (own, others) = (&keeper.blocks, &other.blocks);
    assert!(own[1].follows(&own[0]) && own[2].follows(&own[1]));
    for (block, before) in [(&own[2], &own[0]), (&own[1], &own[2]), (&own[2], &others[1]), (&own[0], &own[0])] {
        assert!(!block.follows(before), "{} {}", block.number, before.number);
    }
}

#[test]
fn w1_streams_that_ended_longest_ago_make_room() {
    let mut keeper = Keeper::new();
    let tables = keeper.book.tables_mut();
    let known = u64::try_from(KNOWN_STREAMS_MAX).expect("small");
    for n in 0..known {
        let at_ns = START_NS + known - n;
        // Far from the numbers of entries that are written here.
        tables.apply(known + n, at_ns, &certified(n)).expect("certified");
        // Each fourth goes on.
        if n % 4 != 0 {
            tables.apply(known + n, at_ns, &Fact::Closed(sid(n), 1, Hash::of(&[]))).expect("closed");
        }
    }
    tables.apply(0, START_NS, &abandoned(sid(1), 1, 2, "x")).expect("abandoned");
    tables.apply(0, START_NS, &abandoned(sid(known - 1), 1, 2, "x")).expect("abandoned");
    // The oldest one was not shown for long, and shows itself again when it is forgotten.
    let last = known - 1;
    tables.apply(0, START_NS, &Fact::Lost(sid(last), 1, Hash::of(&[]))).expect("known");
    let open = tables.live();
    assert_eq!(open, KNOWN_STREAMS_MAX / 4);
    assert_eq!(tables.open_of("pod-0").count() + tables.open_of("pod-1").count(), 1);
    // Whoever reads on from here: another keeper, and a reader, who makes no room.
    let (mut keeps, mut reads) = (keeper.book.clone(), keeper.book.tables().clone());
    let (facts, heads) = ([Fact::Lost(sid(last), 1, Hash::of(&[]))], [keeper.head(last, 2), keeper.head(last - 3, 2)]);
    assert_eq!(keeper.commit(&facts, &heads), (1, 2, keeper.book.known(&shown(last - 3)).into_iter().collect()));
    let tables = keeper.book.tables();
    assert!(keeper.book.is_restating(), "it is due");
    assert_eq!((tables.streams().len(), tables.live()), (KNOWN_STREAMS_KEEP, open));
    assert!(tables.stream(&sid(1)).is_some() && tables.stream(&sid(last)).is_none(), "the oldest go");
    assert!(tables.stream(&sid(known - 4)).is_some(), "what goes on stays");
    assert_eq!(tables.abandoned().len(), 1);
    // Its name may come again; nothing is said of a stream that is not known.
    assert_eq!(keeper.commit(&[certified(last), certified(last), Fact::Closed(sid(last - 1), 2, root(2))], &[]).0, 3);
    let heads = [keeper.head(last, 1)];
    assert_eq!(keeper.commit(&[], &heads).1, 1);
    for block in &keeper.blocks {
        keeps.replay(block).expect("another keeper reads it");
        for line in block.entries.lines() {
            let entry = Entry::parse(line.as_bytes()).expect("an entry");
            reads.apply(entry.seq, entry.at_ns, &entry.fact).expect("a reader takes it");
        }
    }
    assert_eq!(keeps.tables(), keeper.book.tables());
    assert_eq!(reads.stream(&sid(last)), keeper.book.tables().stream(&sid(last)));
    assert_eq!((reads.live(), reads.streams().len()), (open + 1, KNOWN_STREAMS_MAX));
}

fn shown(n: u64) -> Checkpoint {
    Checkpoint { origin: sid(n).to_string(), size: 2, root: root(2) }
}

#[test]
fn w1_k1_a_name_that_comes_again_when_its_stream_is_forgotten_changes_nothing_of_the_first() {
    let mut keeper = Keeper::new();
    keeper.commit(&[certified(1), certified(2)], &[]);
    keeper.commit(&[Fact::Epoch(sid(1), 3, root(3), public(4)), Fact::Closed(sid(1), 5, root(5))], &[]);
    let first = read(&keeper);
    assert_eq!(keeper.commit(&[certified(2)], &[]).0, 1, "it goes on, and has a certificate");
    keeper.later(FINISHED_KEEP_S + 1);
    keeper.commit(&[Fact::Gone("x".to_owned())], &[]);
    assert!(keeper.book.tables().stream(&sid(1)).is_none(), "it is forgotten");
    let again = Fact::Certified(sid(1), public(5), u64::MAX, vec![0x31; 400]);
    keeper.commit(&[again], &[]);
    keeper.commit(&[], &[keeper.head(1, 2)]);
    keeper.commit(&[Fact::Epoch(sid(1), 4, root(7), public(6))], &[]);
    keeper.later(STATE_EVERY_SECONDS);
    keeper.commit(&[Fact::Lost(sid(1), 4, root(7))], &[]);
    keeper.check();
    let (then, now) = (&first.streams[&sid(1)], &read(&keeper).streams[&sid(1)]);
    assert_eq!((now.first_key, &now.later_keys), (Some(public(1)), &then.later_keys));
    assert!(now.certificate == then.certificate && now.certified_ns == then.certified_ns);
    assert_eq!((now.size, now.root, now.life, now.at_ns), (5, root(5), Life::Closed, then.at_ns));
    // A stream that goes on cannot be certified once more.
    let mut tables = keeper.book.tables().clone();
    assert!(tables.apply(99, START_NS, &certified(2)).is_err());
}

fn read(keeper: &Keeper) -> super::read::Summary {
    let mut reader = super::read::Reader::new(public(8));
    for block in &keeper.blocks {
        block.entries.lines().for_each(|line| reader.entry(line.as_bytes()).expect("it follows"));
        reader.head(&block.note).expect("its head");
    }
    reader.finish()
}

#[test]
fn r3_rows_are_measured_as_they_are_escaped_and_one_that_fits_nowhere_is_passed_over() {
    let mut keeper = Keeper::new();
    keeper.commit(&[certified(1)], &[]);
    let text = "\u{e4}".repeat(TEXT_BYTES_MAX / 2);
    let bare = |n: u64| {
        let (uid, namespace, name, reason) = (format!("bare-{n}"), text.clone(), text.clone(), text.clone());
        Fact::Uncovered(UncoveredRow { uid, namespace, name, reason, from_ns: 1 }, None)
    };
    let facts: Vec<Fact> = (0..90).map(bare).collect();
    assert_eq!(keeper.commit(&facts, &[]).0, facts.len());
    // As an entry of before may have it.
    let long = Fact::Certified(sid(2), public(1), 5, vec![0x30; 45_000]);
    keeper.book.tables_mut().apply(9, START_NS, &long).expect("certified");
    keeper.later(STATE_EVERY_SECONDS);
    for _ in 0..9 {
        keeper.commit(&[], &[]);
    }
    let from = keeper.book.readable_from();
    assert!(from > 0 && !keeper.book.is_restating(), "it came to its end");
    keeper.blocks.retain(|block| block.number >= from);
    let read = keeper.read();
    assert_eq!(read.tables().uncovered(), keeper.book.tables().uncovered());
    assert!(read.tables().stream(&sid(1)).is_some() && read.tables().stream(&sid(2)).is_none());
}

#[test]
fn w1_the_time_between_blocks_grows_with_the_streams() {
    for (streams, ms) in [(0, 1_000), (500, 1_000), (501, 1_002), (10_000, 20_000), (usize::MAX, u64::MAX / 500)] {
        assert_eq!(interval_ms(streams), ms, "{streams}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_no_entry_or_have_that_form(text in "\\{(\"[a-z]{1,5}\":\"[ -~]{0,8}\",?){0,4}\\}") {
        if let Ok(entry) = Entry::parse(text.as_bytes()) {
            prop_assert_eq!(entry.body(), text.into_bytes());
        }
    }
}
