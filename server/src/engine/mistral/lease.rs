//! A slot in the hands of one generation: its cache is made what the prompt needs, the prompt is run, and what later turns may
//! need is kept.

use std::sync::Arc;

use super::{
    cores::Share,
    kept::{Before, Held, Kept, Key, Part, Reuse},
    kv::{BLOCK, Block, Home},
    load::{KV_BLOCK, Shared},
    logits::{FirstLogits, Logits},
    pool::{NoSlot, Pool, Taken, Wanted},
    slot::{Broken, Sequence, Slot},
    watchdog::Watch,
};

/// Tokens of a prompt that the engine reads in one step, and an eighth of what it has read: a step begins with copies of all
/// that was read before.
const PIECE: usize = 256;

/// A slot, for as long as a generation has it.
pub struct Lease {
    pool: Arc<Pool>,
    seat: u64,
    scope: Arc<str>,
    pub slot: Arc<Slot>,
    pub watch: Arc<Watch>,
    /// Tokens that the engine finds in its cache, once the lease is ready.
    cached: usize,
    /// What it is given in the place of the first.
    salt: u32,
    /// Keys and values of the whole prompt are kept.
    pub has_all: bool,
    computed: usize,
    before: Before,
    _share: Share,
}

/// What a generation has said.
pub trait Said {
    fn tokens(&self) -> Vec<u32>;

    /// Those that chose the first of them.
    fn first_logits(&self) -> FirstLogits;

    /// Nobody wants more of it.
    fn has_ended(&self) -> bool;
}

impl Lease {
    /// [`Pool::take`].
    pub async fn acquire(pool: &Arc<Pool>, wanted: Wanted<'_>) -> Result<Self, NoSlot> {
        let (scope, tokens) = (wanted.scope.clone(), wanted.tokens.len());
        let Taken { seat, slot, watch, reuse, has_all, share } = pool.take(wanted).await?;
        let Reuse { cached, salt, first: before } = reuse;
        let (pool, computed) = (pool.clone(), tokens - cached);
        Ok(Self { pool, seat, scope, slot, watch, cached, salt, has_all, computed, before, _share: share })
    }

    /// Tokens that are found because the scope has used them before. The first alone may be there for everyone.
    pub fn reused(&self) -> usize {
        if self.cached > 1 { self.cached } else { 0 }
    }

    /// Runs a sequence on the slot, and keeps its KV for later turns. `said` is what it has said, once it has ended.
    pub async fn run(&mut self, shared: &Shared, sequence: Sequence, said: &impl Said) -> Result<(), Broken> {
        let mut tokens = sequence.tokens.clone();
        if !self.read_ahead(shared, &tokens, said).await? {
            return Ok(());
        }
        let ended_at_once = self.run_one(shared, sequence).await?;
        self.pool.measured(self.computed, &self.watch);
        match ended_at_once {
            Some(spare) => tokens.push(spare),
            None => tokens.extend(said.tokens()),
        }
        if self.pool.is_batch() {
            return Ok(());
        }
        self.keep(shared, tokens, said.first_logits()).await?;
        let limits = self.pool.limits;
        let fits = self.with_kept(|kept| kept.trim(limits.prefix_cache_bytes, limits.kv_bytes_per_token));
        if fits { Ok(()) } else { self.empty(shared).await }
    }

    /// Reads a long prompt in pieces, each of which ends at once and leaves its KV for the next: the engine computes a prompt
    /// in one step, in which it hears nobody and no thread comes or goes. False where the generation has ended meanwhile.
    async fn read_ahead(&mut self, shared: &Shared, tokens: &[u32], said: &impl Said) -> Result<bool, Broken> {
        while !self.pool.is_batch() && tokens.len() - self.cached > PIECE * 3 / 2 {
            let before = self.cached;
            let cut = (self.cached + PIECE + self.cached / 8) / BLOCK * BLOCK;
            let piece = self.slot.piece(shared, tokens[..cut].to_vec());
            let mut read = piece.tokens.clone();
            read.extend(self.run_one(shared, piece).await?);
            self.keep(shared, read, FirstLogits::default()).await?;
            if said.has_ended() {
                return Ok(false);
            }
            self.look(tokens);
            if self.cached <= before {
                break;
            }
        }
        Ok(true)
    }

    /// The token that was given to the engine beside the sequence's own, where it ended at once.
    async fn run_one(&mut self, shared: &Shared, mut sequence: Sequence) -> Result<Option<u32>, Broken> {
        let put = self.ready(shared, &mut sequence.tokens).await?;
        let expected = self.pool.expected(sequence.tokens.len().saturating_sub(self.cached));
        let (watch, spare) = (sequence.watch.clone(), sequence.spare);
        self.slot.run(sequence, expected).await?;
        if let Some(home) = put {
            drop(home.clear());
        }
        Ok(watch.ended_at_once().then_some(spare))
    }

