//! Responses and their logs in memory: running ones, and finished ones for their retention.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use moka::{policy::EvictionPolicy, sync::Cache};
use parking_lot::{Mutex, MutexGuard};

use super::{
    limits::{MAX_IDS, MemoryLimits},
    log::{MemoryLease, MemoryLog},
    running::RunningLogs,
    shelf::{Shelf, Stored},
};
use crate::store::{
    Appended, Claim, Created, Entry, Followed, Header, Lease, Snapshot, Store, StoreError, quota::StorageQuota,
};

pub struct MemoryStore {
    limits: MemoryLimits,
    /// Bounded by admission: every response that runs or waits was admitted.
    running: Mutex<RunningLogs>,
    finished: Shelf<Arc<MemoryLog>>,
    /// Id → tenant of finished responses with `store: false`, so that a resume after the window fails with `Expired`.
    temporary: Cache<String, String>,
    /// `(tenant, client_request_id)` → response id.
    requests: Cache<(String, String), String>,
}

/// The owner of all leases: there is one process.
const OWNER: &str = "memory";

impl MemoryStore {
    pub fn new(limits: MemoryLimits) -> Self {
        let finished = Shelf::new(limits.max_bytes);
        let temporary = ids(limits.retention.longest());
        let requests = ids(limits.retention.longest());
        Self { limits, running: Mutex::default(), finished, temporary, requests }
    }

    fn running(&self) -> MutexGuard<'_, RunningLogs> {
        self.running.lock()
    }

    fn quota(&self, tenant: &str) -> StorageQuota {
        self.limits.quotas.of(tenant, Some(self.limits.max_bytes))
    }

    /// Stores a finished log for its retention, in the part of the quota that the tenant's running logs leave.
    fn finish(&self, id: &str, log: Arc<MemoryLog>, running_bytes: u64) {
        let Header { tenant, spec, key_quota, .. } = &*log.header;
        if !spec.store {
            self.temporary.insert(id.to_owned(), tenant.clone());
        }
        let quota = self.quota(tenant);
        let stored = Stored {
            tenant: tenant.clone(),
            key: key_quota.as_ref().map(|quota| (quota.key.clone(), quota.bytes)),
            bytes: log.bytes(),
            keep: self.limits.retention.response(tenant, spec.store),
            value: log.clone(),
        };
        let bytes = quota.bytes.saturating_sub(running_bytes);
        self.finished.put(id, stored, StorageQuota { bytes, ..quota });
    }

    fn find(&self, tenant: &str, id: &str) -> Result<Arc<MemoryLog>, StoreError> {
        let running = self.running().get(id);
        // A log is added to `finished` before it is removed from `running`, so one of the two look-ups finds it.
        match running.or_else(|| self.finished.get(id)) {
            Some(log) if log.header.tenant == tenant => Ok(log),
            Some(_) => Err(StoreError::NotFound),
            None => {
                let expired = self.temporary.get(id).is_some_and(|owner| owner == tenant);
                Err(if expired { StoreError::Expired } else { StoreError::NotFound })
            }
        }
    }
}

/// Makes a bounded map of ids. Evicts the least recently used id; moka's default policy could refuse the newest.
fn ids<K: std::hash::Hash + Eq + Send + Sync + 'static>(retention: Duration) -> Cache<K, String> {
    Cache::builder().max_capacity(MAX_IDS).eviction_policy(EvictionPolicy::lru()).time_to_live(retention).build()
}

#[async_trait]
impl Store for MemoryStore {
    async fn create(&self, header: Header) -> Result<Created, StoreError> {
        let (id, shows, quota) = (header.id.clone(), header.shared_log().is_some(), self.quota(&header.tenant));
        let request = header.spec.client_request_id.clone().map(|request| (header.tenant.clone(), request));
        let log = Arc::new(MemoryLog::new(header, MemoryLease { fence: 1, ..MemoryLease::default() }));
        // Locked to the end, so that of two creates with one request id exactly one is new, and the log exists when the other finds
        // its id.
        let mut running = self.running();
        if let Some(request) = request {
            if let Some(first) = self.requests.get(&request) {
                return Ok(Created::Existing(first));
            }
            running.check(&log, quota)?;
            self.requests.insert(request, id.clone());
        } else {
            running.check(&log, quota)?;
        }
        if shows {
            self.finish(&id, log.clone(), running.bytes(&log.header.tenant));
        } else {
            running.insert(&id, log);
        }
        drop(running);
        Ok(Created::New(Lease { id, owner: OWNER.into(), fence: 1 }))
    }

    async fn append(&self, lease: &Lease, first: u64, entries: &[Arc<Entry>]) -> Result<Appended, StoreError> {
        let id = &lease.id;
        let log = self.running().get(id).or_else(|| self.finished.get(id)).ok_or(StoreError::Fenced)?;
        let held = log.lease();
        if held.fence != lease.fence {
            return Err(StoreError::Fenced);
        }
        let (ended, bytes) = log.append(&held, first, entries)?;
        let appended = Appended { cancelled: held.cancelled, left: held.left.clone() };
        drop(held);
        let mut running = self.running();
        running.grew(&log, bytes);
        if ended {
            // Added to `finished` before it is removed from `running`, so that `find` always finds it.
            let others = running.bytes(&log.header.tenant).saturating_sub(log.bytes());
            self.finish(id, log, others);
            running.remove(id);
        }
        Ok(appended)
    }

