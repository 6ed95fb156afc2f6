//! A restatement that spans several blocks, with news of any stream between its parts (W1).

use super::entry::Entry;
use super::read::Reader;
use super::tests::{Keeper, abandoned, certified, keys, ledger, order, pod, public, root, sid};
use super::*;

/// More than one block restates.
const STREAMS: u64 = 1_500;

/// Streams of which there are news in each block.
const NEWS: [u64; 3] = [0, STREAMS / 2, STREAMS - 1];

/// A ledger in which heads, an epoch and ends of streams before and behind the place that a restatement has reached stand between
/// its parts; and the blocks in which that one begins and ends.
fn interleaved() -> (Keeper, u64, u64) {
    let mut keeper = Keeper::new();
    let facts: Vec<Fact> = (0..STREAMS).flat_map(|n| [certified(n), Fact::Expected(pod(n))]).collect();
    let mut at = 0;
    while at < facts.len() {
        at += keeper.commit(&facts[at..], &[]).0;
    }
    while !keeper.book.is_restating() {
        let heads = [keeper.head(STREAMS - 1, keeper.book.next_block())];
        keeper.commit(&[], &heads);
    }
    let from = keeper.blocks.last().expect("blocks").number;
    while keeper.book.is_restating() {
        let n = keeper.book.next_block();
        let heads = NEWS.map(|stream| keeper.head(stream, n));
        let behind = STREAMS - (n - from) * 10;
        let facts = [
            Fact::Epoch(sid(behind - 1), n, root(n), public(3)),
            Fact::Closed(sid(behind - 2), n, root(n)),
            Fact::Lost(sid(behind - 3), 0, root(0)),
            Fact::Rebased(sid(behind - 4), (0, root(0)), (n, root(n)), public(4)),
            abandoned(sid(behind - 2), n, n + 1, "sink down"),
            Fact::Gone(format!("pod-{}", behind - 5)),
            certified(STREAMS + n),
        ];
        keeper.commit(&facts, &heads);
    }
    let to = keeper.blocks.last().expect("blocks").number;
    assert!(to > from + 1, "{from} to {to}");
    (keeper, from, to)
}

/// What a reader makes of these blocks: how much of it is under a head that counts.
fn read(blocks: &[Block]) -> Result<super::read::Summary, String> {
    let mut reader = Reader::new(public(8));
    for block in blocks {
        block.entries.lines().try_for_each(|line| reader.entry(line.as_bytes()))?;
        reader.head(&block.note)?;
    }
    Ok(reader.finish())
}

fn bodies(blocks: &[Block]) -> Vec<Vec<u8>> {
    let of = |block: &Block| {
        let lines: Vec<Vec<u8>> = block.entries.lines().map(|line| line.as_bytes().to_vec()).collect();
        [lines, vec![export::head_body(&block.note)]].concat()
    };
    blocks.iter().flat_map(of).collect()
}

#[test]
fn w1_a_restatement_of_many_blocks_can_be_read_from_its_beginning() {
    let (mut keeper, from, to) = interleaved();
    keeper.commit(&[], &[keeper.head(1, 9_999)]);
    let whole = read(&keeper.blocks).expect("whole");
    keeper.blocks.retain(|block| block.number >= from);
    // The operator's next leader.
    keeper.check();
    let rest = read(&keeper.blocks).expect("readable");
    assert_eq!((rest.size, rest.unproved), (whole.size, 0));
    assert_eq!(rest.streams.len(), whole.streams.len());
    for (sid, said) in &whole.streams {
        let again = &rest.streams[sid];
        assert_eq!((again.size, again.root, again.life, again.at_ns), (said.size, said.root, said.life, said.at_ns));
    }
    let text = bodies(&keeper.blocks);
    let exported = export::read_bodies(&ledger(), public(8), text.iter().map(Vec::as_slice)).expect("readable");
    assert_eq!((exported.size, exported.streams), (rest.size, rest.streams));
    // Up to each block before its last part nothing counts, though all of it is signed.
    for end in from..to {
        let cut: Vec<Block> = keeper.blocks.iter().filter(|block| block.number <= end).cloned().collect();
        assert_eq!(read(&cut).expect("it follows").size, 0, "{end}");
        let text = bodies(&cut);
        let error = export::read_bodies(&ledger(), public(8), text.iter().map(Vec::as_slice)).expect_err("cut");
        assert!(error.contains("restate"), "{error}");
        assert!(Book::load(&cut, keys()).is_err());
    }
}

