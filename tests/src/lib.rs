//! What the tests share: a server of one's own, clients that see every frame, a log of events that checks itself, a
//! proxy that cuts connections, and the load generator. Knows the wire, not the server's code: what is tested is the
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

/// How long anything may take before a test calls it hung. Generous: it tells a hang from a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits `what`, or panics saying what did not happen.
pub async fn within<T>(what: impl Display, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

/// Asks again and again until the answer is there: for state that no event announces.
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
