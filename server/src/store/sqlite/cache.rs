//! The prompt cache's index in the file.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    handle::SqliteStore,
    time::{ms, now_ms},
};
use crate::store::{
    StoreError,
    cache::{CacheKey, CacheSize, Cached, MAX_SHARING, PromptCache, WRITTEN_WITHIN},
};

pub struct SqliteCache {
    store: SqliteStore,
    /// The bound on the bytes of a tenant's completed logs.
    max_bytes: i64,
    /// The longest time that a log is stored.
    retention: Duration,
}

impl SqliteStore {
    /// Opens the prompt cache's index in the same file.
    pub fn cache(&self, max_bytes: u64, retention: Duration) -> SqliteCache {
        let max_bytes = i64::try_from(max_bytes).unwrap_or(i64::MAX);
        SqliteCache { store: self.clone(), max_bytes, retention }
    }
}

/// A cache key of a tenant.
#[derive(Clone)]
struct CacheRow {
    tenant: String,
    key: String,
    retention: i64,
}

impl CacheRow {
    fn remove(&self, db: &Connection) -> rusqlite::Result<()> {
        let sql = "DELETE FROM cached WHERE tenant = ?1 AND key = ?2";
        db.prepare_cached(sql)?.execute(params![self.tenant, self.key]).map(drop)
    }

    /// Marks the key as the tenant's most recently used one.
    fn touch(&self, db: &Connection) -> rusqlite::Result<()> {
        let sql = "UPDATE cached SET used = 1 + (SELECT max(used) FROM cached WHERE tenant = ?1) WHERE tenant = ?1 AND key = ?2";
        db.prepare_cached(sql)?.execute(params![self.tenant, self.key]).map(drop)
    }

    fn discard(&self, db: &Connection, log: &str) -> rusqlite::Result<()> {
        let sql = "DELETE FROM cached WHERE tenant = ?1 AND key = ?2 AND log = ?3";
        db.prepare_cached(sql)?.execute(params![self.tenant, self.key, log]).map(drop)
    }

    fn share(&self, db: &Connection, response: &str) -> rusqlite::Result<Option<Cached>> {
        let now = now_ms();
        let sql = "SELECT log, complete, until > ?3, ifnull((SELECT count FROM shared_logs s
                WHERE s.tenant = c.tenant AND s.log = c.log), 0)
            FROM cached c WHERE tenant = ?1 AND key = ?2";
        let found = db.prepare_cached(sql)?.query_row(params![self.tenant, self.key, now], |row| {
            let cached = Cached { log: row.get(0)?, complete: row.get(1)? };
            Ok((cached, row.get::<_, bool>(2)?, row.get::<_, i64>(3)?))
        });
        let Some((cached, lives, count)) = found.optional()? else { return Ok(None) };
        if !lives || count == 0 || count >= MAX_SHARING as i64 {
            self.remove(db)?;
            return Ok(None);
        }
        self.add(db, &cached.log, response, now)?;
        self.touch(db)?;
        Ok(Some(cached))
    }

    fn add(&self, db: &Connection, log: &str, response: &str, now: i64) -> rusqlite::Result<()> {
        let sql = "INSERT OR IGNORE INTO sharing (tenant, log, response) VALUES (?1, ?2, ?3)";
        let new = db.prepare_cached(sql)?.execute(params![self.tenant, log, response])?;
        let sql = "INSERT INTO shared_logs (tenant, log, count, until) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT DO UPDATE SET count = count + ?3, until = ?4";
        db.prepare_cached(sql)?.execute(params![self.tenant, log, new as i64, now + self.retention]).map(drop)
    }

    fn lead(&self, db: &Connection, log: &str, response: &str, ttl: i64) -> rusqlite::Result<Option<Cached>> {
        if let Some(cached) = self.share(db, response)? {
            return Ok(Some(cached));
        }
        let now = now_ms();
        self.add(db, log, response, now)?;
        let sql = "INSERT INTO cached (tenant, key, log, ttl, until, used) VALUES (?1, ?2, ?3, ?4, ?5, 0)";
        db.prepare_cached(sql)?.execute(params![
            self.tenant,
            self.key,
            log,
            ttl,
            now.saturating_add(ms(WRITTEN_WITHIN))
        ])?;
        self.touch(db)?;
        Ok(None)
    }

    fn complete(&self, db: &Connection, log: &str, bytes: i64, max_bytes: i64) -> rusqlite::Result<()> {
        let sql = "UPDATE cached SET complete = 1, bytes = ?4, until = ?5 + ttl
            WHERE tenant = ?1 AND key = ?2 AND log = ?3 AND complete = 0";
        if db.prepare_cached(sql)?.execute(params![self.tenant, self.key, log, bytes, now_ms()])? > 0 {
            self.touch(db)?;
        }
        while size(db, &self.tenant)? > max_bytes {
            let sql = "DELETE FROM cached WHERE tenant = ?1 AND key = (
                SELECT key FROM cached WHERE tenant = ?1 AND complete = 1 ORDER BY used LIMIT 1)";
            if db.prepare_cached(sql)?.execute([&self.tenant])? == 0 {
                break;
            }
            let sql =
                "INSERT INTO evictions (tenant, count) VALUES (?1, 1) ON CONFLICT DO UPDATE SET count = count + 1";
            db.prepare_cached(sql)?.execute([&self.tenant])?;
        }
        Ok(())
    }

    fn leave(&self, db: &Connection, log: &str, response: &str) -> rusqlite::Result<usize> {
        let sql = "DELETE FROM sharing WHERE tenant = ?1 AND log = ?2 AND response = ?3";
        let left = db.prepare_cached(sql)?.execute(params![self.tenant, log, response])?;
        let sql = "UPDATE shared_logs SET count = count - ?3 WHERE tenant = ?1 AND log = ?2 RETURNING count";
        let count: Option<i64> =
            db.prepare_cached(sql)?.query_row(params![self.tenant, log, left as i64], |row| row.get(0)).optional()?;
        let Some(count @ ..=0) = count else { return Ok(count.unwrap_or(0) as usize) };
        debug_assert_eq!(count, 0);
        let sql = "DELETE FROM shared_logs WHERE tenant = ?1 AND log = ?2";
        db.prepare_cached(sql)?.execute(params![self.tenant, log])?;
        self.discard(db, log)?;
        Ok(0)
    }
}

