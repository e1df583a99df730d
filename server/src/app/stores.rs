//! Opens the stores that the settings name.

use std::{sync::Arc, time::Duration};

use anyhow::Context;

use crate::{
    random::random_hex,
    settings::{Settings, StoreKind, StoreRedis},
    store::{
        Stores, conversations,
        memory::{MemoryCache, MemoryConversations, MemoryLimits, MemoryPrompts, MemoryRates, MemoryStore},
        prompts,
        redis::{Credentials, RedisConfig, RedisStore},
        sqlite::{self, SqliteStore},
    },
};

/// Bounds of a tenant's stored prompts.
const PROMPTS: prompts::PromptBounds = prompts::PromptBounds { prompts: 1000, versions: 1000, bytes: 16 << 20 };

/// Opens the stores, and joins the fleet of replicas if the store outlives the process. Must be called on the runtime on which the
/// stores work.
///
/// # Errors
/// The store's file or URL cannot be used. The message has the reason and what to do.
pub fn stores(settings: &Settings) -> anyhow::Result<Stores> {
    let retention = settings.retention();
    let bounds = conversations::ConversationBounds {
        items: settings.conversations.max_items,
        bytes: settings.conversations.max_kb << 10,
    };
    let (cache_bytes, quotas) = (settings.cache.max_mb << 20, settings.storage_quotas());
    match settings.store.kind {
        StoreKind::Memory => {
            let max_bytes = settings.store.memory.max_mb << 20;
            let cache = MemoryCache::new(cache_bytes, retention.longest());
            let limits = MemoryLimits { retention, max_bytes, quotas };
            Ok(Stores {
                responses: Arc::new(MemoryStore::new(limits.clone())),
                cache: Arc::new(cache),
                conversations: Arc::new(MemoryConversations::new(limits, bounds)),
                prompts: Arc::new(MemoryPrompts::new(PROMPTS)),
                rates: Arc::new(MemoryRates::default()),
                fleet: None,
                inventory: None,
            })
        }
        StoreKind::Sqlite => {
            let path = settings.store.sqlite.file();
            let config = sqlite::SqliteConfig {
                path: path.clone(),
                max_bytes: settings.store.sqlite.max_mb << 20,
                retention: retention.clone(),
                quotas,
                process: random_hex(),
            };
            let store = SqliteStore::open(config).with_context(|| format!("the store {}", path.display()))?;
            Ok(Stores {
                cache: Arc::new(store.cache(cache_bytes, retention.longest())),
                conversations: Arc::new(store.conversations(retention, bounds)),
                prompts: Arc::new(store.prompts(PROMPTS)),
                responses: Arc::new(store.clone()),
                rates: Arc::new(store.clone()),
                inventory: Some(Arc::new(store.clone())),
                fleet: Some(Arc::new(store)),
            })
        }
        StoreKind::Redis => {
            let name = &settings.cluster.replica;
            let random = random_hex();
            let config = RedisConfig {
                url: settings.store.redis.url.expose().to_owned(),
                sentinel: sentinel(&settings.store.redis),
                prefix: settings.store.redis.prefix.clone(),
                timeout: Duration::from_millis(settings.store.redis.timeout_ms),
                retention: retention.clone(),
                replica: if name.is_empty() { random } else { format!("{name}-{random}") },
                lease: Duration::from_millis(settings.cluster.lease_ms),
                quotas,
                max_bytes: settings.store.redis.max_mb << 20,
            };
            let store = RedisStore::new(config).map_err(|error| anyhow::anyhow!("store.redis.url: {error}"))?;
            Ok(Stores {
                cache: Arc::new(store.cache(cache_bytes, retention.longest())),
                conversations: Arc::new(store.conversations(retention, bounds)),
                prompts: Arc::new(store.prompts(PROMPTS)),
                responses: Arc::new(store.clone()),
                rates: Arc::new(store.clone()),
                inventory: Some(Arc::new(store.clone())),
                fleet: Some(Arc::new(store)),
            })
        }
    }
}

/// The credentials for the sentinels.
fn sentinel(redis: &StoreRedis) -> Credentials {
    Credentials { user: redis.sentinel_user.clone(), password: redis.sentinel_password.expose().to_owned() }
}

/// Opens the store of keys and values outside the process; `None` if the settings have none.
///
/// # Errors
/// Its URL cannot be used. The message has the reason.
#[cfg(feature = "mistralrs")]
pub fn kv_store(settings: &Settings) -> anyhow::Result<Option<Arc<dyn crate::engine::kv::KvStore>>> {
    use crate::{
        engine::kv::KvEncoding,
        store::{
            kv_folder::KvFolder,
            redis::{KvConfig, RedisKv},
        },
    };

    let (kv, redis) = (&settings.kv_store, &settings.store.redis);
    let own = !kv.url.expose().is_empty();
    if kv.encoding == KvEncoding::Off {
        return Ok(None);
    }
    if own || settings.store.kind == StoreKind::Redis {
        let (setting, url) = if own { ("kv_store.url", &kv.url) } else { ("store.redis.url", &redis.url) };
        let config = KvConfig {
            url: url.expose().to_owned(),
            sentinel: sentinel(redis),
            prefix: redis.prefix.clone(),
            retention: settings.retention(),
            max_bytes: kv.max_mb << 20,
        };
        let store = RedisKv::new(config).map_err(|error| anyhow::anyhow!("{setting}: {error}"))?;
        return Ok(Some(Arc::new(store)));
    }
    let path = match settings.store.kind {
        _ if !kv.path.as_os_str().is_empty() => kv.path.clone(),
        StoreKind::Sqlite => settings.store.sqlite.file().with_file_name("kv"),
        _ => return Ok(None),
    };
    Ok(Some(Arc::new(KvFolder::new(path, kv.max_mb << 20))))
}
