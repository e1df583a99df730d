//! The file on disk: its lock, and connections to it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use super::{open_error::OpenError, schema};

/// The time for which a connection waits for a lock of another process, such as `caudal store check`.
const BUSY: Duration = Duration::from_secs(5);
/// The number of prepared statements that a connection caches.
const STATEMENTS: usize = 128;

/// The exclusive right of this process to use the file. The operating system releases it when the process ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock. Creates the folder and the file if they do not exist, readable by this user only.
    ///
    /// # Errors
    /// `Locked` if another process holds the lock; those of the file system.
    pub fn take(path: &Path) -> Result<Self, OpenError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let private = |path: &Path| OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let mut file = private(&beside(path, "lock"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim();
                let named = if holder.is_empty() { String::new() } else { format!(", process {holder}") };
                return Err(OpenError::Locked(named));
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        // SQLite creates its other files with the mode of this one.
        private(path)?;
        Ok(Self { _file: file })
    }
}

/// Returns the path of a file beside the database, such as `caudal.db-lock`.
pub fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push("-");
    name.push(what);
    path.with_file_name(name)
}

/// Opens a connection that reads and writes, and migrates the tables.
pub fn open(path: &Path) -> Result<Connection, OpenError> {
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    schema::migrate(&db)?;
    // The upkeep runs the checkpoints, so that no append waits for one.
    db.execute_batch(
        "PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 4194304; PRAGMA cache_size = -16384;",
    )?;
    Ok(db)
}

/// Opens a connection that only reads, even while another process uses the file.
pub fn open_to_read(path: &Path) -> Result<Connection, OpenError> {
    if fs::metadata(path).is_err() {
        return Err(OpenError::Missing);
    }
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    db.execute_batch("PRAGMA query_only = ON;")?;
    schema::version(&db)?;
    Ok(db)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, OpenError> {
    let db = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    db.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY;")?;
    Ok(db)
}
