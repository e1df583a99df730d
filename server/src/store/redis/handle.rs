//! What all parts of the store share: the configuration, the connections, and the last known state of the fleet.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::{Duration, Instant},
};

use ::redis::{Cmd, FromRedisValue, ScriptInvocation, cmd};
use parking_lot::Mutex;

use super::{
    appends::Appends,
    keys::Keys,
    link::{Credentials, Link, UrlError},
    live::Live,
};
use crate::store::{
    Retention, StoreError,
    fleet::{Control, Member},
    quota::StorageQuotas,
};

/// The time for which a running log is stored after its owner's last append or renewal.
pub const RUNNING: Duration = Duration::from_secs(3600);

/// The configuration of the store.
#[derive(Clone)]
pub struct RedisConfig {
    pub url: String,
    /// The user and password for sentinels.
    pub sentinel: Credentials,
    /// The prefix of all keys.
    pub prefix: String,
    /// The longest time that a command waits for its answer.
    pub timeout: Duration,
    pub retention: Retention,
    /// The unique name of this process.
    pub replica: String,
    /// A replica without a heartbeat for this time counts as dead.
    pub lease: Duration,
    pub quotas: StorageQuotas,
    /// The bytes that tenants share, for quotas that are a part of them; 0: Redis' `maxmemory`.
    pub max_bytes: u64,
}

/// A handle; clones share everything.
#[derive(Clone)]
pub struct RedisStore(pub(super) Arc<RedisInner>);

pub struct RedisInner {
    pub config: RedisConfig,
    pub keys: Keys,
    pub link: Arc<Link>,
    pub live: Arc<Live>,
    pub appends: Appends,
    /// `true`: Redis has answered the last heartbeat.
    pub reachable: AtomicBool,
    /// The other replicas at the last heartbeat.
    pub members: Mutex<Vec<Member>>,
    /// Redis' `maxmemory`, and when it was last read.
    pub maxmemory: AtomicU64,
    pub asked: Mutex<Option<Instant>>,
}

impl RedisStore {
    /// Makes a store that connects at the first use. To be called on the runtime that receives live messages.
    pub fn new(config: RedisConfig) -> Result<Self, UrlError> {
        let link = Arc::new(Link::new(&config.url, &config.sentinel, config.timeout)?);
        let live = Live::start(link.clone(), config.timeout);
        let appends = Appends::start(link.clone());
        let keys = Keys::new(&config.prefix);
        Ok(Self(Arc::new(RedisInner {
            config,
            keys,
            link,
            live,
            appends,
            reachable: AtomicBool::new(false),
            members: Mutex::default(),
            maxmemory: AtomicU64::new(0),
            asked: Mutex::default(),
        })))
    }
}

/// Converts to milliseconds for Redis, at least 1.
pub fn ms(duration: Duration) -> u64 {
    // Redis refuses 0 as a time to live.
    (duration.as_millis() as u64).max(1)
}

impl RedisInner {
    pub async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        self.link.run(|mut connection| async move { script.invoke_async(&mut connection).await }).await
    }

    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.link.run(|mut connection| async move { command.query_async(&mut connection).await }).await
    }

    /// Publishes a message to all replicas.
    pub async fn publish(&self, control: &Control) -> Result<(), StoreError> {
        let message = serde_json::to_string(control).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let mut publish = cmd("SPUBLISH");
        publish.arg(self.keys.control()).arg(message);
        self.query(&publish).await
    }
}
