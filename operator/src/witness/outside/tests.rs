use super::*;
use crate::serve::{serve, text_answer};
use crate::testing::FakeApi;
use crate::witness::bench::{Bench, MAPS, SPACE, pod};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use hyper::StatusCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use testimony_core::evidence::note::{PublicKey, Signature};
use testimony_core::evidence::witness::{Refusal, Request as AddCheckpoint, StreamState, judge};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

fn pair() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed")
}

fn named() -> NamedKey {
    let key = PublicKey(pair().public_key().as_ref().try_into().expect("32 bytes"));
    NamedKey { name: "outside.example/w".to_owned(), key }
}

/// What a witness outside does, once it is told the ledger's key.
fn cosign(state: &Mutex<Option<StreamState>>, body: &[u8]) -> (StatusCode, String) {
    let request = AddCheckpoint::parse(body).expect("what any witness takes");
    let mut state = state.lock().expect("the lock");
    let Some(state) = state.as_mut() else { return (StatusCode::NOT_FOUND, "unknown origin\n".to_owned()) };
    match judge(state, &request, 5, |_| false) {
        Ok(accepted) => {
            state.advance(&accepted);
            let text = request.note.checkpoint.cosigned_text(5);
            let signature = pair().sign(text.as_bytes()).as_ref().try_into().expect("64 bytes");
            (StatusCode::OK, Signature::witness(&named().name, &named().key, 5, &signature).line())
        }
        Err(Refusal::Known(size)) => (StatusCode::CONFLICT, format!("{size}\n")),
        Err(refusal) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{refusal}\n")),
    }
}

/// A witness outside, over HTTP.
struct Outsider {
    /// Nothing: it does not know the ledger's key yet.
    state: Arc<Mutex<Option<StreamState>>>,
    /// It answers 503.
    away: Arc<AtomicBool>,
    /// It answers 503 once more, and takes the head.
    loses: Arc<AtomicBool>,
    config: OutsideConfig,
    stop: watch::Sender<bool>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Outsider {
    async fn new() -> Self {
        let (state, away) = (Arc::<Mutex<Option<StreamState>>>::default(), Arc::new(AtomicBool::new(false)));
        let loses = Arc::new(AtomicBool::new(false));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}/prefix/", listener.local_addr().expect("address"));
        let shared = (state.clone(), away.clone(), loses.clone());
        let handler = move |request: Request<hyper::body::Incoming>| {
            let (state, away, loses) = shared.clone();
            async move {
                assert_eq!(request.uri().path(), "/prefix/add-checkpoint");
                let body = request.into_body().collect().await.expect("body").to_bytes();
                let (status, text) = match away.load(Ordering::Relaxed) {
                    true => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
                    false if loses.swap(false, Ordering::Relaxed) => {
                        assert_eq!(cosign(&state, &body).0, StatusCode::OK);
                        away.store(true, Ordering::Relaxed);
                        (StatusCode::SERVICE_UNAVAILABLE, String::new())
                    }
                    false => cosign(&state, &body),
                };
                text_answer(status, text)
            }
        };
        let (stop, shutdown) = Shutdown::new();
        let server = tokio::spawn(serve(listener, None, 4, handler, shutdown));
        let config = OutsideConfig { url, key: named(), ca_bundle: None, interval: Duration::from_millis(50) };
        Self { state, away, loses, config, stop, server }
    }

    fn learns(&self, key: PublicKey) {
        *self.state.lock().expect("the lock") = Some(StreamState::certified(key, u64::MAX));
    }

    fn is_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.server.await.expect("server").expect("a clean end");
    }
}

