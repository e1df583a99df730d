//! The store of a single process. Running logs are held as long as they run; finished ones for their retention, least
//! recently used first out when their bytes pass the bound.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use moka::{Expiry, policy::EvictionPolicy, sync::Cache};
use tokio::sync::watch;

use super::{Batch, Created, Entry, Header, Snapshot, Store, StoreError};

/// Bounds of the memory store.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a finished response is kept.
    pub retention: Duration,
    /// How long one with `store: false` can be resumed after it finished.
    pub resume_window: Duration,
    /// Bound on the bytes of finished responses.
    pub max_bytes: u64,
}

pub struct MemoryStore {
    /// Bounded by admission: nothing runs or waits that was not admitted.
    running: Mutex<HashMap<String, Arc<Log>>>,
    finished: Cache<String, Arc<Log>>,
    /// Id → tenant of finished responses that are not to be stored, so that a resume after their window learns why.
    temporary: Cache<String, String>,
    /// `(tenant, client_request_id)` → response id.
    requests: Cache<(String, String), String>,
}

struct Log {
    header: Arc<Header>,
    entries: RwLock<Vec<Arc<Entry>>>,
    state: watch::Sender<State>,
}

/// What followers wait on.
#[derive(Clone, Copy, Default)]
struct State {
    len: usize,
    deleted: bool,
}

/// The bookkeeping bytes of a log and of an entry beside its text and tokens, roughly.
const LOG_OVERHEAD: usize = 1024;
const ENTRY_OVERHEAD: usize = 120;
const LOGPROB_OVERHEAD: usize = 80;
/// Bounds the maps of ids, whose values are a few dozen bytes.
const MAX_IDS: u64 = 100_000;

struct Retention(Limits);

impl Expiry<String, Arc<Log>> for Retention {
    fn expire_after_create(&self, _: &String, log: &Arc<Log>, _: Instant) -> Option<Duration> {
        Some(if log.header.create.store { self.0.retention } else { self.0.resume_window })
    }
}

impl MemoryStore {
    pub fn new(limits: Limits) -> Self {
        let finished = Cache::builder()
            .max_capacity(limits.max_bytes)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_, log: &Arc<Log>| u32::try_from(log.bytes()).unwrap_or(u32::MAX))
            .expire_after(Retention(limits))
            .build();
        let temporary = ids(limits.retention);
        let requests = ids(limits.retention);
        Self { running: Mutex::default(), finished, temporary, requests }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Log>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, tenant: &str, id: &str) -> Result<Arc<Log>, StoreError> {
        let running = self.running().get(id).cloned();
        // A log is put among the finished before it leaves the running, so one of both look-ups finds it.
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

/// A bounded map of ids. Least recently used, as all here: the default policy turns the newest away.
fn ids<K: std::hash::Hash + Eq + Send + Sync + 'static>(retention: Duration) -> Cache<K, String> {
    Cache::builder().max_capacity(MAX_IDS).eviction_policy(EvictionPolicy::lru()).time_to_live(retention).build()
}

#[async_trait]
impl Store for MemoryStore {
    async fn create(&self, header: Header) -> Result<Created, StoreError> {
        let id = header.id.clone();
        let request = header.create.client_request_id.clone().map(|request| (header.tenant.clone(), request));
        let log = Log { header: Arc::new(header), entries: RwLock::default(), state: watch::Sender::default() };
        // The log is there before its request id is, so that whoever finds the id finds the log.
        self.running().insert(id.clone(), Arc::new(log));
        if let Some(request) = request {
            let entry = self.requests.entry(request).or_insert(id.clone());
            if !entry.is_fresh() {
                self.running().remove(&id);
                return Ok(Created::Existing(entry.into_value()));
            }
        }
        Ok(Created::New)
    }

    async fn append(&self, id: &str, first: u64, entries: Vec<Entry>) -> Result<(), StoreError> {
        let log = self.running().get(id).cloned().ok_or(StoreError::Fenced)?;
        if log.append(first, entries)? {
            if !log.header.create.store {
                self.temporary.insert(id.to_owned(), log.header.tenant.clone());
            }
            self.finished.insert(id.to_owned(), log);
            self.running().remove(id);
        }
        Ok(())
    }

    async fn read(&self, tenant: &str, id: &str) -> Result<Snapshot, StoreError> {
        let log = self.find(tenant, id)?;
        Ok((log.header.clone(), log.from(0)))
    }

