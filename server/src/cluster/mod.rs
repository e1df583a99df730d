//! The replicas of a fleet. Each one sends heartbeats, watches the others, takes over the responses of dead replicas, and hands over its
//! own responses before it ends. Uses generations and the fleet's contract; independent of databases and sockets.

mod assignment;

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
/// Time between two sweeps.
const SWEEP: Duration = Duration::from_secs(3);

pub struct Cluster {
    store: Arc<dyn Store>,
    fleet: Arc<dyn Fleet>,
    generations: Arc<Generations>,
    lease: Duration,
    /// The other replicas as of the last heartbeat.
    members: Mutex<Vec<Member>>,
    /// Dead replica → when its death was noticed. Locked while claims are made; heartbeats do not wait for the lock.
    dead: tokio::sync::Mutex<HashMap<String, Instant>>,
    /// Unreadable responses that were logged.
    unreadable: Mutex<HashSet<String>>,
}

/// The owner whose responses are claimed.
#[derive(Clone, Copy)]
struct ClaimSource<'r> {
    replica: &'r str,
    /// Ends a response whose model this replica does not serve: a replica that serves it had the time to claim the response.
    ends_unserved: bool,
}

impl Cluster {
    /// Joins the fleet. Must be called on the runtime of the generations.
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
        tokio::spawn(cluster.clone().send_heartbeats());
        tokio::spawn(cluster.clone().listen());
        tokio::spawn(cluster.clone().sweep());
        cluster
    }

    /// Leaves the fleet, and stops the generations here so that other replicas continue them. Returns `false` if there are no other
    /// replicas; then the generations continue here.
    pub async fn hand_over(&self) -> bool {
        let others = match self.fleet.leave().await {
            Ok(others) => others,
            Err(error) => {
                tracing::warn!(%error, "the store did not answer whether there are other replicas; running generations finish here");
                return false;
            }
        };
        let living = others.iter().any(|member| member.silent <= self.lease);
        if living {
            self.generations.hand_over();
        }
        living
    }

    /// Sends heartbeats until this replica drains, and takes over the responses of dead replicas.
    async fn send_heartbeats(self: Arc<Self>) {
        let mut beats = interval(self.lease / BEATS);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Since when every heartbeat was answered in time. After an outage all replicas are silent and none is dead, so a replica counts
        // as dead only if the store could be reached for a whole lease.
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
                        tracing::info!("the store can be reached again");
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
                    self.generations.set_other_replicas(living.cloned().collect());
                    if is_certain && members.iter().any(|member| member.silent > self.lease) {
                        tokio::spawn(self.clone().take_over_dead(members));
                    }
                }
                Err(error) => {
                    steady = None;
                    self.generations.set_other_replicas(vec![]);
                    if std::mem::replace(&mut heard, false) {
                        tracing::warn!(%error, "the heartbeat failed: the store cannot be reached");
                    }
                }
            }
        }
    }

    /// Takes over the responses of dead replicas, and removes dead replicas without responses from the fleet.
    async fn take_over_dead(self: Arc<Self>, members: Vec<Member>) {
        let Ok(mut known) = self.dead.try_lock() else { return };
        let (dead, living): (Vec<_>, Vec<_>) = members.into_iter().partition(|member| member.silent > self.lease);
        known.retain(|replica, _| dead.iter().any(|member| member.replica == *replica));
        for member in dead {
            let since = *known.entry(member.replica.clone()).or_insert_with(Instant::now);
            let outcome = async {
                let ids = self.fleet.runs(&member.replica).await?;
                if ids.is_empty() {
                    tracing::info!(
                        replica = member.replica,
                        "a dead replica has no responses left; it is removed from the fleet"
                    );
                    return self.fleet.forget(&member.replica).await;
                }
                // Each response is assigned to one replica; after two leases any replica may claim it.
                let late = since.elapsed() > self.lease * 2;
                let ends_unserved = since.elapsed() > self.lease * LEASES_WITHOUT_MODEL;
                let mine = ids.into_iter().filter(|id| late || self.is_mine(id, &living));
                let from = ClaimSource { replica: &member.replica, ends_unserved };
                self.claim_all(mine.collect(), from).await;
                Ok(())
            };
            if let Err(error) = outcome.await {
                tracing::warn!(replica = member.replica, %error, "cannot take over a dead replica's generations now; retrying with the next heartbeat");
            }
        }
    }

    /// Whether a response is assigned to this replica.
    fn is_mine(&self, id: &str, others: &[Member]) -> bool {
        let others = others.iter().map(|member| member.replica.as_str());
        assignment::first(id, others.chain([self.fleet.me()])) == Some(self.fleet.me())
    }

    async fn claim_all(self: &Arc<Self>, ids: Vec<String>, from: ClaimSource<'_>) {
        let claims = ids.into_iter().map(|id| async move {
            let claimed = self.claim(&id, from).await;
            if let Err(error @ StoreError::Unreadable(_)) = &claimed {
                if self.is_first_report(&id) {
                    tracing::warn!(response = id, %error, "not taken over: this replica cannot read the response; a newer version of the server wrote it, or it is damaged");
                }
            } else if let Err(error) = claimed {
                tracing::warn!(response = id, %error, "cannot take over this response now");
            }
        });
        stream::iter(claims).buffer_unordered(CLAIMS).collect().await
    }

    /// Remembers that a response cannot be read. Returns whether this is new.
    fn is_first_report(&self, id: &str) -> bool {
        let mut unreadable = self.unreadable.lock();
        if unreadable.len() >= MAX_UNREADABLE {
            unreadable.clear();
        }
        unreadable.insert(id.to_owned())
    }

    /// Claims a response for this replica. Returns whether the response runs here now.
    async fn claim(self: &Arc<Self>, id: &str, from: ClaimSource<'_>) -> Result<bool, StoreError> {
        let header = self.fleet.header(id).await?;
        let runs_here = header.is_none_or(|header| self.generations.can_take_over(&header));
        if !runs_here && (!from.ends_unserved || self.generations.is_draining()) {
            return Ok(false);
        }
        match self.store.claim(id, from.replica).await? {
            Some(claim) if runs_here => {
                self.generations.take_over(claim);
                return Ok(true);
            }
            Some(claim) => {
                tracing::warn!(
                    response = id,
                    model = claim.header.model,
                    "no replica serves the model of this response; it fails"
                );
                self.generations.end_claimed(claim).await;
            }
            None => {}
        }
        Ok(false)
    }

    /// Handles the messages of other replicas.
    async fn listen(self: Arc<Self>) {
        let mut control = self.fleet.control();
        while let Some(control) = control.next().await {
            match control {
                Control::Cancel { id } => self.generations.end(&id),
                Control::PollRequests { id } => self.generations.poll_requests(&id),
                Control::Steer { id } => self.generations.end_steered(&id),
                // If this replica is late, the offering replica has claimed the response again. So only a response without an owner is
                // claimed.
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

    /// Claims a response that was offered to this replica, in a task of its own.
    fn claim_offer(self: &Arc<Self>, id: String) {
        let cluster = self.clone();
        tokio::spawn(async move {
            match cluster.claim(&id, ClaimSource { replica: NOBODY, ends_unserved: false }).await {
                Ok(true) => drop(cluster.generations.metrics.placed.inc()),
                Ok(false) => {}
                // The offering replica claims the response soon.
                Err(error) => tracing::debug!(response = id, %error, "cannot claim an offered response"),
            }
        });
    }

    /// Claims a response that was released, in a task of its own.
    fn claim_aside(self: &Arc<Self>, id: String, from: String) {
        let cluster = self.clone();
        let claim = async move {
            cluster.claim_all(vec![id], ClaimSource { replica: &from, ends_unserved: false }).await;
        };
        tokio::spawn(claim);
    }

    /// Repeatedly renews the retention of running responses, ends responses whose cancel was missed, and claims responses that are
    /// listed as running here but do not run.
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
            // A response is listed a moment before it runs, so only a response that is missing twice is lost.
            let missing: HashSet<String> = listed.into_iter().filter(|id| !self.generations.runs(id)).collect();
            let lost: Vec<String> = missing.intersection(&suspects).cloned().collect();
            self.claim_all(lost, ClaimSource { replica: self.fleet.me(), ends_unserved: false }).await;
            suspects = missing;
        }
    }
}
