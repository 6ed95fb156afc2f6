//! Shows the ledger's newest head to a C2SP witness outside of the cluster, each interval, and brings what it cosigned back
//! into the ledger (W3). The witness needs to know one key, the ledger's, and never more than heads and hashes.

use super::export::{Progress, https};
use super::retain::{ReaderOf, Unread};
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

/// Time between two looks at new blocks, in seconds, however long it is from head to head: they are not there for ever.
const FOLLOW_SECONDS: u64 = 60;

/// Requests of one round: a head whose answer was lost, the same once more, and from where the witness says that it stands.
const ROUND_REQUESTS_MAX: usize = 3;

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
    /// Where it is said which blocks were read.
    pub unread: Unread,
    /// Takes what it cosigned into the ledger.
    pub notes: mpsc::Sender<String>,
}

/// What the task remembers.
#[derive(Default)]
struct Memory {
    walk: Option<Outside>,
    /// What stands in the cluster for the next leader.
    kept: String,
    /// What the leader before kept was looked at.
    looked: bool,
    /// The witness did not cosign, and that was told.
    failing: bool,
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
    #[error("the ledger has no block yet")]
    NoBlock,
    #[error("block {0} of the ledger was removed before it was read for the witness")]
    Removed(u64),
    #[error(
        "it knows {0} entries, and no head of this ledger has that size: another ledger was shown to it under the same key, or \
         this one went back"
    )]
    Astray(u64),
}

impl Failure {
    /// Whether the walk goes on from where it is. It need not begin anew because nobody answers: after a while the blocks to
    /// begin with are removed, and what the walk knows is all that leads from the witness's head to the newest.
    fn keeps_walk(&self) -> bool {
        match self {
            Self::Store(_) | Self::Http(_) | Self::Refused(_) | Self::NoBlock => true,
            Self::Ledger(_) | Self::Removed(_) | Self::Astray(_) => false,
        }
    }

    /// The same of a walk that was begun beside the one that there is, which stays.
    fn elsewhere(self) -> Self {
        if self.keeps_walk() { self } else { Self::Refused(self.to_string()) }
    }
}

