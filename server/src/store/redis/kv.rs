//! Blocks of keys and values in Redis. They use a separate connection, so that commands of logs do not wait behind their bytes.
//!
//! Blocks are sent in groups of [`GROUP_BYTES`], because Redis runs all waiting commands of one client before those of the next.

use std::time::Duration;

use ::redis::{cmd, pipe};
use async_trait::async_trait;

use super::{
    handle::ms,
    keys::Keys,
    link::{Credentials, Link, UrlError},
    scripts::kv,
};
use crate::{
    engine::kv::{BlockName, KvError, KvStore},
    store::{Retention, StoreError},
};

/// The maximum of bytes of blocks that Redis reads or writes before it serves other clients.
const GROUP_BYTES: usize = 1 << 20;
/// The longest wait for an answer. A block may have megabytes.
const TIMEOUT: Duration = Duration::from_secs(5);

pub struct RedisKv {
    link: Link,
    keys: Keys,
    retention: Retention,
    /// The bound on the bytes of one tenant.
    max_bytes: u64,
}

/// The configuration of the block store.
pub struct KvConfig {
    pub url: String,
    pub sentinel: Credentials,
    pub prefix: String,
    pub retention: Retention,
    /// The bound on the bytes of one tenant.
    pub max_bytes: u64,
}

impl RedisKv {
    /// Makes a store that connects at the first use.
    pub fn new(config: KvConfig) -> Result<Self, UrlError> {
        let KvConfig { url, sentinel, prefix, retention, max_bytes } = config;
        let link = Link::new(&url, &sentinel, TIMEOUT)?;
        Ok(Self { link, keys: Keys::new(&prefix), retention, max_bytes })
    }

    fn names(&self, tenant: &str, part: &str) -> String {
        self.keys.tenant(tenant, part)
    }

    /// Returns the prefix of the keys of a tenant's blocks.
    fn prefix(&self, tenant: &str) -> String {
        self.keys.tenant(tenant, "kv:")
    }
}

#[async_trait]
impl KvStore for RedisKv {
    async fn count(&self, tenant: &str, chain: &[BlockName]) -> Result<usize, KvError> {
        if chain.is_empty() {
            return Ok(0);
        }
        let mut get = cmd("HMGET");
        get.arg(self.names(tenant, "kv_sizes")).arg(chain.iter().map(BlockName::to_string).collect::<Vec<_>>());
        let get = &get;
        let run = |mut connection| async move { get.query_async::<Vec<Option<u64>>>(&mut connection).await };
        let sizes = self.link.run(run).await.map_err(failed)?;
        Ok(sizes.iter().take_while(|bytes| bytes.is_some()).count())
    }

    async fn fetch(&self, tenant: &str, chain: &[BlockName]) -> Result<Vec<Vec<u8>>, KvError> {
        let prefix = self.prefix(tenant);
        let mut blocks: Vec<Vec<u8>> = Vec::with_capacity(chain.len());
        let mut group = 1;
        while let Some(names) = chain.get(blocks.len()..).filter(|rest| !rest.is_empty()) {
            let names = &names[..group.min(names.len())];
            let mut get = cmd("MGET");
            get.arg(names.iter().map(|name| format!("{prefix}{name}")).collect::<Vec<_>>());
            let get = &get;
            let run = |mut connection| async move { get.query_async::<Vec<Option<Vec<u8>>>>(&mut connection).await };
            let found = self.link.run(run).await.map_err(failed)?;
            blocks.extend(found.into_iter().map_while(|block| block));
            let largest = blocks.last().map_or(0, Vec::len);
            if largest == 0 || !blocks.len().is_multiple_of(group) {
                break;
            }
            group = (GROUP_BYTES / largest).max(1);
        }
        self.used(tenant, chain.get(..blocks.len()).unwrap_or_default()).await?;
        Ok(blocks)
    }

    async fn put(&self, tenant: &str, blocks: &[(BlockName, Vec<u8>)]) -> Result<(), KvError> {
        let prefix = self.prefix(tenant);
        let retention = ms(self.retention.stored(tenant));
        for group in groups(blocks) {
            let mut set = pipe();
            let mut put = kv::PUT.prepare_invoke();
            put.key(self.names(tenant, "kv_used")).key(self.names(tenant, "kv_sizes"));
            put.arg(self.max_bytes).arg(retention).arg(&prefix);
            for (name, block) in group {
                set.cmd("SET").arg(format!("{prefix}{name}")).arg(block).arg("PX").arg(retention).ignore();
                put.arg(name.to_string()).arg(block.len());
            }
            let (set, put) = (&set, &put);
            let run = |mut connection: super::link::RedisConnection| async move {
                set.query_async::<()>(&mut connection).await?;
                put.invoke_async::<u64>(&mut connection).await
            };
            self.link.run(run).await.map_err(failed)?;
        }
        Ok(())
    }

    fn origin(&self) -> &'static str {
        "fleet"
    }
}

impl RedisKv {
    /// Records a use of blocks. The first block of a chain counts as used last, so that a chain is evicted from its end.
    async fn used(&self, tenant: &str, chain: &[BlockName]) -> Result<(), KvError> {
        if chain.is_empty() {
            return Ok(());
        }
        let mut used = kv::TOUCH.prepare_invoke();
        used.key(self.names(tenant, "kv_used"));
        used.arg(chain.iter().map(BlockName::to_string).collect::<Vec<_>>());
        let used = &used;
        let run = |mut connection: super::link::RedisConnection| async move {
            used.invoke_async::<u8>(&mut connection).await
        };
        self.link.run(run).await.map(drop).map_err(failed)
    }
}

/// Splits blocks into groups of at most [`GROUP_BYTES`], with at least one block each.
fn groups(blocks: &[(BlockName, Vec<u8>)]) -> impl Iterator<Item = &[(BlockName, Vec<u8>)]> {
    let largest = blocks.iter().map(|(_, block)| block.len()).max().unwrap_or(0).max(1);
    blocks.chunks((GROUP_BYTES / largest).max(1))
}

fn failed(error: StoreError) -> KvError {
    KvError(error.to_string())
}
