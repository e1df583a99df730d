//! The shared state of a connection's jobs, and the answers to its client.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    sync::Arc,
};

use actix_web::web;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::{
    access::Identity,
    edge::{
        state::Edge,
        ws::{
            arrival::Arrivals,
            outbox::{Closing, Gone, Outbox},
            steering::Steering,
            turns::ConversationWatches,
        },
    },
    store::OnDisconnect,
    wire::{
        error::{ErrorEvent, WireError},
        event::{ConnectionEvent, Extension},
    },
};

/// The state that all jobs of a connection share. They run on the connection's task.
pub struct SocketConnection {
    pub id: String,
    pub edge: web::Data<Edge>,
    pub identity: Arc<Identity>,
    pub tenant: String,
    /// Whether the client uses the extensions.
    pub extensions: bool,
    pub outbox: Outbox,
    /// The number of the next event of the connection.
    pub next: Cell<u64>,
    /// Whether the client was notified that the server is draining.
    pub told: Cell<bool>,
    /// The ids of the followed generations.
    pub following: RefCell<HashSet<String>>,
    /// The latest response of this connection with `store: false`, which only this connection may continue.
    pub unstored: RefCell<Option<String>>,
    pub turns: ConversationWatches,
    pub arrivals: Arrivals,
    pub steering: Steering,
    /// A permit for each cancel in progress.
    pub cancels: Arc<Semaphore>,
}

impl SocketConnection {
    /// Sends an error of the connection, and counts it.
    pub async fn refuse(&self, error: &WireError) -> Result<(), Gone> {
        self.edge.generations.metrics.refused(error);
        self.error(error, None).await
    }

    /// What happens to the followed generations when this connection ends. Only clients with the extensions can resume.
    pub fn on_disconnect(&self) -> OnDisconnect {
        if self.extensions { OnDisconnect::Grace } else { OnDisconnect::Cancel }
    }

    /// Sends a connection event to a client that asked for extensions.
    pub async fn extension(&self, event: Extension<'_>) -> Result<(), Gone> {
        if !self.extensions {
            return Ok(());
        }
        self.own(event, None).await
    }

    /// Sends an event that is numbered by the connection's own counter.
    pub async fn own(&self, event: impl Serialize, stream_id: Option<&str>) -> Result<(), Gone> {
        let sequence_number = self.next.get();
        self.next.set(sequence_number + 1);
        self.outbox.send(&ConnectionEvent { event, sequence_number, stream_id }).await
    }

    /// Sends an error, with the lane if one is given.
    pub async fn error(&self, error: &WireError, stream_id: Option<&str>) -> Result<(), Gone> {
        self.outbox.send(&ErrorEvent::new(error, stream_id)).await
    }

    /// Closes the socket after the queued frames.
    pub fn close(&self, code: u16, reason: &'static str) {
        self.outbox.close(Closing { code, reason, flush: true });
    }
}
