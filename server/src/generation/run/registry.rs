//! The registry of the generations that run on this replica, and of the responses that clients follow on it. Cancels and hands
//! over generations. Cancels a generation that no client of any replica has followed for its grace period.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::store::{OnDisconnect, fleet::Fleet};

const RETRY: Duration = Duration::from_millis(500);
/// The time for which a generation runs without followers if its clients cannot resume. Covers the moment between two followers of one
/// client, and the moment after another replica has taken the generation over.
const CANCEL_AFTER: Duration = Duration::from_millis(500);
/// The longest interval between checks for generations without followers.
const PAUSE: Duration = Duration::from_millis(250);
/// The prefix of an announced id if one of its followers here can resume.
const RESUMABLE: char = '~';

/// The maximum of steered responses to remember that do not run here.
const MAX_STEERED: usize = 1024;

pub struct RunRegistry {
    grace: Duration,
    state: Mutex<RegistryState>,
    /// Where this replica announces the responses that are followed here; `None` without a fleet.
    fleet: Option<Arc<dyn Fleet>>,
    announce: Notify,
}

#[derive(Default)]
struct RegistryState {
    generations: HashMap<String, RegisteredRun>,
    /// Followers here of each response, on whatever replica it runs.
    followers: HashMap<String, Followers>,
    /// Ids of responses whose followers have changed since the last announcement.
    changed: HashSet<String>,
    registrations: u64,
    /// Steered responses that do not run here, the latest last. This replica may be about to run one of them.
    steered: VecDeque<String>,
}

#[derive(Default)]
struct Followers {
    count: usize,
    /// One of the followers, present or past, can resume.
    resumable: bool,
}

struct RegisteredRun {
    /// Distinguishes a registration from an earlier one of the same response.
    number: u64,
    stop: CancellationToken,
    handed_over: CancellationToken,
    steered: CancellationToken,
    requested: Arc<Notify>,
    /// When the response was last known to have a follower.
    left: Instant,
    /// The fleet knows that nobody follows.
    is_reported: bool,
    on_disconnect: OnDisconnect,
}

/// Counts as one follower of a response until it is dropped.
pub struct FollowerGuard {
    running: Arc<RunRegistry>,
    id: String,
}

/// Registers a run until it is dropped.
pub struct RunGuard {
    running: Arc<RunRegistry>,
    id: String,
    number: u64,
    /// Cancelled to stop the engine: the generation was cancelled or steered, or is handed over.
    pub stop: CancellationToken,
    /// Notified when the writer has to poll the requests to it.
    pub requested: Arc<Notify>,
    handed_over: CancellationToken,
    steered: CancellationToken,
}

impl RunRegistry {
    /// Creates the registry and starts its background tasks. To be called on the runtime that generations run on.
    pub fn new(grace: Duration, fleet: Option<Arc<dyn Fleet>>) -> Arc<Self> {
        let running = Arc::new(Self { grace, state: Mutex::default(), fleet, announce: Notify::new() });
        tokio::spawn(running.clone().end_orphans());
        if let Some(fleet) = running.fleet.clone() {
            tokio::spawn(running.clone().announce(fleet));
        }
        running
    }

    /// Registers a run. Stops it at once if it was steered before.
    pub fn register(self: &Arc<Self>, id: &str, on_disconnect: OnDisconnect) -> RunGuard {
        let (stop, handed_over, steered): (CancellationToken, CancellationToken, CancellationToken) =
            Default::default();
        let mut state = self.state();
        state.registrations += 1;
        let number = state.registrations;
        let requested = Arc::new(Notify::new());
        let resumable = state.followers.get(id).is_some_and(|followers| followers.resumable);
        let generation = RegisteredRun {
            number,
            stop: stop.clone(),
            handed_over: handed_over.clone(),
            steered: steered.clone(),
            requested: requested.clone(),
            left: Instant::now(),
            is_reported: false,
            on_disconnect: if resumable { on_disconnect.max(OnDisconnect::Grace) } else { on_disconnect },
        };
        if state.steered.iter().any(|steered_id| steered_id == id) {
            steered.cancel();
            stop.cancel();
        }
        state.generations.insert(id.to_owned(), generation);
        RunGuard { running: self.clone(), id: id.to_owned(), number, stop, requested, handed_over, steered }
    }

