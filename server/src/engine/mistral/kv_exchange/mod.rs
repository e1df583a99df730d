//! Exchanges the blocks of one model with a store that outlives the process or is shared by replicas.
//!
//! Before a prompt is computed, blocks of its beginning are fetched that the store has and the engine's cache lacks, if fetching
//! is estimated to be faster than computing. When a sequence has ended, its blocks are stored: at once if a later prompt is
//! expected to begin with them, else when a second sequence has them. The engine's thread never waits for the store here, and a
//! store that fails costs only the time to compute.
//!
//! | file | owns |
//! |---|---|
//! | `codec` | the format of a block in a store |
//! | `rates` | the estimate whether fetching is faster than computing |

mod codec;
mod rates;

use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};

use self::{codec::Codec, rates::TransferRates};
use super::{model::source::ModelSource, prefix_cache::CachedNames};
use crate::engine::{
    FetchedTokens,
    kv::{BLOCK, BlockName, KvEncoding, KvError, KvStore, Reuse},
};

/// The most bytes of blocks in the queue to the store. If it is full, more blocks wait in the paged cache.
const OUTGOING_BYTES: usize = 64 << 20;
/// Bytes of blocks that are stored with one call.
const PUT_BYTES: usize = 4 << 20;
/// The number of remembered names of seen blocks, and of stored blocks.
const NAMES: u64 = 1 << 16;
/// The number of prompts that fetch at once. Each holds its blocks in memory, so further prompts are computed.
const FETCHES: usize = 4;
/// The time for which nothing is stored after the store has failed.
const PAUSE: Duration = Duration::from_secs(10);

/// The store for blocks, and their encoding in it.
#[derive(Clone)]
pub struct KvSharing {
    pub store: Arc<dyn KvStore>,
    pub encoding: KvEncoding,
}

impl std::fmt::Debug for KvSharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvSharing").field("origin", &self.store.origin()).field("encoding", &self.encoding).finish()
    }
}

/// The exchange of one model.
pub struct KvExchange {
    store: Arc<dyn KvStore>,
    codec: Codec,
    /// The model's name in the names of stored blocks, the same on all replicas. Unset until the model's files are hashed.
    model: OnceLock<String>,
    cached: CachedNames,
    /// The model's name in the block names of `cached`.
    local: String,
    rates: Mutex<TransferRates>,
    seen: Cache<BlockName, ()>,
    stored: Cache<BlockName, ()>,
    outgoing: mpsc::Sender<Outgoing>,
    /// The number of planned blocks that are not stored or dropped yet.
    pending: watch::Sender<usize>,
    fetching: Semaphore,
    fetched_tokens: AtomicU64,
}

/// Consecutive blocks of a prompt from the store, in the format of the paged cache.
pub struct FetchedBlocks {
    /// The number of blocks of the prompt that come before the first of `blocks`.
    pub first: usize,
    pub blocks: VecDeque<Vec<u8>>,
}

/// A block in the queue to the store.
struct Outgoing {
    tenant: Arc<str>,
    name: BlockName,
    block: Vec<u8>,
}

impl KvExchange {
    /// Starts the exchange: hashes the model's files, and stores blocks in the background. Must be called inside the runtime.
    pub fn start(source: &Arc<ModelSource>, sharing: KvSharing, cached: CachedNames) -> Arc<Self> {
        let kv_type = source.origin.capacity.kv_type;
        let block_bytes = usize::try_from(source.kv_bytes_per_token(kv_type)).unwrap_or(usize::MAX / BLOCK) * BLOCK;
        let (outgoing, inbox) = mpsc::channel((OUTGOING_BYTES / block_bytes.max(1)).max(1));
        let exchange = Arc::new(Self {
            store: sharing.store,
            codec: Codec { encoding: sharing.encoding, kv_type, block_bytes },
            model: OnceLock::new(),
            cached,
            local: source.kv_name(),
            rates: Mutex::default(),
            seen: Cache::new(NAMES),
            stored: Cache::new(NAMES),
            outgoing,
            pending: watch::Sender::new(0),
            fetching: Semaphore::new(FETCHES),
            fetched_tokens: AtomicU64::new(0),
        });
        let (hashing, source) = (exchange.clone(), source.clone());
        tokio::task::spawn_blocking(move || match source.shared_kv_name(sharing.encoding) {
            Ok(model) => drop(hashing.model.set(model)),
            Err(error) => {
                tracing::warn!(%error, "keys and values are neither stored nor fetched, because the model's files cannot be hashed")
            }
        });
        tokio::spawn(BlockWriter { exchange: Arc::downgrade(&exchange), inbox }.run());
        exchange
    }

