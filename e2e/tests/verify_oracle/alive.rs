//! Streams and pods that go on, or had just begun, when the ledger ended.

use super::WithLedger;
use super::restated::{pair, public};
use super::wrong::Sealer;
use testimony_core::evidence::ledger::export::head_body;
use testimony_core::evidence::ledger::{Book, Fact, HeadRow, Keys, PodRow, ledger_id};
use testimony_core::evidence::note::Role;
use testimony_core::evidence::roots::NamedKey;
use testimony_core::evidence::stream::StreamId;

const SECOND_NS: u64 = 1_000_000_000;

/// When the streams are sealed.
const SEALED_NS: u64 = 1_700_000_000 * SECOND_NS;

/// What an export lacks of what the ledger has just taken up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lack {
    /// A stream.
    Stream,
    /// The last record under a head.
    Last,
    /// It, and all heads.
    LastAndHeads,
}

/// What is lacking, and how many seconds the ledger goes on after that.
type Lacks = Option<(Lack, u64)>;

/// What it is, seconds from the stream to the last head of it, seconds from there to the start of a pod without a stream, what the
/// export lacks, and what is found.
const CASES: [(&str, u64, u64, Lacks, &str); 10] = [
    ("alive at the ledger's end", 1, 0, None, "PENDING"),
    ("alive at the ledger's end, and a pod", 1, 299, None, "PENDING"),
    ("silent for long", 299, 0, None, "PENDING"),
    ("silent for too long", 302, 0, None, "UNCLOSED"),
    ("a pod that is due", 302, 302, None, "MISSING"),
    ("on its way to the backend", 1, 0, Some((Lack::Last, 0)), "PENDING"),
    ("just begun, on its way", 1, 0, Some((Lack::LastAndHeads, 0)), "PENDING"),
    ("known to the ledger before", 1, 0, Some((Lack::Last, 1)), "MISSING"),
    ("as a whole on its way", 1, 0, Some((Lack::Stream, 0)), "PENDING"),
    ("as a whole known before", 1, 0, Some((Lack::Stream, 1)), "MISSING"),
];

/// A stream of which the ledger has the last head, a record behind that, and a pod that is expected.
pub fn cases() -> Vec<WithLedger> {
    CASES
        .iter()
        .map(|(name, silent_s, pod_s, lacks, _)| {
            let mut stream = Sealer::new('a', &[]);
            stream.exchanges(1);
            stream.record("checkpoint", &[("begun", "1"), ("exchanges", "1")]).head();
            let mut shown = (stream.size(), stream.root());
            stream.exchanges(1);
            let mut bodies = stream.all();
            if let Some((Lack::Last | Lack::LastAndHeads, _)) = lacks {
                shown = (stream.size(), stream.root());
                let last = stream.size() as usize - 1;
                bodies.remove(last);
                bodies.truncate(if matches!(lacks, Some((Lack::LastAndHeads, _))) { last } else { bodies.len() });
            }
            let end_ns = SEALED_NS + silent_s * SECOND_NS;
            let sid: StreamId = stream.sid.parse().expect("a name");
            let pod = |uid: &str, from_ns| {
                let text = |text: &str| text.to_owned();
                Fact::Expected(PodRow {
                    uid: text(uid),
                    namespace: text("shop"),
                    name: text("web-0"),
                    injection_id: text("i"),
                    from_ns,
                })
            };
            let name_of_ledger = ledger_id("c", "testimony-system", 8).expect("a name");
            let mut book = Book::new(name_of_ledger, Keys { ledger: public(8), witness: public(9) });
            let mut ledger = Vec::new();
            let mut commit = |facts: &[Fact], heads: &[HeadRow], at_ns: u64, book: &mut Book| {
                let sign = |text: &[u8]| pair(8).sign(text).as_ref().try_into().expect("64 bytes");
                let proposed = book.propose(facts, heads, at_ns, sign).expect("news");
                let block = proposed.block().clone();
                book.apply(proposed.committed()).expect("the next block");
                ledger.extend(block.entries.lines().map(str::to_owned));
                ledger.push(String::from_utf8(head_body(&block.note)).expect("ASCII"));
            };
            let certified = Fact::Certified(sid.clone(), stream.public(), 1_800_000_000, vec![0x30; 4]);
            commit(&[pod("pod", SEALED_NS), certified], &[], SEALED_NS, &mut book);
            let number = book.tables().stream(&sid).expect("certified").number;
            let head = HeadRow { stream: number, size: shown.0, root: shown.1 };
            commit(&[pod("late", end_ns - pod_s * SECOND_NS)], &[head], end_ns, &mut book);
            if let Some((Lack::Stream, _)) = lacks {
                let sid = Sealer::new('b', &[]).sid.parse().expect("a name");
                commit(&[Fact::Certified(sid, public(7), 1_800_000_000, vec![0x30; 4])], &[], end_ns, &mut book);
            }
            if let Some((_, more_s @ 1..)) = lacks {
                commit(&[Fact::Heads(Vec::new())], &[], end_ns + more_s * SECOND_NS, &mut book);
            }
            let named = NamedKey { name: book.sid().to_string(), key: public(8) };
            let roots = format!("ledger {}\n", named.vkey(Role::Log));
            WithLedger { name: (*name).to_owned(), bodies, roots, ledger, to_ns: None, exact: true }
        })
        .collect()
}

/// `kinds`: what was found in the case of a name.
pub fn check(kinds: impl Fn(&str) -> String) {
    for (name, .., told) in CASES {
        assert!(kinds(name).contains(told), "{name}: {}", kinds(name));
        assert_eq!(kinds(name).contains("MISSING"), told == "MISSING", "{name}: {}", kinds(name));
    }
}
