//! The loop of one connection: reads client events, runs their jobs in lanes, sends heartbeats, and closes the connection.

mod cancel;
mod jobs;
mod notices;
mod permissions;
mod receive;
mod socket;
mod steer;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_web::{rt, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, ProtocolError, Session};
use opentelemetry::Context;
use tokio::{
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::Instrument;

use super::{
    arrival::Arrivals,
    guard::{Arriving, TOO_MUCH, Violation},
    lanes::{Lanes, MAX_IN_FLIGHT},
    outbox::{FrameBody, Gone, Outbox},
    steering::Steering,
    turns::{ConversationNotices, ConversationWatches},
    writer,
};
use crate::{
    access::{Denied, Identity},
    edge::state::{Edge, Phase},
    generation::budget::BudgetShare,
    limits::HELD_RETRY_MS,
    random::random_hex,
    wire::{
        close,
        error::WireError,
        event::{Extension, Limits},
    },
};
use cancel::MAX_CANCELS;
use socket::SocketConnection;

/// The incoming messages, and the state of the guard, which has the violation that ended them.
pub struct Incoming {
    pub messages: AggregatedMessageStream,
    pub arriving: Rc<Arriving>,
}

/// The client of a connection, and whether it uses the extensions.
pub struct SocketClient {
    pub identity: Arc<Identity>,
    pub extensions: bool,
    /// The trace context that the client sent with its handshake.
    pub handshake: Context,
    /// The shares of an open socket in the budgets of its tenant and its address.
    pub _held: (BudgetShare, Option<BudgetShare>),
}

pub async fn run(edge: web::Data<Edge>, client: SocketClient, session: Session, incoming: Incoming) {
    let SocketClient { identity, extensions, handshake, _held } = client;
    let settings = &edge.settings.server;
    let (outbox, frames, closing) =
        Outbox::new(settings.outbox_bytes, Duration::from_millis(settings.slow_client_grace_ms));
    let writer = rt::spawn(writer::run(session, frames, closing));
    let (turns, watched) = ConversationWatches::new();
    let connection = Rc::new(SocketConnection {
        id: format!("conn_{}", random_hex()),
        edge: edge.clone(),
        tenant: identity.tenant.clone(),
        identity,
        extensions,
        outbox,
        next: Cell::new(0),
        told: Cell::new(false),
        following: RefCell::default(),
        unstored: RefCell::new(None),
        turns,
        arrivals: Arrivals::new(edge.settings.server.max_message_bytes, handshake),
        steering: Steering::default(),
        cancels: Arc::new(Semaphore::new(MAX_CANCELS)),
    });
    let _connected = edge.generations.metrics.connected();
    let span = tracing::error_span!("connection", id = connection.id, tenant = connection.tenant);
    let _ = connection.live(incoming, watched).instrument(span).await;
    // The writer ends after the queued frames.
    drop(connection);
    let _ = writer.await;
}

impl SocketConnection {
    /// Runs until the client leaves or breaks a rule, or the server closes the connection.
    async fn live(self: &Rc<Self>, mut incoming: Incoming, mut watched: ConversationNotices) -> Result<(), Gone> {
        let settings = &self.edge.settings.server;
        let mut lanes = Lanes::default();
        let mut phase = self.edge.phase.clone();
        let mut heartbeat = interval(Duration::from_millis(settings.heartbeat_ms));
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        let idle_timeout = Duration::from_millis(settings.idle_timeout_ms);
        let body_timeout = Duration::from_millis(settings.body_timeout_ms);
        let mut age = std::pin::pin!(sleep(Duration::from_millis(settings.connection_limit_ms)));
        let mut heard = Instant::now();
        let access = self.edge.auth.access.clone();
        let mut ended = std::pin::pin!(access.ended(&self.identity));
        self.greet().await?;
        loop {
            // The socket closes after the last event of every stream.
            let now = *phase.borrow();
            if now == Phase::HandedOver || now == Phase::Closing && lanes.is_empty() {
                self.close(close::RESTART, "the server is restarting; reconnect");
            }
            tokio::select! {
                biased;
                () = self.outbox.closed() => return Ok(()),
                _ = phase.changed() => {
                    let now = *phase.borrow_and_update();
                    self.enter(now).await?;
                }
                () = lanes.advance(|lane, job| self.start(lane, job)), if !lanes.is_empty() => {}
                // Boxed, because an idle connection takes the memory of every future that the loop contains.
                turn = watched.next() => Box::pin(self.turn(turn)).await?,
                _ = heartbeat.tick() => {
                    if incoming.arriving.unfinished().is_some_and(|since| since >= body_timeout) {
                        self.refuse(&WireError::MessageTimeout).await?;
                        self.close(close::UNFINISHED, "a message did not arrive completely in time");
                    } else if heard.elapsed() >= idle_timeout {
                        self.close(close::IDLE, "no message within the idle timeout");
                    } else {
                        self.outbox.control(FrameBody::Ping);
                    }
                }
                () = &mut age => {
                    self.error(&WireError::ConnectionLimit, None).await?;
                    self.close(close::CONNECTION_LIMIT, "maximum age reached; reconnect and resume");
                    return Ok(());
                }
                denied = &mut ended => {
                    self.edge.generations.metrics.denied(denied.reason());
                    // Running generations continue for other followers.
                    self.following.borrow().iter().for_each(|run| self.edge.generations.spare(run));
                    let reason = match denied {
                        Denied::Expired => "the key has expired",
                        Denied::Revoked | Denied::Unknown => "the key was revoked",
                    };
                    self.close(close::POLICY, reason);
                    return Ok(());
                }
                message = incoming.messages.recv() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(AggregatedMessage::Text(text))) => Box::pin(self.receive(&text, &mut lanes)).await?,
                        Some(Ok(AggregatedMessage::Ping(bytes))) => self.outbox.control(FrameBody::Pong(bytes)),
                        Some(Ok(AggregatedMessage::Pong(_))) => {}
                        Some(Ok(AggregatedMessage::Binary(_))) => self.close(close::UNSUPPORTED, "messages are text"),
                        Some(Ok(AggregatedMessage::Close(_))) => {
                            self.close(1000, "");
                            return Ok(());
                        }
                        Some(Err(error)) => Box::pin(self.violated(broken(&error))).await?,
                        None => match incoming.arriving.violation() {
                            Some(violation) => Box::pin(self.violated(violation)).await?,
                            None => return Ok(()),
                        },
                    }
                }
            }
        }
    }

    /// Closes the connection of a client that broke a rule of the transport.
    async fn violated(&self, (code, reason): Violation) -> Result<(), Gone> {
        if code == close::TOO_LARGE {
            let limit = self.edge.settings.server.max_message_bytes;
            self.refuse(&WireError::MessageTooLarge { limit }).await?;
        } else if (code, reason) == TOO_MUCH {
            let most = self.edge.generations.budget(&self.tenant).most();
            self.refuse(&WireError::TooMuchHeld { most, retry_after_ms: HELD_RETRY_MS }).await?;
        }
        self.close(code, reason);
        Ok(())
    }

    async fn greet(&self) -> Result<(), Gone> {
        let settings = &self.edge.settings;
        let limits = Limits { max_message_bytes: settings.server.max_message_bytes, max_in_flight: MAX_IN_FLIGHT };
        let greeting = Extension::SessionCreated {
            connection_id: &self.id,
            limits,
            resume_window_ms: settings.generation.resume_window_ms,
            heartbeat_ms: settings.server.heartbeat_ms,
        };
        self.extension(greeting).await?;
        let phase = *self.edge.phase.borrow();
        self.enter(phase).await
    }

    /// Notifies the client once that the server is draining, even if the server closes at once.
    async fn enter(&self, phase: Phase) -> Result<(), Gone> {
        if phase >= Phase::Draining && !self.told.replace(true) {
            self.extension(Extension::Draining { reconnect_after_ms: 1000 }).await?;
        }
        Ok(())
    }
}

/// Returns the close code and the reason for a broken stream of frames.
fn broken(error: &ProtocolError) -> Violation {
    match error {
        ProtocolError::Overflow => (close::TOO_LARGE, "message too large"),
        ProtocolError::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => (close::NOT_UTF8, "text is UTF-8"),
        _ => (close::PROTOCOL, "protocol error"),
    }
}
