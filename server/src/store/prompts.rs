//! Stored prompts: templates that a tenant keeps, in versions. This module owns the contract; `memory` and `redis` keep it.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    error::StoreError,
    page::{Listed, Page},
};
use crate::wire::prompt::Template;

/// One version of a stored prompt. Never changed; a change is the next version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredPrompt {
    pub id: String,
    pub tenant: String,
    /// From 1.
    pub version: u32,
    /// Of this version, Unix seconds.
    pub created_at: u64,
    pub template: Template,
}

impl StoredPrompt {
    /// What it counts for the bounds.
    pub fn bytes(&self) -> usize {
        serde_json::to_string(self).map_or(0, |json| json.len())
    }
}

/// Bounds of a tenant: prompts, versions of each, bytes of all.
#[derive(Debug, Clone, Copy)]
pub struct PromptBounds {
    pub prompts: usize,
    pub versions: u32,
    pub bytes: usize,
}

/// Half of what a use counts is left after so many seconds.
const HALF_LIFE: f64 = 7.0 * 86400.0;
/// An early use counts 1.
const EPOCH: u64 = 1_767_225_600;

/// What a use now counts beside uses of long ago: it grows with time, so that nothing has to be aged.
pub fn weight(unix_seconds: u64) -> f64 {
    (unix_seconds.saturating_sub(EPOCH) as f64 / HALF_LIFE).exp2()
}

/// A prompt in use with a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Use {
    pub tenant: String,
    pub prompt: String,
    pub model: String,
}

/// Where stored prompts live, until they are deleted. Every method is one atomic step, and every one names the tenant.
#[async_trait]
pub trait Prompts: Send + Sync + 'static {
    /// Stores version 1 of a prompt or, when the tenant has one with this id, its next version; the given `version` does
    /// not count.
    async fn put(&self, prompt: StoredPrompt) -> Result<StoredPrompt, StoreError>;

    /// A version, the latest with `None`.
    async fn get(&self, tenant: &str, id: &str, version: Option<u32>) -> Result<StoredPrompt, StoreError>;

    /// The latest versions, by the time the prompts were created.
    async fn list(&self, tenant: &str, page: &Page) -> Result<Listed<StoredPrompt>, StoreError>;

    /// Deletes a prompt with all its versions.
    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError>;

    /// Counts a use by its [`weight`].
    async fn used(&self, used: Use, weight: f64) -> Result<(), StoreError>;

    /// The most used prompts of all tenants and models, the hottest first.
    async fn hot(&self, count: usize) -> Result<Vec<Use>, StoreError>;
}
