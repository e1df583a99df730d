//! Renders the events and the object of the Responses API from a log.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{items::Open, snapshot::snapshot};
use crate::{
    dialect::{Parser, Segment},
    engine::Finish,
    store::{Entry, Header},
    wire::{
        error::WireError,
        event::Event,
        logprobs::{Logprob, TokenLogprob},
        output::{ItemStatus, OutputItem},
        response::{IncompleteDetails, Response, ResponseError, Status, Usage},
    },
};

/// Receives events with their sequence numbers.
pub type Emit<'e> = dyn FnMut(u64, Event) + 'e;

/// Renders one response's entries in order. Holds only the output so far, because later events repeat it.
pub struct Renderer {
    header: Arc<Header>,
    parser: Parser,
    /// Items that have ended.
    output: Vec<OutputItem>,
    /// The item that is being written.
    open: Option<Open>,
    /// Log-probabilities of tokens whose text has not been shown.
    logprobs: Vec<Logprob>,
    thinking: Thinking,
    /// Calls so far.
    calls: u32,
    /// Whether the current call is beyond `max_tool_calls`.
    dropping: bool,
    /// The sequence number of the next event.
    next: u64,
}

/// Counts the tokens of thoughts, including those of their tags.
#[derive(Default)]
struct Thinking {
    tokens: u32,
    /// Tokens whose text is held back because it may become a tag.
    undecided: u32,
}

impl Renderer {
    pub fn new(header: Arc<Header>) -> Self {
        let calls = header.spec.callable().next().is_some();
        Self {
            parser: Parser::new(&header.dialect, calls),
            header,
            output: Vec::new(),
            open: None,
            logprobs: Vec::new(),
            thinking: Thinking::default(),
            calls: 0,
            dropping: false,
            next: 0,
        }
    }

    /// Emits the events before the first entry. Must be called once, before [`Self::entry`].
    pub fn begin(&mut self, emit: &mut Emit) {
        self.emit(emit, Event::Created { response: Box::new(snapshot(&self.header, Status::InProgress)) });
    }

    /// Emits the events of the next entry, with their sequence numbers.
    pub fn entry(&mut self, entry: &Entry, emit: &mut Emit) {
        match entry {
            Entry::Queued => {
                self.emit(emit, Event::Queued { response: Box::new(snapshot(&self.header, Status::Queued)) })
            }
            Entry::Started => {
                self.emit(emit, Event::InProgress { response: Box::new(snapshot(&self.header, Status::InProgress)) })
            }
            Entry::Delta { tokens, text, logprobs, .. } => {
                self.logprobs.extend(logprobs.iter().map(logprob));
                let (was_thinking, was_plain) = (self.parser.is_thinking(), self.parser.is_plain());
                let segments = self.parser.push(text);
                self.thinking.count(tokens.len() as u32, was_thinking, &self.parser);
                self.segments(segments, emit);
                // Tokens of thoughts and calls, and of their tags, are not shown as text.
                if !(was_plain && self.parser.is_plain()) {
                    self.logprobs.clear();
                }
            }
            // Only the response that left the shared log ends here.
            Entry::MemberLeft { .. } => {}
            Entry::Finished { finish, usage, completed_at } => self.finish(finish, *usage, *completed_at, emit),
        }
    }

    fn emit(&mut self, emit: &mut Emit, event: Event) {
        emit(self.next, event);
        self.next += 1;
    }

    fn segments(&mut self, segments: Vec<Segment>, emit: &mut Emit) {
        for segment in segments {
            if self.is_over_the_bound(&segment) {
                continue;
            }
            if !self.open.as_ref().is_some_and(|open| open.continues(&segment)) {
                self.close(ItemStatus::Completed, emit);
                self.begin_item(&segment, emit);
            }
            let logprobs = match segment {
                Segment::Text(_) => std::mem::take(&mut self.logprobs),
                _ => Vec::new(),
            };
            if let Some(event) = self.open.as_mut().and_then(|open| open.push(segment, logprobs)) {
                self.emit(emit, event);
            }
        }
    }

    /// Whether a segment belongs to a call beyond `max_tool_calls`. Counts the calls.
    fn is_over_the_bound(&mut self, segment: &Segment) -> bool {
        match segment {
            Segment::Call { .. } => {
                self.dropping = self.header.spec.max_tool_calls.is_some_and(|most| self.calls >= most);
                self.calls += u32::from(!self.dropping);
                self.dropping
            }
            Segment::Arguments(_) => self.dropping,
            _ => false,
        }
    }

    fn begin_item(&mut self, segment: &Segment, emit: &mut Emit) {
        let open = Open::new(&self.header, self.output.len() as u32, segment);
        open.begin(&mut |event| self.emit(emit, event));
        self.open = Some(open);
    }

