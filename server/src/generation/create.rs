//! Creating a response: its model, its history, its prompt, its log, its place in the queue. When `create` returns, the
//! log exists and its generation goes on by itself.

use std::sync::Arc;

use super::{Follower, Generations, clock::unix_seconds, log::Log, run, store_error};
use crate::{
    engine::{EngineError, Message, ModelInfo, Prompt, Role, model::SamplingDefaults},
    render::output_text,
    store::{Created, Header, LOG_VERSION, LeftOut, StoreError},
    wire::{
        error::WireError,
        input::{InputMessage, InputRole},
        request::Create,
        response::Truncation,
    },
};

/// Turns that a chain of `previous_response_id` may have.
const MAX_TURNS: usize = 1000;

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
        let model = self.model(create.model.as_deref())?;
        complete(&mut create, model.sampling);
        let history = self.history(tenant, create.previous_response_id.as_deref(), connection).await?;
        let (prompt, left_out) = self.prompt(&model, &create, history).await?;
        let room = model.context_length - prompt.len() as u32;
        let max_output_tokens = create.max_output_tokens.unwrap_or(self.settings.max_output_tokens).min(room);
        let header = Header {
            version: LOG_VERSION,
            id: format!("resp_{}", random_hex()),
            tenant: tenant.to_owned(),
            created_at: unix_seconds(),
            model: model.id.clone(),
            seed: create.seed.unwrap_or_else(random_seed),
            create,
            prompt,
            max_output_tokens,
            dialect: model.dialect.clone(),
            left_out,
        };
        self.start(header).await
    }

    async fn start(self: &Arc<Self>, header: Header) -> Result<CreatedResponse, WireError> {
        let (tenant, id) = (header.tenant.clone(), header.id.clone());
        let lease = match self.store.create(header.clone()).await.map_err(|e| store_error(e, &id))? {
            Created::New(lease) => lease,
            Created::Existing(id) => return Ok(CreatedResponse { follower: self.running.follower(&id), id }),
        };
        let ticket = match self.admission.enter(&header) {
            Ok(ticket) => ticket,
            Err(refused) => {
                let _ = self.store.delete(&tenant, &id).await;
                return Err(refused);
            }
        };
        let registration = self.running.register(&id);
        let follower = self.running.follower(&id);
        let log = Log::new(self.store.clone(), Arc::new(header), lease, vec![], self.patience);
        let job = run::Job { engine: self.engine.clone(), log, ticket, registration };
        self.tasks.spawn_on(job.run(), &self.runtime);
        Ok(CreatedResponse { id, follower })
    }

    fn model(&self, name: Option<&str>) -> Result<Arc<ModelInfo>, WireError> {
        let mut models = self.engine.models().into_iter();
        match name {
            None => models.next(),
            Some(name) => models.find(|model| model.is_called(name)),
        }
        .ok_or_else(|| WireError::ModelNotFound(name.unwrap_or("default").to_owned()))
    }

    /// The messages before this turn, oldest first, a `Vec` a turn.
    async fn history(
        &self,
        tenant: &str,
        previous: Option<&str>,
        connection: Option<&str>,
    ) -> Result<Vec<Vec<Message>>, WireError> {
        let mut turns = Vec::new();
        let mut next = previous.map(str::to_owned);
        while let Some(id) = next {
            let not_found = || WireError::PreviousResponseNotFound(previous.unwrap_or_default().to_owned());
            let (header, entries) = self.store.read(tenant, &id).await.map_err(|error| match error {
                StoreError::Unavailable(_) => store_error(error, &id),
                _ => not_found(),
            })?;
            // Only the first link: what the connection's own response continued was reachable then.
            if turns.is_empty() && !header.create.store && connection != Some(&id) {
                return Err(not_found());
            }
            if !entries.last().is_some_and(|entry| entry.is_last()) {
                let message =
                    format!("Response '{id}' is still being generated. Wait until it has ended, or cancel it.");
                return Err(WireError::invalid("previous_response_id", message));
            }
            if turns.len() >= MAX_TURNS {
                let message = format!("The chain has more than {MAX_TURNS} responses. Begin a new one.");
                return Err(WireError::invalid("previous_response_id", message));
            }
            let mut turn = messages(&header.create.input);
            turn.push(Message::text(Role::Assistant, output_text(entries.iter().map(|e| &**e))));
            turns.push(turn);
            next = header.create.previous_response_id.clone();
        }
        turns.reverse();
        Ok(turns)
    }

    /// Renders the prompt. With `truncation: auto` the oldest turns are left out until it fits.
    async fn prompt(
        &self,
        model: &ModelInfo,
        create: &Create,
        history: Vec<Vec<Message>>,
    ) -> Result<(Vec<u32>, LeftOut), WireError> {
        let (engine, name, context) = (self.engine.clone(), model.id.clone(), model.context_length);
        let instructions = create.instructions.clone().map(|content| Message::text(Role::System, content));
        let (input, truncation) = (messages(&create.input), create.truncation);
        // Tokenising a long history takes milliseconds of computation, which would hold up the connection's thread.
        let rendered = self.runtime.spawn_blocking(move || {
            let mut left_out = LeftOut::default();
            loop {
                let turns = history.iter().skip(left_out.turns as usize).flatten();
                let all: Vec<Message> = instructions.iter().chain(turns).chain(&input).cloned().collect();
                let prompt = engine.tokenize(&name, &Prompt::of(all)).map_err(engine_error)?;
                if prompt.len() < context as usize {
                    return Ok((prompt, left_out));
                }
                if truncation == Truncation::Disabled || left_out.turns as usize >= history.len() {
                    return Err(WireError::ContextLengthExceeded { prompt: prompt.len(), context });
                }
                left_out.turns += 1;
            }
        });
        rendered.await.map_err(|error| {
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

fn messages(input: &[InputMessage]) -> Vec<Message> {
    let role = |role| match role {
        InputRole::User => Role::User,
        InputRole::Assistant => Role::Assistant,
        InputRole::System | InputRole::Developer => Role::System,
    };
    input.iter().map(|m| Message::text(role(m.role), &*m.text)).collect()
}

fn engine_error(error: EngineError) -> WireError {
    match error {
        EngineError::UnknownModel(name) => WireError::ModelNotFound(name),
        EngineError::Template(reason) => {
            WireError::invalid("input", format!("The model's chat template refuses the messages: {reason}"))
        }
        EngineError::Grammar(reason) => WireError::invalid("text.format", reason),
        EngineError::Loading(_) => WireError::ServerOverloaded { retry_after_ms: 1000 },
        EngineError::Load(reason) => {
            tracing::error!(reason, "the engine failed");
            WireError::EngineFailed
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
