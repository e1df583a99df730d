//! Appends of many logs, sent in groups. While `IN_FLIGHT` groups are on their way to Redis, new appends form the next group. So
//! with few streams each append is sent at once, and with many streams they share the cost of a command.
//!
//! In a cluster a script may touch the keys of one slot only, so there each append is a command of its own.

use std::sync::Arc;

use redis::FromRedisValue;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{link::Link, scripts::response};
use crate::store::StoreError;

/// The maximum of appends in a group. A group occupies Redis for less than a millisecond.
const GROUP: usize = 64;
/// The maximum of groups on their way. Appends wait only if this many groups are not answered yet.
const IN_FLIGHT: usize = 2;
/// The maximum of appends that wait for a group. Further appends wait for room. A log has one append at a time.
const QUEUE: usize = 4096;

/// An append, in the form of the script's keys and arguments.
pub struct AppendCall {
    /// The keys of the log: meta, log, gone.
    pub keys: [String; 3],
    /// Fence, index of the first entry, number of entries, `1` if the last one ends the log, ms to live, channel.
    pub arguments: [String; 6],
    /// The entries, encoded.
    pub batch: Vec<u8>,
    pub last: bool,
}

/// The script's answer to an append; `lua/response/append.lua` describes the fields.
pub type AppendAnswer = (u8, u64, String, String, u64, u64);

struct PendingAppend {
    append: AppendCall,
    answer: oneshot::Sender<Result<AppendAnswer, StoreError>>,
}

/// The appends of a replica.
pub struct Appends {
    link: Arc<Link>,
    queue: mpsc::Sender<PendingAppend>,
}

impl Appends {
    /// Starts the task that sends appends. It runs until the handle is dropped.
    pub fn start(link: Arc<Link>) -> Self {
        let (queue, pending) = mpsc::channel(QUEUE);
        tokio::spawn(write(link.clone(), pending));
        Self { link, queue }
    }

    /// Waits until the append is applied.
    ///
    /// # Errors
    /// Redis refused the append, or has not answered in time.
    pub async fn append(&self, append: AppendCall) -> Result<AppendAnswer, StoreError> {
        if self.link.is_cluster() {
            return one(invoke(&self.link, &[&append]).await?.into_iter().next());
        }
        let (answer, answered) = oneshot::channel();
        // The sending task lives as long as `self`.
        let _ = self.queue.send(PendingAppend { append, answer }).await;
        answered.await.unwrap_or_else(|_| one(None))
    }
}

fn one(answer: Option<AppendAnswer>) -> Result<AppendAnswer, StoreError> {
    answer.ok_or_else(|| StoreError::Unavailable("an append was not answered".into()))
}

async fn write(link: Arc<Link>, mut queue: mpsc::Receiver<PendingAppend>) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut group = Vec::with_capacity(GROUP);
    // The semaphore is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        if queue.recv_many(&mut group, GROUP).await == 0 {
            return;
        }
        let (last, others): (Vec<_>, Vec<_>) = group.drain(..).partition(|pending: &PendingAppend| pending.append.last);
        let link = link.clone();
        tokio::spawn(async move {
            tokio::join!(write_group(&link, last), write_group(&link, others));
            drop(place);
        });
    }
}

async fn write_group(link: &Link, group: Vec<PendingAppend>) {
    if group.is_empty() {
        return;
    }
    let appends: Vec<&AppendCall> = group.iter().map(|pending| &pending.append).collect();
    let answers = invoke(link, &appends).await;
    let mut answers = answers.map(Vec::into_iter);
    for PendingAppend { answer, .. } in group {
        // The caller may be gone.
        let _ = answer.send(match &mut answers {
            Ok(answers) => one(answers.next()),
            Err(error) => Err(error.clone()),
        });
    }
}

/// Runs the script for a group of appends, of which either all or none end their logs.
async fn invoke(link: &Link, appends: &[&AppendCall]) -> Result<Vec<AppendAnswer>, StoreError> {
    let last = appends.iter().all(|append| append.last);
    let mut script = if last { &response::APPEND_LAST } else { &response::APPEND }.prepare_invoke();
    for append in appends {
        for key in &append.keys {
            script.key(key);
        }
        for argument in &append.arguments {
            script.arg(argument);
        }
        script.arg(&append.batch);
    }
    let script = &script;
    let answers = link.run(|mut connection| async move { script.invoke_async::<redis::Value>(&mut connection).await });
    Vec::from_redis_value(answers.await?).map_err(|error| StoreError::Unavailable(error.to_string()))
}
