//! Shows the ledger's newest head to a C2SP witness outside of the cluster, each interval, and brings what it cosigned back
//! into the ledger (W3). The witness needs to know one key, the ledger's, and never more than heads and hashes.

use super::export::{Progress, https};
use super::store::{Store, StoreError};
use crate::metrics::{Metrics, ResultLabels};
use crate::serve::Shutdown;
use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, header};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use std::time::Duration;
use testimony_core::evidence::ledger::outside::{Answer, Outside};
use testimony_core::evidence::ledger::{Block, Fact, LedgerError};
use testimony_core::evidence::note::SignedNote;
use testimony_core::evidence::roots::NamedKey;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Deadline of one request, in seconds.
const REQUEST_SECONDS_MAX: u64 = 30;

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Where the witness is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutsideConfig {
    /// Its submission prefix: `add-checkpoint` is added.
    pub url: String,
    /// Its key.
    pub key: NamedKey,
    /// Authorities of its certificate, in PEM.
    pub ca_bundle: Option<String>,
    /// Time between two heads that it is shown.
    pub interval: Duration,
}

/// Shows heads.
pub struct Shower {
    /// Where the witness is.
    pub config: OutsideConfig,
    /// Where blocks are.
    pub store: Store,
    /// Counters.
    pub metrics: Metrics,
    /// Which blocks there are.
    pub progress: watch::Receiver<Option<Progress>>,
    /// Takes what it cosigned into the ledger.
    pub notes: mpsc::Sender<String>,
}

/// Why a head was not shown.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    #[error("{0:#}")]
    Http(anyhow::Error),
    #[error("{0}")]
    Refused(String),
    #[error(
        "it knows {0} entries, and no head of this ledger has that size: another ledger was shown to it under the same key, or \
         this one went back"
    )]
    Astray(u64),
}

impl Shower {
    /// Shows heads until the signal to stop.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        let client = match https(self.config.ca_bundle.as_deref(), &self.config.url) {
            Ok(client) => client,
            Err(error) => {
                let (url, error) = (&self.config.url, format!("{error:#}"));
                tracing::error!(url, error, "the ledger is not shown to the witness outside");
                return;
            }
        };
        let mut walk: Option<Outside> = None;
        let mut next = Instant::now();
        let mut failing = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = shutdown.wait() => return,
            }
            let Some(progress) = self.progress.borrow_and_update().clone() else {
                // The ledger is not loaded yet.
                tokio::select! {
                    changed = self.progress.changed() => if changed.is_err() { return },
                    () = shutdown.wait() => return,
                }
                continue;
            };
            next = Instant::now() + self.config.interval;
            let result = self.show(&client, &mut walk, &progress).await;
            let count = |result| self.metrics.ledger_outside.get_or_create(&ResultLabels { result }).inc();
            match result {
                Ok(None) => {}
                Ok(Some(note)) => {
                    count("cosigned");
                    failing = false;
                    if let Ok(seconds) = i64::try_from(cosigned_at(&note, &self.config.key)) {
                        self.metrics.ledger_outside_at.set(seconds);
                    }
                    if self.notes.send(note).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    count("error");
                    // Whatever it was, the next walk begins with what the cluster holds.
                    walk = None;
                    if !std::mem::replace(&mut failing, true) {
                        let url = &self.config.url;
                        tracing::warn!(url, %error, "the witness outside did not cosign the ledger, trying again");
                    }
                }
            }
        }
    }

    /// Shows the newest head; `None`: there was nothing new.
    async fn show(
        &self,
        client: &Http,
        walk: &mut Option<Outside>,
        progress: &Progress,
    ) -> Result<Option<String>, Failure> {
        let mut wanted = None;
        // Once more, where the witness says that it stands elsewhere.
        for _ in 0..2 {
            let mut at = match walk.take() {
                Some(walk) => walk,
                None => self.begin(wanted).await?,
            };
            while at.next_block() < progress.next {
                let number = at.next_block();
                let Some(block) = self.store.get(number).await? else { break };
                at.push(&block)?;
            }
            let Some(request) = at.request() else {
                return match at.astray() {
                    Some(size) => Err(Failure::Astray(size)),
                    None => {
                        *walk = Some(at);
                        Ok(None)
                    }
                };
            };
            let (status, body) = self.ask(client, request).await.map_err(Failure::Http)?;
            match at.answered(status, &body) {
                Answer::Cosigned(note) => {
                    *walk = Some(at);
                    return Ok(Some(note));
                }
                Answer::Elsewhere(size) => wanted = Some(size),
                Answer::Refused(why) => return Err(Failure::Refused(why)),
            }
        }
        Err(Failure::Astray(wanted.unwrap_or_default()))
    }

    /// From the newest block where reading may begin and that is not beyond where the witness stands: as it says itself, or
    /// as the ledger has it.
    async fn begin(&self, wanted: Option<u64>) -> Result<Outside, Failure> {
        let blocks = self.store.load().await?;
        let wanted = wanted.unwrap_or_else(|| last_cosigned(&blocks, &self.config.key));
        let first = |block: &&Block| block.begins().is_some_and(|chain| wanted == 0 || chain.range.end() <= wanted);
        let first = blocks.iter().rev().find(first).or(blocks.first());
        let first = first.ok_or_else(|| Failure::Refused("the ledger has no block yet".to_owned()))?;
        Ok(Outside::begin(first, wanted, self.config.key.clone())?)
    }

    async fn ask(&self, client: &Http, body: String) -> anyhow::Result<(u16, String)> {
        let url = format!("{}/add-checkpoint", self.config.url.trim_end_matches('/'));
        let request = Request::post(url)
            .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .body(Full::new(Bytes::from(body)))?;
        let exchange = async {
            let answer = client.request(request).await?;
            let (status, body) = (answer.status(), answer.into_body());
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?;
            Ok::<_, anyhow::Error>((status.as_u16(), String::from_utf8_lossy(&body.to_bytes()).into_owned()))
        };
        let deadline = Duration::from_secs(REQUEST_SECONDS_MAX);
        tokio::time::timeout(deadline, exchange).await.context("no answer in time")?
    }
}

