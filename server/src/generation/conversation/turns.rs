//! Turns of a conversation. They run one after the other, each on any replica.
//!
//! A response enters the conversation's line when it is created. The first in line begins at once. The others are queued, and their
//! prompts are rendered when their turns come. If the replica of a turn dies, the replica that takes the response over ends the
//! turn. If nothing is left to take over, the next in line ends it.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::items::{input_items, output_items};
use crate::{
    engine::Finish,
    generation::{
        Generations,
        create::start::CreatedResponse,
        refusal::{Named, store_error},
        run::{
            log_writer::LogWriter,
            registry::RunGuard,
            {RunJob, close_or_release, finish_without_engine},
        },
    },
    settings::ConversationConflict,
    store::{Created, Entry, Header, StoreError, page::Page},
    wire::{
        error::WireError,
        input::{InputItem, parse_input},
    },
};

/// The maximum of turns that wait in a conversation.
const MAX_WAITING: usize = 16;
/// The interval between checks of whether the response of the first turn has ended or is gone.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The time for which a turn may be in line before its response exists.
const MAX_CREATION: Duration = Duration::from_secs(5);

/// A response's place in the line. Dropping it removes the response from the line, unless [`Self::keep`] was called.
pub struct TurnPlace {
    generations: Arc<Generations>,
    tenant: String,
    conversation: String,
    response: String,
    is_first: bool,
    kept: bool,
}

impl TurnPlace {
    /// Leaves the response in the line. The response runs or waits from here on, and leaves the line when it ends.
    fn keep(mut self) {
        self.kept = true;
    }

    /// Refuses a response that would have to wait if the settings say so.
    fn check(&self) -> Result<(), WireError> {
        let refused = self.generations.settings.conversation_conflict == ConversationConflict::Refuse;
        if refused && !self.is_first { Err(WireError::ConversationBusy(self.conversation.clone())) } else { Ok(()) }
    }

    /// Begins the first turn: appends its input to the conversation.
    async fn begin(&self, header: &Header) -> Result<(), WireError> {
        let begun =
            self.generations.conversations.begin(&self.tenant, &self.conversation, &self.response, input_items(header));
        begun.await.map_err(|error| store_error(error, Named::Conversation(&self.conversation)))
    }
}

impl Drop for TurnPlace {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (generations, tenant) = (self.generations.clone(), std::mem::take(&mut self.tenant));
        let (conversation, response) = (std::mem::take(&mut self.conversation), std::mem::take(&mut self.response));
        self.generations.runtime.spawn(async move {
            // If this call fails, the next in line finds that the response is gone.
            let _ = generations.conversations.end(&tenant, &conversation, &response, vec![]).await;
        });
    }
}

/// The reason why a waiting response gets no turn.
enum Missed {
    /// The response was cancelled or is handed over.
    Stopped,
    Refused(WireError),
}

impl Generations {
    /// Puts a response into the conversation's line. Ends the turns before it whose responses have ended or are gone.
    ///
    /// # Errors
    /// `conversation_not_found`; `conversation_busy` if [`MAX_WAITING`] turns wait; those of the store.
    pub(in crate::generation) async fn enter(
        self: &Arc<Self>,
        tenant: &str,
        conversation: &str,
        response: &str,
    ) -> Result<TurnPlace, WireError> {
        let failed = |error| store_error(error, Named::Conversation(conversation));
        let mut ahead = self.conversations.enter(tenant, conversation, response, MAX_WAITING).await.map_err(failed)?;
        let mut place = TurnPlace {
            generations: self.clone(),
            tenant: tenant.to_owned(),
            conversation: conversation.to_owned(),
            response: response.to_owned(),
            is_first: false,
            kept: false,
        };
        // The response waits, or is refused, only if a turn before it is alive.
        while ahead > 0 && self.end_abandoned_turn(tenant, conversation).await? {
            let line = self.conversations.line(tenant, conversation).await.map_err(failed)?;
            ahead = line.turns.iter().position(|turn| turn.response == response).unwrap_or(0);
        }
        place.is_first = ahead == 0;
        Ok(place)
    }

