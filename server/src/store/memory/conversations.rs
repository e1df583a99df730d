//! Conversations in memory. They are stored for their retention after the last change, within the tenant's quota and the bound on
//! all tenants.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::broadcast;

use super::{
    limits::MemoryLimits,
    shelf::{Shelf, Stored},
};
use crate::store::{
    StoreError,
    conversations::{Conversation, ConversationBounds, Conversations, Item, Line, Notice, Turn},
    page::{Listed, Order, Page},
    quota::StorageQuota,
};

/// The number of notices that a watcher may lag behind before it misses some.
const NOTICES: usize = 64;
/// Estimated bookkeeping bytes of a conversation and of an item.
const OVERHEAD: usize = 512;
const ITEM_OVERHEAD: usize = 200;

pub struct MemoryConversations {
    kept: Shelf<Arc<StoredConversation>>,
    index: Mutex<ConversationIndex>,
    limits: MemoryLimits,
    bounds: ConversationBounds,
}

/// Tenant → its conversations in the order of creation.
#[derive(Default)]
struct ConversationIndex {
    next: u64,
    tenants: HashMap<String, BTreeMap<u64, String>>,
}

struct StoredConversation {
    /// The number in the order of creation.
    number: u64,
    tenant: String,
    state: Mutex<ConversationState>,
    /// `None` is sent when the conversation is deleted.
    notices: broadcast::Sender<Option<Notice>>,
}

struct ConversationState {
    conversation: Conversation,
    next: u64,
    order: BTreeMap<u64, Item>,
    numbers: HashMap<String, u64>,
    bytes: usize,
    line: VecDeque<(Entered, bool)>,
    responses: BTreeSet<String>,
    latest: Option<String>,
}

/// A turn in line.
struct Entered {
    response: String,
    at: Instant,
}

impl Entered {
    fn to_turn(&self) -> Turn {
        Turn { response: self.response.clone(), waited: self.at.elapsed() }
    }
}

impl MemoryConversations {
    pub fn new(limits: MemoryLimits, bounds: ConversationBounds) -> Self {
        Self { kept: Shelf::new(limits.max_bytes), index: Mutex::default(), limits, bounds }
    }

    /// Returns the quota of a tenant's conversations. It bounds their bytes, not their number.
    fn quota(&self, tenant: &str) -> StorageQuota {
        let quota = self.limits.quotas.of(tenant, Some(self.limits.max_bytes));
        StorageQuota { responses: u64::MAX, ..quota }
    }

    fn forget(&self, left: Vec<Arc<StoredConversation>>) {
        let mut index = self.index.lock();
        left.iter().for_each(|kept| index.remove(kept));
    }

    fn find(&self, tenant: &str, id: &str) -> Result<Arc<StoredConversation>, StoreError> {
        self.kept.get(id).filter(|kept| kept.tenant == tenant).ok_or(StoreError::NotFound)
    }

    /// Changes a conversation, then counts its bytes again and starts its retention anew.
    fn change<T>(
        &self,
        tenant: &str,
        id: &str,
        change: impl FnOnce(&mut ConversationState, &broadcast::Sender<Option<Notice>>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let kept = self.find(tenant, id)?;
        let outcome = change(&mut kept.state(), &kept.notices)?;
        // `renew` does nothing if the conversation was deleted meanwhile.
        let bytes = kept.bytes();
        self.forget(self.kept.renew(id, bytes, self.quota(tenant)));
        Ok(outcome)
    }
}

#[async_trait]
impl Conversations for MemoryConversations {
    async fn create(&self, conversation: Conversation, items: Vec<Item>) -> Result<(), StoreError> {
        let (id, tenant) = (conversation.id.clone(), conversation.tenant.clone());
        let mut state = ConversationState::new(conversation);
        state.append(items, Some(self.bounds))?;
        let mut index = self.index.lock();
        index.next += 1;
        let number = index.next;
        index.tenants.entry(tenant.clone()).or_default().insert(number, id.clone());
        drop(index);
        let kept = StoredConversation {
            number,
            tenant: tenant.clone(),
            state: Mutex::new(state),
            notices: broadcast::Sender::new(NOTICES),
        };
        let (bytes, keep) = (kept.bytes(), self.limits.retention.stored(&tenant));
        let stored = Stored { tenant: tenant.clone(), key: None, value: Arc::new(kept), bytes, keep };
        self.forget(self.kept.put(&id, stored, self.quota(&tenant)));
        Ok(())
    }

