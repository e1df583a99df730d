//! The slots: which of them runs a prompt, how many threads each has, and how much KV each keeps.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    choice::{Choice, Offer, choose},
    cores::{Cores, Share},
    kept::{Before, Held, Kept, Reuse},
    kv::{BLOCK, Home},
    load::{KV_BLOCK, Shared},
    logits::{FirstLogits, Logits},
    pace::Pace,
    slot::{Broken, Sequence, Slot},
    threads::lock,
    watchdog::Watch,
};

/// Tokens of a prompt that the engine reads in one step, and an eighth of what it has read: a step begins with copies of all
/// that was read before.
const PIECE: usize = 256;

/// Between two attempts to load a slot that broke: the first, doubled up to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

pub struct Pool {
    seats: Mutex<Seats>,
    /// A seat is free, new, or gone.
    changed: Notify,
    limits: Limits,
    cores: Arc<Cores>,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// KV that a slot may keep between generations, in bytes. Over it, the least recently used leaves.
    pub prefix_cache_bytes: u64,
    pub kv_bytes_per_token: u64,
    /// All slots are one engine, which keeps what it keeps by itself, and computes with all threads whoever runs.
    pub is_batch: bool,
}

#[derive(Default)]
struct Seats {
    seats: BTreeMap<u64, Seat>,
    next: u64,
    clock: u64,
    pace: Pace,
    /// Why the last slot that was to be loaded again could not be.
    failure: Option<String>,
}

struct Seat {
    slot: Arc<Slot>,
    running: Option<Running>,
    /// Who waits for it.
    reserved: Option<u64>,
    last_used: u64,
    kept: Kept,
}

/// What a seat is busy with.
struct Running {
    watch: Arc<Watch>,
    /// Tokens of the prompt that it computes.
    computed: usize,
    /// Tokens of output that it may make.
    left: u64,
}

/// No slot is there and none can be loaded.
#[derive(Debug, thiserror::Error)]
#[error("no slot is left: {0}")]
pub struct NoSlot(String);

/// What looks for a slot.
pub struct Wanted<'a> {
    /// The prompt, and what has been said already.
    pub tokens: &'a [u32],
    pub scope: &'a Arc<str>,
    /// Tokens of output that it may make.
    pub left: u64,
}

/// Holds a place before a seat until it is taken or given up.
struct Reservation<'a> {
    pool: &'a Pool,
    ticket: u64,
    /// Until when a busy seat may be waited for.
    until: Option<Instant>,
}

/// A slot, for as long as a generation has it.
pub struct Lease {
    pool: Arc<Pool>,
    seat: u64,
    scope: Arc<str>,
    pub slot: Arc<Slot>,
    pub watch: Arc<Watch>,
    /// Tokens that the engine finds in its cache, once the lease is ready.
    pub cached: usize,
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

impl Pool {
    pub fn new(limits: Limits, cores: Arc<Cores>) -> Self {
        Self { seats: Mutex::default(), changed: Notify::new(), limits, cores }
    }

    /// Whether all slots are one engine.
    pub fn is_batch(&self) -> bool {
        self.limits.is_batch
    }

    /// Slots that there are, busy and free.
    pub fn len(&self) -> usize {
        lock(&self.seats).seats.len()
    }

    pub fn add(&self, slot: Arc<Slot>) {
        let mut seats = lock(&self.seats);
        let seat = Seat { slot, running: None, reserved: None, last_used: 0, kept: Kept::default() };
        let number = seats.next;
        seats.next += 1;
        seats.seats.insert(number, seat);
        seats.failure = None;
        drop(seats);
        self.changed.notify_waiters();
    }

