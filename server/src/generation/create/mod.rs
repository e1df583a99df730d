//! Creates responses: finds the model and the history, renders the prompt and starts the generation, alone, as a turn of a
//! conversation or from the prompt cache. When `create` returns, the log exists and the generation runs in a task of its own.

mod draft;
mod grammar;
mod history;
mod loosen;
mod prompt;
pub mod rates;
mod references;
pub mod request;
pub mod start;
pub mod stored_prompt;

use std::{sync::Arc, time::SystemTime};

use tracing::Instrument;

use crate::{
    clock::unix_seconds,
    engine::ModelInfo,
    generation::{Generations, LimitedKey},
    random::{random_hex, random_seed},
    store::{Header, LOG_VERSION, OnDisconnect, Origin, TruncatedItems},
    telemetry::trace,
    wire::{cache::CacheMode, error::WireError, reasoning::Effort, request::Create, response::ServiceTier},
};
use start::CreatedResponse;

/// The sender of a request: what the creation of a response depends on besides the request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The id of the response if a new one is created. The connection knows this id beforehand, so that it can distinguish its own
    /// turns from those of other connections.
    pub new_response_id: String,
    /// The latest response of the connection with `store: false`, the only such response that the request may continue.
    pub own_unstored_response: Option<String>,
    /// What happens to the generation when the connection ends.
    pub on_disconnect: OnDisconnect,
    pub origin: Origin,
    /// The key of the request; `None` if that key has no limits of its own.
    pub key: Option<LimitedKey>,
}

impl Caller {
    /// A client over HTTP, which cannot resume.
    pub fn without_resume(origin: Origin) -> Self {
        Self::new(None, OnDisconnect::Cancel, origin)
    }

    pub fn new(own_unstored_response: Option<String>, on_disconnect: OnDisconnect, origin: Origin) -> Self {
        let new_response_id = format!("resp_{}", random_hex());
        Self { new_response_id, own_unstored_response, on_disconnect, origin, key: None }
    }

    pub fn with_key(self, key: Option<LimitedKey>) -> Self {
        Self { key, ..self }
    }
}

impl Generations {
    /// Creates a response, or finds the response that the same `client_request_id` created before.
    ///
    /// The creation runs in a task of its own. If the caller is dropped meanwhile, the response is complete and ends as any
    /// response without followers.
    pub async fn create(
        self: &Arc<Self>,
        tenant: &str,
        create: Create,
        caller: Caller,
    ) -> Result<CreatedResponse, WireError> {
        let (generations, tenant) = (self.clone(), tenant.to_owned());
        let (begun, traceparent) = (SystemTime::now(), caller.origin.traceparent.clone());
        let created = async move { generations.try_create(&tenant, create, caller).await };
        let created = self.runtime.spawn(created.in_current_span());
        let created = created.await.unwrap_or_else(|error| {
            tracing::error!(%error, "creating a response panicked");
            Err(WireError::EngineFailed)
        });
        trace::stage("prepare", traceparent.as_deref(), begun);
        created.inspect_err(|error| self.metrics.refused(error))
    }

    async fn try_create(
        self: &Arc<Self>,
        tenant: &str,
        mut create: Create,
        caller: Caller,
    ) -> Result<CreatedResponse, WireError> {
        if self.is_draining() {
            return Err(WireError::Draining { retry_after_ms: 1000 });
        }
        self.quotas.enter(tenant, caller.key.as_ref()).await?;
        let model = self.model(create.model.as_deref())?;
        let own_unstored = caller.own_unstored_response.as_deref();
        self.resolve(tenant, create.conversation.as_deref(), own_unstored, &mut create.input).await?;
        self.expand(tenant, &mut create, &model.id).await?;
        let may_priority = self.priority.contains(tenant) || caller.key.as_ref().is_some_and(|key| key.limits.priority);
        if create.service_tier == ServiceTier::Priority && !may_priority {
            create.service_tier = ServiceTier::Default;
        }
        let cache = create.cache;
        let mut header = header(tenant, create, &model, &caller);
        if header.spec.background {
            header.on_disconnect = OnDisconnect::Continue;
        }
        if let Some(conversation) = &header.spec.conversation {
            let place = self.enter(tenant, conversation, &header.id).await?;
            return self.start_turn(header, place).await;
        }
        let previous = header.spec.previous_response_id.as_deref();
        let history = self.history(tenant, previous, own_unstored).await?;
        let header = self.with_prompt(&header, history).await?;
        match cache.mode {
            CacheMode::Off => self.start(header).await,
            // A run of the cache ends with its last follower, so a background response cannot share one.
            _ if !header.spec.generate || header.spec.background => self.start(header).await,
            _ => self.start_cached(header, &model, cache).await,
        }
    }

    /// Counts the tokens of a request's prompt, even if it does not fit the context.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub async fn count_input_tokens(
        &self,
        tenant: &str,
        mut create: Create,
        caller: Caller,
    ) -> Result<usize, WireError> {
        let model = self.model(create.model.as_deref())?;
        let own_unstored = caller.own_unstored_response.as_deref();
        self.resolve(tenant, create.conversation.as_deref(), own_unstored, &mut create.input).await?;
        self.expand(tenant, &mut create, &model.id).await?;
        let header = header(tenant, create, &model, &caller);
        let history = match &header.spec.conversation {
            Some(conversation) => self.items_before(tenant, conversation, &header).await?,
            None => self.history(tenant, header.spec.previous_response_id.as_deref(), own_unstored).await?,
        };
        self.count_prompt(&header, history).await
    }
}

/// Builds the header of a new response, without its prompt.
fn header(tenant: &str, mut create: Create, model: &ModelInfo, caller: &Caller) -> Header {
    // Absent fields take the model's defaults now, so that the header has all parameters of the sampling.
    create.sampling = create.sampling.completed(model.sampling);
    Header {
        version: LOG_VERSION,
        id: caller.new_response_id.clone(),
        tenant: tenant.to_owned(),
        created_at: unix_seconds(),
        model: model.id.clone(),
        seed: create.seed.unwrap_or_else(random_seed),
        dialect: match create.reasoning.effort {
            Some(Effort::None) => model.dialect.clone().without_thought(),
            _ => model.dialect.clone(),
        },
        spec: create.into(),
        prompt: vec![],
        max_output_tokens: 0,
        left_out: TruncatedItems::default(),
        holding: Default::default(),
        sharing: None,
        on_disconnect: caller.on_disconnect,
        origin: caller.origin.clone(),
        key_quota: caller.key.as_ref().map(LimitedKey::quota),
    }
}