    /// Sets for how long nobody has followed a generation that was taken over.
    pub fn restore_unfollowed(&self, id: &str, left: Duration) {
        if let Some(generation) = self.state().generations.get_mut(id) {
            generation.left = Instant::now().checked_sub(left).unwrap_or(generation.left);
            generation.is_reported = true;
        }
    }

    /// Adds a follower of `id`, on whatever replica it runs. `leaving` says what a disconnect of the follower does to the
    /// generation. If one follower could resume, the generation gets the grace period.
    pub fn follower(self: &Arc<Self>, id: &str, leaving: OnDisconnect) -> FollowerGuard {
        let resumable = leaving >= OnDisconnect::Grace;
        let mut state = self.state();
        let followers = state.followers.entry(id.to_owned()).or_default();
        followers.count += 1;
        let is_news = followers.count == 1 || resumable && !followers.resumable;
        followers.resumable |= resumable;
        if is_news {
            self.queue_announcement(&mut state, id);
        }
        if resumable && let Some(generation) = state.generations.get_mut(id) {
            generation.on_disconnect = generation.on_disconnect.max(OnDisconnect::Grace);
        }
        FollowerGuard { running: self.clone(), id: id.to_owned() }
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

    /// Ends a generation as steered, so that a successor continues from its output: now if it runs here, else when it begins to run
    /// here.
    pub fn steer(&self, id: &str) {
        let mut state = self.state();
        match state.generations.get(id) {
            Some(generation) if generation.stop.is_cancelled() => {}
            Some(generation) => {
                generation.steered.cancel();
                generation.stop.cancel();
            }
            None => {
                if state.steered.len() == MAX_STEERED {
                    state.steered.pop_front();
                }
                state.steered.push_back(id.to_owned());
            }
        }
    }

    /// Lets the writer poll the requests to it.
    pub fn poll_requests(&self, id: &str) {
        if let Some(generation) = self.state().generations.get(id) {
            generation.requested.notify_one();
        }
    }

    pub fn cancel_all(&self) {
        self.state().generations.values().for_each(|generation| generation.stop.cancel());
    }

    /// Stops all generations so that other replicas can continue them.
    pub fn hand_over(&self) {
        for generation in self.state().generations.values() {
            if !generation.stop.is_cancelled() {
                generation.handed_over.cancel();
                generation.stop.cancel();
            }
        }
    }

    /// Announces all followed responses again, after the store may have lost them.
    pub fn announce_again(&self) {
        let mut state = self.state();
        let followed: Vec<String> = state.followers.keys().cloned().collect();
        state.changed.extend(followed);
        self.announce.notify_one();
    }

    /// Queues the followers of `id` for the next announcement.
    fn queue_announcement(&self, state: &mut RegistryState, id: &str) {
        if self.fleet.is_some() {
            state.changed.insert(id.to_owned());
            self.announce.notify_one();
        }
    }

    /// Cancels the generations that nobody has followed for their grace period, on this replica or another.
    async fn end_orphans(self: Arc<Self>) {
        let pause = (self.grace / 8).clamp(Duration::from_millis(10), PAUSE);
        loop {
            sleep(pause).await;
            let unfollowed = self.unfollowed();
            let elsewhere = self.followed_elsewhere(&unfollowed).await;
            self.report_unfollowed(&unfollowed, &elsewhere).await;
            let mut state = self.state();
            let RegistryState { generations, followers, .. } = &mut *state;
            for id in unfollowed.iter().filter(|id| !followers.contains_key(*id)) {
                let Some(generation) = generations.get_mut(id) else { continue };
                if elsewhere.contains(&resumable(id)) {
                    generation.on_disconnect = generation.on_disconnect.max(OnDisconnect::Grace);
                }
                let grace = match generation.on_disconnect {
                    OnDisconnect::Cancel => CANCEL_AFTER.min(self.grace),
                    _ => self.grace,
                };
                if elsewhere.contains(id) {
                    generation.left = Instant::now();
                } else if generation.left.elapsed() >= grace && !generation.stop.is_cancelled() {
                    tracing::info!(response = id, "nobody follows; cancelling");
                    generation.stop.cancel();
                }
            }
        }
    }

    /// Reports to the fleet the generations that nobody follows any more, and those that are followed again.
    async fn report_unfollowed(&self, unfollowed: &[String], elsewhere: &HashSet<String>) {
        let Some(fleet) = &self.fleet else { return };
        let unfollowed: HashSet<&String> = unfollowed.iter().collect();
        let (mut left, mut followed) = (vec![], vec![]);
        for (id, generation) in &mut self.state().generations {
            let is_left = unfollowed.contains(id) && !elsewhere.contains(id);
            if is_left != generation.is_reported {
                generation.is_reported = is_left;
                let list = if is_left { &mut left } else { &mut followed };
                list.push(id.clone());
            }
        }
        if left.is_empty() && followed.is_empty() {
            return;
        }
        if let Err(error) = fleet.left(&left, &followed).await {
            tracing::debug!(%error, "cannot report which generations have no follower; retrying when that changes");
        }
    }

    /// Returns the generations that run here, have no follower here, and end without one.
    fn unfollowed(&self) -> Vec<String> {
        let state = self.state();
        let ends = |generation: &RegisteredRun| generation.on_disconnect != OnDisconnect::Continue;
        let unfollowed = state.generations.iter().filter(|(id, g)| ends(g) && !state.followers.contains_key(*id));
        unfollowed.map(|(id, _)| id.clone()).collect()
    }

    /// Returns those of `ids` that have followers on another replica, and their [`resumable`] forms if such a follower can resume.
    async fn followed_elsewhere(&self, ids: &[String]) -> HashSet<String> {
        let Some(fleet) = self.fleet.as_ref().filter(|_| !ids.is_empty()) else { return HashSet::new() };
        let asked: Vec<String> = ids.iter().flat_map(|id| [id.clone(), resumable(id)]).collect();
        // While the store cannot be reached, no generation counts as an orphan.
        fleet.followed(&asked).await.unwrap_or_else(|_| ids.iter().cloned().collect())
    }

    /// Announces the responses that are followed here: all changes since the last announcement at once.
    async fn announce(self: Arc<Self>, fleet: Arc<dyn Fleet>) {
        loop {
            self.announce.notified().await;
            let changed = std::mem::take(&mut self.state().changed);
            if changed.is_empty() {
                continue;
            }
            let (followed, left) = self.announcement(&changed);
            if fleet.announce(&followed, &left).await.is_err() {
                self.state().changed.extend(changed);
                sleep(RETRY).await;
                self.announce.notify_one();
            }
        }
    }

    /// Splits `changed` into ids that are followed here and ids that are not, each also in its [`resumable`] form.
    fn announcement(&self, changed: &HashSet<String>) -> (Vec<String>, Vec<String>) {
        let state = self.state();
        let (mut followed, mut left) = (vec![], vec![]);
        for id in changed {
            let followers = state.followers.get(id);
            let list = if followers.is_some() { &mut followed } else { &mut left };
            list.push(id.clone());
            let list = if followers.is_some_and(|f| f.resumable) { &mut followed } else { &mut left };
            list.push(resumable(id));
        }
        (followed, left)
    }

    fn state(&self) -> MutexGuard<'_, RegistryState> {
        self.state.lock()
    }
}

/// Returns the form of an id by which replicas announce that one of its followers can resume.
fn resumable(id: &str) -> String {
    format!("{RESUMABLE}{id}")
}

impl RunGuard {
    pub fn cancel(&self) {
        self.stop.cancel();
    }

    pub fn is_steered(&self) -> bool {
        self.steered.is_cancelled()
    }

    pub fn is_handed_over(&self) -> bool {
        self.handed_over.is_cancelled()
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        let mut state = self.running.state();
        if state.generations.get(&self.id).is_some_and(|generation| generation.number == self.number) {
            state.generations.remove(&self.id);
        }
    }
}

impl Drop for FollowerGuard {
    fn drop(&mut self) {
        let mut state = self.running.state();
        let Some(followers) = state.followers.get_mut(&self.id) else { return };
        followers.count -= 1;
        if followers.count > 0 {
            return;
        }
        state.followers.remove(&self.id);
        self.running.queue_announcement(&mut state, &self.id);
        if let Some(generation) = state.generations.get_mut(&self.id) {
            generation.left = Instant::now();
        }
    }
}
