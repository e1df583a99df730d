//! What one Redis server holds under the prefix, to be copied to another store.

use ::redis::{RedisError, cmd, pipe};
use async_trait::async_trait;
use serde::Deserialize;

use super::{RedisInner, RedisStore, link::RedisConnection};
use crate::store::{
    StoreError,
    prompts::StoredPrompt,
    transfer::{Inventory, Name},
};

/// Keys that a step of a scan looks at.
const STEP: usize = 1000;

/// Of a header.
#[derive(Deserialize)]
struct Age {
    created_at: u64,
}

impl RedisInner {
    /// All keys of what has an id that end with `part`.
    async fn keys_of(&self, pattern: &str) -> Result<Vec<String>, StoreError> {
        let (mut cursor, mut keys) = (0u64, vec![]);
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(STEP);
            let scan = &scan;
            let step = self.link.run(|connection| async move {
                match connection {
                    RedisConnection::Single(mut one) => scan.query_async::<(u64, Vec<String>)>(&mut one).await,
                    RedisConnection::Cluster(_) => Err(RedisError::from((
                        ::redis::ErrorKind::InvalidClientConfig,
                        "a cluster cannot be listed; copy each of its servers with a URL of its own",
                    ))),
                }
            });
            let (next, found) = step.await?;
            keys.extend(found);
            if next == 0 {
                keys.sort_unstable();
                keys.dedup();
                return Ok(keys);
            }
            cursor = next;
        }
    }

    /// Tenants and ids of the hashes whose keys end with `part`, by their age, which `field` holds.
    async fn aged(&self, part: &str, field: &str) -> Result<Vec<Name>, StoreError> {
        let (before, after) = self.keys.around(part);
        let mut aged = vec![];
        for keys in self.keys_of(&format!("{before}*{after}")).await?.chunks(STEP) {
            let mut read = pipe();
            for key in keys {
                read.cmd("HMGET").arg(key).arg(&["tenant", field]);
            }
            let read = &read;
            let found: Vec<(Option<String>, Option<String>)> =
                self.link.run(|mut connection| async move { read.query_async(&mut connection).await }).await?;
            for (key, (tenant, age)) in keys.iter().zip(found) {
                let id = key.strip_prefix(&before).and_then(|key| key.strip_suffix(&after));
                let (Some(tenant), Some(age), Some(id)) = (tenant, age, id) else { continue };
                let age = match serde_json::from_str::<Age>(&age) {
                    Ok(age) => age.created_at,
                    Err(_) => age.parse().unwrap_or(0),
                };
                aged.push((age, Name { tenant, id: id.to_owned() }));
            }
        }
        aged.sort_by_key(|(age, _)| *age);
        Ok(aged.into_iter().map(|(_, name)| name).collect())
    }
}

#[async_trait]
impl Inventory for RedisStore {
    async fn responses(&self) -> Result<Vec<Name>, StoreError> {
        self.0.aged("meta", "header").await
    }

    async fn conversations(&self) -> Result<Vec<Name>, StoreError> {
        self.0.aged("about", "created_at").await
    }

    async fn prompts(&self) -> Result<Vec<Name>, StoreError> {
        let (before, after) = self.0.keys.around("prompts");
        let mut names = vec![];
        for key in self.0.keys_of(&format!("{before}tenant:*{after}")).await? {
            let mut list = cmd("ZRANGE");
            list.arg(&key).arg(0).arg(-1);
            let ids: Vec<String> = self.0.query(&list).await?;
            for id in ids {
                // The key names its tenant by a hash; the prompt by name.
                let versions = format!("{}:{id}", key.trim_end_matches('s'));
                let mut get = cmd("HGET");
                get.arg(versions).arg(1);
                let json: Option<String> = self.0.query(&get).await?;
                if let Some(prompt) = json.and_then(|json| serde_json::from_str::<StoredPrompt>(&json).ok()) {
                    names.push(Name { tenant: prompt.tenant, id });
                }
            }
        }
        Ok(names)
    }
}
