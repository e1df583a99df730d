//! The service: what it is made of, and what it does with a response that exists.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admission::Admission,
    budget::{Budget, BudgetShare, Budgets},
    create::rates::{LimitedKey, Quota, Quotas},
    offers::Offers,
    refusal::{Named, store_error},
    run::{end_hooks::EndHooks, log_writer::LogSink, registry::RunRegistry},
};
use crate::{
    engine::{Engine, ModelInfo},
    limits::HELD_RETRY_MS,
    metrics::Metrics,
    settings,
    store::{
        Header, OnDisconnect, Retention, Sharing, Store, cache::PromptCache, conversations::Conversations,
        fleet::Fleet, prompts::Prompts,
    },
    wire::{error::WireError, response::Response},
};

/// The service that the edge calls.
pub struct Generations {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) store: Arc<dyn Store>,
    pub conversations: Arc<dyn Conversations>,
    pub prompts: Arc<dyn Prompts>,
    pub(super) cache: Arc<dyn PromptCache>,
    pub metrics: Arc<Metrics>,
    pub(super) quotas: Arc<Quotas>,
    pub(super) endings: Arc<EndHooks>,
    pub(super) retention: Retention,
    pub admission: Admission,
    pub(super) running: Arc<RunRegistry>,
    /// The other replicas, where there are some.
    pub(super) fleet: Option<Arc<dyn Fleet>>,
    /// Prompts that this replica and the others have cached.
    pub(super) offers: Arc<Offers>,
    /// Admits one at a time the responses whose last replicas died without progress.
    pub(super) suspects: Arc<Semaphore>,
    /// Tenants that may use `service_tier: priority`.
    pub(super) priority: BTreeSet<String>,
    /// Bytes of each tenant's requests that are being read, wait or run.
    pub(super) held: Budgets,
    /// Streams that each tenant follows.
    pub(super) follows: Budgets,
    /// Open sockets of each tenant.
    pub(super) sockets: Budgets,
    /// This process, for operators.
    pub(super) replica: Arc<str>,
    pub(super) settings: settings::GenerationSettings,
    /// How long a running generation waits for a store that cannot be reached.
    pub(super) patience: Duration,
    /// Where generations run, so that they outlive the connection's thread.
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) tasks: TaskTracker,
    pub(super) draining: CancellationToken,
}

impl Generations {
    /// What the logs of responses are written with.
    pub(super) fn writing(&self) -> LogSink {
        LogSink {
            store: self.store.clone(),
            endings: self.endings.clone(),
            patience: self.patience,
            suspects: self.suspects.clone(),
            replica: self.replica.clone(),
            offers: self.offers.clone(),
        }
    }

    /// What is left of the limits of a tenant and its key.
    pub async fn quotas(&self, tenant: &str, key: Option<&LimitedKey>) -> Vec<Quota> {
        self.quotas.left(tenant, key).await
    }

    /// Counts a socket of a tenant until what is returned is dropped.
    ///
    /// # Errors
    /// `rate_limit_exceeded` if the tenant has as many as it may.
    pub fn hold_socket(&self, tenant: &str) -> Result<BudgetShare, WireError> {
        let budget = self.sockets.of(tenant);
        budget.hold(1).ok_or_else(|| {
            let (of, setting) = ("tenant", "server.sockets_per_tenant");
            WireError::TooManySockets { of, setting, most: budget.most(), retry_after_ms: HELD_RETRY_MS }
        })
    }

    /// What a tenant's requests may hold together, for what grows while it arrives.
    pub fn budget(&self, tenant: &str) -> Arc<Budget> {
        self.held.of(tenant)
    }

    /// Keeps a generation from being cancelled at once when its followers leave: they were sent away, and may come back.
    pub fn spare(&self, run: &str) {
        drop(self.running.follower(run, OnDisconnect::Grace));
    }

    /// Counts bytes of a tenant's request from when they arrive until the request is answered.
    ///
    /// # Errors
    /// `rate_limit_exceeded` if the tenant's requests would have too many bytes together.
    pub fn hold(&self, tenant: &str, bytes: usize) -> Result<BudgetShare, WireError> {
        let budget = self.held.of(tenant);
        budget.hold(bytes).ok_or_else(|| self.too_much_held(&budget))
    }

    /// Counts more of what is held already.
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub fn hold_more(&self, held: &mut BudgetShare, bytes: usize) -> Result<(), WireError> {
        if held.grow(bytes) { Ok(()) } else { Err(self.too_much_held(held.budget())) }
    }