/// Returns the bytes of a tenant's completed logs.
fn size(db: &Connection, tenant: &str) -> rusqlite::Result<i64> {
    let sql = "SELECT ifnull(sum(bytes), 0) FROM cached WHERE tenant = ?1";
    db.prepare_cached(sql)?.query_row([tenant], |row| row.get(0))
}

impl SqliteCache {
    async fn change<T: Send + 'static>(
        &self,
        tenant: &str,
        key: &CacheKey,
        work: impl Fn(&Connection, &CacheRow) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let slot = CacheRow { tenant: tenant.into(), key: key.0.clone(), retention: ms(self.retention) };
        self.store.0.relieve(move |db| work(db, &slot)).await
    }
}

#[async_trait]
impl PromptCache for SqliteCache {
    async fn join(&self, tenant: &str, key: &CacheKey, response: &str) -> Result<Option<Cached>, StoreError> {
        let (of, named) = (tenant.to_owned(), key.0.clone());
        let read = move |db: &Connection| {
            db.prepare_cached("SELECT 1 FROM cached WHERE tenant = ?1 AND key = ?2")?.exists(params![of, named])
        };
        // Most keys are new. For those this read is enough, and nothing is written.
        if !self.store.0.readers.read(read).await? {
            return Ok(None);
        }
        let response = response.to_owned();
        self.change(tenant, key, move |db, slot| slot.share(db, &response)).await
    }

    async fn lead(
        &self,
        tenant: &str,
        key: &CacheKey,
        log: &str,
        response: &str,
        ttl: Duration,
    ) -> Result<Option<Cached>, StoreError> {
        let (log, response, ttl) = (log.to_owned(), response.to_owned(), ms(ttl));
        self.change(tenant, key, move |db, slot| slot.lead(db, &log, &response, ttl)).await
    }

    async fn complete(&self, tenant: &str, key: &CacheKey, log: &str, bytes: u64) -> Result<(), StoreError> {
        let (log, bytes, max_bytes) = (log.to_owned(), i64::try_from(bytes).unwrap_or(i64::MAX), self.max_bytes);
        self.change(tenant, key, move |db, slot| slot.complete(db, &log, bytes, max_bytes)).await
    }

    async fn discard(&self, tenant: &str, key: &CacheKey, log: &str) -> Result<(), StoreError> {
        let log = log.to_owned();
        self.change(tenant, key, move |db, slot| slot.discard(db, &log)).await
    }

    async fn leave(&self, tenant: &str, key: &CacheKey, log: &str, response: &str) -> Result<usize, StoreError> {
        let (log, response) = (log.to_owned(), response.to_owned());
        self.change(tenant, key, move |db, slot| slot.leave(db, &log, &response)).await
    }

    async fn size(&self, tenant: &str) -> Result<CacheSize, StoreError> {
        let tenant = tenant.to_owned();
        let read = move |db: &Connection| {
            let evicted: Option<i64> = db
                .prepare_cached("SELECT count FROM evictions WHERE tenant = ?1")?
                .query_row([&tenant], |row| row.get(0))
                .optional()?;
            Ok(CacheSize { bytes: size(db, &tenant)? as u64, evicted: evicted.unwrap_or(0) as u64 })
        };
        self.store.0.readers.read(read).await
    }
}
