//! Generations that change hands: continued here from another replica's log, or stopped here for another to continue.

use std::sync::Arc;

use tracing::Instrument;

use super::log_writer::LogWriter;
use crate::{
    engine::Finish,
    generation::{Generations, run},
    store::{Claim, Header, StoreError},
};

impl Generations {
    /// Whether this replica could continue a response: it serves its model and does not end.
    pub fn can_take_over(&self, header: &Header) -> bool {
        !self.is_draining() && self.engine.models().iter().any(|model| model.id == header.model)
    }

    /// Continues a response from its last entry.
    pub fn take_over(self: &Arc<Self>, claim: Claim) {
        let id = claim.header.id.clone();
        tracing::info!(response = id, fence = claim.lease.fence, entries = claim.entries.len(), "taken over");
        self.metrics.taken_over.inc();
        let mut log = LogWriter::new(self.writing(), claim.header, claim.lease, claim.entries);
        log.cancelled = claim.cancelled;
        log.tries = claim.tries;
        let registration = self.running.register(&id, log.header().on_disconnect);
        log.stop = registration.stop.clone();
        if let Some(left) = claim.left {
            self.running.left_before(&id, left);
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
            // Its models are looked at before it is claimed.
            Err(error) => return tracing::error!(response = id, %error, "taken over in vain"),
        };
        let span = log.log_span();
        let job = run::RunJob { engine: self.engine.clone(), log, ticket, registration };
        self.tasks.spawn_on(job.run().instrument(span), &self.runtime);
    }

    /// Ends a response that was claimed and cannot run here or anywhere.
    pub async fn end_claimed(&self, claim: Claim) {
        let finish = if claim.cancelled {
            Finish::Cancelled
        } else {
            Finish::Failed(format!("no replica serves the model {}", claim.header.model))
        };
        let mut log = LogWriter::new(self.writing(), claim.header, claim.lease, claim.entries);
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
            tracing::warn!(response = id, %error, "it is cancelled when it is taken over");
        }
    }

    pub fn runs(&self, id: &str) -> bool {
        self.running.runs(id)
    }

    /// What runs or waits here.
    pub fn running(&self) -> Vec<String> {
        self.running.ids()
    }

    /// Ends a generation if it runs here; nothing is asked of the store.
    pub fn end(&self, id: &str) {
        self.running.cancel(id);
    }

    /// Lets a generation that runs here look what was asked of it.
    pub fn look(&self, id: &str) {
        self.running.look(id);
    }

    /// Stops everything at its next token, for other replicas to continue. To be called after [`Self::drain`].
    pub fn hand_over(&self) {
        self.running.hand_over();
    }

    /// Tells the fleet again what is followed here, when it may have forgotten.
    pub fn announce_again(&self) {
        self.running.announce_again();
    }
}
