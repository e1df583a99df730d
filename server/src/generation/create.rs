//! Creating a response: its model, its history, its prompt, its log, its place in the queue. When `create` returns, the
//! log exists and its generation goes on by itself.

use std::sync::Arc;

use super::{
    Follower, Generations,
    clock::unix_seconds,
    grammar::grammar,
    history::check_outputs,
    log::Log,
    prompt::{fit, kept, prompt, turns},
    run, store_error,
    turns::Place,
};
use crate::{
    dialect::Dialect,
    engine::{Engine, EngineError, Grammar, ModelInfo, model::SamplingDefaults},
    store::{Created, Header, LOG_VERSION, Lease, LeftOut},
    wire::{
        cache::CacheMode, error::WireError, input::InputItem, reasoning::Effort, request::Create, response::Truncation,
    },
};

/// A created response, with a follower so that it is not orphaned before it is followed.
pub struct CreatedResponse {
    pub id: String,
    pub follower: Follower,
}

impl Generations {
    /// Creates a response, or finds the one that this `client_request_id` created before.
    ///
    /// `connection` names the connection's own `store: false` response, the only such one that may be continued.
    pub async fn create(
        self: &Arc<Self>,
        tenant: &str,
        mut create: Create,
        connection: Option<&str>,
    ) -> Result<CreatedResponse, WireError> {
        if self.is_draining() {
            return Err(WireError::Draining { retry_after_ms: 1000 });
        }
        self.expand(tenant, &mut create).await?;
        let model = self.model(create.model.as_deref())?;
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
            sharing: None,
        };
        let Some(place) = place else {
            let history = self.history(tenant, previous.as_deref(), connection).await?;
            let header = self.with_prompt(&header, history).await?;
            return match header.create.cache.mode {
                CacheMode::Off => self.start(header).await,
                // Its prompt is to be computed here.
                _ if !header.create.generate => self.start(header).await,
                _ => self.start_cached(header, &model).await,
            };
        };
        if !place.is_first {
            return self.start_turn(header, place).await;
        }
        let history = self.items_before(tenant, &place.conversation, &header).await?;
        self.start_turn(self.with_prompt(&header, history).await?, place).await
    }

    /// Starts a turn of a conversation, or lets it wait.
    async fn start_turn(self: &Arc<Self>, header: Header, place: Place) -> Result<CreatedResponse, WireError> {
        let (tenant, id) = (header.tenant.clone(), header.id.clone());
        let lease = match self.store.create(header.clone()).await.map_err(|e| store_error(e, &id))? {
            Created::New(lease) => lease,
            Created::Existing(id) => return Ok(CreatedResponse { follower: self.running.follower(&id), id }),
        };
        let follower = self.running.follower(&id);
        let started = async {
            place.check()?;
            if place.is_first {
                place.begin(&header).await?;
                return self.run(header, lease.clone());
            }
            let registration = self.running.register(&id);
            let log = Log::new(self.writing(), Arc::new(header), lease.clone(), vec![]);
            self.tasks.spawn_on(self.clone().take_turn(log, registration, false), &self.runtime);
            Ok(())
        };
        if let Err(error) = started.await {
            let _ = self.store.delete(&tenant, &id).await;
            let _ = self.store.ended(&lease).await;
            return Err(error);
        }
        place.keep();
        Ok(CreatedResponse { id, follower })
    }

    pub(super) async fn start(self: &Arc<Self>, header: Header) -> Result<CreatedResponse, WireError> {
        let (tenant, id) = (header.tenant.clone(), header.id.clone());
        let lease = match self.store.create(header.clone()).await.map_err(|e| store_error(e, &id))? {
            Created::New(lease) => lease,
            Created::Existing(id) => return Ok(CreatedResponse { follower: self.running.follower(&id), id }),
        };
        let follower = self.running.follower(&id);
        if let Err(overloaded) = self.run(header, lease) {
            let _ = self.store.delete(&tenant, &id).await;
            return Err(overloaded);
        }
        Ok(CreatedResponse { id, follower })
    }

    /// Takes a slot or a place in the queue for a response, which goes on by itself from here.
    pub(super) fn run(self: &Arc<Self>, header: Header, lease: Lease) -> Result<(), WireError> {
        let ticket = self.admission.enter(&header)?;
        let registration = self.running.register(&header.id);
        let log = Log::new(self.writing(), Arc::new(header), lease, vec![]);
        let job = run::Job { engine: self.engine.clone(), log, ticket, registration };
        self.tasks.spawn_on(job.run(), &self.runtime);
        Ok(())
    }

    /// The header with its prompt: what was said before, and its input.
    pub(super) async fn with_prompt(&self, header: &Header, history: Vec<InputItem>) -> Result<Header, WireError> {
        check_outputs(&history, &header.create.input)?;
        let draft = Draft {
            engine: self.engine.clone(),
            grammar: grammar(&header.dialect, &header.create)?,
            max_output_tokens: header.create.max_output_tokens.unwrap_or(self.settings.max_output_tokens),
            model: self.model(Some(&header.model))?,
            dialect: header.dialect.clone(),
            create: header.create.clone(),
        };
        let fitted = self.fitted(draft, history).await?;
        Ok(Header {
            prompt: fitted.prompt,
            max_output_tokens: fitted.max_output_tokens,
            left_out: fitted.left_out,
            ..header.clone()
        })
    }

    fn model(&self, name: Option<&str>) -> Result<Arc<ModelInfo>, WireError> {
        let mut models = self.engine.models().into_iter();
        match name {
            None => models.next(),
            Some(name) => models.find(|model| model.is_called(name)),
        }
        .ok_or_else(|| WireError::ModelNotFound(name.unwrap_or("default").to_owned()))
    }

    /// Renders the prompt, off the connection's thread: a long one takes milliseconds of computation.
    async fn fitted(&self, draft: Draft, history: Vec<InputItem>) -> Result<Fitted, WireError> {
        self.runtime.spawn_blocking(move || draft.fit(history)).await.map_err(|error| {
            tracing::error!(%error, "rendering the prompt panicked");
            WireError::EngineFailed
        })?
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

/// A response to be, before its prompt is known.
struct Draft {
    engine: Arc<dyn Engine>,
    model: Arc<ModelInfo>,
    dialect: Dialect,
    create: Create,
    grammar: Option<Grammar>,
    /// What was asked for, or the default.
    max_output_tokens: u32,
}

/// The prompt, and what the context leaves to the output.
struct Fitted {
    prompt: Vec<u32>,
    left_out: LeftOut,
    max_output_tokens: u32,
}

impl Draft {
    fn fit(&self, history: Vec<InputItem>) -> Result<Fitted, WireError> {
        let context = self.model.context_length;
        let turns = turns(history.into_iter().chain(self.create.input.iter().cloned()).collect());
        let droppable = match self.create.truncation {
            Truncation::Auto => turns.len() - 1,
            Truncation::Disabled => 0,
        };
        // The output is left what it may take, up to a quarter of the context.
        let room = (context - self.max_output_tokens.min(context / 4)) as usize;
        let preamble: Vec<InputItem> = self.create.preamble.iter().cloned().map(InputItem::Message).collect();
        let (prompt, dropped) = fit(droppable, room, |dropped| {
            let said = preamble.iter().chain(kept(&turns, dropped));
            let prompt = prompt(&self.dialect, &self.create, said);
            self.engine.tokenize(&self.model.id, &prompt).map_err(|error| self.refusal(error))
        })?;
        if prompt.len() >= context as usize {
            return Err(WireError::ContextLengthExceeded { prompt: prompt.len(), context });
        }
        let mut max_output_tokens = self.max_output_tokens.min(context - prompt.len() as u32);
        if !self.create.generate {
            max_output_tokens = 0;
        } else if let Some(grammar) = &self.grammar {
            let checked = self.engine.check(&self.model.id, grammar, max_output_tokens);
            checked.map_err(|error| self.refusal(error))?;
        }
        Ok(Fitted { prompt, left_out: LeftOut { turns: dropped as u32 }, max_output_tokens })
    }

    /// What the engine's error means to the client.
    fn refusal(&self, error: EngineError) -> WireError {
        match error {
            EngineError::UnknownModel(name) => WireError::ModelNotFound(name),
            EngineError::Template(reason) => {
                WireError::invalid("input", format!("The model's chat template refuses the messages: {reason}"))
            }
            EngineError::Grammar(reason) => {
                let param = if self.create.callable().next().is_some() { "tools" } else { "text.format" };
                WireError::invalid(param, format!("The output cannot be held to '{param}': {reason}"))
            }
            EngineError::Loading(_) => WireError::ServerOverloaded { retry_after_ms: 1000 },
            EngineError::Load(reason) => {
                tracing::error!(reason, "the engine failed");
                WireError::EngineFailed
            }
        }
    }
}

fn random_seed() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// 128 random bits: an id nobody guesses.
pub fn random_hex() -> String {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    hex::encode(bytes)
}

fn fill(bytes: &mut [u8]) {
    // Without the system's randomness ids would be guessable: better to stop.
    getrandom::fill(bytes).expect("the operating system gives random bytes");
}