    /// Makes the engine's cache what the prompt needs, and the prompt what the engine is given. Where keys and values are then
    /// put for it, to be cleared when it has run.
    pub async fn ready(&mut self, shared: &Shared, prompt: &mut [u32]) -> Result<Option<Arc<Home>>, Broken> {
        let put = match std::mem::replace(&mut self.before, Before::Nothing) {
            Before::Nothing => None,
            Before::Empty => self.empty(shared).await.map(|()| None)?,
            Before::Put(home, blocks) => Some((home, blocks)),
            Before::Salt(first) => Some((self.add_salt(shared, prompt, first.clone()).await?, vec![first])),
        };
        if let Some(token) = prompt.first_mut() {
            *token = self.salt;
        }
        let Some((home, blocks)) = put else { return Ok(None) };
        let put = home.clone();
        blocking(move || put.put(&blocks)).await?;
        Ok(Some(home))
    }

    /// Makes the engine keep the salt, as a sequence of one token that has the keys and values of the prompt's first. The one
    /// after it is not the prompt's, which would be found there too.
    async fn add_salt(&self, shared: &Shared, prompt: &[u32], first: Arc<Block>) -> Result<Arc<Home>, Broken> {
        let mut piece = self.slot.piece(shared, vec![self.salt]);
        piece.spare = shared.spare(&[piece.end, prompt[1]]);
        let tokens = vec![prompt[0], piece.spare, piece.end];
        self.slot.run(piece, self.pool.expected(1)).await?;
        let home = Arc::new(self.slot.home().await.ok_or_else(|| Broken::Error("no keys and values".into()))?);
        home.clear().map_err(|error| Broken::Error(error.to_string()))?;
        let key = Key { scope: self.scope.clone(), salt: self.salt, tokens };
        let held = Held::Here { home: home.clone(), blocks: vec![first], tokens: 1, part: Part::Salt };
        self.with_kept(|kept| kept.add(key, held, FirstLogits::default()));
        Ok(home)
    }

    /// What the model said after `tokens`, where the slot has kept it.
    pub fn logits_after(&self, tokens: &[u32]) -> Option<Logits> {
        self.with_kept(|kept| kept.logits_after(tokens, &self.scope))
    }

    /// Looks again what the engine will make of `tokens`.
    fn look(&mut self, tokens: &[u32]) {
        if let Some(Reuse { cached, salt, first }) = self.with_kept(|kept| Some(kept.reuse(tokens, &self.scope))) {
            (self.cached, self.salt, self.before) = (cached, salt, first);
        }
    }

    /// What is run is now `tokens`: some that followed the prompt are known.
    pub fn goes_on_from(&mut self, tokens: &[u32]) {
        self.look(tokens);
        self.computed = tokens.len() - self.cached;
        self.pool.computes(self.seat, self.computed);
    }

    /// Takes what the engine has kept of the sequence that has just ended. `tokens` are all of it, and maybe one that the
    /// engine was not given any more.
    async fn keep(&mut self, shared: &Shared, mut tokens: Vec<u32>, logits: FirstLogits) -> Result<(), Broken> {
        let held = match self.slot.home().await {
            Some(home) => {
                tokens.truncate(home.tokens());
                let home = Arc::new(home);
                self.learn_first(&tokens, &home).await?;
                let shared = self.with_kept(|kept| kept.shared_blocks(&tokens, &self.scope));
                let taken = home.clone();
                let blocks = blocking(move || taken.take(shared)).await?;
                Held::Here { home, blocks, tokens: tokens.len(), part: Part::Whole }
            }
            None => {
                let blocks = tokens.len().max(1).div_ceil(KV_BLOCK) as u64;
                Held::Engine(blocks * KV_BLOCK as u64 * self.pool.limits.kv_bytes_per_token)
            }
        };
        tokens.push(shared.end);
        let key = Key { scope: self.scope.clone(), salt: self.salt, tokens };
        self.with_kept(|kept| kept.add(key, held, logits));
        Ok(())
    }

    /// Takes those of the first token, with which sequences of any salt begin.
    async fn learn_first(&self, tokens: &[u32], home: &Arc<Home>) -> Result<(), Broken> {
        let new = |token: &&u32| **token == self.salt && self.with_kept(|kept| kept.wants_first(**token));
        let Some(token) = tokens.first().filter(new) else { return Ok(()) };
        let home = home.clone();
        let block = blocking(move || home.first()).await?;
        self.with_kept(|kept| kept.learn_first(*token, block));
        Ok(())
    }

    /// Empties the engine's cache and forgets what was kept; a batch keeps its own, and others run in it.
    pub async fn empty(&mut self, shared: &Shared) -> Result<(), Broken> {
        if self.pool.is_batch() {
            return Ok(());
        }
        self.with_kept(Kept::clear);
        self.slot.empty_cache(shared).await
    }

    /// The slot is broken: it leaves the pool, and another is loaded in its place.
    pub fn replace(self, shared: Arc<Shared>) {
        self.pool.replace(&self.slot, shared);
    }

    fn with_kept<T: Default>(&self, use_it: impl FnOnce(&mut Kept) -> T) -> T {
        self.pool.with_kept(self.seat, use_it)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.free(self.seat);
    }
}

/// Copies of megabytes, off the threads that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> candle_core::Result<T> + Send + 'static,
) -> Result<T, Broken> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| Broken::Error(error.to_string())),
        Err(error) => Err(Broken::Error(error.to_string())),
    }
}
