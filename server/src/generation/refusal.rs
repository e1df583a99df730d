//! Maps errors of the store to errors of the wire. No other module does.

use crate::{
    limits::STORE_FULL_RETRY_MS,
    store::{StoreError, quota::Exceeded},
    wire::error::{Limited, WireError},
};

/// The object that a client asked for, by its id.
#[derive(Debug, Clone, Copy)]
pub enum Named<'a> {
    Response(&'a str),
    Conversation(&'a str),
    /// An item of a conversation.
    Item {
        conversation: &'a str,
        id: &'a str,
    },
    Prompt(&'a str),
}

impl Named<'_> {
    fn not_found(self) -> WireError {
        match self {
            Self::Response(id) => WireError::ResponseNotFound(id.into()),
            Self::Conversation(id) | Self::Item { conversation: id, .. } => WireError::ConversationNotFound(id.into()),
            Self::Prompt(id) => WireError::PromptNotFound(id.into()),
        }
    }

    fn over_bounds(self) -> WireError {
        match self {
            Self::Prompt(_) => WireError::InvalidRequest {
                param: None,
                message: "There is no room for another prompt or version. Delete some.".into(),
            },
            _ => WireError::invalid(
                "conversation",
                "The conversation is full: it has as many items, or bytes, as it may have. Begin a new one, or delete items.",
            ),
        }
    }

    fn id(self) -> String {
        let (Self::Response(id) | Self::Conversation(id) | Self::Item { id, .. } | Self::Prompt(id)) = self;
        id.to_owned()
    }
}

/// Maps a store's error to the wire error for a client that asked for the object `named`.
pub fn store_error(error: StoreError, named: Named<'_>) -> WireError {
    match error {
        StoreError::NotFound | StoreError::Fenced | StoreError::Behind(_) => named.not_found(),
        StoreError::ItemNotFound => WireError::ItemNotFound(named.id()),
        StoreError::CursorNotFound => {
            WireError::invalid("after", "'after' names nothing in this list; it may have been deleted.")
        }
        StoreError::Expired => WireError::ResumeWindowExpired(named.id()),
        StoreError::Busy => WireError::ConversationBusy(named.id()),
        StoreError::Unreadable(_) => WireError::LogVersion { retry_after_ms: 1000 },
        StoreError::OverBounds => named.over_bounds(),
        StoreError::OverQuota(exceeded) => {
            let who = if matches!(exceeded, Exceeded::KeyBytes(_)) { Limited::Key } else { Limited::Tenant };
            WireError::StorageQuotaExceeded { who, most: exceeded.to_string() }
        }
        StoreError::StoreFull(reason) => {
            tracing::warn!(reason, "the store is full");
            WireError::StoreFull { retry_after_ms: STORE_FULL_RETRY_MS }
        }
        StoreError::Unavailable(reason) => {
            tracing::warn!(reason, "the store is unavailable");
            WireError::StoreUnavailable { retry_after_ms: 1000 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_what_was_asked_for() {
        let (response, conversation, prompt) =
            (Named::Response("resp_1"), Named::Conversation("conv_1"), Named::Prompt("pmpt_1"));
        let item = Named::Item { conversation: "conv_1", id: "msg_1" };
        for (error, named, expected) in [
            (StoreError::NotFound, response, WireError::ResponseNotFound("resp_1".into())),
            (StoreError::NotFound, conversation, WireError::ConversationNotFound("conv_1".into())),
            (StoreError::NotFound, item, WireError::ConversationNotFound("conv_1".into())),
            (StoreError::NotFound, prompt, WireError::PromptNotFound("pmpt_1".into())),
            (StoreError::ItemNotFound, item, WireError::ItemNotFound("msg_1".into())),
            (StoreError::Fenced, response, WireError::ResponseNotFound("resp_1".into())),
            (StoreError::Expired, response, WireError::ResumeWindowExpired("resp_1".into())),
            (StoreError::Busy, conversation, WireError::ConversationBusy("conv_1".into())),
            (StoreError::Unreadable("newer".into()), response, WireError::LogVersion { retry_after_ms: 1000 }),
            (StoreError::Unavailable("away".into()), item, WireError::StoreUnavailable { retry_after_ms: 1000 }),
        ] {
            assert_eq!(store_error(error, named), expected);
        }
        let param = |named| match store_error(StoreError::OverBounds, named) {
            WireError::InvalidRequest { param, .. } => param,
            other => panic!("{other:?}"),
        };
        assert_eq!((param(conversation).as_deref(), param(prompt)), (Some("conversation"), None));
    }
}
