//! Use of stored prompts: expands them into requests, and computes their constant beginnings ahead while the engine is idle.

use std::{collections::HashMap, sync::Weak, time::Duration};

use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{prompt::prompt, request::request};
use crate::{
    clock::unix_seconds,
    generation::{
        Generations,
        refusal::{Named, store_error},
    },
    store::{
        Header, LOG_VERSION, TruncatedItems,
        prompts::{StoredPrompt, Use, weight},
    },
    wire::{error::WireError, input::InputItem, prompt::PutPrompt, request::Create},
};

/// Stored prompts to warm, for each model served.
const HOT: usize = 8;
/// The interval between reads of which stored prompts are used most.
const REFRESH: Duration = Duration::from_secs(10);
/// The interval between checks, while a prompt is warmed, of whether a request needs its place in the engine.
const YIELD_CHECK: Duration = Duration::from_millis(20);

impl Generations {
    /// Stores a new version of a prompt, or a new prompt if `put` has no id. Returns it with its version.
    pub async fn put_prompt(&self, tenant: &str, put: PutPrompt) -> Result<StoredPrompt, WireError> {
        let id = put.id.unwrap_or_else(|| format!("pmpt_{}", crate::random::random_hex()));
        let prompt = StoredPrompt {
            id: id.clone(),
            tenant: tenant.to_owned(),
            version: 0,
            created_at: unix_seconds(),
            template: put.template,
        };
        self.prompts.put(prompt).await.map_err(|error| store_error(error, Named::Prompt(&id)))
    }

    /// Expands the request's stored prompt into the request, and counts a use of it with the model. The request's own instructions
    /// replace the prompt's.
    ///
    /// # Errors
    /// `prompt_not_found`; `invalid_request` if the variables do not match, or neither request nor prompt has a message.
    pub(in crate::generation) async fn expand(
        &self,
        tenant: &str,
        create: &mut Create,
        model: &str,
    ) -> Result<(), WireError> {
        let Some(used) = &mut create.prompt else { return Ok(()) };
        let version = used.version.as_deref().and_then(|version| version.parse().ok());
        let stored =
            self.prompts.get(tenant, &used.id, version).await.map_err(|e| store_error(e, Named::Prompt(&used.id)))?;
        let values = std::mem::take(&mut used.variables);
        let template = stored.template.clone();
        // Off the connection's thread: filling in long values takes milliseconds of computation.
        let expanding = self.runtime.spawn_blocking(move || (template.expand(&values), values));
        let (expanded, values) = expanding.await.map_err(|error| {
            tracing::error!(%error, "filling in a stored prompt panicked");
            WireError::EngineFailed
        })?;
        used.variables = values;
        let expanded = expanded?;
        // The response reports the version, also if the request named none.
        used.version = Some(stored.version.to_string());
        create.instructions = create.instructions.take().or(expanded.instructions);
        create.preamble = expanded.messages;
        if create.input.is_empty() && create.preamble.is_empty() {
            return Err(WireError::invalid("input", "'input' is missing, and the prompt has no messages."));
        }
        let counted = Use { tenant: tenant.to_owned(), prompt: used.id.clone(), model: model.to_owned() };
        if let Err(error) = self.prompts.used(counted, weight(unix_seconds())).await {
            tracing::debug!(prompt = used.id, %error, "cannot count this use of the stored prompt");
        }
        Ok(())
    }

    /// Lets the engine compute the constant beginning of a stored prompt while it is idle. Returns `None` if this has to be tried
    /// again later.
    async fn warm_one(&self, stored: &StoredPrompt, model: &str) -> Option<()> {
        // One place stays free for the next request. If this replica does not serve the model, another one warms the prompt.
        let model = self.model(Some(model)).ok()?;
        if self.is_draining() || self.admission.idle(&model.id) < 2 {
            return None;
        }
        let constant = stored.template.constant();
        let messages: Vec<InputItem> = constant.messages.into_iter().map(InputItem::Message).collect();
        if messages.is_empty() && constant.instructions.is_none() {
            return Some(());
        }
        let create = Create::with_input(json!({"instructions": constant.instructions, "generate": false}), messages);
        let create = create.ok()?;
        let (engine, id) = (self.engine.clone(), format!("warm_{}", crate::random::random_hex()));
        let header = Header {
            version: LOG_VERSION,
            id: id.clone(),
            tenant: stored.tenant.clone(),
            created_at: unix_seconds(),
            model: model.id.clone(),
            seed: 0,
            spec: create.into(),
            prompt: vec![],
            max_output_tokens: 0,
            dialect: model.dialect.clone(),
            left_out: TruncatedItems::default(),
            holding: Default::default(),
            sharing: None,
            on_disconnect: Default::default(),
            origin: Default::default(),
            key_quota: None,
        };
        let rendered = self.runtime.spawn_blocking(move || {
            let prompt = prompt(&header.dialect, &header.spec, header.spec.input.iter());
            let prompt = engine.tokenize(&header.model, &prompt).ok()?;
            Some(Header { prompt, ..header })
        });
        // Some templates refuse a prompt without a question. Such a prompt is not tried again.
        let Some(header) = rendered.await.ok()? else { return Some(()) };
        let mut ticket = self.admission.enter(&header).ok()?;
        if ticket.waits {
            return None;
        }
        let _permit = ticket.admitted().await?;
        let stop = CancellationToken::new();
        let mut deltas = self.engine.generate(&header.model, request(&header, vec![], stop.clone()).ok()?).ok()?;
        loop {
            tokio::select! {
                delta = deltas.recv() => if delta.is_none() { break },
                () = sleep(YIELD_CHECK) => if self.admission.idle(&header.model) == 0 { stop.cancel() },
            }
        }
        (!stop.is_cancelled()).then_some(())
    }
}

