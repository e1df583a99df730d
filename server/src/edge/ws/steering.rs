//! Input that steers the running responses of a connection: queued here until a successor of the response commits it.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
};

use serde_json::Value;

use super::arrival::HeldMessage;
use crate::{
    random::random_hex,
    wire::{
        input::InputItem,
        output::OutputItem,
        request::Create,
        response::Response,
        steer::{RequiredInput, Steer, SteerErrorCode},
    },
};

/// Inputs that may wait for one response.
const MAX_PENDING: usize = 16;
/// Responses whose end, or whose waiting inputs, a connection remembers.
const MAX_REMEMBERED: usize = 64;

/// An accepted input.
#[derive(Debug)]
pub struct PendingSteer {
    pub id: String,
    pub items: Vec<InputItem>,
    /// As it was sent.
    pub input: Value,
    _held: HeldMessage,
}

/// The responses that this connection created and follows, and the inputs that wait.
#[derive(Default)]
pub struct Steering {
    running: RefCell<HashMap<String, SteeredRun>>,
    ended: RefCell<VecDeque<String>>,
    /// By the response whose calls have no outputs yet.
    waiting: RefCell<VecDeque<(String, Vec<PendingSteer>)>>,
}

struct SteeredRun {
    /// The lane, where the response has one.
    stream_id: Option<String>,
    supported: bool,
    pending: Vec<PendingSteer>,
}

/// What became of a `response.steer`.
pub struct Verdict {
    pub stream_id: Option<String>,
    /// The id of the queued input, or why it is not queued.
    pub outcome: Result<String, SteerErrorCode>,
}

impl Steering {
    /// A response of this connection has been created.
    pub fn begin(&self, id: &str, create: &Create, stream_id: Option<&str>) {
        let running = SteeredRun {
            stream_id: stream_id.map(str::to_owned),
            supported: create.conversation.is_none() && create.generate,
            pending: vec![],
        };
        self.running.borrow_mut().insert(id.to_owned(), running);
    }

    /// Queues an input for a running response.
    pub fn queue(&self, steer: Steer, held: HeldMessage) -> Verdict {
        let mut all = self.running.borrow_mut();
        let Some(running) = all.get_mut(&steer.previous_response_id) else {
            let ended = self.ended.borrow().contains(&steer.previous_response_id);
            let code = if ended { SteerErrorCode::ResponseAlreadyCompleted } else { SteerErrorCode::ResponseNotFound };
            return Verdict { stream_id: None, outcome: Err(code) };
        };
        let stream_id = running.stream_id.clone();
        let outcome = if !running.supported {
            Err(SteerErrorCode::SteeringNotSupported)
        } else if running.pending.len() >= MAX_PENDING {
            Err(SteerErrorCode::TooManyPendingSteers)
        } else {
            let id = format!("steer_{}", random_hex());
            running.pending.push(PendingSteer { id: id.clone(), items: steer.items, input: steer.input, _held: held });
            Ok(id)
        };
        Verdict { stream_id, outcome }
    }

    /// The lane of a running response.
    pub fn stream_id(&self, id: &str) -> Option<String> {
        self.running.borrow().get(id).and_then(|running| running.stream_id.clone())
    }

    /// A response has ended, or is followed no more; the inputs that wait for that.
    pub fn end(&self, id: &str) -> Vec<PendingSteer> {
        let running = self.running.borrow_mut().remove(id);
        remember(&mut self.ended.borrow_mut(), id.to_owned());
        running.map(|running| running.pending).unwrap_or_default()
    }

    /// Lets inputs wait for the request that brings the outputs of a response's calls.
    pub fn wait(&self, id: &str, pending: Vec<PendingSteer>) {
        remember(&mut self.waiting.borrow_mut(), (id.to_owned(), pending));
    }

    /// The inputs that waited for a request that continues `previous`.
    pub fn take(&self, previous: Option<&str>) -> Vec<PendingSteer> {
        let mut waiting = self.waiting.borrow_mut();
        let at = waiting.iter().position(|(id, _)| Some(id.as_str()) == previous);
        at.and_then(|at| waiting.remove(at)).map(|(_, pending)| pending).unwrap_or_default()
    }
}

fn remember<T>(all: &mut VecDeque<T>, new: T) {
    if all.len() >= MAX_REMEMBERED {
        all.pop_front();
    }
    all.push_back(new);
}

/// The calls of an ended response, whose outputs only the client has.
pub fn required(response: &Response) -> Vec<RequiredInput> {
    let calls = response.output.iter().filter_map(|item| match item {
        OutputItem::FunctionCall(call) => Some(RequiredInput::new(call.call_id.clone())),
        _ => None,
    });
    calls.collect()
}

/// The request that goes on from a steered response with what was said meanwhile: all else is as it was.
pub fn successor(create: &Create, previous: &str, pending: &[PendingSteer]) -> Create {
    Create {
        input: pending.iter().flat_map(|pending| pending.items.iter().cloned()).collect(),
        previous_response_id: Some(previous.to_owned()),
        client_request_id: None,
        ..create.clone()
    }
}

/// What a client reads of a code.
pub fn explain(code: SteerErrorCode) -> &'static str {
    match code {
        SteerErrorCode::ResponseNotFound => "No such response runs on this connection.",
        SteerErrorCode::InvalidInput => "The input is not valid.",
        SteerErrorCode::SteeringNotSupported => "A turn of a conversation, or a warm-up, cannot be steered.",
        SteerErrorCode::TooManyPendingSteers => "Too many inputs wait for this response.",
        SteerErrorCode::ResponseAlreadyCompleted => "The response has ended.",
        SteerErrorCode::ResponseNotActive => "The response has ended before the input could be committed.",
        SteerErrorCode::SuccessorCreationFailed => "The successor could not be created.",
    }
}
