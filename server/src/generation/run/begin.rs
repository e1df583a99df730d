//! Where a response begins: here, or on another replica that has the beginning of its prompt cached and is not busier.
//!
//! A replica tells the others with each heartbeat how busy it is and which beginnings it has computed. A response without a
//! conversation whose prompt begins with one of them, and which this replica would have to compute or to fetch, is offered to the
//! other one. The log exists by then, and its clients follow the log wherever it grows. The other replica takes the response as it
//! takes over any; if it has not by the next heartbeat, it is dead or busy, and the response begins here. There is no second offer.

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

/// An offer costs five round trips to the store, and each token one more. A beginning that is here within this time is not worth
/// them.
const WORTH: Duration = Duration::from_millis(50);
/// Attempts of a replica to take back what it offered while the store cannot be reached.
const CLAIMS: usize = 5;

impl Generations {
    /// The report that this replica sends to the others.
    pub fn report(&self) -> Report {
        let models = self.engine.models().into_iter().map(|model| {
            let (running, waiting) = self.admission.load(&model.id);
            (model.id.clone(), Occupancy { running, waiting, idle: self.admission.idle(&model.id) })
        });
        Report { models: models.collect(), prompts: self.offers.told() }
    }

    /// Other replicas that live, as they told of themselves with their last heartbeats.
    pub fn heard_of(&self, others: Vec<Member>) {
        self.offers.heard_of(others);
    }

    /// Starts a response whose log exists: on another replica if that one has its prompt cached, else here.
    pub(in crate::generation) async fn begin(self: &Arc<Self>, header: Header, lease: Lease) -> Result<(), WireError> {
        let Some((fleet, to)) = self.fleet.clone().zip(self.better_replica(&header)) else {
            return self.run(header, lease);
        };
        self.offers.offered(&to, &header.model);
        tracing::debug!(response = header.id, to, "offered to a replica that has its prompt");
        if let Err(error) = fleet.offer(&lease, &to).await {
            tracing::debug!(response = header.id, to, %error, "the offer may not be heard");
        }
        let waits = self.clone().wait_for_taker(lease.id, fleet.me().to_owned());
        self.tasks.spawn_on(waits.in_current_span(), &self.runtime);
        Ok(())
    }

    fn better_replica(&self, header: &Header) -> Option<String> {
        let (running, _) = self.admission.load(&header.model);
        let (to, tokens) = self.offers.best(header, running).filter(|_| header.spec.generate)?;
        let prompt_time = self.engine.prompt_time(&header.model, &header.tenant, header.prompt.get(..tokens)?);
        (prompt_time > WORTH).then_some(to)
    }

    /// Begins an offered response here if nobody has taken it in time.
    async fn wait_for_taker(self: Arc<Self>, id: String, me: String) {
        for _ in 0..CLAIMS {
            sleep(self.offers.patience).await;
            // The others bury a replica that ends, and find what it has offered. A sweep may have begun the response here already.
            if self.is_draining() || self.runs(&id) {
                return;
            }
            match self.store.claim(&id, &me).await {
                Ok(None) => return,
                Ok(Some(claim)) => return self.take_over(claim),
                Err(error) => tracing::warn!(response = id, %error, "whether it was taken is not known yet"),
            }
        }
        // The response stays listed here, so a sweep finds that it does not run.
    }
}
