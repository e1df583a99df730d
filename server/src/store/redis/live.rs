//! Live messages. One connection serves all channels that this replica listens to. A task brings the confirmed subscriptions in
//! line with the wanted ones, and notifies listeners that may have missed messages.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use parking_lot::{Mutex, MutexGuard};
use redis::{PushInfo, PushKind, Value};
use tokio::{
    sync::{Notify, broadcast, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::link::{Link, RedisConnection};
use crate::store::StoreError;

/// The maximum of unread messages of a listener. A listener further behind misses messages and reads the log instead.
const BACKLOG: usize = 32;
/// The maximum of unconfirmed subscriptions at a time.
const IN_FLIGHT: usize = 256;
const PING: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(100);

pub type LiveMessage = Arc<[u8]>;

/// The channels that are listened to.
#[derive(Default)]
pub struct Live {
    channels: Mutex<Channels>,
    wake: Notify,
}

#[derive(Default)]
struct Channels {
    wanted: HashMap<String, Channel>,
    /// The channels to subscribe to or to unsubscribe from.
    changed: HashSet<String>,
}

struct Channel {
    messages: broadcast::Sender<LiveMessage>,
    /// The number of the connection that has confirmed the subscription; 0: none.
    confirmed: watch::Sender<u64>,
    listeners: usize,
}

/// A listener of a channel. Dropping it ends the subscription if no other listener remains.
pub struct Listener {
    live: Arc<Live>,
    channel: String,
    pub messages: broadcast::Receiver<LiveMessage>,
    confirmed: watch::Receiver<u64>,
}

impl Live {
    /// Starts the task of the connection. It runs until the last handle is dropped.
    pub fn start(link: Arc<Link>, patience: Duration) -> Arc<Self> {
        let live = Arc::new(Self::default());
        tokio::spawn(run(Arc::downgrade(&live), link, patience));
        live
    }

    pub fn listen(self: &Arc<Self>, channel: &str) -> Listener {
        let mut channels = self.channels();
        let Channels { wanted, changed } = &mut *channels;
        let entry = wanted.entry(channel.to_owned()).or_insert_with(|| {
            changed.insert(channel.to_owned());
            Channel { messages: broadcast::Sender::new(BACKLOG), confirmed: watch::Sender::new(0), listeners: 0 }
        });
        entry.listeners += 1;
        let (messages, confirmed) = (entry.messages.subscribe(), entry.confirmed.subscribe());
        drop(channels);
        self.wake.notify_one();
        Listener { live: self.clone(), channel: channel.to_owned(), messages, confirmed }
    }

    fn channels(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock()
    }

    /// Handles a message that the server has pushed.
    fn push(&self, push: PushInfo) {
        let text = |value: Option<&Value>| match value {
            Some(Value::BulkString(bytes)) => Some(bytes.clone()),
            Some(Value::SimpleString(text)) => Some(text.clone().into_bytes()),
            _ => None,
        };
        let Some(channel) = text(push.data.first()).and_then(|name| String::from_utf8(name).ok()) else { return };
        let mut channels = self.channels();
        let Channels { wanted, changed } = &mut *channels;
        let Some(entry) = wanted.get(&channel) else { return };
        match push.kind {
            PushKind::SMessage => {
                if let Some(payload) = text(push.data.get(1)) {
                    // The channel may have no listener any more.
                    let _ = entry.messages.send(payload.into());
                }
            }
            // The channel's slot has moved to another node.
            PushKind::SUnsubscribe => {
                entry.confirmed.send_replace(0);
                changed.insert(channel);
                self.wake.notify_one();
            }
            _ => {}
        }
    }

    /// Subscribes and unsubscribes until no change is left.
    async fn reconcile(&self, connection: &RedisConnection, serial: u64) -> Result<(), StoreError> {
        loop {
            let changed: Vec<String> = self.channels().changed.drain().collect();
            if changed.is_empty() {
                return Ok(());
            }
            let commands = changed.into_iter().map(|channel| async move {
                let wanted = self.channels().wanted.contains_key(&channel);
                let mut command = redis::cmd(if wanted { "SSUBSCRIBE" } else { "SUNSUBSCRIBE" });
                let confirmed = command.arg(&channel).query_async::<Value>(&mut connection.clone()).await;
                confirmed.map_err(|error| StoreError::Unavailable(error.to_string()))?;
                if wanted && let Some(entry) = self.channels().wanted.get(&channel) {
                    entry.confirmed.send_replace(serial);
                }
                Ok(())
            });
            let mut outcomes = stream::iter(commands).buffer_unordered(IN_FLIGHT);
            while let Some(outcome) = outcomes.next().await {
                outcome?;
            }
        }
    }

    /// Marks all subscriptions as unconfirmed after the connection is lost.
    fn lost(&self) {
        let mut channels = self.channels();
        let Channels { wanted, changed } = &mut *channels;
        changed.clear();
        for (name, channel) in wanted.iter() {
            channel.confirmed.send_replace(0);
            changed.insert(name.clone());
        }
    }
}

async fn run(live: Weak<Live>, link: Arc<Link>, patience: Duration) {
    let (mut serial, mut said) = (0, None);
    loop {
        let broken = CancellationToken::new();
        let pushes = {
            let (live, broken) = (live.clone(), broken.clone());
            move |push: PushInfo| {
                match live.upgrade() {
                    Some(_) if push.kind == PushKind::Disconnection => broken.cancel(),
                    Some(live) => live.push(push),
                    None => broken.cancel(),
                }
                Ok::<(), ()>(())
            }
        };
        let begun = Instant::now();
        let error = match link.connect(Some(pushes)).await {
            Ok(connection) => {
                serial += 1;
                listen(&live, &connection, serial, &broken, patience).await
            }
            Err(error) => error,
        };
        let Some(live) = live.upgrade() else { return };
        live.lost();
        drop(live);
        // A repeated error is logged once.
        if said.as_ref() != Some(&error) || begun.elapsed() > PING {
            tracing::warn!(%error, "no connection for live messages; trying again");
        }
        said = Some(error);
        sleep(RETRY).await;
    }
}

/// Maintains the subscriptions over a connection. Returns the error that ended it.
async fn listen(
    live: &Weak<Live>,
    connection: &RedisConnection,
    serial: u64,
    broken: &CancellationToken,
    patience: Duration,
) -> StoreError {
    let silent = || StoreError::Unavailable(format!("no answer within {patience:?}"));
    loop {
        let Some(live) = live.upgrade() else { return StoreError::Unavailable("closed".into()) };
        // Thousands of subscriptions take longer than one.
        match timeout(patience * 10, live.reconcile(connection, serial)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(_) => return silent(),
        }
        let woken = tokio::select! {
            biased;
            () = broken.cancelled() => return StoreError::Unavailable("disconnected".into()),
            () = live.wake.notified() => true,
            () = sleep(PING) => false,
        };
        drop(live);
        if !woken {
            let mut connection = connection.clone();
            match timeout(patience, redis::cmd("PING").query_async::<Value>(&mut connection)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return StoreError::Unavailable(error.to_string()),
                Err(_) => return silent(),
            }
        }
    }
}

impl Listener {
    /// Waits until the subscription is confirmed. The listener receives every message that is published afterwards.
    pub async fn confirmed(&mut self) {
        // The sender lives as long as the channel has listeners.
        let _ = self.confirmed.wait_for(|serial| *serial > 0).await;
        self.confirmed.mark_unchanged();
    }

    /// Waits for the next message. Returns `None` if messages may have been missed.
    pub async fn next(&mut self) -> Option<LiveMessage> {
        tokio::select! {
            biased;
            message = self.messages.recv() => message.ok(),
            _ = self.confirmed.changed() => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut channels = self.live.channels();
        let Channels { wanted, changed } = &mut *channels;
        let Some(entry) = wanted.get_mut(&self.channel) else { return };
        entry.listeners -= 1;
        if entry.listeners == 0 {
            wanted.remove(&self.channel);
            changed.insert(std::mem::take(&mut self.channel));
            drop(channels);
            self.live.wake.notify_one();
        }
    }
}
