//! The replica that a response runs on: this one, or another that has the beginning of the prompt cached and is not busier.
//!
//! With each heartbeat a replica reports its load and the beginnings of prompts that it has computed. A response without a
//! conversation is offered to another replica if that replica has a beginning of the prompt which this one would have to compute or
//! fetch. The log exists by then, and clients follow the log whichever replica writes it. The other replica claims the response as
//! in any take-over. If it does not by the next heartbeat, it is dead or busy, and the response runs here. There is no second
//! offer.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::Instrument;

use crate::{
    generation::Generations,
    store::{
        Header, Lease,
        fleet::{Member, Occupancy, Report},
    },
    wire::error::WireError,
};

/// An offer costs five round trips to the store, and one more for each token. It is not worth that for a beginning which this
/// replica can compute or fetch within this time.
const WORTH: Duration = Duration::from_millis(50);
/// Attempts to claim an offered response again while the store cannot be reached.
const CLAIMS: usize = 5;

impl Generations {
    /// Returns the report that this replica sends to the others.
    pub fn report(&self) -> Report {
        let models = self.engine.models().into_iter().map(|model| {
            let (running, waiting) = self.admission.load(&model.id);
            (model.id.clone(), Occupancy { running, waiting, idle: self.admission.idle(&model.id) })
        });
        Report { models: models.collect(), prompts: self.offers.reported() }
    }

    /// Sets the other living replicas, with the reports of their last heartbeats.
    pub fn set_other_replicas(&self, others: Vec<Member>) {
        self.offers.set_others(others);
    }

    /// Starts a response whose log exists: on another replica if that replica has the prompt cached, else on this one.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    pub(in crate::generation) async fn begin(self: &Arc<Self>, header: Header, lease: Lease) -> Result<(), WireError> {
        let Some((fleet, to)) = self.fleet.clone().zip(self.better_replica(&header)) else {
            return self.run(header, lease);
        };
        self.offers.offered(&to, &header.model);
        tracing::debug!(response = header.id, to, "offered to a replica that has its prompt");
        if let Err(error) = fleet.offer(&lease, &to).await {
            tracing::debug!(response = header.id, to, %error, "the offer may be lost; the response then begins here");
        }
        let waits = self.clone().run_unless_claimed(lease.id, fleet.me().to_owned());
        self.tasks.spawn_on(waits.in_current_span(), &self.runtime);
        Ok(())
    }

    fn better_replica(&self, header: &Header) -> Option<String> {
        let (running, _) = self.admission.load(&header.model);
        let (to, tokens) = self.offers.best(header, running).filter(|_| header.spec.generate)?;
        let prompt_time = self.engine.prompt_time(&header.model, &header.tenant, header.prompt.get(..tokens)?);
        (prompt_time > WORTH).then_some(to)
    }

    /// Claims an offered response again and runs it here, unless the other replica has claimed it in time.
    async fn run_unless_claimed(self: Arc<Self>, id: String, me: String) {
        for _ in 0..CLAIMS {
            sleep(self.offers.patience).await;
            // When this replica drains, the others find its offers. A sweep may have started the response here already.
            if self.is_draining() || self.runs(&id) {
                return;
            }
            match self.store.claim(&id, &me).await {
                Ok(None) => return,
                Ok(Some(claim)) => return self.take_over(claim),
                Err(error) => {
                    tracing::warn!(response = id, %error, "cannot check yet whether the offered response was claimed; retrying")
                }
            }
        }
        // The store still lists the response as one of this replica, so a sweep finds that it does not run.
    }
}
