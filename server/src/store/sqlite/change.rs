//! How a change in a transaction fails.

/// Why a change was not made: an error of the contract, which leaves the transaction as it was, or one of SQLite.
pub enum ChangeError<E> {
    Refused(E),
    Sql(rusqlite::Error),
}

impl<E> From<rusqlite::Error> for ChangeError<E> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// The error of SQLite, which ends the transaction, apart from one of the contract.
pub fn split<T, E>(outcome: Result<T, ChangeError<E>>) -> rusqlite::Result<Result<T, E>> {
    match outcome {
        Ok(found) => Ok(Ok(found)),
        Err(ChangeError::Refused(error)) => Ok(Err(error)),
        Err(ChangeError::Sql(error)) => Err(error),
    }
}
