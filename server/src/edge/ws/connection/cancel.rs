//! Cancels of a connection. They run beside the lanes, so a slow store delays no stream.

use std::{rc::Rc, sync::Arc};

use actix_web::rt;
use tracing::Instrument;

use super::socket::SocketConnection;
use crate::{
    edge::{grants, ws::outbox::Gone},
    settings::Scope,
    wire::error::WireError,
};

/// Most cancels of a connection in progress. A further cancel stops the reading of messages until one has ended.
pub const MAX_CANCELS: usize = 16;

impl SocketConnection {
    /// Starts to cancel a response. Sends an error if the cancel fails. The cancel continues if the connection ends.
    pub(super) async fn cancel(self: &Rc<Self>, response_id: String, stream_id: Option<String>) -> Result<(), Gone> {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&self.cancels).acquire_owned().await else { return Ok(()) };
        let connection = self.clone();
        let cancel = async move {
            if let Err(error) = connection.try_cancel(&response_id).await {
                let _ = connection.error(&error, stream_id.as_deref()).await;
            }
            drop(permit);
        };
        rt::spawn(cancel.in_current_span());
        Ok(())
    }

    async fn try_cancel(&self, response_id: &str) -> Result<(), WireError> {
        self.may(Scope::Create)?;
        grants::check_response(&self.edge, &self.identity, response_id).await?;
        self.edge.generations.cancel(&self.tenant, response_id).await
    }
}
