//! Conversations on Redis. All of one is in one slot; a tenant's index of them is in another, where an entry is written
//! before its conversation and struck after it, so that a conversation is always listed and what is listed may be gone.

use std::{collections::BTreeMap, sync::LazyLock};

use ::redis::{Script, ScriptInvocation, cmd};
use async_trait::async_trait;
use futures::{StreamExt, future::join_all, stream, stream::BoxStream};

use super::{Inner, RedisStore, keys::MAX_ID, ms};
use crate::store::{
    Retention, StoreError,
    conversations::{Bounds, Conversation, ConversationError, Conversations, Item, Line, Notice, Turn},
    page::{Listed, Order, Page},
};

/// Ended responses that a conversation remembers, so that they are deleted with it.
const MAX_RESPONSES: usize = 10_000;
/// Entries of the index that each new conversation checks: of those whose conversation has expired, few are left.
const CHECKED: usize = 4;

pub struct RedisConversations {
    store: RedisStore,
    retention: Retention,
    bounds: Bounds,
}

impl RedisStore {
    /// Conversations in the same Redis, over the same connections.
    pub fn conversations(&self, retention: Retention, bounds: Bounds) -> RedisConversations {
        RedisConversations { store: self.clone(), retention, bounds }
    }
}

/// What every script begins with. `ARGV`: tenant, time to live, then its own. Items are `count, id, body, …` from `at` on.
/// Answers: 0 not found, 1 done, 2 busy, 3 full, 4 no such item.
const PRELUDE: &str = r"
local about, items, order, line, turns, responses = unpack(KEYS)
local known = redis.call('HGET', about, 'tenant') == ARGV[1]
local function keep()
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[2]) end
end
local function append(at, max_items, max_bytes)
  local count, bytes = tonumber(ARGV[at]), 0
  if count == 0 or redis.call('HEXISTS', items, ARGV[at + 1]) == 1 then return true end
  for n = 1, count do bytes = bytes + #ARGV[at + 2 * n] end
  local all = tonumber(redis.call('HGET', about, 'bytes') or 0) + bytes
  if max_items and (redis.call('HLEN', items) + count > max_items or all > max_bytes) then return false end
  redis.call('HSET', about, 'bytes', all)
  for n = 1, count do
    local id = ARGV[at + 2 * n - 1]
    redis.call('HSET', items, id, ARGV[at + 2 * n])
    redis.call('ZADD', order, redis.call('HINCRBY', about, 'next', 1), id)
  end
  return true
end
";

fn script(body: &str) -> Script {
    Script::new(&format!("{PRELUDE}{body}"))
}

/// created_at, metadata, max items, max bytes, items.
static CREATE: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if redis.call('EXISTS', about) == 1 then return known and 1 or 0 end
if not append(7, tonumber(ARGV[5]), tonumber(ARGV[6])) then
  redis.call('DEL', about)
  return 3
end
redis.call('HSET', about, 'tenant', ARGV[1], 'created_at', ARGV[3], 'metadata', ARGV[4])
keep()
return 1",
    )
});

/// max items, max bytes, items.
static APPEND: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return 0 end
if not append(5, tonumber(ARGV[3]), tonumber(ARGV[4])) then return 3 end
keep()
return 1",
    )
});

/// metadata.
static SET_METADATA: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return 0 end
redis.call('HSET', about, 'metadata', ARGV[3])
keep()
return 1",
    )
});

/// item.
static REMOVE_ITEM: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return 0 end
local body = redis.call('HGET', items, ARGV[3])
if not body then return 4 end
redis.call('HDEL', items, ARGV[3])
redis.call('ZREM', order, ARGV[3])
redis.call('HINCRBY', about, 'bytes', -#body)
keep()
return 1",
    )
});

/// channel. {state, responses}.
static DELETE: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return {0, {}} end
local all = redis.call('ZRANGE', responses, 0, -1)
for _, response in ipairs(redis.call('LRANGE', line, 0, -1)) do all[#all + 1] = response end
redis.call('DEL', unpack(KEYS))
redis.call('SPUBLISH', ARGV[3], '')
return {1, all}",
    )
});

/// after, limit, whether the newest come first. {state, items}.
static ITEMS: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return {0, {}} end
local reverse, start, limit = ARGV[5] == '1', 0, tonumber(ARGV[4])
if ARGV[3] ~= '' then
  local rank = redis.call(reverse and 'ZREVRANK' or 'ZRANK', order, ARGV[3])
  if not rank then return {4, {}} end
  start = rank + 1
end
local ids = redis.call(reverse and 'ZREVRANGE' or 'ZRANGE', order, start, limit < 0 and -1 or start + limit - 1)
local found = {}
for _, id in ipairs(ids) do
  found[#found + 1] = id
  found[#found + 1] = redis.call('HGET', items, id)
end
return {1, found}",
    )
});

