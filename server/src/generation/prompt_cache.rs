//! The exact prompt cache: a request equal to an earlier one follows the log of that request instead of starting a run of its own.
//!
//! Every response of a cacheable request, the first one too, is a header that shows a log of the cache. The run that writes the log
//! belongs to none of the responses: a cancelled response leaves the log, and the run ends when the last response leaves.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    Generations,
    counts::LOG,
    create::start::CreatedResponse,
    refusal::{Named, store_error},
};
use crate::{
    dialect::Dialect,
    engine::ModelInfo,
    random::random_hex,
    store::{
        Created, Entry, GenerationSpec, Header, Sharing, StoreError,
        cache::{CacheKey, Cached},
        sharing::{MemberRole, ReplayPace},
    },
    wire::{
        cache::{CacheMode, CacheOptions, Replay},
        error::WireError,
    },
};

/// Bounds of a paced replay's interval between entries, in milliseconds.
const PACE_MS: (u64, u64) = (2, 100);

/// Computes the cache key: a hash of everything that determines a reply. It includes every field of the request except those known
/// to have no effect. So a new field can cost a hit, and never causes a wrong one.
fn key(header: &Header, model: &ModelInfo) -> CacheKey {
    #[derive(Serialize)]
    struct Determined<'a> {
        tenant: &'a str,
        model: &'a str,
        /// Changes when another file is served under the same name.
        created: u64,
        quantisation: Option<&'a str>,
        adapters: &'a [String],
        dialect: &'a Dialect,
        prompt: &'a [u32],
        max_output_tokens: u32,
        spec: GenerationSpec,
    }
    let spec = GenerationSpec {
        // The prompt contains the text of these fields.
        input: vec![],
        instructions: None,
        previous_response_id: None,
        conversation: None,
        prompt: None,
        preamble: vec![],
        background: false,
        ignored: vec![],
        store: true,
        max_output_tokens: None,
        // At temperature 0 the seed has no effect.
        seed: header.spec.seed.filter(|_| header.spec.sampling.temperature != Some(0.0)),
        service_tier: Default::default(),
        metadata: Default::default(),
        user: None,
        safety_identifier: None,
        prompt_cache_key: None,
        client_request_id: None,
        ..header.spec.clone()
    };
    let determined = Determined {
        tenant: &header.tenant,
        model: &model.id,
        created: model.created,
        quantisation: model.quantisation.as_deref(),
        adapters: &model.adapters,
        dialect: &header.dialect,
        prompt: &header.prompt,
        max_output_tokens: header.max_output_tokens,
        spec,
    };
    let json = serde_json::to_vec(&determined).unwrap_or_default();
    CacheKey(hex::encode(Sha256::digest(json)))
}

impl Generations {
    /// Starts a response that may be answered from the cache.
    ///
    /// # Errors
    /// Those of the store and of [`Self::start`].
    pub(super) async fn start_cached(
        self: &Arc<Self>,
        header: Header,
        model: &ModelInfo,
        cache: CacheOptions,
    ) -> Result<CreatedResponse, WireError> {
        let (tenant, key) = (header.tenant.clone(), key(&header, model));
        let failed = |error: StoreError| store_error(error, Named::Response(&header.id));
        let found = self.cache.join(&tenant, &key, &header.id).await.map_err(failed)?;
        if let Some(cached) = found
            && let Some(created) = self.show(&header, &key, cached, cache.replay).await?
        {
            return Ok(created);
        }
        self.metrics.prompt_cache.misses.inc();
        if cache.mode == CacheMode::Read {
            return self.start(header).await;
        }
        self.lead(header, key, cache).await
    }

    /// Starts the run that writes the key's log, or joins a run that another request has started meanwhile.
    async fn lead(
        self: &Arc<Self>,
        header: Header,
        key: CacheKey,
        cache: CacheOptions,
    ) -> Result<CreatedResponse, WireError> {
        let (tenant, log) = (header.tenant.clone(), format!("{LOG}{}", random_hex()));
        let failed = |error: StoreError| store_error(error, Named::Response(&header.id));
        let retention = self.retention.stored(&tenant);
        let ttl = cache.ttl_s.map_or(retention, |ttl| retention.min(Duration::from_secs(ttl)));
        let run = Header {
            id: log.clone(),
            spec: GenerationSpec { client_request_id: None, store: true, ..header.spec.clone() },
            sharing: Some(Sharing::Run { key: key.clone(), ttl_s: ttl.as_secs() }),
            ..header.clone()
        };
        // The log MUST exist before the index names it.
        let Created::New(lease) = self.store.create(run.clone()).await.map_err(failed)? else {
            return Err(WireError::EngineFailed);
        };
        match self.cache.lead(&tenant, &key, &log, &header.id, ttl).await {
            Ok(None) => {}
            Ok(Some(cached)) => {
                self.abandon(&tenant, &lease).await;
                return match self.show(&header, &key, cached, cache.replay).await? {
                    Some(created) => Ok(created),
                    // That log is gone already. Start without the cache instead of trying again.
                    None => self.start(header).await,
                };
            }
            Err(error) => {
                self.abandon(&tenant, &lease).await;
                return Err(failed(error));
            }
        }
        let roll_back = || async {
            let _ = self.cache.discard(&tenant, &key, &log).await;
            self.abandon(&tenant, &lease).await;
        };
        let id = match self.member(&header, &key, &log, MemberRole::First).await {
            Ok(id) => id,
            Err(error) => {
                roll_back().await;
                return Err(error);
            }
        };
        if id != header.id {
            roll_back().await;
            return Ok(CreatedResponse { follower: self.running.follower(&id, header.on_disconnect), id });
        }
        let follower = self.running.follower(&log, header.on_disconnect);
        if let Err(error) = self.begin(run, lease.clone()).await {
            roll_back().await;
            let _ = self.store.delete(&tenant, &id).await;
            return Err(error);
        }
        Ok(CreatedResponse { id, follower })
    }

