//! Stored prompts in the file.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    change::{ChangeError, ChangeOutcome, split},
    handle::SqliteStore,
};
use crate::store::{
    StoreError,
    page::{Listed, Order, Page},
    prompts::{PromptBounds, Prompts, StoredPrompt, Use},
};

pub struct SqlitePrompts {
    store: SqliteStore,
    bounds: PromptBounds,
}

impl SqliteStore {
    /// Opens the stored prompts in the same file.
    pub fn prompts(&self, bounds: PromptBounds) -> SqlitePrompts {
        SqlitePrompts { store: self.clone(), bounds }
    }
}

fn unreadable(error: impl std::fmt::Display) -> ChangeError {
    ChangeError::Refused(StoreError::Unavailable(format!("a prompt that this version cannot read: {error}")))
}

/// Returns the number of a prompt's row, and the latest version.
fn find(db: &Connection, tenant: &str, id: &str) -> rusqlite::Result<Option<(i64, u32)>> {
    let sql = "SELECT number, latest FROM prompts WHERE tenant = ?1 AND id = ?2";
    db.prepare_cached(sql)?.query_row(params![tenant, id], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

fn put(db: &Connection, prompt: &StoredPrompt, bounds: PromptBounds) -> ChangeOutcome<StoredPrompt> {
    let known = find(db, &prompt.tenant, &prompt.id)?;
    let version = known.map_or(0, |(_, latest)| latest) + 1;
    let stored = StoredPrompt { version, ..prompt.clone() };
    let json = serde_json::to_string(&stored).map_err(unreadable)?;
    let sql = "SELECT count(DISTINCT number), ifnull(sum(bytes), 0) FROM prompts
        JOIN prompt_versions ON prompt = number WHERE tenant = ?1";
    let (prompts, bytes): (i64, i64) =
        db.prepare_cached(sql)?.query_row([&prompt.tenant], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let too_many = known.is_none() && prompts >= bounds.prompts as i64;
    if too_many || version > bounds.versions || bytes as usize + json.len() > bounds.bytes {
        return Err(ChangeError::Refused(StoreError::OverBounds));
    }
    let number = match known {
        Some((number, _)) => {
            db.prepare_cached("UPDATE prompts SET latest = ?2 WHERE number = ?1")?.execute(params![number, version])?;
            number
        }
        None => {
            let sql = "INSERT INTO prompts (tenant, id, latest) VALUES (?1, ?2, ?3)";
            db.prepare_cached(sql)?.insert(params![prompt.tenant, prompt.id, version])?
        }
    };
    let sql = "INSERT INTO prompt_versions (prompt, version, bytes, json) VALUES (?1, ?2, ?3, ?4)";
    db.prepare_cached(sql)?.execute(params![number, version, json.len() as i64, json])?;
    Ok(stored)
}

fn list(db: &Connection, tenant: &str, page: &Page) -> ChangeOutcome<Vec<StoredPrompt>> {
    let after = match &page.after {
        Some(id) => Some(find(db, tenant, id)?.ok_or(ChangeError::Refused(StoreError::CursorNotFound))?.0),
        None => None,
    };
    let wanted = i64::try_from(page.limit).map_or(-1, |limit| limit.saturating_add(1));
    let (sql, after) = match page.order {
        Order::Ascending => ("number > ?2 ORDER BY number", after.unwrap_or(0)),
        Order::Descending => ("number < ?2 ORDER BY number DESC", after.unwrap_or(i64::MAX)),
    };
    let sql = format!(
        "SELECT json FROM prompts JOIN prompt_versions ON prompt = number AND version = latest
        WHERE tenant = ?1 AND {sql} LIMIT ?3"
    );
    let mut find = db.prepare_cached(&sql)?;
    let found = find.query_map(params![tenant, after, wanted], |row| row.get::<_, String>(0))?;
    found.map(|json| serde_json::from_str(&json?).map_err(unreadable)).collect()
}

fn delete(db: &Connection, tenant: &str, id: &str) -> ChangeOutcome<()> {
    let (number, _) = find(db, tenant, id)?.ok_or(ChangeError::Refused(StoreError::NotFound))?;
    for sql in [
        "DELETE FROM prompts WHERE number = ?1",
        "DELETE FROM prompt_versions WHERE prompt = ?1",
        "DELETE FROM prompt_uses WHERE prompt = ?1",
    ] {
        db.prepare_cached(sql)?.execute([number])?;
    }
    Ok(())
}

#[async_trait]
impl Prompts for SqlitePrompts {
    async fn put(&self, prompt: StoredPrompt) -> Result<StoredPrompt, StoreError> {
        let bounds = self.bounds;
        self.store.0.change(move |db| split(put(db, &prompt, bounds))).await?
    }

    async fn get(&self, tenant: &str, id: &str, version: Option<u32>) -> Result<StoredPrompt, StoreError> {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        let get = move |db: &Connection| -> ChangeOutcome<StoredPrompt> {
            let sql = "SELECT json FROM prompts JOIN prompt_versions ON prompt = number
                WHERE tenant = ?1 AND id = ?2 AND version = ifnull(?3, latest)";
            let json: Option<String> =
                db.prepare_cached(sql)?.query_row(params![tenant, id, version], |row| row.get(0)).optional()?;
            serde_json::from_str(&json.ok_or(ChangeError::Refused(StoreError::NotFound))?).map_err(unreadable)
        };
        self.store.0.readers.read(move |db| split(get(db))).await?
    }

    async fn list(&self, tenant: &str, page: &Page) -> Result<Listed<StoredPrompt>, StoreError> {
        let (tenant, asked) = (tenant.to_owned(), page.clone());
        let found = self.store.0.readers.read(move |db| split(list(db, &tenant, &asked))).await??;
        Ok(Listed::cut(found, page.limit))
    }

    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        self.store.0.relieve(move |db| split(delete(db, &tenant, &id))).await?
    }

    async fn used(&self, used: Use, weight: f64) -> Result<(), StoreError> {
        let note = move |db: &Connection| -> ChangeOutcome<()> {
            let (number, _) =
                find(db, &used.tenant, &used.prompt)?.ok_or(ChangeError::Refused(StoreError::NotFound))?;
            let sql = "INSERT INTO prompt_uses (prompt, model, weight) VALUES (?1, ?2, ?3)
                ON CONFLICT DO UPDATE SET weight = weight + ?3";
            db.prepare_cached(sql)?.execute(params![number, used.model, weight])?;
            Ok(())
        };
        self.store.0.change(move |db| split(note(db))).await?
    }

    async fn hot(&self, count: usize) -> Result<Vec<Use>, StoreError> {
        let hot = move |db: &Connection| {
            let sql = "SELECT tenant, id, model FROM prompt_uses JOIN prompts ON number = prompt
                ORDER BY weight DESC LIMIT ?1";
            let mut find = db.prepare_cached(sql)?;
            let found = find.query_map([i64::try_from(count).unwrap_or(-1)], |row| {
                Ok(Use { tenant: row.get(0)?, prompt: row.get(1)?, model: row.get(2)? })
            })?;
            found.collect()
        };
        Ok(self.store.0.readers.read(hot).await?)
    }
}
