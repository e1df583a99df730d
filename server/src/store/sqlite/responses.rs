//! Responses and their logs in the file.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    change::{ChangeOutcome, refused, split},
    encoding,
    handle::{SqliteInner, SqliteStore},
    live::{LiveLog, LiveLogs, SqliteLease},
    quota,
    schema::{ENDED, GONE, RUNNING},
    time::{ms, now_ms},
    whole_log::{Pages, decode_whole, encode_whole},
    writer::About,
};
use crate::store::{
    Appended, Claim, Created, Entry, Followed, Header, Lease, Snapshot, Store, StoreError,
    quota::{RESPONSE_OVERHEAD, StorageQuota},
};

/// Returns the error for an id of which the tenant has no ended response: `Expired` or `NotFound`.
fn missing(db: &Connection, tenant: &str, id: &str, now: i64) -> rusqlite::Result<StoreError> {
    let sql =
        "SELECT stored FROM responses WHERE id = ?1 AND tenant = ?2 AND (state = ?3 OR (state = ?4 AND until <= ?5))";
    let stored: Option<bool> =
        db.prepare_cached(sql)?.query_row(params![id, tenant, GONE, ENDED, now], |row| row.get(0)).optional()?;
    Ok(if stored == Some(false) { StoreError::Expired } else { StoreError::NotFound })
}

/// Checks that the tenant has an ended response of this id.
fn ended(db: &Connection, tenant: &str, id: &str, now: i64) -> ChangeOutcome<()> {
    let sql = "SELECT 1 FROM responses WHERE id = ?1 AND tenant = ?2 AND state = ?3 AND until > ?4";
    if db.prepare_cached(sql)?.exists(params![id, tenant, ENDED, now])? {
        return Ok(());
    }
    refused(missing(db, tenant, id, now)?)
}

/// The row that a create writes.
struct New {
    header: Arc<Header>,
    json: String,
    owner: String,
    /// The retention in ms if the response shows a shared log, because then it has ended already.
    ended_for: Option<i64>,
    quota: StorageQuota,
}

impl New {
    /// Writes the row. Returns its number, or the id of the response that the same `client_request_id` created before.
    fn write(&self, db: &Connection, live: &LiveLogs) -> ChangeOutcome<Result<i64, String>> {
        let Header { id, tenant, spec, key_quota, .. } = &*self.header;
        let (request, now) = (spec.client_request_id.as_deref(), now_ms());
        if let Some(request) = request {
            let sql = "SELECT id, state = ?3 OR until > ?4 FROM responses WHERE tenant = ?1 AND request = ?2";
            let first = db
                .prepare_cached(sql)?
                .query_row(params![tenant, request, RUNNING, now], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
                .optional()?;
            match first {
                Some((first, true)) => return Ok(Err(first)),
                // That response has expired, but the upkeep has not deleted it yet.
                Some((_, false)) => drop(db.execute(
                    "UPDATE responses SET request = NULL WHERE tenant = ?1 AND request = ?2",
                    params![tenant, request],
                )?),
                None => {}
            }
        }
        let bytes = RESPONSE_OVERHEAD + self.json.len() as u64;
        if let Some(exceeded) = quota::response(db, live, (&self.header, bytes), self.quota)? {
            return refused(StoreError::OverQuota(exceeded));
        }
        let (state, until) = self.ended_for.map_or((RUNNING, 0), |ms| (ENDED, now.saturating_add(ms)));
        let key = key_quota.as_ref().map_or("", |quota| &quota.key);
        let sql = "INSERT INTO responses (id, tenant, key, request, state, until, owner, fence, bytes, stored, header)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8, ?9, ?10)";
        let number = db.prepare_cached(sql)?.insert(params![
            id,
            tenant,
            key,
            request,
            state,
            until,
            self.owner,
            bytes as i64,
            spec.store,
            self.json
        ])?;
        Ok(Ok(number))
    }
}

/// An append of entries.
struct AppendChange {
    lease: Lease,
    first: usize,
    entries: Vec<Arc<Entry>>,
    encoded: Vec<u8>,
    /// The encoded whole log and its retention in ms, if these are its last entries.
    whole: Option<(Vec<u8>, i64)>,
}

/// The result of an append.
enum Written {
    /// The log had the entries already.
    Before,
    Row(i64),
    Ended,
}

impl AppendChange {
    fn write(&self, db: &Connection, live: &LiveLogs) -> ChangeOutcome<(Written, Appended)> {
        let Some(log) = live.get(&self.lease.id) else { return self.again(db) };
        let held = log.held();
        let (len, after) = (log.entries.len(), self.first + self.entries.len());
        if held.fence != self.lease.fence || held.released {
            return refused(StoreError::Fenced);
        }
        let appended = Appended { cancelled: held.cancelled, left: held.leaving.clone() };
        if after <= len {
            return Ok((Written::Before, appended));
        }
        if self.first != len {
            return refused(if self.first > len { StoreError::Behind(len as u64) } else { StoreError::Fenced });
        }
        let Some((whole, keep)) = &self.whole else {
            let sql = "INSERT INTO journal (response, first, entries) VALUES (?1, ?2, ?3)";
            let row = db.prepare_cached(sql)?.insert(params![log.number, self.first as i64, self.encoded])?;
            return Ok((Written::Row(row), appended));
        };
        let sql =
            "UPDATE responses SET state = ?2, until = ?3, len = ?4, entries = ?5, bytes = bytes + ?6 WHERE number = ?1";
        db.prepare_cached(sql)?.execute(params![
            log.number,
            ENDED,
            now_ms().saturating_add(*keep),
            after as i64,
            whole,
            whole.len() as i64
        ])?;
        forget_journal(db, &held.rows)?;
        Ok((Written::Ended, appended))
    }

