//! Starting a response: its log, and its place in the queue. From there it goes on by itself.

use std::sync::Arc;

use super::{Follower, Generations, log::Log, run::Job, store_error};
use crate::{
    store::{Created, Header, Lease},
    wire::error::WireError,
};

/// A created response, with a follower so that it is not orphaned before it is followed.
pub struct CreatedResponse {
    pub id: String,
    pub follower: Follower,
}

impl Generations {
    pub(super) async fn start(self: &Arc<Self>, header: Header) -> Result<CreatedResponse, WireError> {
        let (tenant, id) = (header.tenant.clone(), header.id.clone());
        let lease = match self.store.create(header.clone()).await.map_err(|e| store_error(e, &id))? {
            Created::New(lease) => lease,
            Created::Existing(id) => {
                return Ok(CreatedResponse { follower: self.running.follower(&id, header.on_disconnect), id });
            }
        };
        let follower = self.running.follower(&id, header.on_disconnect);
        if let Err(overloaded) = self.run(header, lease.clone()) {
            self.abandon(&tenant, &lease).await;
            return Err(overloaded);
        }
        Ok(CreatedResponse { id, follower })
    }

    /// Leaves nothing of a response that was created and could not begin; it does not count as running here any more.
    pub(super) async fn abandon(&self, tenant: &str, lease: &Lease) {
        let _ = self.store.delete(tenant, &lease.id).await;
        let _ = self.store.ended(lease).await;
    }

    /// Starts a response or gives it a place in the queue; it goes on by itself from here.
    pub(super) fn run(self: &Arc<Self>, header: Header, lease: Lease) -> Result<(), WireError> {
        let ticket = self.admission.enter(&header)?;
        let registration = self.running.register(&header.id, header.on_disconnect);
        let log = Log::new(self.writing(), Arc::new(header), lease, vec![]);
        let job = Job { engine: self.engine.clone(), log, ticket, registration };
        self.tasks.spawn_on(job.run(), &self.runtime);
        Ok(())
    }
}
