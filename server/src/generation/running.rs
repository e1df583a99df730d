//! What runs in this process, with its followers: cancels on request, and when nobody has followed for the grace period.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

pub struct Running {
    grace: Duration,
    runtime: tokio::runtime::Handle,
    responses: Mutex<HashMap<String, Generation>>,
}

struct Generation {
    cancel: CancellationToken,
    followers: usize,
    /// Counts arrivals, so that a grace period that began before one ends without effect.
    arrivals: u64,
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
    pub cancel: CancellationToken,
}

impl Running {
    pub fn new(grace: Duration) -> Arc<Self> {
        Arc::new(Self { grace, runtime: tokio::runtime::Handle::current(), responses: Mutex::default() })
    }

    pub fn register(self: &Arc<Self>, id: &str) -> Registration {
        let cancel = CancellationToken::new();
        let generation = Generation { cancel: cancel.clone(), followers: 0, arrivals: 0 };
        self.responses().insert(id.to_owned(), generation);
        Registration { running: self.clone(), id: id.to_owned(), cancel }
    }

    /// A follower of `id`, whether it runs or not.
    pub fn follower(self: &Arc<Self>, id: &str) -> Follower {
        if let Some(generation) = self.responses().get_mut(id) {
            generation.followers += 1;
            generation.arrivals += 1;
        }
        Follower { running: self.clone(), id: id.to_owned() }
    }

    pub fn cancel(&self, id: &str) {
        if let Some(generation) = self.responses().get(id) {
            generation.cancel.cancel();
        }
    }

    pub fn cancel_all(&self) {
        self.responses().values().for_each(|generation| generation.cancel.cancel());
    }

    fn responses(&self) -> MutexGuard<'_, HashMap<String, Generation>> {
        self.responses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.running.responses().remove(&self.id);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut responses = self.running.responses();
        let Some(generation) = responses.get_mut(&self.id) else { return };
        generation.followers = generation.followers.saturating_sub(1);
        if generation.followers > 0 {
            return;
        }
        let left = generation.arrivals;
        drop(responses);
        let (running, id) = (self.running.clone(), std::mem::take(&mut self.id));
        self.running.runtime.spawn(async move {
            tokio::time::sleep(running.grace).await;
            if let Some(generation) = running.responses().get(&id).filter(|g| g.followers == 0 && g.arrivals == left) {
                tracing::info!(response = id, "nobody follows; cancelling");
                generation.cancel.cancel();
            }
        });
    }
}
