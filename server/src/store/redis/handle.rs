//! What all parts of the store share: its configuration, its connections, and what is known of the fleet.

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

/// How long a log that is being written is kept when its owner says nothing more of it.
pub const RUNNING: Duration = Duration::from_secs(3600);

/// Where and how to store.
#[derive(Clone)]
pub struct RedisConfig {
    pub url: String,
    /// What sentinels are asked with.
    pub sentinel: Credentials,
    /// What all keys begin with.
    pub prefix: String,
    /// Bound on every wait for an answer.
    pub timeout: Duration,
    pub retention: Retention,
    /// This process' name, which no other process ever had.
    pub replica: String,
    /// A replica that was not heard for so long is dead.
    pub lease: Duration,
    pub quotas: StorageQuotas,
    /// What quotas are parts of; 0: Redis' `maxmemory`.
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
    /// Whether the last heartbeat was answered.
    pub reachable: AtomicBool,
    /// The other replicas as of the last heartbeat.
    pub members: Mutex<Vec<Member>>,
    /// Redis' `maxmemory`, and when it was asked for.
    pub maxmemory: AtomicU64,
    pub asked: Mutex<Option<Instant>>,
}

impl RedisStore {
    /// Connects when it is first used. To be called on the runtime that live messages shall be received on.
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

/// Milliseconds, as Redis takes them.
pub fn ms(duration: Duration) -> u64 {
    // Redis refuses a time to live of 0.
    (duration.as_millis() as u64).max(1)
}

impl RedisInner {
    pub async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        self.link.run(|mut connection| async move { script.invoke_async(&mut connection).await }).await
    }

    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.link.run(|mut connection| async move { command.query_async(&mut connection).await }).await
    }

    pub async fn tell(&self, control: &Control) -> Result<(), StoreError> {
        let message = serde_json::to_string(control).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let mut publish = cmd("SPUBLISH");
        publish.arg(self.keys.control()).arg(message);
        self.query(&publish).await
    }
}