    async fn get(&self, tenant: &str, id: &str) -> Result<Conversation, StoreError> {
        Ok(self.find(tenant, id)?.state().conversation.clone())
    }

    async fn set_metadata(
        &self,
        tenant: &str,
        id: &str,
        metadata: BTreeMap<String, String>,
    ) -> Result<Conversation, StoreError> {
        self.change(tenant, id, |state, _| {
            state.conversation.metadata = metadata;
            Ok(state.conversation.clone())
        })
    }

    async fn delete(&self, tenant: &str, id: &str) -> Result<Vec<String>, StoreError> {
        let kept = self.find(tenant, id)?;
        self.kept.remove(id);
        self.index.lock().remove(&kept);
        let _ = kept.notices.send(None);
        let state = kept.state();
        Ok(state.responses.iter().cloned().chain(state.line.iter().map(|(turn, _)| turn.response.clone())).collect())
    }

    async fn list(&self, tenant: &str, page: &Page) -> Result<Listed<Conversation>, StoreError> {
        let after = match &page.after {
            Some(id) => Some(self.find(tenant, id).map_err(|_| StoreError::CursorNotFound)?.number),
            None => None,
        };
        let wanted = page.limit.saturating_add(1);
        // Reads more ids than requested, because some conversations may have expired a moment ago.
        let ids: Vec<String> = {
            let index = self.index.lock();
            index.tenants.get(tenant).map_or_else(Vec::new, |ids| {
                within(ids, after, page.order).take(wanted.saturating_mul(2)).cloned().collect()
            })
        };
        let found = ids.iter().filter_map(|id| self.kept.get(id)).map(|kept| kept.state().conversation.clone());
        Ok(Listed::cut(found.take(wanted).collect(), page.limit))
    }

    async fn append(&self, tenant: &str, id: &str, items: Vec<Item>) -> Result<(), StoreError> {
        self.change(tenant, id, |state, _| state.append(items, Some(self.bounds)))
    }

    async fn items(&self, tenant: &str, id: &str, page: &Page) -> Result<Listed<Item>, StoreError> {
        let kept = self.find(tenant, id)?;
        let state = kept.state();
        let after = match &page.after {
            Some(item) => Some(*state.numbers.get(item).ok_or(StoreError::CursorNotFound)?),
            None => None,
        };
        let found = within(&state.order, after, page.order).take(page.limit.saturating_add(1)).cloned();
        Ok(Listed::cut(found.collect(), page.limit))
    }

    async fn item(&self, tenant: &str, id: &str, item: &str) -> Result<Item, StoreError> {
        let kept = self.find(tenant, id)?;
        let state = kept.state();
        let number = state.numbers.get(item).ok_or(StoreError::ItemNotFound)?;
        state.order.get(number).cloned().ok_or(StoreError::ItemNotFound)
    }

    async fn remove_item(&self, tenant: &str, id: &str, item: &str) -> Result<Conversation, StoreError> {
        self.change(tenant, id, |state, _| {
            let number = state.numbers.remove(item).ok_or(StoreError::ItemNotFound)?;
            if let Some(item) = state.order.remove(&number) {
                state.bytes = state.bytes.saturating_sub(item.bytes());
            }
            Ok(state.conversation.clone())
        })
    }

    async fn enter(&self, tenant: &str, id: &str, response: &str, patience: usize) -> Result<usize, StoreError> {
        self.change(tenant, id, |state, _| {
            let ahead = state.line.len();
            if ahead > patience {
                return Err(StoreError::Busy);
            }
            state.line.push_back((Entered { response: response.into(), at: Instant::now() }, false));
            Ok(ahead)
        })
    }

    async fn begin(&self, tenant: &str, id: &str, response: &str, input: Vec<Item>) -> Result<(), StoreError> {
        self.change(tenant, id, |state, notices| {
            match state.line.front() {
                Some((turn, begun)) if turn.response == response => {
                    if *begun {
                        return Ok(());
                    }
                }
                // The turn has ended already.
                _ if state.responses.contains(response) => return Ok(()),
                _ => return Err(StoreError::Busy),
            }
            state.append(input, Some(self.bounds))?;
            if let Some((_, begun)) = state.line.front_mut() {
                *begun = true;
            }
            let _ = notices.send(Some(Notice::Began(response.into())));
            Ok(())
        })
    }

