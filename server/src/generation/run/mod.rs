//! The run of a generation: waits for a permit, runs the engine and appends its deltas to the log. Never waits for a follower.

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

/// The maximum of deltas in one append. Deltas that arrive during an append go together into the next one.
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
            // Followers wait for the last entry, so a panic ends the log too.
            Err(_) => log.finish(Finish::Failed("the generation panicked".into())).await,
        };
        close_or_release(&log, outcome).await;
    }
}

/// Runs a generation until the log has its last entry, or until the response is handed over.
///
/// # Errors
/// Those of the last append. The log then has no last entry.
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
            () = registration.requested.notified() => log.poll_requests().await?,
        }
    };
    let Some(permit) = permit else {
        // The request leaves the queue before the append, which may take long.
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
    let attempt = tokio::select! {
        biased;
        () = registration.stop.cancelled() => None,
        attempt = log.try_again() => Some(attempt),
    };
    let mut suspect_permit = match attempt {
        None => {
            drop(permit);
            return finish_without_engine(log, registration).await;
        }
        Some(Ok(permit)) => permit,
        Some(Err(None)) => {
            drop(permit);
            return log.finish(Finish::Failed("every replica that ran it died".into())).await;
        }
        Some(Err(Some(StoreError::Fenced))) => return Err(StoreError::Fenced),
        // The attempt is not counted. The next append waits for the store.
        Some(Err(Some(_))) => None,
    };
    tracing::debug!(response = log.header().id, "submitting to the engine");
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
    // The channel closes when the engine has ended the generation. The permit is held until then, even if the log takes no more
    // entries.
    loop {
        tokio::select! {
            biased;
            received = deltas.recv_many(&mut batch, BATCH) => if received == 0 { break },
            () = registration.requested.notified() => if outcome.is_ok() { outcome = log.poll_requests().await },
        }
        permit.produced(batch.iter().map(|delta| delta.tokens.len() as u32).sum());
        if batch.iter().any(|delta| delta.finish == Some(Finish::Stop)) {
            permit.ended_by_itself();
        }
        if registration.is_handed_over() {
            // The engine reports a cancel because it was stopped, but the generation continues on another replica.
            batch.retain(|delta| delta.finish != Some(Finish::Cancelled));
        }
        if registration.is_steered() && !log.cancelled {
            let ends = batch.iter_mut().filter(|delta| delta.finish == Some(Finish::Cancelled));
            ends.for_each(|delta| delta.finish = Some(Finish::Steered));
        }
        if outcome.is_ok() {
            outcome = log.append_deltas(batch.drain(..)).await;
            // The response has made progress.
            drop(suspect_permit.take());
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

/// Closes a log that has ended, and releases one that is handed over. `outcome`: the result of the run.
pub async fn close_or_release(log: &LogWriter, outcome: Result<(), StoreError>) {
    let id = &log.header().id;
    match outcome {
        Ok(()) if log.has_ended() => log.close().await,
        // Handed over. The store lists the response as this replica's until another replica claims it.
        Ok(()) => match log.release().await {
            Ok(()) => {
                log.metrics().handed_over.inc();
                tracing::info!(response = id, "handed over");
            }
            Err(error) => {
                tracing::warn!(response = id, %error, "cannot hand over now; another replica takes the response over later")
            }
        },
        // The response was deleted, or another replica runs it.
        Err(StoreError::Fenced) => {
            tracing::info!(response = id, "fenced out: the log takes no more entries from here");
            log.close().await;
        }
        // The store still lists the response, so a sweep continues it when the store can be reached.
        Err(error) => tracing::error!(response = id, %error, "gave up writing the log"),
    }
}

/// Ends a generation that the engine has not started: as cancelled, steered or failed, or with no entry if it is handed over.
pub async fn finish_without_engine(log: &mut LogWriter, registration: &RunGuard) -> Result<(), StoreError> {
    let finish = match registration.stop.is_cancelled() || log.cancelled {
        true if registration.is_handed_over() => return Ok(()),
        true if registration.is_steered() && !log.cancelled => Finish::Steered,
        true => Finish::Cancelled,
        false => Finish::Failed("admission gave no permit".into()),
    };
    log.finish(finish).await
}