    fn too_much_held(&self, budget: &Budget) -> WireError {
        let refused = WireError::TooMuchHeld { most: budget.most(), retry_after_ms: HELD_RETRY_MS };
        self.metrics.refused(&refused);
        refused
    }

    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// The model that is called so; the default one where no name is given.
    pub(super) fn model(&self, name: Option<&str>) -> Result<Arc<ModelInfo>, WireError> {
        let mut models = self.engine.models().into_iter();
        match name {
            None => models.next(),
            Some(name) => models.find(|model| model.is_called(name)),
        }
        .ok_or_else(|| WireError::ModelNotFound(name.unwrap_or("default").to_owned()))
    }

    /// The response object as it stands now.
    pub async fn retrieve(&self, tenant: &str, id: &str) -> Result<Response, WireError> {
        let (header, entries) = self.store.read(tenant, id).await.map_err(|e| store_error(e, Named::Response(id)))?;
        let render = move || crate::render::response(&header, entries.iter().map(|e| &**e)).0;
        // Off the connection's thread: a long log takes milliseconds of computation.
        self.runtime.spawn_blocking(render).await.map_err(|error| {
            tracing::error!(%error, "rendering a response panicked");
            WireError::EngineFailed
        })
    }

    /// Returns the header of a response. Reads only the beginning of its log.
    pub async fn header(&self, tenant: &str, id: &str) -> Result<Arc<Header>, WireError> {
        Ok(self.store.follow(tenant, id).await.map_err(|error| store_error(error, Named::Response(id)))?.header)
    }

    /// Cancels a generation, wherever it runs; one that has ended stays as it is. Others who share its log are not
    /// disturbed.
    pub async fn cancel(&self, tenant: &str, id: &str) -> Result<(), WireError> {
        let header = self.header(tenant, id).await?;
        if let Some(Sharing::Member { key, log, .. }) = &header.sharing {
            let (_, entries) =
                self.store.read(tenant, id).await.map_err(|error| store_error(error, Named::Response(id)))?;
            if entries.last().is_some_and(|entry| entry.is_last()) {
                return Ok(());
            }
            return self.leave(tenant, key, log, id).await;
        }
        self.store.cancel(tenant, id).await.map_err(|e| store_error(e, Named::Response(id)))?;
        self.running.cancel(id);
        self.end_if_nobody_runs(id).await;
        Ok(())
    }

    /// Ends a generation as steered at its next token, wherever it runs. If the other replica does not hear of it, the generation
    /// goes on to its own end.
    pub fn steer(&self, id: &str) {
        let Some(fleet) = self.fleet.clone().filter(|_| !self.running.runs(id)) else { return self.end_steered(id) };
        let id = id.to_owned();
        self.runtime.spawn(async move {
            if let Err(error) = fleet.steer(&id).await {
                tracing::debug!(response = id, %error, "it is steered when it ends");
            }
        });
    }

    /// Ends a generation as steered if it runs here or comes here; nothing is asked of other replicas.
    pub fn end_steered(&self, id: &str) {
        self.running.steer(id);
    }

    /// Cancels a generation and deletes everything of it.
    pub async fn delete(&self, tenant: &str, id: &str) -> Result<(), WireError> {
        let header = self.header(tenant, id).await;
        self.store.delete(tenant, id).await.map_err(|e| store_error(e, Named::Response(id)))?;
        self.running.cancel(id);
        let Ok(header) = header else { return Ok(()) };
        if let Some(Sharing::Member { key, log, .. }) = &header.sharing {
            self.forget(tenant, key, log, id).await?;
        }
        if let Some(conversation) = &header.spec.conversation {
            // The line moves on; one that cannot be told now is found out by the next in it.
            let _ = self.conversations.end(tenant, conversation, id, vec![]).await;
        }
        Ok(())
    }

    /// Refuses new responses from now on.
    pub fn drain(&self) {
        self.draining.cancel();
        self.tasks.close();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Whether new work makes sense here; if not, why.
    pub fn ready(&self) -> Result<(), &'static str> {
        match (self.is_draining(), self.store.is_reachable()) {
            (true, _) => Err("draining"),
            (_, false) => Err("the store cannot be reached"),
            _ => Ok(()),
        }
    }

    /// Returns when all generations have ended after [`Self::drain`].
    pub async fn finished(&self) {
        self.tasks.wait().await;
    }

    /// Returns when what the engine computed for them is stored, where it is stored beyond this process.
    pub async fn settled(&self) {
        self.engine.flush_blocks().await;
    }

    /// Cancels what still runs.
    pub fn cancel_all(&self) {
        self.running.cancel_all();
    }
}
