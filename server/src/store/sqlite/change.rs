//! Errors of changes in a transaction.

use crate::store::StoreError;

/// The reason why a change was not made: an error of the contract, after which the transaction continues, or an error of SQLite.
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

/// Separates an error of SQLite, which ends the transaction, from an error of the contract.
pub fn split<T>(outcome: ChangeOutcome<T>) -> rusqlite::Result<Result<T, StoreError>> {
    match outcome {
        Ok(found) => Ok(Ok(found)),
        Err(ChangeError::Refused(error)) => Ok(Err(error)),
        Err(ChangeError::Sql(error)) => Err(error),
    }
}
