//! The slots: which of them runs a prompt, how many threads each has, and how much KV each keeps.

use std::{
    cmp::Reverse,
    sync::{Arc, Mutex},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{load::KV_BLOCK, slot::Slot, threads::lock};

/// A shared beginning shorter than the whole of an entry counts in steps of this many tokens, so that the few tokens that
/// every prompt begins with do not bind all conversations to one slot.
const SHARED_STEP: usize = 64;

pub struct Pool {
    seats: Mutex<Seats>,
    /// A permit a free slot.
    permits: Arc<Semaphore>,
    limits: Limits,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub cores: usize,
    pub threads_per_slot: usize,
    /// KV that a slot may keep after a generation, in bytes. Over half of it, the next prompt that finds nothing in it
    /// empties it.
    pub prefix_cache_bytes: u64,
    pub kv_bytes_per_token: u64,
    /// All slots are one engine, which keeps what it keeps by itself, and computes with all threads whoever runs.
    pub is_batch: bool,
}

#[derive(Default)]
struct Seats {
    seats: Vec<Seat>,
    clock: u64,
}

struct Seat {
    slot: Arc<Slot>,
    busy: bool,
    last_used: u64,
    /// What the engine's prefix cache holds.
    entries: Vec<Entry>,
}

struct Entry {
    /// Who may reuse it.
    scope: Arc<str>,
    tokens: Vec<u32>,
    /// Tokens there is room for; the engine allocates by blocks and copies an entry whole.
    capacity: usize,
}

/// A slot, for as long as a generation has it.
pub struct Lease {
    pool: Arc<Pool>,
    index: usize,
    scope: Arc<str>,
    pub slot: Arc<Slot>,
    /// The cache shall be emptied before the run.
    pub empty_first: bool,
    /// Given back after the seat is free.
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub fn new(limits: Limits) -> Self {
        Self { seats: Mutex::default(), permits: Arc::new(Semaphore::new(0)), limits }
    }

    /// Slots that there are, busy and free.
    pub fn len(&self) -> usize {
        lock(&self.seats).seats.len()
    }

    pub fn add(&self, slot: Arc<Slot>) {
        lock(&self.seats).seats.push(Seat { slot, busy: false, last_used: 0, entries: Vec::new() });
        self.permits.add_permits(1);
    }

    /// Waits for a slot and takes the one that has most of `prompt` in its cache, or else the least recently used. The
    /// engine looks up KV by tokens alone, so a slot with KV of another scope is emptied: how long a prefill takes would
    /// tell what others have asked.
    pub async fn acquire(self: &Arc<Self>, prompt: &[u32], scope: &Arc<str>) -> Lease {
        let permit = match self.permits.clone().acquire_owned().await {
            Ok(permit) => permit,
            Err(_) => unreachable!("the semaphore is never closed"),
        };
        let mut seats = lock(&self.seats);
        seats.clock += 1;
        let clock = seats.clock;
        let Some((index, shared)) = seats.best(prompt, scope) else { unreachable!("a permit is a free slot") };
        let seat = &mut seats.seats[index];
        seat.busy = true;
        seat.last_used = clock;
        let over = seat.bytes(self.limits.kv_bytes_per_token) > self.limits.prefix_cache_bytes / 2;
        let empty_first = seat.is_foreign(scope) || over && shared < prompt.len() / 2;
        let slot = seat.slot.clone();
        self.share_threads(&seats);
        Lease { pool: self.clone(), index, scope: scope.clone(), slot, empty_first, _permit: permit }
    }

    #[cfg(test)]
    pub fn kept_bytes(&self) -> u64 {
        lock(&self.seats).seats.iter().map(|seat| seat.bytes(self.limits.kv_bytes_per_token)).sum()
    }

    #[cfg(test)]
    pub fn kept_scopes(&self) -> Vec<String> {
        lock(&self.seats).seats.iter().flat_map(|seat| &seat.entries).map(|entry| entry.scope.to_string()).collect()
    }

    fn share_threads(&self, seats: &Seats) {
        let running = seats.seats.iter().filter(|seat| seat.busy).count().max(1);
        let threads = (self.limits.cores / running).clamp(1, self.limits.threads_per_slot.max(1));
        for seat in seats.seats.iter().filter(|seat| seat.busy) {
            seat.slot.helpers.allow(threads);
        }
    }
}

impl Lease {
    /// The engine has kept the KV of `tokens`.
    pub fn kept(&self, tokens: Vec<u32>) {
        if self.pool.limits.is_batch {
            return;
        }
        let mut seats = lock(&self.pool.seats);
        let seat = &mut seats.seats[self.index];
        let matched = seat.entries.iter().max_by_key(|entry| shared_prefix(&entry.tokens, &tokens));
        let inherited =
            matched.filter(|entry| shared_prefix(&entry.tokens, &tokens) > 0).map_or(0, |entry| entry.capacity);
        let capacity = (tokens.len().max(1).div_ceil(KV_BLOCK) * KV_BLOCK).max(inherited);
        seat.entries.retain(|entry| entry.tokens != tokens);
        seat.entries.push(Entry { scope: self.scope.clone(), tokens, capacity });
    }

    /// The engine has emptied its cache.
    pub fn emptied(&self) {
        lock(&self.pool.seats).seats[self.index].entries.clear();
    }

    /// Whether the slot keeps more than it may.
    pub fn over_limit(&self) -> bool {
        let seats = lock(&self.pool.seats);
        seats.seats[self.index].bytes(self.pool.limits.kv_bytes_per_token) > self.pool.limits.prefix_cache_bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut seats = lock(&self.pool.seats);
        seats.seats[self.index].busy = false;
        self.pool.share_threads(&seats);
    }
}

impl Seats {
    /// The free seat to take, and how many tokens of the prompt it has.
    fn best(&self, prompt: &[u32], scope: &str) -> Option<(usize, usize)> {
        let free = self.seats.iter().enumerate().filter(|(_, seat)| !seat.busy);
        free.map(|(index, seat)| {
            let shared = if seat.is_foreign(scope) { 0 } else { seat.shared(prompt) };
            ((shared, !seat.is_foreign(scope), Reverse(seat.last_used), Reverse(index)), index, shared)
        })
        .max_by_key(|(rank, ..)| *rank)
        .map(|(_, index, shared)| (index, shared))
    }
}

impl Seat {
    fn is_foreign(&self, scope: &str) -> bool {
        self.entries.iter().any(|entry| &*entry.scope != scope)
    }

    fn shared(&self, prompt: &[u32]) -> usize {
        let worth = |entry: &Entry| match shared_prefix(&entry.tokens, prompt) {
            all if all == entry.tokens.len() => all,
            part => part / SHARED_STEP * SHARED_STEP,
        };
        self.entries.iter().map(worth).max().unwrap_or(0)
    }

    fn bytes(&self, per_token: u64) -> u64 {
        self.entries.iter().map(|entry| entry.capacity as u64 * per_token).sum()
    }
}

fn shared_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
