//! Notifications of a connection: turns of conversations, and the queue position of a waiting response.

use tokio::sync::watch;

use super::socket::SocketConnection;
use crate::{edge::ws::outbox::Gone, generation::admission::QueuePlace, wire::event::Extension};

impl SocketConnection {
    /// Notifies the client of later turns of a conversation, except those that it already follows.
    pub(super) async fn watch(&self, conversation: &str) {
        if !self.extensions || !self.turns.is_new(conversation) {
            return;
        }
        // If the store fails, the job that uses the conversation sends the error.
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

    /// Sends the queue position of a waiting response.
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

/// Waits for the next queue position; `None` if the response no longer waits.
pub(super) async fn changed(place: &mut Option<watch::Receiver<Option<QueuePlace>>>) -> Option<QueuePlace> {
    let place = place.as_mut()?;
    loop {
        place.changed().await.ok()?;
        if let Some(told) = *place.borrow_and_update() {
            return Some(told);
        }
    }
}
