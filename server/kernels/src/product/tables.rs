//! The packed embedding tables of this process. Weights with the same contents share their memory.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::tiles::Packed;

/// Packed tables. Many models use their embedding table also as the weight of their last product, and load it twice.
static TABLES: Mutex<Vec<Weak<Packed>>> = Mutex::new(Vec::new());

/// Adds a table. Weights with the same contents that are packed afterwards share its memory.
pub(crate) fn add(table: &Arc<Packed>) {
    TABLES.lock().push(Arc::downgrade(table));
}

/// Returns a table with the same contents if there is one, else the weight.
pub(crate) fn share(weight: Packed) -> Arc<Packed> {
    let mut tables = TABLES.lock();
    tables.retain(|table| table.strong_count() > 0);
    let same = |table: &Arc<Packed>| {
        (table.format, table.n, table.k) == (weight.format, weight.n, weight.k) && table.bytes() == weight.bytes()
    };
    tables.iter().filter_map(Weak::upgrade).find(same).unwrap_or_else(|| Arc::new(weight))
}
