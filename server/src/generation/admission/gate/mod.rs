//! The gate of one model: grants permits to requests, and queues requests while there is no room for them.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, oneshot, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::{
    estimate::{Costs, EndedWork, Work, WorkProgress},
    forecast,
    queue::{Queue, QueuedRequest},
    queue_place::QueuePlace,
};
use crate::{
    engine::Capacity,
    settings,
    wire::{error::WireError, response::ServiceTier},
};

/// The shortest interval between forecasts of the places of all waiting requests.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest interval between forecasts while requests wait: work may take longer than expected.
const REFRESH: Duration = Duration::from_secs(1);
/// The shortest `retry_after_ms` of a refusal.
const MIN_RETRY: Duration = Duration::from_millis(100);

pub struct Gate {
    capacity: Capacity,
    settings: settings::AdmissionSettings,
    costs: Costs,
    state: Mutex<GateState>,
    /// Notified when a request arrives or leaves, and when the gate is dropped.
    changed: Arc<Notify>,
}

/// The state behind the lock. No request waits while there is room for the next one.
#[derive(Default)]
struct GateState {
    arrived: u64,
    queue: Queue,
    waiters: HashMap<u64, Waiter>,
    running: HashMap<u64, Arc<GateRun>>,
}

/// A request in the queue, with its channels.
struct Waiter {
    id: String,
    permit: oneshot::Sender<Permit>,
    place: watch::Sender<Option<QueuePlace>>,
}

/// A request that runs in the engine.
struct GateRun {
    tenant: Arc<str>,
    work: Work,
    /// Tokens of the capacity that the request is expected to take.
    tokens: usize,
    since: Instant,
    first_token: OnceLock<Duration>,
    output_tokens: AtomicU32,
    by_itself: AtomicBool,
}

/// A place in the queue, or a permit if there was room at once. Dropping the ticket leaves the queue.
pub struct Ticket {
    gate: Arc<Gate>,
    number: u64,
    permit: oneshot::Receiver<Permit>,
    /// The request had to wait.
    pub waits: bool,
}

/// The right to run in the engine. Held until the engine has ended the work; dropping it admits the next request.
pub struct Permit {
    run: Arc<GateRun>,
    /// The gate and the request's number; `None` if the place is free already.
    place: Option<(Arc<Gate>, u64)>,
}

impl Gate {
    pub fn new(capacity: Capacity, settings: settings::AdmissionSettings) -> Arc<Self> {
        let changed = Arc::new(Notify::new());
        let gate = Arc::new(Self {
            capacity,
            settings,
            costs: Costs::new(),
            state: Mutex::default(),
            changed: changed.clone(),
        });
        tokio::spawn(update_places(Arc::downgrade(&gate), changed));
        gate
    }

    /// Takes a permit or a place in the queue; see [`Admission::enter`](super::Admission::enter).
    pub fn enter(self: &Arc<Self>, id: &str, tenant: &str, tier: ServiceTier, work: Work) -> Result<Ticket, WireError> {
        let weight = self.settings.weights.get(tenant).copied().unwrap_or(1.0);
        let cost = self.costs.mean(tenant, work) / weight;
        let state = self.state();
        if !state.waiters.is_empty() || !self.has_room(&state, self.tokens(tenant, work)) {
            self.check_queue(&state, tenant)?;
        }
        Ok(self.admit(state, id, QueuedRequest { number: 0, tenant: tenant.into(), tier, work, cost }))
    }

    /// Takes a permit or a place before all other requests of the tenant, in the first tier, whatever the queue's bound.
    pub fn enter_first(self: &Arc<Self>, id: &str, tenant: &str, work: Work) -> Ticket {
        let first = QueuedRequest { number: 0, tenant: tenant.into(), tier: ServiceTier::Priority, work, cost: 0.0 };
        self.admit(self.state(), id, first)
    }

    fn admit(self: &Arc<Self>, mut state: MutexGuard<'_, GateState>, id: &str, waiting: QueuedRequest) -> Ticket {
        let (sender, permit) = oneshot::channel();
        state.arrived += 1;
        let number = state.arrived;
        state.queue.push(QueuedRequest { number, ..waiting });
        let place = watch::Sender::new(None);
        state.waiters.insert(number, Waiter { id: id.to_owned(), permit: sender, place });
        self.fill(&mut state);
        let waits = state.waiters.contains_key(&number);
        drop(state);
        if waits {
            self.changed.notify_one();
        }
        Ticket { gate: self.clone(), number, permit, waits }
    }

