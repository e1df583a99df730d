//! The tables of the file, and the migrations from each version to the next. `PRAGMA user_version` is the number of migrations that
//! a file has had.
//!
//! | tables | rows |
//! |---|---|
//! | `responses` | a response: its header, its lease, and its log in one blob after it has ended |
//! | `journal` | the entries of one append to a log that has not ended; rows of all logs, in order of arrival |
//! | `conversations`, `items`, `turns`, `ended_turns` | conversations, their items, their turns in line, and their ended responses |
//! | `prompts`, `prompt_versions`, `prompt_uses` | stored prompts and how often each is used with a model |
//! | `cached`, `shared_logs`, `sharing` | the prompt cache's index, the shared logs, and the responses that share them |
//! | `evictions` | the number of logs that a tenant's prompt cache has evicted |
//! | `usage` | the storage that a tenant, or a key of a tenant, uses; updated by triggers |
//! | `rates` | when a bucket of a tenant or a key will be full |
//!
//! Times are Unix milliseconds, except in `rates`: microseconds.

use rusqlite::Connection;

use super::open_error::OpenError;

/// The `PRAGMA application_id` of the file: "CAUD".
pub const APPLICATION: i32 = 0x4341_5544;

/// States of a response. `GONE`: a response with `store: false` whose resume window has ended; the id is remembered for the
/// retention.
pub const RUNNING: i64 = 0;
pub const ENDED: i64 = 1;
pub const GONE: i64 = 2;

