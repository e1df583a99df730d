//! Stored prompts in use: expanded into a request, and warmed in this replica's engines while slots are idle.

use std::{collections::HashMap, sync::Weak, time::Duration};

use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Generations, clock::unix_seconds, prompt::prompt, request::request};
use crate::{
    store::{
        Header, LOG_VERSION, LeftOut,
        prompts::{PromptError, StoredPrompt, weight},
    },
    wire::{error::WireError, input::InputItem, prompt::PutPrompt, request::Create},
};

/// Prompts that are kept warm, and between looks at which those are.
const HOT: usize = 8;
const LOOK: Duration = Duration::from_secs(10);
/// Between looks at whether the last idle slot is taken while a prompt is warmed.
const YIELD: Duration = Duration::from_millis(20);

/// How a store's error reads to the client that named prompt `id`.
pub fn prompt_error(error: PromptError, id: &str) -> WireError {
    match error {
        PromptError::NotFound => WireError::PromptNotFound(id.into()),
        PromptError::CursorNotFound => {
            WireError::invalid("after", "'after' names nothing in this list; it may have been deleted.")
        }
        PromptError::Full => WireError::InvalidRequest {
            param: None,
            message: "There is no room for another prompt or version. Delete some.".into(),
        },
        PromptError::Unavailable(reason) => {
            tracing::warn!(reason, "the store is unavailable");
            WireError::StoreUnavailable { retry_after_ms: 1000 }
        }
    }
}

impl Generations {
    pub async fn put_prompt(&self, tenant: &str, put: PutPrompt) -> Result<StoredPrompt, WireError> {
        let id = put.id.unwrap_or_else(|| format!("pmpt_{}", super::random_hex()));
        let prompt = StoredPrompt {
            id: id.clone(),
            tenant: tenant.to_owned(),
            version: 0,
            created_at: unix_seconds(),
            template: put.template,
        };
        self.prompts.put(prompt).await.map_err(|error| prompt_error(error, &id))
    }

    /// Puts what the request's stored prompt says into it. The request's own instructions stand before the prompt's.
    pub(super) async fn expand(&self, tenant: &str, create: &mut Create) -> Result<(), WireError> {
        let Some(used) = &mut create.prompt else { return Ok(()) };
        let version = used.version.as_deref().and_then(|version| version.parse().ok());
        let stored = self.prompts.get(tenant, &used.id, version).await.map_err(|e| prompt_error(e, &used.id))?;
        let expanded = stored.template.expand(&used.variables)?;
        // What was used is said, also when it was the latest.
        used.version = Some(stored.version.to_string());
        create.instructions = create.instructions.take().or(expanded.instructions);
        create.preamble = expanded.messages;
        if create.input.is_empty() && create.preamble.is_empty() {
            return Err(WireError::invalid("input", "'input' is missing, and the prompt has no messages."));
        }
        if let Err(error) = self.prompts.used(tenant, &used.id, weight(unix_seconds())).await {
            tracing::debug!(prompt = used.id, %error, "a use was not counted");
        }
        Ok(())
    }

    /// Lets the engine compute the constant beginning of a prompt, if it can be done without anybody waiting for it.
    async fn warm_one(&self, stored: &StoredPrompt) -> Option<()> {
        // One slot stays for whoever comes meanwhile.
        let model = self.engine.models().into_iter().next()?;
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
        let (engine, id) = (self.engine.clone(), format!("warm_{}", super::random_hex()));
        let header = Header {
            version: LOG_VERSION,
            id: id.clone(),
            tenant: stored.tenant.clone(),
            created_at: unix_seconds(),
            model: model.id.clone(),
            seed: 0,
            create,
            prompt: vec![],
            max_output_tokens: 0,
            dialect: model.dialect.clone(),
            left_out: LeftOut::default(),
            sharing: None,
        };
        let rendered = self.runtime.spawn_blocking(move || {
            let prompt = prompt(&header.dialect, &header.create, header.create.input.iter());
            let prompt = engine.tokenize(&header.model, &prompt).ok()?;
            Some(Header { prompt, ..header })
        });
        // A template that refuses a prompt without a question is not asked again.
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
                () = sleep(YIELD) => if self.admission.idle(&header.model) == 0 { stop.cancel() },
            }
        }
        (!stop.is_cancelled()).then_some(())
    }
}

/// Warms what is hot, now and whenever something else becomes hot.
pub async fn warm(generations: Weak<Generations>) {
    let mut warmed: HashMap<(String, String), u32> = HashMap::new();
    loop {
        {
            let Some(generations) = generations.upgrade() else { return };
            let hot = generations.prompts.hot(HOT).await.unwrap_or_default();
            warmed.retain(|prompt, _| hot.contains(prompt));
            for (tenant, id) in hot {
                let Ok(stored) = generations.prompts.get(&tenant, &id, None).await else { continue };
                let key = (tenant, id);
                if warmed.get(&key) != Some(&stored.version) && generations.warm_one(&stored).await.is_some() {
                    tracing::debug!(prompt = stored.id, version = stored.version, "warmed");
                    warmed.insert(key, stored.version);
                }
            }
        }
        sleep(LOOK).await;
    }
}
