//! The stores of one kind, together.

use std::sync::Arc;

use super::{
    cache::PromptCache, conversations::Conversations, fleet::Fleet, inventory::Inventory, prompts::Prompts,
    rates::Rates, responses::Store,
};

/// All that one kind of store keeps.
#[derive(Clone)]
pub struct Stores {
    pub responses: Arc<dyn Store>,
    pub conversations: Arc<dyn Conversations>,
    pub prompts: Arc<dyn Prompts>,
    pub cache: Arc<dyn PromptCache>,
    pub rates: Arc<dyn Rates>,
    /// Where replicas share them.
    pub fleet: Option<Arc<dyn Fleet>>,
    /// Where everything can be listed, to be copied to another store.
    pub inventory: Option<Arc<dyn Inventory>>,
}
