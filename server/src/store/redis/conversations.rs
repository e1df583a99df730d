//! Conversations on Redis. All keys of a conversation are in one slot; the tenant's index of conversations is in another. An entry
//! of the index is written before its conversation and removed after it. So every conversation is listed, and a listed one may be
//! gone.

use std::{collections::BTreeMap, future::Future, time::Duration};

use ::redis::{Script, ScriptInvocation, cmd, pipe};
use async_trait::async_trait;
use futures::{StreamExt, future::join_all, stream, stream::BoxStream};

use super::{
    handle::{RedisInner, RedisStore, ms},
    keys::{MAX_ID, is_id},
    ledger::Charge,
    scripts::{conversation, index},
};
use crate::store::{
    Retention, StoreError,
    conversations::{Conversation, ConversationBounds, Conversations, Item, Line, Notice, Turn},
    page::{Listed, Order, Page},
    quota::RESPONSE_OVERHEAD,
};

/// The maximum of ended responses that a conversation remembers, so that they are deleted with it.
const MAX_RESPONSES: usize = 10_000;
/// The number of random entries of the index that each create checks. So few entries of expired conversations remain.
const CHECKED: usize = 4;

pub struct RedisConversations {
    store: RedisStore,
    retention: Retention,
    bounds: ConversationBounds,
}

impl RedisStore {
    /// Opens the conversations in the same Redis, over the same connections.
    pub fn conversations(&self, retention: Retention, bounds: ConversationBounds) -> RedisConversations {
        RedisConversations { store: self.clone(), retention, bounds }
    }
}

/// The bytes that an item counts besides its text.
const ITEM_OVERHEAD: u64 = 200;

/// The age in µs from which an entry without a conversation is removed. The conversation of a younger entry may be about to be
/// created.
const YOUNG_US: u64 = 60_000_000;

fn done(state: u8) -> Result<(), StoreError> {
    match state {
        0 => Err(StoreError::NotFound),
        1 => Ok(()),
        2 => Err(StoreError::Busy),
        3 => Err(StoreError::OverBounds),
        _ => Err(StoreError::ItemNotFound),
    }
}

fn unreadable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("what this version cannot read: {error}"))
}

/// Returns the limit of a page in the form of the scripts: one more than `limit`, or -1 for all.
fn wanted(limit: usize) -> i64 {
    i64::try_from(limit).map_or(-1, |limit| if limit > 1 << 40 { -1 } else { limit + 1 })
}

fn reverse(order: Order) -> u8 {
    u8::from(order == Order::Descending)
}

impl RedisConversations {
    fn inner(&self) -> &RedisInner {
        &self.store.0
    }

    fn ttl(&self, tenant: &str) -> u64 {
        ms(self.retention.stored(tenant))
    }

