//! The replicas of a fleet: each says that it lives, watches the others, takes over what the dead ran, and hands over what
//! it runs before it ends. Knows generations and the fleet's contract; no database, no sockets.

mod placement;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    generation::Generations,
    limits::LEASES_WITHOUT_MODEL,
    store::{
        Store, StoreError,
        fleet::{Control, Fleet, Member},
    },
};

/// Heartbeats in a lease.
const BEATS: u32 = 4;
/// The owner of a released response.
const NOBODY: &str = "";
/// Responses claimed at once.
const CLAIMS: usize = 16;
/// Responses that are remembered as unreadable.
const MAX_UNREADABLE: usize = 1024;
/// Between looks at what is listed as running here but does not, and at cancels that were not heard.
const SWEEP: Duration = Duration::from_secs(3);

pub struct Cluster {
    store: Arc<dyn Store>,
    fleet: Arc<dyn Fleet>,
    generations: Arc<Generations>,
    lease: Duration,
    /// The other replicas as of the last heartbeat.
    members: Mutex<Vec<Member>>,
    /// Since when each dead replica is known to be. Held while claims are made: heartbeats do not wait for them.
    dead: tokio::sync::Mutex<HashMap<String, Instant>>,
    /// Responses of a newer version that were told of.
    unreadable: Mutex<HashSet<String>>,
}

/// Whose responses are claimed.
#[derive(Clone, Copy)]
struct From<'r> {
    replica: &'r str,
    /// Any replica that can run them has had the time to claim them.
    hopeless: bool,
}

impl Cluster {
    /// Joins the fleet. To be called on the runtime that generations run on.
    pub fn join(
        store: Arc<dyn Store>,
        fleet: Arc<dyn Fleet>,
        generations: Arc<Generations>,
        lease: Duration,
    ) -> Arc<Self> {
        let cluster = Arc::new(Self {
            store,
            fleet,
            generations,
            lease,
            members: Mutex::default(),
            dead: Default::default(),
            unreadable: Mutex::default(),
        });
        tokio::spawn(cluster.clone().live());
        tokio::spawn(cluster.clone().listen());
        tokio::spawn(cluster.clone().sweep());
        cluster
    }

    /// Leaves the fleet and stops what runs here, for others to continue. False: there are no others; all runs on.
    pub async fn hand_over(&self) -> bool {
        let others = match self.fleet.leave().await {
            Ok(others) => others,
            Err(error) => {
                tracing::warn!(%error, "the fleet could not be asked; finishing here");
                return false;
            }
        };
        let living = others.iter().any(|member| member.silent <= self.lease);
        if living {
            self.generations.hand_over();
        }
        living
    }

    /// Beats until this replica drains, and takes over what the dead ran.
    async fn live(self: Arc<Self>) {
        let mut beats = interval(self.lease / BEATS);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Since when every heartbeat was answered in time. After an outage all are silent and none is dead: a replica is
        // only judged when it could have been heard for a whole lease.
        let mut steady: Option<Instant> = None;
        let (mut last, mut heard) = (Instant::now(), true);
        loop {
            beats.tick().await;
            if self.generations.is_draining() {
                return;
            }
            let asked = Instant::now();
            let beaten = self.fleet.beat(&self.generations.report()).await;
            let in_time = asked.elapsed() < self.lease / 2 && last.elapsed() < self.lease;
            last = Instant::now();
            match beaten {
                Ok(members) => {
                    self.members.lock().clone_from(&members);
                    if !std::mem::replace(&mut heard, true) {
                        tracing::info!("the store is reached again");
                    }
                    if !in_time {
                        steady = None;
                    }
                    if steady.is_none() {
                        self.generations.announce_again();
                    }
                    let since = *steady.get_or_insert(asked);
                    let is_certain = self.fleet.is_exclusive() || since.elapsed() >= self.lease;
                    let living = members.iter().filter(|member| is_certain && member.silent <= self.lease);
                    self.generations.heard_of(living.cloned().collect());
                    if is_certain && members.iter().any(|member| member.silent > self.lease) {
                        tokio::spawn(self.clone().bury(members));
                    }
                }
                Err(error) => {
                    steady = None;
                    self.generations.heard_of(vec![]);
                    if std::mem::replace(&mut heard, false) {
                        tracing::warn!(%error, "the heartbeat failed");
                    }
                }
            }
        }
    }

    /// Takes over what dead replicas ran, and forgets those of which nothing is left.
    async fn bury(self: Arc<Self>, members: Vec<Member>) {
        let Ok(mut known) = self.dead.try_lock() else { return };
        let (dead, living): (Vec<_>, Vec<_>) = members.into_iter().partition(|member| member.silent > self.lease);
        known.retain(|replica, _| dead.iter().any(|member| member.replica == *replica));
        for member in dead {
            let since = *known.entry(member.replica.clone()).or_insert_with(Instant::now);
            let buried = async {
                let ids = self.fleet.runs(&member.replica).await?;
                if ids.is_empty() {
                    tracing::info!(replica = member.replica, "gone");
                    return self.fleet.forget(&member.replica).await;
                }
                // Each is one replica's; what that one did not take in time is anybody's.
                let late = since.elapsed() > self.lease * 2;
                let hopeless = since.elapsed() > self.lease * LEASES_WITHOUT_MODEL;
                let mine = ids.into_iter().filter(|id| late || self.is_mine(id, &living));
                let from = From { replica: &member.replica, hopeless };
                self.claim_all(mine.collect(), from).await;
                Ok(())
            };
            if let Err(error) = buried.await {
                tracing::warn!(replica = member.replica, %error, "a dead replica's generations cannot be taken over now");
            }
        }
    }

