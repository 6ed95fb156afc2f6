//! What a pod takes along undelivered, told to a scripted operator that answers late, or not as it should.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;
use testimony_core::contract::ABANDONED_PATH;
use testimony_core::evidence::witness::csr::Abandoned;
use testimony_sidecar::spool::left::Left;
use testimony_sidecar::witness::abandon;

mod control_support;
use control_support::{Ca, DEADLINE, Received, Reply, Server, caller};

/// Of one stream, each with a hole behind it.
fn parts(count: u64) -> Vec<Left> {
    let stream = format!("c/shop/p/{:032x}-0-0", 1).parse().expect("a name");
    let part = |at| Left { stream: Clone::clone(&stream), records: 10 * at..10 * at + 5, sink: None };
    (0..count).map(part).collect()
}

/// Where a told part begins.
fn begin(received: &Received) -> u64 {
    assert_eq!((received.path.as_str(), received.header("authorization")), (ABANDONED_PATH, "Bearer t1"));
    let told: Abandoned = serde_json::from_slice(&received.body).expect("a part");
    assert_eq!(told.to, told.from + 5);
    told.from / 10
}

/// No block is committed, and the first part meets an operator that reads its ledger anew.
#[tokio::test]
async fn w3_an_operator_that_does_not_answer_yet_has_heard_all_parts() {
    for count in [6, 40] {
        let ca = Ca::new();
        let server =
            Server::start(Some(&ca), |number, _| if number == 0 { Reply::status(503) } else { Reply::Hang }).await;
        let caller = caller(&ca, &server);
        // Each part once, and the refused one again.
        let all_heard = |all: &[Received]| {
            let heard: BTreeSet<u64> = all.iter().skip(1).map(begin).collect();
            heard.len() as u64 == count
        };
        tokio::select! {
            untold = abandon(&caller, parts(count), 2 * DEADLINE) => panic!("{untold} of {count} were given up"),
            _ = server.until(all_heard) => {}
        }
    }
}

#[tokio::test]
async fn w3_what_the_operator_cannot_write_now_is_told_again_and_what_it_refuses_is_not() {
    let ca = Ca::new();
    let asked: Mutex<BTreeMap<u64, u64>> = Mutex::default();
    let server = Server::start(Some(&ca), move |_, received| {
        let mut asked = asked.lock().expect("no panic");
        let times = asked.entry(begin(received)).or_default();
        *times += 1;
        match (begin(received), *times) {
            (7, _) => Reply::status(429),
            (_, 1) => Reply::status(503),
            (_, 2) => Reply::Close,
            _ => Reply::status(204),
        }
    })
    .await;
    let untold = abandon(&caller(&ca, &server), parts(20), DEADLINE).await;
    assert_eq!(untold, 1);
    let times = |part| server.received().iter().filter(|one| begin(one) == part).count();
    assert_eq!((times(7), times(8)), (1, 3));
    assert_eq!(abandon(&caller(&ca, &server), Vec::new(), Duration::ZERO).await, 0);
}