    /// Prepares a script with the keys of a conversation and the first arguments.
    fn prepare<'s>(&self, script: &'s Script, tenant: &str, id: &str) -> Result<ScriptInvocation<'s>, StoreError> {
        if !is_id(id) {
            return Err(StoreError::NotFound);
        }
        let mut invocation = script.prepare_invoke();
        for part in ["about", "items", "order", "line", "turns", "responses"] {
            invocation.key(self.inner().keys.conversation(id, part));
        }
        invocation.arg(tenant).arg(self.ttl(tenant));
        Ok(invocation)
    }

    async fn run(&self, invocation: &ScriptInvocation<'_>) -> Result<(), StoreError> {
        done(self.inner().script(invocation).await?)
    }

    /// Adds a conversation to the tenant's index, and removes some entries of expired conversations.
    async fn add_to_index(&self, conversation: &Conversation) -> Result<(), StoreError> {
        let (inner, tenant) = (self.inner(), &conversation.tenant);
        let mut list = index::ADD.prepare_invoke();
        list.key(inner.keys.conversations(tenant));
        list.arg(&conversation.id).arg(self.ttl(tenant).saturating_mul(2)).arg(CHECKED);
        let some: Vec<String> = inner.script(&list).await?;
        join_all(some.iter().map(|id| self.strike_if_gone(tenant, id))).await;
        Ok(())
    }

    async fn strike_if_gone(&self, tenant: &str, id: &str) {
        if matches!(self.about(id).await, Ok(None)) {
            self.strike(tenant, id, YOUNG_US).await;
        }
    }

    async fn strike(&self, tenant: &str, id: &str, spared_us: u64) {
        let mut strike = index::STRIKE.prepare_invoke();
        strike.key(self.inner().keys.conversations(tenant)).arg(id).arg(spared_us);
        // If this fails, the entry stays. Listing skips it.
        let _ = self.inner().script::<u8>(&strike).await;
    }

    async fn about(&self, id: &str) -> Result<Option<Conversation>, StoreError> {
        if id.len() > MAX_ID {
            return Ok(None);
        }
        let mut get = cmd("HMGET");
        get.arg(self.inner().keys.conversation(id, "about")).arg(&["tenant", "created_at", "metadata"]);
        let (tenant, created_at, metadata): (Option<String>, Option<u64>, Option<String>) =
            self.inner().query(&get).await?;
        let (Some(tenant), Some(created_at), Some(metadata)) = (tenant, created_at, metadata) else { return Ok(None) };
        let metadata = serde_json::from_str(&metadata).map_err(unreadable)?;
        Ok(Some(Conversation { id: id.into(), tenant, created_at, metadata }))
    }

    /// Charges the tenant for a write, runs the write, and takes the charge back if the write fails.
    async fn charged(
        &self,
        (tenant, id): (&str, &str),
        bytes: u64,
        write: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let keep = self.retention.stored(tenant);
        let charge = Charge { tenant, object: id, bytes, keep, is_response: false, key: None };
        self.inner().charge(charge).await?;
        let written = write.await;
        if written.is_err() {
            self.inner().take_back(tenant, id, bytes).await;
        }
        written
    }

    /// Corrects the tenant's charge to the current bytes of a conversation.
    async fn recount(&self, tenant: &str, id: &str) {
        let (about, items) = (self.inner().keys.conversation(id, "about"), self.inner().keys.conversation(id, "items"));
        let mut ask = pipe();
        ask.hget(&about, "bytes").cmd("HSTRLEN").arg(&about).arg("metadata").hlen(items);
        let ask = &ask;
        let counts = self.inner().link.run(|mut connection| async move { ask.query_async(&mut connection).await });
        if let Ok::<(Option<u64>, u64, u64), _>((bytes, metadata, items)) = counts.await {
            let bytes = RESPONSE_OVERHEAD + metadata + bytes.unwrap_or(0) + ITEM_OVERHEAD * items;
            self.inner().correct(tenant, id, (bytes, self.retention.stored(tenant))).await;
        }
    }

    /// Extends the time to live of the tenant's index, which must outlive its conversations.
    async fn keep_index(&self, tenant: &str) {
        let mut keep = cmd("PEXPIRE");
        keep.arg(self.inner().keys.conversations(tenant)).arg(self.ttl(tenant).saturating_mul(2));
        let _ = self.inner().query::<u8>(&keep).await;
    }
}

fn items_bytes(items: &[Item]) -> u64 {
    items.iter().map(|item| item.bytes() as u64 + ITEM_OVERHEAD).sum()
}

fn arg_items(invocation: &mut ScriptInvocation<'_>, items: &[Item]) {
    invocation.arg(items.len());
    for item in items {
        invocation.arg(&item.id).arg(item.body.to_string());
    }
}

fn read_items(flat: Vec<String>) -> Result<Vec<Item>, StoreError> {
    let mut items = Vec::with_capacity(flat.len() / 2);
    let mut flat = flat.into_iter();
    while let (Some(id), Some(body)) = (flat.next(), flat.next()) {
        items.push(Item { id, body: serde_json::from_str(&body).map_err(unreadable)? });
    }
    Ok(items)
}

