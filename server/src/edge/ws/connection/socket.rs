//! What the jobs of a connection share, and how they answer its client.

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

/// What a connection's jobs share. They all run on the connection's task.
pub struct SocketConnection {
    pub id: String,
    pub edge: web::Data<Edge>,
    pub identity: Arc<Identity>,
    pub tenant: String,
    /// Whether the client takes our extensions.
    pub extensions: bool,
    pub outbox: Outbox,
    /// The number of the next event of the connection's own.
    pub next: Cell<u64>,
    /// Whether the client knows that the server drains.
    pub told: Cell<bool>,
    /// The generations that are followed now.
    pub following: RefCell<HashSet<String>>,
    /// The latest response of this connection with `store: false`, which only this connection may continue.
    pub unstored: RefCell<Option<String>>,
    pub turns: ConversationWatches,
    pub arrivals: Arrivals,
    pub steering: Steering,
    /// A permit for each cancel that may be under way.
    pub cancels: Arc<Semaphore>,
}

impl SocketConnection {
    /// Tells of an error of the connection, and counts it.
    pub async fn refuse(&self, error: &WireError) -> Result<(), Gone> {
        self.edge.generations.metrics.refused(error);
        self.error(error, None).await
    }

    /// What the end of this connection means to the generations that it follows: only the extensions have a resume.
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

    /// Tells of an error, of a lane if one is given.
    pub async fn error(&self, error: &WireError, stream_id: Option<&str>) -> Result<(), Gone> {
        self.outbox.send(&ErrorEvent::new(error, stream_id)).await
    }

    /// Closes the socket when what waits is sent.
    pub fn close(&self, code: u16, reason: &'static str) {
        self.outbox.close(Closing { code, reason, flush: true });
    }
}
