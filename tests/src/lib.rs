//! Shared parts of the tests: server processes, clients that show every frame, an event log with assertions, a proxy that cuts
//! connections, and the load generator. This crate depends on the wire protocol, not on the server's code: the tests run the
//! binary that users run.

pub mod app;
pub mod chaos;
pub mod collector;
pub mod data;
pub mod figures;
pub mod http;
pub mod load;
pub mod log;
pub mod peer;
pub mod proxy;
pub mod raw;
pub mod redis;
pub mod stack;
pub mod tiny;
pub mod ws;

pub use app::{App, Setup, spawn_app};
pub use data::DataDir;
pub use log::EventLog;
pub use redis::Redis;
pub use ws::{Client, Received};

use std::{fmt::Display, future::Future, time::Duration};

/// After this time a test considers an operation hung. Long enough for a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits `future`. Panics with `what` after [`PATIENCE`].
pub async fn within<T>(what: impl Display, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

/// Polls until `ask` returns a value, for state that no event announces.
pub async fn until<T, F: Future<Output = Option<T>>>(what: impl Display, mut ask: impl FnMut() -> F) -> T {
    within(what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}