#[async_trait]
impl Conversations for RedisConversations {
    async fn create(&self, conversation: Conversation, items: Vec<Item>) -> Result<(), StoreError> {
        let (tenant, id) = (&conversation.tenant, &conversation.id);
        let metadata = serde_json::to_string(&conversation.metadata).map_err(unreadable)?;
        let bytes = RESPONSE_OVERHEAD + metadata.len() as u64 + items_bytes(&items);
        let mut create = self.prepare(&conversation::CREATE, tenant, id)?;
        create.arg(conversation.created_at).arg(metadata).arg(self.bounds.items).arg(self.bounds.bytes);
        arg_items(&mut create, &items);
        let create = async {
            self.add_to_index(&conversation).await?;
            let created = self.run(&create).await;
            if created.is_err() {
                self.strike(tenant, id, 0).await;
            }
            created
        };
        self.charged((tenant, id), bytes, create).await
    }

    async fn get(&self, tenant: &str, id: &str) -> Result<Conversation, StoreError> {
        self.about(id).await?.filter(|about| about.tenant == tenant).ok_or(StoreError::NotFound)
    }

    async fn set_metadata(
        &self,
        tenant: &str,
        id: &str,
        metadata: BTreeMap<String, String>,
    ) -> Result<Conversation, StoreError> {
        let mut set = self.prepare(&conversation::SET_METADATA, tenant, id)?;
        let metadata = serde_json::to_string(&metadata).map_err(unreadable)?;
        set.arg(&metadata);
        self.charged((tenant, id), metadata.len() as u64, self.run(&set)).await?;
        self.recount(tenant, id).await;
        self.get(tenant, id).await
    }

    async fn delete(&self, tenant: &str, id: &str) -> Result<Vec<String>, StoreError> {
        let mut delete = self.prepare(&conversation::DELETE, tenant, id)?;
        delete.arg(self.inner().keys.conversation(id, "turns"));
        let (state, responses): (u8, Vec<String>) = self.inner().script(&delete).await?;
        done(state)?;
        tokio::join!(self.strike(tenant, id, 0), self.inner().uncharge(tenant, id));
        Ok(responses)
    }

    async fn list(&self, tenant: &str, page: &Page) -> Result<Listed<Conversation>, StoreError> {
        let (mut after, mut found, mut gone) = (page.after.clone(), Vec::new(), Vec::new());
        loop {
            let mut list = index::PAGE.prepare_invoke();
            list.key(self.inner().keys.conversations(tenant));
            list.arg(after.as_deref().unwrap_or_default()).arg(wanted(page.limit)).arg(reverse(page.order));
            let ids: Option<Vec<String>> = self.inner().script(&list).await?;
            let ids = ids.ok_or(StoreError::CursorNotFound)?;
            let abouts = join_all(ids.iter().map(|id| self.about(id))).await;
            let mut complete = true;
            for (id, about) in ids.iter().zip(abouts) {
                match about? {
                    Some(about) => found.push(about),
                    None => {
                        gone.push(id.clone());
                        complete = false;
                    }
                }
            }
            // Some listed conversations were gone, so read the next entries of the index.
            match ids.last() {
                Some(last) if !complete && found.len() <= page.limit => after = Some(last.clone()),
                _ => break,
            }
        }
        join_all(gone.iter().map(|id| self.strike(tenant, id, YOUNG_US))).await;
        Ok(Listed::cut(found, page.limit))
    }

    async fn append(&self, tenant: &str, id: &str, items: Vec<Item>) -> Result<(), StoreError> {
        let mut append = self.prepare(&conversation::APPEND, tenant, id)?;
        append.arg(self.bounds.items).arg(self.bounds.bytes);
        arg_items(&mut append, &items);
        let append = self.charged((tenant, id), items_bytes(&items), self.run(&append));
        let (appended, ()) = tokio::join!(append, self.keep_index(tenant));
        appended
    }

