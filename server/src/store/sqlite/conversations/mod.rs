//! Conversations in the file. Each change is part of a transaction; watchers are notified after the commit.

pub mod changes;
pub mod watchers;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    change::{ChangeError, ChangeOutcome, split},
    handle::SqliteStore,
    quota,
    time::{ms, now_ms},
    writer::About,
};
use crate::store::{
    Retention, StoreError,
    conversations::{Conversation, ConversationBounds, Conversations, Item, Line, Notice, Turn},
    page::{Listed, Order, Page},
};
use changes::{Change, forget, unreadable};

/// The room that a change needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Room in the file.
    Room,
    /// Room for this many more bytes, in the file and in the tenant's quota.
    Quota(u64),
}

fn bytes(items: &[Item]) -> u64 {
    items.iter().map(|item| item.bytes() as u64).sum()
}

pub struct SqliteConversations {
    store: SqliteStore,
    retention: Retention,
    bounds: ConversationBounds,
}

impl SqliteStore {
    /// Opens the conversations in the same file.
    pub fn conversations(&self, retention: Retention, bounds: ConversationBounds) -> SqliteConversations {
        SqliteConversations { store: self.clone(), retention, bounds }
    }
}

/// Returns the number of a conversation's row.
fn number(db: &Connection, tenant: &str, id: &str) -> ChangeOutcome<i64> {
    let sql = "SELECT number FROM conversations WHERE id = ?1 AND tenant = ?2 AND until > ?3";
    let number = db.prepare_cached(sql)?.query_row(params![id, tenant, now_ms()], |row| row.get(0)).optional()?;
    number.ok_or(ChangeError::Refused(StoreError::NotFound))
}

