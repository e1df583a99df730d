//! Replaces each `item_reference` by the stored item.

use std::collections::HashMap;

use serde_json::Value;

use crate::{
    generation::{
        Generations,
        refusal::{Named, store_error},
    },
    render,
    store::StoreError,
    wire::{
        error::WireError,
        input::{InputItem, parse_input},
    },
};

/// The maximum of responses and conversations that one request refers to.
const MAX_OWNERS: usize = 1000;
/// The maximum of bytes of the items that one request refers to, as JSON.
const MAX_BYTES: usize = 16 << 20;

/// The response or conversation that an item's id names.
enum Owner<'i> {
    Response(String),
    Conversation { id: String, item: &'i str },
}

/// Parses the owner from an item's id: `msg_<response>_2` or, for items that were appended to a conversation,
/// `msg_<conversation>-<random>_in0`.
fn owner(item: &str) -> Option<Owner<'_>> {
    let (_, rest) = item.split_once('_')?;
    let own = rest.split('_').next()?;
    Some(match own.split_once('-') {
        Some((conversation, _)) => Owner::Conversation { id: format!("conv_{conversation}"), item },
        None => Owner::Response(format!("resp_{own}")),
    })
}

/// The items that were read for a request's references.
#[derive(Default)]
struct Resolved {
    /// Response id → item id → item.
    responses: HashMap<String, HashMap<String, Value>>,
    reads: usize,
    bytes: usize,
}

impl Generations {
    /// Replaces each reference by the item that it names.
    ///
    /// `own_unstored_response`: the only response with `store: false` that a reference may name.
    ///
    /// # Errors
    /// `item_not_found` with the path of the reference, also for items of other tenants; `invalid_request` if the references need
    /// too many reads or bytes.
    pub(in crate::generation) async fn resolve(
        &self,
        tenant: &str,
        conversation: Option<&str>,
        own_unstored_response: Option<&str>,
        input: &mut [InputItem],
    ) -> Result<(), WireError> {
        let mut resolved = Resolved::default();
        for (at, place) in input.iter_mut().enumerate() {
            let InputItem::Reference(reference) = place else { continue };
            let id = reference.id.clone();
            let found = self.referred(tenant, conversation, own_unstored_response, &id, &mut resolved).await?;
            let param = format!("input[{at}].id");
            let body = found.ok_or_else(|| WireError::ReferenceNotFound { id: id.clone(), param })?;
            resolved.bytes += body.to_string().len();
            if resolved.bytes > MAX_BYTES || resolved.reads > MAX_OWNERS {
                let message = format!("'input' refers to more than {MAX_OWNERS} places or {MAX_BYTES} bytes.");
                return Err(WireError::invalid("input", message));
            }
            let items = parse_input(Value::Array(vec![body]))?;
            let Some(item) = items.into_iter().next() else { continue };
            *place = item;
        }
        Ok(())
    }

    async fn referred(
        &self,
        tenant: &str,
        conversation: Option<&str>,
        own_unstored_response: Option<&str>,
        id: &str,
        resolved: &mut Resolved,
    ) -> Result<Option<Value>, WireError> {
        let Some(owner) = owner(id) else { return Ok(None) };
        let found = match &owner {
            Owner::Response(response) => {
                if !resolved.responses.contains_key(response) {
                    resolved.reads += 1;
                    let items = self.items_of(tenant, own_unstored_response, response).await?;
                    resolved.responses.insert(response.clone(), items);
                }
                resolved.responses.get(response).and_then(|items| items.get(id)).cloned()
            }
            Owner::Conversation { id: conversation, item } => {
                resolved.reads += 1;
                self.item_of(tenant, conversation, item).await?
            }
        };
        match conversation {
            // The response may be gone, but its items may still be in the conversation.
            Some(conversation) if found.is_none() => {
                resolved.reads += 1;
                self.item_of(tenant, conversation, id).await
            }
            _ => Ok(found),
        }
    }

    /// Returns a response's input and current output, by item id. Empty if the response may not be referred to.
    async fn items_of(
        &self,
        tenant: &str,
        own_unstored_response: Option<&str>,
        response: &str,
    ) -> Result<HashMap<String, Value>, WireError> {
        let (header, entries) = match self.store.read(tenant, response).await {
            Ok(read) => read,
            Err(error @ StoreError::Unavailable(_)) => return Err(store_error(error, Named::Response(response))),
            Err(_) => return Ok(HashMap::new()),
        };
        if !header.spec.store && own_unstored_response != Some(response) {
            return Ok(HashMap::new());
        }
        let (rendered, _) = render::response(&header, entries.iter().map(|entry| &**entry));
        let output = rendered.output.into_iter().filter_map(|item| serde_json::to_value(item).ok());
        let items = render::input_items(&header).into_iter().chain(output);
        Ok(items.map(|item| (item["id"].as_str().unwrap_or_default().to_owned(), item)).collect())
    }

    async fn item_of(&self, tenant: &str, conversation: &str, item: &str) -> Result<Option<Value>, WireError> {
        match self.conversations.item(tenant, conversation, item).await {
            Ok(item) => Ok(Some(item.body)),
            Err(error @ StoreError::Unavailable(_)) => Err(store_error(error, Named::Conversation(conversation))),
            Err(_) => Ok(None),
        }
    }
}