    /// Waits for the slot where the prompt starts soonest and takes it. The engine looks up KV by tokens alone, so a slot
    /// with KV of another scope is emptied: how long a prefill takes would tell what others have asked.
    ///
    /// # Errors
    /// Where there is no slot and the last that was to be loaded could not be.
    pub async fn acquire(self: &Arc<Self>, wanted: Wanted<'_>) -> Result<Lease, NoSlot> {
        let mut reservation = Reservation::new(self);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(lease) = self.try_acquire(&wanted, &mut reservation)? {
                return Ok(lease);
            }
            match reservation.until {
                Some(until) => drop(tokio::time::timeout_at(until.into(), changed).await),
                None => changed.await,
            }
        }
    }

    fn try_acquire(
        self: &Arc<Self>,
        wanted: &Wanted<'_>,
        reservation: &mut Reservation<'_>,
    ) -> Result<Option<Lease>, NoSlot> {
        let mut seats = lock(&self.seats);
        if let Some(failure) = seats.failure.as_ref().filter(|_| seats.seats.is_empty()) {
            return Err(NoSlot(failure.clone()));
        }
        let now = Instant::now();
        let patient = reservation.until.is_none_or(|until| now < until);
        let choice = seats.choose(wanted, reservation.ticket, patient);
        seats.release(reservation.ticket);
        let number = match choice {
            Choice::Take(number) => number,
            Choice::WaitFor(number, at_most) => {
                reservation.until.get_or_insert(now + at_most);
                if let Some(seat) = seats.seats.get_mut(&number) {
                    seat.reserved = Some(reservation.ticket);
                }
                return Ok(None);
            }
            Choice::Wait => return Ok(None),
        };
        seats.clock += 1;
        let clock = seats.clock;
        let Some(seat) = seats.seats.get_mut(&number) else { return Ok(None) };
        let Reuse { cached, first: before } = seat.kept.reuse(wanted.tokens, wanted.scope);
        let has_all = seat.kept.has_all(wanted.tokens, wanted.scope);
        seat.kept.touch(wanted.tokens);
        seat.last_used = clock;
        let computed = wanted.tokens.len() - cached;
        let watch = Arc::new(Watch::new());
        seat.running = Some(Running { watch: watch.clone(), computed, left: wanted.left });
        let (slot, scope) = (seat.slot.clone(), wanted.scope.clone());
        let _share = self.cores.share(slot.helpers.clone());
        let pool = self.clone();
        Ok(Some(Lease { pool, seat: number, scope, slot, watch, cached, has_all, computed, before, _share }))
    }

    #[cfg(test)]
    pub fn kept_bytes(&self) -> u64 {
        lock(&self.seats).seats.values().map(|seat| seat.kept.bytes(self.limits.kv_bytes_per_token)).sum()
    }

    #[cfg(test)]
    pub fn kept_scopes(&self) -> Vec<String> {
        lock(&self.seats).seats.values().flat_map(|seat| seat.kept.scopes()).map(ToString::to_string).collect()
    }

    #[cfg(test)]
    pub fn running(&self) -> usize {
        lock(&self.seats).seats.values().filter(|seat| seat.running.is_some()).count()
    }

    #[cfg(test)]
    pub fn slots(&self) -> Vec<Arc<Slot>> {
        lock(&self.seats).seats.values().map(|seat| seat.slot.clone()).collect()
    }

    /// Loads a slot in the place of one that broke, for as long as it takes.
    async fn mend(pool: Weak<Self>, broken: Arc<Slot>, shared: Arc<Shared>) {
        let mut pause = RETRY.0;
        // Until nobody needs the pool any more: the model may be served from another.
        while pool.strong_count() > 0 {
            let loaded = broken.again(&shared).await;
            let Some(pool) = pool.upgrade() else { return };
            match loaded {
                Ok(slot) => {
                    tracing::info!("a slot was loaded in the place of the broken one");
                    let slot = Arc::new(slot);
                    (0..slot.running).for_each(|_| pool.add(slot.clone()));
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "a broken slot cannot be loaded again; trying on");
                    lock(&pool.seats).failure = Some(error.to_string());
                    pool.changed.notify_waiters();
                }
            }
            drop(pool);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }
}

