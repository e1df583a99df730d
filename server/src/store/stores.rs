//! All stores of one kind.

use std::sync::Arc;

use super::{
    cache::PromptCache, conversations::Conversations, fleet::Fleet, inventory::Inventory, prompts::Prompts,
    rates::Rates, responses::Store,
};

/// All stores of one kind.
#[derive(Clone)]
pub struct Stores {
    pub responses: Arc<dyn Store>,
    pub conversations: Arc<dyn Conversations>,
    pub prompts: Arc<dyn Prompts>,
    pub cache: Arc<dyn PromptCache>,
    pub rates: Arc<dyn Rates>,
    /// `None` for the memory store, which no other process can use.
    pub fleet: Option<Arc<dyn Fleet>>,
    /// Lists all objects, to copy them to another store; `None` for the memory store.
    pub inventory: Option<Arc<dyn Inventory>>,
}
