//! The store of one machine: one SQLite file, with the tables in [`schema`]. An answered write survives a kill of the process. The
//! next process continues the responses that ran then: see `fleet`.
//!
//! - One process uses the file (`file`). One thread writes (`writer`): it puts all waiting jobs into one transaction, and answers
//!   them and wakes followers after the commit.
//! - A log that has not ended is in memory (`live`) and in the file. Each append is a row of a journal, in order of arrival. With
//!   the last entry the log becomes one blob, and its rows are deleted.
//! - All other data is read from the file over separate connections (`readers`), which wait for no write.
//! - `upkeep` deletes expired data and returns free pages to the disk. `room` handles a full disk.

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
