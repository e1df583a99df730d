//! What was said before a response: the chain of `previous_response_id`, as items.

use std::{collections::HashSet, sync::Arc};

use super::{Generations, store_error};
use crate::{
    render,
    store::{Entry, Header, StoreError},
    wire::{
        error::WireError,
        input::{InputCall, InputItem, InputRole},
        response::OutputItem,
    },
};

/// Responses that a chain of `previous_response_id` may have.
const MAX_CHAIN: usize = 1000;

impl Generations {
    /// The items before this turn, oldest first: what each response of the chain was asked and what it said. `connection`
    /// names the connection's own `store: false` response, the only such one that may be continued.
    pub(super) async fn history(
        &self,
        tenant: &str,
        previous: Option<&str>,
        connection: Option<&str>,
    ) -> Result<Vec<InputItem>, WireError> {
        let mut chain = Vec::new();
        let mut next = previous.map(str::to_owned);
        while let Some(id) = next {
            let not_found = || WireError::PreviousResponseNotFound(previous.unwrap_or_default().to_owned());
            let (header, entries) = self.store.read(tenant, &id).await.map_err(|error| match error {
                StoreError::Unavailable(_) => store_error(error, &id),
                _ => not_found(),
            })?;
            // Only the first link: what the connection's own response continued was reachable then.
            if chain.is_empty() && !header.create.store && connection != Some(&id) {
                return Err(not_found());
            }
            if !entries.last().is_some_and(|entry| entry.is_last()) {
                let message =
                    format!("Response '{id}' is still being generated. Wait until it has ended, or cancel it.");
                return Err(WireError::invalid("previous_response_id", message));
            }
            if let Some(conversation) = &header.create.conversation {
                let message =
                    format!("Response '{id}' is a turn of '{conversation}'. Continue that by 'conversation'.");
                return Err(WireError::invalid("previous_response_id", message));
            }
            if chain.len() >= MAX_CHAIN {
                let message = format!("The chain has more than {MAX_CHAIN} responses. Begin a new one.");
                return Err(WireError::invalid("previous_response_id", message));
            }
            chain.push(items(&header, &entries));
            next = header.create.previous_response_id.clone();
        }
        Ok(chain.into_iter().rev().flatten().collect())
    }
}

/// A response's input and its output; thoughts are not shown to the model again.
fn items(header: &Arc<Header>, entries: &[Arc<Entry>]) -> Vec<InputItem> {
    let (response, _) = render::response(header, entries.iter().map(|entry| &**entry));
    let said = response.output.into_iter().filter_map(|item| match item {
        OutputItem::Message(message) => {
            let text: String = message.content.into_iter().map(|part| part.text).collect();
            Some(InputItem::message(InputRole::Assistant, text))
        }
        OutputItem::FunctionCall(call) => Some(InputItem::FunctionCall(InputCall {
            call_id: call.call_id,
            name: call.name,
            arguments: call.arguments,
        })),
        OutputItem::Reasoning(_) => None,
    });
    header.create.input.iter().cloned().chain(said).collect()
}

/// Every output answers a call that was made before it.
pub fn check_outputs(history: &[InputItem], input: &[InputItem]) -> Result<(), WireError> {
    let mut calls: HashSet<&str> = HashSet::new();
    let begin = history.len();
    for (at, item) in history.iter().chain(input).enumerate() {
        match item {
            InputItem::FunctionCall(call) => {
                calls.insert(&call.call_id);
            }
            InputItem::FunctionCallOutput(output) if at >= begin && !calls.contains(output.call_id.as_str()) => {
                let path = format!("input[{}].call_id", at - begin);
                let message = format!("'{path}' answers no call that was made before it.");
                return Err(WireError::invalid(path, message));
            }
            _ => {}
        }
    }
    Ok(())
}
