//! The history of a response: the items of the chain of `previous_response_id`.

use std::{collections::HashSet, sync::Arc};

use crate::{
    generation::{
        Generations,
        refusal::{Named, store_error},
    },
    render,
    store::{Entry, Header, StoreError},
    wire::{
        error::WireError,
        input::{InputCall, InputItem, InputRole},
        output::OutputItem,
    },
};

/// The maximum of responses in a chain of `previous_response_id`.
const MAX_CHAIN: usize = 1000;
/// The maximum of bytes of the inputs and outputs of a chain. No context holds more, and every request that names a chain reads and
/// renders all of it.
const MAX_CHAIN_BYTES: usize = 2 << 20;

impl Generations {
    /// Returns the inputs and outputs of the responses of a chain, oldest first. `own_unstored_response`: the
    /// id of the connection's own response with `store: false`, the only such response that may be continued.
    ///
    /// # Errors
    /// `previous_response_not_found`; `invalid_request` if the chain is too long, or a response of it runs or is a turn of a
    /// conversation; those of the store.
    pub(in crate::generation) async fn history(
        &self,
        tenant: &str,
        previous: Option<&str>,
        own_unstored_response: Option<&str>,
    ) -> Result<Vec<InputItem>, WireError> {
        let mut chain = Vec::new();
        let mut bytes = 0;
        let mut next = previous.map(str::to_owned);
        while let Some(id) = next {
            let not_found = || WireError::PreviousResponseNotFound(previous.unwrap_or_default().to_owned());
            let (header, entries) = self.store.read(tenant, &id).await.map_err(|error| match error {
                StoreError::Unavailable(_) | StoreError::StoreFull(_) | StoreError::Unreadable(_) => {
                    store_error(error, Named::Response(&id))
                }
                _ => not_found(),
            })?;
            // Only the first link is checked: the others were checked when the responses after them were created.
            if chain.is_empty() && !header.spec.store && own_unstored_response != Some(&id) {
                return Err(not_found());
            }
            if !entries.last().is_some_and(|entry| entry.is_last()) {
                let message =
                    format!("Response '{id}' is still being generated. Wait until it has ended, or cancel it.");
                return Err(WireError::invalid("previous_response_id", message));
            }
            if let Some(conversation) = &header.spec.conversation {
                let message =
                    format!("Response '{id}' is a turn of '{conversation}'. Continue that by 'conversation'.");
                return Err(WireError::invalid("previous_response_id", message));
            }
            if chain.len() >= MAX_CHAIN {
                let message = format!("The chain has more than {MAX_CHAIN} responses. Begin a new one.");
                return Err(WireError::invalid("previous_response_id", message));
            }
            let items = items(&header, &entries);
            bytes += items.iter().map(InputItem::bytes).sum::<usize>();
            if bytes > MAX_CHAIN_BYTES {
                let message = format!("The chain has more than {MAX_CHAIN_BYTES} bytes. Begin a new one.");
                return Err(WireError::invalid("previous_response_id", message));
            }
            chain.push(items);
            next = header.spec.previous_response_id.clone();
        }
        Ok(chain.into_iter().rev().flatten().collect())
    }
}

/// Returns a response's input and output. Thoughts are left out: the model does not read them again.
fn items(header: &Arc<Header>, entries: &[Arc<Entry>]) -> Vec<InputItem> {
    let (response, _) = render::response(header, entries.iter().map(|entry| &**entry));
    let said = response.output.into_iter().filter_map(|item| match item {
        OutputItem::Message(message) => {
            let text: String = message.content.into_iter().map(|part| part.text).collect();
            // An output that was cancelled before its first token is empty.
            (!text.is_empty()).then(|| InputItem::message(InputRole::Assistant, text))
        }
        OutputItem::FunctionCall(call) => Some(InputItem::FunctionCall(InputCall {
            call_id: call.call_id,
            name: call.name,
            arguments: call.arguments,
        })),
        OutputItem::Reasoning(_) => None,
    });
    header.spec.input.iter().cloned().chain(said).collect()
}

/// Checks that every function call output answers an earlier call.
///
/// # Errors
/// `invalid_request` with the path of the output's `call_id`.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::{
        engine::scripted::{Scripted, ScriptedSettings},
        settings::{Settings, Sources},
        store::{
            Created, Retention, Stores,
            conformance::{finished, header, prompts},
            conversations::ConversationBounds,
            memory::{MemoryCache, MemoryConversations, MemoryLimits, MemoryPrompts, MemoryRates, MemoryStore},
            quota::StorageQuotas,
        },
        wire::request::Create,
    };

    async fn generations() -> Arc<Generations> {
        let bounds = ConversationBounds { items: 9, bytes: 9999 };
        let limits =
            MemoryLimits { retention: Retention::for_tests(), max_bytes: 64 << 20, quotas: StorageQuotas::for_tests() };
        let stores = Stores {
            responses: Arc::new(MemoryStore::new(limits.clone())),
            conversations: Arc::new(MemoryConversations::new(limits, bounds)),
            prompts: Arc::new(MemoryPrompts::new(prompts::BOUNDS)),
            cache: Arc::new(MemoryCache::new(1 << 20, Duration::from_secs(60))),
            rates: Arc::new(MemoryRates::default()),
            fleet: None,
            inventory: None,
        };
        let engine = Arc::new(Scripted::new(ScriptedSettings::default(), 1));
        Generations::new(engine, stores, &Settings::load(&Sources::default()).unwrap())
    }

    /// Stores a response that has ended without a word.
    async fn ended(generations: &Generations, id: &str, previous: Option<&str>, input: &str) {
        let create = Create::from_value(json!({"input": input, "previous_response_id": previous})).unwrap();
        let created = generations.store.create(Header { spec: create.into(), ..header(id, "t") }).await.unwrap();
        let Created::New(lease) = created else { panic!("{id} exists") };
        generations.store.append(&lease, 0, &[Arc::new(finished())]).await.unwrap();
    }

    #[tokio::test]
    async fn a_reply_without_a_word_is_not_in_the_history() {
        let generations = generations().await;
        ended(&generations, "resp_a", None, "one").await;
        ended(&generations, "resp_b", Some("resp_a"), "two").await;
        let items = generations.history("t", Some("resp_b"), None).await.unwrap();
        assert_eq!(items, ["one", "two"].map(|text| InputItem::message(InputRole::User, text)));
    }

    #[tokio::test]
    async fn a_chain_is_bounded_in_bytes() {
        let generations = generations().await;
        let text = "x".repeat(MAX_CHAIN_BYTES / 2);
        ended(&generations, "resp_a", None, &text).await;
        ended(&generations, "resp_b", Some("resp_a"), &text).await;
        ended(&generations, "resp_c", Some("resp_b"), &text).await;
        assert!(generations.history("t", Some("resp_b"), None).await.is_ok());
        match generations.history("t", Some("resp_c"), None).await {
            Err(WireError::InvalidRequest { param, .. }) => assert_eq!(param.as_deref(), Some("previous_response_id")),
            other => panic!("{other:?}"),
        }
    }
}
