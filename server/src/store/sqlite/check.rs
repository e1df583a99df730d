//! Checks the file: SQLite's own check, and the invariants of the rows.

use std::{collections::HashMap, path::Path};

use rusqlite::{Connection, params};

use super::{
    encoding, file,
    open_error::OpenError,
    schema::{ENDED, RUNNING},
};
use crate::store::{Header, Sharing};

/// The maximum of problems to list.
const LISTED: usize = 100;

/// Queries for rows that MUST NOT exist, each with a description of such a row.
const NEVER: &[(&str, &str)] = &[
    (
        "an item without its conversation",
        "SELECT id FROM items WHERE conversation NOT IN (SELECT number FROM conversations)",
    ),
    (
        "a turn without its conversation",
        "SELECT response FROM turns WHERE conversation NOT IN (SELECT number FROM conversations)",
    ),
    (
        "an ended turn without its conversation",
        "SELECT response FROM ended_turns WHERE conversation NOT IN (SELECT number FROM conversations)",
    ),
    (
        "a conversation whose items are counted wrong",
        "SELECT id FROM conversations c WHERE (count, bytes) <>
          (SELECT count(*), ifnull(sum(octet_length(body)), 0) FROM items WHERE conversation = c.number)",
    ),
    (
        "a prompt whose latest version is missing",
        "SELECT id FROM prompts WHERE NOT EXISTS (SELECT 1 FROM prompt_versions WHERE prompt = number AND version = latest)",
    ),
    (
        "a shared log that is counted wrong",
        "SELECT log FROM shared_logs s WHERE count <>
          (SELECT count(*) FROM sharing p WHERE p.tenant = s.tenant AND p.log = s.log)",
    ),
    (
        "a tenant whose use of the store is counted wrong",
        "SELECT tenant FROM usage u WHERE key = '' AND bytes <>
          (SELECT ifnull(sum(bytes), 0) FROM responses r WHERE r.tenant = u.tenant) +
          (SELECT ifnull(sum(bytes + 1024), 0) FROM conversations c WHERE c.tenant = u.tenant)",
    ),
];

/// Reads the whole file. Returns the problems that it finds.
///
/// # Errors
/// The file cannot be opened or read.
pub fn check(path: &Path) -> Result<Vec<String>, OpenError> {
    let db = file::open_to_read(path)?;
    // One transaction, so that the check sees a consistent state while a server writes.
    db.execute_batch("BEGIN")?;
    let mut problems = Problems(vec![]);
    let mut find = db.prepare(&format!("PRAGMA integrity_check({LISTED})"))?;
    for found in find.query_map([], |row| row.get::<_, String>(0))? {
        let found = found?;
        if found != "ok" {
            problems.add(found);
        }
    }
    running(&db, &mut problems)?;
    ended(&db, &mut problems)?;
    for (what, sql) in NEVER {
        let mut find = db.prepare(sql)?;
        for id in find.query_map([], |row| row.get::<_, String>(0))? {
            problems.add(format!("{what}: {}", id?));
        }
    }
    Ok(problems.0)
}

struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, problem: String) {
        match self.0.len() {
            0..LISTED => self.0.push(problem),
            LISTED => self.0.push("and more".into()),
            _ => {}
        }
    }
}

/// Checks the logs that have not ended: their entries are in the journal, in order and without a gap.
fn running(db: &Connection, problems: &mut Problems) -> Result<(), OpenError> {
    let mut lengths: HashMap<i64, (String, usize)> = HashMap::new();
    let mut find = db.prepare("SELECT number, id, header FROM responses WHERE state = ?1")?;
    let mut rows = find.query([RUNNING])?;
    while let Some(row) = rows.next()? {
        let id: String = row.get(1)?;
        if let Err(error) = Header::from_json(row.get_ref(2)?.as_str().unwrap_or_default()) {
            problems.add(format!("{id}: {error}"));
        }
        lengths.insert(row.get(0)?, (id, 0));
    }
    let mut find = db.prepare("SELECT response, first, entries FROM journal ORDER BY number")?;
    let mut rows = find.query([])?;
    while let Some(row) = rows.next()? {
        let (number, first): (i64, i64) = (row.get(0)?, row.get(1)?);
        let Some((id, len)) = lengths.get_mut(&number) else {
            problems.add(format!("the journal has entries of a log that is not running: row {number}"));
            continue;
        };
        if first as usize != *len {
            problems.add(format!("{id}: a gap in its log, from entry {len} to entry {first}"));
        }
        match encoding::decode(row.get_ref(2)?.as_blob().unwrap_or_default()) {
            Ok(entries) => *len = first as usize + entries.len(),
            Err(error) => problems.add(format!("{id}: {error}")),
        }
    }
    Ok(())
}

/// Checks the logs that have ended: they have as many entries as `len` says, and a last entry.
fn ended(db: &Connection, problems: &mut Problems) -> Result<(), OpenError> {
    let mut find = db.prepare("SELECT id, header, entries, len FROM responses WHERE state = ?1")?;
    let mut rows = find.query(params![ENDED])?;
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        let header = match Header::from_json(row.get_ref(1)?.as_str().unwrap_or_default()) {
            Ok(header) => header,
            Err(error) => {
                problems.add(format!("{id}: {error}"));
                continue;
            }
        };
        if header.sharing.as_ref().and_then(Sharing::log).is_some() {
            continue;
        }
        match encoding::decode(row.get_ref(2)?.as_blob().unwrap_or_default()) {
            Ok(entries) if !entries.last().is_some_and(|last| last.is_last()) => {
                problems.add(format!("{id}: its log has no last entry"));
            }
            Ok(entries) if entries.len() as i64 != row.get::<_, i64>(3)? => {
                problems.add(format!(
                    "{id}: its log has {} entries, and should have {}",
                    entries.len(),
                    row.get::<_, i64>(3)?
                ));
            }
            Ok(_) => {}
            Err(error) => problems.add(format!("{id}: {error}")),
        }
    }
    Ok(())
}
