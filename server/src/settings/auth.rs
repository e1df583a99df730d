//! The section `auth`, and the settings that decide who can reach the server. Refuses combinations that open the server to
//! everybody by accident.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{problem::SettingsError, secret::Secret};

/// Fewest characters of a key or an admin key.
const SHORTEST_KEY: usize = 8;
/// The largest rates a minute that the quotas count exactly.
pub const MOST_REQUESTS: u32 = 1_000_000;
pub const MOST_TOKENS: u32 = 50_000_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    pub mode: AuthMode,
    pub keys: Vec<ApiKey>,
    pub keys_file: PathBuf,
    pub admin_key: Secret,
    pub token_secret: Secret,
}

impl Auth {
    /// Checks the settings of a server that listens at `bind` and answers pages of `allowed_origins`.
    ///
    /// # Errors
    /// The settings would open the server by accident, or close it for everybody. The message says what to do.
    pub(super) fn check(&self, bind: SocketAddr, allowed_origins: &[String]) -> Result<(), SettingsError> {
        let wrong = |message: String| Err(SettingsError(message));
        let has_keys = !self.keys.is_empty() || !self.keys_file.as_os_str().is_empty();
        match self.mode {
            AuthMode::Keys if !has_keys => {
                return wrong("auth.keys: auth.mode is \"keys\" and there is no key; add one, such as { key = \"…\", tenant = \"…\" }, or set auth.keys_file and run `caudal key create`".into());
            }
            AuthMode::None | AuthMode::Open if has_keys => {
                let (mode, key) = (name(self.mode), if self.keys.is_empty() { "auth.keys_file" } else { "auth.keys" });
                return wrong(format!(
                    "auth.mode is \"{mode}\", so the server checks no keys and ignores {key}; set auth.mode = \"keys\", or remove {key}"
                ));
            }
            AuthMode::None if !bind.ip().to_canonical().is_loopback() => {
                return wrong(format!(
                    "server.bind: other machines can reach {bind}, and auth.mode is \"none\"; set auth.mode = \"keys\" with auth.keys_file or auth.keys, or auth.mode = \"open\" if everybody who reaches this address may use the server, or bind to 127.0.0.1"
                ));
            }
            _ => {}
        }
        if self.mode == AuthMode::Keys && allowed_origins.iter().any(|origin| origin == "*") {
            return wrong("server.allowed_origins: \"*\" lets every web page use the keys that its visitors have; with auth.mode = \"keys\", name the origins, such as \"https://app.example\"".into());
        }
        self.check_keys()
    }

    fn check_keys(&self) -> Result<(), SettingsError> {
        let wrong = |message: String| Err(SettingsError(message));
        const MAKE_ONE: &str = "`openssl rand -base64 24` makes one";
        let mut seen: HashMap<&str, &str> = HashMap::new();
        for ApiKey { key, tenant, scopes, limits, .. } in &self.keys {
            if let Err(what) = limits.check() {
                return wrong(format!("auth.keys: a key of tenant '{tenant}': limits.{what}"));
            }
            if key.expose().len() < SHORTEST_KEY || tenant.is_empty() {
                return wrong(format!(
                    "auth.keys: a key needs at least {SHORTEST_KEY} characters and a tenant; {MAKE_ONE}"
                ));
            }
            if scopes.is_empty() {
                return wrong(format!(
                    "auth.keys: a key of tenant '{tenant}' has no scopes; give it create, read or admin"
                ));
            }
            if let Some(other) = seen.insert(key.expose(), tenant) {
                return wrong(format!(
                    "auth.keys: tenants '{other}' and '{tenant}' have the same key; give each key once, and each tenant a key of its own"
                ));
            }
        }
        let admin = self.admin_key.expose();
        if !admin.is_empty() && admin.len() < SHORTEST_KEY {
            return wrong(format!("auth.admin_key needs at least {SHORTEST_KEY} characters; {MAKE_ONE}"));
        }
        if let Some(tenant) = seen.get(admin) {
            return wrong(format!(
                "auth.admin_key is also a key of tenant '{tenant}'; make another one, for example with `openssl rand -base64 24`"
            ));
        }
        let secret = self.token_secret.expose();
        if !secret.is_empty() && secret.len() < 32 {
            return wrong("auth.token_secret needs at least 32 characters; `openssl rand -base64 32` makes one".into());
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// No keys; the server answers this machine only.
    None,
    Keys,
    /// No keys; the server answers everybody who reaches the address.
    Open,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    pub key: Secret,
    pub tenant: String,
    #[serde(default = "Scope::of_a_tenant")]
    pub scopes: BTreeSet<Scope>,
    /// Names of the models that the key may use. Empty: all models.
    #[serde(default)]
    pub models: Vec<String>,
    #[serde(default)]
    pub limits: KeyLimits,
}

/// The limits of one key. The limits of its tenant apply, too. `None`: the key has no limit of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<NonZeroU32>,
    /// Tokens of prompts and outputs together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Megabytes of stored responses that the key created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_mb: Option<NonZeroU32>,
    /// Whether the key may use `service_tier: priority`, even if `admission.priority` does not name its tenant.
    #[serde(default, skip_serializing_if = "is_false")]
    pub priority: bool,
}

impl KeyLimits {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Checks that the quotas can count the limits exactly. An error names the limit and its largest value.
    pub fn check(&self) -> Result<(), &'static str> {
        let above = |limit: Option<NonZeroU32>, most| limit.is_some_and(|limit| limit.get() > most);
        if above(self.requests_per_minute, MOST_REQUESTS) {
            return Err("requests_per_minute is at most 1000000");
        }
        if above(self.tokens_per_minute, MOST_TOKENS) {
            return Err("tokens_per_minute is at most 50000000");
        }
        Ok(())
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A permission of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Change data of the tenant: create, cancel, delete.
    Create,
    /// Read data of the tenant.
    Read,
    /// The routes under `/admin`.
    Admin,
}

impl Scope {
    /// Returns the scopes of a key that names none.
    pub fn of_a_tenant() -> BTreeSet<Self> {
        [Self::Create, Self::Read].into()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

/// An IP address, or a network such as `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let wrong = |_| {
            D::Error::custom(format!(
                "'{text}' is neither an address, such as 10.0.0.1, nor a network, such as 10.0.0.0/8"
            ))
        };
        network.map(Self).map_err(wrong)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn name(mode: AuthMode) -> &'static str {
    match mode {
        AuthMode::None => "none",
        AuthMode::Keys => "keys",
        AuthMode::Open => "open",
    }
}
