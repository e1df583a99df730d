//! Renders the prompt of a new response from its history and its input, as far as the model's context holds them.

use std::sync::Arc;

use super::{
    grammar::grammar,
    history::check_outputs,
    loosen::{Failed, loosen},
    prompt::{fit, kept, prompt, turns},
};
use crate::{
    dialect::{Calls, Dialect},
    engine::{Engine, EngineError, ModelInfo, Prompt},
    generation::Generations,
    store::{Header, TruncatedItems},
    wire::{error::WireError, input::InputItem, read::missing, response::Truncation},
};

impl Generations {
    /// Adds the prompt to a header, rendered from the history and the header's input.
    ///
    /// # Errors
    /// `invalid_request` if the input is missing, answers an unknown call, or cannot be rendered or constrained as asked;
    /// `context_length_exceeded`; `server_overloaded` if the engine is busy.
    pub(in crate::generation) async fn with_prompt(
        &self,
        header: &Header,
        history: Vec<InputItem>,
    ) -> Result<Header, WireError> {
        let draft = self.draft(header, &history)?;
        // Off the connection's thread: reading a large schema and rendering a long prompt take milliseconds of computation.
        self.runtime.spawn_blocking(move || draft.fit(history)).await.map_err(panicked)?
    }

    /// Counts the tokens of the whole prompt, even if it does not fit the context.
    pub(in crate::generation) async fn count_prompt(
        &self,
        header: &Header,
        history: Vec<InputItem>,
    ) -> Result<usize, WireError> {
        let draft = self.draft(header, &history)?;
        self.runtime.spawn_blocking(move || draft.count(history)).await.map_err(panicked)?
    }

    fn draft(&self, header: &Header, history: &[InputItem]) -> Result<Draft, WireError> {
        let spec = &header.spec;
        let is_empty = history.is_empty() && spec.input.is_empty() && spec.preamble.is_empty();
        // Instructions alone are a prompt only with `generate: false` or from a stored prompt.
        if is_empty && (spec.instructions.is_none() || spec.generate && spec.prompt.is_none()) {
            return Err(missing("input"));
        }
        check_outputs(history, &spec.input)?;
        Ok(Draft {
            engine: self.engine.clone(),
            model: self.model(Some(&header.model))?,
            header: Header {
                max_output_tokens: spec.max_output_tokens.unwrap_or(self.settings.max_output_tokens),
                ..header.clone()
            },
        })
    }
}

fn panicked(error: tokio::task::JoinError) -> WireError {
    tracing::error!(%error, "rendering the prompt panicked");
    WireError::EngineFailed
}

struct Draft {
    engine: Arc<dyn Engine>,
    model: Arc<ModelInfo>,
    /// The header without its prompt. `max_output_tokens` is the request's number or the default.
    header: Header,
}

impl Draft {
    /// Renders the prompt, and bounds `max_output_tokens` by the rest of the context. With `truncation: auto` leaves out the oldest
    /// turns that do not fit.
    fn fit(self, history: Vec<InputItem>) -> Result<Header, WireError> {
        // Checks the schemas first: an invalid request is refused before its prompt is rendered.
        grammar(&self.header)?;
        let (Header { spec, .. }, context) = (&self.header, self.model.context_length);
        let turns = turns(history.into_iter().chain(spec.input.iter().cloned()).collect());
        let droppable = match spec.truncation {
            Truncation::Auto => turns.len() - 1,
            Truncation::Disabled => 0,
        };
        // Reserves room for the maximal output, but at most a quarter of the context.
        let room = (context - self.header.max_output_tokens.min(context / 4)) as usize;
        let preamble: Vec<InputItem> = spec.preamble.iter().cloned().map(InputItem::Message).collect();
        let (prompt, dropped) = fit(droppable, room, |dropped| {
            match self.tokenize(preamble.iter().chain(kept(&turns, dropped)), Some(context as usize)) {
                Ok(tokens) => Ok(Ok(tokens)),
                Err(EngineError::TooLong { tokens }) => Ok(Err(tokens)),
                Err(error) => Err(self.refusal(error)),
            }
        })?;
        let prompt = match prompt {
            Ok(prompt) if prompt.len() < context as usize => prompt,
            Ok(prompt) => {
                return Err(WireError::ContextLengthExceeded { prompt: prompt.len(), context, field: "input" });
            }
            Err(tokens) => return Err(WireError::ContextLengthExceeded { prompt: tokens, context, field: "input" }),
        };
        let mut max_output_tokens = self.header.max_output_tokens.min(context - prompt.len() as u32);
        if !spec.generate {
            max_output_tokens = 0;
        }
        let left_out = TruncatedItems { turns: dropped as u32 };
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

    /// Counts the tokens of the prompt without leaving out any turn.
    fn count(self, history: Vec<InputItem>) -> Result<usize, WireError> {
        grammar(&self.header)?;
        let spec = &self.header.spec;
        let preamble: Vec<InputItem> = spec.preamble.iter().cloned().map(InputItem::Message).collect();
        let tokens = self.tokenize(preamble.iter().chain(&history).chain(&spec.input), None);
        tokens.map(|tokens| tokens.len()).map_err(|error| self.refusal(error))
    }

    /// Renders and tokenizes the items, at most `most` tokens. If the template fails with tools, renders again without: a message
    /// then describes the tools.
    fn tokenize<'i>(
        &self,
        items: impl Iterator<Item = &'i InputItem> + Clone,
        most: Option<usize>,
    ) -> Result<Vec<u32>, EngineError> {
        let Header { dialect, spec, .. } = &self.header;
        let render = |dialect: &Dialect| {
            let prompt = Prompt { most, ..prompt(dialect, spec, items.clone()) };
            self.engine.tokenize(&self.model.id, &prompt)
        };
        match render(dialect) {
            Err(EngineError::Template(reason)) if dialect.template_has_tools && dialect.calls == Calls::default() => {
                let taught = Dialect { template_has_tools: false, ..dialect.clone() };
                render(&taught).map_err(|_| EngineError::Template(reason))
            }
            outcome => outcome,
        }
    }

    /// Maps an error of the engine to an error for the client.
    fn refusal(&self, error: EngineError) -> WireError {
        match error {
            EngineError::UnknownModel(name) => WireError::ModelNotFound(name),
            EngineError::Template(reason) => {
                WireError::invalid("input", format!("The model's chat template refuses the messages: {reason}"))
            }
            EngineError::Grammar(reason) => {
                let param = if self.header.spec.callable().next().is_some() { "tools" } else { "text.format" };
                WireError::invalid(param, format!("The output cannot be held to '{param}': {reason}"))
            }
            EngineError::TooLong { tokens } => {
                WireError::ContextLengthExceeded { prompt: tokens, context: self.model.context_length, field: "input" }
            }
            EngineError::Busy { retry_after_ms } => WireError::ServerOverloaded { retry_after_ms },
            EngineError::Load(reason) => {
                tracing::error!(reason, "the engine failed");
                WireError::EngineFailed
            }
        }
    }
}