    /// Handles an append to a log that is not running. It succeeds if it repeats the last append.
    fn again(&self, db: &Connection) -> ChangeOutcome<(Written, Appended)> {
        let sql = "SELECT len, cancelled FROM responses WHERE id = ?1 AND state = ?2 AND fence = ?3";
        let found: Option<(i64, bool)> = db
            .prepare_cached(sql)?
            .query_row(params![self.lease.id, ENDED, self.lease.fence as i64], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match found {
            Some((len, cancelled)) if self.first + self.entries.len() <= len as usize => {
                Ok((Written::Before, Appended { cancelled, left: vec![] }))
            }
            _ => refused(StoreError::Fenced),
        }
    }

    fn show(&self, written: &Written, live: &LiveLogs) {
        let log = match written {
            Written::Before => None,
            Written::Row(_) => live.get(&self.lease.id),
            // Later reads find the log in the file.
            Written::Ended => live.remove(&self.lease.id),
        };
        if let Some(log) = log {
            log.push(
                &self.entries,
                if let Written::Row(row) = written { Some((*row, self.encoded.len())) } else { None },
            );
        }
    }
}

/// Deletes rows of the journal. Consecutive numbers are deleted by one statement.
fn forget_journal(db: &Connection, rows: &[i64]) -> rusqlite::Result<()> {
    let mut delete = db.prepare_cached("DELETE FROM journal WHERE number BETWEEN ?1 AND ?2")?;
    for run in rows.chunk_by(|a, b| a + 1 == *b) {
        if let [first, .., last] | [first @ last] = run {
            delete.execute(params![first, last])?;
        }
    }
    Ok(())
}

impl SqliteInner {
    /// Changes the lease of a log that has not ended. `decide` gets the current lease and returns a result and the new lease.
    ///
    /// # Errors
    /// `Fenced` if there is no such log; those of `decide`.
    async fn hold<T: Clone + Send + 'static>(
        &self,
        id: &str,
        decide: impl Fn(&LiveLog, &SqliteLease) -> Result<(T, SqliteLease), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (live, shown, id) = (self.live.clone(), self.live.clone(), id.to_owned());
        let about = About::log(&id).making_room();
        let work = move |db: &Connection| {
            let Some(log) = live.get(&id) else { return Ok(Err(StoreError::Fenced)) };
            let decided = decide(&log, &log.held());
            let (found, held) = match decided {
                Ok(decided) => decided,
                Err(error) => return Ok(Err(error)),
            };
            let sql =
                "UPDATE responses SET owner = ?2, fence = ?3, released = ?4, cancelled = ?5, leaving = ?6, tries = ?7,
                tried_at = ?8 WHERE number = ?1";
            let (tries, tried_at) = held.tries;
            let SqliteLease { owner, fence, released, cancelled, leaving, .. } = &held;
            let (fence, leaving, tried_at) = (*fence as i64, leaving.join(" "), tried_at as i64);
            db.prepare_cached(sql)?
                .execute(params![log.number, owner, fence, released, cancelled, leaving, tries, tried_at])?;
            Ok(Ok((found, held, id.clone())))
        };
        let after = move |changed: &Result<(T, SqliteLease, String), StoreError>| {
            if let Ok((_, held, id)) = changed
                && let Some(log) = shown.get(id)
            {
                *log.held() = held.clone();
            }
        };
        Ok(self.writer.write(about, work, after).await??.0)
    }

