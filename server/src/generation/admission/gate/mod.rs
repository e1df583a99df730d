//! What runs at once of one model, and the queue for it.

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

/// Places are reckoned at most this often, for all who wait together; of those, whoever's has changed is told.
const PAUSE: Duration = Duration::from_millis(100);
/// And this often while nobody comes or goes, since what runs may take longer than expected.
const REFRESH: Duration = Duration::from_secs(1);
/// The least that a refused client is asked to wait.
const MIN_RETRY: Duration = Duration::from_millis(100);

pub struct Gate {
    capacity: Capacity,
    settings: settings::AdmissionSettings,
    costs: Costs,
    state: Mutex<GateState>,
    /// Somebody came or went; also that the gate is gone.
    changed: Arc<Notify>,
}

/// While there is room for the next request nobody waits.
#[derive(Default)]
struct GateState {
    arrived: u64,
    queue: Queue,
    waiters: HashMap<u64, Waiter>,
    running: HashMap<u64, Arc<GateRun>>,
}

/// Whom to tell of those in the queue.
struct Waiter {
    id: String,
    permit: oneshot::Sender<Permit>,
    place: watch::Sender<Option<QueuePlace>>,
}

/// Work in the engine.
struct GateRun {
    tenant: Arc<str>,
    work: Work,
    /// Tokens that it is expected to take of the capacity.
    tokens: usize,
    since: Instant,
    first_token: OnceLock<Duration>,
    output_tokens: AtomicU32,
    by_itself: AtomicBool,
}

/// A place in the queue or, when there was room, the permit already. Dropping it leaves the queue.
pub struct Ticket {
    gate: Arc<Gate>,
    number: u64,
    permit: oneshot::Receiver<Permit>,
    pub waits: bool,
}

/// The right to run in the engine. Lives exactly as long as the work.
pub struct Permit {
    run: Arc<GateRun>,
    /// `None` once the right has been passed on.
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
        tokio::spawn(keep_places(Arc::downgrade(&gate), changed));
        gate
    }

    pub fn enter(self: &Arc<Self>, id: &str, tenant: &str, tier: ServiceTier, work: Work) -> Result<Ticket, WireError> {
        let weight = self.settings.weights.get(tenant).copied().unwrap_or(1.0);
        let cost = self.costs.mean(tenant, work) / weight;
        let state = self.state();
        if !state.waiters.is_empty() || !self.has_room(&state, self.tokens(tenant, work)) {
            self.check_queue(&state, tenant)?;
        }
        Ok(self.admit(state, id, QueuedRequest { number: 0, tenant: tenant.into(), tier, work, cost }))
    }

    /// Before all others of its tenant, in the first tier, whatever the queue's bound.
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

    /// How many more could run; 0 while somebody waits.
    pub fn idle(&self) -> usize {
        let state = self.state();
        if state.waiters.is_empty() { self.capacity.sequences.saturating_sub(state.running.len()) } else { 0 }
    }

    /// Whether work of so many tokens can run beside what runs. Work that has the engine for itself always can: the engine
    /// refuses what never fits.
    fn has_room(&self, state: &GateState, tokens: usize) -> bool {
        let taken: usize = state.running.values().map(|run| run.tokens).sum();
        let fits = self.capacity.tokens.is_none_or(|all| taken + tokens <= all);
        state.running.len() < self.capacity.sequences && (fits || state.running.is_empty())
    }

    /// Tokens that work is expected to take: its prompt, and an output of the usual length.
    fn tokens(&self, tenant: &str, work: Work) -> usize {
        work.prompt_tokens as usize + self.costs.output(tenant, work)
    }

    /// How many run and how many wait.
    pub fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.running.len(), state.waiters.len())
    }

    pub fn place(&self, id: &str) -> Option<watch::Receiver<Option<QueuePlace>>> {
        let mut place = self.state().waiters.values().find(|waiter| waiter.id == id)?.place.subscribe();
        // What is known already is news to who asks.
        place.mark_changed();
        Some(place)
    }

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

    /// When the first of these is expected to leave the queue or, where none is, the first of those that run to end.
    fn retry_after_ms<'s>(&self, state: &'s GateState, waiters: impl Iterator<Item = &'s Waiter>) -> u64 {
        let place = |waiter: &Waiter| waiter.place.borrow().map(|place| place.estimated_wait());
        let wait = waiters.filter_map(place).min();
        let wait = wait.or_else(|| state.running.iter().map(|(number, run)| self.rest(*number, run)).min());
        u64::try_from(wait.unwrap_or_default().max(MIN_RETRY).as_millis()).unwrap_or(u64::MAX)
    }

    fn rest(&self, number: u64, run: &GateRun) -> Duration {
        self.costs.rest(&run.tenant, run.work, run.progress(), forecast::quantile(number))
    }

    /// Lets those who are next run, as long as there is room for the next.
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
            // A ticket leaves the queue before its channel closes. Should one not have, it is passed over, and its permit
            // must not free its place a second time.
            if let Err(mut unclaimed) = waiter.permit.send(Permit { run, place: Some((self.clone(), number)) }) {
                unclaimed.place = None;
                state.running.remove(&number);
            }
        }
    }

    /// When everybody who waits is expected to start, in that order.
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

    /// Tells those whose place has changed.
    fn tell(&self, starts: Vec<(u64, Duration)>) {
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

/// Keeps the places of a gate up to date as long as it lives.
async fn keep_places(gate: Weak<Gate>, changed: Arc<Notify>) {
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
            gate.tell(starts);
        }
        drop(gate);
        sleep(PAUSE).await;
    }
}

/// Whether a place is worth telling: another position, or a start that moved by a second and a quarter of the wait.
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
    /// Waits for the permit.
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
        // A permit that came meanwhile goes with the channel, and frees its place.
    }
}

impl Permit {
    /// To be told of every token, so that what is left of the work can be estimated, and what work costs be learnt.
    pub fn produced(&self, tokens: u32) {
        if tokens > 0 {
            self.run.first_token.get_or_init(|| self.run.since.elapsed());
            self.run.output_tokens.fetch_add(tokens, Ordering::Relaxed);
        }
    }

    /// To be told that the reply ended by itself, so that its length says how long replies are.
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