/// response, patience. {state, turns ahead}.
static ENTER: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return {0, 0} end
local place = redis.call('LPOS', line, ARGV[3])
if place then return {1, place} end
local ahead = redis.call('LLEN', line)
if ahead > tonumber(ARGV[4]) then return {2, ahead} end
local time = redis.call('TIME')
redis.call('RPUSH', line, ARGV[3])
redis.call('HSET', turns, ARGV[3], '0' .. string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
keep()
return {1, ahead}",
    )
});

/// response, channel, max items, max bytes, input.
static BEGIN: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return 0 end
if redis.call('ZSCORE', responses, ARGV[3]) then return 1 end
if redis.call('LINDEX', line, 0) ~= ARGV[3] then return 2 end
local turn = redis.call('HGET', turns, ARGV[3])
if string.sub(turn, 1, 1) == '1' then return 1 end
if not append(7, tonumber(ARGV[5]), tonumber(ARGV[6])) then return 3 end
redis.call('HSET', turns, ARGV[3], '1' .. string.sub(turn, 2))
keep()
redis.call('SPUBLISH', ARGV[4], 'b' .. ARGV[3])
return 1",
    )
});

/// response, channel, responses to remember, output.
static END: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return 0 end
local turn = redis.call('HGET', turns, ARGV[3])
if not turn then return 1 end
redis.call('HDEL', turns, ARGV[3])
redis.call('LREM', line, 1, ARGV[3])
if string.sub(turn, 1, 1) == '1' then
  append(6)
  redis.call('HSET', about, 'latest', ARGV[3])
  redis.call('ZADD', responses, redis.call('HINCRBY', about, 'next', 1), ARGV[3])
  redis.call('ZREMRANGEBYRANK', responses, 0, -1 - tonumber(ARGV[5]))
end
keep()
redis.call('SPUBLISH', ARGV[4], 'm')
return 1",
    )
});

/// {state, latest, turns}.
static LINE: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return {0, '', {}} end
local all = {}
for _, response in ipairs(redis.call('LRANGE', line, 0, -1)) do
  all[#all + 1] = response
  all[#all + 1] = string.sub(redis.call('HGET', turns, response) or '00', 2)
end
return {1, redis.call('HGET', about, 'latest') or '', all}",
    )
});

/// index; member, ttl. Its place in the order is when it came.
static LIST_IT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], 'NX', time[1] * 1000000 + time[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZRANDMEMBER', KEYS[1], ARGV[3])",
    )
});

/// index; after, limit, whether the newest come first. False: `after` is not there.
pub static PAGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local reverse, start, limit = ARGV[3] == '1', 0, tonumber(ARGV[2])
if ARGV[1] ~= '' then
  local rank = redis.call(reverse and 'ZREVRANK' or 'ZRANK', KEYS[1], ARGV[1])
  if not rank then return false end
  start = rank + 1
end
return redis.call(reverse and 'ZREVRANGE' or 'ZRANGE', KEYS[1], start, limit < 0 and -1 or start + limit - 1)",
    )
});

/// index; member, the age in µs that spares it.
static STRIKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) + tonumber(ARGV[2]) < time[1] * 1000000 + time[2] then
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return 0",
    )
});

/// How old an entry is before it counts as one whose conversation is gone: a younger one's may be about to come.
const YOUNG_US: u64 = 60_000_000;

impl From<StoreError> for ConversationError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(reason) => Self::Unavailable(reason),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

fn done(state: u8) -> Result<(), ConversationError> {
    match state {
        0 => Err(ConversationError::NotFound),
        1 => Ok(()),
        2 => Err(ConversationError::Busy),
        3 => Err(ConversationError::Full),
        _ => Err(ConversationError::ItemNotFound),
    }
}

fn unreadable(error: impl std::fmt::Display) -> ConversationError {
    ConversationError::Unavailable(format!("what this version cannot read: {error}"))
}

/// The most that a page may be asked to have, as scripts take it: one more than the limit, -1 for all.
fn wanted(limit: usize) -> i64 {
    i64::try_from(limit).map_or(-1, |limit| if limit > 1 << 40 { -1 } else { limit + 1 })
}

fn reverse(order: Order) -> u8 {
    u8::from(order == Order::Descending)
}

impl RedisConversations {
    fn inner(&self) -> &Inner {
        &self.store.0
    }

    fn ttl(&self, tenant: &str) -> u64 {
        ms(self.retention.stored(tenant))
    }

