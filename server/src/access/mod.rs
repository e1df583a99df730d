//! Identifies clients by a secret: a key of the settings, a key of `auth.keys_file`, or a client secret that one of them made.
//!
//! Owns keys and client secrets, and stores only hashes of keys and of the admin key. Independent of HTTP. Refuses an unknown
//! secret.

pub mod client_secret;
pub mod keys_file;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hmac::{Hmac, Mac};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::{
    clock::unix_seconds,
    settings::{Auth, AuthMode, KeyLimits, Scope},
};
use client_secret::Pins;
use keys_file::{FileError, KeysFile, StoredKey};

/// The tenant of every client of a server without keys.
const ONLY_TENANT: &str = "default";
/// The interval at which the keys file is read.
const REREAD: Duration = Duration::from_secs(1);
/// Fewest characters of a configured key that signs client secrets without `auth.token_secret`: a shorter key could be guessed
/// from the signature.
const HARD_TO_GUESS: usize = 32;

/// A client and its permissions.
#[derive(Debug, Clone)]
pub struct Identity {
    pub tenant: String,
    pub scopes: BTreeSet<Scope>,
    /// Names of the models that the client may use. Empty: all models.
    pub models: Vec<String>,
    /// The limits of a client secret; none for a key.
    pub pins: Pins,
    /// The id of the key, or of the key that made the client secret. `None` if the server has no keys.
    pub key: Option<String>,
    pub is_client_secret: bool,
    /// Unix seconds.
    pub expires_at: Option<u64>,
    /// The limits of the key, which its client secrets share.
    pub limits: KeyLimits,
}

/// The reason why a client is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    Unknown,
    Expired,
    Revoked,
}

impl Denied {
    /// Returns the label of the metric that counts refusals.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "key",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// The properties of a key, without its text.
#[derive(Clone)]
struct AccessKey {
    tenant: String,
    scopes: BTreeSet<Scope>,
    models: Vec<String>,
    expires_at: Option<u64>,
    limits: KeyLimits,
    /// Signs the client secrets of the key. `None`: the key may make none.
    signs: Option<[u8; 32]>,
}

pub struct Access {
    /// Whether clients need a key.
    has_keys: bool,
    /// The id of a key by the key's hash. The time of a look-up by hash does not reveal how much of a guess is right.
    configured: HashMap<[u8; 32], String>,
    configured_keys: HashMap<String, AccessKey>,
    admin: Option<[u8; 32]>,
    token_secret: String,
    file: Option<PathBuf>,
    stored: RwLock<KeysFile>,
    /// The number of changes of the keys in the file.
    changed: watch::Sender<u64>,
}

/// A model that a key names and that the server does not serve.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownModel {
    pub key: String,
    pub model: String,
}

impl Access {
    /// Reads the keys of the settings and of `auth.keys_file`.
    ///
    /// # Errors
    /// `auth.keys_file` cannot be read, other users can read or write it, or its text is not valid.
    pub fn new(auth: &Auth) -> Result<Arc<Self>, FileError> {
        let token_secret = auth.token_secret.expose().to_owned();
        let (mut configured, mut configured_keys) = (HashMap::new(), HashMap::new());
        for key in &auth.keys {
            let hash: [u8; 32] = Sha256::digest(key.key.expose()).into();
            let id = format!("config-{}", hex::encode(&keyed(&token_secret, b"id", &hash)[..8]));
            let may_sign = !token_secret.is_empty() || key.key.expose().len() >= HARD_TO_GUESS;
            configured.insert(hash, id.clone());
            configured_keys.insert(
                id,
                AccessKey {
                    tenant: key.tenant.clone(),
                    scopes: key.scopes.clone(),
                    models: key.models.clone(),
                    expires_at: None,
                    limits: key.limits,
                    signs: may_sign.then(|| keyed(&token_secret, b"client secrets", &hash)),
                },
            );
        }
        let file = (!auth.keys_file.as_os_str().is_empty()).then(|| auth.keys_file.clone());
        let stored = match &file {
            Some(path) => KeysFile::read(path)?,
            None => KeysFile::default(),
        };
        let admin = auth.admin_key.expose();
        Ok(Arc::new(Self {
            has_keys: auth.mode == AuthMode::Keys,
            configured,
            configured_keys,
            admin: (!admin.is_empty()).then(|| Sha256::digest(admin).into()),
            token_secret,
            file,
            stored: RwLock::new(stored),
            changed: watch::Sender::new(0),
        }))
    }