#[test]
fn w1_a_restatement_neither_leaves_out_nor_goes_back_behind_what_was_said() {
    let (keeper, from, _) = interleaved();
    let blocks: Vec<&Block> = keeper.blocks.iter().filter(|block| block.number >= from).collect();
    let entries: Vec<Entry> = blocks
        .iter()
        .flat_map(|block| block.entries.lines())
        .map(|line| Entry::parse(line.as_bytes()).expect("an entry"))
        .collect();
    let apply = |change: &dyn Fn(&mut StreamRow) -> bool| {
        let mut tables = tables::Tables::before(entries[0].seq);
        let mut result = Ok(());
        for mut entry in entries.clone() {
            if let Fact::State(state) = &mut entry.fact {
                state.streams.retain_mut(|row| change(row));
            }
            result = result.and_then(|()| tables.apply(entry.seq, entry.at_ns, &entry.fact));
        }
        result.map(|()| tables.is_partial())
    };
    assert_eq!(apply(&|_| true), Ok(false));
    let last = |row: &StreamRow| row.sid == sid(STREAMS - 1);
    assert_eq!(apply(&|row| !last(row)), Err("a restatement leaves out a stream of which there are heads"));
    let closed = |row: &StreamRow| row.life == Life::Closed;
    assert_eq!(apply(&|row| !closed(row)), Ok(false), "what has ended may be forgotten");
    let epoch = |row: &StreamRow| row.life == Life::Open && row.state.key_from > 0;
    assert_eq!(apply(&|row| !epoch(row)), Err("a restatement leaves out a stream of which there are heads"));
    let back = Err("a restatement goes back behind what was said of a stream");
    assert_eq!(
        apply(&|row| {
            row.state.size -= u64::from(last(row));
            true
        }),
        back
    );
    assert_eq!(
        apply(&|row| {
            row.life = if closed(row) { Life::Open } else { row.life };
            true
        }),
        back
    );
}

#[test]
fn w1_g2_what_was_abandoned_and_pruned_is_restated() {
    let mut keeper = Keeper::new();
    let gone = |n: u64, from: u64, to: u64| abandoned(sid(n), from, to, "sink down: 503, twice");
    keeper.commit(&[certified(1), certified(2), certified(3)], &[]);
    let many = (0..2 * ABANDONED_PER_STREAM_MAX as u64).map(|n| gone(3, n * 2, n * 2 + 1));
    let facts =
        [gone(1, 3, 9), gone(1, 3, 5), gone(1, 3, 12), Fact::Pruned(order(2, 0, 2)), Fact::Pruned(order(2, 0, 7))];
    // Of a stream that nobody knows, and of no record.
    let more = [
        gone(4, 0, 1),
        gone(1, 20, 20),
        Fact::Pruned(order(4, 0, 2)),
        Fact::Pruned(order(2, 9, 9)),
        Fact::Erased(order(2, 1, 2)),
    ];
    keeper.commit(&facts.into_iter().chain(more).chain(many).collect::<Vec<_>>(), &[]);
    for n in 0..STATE_EVERY_BLOCKS + 1 {
        keeper.commit(&[], &[keeper.head(1, n + 1)]);
    }
    keeper.check();
    let from = keeper.book.readable_from();
    assert!(from >= STATE_EVERY_BLOCKS);
    // What the cluster alone still has.
    keeper.blocks.retain(|block| block.number >= from);
    keeper.check();
    let mut reader = Reader::new(public(8));
    for block in &keeper.blocks {
        block.entries.lines().for_each(|line| reader.entry(line.as_bytes()).expect("it follows"));
    }
    let said: Vec<Fact> = reader.finish().others.into_iter().map(|(_, fact)| fact).collect();
    let of = |n: u64| said.iter().filter(move |fact| matches!(fact, Fact::Abandoned(row) if row.sid == sid(n)));
    let restated = abandoned(sid(1), 3, 12, "sink down 503 twice");
    assert_eq!(of(1).collect::<Vec<_>>(), [&restated], "the longest");
    assert_eq!((of(3).count(), of(4).count()), (ABANDONED_PER_STREAM_MAX, 0));
    assert!(said.contains(&Fact::Pruned(order(2, 0, 7).plain())));
    assert!(said.contains(&Fact::Erased(order(2, 1, 2).plain())));
    assert_eq!(said.len(), ABANDONED_PER_STREAM_MAX + 3);
    // With their streams they are forgotten.
    keeper.commit(&[Fact::Closed(sid(2), 9, root(9))], &[]);
    keeper.now_ns += 2 * FINISHED_KEEP_S * 1_000_000_000;
    for n in 0..STATE_EVERY_BLOCKS + 1 {
        keeper.commit(&[], &[keeper.head(1, 1_000 + n)]);
    }
    let tables = keeper.book.tables();
    assert!(
        tables.stream(&sid(2)).is_none()
            && tables.pruned().is_empty()
            && tables.erased().is_empty()
            && !tables.abandoned().is_empty()
    );
    keeper.check();
}