    /// A script with the keys of `id` and its first arguments.
    fn prepare<'s>(
        &self,
        script: &'s Script,
        tenant: &str,
        id: &str,
    ) -> Result<ScriptInvocation<'s>, ConversationError> {
        if id.len() > MAX_ID {
            return Err(ConversationError::NotFound);
        }
        let mut invocation = script.prepare_invoke();
        for part in ["about", "items", "order", "line", "turns", "responses"] {
            invocation.key(self.inner().keys.conversation(id, part));
        }
        invocation.arg(tenant).arg(self.ttl(tenant));
        Ok(invocation)
    }

    async fn run(&self, invocation: &ScriptInvocation<'_>) -> Result<(), ConversationError> {
        done(self.inner().script(invocation).await?)
    }

    /// Puts it among the tenant's, and looks after some of the others.
    async fn list_it(&self, conversation: &Conversation) -> Result<(), ConversationError> {
        let (inner, tenant) = (self.inner(), &conversation.tenant);
        let mut list = LIST_IT.prepare_invoke();
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
        let mut strike = STRIKE.prepare_invoke();
        strike.key(self.inner().keys.conversations(tenant)).arg(id).arg(spared_us);
        // What stays listed is passed over.
        let _ = self.inner().script::<u8>(&strike).await;
    }

    async fn about(&self, id: &str) -> Result<Option<Conversation>, ConversationError> {
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

    /// The index lives on with the conversations in it.
    async fn keep_index(&self, tenant: &str) {
        let mut keep = cmd("PEXPIRE");
        keep.arg(self.inner().keys.conversations(tenant)).arg(self.ttl(tenant).saturating_mul(2));
        let _ = self.inner().query::<u8>(&keep).await;
    }
}

fn arg_items(invocation: &mut ScriptInvocation<'_>, items: &[Item]) {
    invocation.arg(items.len());
    for item in items {
        invocation.arg(&item.id).arg(item.body.to_string());
    }
}

fn read_items(flat: Vec<String>) -> Result<Vec<Item>, ConversationError> {
    let mut items = Vec::with_capacity(flat.len() / 2);
    let mut flat = flat.into_iter();
    while let (Some(id), Some(body)) = (flat.next(), flat.next()) {
        items.push(Item { id, body: serde_json::from_str(&body).map_err(unreadable)? });
    }
    Ok(items)
}

#[async_trait]
impl Conversations for RedisConversations {
    async fn create(&self, conversation: Conversation, items: Vec<Item>) -> Result<(), ConversationError> {
        let (tenant, id) = (&conversation.tenant, &conversation.id);
        let metadata = serde_json::to_string(&conversation.metadata).map_err(unreadable)?;
        self.list_it(&conversation).await?;
        let mut create = self.prepare(&CREATE, tenant, id)?;
        create.arg(conversation.created_at).arg(metadata).arg(self.bounds.items).arg(self.bounds.bytes);
        arg_items(&mut create, &items);
        let created = self.run(&create).await;
        if created.is_err() {
            self.strike(tenant, id, 0).await;
        }
        created
    }

    async fn get(&self, tenant: &str, id: &str) -> Result<Conversation, ConversationError> {
        self.about(id).await?.filter(|about| about.tenant == tenant).ok_or(ConversationError::NotFound)
    }

    async fn set_metadata(
        &self,
        tenant: &str,
        id: &str,
        metadata: BTreeMap<String, String>,
    ) -> Result<Conversation, ConversationError> {
        let mut set = self.prepare(&SET_METADATA, tenant, id)?;
        set.arg(serde_json::to_string(&metadata).map_err(unreadable)?);
        self.run(&set).await?;
        self.get(tenant, id).await
    }

    async fn delete(&self, tenant: &str, id: &str) -> Result<Vec<String>, ConversationError> {
        let mut delete = self.prepare(&DELETE, tenant, id)?;
        delete.arg(self.inner().keys.conversation(id, "turns"));
        let (state, responses): (u8, Vec<String>) = self.inner().script(&delete).await?;
        done(state)?;
        self.strike(tenant, id, 0).await;
        Ok(responses)
    }

    async fn list(&self, tenant: &str, page: &Page) -> Result<Listed<Conversation>, ConversationError> {
        let (mut after, mut found, mut gone) = (page.after.clone(), Vec::new(), Vec::new());
        loop {
            let mut list = PAGE.prepare_invoke();
            list.key(self.inner().keys.conversations(tenant));
            list.arg(after.as_deref().unwrap_or_default()).arg(wanted(page.limit)).arg(reverse(page.order));
            let ids: Option<Vec<String>> = self.inner().script(&list).await?;
            let ids = ids.ok_or(ConversationError::CursorNotFound)?;
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
            // Where some were gone, others may come after them.
            match ids.last() {
                Some(last) if !complete && found.len() <= page.limit => after = Some(last.clone()),
                _ => break,
            }
        }
        join_all(gone.iter().map(|id| self.strike(tenant, id, YOUNG_US))).await;
        Ok(Listed::cut(found, page.limit))
    }