    /// Returns how many more requests could run; 0 while requests wait.
    pub fn idle(&self) -> usize {
        let state = self.state();
        if state.waiters.is_empty() { self.capacity.sequences.saturating_sub(state.running.len()) } else { 0 }
    }

    /// Returns whether work of `tokens` tokens can run beside the running work. If nothing runs, any work can: the engine refuses
    /// what never fits.
    fn has_room(&self, state: &GateState, tokens: usize) -> bool {
        let taken: usize = state.running.values().map(|run| run.tokens).sum();
        let fits = self.capacity.tokens.is_none_or(|all| taken + tokens <= all);
        state.running.len() < self.capacity.sequences && (fits || state.running.is_empty())
    }

    /// Returns the tokens that work is expected to take: the prompt and the expected output.
    fn tokens(&self, tenant: &str, work: Work) -> usize {
        work.prompt_tokens as usize + self.costs.output(tenant, work)
    }

    /// Returns how many requests run, and how many wait.
    pub fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.running.len(), state.waiters.len())
    }

    /// Watches the place of a response; see [`Admission::place`](super::Admission::place).
    pub fn place(&self, id: &str) -> Option<watch::Receiver<Option<QueuePlace>>> {
        let mut place = self.state().waiters.values().find(|waiter| waiter.id == id)?.place.subscribe();
        // The current place counts as a change for a new watcher.
        place.mark_changed();
        Some(place)
    }

    /// Refuses a request if the queue is full, as a whole or for the tenant.
    fn check_queue(&self, state: &GateState, tenant: &str) -> Result<(), WireError> {
        let settings::AdmissionSettings { queue, queue_per_tenant, .. } = self.settings;
        if state.waiters.len() >= queue {
            let retry_after_ms = self.retry_after_ms(state, state.waiters.values());
            return Err(WireError::ServerOverloaded { retry_after_ms });
        }
        if state.queue.of_tenant(tenant).count() >= queue_per_tenant {
            let own = state.queue.of_tenant(tenant).filter_map(|waiting| state.waiters.get(&waiting.number));
            let retry_after_ms = self.retry_after_ms(state, own);
            return Err(WireError::RateLimitExceeded { waiting: queue_per_tenant, retry_after_ms });
        }
        Ok(())
    }

    /// Estimates when the first of `waiters` leaves the queue or, if there are none, when the first running request ends.
    fn retry_after_ms<'s>(&self, state: &'s GateState, waiters: impl Iterator<Item = &'s Waiter>) -> u64 {
        let place = |waiter: &Waiter| waiter.place.borrow().map(|place| place.estimated_wait());
        let wait = waiters.filter_map(place).min();
        let wait = wait.or_else(|| state.running.iter().map(|(number, run)| self.rest(*number, run)).min());
        u64::try_from(wait.unwrap_or_default().max(MIN_RETRY).as_millis()).unwrap_or(u64::MAX)
    }

    fn rest(&self, number: u64, run: &GateRun) -> Duration {
        self.costs.rest(&run.tenant, run.work, run.progress(), forecast::quantile(number))
    }

    /// Admits the next requests while there is room.
    fn fill(self: &Arc<Self>, state: &mut GateState) {
        while state.running.len() < self.capacity.sequences {
            let room = |next: &QueuedRequest| self.has_room(state, self.tokens(&next.tenant, next.work));
            if self.capacity.tokens.is_some() && !state.queue.peek().as_ref().is_some_and(room) {
                return;
            }
            let Some(QueuedRequest { number, tenant, work, .. }) = state.queue.pop() else { return };
            let Some(waiter) = state.waiters.remove(&number) else { continue };
            let tokens = self.tokens(&tenant, work);
            let run = Arc::new(GateRun::new(tenant, work, tokens));
            state.running.insert(number, run.clone());
            // A dropped ticket leaves the queue before its channel closes, so this send does not fail. If it does, the request is
            // skipped, and its permit must not free the place a second time.
            if let Err(mut unclaimed) = waiter.permit.send(Permit { run, place: Some((self.clone(), number)) }) {
                unclaimed.place = None;
                state.running.remove(&number);
            }
        }
    }

    /// Estimates when each waiting request starts, in the order of the starts.
    fn forecast(&self) -> Vec<(u64, Duration)> {
        let state = self.state();
        let queue = state.queue.clone();
        let running: Vec<_> = state.running.iter().map(|(number, run)| (*number, run.clone())).collect();
        drop(state);
        let ends = running.iter().map(|(number, run)| self.rest(*number, run)).collect();
        forecast::starts(queue, ends, |next| {
            self.costs.rest(&next.tenant, next.work, WorkProgress::default(), forecast::quantile(next.number))
        })
    }

    /// Publishes the places that have changed.
    fn publish_places(&self, starts: Vec<(u64, Duration)>) {
        let (state, now) = (self.state(), Instant::now());
        let still = starts.iter().filter_map(|(number, wait)| Some((state.waiters.get(number)?, *wait)));
        for (at, (waiter, wait)) in still.enumerate() {
            let place = QueuePlace { position: at + 1, starts: now + wait.min(Duration::from_secs(86_400)) };
            waiter.place.send_if_modified(|told| {
                let changed = told.is_none_or(|told| differs(told, place, now));
                if changed {
                    *told = Some(place);
                }
                changed
            });
        }
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// Updates the places of a gate until the gate is dropped.
async fn update_places(gate: Weak<Gate>, changed: Arc<Notify>) {
    loop {
        let waits = gate.upgrade().is_some_and(|gate| !gate.state().waiters.is_empty());
        if waits {
            let _ = timeout(REFRESH, changed.notified()).await;
        } else {
            changed.notified().await;
        }
        let Some(gate) = gate.upgrade() else { return };
        // A long queue takes milliseconds of computation.
        if let Ok(starts) = spawn_blocking({
            let gate = gate.clone();
            move || gate.forecast()
        })
        .await
        {
            gate.publish_places(starts);
        }
        drop(gate);
        sleep(PAUSE).await;
    }
}

/// Returns whether a place differs enough to be published: another position, or a start that moved by more than one second and more
/// than a quarter of the wait.
fn differs(told: QueuePlace, place: QueuePlace, now: Instant) -> bool {
    let moved = told.starts.max(place.starts) - told.starts.min(place.starts);
    let wait = place.starts.saturating_duration_since(now);
    told.position != place.position || moved > Duration::from_secs(1).max(wait / 4)
}

impl GateRun {
    fn new(tenant: Arc<str>, work: Work, tokens: usize) -> Self {
        Self {
            tenant,
            work,
            tokens,
            since: Instant::now(),
            first_token: OnceLock::new(),
            output_tokens: AtomicU32::new(0),
            by_itself: AtomicBool::new(false),
        }
    }

    fn progress(&self) -> WorkProgress {
        WorkProgress {
            elapsed: self.since.elapsed(),
            first_token: self.first_token.get().copied(),
            output_tokens: self.output_tokens.load(Ordering::Relaxed),
        }
    }
}

impl Ticket {
    /// Waits for the permit. Returns `None` if the gate is dropped.
    pub async fn admitted(&mut self) -> Option<Permit> {
        (&mut self.permit).await.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.waits {
            return;
        }
        let mut state = self.gate.state();
        if state.waiters.remove(&self.number).is_some() {
            state.queue.remove(self.number);
            drop(state);
            self.gate.changed.notify_one();
        }
        // A permit that was sent meanwhile is dropped with the channel and frees its place.
    }
}

impl Permit {
    /// Records tokens that the engine has produced. Estimates of the rest of this work and of the cost of later work need every
    /// token.
    pub fn produced(&self, tokens: u32) {
        if tokens > 0 {
            self.run.first_token.get_or_init(|| self.run.since.elapsed());
            self.run.output_tokens.fetch_add(tokens, Ordering::Relaxed);
        }
    }

    /// Records that the output ended by itself, so that its length counts for the estimate of lengths.
    pub fn ended_by_itself(&self) {
        self.run.by_itself.store(true, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some((gate, number)) = self.place.take() else { return };
        let mut state = gate.state();
        let ended = EndedWork {
            work: self.run.work,
            progress: self.run.progress(),
            by_itself: self.run.by_itself.load(Ordering::Relaxed),
            busy: !state.waiters.is_empty() || state.running.len() >= gate.capacity.sequences,
        };
        state.running.remove(&number);
        gate.fill(&mut state);
        let waits = !state.waiters.is_empty();
        drop(state);
        gate.costs.learn(&self.run.tenant, ended);
        if waits {
            gate.changed.notify_one();
        }
    }
}