    async fn claim(&self, id: &str, from: &str) -> Result<Option<Claim>, StoreError> {
        let Some(log) = self.running().get(id) else { return Ok(None) };
        if from != OWNER {
            return Ok(None);
        }
        let mut held = log.lease();
        held.fence += 1;
        let lease = Lease { id: id.into(), owner: OWNER.into(), fence: held.fence };
        let entries = log.entries.from(0);
        let tries = held.tries(entries.len());
        Ok(Some(Claim { lease, header: log.header.clone(), entries, cancelled: held.cancelled, tries, left: None }))
    }

    async fn try_again(&self, lease: &Lease) -> Result<u32, StoreError> {
        let log = self.running().get(&lease.id).ok_or(StoreError::Fenced)?;
        let mut held = log.lease();
        if held.fence != lease.fence {
            return Err(StoreError::Fenced);
        }
        let len = log.entries.len();
        let tries = held.tries(len) + 1;
        held.tries = (tries, len);
        Ok(tries)
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        if let Some(log) = self.running().get(&lease.id) {
            let mut held = log.lease();
            if held.fence == lease.fence {
                held.fence += 1;
                held.tries = (0, 0);
            }
        }
        Ok(())
    }

    async fn ended(&self, _: &Lease) -> Result<(), StoreError> {
        Ok(())
    }

    async fn cancel(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        self.find(tenant, id)?.lease().cancelled = true;
        Ok(())
    }

    async fn request_leave(&self, tenant: &str, log: &str, response: &str) -> Result<(), StoreError> {
        self.find(tenant, log)?.lease().left.push(response.to_owned());
        Ok(())
    }

    async fn touch_retention(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let log = self.find(tenant, id)?;
        if log.entries.has_ended() {
            self.finished.renew(id, log.bytes(), self.quota(tenant));
        }
        Ok(())
    }

    async fn read(&self, tenant: &str, id: &str) -> Result<Snapshot, StoreError> {
        let log = self.find(tenant, id)?;
        Ok((log.header.clone(), log.entries.from(0)))
    }

    async fn follow(&self, tenant: &str, id: &str) -> Result<Followed, StoreError> {
        let log = self.find(tenant, id)?;
        let entries = log.entries.from(0);
        Ok(Followed { header: log.header.clone(), more: false, rest: log.entries.follow(&entries), entries })
    }

    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let log = self.find(tenant, id)?;
        self.running().remove(id);
        self.finished.remove(id);
        self.temporary.invalidate(id);
        if let Some(request) = &log.header.spec.client_request_id {
            self.requests.invalidate(&(log.header.tenant.clone(), request.clone()));
        }
        log.entries.end_followers();
        Ok(())
    }

    fn is_reachable(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Retention, conformance, quota::StorageQuotas};

    fn limits() -> MemoryLimits {
        MemoryLimits { retention: Retention::for_tests(), max_bytes: 1 << 20, quotas: StorageQuotas::for_tests() }
    }

    #[tokio::test]
    async fn conforms() {
        conformance::all(async || MemoryStore::new(limits())).await;
    }

    #[tokio::test]
    async fn quotas_hold() {
        conformance::quota::all(async |quotas| MemoryStore::new(MemoryLimits { quotas, ..limits() })).await;
    }

    #[tokio::test]
    async fn responses_that_are_not_stored_expire_and_say_so() {
        let store = MemoryStore::new(MemoryLimits {
            retention: Retention { resume_window: Duration::ZERO, ..Retention::for_tests() },
            ..limits()
        });
        let mut header = conformance::header("resp_1", "t");
        header.spec.store = false;
        let lease = conformance::created(&store, header).await;
        conformance::append(&store, &lease, 0, vec![conformance::finished()]).await.unwrap();
        assert_eq!(store.read("t", "resp_1").await.unwrap_err(), StoreError::Expired);
        assert_eq!(store.read("other", "resp_1").await.unwrap_err(), StoreError::NotFound);
    }

    #[tokio::test]
    async fn finished_responses_are_bounded_in_bytes_and_running_ones_stay() {
        let store = MemoryStore::new(MemoryLimits { max_bytes: 100_000, ..limits() });
        store.create(conformance::header("running", "t")).await.unwrap();
        for n in 0..200 {
            let id = format!("resp_{n}");
            let lease = conformance::created(&store, conformance::header(&id, "t")).await;
            let text = conformance::said(1, &"x".repeat(1000));
            conformance::append(&store, &lease, 0, vec![text, conformance::finished()]).await.unwrap();
        }
        assert!((50_000..=100_000).contains(&store.finished.bytes()));
        assert!(store.read("t", "running").await.is_ok());
        assert_eq!(store.running().len(), 1, "finished logs leave the running map");
    }
}
