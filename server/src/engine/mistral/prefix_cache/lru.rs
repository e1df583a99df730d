//! Decides which block is evicted next.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::names::BlockId;

/// Unused blocks by tenant, in the order of their last use.
#[derive(Default)]
pub struct Lru {
    tenants: HashMap<Arc<str>, BTreeMap<u64, BlockId>>,
    /// The tenant and the time of last use of each block.
    places: HashMap<BlockId, (Arc<str>, u64)>,
    clock: u64,
}

impl Lru {
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn push(&mut self, id: BlockId, tenant: &Arc<str>) {
        self.clock += 1;
        self.tenants.entry(tenant.clone()).or_default().insert(self.clock, id);
        self.places.insert(id, (tenant.clone(), self.clock));
    }

    pub fn remove(&mut self, id: BlockId) {
        if let Some((tenant, at)) = self.places.remove(&id) {
            self.forget(&tenant, at);
        }
    }

    /// Removes and returns the least recently used block of the tenant with the most blocks, so that no tenant loses a block to a
    /// tenant that has more.
    pub fn pop(&mut self) -> Option<BlockId> {
        let most = self.tenants.iter().max_by_key(|(_, blocks)| blocks.len());
        let (tenant, at, id) = most.and_then(|(tenant, blocks)| {
            let (at, id) = blocks.first_key_value()?;
            Some((tenant.clone(), *at, *id))
        })?;
        self.places.remove(&id);
        self.forget(&tenant, at);
        Some(id)
    }

    fn forget(&mut self, tenant: &Arc<str>, at: u64) {
        if let Some(blocks) = self.tenants.get_mut(tenant) {
            blocks.remove(&at);
            if blocks.is_empty() {
                self.tenants.remove(tenant);
            }
        }
    }
}
