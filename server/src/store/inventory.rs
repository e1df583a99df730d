//! Lists of all objects in a store, for copying it.

use async_trait::async_trait;

use super::error::StoreError;

/// The tenant and the id of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub tenant: String,
    pub id: String,
}

/// Lists the objects of all tenants, oldest first.
#[async_trait]
pub trait Inventory: Send + Sync + 'static {
    async fn responses(&self) -> Result<Vec<Name>, StoreError>;
    async fn conversations(&self) -> Result<Vec<Name>, StoreError>;
    async fn prompts(&self) -> Result<Vec<Name>, StoreError>;
}
