//! What waits to be sent on one connection, bounded in bytes. A client that lets it stay full is cut.

use std::{sync::Arc, time::Duration};

use actix_web::web::Bytes;
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::timeout,
};

use crate::wire::close;

/// Bytes that a frame costs beside its text; bounds the number of frames too.
const FRAME_OVERHEAD: usize = 64;

/// A frame and the room it takes until it is written.
pub struct Frame {
    pub body: FrameBody,
    pub _room: OwnedSemaphorePermit,
}

pub enum FrameBody {
    Text(String),
    Ping,
    Pong(Bytes),
}

/// How a connection shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    pub code: u16,
    pub reason: &'static str,
    /// Whether what waits is sent first.
    pub flush: bool,
}

/// The connection takes no more frames.
#[derive(Debug)]
pub struct Gone;

#[derive(Clone)]
pub struct Outbox {
    frames: mpsc::Sender<Frame>,
    room: Arc<Semaphore>,
    bytes: usize,
    grace: Duration,
    closing: watch::Sender<Option<Closing>>,
}

impl Outbox {
    /// The outbox, and what its writer reads.
    pub fn new(bytes: usize, grace: Duration) -> (Self, mpsc::Receiver<Frame>, watch::Receiver<Option<Closing>>) {
        // The room bounds the frames: the channel never fills before it.
        let (frames, receiver) = mpsc::channel(bytes / FRAME_OVERHEAD + 1);
        let (closing, closed) = watch::channel(None);
        (Self { frames, room: Arc::new(Semaphore::new(bytes)), bytes, grace, closing }, receiver, closed)
    }

    /// Queues an event, waiting for room. Without room for the grace period the client is cut.
    pub async fn send(&self, event: &impl Serialize) -> Result<(), Gone> {
        let text = serde_json::to_string(event).map_err(|error| {
            tracing::error!(%error, "an event could not be written as JSON");
            Gone
        })?;
        let size = self.size(text.len());
        let room = match timeout(self.grace, self.room.clone().acquire_many_owned(size)).await {
            Ok(room) => room.map_err(|_| Gone)?,
            Err(_) => {
                self.close(Closing {
                    code: close::SLOW_CLIENT,
                    reason: "reading too slowly; reconnect and resume",
                    flush: false,
                });
                return Err(Gone);
            }
        };
        self.frames.send(Frame { body: FrameBody::Text(text), _room: room }).await.map_err(|_| Gone)
    }

    /// Queues a control frame if there is room; without room its loss is the least of this client's worries.
    pub fn control(&self, body: FrameBody) {
        let size = self.size(if let FrameBody::Pong(bytes) = &body { bytes.len() } else { 0 });
        if let Ok(room) = self.room.clone().try_acquire_many_owned(size) {
            let _ = self.frames.try_send(Frame { body, _room: room });
        }
    }

    /// Ends the connection. The first reason stays.
    pub fn close(&self, closing: Closing) {
        self.closing.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert(closing);
            first
        });
        if !closing.flush {
            self.room.close();
        }
    }

    /// Returns when the connection is to end.
    pub async fn closed(&self) {
        // The sender is ours, so waiting cannot fail.
        let _ = self.closing.subscribe().wait_for(Option::is_some).await;
    }

    fn size(&self, len: usize) -> u32 {
        u32::try_from((len + FRAME_OVERHEAD).min(self.bytes)).unwrap_or(u32::MAX)
    }
}
