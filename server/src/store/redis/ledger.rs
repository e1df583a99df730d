//! What each tenant stores in Redis. A response or a conversation is in a slot of its own, and its tenant's ledger is in another:
//! so the object counts its bytes itself, in the script that writes, and the ledger is told when the object has outgrown what it
//! was charged with. That is at its creation, a few times while it grows, and at its end: the ledger is off by a quarter of what
//! runs at most. Each charge has an end, which is the object's own: what has expired is struck, the oldest first, by whichever
//! charge comes next.

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

/// A charge to be made.
pub struct Charge<'a> {
    pub tenant: &'a str,
    /// The id of a response or a conversation.
    pub object: &'a str,
    /// Beside what it is charged with already.
    pub bytes: u64,
    pub keep: Duration,
    pub is_response: bool,
    pub key: Option<&'a KeyQuota>,
}

impl RedisInner {
    /// Charges a tenant.
    ///
    /// # Errors
    /// `OverQuota`, and nothing is charged; those of the store.
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

    /// The object has so many bytes now and ends after `keep`. A ledger that cannot be told is wrong until then.
    pub async fn correct(&self, tenant: &str, object: &str, (bytes, keep): (u64, Duration)) {
        let mut correct = ledger::CORRECT.prepare_invoke();
        correct.arg(object).arg(bytes).arg(ms(keep));
        self.note(tenant, correct).await;
    }

    /// The object is gone.
    pub async fn uncharge(&self, tenant: &str, object: &str) {
        self.correct(tenant, object, (0, Duration::ZERO)).await;
    }

    /// What was charged last was not written.
    pub async fn take_back(&self, tenant: &str, object: &str, bytes: u64) {
        let mut take_back = ledger::TAKE_BACK.prepare_invoke();
        take_back.arg(object).arg(bytes);
        self.note(tenant, take_back).await;
    }

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
            tracing::debug!(%error, "a tenant's storage is counted wrongly until it expires");
        }
    }

    fn ledger(&self, tenant: &str) -> [String; 2] {
        [self.keys.tenant(tenant, "stored:ends"), self.keys.tenant(tenant, "stored")]
    }

    /// What quotas are parts of; `None`: nothing bounds this Redis.
    fn bound(&self) -> Option<u64> {
        let set = self.config.max_bytes;
        Some(if set > 0 { set } else { self.maxmemory.load(Ordering::Relaxed) }).filter(|bound| *bound > 0)
    }

    /// Asks for Redis' own bound, where quotas are parts of it.
    pub async fn ask_maxmemory(&self) {
        let mut ask = fleet::READ_MAXMEMORY.prepare_invoke();
        ask.key(self.keys.replicas());
        if let Ok(bytes) = self.script::<String>(&ask).await {
            self.maxmemory.store(bytes.parse().unwrap_or(0), Ordering::Relaxed);
        }
    }
}