    fn follow(&self, tenant: &str, id: &str) -> BoxStream<'static, Result<Batch, StoreError>> {
        match self.find(tenant, id) {
            Ok(log) => follow(log).boxed(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let log = self.find(tenant, id)?;
        self.running().remove(id);
        self.finished.invalidate(id);
        self.temporary.invalidate(id);
        if let Some(request) = &log.header.create.client_request_id {
            self.requests.invalidate(&(log.header.tenant.clone(), request.clone()));
        }
        log.state.send_modify(|state| state.deleted = true);
        Ok(())
    }
}

impl Log {
    /// True when the log has ended with these entries.
    fn append(&self, first: u64, new: Vec<Entry>) -> Result<bool, StoreError> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let ended = |entries: &[Arc<Entry>]| entries.last().is_some_and(|last| last.is_last());
        if entries.len() as u64 != first || ended(&entries) {
            return Err(StoreError::Fenced);
        }
        entries.extend(new.into_iter().map(Arc::new));
        self.state.send_modify(|state| state.len = entries.len());
        Ok(ended(&entries))
    }

    fn from(&self, first: usize) -> Vec<Arc<Entry>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(first..).unwrap_or_default().to_vec()
    }

    fn bytes(&self) -> usize {
        let create = serde_json::to_string(&self.header.create).map_or(0, |json| json.len());
        let text = create + 4 * self.header.prompt.len();
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let log: usize = entries
            .iter()
            .map(|entry| match &**entry {
                Entry::Delta { tokens, text, logprobs, .. } => {
                    let top: usize = logprobs.iter().map(|l| LOGPROB_OVERHEAD * (1 + l.top.len())).sum();
                    ENTRY_OVERHEAD + 4 * tokens.len() + text.len() + top
                }
                _ => ENTRY_OVERHEAD,
            })
            .sum();
        LOG_OVERHEAD + text + log
    }
}

fn follow(log: Arc<Log>) -> impl stream::Stream<Item = Result<Batch, StoreError>> + Send {
    let state = log.state.subscribe();
    stream::unfold((log, state, 0usize, false), |(log, mut state, next, ended)| async move {
        if ended {
            return None;
        }
        // The sender is in `log`, so waiting cannot fail.
        let now = *state.wait_for(|s| s.len > next || s.deleted).await.ok()?;
        if now.deleted {
            return Some((Err(StoreError::NotFound), (log, state, next, true)));
        }
        let entries = log.from(next);
        let ended = entries.last().is_some_and(|last| last.is_last());
        let batch = Batch { first: next as u64, entries };
        let next = next + batch.entries.len();
        Some((Ok(batch), (log, state, next, ended)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    fn limits() -> Limits {
        Limits { retention: Duration::from_secs(60), resume_window: Duration::from_secs(60), max_bytes: 1 << 20 }
    }

    #[tokio::test]
    async fn conforms() {
        conformance::all(|| MemoryStore::new(limits())).await;
    }

    #[tokio::test]
    async fn responses_that_are_not_stored_expire_and_say_so() {
        let store = MemoryStore::new(Limits { resume_window: Duration::ZERO, ..limits() });
        let mut header = conformance::header("resp_1", "t");
        header.create.store = false;
        store.create(header).await.unwrap();
        store.append("resp_1", 0, vec![conformance::finished()]).await.unwrap();
        assert_eq!(store.read("t", "resp_1").await.unwrap_err(), StoreError::Expired);
        assert_eq!(store.read("other", "resp_1").await.unwrap_err(), StoreError::NotFound);
    }

    #[tokio::test]
    async fn finished_responses_are_bounded_in_bytes_and_running_ones_stay() {
        let store = MemoryStore::new(Limits { max_bytes: 100_000, ..limits() });
        store.create(conformance::header("running", "t")).await.unwrap();
        for n in 0..200 {
            let id = format!("resp_{n}");
            store.create(conformance::header(&id, "t")).await.unwrap();
            let text = conformance::said(1, &"x".repeat(1000));
            store.append(&id, 0, vec![text, conformance::finished()]).await.unwrap();
        }
        store.finished.run_pending_tasks();
        assert!(store.finished.weighted_size() <= 100_000);
        assert!(store.finished.entry_count() > 10);
        assert!(store.read("t", "running").await.is_ok());
        assert_eq!(store.running().len(), 1, "finished logs leave the running map");
    }
}
