//! Creating a response: its model, its history, its prompt; then it starts, alone, as a turn or from the prompt cache. When
//! `create` returns, the log exists and its generation goes on by itself.

use std::sync::Arc;

use super::{
    Generations,
    clock::unix_seconds,
    random::{random_hex, random_seed},
    start::CreatedResponse,
};
use crate::{
    engine::model::SamplingDefaults,
    store::{Header, LOG_VERSION, LeftOut},
    wire::{cache::CacheMode, error::WireError, reasoning::Effort, request::Create},
};

impl Generations {
    /// Creates a response, or finds the one that this `client_request_id` created before.
    ///
    /// `connection` names the connection's own `store: false` response, the only such one that may be continued.
    pub async fn create(
        self: &Arc<Self>,
        tenant: &str,
        create: Create,
        connection: Option<&str>,
    ) -> Result<CreatedResponse, WireError> {
        self.try_create(tenant, create, connection).await.inspect_err(|error| self.metrics.refused(error.code().0))
    }

    async fn try_create(
        self: &Arc<Self>,
        tenant: &str,
        mut create: Create,
        connection: Option<&str>,
    ) -> Result<CreatedResponse, WireError> {
        if self.is_draining() {
            return Err(WireError::Draining { retry_after_ms: 1000 });
        }
        self.quotas.enter(tenant).await?;
        let model = self.model(create.model.as_deref())?;
        self.expand(tenant, &mut create, &model.id).await?;
        complete(&mut create, model.sampling);
        let id = format!("resp_{}", random_hex());
        let place = match &create.conversation {
            Some(conversation) => Some(self.enter(tenant, conversation, &id).await?),
            None => None,
        };
        let previous = create.previous_response_id.clone();
        let header = Header {
            version: LOG_VERSION,
            id,
            tenant: tenant.to_owned(),
            created_at: unix_seconds(),
            model: model.id.clone(),
            seed: create.seed.unwrap_or_else(random_seed),
            dialect: match create.reasoning.effort {
                Some(Effort::None) => model.dialect.clone().without_thought(),
                _ => model.dialect.clone(),
            },
            create,
            prompt: vec![],
            max_output_tokens: 0,
            left_out: LeftOut::default(),
            holding: Default::default(),
            sharing: None,
        };
        if let Some(place) = place {
            return self.start_turn(header, place).await;
        }
        let history = self.history(tenant, previous.as_deref(), connection).await?;
        let header = self.with_prompt(&header, history).await?;
        match header.create.cache.mode {
            CacheMode::Off => self.start(header).await,
            // Its prompt is to be computed here.
            _ if !header.create.generate => self.start(header).await,
            _ => self.start_cached(header, &model).await,
        }
    }
}

/// What the request leaves open the model's settings decide, once: the header says with what it was sampled.
fn complete(create: &mut Create, defaults: SamplingDefaults) {
    create.temperature = create.temperature.or(defaults.temperature);
    create.top_p = create.top_p.or(defaults.top_p);
    create.top_k = create.top_k.or(defaults.top_k);
    create.min_p = create.min_p.or(defaults.min_p);
    create.repetition_penalty = create.repetition_penalty.or(defaults.repetition_penalty);
}
