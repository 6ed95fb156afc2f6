//! Streams that the ledger does not know, and what they say of another one of their pod.

use super::WithLedger;
use super::restated::{pair, public};
use super::wrong::Sealer;
use testimony_core::evidence::ledger::export::head_body;
use testimony_core::evidence::ledger::{Book, Fact, Keys, PodRow, ledger_id};
use testimony_core::evidence::merkle::leaf;
use testimony_core::evidence::note::Role;
use testimony_core::evidence::roots::NamedKey;

const SECOND_NS: u64 = 1_000_000_000;

/// When the streams are sealed.
const SEALED_NS: u64 = 1_700_000_000 * SECOND_NS;

/// What the ledger knows of who declares the hole; whether its time ends there; what is found of those that are told apart.
const CASES: [(&str, Known, bool, &[&str]); 4] = [
    ("a hole by one that is known", Known::Certified, true, &["GAP"]),
    ("a hole by a stranger", Known::No, true, &["MISSING", "UNANCHORED"]),
    ("a hole of a time that the ledger does not hold", Known::No, false, &["GAP", "UNANCHORED"]),
    ("a hole of a time in which nobody kept the ledger", Known::Unkept, true, &["GAP", "UNANCHORED"]),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    No,
    Certified,
    /// Nobody kept the ledger then.
    Unkept,
}

/// Of a stream that the ledger knows one record is not there, and another stream declares it as lost.
pub fn cases() -> Vec<WithLedger> {
    let case = |(name, known, ends, _): (&str, Known, bool, _)| {
        let mut lost = Sealer::new('a', &[]);
        lost.exchanges(3);
        lost.record("close", &[("begun", "3"), ("exchanges", "3")]).head();
        let mut by = Sealer::new('b', &[("found", &lost.sid)]);
        let mut bodies = lost.all();
        let hash = leaf(bodies.remove(2).as_bytes()).to_hex();
        let hole = [("hole_sid", lost.sid.as_str()), ("hole_from", "2"), ("hole_to", "3"), ("nodes", &hash)];
        by.record("hole", &[&hole[..], &[("scope", "all"), ("hole_reason", "rejected")]].concat());
        by.record("close", &[("begun", "0")]).head();
        bodies.extend(by.all());
        let mut book = Book::new(
            ledger_id("c", "testimony-system", 8).expect("a name"),
            Keys { ledger: public(8), witness: public(9) },
        );
        let mut ledger = Vec::new();
        let mut commit = |facts: &[Fact], at_ns: u64| {
            let sign = |text: &[u8]| pair(8).sign(text).as_ref().try_into().expect("64 bytes");
            let proposed = book.propose(facts, &[], at_ns, sign).expect("news");
            let block = proposed.block().clone();
            book.apply(proposed.committed()).expect("the next block");
            ledger.extend(block.entries.lines().map(str::to_owned));
            ledger.push(String::from_utf8(head_body(&block.note)).expect("ASCII"));
        };
        let text = |text: &str| text.to_owned();
        let (uid, namespace, pod_name, injection_id) = (text("pod"), text("shop"), text("web-0"), text("i"));
        let pod = Fact::Expected(PodRow { uid, namespace, name: pod_name, injection_id, from_ns: 1 });
        let certified =
            |of: &Sealer| Fact::Certified(of.sid.parse().expect("a name"), of.public(), 1_800_000_000, vec![0x30; 4]);
        let closed = |of: &Sealer| Fact::Closed(of.sid.parse().expect("a name"), of.size(), of.root());
        let begin_ns = SEALED_NS - 60 * SECOND_NS;
        commit(&[pod, certified(&lost)], begin_ns);
        commit(&[closed(&lost)], begin_ns);
        let to_ns = SEALED_NS + 60 * SECOND_NS;
        match known {
            Known::Certified => {
                commit(&[certified(&by)], to_ns);
                commit(&[closed(&by)], to_ns);
            }
            Known::Unkept => commit(&[Fact::Resumed(begin_ns)], to_ns),
            Known::No if ends => commit(&[Fact::Heads(Vec::new())], to_ns),
            Known::No => {}
        }
        let named = NamedKey { name: book.sid().to_string(), key: public(8) };
        let roots = format!("ledger {}\n", named.vkey(Role::Log));
        WithLedger { name: name.to_owned(), bodies, roots, ledger, to_ns: ends.then_some(to_ns), exact: true }
    };
    CASES.into_iter().map(case).collect()
}

/// `kinds`: what was found in the case of a name.
pub fn check(kinds: impl Fn(&str) -> String) {
    for (name, .., told) in CASES {
        for kind in ["GAP", "MISSING", "UNANCHORED"] {
            assert_eq!(kinds(name).contains(kind), told.contains(&kind), "{name}: {}", kinds(name));
        }
    }
}
