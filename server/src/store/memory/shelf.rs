//! A store of values in memory, each for a limited time, within each tenant's quota and a bound on all tenants together. If there
//! is no room, the least recently used values are evicted: first those of the writing tenant, then those of the tenant with the
//! most bytes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

use crate::store::quota::StorageQuota;

pub struct Shelf<V> {
    state: Mutex<ShelfState<V>>,
    max_bytes: u64,
}

/// A value to be stored.
pub struct Stored<V> {
    pub tenant: String,
    /// A key of the tenant, and the key's quota in bytes.
    pub key: Option<(String, u64)>,
    pub value: V,
    pub bytes: u64,
    pub keep: Duration,
}

struct ShelfState<V> {
    slots: HashMap<String, ShelfSlot<V>>,
    accounts: HashMap<Account, Pile>,
    bytes: u64,
    /// Counts uses. A greater number is a later use.
    uses: u64,
    ends: BTreeSet<(Instant, String)>,
}

struct ShelfSlot<V> {
    stored: Stored<V>,
    used: u64,
    until: Instant,
}

/// A tenant, or a key of a tenant.
type Account = (String, Option<String>);

/// The values of an account: ids by the number of their last use.
#[derive(Default)]
struct Pile {
    bytes: u64,
    by_use: BTreeMap<u64, String>,
}

impl<V: Clone> Shelf<V> {
    pub fn new(max_bytes: u64) -> Self {
        let state =
            ShelfState { slots: HashMap::new(), accounts: HashMap::new(), bytes: 0, uses: 0, ends: BTreeSet::new() };
        Self { state: Mutex::new(state), max_bytes }
    }

    /// Stores a value, or replaces the one with the same id. `quota`: the tenant's quota on this shelf. Returns the values that
    /// were removed: evicted and expired ones, and the new one if it is larger than the quota.
    pub fn put(&self, id: &str, stored: Stored<V>, quota: StorageQuota) -> Vec<V> {
        let mut state = self.state();
        state.take(id);
        let (tenant, key) = (stored.tenant.clone(), stored.key.clone());
        state.add(id, stored);
        state.make_room(self.max_bytes, (tenant, key), quota)
    }

    /// Sets the bytes of a value and starts its time anew. Does nothing if there is no such value. Returns the values that were
    /// removed.
    pub fn renew(&self, id: &str, bytes: u64, quota: StorageQuota) -> Vec<V> {
        let mut state = self.state();
        let Some(slot) = state.take(id) else { return vec![] };
        let (tenant, key) = (slot.stored.tenant.clone(), slot.stored.key.clone());
        state.add(id, Stored { bytes, ..slot.stored });
        state.make_room(self.max_bytes, (tenant, key), quota)
    }

    /// Returns a value, which counts as used now.
    pub fn get(&self, id: &str) -> Option<V> {
        let mut state = self.state();
        if state.slots.get(id)?.until <= Instant::now() {
            state.take(id);
            return None;
        }
        let ShelfState { slots, accounts, uses, .. } = &mut *state;
        let slot = slots.get_mut(id)?;
        *uses += 1;
        for account in accounts_of(&slot.stored) {
            if let Some(pile) = accounts.get_mut(&account)
                && let Some(id) = pile.by_use.remove(&slot.used)
            {
                pile.by_use.insert(*uses, id);
            }
        }
        slot.used = *uses;
        Some(slot.stored.value.clone())
    }

    pub fn remove(&self, id: &str) -> Option<V> {
        Some(self.state().take(id)?.stored.value)
    }

    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.state().bytes
    }

    fn state(&self) -> MutexGuard<'_, ShelfState<V>> {
        self.state.lock()
    }
}

fn accounts_of<V>(stored: &Stored<V>) -> impl Iterator<Item = Account> + use<V> {
    let key = stored.key.as_ref().map(|(key, _)| (stored.tenant.clone(), Some(key.clone())));
    [(stored.tenant.clone(), None)].into_iter().chain(key)
}

impl<V> ShelfState<V> {
    fn add(&mut self, id: &str, stored: Stored<V>) {
        self.uses += 1;
        self.bytes += stored.bytes;
        for account in accounts_of(&stored) {
            let pile = self.accounts.entry(account).or_default();
            pile.bytes += stored.bytes;
            pile.by_use.insert(self.uses, id.to_owned());
        }
        let now = Instant::now();
        let until = now.checked_add(stored.keep).unwrap_or(now + Duration::from_secs(u32::MAX.into()));
        self.ends.insert((until, id.to_owned()));
        self.slots.insert(id.to_owned(), ShelfSlot { stored, used: self.uses, until });
    }

