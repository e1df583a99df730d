//! The slots: which of them runs a prompt, and what is known of each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    choice::{Choice, Offer, choose},
    cores::{Cores, Share},
    kept::{Kept, Reuse},
    load::Shared,
    pace::Pace,
    slot::Slot,
    threads::lock,
    watchdog::{Expected, Watch},
};

/// Between two attempts to load a slot that broke: the first, doubled up to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

pub struct Pool {
    seats: Mutex<Seats>,
    /// A seat is free, new, or gone.
    changed: Notify,
    pub limits: Limits,
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

/// A seat that was taken. Who has it gives it [free](Pool::free).
pub struct Taken {
    pub seat: u64,
    pub slot: Arc<Slot>,
    pub watch: Arc<Watch>,
    /// What the slot's engine makes of the prompt.
    pub reuse: Reuse,
    /// Keys and values of the whole prompt are kept.
    pub has_all: bool,
    pub share: Share,
}

/// Holds a place before a seat until it is taken or given up.
struct Reservation<'a> {
    pool: &'a Pool,
    ticket: u64,
    /// Until when a busy seat may be waited for.
    until: Option<Instant>,
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

    /// Waits for the slot where the prompt starts soonest and takes it. Only KV of its own scope counts: how long a prefill
    /// takes would tell what others have asked.
    ///
    /// # Errors
    /// Where there is no slot and the last that was to be loaded could not be.
    pub async fn take(&self, wanted: Wanted<'_>) -> Result<Taken, NoSlot> {
        let mut reservation = Reservation::new(self);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(taken) = self.try_take(&wanted, &mut reservation)? {
                return Ok(taken);
            }
            match reservation.until {
                Some(until) => drop(tokio::time::timeout_at(until.into(), changed).await),
                None => changed.await,
            }
        }
    }

    fn try_take(&self, wanted: &Wanted<'_>, reservation: &mut Reservation<'_>) -> Result<Option<Taken>, NoSlot> {
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
        let reuse = seat.kept.reuse(wanted.tokens, wanted.scope);
        let has_all = seat.kept.has_all(wanted.tokens, wanted.scope);
        seat.kept.touch(wanted.tokens, wanted.scope);
        seat.last_used = clock;
        let computed = wanted.tokens.len() - reuse.cached;
        let watch = Arc::new(Watch::new());
        seat.running = Some(Running { watch: watch.clone(), computed, left: wanted.left });
        let slot = seat.slot.clone();
        let share = self.cores.share(slot.helpers.clone());
        Ok(Some(Taken { seat: number, slot, watch, reuse, has_all, share }))
    }

    /// What a seat's slot keeps, where the seat is there.
    pub fn with_kept<T: Default>(&self, seat: u64, use_it: impl FnOnce(&mut Kept) -> T) -> T {
        lock(&self.seats).seats.get_mut(&seat).map(|seat| use_it(&mut seat.kept)).unwrap_or_default()
    }

    /// How many tokens of its prompt the run on a seat computes.
    pub fn computes(&self, seat: u64, tokens: usize) {
        let mut seats = lock(&self.seats);
        if let Some(running) = seats.seats.get_mut(&seat).and_then(|seat| seat.running.as_mut()) {
            running.computed = tokens;
        }
    }

    /// What a run may take that computes so many tokens of its prompt.
    pub fn expected(&self, computed: usize) -> Expected {
        let expected = lock(&self.seats).pace.expected(computed);
        if self.limits.is_batch { expected.beside_others() } else { expected }
    }

    /// A run that computed so many tokens of its prompt has ended.
    pub fn measured(&self, computed: usize, watch: &Watch) {
        lock(&self.seats).pace.measured(computed, watch);
    }

    /// The run on a seat is over.
    pub fn free(&self, seat: u64) {
        if let Some(seat) = lock(&self.seats).seats.get_mut(&seat) {
            seat.running = None;
        }
        self.changed.notify_waiters();
    }

    /// A slot is broken: it leaves, and another is loaded in its place. Of a batch all seats leave, with the first generation
    /// that has noticed.
    pub fn replace(self: &Arc<Self>, slot: &Arc<Slot>, shared: Arc<Shared>) {
        let mut seats = lock(&self.seats);
        let before = seats.seats.len();
        seats.seats.retain(|_, seat| !Arc::ptr_eq(&seat.slot, slot));
        let left = seats.seats.len() < before;
        drop(seats);
        self.changed.notify_waiters();
        if left {
            tokio::spawn(Self::mend(Arc::downgrade(self), slot.clone(), shared));
        }
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