    /// Returns the models that keys name and for which `is_served` is false.
    fn unknown_models(&self, is_served: impl Fn(&str) -> bool) -> Vec<UnknownModel> {
        let stored = self.stored.read();
        let configured = self.configured_keys.iter().map(|(id, key)| (id, &key.models));
        let all = configured.chain(stored.keys.iter().map(|key| (&key.id, &key.models)));
        let unknown = all.flat_map(|(id, models)| models.iter().map(move |model| (id, model)));
        let unknown = unknown.filter(|(_, model)| !is_served(model));
        unknown.map(|(id, model)| UnknownModel { key: id.clone(), model: model.clone() }).collect()
    }

    /// Starts a task that warns of every model that a key names and that is not served, now and after every change of the keys.
    pub fn spawn_checking_models(self: &Arc<Self>, is_served: impl Fn(&str) -> bool + Send + 'static) {
        let (access, mut changed) = (Arc::downgrade(self), self.changed.subscribe());
        tokio::spawn(async move {
            let mut told = Vec::new();
            loop {
                let Some(access) = access.upgrade() else { return };
                let unknown = access.unknown_models(&is_served);
                drop(access);
                for UnknownModel { key, model } in unknown.iter().filter(|unknown| !told.contains(*unknown)) {
                    tracing::warn!(
                        key,
                        model,
                        "a key names a model that is not served; compare GET /v1/models with `caudal key list`"
                    );
                }
                told = unknown;
                if changed.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Starts a task that reads the keys file every second and applies its changes, until `self` is dropped. If the file cannot be
    /// read, the previous keys stay in use.
    pub fn spawn_rereading(self: &Arc<Self>) {
        let Some(path) = self.file.clone() else { return };
        let access = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut failed = false;
            loop {
                tokio::time::sleep(REREAD).await;
                let read = {
                    let path = path.clone();
                    tokio::task::spawn_blocking(move || KeysFile::read(&path)).await
                };
                let Some(access) = access.upgrade() else { return };
                match read {
                    Ok(Ok(file)) => {
                        failed = false;
                        access.replace(file);
                    }
                    Ok(Err(error)) if !failed => {
                        failed = true;
                        tracing::error!(%error, "the keys file cannot be read; the previous keys stay in use");
                    }
                    _ => {}
                }
            }
        });
    }

    fn replace(&self, file: KeysFile) {
        let mut stored = self.stored.write();
        if *stored == file {
            return;
        }
        tracing::info!(keys = file.keys.len(), "the keys file was read again");
        *stored = file;
        drop(stored);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Returns all tenants.
    pub fn tenants(&self) -> BTreeSet<String> {
        if !self.has_keys {
            return [ONLY_TENANT.to_owned()].into();
        }
        let stored = self.stored.read();
        let configured = self.configured_keys.values().map(|key| key.tenant.clone());
        configured.chain(stored.keys.iter().map(|key| key.tenant.clone())).collect()
    }

    /// Returns whether clients need a key.
    pub fn has_keys(&self) -> bool {
        self.has_keys
    }

    /// Returns whether there is a key for `/admin`.
    pub fn has_admin(&self) -> bool {
        let stored = self.stored.read();
        let by_scope = self.configured_keys.values().any(|key| key.scopes.contains(&Scope::Admin));
        self.admin.is_some() || by_scope || stored.keys.iter().any(|key| key.scopes.contains(&Scope::Admin))
    }

    /// Returns whether this is `auth.admin_key`. Compares the hashes in constant time.
    pub fn is_admin_key(&self, secret: &str) -> bool {
        let given: [u8; 32] = Sha256::digest(secret).into();
        self.admin.is_some_and(|expected| given.ct_eq(&expected).into())
    }

    /// Returns the identity of every client of a server without keys.
    pub fn anybody(&self) -> Identity {
        Identity {
            tenant: ONLY_TENANT.into(),
            scopes: Scope::of_a_tenant(),
            models: Vec::new(),
            pins: Pins::default(),
            key: None,
            is_client_secret: false,
            expires_at: None,
            limits: KeyLimits::default(),
        }
    }

    /// Identifies the client by its secret. A denial has the tenant if the secret was valid before.
    pub fn identify(&self, secret: &str) -> Result<Identity, (Denied, Option<String>)> {
        if let Some((key_id, sent)) = client_secret::parse(secret) {
            let key = self.key(key_id).ok_or((Denied::Unknown, None))?;
            let signs = key.signs.ok_or((Denied::Unknown, None))?;
            let claims = sent.verified(&signs).ok_or((Denied::Unknown, None))?;
            let identity = Identity {
                tenant: key.tenant,
                scopes: key.scopes.iter().copied().filter(|scope| *scope != Scope::Admin).collect(),
                models: key.models,
                pins: claims.pins,
                key: Some(key_id.to_owned()),
                is_client_secret: true,
                expires_at: Some(key.expires_at.map_or(claims.expires_at, |at| at.min(claims.expires_at))),
                limits: key.limits,
            };
            return unexpired(identity);
        }
        let hash: [u8; 32] = Sha256::digest(secret).into();
        let id = match self.configured.get(&hash) {
            Some(id) => id.clone(),
            None => {
                let stored = self.stored.read();
                stored.find(secret).ok_or((Denied::Unknown, None))?.id.clone()
            }
        };
        let key = self.key(&id).ok_or((Denied::Unknown, None))?;
        unexpired(Identity {
            tenant: key.tenant,
            scopes: key.scopes,
            models: key.models,
            pins: Pins::default(),
            key: Some(id),
            is_client_secret: false,
            expires_at: key.expires_at,
            limits: key.limits,
        })
    }

    /// Makes a client secret with the key of `identity`. `None`: the key may make none.
    pub fn sign(&self, identity: &Identity, pins: Pins, expires_at: u64) -> Option<String> {
        let id = identity.key.as_deref()?;
        let signs = self.key(id)?.signs?;
        client_secret::sign(id, &signs, pins, expires_at)
    }

    /// Waits until `identity` expires or its key is revoked. Returns which of them happened.
    pub async fn ended(&self, identity: &Identity) -> Denied {
        let mut changed = self.changed.subscribe();
        loop {
            let Some(id) = identity.key.as_deref() else { return std::future::pending().await };
            let Some(key) = self.key(id).filter(|key| key.tenant == identity.tenant) else { return Denied::Revoked };
            let ends = [identity.expires_at, key.expires_at].into_iter().flatten().min();
            let left = ends
                .map(|at| UNIX_EPOCH + Duration::from_secs(at))
                .map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
            if left.is_some_and(|left| left.is_zero()) {
                return Denied::Expired;
            }
            let over = async {
                match left {
                    // The system clock may be changed during the sleep.
                    Some(left) => tokio::time::sleep(left.min(Duration::from_secs(60))).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                _ = changed.changed() => {}
            }
        }
    }

    fn key(&self, id: &str) -> Option<AccessKey> {
        if let Some(key) = self.configured_keys.get(id) {
            return Some(key.clone());
        }
        let stored = self.stored.read();
        stored.by_id(id).map(|key| self.of_file(key))
    }

    fn of_file(&self, key: &StoredKey) -> AccessKey {
        AccessKey {
            tenant: key.tenant.clone(),
            scopes: key.scopes.clone(),
            models: key.models.clone(),
            expires_at: key.expires,
            limits: key.limits,
            signs: Some(keyed(&self.token_secret, b"client secrets", key.hash.as_bytes())),
        }
    }
}

fn unexpired(identity: Identity) -> Result<Identity, (Denied, Option<String>)> {
    match identity.expires_at {
        Some(at) if at <= unix_seconds() => Err((Denied::Expired, Some(identity.tenant))),
        _ => Ok(identity),
    }
}

/// Computes HMAC-SHA-256 under `secret`, with a label for one purpose.
fn keyed(secret: &str, purpose: &[u8], of: &[u8]) -> [u8; 32] {
    // HMAC accepts keys of every length, so this does not fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return [0; 32] };
    mac.update(purpose);
    mac.update(&[0]);
    mac.update(of);
    mac.finalize().into_bytes().into()
}
