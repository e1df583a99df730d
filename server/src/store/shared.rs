//! Logs that several responses share: one run writes the log, and each response is a header that refers to it. The entries that a
//! response shows are a pure function of its header and the log's entries.
//!
//! [`SharedLogs`] is a wrapper around a store. Callers read and follow every response in the same way, whether it shares a log or
//! not.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures::{Stream, StreamExt, stream};
use tokio::time::{Instant, sleep_until};

use super::{
    entry::{Entry, EntryBatch},
    error::StoreError,
    header::Header,
    responses::{Appended, Claim, Created, Followed, Lease, Snapshot, Store},
    sharing::{MemberRole, ReplayPace, Sharing},
};
use crate::engine::Finish;

/// Returns the entry that a member shows for an entry of the log; `None` if it shows none.
fn seen(header: &Header, role: &MemberRole, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
    match &**entry {
        Entry::MemberLeft { response, usage, completed_at } => (*response == header.id).then(|| {
            Arc::new(Entry::Finished { finish: Finish::Cancelled, usage: *usage, completed_at: *completed_at })
        }),
        // A replay does not wait in the queue.
        Entry::Queued if matches!(role, MemberRole::Replayed { .. }) => None,
        Entry::Finished { finish, usage, completed_at } if *role != MemberRole::First => {
            let mut usage = *usage;
            usage.input_tokens_details.cached_tokens = usage.input_tokens;
            let completed_at = (*completed_at).max(header.created_at);
            Some(Arc::new(Entry::Finished { finish: finish.clone(), usage, completed_at }))
        }
        _ => Some(entry.clone()),
    }
}

/// The view of a member on a shared log, up to the member's end.
struct View {
    header: Arc<Header>,
    role: MemberRole,
    next: u64,
    ended: bool,
}

impl View {
    fn of(header: &Arc<Header>, role: &MemberRole) -> Self {
        Self { header: header.clone(), role: role.clone(), next: 0, ended: false }
    }

    fn show(&mut self, entries: &[Arc<Entry>]) -> Vec<Arc<Entry>> {
        let mut shown = Vec::with_capacity(entries.len());
        for entry in entries {
            if self.ended {
                break;
            }
            if let Some(entry) = seen(&self.header, &self.role, entry) {
                self.ended = entry.is_last();
                shown.push(entry);
            }
        }
        self.next += shown.len() as u64;
        shown
    }

    fn batch(&mut self, batch: &EntryBatch) -> EntryBatch {
        let first = self.next;
        let entries = self.show(&batch.entries);
        EntryBatch { first, entries, more: batch.more && !self.ended }
    }
}

pub struct SharedLogs {
    inner: Arc<dyn Store>,
}

impl SharedLogs {
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner }
    }
}

fn member(header: &Header) -> Option<(&str, &MemberRole)> {
    match &header.sharing {
        Some(Sharing::Member { log, role, .. }) => Some((log, role)),
        _ => None,
    }
}

#[async_trait]
impl Store for SharedLogs {
    async fn create(&self, header: Header) -> Result<Created, StoreError> {
        self.inner.create(header).await
    }

    async fn append(&self, lease: &Lease, first: u64, entries: &[Arc<Entry>]) -> Result<Appended, StoreError> {
        self.inner.append(lease, first, entries).await
    }

    async fn claim(&self, id: &str, from: &str) -> Result<Option<Claim>, StoreError> {
        self.inner.claim(id, from).await
    }

    async fn try_again(&self, lease: &Lease) -> Result<u32, StoreError> {
        self.inner.try_again(lease).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.inner.release(lease).await
    }

    async fn ended(&self, lease: &Lease) -> Result<(), StoreError> {
        self.inner.ended(lease).await
    }

    async fn cancel(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        self.inner.cancel(tenant, id).await
    }

    async fn request_leave(&self, tenant: &str, log: &str, response: &str) -> Result<(), StoreError> {
        self.inner.request_leave(tenant, log, response).await
    }

    async fn touch_retention(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        self.inner.touch_retention(tenant, id).await
    }

    async fn read(&self, tenant: &str, id: &str) -> Result<Snapshot, StoreError> {
        let (header, entries) = self.inner.read(tenant, id).await?;
        let Some((log, role)) = member(&header) else { return Ok((header, entries)) };
        let (_, entries) = self.inner.read(tenant, log).await?;
        let entries = View::of(&header, role).show(&entries);
        Ok((header, entries))
    }

    async fn follow(&self, tenant: &str, id: &str) -> Result<Followed, StoreError> {
        let own = self.inner.follow(tenant, id).await?;
        let Some((log, role)) = member(&own.header) else { return Ok(own) };
        let Followed { entries, more, rest, .. } = self.inner.follow(tenant, log).await?;
        let mut view = View::of(&own.header, role);
        let first = view.batch(&EntryBatch { first: 0, entries, more });
        let rest = stream::unfold((rest, view), |(mut rest, mut view)| async move {
            if view.ended {
                return None;
            }
            let next = rest.next().await?;
            Some((next.map(|batch| view.batch(&batch)), (rest, view)))
        });
        if let MemberRole::Replayed { pace: Some(pace) } = role {
            let rest = paced(stream::iter([Ok(first)]).chain(rest), *pace).boxed();
            return Ok(Followed { header: own.header, entries: vec![], more: false, rest });
        }
        let EntryBatch { entries, more, .. } = first;
        Ok(Followed { header: own.header, entries, more, rest: rest.boxed() })
    }

    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        self.inner.delete(tenant, id).await
    }

    fn is_reachable(&self) -> bool {
        self.inner.is_reachable()
    }
}

