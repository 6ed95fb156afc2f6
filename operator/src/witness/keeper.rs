//! Keeps the ledger: loads it, commits a block for each interval, removes old blocks, publishes the roots.
//!
//! A ledger that cannot be read is never written on: the witness says so and answers 503, while traffic and recording go on.

use super::desk::{Desk, Reply};
use super::export::Progress;
use super::http::{Ask, Asked, Wanted, WitnessDoor};
use super::keys::{KeyError, WitnessKeys};
use super::retain::{Kept, Unread, goes};
use super::store::{Standing, Store, StoreError, Stored};
use crate::certs::Authority;
use crate::inject::ExcludedNamespaces;
use crate::metrics::{Metrics, ResultLabels, StateLabels};
use crate::serve::Shutdown;
use crate::state::State;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use kube::Client;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use testimony_core::evidence::ledger::{Book, HEARTBEAT_SECONDS, LedgerError, Proposed, ledger_id};
use testimony_core::evidence::roots::{NamedKey, Roots};
use testimony_core::evidence::stream::NotAStream;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Time before a failed load or commit is tried again, in seconds.
const RETRY_SECONDS: u64 = 2;

/// Attempts to commit one block before the ledger is read anew.
const COMMIT_ATTEMPTS_MAX: u32 = 30;

/// Most blocks that are removed at a time.
const REMOVE_MAX: usize = 32;

/// Time between two looks at the roots, in seconds.
const ROOTS_SECONDS: u64 = 30;

/// Where the ledger stands.
#[derive(Clone, Debug)]
pub struct KeeperConfig {
    /// The operator's namespace.
    pub namespace: String,
    /// Name of the Secret with the keys.
    pub secret: String,
    /// Namespaces that are never touched.
    pub excluded: ExcludedNamespaces,
}

