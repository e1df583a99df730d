//! Errors of opening the file.

use rusqlite::{ErrorCode, ffi};

/// The reason why a file cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "another process uses it{0}; stop that process, or give this one a folder of its own with CAUDAL_DATA_DIR or --set store.sqlite.path=FILE"
    )]
    Locked(String),
    #[error(
        "a newer version of caudal wrote it (tables of version {version}, this caudal knows {known}); update caudal, or choose another file with --set store.sqlite.path=FILE"
    )]
    Newer { version: i64, known: i64 },
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

/// Returns whether an error means that there is no room. SQLite reports `SQLITE_FULL` for a full disk only. A user's disk quota, a
/// limit on file sizes and an index of the write-ahead log that cannot grow appear as failed writes.
pub fn lacks_room(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    matches!(code, Some(ffi::SQLITE_FULL | ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE))
}

/// Maps an error of SQLite to one of the file.
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
