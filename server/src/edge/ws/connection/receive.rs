//! How a connection reads a message: no more of it than decides where it goes, and nothing that is large on its thread.

use std::{rc::Rc, sync::Arc};

use super::Connection;
use crate::{
    edge::{
        api::beside,
        ws::{
            arrival::Size,
            lanes::{Job, Lanes},
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
        values::count_values,
    },
};

impl Connection {
    /// Starts what a message asks for, or gives it its place in its lane.
    pub(super) async fn receive(self: &Rc<Self>, text: &str, lanes: &mut Lanes) -> Result<(), Gone> {
        // Of a request only the lane is read now: it is parsed when its turn comes.
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
                Ok(arrival) => self.push(lanes, stream_id, Job::Create(arrival)).await,
                Err(error) => self.error(&error, stream_id.as_deref()).await,
            };
        }
        let counted = message.clone();
        // Of too many the parser tells.
        let values = beside(text.len(), move || count_values(counted.as_bytes())).await.unwrap_or_default();
        let size = Size { bytes: text.len(), values };
        // What is small is parsed on this thread, one message at a time.
        let held = (size.bytes >= PARSED_BESIDE_BYTES).then(|| self.arrivals.hold(&self.edge, &self.tenant, size));
        let held = match held.transpose() {
            Ok(held) => held,
            Err(error) => return self.error(&error, None).await,
        };
        let parsed = beside(size.bytes, move || Ok(parse_client_event(&message))).await;
        drop(held);
        let (stream_id, job) = match parsed.unwrap_or_else(|error| Err((error, None))) {
            // Its lane has no valid name.
            Ok(ClientEvent::Create { stream_id, .. }) => {
                return self.error(&WireError::InvalidStreamId, stream_id.as_deref()).await;
            }
            Ok(ClientEvent::Resume { target, starting_after, stream_id }) => {
                if let Err(error) = self.may_follow(&target).await {
                    return self.error(&error, stream_id.as_deref()).await;
                }
                (stream_id, Job::Resume { target, starting_after })
            }
            Ok(ClientEvent::Cancel { response_id, stream_id }) => {
                return match self.cancel(&response_id).await {
                    Ok(()) => Ok(()),
                    Err(error) => self.error(&error, stream_id.as_deref()).await,
                };
            }
            Ok(ClientEvent::Steer(steer)) => return self.steer(steer, size).await,
            Ok(ClientEvent::Ping) => return self.extension(Extension::Pong {}).await,
            Ok(ClientEvent::Pong) => return Ok(()),
            Err((error, stream_id)) => return self.error(&error, stream_id.as_deref()).await,
        };
        self.push(lanes, stream_id, job).await
    }
}