    async fn end(&self, tenant: &str, id: &str, response: &str, output: Vec<Item>) -> Result<(), StoreError> {
        self.change(tenant, id, |state, notices| {
            let Some(at) = state.line.iter().position(|(turn, _)| turn.response == response) else { return Ok(()) };
            if state.line.remove(at).is_some_and(|(_, begun)| begun) {
                state.append(output, None)?;
                state.responses.insert(response.into());
                state.latest = Some(response.into());
            }
            let _ = notices.send(Some(Notice::Moved));
            Ok(())
        })
    }

    async fn line(&self, tenant: &str, id: &str) -> Result<Line, StoreError> {
        let kept = self.find(tenant, id)?;
        let state = kept.state();
        Ok(Line { turns: state.line.iter().map(|(turn, _)| turn.to_turn()).collect(), latest: state.latest.clone() })
    }

    async fn watch(&self, tenant: &str, id: &str) -> Result<BoxStream<'static, Notice>, StoreError> {
        let notices = self.find(tenant, id)?.notices.subscribe();
        let notices = stream::unfold(notices, |mut notices| async move {
            loop {
                match notices.recv().await {
                    Ok(notice) => return notice.map(|notice| (notice, notices)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        Ok(notices.boxed())
    }
}

impl StoredConversation {
    fn bytes(&self) -> u64 {
        (OVERHEAD + self.state().weight()) as u64
    }

    fn state(&self) -> MutexGuard<'_, ConversationState> {
        self.state.lock()
    }
}

impl ConversationState {
    fn new(conversation: Conversation) -> Self {
        Self {
            conversation,
            next: 0,
            order: BTreeMap::new(),
            numbers: HashMap::new(),
            bytes: 0,
            line: VecDeque::new(),
            responses: BTreeSet::new(),
            latest: None,
        }
    }

    fn append(&mut self, items: Vec<Item>, bounds: Option<ConversationBounds>) -> Result<(), StoreError> {
        let bytes: usize = items.iter().map(Item::bytes).sum();
        if let Some(bounds) = bounds
            && (self.order.len() + items.len() > bounds.items || self.bytes + bytes > bounds.bytes)
        {
            return Err(StoreError::OverBounds);
        }
        self.bytes += bytes;
        for item in items {
            self.next += 1;
            self.numbers.insert(item.id.clone(), self.next);
            self.order.insert(self.next, item);
        }
        Ok(())
    }

    fn weight(&self) -> usize {
        let metadata = self.conversation.metadata.iter().map(|(name, value)| name.len() + value.len());
        self.bytes + ITEM_OVERHEAD * self.order.len() + metadata.sum::<usize>()
    }
}

impl ConversationIndex {
    fn remove(&mut self, kept: &StoredConversation) {
        if let Some(ids) = self.tenants.get_mut(&kept.tenant) {
            ids.remove(&kept.number);
            if ids.is_empty() {
                self.tenants.remove(&kept.tenant);
            }
        }
    }
}

/// Returns the values after a number, in order.
fn within<V>(map: &BTreeMap<u64, V>, after: Option<u64>, order: Order) -> Box<dyn Iterator<Item = &V> + '_> {
    match (order, after) {
        (Order::Ascending, after) => Box::new(map.range(after.map_or(0, |n| n + 1)..).map(|(_, v)| v)),
        (Order::Descending, after) => Box::new(map.range(..after.unwrap_or(u64::MAX)).rev().map(|(_, v)| v)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Retention, conformance::conversations as conformance, quota::StorageQuotas};

    fn store() -> MemoryConversations {
        MemoryConversations::new(limits(1 << 20), conformance::BOUNDS)
    }

    fn limits(max_bytes: u64) -> MemoryLimits {
        MemoryLimits { retention: Retention::for_tests(), max_bytes, quotas: StorageQuotas::for_tests() }
    }

    #[tokio::test]
    async fn conforms() {
        conformance::all(async || store()).await;
    }

    #[tokio::test]
    async fn the_least_recently_used_leave_when_bytes_pass_the_bound_and_are_in_no_list() {
        let store = MemoryConversations::new(limits(100_000), conformance::BOUNDS);
        for n in 0..300 {
            let id = format!("conv_{n:03}");
            store.create(conformance::conversation(&id, "t"), vec![]).await.unwrap();
        }
        let listed = store.list("t", &Page::all()).await.unwrap().data;
        assert!(listed.len() < 200 && listed.last().is_some_and(|c| c.id == "conv_299"), "{}", listed.len());
        assert_eq!(store.index.lock().tenants["t"].len(), listed.len());
    }
}