    fn close(&mut self, status: ItemStatus, emit: &mut Emit) {
        if let Some(open) = self.open.take() {
            let item = open.end(status, &mut |event| self.emit(emit, event));
            self.output.push(item);
        }
    }

    fn finish(&mut self, finish: &Finish, mut usage: Usage, completed_at: u64, emit: &mut Emit) {
        // A warm-up (`generate: false`) is complete when its prompt has been computed. A response that ends with a complete call is
        // complete, too, even if it reached the bound.
        let warmed = !self.header.spec.generate;
        let ended_by_call = self.parser.is_after_call();
        let is_done = (warmed || ended_by_call) && *finish == Finish::Length;
        let finish = if is_done { &Finish::Stop } else { finish };
        let segments = self.parser.finish();
        self.segments(segments, emit);
        // An output without text has an empty message; a failure before any text has no item.
        let refused = matches!(finish, Finish::Failed(_) | Finish::Refused { .. });
        if !warmed && !refused && self.open.is_none() && self.output.is_empty() {
            self.begin_item(&Segment::Text(String::new()), emit);
        }
        // The output may end within a call.
        let whole = *finish == Finish::Stop && !self.parser.is_in_arguments();
        self.close(if whole { ItemStatus::Completed } else { ItemStatus::Incomplete }, emit);
        let mut response = snapshot(&self.header, Status::Completed);
        response.output = std::mem::take(&mut self.output);
        usage.output_tokens_details.reasoning_tokens = self.thinking.tokens;
        response.usage = Some(usage);
        let incomplete = |reason| Some(IncompleteDetails { reason });
        let event = match finish {
            Finish::Stop => {
                response.completed_at = Some(completed_at);
                Event::Completed { response: Box::new(response) }
            }
            Finish::Length => {
                response.status = Status::Incomplete;
                response.incomplete_details = incomplete("max_output_tokens");
                Event::Incomplete { response: Box::new(response) }
            }
            // The API has no event `response.cancelled`.
            Finish::Cancelled if self.header.spec.background => {
                response.status = Status::Cancelled;
                Event::Incomplete { response: Box::new(response) }
            }
            Finish::Cancelled => {
                response.status = Status::Incomplete;
                response.incomplete_details = incomplete("cancelled");
                Event::Incomplete { response: Box::new(response) }
            }
            Finish::Steered => {
                response.status = Status::Incomplete;
                response.incomplete_details = incomplete("steered");
                Event::Incomplete { response: Box::new(response) }
            }
            Finish::Refused { code, message } => {
                response.status = Status::Failed;
                response.error = Some(ResponseError { code: code.clone(), message: message.clone() });
                Event::Failed { response: Box::new(response) }
            }
            Finish::Failed(_) => {
                response.status = Status::Failed;
                let error = WireError::EngineFailed;
                response.error = Some(ResponseError { code: error.code().0.into(), message: error.to_string() });
                Event::Failed { response: Box::new(response) }
            }
        };
        self.emit(emit, event);
    }
}

impl Thinking {
    fn count(&mut self, tokens: u32, was_thinking: bool, parser: &Parser) {
        self.undecided += tokens;
        if was_thinking || parser.is_thinking() {
            self.tokens += std::mem::take(&mut self.undecided);
        } else if !parser.is_holding() {
            self.undecided = 0;
        }
    }
}

fn logprob(logprobs: &crate::engine::Logprobs) -> Logprob {
    let token = |of: &crate::engine::TokenLogprob| TokenLogprob {
        token: of.token.clone(),
        logprob: of.logprob,
        bytes: of.bytes.clone(),
    };
    Logprob { token: token(&logprobs.token), top_logprobs: logprobs.top.iter().map(token).collect() }
}

/// Renders the response object after `entries`, with the output so far, and the number of its last event.
pub fn response<'e>(header: &Arc<Header>, entries: impl IntoIterator<Item = &'e Entry>) -> (Response, u64) {
    let mut renderer = Renderer::new(header.clone());
    let mut last = (0, None);
    let mut keep = |number, event| {
        last.0 = number;
        if let Event::Created { response }
        | Event::Queued { response }
        | Event::InProgress { response }
        | Event::Completed { response }
        | Event::Incomplete { response }
        | Event::Failed { response } = event
        {
            last.1 = Some(response);
        }
    };
    renderer.begin(&mut keep);
    entries.into_iter().for_each(|entry| renderer.entry(entry, &mut keep));
    let (number, response) = last;
    let mut response = response.map_or_else(|| snapshot(&renderer.header, Status::InProgress), |r| *r);
    // Only the last event has the output; before that event it is in the renderer.
    response.output.append(&mut renderer.output);
    response.output.extend(renderer.open.map(|open| open.end(ItemStatus::InProgress, &mut |_| {})));
    (response, number)
}
