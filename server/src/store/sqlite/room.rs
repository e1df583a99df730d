//! Room on the disk and in the file: the bound on the file's size, and a reserve. When there is no room, jobs that end something or
//! make room use the reserve. While the reserve is in use, no other job is written.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::Connection;

use super::file::beside;

/// Bytes of the reserve.
const RESERVE: u64 = 4 << 20;

/// A handle; clones share everything.
#[derive(Clone)]
pub struct Room {
    /// The path of a file that occupies the reserve on the disk.
    reserve: PathBuf,
    /// `store.sqlite.max_mb` in bytes; 0: bounded by the disk only.
    max_bytes: u64,
    lent: Arc<AtomicBool>,
}

impl Room {
    pub fn new(path: &Path, max_bytes: u64) -> Self {
        Self { reserve: beside(path, "reserve"), max_bytes, lent: Arc::default() }
    }

    /// Sets the bound of the writing connection, and sets the reserve aside if there is room.
    pub fn begin(&self, db: &Connection) -> rusqlite::Result<()> {
        self.lent.store(true, Ordering::Relaxed);
        self.bound(db, self.max_bytes + RESERVE)?;
        self.set_aside(db);
        Ok(())
    }

    /// Makes the reserve usable. Returns `false` if it was in use already.
    pub fn lend(&self, db: &Connection) -> bool {
        if self.lent.swap(true, Ordering::Relaxed) {
            return false;
        }
        tracing::warn!("the store has no room; what ends or is deleted uses the room that was set aside");
        let _ = fs::remove_file(&self.reserve);
        self.bound(db, self.max_bytes + RESERVE).is_ok()
    }

    /// Returns whether the reserve is in use.
    pub fn is_lent(&self) -> bool {
        self.lent.load(Ordering::Relaxed)
    }

    /// Sets the reserve aside again, if there is room on the disk and below the bound.
    pub fn set_aside(&self, db: &Connection) {
        if self.is_lent() && self.is_below(db) && self.bound(db, self.max_bytes).is_ok() && self.fill().is_ok() {
            self.lent.store(false, Ordering::Relaxed);
        }
    }

    fn is_below(&self, db: &Connection) -> bool {
        let used = || -> rusqlite::Result<u64> {
            let value = |pragma| db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
            Ok(((value("page_count")? - value("freelist_count")?) * value("page_size")?) as u64)
        };
        self.max_bytes == 0 || used().is_ok_and(|used| used <= self.max_bytes)
    }

    fn bound(&self, db: &Connection, bytes: u64) -> rusqlite::Result<()> {
        if self.max_bytes == 0 {
            return Ok(());
        }
        let page: i64 = db.pragma_query_value(None, "page_size", |row| row.get(0))?;
        // SQLite replaces a bound below the file's size by the file's size.
        db.query_row(&format!("PRAGMA max_page_count = {}", bytes as i64 / page.max(1)), [], |_| Ok(()))
    }

    fn fill(&self) -> std::io::Result<()> {
        if fs::metadata(&self.reserve).is_ok_and(|file| file.len() >= RESERVE) {
            return Ok(());
        }
        let fill = || -> std::io::Result<File> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.reserve)?;
            let zeros = [0; 64 << 10];
            for _ in 0..RESERVE / zeros.len() as u64 {
                file.write_all(&zeros)?;
            }
            Ok(file)
        };
        let filled = fill();
        if filled.is_err() {
            let _ = fs::remove_file(&self.reserve);
        }
        filled.map(drop)
    }
}
