//! The life of one connection: reads client events, runs their jobs in lanes, keeps the heart beating, ends cleanly.

mod cancel;
mod notices;
mod permissions;
mod receive;
mod steer;

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_web::{rt, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, ProtocolError, Session};
use futures::{FutureExt, future::LocalBoxFuture};
use opentelemetry::Context;
use serde::Serialize;
use tokio::{
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::Instrument;

use super::{
    arrival::{Arrival, Arrivals},
    guard::{Arriving, TOO_MUCH, Violation},
    lanes::{Lane, LaneJob, Lanes, MAX_IN_FLIGHT, MAX_LANES},
    outbox::{Closing, FrameBody, Gone, Outbox},
    steering::{PendingSteer, Steering, successor},
    turns::{ConversationNotices, ConversationWatches},
    writer,
};
use crate::{
    access::{Denied, Identity},
    edge::{Edge, Phase, grants},
    generation::{Caller, CreatedResponse, Follow, budget::BudgetShare},
    limits::HELD_RETRY_MS,
    random::random_hex,
    store::OnDisconnect,
    wire::{
        client::Target,
        close,
        error::{ErrorEvent, WireError},
        event::{ConnectionEvent, Event, Extension, Limits, Numbered},
        request::Create,
        response::Response,
        steer::{SteerError, SteerErrorCode},
    },
};

/// What arrives: messages and, when they have ended, the frame that ended them.
pub struct Incoming {
    pub messages: AggregatedMessageStream,
    pub arriving: Rc<Arriving>,
}

/// What a connection's jobs share. They all run on the connection's task.
struct SocketConnection {
    id: String,
    edge: web::Data<Edge>,
    identity: Arc<Identity>,
    tenant: String,
    extensions: bool,
    outbox: Outbox,
    next: Cell<u64>,
    /// Whether the client knows that the server drains.
    told: Cell<bool>,
    /// The generations that are followed now.
    following: RefCell<HashSet<String>>,
    /// The latest response of this connection with `store: false`, which only this connection may continue.
    unstored: RefCell<Option<String>>,
    turns: ConversationWatches,
    arrivals: Arrivals,
    steering: Steering,
    cancels: Arc<Semaphore>,
}

/// Who is connected, and whether the client takes our extensions.
pub struct SocketClient {
    pub identity: Arc<Identity>,
    pub extensions: bool,
    /// The context that the client sent with its handshake.
    pub handshake: Context,
    /// The socket counts for its tenant and its address as long as it is open.
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
        cancels: Arc::new(Semaphore::new(cancel::MAX_CANCELS)),
    });
    let _connected = edge.generations.metrics.connected();
    let span = tracing::error_span!("connection", id = connection.id, tenant = connection.tenant);
    let _ = connection.live(incoming, watched).instrument(span).await;
    // Ends the writer once it has sent what was queued.
    drop(connection);
    let _ = writer.await;
}

impl SocketConnection {
    /// Until the client leaves, breaks a rule or the server closes.
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
            // Streams that have ended are sent to their last event before the socket closes.
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
                // In boxes of their own: an idle connection is as large as everything that it may wait for.
                turn = watched.next() => Box::pin(self.turn(turn)).await?,
                _ = heartbeat.tick() => {
                    if incoming.arriving.unfinished().is_some_and(|since| since >= body_timeout) {
                        self.refuse(&WireError::MessageTimeout).await?;
                        self.close(close::UNFINISHED, "a message did not arrive whole in time");
                    } else if heard.elapsed() >= idle_timeout {
                        self.close(close::IDLE, "nothing was heard for the idle timeout");
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
                    // What runs goes on for whoever may follow it.
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

    /// Ends the connection of a client that broke a rule of the transport.
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

    /// Tells of an error of the connection, and counts it.
    async fn refuse(&self, error: &WireError) -> Result<(), Gone> {
        self.edge.generations.metrics.refused(error);
        self.error(error, None).await
    }

    async fn greet(&self) -> Result<(), Gone> {
        let settings = &self.edge.settings;
        let limits = Limits {
            max_message_bytes: settings.server.max_message_bytes,
            max_streams: MAX_LANES,
            max_in_flight: MAX_IN_FLIGHT,
        };
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

    /// Tells once that the server drains, also where it closes at once.
    async fn enter(&self, phase: Phase) -> Result<(), Gone> {
        if phase >= Phase::Draining && !self.told.replace(true) {
            self.extension(Extension::Draining { reconnect_after_ms: 1000 }).await?;
        }
        Ok(())
    }

    async fn push(self: &Rc<Self>, lanes: &mut Lanes, stream_id: Lane, job: LaneJob) -> Result<(), Gone> {
        match lanes.push(stream_id.clone(), job, |lane, job| self.start(lane, job)) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.edge.generations.metrics.refused(&error);
                self.error(&error, stream_id.as_deref()).await
            }
        }
    }

    fn start(self: &Rc<Self>, lane: Lane, job: LaneJob) -> LocalBoxFuture<'static, Lane> {
        let connection = self.clone();
        async move {
            let done = match job {
                LaneJob::Create(arrival) => connection.create(arrival, lane.as_deref()).await,
                LaneJob::Resume { target, starting_after } => {
                    connection.resume(target, starting_after, lane.as_deref()).await
                }
            };
            // `Gone`: the connection ends, and its loop knows.
            let _ = done;
            lane
        }
        .boxed_local()
    }