impl Shower {
    /// Shows heads until the signal to stop.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        let client = match https(self.config.ca_bundle.as_deref()) {
            Ok(client) => client,
            Err(error) => {
                let (url, error) = (&self.config.url, format!("{error:#}"));
                tracing::error!(url, error, "the ledger is not shown to the witness outside");
                return;
            }
        };
        // Until it is known where the leader before was, the witness may lack all.
        self.unread.from(ReaderOf::Outside, Some(0));
        let mut memory = Memory::default();
        let mut next_head = Instant::now();
        let mut next = next_head;
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
            let is_due = Instant::now() >= next_head;
            if is_due {
                next_head = Instant::now() + self.config.interval;
            }
            next = next_head.min(Instant::now() + Duration::from_secs(FOLLOW_SECONDS));
            // Until that is known nothing is begun, or what is kept would be lost.
            memory.looked = memory.looked || self.resume(&mut memory.walk, &progress).await;
            if !memory.looked {
                continue;
            }
            let result = match is_due {
                true => self.show(&client, &mut memory, &progress).await,
                false => self.read_on(&mut memory.walk, &progress).await.map(|()| None),
            };
            let said = self.said(result, &mut memory);
            self.keep(memory.walk.as_ref(), &mut memory.kept).await;
            self.unread.from(ReaderOf::Outside, memory.walk.as_ref().map(Outside::next_block));
            if let Some(note) = said
                && self.notes.send(note).await.is_err()
            {
                return;
            }
        }
    }

    /// Tells what came of it; a note that was cosigned.
    fn said(&self, result: Result<Option<String>, Failure>, memory: &mut Memory) -> Option<String> {
        let count = |result| self.metrics.ledger_outside.get_or_create(&ResultLabels { result }).inc();
        match result {
            Ok(None) => None,
            Ok(Some(note)) => {
                count("cosigned");
                memory.failing = false;
                if let Ok(seconds) = i64::try_from(cosigned_at(&note, &self.config.key)) {
                    self.metrics.ledger_outside_at.set(seconds);
                }
                Some(note)
            }
            Err(error) => {
                count("error");
                if !error.keeps_walk() {
                    memory.walk = None;
                }
                if !std::mem::replace(&mut memory.failing, true) {
                    let url = &self.config.url;
                    tracing::warn!(url, %error, "the witness outside did not cosign the ledger, trying again");
                }
                None
            }
        }
    }

    /// Takes up the walk of the leader before, if it kept one of this ledger; `false`: that is not known.
    async fn resume(&self, walk: &mut Option<Outside>, progress: &Progress) -> bool {
        match self.store.walk().await {
            Ok(text) => {
                *walk = text.and_then(|text| Outside::restored(&text, &progress.sid, &self.config.key));
                true
            }
            Err(error) => {
                tracing::warn!(%error, "what the leader before kept for the witness outside is not read, trying again");
                false
            }
        }
    }

    /// Keeps the walk for the next leader.
    async fn keep(&self, walk: Option<&Outside>, kept: &mut String) {
        let Some(text) = walk.map(Outside::kept).filter(|text| text != kept) else { return };
        match self.store.keep_walk(&text).await {
            Ok(()) => *kept = text,
            Err(error) => tracing::warn!(%error, "what the next leader needs for the witness outside is not kept"),
        }
    }

    /// Shows the head that waits for its answer, or the newest; `None`: there was nothing new.
    async fn show(&self, client: &Http, memory: &mut Memory, progress: &Progress) -> Result<Option<String>, Failure> {
        let mut stands = 0;
        for _ in 0..ROUND_REQUESTS_MAX {
            self.read_on(&mut memory.walk, progress).await?;
            let at = match &mut memory.walk {
                Some(at) => at,
                None => memory.walk.insert(self.begin(None, progress).await?),
            };
            let Some(request) = at.request() else {
                return at.astray().map_or(Ok(None), |size| Err(Failure::Astray(size)));
            };
            // Whoever comes next must know what the witness may have taken.
            self.keep(memory.walk.as_ref(), &mut memory.kept).await;
            let (status, body) = self.ask(client, request).await.map_err(Failure::Http)?;
            let Some(at) = &mut memory.walk else { break };
            match at.answered(status, &body) {
                Answer::Cosigned(note) => return Ok(Some(note)),
                Answer::Known => {}
                Answer::Elsewhere(size) => {
                    stands = size;
                    // Where the blocks do not lead there, what is known stays: the witness may come back to it.
                    memory.walk = Some(self.begin(Some(size), progress).await.map_err(Failure::elsewhere)?);
                }
                Answer::Refused(why) => return Err(Failure::Refused(why)),
            }
        }
        Err(Failure::Astray(stands).elsewhere())
    }

    /// Walks on to the newest block, if there is a walk of this ledger.
    async fn read_on(&self, walk: &mut Option<Outside>, progress: &Progress) -> Result<(), Failure> {
        // Another ledger was begun.
        if walk.as_ref().is_some_and(|walk| *walk.ledger() != progress.sid) {
            *walk = None;
        }
        match walk {
            Some(at) => self.follow(at, progress).await,
            None => Ok(()),
        }
    }

    /// Walks on to the newest block.
    async fn follow(&self, at: &mut Outside, progress: &Progress) -> Result<(), Failure> {
        while at.next_block() < progress.next {
            let number = at.next_block();
            match self.store.get(number).await? {
                Some(block) => at.push(&block)?,
                None if number < progress.oldest => return Err(Failure::Removed(number)),
                None => break,
            }
        }
        Ok(())
    }

    /// From the newest block where reading may begin and that is not beyond where the witness stands: as it says itself, or
    /// as the ledger has it. The walk has come to the newest block.
    async fn begin(&self, wanted: Option<u64>, progress: &Progress) -> Result<Outside, Failure> {
        let mut sights: Vec<Sight> = Vec::new();
        self.store.scan(|block| sights.push(Sight::of(block, &self.config.key))).await?;
        let (number, wanted) = begin_with(&mut sights, wanted).ok_or(Failure::NoBlock)?;
        let first = self.store.get(number).await?.ok_or(StoreError::Gone(number))?;
        let mut at = Outside::begin(&first, wanted, self.config.key.clone())?;
        self.follow(&mut at, progress).await?;
        at.astray().map_or(Ok(at), |size| Err(Failure::Astray(size)))
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

/// What a block says to whoever looks for where to begin.
struct Sight {
    number: u64,
    /// Entries ahead of it, where reading may begin with it.
    begins: Option<u64>,
    /// Entries under the newest head of which it says that the witness cosigned it.
    cosigned: Option<u64>,
}

impl Sight {
    fn of(block: &Block, key: &NamedKey) -> Self {
        let notes = block.facts().into_iter().rev().filter_map(|fact| match fact {
            Fact::Witnessed(note) => SignedNote::parse(&note).ok(),
            _ => None,
        });
        let cosigned = notes.filter(|note| note.cosigned_at(&key.name, &key.key).is_some());
        let cosigned = cosigned.map(|note| note.checkpoint.size).next();
        Self { number: block.number, begins: block.begins().map(|chain| chain.range.end()), cosigned }
    }
}

/// Number of the block to begin with, and how many entries the witness knows: as it says itself, or as the ledger has it.
fn begin_with(sights: &mut [Sight], wanted: Option<u64>) -> Option<(u64, u64)> {
    sights.sort_by_key(|sight| std::cmp::Reverse(sight.number));
    let wanted = wanted.or_else(|| sights.iter().find_map(|sight| sight.cosigned)).unwrap_or_default();
    let may = |sight: &&Sight| sight.begins.is_some_and(|before| wanted == 0 || before <= wanted);
    let first = sights.iter().find(may).or(sights.last())?;
    Some((first.number, wanted))
}

fn cosigned_at(note: &str, key: &NamedKey) -> u64 {
    SignedNote::parse(note).ok().and_then(|note| note.cosigned_at(&key.name, &key.key)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