    fn is_mine(&self, id: &str, others: &[Member]) -> bool {
        let others = others.iter().map(|member| member.replica.as_str());
        placement::first(id, others.chain([self.fleet.me()])) == Some(self.fleet.me())
    }

    async fn claim_all(self: &Arc<Self>, ids: Vec<String>, from: From<'_>) {
        let claims = ids.into_iter().map(|id| async move {
            let claimed = self.claim(&id, from).await;
            if let Err(error @ StoreError::Unreadable(_)) = &claimed {
                if self.is_news(&id) {
                    tracing::warn!(response = id, %error, "it is left to a newer replica");
                }
            } else if let Err(error) = claimed {
                tracing::warn!(response = id, %error, "it cannot be taken over now");
            }
        });
        stream::iter(claims).buffer_unordered(CLAIMS).collect().await
    }

    /// Whether a response was not told before as one that cannot be read.
    fn is_news(&self, id: &str) -> bool {
        let mut unreadable = self.unreadable.lock();
        if unreadable.len() >= MAX_UNREADABLE {
            unreadable.clear();
        }
        unreadable.insert(id.to_owned())
    }

    /// Claims a response for this replica. Returns whether the response runs here now.
    async fn claim(self: &Arc<Self>, id: &str, from: From<'_>) -> Result<bool, StoreError> {
        let header = self.fleet.header(id).await?;
        let runs_here = header.is_none_or(|header| self.generations.can_take_over(&header));
        if !runs_here && (!from.hopeless || self.generations.is_draining()) {
            return Ok(false);
        }
        match self.store.claim(id, from.replica).await? {
            Some(claim) if runs_here => {
                self.generations.take_over(claim);
                return Ok(true);
            }
            Some(claim) => {
                tracing::warn!(response = id, model = claim.header.model, "no replica serves its model");
                self.generations.end_claimed(claim).await;
            }
            None => {}
        }
        Ok(false)
    }

    /// Does what other replicas ask for.
    async fn listen(self: Arc<Self>) {
        let mut control = self.fleet.control();
        while let Some(control) = control.next().await {
            match control {
                Control::Cancel { id } => self.generations.end(&id),
                Control::PollRequests { id } => self.generations.look(&id),
                Control::Steer { id } => self.generations.end_steered(&id),
                // The replica that offers it takes it back if this one is late: the claim must be of nobody's response.
                Control::Released { id, to: Some(to), .. } => {
                    if to == self.fleet.me() {
                        self.claim_offer(id);
                    }
                }
                Control::Released { id, by, to: None } => {
                    let mut others = self.members.lock().clone();
                    others.retain(|member| member.silent <= self.lease && member.replica != by);
                    if by != self.fleet.me() && self.is_mine(&id, &others) {
                        self.claim_aside(id, by);
                    }
                }
            }
        }
    }

    /// Claims a response that was offered to this replica, while other messages are heard.
    fn claim_offer(self: &Arc<Self>, id: String) {
        let cluster = self.clone();
        tokio::spawn(async move {
            match cluster.claim(&id, From { replica: NOBODY, hopeless: false }).await {
                Ok(true) => drop(cluster.generations.metrics.placed.inc()),
                Ok(false) => {}
                // The replica that offered it claims it soon.
                Err(error) => tracing::debug!(response = id, %error, "an offer cannot be taken"),
            }
        });
    }

    /// Claims a response that was released, while other messages are heard.
    fn claim_aside(self: &Arc<Self>, id: String, from: String) {
        let cluster = self.clone();
        tokio::spawn(async move { cluster.claim_all(vec![id], From { replica: &from, hopeless: false }).await });
    }

    /// Keeps what runs from expiring, and finds what went wrong unheard: runs that ended here without their log's end,
    /// cancels that were missed.
    async fn sweep(self: Arc<Self>) {
        let mut sweeps = interval(SWEEP);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut suspects = HashSet::new();
        loop {
            sweeps.tick().await;
            if self.generations.is_draining() {
                return;
            }
            let swept = async {
                for id in self.fleet.renew(&self.generations.running()).await? {
                    self.generations.end(&id);
                }
                self.fleet.runs(self.fleet.me()).await
            };
            let Ok(listed) = swept.await else { continue };
            // A response is listed a moment before it runs: only who is missing twice is.
            let missing: HashSet<String> = listed.into_iter().filter(|id| !self.generations.runs(id)).collect();
            let lost: Vec<String> = missing.intersection(&suspects).cloned().collect();
            self.claim_all(lost, From { replica: self.fleet.me(), hopeless: false }).await;
            suspects = missing;
        }
    }
}