/// Step n migrates version n to version n + 1.
const STEPS: &[&str] = &["
CREATE TABLE responses (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  tenant TEXT NOT NULL,
  key TEXT NOT NULL DEFAULT '',
  request TEXT,
  state INTEGER NOT NULL,
  until INTEGER NOT NULL,
  owner TEXT NOT NULL,
  fence INTEGER NOT NULL,
  released INTEGER NOT NULL DEFAULT 0,
  cancelled INTEGER NOT NULL DEFAULT 0,
  leaving TEXT NOT NULL DEFAULT '',
  tries INTEGER NOT NULL DEFAULT 0,
  tried_at INTEGER NOT NULL DEFAULT 0,
  nobody_since INTEGER,
  len INTEGER NOT NULL DEFAULT 0,
  bytes INTEGER NOT NULL,
  stored INTEGER NOT NULL,
  header TEXT NOT NULL,
  entries BLOB
);
CREATE UNIQUE INDEX responses_request ON responses (tenant, request) WHERE request IS NOT NULL;
CREATE INDEX responses_running ON responses (number) WHERE state = 0;
CREATE INDEX responses_until ON responses (until) WHERE state > 0;
CREATE TABLE journal (
  number INTEGER PRIMARY KEY,
  response INTEGER NOT NULL,
  first INTEGER NOT NULL,
  entries BLOB NOT NULL
);

CREATE TABLE conversations (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  tenant TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  until INTEGER NOT NULL,
  next INTEGER NOT NULL DEFAULT 0,
  count INTEGER NOT NULL DEFAULT 0,
  bytes INTEGER NOT NULL DEFAULT 0,
  latest TEXT,
  metadata TEXT NOT NULL
);
CREATE INDEX conversations_tenant ON conversations (tenant, number);
CREATE INDEX conversations_until ON conversations (until);
CREATE TABLE items (
  conversation INTEGER NOT NULL,
  number INTEGER NOT NULL,
  id TEXT NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (conversation, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX items_id ON items (conversation, id);
CREATE TABLE turns (
  conversation INTEGER NOT NULL,
  number INTEGER NOT NULL,
  response TEXT NOT NULL,
  begun INTEGER NOT NULL DEFAULT 0,
  entered INTEGER NOT NULL,
  PRIMARY KEY (conversation, number)
) WITHOUT ROWID;
CREATE TABLE ended_turns (
  conversation INTEGER NOT NULL,
  response TEXT NOT NULL,
  number INTEGER NOT NULL,
  PRIMARY KEY (conversation, response)
) WITHOUT ROWID;

CREATE TABLE prompts (
  number INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  id TEXT NOT NULL,
  latest INTEGER NOT NULL,
  UNIQUE (tenant, id)
);
CREATE INDEX prompts_tenant ON prompts (tenant, number);
CREATE TABLE prompt_versions (
  prompt INTEGER NOT NULL,
  version INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  json TEXT NOT NULL,
  PRIMARY KEY (prompt, version)
) WITHOUT ROWID;
CREATE TABLE prompt_uses (
  prompt INTEGER NOT NULL,
  model TEXT NOT NULL,
  weight REAL NOT NULL,
  PRIMARY KEY (prompt, model)
) WITHOUT ROWID;
CREATE INDEX prompt_uses_weight ON prompt_uses (weight);

CREATE TABLE cached (
  tenant TEXT NOT NULL,
  key TEXT NOT NULL,
  log TEXT NOT NULL,
  complete INTEGER NOT NULL DEFAULT 0,
  bytes INTEGER NOT NULL DEFAULT 0,
  ttl INTEGER NOT NULL,
  until INTEGER NOT NULL,
  used INTEGER NOT NULL,
  PRIMARY KEY (tenant, key)
) WITHOUT ROWID;
CREATE INDEX cached_used ON cached (tenant, used);
CREATE INDEX cached_until ON cached (until);
CREATE TABLE shared_logs (
  tenant TEXT NOT NULL,
  log TEXT NOT NULL,
  count INTEGER NOT NULL,
  until INTEGER NOT NULL,
  PRIMARY KEY (tenant, log)
) WITHOUT ROWID;
CREATE INDEX shared_logs_until ON shared_logs (until);
CREATE TABLE sharing (
  tenant TEXT NOT NULL,
  log TEXT NOT NULL,
  response TEXT NOT NULL,
  PRIMARY KEY (tenant, log, response)
) WITHOUT ROWID;
CREATE TABLE evictions (tenant TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE usage (
  tenant TEXT NOT NULL,
  key TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  responses INTEGER NOT NULL,
  PRIMARY KEY (tenant, key)
) WITHOUT ROWID;
CREATE TRIGGER responses_added AFTER INSERT ON responses BEGIN
  INSERT INTO usage VALUES (new.tenant, '', new.bytes, 1)
    ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes, responses = responses + 1;
  INSERT INTO usage SELECT new.tenant, new.key, new.bytes, 1 WHERE new.key <> ''
    ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes, responses = responses + 1;
END;
CREATE TRIGGER responses_changed AFTER UPDATE OF bytes ON responses BEGIN
  UPDATE usage SET bytes = bytes + new.bytes - old.bytes, responses = responses - (old.bytes > 0) + (new.bytes > 0)
    WHERE tenant = new.tenant AND key IN ('', new.key);
END;
CREATE TRIGGER responses_removed AFTER DELETE ON responses BEGIN
  UPDATE usage SET bytes = bytes - old.bytes, responses = responses - (old.bytes > 0)
    WHERE tenant = old.tenant AND key IN ('', old.key);
END;
CREATE TRIGGER conversations_added AFTER INSERT ON conversations BEGIN
  INSERT INTO usage VALUES (new.tenant, '', new.bytes + 1024, 0) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER conversations_changed AFTER UPDATE OF bytes ON conversations WHEN new.bytes <> old.bytes BEGIN
  UPDATE usage SET bytes = bytes + new.bytes - old.bytes WHERE tenant = new.tenant AND key = '';
END;
CREATE TRIGGER conversations_removed AFTER DELETE ON conversations BEGIN
  UPDATE usage SET bytes = bytes - old.bytes - 1024 WHERE tenant = old.tenant AND key = '';
END;

CREATE TABLE rates (
  tenant TEXT NOT NULL,
  unit TEXT NOT NULL,
  full INTEGER NOT NULL,
  PRIMARY KEY (tenant, unit)
) WITHOUT ROWID;
"];

/// The version that this build writes.
pub const VERSION: i64 = STEPS.len() as i64;

/// Migrates the tables to [`VERSION`], each step in one transaction.
///
/// # Errors
/// A newer version or another program wrote the file, or SQLite fails.
pub fn migrate(db: &Connection) -> Result<(), OpenError> {
    let version = version(db)?;
    if version == 0 {
        let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
        if tables > 0 {
            return Err(OpenError::Foreign);
        }
        db.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;")?;
    }
    for (at, step) in STEPS.iter().enumerate().skip(version as usize) {
        let next = at + 1;
        let sql = format!(
            "BEGIN IMMEDIATE; {step}; PRAGMA user_version = {next}; PRAGMA application_id = {APPLICATION}; COMMIT;"
        );
        if let Err(error) = db.execute_batch(&sql) {
            let _ = db.execute_batch("ROLLBACK");
            return Err(error.into());
        }
    }
    Ok(())
}

/// Returns the version of the tables.
///
/// # Errors
/// A newer version or another program wrote the file, or SQLite fails.
pub fn version(db: &Connection) -> Result<i64, OpenError> {
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != APPLICATION && (version != 0 || application != 0) {
        return Err(OpenError::Foreign);
    }
    if version > VERSION { Err(OpenError::Newer { version, known: VERSION }) } else { Ok(version) }
}
