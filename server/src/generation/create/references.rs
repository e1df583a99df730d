//! `item_reference`: items that the server has are put in the place of their ids.

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

/// Responses and conversations that one request may refer to.
const MAX_OWNERS: usize = 1000;
/// Bytes of the items that one request may refer to, as JSON.
const MAX_BYTES: usize = 16 << 20;

/// Where an item is stored, as its id says.
enum Owner<'i> {
    Response(String),
    Conversation { id: String, item: &'i str },
}

/// The owner that an item's id names: `msg_<response>_2` or, for items that were appended to a conversation,
/// `msg_<conversation>-<random>_in0`.
fn owner(item: &str) -> Option<Owner<'_>> {
    let (_, rest) = item.split_once('_')?;
    let own = rest.split('_').next()?;
    Some(match own.split_once('-') {
        Some((conversation, _)) => Owner::Conversation { id: format!("conv_{conversation}"), item },
        None => Owner::Response(format!("resp_{own}")),
    })
}

/// What has been read for a request's references.
#[derive(Default)]
struct Resolved {
    /// By response: its items, by id.
    responses: HashMap<String, HashMap<String, Value>>,
    reads: usize,
    bytes: usize,
}

impl Generations {
    /// Replaces each reference by the item that it names.
    ///
    /// `own_unstored_response` is the only response with `store: false` that may be referred to.
    ///
    /// # Errors
    /// `item_not_found`, naming the reference, for items of other tenants, too; `invalid_request` for more items than
    /// one request may refer to.
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
            // A response may be gone while the conversation keeps what it said.
            Some(conversation) if found.is_none() => {
                resolved.reads += 1;
                self.item_of(tenant, conversation, id).await
            }
            _ => Ok(found),
        }
    }

    /// A response's items by their ids: what it was asked, and what it said so far. None for a response that may not be
    /// referred to.
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
