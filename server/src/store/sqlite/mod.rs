//! The store of one machine: everything in one SQLite file, whose tables [`schema`] describes. What it has answered is there
//! after the process was killed, and what ran then is continued by the next process: see `fleet`.
//!
//! - One process uses the file (`file`). One thread writes (`writer`): all that has arrived goes in one transaction, and is
//!   answered, and shown to followers, when that is committed.
//! - A log that has not ended is in memory (`live`) as well as in the file. Its appends are rows of a journal, in order of
//!   arrival; with its last entry it becomes one blob, and its rows are deleted.
//! - Everything else is read from the file by connections of their own (`readers`), which wait for no write.
//! - `upkeep` deletes what is no longer to be stored and gives room back; `room` is what happens when there is none.

mod backup;
mod cache;
mod change;
mod check;
mod conversations;
mod encoding;
pub mod file;
mod fleet;
mod handle;
mod inventory;
mod live;
mod open_error;
mod prompts;
mod quota;
mod rates;
mod readers;
mod responses;
mod room;
pub mod schema;
mod time;
mod upkeep;
mod whole_log;
mod writer;

#[cfg(test)]
mod tests;

pub use backup::{back_up, free_bytes};
pub use check::check;
pub use handle::{SqliteConfig, SqliteStore};