/// Streams entries one by one, each when it is due. No entry waits longer than if the replay began now, because the clock of the
/// replica that wrote `from_ms` may be hours ahead.
fn paced(
    batches: impl Stream<Item = Result<EntryBatch, StoreError>> + Send + 'static,
    pace: ReplayPace,
) -> impl Stream<Item = Result<EntryBatch, StoreError>> + Send {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    let (from_ms, begun) = (pace.from_ms.min(now_ms), Instant::now());
    let entries = batches.flat_map(|batch| match batch {
        Ok(batch) => stream::iter(batch.entries.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(error)]),
    });
    entries.enumerate().then(move |(at, entry)| async move {
        let due = from_ms.saturating_add((at as u64).saturating_mul(pace.interval_ms));
        sleep_until(begun + Duration::from_millis(due.saturating_sub(now_ms))).await;
        Ok(EntryBatch { first: at as u64, entries: vec![entry?], more: false })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        cache::CacheKey,
        conformance::{append, created, delta, finished, header},
        memory::{MemoryLimits, MemoryStore},
        quota::StorageQuotas,
        retention::Retention,
    };

    fn store() -> SharedLogs {
        let limits =
            MemoryLimits { retention: Retention::for_tests(), max_bytes: 1 << 20, quotas: StorageQuotas::for_tests() };
        SharedLogs::new(Arc::new(MemoryStore::new(limits)))
    }

    async fn shared(store: &SharedLogs, id: &str, role: MemberRole) {
        let sharing = Sharing::Member { key: CacheKey("k".into()), log: "log_1".into(), role };
        created(store, Header { sharing: Some(sharing), created_at: 9, ..header(id, "t") }).await;
    }

    fn left(response: &str) -> Entry {
        let Entry::Finished { usage, .. } = finished() else { panic!("the last entry") };
        Entry::MemberLeft { response: response.into(), usage, completed_at: 2 }
    }

    #[tokio::test]
    async fn members_see_the_log_up_to_their_own_end() {
        let store = store();
        let lease = created(&store, header("log_1", "t")).await;
        for (id, role) in
            [("a", MemberRole::First), ("b", MemberRole::Joined), ("c", MemberRole::Replayed { pace: None })]
        {
            shared(&store, id, role).await;
        }
        let mut follows = vec![];
        for id in ["a", "b", "c"] {
            follows.push(store.follow("t", id).await.unwrap().rest);
        }
        let log = vec![Entry::Queued, Entry::Started, delta(1), left("b"), delta(2), finished()];
        append(&store, &lease, 0, log).await.unwrap();
        let mut seen = vec![];
        for (id, rest) in ["a", "b", "c"].into_iter().zip(follows) {
            let mut next = 0;
            let mut entries: Vec<Entry> = vec![];
            let batches: Vec<_> = rest.collect().await;
            for batch in batches {
                let batch = batch.unwrap();
                assert_eq!(batch.first, next, "no gap, no repeat");
                next += batch.entries.len() as u64;
                entries.extend(batch.entries.iter().map(|entry| (**entry).clone()));
            }
            let read = store.read("t", id).await.unwrap().1;
            assert_eq!(read.iter().map(|entry| (**entry).clone()).collect::<Vec<_>>(), entries, "{id}");
            seen.push(entries);
        }
        assert_eq!(seen[0], [Entry::Queued, Entry::Started, delta(1), delta(2), finished()]);
        assert_eq!(seen[1][..3], [Entry::Queued, Entry::Started, delta(1)]);
        assert!(matches!(&seen[1][3..], [Entry::Finished { finish: Finish::Cancelled, .. }]));
        assert_eq!(seen[2][..3], [Entry::Started, delta(1), delta(2)]);
        match &seen[2][3..] {
            [Entry::Finished { finish: Finish::Stop, usage, completed_at }] => {
                assert_eq!((usage.input_tokens_details.cached_tokens, usage.input_tokens), (3, 3));
                assert_eq!(*completed_at, 9, "not before it was created");
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_paced_replay_takes_its_time_and_a_late_follower_gets_what_is_due() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let entries: Vec<Arc<Entry>> = (0..10).map(|n| Arc::new(delta(n))).collect();
        let paced = |pace| {
            let batch = EntryBatch { first: 0, entries: entries.clone(), more: false };
            super::paced(stream::iter([Ok(batch)]), pace)
        };
        let begun = tokio::time::Instant::now();
        let pace = ReplayPace { from_ms: now, interval_ms: 20 };
        assert_eq!(paced(pace).count().await, 10);
        assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
        let begun = tokio::time::Instant::now();
        let ahead = ReplayPace { from_ms: now + 3 * 3_600_000, interval_ms: 20 };
        assert_eq!(paced(ahead).count().await, 10);
        assert!(begun.elapsed() < Duration::from_secs(60), "a clock that is hours ahead: {:?}", begun.elapsed());
        let begun = tokio::time::Instant::now();
        let past = ReplayPace { from_ms: now - 60_000, interval_ms: 20 };
        assert_eq!(paced(past).count().await, 10);
        assert!(begun.elapsed() < Duration::from_millis(100));
    }
}
