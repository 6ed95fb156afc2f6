//! Ledgers that are read from a restatement, that miss entries ahead of one, and to which somebody pushed others.

use super::{VECTORS, WithLedger, edit, sid_and_seq, vectors};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::ledger::export::head_body;
use testimony_core::evidence::ledger::{Book, FINISHED_KEEP_S, Fact, HeadRow, Keys, STATE_EVERY_SECONDS, ledger_id};
use testimony_core::evidence::merkle::{leaf, root_of};
use testimony_core::evidence::note::{PublicKey, Role};
use testimony_core::evidence::roots::NamedKey;
use testimony_core::evidence::stream::StreamId;

/// Streams that take several blocks to restate.
const STREAMS: u64 = 1_200;

const CLUSTER: &str = "2b1c6d1e-6a0f-4f6e-9b59-0d0a4f0a7a01";

/// A ledger of many streams: its blocks' bodies, each with its head last, and its roots.
struct Many {
    book: Book,
    blocks: Vec<Vec<String>>,
    /// How much later than by its number a block is written, in seconds.
    later_s: u64,
}

pub fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed")
}

pub fn public(seed: u8) -> PublicKey {
    PublicKey(pair(seed).public_key().as_ref().try_into().expect("32 bytes"))
}

fn stream(n: u64) -> StreamId {
    format!("{CLUSTER}/shop/pod-{n}/{n:032x}-0-0").parse().expect("a name")
}

impl Many {
    fn commit(&mut self, facts: &[Fact], heads: &[HeadRow]) -> usize {
        let now_ns = (1_700_000_000 + self.later_s + self.book.next_block()) * 1_000_000_000;
        let sign = |text: &[u8]| pair(8).sign(text).as_ref().try_into().expect("64 bytes");
        let proposed = self.book.propose(facts, heads, now_ns, sign).expect("news");
        let taken = proposed.facts_taken;
        let block = proposed.block().clone();
        self.book.apply(proposed.committed()).expect("the next block");
        let head = String::from_utf8(head_body(&block.note)).expect("ASCII");
        self.blocks.push(block.entries.lines().map(str::to_owned).chain([head]).collect());
        taken
    }

    /// Without streams.
    fn empty() -> Self {
        let sid = ledger_id(CLUSTER, "testimony-system", 8).expect("a name");
        let keys = Keys { ledger: public(8), witness: public(9) };
        Self { book: Book::new(sid, keys), blocks: Vec::new(), later_s: 0 }
    }

    /// Of a stream that ended with these records; a week later its name comes again, with another key.
    fn again(records: &[String]) -> Self {
        let text = |at: usize, key: &str| -> String {
            let fields: serde_json::Value = serde_json::from_str(&records[at]).expect("a body");
            fields[key].as_str().expect("text").to_owned()
        };
        let sid: StreamId = text(0, "sid").parse().expect("a name");
        let leaves: Vec<Hash> = records.iter().map(|body| leaf(body.as_bytes())).collect();
        let mut this = Self::empty();
        let first = text(0, "key").parse().expect("a key");
        this.commit(&[Fact::Certified(sid.clone(), first, 1_800_000_000, vec![0x30; 400])], &[]);
        this.commit(&[Fact::Closed(sid.clone(), leaves.len() as u64, root_of(&leaves))], &[]);
        this.later_s = FINISHED_KEEP_S + 9;
        this.commit(&[Fact::Resumed(1)], &[]);
        this.commit(&[Fact::Certified(sid.clone(), public(5), 1_800_000_000, vec![0x31; 400])], &[]);
        let stream = this.book.tables().stream(&sid).expect("certified").number;
        this.commit(&[], &[HeadRow { stream, size: 1, root: Hash::of(&[b"another"]) }]);
        this.commit(&[Fact::Epoch(sid.clone(), 2, Hash::of(&[b"another"]), public(6))], &[]);
        this.later_s += STATE_EVERY_SECONDS;
        this.commit(&[Fact::Closed(sid, 3, Hash::of(&[b"another"]))], &[]);
        this
    }

