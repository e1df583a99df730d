//! What runs in this process, and what is followed here: cancels on request, hands over, and ends what nobody follows,
//! here or on another replica, for the grace period.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::store::fleet::Fleet;

const RETRY: Duration = Duration::from_millis(500);

pub struct Running {
    grace: Duration,
    state: Mutex<State>,
    /// Where other replicas look what is followed here; none without a fleet.
    fleet: Option<Arc<dyn Fleet>>,
    announce: Notify,
}

#[derive(Default)]
struct State {
    generations: HashMap<String, Generation>,
    /// Followers of each response that is followed here, wherever it runs.
    followers: HashMap<String, usize>,
    /// What the fleet has not been told yet.
    changed: HashSet<String>,
    registrations: u64,
}

struct Generation {
    /// Tells a registration from an earlier one of the same response.
    number: u64,
    stop: CancellationToken,
    handed_over: CancellationToken,
    look: Arc<Notify>,
    /// Since when it is known that nobody follows here.
    left: Instant,
}

/// Counts as one follower of a response as long as it lives.
pub struct Follower {
    running: Arc<Running>,
    id: String,
}

/// Keeps a response registered as long as it runs.
pub struct Registration {
    running: Arc<Running>,
    id: String,
    number: u64,
    /// Cancelled when the engine is to stop: the generation was cancelled or is handed over.
    pub stop: CancellationToken,
    /// Told when the writer is to look what was asked of it.
    pub look: Arc<Notify>,
    handed_over: CancellationToken,
}

impl Running {
    /// To be called on the runtime that generations run on.
    pub fn new(grace: Duration, fleet: Option<Arc<dyn Fleet>>) -> Arc<Self> {
        let running = Arc::new(Self { grace, state: Mutex::default(), fleet, announce: Notify::new() });
        tokio::spawn(running.clone().end_orphans());
        if let Some(fleet) = running.fleet.clone() {
            tokio::spawn(running.clone().announce(fleet));
        }
        running
    }

    pub fn register(self: &Arc<Self>, id: &str) -> Registration {
        let (stop, handed_over) = (CancellationToken::new(), CancellationToken::new());
        let mut state = self.state();
        state.registrations += 1;
        let number = state.registrations;
        let look = Arc::new(Notify::new());
        let generation = Generation {
            number,
            stop: stop.clone(),
            handed_over: handed_over.clone(),
            look: look.clone(),
            left: Instant::now(),
        };
        state.generations.insert(id.to_owned(), generation);
        Registration { running: self.clone(), id: id.to_owned(), number, stop, look, handed_over }
    }

    /// A follower of `id`, wherever it runs.
    pub fn follower(self: &Arc<Self>, id: &str) -> Follower {
        let mut state = self.state();
        let followers = state.followers.entry(id.to_owned()).or_default();
        *followers += 1;
        if *followers == 1 {
            self.presence(&mut state, id);
        }
        Follower { running: self.clone(), id: id.to_owned() }
    }

    pub fn runs(&self, id: &str) -> bool {
        self.state().generations.contains_key(id)
    }

    pub fn ids(&self) -> Vec<String> {
        self.state().generations.keys().cloned().collect()
    }

    pub fn cancel(&self, id: &str) {
        if let Some(generation) = self.state().generations.get(id) {
            generation.stop.cancel();
        }
    }

    /// Lets the writer look what was asked of it.
    pub fn look(&self, id: &str) {
        if let Some(generation) = self.state().generations.get(id) {
            generation.look.notify_one();
        }
    }

    pub fn cancel_all(&self) {
        self.state().generations.values().for_each(|generation| generation.stop.cancel());
    }

    /// Stops everything so that another replica can continue it.
    pub fn hand_over(&self) {
        for generation in self.state().generations.values() {
            if !generation.stop.is_cancelled() {
                generation.handed_over.cancel();
                generation.stop.cancel();
            }
        }
    }

    /// Tells the fleet everything again, when it may have forgotten.
    pub fn announce_again(&self) {
        let mut state = self.state();
        let followed: Vec<String> = state.followers.keys().cloned().collect();
        state.changed.extend(followed);
        self.announce.notify_one();
    }

    fn presence(&self, state: &mut State, id: &str) {
        if self.fleet.is_some() {
            state.changed.insert(id.to_owned());
            self.announce.notify_one();
        }
    }

    /// Looks in fractions of the grace period which generations nobody follows.
    async fn end_orphans(self: Arc<Self>) {
        let pause = (self.grace / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            sleep(pause).await;
            let alone: Vec<String> = {
                let state = self.state();
                let alone = state.generations.keys().filter(|id| !state.followers.contains_key(*id));
                alone.cloned().collect()
            };
            let elsewhere = match &self.fleet {
                Some(fleet) if !alone.is_empty() => match fleet.followed(&alone).await {
                    Ok(followed) => followed,
                    // Nobody is an orphan because nobody can be asked.
                    Err(_) => alone.iter().cloned().collect(),
                },
                _ => HashSet::new(),
            };
            let mut state = self.state();
            let State { generations, followers, .. } = &mut *state;
            for id in alone.iter().filter(|id| !followers.contains_key(*id)) {
                let Some(generation) = generations.get_mut(id) else { continue };
                if elsewhere.contains(id) {
                    generation.left = Instant::now();
                } else if generation.left.elapsed() >= self.grace && !generation.stop.is_cancelled() {
                    tracing::info!(response = id, "nobody follows; cancelling");
                    generation.stop.cancel();
                }
            }
        }
    }

    /// Tells the fleet what is followed here, all changes since the last time in one go.
    async fn announce(self: Arc<Self>, fleet: Arc<dyn Fleet>) {
        loop {
            self.announce.notified().await;
            let (followed, left): (Vec<String>, Vec<String>) = {
                let mut state = self.state();
                let changed = std::mem::take(&mut state.changed);
                changed.into_iter().partition(|id| state.followers.contains_key(id))
            };
            if followed.is_empty() && left.is_empty() {
                continue;
            }
            if fleet.announce(&followed, &left).await.is_err() {
                self.state().changed.extend(followed.into_iter().chain(left));
                sleep(RETRY).await;
                self.announce.notify_one();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registration {
    pub fn cancel(&self) {
        self.stop.cancel();
    }

    pub fn is_handed_over(&self) -> bool {
        self.handed_over.is_cancelled()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.running.state();
        if state.generations.get(&self.id).is_some_and(|generation| generation.number == self.number) {
            state.generations.remove(&self.id);
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = self.running.state();
        let Some(followers) = state.followers.get_mut(&self.id) else { return };
        *followers -= 1;
        if *followers > 0 {
            return;
        }
        state.followers.remove(&self.id);
        self.running.presence(&mut state, &self.id);
        if let Some(generation) = state.generations.get_mut(&self.id) {
            generation.left = Instant::now();
        }
    }
}
