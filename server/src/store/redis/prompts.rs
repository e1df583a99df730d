//! Stored prompts on Redis. All prompts of a tenant are in one slot; the uses of all tenants' prompts are in another.

use ::redis::cmd;
use async_trait::async_trait;

use super::{
    handle::RedisStore,
    keys::MAX_ID,
    scripts::{index, prompt},
};
use crate::store::{
    StoreError,
    page::{Listed, Order, Page},
    prompts::{PromptBounds, Prompts, StoredPrompt, Use},
};

/// The maximum of pairs of prompt and model whose uses are counted.
const MAX_HOT: usize = 1000;

pub struct RedisPrompts {
    store: RedisStore,
    bounds: PromptBounds,
}

impl RedisStore {
    /// Opens the stored prompts in the same Redis, over the same connections.
    pub fn prompts(&self, bounds: PromptBounds) -> RedisPrompts {
        RedisPrompts { store: self.clone(), bounds }
    }
}

fn unreadable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("a prompt that this version cannot read: {error}"))
}

fn member(used: &Use) -> Result<String, StoreError> {
    serde_json::to_string(used).map_err(unreadable)
}

impl RedisPrompts {
    fn keys(&self, tenant: &str, id: &str) -> [String; 3] {
        let keys = &self.store.0.keys;
        [
            keys.tenant(tenant, "prompts"),
            keys.tenant(tenant, &format!("prompt:{id}")),
            keys.tenant(tenant, "prompts:bytes"),
        ]
    }
}

#[async_trait]
impl Prompts for RedisPrompts {
    async fn put(&self, mut prompt: StoredPrompt) -> Result<StoredPrompt, StoreError> {
        let json = serde_json::to_string(&prompt).map_err(unreadable)?;
        let mut put = prompt::PUT.prepare_invoke();
        for key in self.keys(&prompt.tenant, &prompt.id) {
            put.key(key);
        }
        let mut call = [0; 16];
        getrandom::fill(&mut call).map_err(unreadable)?;
        put.arg(&prompt.id).arg(json).arg(hex::encode(call));
        put.arg(self.bounds.prompts).arg(self.bounds.versions).arg(self.bounds.bytes);
        prompt.version = self.store.0.script(&put).await?;
        if prompt.version == 0 { Err(StoreError::OverBounds) } else { Ok(prompt) }
    }

    async fn get(&self, tenant: &str, id: &str, version: Option<u32>) -> Result<StoredPrompt, StoreError> {
        if id.len() > MAX_ID {
            return Err(StoreError::NotFound);
        }
        let [_, key, _] = self.keys(tenant, id);
        let mut get = prompt::GET.prepare_invoke();
        get.key(key).arg(version.map(|version| version.to_string()).unwrap_or_default());
        let found: Option<(u32, String)> = self.store.0.script(&get).await?;
        let (version, json) = found.ok_or(StoreError::NotFound)?;
        let prompt: StoredPrompt = serde_json::from_str(&json).map_err(unreadable)?;
        Ok(StoredPrompt { version, ..prompt })
    }

    async fn list(&self, tenant: &str, page: &Page) -> Result<Listed<StoredPrompt>, StoreError> {
        let [index, _, _] = self.keys(tenant, "");
        let wanted = i64::try_from(page.limit).ok().and_then(|limit| limit.checked_add(1)).unwrap_or(-1);
        let mut list = index::PAGE.prepare_invoke();
        list.key(index).arg(page.after.as_deref().unwrap_or_default()).arg(wanted);
        list.arg(u8::from(page.order == Order::Descending));
        let ids: Option<Vec<String>> = self.store.0.script(&list).await?;
        let ids = ids.ok_or(StoreError::CursorNotFound)?;
        let latest = futures::future::join_all(ids.iter().map(|id| self.get(tenant, id, None))).await;
        // Skips prompts that were deleted a moment ago.
        let found = latest.into_iter().filter(|found| !matches!(found, Err(StoreError::NotFound)));
        Ok(Listed::cut(found.collect::<Result<_, _>>()?, page.limit))
    }

    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let mut delete = prompt::DELETE.prepare_invoke();
        for key in self.keys(tenant, id) {
            delete.key(key);
        }
        delete.arg(id);
        if self.store.0.script::<u8>(&delete).await? == 0 {
            return Err(StoreError::NotFound);
        }
        let of_no_model = member(&Use { tenant: tenant.into(), prompt: id.into(), model: String::new() })?;
        let mut forget = prompt::FORGET_USES.prepare_invoke();
        forget.key(self.store.0.keys.hot_prompts()).arg(of_no_model.trim_end_matches("\"}"));
        Ok(self.store.0.script(&forget).await?)
    }

    async fn used(&self, used: Use, weight: f64) -> Result<(), StoreError> {
        let mut count = prompt::COUNT_USE.prepare_invoke();
        count.key(self.store.0.keys.hot_prompts()).arg(member(&used)?).arg(weight).arg(MAX_HOT);
        self.store.0.script::<()>(&count).await?;
        Ok(())
    }

    async fn hot(&self, count: usize) -> Result<Vec<Use>, StoreError> {
        let mut hot = cmd("ZREVRANGE");
        hot.arg(self.store.0.keys.hot_prompts()).arg(0).arg(count as i64 - 1);
        let members: Vec<String> = self.store.0.query(&hot).await?;
        // Skips uses that another version has written and this one cannot read.
        Ok(members.iter().filter_map(|member| serde_json::from_str(member).ok()).collect())
    }
}
