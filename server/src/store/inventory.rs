//! Lists of everything in a store, for copies of it.

use async_trait::async_trait;

use super::error::StoreError;

/// Whose something is, and its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub tenant: String,
    pub id: String,
}

/// What a store has, of all tenants, the oldest first.
#[async_trait]
pub trait Inventory: Send + Sync + 'static {
    async fn responses(&self) -> Result<Vec<Name>, StoreError>;
    async fn conversations(&self) -> Result<Vec<Name>, StoreError>;
    async fn prompts(&self) -> Result<Vec<Name>, StoreError>;
}