    async fn items(&self, tenant: &str, id: &str, page: &Page) -> Result<Listed<Item>, StoreError> {
        let mut list = self.prepare(&conversation::LIST_ITEMS, tenant, id)?;
        list.arg(page.after.as_deref().unwrap_or_default()).arg(wanted(page.limit)).arg(reverse(page.order));
        let (state, flat): (u8, Vec<String>) = self.inner().script(&list).await?;
        done(state).map_err(|error| match error {
            StoreError::ItemNotFound => StoreError::CursorNotFound,
            other => other,
        })?;
        Ok(Listed::cut(read_items(flat)?, page.limit))
    }

    async fn item(&self, tenant: &str, id: &str, item: &str) -> Result<Item, StoreError> {
        self.get(tenant, id).await?;
        let mut get = cmd("HGET");
        get.arg(self.inner().keys.conversation(id, "items")).arg(item);
        let body: Option<String> = self.inner().query(&get).await?;
        let body = body.ok_or(StoreError::ItemNotFound)?;
        Ok(Item { id: item.into(), body: serde_json::from_str(&body).map_err(unreadable)? })
    }

    async fn remove_item(&self, tenant: &str, id: &str, item: &str) -> Result<Conversation, StoreError> {
        let mut remove = self.prepare(&conversation::REMOVE_ITEM, tenant, id)?;
        remove.arg(item);
        self.run(&remove).await?;
        self.recount(tenant, id).await;
        self.get(tenant, id).await
    }

    async fn enter(&self, tenant: &str, id: &str, response: &str, patience: usize) -> Result<usize, StoreError> {
        let mut enter = self.prepare(&conversation::ENTER, tenant, id)?;
        enter.arg(response).arg(patience);
        let (entered, ()) = tokio::join!(self.inner().script::<(u8, usize)>(&enter), self.keep_index(tenant));
        let (state, ahead) = entered?;
        done(state)?;
        Ok(ahead)
    }

    async fn begin(&self, tenant: &str, id: &str, response: &str, input: Vec<Item>) -> Result<(), StoreError> {
        let mut begin = self.prepare(&conversation::BEGIN, tenant, id)?;
        begin.arg(response).arg(self.inner().keys.conversation(id, "turns"));
        begin.arg(self.bounds.items).arg(self.bounds.bytes);
        arg_items(&mut begin, &input);
        self.run(&begin).await?;
        self.recount(tenant, id).await;
        Ok(())
    }

    async fn end(&self, tenant: &str, id: &str, response: &str, output: Vec<Item>) -> Result<(), StoreError> {
        let mut end = self.prepare(&conversation::END, tenant, id)?;
        end.arg(response).arg(self.inner().keys.conversation(id, "turns")).arg(MAX_RESPONSES);
        arg_items(&mut end, &output);
        self.run(&end).await?;
        self.recount(tenant, id).await;
        Ok(())
    }

    async fn line(&self, tenant: &str, id: &str) -> Result<Line, StoreError> {
        let line = self.prepare(&conversation::READ_LINE, tenant, id)?;
        let (state, latest, flat): (u8, String, Vec<String>) = self.inner().script(&line).await?;
        done(state)?;
        let mut turns = Vec::with_capacity(flat.len() / 2);
        let mut flat = flat.into_iter();
        while let (Some(response), Some(waited)) = (flat.next(), flat.next()) {
            turns.push(Turn { response, waited: Duration::from_millis(waited.parse().unwrap_or(0)) });
        }
        Ok(Line { turns, latest: Some(latest).filter(|latest| !latest.is_empty()) })
    }

    async fn watch(&self, tenant: &str, id: &str) -> Result<BoxStream<'static, Notice>, StoreError> {
        self.get(tenant, id).await?;
        let mut listener = self.inner().live.listen(&self.inner().keys.conversation(id, "turns"));
        listener.confirmed().await;
        let notices = stream::unfold(listener, |mut listener| async move {
            let notice = match listener.next().await.as_deref() {
                Some([]) => return None,
                Some([b'b', response @ ..]) => Notice::Began(String::from_utf8_lossy(response).into_owned()),
                // The line has moved, or messages were missed: in both cases the watcher has to read the line.
                _ => Notice::Moved,
            };
            Some((notice, listener))
        });
        Ok(notices.boxed())
    }
}
