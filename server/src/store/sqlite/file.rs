//! The file on disk: who may use it, what may be wrong with it, and how connections to it are made.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::schema;

/// How long a connection waits for another process, as `caudal store check` is one.
const BUSY: Duration = Duration::from_secs(5);
/// Statements that a connection keeps prepared.
const STATEMENTS: usize = 128;

/// Why a file cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "another process uses it{0}; stop that process, or give this one a folder of its own with CAUDAL_DATA_DIR or --set store.sqlite.path=FILE"
    )]
    Locked(String),
    #[error("a newer version of caudal wrote it (tables of version {0}, this caudal knows {known}); update caudal, or choose another file with --set store.sqlite.path=FILE", known = schema::VERSION)]
    Newer(i64),
    #[error("it is a database of another program; choose another file with --set store.sqlite.path=FILE")]
    Foreign,
    #[error("there is no such file")]
    Missing,
    #[error(
        "it cannot be written ({0}); change its owner or its mode, or choose another file with --set store.sqlite.path=FILE"
    )]
    ReadOnly(String),
    #[error(
        "it is damaged ({0}); `caudal store check` says where. Restore a backup, or move the file away to begin anew"
    )]
    Corrupt(String),
    #[error("the disk is full ({0}); make room and start again")]
    Full(String),
    #[error("{0}")]
    Other(String),
}

/// Whether the disk takes no more. SQLite calls a disk full if the system says so; it reports a user's quota, a bound on a file's
/// size and an index of the write-ahead log that cannot grow as failed writes.
pub fn lacks_room(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    matches!(code, Some(ffi::SQLITE_FULL | ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE))
}

/// What SQLite's error means for the file.
impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        let reason = error.to_string();
        match error.sqlite_error_code() {
            _ if lacks_room(&error) => Self::Full(reason),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => Self::ReadOnly(reason),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(reason),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked(String::new()),
            _ => Self::Other(reason),
        }
    }
}

impl From<std::io::Error> for OpenError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                Self::ReadOnly(error.to_string())
            }
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
                Self::Full(error.to_string())
            }
            _ => Self::Other(error.to_string()),
        }
    }
}

/// The file's right to be used by this process alone. The system takes it back when the process ends, however it ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Makes the folder and the file if they are not there, for this user alone.
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
        // SQLite gives its other files the mode of this one.
        private(path)?;
        Ok(Self { _file: file })
    }
}

/// A file beside the database, as `caudal.db-lock`.
pub fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push("-");
    name.push(what);
    path.with_file_name(name)
}

/// A connection that reads and writes; the tables are brought up to date.
pub fn open(path: &Path) -> Result<Connection, OpenError> {
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    schema::migrate(&db)?;
    // The upkeep moves the log's pages into the file, so that no append waits for the disk.
    db.execute_batch(
        "PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 4194304; PRAGMA cache_size = -16384;",
    )?;
    Ok(db)
}

/// A connection that only reads, also beside a process that uses the file.
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

#[cfg(test)]
mod tests {
    use rusqlite::Error;

    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        for (code, says) in [
            (ffi::SQLITE_READONLY, "change its owner or its mode"),
            (ffi::SQLITE_CANTOPEN, "change its owner or its mode"),
            (ffi::SQLITE_CORRUPT, "caudal store check"),
            (ffi::SQLITE_NOTADB, "caudal store check"),
            (ffi::SQLITE_FULL, "make room"),
            (ffi::SQLITE_IOERR_WRITE, "make room"),
            (ffi::SQLITE_BUSY, "stop that process"),
        ] {
            let error = OpenError::from(Error::SqliteFailure(ffi::Error::new(code), None)).to_string();
            assert!(error.contains(says), "{code}: {error}");
        }
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert!(OpenError::from(denied).to_string().contains("change its owner"));
    }
}
