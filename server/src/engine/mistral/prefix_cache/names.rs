//! Maps names of blocks to numbers of blocks in the cache's tensors.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::engine::kv::BlockName;

/// The number of a block in the cache's tensors.
pub type BlockId = u32;

/// Full blocks by name. Only the engine's thread changes the map; other threads read it.
#[derive(Clone, Default)]
pub struct CachedNames(Arc<Mutex<HashMap<BlockName, BlockId>>>);

impl CachedNames {
    /// Returns how many blocks of a chain are cached, counted from its first to the first that is missing.
    pub fn count(&self, chain: impl IntoIterator<Item = BlockName>) -> usize {
        let names = self.0.lock();
        chain.into_iter().take_while(|name| names.contains_key(name)).count()
    }

    pub(super) fn get(&self, name: &BlockName) -> Option<BlockId> {
        self.0.lock().get(name).copied()
    }

    /// Names a block. Returns `false` if another block has the name.
    pub(super) fn insert(&self, name: BlockName, id: BlockId) -> bool {
        match self.0.lock().entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(id);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    pub(super) fn remove(&self, name: &BlockName) {
        self.0.lock().remove(name);
    }

    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}
