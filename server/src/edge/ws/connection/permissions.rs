//! Checks of the key or the client secret of a connection.

use super::socket::SocketConnection;
use crate::{
    edge::grants,
    settings::Scope,
    wire::{client::Target, error::WireError},
};

impl SocketConnection {
    /// Checks that the key of this connection has a scope. Counts a refusal.
    pub(super) fn may(&self, scope: Scope) -> Result<(), WireError> {
        grants::check_scope(&self.identity, scope).inspect_err(|_| self.edge.generations.metrics.denied("scope"))
    }

    /// Checks that this connection may follow a response, or the turns of a conversation.
    pub(super) async fn may_follow(&self, target: &Target) -> Result<(), WireError> {
        self.may(Scope::Read)?;
        match target {
            Target::Response(id) => grants::check_response(&self.edge, &self.identity, id).await,
            Target::Conversation(id) => grants::check_conversation(&self.identity, id),
        }
    }
}
