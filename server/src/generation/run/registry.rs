//! What runs in this process, and what is followed here: cancels on request, hands over, and ends what nobody follows,
//! here or on another replica, for the grace period.

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
/// How long a generation whose clients cannot resume goes on without followers. Covers the moment between two followers
/// of one client, and a replica that takes the generation over.
const CANCEL_AFTER: Duration = Duration::from_millis(500);
/// Between looks at which generations have no follower.
const PAUSE: Duration = Duration::from_millis(250);
/// What an announced id begins with when one of its followers here can resume.
const RESUMABLE: char = '~';

/// Steered responses that are remembered where they do not run.
const MAX_STEERED: usize = 1024;

pub struct RunRegistry {
    grace: Duration,
    state: Mutex<RegistryState>,
    /// Where other replicas look what is followed here; none without a fleet.
    fleet: Option<Arc<dyn Fleet>>,
    announce: Notify,
}

#[derive(Default)]
struct RegistryState {
    generations: HashMap<String, RegisteredRun>,
    /// Followers of each response that is followed here, wherever it runs.
    followers: HashMap<String, Followers>,
    /// What the fleet has not been told yet.
    changed: HashSet<String>,
    registrations: u64,
    /// Responses that were steered and do not run here, the latest at the end: one of them may be on its way to this replica.
    steered: VecDeque<String>,
}

#[derive(Default)]
struct Followers {
    count: usize,
    /// Whether one of them can resume, or could.
    resumable: bool,
}

struct RegisteredRun {
    /// Tells a registration from an earlier one of the same response.
    number: u64,
    stop: CancellationToken,
    handed_over: CancellationToken,
    steered: CancellationToken,
    look: Arc<Notify>,
    /// Since when it is known that nobody follows here.
    left: Instant,
    /// Whether the fleet was told that nobody follows.
    told: bool,
    on_disconnect: OnDisconnect,
}

/// Counts as one follower of a response as long as it lives.
pub struct FollowerGuard {
    running: Arc<RunRegistry>,
    id: String,
}

/// Keeps a response registered as long as it runs.
pub struct RunGuard {
    running: Arc<RunRegistry>,
    id: String,
    number: u64,
    /// Cancelled when the engine is to stop: the generation was cancelled or is handed over.
    pub stop: CancellationToken,
    /// Told when the writer is to look what was asked of it.
    pub look: Arc<Notify>,
    handed_over: CancellationToken,
    steered: CancellationToken,
}

impl RunRegistry {
    /// To be called on the runtime that generations run on.
    pub fn new(grace: Duration, fleet: Option<Arc<dyn Fleet>>) -> Arc<Self> {
        let running = Arc::new(Self { grace, state: Mutex::default(), fleet, announce: Notify::new() });
        tokio::spawn(running.clone().end_orphans());
        if let Some(fleet) = running.fleet.clone() {
            tokio::spawn(running.clone().announce(fleet));
        }
        running
    }

    pub fn register(self: &Arc<Self>, id: &str, on_disconnect: OnDisconnect) -> RunGuard {
        let (stop, handed_over, steered): (CancellationToken, CancellationToken, CancellationToken) =
            Default::default();
        let mut state = self.state();
        state.registrations += 1;
        let number = state.registrations;
        let look = Arc::new(Notify::new());
        let resumable = state.followers.get(id).is_some_and(|followers| followers.resumable);
        let generation = RegisteredRun {
            number,
            stop: stop.clone(),
            handed_over: handed_over.clone(),
            steered: steered.clone(),
            look: look.clone(),
            left: Instant::now(),
            told: false,
            on_disconnect: if resumable { on_disconnect.max(OnDisconnect::Grace) } else { on_disconnect },
        };
        if state.steered.iter().any(|steered_id| steered_id == id) {
            steered.cancel();
            stop.cancel();
        }
        state.generations.insert(id.to_owned(), generation);
        RunGuard { running: self.clone(), id: id.to_owned(), number, stop, look, handed_over, steered }
    }

