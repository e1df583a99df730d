//! Settings: built-in defaults, then files, then `CAUDAL__SECTION__SETTING`, then `--set`. Owns every setting. `config/caudal.toml`
//! documents the settings and is compiled in as the defaults, so that the two cannot differ.

mod auth;
mod optional_address;
mod problem;
mod secret;
mod sources;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use serde::{Deserialize, Serialize};

use sources::{ENVIRONMENT, Given, key_of};

pub use auth::{ApiKey, Auth, AuthMode, KeyLimits, Network, Scope};
pub use problem::SettingsError;
pub use secret::Secret;
pub use sources::{DEFAULTS, Sources};

use crate::{
    engine::{
        kv::KvEncoding,
        model::{KvType, ModelSettings, one_or_more},
        scripted::ScriptedSettings,
    },
    limits::TENANTS_OF_STORE,
    store::{
        Retention,
        quota::{QuotaSetting, StorageQuotas},
    },
};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub server: ServerSettings,
    pub auth: Auth,
    pub engine: EngineSettings,
    pub admission: AdmissionSettings,
    pub limits: LimitsSettings,
    pub generation: GenerationSettings,
    pub conversations: ConversationsSettings,
    pub cache: CacheSettings,
    pub kv_store: KvStoreSettings,
    pub store: StoreSettings,
    pub cluster: ClusterSettings,
    pub log: LogSettings,
    pub telemetry: TelemetrySettings,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    pub bind: SocketAddr,
    pub workers: usize,
    #[serde(with = "optional_address")]
    pub admin_bind: Option<SocketAddr>,
    pub chat_dir: PathBuf,
    pub hosts: Vec<String>,
    pub trusted_proxies: Vec<Network>,
    pub allowed_origins: Vec<String>,
    pub max_connections: usize,
    pub sockets_per_tenant: usize,
    pub sockets_per_address: usize,
    pub max_message_bytes: usize,
    pub outbox_bytes: usize,
    pub slow_client_grace_ms: u64,
    pub handshake_timeout_ms: u64,
    pub body_timeout_ms: u64,
    pub sse_comment_ms: u64,
    pub heartbeat_ms: u64,
    pub idle_timeout_ms: u64,
    pub connection_limit_ms: u64,
    pub shutdown_deadline_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSettings {
    pub kind: EngineKind,
    #[serde(deserialize_with = "one_or_more")]
    pub models: Vec<ModelSettings>,
    pub max_running: usize,
    pub threads: usize,
    pub context_length: u32,
    pub kv_mb: u64,
    pub kv_type: KvType,
    pub gpu_memory: f32,
    pub scripted: ScriptedSettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    Mistralrs,
    Scripted,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmissionSettings {
    pub queue: usize,
    pub queue_per_tenant: usize,
    /// Tenants that may use `service_tier: priority`.
    pub priority: BTreeSet<String>,
    pub weights: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsSettings {
    pub requests_per_minute: u32,
    pub tokens_per_minute: u32,
    #[serde(default)]
    pub tenants: BTreeMap<String, LimitsTenant>,
}

/// Settings of one tenant, which override the general ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsTenant {
    pub requests_per_minute: Option<u32>,
    pub tokens_per_minute: Option<u32>,
}

impl LimitsSettings {
    /// Returns the most requests of a tenant a minute; `None`: no limit.
    pub fn requests_per_minute(&self, tenant: &str) -> Option<NonZeroU32> {
        let own = self.tenants.get(tenant).and_then(|tenant| tenant.requests_per_minute);
        NonZeroU32::new(own.unwrap_or(self.requests_per_minute))
    }

    /// Returns the most tokens of a tenant's responses a minute, prompts and outputs together; `None`: no limit.
    pub fn tokens_per_minute(&self, tenant: &str) -> Option<NonZeroU32> {
        let own = self.tenants.get(tenant).and_then(|tenant| tenant.tokens_per_minute);
        NonZeroU32::new(own.unwrap_or(self.tokens_per_minute))
    }

    /// Returns the name and the largest value of the first limit that is too large for the quotas to count exactly.
    fn wrong(&self) -> Option<(&'static str, u32)> {
        let of = |own: fn(&LimitsTenant) -> Option<u32>, general| {
            self.tenants.values().filter_map(own).chain([general]).max().unwrap_or(0)
        };
        let largest = [
            ("requests_per_minute", of(|own| own.requests_per_minute, self.requests_per_minute), auth::MOST_REQUESTS),
            ("tokens_per_minute", of(|own| own.tokens_per_minute, self.tokens_per_minute), auth::MOST_TOKENS),
        ];
        largest.into_iter().find(|(_, set, most)| set > most).map(|(name, _, most)| (name, most))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationSettings {
    pub max_output_tokens: u32,
    pub orphan_grace_ms: u64,
    pub resume_window_ms: u64,
    pub conversation_conflict: ConversationConflict,
    pub conversation_wait_ms: u64,
}

/// The way in which the server handles a turn while another turn of its conversation is in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConversationConflict {
    Serialise,
    Refuse,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConversationsSettings {
    pub max_items: usize,
    pub max_kb: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSettings {
    pub max_mb: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvStoreSettings {
    pub encoding: KvEncoding,
    pub url: Secret,
    pub path: PathBuf,
    pub max_mb: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    pub kind: StoreKind,
    pub retention_s: u64,
    pub quota_mb: u64,
    pub quota_responses: u64,
    #[serde(default)]
    pub tenants: BTreeMap<String, StoreTenant>,
    pub outage_ms: u64,
    pub memory: StoreMemory,
    pub sqlite: StoreSqlite,
    pub redis: StoreRedis,
}

/// Settings of one tenant, which override the general ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreTenant {
    pub retention_s: Option<u64>,
    pub quota_mb: Option<u64>,
    pub quota_responses: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    Memory,
    Sqlite,
    Redis,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreMemory {
    pub max_mb: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSqlite {
    pub path: PathBuf,
    pub max_mb: u64,
}

impl StoreSqlite {
    /// Returns the path of the database: the setting, or `caudal.db` in `CAUDAL_DATA_DIR` or in the user's data folder.
    pub fn file(&self) -> PathBuf {
        if !self.path.as_os_str().is_empty() {
            return self.path.clone();
        }
        let folder = std::env::var_os("CAUDAL_DATA_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let own = || dirs::data_dir().unwrap_or_else(std::env::temp_dir).join("caudal");
        folder.unwrap_or_else(own).join("caudal.db")
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreRedis {
    pub url: Secret,
    pub sentinel_user: String,
    pub sentinel_password: Secret,
    pub prefix: String,
    pub timeout_ms: u64,
    pub max_mb: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    pub replica: String,
    pub lease_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySettings {
    /// The base URL of the OTLP collector. Empty: no telemetry.
    pub otlp: String,
}

/// The least `engine.kv_mb`: room for the keys and values of a few hundred tokens of the smallest models.
const LEAST_KV_MB: u64 = 16;

impl Settings {
    pub fn load(sources: &Sources) -> Result<Self, SettingsError> {
        let mut figment = Figment::from(Toml::string(DEFAULTS));
        let mut given = Given { files: Vec::new(), overrides: &sources.overrides };
        for file in &sources.files {
            if file.is_dir() {
                return Err(SettingsError(format!("--config {}: this is a folder, not a file", file.display())));
            }
            if !file.exists() {
                return Err(SettingsError(format!("--config {}: no such file", file.display())));
            }
            let text = std::fs::read_to_string(file)
                .map_err(|error| SettingsError(format!("--config {}: {error}", file.display())))?;
            toml::from_str::<toml::Table>(&text).map_err(|error| {
                SettingsError(format!("--config {}, {}", file.display(), problem::unreadable(&text, &error)))
            })?;
            figment = figment.merge(Toml::string(&text));
            given.files.push((file, text));
        }
        figment = figment.merge(Env::prefixed(ENVIRONMENT).split("__"));
        for assignment in &sources.overrides {
            figment = figment.merge(Toml::string(&to_toml(assignment)?));
        }
        let settings: Self = figment.extract().map_err(|errors| {
            let lines: Vec<String> = errors.into_iter().map(|e| problem::describe(&e, &given)).collect();
            SettingsError(lines.join("\n"))
        })?;
        settings.check()?;
        Ok(settings)
    }

    /// Returns how long ended responses are stored.
    pub fn retention(&self) -> Retention {
        let tenants = self.store.tenants.iter();
        let tenants = tenants.filter_map(|(name, t)| Some((name.clone(), Duration::from_secs(t.retention_s?))));
        Retention {
            default: Duration::from_secs(self.store.retention_s),
            tenants: Arc::new(tenants.collect()),
            resume_window: Duration::from_millis(self.generation.resume_window_ms),
        }
    }

    /// Returns the storage quotas of the tenants.
    pub fn storage_quotas(&self) -> StorageQuotas {
        let given = |mb: Option<u64>, responses: Option<u64>| QuotaSetting {
            bytes: mb.filter(|mb| *mb > 0).map(|mb| mb.saturating_mul(1 << 20)),
            responses: responses.filter(|responses| *responses > 0),
        };
        let store = &self.store;
        let tenants = store.tenants.iter().map(|(name, t)| (name.clone(), given(t.quota_mb, t.quota_responses)));
        StorageQuotas {
            default: given(Some(store.quota_mb), Some(store.quota_responses)),
            tenants: Arc::new(tenants.collect()),
            parts: if self.auth.mode == AuthMode::Keys { TENANTS_OF_STORE } else { 1 },
        }
    }

    /// Checks rules that the types do not express.
    fn check(&self) -> Result<(), SettingsError> {
        let wrong = |message: &str| Err(SettingsError(message.into()));
        self.auth.check(self.server.bind, &self.server.allowed_origins)?;
        if !(0.05..=1.0).contains(&self.engine.gpu_memory) {
            return wrong("engine.gpu_memory must be from 0.05 to 1");
        }
        let own = self.engine.models.iter().filter_map(|model| model.kv_mb);
        if let Some(mb) = own.chain([self.engine.kv_mb]).find(|mb| (1..LEAST_KV_MB).contains(mb)) {
            return wrong(&format!(
                "engine.kv_mb: {mb} MB is too little for keys and values; give at least {LEAST_KV_MB}, or 0 for the default"
            ));
        }
        if self.store.kind == StoreKind::Redis && self.store.redis.url.expose().is_empty() {
            return wrong(
                "store.redis.url: store.kind is \"redis\" and there is no URL, such as redis://127.0.0.1:6379",
            );
        }
        if self.store.sqlite.max_mb != 0 && self.store.sqlite.max_mb < 4 {
            return wrong("store.sqlite.max_mb must be at least 4, or 0 for no limit but the disk");
        }
        let prefix = &self.store.redis.prefix;
        if prefix.is_empty() || prefix.contains(['{', '}']) {
            return wrong("store.redis.prefix must not be empty and not contain { or }");
        }
        if self.store.redis.timeout_ms == 0 || self.cluster.lease_ms < 100 {
            return wrong("store.redis.timeout_ms must be above 0 and cluster.lease_ms at least 100");
        }
        if !self.cluster.replica.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
            return wrong("cluster.replica may have letters, digits, '.', '_' and '-' only");
        }
        if self.server.max_message_bytes == 0 || self.server.outbox_bytes < 1024 {
            return wrong("server.max_message_bytes must be above 0 and server.outbox_bytes at least 1024");
        }
        if self.server.body_timeout_ms == 0 || self.server.sse_comment_ms == 0 {
            return wrong("server.body_timeout_ms and server.sse_comment_ms must be above 0");
        }
        if self.server.heartbeat_ms == 0 || self.server.idle_timeout_ms <= self.server.heartbeat_ms {
            return wrong("server.idle_timeout_ms must be longer than server.heartbeat_ms, which must be above 0");
        }
        if let Some((tenant, _)) = self.admission.weights.iter().find(|(_, weight)| !(0.001..=1000.0).contains(*weight))
        {
            return wrong(&format!("admission.weights.{tenant}: a weight must be from 0.001 to 1000"));
        }
        if let Some((name, most)) = self.limits.wrong() {
            return wrong(&format!("limits.{name}: a limit must be from 1 to {most}, or 0 for none"));
        }
        let otlp = &self.telemetry.otlp;
        if !otlp.is_empty() && !["http://", "https://"].iter().any(|scheme| otlp.starts_with(scheme)) {
            return wrong("telemetry.otlp: expected a URL such as http://127.0.0.1:4318");
        }
        if self.engine.scripted.text.trim().is_empty() {
            return wrong("engine.scripted.text must not be empty");
        }
        Ok(())
    }
}

/// Turns `a.b=value` into TOML. A value that is not valid TOML becomes a string.
fn to_toml(assignment: &str) -> Result<String, SettingsError> {
    let (key, value) = assignment.split_once('=').filter(|(key, _)| !key.trim().is_empty()).ok_or_else(|| {
        let key = key_of(assignment);
        SettingsError(format!("--set {key}: expected section.setting=value, such as server.bind=127.0.0.1:8080"))
    })?;
    let as_is = format!("{key} = {value}");
    if toml::from_str::<toml::Table>(&as_is).is_ok() {
        return Ok(as_is);
    }
    let quoted = toml::Value::String(value.to_owned());
    let as_string = format!("{key} = {quoted}");
    match toml::from_str::<toml::Table>(&as_string) {
        Ok(_) => Ok(as_string),
        Err(_) => Err(SettingsError(format!("--set: '{}' is not the name of a setting", key_of(key.trim())))),
    }
}
