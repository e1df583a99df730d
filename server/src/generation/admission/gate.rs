//! What runs at once of one model, and the queue for it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::{
    Place,
    estimate::{Costs, Ended, Progress, Work},
    forecast,
    queue::{Queue, Waiting},
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
    settings: settings::Admission,
    costs: Costs,
    state: Mutex<State>,
    /// Somebody came or went; also that the gate is gone.
    changed: Arc<Notify>,
}

/// While there is room for the next request nobody waits.
#[derive(Default)]
struct State {
    arrived: u64,
    queue: Queue,
    waiters: HashMap<u64, Waiter>,
    running: HashMap<u64, Arc<Run>>,
}

/// Whom to tell of those in the queue.
struct Waiter {
    id: String,
    permit: oneshot::Sender<Permit>,
    place: watch::Sender<Option<Place>>,
}

/// Work in the engine.
struct Run {
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
    run: Arc<Run>,
    /// `None` once the right has been passed on.
    place: Option<(Arc<Gate>, u64)>,
}

impl Gate {
    pub fn new(capacity: Capacity, settings: settings::Admission) -> Arc<Self> {
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
        Ok(self.admit(state, id, Waiting { number: 0, tenant: tenant.into(), tier, work, cost }))
    }

    /// Before all others of its tenant, in the first tier, whatever the queue's bound.
    pub fn enter_first(self: &Arc<Self>, id: &str, tenant: &str, work: Work) -> Ticket {
        let first = Waiting { number: 0, tenant: tenant.into(), tier: ServiceTier::Priority, work, cost: 0.0 };
        self.admit(self.state(), id, first)
    }