    /// What the end of this connection means to the generations that it follows: only the extensions have a resume.
    fn on_disconnect(&self) -> OnDisconnect {
        if self.extensions { OnDisconnect::Grace } else { OnDisconnect::Cancel }
    }

    /// Creates a response and follows it; then its successors, as long as input steers them.
    async fn create(&self, mut arrival: Arrival, stream_id: Option<&str>) -> Result<(), Gone> {
        let parsed = arrival.parse(&self.edge).await;
        let held = parsed.and_then(|mut create| {
            grants::hold(&self.edge, &self.identity, &mut create)?;
            Ok(create)
        });
        let mut create = match held {
            Ok(create) => create,
            Err(error) => {
                arrival.traced.span.fail(error.code().0);
                return self.error(&error, stream_id).await;
            }
        };
        // The inputs that the request commits.
        let mut steers = self.steering.take(create.previous_response_id.as_deref());
        let waited = steers.iter().flat_map(|pending| pending.items.iter().cloned());
        create.input = waited.chain(std::mem::take(&mut create.input)).collect();
        loop {
            let Some(created) = self.begin(create.clone(), &arrival, stream_id, &steers).await? else { return Ok(()) };
            let id = created.id;
            self.steering.begin(&id, &create, stream_id);
            let last = match self.edge.generations.follow(&self.tenant, &id, None, self.on_disconnect()).await {
                Ok(follow) => self.pump(follow, stream_id).await,
                Err(error) => self.error(&error, stream_id).await.map(|()| None),
            };
            let pending = self.steering.end(&id);
            match self.continued(last?, &id, pending, stream_id).await? {
                Some(pending) => {
                    create = successor(&create, &id, &pending);
                    steers = pending;
                }
                None => return Ok(()),
            }
        }
    }

    /// Creates a response; its id, unless it is refused. `steers` are the inputs that it commits.
    async fn begin(
        &self,
        create: Create,
        arrival: &Arrival,
        stream_id: Option<&str>,
        steers: &[PendingSteer],
    ) -> Result<Option<CreatedResponse>, Gone> {
        let (store, previous) = (create.store, create.previous_response_id.clone());
        let key = grants::limited_key(&self.identity);
        let origin = arrival.traced.origin();
        let caller = Caller::new(self.unstored.borrow().clone(), self.on_disconnect(), origin).with_key(key);
        self.turns.follow(&caller.new_response_id);
        let conversation = create.conversation.clone();
        let created = match self.edge.generations.create(&self.tenant, create, caller).await {
            Ok(created) => created,
            Err(error) => {
                arrival.traced.span.fail(error.code().0);
                let previous = previous.unwrap_or_default();
                for pending in steers {
                    let error = SteerError::new(SteerErrorCode::SuccessorCreationFailed, error.to_string());
                    self.steer_failed(&previous, Some(&pending.id), &pending.input, error, stream_id).await?;
                }
                if !previous.is_empty() {
                    self.unstored.take();
                }
                return self.error(&error, stream_id).await.map(|()| None);
            }
        };
        // Its `client_request_id` may have been used before, elsewhere.
        if let Err(error) = grants::check_response(&self.edge, &self.identity, &created.id).await {
            return self.error(&error, stream_id).await.map(|()| None);
        }
        if !store {
            self.unstored.replace(Some(created.id.clone()));
        }
        self.turns.follow(&created.id);
        if let Some(conversation) = conversation {
            self.watch(&conversation).await;
        }
        Ok(Some(created))
    }

