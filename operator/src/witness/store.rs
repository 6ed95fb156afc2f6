//! The ledger at the API server: one create-only ConfigMap for each block, named by its number. Who comes second with a number
//! has lost, whatever a Lease says (W1).

use super::authorities::joined;
use crate::pages::page;
use crate::plain::Plain;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use std::collections::BTreeMap;
use testimony_core::evidence::ledger::outline::start;
use testimony_core::evidence::ledger::{Block, Book, Keys, LedgerError, Outline};
use testimony_core::evidence::roots::Roots;
use testimony_core::evidence::stream::StreamId;

/// What the names of blocks begin with; the number follows.
pub const BLOCK_PREFIX: &str = "testimony-ledger-";

/// Label of each block.
pub const BLOCK_LABEL: &str = "testimony.dev/ledger";

/// Name of the ConfigMap with what a verification must be given.
pub const ROOTS: &str = "testimony-roots";

/// Name of the ConfigMap that says how far each sink is: a [`Position`] by the sink's name.
pub const POSITIONS: &str = "testimony-ledger-sent";

/// Name of the ConfigMap with a copy of the ledger's newest head, where it is asked for.
pub const HEAD: &str = "testimony-ledger-head";

/// Key of that ConfigMap: a signed note.
pub const HEAD_KEY: &str = "head";

/// Name of the ConfigMap with what the next leader must know to show the ledger to the witness outside.
pub const OUTSIDE: &str = "testimony-ledger-outside";

const WALK: &str = "walk";

/// Key of the ConfigMap with the roots.
pub const ROOTS_KEY: &str = "roots";

/// Key of the same ConfigMap: the authorities in force, in PEM, by which the operator's servers are known. The roots hold former
/// ones too, of which a key may have leaked.
pub const IN_FORCE_KEY: &str = "authorities";

/// Blocks of the first page of a list, and of one behind a page that was not small: each has at most 512 KiB, and a page is held
/// in memory as text and as objects.
const PAGE_BLOCKS_MIN: u32 = 16;

/// Most blocks of a page. Pages grow to it while they are small, as a page costs a way to the API server: at the worst, 64 MiB.
const PAGE_BLOCKS_MAX: u32 = 128;

/// A page of fewer bytes of blocks is small.
const PAGE_BYTES_SMALL: usize = 1024 * 1024;

/// Most blocks that are read: what is kept, and what is added while removal fails, for eleven days at one a second. Of each a
/// few words are in memory, some 24 bytes. Beyond it a ledger is read again once old blocks are removed by hand.
const BLOCKS_MAX: usize = 1_000_000;

const ENTRIES: &str = "entries";
const NOTE: &str = "note";

/// What became of a block.
#[derive(Debug, PartialEq, Eq)]
pub enum Stored {
    /// It stands, and it is ours.
    Ours,
    /// Another keeper has written a block of this number.
    Others,
}

/// How far a sink is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The next block's number.
    pub next: u64,
    /// Of which ledger, and to which endpoint. `None`: an operator of before wrote it, which did not say.
    pub of: Option<(StreamId, String)>,
}

impl Position {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ' ');
        let next = parts.next()?.parse().ok()?;
        let of = match (parts.next(), parts.next()) {
            (Some(ledger), Some(endpoint)) => Some((ledger.parse().ok()?, endpoint.to_owned())),
            _ => None,
        };
        Some(Self { next, of })
    }

    fn text(&self) -> String {
        match &self.of {
            Some((ledger, endpoint)) => format!("{} {ledger} {endpoint}", self.next),
            None => self.next.to_string(),
        }
    }
}

/// What a block is that was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The newest of its ledger, or such that others went on from it.
    Stands,
    /// The ledger went on without it: blocks of this number and before were removed, so that it could be created.
    Stray,
}

/// Why blocks cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The API server's.
    #[error("ConfigMaps: {}", Plain(.0))]
    Api(#[from] kube::Error),
    /// An object with the label of a block that is none.
    #[error("ConfigMap {0} is labelled {BLOCK_LABEL} and is no block: remove the label")]
    Foreign(String),
    /// A block went while the ledger was read.
    #[error("block {0} was removed meanwhile")]
    Gone(u64),
    /// More blocks than a ledger has.
    #[error("more than {BLOCKS_MAX} blocks: removal of old ones fails, see the log; remove the oldest by hand")]
    TooMany,
}

/// Blocks at the API server.
#[derive(Clone)]
pub struct Store {
    api: Api<ConfigMap>,
}

