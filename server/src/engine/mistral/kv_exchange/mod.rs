//! The exchange of one model's blocks with a store that outlives the process or is shared by replicas.
//!
//! Before a prompt is computed, the beginning of it that the store has and the engine's own cache has not is fetched, if that is
//! estimated to be faster than computing it. After a sequence ends, its blocks are stored: at once if a later prompt is expected
//! to begin with them, else when a second prompt has them. Nothing here waits on the engine's thread, and a store that fails costs
//! computing only.
//!
//! | file | owns |
//! |---|---|
//! | `codec` | a block as a store holds it |
//! | `rates` | whether fetching is faster than computing |

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

/// Bytes of blocks that wait to be stored; the engine's thread waits with more while it has nothing else to do.
const OUTGOING_BYTES: usize = 64 << 20;
/// Bytes that are given to the store at once.
const PUT_BYTES: usize = 4 << 20;
/// Names that are remembered as seen, and as stored.
const NAMES: u64 = 1 << 16;
/// Prompts that fetch at once. More compute, since each holds its blocks in memory.
const FETCHES: usize = 4;
/// After a store has failed, nothing is given to it for this long.
const PAUSE: Duration = Duration::from_secs(10);

/// Where blocks are stored, and how.
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

pub struct KvExchange {
    store: Arc<dyn KvStore>,
    codec: Codec,
    /// Tells models apart whose keys and values differ, on all replicas alike. Absent until the files are hashed.
    model: OnceLock<String>,
    cached: CachedNames,
    /// The name of the model in `cached`.
    local: String,
    rates: Mutex<TransferRates>,
    seen: Cache<BlockName, ()>,
    stored: Cache<BlockName, ()>,
    outgoing: mpsc::Sender<Outgoing>,
    /// Blocks that are to be stored and are not yet.
    pending: watch::Sender<usize>,
    fetching: Semaphore,
    fetched_tokens: AtomicU64,
}

/// The blocks of a prompt that the store had, ready for the paged cache.
pub struct FetchedBlocks {
    /// The place of the first in the prompt, in blocks.
    pub first: usize,
    pub blocks: VecDeque<Vec<u8>>,
}

/// A block on its way to the store.
struct Outgoing {
    tenant: Arc<str>,
    name: BlockName,
    block: Vec<u8>,
}

impl KvExchange {
    /// To be called within the runtime.
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
            Err(error) => tracing::warn!(%error, "keys and values are not shared: the model's files cannot be hashed"),
        });
        tokio::spawn(BlockWriter { exchange: Arc::downgrade(&exchange), inbox }.run());
        exchange
    }

    /// Fetches the blocks with which `tokens` begin and which the engine's cache has not; `None` if there are none, if they take
    /// longer than computing them, or if the store fails.
    pub async fn fetch(&self, tenant: &str, tokens: &[u32]) -> Option<FetchedBlocks> {
        // The last token is computed in any case, since its logits are wanted.
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
                tracing::warn!(%error, "keys and values cannot be fetched; they are computed");
                return None;
            }
            Err(_) => {
                // So slow that computing was faster.
                self.rates.lock().fetched(0, begun.elapsed());
                return None;
            }
        };
        let fetched = (blocks.len() * BLOCK) as u64;
        self.fetched_tokens.fetch_add(fetched, Ordering::Relaxed);
        (!blocks.is_empty()).then(|| FetchedBlocks { first, blocks: blocks.into() })
    }

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

    /// How many blocks have so many bytes; at least 1.
    fn blocks_of(&self, bytes: usize) -> usize {
        (bytes / self.codec.block_bytes.max(1)).max(1)
    }

    fn pays(&self, rates: &TransferRates, blocks: usize) -> bool {
        rates.pays(blocks * BLOCK, blocks * self.codec.block_bytes)
    }

    /// Estimates how long it takes to fetch so many tokens that the store has; `None` while nothing can be fetched.
    pub fn fetching(&self, tokens: usize) -> Option<Duration> {
        self.model.get()?;
        Some(self.rates.lock().fetching(tokens.div_ceil(BLOCK) * self.codec.block_bytes))
    }

    /// Which blocks of a sequence that has ended are to be stored: their places and names. The caller gives each to
    /// [`Self::store`] or [`Self::drop_planned`].
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

    /// Whether another block can be taken to be stored.
    pub fn has_room(&self) -> bool {
        self.outgoing.capacity() > 0
    }

    /// Takes a planned block to be stored.
    pub fn store(&self, tenant: &Arc<str>, name: BlockName, block: Vec<u8>) {
        let outgoing = Outgoing { tenant: tenant.clone(), name, block };
        if let Err(mpsc::error::TrySendError::Full(refused) | mpsc::error::TrySendError::Closed(refused)) =
            self.outgoing.try_send(outgoing)
        {
            self.drop_planned(&refused.name);
        }
    }

    /// A planned block will not be stored. It is planned again when it is seen again.
    pub fn drop_planned(&self, name: &BlockName) {
        self.stored.invalidate(name);
        self.pending.send_modify(|pending| *pending = pending.saturating_sub(1));
    }

    /// The engine's rate of reading prompts, measured with every step.
    pub fn computes(&self, tokens_per_second: f64) {
        self.rates.lock().computes(tokens_per_second);
    }

    /// Returns when the model's files are hashed. Until then nothing is fetched or stored.
    #[cfg(test)]
    pub async fn is_ready(&self) {
        while self.model.get().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns when all planned blocks are stored or dropped.
    pub async fn settle(&self) {
        let _ = self.pending.subscribe().wait_for(|pending| *pending == 0).await;
    }

    pub fn fetched_tokens(&self) -> FetchedTokens {
        FetchedTokens { source: self.store.origin(), tokens: self.fetched_tokens.load(Ordering::Relaxed) }
    }
}

/// Gives blocks to the store, in the order in which they come.
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
            // A panic there would lose the blocks only.
            let groups = tokio::task::spawn_blocking(move || encode(&codec, taken)).await.unwrap_or_default();
            for (tenant, group) in groups {
                let put = exchange.store.put(&tenant, &group).await;
                failed = put.as_ref().err().map(|_| Instant::now());
                match put {
                    Ok(()) => exchange.pending.send_modify(|pending| *pending = pending.saturating_sub(group.len())),
                    Err(error) => {
                        tracing::warn!(%error, pause = ?PAUSE, "keys and values cannot be stored");
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