    /// Of a generation that was taken over: for how long nobody had followed it.
    pub fn left_before(&self, id: &str, left: Duration) {
        if let Some(generation) = self.state().generations.get_mut(id) {
            generation.left = Instant::now().checked_sub(left).unwrap_or(generation.left);
            generation.told = true;
        }
    }

    /// A follower of `id`, wherever it runs. `leaving` is what the follower's disconnect means; a generation that was
    /// followed by a client that can resume gets the grace period.
    pub fn follower(self: &Arc<Self>, id: &str, leaving: OnDisconnect) -> FollowerGuard {
        let resumable = leaving >= OnDisconnect::Grace;
        let mut state = self.state();
        let followers = state.followers.entry(id.to_owned()).or_default();
        followers.count += 1;
        let is_news = followers.count == 1 || resumable && !followers.resumable;
        followers.resumable |= resumable;
        if is_news {
            self.presence(&mut state, id);
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

    /// Ends a generation so that a successor goes on from where it is: now if it runs here, else when it begins to.
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

    fn presence(&self, state: &mut RegistryState, id: &str) {
        if self.fleet.is_some() {
            state.changed.insert(id.to_owned());
            self.announce.notify_one();
        }
    }

    /// Cancels the generations that nobody follows, here or on another replica, once their grace has passed.
    async fn end_orphans(self: Arc<Self>) {
        let pause = (self.grace / 8).clamp(Duration::from_millis(10), PAUSE);
        loop {
            sleep(pause).await;
            let alone = self.alone();
            let elsewhere = self.followed_elsewhere(&alone).await;
            self.tell_who_left(&alone, &elsewhere).await;
            let mut state = self.state();
            let RegistryState { generations, followers, .. } = &mut *state;
            for id in alone.iter().filter(|id| !followers.contains_key(*id)) {
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

    /// Tells the fleet which generations nobody follows any more, and which are followed again.
    async fn tell_who_left(&self, alone: &[String], elsewhere: &HashSet<String>) {
        let Some(fleet) = &self.fleet else { return };
        let alone: HashSet<&String> = alone.iter().collect();
        let (mut left, mut followed) = (vec![], vec![]);
        for (id, generation) in &mut self.state().generations {
            let is_left = alone.contains(id) && !elsewhere.contains(id);
            if is_left != generation.told {
                generation.told = is_left;
                let list = if is_left { &mut left } else { &mut followed };
                list.push(id.clone());
            }
        }
        if left.is_empty() && followed.is_empty() {
            return;
        }
        if let Err(error) = fleet.left(&left, &followed).await {
            tracing::debug!(%error, "who left could not be told");
        }
    }

    /// The generations that run here, have no follower here, and end without one.
    fn alone(&self) -> Vec<String> {
        let state = self.state();
        let ends = |generation: &RegisteredRun| generation.on_disconnect != OnDisconnect::Continue;
        let alone = state.generations.iter().filter(|(id, g)| ends(g) && !state.followers.contains_key(*id));
        alone.map(|(id, _)| id.clone()).collect()
    }

    /// Of `ids`, those that another replica follows; each also in its [`resumable`] form where a follower can resume.
    async fn followed_elsewhere(&self, ids: &[String]) -> HashSet<String> {
        let Some(fleet) = self.fleet.as_ref().filter(|_| !ids.is_empty()) else { return HashSet::new() };
        let asked: Vec<String> = ids.iter().flat_map(|id| [id.clone(), resumable(id)]).collect();
        // A generation is no orphan while nobody can be asked.
        fleet.followed(&asked).await.unwrap_or_else(|_| ids.iter().cloned().collect())
    }

    /// Tells the fleet what is followed here, all changes since the last time in one go.
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

    /// What is followed here of `changed`, and what no longer is, each id also in its [`resumable`] form.
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

/// How replicas announce that one of an id's followers can resume.
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
        self.running.presence(&mut state, &self.id);
        if let Some(generation) = state.generations.get_mut(&self.id) {
            generation.left = Instant::now();
        }
    }
}