impl Store {
    /// In this namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace) }
    }

    /// Looks at each block once, in any order; a page of them is in memory at a time.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn scan(&self, mut look: impl FnMut(&Block)) -> Result<(), StoreError> {
        let mut count = 0;
        let mut limit = PAGE_BLOCKS_MIN;
        let mut params = ListParams::default().labels(&format!("{BLOCK_LABEL}=true"));
        loop {
            params = params.limit(limit);
            let page = page(&self.api, &params).await?;
            let mut bytes = 0_usize;
            for object in page.items {
                let block = block(object)?;
                bytes = bytes.saturating_add(block.bytes());
                look(&block);
                count += 1;
            }
            if count > BLOCKS_MAX {
                return Err(StoreError::TooMany);
            }
            limit = if bytes < PAGE_BYTES_SMALL { limit.saturating_mul(2) } else { 0 };
            limit = limit.clamp(PAGE_BLOCKS_MIN, PAGE_BLOCKS_MAX);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(()),
            }
        }
    }

    /// What each block is, in order of their numbers.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn outlines(&self) -> Result<Vec<Outline>, StoreError> {
        let mut outlines = Vec::new();
        self.scan(|block| outlines.push(Outline::of(block))).await?;
        outlines.sort_by_key(|outline| outline.number);
        Ok(outlines)
    }

    /// The ledger, read block by block from where reading begins; `None`: there is no block.
    ///
    /// # Errors
    /// It cannot be read, or is not whole.
    pub async fn book<E: From<StoreError> + From<LedgerError>>(
        &self,
        outlines: &[Outline],
        keys: Keys,
    ) -> Result<Option<Book>, E> {
        let mut book: Option<Book> = None;
        for outline in start(outlines)?.and_then(|at| outlines.get(at..)).into_iter().flatten() {
            let number = outline.number;
            let block = self.get(number).await?.ok_or(StoreError::Gone(number))?;
            match &mut book {
                Some(book) => book.replay(&block)?,
                None => book = Some(Book::begin(&block, keys)?),
            }
        }
        Ok(book)
    }

    /// Creates a block. May be called again with the same block when it failed: then the answer was perhaps lost, and the
    /// object that is there tells whose it is.
    ///
    /// # Errors
    /// The API server's: nothing is known of the block.
    pub async fn create(&self, block: &Block) -> Result<Stored, StoreError> {
        match self.api.create(&PostParams::default(), &object(block)).await {
            Ok(_) => Ok(Stored::Ours),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let there = self.api.get_opt(&name(block.number)).await?;
                let there = there.and_then(|object| self::block(object).ok());
                Ok(if there.as_ref() == Some(block) { Stored::Ours } else { Stored::Others })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a block.
    ///
    /// # Errors
    /// The API server's.
    pub async fn remove(&self, number: u64) -> Result<(), StoreError> {
        match self.api.delete(&name(number), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// Whether a block that was just created continues the ledger. That its number was free does not say so: a keeper that was
    /// stopped for a while creates a number that others had, and have removed. Blocks are removed oldest first, so that where
    /// the one before is there, none of its number ever was removed.
    ///
    /// # Errors
    /// See [`StoreError`]: nothing is known of it.
    pub async fn standing(&self, block: &Block) -> Result<Standing, StoreError> {
        let stands = match block.number.checked_sub(1) {
            Some(before) => self.get(before).await?.is_some_and(|before| block.follows(&before)),
            None => {
                let mut alone = true;
                self.scan(|other| alone &= other.number == block.number).await?;
                alone
            }
        };
        // Somebody else may have gone on from it, and removed what was before, while this keeper waited for its answer.
        let continued = match block.number.checked_add(1).filter(|_| !stands) {
            Some(next) => self.get(next).await?.is_some_and(|next| next.follows(block)),
            None => false,
        };
        Ok(if stands || continued { Standing::Stands } else { Standing::Stray })
    }

    /// A block, if it is there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn get(&self, number: u64) -> Result<Option<Block>, StoreError> {
        self.api.get_opt(&name(number)).await?.map(block).transpose()
    }

    /// Publishes the roots where they have changed, with the authorities in force. Authorities that were published before stay.
    ///
    /// # Errors
    /// The API server's.
    pub async fn publish_roots(&self, mut roots: Roots) -> Result<(), StoreError> {
        let make = |standing: &BTreeMap<String, String>| {
            let in_force = std::mem::take(&mut roots.authorities);
            roots.authorities = joined(&in_force, standing.get(ROOTS_KEY).map(String::as_str).unwrap_or_default());
            BTreeMap::from([(ROOTS_KEY.to_owned(), roots.encode()), (IN_FORCE_KEY.to_owned(), in_force)])
        };
        self.publish_of(ROOTS, make).await
    }

    /// Copies the ledger's newest head.
    ///
    /// # Errors
    /// The API server's.
    pub async fn publish_head(&self, note: &str) -> Result<(), StoreError> {
        self.publish(HEAD, BTreeMap::from([(HEAD_KEY.to_owned(), note.to_owned())])).await
    }

    /// What was kept for the next leader of the walk for the witness outside.
    ///
    /// # Errors
    /// The API server's.
    pub async fn walk(&self) -> Result<Option<String>, StoreError> {
        Ok(self.data(OUTSIDE).await?.remove(WALK))
    }

    /// Keeps it.
    ///
    /// # Errors
    /// The API server's.
    pub async fn keep_walk(&self, text: &str) -> Result<(), StoreError> {
        self.publish(OUTSIDE, BTreeMap::from([(WALK.to_owned(), text.to_owned())])).await
    }

    /// How far each sink is, by its name.
    ///
    /// # Errors
    /// The API server's.
    pub async fn positions(&self) -> Result<BTreeMap<String, Position>, StoreError> {
        Ok(self
            .data(POSITIONS)
            .await?
            .into_iter()
            .filter_map(|(sink, text)| Some((sink, Position::parse(&text)?)))
            .collect())
    }

    /// Writes down how far each sink is.
    ///
    /// # Errors
    /// The API server's.
    pub async fn write_positions(&self, positions: &BTreeMap<String, Position>) -> Result<(), StoreError> {
        let text = |(sink, position): (&String, &Position)| (sink.clone(), position.text());
        self.publish(POSITIONS, positions.iter().map(text).collect()).await
    }

    /// What a ConfigMap holds; nothing where it is not there.
    async fn data(&self, name: &str) -> Result<BTreeMap<String, String>, StoreError> {
        Ok(self.api.get_opt(name).await?.and_then(|object| object.data).unwrap_or_default())
    }

    /// Writes a ConfigMap where it has changed.
    async fn publish(&self, name: &str, data: BTreeMap<String, String>) -> Result<(), StoreError> {
        self.publish_of(name, |_| data).await
    }

    /// The same of what is made of what it holds. Where somebody else changes it meanwhile, it is not written.
    async fn publish_of(
        &self,
        name: &str,
        make: impl FnOnce(&BTreeMap<String, String>) -> BTreeMap<String, String>,
    ) -> Result<(), StoreError> {
        let there = self.api.get_opt(name).await?;
        let data = make(there.as_ref().and_then(|there| there.data.as_ref()).unwrap_or(&BTreeMap::new()));
        let Some(there) = there else {
            let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(labels()), ..ObjectMeta::default() };
            let object = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
            self.api.create(&PostParams::default(), &object).await?;
            return Ok(());
        };
        if there.data.as_ref() != Some(&data) {
            let object = ConfigMap { data: Some(data), ..there };
            self.api.replace(name, &PostParams::default(), &object).await?;
        }
        Ok(())
    }
}

/// Labels of what the operator makes.
pub fn labels() -> BTreeMap<String, String> {
    let labels = [("app.kubernetes.io/managed-by", "testimony-operator"), ("app.kubernetes.io/part-of", "testimony")];
    labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn name(number: u64) -> String {
    format!("{BLOCK_PREFIX}{number}")
}

fn object(block: &Block) -> ConfigMap {
    let mut labels = labels();
    labels.insert(BLOCK_LABEL.to_owned(), "true".to_owned());
    let data = [(ENTRIES, &block.entries), (NOTE, &block.note)];
    ConfigMap {
        metadata: ObjectMeta { name: Some(name(block.number)), labels: Some(labels), ..ObjectMeta::default() },
        data: Some(data.into_iter().map(|(key, text)| (key.to_owned(), text.clone())).collect()),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// The block that an object holds.
///
/// # Errors
/// It holds none.
pub fn block(object: ConfigMap) -> Result<Block, StoreError> {
    let name = object.metadata.name.unwrap_or_default();
    let number = name.strip_prefix(BLOCK_PREFIX).and_then(|number| number.parse().ok());
    let mut data = object.data.unwrap_or_default();
    match (number, data.remove(ENTRIES), data.remove(NOTE)) {
        (Some(number), Some(entries), Some(note)) => Ok(Block { number, entries, note }),
        _ => Err(StoreError::Foreign(name)),
    }
}