    /// Creates the response of a turn. Runs it if it is first in line; otherwise it waits for its turn in a task of its own.
    pub(in crate::generation) async fn start_turn(
        self: &Arc<Self>,
        header: Header,
        place: TurnPlace,
    ) -> Result<CreatedResponse, WireError> {
        let (tenant, id) = (header.tenant.clone(), header.id.clone());
        let header = if place.is_first {
            let history = self.items_before(&tenant, &place.conversation, &header).await?;
            self.with_prompt(&header, history).await?
        } else {
            header
        };
        let lease = match self.store.create(header.clone()).await.map_err(|e| store_error(e, Named::Response(&id)))? {
            Created::New(lease) => lease,
            Created::Existing(id) => {
                return Ok(CreatedResponse { follower: self.running.follower(&id, header.on_disconnect), id });
            }
        };
        let follower = self.running.follower(&id, header.on_disconnect);
        let started = async {
            place.check()?;
            if place.is_first {
                place.begin(&header).await?;
                return self.run(header, lease.clone());
            }
            let held = self.hold_request(&header)?;
            let registration = self.running.register(&id, header.on_disconnect);
            let mut log = LogWriter::new(self.log_sink(), Arc::new(header), lease.clone(), vec![]);
            log.held = Some(held);
            log.stop = registration.stop.clone();
            let span = log.log_span();
            self.tasks.spawn_on(self.clone().take_turn(log, registration, false).instrument(span), &self.runtime);
            Ok(())
        };
        if let Err(error) = started.await {
            self.abandon(&tenant, &lease).await;
            return Err(error);
        }
        place.keep();
        Ok(CreatedResponse { id, follower })
    }

    /// Returns the items of a conversation before this response's input, oldest first.
    pub(in crate::generation) async fn items_before(
        &self,
        tenant: &str,
        conversation: &str,
        response: &Header,
    ) -> Result<Vec<InputItem>, WireError> {
        let listed = self.conversations.items(tenant, conversation, &Page::all()).await;
        let items = listed.map_err(|error| store_error(error, Named::Conversation(conversation)))?.data;
        let own: Vec<String> = input_items(response).into_iter().map(|item| item.id).collect();
        let before: Vec<Value> =
            items.into_iter().take_while(|item| !own.contains(&item.id)).map(|item| item.body).collect();
        if before.is_empty() {
            return Ok(vec![]);
        }
        parse_input(Value::Array(before)).map_err(|error| error.renamed("input", "conversation"))
    }

    /// Waits for a response's turn, then runs the response. `again`: this replica has taken the response over.
    pub(in crate::generation) async fn take_turn(
        self: Arc<Self>,
        mut log: LogWriter,
        registration: RunGuard,
        again: bool,
    ) {
        let header = log.header().clone();
        let Some(conversation) = &header.spec.conversation else { return };
        if !again && let Err(error) = log.append(vec![Entry::Queued]).await {
            return close_or_release(&log, Err(error)).await;
        }
        let prepared = match self.wait_for_turn(&header, conversation, &registration).await {
            Ok(()) => self.prepare_with_retries(&header, conversation, &registration).await,
            Err(missed) => Err(missed),
        };
        let outcome = match prepared {
            Ok(prepared) => {
                log.prepare(prepared);
                let entered = log.header();
                let ticket = if again { self.admission.enter_first(entered) } else { self.admission.enter(entered) };
                match ticket {
                    Ok(ticket) => {
                        let job = RunJob { engine: self.engine.clone(), log, ticket, registration };
                        return job.run().await;
                    }
                    Err(error) => log.finish(refused(&error)).await,
                }
            }
            Err(Missed::Stopped) => finish_without_engine(&mut log, &registration).await,
            Err(Missed::Refused(error)) => log.finish(refused(&error)).await,
        };
        close_or_release(&log, outcome).await;
    }

    /// Calls [`Self::prepare_turn`] until the store can be reached and has room. A turn that has waited is not refused for an
    /// outage.
    async fn prepare_with_retries(
        &self,
        header: &Arc<Header>,
        conversation: &str,
        registration: &RunGuard,
    ) -> Result<Header, Missed> {
        let mut paused = None;
        loop {
            match self.prepare_turn(header, conversation).await {
                Err(WireError::StoreFull { .. }) if paused.is_none() => {
                    tracing::warn!(response = header.id, "the store is full; the turn waits until there is room");
                    paused = Some(self.metrics.paused());
                }
                Err(WireError::StoreFull { .. } | WireError::StoreUnavailable { .. }) => {}
                prepared => return prepared.map_err(Missed::Refused),
            }
            tokio::select! {
                biased;
                () = registration.stop.cancelled() => return Err(Missed::Stopped),
                () = sleep(POLL_INTERVAL) => {}
            }
        }
    }

