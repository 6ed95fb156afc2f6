//! What one pod, or a keeper that comes late, can do to the ledger of all.

use super::bench::*;
use super::cover::{Cover, UNKNOWN_INJECTION_ID};
use crate::api::AuditPolicy;
use crate::state::State;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use testimony_core::evidence::ledger::entry::Entry;
use testimony_core::evidence::ledger::{Book, Fact, Keys, ledger_id};

fn claims(state: &State, name: &str, injection_id: &str) {
    put::<Pod>(
        state,
        json!({"metadata": {"name": name, "namespace": "shop", "uid": name,
                            "annotations": {"testimony.dev/injection-id": injection_id}},
               "spec": {"containers": [], "initContainers": [{"name": "testimony-sidecar", "image": "t"}]}}),
    );
}

fn policy() -> Value {
    json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": {},
           "metadata": {"name": "all", "namespace": "shop", "uid": "p"}})
}

#[test]
fn w4_r3_an_injection_id_that_admission_never_wrote_names_no_streams() {
    let state = State::new("cluster.local");
    put::<AuditPolicy>(&state, policy());
    let ids = [
        (injection("a"), true),
        ("admission-policy".to_owned(), true),
        (String::new(), false),
        ("i-1".to_owned(), false),
        ("A".repeat(32), false),
        ("0".repeat(33), false),
        ("x".repeat(70_000), false),
        ("\"".repeat(250_000), false),
        ("\u{e4}".repeat(120_000), false),
    ];
    for (at, (id, _)) in ids.iter().enumerate() {
        claims(&state, &format!("p{at}"), id);
    }
    let keys = Keys { ledger: public(8), witness: public(9) };
    let mut book = Book::new(ledger_id("c-1", SPACE, 1).expect("a name"), keys);
    let mut cover = Cover::default();
    let news = cover.news(&state.index(), &excluded(), book.tables(), 1);
    let proposed = book.propose(&news, &[], 1, |message| sign(8, message)).expect("a block");
    assert_eq!((proposed.facts_taken, proposed.dropped.len()), (ids.len(), 0));
    for line in proposed.block().entries.lines() {
        let entry = Entry::parse(line.as_bytes()).expect("every reader takes it");
        match entry.fact {
            Fact::Expected(pod) => assert!(ids.contains(&(pod.injection_id, true)), "{}", pod.uid),
            Fact::Uncovered(pod, None) => assert_eq!(pod.reason, UNKNOWN_INJECTION_ID),
            Fact::Open(..) => {}
            other => panic!("{other:?}"),
        }
    }
    book.apply(proposed.committed()).expect("the next block");
    let expected = ids.iter().filter(|(_, known)| *known).count();
    assert_eq!((book.tables().pods().len(), book.tables().uncovered().len()), (expected, ids.len() - expected));
    assert_eq!(cover.news(&state.index(), &excluded(), book.tables(), 2), []);
}
