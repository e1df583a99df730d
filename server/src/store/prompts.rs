//! The contract of the stores of prompts: templates of a tenant, in versions.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    error::StoreError,
    page::{Listed, Page},
};
use crate::wire::prompt::Template;

/// One version of a stored prompt. Immutable: a change makes the next version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredPrompt {
    pub id: String,
    pub tenant: String,
    /// Counts from 1.
    pub version: u32,
    /// When this version was created, in Unix seconds.
    pub created_at: u64,
    pub template: Template,
}

impl StoredPrompt {
    /// Returns the bytes that the version counts for the bounds.
    pub fn bytes(&self) -> usize {
        serde_json::to_string(self).map_or(0, |json| json.len())
    }
}

/// Bounds of a tenant: number of prompts, versions of each prompt, bytes of all versions.
#[derive(Debug, Clone, Copy)]
pub struct PromptBounds {
    pub prompts: usize,
    pub versions: u32,
    pub bytes: usize,
}

/// A use counts half as much after this many seconds.
const HALF_LIFE: f64 = 7.0 * 86400.0;
/// The time at which a use counts 1: 2026-01-01.
const EPOCH: u64 = 1_767_225_600;

/// Returns the weight of a use at this time. The weight grows with time, so earlier uses lose relative weight without being
/// rewritten.
pub fn weight(unix_seconds: u64) -> f64 {
    (unix_seconds.saturating_sub(EPOCH) as f64 / HALF_LIFE).exp2()
}

/// The use of a prompt with a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Use {
    pub tenant: String,
    pub prompt: String,
    pub model: String,
}

/// A store of prompts. Prompts are stored until they are deleted. Every method MUST be atomic, and fails with `Unavailable` if the
/// store cannot be reached.
#[async_trait]
pub trait Prompts: Send + Sync + 'static {
    /// Stores version 1 of a prompt, or the next version if the tenant has a prompt with this id. Ignores `prompt.version`. Returns
    /// the stored version. Fails with `OverBounds` if the tenant's bounds would be exceeded, and with `StoreFull` if the store has
    /// no room.
    async fn put(&self, prompt: StoredPrompt) -> Result<StoredPrompt, StoreError>;

    /// Returns a version of a prompt, or the latest for `None`. Fails with `NotFound` if the tenant has no such prompt or version.
    async fn get(&self, tenant: &str, id: &str, version: Option<u32>) -> Result<StoredPrompt, StoreError>;

    /// Returns a page of the latest versions, ordered by the creation of the prompts; `CursorNotFound` if `page.after` is not among
    /// them.
    async fn list(&self, tenant: &str, page: &Page) -> Result<Listed<StoredPrompt>, StoreError>;

    /// Deletes a prompt with all its versions and uses. Fails with `NotFound` if the tenant has no such prompt.
    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError>;

    /// Adds the [`weight`] of a use. May fail with `NotFound` if the prompt was deleted.
    async fn used(&self, used: Use, weight: f64) -> Result<(), StoreError>;

    /// Returns the uses with the greatest sums of weights, of all tenants, greatest first.
    async fn hot(&self, count: usize) -> Result<Vec<Use>, StoreError>;
}
