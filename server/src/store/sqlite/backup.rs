//! A copy of the file, also while a server uses it.

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

/// Copies the state of one moment to a new file, which can be used in place of the old one.
///
/// # Errors
/// One of the files cannot be used; `target` exists.
pub fn back_up(path: &Path, target: &Path) -> Result<(), OpenError> {
    if fs::symlink_metadata(target).is_ok() {
        return Err(OpenError::Other(format!("{} exists; name a new file", target.display())));
    }
    let from = file::open_to_read(path)?;
    // Under its name only when it is whole.
    let part = beside(target, "part");
    let copied = copy(&from, &part).and_then(|()| Ok(fs::rename(&part, target)?));
    if copied.is_err() {
        let _ = fs::remove_file(&part);
    }
    copied
}

/// Bytes of a file's free pages.
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
    // All pages in one step: a write of the server in between would begin the copy anew.
    Backup::new(from, &mut to)?.step(-1)?;
    // Then it is one file, without another beside it.
    to.pragma_update(None, "journal_mode", "DELETE")?;
    to.close().map_err(|(_, error)| error)?;
    Ok(OpenOptions::new().read(true).open(part)?.sync_all()?)
}