    /// Creates the response that shows a log. Returns `None` if the log is gone.
    async fn show(
        self: &Arc<Self>,
        header: &Header,
        key: &CacheKey,
        cached: Cached,
        replay: Replay,
    ) -> Result<Option<CreatedResponse>, WireError> {
        let (tenant, log) = (&header.tenant, &cached.log);
        let failed = |error: StoreError| store_error(error, Named::Response(&header.id));
        // From here on the run has a follower, so it is not cancelled as an orphan.
        let follower = self.running.follower(log, header.on_disconnect);
        match self.store.touch_retention(tenant, log).await {
            Ok(()) => {}
            Err(StoreError::NotFound | StoreError::Expired) => {
                self.cache.discard(tenant, key, log).await.map_err(failed)?;
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        }
        let role = match (cached.complete, replay) {
            (false, _) => MemberRole::Joined,
            (true, Replay::Instant) => MemberRole::Replayed { pace: None },
            (true, Replay::Paced) => {
                let (run, entries) = self.store.read(tenant, log).await.map_err(failed)?;
                MemberRole::Replayed { pace: Some(pace(&run, &entries)) }
            }
        };
        let answers = &self.metrics.prompt_cache;
        let counted = if cached.complete { &answers.hits } else { &answers.joined };
        counted.inc();
        let id = self.member(header, key, log, role).await?;
        Ok(Some(CreatedResponse { follower, id }))
    }

    /// Creates a response that shows a log. Returns its id, or the id of the response that the same `client_request_id` created
    /// before.
    async fn member(&self, header: &Header, key: &CacheKey, log: &str, role: MemberRole) -> Result<String, WireError> {
        let asked = header.id.clone();
        let failed = |error: StoreError| store_error(error, Named::Response(&asked));
        let sharing = Sharing::Member { key: key.clone(), log: log.to_owned(), role };
        let header = Header { prompt: vec![], sharing: Some(sharing), ..header.clone() };
        let (tenant, id) = (header.tenant.clone(), header.id.clone());
        let (model, transport) = (header.model.clone(), header.origin.transport.name());
        match self.store.create(header).await {
            Ok(Created::New(_)) => {
                // The line that ends the log's run has the times.
                tracing::info!(target: "caudal::response", response = id, tenant, model, transport, log, "response shows a log");
                Ok(id)
            }
            Ok(Created::Existing(first)) => {
                let _ = self.cache.leave(&tenant, key, log, &id).await;
                Ok(first)
            }
            Err(error) => {
                let _ = self.leave(&tenant, key, log, &id).await;
                Err(failed(error))
            }
        }
    }

    /// Removes a response from a log that is being written. The last response that leaves ends the run.
    pub(super) async fn leave(&self, tenant: &str, key: &CacheKey, log: &str, id: &str) -> Result<(), WireError> {
        let failed = |error: StoreError| store_error(error, Named::Response(id));
        if self.cache.leave(tenant, key, log, id).await.map_err(failed)? == 0 {
            self.store.cancel(tenant, log).await.map_err(failed)?;
            self.running.cancel(log);
        } else {
            self.store.request_leave(tenant, log, id).await.map_err(failed)?;
            self.running.poll_requests(log);
        }
        Ok(())
    }

    /// Removes a deleted response from its log. The log is deleted with the last response that shows it.
    pub(super) async fn forget(&self, tenant: &str, key: &CacheKey, log: &str, id: &str) -> Result<(), WireError> {
        let failed = |error: StoreError| store_error(error, Named::Response(id));
        if self.cache.leave(tenant, key, log, id).await.map_err(failed)? > 0 {
            return Ok(());
        }
        self.running.cancel(log);
        match self.store.delete(tenant, log).await {
            Ok(()) | Err(StoreError::NotFound | StoreError::Expired) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Returns the pace of a replay that takes as long as the run took (in whole seconds), with the interval within [`PACE_MS`].
fn pace(run: &Header, entries: &[Arc<Entry>]) -> ReplayPace {
    let ended = entries.last().map_or(run.created_at, |last| match &**last {
        Entry::Finished { completed_at, .. } => *completed_at,
        _ => run.created_at,
    });
    let took_ms = ended.saturating_sub(run.created_at) * 1000;
    let interval_ms = (took_ms / entries.len().max(1) as u64).clamp(PACE_MS.0, PACE_MS.1);
    let from_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    ReplayPace { from_ms, interval_ms }
}