    /// Fetches blocks of the beginning of `tokens` that the engine's cache lacks. Returns `None` if the store has none, if
    /// computing is faster, if [`FETCHES`] prompts fetch already, or if the store fails.
    pub async fn fetch(&self, tenant: &str, tokens: &[u32]) -> Option<FetchedBlocks> {
        // The last token is always computed, because its logits are wanted.
        let tokens = tokens.get(..tokens.len().saturating_sub(1))?;
        let chain = BlockName::root(self.model.get()?, tenant).chain(tokens);
        let first = self.cached.count(BlockName::root(&self.local, tenant).chain(tokens));
        let missing = chain.get(first..).filter(|missing| !missing.is_empty())?;
        let rates = *self.rates.lock();
        if !self.pays(&rates, missing.len()) {
            return None;
        }
        let Ok(_permit) = self.fetching.try_acquire() else { return None };
        let limit = rates.computing(missing.len() * BLOCK);
        let begun = Instant::now();
        let found = timeout(limit, self.found(tenant, missing, &rates)).await;
        let blocks = match found {
            Ok(Ok(blocks)) => blocks,
            Ok(Err(error)) => {
                tracing::warn!(%error, "keys and values cannot be fetched from the store; they are computed");
                return None;
            }
            Err(_) => {
                // Computing would have been faster.
                self.rates.lock().fetched(0, begun.elapsed());
                return None;
            }
        };
        let fetched = (blocks.len() * BLOCK) as u64;
        self.fetched_tokens.fetch_add(fetched, Ordering::Relaxed);
        (!blocks.is_empty()).then(|| FetchedBlocks { first, blocks: blocks.into() })
    }

    /// Fetches and decodes as many of the `missing` blocks, from the first, as the store has, if that is faster than computing.
    async fn found(&self, tenant: &str, missing: &[BlockName], rates: &TransferRates) -> Result<Vec<Vec<u8>>, KvError> {
        let begun = Instant::now();
        let count = self.store.count(tenant, missing).await?.min(missing.len());
        self.rates.lock().looked_up(begun.elapsed());
        let (there, absent) = missing.split_at(count);
        absent.iter().for_each(|name| self.stored.invalidate(name));
        if !self.pays(rates, there.len()) {
            return Ok(Vec::new());
        }
        let begun = Instant::now();
        let stored = self.store.fetch(tenant, there).await?;
        self.rates.lock().fetched(stored.iter().map(Vec::len).sum(), begun.elapsed());
        let (codec, names) = (self.codec, there.to_vec());
        let decoded = tokio::task::spawn_blocking(move || {
            let whole = names.iter().zip(&stored).map_while(|(name, bytes)| codec.decode(name, bytes));
            whole.collect::<Vec<_>>()
        })
        .await
        .unwrap_or_default();
        if let Some(name) = there.get(decoded.len()) {
            tracing::warn!(%name, "a stored block is missing or damaged; it is computed and stored again");
            there.iter().skip(decoded.len()).for_each(|name| self.stored.invalidate(name));
        }
        Ok(decoded)
    }

    /// The number of blocks that fit into `bytes`; at least 1.
    fn blocks_of(&self, bytes: usize) -> usize {
        (bytes / self.codec.block_bytes.max(1)).max(1)
    }

    /// Whether fetching so many blocks is estimated to be faster than computing them.
    fn pays(&self, rates: &TransferRates, blocks: usize) -> bool {
        rates.pays(blocks * BLOCK, blocks * self.codec.block_bytes)
    }

    /// Estimates how long it takes to fetch the blocks of `tokens` tokens; `None` while nothing can be fetched.
    pub fn fetching(&self, tokens: usize) -> Option<Duration> {
        self.model.get()?;
        Some(self.rates.lock().fetching(tokens.div_ceil(BLOCK) * self.codec.block_bytes))
    }

