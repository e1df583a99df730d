//! The ledger of each tenant: the bytes that its responses and conversations (the objects) take in Redis. An object and its
//! tenant's ledger are in different slots, so no script can write both. Therefore the object counts its own bytes, and the ledger
//! is charged when the object is created, when it has outgrown its charge, and when it ends. For running objects the ledger is
//! wrong by a quarter at most. A charge expires together with its object; each new charge removes expired ones, oldest first.

use std::{sync::atomic::Ordering, time::Duration};

use ::redis::ScriptInvocation;

use super::{
    handle::{RedisInner, ms},
    scripts::{fleet, ledger},
};
use crate::store::{
    StoreError,
    quota::{Exceeded, KeyQuota},
};

/// A charge for an object.
pub struct Charge<'a> {
    pub tenant: &'a str,
    /// The id of a response or a conversation.
    pub object: &'a str,
    /// The bytes to add to the object's charge.
    pub bytes: u64,
    pub keep: Duration,
    pub is_response: bool,
    pub key: Option<&'a KeyQuota>,
}

impl RedisInner {
    /// Adds a charge to a tenant's ledger.
    ///
    /// # Errors
    /// `OverQuota` if a quota would be exceeded (nothing is charged then); those of the store.
    pub async fn charge(&self, charge: Charge<'_>) -> Result<(), StoreError> {
        let quota = self.config.quotas.of(charge.tenant, self.bound());
        let mut script = ledger::CHARGE.prepare_invoke();
        for key in self.ledger(charge.tenant) {
            script.key(key);
        }
        script.arg(charge.object).arg(charge.bytes).arg(ms(charge.keep)).arg(u8::from(charge.is_response));
        script.arg(charge.key.map_or("", |quota| quota.key.as_str())).arg(quota.bytes).arg(quota.responses);
        let of_key = charge.key.map_or(u64::MAX, |quota| quota.bytes);
        script.arg(of_key);
        match self.script::<u8>(&script).await? {
            0 => Ok(()),
            1 => Err(StoreError::OverQuota(Exceeded::TenantBytes(quota.bytes))),
            2 => Err(StoreError::OverQuota(Exceeded::TenantResponses(quota.responses))),
            _ => Err(StoreError::OverQuota(Exceeded::KeyBytes(of_key))),
        }
    }

    /// Sets the charge of an object to `bytes`, with the end after `keep`. If this fails, the ledger is wrong until then.
    pub async fn correct(&self, tenant: &str, object: &str, (bytes, keep): (u64, Duration)) {
        let mut correct = ledger::CORRECT.prepare_invoke();
        correct.arg(object).arg(bytes).arg(ms(keep));
        self.note(tenant, correct).await;
    }

    /// Removes the charge of a deleted object.
    pub async fn uncharge(&self, tenant: &str, object: &str) {
        self.correct(tenant, object, (0, Duration::ZERO)).await;
    }

    /// Reduces the charge of an object by bytes that were not written after all.
    pub async fn take_back(&self, tenant: &str, object: &str, bytes: u64) {
        let mut take_back = ledger::TAKE_BACK.prepare_invoke();
        take_back.arg(object).arg(bytes);
        self.note(tenant, take_back).await;
    }

    /// Sets the end of an object's charge to `keep` from now.
    pub async fn keep_charge(&self, tenant: &str, object: &str, keep: Duration) {
        let mut later = ledger::EXTEND.prepare_invoke();
        later.arg(object).arg(ms(keep));
        self.note(tenant, later).await;
    }

    async fn note(&self, tenant: &str, mut script: ScriptInvocation<'_>) {
        for key in self.ledger(tenant) {
            script.key(key);
        }
        if let Err(error) = self.script::<u8>(&script).await {
            tracing::debug!(%error, "cannot update a tenant's ledger; its storage is counted wrong until the object expires");
        }
    }

    fn ledger(&self, tenant: &str) -> [String; 2] {
        [self.keys.tenant(tenant, "stored:ends"), self.keys.tenant(tenant, "stored")]
    }

    /// Returns the bytes that tenants share; `None` if this Redis has no bound.
    fn bound(&self) -> Option<u64> {
        let set = self.config.max_bytes;
        Some(if set > 0 { set } else { self.maxmemory.load(Ordering::Relaxed) }).filter(|bound| *bound > 0)
    }

    /// Reads Redis' `maxmemory`.
    pub async fn ask_maxmemory(&self) {
        let mut ask = fleet::READ_MAXMEMORY.prepare_invoke();
        ask.key(self.keys.replicas());
        if let Ok(bytes) = self.script::<String>(&ask).await {
            self.maxmemory.store(bytes.parse().unwrap_or(0), Ordering::Relaxed);
        }
    }
}