    fn take(&mut self, id: &str) -> Option<ShelfSlot<V>> {
        let (id, slot) = self.slots.remove_entry(id)?;
        self.bytes -= slot.stored.bytes;
        for account in accounts_of(&slot.stored) {
            if let Some(pile) = self.accounts.get_mut(&account) {
                pile.bytes -= slot.stored.bytes;
                pile.by_use.remove(&slot.used);
                if pile.by_use.is_empty() {
                    self.accounts.remove(&account);
                }
            }
        }
        self.ends.remove(&(slot.until, id));
        Some(slot)
    }

    /// Removes expired values, then evicts values beyond the quotas of the key and the tenant, then values beyond the bound on all
    /// tenants.
    fn make_room(
        &mut self,
        max_bytes: u64,
        (tenant, key): (String, Option<(String, u64)>),
        quota: StorageQuota,
    ) -> Vec<V> {
        let (mut left, now) = (vec![], Instant::now());
        while let Some((until, id)) = self.ends.first().cloned()
            && until <= now
        {
            left.extend(self.take(&id));
        }
        if let Some((key, bytes)) = key {
            let of_key = StorageQuota { bytes, responses: u64::MAX };
            self.evict(&(tenant.clone(), Some(key)), of_key, &mut left);
        }
        self.evict(&(tenant, None), quota, &mut left);
        while self.bytes > max_bytes {
            let tenants = self.accounts.iter().filter(|((_, key), _)| key.is_none());
            let largest = tenants.max_by_key(|(_, pile)| pile.bytes).and_then(|(_, pile)| pile.oldest());
            let Some(slot) = largest.and_then(|id| self.take(&id)) else { break };
            left.push(slot);
        }
        left.into_iter().map(|slot| slot.stored.value).collect()
    }

    fn evict(&mut self, account: &Account, quota: StorageQuota, left: &mut Vec<ShelfSlot<V>>) {
        while let Some(pile) = self.accounts.get(account)
            && (pile.bytes > quota.bytes || pile.by_use.len() as u64 > quota.responses)
            && let Some(oldest) = pile.oldest()
        {
            left.extend(self.take(&oldest));
        }
    }
}

impl Pile {
    fn oldest(&self) -> Option<String> {
        self.by_use.first_key_value().map(|(_, id)| id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: StorageQuota = StorageQuota { bytes: u64::MAX, responses: u64::MAX };

    fn stored(tenant: &str, bytes: u64) -> Stored<u64> {
        Stored { tenant: tenant.into(), key: None, value: bytes, bytes, keep: Duration::from_secs(60) }
    }

    #[test]
    fn a_tenant_over_its_quota_loses_what_it_used_longest_ago() {
        let (shelf, quota) = (Shelf::new(1000), StorageQuota { bytes: 100, responses: 3 });
        shelf.put("other", stored("other", 90), quota);
        for id in ["a", "b", "c"] {
            assert!(shelf.put(id, stored("t", 30), quota).is_empty());
        }
        shelf.get("a");
        assert_eq!(shelf.put("d", stored("t", 31), quota).len(), 1, "more than three");
        assert_eq!(["a", "b", "c", "d", "other"].map(|id| shelf.get(id).is_some()), [true, false, true, true, true]);
        shelf.renew("a", 60, quota);
        assert_eq!(["a", "c", "d"].map(|id| shelf.get(id).is_some()), [true, false, true], "more than 100 bytes");
        assert_eq!(shelf.put("e", stored("t", 101), quota).len(), 3, "what is larger than the quota is not stored");
        assert_eq!(shelf.bytes(), 90);
    }

    #[test]
    fn a_full_shelf_takes_from_the_tenant_that_holds_most() {
        let shelf = Shelf::new(100);
        for n in 0..9 {
            shelf.put(&format!("big_{n}"), stored("big", 10), NONE);
        }
        shelf.put("s1", stored("small", 10), NONE);
        shelf.put("s2", stored("small", 10), NONE);
        assert_eq!(["big_0", "s1", "s2"].map(|id| shelf.get(id).is_some()), [false, true, true]);
        for n in 9..100 {
            shelf.put(&format!("big_{n}"), stored("big", 10), NONE);
        }
        assert_eq!((shelf.get("s1").is_some(), shelf.bytes()), (true, 100));
    }

    #[test]
    fn a_key_evicts_only_its_own_and_time_ends() {
        let shelf = Shelf::new(1000);
        let of_key = |bytes| Stored { key: Some(("k".into(), 25)), ..stored("t", bytes) };
        shelf.put("tenants", stored("t", 10), NONE);
        for id in ["a", "b", "c"] {
            shelf.put(id, of_key(10), NONE);
        }
        assert_eq!(["tenants", "a", "b", "c"].map(|id| shelf.get(id).is_some()), [true, false, true, true]);
        shelf.put("gone", Stored { keep: Duration::ZERO, ..stored("t", 10) }, NONE);
        assert_eq!((shelf.get("gone"), shelf.remove("b"), shelf.bytes()), (None, Some(10), 20));
    }
}
