//! A response to be: what was said before, and its input, become its prompt, as far as the model's context holds them.

use std::sync::Arc;

use super::{
    Generations,
    grammar::grammar,
    history::check_outputs,
    loosen::{Failed, loosen},
    prompt::{fit, kept, prompt, turns},
};
use crate::{
    engine::{Engine, EngineError, ModelInfo},
    store::{Header, LeftOut},
    wire::{error::WireError, input::InputItem, response::Truncation},
};

impl Generations {
    /// The header with its prompt: what was said before, and its input.
    pub(super) async fn with_prompt(&self, header: &Header, history: Vec<InputItem>) -> Result<Header, WireError> {
        check_outputs(&history, &header.create.input)?;
        // What is wrong with the request is told before anything is computed.
        grammar(header)?;
        let draft = Draft {
            engine: self.engine.clone(),
            model: self.model(Some(&header.model))?,
            header: Header {
                max_output_tokens: header.create.max_output_tokens.unwrap_or(self.settings.max_output_tokens),
                ..header.clone()
            },
        };
        // Off the connection's thread: rendering a long prompt takes milliseconds of computation.
        self.runtime.spawn_blocking(move || draft.fit(history)).await.map_err(|error| {
            tracing::error!(%error, "rendering the prompt panicked");
            WireError::EngineFailed
        })?
    }
}

struct Draft {
    engine: Arc<dyn Engine>,
    model: Arc<ModelInfo>,
    /// Without its prompt; its `max_output_tokens` are what was asked for, or the default.
    header: Header,
}

impl Draft {
    /// The header with its prompt, and what the context leaves to the output.
    fn fit(self, history: Vec<InputItem>) -> Result<Header, WireError> {
        let (Header { create, dialect, .. }, context) = (&self.header, self.model.context_length);
        let turns = turns(history.into_iter().chain(create.input.iter().cloned()).collect());
        let droppable = match create.truncation {
            Truncation::Auto => turns.len() - 1,
            Truncation::Disabled => 0,
        };
        // The output is left what it may take, up to a quarter of the context.
        let room = (context - self.header.max_output_tokens.min(context / 4)) as usize;
        let preamble: Vec<InputItem> = create.preamble.iter().cloned().map(InputItem::Message).collect();
        let (prompt, dropped) = fit(droppable, room, |dropped| {
            let mut prompt = prompt(dialect, create, preamble.iter().chain(kept(&turns, dropped)));
            prompt.most = Some(context as usize);
            match self.engine.tokenize(&self.model.id, &prompt) {
                Ok(tokens) => Ok(Ok(tokens)),
                Err(EngineError::TooLong { tokens }) => Ok(Err(tokens)),
                Err(error) => Err(self.refusal(error)),
            }
        })?;
        let prompt = match prompt {
            Ok(prompt) if prompt.len() < context as usize => prompt,
            Ok(prompt) => return Err(WireError::ContextLengthExceeded { prompt: prompt.len(), context }),
            Err(tokens) => return Err(WireError::ContextLengthExceeded { prompt: tokens, context }),
        };
        let mut max_output_tokens = self.header.max_output_tokens.min(context - prompt.len() as u32);
        if !create.generate {
            max_output_tokens = 0;
        }
        let left_out = LeftOut { turns: dropped as u32 };
        let header = Header { prompt, max_output_tokens, left_out, ..self.header.clone() };
        if max_output_tokens == 0 {
            return Ok(header);
        }
        let check = |grammar: &_| self.engine.check(&self.model.id, grammar, max_output_tokens);
        loosen(header, &check).map_err(|failed| match failed {
            Failed::Refused(error) => error,
            Failed::Engine(error) => self.refusal(error),
        })
    }

    /// What the engine's error means to the client.
    fn refusal(&self, error: EngineError) -> WireError {
        match error {
            EngineError::UnknownModel(name) => WireError::ModelNotFound(name),
            EngineError::Template(reason) => {
                WireError::invalid("input", format!("The model's chat template refuses the messages: {reason}"))
            }
            EngineError::Grammar(reason) => {
                let param = if self.header.create.callable().next().is_some() { "tools" } else { "text.format" };
                WireError::invalid(param, format!("The output cannot be held to '{param}': {reason}"))
            }
            EngineError::TooLong { tokens } => {
                WireError::ContextLengthExceeded { prompt: tokens, context: self.model.context_length }
            }
            EngineError::Busy { retry_after_ms } => WireError::ServerOverloaded { retry_after_ms },
            EngineError::Load(reason) => {
                tracing::error!(reason, "the engine failed");
                WireError::EngineFailed
            }
        }
    }
}
