//! What a connection tells of its own accord: turns of conversations, and where a waiting response stands.

use tokio::sync::watch;

use super::socket::SocketConnection;
use crate::{edge::ws::outbox::Gone, generation::admission::QueuePlace, wire::event::Extension};

impl SocketConnection {
    /// Tells the client of the turns of a conversation from now on, but of those that it follows already.
    pub(super) async fn watch(&self, conversation: &str) {
        if !self.extensions || !self.turns.is_new(conversation) {
            return;
        }
        // What cannot be watched cannot be used either, and the client hears of that.
        if let Ok(notices) = self.edge.generations.watch(&self.tenant, conversation).await {
            self.turns.add(conversation, notices);
        }
    }

    pub(super) async fn turn(&self, (conversation, response_id): (String, String)) -> Result<(), Gone> {
        if self.turns.is_followed(&response_id) {
            return Ok(());
        }
        let turn = Extension::ConversationTurn { conversation: &conversation, response_id: &response_id };
        self.extension(turn).await
    }

    /// Tells where a waiting response stands.
    pub(super) async fn place(
        &self,
        response_id: &str,
        place: QueuePlace,
        stream_id: Option<&str>,
    ) -> Result<(), Gone> {
        let event = Extension::Queued {
            response_id,
            position: place.position,
            estimated_wait_ms: place.estimated_wait().as_millis() as u64,
            stream_id,
        };
        self.extension(event).await
    }
}

/// The next place that is told; `None` when it waits no longer.
pub(super) async fn changed(place: &mut Option<watch::Receiver<Option<QueuePlace>>>) -> Option<QueuePlace> {
    let place = place.as_mut()?;
    loop {
        place.changed().await.ok()?;
        if let Some(told) = *place.borrow_and_update() {
            return Some(told);
        }
    }
}
