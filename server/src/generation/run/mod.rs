//! The producing half: takes its turn, runs the engine, appends what it says to the log. Waits for the store and for
//! nothing else; knows no follower.

mod begin;
pub mod end_hooks;
pub mod log_writer;
pub mod registry;
mod take_over;
mod timeline;

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;

use crate::{
    engine::{Engine, Finish},
    generation::admission::Ticket,
    store::{Entry, StoreError},
};
use log_writer::LogWriter;
use registry::RunGuard;

/// Deltas taken from the engine at once; what arrives while an append is in flight goes together into the next.
const BATCH: usize = 256;

pub struct RunJob {
    pub engine: Arc<dyn Engine>,
    pub log: LogWriter,
    pub ticket: Ticket,
    pub registration: RunGuard,
}

impl RunJob {
    pub async fn run(self) {
        let Self { engine, mut log, ticket, registration } = self;
        let generate = generate(&*engine, &mut log, ticket, &registration);
        let outcome = match AssertUnwindSafe(generate).catch_unwind().await {
            Ok(outcome) => outcome,
            // Whatever broke, followers are not left waiting for an end that never comes.
            Err(_) => log.finish(Finish::Failed("the generation panicked".into())).await,
        };
        close_or_release(&log, outcome).await;
    }
}

/// Ends well with the log's last entry, or without it when the response is to be handed over.
async fn generate(
    engine: &dyn Engine,
    log: &mut LogWriter,
    mut ticket: Ticket,
    registration: &RunGuard,
) -> Result<(), StoreError> {
    if ticket.waits && !log.has_queued() {
        log.append(vec![Entry::Queued]).await?;
    }
    let permit = loop {
        tokio::select! {
            biased;
            () = registration.stop.cancelled() => break None,
            permit = ticket.admitted() => break permit,
            () = registration.look.notified() => log.look().await?,
        }
    };
    let Some(permit) = permit else {
        // Leaves the queue before the log is told, which may take a while.
        drop(ticket);
        return finish_without_engine(log, registration).await;
    };
    if !log.has_started() {
        log.append(vec![Entry::Started]).await?;
    }
    if log.cancelled || registration.stop.is_cancelled() {
        drop(permit);
        return finish_without_engine(log, registration).await;
    }
    let tried = tokio::select! {
        biased;
        () = registration.stop.cancelled() => None,
        tried = log.try_again() => Some(tried),
    };
    let mut alone = match tried {
        None => {
            drop(permit);
            return finish_without_engine(log, registration).await;
        }
        Some(Ok(alone)) => alone,
        Some(Err(None)) => {
            drop(permit);
            return log.finish(Finish::Failed("every replica that ran it died".into())).await;
        }
        Some(Err(Some(StoreError::Fenced))) => return Err(StoreError::Fenced),
        // Not counted: the store is waited for when the next entry is appended.
        Some(Err(Some(_))) => None,
    };
    tracing::debug!(response = log.header().id, "to the engine");
    let begun = log
        .request(registration)
        .await
        .and_then(|request| engine.generate(&log.header().model, request).map_err(|error| error.to_string()));
    let mut deltas = match begun {
        Ok(deltas) => deltas,
        Err(reason) => return log.finish(Finish::Failed(reason)).await,
    };
    let mut batch = Vec::with_capacity(BATCH);
    let mut outcome = Ok(());
    // The channel closes when the engine has left the generation; until then the permit is held, even if the log takes no more.
    loop {
        tokio::select! {
            biased;
            received = deltas.recv_many(&mut batch, BATCH) => if received == 0 { break },
            () = registration.look.notified() => if outcome.is_ok() { outcome = log.look().await },
        }
        permit.produced(batch.iter().map(|delta| delta.tokens.len() as u32).sum());
        if batch.iter().any(|delta| delta.finish == Some(Finish::Stop)) {
            permit.ended_by_itself();
        }
        if registration.is_handed_over() {
            // The engine was stopped, not the generation.
            batch.retain(|delta| delta.finish != Some(Finish::Cancelled));
        }
        if registration.is_steered() && !log.cancelled {
            let ends = batch.iter_mut().filter(|delta| delta.finish == Some(Finish::Cancelled));
            ends.for_each(|delta| delta.finish = Some(Finish::Steered));
        }
        if outcome.is_ok() {
            outcome = log.append_deltas(batch.drain(..)).await;
            // There is progress.
            drop(alone.take());
        }
        if outcome.is_err() || log.cancelled {
            registration.cancel();
        }
        batch.clear();
    }
    outcome?;
    if log.has_ended() || registration.is_handed_over() {
        return Ok(());
    }
    log.finish(Finish::Failed("the engine ended without a finish".into())).await
}

/// What follows from how the writing of a log went.
pub async fn close_or_release(log: &LogWriter, outcome: Result<(), StoreError>) {
    let id = &log.header().id;
    match outcome {
        Ok(()) if log.has_ended() => log.close().await,
        // Handed over: it stays listed as this replica's until somebody has claimed it.
        Ok(()) => match log.release().await {
            Ok(()) => {
                log.metrics().handed_over.inc();
                tracing::info!(response = id, "handed over");
            }
            Err(error) => tracing::warn!(response = id, %error, "not handed over; it is taken over later"),
        },
        // It was deleted, or another replica has it: nobody is to see more of it from here.
        Err(StoreError::Fenced) => {
            tracing::info!(response = id, "fenced out: the log takes no more entries from here");
            log.close().await;
        }
        // It stays listed, so that it is continued when the store is back.
        Err(error) => tracing::error!(response = id, %error, "gave up writing the log"),
    }
}

/// The end of a generation that did not get to the engine.
pub async fn finish_without_engine(log: &mut LogWriter, registration: &RunGuard) -> Result<(), StoreError> {
    let finish = match registration.stop.is_cancelled() || log.cancelled {
        true if registration.is_handed_over() => return Ok(()),
        true if registration.is_steered() && !log.cancelled => Finish::Steered,
        true => Finish::Cancelled,
        false => Finish::Failed("admission gave no permit".into()),
    };
    log.finish(finish).await
}