fn get(db: &Connection, tenant: &str, id: &str) -> ChangeOutcome<Conversation> {
    let number = number(db, tenant, id)?;
    let sql = "SELECT created_at, metadata FROM conversations WHERE number = ?1";
    let found = db.prepare_cached(sql)?.query_row([number], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    conversation(tenant, id.to_owned(), found)
}

fn conversation(tenant: &str, id: String, (created_at, metadata): (i64, String)) -> ChangeOutcome<Conversation> {
    let metadata = serde_json::from_str(&metadata).map_err(unreadable)?;
    Ok(Conversation { id, tenant: tenant.to_owned(), created_at: created_at as u64, metadata })
}

/// Returns the SQL of a page: the condition on `number` with the order, its parameter, and the maximum of rows.
fn within(page: &Page, after: Option<i64>) -> (&'static str, i64, i64) {
    let wanted = i64::try_from(page.limit).map_or(-1, |limit| limit.saturating_add(1));
    match page.order {
        Order::Ascending => ("number > ?2 ORDER BY number", after.unwrap_or(0), wanted),
        Order::Descending => ("number < ?2 ORDER BY number DESC", after.unwrap_or(i64::MAX), wanted),
    }
}

fn list(db: &Connection, tenant: &str, page: &Page) -> ChangeOutcome<Vec<Conversation>> {
    let after = match &page.after {
        Some(id) => Some(number(db, tenant, id).map_err(|refusal| match refusal {
            ChangeError::Refused(_) => ChangeError::Refused(StoreError::CursorNotFound),
            sql => sql,
        })?),
        None => None,
    };
    let (condition, after, wanted) = within(page, after);
    let sql = format!(
        "SELECT id, created_at, metadata FROM conversations WHERE tenant = ?1 AND until > ?4 AND {condition} LIMIT ?3"
    );
    let mut find = db.prepare_cached(&sql)?;
    let found =
        find.query_map(params![tenant, after, wanted, now_ms()], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
    found.map(|row| row.map_err(ChangeError::from).and_then(|(id, found)| conversation(tenant, id, found))).collect()
}

fn items(db: &Connection, tenant: &str, id: &str, page: &Page) -> ChangeOutcome<Vec<Item>> {
    let conversation = number(db, tenant, id)?;
    let after = match &page.after {
        Some(item) => {
            let sql = "SELECT number FROM items WHERE conversation = ?1 AND id = ?2";
            let after = db.prepare_cached(sql)?.query_row(params![conversation, item], |row| row.get(0)).optional()?;
            Some(after.ok_or(ChangeError::Refused(StoreError::CursorNotFound))?)
        }
        None => None,
    };
    let (condition, after, wanted) = within(page, after);
    let sql = format!("SELECT id, body FROM items WHERE conversation = ?1 AND {condition} LIMIT ?3");
    let mut find = db.prepare_cached(&sql)?;
    let found =
        find.query_map(params![conversation, after, wanted], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    found
        .map(|row| {
            let (id, body) = row?;
            Ok(Item { id, body: serde_json::from_str(&body).map_err(unreadable)? })
        })
        .collect()
}

fn item(db: &Connection, tenant: &str, id: &str, item: &str) -> ChangeOutcome<Item> {
    let conversation = number(db, tenant, id)?;
    let sql = "SELECT body FROM items WHERE conversation = ?1 AND id = ?2";
    let body: Option<String> =
        db.prepare_cached(sql)?.query_row(params![conversation, item], |row| row.get(0)).optional()?;
    let body = body.ok_or(ChangeError::Refused(StoreError::ItemNotFound))?;
    Ok(Item { id: item.to_owned(), body: serde_json::from_str(&body).map_err(unreadable)? })
}

fn line(db: &Connection, tenant: &str, id: &str) -> ChangeOutcome<Line> {
    let (conversation, now) = (number(db, tenant, id)?, now_ms());
    let mut find = db.prepare_cached("SELECT response, entered FROM turns WHERE conversation = ?1 ORDER BY number")?;
    let turns = find.query_map([conversation], |row| {
        let waited = Duration::from_millis(u64::try_from(now - row.get::<_, i64>(1)?).unwrap_or(0));
        Ok(Turn { response: row.get(0)?, waited })
    })?;
    let sql = "SELECT latest FROM conversations WHERE number = ?1";
    let latest = db.prepare_cached(sql)?.query_row([conversation], |row| row.get(0))?;
    Ok(Line { turns: turns.collect::<Result<_, _>>()?, latest })
}

impl SqliteConversations {
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> ChangeOutcome<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.store.0.readers.read(move |db| split(read(db))).await?
    }

    /// Changes a conversation and starts its retention anew.
    async fn change<T: Send + 'static>(
        &self,
        (tenant, id): (&str, &str),
        needs: Needs,
        change: impl Fn(&Change<'_>) -> ChangeOutcome<(T, Option<Notice>)> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (until, watchers) = (ms(self.retention.stored(tenant)), self.store.0.watchers.clone());
        let (quota, live) = (self.store.0.config.quota(tenant), self.store.0.live.clone());
        let (tenant, id, watched) = (tenant.to_owned(), id.to_owned(), id.to_owned());
        let about = About { log: None, makes_room: needs == Needs::Nothing };
        let work = move |db: &Connection| {
            let change = || {
                let number = number(db, &tenant, &id)?;
                if let Needs::Quota(bytes) = needs
                    && let Some(exceeded) = quota::conversation(db, &live, (&tenant, bytes), quota)?
                {
                    return Err(ChangeError::Refused(StoreError::OverQuota(exceeded)));
                }
                let found = change(&Change { db, number })?;
                let sql = "UPDATE conversations SET until = ?2 WHERE number = ?1";
                db.prepare_cached(sql)?.execute(params![number, now_ms().saturating_add(until)])?;
                Ok(found)
            };
            split(change())
        };
        let after = move |outcome: &Result<(T, Option<Notice>), StoreError>| {
            if let Ok((_, Some(notice))) = outcome {
                watchers.notify(&watched, notice);
            }
        };
        Ok(self.store.0.writer.write(about, work, after).await??.0)
    }
}

#[async_trait]
impl Conversations for SqliteConversations {
    async fn create(&self, conversation: Conversation, items: Vec<Item>) -> Result<(), StoreError> {
        let (bounds, keep) = (self.bounds, ms(self.retention.stored(&conversation.tenant)));
        let (allowed, live) = (self.store.0.config.quota(&conversation.tenant), self.store.0.live.clone());
        let bytes = quota::CONVERSATION_OVERHEAD + bytes(&items);
        let create = move |db: &Connection| {
            if let Some(exceeded) = quota::conversation(db, &live, (&conversation.tenant, bytes), allowed)? {
                return Ok(Err(StoreError::OverQuota(exceeded)));
            }
            split(changes::create(db, &conversation, &items, bounds, now_ms().saturating_add(keep)))
        };
        self.store.0.change(create).await?
    }

    async fn get(&self, tenant: &str, id: &str) -> Result<Conversation, StoreError> {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        self.read(move |db| get(db, &tenant, &id)).await
    }

    async fn set_metadata(
        &self,
        tenant: &str,
        id: &str,
        metadata: BTreeMap<String, String>,
    ) -> Result<Conversation, StoreError> {
        let (owner, named) = (tenant.to_owned(), id.to_owned());
        let set = move |change: &Change<'_>| {
            change.set_metadata(&metadata)?;
            Ok((get(change.db, &owner, &named)?, None))
        };
        self.change((tenant, id), Needs::Quota(0), set).await
    }

    async fn delete(&self, tenant: &str, id: &str) -> Result<Vec<String>, StoreError> {
        let watchers = self.store.0.watchers.clone();
        let (tenant, id, watched) = (tenant.to_owned(), id.to_owned(), id.to_owned());
        let delete = move |db: &Connection| {
            let delete = || {
                let change = Change { db, number: number(db, &tenant, &id)? };
                let responses = change.responses()?;
                forget(db, change.number)?;
                Ok(responses)
            };
            split(delete())
        };
        let after = move |deleted: &Result<Vec<String>, StoreError>| {
            if deleted.is_ok() {
                watchers.end(&watched);
            }
        };
        self.store.0.writer.write(About::default().making_room(), delete, after).await?
    }

    async fn list(&self, tenant: &str, page: &Page) -> Result<Listed<Conversation>, StoreError> {
        let (tenant, asked) = (tenant.to_owned(), page.clone());
        Ok(Listed::cut(self.read(move |db| list(db, &tenant, &asked)).await?, page.limit))
    }

    async fn append(&self, tenant: &str, id: &str, items: Vec<Item>) -> Result<(), StoreError> {
        let (bounds, more) = (self.bounds, Needs::Quota(bytes(&items)));
        let append = move |change: &Change<'_>| Ok((change.append(&items, Some(bounds))?, None));
        self.change((tenant, id), more, append).await
    }

    async fn items(&self, tenant: &str, id: &str, page: &Page) -> Result<Listed<Item>, StoreError> {
        let (tenant, id, asked) = (tenant.to_owned(), id.to_owned(), page.clone());
        Ok(Listed::cut(self.read(move |db| items(db, &tenant, &id, &asked)).await?, page.limit))
    }

    async fn item(&self, tenant: &str, id: &str, named: &str) -> Result<Item, StoreError> {
        let (tenant, id, named) = (tenant.to_owned(), id.to_owned(), named.to_owned());
        self.read(move |db| item(db, &tenant, &id, &named)).await
    }

    async fn remove_item(&self, tenant: &str, id: &str, item: &str) -> Result<Conversation, StoreError> {
        let (owner, named, item) = (tenant.to_owned(), id.to_owned(), item.to_owned());
        let remove = move |change: &Change<'_>| {
            change.remove_item(&item)?;
            Ok((get(change.db, &owner, &named)?, None))
        };
        self.change((tenant, id), Needs::Nothing, remove).await
    }

    async fn enter(&self, tenant: &str, id: &str, response: &str, patience: usize) -> Result<usize, StoreError> {
        let response = response.to_owned();
        let enter = move |change: &Change<'_>| Ok((change.enter(&response, patience)?, None));
        self.change((tenant, id), Needs::Room, enter).await
    }

    async fn begin(&self, tenant: &str, id: &str, response: &str, input: Vec<Item>) -> Result<(), StoreError> {
        let (response, bounds) = (response.to_owned(), self.bounds);
        let begin = move |change: &Change<'_>| {
            let began = change.begin(&response, &input, bounds)?;
            Ok(((), began.then(|| Notice::Began(response.clone()))))
        };
        self.change((tenant, id), Needs::Room, begin).await
    }

    async fn end(&self, tenant: &str, id: &str, response: &str, output: Vec<Item>) -> Result<(), StoreError> {
        let response = response.to_owned();
        let end = move |change: &Change<'_>| Ok(((), change.end(&response, &output)?.then_some(Notice::Moved)));
        self.change((tenant, id), Needs::Nothing, end).await
    }

    async fn line(&self, tenant: &str, id: &str) -> Result<Line, StoreError> {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        self.read(move |db| line(db, &tenant, &id)).await
    }

    async fn watch(&self, tenant: &str, id: &str) -> Result<BoxStream<'static, Notice>, StoreError> {
        // Subscribes before the read, so that no later notice is missed.
        let notices = self.store.0.watchers.watch(id);
        self.get(tenant, id).await?;
        Ok(notices)
    }
}