    /// Reads an ended response from the file, with its encoded entries.
    async fn stored(&self, tenant: &str, id: &str) -> Result<(Arc<Header>, Vec<u8>), StoreError> {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        let read = move |db: &Connection| {
            let now = now_ms();
            let sql = "SELECT header, entries FROM responses WHERE id = ?1 AND tenant = ?2 AND (state = ?3 OR state = ?4 AND until > ?5)";
            let found = db
                .prepare_cached(sql)?
                .query_row(params![id, tenant, RUNNING, ENDED, now], |row| {
                    let header = Header::from_json(row.get_ref(0)?.as_str()?);
                    let entries = row.get_ref(1)?.as_blob_or_null()?.unwrap_or_default().to_vec();
                    Ok(header.map(|header| (header, entries)))
                })
                .optional()?;
            match found {
                Some(found) => Ok(found),
                None => Ok(Err(missing(db, &tenant, &id, now)?)),
            }
        };
        self.readers.read(read).await?
    }

    fn of_tenant(&self, tenant: &str, id: &str) -> Result<Option<Arc<LiveLog>>, StoreError> {
        match self.live.get(id) {
            Some(log) if log.header.tenant != tenant => Err(StoreError::NotFound),
            log => Ok(log),
        }
    }

    /// Records a request to a log's writer. Changes nothing if the log has ended.
    async fn ask(
        &self,
        tenant: &str,
        id: &str,
        ask: impl Fn(&mut SqliteLease) + Send + 'static,
    ) -> Result<(), StoreError> {
        if self.of_tenant(tenant, id)?.is_some() {
            let asked = move |_: &LiveLog, held: &SqliteLease| {
                let mut held = held.clone();
                ask(&mut held);
                Ok(((), held))
            };
            match self.hold(id, asked).await {
                // The log has ended meanwhile.
                Err(StoreError::Fenced) => {}
                other => return other,
            }
        }
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        self.readers.read(move |db| split(ended(db, &tenant, &id, now_ms()))).await?
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create(&self, header: Header) -> Result<Created, StoreError> {
        let inner = &*self.0;
        let json = serde_json::to_string(&header).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let (header, owner) = (Arc::new(header), inner.config.process.clone());
        let keep = inner.config.retention.response(&header.tenant, header.spec.store);
        let ended_for = header.shared_log().map(|_| ms(keep));
        let lease = Lease { id: header.id.clone(), owner: owner.clone(), fence: 1 };
        let quota = inner.config.quota(&header.tenant);
        let new = New { header: header.clone(), json, owner, ended_for, quota };
        let (known, live, owner) = (inner.live.clone(), inner.live.clone(), lease.owner.clone());
        let after = move |created: &Result<Result<i64, String>, StoreError>| {
            if let Ok(Ok(number)) = created
                && header.shared_log().is_none()
            {
                live.insert(LiveLog::new(*number, header, SqliteLease { owner, fence: 1, ..SqliteLease::default() }));
            }
        };
        match inner.writer.write(About::default(), move |db| split(new.write(db, &known)), after).await?? {
            Ok(_) => Ok(Created::New(lease)),
            Err(first) => Ok(Created::Existing(first)),
        }
    }

    async fn append(&self, lease: &Lease, first: u64, entries: &[Arc<Entry>]) -> Result<Appended, StoreError> {
        let inner = &*self.0;
        let whole = match (entries.last(), inner.live.get(&lease.id)) {
            (Some(last), Some(log)) if last.is_last() => {
                let keep = inner.config.retention.response(&log.header.tenant, log.header.spec.store);
                Some((encode_whole(log.entries.from(0), entries).await?, ms(keep)))
            }
            _ => None,
        };
        let encoded = if whole.is_some() { vec![] } else { encoding::encode(entries)? };
        let append = Arc::new(AppendChange {
            lease: lease.clone(),
            first: first as usize,
            entries: entries.to_vec(),
            encoded,
            whole,
        });
        let about = About { log: Some(lease.id.clone()), makes_room: append.whole.is_some() };
        let (live, shown, written) = (inner.live.clone(), inner.live.clone(), append.clone());
        let after = move |outcome: &Result<(Written, Appended), StoreError>| {
            if let Ok((written_as, _)) = outcome {
                written.show(written_as, &shown);
            }
        };
        Ok(inner.writer.write(about, move |db| split(append.write(db, &live)), after).await??.1)
    }

    async fn claim(&self, id: &str, from: &str) -> Result<Option<Claim>, StoreError> {
        let inner = &*self.0;
        if inner.live.get(id).is_none() {
            // A running response that is not in memory was written by a newer version.
            let id = id.to_owned();
            let read = move |db: &Connection| {
                let sql = "SELECT header FROM responses WHERE id = ?1 AND state = ?2";
                db.prepare_cached(sql)?.query_row(params![id, RUNNING], |row| row.get::<_, String>(0)).optional()
            };
            return match inner.readers.read(read).await? {
                Some(header) => {
                    Header::from_json(&header)?;
                    Err(StoreError::Unreadable("an entry that this version does not know".into()))
                }
                None => Ok(None),
            };
        }
        let (me, from) = (inner.config.process.clone(), from.to_owned());
        let claimed = inner.hold(id, move |log, held| {
            if held.owner != from && !held.released {
                return Err(StoreError::Fenced);
            }
            let left = held.nobody_since.map(|since| Duration::from_millis((now_ms() - since).max(0) as u64));
            let held = SqliteLease { owner: me.clone(), fence: held.fence + 1, released: false, ..held.clone() };
            let entries = log.entries.from(0);
            let lease = Lease { id: log.header.id.clone(), owner: me.clone(), fence: held.fence };
            Ok(((lease, log.header.clone(), entries, left), held))
        });
        let (lease, header, entries, left) = match claimed.await {
            Err(StoreError::Fenced) => return Ok(None),
            claimed => claimed?,
        };
        let Some(log) = inner.live.get(id) else { return Ok(None) };
        let held = log.held();
        let tries = held.tries(entries.len());
        Ok(Some(Claim { lease, header, entries, cancelled: held.cancelled, tries, left }))
    }

    async fn try_again(&self, lease: &Lease) -> Result<u32, StoreError> {
        let fence = lease.fence;
        let counted = self.0.hold(&lease.id, move |log, held| {
            if held.fence != fence {
                return Err(StoreError::Fenced);
            }
            let len = log.entries.len();
            let tries = held.tries(len) + 1;
            Ok((tries, SqliteLease { tries: (tries, len), ..held.clone() }))
        });
        counted.await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let fence = lease.fence;
        let released = self.0.hold(&lease.id, move |_, held| {
            if held.fence != fence {
                return Err(StoreError::Fenced);
            }
            Ok(((), SqliteLease { fence: fence + 1, released: true, tries: (0, 0), ..held.clone() }))
        });
        match released.await {
            Err(StoreError::Fenced) => Ok(()),
            released => released,
        }
    }

    async fn ended(&self, _: &Lease) -> Result<(), StoreError> {
        Ok(())
    }

    async fn cancel(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        self.0.ask(tenant, id, |held| held.cancelled = true).await
    }

    async fn request_leave(&self, tenant: &str, log: &str, response: &str) -> Result<(), StoreError> {
        let response = response.to_owned();
        self.0.ask(tenant, log, move |held| held.leaving.push(response.clone())).await
    }

    async fn touch_retention(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let inner = &*self.0;
        if inner.of_tenant(tenant, id)?.is_some() {
            return Ok(());
        }
        let (retention, tenant, id) = (inner.config.retention.clone(), tenant.to_owned(), id.to_owned());
        let kept = move |db: &Connection| {
            let (stored, temporary, now) = (ms(retention.stored(&tenant)), ms(retention.resume_window), now_ms());
            let sql = "UPDATE responses SET until = ?4 + CASE stored WHEN 1 THEN ?5 ELSE ?6 END
                WHERE id = ?1 AND tenant = ?2 AND state = ?3 AND until > ?4";
            let kept = db.prepare_cached(sql)?.execute(params![id, tenant, ENDED, now, stored, temporary])?;
            if kept > 0 { Ok(Ok(())) } else { Ok(Err(missing(db, &tenant, &id, now)?)) }
        };
        inner.relieve(kept).await?
    }

    async fn read(&self, tenant: &str, id: &str) -> Result<Snapshot, StoreError> {
        match self.0.of_tenant(tenant, id)? {
            Some(log) => Ok((log.header.clone(), log.entries.from(0))),
            None => {
                let (header, encoded) = self.0.stored(tenant, id).await?;
                Ok((header, decode_whole(encoded).await?))
            }
        }
    }

    async fn follow(&self, tenant: &str, id: &str) -> Result<Followed, StoreError> {
        let Some(log) = self.0.of_tenant(tenant, id)? else {
            let (header, encoded) = self.0.stored(tenant, id).await?;
            let mut pages = Pages { encoded, at: 0, next: 0 };
            let entries = pages.next().transpose()?.map_or_else(Vec::new, |first| first.entries);
            let more = pages.at < pages.encoded.len();
            return Ok(Followed { header, entries, more, rest: stream::iter(pages).boxed() });
        };
        let (header, entries) = (log.header.clone(), log.entries.from(0));
        let rest = log.entries.follow(&entries);
        Ok(Followed { header, rest, more: false, entries })
    }

    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let inner = &*self.0;
        let (live, shown) = (inner.live.clone(), inner.live.clone());
        let about = About::log(id).making_room();
        let (tenant, id, gone) = (tenant.to_owned(), id.to_owned(), id.to_owned());
        let delete = move |db: &Connection| {
            let log = live.get(&id).filter(|log| log.header.tenant == tenant);
            let Some(log) = log else {
                let known = split(ended(db, &tenant, &id, now_ms()))?;
                if known.is_ok() {
                    db.prepare_cached("DELETE FROM responses WHERE id = ?1")?.execute([&id])?;
                }
                return Ok(known);
            };
            forget_journal(db, &log.held().rows)?;
            db.prepare_cached("DELETE FROM responses WHERE number = ?1")?.execute([log.number])?;
            Ok(Ok(()))
        };
        let after = move |deleted: &Result<(), StoreError>| {
            if deleted.is_ok()
                && let Some(log) = shown.remove(&gone)
            {
                log.entries.end_followers();
            }
        };
        inner.writer.write(about, delete, after).await?
    }

    fn is_reachable(&self) -> bool {
        self.0.writer.is_healthy()
    }
}