    /// Renders the prompt of a turn and begins the turn. Returns the header with the prompt.
    async fn prepare_turn(&self, header: &Arc<Header>, conversation: &str) -> Result<Header, WireError> {
        let prepared = if header.prompt.is_empty() {
            let before = self.items_before(&header.tenant, conversation, header).await?;
            self.with_prompt(header, before).await?
        } else {
            (**header).clone()
        };
        let begun = self.conversations.begin(&header.tenant, conversation, &header.id, input_items(header));
        begun.await.map_err(|error| store_error(error, Named::Conversation(conversation)))?;
        Ok(prepared)
    }

    /// Waits for the turn of a response, at most `conversation_wait_ms`.
    async fn wait_for_turn(&self, header: &Header, conversation: &str, registration: &RunGuard) -> Result<(), Missed> {
        let waited = Instant::now() + Duration::from_millis(self.settings.conversation_wait_ms);
        let comes = async {
            loop {
                match self.is_first_in_line(header, conversation).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    // The store cannot be reached or is full. Try again later.
                    Err(WireError::StoreUnavailable { .. } | WireError::StoreFull { .. }) => sleep(POLL_INTERVAL).await,
                    Err(error) => return Err(Missed::Refused(error)),
                }
            }
        };
        tokio::select! {
            biased;
            () = registration.stop.cancelled() => Err(Missed::Stopped),
            come = comes => come,
            () = tokio::time::sleep_until(waited) => {
                Err(Missed::Refused(WireError::ConversationBusy(conversation.to_owned())))
            }
        }
    }

    /// Waits until it is the response's turn. Returns `false` if the notices of the conversation have ended before.
    async fn is_first_in_line(&self, header: &Header, conversation: &str) -> Result<bool, WireError> {
        let tenant = &header.tenant;
        let failed = |error| store_error(error, Named::Conversation(conversation));
        let mut notices = self.conversations.watch(tenant, conversation).await.map_err(failed)?;
        loop {
            let line = self.conversations.line(tenant, conversation).await.map_err(failed)?;
            match line.turns.iter().position(|turn| turn.response == header.id) {
                Some(0) => return Ok(true),
                Some(_) => {}
                // The turn has ended and only the last entry of the log is missing, or the response lost its place. `begin` finds
                // out.
                None => return Ok(true),
            }
            tokio::select! {
                notice = notices.next() => if notice.is_none() { return Ok(false) },
                () = sleep(POLL_INTERVAL) => { self.end_abandoned_turn(tenant, conversation).await?; }
            }
        }
    }

    /// Ends the first turn in line if its response has ended or is gone. Returns whether it ended a turn.
    async fn end_abandoned_turn(&self, tenant: &str, conversation: &str) -> Result<bool, WireError> {
        let failed = |error: StoreError| store_error(error, Named::Conversation(conversation));
        let line = self.conversations.line(tenant, conversation).await.map_err(failed)?;
        let Some(first) = line.turns.first() else { return Ok(false) };
        let output = match self.store.read(tenant, &first.response).await {
            Ok((header, entries)) if entries.last().is_some_and(|last| last.is_last()) => {
                output_items(&header, &entries)
            }
            Err(StoreError::NotFound | StoreError::Expired) if first.waited > MAX_CREATION => vec![],
            Ok(_) | Err(StoreError::NotFound | StoreError::Expired) => return Ok(false),
            Err(error) => return Err(store_error(error, Named::Response(&first.response))),
        };
        tracing::info!(response = first.response, conversation, "ending a turn whose response has ended or is gone");
        self.conversations.end(tenant, conversation, &first.response, output).await.map_err(failed)?;
        Ok(true)
    }
}

fn refused(error: &WireError) -> Finish {
    Finish::Refused { code: error.code().0.into(), message: error.to_string() }
}