    async fn resume(&self, target: Target, starting_after: Option<u64>, stream_id: Option<&str>) -> Result<(), Gone> {
        let response_id = match target {
            Target::Response(id) => id,
            Target::Conversation(id) => {
                // Before it is looked at: the turn after it is told.
                self.watch(&id).await;
                match self.edge.generations.current(&self.tenant, &id).await {
                    Ok(id) => id,
                    Err(error) => return self.error(&error, stream_id).await,
                }
            }
        };
        let follow = self.edge.generations.follow(&self.tenant, &response_id, starting_after, self.on_disconnect());
        let follow = match follow.await {
            Ok(follow) => follow,
            Err(error) => return self.error(&error, stream_id).await,
        };
        self.edge.generations.metrics.resumed.inc();
        self.turns.follow(&response_id);
        if let Some(conversation) = &follow.conversation {
            self.watch(conversation).await;
        }
        let resumed = Extension::Resumed {
            response_id: &response_id,
            starting_after,
            last_sequence_number: follow.start.last_sequence_number,
            status: follow.start.status,
            stream_id,
        };
        self.extension(resumed).await?;
        self.pump(follow, stream_id).await.map(drop)
    }

    /// Sends a response's events until its last; the response as the last event has it.
    async fn pump(&self, follow: Follow, stream_id: Option<&str>) -> Result<Option<Response>, Gone> {
        let run = follow.run.clone();
        self.following.borrow_mut().insert(run.clone());
        let last = self.pump_all(follow, stream_id).await;
        self.following.borrow_mut().remove(&run);
        last
    }

    async fn pump_all(&self, mut follow: Follow, stream_id: Option<&str>) -> Result<Option<Response>, Gone> {
        let (id, run, ignored) = (follow.id.clone(), follow.run.clone(), std::mem::take(&mut follow.ignored));
        let (mut place, mut last) = (None, None);
        loop {
            let next = tokio::select! {
                biased;
                next = follow.next() => next,
                told = notices::changed(&mut place), if place.is_some() => {
                    match told {
                        Some(told) => self.place(&id, told, stream_id).await?,
                        None => place = None,
                    }
                    continue;
                }
            };
            let (sequence_number, event) = match next {
                None => return Ok(last),
                Some(Ok(numbered)) => numbered,
                Some(Err(error)) => return self.error(&error, stream_id).await.map(|()| None),
            };
            let response_id = self.extensions.then_some(id.as_str());
            let warned = self.extensions && matches!(event, Event::Created { .. });
            let warnings = if warned { &ignored[..] } else { &[] };
            self.outbox.send(&Numbered { event: &event, sequence_number, response_id, stream_id, warnings }).await?;
            let queued = self.extensions && matches!(event, Event::Queued { .. });
            place = if queued { self.edge.generations.admission.place(&run) } else { None };
            if let Event::Completed { response } | Event::Incomplete { response } | Event::Failed { response } = event {
                last = Some(*response);
            }
        }
    }

    /// Sends a connection event to a client that asked for extensions.
    async fn extension(&self, event: Extension<'_>) -> Result<(), Gone> {
        if !self.extensions {
            return Ok(());
        }
        self.own(event, None).await
    }

    /// Sends an event that is numbered by the connection's own counter.
    async fn own(&self, event: impl Serialize, stream_id: Option<&str>) -> Result<(), Gone> {
        let sequence_number = self.next.get();
        self.next.set(sequence_number + 1);
        self.outbox.send(&ConnectionEvent { event, sequence_number, stream_id }).await
    }

    async fn error(&self, error: &WireError, stream_id: Option<&str>) -> Result<(), Gone> {
        self.outbox.send(&ErrorEvent::new(error, stream_id)).await
    }

    fn close(&self, code: u16, reason: &'static str) {
        self.outbox.close(Closing { code, reason, flush: true });
    }
}

/// The close code of a broken stream of frames.
fn broken(error: &ProtocolError) -> Violation {
    match error {
        ProtocolError::Overflow => (close::TOO_LARGE, "message too large"),
        ProtocolError::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => (close::NOT_UTF8, "text is UTF-8"),
        _ => (close::PROTOCOL, "protocol error"),
    }
}
