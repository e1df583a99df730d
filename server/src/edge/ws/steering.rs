//! Input that steers the running responses of a connection. It is queued until a successor of the response commits it.

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

/// Most queued inputs of one response.
const MAX_PENDING: usize = 16;
/// Most ended responses, and most responses with waiting inputs, that a connection remembers.
const MAX_REMEMBERED: usize = 64;

/// An accepted input.
#[derive(Debug)]
pub struct PendingSteer {
    pub id: String,
    pub items: Vec<InputItem>,
    /// The input as the client sent it.
    pub input: Value,
    _held: HeldMessage,
}

/// The responses that this connection created and follows, and their queued inputs.
#[derive(Default)]
pub struct Steering {
    running: RefCell<HashMap<String, SteeredRun>>,
    ended: RefCell<VecDeque<String>>,
    /// Inputs by the id of the response whose calls have no outputs yet.
    waiting: RefCell<VecDeque<(String, Vec<PendingSteer>)>>,
}

struct SteeredRun {
    /// The lane of the response.
    stream_id: Option<String>,
    supported: bool,
    pending: Vec<PendingSteer>,
}

/// The result of a `response.steer`.
pub struct Verdict {
    pub stream_id: Option<String>,
    /// The id of the queued input, or why it was refused.
    pub outcome: Result<String, SteerErrorCode>,
}

impl Steering {
    /// Registers a response that this connection created.
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

    /// Returns the lane of a running response.
    pub fn stream_id(&self, id: &str) -> Option<String> {
        self.running.borrow().get(id).and_then(|running| running.stream_id.clone())
    }

    /// Removes a response that has ended or is no longer followed. Returns its queued inputs.
    pub fn end(&self, id: &str) -> Vec<PendingSteer> {
        let running = self.running.borrow_mut().remove(id);
        remember(&mut self.ended.borrow_mut(), id.to_owned());
        running.map(|running| running.pending).unwrap_or_default()
    }

    /// Stores inputs until a request sends the outputs of the response's calls.
    pub fn wait(&self, id: &str, pending: Vec<PendingSteer>) {
        remember(&mut self.waiting.borrow_mut(), (id.to_owned(), pending));
    }

    /// Removes and returns the inputs that waited for a request that continues `previous`.
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

/// Returns the calls of an ended response, whose outputs the client has to send.
pub fn required(response: &Response) -> Vec<RequiredInput> {
    let calls = response.output.iter().filter_map(|item| match item {
        OutputItem::FunctionCall(call) => Some(RequiredInput::new(call.call_id.clone())),
        _ => None,
    });
    calls.collect()
}

/// Returns the request that continues a steered response with the queued inputs. All other fields equal those of `create`.
pub fn successor(create: &Create, previous: &str, pending: &[PendingSteer]) -> Create {
    Create {
        input: pending.iter().flat_map(|pending| pending.items.iter().cloned()).collect(),
        previous_response_id: Some(previous.to_owned()),
        client_request_id: None,
        ..create.clone()
    }
}

/// Returns the message of an error code.
pub fn explain(code: SteerErrorCode) -> &'static str {
    match code {
        SteerErrorCode::ResponseNotFound => "No such response runs on this connection.",
        SteerErrorCode::InvalidInput => "The input is not valid.",
        SteerErrorCode::SteeringNotSupported => {
            "A turn of a conversation or a request with 'generate: false' cannot be steered."
        }
        SteerErrorCode::TooManyPendingSteers => "Too many inputs are queued for this response.",
        SteerErrorCode::ResponseAlreadyCompleted => "The response has ended.",
        SteerErrorCode::ResponseNotActive => "The response ended before the input could be committed.",
        SteerErrorCode::SuccessorCreationFailed => "The successor could not be created.",
    }
}
