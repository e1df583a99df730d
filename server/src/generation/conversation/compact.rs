//! Compaction: the model writes a summary of a conversation, which replaces the items of the conversation.

use std::sync::Arc;

use crate::{
    clock::unix_seconds,
    generation::{Caller, Generations},
    random::random_hex,
    wire::{
        compaction::CompactionItem,
        error::WireError,
        format::TextConfig,
        input::{InputItem, InputRole},
        object::Compacted,
        output::OutputItem,
        request::Create,
        response::{Response, Status},
    },
};

/// The message that asks the model for a summary.
const REQUEST: &str = "Summarise the conversation so far for somebody who continues it without having seen it. Keep \
     every fact, decision, name, number and open question, and the results of tools. Write the summary only.";
/// The text before the summary when the model reads it.
const INTRODUCTION: &str = "Summary of the conversation so far:\n";

impl Generations {
    /// Lets the model summarise the prompt of a request.
    ///
    /// # Errors
    /// Those of [`Self::create`]; `engine_failed` if the model wrote no summary.
    pub async fn compact(
        self: &Arc<Self>,
        tenant: &str,
        mut create: Create,
        caller: Caller,
    ) -> Result<Compacted, WireError> {
        create.input.push(InputItem::message(InputRole::User, REQUEST));
        let create = Create {
            tools: vec![],
            tool_choice: Default::default(),
            text: TextConfig::default(),
            generate: true,
            store: false,
            background: false,
            ..create
        };
        let leaving = caller.on_disconnect;
        let created = self.create(tenant, create, caller).await?;
        let mut follow = self.follow(tenant, &created.id, None, leaving).await?;
        let mut last = None;
        while let Some(event) = follow.next().await {
            last = event?.1.into_response().or(last);
        }
        // No client knows the id of this response, so nobody else deletes it.
        let _ = self.delete(tenant, &created.id).await;
        let response = last.filter(|response| response.status != Status::Failed).ok_or(WireError::EngineFailed)?;
        let summary = format!("{INTRODUCTION}{}", text(&response).trim());
        Ok(Compacted {
            id: format!("resp_{}", random_hex()),
            object: "response.compaction",
            created_at: unix_seconds(),
            output: [CompactionItem::new(format!("cmp_{}", random_hex()), &summary)],
            usage: response.usage,
        })
    }
}

fn text(response: &Response) -> String {
    let messages = response.output.iter().filter_map(|item| match item {
        OutputItem::Message(message) => Some(&message.content),
        _ => None,
    });
    messages.flatten().map(|part| part.text.as_str()).collect()
}