type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Entries under the newest head of which the ledger says that this key cosigned it; 0: none.
fn last_cosigned(blocks: &[Block], key: &NamedKey) -> u64 {
    let facts = blocks.iter().rev().flat_map(|block| block.facts().into_iter().rev());
    let notes = facts.filter_map(|fact| match fact {
        Fact::Witnessed(note) => SignedNote::parse(&note).ok(),
        _ => None,
    });
    let mut of_key = notes.filter(|note| note.cosigned_at(&key.name, &key.key).is_some());
    of_key.next().map_or(0, |note| note.checkpoint.size)
}

fn cosigned_at(note: &str, key: &NamedKey) -> u64 {
    SignedNote::parse(note).ok().and_then(|note| note.cosigned_at(&key.name, &key.key)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::bench::{Bench, pod};
    use super::*;
    use crate::serve::{serve, text_answer};
    use crate::testing::FakeApi;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use hyper::StatusCode;
    use std::sync::{Arc, Mutex};
    use testimony_core::evidence::note::{PublicKey, Signature};
    use testimony_core::evidence::witness::{Refusal, Request as AddCheckpoint, StreamState, judge};
    use tokio::net::TcpListener;

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

    #[tokio::test]
    async fn w3_what_a_witness_outside_cosigned_stands_in_the_ledger_across_a_restart() {
        let state: Arc<Mutex<Option<StreamState>>> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}/prefix/", listener.local_addr().expect("address"));
        let shared = state.clone();
        let handler = move |request: Request<hyper::body::Incoming>| {
            let shared = shared.clone();
            async move {
                assert_eq!(request.uri().path(), "/prefix/add-checkpoint");
                let body = request.into_body().collect().await.expect("body").to_bytes();
                let (status, text) = cosign(&shared, &body);
                text_answer(status, text)
            }
        };
        let (stop, shutdown) = Shutdown::new();
        let server = tokio::spawn(serve(listener, None, 4, handler, shutdown));
        let interval = Duration::from_millis(50);
        let config = OutsideConfig { url, key: named(), ca_bundle: None, interval };
        let mut bench = Bench::with_outside(FakeApi::default(), config.clone());
        pod(&bench.state, "a", true);
        until("an error is told", || bench.outside_counted("error") > 0).await;
        // The ledger's key reaches the witness, by whoever runs it.
        let ledger = bench.roots().ledgers[0].clone();
        *state.lock().expect("the lock") = Some(StreamState::certified(ledger.key, u64::MAX));
        let mut sizes = Vec::new();
        for (round, name) in ["b", "c"].into_iter().enumerate() {
            pod(&bench.state, name, true);
            let before = sizes.last().copied().unwrap_or(0);
            until("a head is cosigned", || last_cosigned(&bench.whole_blocks(), &named()) > before).await;
            sizes.push(last_cosigned(&bench.whole_blocks(), &named()));
            let summary = bench.read();
            assert_eq!(summary.unproved, 0, "round {round}");
            bench = bench.restarted(config.clone()).await;
        }
        assert!(sizes[1] > sizes[0], "{sizes:?}");
        bench.end().await;
        stop.send_replace(true);
        server.await.expect("server").expect("a clean end");
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < end, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
