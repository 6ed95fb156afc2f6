use super::bench::*;
use super::cover::{Cover, LOST_AFTER_NS};
use super::desk::{Reply, SpoolKey};
use super::http::Ask;
use super::*;
use crate::api::AuditPolicy;
use crate::certs::Authority;
use crate::index::Indexed;
use crate::state::State;
use crate::testing::FakeApi;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{Hpke as _, HpkePublicKey};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use testimony_core::evidence::ledger::prune::Removal;
use testimony_core::evidence::ledger::{AbandonedRow, Book, Fact, Life, Pruned, ledger_id};
use testimony_core::evidence::merkle::{Range, leaf, root_of};
use testimony_core::evidence::witness::unwrap::HPKE_INFO;
use testimony_core::evidence::witness::{Outcome, Refusal, Request};
use time::OffsetDateTime;

#[tokio::test(start_paused = true)]
async fn w1_a_stream_is_certified_shown_and_closed_and_the_ledger_proves_it() {
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    let mut sidecar = Sidecar::new("a");
    sidecar.seal(3);
    assert_eq!(sidecar.show(&bench).await, Some(Outcome::Uncertified));
    let Reply::Certificate(der) = bench.ask("a", sidecar.certify()).await else { panic!("no certificate") };
    assert_eq!(bench.ask("a", sidecar.certify()).await, Reply::Certificate(der.clone()), "the answer may be lost");
    let outcome = sidecar.show(&bench).await;
    assert_eq!(cosigned(&bench, outcome.as_ref()), Some(3));
    for _ in 0..3 {
        sidecar.seal(5);
        sidecar.end("checkpoint");
        sidecar.seal(1);
    }
    sidecar.end("close");
    let outcome = sidecar.show(&bench).await;
    let size = sidecar.leaves.len() as u64;
    assert_eq!(cosigned(&bench, outcome.as_ref()), Some(size));
    let summary = bench.read();
    let said = &summary.streams[&sidecar.sid];
    assert_eq!((said.size, said.root, said.life), (size, root_of(&sidecar.leaves), Life::Closed));
    assert_eq!((said.first_key, said.certificate.as_ref()), (Some(public(1)), Some(&der)));
    assert_eq!(summary.pods["a"].pod.injection_id, injection("a"));
    assert_eq!(summary.unproved, 0);
    let again = bench.ask("a", sidecar.certify()).await;
    assert!(matches!(again, Reply::Denied(409, _)), "{again:?}");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn k1_only_the_pod_itself_gets_a_certificate() {
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    pod(&bench.state, "b", false);
    let ask = |injection_of: &str, sid: &str| Ask::Certify {
        injection_id: injection(injection_of),
        sid: sid.parse().expect("a name"),
        key: public(1),
    };
    let boot = "0123456789abcdef0123456789abcdef-0-0";
    let table = [
        (
            "a",
            "other",
            format!("c-1/shop/a/{boot}"),
            "the injection id is not the one that admission wrote into this pod",
        ),
        ("a", "a", format!("c-1/shop/b/{boot}"), "the stream is not named after this pod and cluster"),
        ("a", "a", format!("c-1/bank/a/{boot}"), "the stream is not named after this pod and cluster"),
        ("a", "a", format!("c-2/shop/a/{boot}"), "the stream is not named after this pod and cluster"),
        ("b", "", format!("c-1/shop/b/{boot}"), "the injection id is not the one that admission wrote into this pod"),
    ];
    for (pod, injection_of, sid, why) in table {
        assert_eq!(bench.ask(pod, ask(injection_of, &sid)).await, Reply::Denied(403, why.to_owned()), "{pod} {sid}");
    }
    let unknown = bench.ask("c", ask("c", &format!("c-1/shop/c/{boot}"))).await;
    assert_eq!(unknown, Reply::Later("this pod is not known yet"));
    let mut stranger = Sidecar::new("a");
    assert!(matches!(bench.ask("a", stranger.certify()).await, Reply::Certificate(_)));
    stranger.pod = "b";
    stranger.seal(1);
    assert!(matches!(stranger.show(&bench).await, Some(Outcome::Denied(403, _))), "another pod's token");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn w1_two_keepers_cannot_fork_the_ledger() {
    let first = Bench::new(FakeApi::default());
    pod(&first.state, "a", true);
    pod(&first.state, "b", true);
    let (mut a, mut b) = (Sidecar::new("a"), Sidecar::new("b"));
    assert!(matches!(first.ask("a", a.certify()).await, Reply::Certificate(_)));
    // A second one leads, and the first does not know yet.
    let second = first.again();
    second.until("the second reads and writes", |bench| bench.read().outages.len() == 1).await;
    assert!(matches!(second.ask("b", b.certify()).await, Reply::Certificate(_)));
    b.seal(2);
    assert_eq!(cosigned(&second, b.show(&second).await.as_ref()), Some(2));
    // The first proposes a block whose number is taken: nothing is cosigned, and it reads the ledger anew.
    a.seal(4);
    assert_eq!(a.show(&first).await, Some(Outcome::Later));
    first.until("the first knows what the second wrote", |bench| bench.blocks_counted("reload") > 0).await;
    assert!(first.blocks_counted("others") > 0);
    assert_eq!(a.show_until_cosigned(&first).await, Some(4));
    let summary = first.read();
    assert_eq!((summary.streams[&a.sid].size, summary.streams[&b.sid].size, summary.unproved), (4, 2, 0));
    first.end().await;
    second.end().await;
}

#[tokio::test(start_paused = true)]
async fn w1_an_api_server_that_is_away_or_loses_answers() {
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    let mut sidecar = Sidecar::new("a");
    assert!(matches!(bench.ask("a", sidecar.certify()).await, Reply::Certificate(_)));
    bench.api.lose(1);
    sidecar.seal(2);
    assert_eq!(cosigned(&bench, sidecar.show(&bench).await.as_ref()), Some(2), "the block is there, and it is ours");
    assert_eq!(bench.blocks_counted("others"), 0);
    bench.api.fail(true);
    sidecar.seal(2);
    let back = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        bench.api.fail(false);
    };
    let (outcome, ()) = tokio::join!(sidecar.show(&bench), back);
    assert_eq!(cosigned(&bench, outcome.as_ref()), Some(4));
    assert_eq!((bench.read().streams[&sidecar.sid].size, bench.blocks_counted("reload")), (4, 0));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_was_changed_is_not_written_on() {
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    let sidecar = Sidecar::new("a");
    assert!(matches!(bench.ask("a", sidecar.certify()).await, Reply::Certificate(_)));
    let path = format!("{MAPS}/testimony-ledger-0");
    let good = bench.api.get(&path).expect("a block");
    let mut changed = good.clone();
    changed["data"]["entries"] =
        json!(good["data"]["entries"].as_str().expect("text").replace(&injection("a"), &injection("b")));
    bench.api.put(&path, changed);
    let second = bench.again();
    second.until("it has tried", |bench| bench.blocks_counted("reload") > 2).await;
    let blocks = bench.blocks().len();
    assert!(matches!(second.ask("a", sidecar.certify()).await, Reply::Later(_)));
    assert_eq!(bench.blocks().len(), blocks);
    // Put right, it goes on by itself.
    bench.api.put(&path, good);
    second.until("it goes on", |bench| !bench.read().outages.is_empty()).await;
    bench.end().await;
    second.end().await;
}

#[tokio::test(start_paused = true)]
async fn w2_a_ledger_from_an_old_copy_takes_streams_up_again_and_says_so() {
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    let mut sidecar = Sidecar::new("a");
    assert!(matches!(bench.ask("a", sidecar.certify()).await, Reply::Certificate(_)));
    sidecar.seal(2);
    assert_eq!(cosigned(&bench, sidecar.show(&bench).await.as_ref()), Some(2));
    let copy = bench.api.paths(MAPS).len();
    for _ in 0..3 {
        sidecar.seal(3);
        sidecar.end("checkpoint");
        sidecar.show(&bench).await;
    }
    let blocks = bench.blocks().len();
    for number in copy - 1..blocks {
        bench.api.delete(&format!("{MAPS}/testimony-ledger-{number}"));
    }
    let second = bench.again();
    sidecar.seal(1);
    let outcome = sidecar.show(&second).await;
    assert_eq!(cosigned(&second, outcome.as_ref()), Some(15));
    let summary = second.read();
    assert_eq!(summary.streams[&sidecar.sid].size, 15);
    let rebased =
        summary.others.iter().filter(|(_, fact)| matches!(fact, Fact::Rebased(_, (2, _), (14, _), _))).count();
    assert_eq!(rebased, 1, "{:?}", summary.others);
    bench.end().await;
    second.end().await;
}

#[tokio::test(start_paused = true)]
async fn two_heads_of_one_size_are_told() {
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    let (mut sidecar, mut twin) = (Sidecar::new("a"), Sidecar::new("a"));
    assert!(matches!(bench.ask("a", sidecar.certify()).await, Reply::Certificate(_)));
    sidecar.seal(2);
    assert_eq!(cosigned(&bench, sidecar.show(&bench).await.as_ref()), Some(2));
    twin.leaves = vec![leaf(b"x"), leaf(b"y")];
    let note = twin.note();
    let request =
        Request { old: 2, proof: Vec::new(), note: note.clone(), tail: testimony_core::evidence::witness::Tail::None };
    let ask = || Ask::AddCheckpoint(Box::new(request.clone()));
    for _ in 0..2 {
        assert_eq!(bench.ask("a", ask()).await, Reply::Refused(Refusal::Fork(2)));
    }
    bench.until("it stands in the ledger", |bench| !bench.read().others.is_empty()).await;
    let told: Vec<Fact> = bench.read().others.into_iter().map(|(_, fact)| fact).collect();
    assert_eq!(told, [Fact::Fork(sidecar.sid.clone(), note.encode())]);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_takes_along_is_written_down() {
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    let sidecar = Sidecar::new("a");
    let (sid, reason) = (sidecar.sid.clone(), "sink down".to_owned());
    let row = AbandonedRow { sid, from: 3, to: 9, reason, sink: None };
    let of_one = AbandonedRow { to: 7, sink: Some("archive".to_owned()), ..row.clone() };
    let abandon = || Ask::Abandon(row.clone());
    assert_eq!(bench.ask("a", abandon()).await, Reply::Refused(Refusal::Unknown));
    assert!(matches!(bench.ask("a", sidecar.certify()).await, Reply::Certificate(_)));
    assert!(matches!(bench.ask("b", abandon()).await, Reply::Denied(403, _)));
    assert_eq!(bench.ask("a", abandon()).await, Reply::Written);
    assert_eq!(bench.ask("a", Ask::Abandon(of_one.clone())).await, Reply::Written);
    let told: Vec<Fact> = bench.read().others.into_iter().map(|(_, fact)| fact).collect();
    assert_eq!(told, [row, of_one].map(Fact::Abandoned));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn w4_pods_come_go_and_stay_uncovered() {
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    pod(&bench.state, "b", false);
    let mut sidecar = Sidecar::new("a");
    assert!(matches!(bench.ask("a", sidecar.certify()).await, Reply::Certificate(_)));
    sidecar.seal(2);
    assert_eq!(cosigned(&bench, sidecar.show(&bench).await.as_ref()), Some(2));
    bench.until("b is told", |bench| bench.read().uncovered.len() == 1).await;
    assert_eq!(bench.read().uncovered[0].0.reason, "NeedsRestart");
    for name in ["a", "b"] {
        bench.state.change(|index| Pod::delete(index, &("shop".to_owned(), name.to_owned())));
    }
    bench
        .until("both are gone", |bench| bench.read().pods["a"].to_ns.is_some() && bench.read().uncovered[0].1.is_some())
        .await;
    bench.end().await;
}

/// What is published of authorities: in the roots, and as those in force.
fn published(bench: &Bench) -> (String, String) {
    let object = bench.api.get(&format!("{MAPS}/testimony-roots")).unwrap_or_default();
    let in_force = object["data"]["authorities"].as_str().unwrap_or_default().to_owned();
    let roots = if bench.has_roots() { bench.roots().authorities } else { String::new() };
    (roots, in_force)
}

#[tokio::test(start_paused = true)]
async fn k1_an_authority_stays_in_the_roots_after_another_installation_and_many_rotations() {
    let (now, year) = (OffsetDateTime::now_utc(), Duration::from_secs(365 * 86_400));
    let pem = |authority: &Authority| authority.bundle(now).replace("\r\n", "\n");
    let unrelated = || Authority::create(now, year).expect("authority");
    let rotated = |first: &Authority| (0..5).fold(first.clone(), |last, _| last.rotate(now, year).expect("authority"));
    for case in ["installed anew", "rotated five times"] {
        let first = Bench::new(FakeApi::default());
        let a = first.authority.clone();
        first.until("A is published", |bench| published(bench).0 == pem(&a)).await;
        let b = Arc::new(if case == "installed anew" { unrelated() } else { rotated(&a) });
        assert!(!pem(&b).contains(&pem(&a)), "{case}: it is in force no more");
        let (api, state, metrics) = (first.api.clone(), first.state.clone(), first.metrics.clone());
        first.end().await;
        let second = Bench::on(api, state, metrics, b.clone());
        second.until("B is published", |bench| published(bench).0.starts_with(&pem(&b))).await;
        let (roots, in_force) = published(&second);
        assert_eq!(roots, pem(&b) + &pem(&a), "{case}");
        assert_eq!(in_force, b.bundle(now), "{case}: servers are known by what is in force alone");
        second.end().await;
    }
}

#[test]
fn w4_what_the_ledger_does_not_say_yet() {
    let state = State::new("cluster.local");
    put::<AuditPolicy>(&state, policy());
    // Nothing of it has started: there is no traffic yet, and there may never be any.
    pod_of(&state, "a", true, json!({"phase": "Pending"}));
    pod(&state, "b", false);
    let keys = testimony_core::evidence::ledger::Keys { ledger: public(8), witness: public(9) };
    let mut book = Book::new(ledger_id("c-1", SPACE, 1).expect("a name"), keys);
    let mut cover = Cover::default();
    let start = 1_700_000_000_000_000_000;
    let mut step = |now_ns: u64, more: &[Fact]| {
        let mut facts = more.to_vec();
        let news = cover.news(&state.index(), &excluded(), book.tables(), now_ns);
        facts.extend(news.iter().cloned());
        if let Some(proposed) = book.propose(&facts, &[], now_ns, |message| sign(8, message)) {
            book.apply(proposed.committed()).expect("the next block");
        }
        let mut words: Vec<&str> = news.iter().map(testimony_core::evidence::ledger::entry::typ).collect();
        words.sort_unstable();
        words.join(" ")
    };
    assert_eq!(step(start, &[]), "ledger-uncovered");
    // It is certified before the kubelet says that it runs.
    assert_eq!(step(start, &[Fact::Certified(Sidecar::new("a").sid, public(1), 5, vec![1])]), "");
    assert_eq!(step(start + 1, &[]), "ledger-expected");
    assert_eq!(step(start + 1, &[]), "");
    // Another reason ends the time of the one before.
    put::<Pod>(
        &state,
        json!({"metadata": {"name": "b", "namespace": "shop", "uid": "b"},
                              "spec": {"containers": [], "hostNetwork": true}}),
    );
    assert_eq!(step(start + 2, &[]), "ledger-uncovered ledger-uncovered");
    // The policy goes: what has a sidecar is expected all the same, and nothing is uncovered.
    state.change(|index| AuditPolicy::delete(index, &("shop".to_owned(), "all".to_owned())));
    assert_eq!(step(start + 3, &[]), "ledger-uncovered");
    state.change(|index| Pod::delete(index, &("shop".to_owned(), "a".to_owned())));
    assert_eq!(step(start + 4, &[]), "ledger-gone");
    assert_eq!(step(start + 4 + LOST_AFTER_NS - 1, &[]), "", "its last head may be on its way");
    assert_eq!(step(start + 4 + LOST_AFTER_NS, &[]), "ledger-lost");
    assert_eq!(step(start + 5 + LOST_AFTER_NS, &[]), "");
}

#[test]
fn w4_a_pod_with_a_sidecar_is_expected_once_anything_of_it_has_started() {
    let waiting = json!({"waiting": {"reason": "ImagePullBackOff"}});
    let ended = json!({"terminated": {"exitCode": 1}});
    let list = |name: &str, state: &Value| {
        json!([{"name": name, "image": "i", "imageID": "", "ready": false,
                                                   "restartCount": 0, "state": state}])
    };
    let inits = |name: &str, state: &Value| json!({"phase": "Pending", "initContainerStatuses": list(name, state)});
    let table = [
        (json!({}), false),
        (json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False"}]}), false),
        (inits("testimony-init", &ended), false),
        (inits("testimony-init", &json!({"running": {}})), false),
        (inits("testimony-sidecar", &waiting), false),
        (json!({"phase": "Pending", "containerStatuses": list("app", &waiting)}), false),
        (json!({"phase": "Failed", "reason": "Evicted"}), false),
        (inits("testimony-sidecar", &json!({"running": {}})), true),
        (inits("testimony-sidecar", &ended), true),
        (inits("before-ours", &ended), true),
        // The application runs, and our sidecar never did.
        (
            json!({"phase": "Pending", "initContainerStatuses": list("testimony-sidecar", &waiting),
                "containerStatuses": list("app", &json!({"running": {}}))}),
            true,
        ),
        (json!({"phase": "Failed", "containerStatuses": list("app", &ended)}), true),
        (json!({"phase": "Pending", "ephemeralContainerStatuses": list("debug", &json!({"running": {}}))}), true),
        (
            json!({"phase": "Pending", "containerStatuses": [{"name": "app", "image": "i", "imageID": "", "ready": false,
                "restartCount": 1, "state": waiting, "lastState": ended}]}),
            true,
        ),
        (json!({"phase": "Running"}), true),
        (json!({"phase": "Succeeded"}), true),
    ];
    for (status, expected) in table {
        let state = State::new("cluster.local");
        put::<AuditPolicy>(&state, policy());
        pod_of(&state, "a", true, status.clone());
        let keys = testimony_core::evidence::ledger::Keys { ledger: public(8), witness: public(9) };
        let book = Book::new(ledger_id("c-1", SPACE, 1).expect("a name"), keys);
        let news = Cover::default().news(&state.index(), &excluded(), book.tables(), 1);
        assert_eq!(matches!(&news[..], [Fact::Expected(row)] if row.uid == "a"), expected, "{status} {news:?}");
        assert_eq!(news.len(), usize::from(expected), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_made_once_and_a_broken_secret_is_told() {
    let api = FakeApi::default();
    let client = api.client();
    let load = || keys::WitnessKeys::load(&client, SPACE, "testimony-witness");
    let first = load().await.expect("keys");
    assert_ne!(first.public().ledger, first.public().witness);
    let again = load().await.expect("keys");
    assert_eq!((again.public(), again.recovery_key()), (first.public(), first.recovery_key()));
    let secret = api.get(SECRET).expect("a Secret");
    assert_eq!(secret["immutable"], true);
    for key in ["witness.key", "ledger.key"] {
        let mut broken = secret.clone();
        broken["data"][key] = json!("AAAA");
        api.put(SECRET, broken);
        let error = load().await.expect_err("broken").to_string();
        assert!(error.starts_with(&format!("Secret testimony-witness: {key} is not a key of 32 bytes")), "{error}");
    }
}

#[test]
fn what_is_labelled_a_block_and_is_none_is_named() {
    let object = |name: &str, data: Value| {
        serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": name}, "data": data})).expect("object")
    };
    let good = json!({"entries": "e", "note": "n"});
    assert_eq!(store::block(object("testimony-ledger-7", good.clone())).expect("a block").number, 7);
    for (name, data) in [("testimony-ledger-x", good.clone()), ("other-7", good), ("testimony-ledger-7", json!({}))] {
        let error = store::block(object(name, data)).expect_err("no block").to_string();
        assert!(error.contains(name) && error.contains("remove the label"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn d5_keys_of_a_spool_are_opened_for_the_pod_that_wrapped_them_and_the_ledger_says_so() {
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    let sidecar = Sidecar::new("a");
    let ask = |keys: &[&Vec<u8>]| Ask::Unwrap {
        streams: if keys.is_empty() { Vec::new() } else { vec![sidecar.sid.clone()] },
        keys: keys.iter().map(|key| (*key).clone()).collect(),
    };
    let Reply::Unwrapped(public, none) = bench.ask("a", ask(&[])).await else { panic!("no recovery key") };
    assert!(none.is_empty());
    let wrap = |pod: &str, key: &[u8]| {
        let public = HpkePublicKey(public.to_vec());
        let (secret, sealed) =
            DH_KEM_X25519_HKDF_SHA256_AES_256.seal(HPKE_INFO, pod.as_bytes(), key, &public).expect("sealed");
        [secret.0, sealed].concat()
    };
    let (own, others) = (wrap("a", &[7; 32]), wrap("b", &[8; 32]));
    let expected = Reply::Unwrapped(public, vec![Some(SpoolKey(vec![7; 32])), None]);
    assert_eq!(bench.ask("a", ask(&[&own, &others])).await, expected, "another pod's key stays shut");
    let stranger = bench.ask("b", ask(&[&own])).await;
    assert!(matches!(stranger, Reply::Denied(403, _)), "{stranger:?}");
    assert_eq!(bench.ask("a", ask(&[&others])).await, Reply::Unwrapped(public, vec![None]));
    let told: Vec<_> = bench.read().others.into_iter().map(|(_, fact)| fact).collect();
    assert_eq!(told, [Fact::Unwrapped(sidecar.sid.clone(), "a".to_owned())], "only what was opened is an entry");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn g2_what_is_removed_by_order_stands_in_the_ledger_before_it_is_answered() {
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    let mut sidecar = Sidecar::new("a");
    assert!(matches!(bench.ask("a", sidecar.certify()).await, Reply::Certificate(_)));
    sidecar.seal(7);
    assert_eq!(cosigned(&bench, sidecar.show(&bench).await.as_ref()), Some(7));
    let order = |sid: &str, from: usize, to: usize| {
        let mut range = Range::empty(from as u64);
        (from..to).for_each(|seq| range.push(sidecar.leaves.get(seq).copied().unwrap_or_else(|| leaf(b"x"))));
        Pruned { sid: sid.parse().expect("a name"), range, reason: "ticket 4711".to_owned(), by: "alice".to_owned() }
    };
    let sid = sidecar.sid.to_string();
    assert!(bench.door.prune(Removal::Prune, vec![order(&sid, 2, 5)]).await.is_ok());
    let told: Vec<_> = bench.read().others.into_iter().map(|(_, fact)| fact).collect();
    assert_eq!(told, [Fact::Pruned(order(&sid, 2, 5))]);

    // Nothing of a list is written where one of it is wrong.
    let boot = "0123456789abcdef0123456789abcdef-0-0";
    let (another, ledger) = (format!("c-2/shop/a/{boot}"), bench.roots().ledgers[0].name.clone());
    for (sid, to) in [(sid.as_str(), 9), (another.as_str(), 5), (ledger.as_str(), 5)] {
        let refused =
            bench.door.prune(Removal::Prune, vec![order(&sidecar.sid.to_string(), 0, 1), order(sid, 4, to)]).await;
        let (answer, result) = refused.expect_err("refused");
        assert_eq!((answer.status().as_u16(), result), (422, "denied"), "{sid} {to}");
    }
    // A stream that the ledger has forgotten meanwhile.
    let old = order(&format!("c-1/shop/old/{boot}"), 0, 3);
    assert!(bench.door.prune(Removal::Erase, vec![old.clone()]).await.is_ok());
    let told: Vec<_> = bench.read().others.into_iter().map(|(_, fact)| fact).collect();
    assert_eq!(told.get(1..), Some(&[Fact::Erased(old)][..]), "what is erased is told as such");
    bench.end().await;
}
