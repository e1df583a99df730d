//! Copies the file, even while a server uses it.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rusqlite::{Connection, backup::Backup};

use super::{
    file::{self, beside},
    open_error::OpenError,
};

/// Copies a consistent state of the file to `target`, which can replace the original.
///
/// # Errors
/// One of the files cannot be used, or `target` exists.
pub fn back_up(path: &Path, target: &Path) -> Result<(), OpenError> {
    if fs::symlink_metadata(target).is_ok() {
        return Err(OpenError::Other(format!("{} exists; name a new file", target.display())));
    }
    let from = file::open_to_read(path)?;
    // The copy gets its name when it is complete.
    let part = beside(target, "part");
    let copied = copy(&from, &part).and_then(|()| Ok(fs::rename(&part, target)?));
    if copied.is_err() {
        let _ = fs::remove_file(&part);
    }
    copied
}

/// Returns the bytes of a file's free pages.
///
/// # Errors
/// The file cannot be used.
pub fn free_bytes(path: &Path) -> Result<u64, OpenError> {
    let db = file::open_to_read(path)?;
    let value = |pragma| db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    Ok((value("freelist_count")? * value("page_size")?) as u64)
}

fn copy(from: &Connection, part: &Path) -> Result<(), OpenError> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part)?;
    let mut to = Connection::open(part)?;
    // Copies all pages in one step, because a write of the server between two steps restarts the copy.
    Backup::new(from, &mut to)?.step(-1)?;
    // Without a write-ahead log, so that the copy is a single file.
    to.pragma_update(None, "journal_mode", "DELETE")?;
    to.close().map_err(|(_, error)| error)?;
    Ok(OpenOptions::new().read(true).open(part)?.sync_all()?)
}
