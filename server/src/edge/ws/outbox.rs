//! The queue of frames of one connection, limited in bytes. If the queue stays full, the connection is closed.

use std::{sync::Arc, time::Duration};

use actix_web::web::Bytes;
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::timeout,
};

use crate::wire::close;

/// Bytes that a frame counts beside its text. This limits the number of frames, too.
const FRAME_OVERHEAD: usize = 64;

/// A frame, and its permits of the queue's bytes until it is written.
pub struct Frame {
    pub body: FrameBody,
    pub _room: OwnedSemaphorePermit,
}

pub enum FrameBody {
    Text(String),
    Ping,
    Pong(Bytes),
}

/// The way in which a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    pub code: u16,
    pub reason: &'static str,
    /// Whether the queued frames are sent first.
    pub flush: bool,
}

/// The connection accepts no more frames.
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
    /// Returns the outbox and the two receivers of its writer. `grace`: how long the queue may stay full.
    pub fn new(bytes: usize, grace: Duration) -> (Self, mpsc::Receiver<Frame>, watch::Receiver<Option<Closing>>) {
        // The bytes limit the number of frames, so the channel never fills first.
        let (frames, receiver) = mpsc::channel(bytes / FRAME_OVERHEAD + 1);
        let (closing, closed) = watch::channel(None);
        (Self { frames, room: Arc::new(Semaphore::new(bytes)), bytes, grace, closing }, receiver, closed)
    }

    /// Queues an event; waits for room. Closes the connection if there is no room for the grace period.
    pub async fn send(&self, event: &impl Serialize) -> Result<(), Gone> {
        let text = serde_json::to_string(event).map_err(|error| {
            tracing::error!(%error, "an event could not be serialised as JSON");
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

    /// Queues a control frame, or drops it if there is no room.
    pub fn control(&self, body: FrameBody) {
        let size = self.size(if let FrameBody::Pong(bytes) = &body { bytes.len() } else { 0 });
        if let Ok(room) = self.room.clone().try_acquire_many_owned(size) {
            let _ = self.frames.try_send(Frame { body, _room: room });
        }
    }

    /// Ends the connection. Later calls do not change the first reason.
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

    /// Waits until the connection is about to end.
    pub async fn closed(&self) {
        // `self` holds the sender, so waiting cannot fail.
        let _ = self.closing.subscribe().wait_for(Option::is_some).await;
    }

    fn size(&self, len: usize) -> u32 {
        u32::try_from((len + FRAME_OVERHEAD).min(self.bytes)).unwrap_or(u32::MAX)
    }
}