    /// With news of the first and the last stream between the parts of the restatement; its first and last block.
    fn new() -> (Self, usize, usize) {
        let mut this = Self::empty();
        let facts: Vec<Fact> =
            (0..STREAMS).map(|n| Fact::Certified(stream(n), public(1), 1_800_000_000, vec![0x30; 400])).collect();
        let mut at = 0;
        while at < facts.len() {
            at += this.commit(&facts[at..], &[]);
        }
        while !this.book.is_restating() {
            this.commit(&[Fact::Resumed(this.book.next_block())], &[]);
        }
        let first = this.blocks.len() - 1;
        while this.book.is_restating() {
            let n = this.book.next_block();
            let number = |of: u64| this.book.tables().stream(&stream(of)).expect("certified").number;
            let head = |of: u64| HeadRow { stream: number(of), size: n, root: Hash::of(&[&n.to_be_bytes()]) };
            let heads = [head(0), head(STREAMS - 1)];
            let closed = Fact::Closed(stream(STREAMS - 2 - n % 100), n, Hash::of(&[b"closed"]));
            this.commit(&[closed], &heads);
        }
        let last = this.blocks.len() - 1;
        assert!(last > first + 1, "it takes several blocks");
        this.commit(&[Fact::Resumed(1)], &[]);
        (this, first, last)
    }
}

fn pushed(sid: &str, seq: u64) -> String {
    edit(&edit(&edit("{}", "sid", Some(sid)), "seq", Some(&seq.to_string())), "typ", Some("ledger-x"))
}

/// What the cases are, with the golden streams as their export.
pub fn cases(honest: &[String], roots: &str, ledger: &[String]) -> Vec<WithLedger> {
    let mut cases = Vec::new();
    let mut add = |name: String, bodies: &[String], roots: &str, ledger: Vec<String>| {
        let (bodies, roots) = (bodies.to_vec(), roots.to_owned());
        // Of an order that goes further than what is not there the two tell different parts.
        let exact = !name.starts_with("without");
        cases.push(WithLedger { name, bodies, roots, ledger, to_ns: None, exact });
    };
    for (what, ledger) in [("ledger", ledger.to_vec()), ("last blocks", vectors("ledger-last-blocks"))] {
        let sid = sid_and_seq(&ledger[0]).0;
        let end = ledger.iter().map(|body| sid_and_seq(body).1).filter(|seq| *seq < u64::MAX).max().expect("entries");
        for seq in (0..end + 3).filter(|seq| what == "ledger" || seq % 40 == 0 || seq + 20 > end) {
            let with = [&ledger[..], &[pushed(&sid, seq)]].concat();
            add(format!("{what} with a pushed body at {seq}"), honest, roots, with);
        }
    }
    // From the second epoch of a stream on.
    let rollover = vectors(VECTORS[1]);
    let at = rollover.iter().position(|body| body.contains("\"next_key\"")).expect("a rollover");
    let seq = sid_and_seq(&rollover[at]).1;
    let early = |body: &&String| rollover.iter().take(at + 2).any(|other| other == *body);
    let later: Vec<String> = honest.iter().filter(|body| !early(body)).cloned().collect();
    add(format!("without the records up to {seq}, and the heads over them"), &later, roots, ledger.to_vec());

    let (many, first, last) = Many::new();
    let named = NamedKey { name: many.book.sid().to_string(), key: public(8) };
    let roots = format!("ledger {}\n", named.vkey(Role::Log));
    let from = |blocks: &[Vec<String>]| blocks.concat();
    add("restated, whole".to_owned(), honest, &roots, from(&many.blocks));
    add("restated, read from there".to_owned(), honest, &roots, from(&many.blocks[first..]));
    add("restated, cut in it".to_owned(), honest, &roots, from(&many.blocks[first..last]));
    add("restated, begun amid it".to_owned(), honest, &roots, from(&many.blocks[first + 1..]));
    let gap = [from(&many.blocks[..9]), from(&many.blocks[first..])].concat();
    add("restated, entries are missing ahead of it".to_owned(), honest, &roots, gap);
    let records: Vec<String> = vectors(VECTORS[0]).into_iter().filter(|body| body.contains("\"seq\"")).collect();
    let again = Many::again(&records);
    add("its name, once".to_owned(), &records, &roots, from(&again.blocks[..2]));
    add("its name, again".to_owned(), &records, &roots, from(&again.blocks));
    // What is known of the first one is only what comes behind.
    add("its name, read from there".to_owned(), &records, &roots, from(&again.blocks[2..]));
    cases
}
