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

/// What it is, seconds from the stream to the ledger's end, seconds from there to the start of a pod without a stream, and what is
/// found.
const CASES: [(&str, u64, u64, &str); 5] = [
    ("alive at the ledger's end", 1, 0, "PENDING"),
    ("alive at the ledger's end, and a pod", 1, 299, "PENDING"),
    ("silent for long", 299, 0, "PENDING"),
    ("silent for too long", 302, 0, "UNCLOSED"),
    ("a pod that is due", 302, 302, "MISSING"),
];

/// A stream of which the ledger has the last head, a record behind that, and a pod that is expected.
pub fn cases() -> Vec<WithLedger> {
    CASES
        .iter()
        .map(|(name, silent_s, pod_s, _)| {
            let mut stream = Sealer::new('a', &[]);
            stream.exchanges(1);
            stream.record("checkpoint", &[("begun", "1"), ("exchanges", "1")]).head();
            let shown = (stream.size(), stream.root());
            stream.exchanges(1);
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
            let named = NamedKey { name: book.sid().to_string(), key: public(8) };
            let roots = format!("ledger {}\n", named.vkey(Role::Log));
            WithLedger { name: (*name).to_owned(), bodies: stream.all(), roots, ledger, to_ns: None, exact: true }
        })
        .collect()
}

/// `kinds`: what was found in the case of a name.
pub fn check(kinds: impl Fn(&str) -> String) {
    for (name, .., told) in CASES {
        assert!(kinds(name).contains(told), "{name}: {}", kinds(name));
    }
}