/// What shows heads for one leader, without a keeper.
struct Leader {
    progress: watch::Sender<Option<Progress>>,
    notes: mpsc::Receiver<String>,
    metrics: Metrics,
    unread: Unread,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Leader {
    fn new(bench: &Bench, outsider: &Outsider) -> Self {
        Self::with(bench, outsider.config.clone())
    }

    fn with(bench: &Bench, config: OutsideConfig) -> Self {
        let (progress, notes) = (watch::Sender::new(Some(there(bench))), mpsc::channel(16));
        let (stop, shutdown) = Shutdown::new();
        let (metrics, _) = Metrics::new();
        let store = Store::new(bench.api.client(), SPACE);
        let unread = Unread::new();
        let (metrics_of, seen) = (metrics.clone(), progress.subscribe());
        let shower =
            Shower { config, store, metrics: metrics_of, progress: seen, unread: unread.clone(), notes: notes.0 };
        Self { progress, notes: notes.1, metrics, unread, stop, task: tokio::spawn(shower.run(shutdown)) }
    }

    fn sees(&self, bench: &Bench) {
        self.progress.send_replace(Some(there(bench)));
    }

    async fn cosigned(&mut self) -> u64 {
        let note = tokio::time::timeout(Duration::from_secs(60), self.notes.recv()).await.expect("in time");
        SignedNote::parse(&note.expect("a note")).expect("a note").checkpoint.size
    }

    fn errors(&self) -> u64 {
        self.metrics.ledger_outside.get_or_create(&ResultLabels { result: "error" }).get()
    }

    /// Until it has asked in vain once more, for what it sees now.
    async fn asks(&self) {
        let errors = self.errors();
        until("it was asked", || self.errors() > errors + 1).await;
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.expect("a clean end");
    }
}

/// Which blocks there are.
fn there(bench: &Bench) -> Progress {
    let numbers = numbers(bench);
    let sid = bench.roots().ledgers[0].name.parse().expect("a name");
    Progress { sid, oldest: numbers[0], next: numbers[numbers.len() - 1] + 1 }
}

fn numbers(bench: &Bench) -> Vec<u64> {
    let paths = bench.api.paths(&format!("{MAPS}/testimony-ledger-"));
    let mut numbers: Vec<u64> = paths.iter().filter_map(|path| path.rsplit('-').next()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// All but the newest block go.
fn old_ones_go(bench: &Bench) {
    let numbers = numbers(bench);
    numbers.iter().rev().skip(1).for_each(|number| bench.api.delete(&format!("{MAPS}/testimony-ledger-{number}")));
}

async fn one_more(bench: &Bench, name: &str) {
    let before = numbers(bench).last().copied();
    pod(&bench.state, name, true);
    until("a block", || numbers(bench).last().copied() > before).await;
}

#[tokio::test]
async fn w3_a_witness_that_was_away_for_longer_than_blocks_are_kept_is_used_again() {
    let outsider = Outsider::new().await;
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    until("roots and a block", || bench.has_roots() && !numbers(&bench).is_empty()).await;
    outsider.learns(bench.roots().ledgers[0].key);
    let mut first = Leader::new(&bench, &outsider);
    let known = first.cosigned().await;
    outsider.is_away(true);
    one_more(&bench, "b").await;
    first.sees(&bench);
    until("it was asked", || first.errors() > 1).await;
    old_ones_go(&bench);
    one_more(&bench, "c").await;
    first.sees(&bench);
    first.asks().await;
    outsider.is_away(false);
    let later = first.cosigned().await;
    assert!(later > known, "{later} {known}");
    // The same with another leader: what the one before knew stands in the cluster.
    outsider.is_away(true);
    one_more(&bench, "d").await;
    first.sees(&bench);
    first.asks().await;
    first.end().await;
    old_ones_go(&bench);
    one_more(&bench, "e").await;
    outsider.is_away(false);
    let mut second = Leader::new(&bench, &outsider);
    assert!(second.cosigned().await > later);
    assert_eq!(second.errors(), 0);
    second.end().await;
    bench.end().await;
    outsider.end().await;
}

#[tokio::test]
async fn w3_a_witness_whose_answer_was_lost_and_that_stays_away_is_used_again() {
    let outsider = Outsider::new().await;
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    until("roots and a block", || bench.has_roots() && !numbers(&bench).is_empty()).await;
    outsider.learns(bench.roots().ledgers[0].key);
    let mut leader = Leader::new(&bench, &outsider);
    let mut known = leader.cosigned().await;
    for (name, more, another_leader) in [("b", "c", false), ("d", "e", true)] {
        outsider.loses.store(true, Ordering::Relaxed);
        one_more(&bench, name).await;
        leader.sees(&bench);
        until("its answer is lost", || outsider.away.load(Ordering::Relaxed)).await;
        leader.asks().await;
        old_ones_go(&bench);
        one_more(&bench, more).await;
        leader.sees(&bench);
        leader.asks().await;
        if another_leader {
            leader.end().await;
            old_ones_go(&bench);
            one_more(&bench, "f").await;
            leader = Leader::new(&bench, &outsider);
        }
        outsider.is_away(false);
        // The head whose answer was lost, and then the newest.
        for _ in 0..2 {
            let later = leader.cosigned().await;
            assert!(later > known, "{later} {known}");
            known = later;
        }
    }
    leader.end().await;
    bench.end().await;
    outsider.end().await;
}

#[tokio::test(start_paused = true)]
async fn w3_blocks_are_followed_however_long_it_is_from_head_to_head() {
    let bench = Bench::new(FakeApi::default());
    pod(&bench.state, "a", true);
    bench.until("roots and a block", |bench| bench.has_roots() && !numbers(bench).is_empty()).await;
    // Nobody is there.
    let url = "http://127.0.0.1:1".to_owned();
    let interval = Duration::from_secs(86_400);
    let leader = Leader::with(&bench, OutsideConfig { url, key: named(), ca_bundle: None, interval });
    bench.until("it was asked", |_| leader.errors() == 1).await;
    for name in ["b", "c"] {
        one_more(&bench, name).await;
        leader.sees(&bench);
        let next = there(&bench).next;
        bench.until("the block is read", |_| leader.unread.first() >= next).await;
        let kept =
            bench.api.get(&format!("{MAPS}/testimony-ledger-outside")).expect("the walk")["data"]["walk"].clone();
        assert!(kept.as_str().expect("text").contains(&format!("\"nextBlock\":{next}")), "{kept}");
        old_ones_go(&bench);
    }
    assert_eq!(leader.errors(), 1, "it was not asked again");
    leader.end().await;
    bench.end().await;
}

#[tokio::test]
async fn w3_what_a_witness_outside_cosigned_stands_in_the_ledger_across_a_restart() {
    let outsider = Outsider::new().await;
    let config = outsider.config.clone();
    let mut bench = Bench::with_outside(FakeApi::default(), config.clone());
    pod(&bench.state, "a", true);
    until("an error is told", || bench.outside_counted("error") > 0).await;
    // The ledger's key reaches the witness, by whoever runs it.
    let ledger = bench.roots().ledgers[0].clone();
    outsider.learns(ledger.key);
    let mut sizes = Vec::new();
    for (round, name) in ["b", "c"].into_iter().enumerate() {
        pod(&bench.state, name, true);
        let before = sizes.last().copied().unwrap_or(0);
        until("a head is cosigned", || last_cosigned(&bench) > before).await;
        sizes.push(last_cosigned(&bench));
        let summary = bench.read();
        assert_eq!(summary.unproved, 0, "round {round}");
        bench = bench.restarted(config.clone()).await;
    }
    assert!(sizes[1] > sizes[0], "{sizes:?}");
    bench.end().await;
    outsider.end().await;
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Entries under the newest head of which the ledger says that the witness cosigned it; 0: none.
fn last_cosigned(bench: &Bench) -> u64 {
    let mut sights: Vec<Sight> = bench.whole_blocks().iter().map(|block| Sight::of(block, &named())).collect();
    begin_with(&mut sights, None).map_or(0, |(_, wanted)| wanted)
}