impl Lease {
    /// Runs a sequence on the slot, and keeps its KV for later turns. `said` is what it has said, once it has ended.
    pub async fn run(&mut self, shared: &Shared, sequence: Sequence, said: &impl Said) -> Result<(), Broken> {
        let mut tokens = sequence.tokens.clone();
        if !self.read_ahead(shared, &tokens, said).await? {
            return Ok(());
        }
        let ended_at_once = self.run_one(shared, sequence).await?;
        lock(&self.pool.seats).pace.measured(self.computed, &self.watch);
        match ended_at_once {
            Some(spare) => tokens.push(spare),
            None => tokens.extend(said.tokens()),
        }
        let logits = said.first_logits();
        let limits = self.pool.limits;
        if limits.is_batch {
            return Ok(());
        }
        self.keep(shared, tokens, logits).await?;
        let fits = self.with_kept(|kept| kept.trim(limits.prefix_cache_bytes, limits.kv_bytes_per_token));
        if fits { Ok(()) } else { self.empty(shared).await }
    }

    /// Reads a long prompt in pieces, each of which ends at once and leaves its KV for the next: the engine computes a prompt
    /// in one step, in which it hears nobody and no thread comes or goes. False where the generation has ended meanwhile.
    async fn read_ahead(&mut self, shared: &Shared, tokens: &[u32], said: &impl Said) -> Result<bool, Broken> {
        if self.with_kept(|kept| kept.contains(tokens)) {
            // No piece would help: the engine computes it whole.
            return Ok(true);
        }
        while !self.pool.limits.is_batch && tokens.len() - self.cached > PIECE * 3 / 2 {
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
    async fn run_one(&mut self, shared: &Shared, sequence: Sequence) -> Result<Option<u32>, Broken> {
        let put = self.ready(shared).await?;
        let expected = lock(&self.pool.seats).pace.expected(sequence.tokens.len().saturating_sub(self.cached));
        let expected = if self.pool.limits.is_batch { expected.beside_others() } else { expected };
        let (watch, spare) = (sequence.watch.clone(), sequence.spare);
        self.slot.run(sequence, expected).await?;
        if let Some(home) = put {
            drop(home.clear());
        }
        Ok(watch.ended_at_once().then_some(spare))
    }

    /// Makes the engine's cache what the prompt needs.
    pub async fn ready(&mut self, shared: &Shared) -> Result<Option<Arc<Home>>, Broken> {
        match std::mem::replace(&mut self.before, Before::Nothing) {
            Before::Nothing => Ok(None),
            Before::Empty => self.empty(shared).await.map(|()| None),
            Before::Put(home, blocks) => {
                let put = home.clone();
                blocking(move || put.put(&blocks)).await?;
                Ok(Some(home))
            }
        }
    }

    /// What the model said after `tokens`, where the slot has kept it.
    pub fn logits_after(&self, tokens: &[u32]) -> Option<Logits> {
        self.with_kept(|kept| kept.logits_after(tokens, &self.scope))
    }

    /// Looks again what the engine will make of `tokens`.
    pub fn look(&mut self, tokens: &[u32]) {
        if let Some(Reuse { cached, first }) = self.with_kept(|kept| Some(kept.reuse(tokens, &self.scope))) {
            (self.cached, self.before) = (cached, first);
        }
    }

    /// What is run is now `tokens`: some that followed the prompt are known.
    pub fn goes_on_from(&mut self, tokens: &[u32]) {
        self.look(tokens);
        self.computed = tokens.len() - self.cached;
        let mut seats = lock(&self.pool.seats);
        if let Some(running) = seats.seats.get_mut(&self.seat).and_then(|seat| seat.running.as_mut()) {
            running.computed = self.computed;
        }
    }

    /// Takes what the engine has kept of the sequence that has just ended. `tokens` are all of it, and maybe one that the
    /// engine was not given any more.
    async fn keep(&mut self, shared: &Shared, mut tokens: Vec<u32>, logits: FirstLogits) -> Result<(), Broken> {
        let held = match self.slot.home().await {
            Some(home) => {
                tokens.truncate(home.tokens());
                let shared = self.with_kept(|kept| kept.shared_blocks(&tokens));
                let home = Arc::new(home);
                let taken = home.clone();
                let blocks = blocking(move || taken.take(shared)).await?;
                Held::Here { home, blocks, tokens: tokens.len(), trimmed: false }
            }
            None => {
                let blocks = tokens.len().max(1).div_ceil(KV_BLOCK) as u64;
                Held::Engine(blocks * KV_BLOCK as u64 * self.pool.limits.kv_bytes_per_token)
            }
        };
        tokens.push(shared.end);
        let scope = self.scope.clone();
        self.with_kept(|kept| kept.add(scope, tokens, held, logits));
        Ok(())
    }

    /// Empties the engine's cache and forgets what was kept; a batch keeps its own, and others run in it.
    pub async fn empty(&mut self, shared: &Shared) -> Result<(), Broken> {
        if self.pool.limits.is_batch {
            return Ok(());
        }
        self.with_kept(Kept::clear);
        self.slot.empty_cache(shared).await
    }

    /// The slot is broken: it leaves the pool, and another is loaded in its place. Of a batch all seats leave, with the first
    /// generation that has noticed.
    pub fn replace(self, shared: Arc<Shared>) {
        let mut seats = lock(&self.pool.seats);
        let before = seats.seats.len();
        seats.seats.retain(|_, seat| !Arc::ptr_eq(&seat.slot, &self.slot));
        let left = seats.seats.len() < before;
        drop(seats);
        self.pool.changed.notify_waiters();
        if left {
            tokio::spawn(Pool::mend(Arc::downgrade(&self.pool), self.slot.clone(), shared));
        }
    }

    fn with_kept<T: Default>(&self, use_it: impl FnOnce(&mut Kept) -> T) -> T {
        lock(&self.pool.seats).seats.get_mut(&self.seat).map(|seat| use_it(&mut seat.kept)).unwrap_or_default()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut seats = lock(&self.pool.seats);
        if let Some(seat) = seats.seats.get_mut(&self.seat) {
            seat.running = None;
        }
        drop(seats);
        self.pool.changed.notify_waiters();
    }
}

impl Seat {
    /// What it can do for a prompt.
    fn offer(&self, number: u64, wanted: &Wanted<'_>, pace: &Pace) -> Offer {
        let Wanted { tokens, scope, left } = wanted;
        // A prompt that is only to be there is computed nowhere when it is.
        let is_there = *left == 0 && self.kept.has_all(tokens, scope);
        let cached = if is_there { tokens.len() } else { self.kept.worth(tokens, scope) };
        Offer {
            number,
            wait: self.running.as_ref().map(|running| pace.left(running.computed, running.left, &running.watch)),
            computes: tokens.len() - cached,
            foreign: self.kept.is_foreign(scope),
            last_used: self.last_used,
        }
    }
}

impl<'a> Reservation<'a> {
    fn new(pool: &'a Pool) -> Self {
        let mut seats = lock(&pool.seats);
        seats.next += 1;
        Self { pool, ticket: seats.next, until: None }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut seats = lock(&self.pool.seats);
        if seats.release(self.ticket) {
            drop(seats);
            self.pool.changed.notify_waiters();
        }
    }
}

impl Seats {
    /// Where a prompt goes. A busy seat only where its caller still has patience.
    fn choose(&self, wanted: &Wanted<'_>, ticket: u64, patient: bool) -> Choice {
        let open = self.seats.iter().filter(|(_, seat)| seat.reserved.is_none_or(|by| by == ticket));
        let offers: Vec<Offer> = open.map(|(number, seat)| seat.offer(*number, wanted, &self.pace)).collect();
        choose(&offers, &self.pace, patient)
    }

    fn release(&mut self, ticket: u64) -> bool {
        let seats = self.seats.values_mut().filter(|seat| seat.reserved == Some(ticket));
        seats.map(|seat| seat.reserved = None).count() > 0
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
