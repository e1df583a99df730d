//! How a change in a transaction fails.

use crate::store::StoreError;

/// Why a change was not made: an error of the contract, which leaves the transaction as it was, or one of SQLite.
pub enum ChangeError {
    Refused(StoreError),
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for ChangeError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

pub type ChangeOutcome<T> = Result<T, ChangeError>;

pub const fn refused<T>(error: StoreError) -> ChangeOutcome<T> {
    Err(ChangeError::Refused(error))
}

/// The error of SQLite, which ends the transaction, apart from one of the contract.
pub fn split<T>(outcome: ChangeOutcome<T>) -> rusqlite::Result<Result<T, StoreError>> {
    match outcome {
        Ok(found) => Ok(Ok(found)),
        Err(ChangeError::Refused(error)) => Ok(Err(error)),
        Err(ChangeError::Sql(error)) => Err(error),
    }
}
