//! Rate counters. The file has one time for each bucket: when the bucket will be full, by this machine's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::handle::SqliteStore;
use crate::store::{
    StoreError,
    rates::{Bucket, MINUTE, Rates, Unit},
};

fn name(unit: Unit) -> &'static str {
    match unit {
        Unit::Requests => "requests",
        Unit::Tokens => "tokens",
    }
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_micros() as i64)
}

fn full(db: &Connection, tenant: &str, unit: &str) -> rusqlite::Result<i64> {
    let sql = "SELECT full FROM rates WHERE tenant = ?1 AND unit = ?2";
    let full = db.prepare_cached(sql)?.query_row(params![tenant, unit], |row| row.get(0)).optional()?;
    Ok(full.unwrap_or(0))
}

fn us(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[async_trait]
impl Rates for SqliteStore {
    async fn take(&self, bucket: Bucket<'_>) -> Result<Option<Duration>, StoreError> {
        let wait = self.draw(bucket, 1, Some(MINUTE)).await?;
        Ok((!wait.is_zero()).then_some(wait))
    }

    async fn spend(&self, bucket: Bucket<'_>, count: u64) -> Result<(), StoreError> {
        self.draw(bucket, count, None).await.map(drop)
    }

    async fn full_in(&self, bucket: Bucket<'_>) -> Result<Duration, StoreError> {
        let (tenant, unit) = (bucket.tenant.to_owned(), name(bucket.unit));
        let full = self.0.readers.read(move |db| full(db, &tenant, unit)).await?;
        Ok(us(full - now_us()))
    }
}

impl SqliteStore {
    /// Takes `count` units, unless the bucket would then need more than `longest` to be full again. Returns the excess over
    /// `longest`, or zero if the units were taken.
    async fn draw(&self, bucket: Bucket<'_>, count: u64, longest: Option<Duration>) -> Result<Duration, StoreError> {
        let (tenant, unit) = (bucket.tenant.to_owned(), name(bucket.unit));
        let refill = i64::try_from(bucket.refill(count).as_micros()).unwrap_or(i64::MAX / 4);
        let longest = longest.map(|longest| longest.as_micros() as i64);
        let draw = move |db: &Connection| {
            let now = now_us();
            let then = full(db, &tenant, unit)?.max(now).saturating_add(refill);
            let wait = longest.map_or(0, |longest| then - now - longest);
            if wait <= 0 {
                let sql = "INSERT OR REPLACE INTO rates (tenant, unit, full) VALUES (?1, ?2, ?3)";
                db.prepare_cached(sql)?.execute(params![tenant, unit, then])?;
            }
            Ok(us(wait))
        };
        self.0.relieve(draw).await
    }
}