    fn admit(self: &Arc<Self>, mut state: MutexGuard<'_, State>, id: &str, waiting: Waiting) -> Ticket {
        let (sender, permit) = oneshot::channel();
        state.arrived += 1;
        let number = state.arrived;
        state.queue.push(Waiting { number, ..waiting });
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
    fn has_room(&self, state: &State, tokens: usize) -> bool {
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

    pub fn place(&self, id: &str) -> Option<watch::Receiver<Option<Place>>> {
        let mut place = self.state().waiters.values().find(|waiter| waiter.id == id)?.place.subscribe();
        // What is known already is news to who asks.
        place.mark_changed();
        Some(place)
    }

    fn check_queue(&self, state: &State, tenant: &str) -> Result<(), WireError> {
        let settings::Admission { queue, queue_per_tenant, .. } = self.settings;
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
    fn retry_after_ms<'s>(&self, state: &'s State, waiters: impl Iterator<Item = &'s Waiter>) -> u64 {
        let place = |waiter: &Waiter| waiter.place.borrow().map(|place| place.estimated_wait());
        let wait = waiters.filter_map(place).min();
        let wait = wait.or_else(|| state.running.iter().map(|(number, run)| self.rest(*number, run)).min());
        u64::try_from(wait.unwrap_or_default().max(MIN_RETRY).as_millis()).unwrap_or(u64::MAX)
    }

    fn rest(&self, number: u64, run: &Run) -> Duration {
        self.costs.rest(&run.tenant, run.work, run.progress(), forecast::quantile(number))
    }

    /// Lets those who are next run, as long as there is room for the next.
    fn fill(self: &Arc<Self>, state: &mut State) {
        while state.running.len() < self.capacity.sequences {
            let room = |next: &Waiting| self.has_room(state, self.tokens(&next.tenant, next.work));
            if self.capacity.tokens.is_some() && !state.queue.peek().as_ref().is_some_and(room) {
                return;
            }
            let Some(Waiting { number, tenant, work, .. }) = state.queue.pop() else { return };
            let Some(waiter) = state.waiters.remove(&number) else { continue };
            let tokens = self.tokens(&tenant, work);
            let run = Arc::new(Run::new(tenant, work, tokens));
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
            self.costs.rest(&next.tenant, next.work, Progress::default(), forecast::quantile(next.number))
        })
    }

    /// Tells those whose place has changed.
    fn tell(&self, starts: Vec<(u64, Duration)>) {
        let (state, now) = (self.state(), Instant::now());
        let still = starts.iter().filter_map(|(number, wait)| Some((state.waiters.get(number)?, *wait)));
        for (at, (waiter, wait)) in still.enumerate() {
            let place = Place { position: at + 1, starts: now + wait.min(Duration::from_secs(86_400)) };
            waiter.place.send_if_modified(|told| {
                let changed = told.is_none_or(|told| differs(told, place, now));
                if changed {
                    *told = Some(place);
                }
                changed
            });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
fn differs(told: Place, place: Place, now: Instant) -> bool {
    let moved = told.starts.max(place.starts) - told.starts.min(place.starts);
    let wait = place.starts.saturating_duration_since(now);
    told.position != place.position || moved > Duration::from_secs(1).max(wait / 4)
}

impl Run {
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

    fn progress(&self) -> Progress {
        Progress {
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
        let ended = Ended {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const WORK: Work = Work { prompt_tokens: 10, max_output_tokens: 100 };

    fn gate(sequences: usize, queue: usize) -> Arc<Gate> {
        let settings = settings::Admission {
            queue,
            queue_per_tenant: queue,
            priority: Default::default(),
            weights: Default::default(),
        };
        Gate::new(Capacity { sequences, tokens: None }, settings)
    }

    fn enter(gate: &Arc<Gate>, id: &str) -> Result<Ticket, WireError> {
        gate.enter(id, "t", ServiceTier::Default, WORK)
    }

    async fn position(gate: &Gate, id: &str) -> usize {
        let mut place = gate.place(id).expect("it waits");
        let place = place.wait_for(Option::is_some).await.expect("it still waits");
        place.map_or(0, |place| place.position)
    }

    #[tokio::test]
    async fn what_runs_is_bounded_and_starts_in_order() {
        let gate = gate(1, 2);
        let mut first = enter(&gate, "a").unwrap();
        assert!(!first.waits && gate.place("a").is_none());
        let permit = first.admitted().await.unwrap();
        let mut second = enter(&gate, "b").unwrap();
        let mut third = enter(&gate, "c").unwrap();
        assert!(matches!(enter(&gate, "d"), Err(WireError::ServerOverloaded { retry_after_ms: 100.. })));
        assert_eq!(position(&gate, "c").await, 2);
        let mut place = gate.place("c").unwrap();
        drop(permit);
        let permit = second.admitted().await.unwrap();
        place.wait_for(|place| place.is_some_and(|place| place.position == 1)).await.unwrap();
        drop(permit);
        drop(third.admitted().await.unwrap());
        assert!(place.changed().await.is_err(), "it waits no longer");
        assert!(!enter(&gate, "e").unwrap().waits);
    }

    #[tokio::test]
    async fn who_leaves_the_queue_is_passed_over_and_a_dropped_ticket_frees_its_place() {
        let gate = gate(1, 2);
        let held = enter(&gate, "a").unwrap();
        let gone = enter(&gate, "b").unwrap();
        let mut waiting = enter(&gate, "c").unwrap();
        drop(gone);
        assert_eq!(position(&gate, "c").await, 1);
        drop(held);
        assert!(waiting.admitted().await.is_some());
    }

    #[tokio::test]
    async fn a_tenant_has_a_bound_of_its_own() {
        let settings = settings::Admission {
            queue: 3,
            queue_per_tenant: 1,
            priority: Default::default(),
            weights: Default::default(),
        };
        let gate = Gate::new(Capacity { sequences: 1, tokens: None }, settings);
        let enter = |tenant| gate.enter("id", tenant, ServiceTier::Default, WORK);
        let (_running, waiting) = (enter("a").unwrap(), enter("a").unwrap());
        assert!(matches!(enter("a"), Err(WireError::RateLimitExceeded { waiting: 1, retry_after_ms: 100.. })));
        drop(waiting);
        let _waiting = (enter("a").unwrap(), enter("b").unwrap(), enter("c").unwrap());
        assert!(matches!(enter("d"), Err(WireError::ServerOverloaded { .. })));
    }

    #[tokio::test]
    async fn work_waits_for_tokens_in_its_turn() {
        let settings = settings::Admission {
            queue: 9,
            queue_per_tenant: 9,
            priority: Default::default(),
            weights: Default::default(),
        };
        let gate = Gate::new(Capacity { sequences: 8, tokens: Some(1000) }, settings);
        let enter = |id, prompt_tokens| {
            let work = Work { prompt_tokens, max_output_tokens: 10 };
            gate.enter(id, "t", ServiceTier::Default, work).unwrap()
        };
        let mut first = enter("a", 5000);
        let alone = first.admitted().await.unwrap();
        let mut second = enter("b", 600);
        assert!(second.waits, "there is room for one that is too large, alone");
        drop(alone);
        let permit = second.admitted().await.unwrap();
        let mut third = enter("c", 300);
        let (mut fourth, fifth) = (enter("d", 900), enter("e", 950));
        assert!(!third.waits && fourth.waits);
        assert!(fifth.waits);
        drop(permit);
        drop(third.admitted().await.unwrap());
        assert!(fourth.admitted().await.is_some());
    }

    #[tokio::test]
    async fn only_those_whose_place_has_changed_are_told() {
        let gate = gate(1, 10);
        let _held = enter(&gate, "a").unwrap();
        let _tickets = (enter(&gate, "b").unwrap(), enter(&gate, "c").unwrap());
        position(&gate, "c").await;
        let mut second = gate.place("c").unwrap();
        second.borrow_and_update();
        let _later = enter(&gate, "d").unwrap();
        assert_eq!(position(&gate, "d").await, 3);
        assert!(!second.has_changed().unwrap(), "another came behind it");
    }

    /// Many tasks that come, wait, work, and leave at any moment: never more permits than places, and none lost.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn permits_are_neither_lost_nor_doubled() {
        const PLACES: usize = 3;
        let gate = gate(PLACES, 1000);
        let at_work = Arc::new(AtomicUsize::new(0));
        let worked = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..64u64)
            .map(|task| {
                let (gate, at_work, worked) = (gate.clone(), at_work.clone(), worked.clone());
                tokio::spawn(async move {
                    let mut random = task.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
                    let mut next = move |below: u64| {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        random % below
                    };
                    for round in 0..200 {
                        let tenant = ["a", "b", "c"][next(3) as usize];
                        let tier = [ServiceTier::Priority, ServiceTier::Default, ServiceTier::Flex][next(3) as usize];
                        let mut ticket = gate.enter(&format!("{task}-{round}"), tenant, tier, WORK).unwrap();
                        let patience = next(40);
                        let admitted = tokio::select! {
                            biased;
                            permit = ticket.admitted() => permit,
                            () = yields(patience) => None,
                        };
                        let Some(permit) = admitted else { continue };
                        assert!(at_work.fetch_add(1, Ordering::SeqCst) < PLACES);
                        yields(next(5)).await;
                        permit.produced(1);
                        at_work.fetch_sub(1, Ordering::SeqCst);
                        worked.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let state = gate.state();
        assert!(state.running.is_empty() && state.waiters.is_empty());
        drop(state);
        let worked = worked.load(Ordering::SeqCst);
        assert!((1000..12_800).contains(&worked), "{worked} of 12,800 had the patience to wait");
        let all: Vec<_> = (0..=PLACES).map(|n| enter(&gate, &n.to_string()).unwrap()).collect();
        assert_eq!(all.iter().filter(|ticket| ticket.waits).count(), 1, "every place is free again");
    }

    async fn yields(times: u64) {
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
    }
}