    async fn append(&self, tenant: &str, id: &str, items: Vec<Item>) -> Result<(), ConversationError> {
        let mut append = self.prepare(&APPEND, tenant, id)?;
        append.arg(self.bounds.items).arg(self.bounds.bytes);
        arg_items(&mut append, &items);
        let (appended, ()) = tokio::join!(self.run(&append), self.keep_index(tenant));
        appended
    }

    async fn items(&self, tenant: &str, id: &str, page: &Page) -> Result<Listed<Item>, ConversationError> {
        let mut list = self.prepare(&ITEMS, tenant, id)?;
        list.arg(page.after.as_deref().unwrap_or_default()).arg(wanted(page.limit)).arg(reverse(page.order));
        let (state, flat): (u8, Vec<String>) = self.inner().script(&list).await?;
        done(state).map_err(|error| match error {
            ConversationError::ItemNotFound => ConversationError::CursorNotFound,
            other => other,
        })?;
        Ok(Listed::cut(read_items(flat)?, page.limit))
    }

    async fn item(&self, tenant: &str, id: &str, item: &str) -> Result<Item, ConversationError> {
        self.get(tenant, id).await?;
        let mut get = cmd("HGET");
        get.arg(self.inner().keys.conversation(id, "items")).arg(item);
        let body: Option<String> = self.inner().query(&get).await?;
        let body = body.ok_or(ConversationError::ItemNotFound)?;
        Ok(Item { id: item.into(), body: serde_json::from_str(&body).map_err(unreadable)? })
    }

    async fn remove_item(&self, tenant: &str, id: &str, item: &str) -> Result<Conversation, ConversationError> {
        let mut remove = self.prepare(&REMOVE_ITEM, tenant, id)?;
        remove.arg(item);
        self.run(&remove).await?;
        self.get(tenant, id).await
    }

    async fn enter(&self, tenant: &str, id: &str, response: &str, patience: usize) -> Result<usize, ConversationError> {
        let mut enter = self.prepare(&ENTER, tenant, id)?;
        enter.arg(response).arg(patience);
        let (entered, ()) = tokio::join!(self.inner().script::<(u8, usize)>(&enter), self.keep_index(tenant));
        let (state, ahead) = entered?;
        done(state)?;
        Ok(ahead)
    }

    async fn begin(&self, tenant: &str, id: &str, response: &str, input: Vec<Item>) -> Result<(), ConversationError> {
        let mut begin = self.prepare(&BEGIN, tenant, id)?;
        begin.arg(response).arg(self.inner().keys.conversation(id, "turns"));
        begin.arg(self.bounds.items).arg(self.bounds.bytes);
        arg_items(&mut begin, &input);
        self.run(&begin).await
    }

    async fn end(&self, tenant: &str, id: &str, response: &str, output: Vec<Item>) -> Result<(), ConversationError> {
        let mut end = self.prepare(&END, tenant, id)?;
        end.arg(response).arg(self.inner().keys.conversation(id, "turns")).arg(MAX_RESPONSES);
        arg_items(&mut end, &output);
        self.run(&end).await
    }

    async fn line(&self, tenant: &str, id: &str) -> Result<Line, ConversationError> {
        let line = self.prepare(&LINE, tenant, id)?;
        let (state, latest, flat): (u8, String, Vec<String>) = self.inner().script(&line).await?;
        done(state)?;
        let mut turns = Vec::with_capacity(flat.len() / 2);
        let mut flat = flat.into_iter();
        while let (Some(response), Some(entered)) = (flat.next(), flat.next()) {
            turns.push(Turn { response, entered_ms: entered.parse().unwrap_or(0) });
        }
        Ok(Line { turns, latest: Some(latest).filter(|latest| !latest.is_empty()) })
    }

    async fn watch(&self, tenant: &str, id: &str) -> Result<BoxStream<'static, Notice>, ConversationError> {
        self.get(tenant, id).await?;
        let mut listener = self.inner().live.listen(&self.inner().keys.conversation(id, "turns"));
        listener.confirmed().await;
        let notices = stream::unfold(listener, |mut listener| async move {
            let notice = match listener.next().await.as_deref() {
                Some([]) => return None,
                Some([b'b', response @ ..]) => Notice::Began(String::from_utf8_lossy(response).into_owned()),
                // Something was missed, or the line moved: in both cases it is to be looked at.
                _ => Notice::Moved,
            };
            Some((notice, listener))
        });
        Ok(notices.boxed())
    }
}
