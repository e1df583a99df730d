//! Assembles the service when the server starts.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admission::Admission,
    budget::{Budgets, bounded},
    counts,
    create::{rates::Quotas, stored_prompt::warm},
    offers::{MOST_PATIENCE, Offers},
    run::{end_hooks::EndHooks, registry::RunRegistry},
    service::Generations,
};
use crate::{
    engine::Engine,
    limits::{FOLLOWS_OF_TENANT, HELD_BY_TENANT, VALUE_BYTES, VALUES_OF_MESSAGE},
    metrics::Metrics,
    settings,
    store::{ObservedStore, SharedLogs, Stores},
};

impl Generations {
    /// Assembles the service and starts its background tasks. To be called on the runtime that generations run on.
    pub fn new(engine: Arc<dyn Engine>, stores: Stores, settings: &settings::Settings) -> Arc<Self> {
        let Stores { responses, conversations, prompts, cache, rates, fleet, .. } = stores;
        let metrics = Arc::new(Metrics::default());
        counts::report(&metrics);
        let quotas = Arc::new(Quotas { limits: settings.limits.clone(), rates });
        let end_hooks = EndHooks {
            conversations: conversations.clone(),
            cache: cache.clone(),
            quotas: quotas.clone(),
            metrics: metrics.clone(),
        };
        let models = engine.models();
        let capacities: Vec<_> = models.iter().map(|model| (model.id.clone(), engine.capacity(&model.id))).collect();
        let is_fleet = fleet.as_ref().is_some_and(|fleet| !fleet.is_exclusive());
        let cacheable: Option<usize> = capacities.iter().map(|(_, capacity)| capacity.tokens).sum();
        let heartbeat = Duration::from_millis(settings.cluster.lease_ms / 4).min(MOST_PATIENCE);
        let generations = Arc::new(Self {
            admission: Admission::new(capacities, &settings.admission),
            replica: fleet.as_ref().map_or(&*settings.cluster.replica, |fleet| fleet.me()).into(),
            running: RunRegistry::new(Duration::from_millis(settings.generation.orphan_grace_ms), fleet.clone()),
            fleet,
            engine,
            store: Arc::new(SharedLogs::new(Arc::new(ObservedStore::new(responses, metrics.clone())))),
            conversations,
            prompts,
            cache,
            metrics,
            quotas,
            end_hooks: Arc::new(end_hooks),
            offers: Arc::new(Offers::new(is_fleet, cacheable, heartbeat)),
            retention: settings.retention(),
            suspects: Arc::new(Semaphore::new(1)),
            priority: settings.admission.priority.clone(),
            held: Budgets::new(held_by_tenant(settings.server.max_message_bytes)),
            follows: Budgets::new(FOLLOWS_OF_TENANT),
            sockets: Budgets::new(bounded(settings.server.sockets_per_tenant)),
            settings: settings.generation.clone(),
            patience: Duration::from_millis(settings.store.outage_ms),
            runtime: tokio::runtime::Handle::current(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
        });
        generations.runtime.spawn(generations.metrics.watch_lag("runtime"));
        generations.runtime.spawn(warm(Arc::downgrade(&generations)));
        generations
    }
}

/// Returns the bytes that the requests of one tenant may hold: at least those of one message with the maximum of values.
fn held_by_tenant(max_message_bytes: usize) -> usize {
    let one = max_message_bytes.saturating_add(VALUES_OF_MESSAGE * VALUE_BYTES);
    HELD_BY_TENANT.saturating_mul(max_message_bytes).max(one)
}