/// Why the ledger is read anew.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the ledger is not whole, and nothing is written on it ({0}): see \"Starting over\" in docs/witness.md")]
    Ledger(#[from] LedgerError),
    #[error("the namespace kube-system is not known yet")]
    NoCluster,
    #[error("the ledger cannot be named: {0}")]
    Name(#[from] NotAStream),
    #[error("no randomness")]
    Random,
    #[error("block {0} was written by another keeper")]
    Others(u64),
    #[error("block {0} was removed long ago: other keepers went on meanwhile")]
    Behind(u64),
}

/// The authority in force, and the PEM of all that clients must accept.
pub type Authorities = (watch::Receiver<Option<Arc<Authority>>>, watch::Receiver<Option<Arc<str>>>);

/// What a witness outside cosigned waits here for the next block.
const NOTES_MAX: usize = 4;

/// Keeps the ledger.
pub struct Keeper {
    config: KeeperConfig,
    client: Client,
    store: Store,
    state: Arc<State>,
    metrics: Metrics,
    authority: watch::Receiver<Option<Arc<Authority>>>,
    bundle: watch::Receiver<Option<Arc<str>>>,
    door: WitnessDoor,
    inbox: mpsc::Receiver<Asked>,
    progress: watch::Sender<Option<Progress>>,
    unread: Unread,
    notes: (mpsc::Sender<String>, mpsc::Receiver<String>),
}

/// Blocks at the API server: number and bytes.
type Held = VecDeque<(u64, usize)>;

impl Keeper {
    /// A keeper that answers what comes in by `inbox`, which belongs to `door`.
    pub fn new(
        config: KeeperConfig,
        client: Client,
        (state, metrics): (Arc<State>, Metrics),
        (authority, bundle): Authorities,
        (door, inbox): (WitnessDoor, mpsc::Receiver<Asked>),
    ) -> Self {
        let store = Store::new(client.clone(), &config.namespace);
        let progress = watch::Sender::new(None);
        let (notes, unread) = (mpsc::channel(NOTES_MAX), Unread::new());
        Self { config, client, store, state, metrics, authority, bundle, door, inbox, progress, unread, notes }
    }

    /// Where its blocks are, and which there are.
    pub fn blocks(&self) -> (Store, watch::Receiver<Option<Progress>>) {
        (self.store.clone(), self.progress.subscribe())
    }

    /// Where those who send blocks on say which they have.
    pub fn unread(&self) -> Unread {
        self.unread.clone()
    }

    /// Takes heads that a witness outside cosigned.
    pub fn notes(&self) -> mpsc::Sender<String> {
        self.notes.0.clone()
    }

    /// Keeps the ledger until the signal to stop. Errors are logged, counted, and tried again.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        loop {
            let failure = match self.load().await {
                Ok((desk, held)) => {
                    tracing::info!(ledger = %desk.book().sid(), entries = desk.book().size(), "keeping the ledger");
                    match self.keep(desk, held, &mut shutdown).await {
                        Ok(()) => return,
                        Err(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            self.metrics.ledger_blocks.get_or_create(&ResultLabels { result: "reload" }).inc();
            tracing::error!(error = %failure, "the ledger is read anew; streams are not cosigned meanwhile");
            self.refuse_all("the ledger is being read anew");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(RETRY_SECONDS)) => {}
                () = shutdown.wait() => return,
            }
        }
    }

    fn refuse_all(&mut self, why: &'static str) {
        while let Ok((_, reply)) = self.inbox.try_recv() {
            let _ = reply.send(Reply::Later(why));
        }
    }

    async fn load(&self) -> Result<(Desk, Held), Failure> {
        let namespace = &self.config.namespace;
        let cluster_uid = self.state.index().cluster_uid().map(str::to_owned).ok_or(Failure::NoCluster)?;
        let keys = WitnessKeys::load(&self.client, namespace, &self.config.secret).await?;
        let outlines = self.store.outlines().await?;
        let held = outlines.iter().map(|outline| (outline.number, outline.bytes)).collect();
        let book = match self.store.book::<Failure>(&outlines, keys.public()).await? {
            Some(book) => book,
            None => Book::new(ledger_id(&cluster_uid, namespace, random()?)?, keys.public()),
        };
        Ok((Desk::new(book, keys, &cluster_uid, namespace), held))
    }

    /// Answers and commits until the signal to stop.
    async fn keep(&mut self, mut desk: Desk, mut held: Held, shutdown: &mut Shutdown) -> Result<(), Failure> {
        let mut next = Instant::now();
        let mut roots_at = Instant::now();
        loop {
            tokio::select! {
                asked = self.inbox.recv() => match asked {
                    Some(asked) => self.answer(&mut desk, asked),
                    None => return Ok(()),
                },
                Some(note) = self.notes.1.recv() => desk.witnessed(note),
                () = tokio::time::sleep_until(next) => {
                    if Instant::now() >= roots_at {
                        self.publish(&desk).await;
                        roots_at = Instant::now() + Duration::from_secs(ROOTS_SECONDS);
                    }
                    if !self.commit(&mut desk, &mut held, shutdown).await? {
                        return Ok(());
                    }
                    self.remove(&desk, &mut held).await;
                    self.tell(&desk, &held);
                    next = Instant::now() + desk.interval();
                }
                () = shutdown.wait() => return Ok(()),
            }
        }
    }

    fn answer(&self, desk: &mut Desk, (wanted, reply): Asked) {
        let (identity, ask) = match wanted {
            Wanted::Of(identity, ask) => (identity, ask),
            Wanted::Prune(removal, orders) => return desk.prune(removal, orders, reply),
        };
        let now = OffsetDateTime::now_utc();
        match ask {
            Ask::Certify { injection_id, sid, key } => {
                let authority = self.authority.borrow().clone();
                let index = self.state.index();
                desk.certify((&identity, &injection_id, sid, key), &index, authority.as_deref(), now, reply);
            }
            Ask::Unwrap { streams, keys } => desk.unwrap(&identity, &streams, &keys, reply),
            Ask::Abandon(row) => desk.abandon(&identity, row, reply),
            Ask::AddCheckpoint(request) => desk.add_checkpoint(&identity, &request, now_ns() / 1_000_000_000, reply),
        }
    }

    /// Commits the next block, if there is something to say; `false`: the signal to stop came first.
    async fn commit(&self, desk: &mut Desk, held: &mut Held, shutdown: &mut Shutdown) -> Result<bool, Failure> {
        let heartbeat_ns = HEARTBEAT_SECONDS.saturating_mul(1_000_000_000);
        let proposed = desk.propose(&self.state.index(), &self.config.excluded, now_ns(), heartbeat_ns);
        let Some(proposed) = proposed else { return Ok(true) };
        if !self.create(&proposed, shutdown).await? {
            return Ok(false);
        }
        let dropped = proposed.dropped.len();
        if dropped > 0 {
            tracing::error!(dropped, "facts that can stand in no entry of the ledger are left out");
            self.metrics.ledger_dropped.inc_by(u64::try_from(dropped).unwrap_or(u64::MAX));
        }
        held.push_back((proposed.block().number, proposed.block().bytes()));
        desk.committed(proposed.committed(), now_ns() / 1_000_000_000)?;
        self.show(desk, held);
        Ok(true)
    }

    /// Creates the block's object. An attempt whose answer was lost is told from another keeper's by what is there.
    async fn create(&self, proposed: &Proposed, shutdown: &mut Shutdown) -> Result<bool, Failure> {
        let number = proposed.block().number;
        let count = |result| self.metrics.ledger_blocks.get_or_create(&ResultLabels { result }).inc();
        let mut attempts = 0;
        loop {
            let stored = match self.store.create(proposed.block()).await {
                Ok(Stored::Ours) => self.store.standing(proposed.block()).await.map(Some),
                Ok(Stored::Others) => Ok(None),
                Err(error) => Err(error),
            };
            match stored {
                Ok(Some(Standing::Stands)) => {
                    count("committed");
                    return Ok(true);
                }
                Ok(Some(Standing::Stray)) => {
                    count("others");
                    // Where that fails, reading passes it over: it stands ahead of all that is restated.
                    if let Err(error) = self.store.remove(number).await {
                        tracing::warn!(%error, block = number, "a block that belongs to nothing was not removed");
                    }
                    return Err(Failure::Behind(number));
                }
                Ok(None) => {
                    count("others");
                    return Err(Failure::Others(number));
                }
                Err(error) => {
                    count("error");
                    attempts += 1;
                    if attempts >= COMMIT_ATTEMPTS_MAX {
                        return Err(error.into());
                    }
                    tracing::warn!(%error, block = number, "block not committed, trying again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(RETRY_SECONDS)) => {}
                () = shutdown.wait() => return Ok(false),
            }
        }
    }

    fn show(&self, desk: &Desk, held: &Held) {
        let figures = desk.figures();
        let gauge = |state, count: usize| {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.metrics.streams.get_or_create(&StateLabels { state }).set(count);
        };
        gauge("live", figures.live);
        gauge("silent", figures.silent);
        self.metrics.ledger_entries.set(i64::try_from(figures.entries).unwrap_or(i64::MAX));
        let kept: usize = held.iter().map(|(_, bytes)| bytes).sum();
        self.metrics.ledger_bytes.set(i64::try_from(kept).unwrap_or(i64::MAX));
        self.metrics.ledger_interval.set(desk.interval().as_secs_f64());
        self.metrics.ledger_committed_at.set(i64::try_from(now_ns() / 1_000_000_000).unwrap_or(i64::MAX));
        self.door.tell_interval(desk.interval());
    }

    /// Says which blocks there are to those who send them on.
    fn tell(&self, desk: &Desk, held: &Held) {
        let next = desk.book().next_block();
        let oldest = held.front().map_or(next, |(number, _)| *number);
        let progress = Some(Progress { sid: desk.book().sid().clone(), oldest, next });
        self.progress.send_if_modified(|held| {
            let news = *held != progress;
            *held = progress;
            news
        });
    }

    /// Removes blocks that need not be kept any more, oldest first.
    async fn remove(&self, desk: &Desk, held: &mut Held) {
        let mut kept: usize = held.iter().map(|(_, bytes)| bytes).sum();
        for _ in 0..REMOVE_MAX {
            let Some(&(number, bytes)) = held.front() else { return };
            let there = Kept { blocks: held.len(), bytes: kept };
            if !goes(number, desk.book().readable_from(), there, self.unread.first()) {
                return;
            }
            if let Err(error) = self.store.remove(number).await {
                tracing::warn!(%error, block = number, "old block not removed, trying again with the next");
                return;
            }
            held.pop_front();
            kept = kept.saturating_sub(bytes);
        }
    }

    async fn publish(&self, desk: &Desk) {
        let Some(bundle) = self.bundle.borrow().clone() else { return };
        let keys = desk.book().keys();
        let roots = Roots {
            ledgers: vec![NamedKey { name: desk.book().sid().to_string(), key: keys.ledger }],
            witnesses: vec![NamedKey { name: desk.name().to_owned(), key: keys.witness }],
            authorities: bundle.to_string(),
        };
        if let Err(error) = self.store.publish_roots(roots).await {
            tracing::warn!(%error, "roots not published, trying again");
        }
    }
}

fn random() -> Result<u128, Failure> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Failure::Random)?;
    Ok(u128::from_be_bytes(bytes))
}

/// Nanoseconds since the epoch.
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
