//! What one pod, or a keeper that comes late, can do to the ledger of all.

use super::bench::*;
use super::cover::{Cover, UNKNOWN_INJECTION_ID};
use super::desk::{Desk, Reply};
use super::fair::CERTIFICATES_PER_POD_MAX;
use super::http::Ask;
use super::keys::WitnessKeys;
use super::store::{Standing, Store, Stored};
use crate::api::AuditPolicy;
use crate::state::State;
use crate::testing::FakeApi;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use testimony_core::evidence::ledger::entry::Entry;
use testimony_core::evidence::ledger::{
    ABANDONED_PER_STREAM_MAX, AbandonedRow, Block, Book, Fact, Keys, STATE_EVERY_BLOCKS, STATE_EVERY_SECONDS,
    STREAMS_PER_POD_MAX, ledger_id,
};
use testimony_core::evidence::merkle::empty_root;
use testimony_core::evidence::witness::{Outcome, Request};

fn claims(state: &State, name: &str, injection_id: &str) {
    put::<Pod>(
        state,
        json!({"metadata": {"name": name, "namespace": "shop", "uid": name,
                            "annotations": {"testimony.dev/injection-id": injection_id}},
               "spec": {"containers": [], "initContainers": [{"name": "testimony-sidecar", "image": "t"}]},
               "status": {"phase": "Running"}}),
    );
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

fn numbers(bench: &Bench) -> Vec<u64> {
    let paths = bench.api.paths(&format!("{MAPS}/testimony-ledger-"));
    let mut numbers: Vec<u64> = paths.iter().filter_map(|path| path.rsplit('-').next()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test(start_paused = true)]
async fn w1_a_keeper_that_slept_does_not_write_on_numbers_that_were_removed() {
    let first = Bench::new(FakeApi::default());
    pod(&first.state, "a", true);
    pod(&first.state, "b", true);
    let (mut a, mut b) = (Sidecar::new("a"), Sidecar::new("b"));
    assert!(matches!(first.ask("a", a.certify()).await, Reply::Certificate(_)));
    let mine = numbers(&first).last().map_or(0, |last| last + 1);
    // The first sleeps; a second one goes on until all that the first knows was restated and removed.
    let second = first.again();
    second.until("the second reads and writes", |bench| bench.read().outages.len() == 1).await;
    assert!(matches!(second.ask("b", b.certify()).await, Reply::Certificate(_)));
    while numbers(&second).len() as u64 <= STATE_EVERY_BLOCKS + 2 {
        b.seal(1);
        assert!(cosigned(&second, b.show(&second).await.as_ref()).is_some());
    }
    (0..STATE_EVERY_BLOCKS).for_each(|number| second.api.delete(&format!("{MAPS}/testimony-ledger-{number}")));
    a.seal(4);
    assert_eq!(a.show(&first).await, Some(Outcome::Later), "block {mine} was free, and is none of the ledger");
    first.until("the first reads anew", |bench| bench.blocks_counted("reload") > 0).await;
    assert!(first.blocks_counted("others") > 0);
    assert!(!numbers(&first).contains(&mine), "what it wrote is taken away");
    assert_eq!(a.show_until_cosigned(&first).await, Some(4));
    let summary = first.read();
    assert_eq!((summary.streams[&a.sid].size, summary.unproved), (4, 0));
    assert!(summary.missing.is_empty() && numbers(&first).contains(&(STATE_EVERY_BLOCKS + 3)));
    first.end().await;
    second.end().await;
}

#[tokio::test]
async fn w1_a_block_stands_if_it_follows_or_others_went_on_from_it() {
    let key = public(8);
    let mut book = Book::new(ledger_id("c-1", SPACE, 1).expect("a name"), Keys { ledger: key, witness: key });
    let mut block = |now: u64| -> Block {
        let fact = Fact::Gone(now.to_string());
        let proposed = book.propose(&[fact], &[], now, |message| sign(8, message)).expect("a block");
        let block = proposed.block().clone();
        book.apply(proposed.committed()).expect("the next block");
        block
    };
    let own: Vec<Block> = (0..4).map(&mut block).collect();
    let mut foreign = own[1].clone();
    foreign.entries = own[0].entries.clone();
    use Standing::{Stands, Stray};
    // Which block was created, what else there is, and what it is.
    let table: [(usize, Vec<&Block>, Standing); 8] = [
        (0, vec![], Stands),
        (0, vec![&own[1]], Stands),
        (0, vec![&own[2], &own[3]], Stray),
        (2, vec![&own[0], &own[1]], Stands),
        (2, vec![&own[1], &own[3]], Stands),
        (2, vec![&own[0]], Stray),
        (2, vec![&foreign], Stray),
        (2, vec![&own[3]], Stands),
    ];
    for (at, others, expected) in table {
        let store = Store::new(FakeApi::default().client(), SPACE);
        for block in others.iter().copied().chain([&own[at]]) {
            store.create(block).await.expect("created");
        }
        let there: Vec<u64> = others.iter().map(|block| block.number).collect();
        assert_eq!(store.standing(&own[at]).await.expect("known"), expected, "{at} {there:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn w1_one_pod_cannot_take_all_of_the_ledger() {
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    pod(&bench.state, "b", true);
    let sid = |pod: &str, n: usize| format!("c-1/shop/{pod}/{n:032x}-0-0").parse().expect("a name");
    let ask = |pod: &str, n: usize| Ask::Certify { injection_id: injection(pod), sid: sid(pod, n), key: public(1) };
    let asks = (0..STREAMS_PER_POD_MAX + 3).map(|n| bench.ask("a", ask("a", n)));
    let answers = futures::future::join_all(asks).await;
    let count = |status: &[Reply]| status.iter().filter(|reply| matches!(reply, Reply::Certificate(_))).count();
    assert_eq!(count(&answers), STREAMS_PER_POD_MAX);
    let Reply::Denied(429, why) = bench.ask("a", ask("a", 900)).await else { panic!("one too many") };
    assert!(why.starts_with(&format!("this pod has {STREAMS_PER_POD_MAX} streams that go on")[..]), "{why}");
    assert!(matches!(bench.ask("b", ask("b", 0)).await, Reply::Certificate(_)), "another pod");
    // What is abandoned is told once, and so often.
    let abandon = |from: u64, to: u64| {
        let (sid, reason) = (sid("b", 0), "sink down".to_owned());
        bench.ask("b", Ask::Abandon(AbandonedRow { sid, from, to, reason, sink: None }))
    };
    let (once, twice) = tokio::join!(abandon(3, 9), abandon(3, 9));
    assert_eq!((once, twice, abandon(3, 9).await), (Reply::Written, Reply::Written, Reply::Written));
    let told = |bench: &Bench| bench.read().others.len();
    assert_eq!(told(&bench), 1);
    let more = (0..2 * ABANDONED_PER_STREAM_MAX as u64).map(|n| abandon(100 + 2 * n, 101 + 2 * n));
    let answers = futures::future::join_all(more).await;
    let written = answers.iter().filter(|reply| **reply == Reply::Written).count();
    assert_eq!((written, told(&bench)), (ABANDONED_PER_STREAM_MAX - 1, ABANDONED_PER_STREAM_MAX));
    assert!(answers.iter().any(|reply| matches!(reply, Reply::Denied(429, why) if why.contains("as many as may be"))));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn w1_k1_a_pod_that_closes_its_streams_gets_so_many_certificates_and_another_one_all_of_its_own() {
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    pod(&bench.state, "b", true);
    let asked = CERTIFICATES_PER_POD_MAX as usize + STREAMS_PER_POD_MAX;
    let (mut given, mut refused) = (0, 0);
    for first in (0..asked).step_by(STREAMS_PER_POD_MAX) {
        let round = (first..first + STREAMS_PER_POD_MAX).map(|n| {
            let bench = &bench;
            async move {
                let mut sidecar = Sidecar::new("a");
                sidecar.sid = format!("c-1/shop/a/{n:032x}-0-0").parse().expect("a name");
                match bench.ask("a", sidecar.certify()).await {
                    Reply::Certificate(_) => {}
                    Reply::Denied(429, why) => {
                        let most = format!("this pod has got {CERTIFICATES_PER_POD_MAX} certificates");
                        assert!(why.starts_with(&most), "{why}");
                        return false;
                    }
                    other => panic!("{other:?}"),
                }
                sidecar.end("close");
                assert_eq!(cosigned(bench, sidecar.show(bench).await.as_ref()), Some(1));
                true
            }
        });
        for got in futures::future::join_all(round).await {
            *(if got { &mut given } else { &mut refused }) += 1;
        }
    }
    // Time is real there: while this runs, it may have some more.
    assert!((CERTIFICATES_PER_POD_MAX..CERTIFICATES_PER_POD_MAX + 10).contains(&given), "{given}");
    assert!(refused > 0);
    assert!(matches!(bench.ask("b", Sidecar::new("b").certify()).await, Reply::Certificate(_)), "another pod");
    bench.end().await;
}

#[tokio::test]
async fn w1_a_stream_that_has_ended_shows_no_further_head() {
    let client = FakeApi::default().client();
    let keys = WitnessKeys::load(&client, SPACE, "testimony-witness").await.expect("keys");
    let mut book = Book::new(ledger_id("c-1", SPACE, 1).expect("a name"), keys.public());
    let mut sidecar = Sidecar::new("a");
    let facts = [
        Fact::Certified(sidecar.sid.clone(), public(1), u64::MAX, vec![1]),
        Fact::Lost(sidecar.sid.clone(), 0, empty_root()),
    ];
    let proposed = book.propose(&facts, &[], 1, |message| keys.sign_ledger(message)).expect("a block");
    book.apply(proposed.committed()).expect("the next block");
    let mut desk = Desk::new(book, keys, "c-1", SPACE);
    sidecar.seal(3);
    let request = Request::parse(sidecar.client.request().expect("a head").as_bytes()).expect("a request");
    let (reply, mut answer) = tokio::sync::oneshot::channel();
    desk.add_checkpoint(&identity("a"), &request, 5, reply);
    let answer = answer.try_recv().expect("at once");
    assert!(matches!(&answer, Reply::Denied(422, why) if why.contains("has ended")), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn w1_a_ledger_whose_old_blocks_could_not_be_removed_for_hours_is_read_and_they_go() {
    let api = FakeApi::default();
    let keys = WitnessKeys::load(&api.client(), SPACE, "testimony-witness").await.expect("keys");
    let mut book = Book::new(ledger_id("c-1", SPACE, 1).expect("a name"), keys.public());
    let mut block = |now_ns: u64| {
        let proposed = book.propose(&[Fact::Heads(Vec::new())], &[], now_ns, |message| keys.sign_ledger(message));
        let proposed = proposed.expect("a block");
        let block = proposed.block().clone();
        book.apply(proposed.committed()).expect("the next block");
        block
    };
    // The second restates all that is known.
    let (first, second) = (block(1), block(1 + (STATE_EVERY_SECONDS + 1) * 1_000_000_000));
    let store = Store::new(api.client(), SPACE);
    store.create(&first).await.expect("created");
    let path = |number: u64| format!("{MAPS}/testimony-ledger-{number}");
    let made = api.get(&path(0)).expect("a block");
    let count = 25_000;
    for number in 1..count {
        let mut object = made.clone();
        object["metadata"]["name"] = format!("testimony-ledger-{number}").into();
        api.put(&path(number), object);
    }
    store.create(&Block { number: count, ..second }).await.expect("created");
    let bench = Bench::new(api);
    bench.until("old blocks go", |bench| bench.api.get(&path(99)).is_none()).await;
    assert_eq!(bench.blocks_counted("reload"), 0);
    assert!(bench.api.get(&path(count)).is_some(), "reading begins there");
    bench.end().await;
}

#[tokio::test]
async fn w1_a_list_of_blocks_that_takes_too_long_goes_on_and_its_pages_grow() {
    // Blocks, bytes of each, and limits of the pages that were given.
    let table: [(u64, usize, &[usize]); 2] =
        [(700, 100, &[16, 32, 64, 128, 128, 128, 128, 128]), (40, 80 * 1024, &[16, 16, 16])];
    for (count, bytes, limits) in table {
        let (api, entries) = (FakeApi::default(), "x".repeat(bytes));
        let store = Store::new(api.client(), SPACE);
        for number in 0..count {
            let block = Block { number, entries: entries.clone(), note: String::new() };
            assert_eq!(store.create(&block).await.expect("created"), Stored::Ours);
        }
        api.expire(2);
        let outlines = store.outlines().await.expect("all of them");
        let numbers: Vec<u64> = outlines.iter().map(|outline| outline.number).collect();
        assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "each once, {bytes} bytes");
        assert_eq!(api.pages(), limits, "{bytes} bytes");
    }
}