    /// Plans which blocks of an ended sequence to store. Returns their indices in the sequence and their names. The caller must
    /// pass each to [`Self::store`] or [`Self::drop_planned`].
    pub fn plan(&self, tenant: &str, computed: &[u32], reuse: Reuse) -> Vec<(usize, BlockName)> {
        let Some(model) = self.model.get() else { return Vec::new() };
        let chain = BlockName::root(model, tenant).chain(computed).into_iter().enumerate();
        let wanted = chain.filter(|(_, name)| {
            if self.stored.contains_key(name) {
                return false;
            }
            let was_seen = self.seen.contains_key(name);
            self.seen.insert(*name, ());
            was_seen || reuse == Reuse::Expected
        });
        let wanted: Vec<_> = wanted.collect();
        wanted.iter().for_each(|(_, name)| self.stored.insert(*name, ()));
        self.pending.send_modify(|pending| *pending += wanted.len());
        wanted
    }

    /// Whether the queue to the store has room for a block.
    pub fn has_room(&self) -> bool {
        self.outgoing.capacity() > 0
    }

    /// Puts a planned block into the queue to the store; drops it if the queue is full.
    pub fn store(&self, tenant: &Arc<str>, name: BlockName, block: Vec<u8>) {
        let outgoing = Outgoing { tenant: tenant.clone(), name, block };
        if let Err(mpsc::error::TrySendError::Full(refused) | mpsc::error::TrySendError::Closed(refused)) =
            self.outgoing.try_send(outgoing)
        {
            self.drop_planned(&refused.name);
        }
    }

    /// Cancels the plan to store a block. The block is planned again when another sequence has it.
    pub fn drop_planned(&self, name: &BlockName) {
        self.stored.invalidate(name);
        self.pending.send_modify(|pending| *pending = pending.saturating_sub(1));
    }

    /// Records how fast the engine computes prompts, as measured with every step.
    pub fn computes(&self, tokens_per_second: f64) {
        self.rates.lock().computes(tokens_per_second);
    }

    /// Waits until the model's files are hashed. Until then nothing is fetched or stored.
    #[cfg(test)]
    pub async fn is_ready(&self) {
        while self.model.get().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until all planned blocks are stored or dropped.
    pub async fn flush(&self) {
        let _ = self.pending.subscribe().wait_for(|pending| *pending == 0).await;
    }

    pub fn fetched_tokens(&self) -> FetchedTokens {
        FetchedTokens { source: self.store.origin(), tokens: self.fetched_tokens.load(Ordering::Relaxed) }
    }
}

/// Stores blocks, in the order of the queue.
struct BlockWriter {
    exchange: Weak<KvExchange>,
    inbox: mpsc::Receiver<Outgoing>,
}

/// Encoded blocks of one tenant.
type Group = (Arc<str>, Vec<(BlockName, Vec<u8>)>);

impl BlockWriter {
    async fn run(mut self) {
        let mut failed: Option<Instant> = None;
        let mut blocks = Vec::new();
        loop {
            let most = self.exchange.upgrade().map_or(1, |exchange| exchange.blocks_of(PUT_BYTES));
            if self.inbox.recv_many(&mut blocks, most).await == 0 {
                return;
            }
            let Some(exchange) = self.exchange.upgrade() else { return };
            let taken = std::mem::take(&mut blocks);
            if failed.is_some_and(|at| at.elapsed() < PAUSE) {
                taken.iter().for_each(|outgoing| exchange.drop_planned(&outgoing.name));
                continue;
            }
            let codec = exchange.codec;
            // A panic of the encoder would lose only these blocks.
            let groups = tokio::task::spawn_blocking(move || encode(&codec, taken)).await.unwrap_or_default();
            for (tenant, group) in groups {
                let put = exchange.store.put(&tenant, &group).await;
                failed = put.as_ref().err().map(|_| Instant::now());
                match put {
                    Ok(()) => exchange.pending.send_modify(|pending| *pending = pending.saturating_sub(group.len())),
                    Err(error) => {
                        tracing::warn!(%error, pause = ?PAUSE, "keys and values cannot be stored; blocks are dropped until the pause has ended");
                        group.iter().for_each(|(name, _)| exchange.drop_planned(name));
                    }
                }
            }
        }
    }
}

fn encode(codec: &Codec, blocks: Vec<Outgoing>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for Outgoing { tenant, name, block } in blocks {
        let encoded = (name, codec.encode(&name, &block));
        match groups.last_mut() {
            Some((last, group)) if *last == tenant => group.push(encoded),
            _ => groups.push((tenant, vec![encoded])),
        }
    }
    groups
}
