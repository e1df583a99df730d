//! Take-over and hand-over: continues generations of other replicas from their logs, and stops generations for others to continue.

use std::sync::Arc;

use tracing::Instrument;

use super::log_writer::LogWriter;
use crate::{
    engine::Finish,
    generation::{Generations, run},
    store::{Claim, Header, StoreError},
};

impl Generations {
    /// Returns whether this replica can continue a response: it serves the model and does not drain.
    pub fn can_take_over(&self, header: &Header) -> bool {
        !self.is_draining() && self.engine.models().iter().any(|model| model.id == header.model)
    }

    /// Continues a response from its last entry.
    pub fn take_over(self: &Arc<Self>, claim: Claim) {
        let id = claim.header.id.clone();
        tracing::info!(response = id, fence = claim.lease.fence, entries = claim.entries.len(), "taken over");
        self.metrics.taken_over.inc();
        let mut log = LogWriter::new(self.log_sink(), claim.header, claim.lease, claim.entries);
        log.cancelled = claim.cancelled;
        log.tries = claim.tries;
        let registration = self.running.register(&id, log.header().on_disconnect);
        log.stop = registration.stop.clone();
        if let Some(left) = claim.left {
            self.running.restore_unfollowed(&id, left);
        }
        if claim.cancelled {
            registration.cancel();
        }
        if log.header().spec.conversation.is_some() {
            let span = log.log_span();
            self.tasks.spawn_on(self.clone().take_turn(log, registration, true).instrument(span), &self.runtime);
            return;
        }
        let ticket = match self.admission.enter_first(log.header()) {
            Ok(ticket) => ticket,
            // `can_take_over` is checked before the claim, so the model exists.
            Err(error) => {
                return tracing::error!(response = id, %error, "taken over, but this replica does not serve the model");
            }
        };
        let span = log.log_span();
        let job = run::RunJob { engine: self.engine.clone(), log, ticket, registration };
        self.tasks.spawn_on(job.run().instrument(span), &self.runtime);
    }

    /// Ends a claimed response that cannot run: as cancelled, or as failed because no replica serves its model.
    pub async fn end_claimed(&self, claim: Claim) {
        let finish = if claim.cancelled {
            Finish::Cancelled
        } else {
            Finish::Failed(format!("no replica serves the model {}", claim.header.model))
        };
        let mut log = LogWriter::new(self.log_sink(), claim.header, claim.lease, claim.entries);
        let outcome = log.finish(finish).await;
        run::close_or_release(&log, outcome).await;
    }

    /// Ends a cancelled response that no living replica runs.
    pub(in crate::generation) async fn end_if_nobody_runs(&self, id: &str) {
        let Some(fleet) = self.fleet.as_ref().filter(|_| !self.running.runs(id)) else { return };
        let ended = async {
            let Some(owner) = fleet.dead_owner(id).await? else { return Ok(()) };
            if let Some(claim) = self.store.claim(id, &owner).await? {
                self.end_claimed(claim).await;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = ended.await {
            tracing::warn!(response = id, %error, "cannot end the cancelled response now; it ends when a replica takes it over");
        }
    }

    pub fn runs(&self, id: &str) -> bool {
        self.running.runs(id)
    }

    /// Returns the ids of the responses that run or wait on this replica.
    pub fn running(&self) -> Vec<String> {
        self.running.ids()
    }

    /// Cancels a generation if it runs here. Does not call the store.
    pub fn end(&self, id: &str) {
        self.running.cancel(id);
    }

    /// Lets the writer of a generation that runs here poll the requests to it.
    pub fn poll_requests(&self, id: &str) {
        self.running.poll_requests(id);
    }

    /// Stops all generations at their next tokens, for other replicas to continue. To be called after [`Self::drain`].
    pub fn hand_over(&self) {
        self.running.hand_over();
    }

    /// Announces all followed responses again, after the store may have lost them.
    pub fn announce_again(&self) {
        self.running.announce_again();
    }
}
