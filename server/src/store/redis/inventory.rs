//! Lists all objects under the prefix, on all servers of a cluster, to copy them to another store.

use std::collections::HashMap;

use ::redis::{
    Cmd, ErrorKind, RedisError,
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo},
    cmd, from_redis_value,
};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;

use super::{
    handle::{RedisInner, RedisStore},
    link::RedisConnection,
};
use crate::store::{
    StoreError,
    inventory::{Inventory, Name},
    prompts::StoredPrompt,
};

/// The number of keys in one step of a scan.
const STEP: usize = 1000;
/// The maximum of concurrent reads of hashes.
const AT_ONCE: usize = 64;

/// The field of a header that gives its age.
#[derive(Deserialize)]
struct Age {
    created_at: u64,
}

/// The address of a server of a cluster; `None`: the only server.
type ClusterServer = Option<(String, u16)>;

impl RedisInner {
    /// Returns the servers that store keys.
    async fn servers(&self) -> Result<Vec<ClusterServer>, StoreError> {
        self.link
            .run(|connection| async move {
                let RedisConnection::Cluster(mut cluster) = connection else { return Ok(vec![None]) };
                let masters = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                let answers = cluster.route_command(cmd("PING"), masters).await?;
                let answers: HashMap<String, String> = from_redis_value(answers)?;
                let address = |shown: &String| {
                    let (host, port) = shown.rsplit_once(':')?;
                    Some((host.to_owned(), port.parse().ok()?))
                };
                let addresses: Option<Vec<_>> = answers.keys().map(address).collect();
                let unknown =
                    || RedisError::from((ErrorKind::UnexpectedReturnType, "a server of the cluster has no address"));
                Ok(addresses.ok_or_else(unknown)?.into_iter().map(Some).collect())
            })
            .await
    }

    /// Returns all keys that match a pattern.
    async fn keys_of(&self, pattern: &str) -> Result<Vec<String>, StoreError> {
        let mut keys = vec![];
        for server in self.servers().await? {
            let mut cursor = 0;
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(STEP);
                let (next, found) = self.scan(&scan, &server).await?;
                keys.extend(found);
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// Runs one step of a scan. Returns the next cursor and some keys.
    async fn scan(&self, scan: &Cmd, server: &ClusterServer) -> Result<(u64, Vec<String>), StoreError> {
        self.link
            .run(|connection| async move {
                match (connection, server.clone()) {
                    (RedisConnection::Cluster(mut cluster), Some((host, port))) => {
                        let there = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port });
                        Ok(from_redis_value(cluster.route_command(scan.clone(), there).await?)?)
                    }
                    (mut connection, _) => scan.query_async(&mut connection).await,
                }
            })
            .await
    }

    /// Returns tenants and ids of the hashes whose keys end with `part`, ordered by the age in `field`.
    async fn aged(&self, part: &str, field: &str) -> Result<Vec<Name>, StoreError> {
        let (before, after) = self.keys.around(part);
        let mut aged = vec![];
        for keys in self.keys_of(&format!("{before}*{after}")).await?.chunks(STEP) {
            let reads = keys.iter().cloned().map(|key| async move {
                let mut read = cmd("HMGET");
                read.arg(key).arg(&["tenant", field]);
                self.query::<(Option<String>, Option<String>)>(&read).await
            });
            let found: Vec<_> = stream::iter(reads).buffered(AT_ONCE).try_collect().await?;
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
                // The key has only a hash of the tenant. The stored prompt has the name.
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
