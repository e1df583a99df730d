//! Reads the messages of a connection. A request is only assigned to its lane; large messages are read off the connection's thread.

use std::{rc::Rc, sync::Arc};

use super::socket::SocketConnection;
use crate::{
    edge::{
        body::beside,
        ws::{
            arrival::Size,
            lanes::{LaneJob, Lanes},
            outbox::Gone,
        },
    },
    limits::PARSED_BESIDE_BYTES,
    settings::Scope,
    wire::{
        client::{ClientEvent, parse_client_event},
        envelope::Envelope,
        error::WireError,
        event::Extension,
        lane,
        values::count_values,
    },
};

impl SocketConnection {
    /// Handles a message: answers it, or adds its job to a lane.
    pub(super) async fn receive(self: &Rc<Self>, text: &str, lanes: &mut Lanes) -> Result<(), Gone> {
        // A request is parsed when its lane runs it. Only its lane is read now.
        let message: Arc<str> = text.into();
        let lane = {
            let message = message.clone();
            beside(text.len(), move || Ok(Envelope::read(&message).lane_of_create())).await
        };
        if let Ok(Some(stream_id)) = lane {
            if let Err(error) = self.may(Scope::Create) {
                return self.error(&error, stream_id.as_deref()).await;
            }
            return match self.arrivals.keep(&self.edge, &self.tenant, message) {
                Ok(arrival) => self.push(lanes, stream_id, LaneJob::Create(arrival)).await,
                Err(error) => self.error(&error, stream_id.as_deref()).await,
            };
        }
        let counted = message.clone();
        let values = beside(text.len(), move || {
            Ok(count_values(counted.as_bytes()).map_err(|error| (error, lane::find(&counted).map(str::to_owned))))
        });
        let values = match values.await.unwrap_or_else(|error| Err((error, None))) {
            Ok(values) => values,
            Err((error, stream_id)) => return self.error(&error, stream_id.as_deref()).await,
        };
        let size = Size { bytes: text.len(), values };
        // Small messages are parsed on this thread, one at a time, and are not counted.
        let held = (size.bytes >= PARSED_BESIDE_BYTES).then(|| self.arrivals.hold(&self.edge, &self.tenant, size));
        let held = match held.transpose() {
            Ok(held) => held,
            Err(error) => return self.error(&error, None).await,
        };
        let parsed = beside(size.bytes, move || Ok(parse_client_event(&message))).await;
        drop(held);
        let (stream_id, job) = match parsed.unwrap_or_else(|error| Err((error, None))) {
            // The lane was not found before, so the `stream_id` is not valid.
            Ok(ClientEvent::Create { stream_id, .. }) => {
                return self.error(&WireError::InvalidStreamId, stream_id.as_deref()).await;
            }
            Ok(ClientEvent::Resume { target, starting_after, stream_id }) => {
                if let Err(error) = self.may_follow(&target).await {
                    return self.error(&error, stream_id.as_deref()).await;
                }
                (stream_id, LaneJob::Resume { target, starting_after })
            }
            Ok(ClientEvent::Cancel { response_id, stream_id }) => return self.cancel(response_id, stream_id).await,
            Ok(ClientEvent::Steer(steer)) => return self.steer(steer, size).await,
            Ok(ClientEvent::Ping) => return self.extension(Extension::Pong {}).await,
            Ok(ClientEvent::Pong) => return Ok(()),
            Err((error, stream_id)) => return self.error(&error, stream_id.as_deref()).await,
        };
        self.push(lanes, stream_id, job).await
    }
}
