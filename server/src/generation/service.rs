//! The service: its parts, and its operations on a response that exists.

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
    pub(super) end_hooks: Arc<EndHooks>,
    pub(super) retention: Retention,
    pub admission: Admission,
    pub(super) running: Arc<RunRegistry>,
    /// The other replicas; `None` if the store serves one process only.
    pub(super) fleet: Option<Arc<dyn Fleet>>,
    /// Beginnings of prompts that this replica and the others have cached.
    pub(super) offers: Arc<Offers>,
    /// Admits one response at a time of those whose last replica died before they made progress.
    pub(super) suspects: Arc<Semaphore>,
    /// Tenants that may use `service_tier: priority`.
    pub(super) priority: BTreeSet<String>,
    /// Bytes of each tenant's requests that arrive, wait or run.
    pub(super) held: Budgets,
    /// Streams that each tenant follows.
    pub(super) follows: Budgets,
    /// Open sockets of each tenant.
    pub(super) sockets: Budgets,
    /// The name of this process in logs and traces.
    pub(super) replica: Arc<str>,
    pub(super) settings: settings::GenerationSettings,
    /// The time for which a running generation waits while the store cannot be reached.
    pub(super) patience: Duration,
    /// The runtime that generations run on. They outlive the thread of the connection.
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) tasks: TaskTracker,
    pub(super) draining: CancellationToken,
}

impl Generations {
    /// Returns what a [`LogWriter`](super::run::log_writer::LogWriter) needs of the service.
    pub(super) fn log_sink(&self) -> LogSink {
        LogSink {
            store: self.store.clone(),
            end_hooks: self.end_hooks.clone(),
            patience: self.patience,
            suspects: self.suspects.clone(),
            replica: self.replica.clone(),
            offers: self.offers.clone(),
        }
    }

    /// Returns what remains of the rate limits of a tenant and its key.
    pub async fn quotas(&self, tenant: &str, key: Option<&LimitedKey>) -> Vec<Quota> {
        self.quotas.left(tenant, key).await
    }

    /// Counts a socket of a tenant until the returned share is dropped.
    ///
    /// # Errors
    /// `rate_limit_exceeded` if the tenant has the maximum of sockets open.
    pub fn hold_socket(&self, tenant: &str) -> Result<BudgetShare, WireError> {
        let budget = self.sockets.of(tenant);
        budget.hold(1).ok_or_else(|| {
            let (of, setting) = ("tenant", "server.sockets_per_tenant");
            WireError::TooManySockets { of, setting, most: budget.most(), retry_after_ms: HELD_RETRY_MS }
        })
    }

    /// Returns the budget of bytes that all requests of a tenant share, for a request whose size grows while it arrives.
    pub fn budget(&self, tenant: &str) -> Arc<Budget> {
        self.held.of(tenant)
    }

    /// Grants a generation the grace period after its followers leave: the server closed their connections, so they may return.
    pub fn spare(&self, run: &str) {
        drop(self.running.follower(run, OnDisconnect::Grace));
    }

    /// Counts bytes of a tenant's request from their arrival until the request is answered.
    ///
    /// # Errors
    /// `rate_limit_exceeded` if all requests of the tenant together would have too many bytes.
    pub fn hold(&self, tenant: &str, bytes: usize) -> Result<BudgetShare, WireError> {
        let budget = self.held.of(tenant);
        budget.hold(bytes).ok_or_else(|| self.too_much_held(&budget))
    }

    /// Adds bytes to a share.
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

    /// Returns the model of a name, or the default model for `None`.
    ///
    /// # Errors
    /// `model_not_found`.
    pub(super) fn model(&self, name: Option<&str>) -> Result<Arc<ModelInfo>, WireError> {
        let mut models = self.engine.models().into_iter();
        match name {
            None => models.next(),
            Some(name) => models.find(|model| model.is_called(name)),
        }
        .ok_or_else(|| WireError::ModelNotFound(name.unwrap_or("default").to_owned()))
    }

    /// Returns the current response object.
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

    /// Cancels a generation on whatever replica it runs. A generation that has ended does not change. Other responses that share
    /// the log continue.
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

    /// Ends a generation as steered at its next token, on whatever replica it runs. If the message to the other replica is lost,
    /// the generation runs to its own end.
    pub fn steer(&self, id: &str) {
        let Some(fleet) = self.fleet.clone().filter(|_| !self.running.runs(id)) else { return self.end_steered(id) };
        let id = id.to_owned();
        self.runtime.spawn(async move {
            if let Err(error) = fleet.steer(&id).await {
                tracing::debug!(response = id, %error, "cannot ask the other replica to steer; the generation runs to its own end");
            }
        });
    }

    /// Ends a generation as steered if it runs on this replica now or later. Sends no message to other replicas.
    pub fn end_steered(&self, id: &str) {
        self.running.steer(id);
    }

    /// Cancels a generation and deletes its header, its log and its place in a conversation.
    pub async fn delete(&self, tenant: &str, id: &str) -> Result<(), WireError> {
        let header = self.header(tenant, id).await;
        self.store.delete(tenant, id).await.map_err(|e| store_error(e, Named::Response(id)))?;
        self.running.cancel(id);
        let Ok(header) = header else { return Ok(()) };
        if let Some(Sharing::Member { key, log, .. }) = &header.sharing {
            self.forget(tenant, key, log, id).await?;
        }
        if let Some(conversation) = &header.spec.conversation {
            // The next turn may begin. If this call fails, the next turn finds the response gone and ends its place.
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

    /// Checks whether this replica can take new work. The error is the reason for the readiness probe.
    pub fn ready(&self) -> Result<(), &'static str> {
        match (self.is_draining(), self.store.is_reachable()) {
            (true, _) => Err("draining"),
            (_, false) => Err("the store cannot be reached"),
            _ => Ok(()),
        }
    }

    /// Waits until all generations have ended. To be called after [`Self::drain`].
    pub async fn finished(&self) {
        self.tasks.wait().await;
    }

    /// Waits until the engine has stored the keys and values that it computed, if it stores them outside this process.
    pub async fn settled(&self) {
        self.engine.flush_blocks().await;
    }

    /// Cancels all generations that run on this replica.
    pub fn cancel_all(&self) {
        self.running.cancel_all();
    }
}