/// Warms the stored prompts that are used most, each with the models that it is used with. Runs until the service is dropped.
pub async fn warm(generations: Weak<Generations>) {
    let mut warmed: HashMap<Use, u32> = HashMap::new();
    loop {
        {
            let Some(generations) = generations.upgrade() else { return };
            let count = HOT * generations.engine.models().len();
            let hot = generations.prompts.hot(count).await.unwrap_or_default();
            warmed.retain(|used, _| hot.contains(used));
            for used in hot {
                let Ok(stored) = generations.prompts.get(&used.tenant, &used.prompt, None).await else { continue };
                let is_warm = warmed.get(&used) == Some(&stored.version);
                if !is_warm && generations.warm_one(&stored, &used.model).await.is_some() {
                    tracing::debug!(prompt = stored.id, version = stored.version, model = used.model, "warmed");
                    warmed.insert(used, stored.version);
                }
            }
        }
        sleep(REFRESH).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use futures::future::BoxFuture;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        engine::{
            Capacity, Delta, Engine, EngineError, GenerateRequest, Grammar, ModelInfo, ModelStatus, ReloadError,
            Reloaded,
            prompt::Prompt,
            scripted::{Scripted, ScriptedSettings},
        },
        settings::{Settings, Sources},
        store::{
            Retention, Stores, conversations,
            memory::{MemoryCache, MemoryConversations, MemoryLimits, MemoryPrompts, MemoryRates, MemoryStore},
            quota::StorageQuotas,
        },
        wire::prompt::Template,
    };

    /// Two models of one engine, which notes what it is asked to compute.
    struct Two {
        one: Scripted,
        asked: Mutex<Vec<(String, usize)>>,
    }

    impl Engine for Two {
        fn models(&self) -> Vec<Arc<ModelInfo>> {
            let model = |id: &str| Arc::new(ModelInfo { id: id.into(), ..ModelInfo::clone(&self.one.models()[0]) });
            vec![model("one"), model("two")]
        }

        fn tokenize(&self, _: &str, prompt: &Prompt) -> Result<Vec<u32>, EngineError> {
            self.one.tokenize("scripted", prompt)
        }

        fn check(&self, _: &str, _: &Grammar, _: u32) -> Result<(), EngineError> {
            Ok(())
        }

        fn capacity(&self, _: &str) -> Capacity {
            Capacity { sequences: 4, tokens: None }
        }

        fn status(&self) -> Vec<ModelStatus> {
            vec![]
        }

        fn reload<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<Reloaded, ReloadError>> {
            self.one.reload(model)
        }

        fn kv_blocks(&self, _: &str) -> Option<crate::engine::KvBlocks> {
            None
        }

        fn generate(&self, model: &str, request: GenerateRequest) -> Result<mpsc::Receiver<Delta>, EngineError> {
            self.asked.lock().push((model.to_owned(), request.prompt.len()));
            self.one.generate("scripted", request)
        }
    }

    #[tokio::test]
    async fn a_prompt_is_warmed_with_the_models_that_it_is_used_with() {
        let one = Scripted::new(ScriptedSettings { tokens_per_second: 0.0, ..ScriptedSettings::default() }, 4);
        let engine = Arc::new(Two { one, asked: Mutex::default() });
        let bounds = conversations::ConversationBounds { items: 9, bytes: 9999 };
        let limits =
            MemoryLimits { retention: Retention::for_tests(), max_bytes: 1 << 20, quotas: StorageQuotas::for_tests() };
        let stores = Stores {
            responses: Arc::new(MemoryStore::new(limits.clone())),
            conversations: Arc::new(MemoryConversations::new(limits, bounds)),
            prompts: Arc::new(MemoryPrompts::new(crate::store::conformance::prompts::BOUNDS)),
            cache: Arc::new(MemoryCache::new(1 << 20, Duration::from_secs(60))),
            rates: Arc::new(MemoryRates::default()),
            fleet: None,
            inventory: None,
        };
        for (id, words) in [("a", "one"), ("b", "one two"), ("c", "one two three")] {
            let template = Template { instructions: Some(words.into()), ..Template::default() };
            let prompt = StoredPrompt { id: id.into(), tenant: "t".into(), version: 0, created_at: 0, template };
            stores.prompts.put(prompt).await.unwrap();
        }
        let used = |prompt: &str, model: &str| Use { tenant: "t".into(), prompt: prompt.into(), model: model.into() };
        for (weight, used) in [used("b", "other"), used("a", "one"), used("b", "two")].into_iter().enumerate() {
            stores.prompts.used(used, 3.0 - weight as f64).await.unwrap();
        }
        let settings = Settings::load(&Sources::default()).unwrap();
        let _generations = Generations::new(engine.clone(), stores, &settings);
        let asked = caudal_tests::until("two prompts to be warmed", || async {
            Some(engine.asked.lock().clone()).filter(|asked| asked.len() >= 2)
        })
        .await;
        assert_eq!(asked, [("one".to_owned(), 3), ("two".to_owned(), 4)]);
    }
}
