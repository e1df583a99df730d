//! Stored prompts in memory. They are lost when the process ends.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};

use crate::store::{
    StoreError,
    page::{Listed, Order, Page},
    prompts::{PromptBounds, Prompts, StoredPrompt, Use},
};

pub struct MemoryPrompts {
    tenants: Mutex<HashMap<String, StoredPrompts>>,
    bounds: PromptBounds,
}

#[derive(Default)]
struct StoredPrompts {
    next: u64,
    /// In the order of creation.
    order: BTreeMap<u64, String>,
    prompts: HashMap<String, Versions>,
    bytes: usize,
}

struct Versions {
    number: u64,
    versions: Vec<StoredPrompt>,
    /// Model → sum of the weights of its uses.
    uses: HashMap<String, f64>,
}

impl MemoryPrompts {
    pub fn new(bounds: PromptBounds) -> Self {
        Self { tenants: Mutex::default(), bounds }
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<String, StoredPrompts>> {
        self.tenants.lock()
    }
}

#[async_trait]
impl Prompts for MemoryPrompts {
    async fn put(&self, mut prompt: StoredPrompt) -> Result<StoredPrompt, StoreError> {
        let mut tenants = self.tenants();
        let kept = tenants.entry(prompt.tenant.clone()).or_default();
        let (count, bytes) = (kept.prompts.len(), kept.bytes + prompt.bytes());
        let versions = kept.prompts.get(&prompt.id).map_or(0, |known| known.versions.len());
        if bytes > self.bounds.bytes
            || versions >= self.bounds.versions as usize
            || (versions == 0 && count >= self.bounds.prompts)
        {
            return Err(StoreError::OverBounds);
        }
        kept.bytes = bytes;
        prompt.version = versions as u32 + 1;
        let known = kept.prompts.entry(prompt.id.clone()).or_insert_with(|| {
            kept.next += 1;
            kept.order.insert(kept.next, prompt.id.clone());
            Versions { number: kept.next, versions: vec![], uses: HashMap::new() }
        });
        known.versions.push(prompt.clone());
        Ok(prompt)
    }

    async fn get(&self, tenant: &str, id: &str, version: Option<u32>) -> Result<StoredPrompt, StoreError> {
        let tenants = self.tenants();
        let known = tenants.get(tenant).and_then(|kept| kept.prompts.get(id)).ok_or(StoreError::NotFound)?;
        let found = match version {
            Some(version) => known.versions.get((version as usize).wrapping_sub(1)),
            None => known.versions.last(),
        };
        found.cloned().ok_or(StoreError::NotFound)
    }

    async fn list(&self, tenant: &str, page: &Page) -> Result<Listed<StoredPrompt>, StoreError> {
        let tenants = self.tenants();
        let Some(kept) = tenants.get(tenant) else {
            return if page.after.is_some() { Err(StoreError::CursorNotFound) } else { Ok(Listed::cut(vec![], 0)) };
        };
        let after = match &page.after {
            Some(id) => Some(kept.prompts.get(id).ok_or(StoreError::CursorNotFound)?.number),
            None => None,
        };
        let ids: Box<dyn Iterator<Item = &String>> = match page.order {
            Order::Ascending => Box::new(kept.order.range(after.map_or(0, |n| n + 1)..).map(|(_, id)| id)),
            Order::Descending => Box::new(kept.order.range(..after.unwrap_or(u64::MAX)).rev().map(|(_, id)| id)),
        };
        let latest = ids.filter_map(|id| kept.prompts.get(id)?.versions.last()).cloned();
        Ok(Listed::cut(latest.take(page.limit.saturating_add(1)).collect(), page.limit))
    }

    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let mut tenants = self.tenants();
        let kept = tenants.get_mut(tenant).ok_or(StoreError::NotFound)?;
        let known = kept.prompts.remove(id).ok_or(StoreError::NotFound)?;
        kept.order.remove(&known.number);
        kept.bytes -= known.versions.iter().map(StoredPrompt::bytes).sum::<usize>();
        Ok(())
    }

    async fn used(&self, used: Use, weight: f64) -> Result<(), StoreError> {
        let mut tenants = self.tenants();
        let kept = tenants.get_mut(&used.tenant).ok_or(StoreError::NotFound)?;
        let known = kept.prompts.get_mut(&used.prompt).ok_or(StoreError::NotFound)?;
        *known.uses.entry(used.model).or_default() += weight;
        Ok(())
    }

    async fn hot(&self, count: usize) -> Result<Vec<Use>, StoreError> {
        let tenants = self.tenants();
        let mut used = vec![];
        for (tenant, kept) in tenants.iter() {
            for (prompt, known) in &kept.prompts {
                used.extend(known.uses.iter().map(|(model, uses)| (*uses, tenant, prompt, model)));
            }
        }
        used.sort_by(|a, b| b.0.total_cmp(&a.0));
        let hot = used.into_iter().take(count).map(|(_, tenant, prompt, model)| Use {
            tenant: tenant.clone(),
            prompt: prompt.clone(),
            model: model.clone(),
        });
        Ok(hot.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::prompts as conformance;

    #[tokio::test]
    async fn conforms() {
        conformance::all(async || MemoryPrompts::new(conformance::BOUNDS)).await;
    }
}
