//! The jobs in the lanes of a connection: each creates or resumes a response, and follows it to its end.

use std::rc::Rc;

use futures::{FutureExt, future::LocalBoxFuture};

use super::{notices::changed, socket::SocketConnection};
use crate::{
    edge::{
        grants,
        ws::{
            arrival::Arrival,
            lanes::{Lane, LaneJob, Lanes},
            outbox::Gone,
            steering::{PendingSteer, successor},
        },
    },
    generation::{Caller, CreatedResponse, Follow},
    wire::{
        client::Target,
        event::{Event, Extension, Numbered},
        request::Create,
        response::Response,
        steer::{SteerError, SteerErrorCode},
    },
};

impl SocketConnection {
    /// Adds a job to its lane. Sends an error if the limits allow no further job.
    pub(super) async fn push(self: &Rc<Self>, lanes: &mut Lanes, stream_id: Lane, job: LaneJob) -> Result<(), Gone> {
        match lanes.push(stream_id.clone(), job, |lane, job| self.start(lane, job)) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.edge.generations.metrics.refused(&error);
                self.error(&error, stream_id.as_deref()).await
            }
        }
    }

    pub(super) fn start(self: &Rc<Self>, lane: Lane, job: LaneJob) -> LocalBoxFuture<'static, Lane> {
        let connection = self.clone();
        async move {
            let done = match job {
                LaneJob::Create(arrival) => connection.create(arrival, lane.as_deref()).await,
                LaneJob::Resume { target, starting_after } => {
                    connection.resume(target, starting_after, lane.as_deref()).await
                }
            };
            // After `Gone` the connection's loop ends, too.
            let _ = done;
            lane
        }
        .boxed_local()
    }

    /// Creates a response and follows it. Then does the same with each successor that steering input requires.
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
        // The waiting inputs that this request commits.
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

    /// Creates a response. Returns `None` if it is refused; the client then has the error. `steers`: the inputs that it commits.
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
        // The `client_request_id` may belong to a response of another conversation.
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
                // The watch starts before the read, so that no turn is missed in between.
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

    /// Sends the events of a response up to the last one. Returns the response of the last event.
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
                told = changed(&mut place), if place.is_some() => {
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
}
