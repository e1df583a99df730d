//! Changes of a conversation in SQL. Each function refuses before its first write, or not at all.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use crate::store::{
    StoreError,
    conversations::{Conversation, ConversationBounds, Item},
    sqlite::{
        change::{ChangeError, ChangeOutcome, refused},
        time::now_ms,
    },
};

/// The maximum of ended responses that a conversation remembers, so that they are deleted with it.
const MAX_RESPONSES: i64 = 10_000;

/// A change of the conversation in row `number`.
pub struct Change<'c> {
    pub db: &'c Connection,
    pub number: i64,
}

pub fn unreadable(error: impl std::fmt::Display) -> ChangeError {
    ChangeError::Refused(StoreError::Unavailable(format!("what this version cannot read: {error}")))
}

pub fn create(
    db: &Connection,
    conversation: &Conversation,
    items: &[Item],
    bounds: ConversationBounds,
    until: i64,
) -> ChangeOutcome<()> {
    let Conversation { id, tenant, created_at, metadata } = conversation;
    let metadata = serde_json::to_string(metadata).map_err(unreadable)?;
    check(items, (0, 0), bounds)?;
    let sql = "INSERT INTO conversations (id, tenant, created_at, until, metadata) VALUES (?1, ?2, ?3, ?4, ?5)";
    let number = db.prepare_cached(sql)?.insert(params![id, tenant, *created_at as i64, until, metadata])?;
    Change { db, number }.append(items, None)
}

/// Deletes the conversation in row `number` with its items and turns.
pub fn forget(db: &Connection, number: i64) -> rusqlite::Result<()> {
    for sql in [
        "DELETE FROM items WHERE conversation = ?1",
        "DELETE FROM turns WHERE conversation = ?1",
        "DELETE FROM ended_turns WHERE conversation = ?1",
        "DELETE FROM conversations WHERE number = ?1",
    ] {
        db.prepare_cached(sql)?.execute([number])?;
    }
    Ok(())
}

/// Refuses items that would exceed the bounds together with the existing `count` and `bytes`.
fn check(items: &[Item], (count, bytes): (i64, i64), bounds: ConversationBounds) -> ChangeOutcome<()> {
    let more: usize = items.iter().map(Item::bytes).sum();
    if count as usize + items.len() > bounds.items || bytes as usize + more > bounds.bytes {
        return refused(StoreError::OverBounds);
    }
    Ok(())
}

