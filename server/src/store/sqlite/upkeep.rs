//! Background work in small steps: runs checkpoints of the write-ahead log, deletes expired data, returns free pages to the disk,
//! and sets the reserve aside again.

use std::{
    fs,
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use futures::executor::block_on;
use rusqlite::{Connection, params};

use super::{
    conversations::changes::forget,
    file::{self, beside},
    open_error::OpenError,
    room::Room,
    schema::{ENDED, GONE, RUNNING},
    time::{ms, now_ms},
    writer::{Writer, trouble},
};
use crate::store::{Retention, StoreError};

const PAUSE: Duration = Duration::from_millis(250);
/// Bytes of the write-ahead log from which a passive checkpoint moves its pages into the file.
const MOVED: u64 = 1 << 20;
/// Bytes of the write-ahead log from which it is truncated, which makes writes wait.
const RESTARTED: u64 = 64 << 20;
/// The time for which a truncation may make writes wait.
const STALL: Duration = Duration::from_millis(20);
/// The shortest time between two truncations: a long read, such as a backup, can make them fail.
const BETWEEN: Duration = Duration::from_secs(1);
/// The maximum of responses, and of conversations, that one step deletes.
const STEP: i64 = 16;
/// The number of free pages that stay in the file for later writes, and the maximum of pages that one step returns.
const SPARE: i64 = 256;

pub struct Upkeep {
    pub path: PathBuf,
    pub retention: Retention,
    pub room: Room,
    pub writer: Writer,
}

/// Starts the thread of the upkeep. It runs until the sender of `over` is dropped.
pub fn start(upkeep: Upkeep, over: mpsc::Receiver<()>) -> Result<(), OpenError> {
    let db = file::open(&upkeep.path)?;
    db.busy_timeout(STALL)?;
    thread::Builder::new().name("sqlite-upkeep".into()).spawn(move || {
        let mut restarted = Instant::now();
        while over.recv_timeout(PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
            upkeep.checkpoint(&db, &mut restarted);
            // Requests meet and report the same error.
            if let Err(error) = upkeep.step(&db) {
                tracing::debug!(%error, "the store's upkeep failed; retrying");
            }
        }
    })?;
    Ok(())
}

impl Upkeep {
    fn checkpoint(&self, db: &Connection, restarted: &mut Instant) {
        let bytes = || fs::metadata(beside(&self.path, "wal")).map_or(0, |file| file.len());
        let run = |how: &str| {
            if let Err(error) = db.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(())) {
                tracing::debug!(%error, "the checkpoint of the write-ahead log failed; retrying");
            }
        };
        if bytes() > MOVED {
            run("PASSIVE");
        }
        if bytes() > RESTARTED && restarted.elapsed() > BETWEEN {
            run("TRUNCATE");
            *restarted = Instant::now();
        }
    }

    fn step(&self, db: &Connection) -> Result<(), StoreError> {
        if self.room.is_lent() {
            let room = self.room.clone();
            block_on(self.writer.relieve(move |db| {
                room.set_aside(db);
                Ok(())
            }))?;
        }
        let now = now_ms();
        let due = due(db, now).map_err(|error| trouble(&error))?;
        if due.expired {
            let retention = self.retention.clone();
            block_on(self.writer.relieve(move |db| expire(db, &retention, now)))?;
        }
        if due.free_pages > SPARE {
            block_on(self.writer.relieve(|db| {
                let mut vacuum = db.prepare_cached(&format!("PRAGMA incremental_vacuum({SPARE})"))?;
                let mut pages = vacuum.query([])?;
                while pages.next()?.is_some() {}
                Ok(())
            }))?;
        }
        Ok(())
    }
}

/// The work that is due.
struct UpkeepDue {
    expired: bool,
    free_pages: i64,
}

fn due(db: &Connection, now: i64) -> rusqlite::Result<UpkeepDue> {
    let expired = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM responses WHERE state > ?1 AND until <= ?2)
              OR EXISTS (SELECT 1 FROM conversations WHERE until <= ?2)
              OR EXISTS (SELECT 1 FROM cached WHERE until <= ?2)
              OR EXISTS (SELECT 1 FROM shared_logs WHERE until <= ?2)",
        )?
        .query_row(params![RUNNING, now], |row| row.get(0))?;
    let free_pages = db.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    Ok(UpkeepDue { expired, free_pages })
}

/// Deletes some of the expired data.
fn expire(db: &Connection, retention: &Retention, now: i64) -> rusqlite::Result<()> {
    let mut find = db.prepare_cached(
        "SELECT number, tenant, state = ?2 AND NOT stored FROM responses WHERE state > ?1 AND until <= ?3 LIMIT ?4",
    )?;
    let found =
        find.query_map(params![RUNNING, ENDED, now, STEP], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    for response in found {
        let (number, tenant, is_remembered): (i64, String, bool) = response?;
        if is_remembered {
            let sql =
                "UPDATE responses SET state = ?2, until = ?3, header = '', entries = NULL, bytes = 0 WHERE number = ?1";
            db.prepare_cached(sql)?.execute(params![number, GONE, now + ms(retention.stored(&tenant))])?;
        } else {
            db.prepare_cached("DELETE FROM responses WHERE number = ?1")?.execute([number])?;
        }
    }
    let mut find = db.prepare_cached("SELECT number FROM conversations WHERE until <= ?1 LIMIT ?2")?;
    for conversation in find.query_map(params![now, STEP], |row| row.get::<_, i64>(0))? {
        forget(db, conversation?)?;
    }
    db.prepare_cached("DELETE FROM cached WHERE until <= ?1")?.execute([now])?;
    db.prepare_cached(
        "DELETE FROM sharing WHERE (tenant, log) IN (SELECT tenant, log FROM shared_logs WHERE until <= ?1)",
    )?
    .execute([now])?;
    db.prepare_cached("DELETE FROM shared_logs WHERE until <= ?1")?.execute([now])?;
    db.prepare_cached("DELETE FROM rates WHERE full <= ?1 * 1000")?.execute([now])?;
    Ok(())
}
