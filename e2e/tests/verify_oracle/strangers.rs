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

/// When the streams are sealed, and the ledger's time around that.
const SEALED_NS: u64 = 1_700_000_000 * SECOND_NS;
const BEGIN_NS: u64 = SEALED_NS - 60 * SECOND_NS;
const END_NS: u64 = SEALED_NS + 60 * SECOND_NS;

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

/// Of a stream that is known because its successor found it, the same.
const FOUND: [(&str, bool); 2] =
    [("a hole by a stranger in one that was found", true), ("an absence by a stranger of one that was named", false)];

/// A ledger of one pod, and its lines.
struct Kept {
    book: Book,
    lines: Vec<String>,
}

impl Kept {
    fn new() -> Self {
        let keys = Keys { ledger: public(8), witness: public(9) };
        let book = Book::new(ledger_id("c", "testimony-system", 8).expect("a name"), keys);
        let text = |text: &str| text.to_owned();
        let (uid, namespace, pod_name, injection_id) = (text("pod"), text("shop"), text("web-0"), text("i"));
        let pod = PodRow { uid, namespace, name: pod_name, injection_id, from_ns: 1 };
        let mut this = Self { book, lines: Vec::new() };
        this.commit(&[Fact::Expected(pod)], BEGIN_NS);
        this
    }

    fn commit(&mut self, facts: &[Fact], at_ns: u64) {
        let sign = |text: &[u8]| pair(8).sign(text).as_ref().try_into().expect("64 bytes");
        let proposed = self.book.propose(facts, &[], at_ns, sign).expect("news");
        let block = proposed.block().clone();
        self.book.apply(proposed.committed()).expect("the next block");
        self.lines.extend(block.entries.lines().map(str::to_owned));
        self.lines.push(String::from_utf8(head_body(&block.note)).expect("ASCII"));
    }

    /// A stream that ended in order.
    fn knows(&mut self, of: &Sealer, at_ns: u64) {
        let sid = || of.sid.parse().expect("a name");
        self.commit(&[Fact::Certified(sid(), of.public(), 1_800_000_000, vec![0x30; 4])], at_ns);
        self.commit(&[Fact::Closed(sid(), of.size(), of.root())], at_ns);
    }

    fn case(self, name: &str, bodies: Vec<String>, to_ns: Option<u64>) -> WithLedger {
        let named = NamedKey { name: self.book.sid().to_string(), key: public(8) };
        let roots = format!("ledger {}\n", named.vkey(Role::Log));
        WithLedger { name: name.to_owned(), bodies, roots, ledger: self.lines, to_ns, exact: true }
    }
}

/// Of a stream one record is not there, and another stream declares it as lost: the stream, what is left, and who declares it.
fn holed() -> (Sealer, Vec<String>, Sealer) {
    let mut lost = Sealer::new('a', &[]);
    lost.exchanges(3);
    lost.record("close", &[("begun", "3"), ("exchanges", "3")]).head();
    let mut by = Sealer::new('b', &[("found", &lost.sid)]);
    let mut bodies = lost.all();
    let hash = leaf(bodies.remove(2).as_bytes()).to_hex();
    let hole = [("hole_sid", lost.sid.as_str()), ("hole_from", "2"), ("hole_to", "3"), ("nodes", &hash)];
    by.record("hole", &[&hole[..], &[("scope", "all"), ("hole_reason", "rejected")]].concat());
    by.record("close", &[("begun", "0")]).head();
    (lost, bodies, by)
}

/// Of a stream that the ledger knows one record is not there, and another stream declares it as lost.
fn known((name, known, ends, _): (&str, Known, bool, &[&str])) -> WithLedger {
    let (lost, mut bodies, by) = holed();
    bodies.extend(by.all());
    let mut kept = Kept::new();
    kept.knows(&lost, BEGIN_NS);
    match known {
        Known::Certified => kept.knows(&by, END_NS),
        Known::Unkept => kept.commit(&[Fact::Resumed(BEGIN_NS)], END_NS),
        Known::No if ends => kept.commit(&[Fact::Heads(Vec::new())], END_NS),
        Known::No => {}
    }
    kept.case(name, bodies, ends.then_some(END_NS))
}

/// The ledger knows only who found the stream. Where nothing of it is there, a stranger says that there never was anything.
fn found((name, is_there): (&str, bool)) -> WithLedger {
    let (lost, left, by) = holed();
    let recovered = |size: &str, root: &str| {
        [
            ("rec_sid", lost.sid.clone()),
            ("size", size.to_owned()),
            ("root", root.to_owned()),
            ("state", "lost".to_owned()),
        ]
    };
    let mut next = Sealer::new('c', &[("found", &lost.sid)]);
    let mut stranger = Sealer::new('d', &[]);
    let said = match is_there {
        true => recovered(&lost.size().to_string(), &lost.root().to_hex()),
        false => recovered("0", &"ab".repeat(32)),
    };
    let who = if is_there { &mut next } else { &mut stranger };
    who.record("recovered", &said.each_ref().map(|(key, value)| (*key, value.as_str())));
    next.record("close", &[("begun", "0")]).head();
    stranger.record("close", &[("begun", "0")]).head();
    let bodies = if is_there { [left, by.all(), next.all()] } else { [Vec::new(), stranger.all(), next.all()] };
    let mut kept = Kept::new();
    kept.knows(&next, END_NS);
    kept.case(name, bodies.concat(), is_there.then_some(END_NS))
}

pub fn cases() -> Vec<WithLedger> {
    CASES.into_iter().map(known).chain(FOUND.into_iter().map(found)).collect()
}

/// `kinds`: what was found in the case of a name.
pub fn check(kinds: impl Fn(&str) -> String) {
    let of_found = FOUND.map(|(name, _)| (name, &["MISSING", "UNANCHORED"][..]));
    for (name, told) in CASES.map(|(name, .., told)| (name, told)).into_iter().chain(of_found) {
        for kind in ["GAP", "MISSING", "UNANCHORED"] {
            assert_eq!(kinds(name).contains(kind), told.contains(&kind), "{name}: {}", kinds(name));
        }
    }
}