impl Change<'_> {
    pub fn set_metadata(&self, metadata: &BTreeMap<String, String>) -> ChangeOutcome<()> {
        let metadata = serde_json::to_string(metadata).map_err(unreadable)?;
        let sql = "UPDATE conversations SET metadata = ?2 WHERE number = ?1";
        self.db.prepare_cached(sql)?.execute(params![self.number, metadata])?;
        Ok(())
    }

    /// Appends items. With `bounds`, refuses items that would exceed them.
    pub fn append(&self, items: &[Item], bounds: Option<ConversationBounds>) -> ChangeOutcome<()> {
        let sql = "SELECT next, count, bytes FROM conversations WHERE number = ?1";
        let (mut next, mut count, mut bytes): (i64, i64, i64) =
            self.db.prepare_cached(sql)?.query_row([self.number], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        if let Some(bounds) = bounds {
            check(items, (count, bytes), bounds)?;
        }
        for item in items {
            // An item with the same id moves to the end.
            if let Some(old) = self.take_item(&item.id)? {
                (count, bytes) = (count - 1, bytes - old);
            }
            next += 1;
            let body = item.body.to_string();
            (count, bytes) = (count + 1, bytes + body.len() as i64);
            let sql = "INSERT INTO items (conversation, number, id, body) VALUES (?1, ?2, ?3, ?4)";
            self.db.prepare_cached(sql)?.execute(params![self.number, next, item.id, body])?;
        }
        let sql = "UPDATE conversations SET next = ?2, count = ?3, bytes = ?4 WHERE number = ?1";
        self.db.prepare_cached(sql)?.execute(params![self.number, next, count, bytes])?;
        Ok(())
    }

    /// Deletes an item. Returns its bytes if it existed.
    fn take_item(&self, item: &str) -> rusqlite::Result<Option<i64>> {
        let sql = "DELETE FROM items WHERE conversation = ?1 AND id = ?2 RETURNING octet_length(body)";
        self.db.prepare_cached(sql)?.query_row(params![self.number, item], |row| row.get(0)).optional()
    }

    pub fn remove_item(&self, item: &str) -> ChangeOutcome<()> {
        let Some(bytes) = self.take_item(item)? else { return refused(StoreError::ItemNotFound) };
        let sql = "UPDATE conversations SET count = count - 1, bytes = bytes - ?2 WHERE number = ?1";
        self.db.prepare_cached(sql)?.execute(params![self.number, bytes])?;
        Ok(())
    }

    /// Puts a response at the end of the line. Returns the number of turns before it.
    pub fn enter(&self, response: &str, patience: usize) -> ChangeOutcome<usize> {
        let sql = "SELECT count(*), ifnull(max(number), 0) FROM turns WHERE conversation = ?1";
        let (ahead, last): (i64, i64) =
            self.db.prepare_cached(sql)?.query_row([self.number], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let ahead = ahead as usize;
        if ahead > patience {
            return refused(StoreError::Busy);
        }
        let sql = "INSERT INTO turns (conversation, number, response, entered) VALUES (?1, ?2, ?3, ?4)";
        self.db.prepare_cached(sql)?.execute(params![self.number, last + 1, response, now_ms()])?;
        Ok(ahead)
    }

    /// Begins the first turn. Returns `false` if it had begun or ended before.
    pub fn begin(&self, response: &str, input: &[Item], bounds: ConversationBounds) -> ChangeOutcome<bool> {
        let sql = "SELECT number, response, begun FROM turns WHERE conversation = ?1 ORDER BY number LIMIT 1";
        let first: Option<(i64, String, bool)> = self
            .db
            .prepare_cached(sql)?
            .query_row([self.number], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let turn = match first {
            Some((_, first, true)) if first == response => return Ok(false),
            Some((turn, first, false)) if first == response => turn,
            _ if self.has_ended(response)? => return Ok(false),
            _ => return refused(StoreError::Busy),
        };
        self.append(input, Some(bounds))?;
        let sql = "UPDATE turns SET begun = 1 WHERE conversation = ?1 AND number = ?2";
        self.db.prepare_cached(sql)?.execute([self.number, turn])?;
        Ok(true)
    }

    fn has_ended(&self, response: &str) -> rusqlite::Result<bool> {
        let sql = "SELECT 1 FROM ended_turns WHERE conversation = ?1 AND response = ?2";
        self.db.prepare_cached(sql)?.exists(params![self.number, response])
    }

    /// Removes a response from the line. Returns `false` if it was not in line.
    pub fn end(&self, response: &str, output: &[Item]) -> ChangeOutcome<bool> {
        let sql = "DELETE FROM turns WHERE conversation = ?1 AND number =
            (SELECT number FROM turns WHERE conversation = ?1 AND response = ?2 LIMIT 1) RETURNING begun";
        let left =
            self.db.prepare_cached(sql)?.query_row(params![self.number, response], |row| row.get(0)).optional()?;
        let Some(had_begun) = left else { return Ok(false) };
        if had_begun {
            self.append(output, None)?;
            self.remember(response)?;
        }
        Ok(true)
    }

    /// Records a response as the one that has ended last.
    fn remember(&self, response: &str) -> rusqlite::Result<()> {
        let sql = "UPDATE conversations SET latest = ?2, next = next + 1 WHERE number = ?1 RETURNING next";
        let number: i64 = self.db.prepare_cached(sql)?.query_row(params![self.number, response], |row| row.get(0))?;
        let sql = "INSERT OR REPLACE INTO ended_turns (conversation, response, number) VALUES (?1, ?2, ?3)";
        self.db.prepare_cached(sql)?.execute(params![self.number, response, number])?;
        let sql = "SELECT count(*) FROM ended_turns WHERE conversation = ?1";
        let count: i64 = self.db.prepare_cached(sql)?.query_row([self.number], |row| row.get(0))?;
        if count > MAX_RESPONSES {
            let sql = "DELETE FROM ended_turns WHERE conversation = ?1 AND response IN
                (SELECT response FROM ended_turns WHERE conversation = ?1 ORDER BY number LIMIT ?2)";
            self.db.prepare_cached(sql)?.execute([self.number, count - MAX_RESPONSES])?;
        }
        Ok(())
    }

    /// Returns the responses of the conversation: ended ones and those in line.
    pub fn responses(&self) -> rusqlite::Result<Vec<String>> {
        let sql = "SELECT response FROM ended_turns WHERE conversation = ?1
            UNION SELECT response FROM turns WHERE conversation = ?1";
        self.db.prepare_cached(sql)?.query_map([self.number], |row| row.get(0))?.collect()
    }
}
