//! Responses on Redis: their leases, their logs, and the charges of their tenants.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ::redis::cmd;
use async_trait::async_trait;

use super::{
    appends::AppendCall,
    follow,
    handle::{RUNNING, RedisInner, RedisStore, ms},
    ledger::Charge,
    scripts::{fleet::SET_RUNNING, response},
};
use crate::store::{
    Appended, Claim, Created, Entry, Followed, Header, Lease, Snapshot, Store, StoreError, fleet::Control,
    quota::RESPONSE_OVERHEAD,
};

impl RedisInner {
    /// Adds a response to those that this replica runs, or removes it.
    pub async fn runs_here(&self, id: &str, runs: bool) -> Result<(), StoreError> {
        let mut change = SET_RUNNING.prepare_invoke();
        change.key(self.keys.runs(&self.config.replica)).arg(id).arg(u8::from(runs));
        self.script(&change).await
    }

    /// Registers the response of a request id. Returns the id of the response that was registered before, if any.
    async fn first_of_request(&self, request: &str, header: &Header) -> Result<Option<String>, StoreError> {
        let key = self.keys.request(&header.tenant, request);
        let mut set = cmd("SET");
        set.arg(key)
            .arg(&header.id)
            .arg("NX")
            .arg("GET")
            .arg("PX")
            .arg(ms(self.config.retention.stored(&header.tenant)));
        let first: Option<String> = self.query(&set).await?;
        Ok(first.filter(|first| *first != header.id))
    }

    async fn remove(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let mut delete = response::DELETE.prepare_invoke();
        delete.key(self.keys.meta(id)).key(self.keys.log(id)).key(self.keys.gone(id));
        delete.arg(tenant).arg(self.keys.live(id));
        let (state, request): (u8, String) = self.script(&delete).await?;
        found(state)?;
        self.uncharge(tenant, id).await;
        if !request.is_empty() {
            let mut forget = response::FORGET_REQUEST.prepare_invoke();
            forget.key(self.keys.request(tenant, &request)).arg(id);
            self.script::<()>(&forget).await?;
        }
        Ok(())
    }
}

fn found(state: u8) -> Result<(), StoreError> {
    match state {
        0 => Err(StoreError::NotFound),
        1 => Ok(()),
        _ => Err(StoreError::Expired),
    }
}

/// The bytes that a new response may grow before its tenant is charged again.
const GROWTH: u64 = 4096;

impl RedisInner {
    /// Charges the response's tenant. If the charge is refused, returns the id of the response that the same request created
    /// before, if any: a repeated create succeeds without room.
    async fn charge_response(&self, header: &Header, charged: u64) -> Result<Option<String>, StoreError> {
        let runs = header.shared_log().is_none();
        let kept = self.config.retention.response(&header.tenant, header.spec.store);
        let charge = Charge {
            tenant: &header.tenant,
            object: &header.id,
            bytes: charged,
            keep: if runs { RUNNING + kept } else { kept },
            is_response: true,
            key: header.key_quota.as_ref(),
        };
        match (self.charge(charge).await, &header.spec.client_request_id) {
            (Err(refused @ (StoreError::OverQuota(_) | StoreError::StoreFull(_))), Some(request)) => {
                let mut get = cmd("GET");
                get.arg(self.keys.request(&header.tenant, request));
                self.query::<Option<String>>(&get).await?.map(Some).ok_or(refused)
            }
            (charged, _) => charged.map(|()| None),
        }
    }

    /// Releases a lease, and publishes the release with the replica that may claim it; `None`: any replica.
    pub async fn released(&self, lease: &Lease, to: Option<&str>) -> Result<(), StoreError> {
        let mut release = response::RELEASE.prepare_invoke();
        release.key(self.keys.meta(&lease.id)).arg(lease.fence);
        if self.script::<u8>(&release).await? == 1 {
            let (id, by, to) = (lease.id.clone(), lease.owner.clone(), to.map(str::to_owned));
            self.publish(&Control::Released { id, by, to }).await?;
        }
        Ok(())
    }

    async fn create_charged(
        &self,
        header: &Header,
        json: String,
        (bytes, charged): (u64, u64),
    ) -> Result<Created, StoreError> {
        let (inner, id) = (self, header.id.clone());
        let request = header.spec.client_request_id.as_deref();
        let mut create = response::CREATE.prepare_invoke();
        create.key(inner.keys.meta(&id)).key(inner.keys.gone(&id));
        create.arg(json).arg(&header.tenant).arg(request.unwrap_or_default()).arg(u8::from(header.spec.store));
        let retention = &inner.config.retention;
        create.arg(&inner.config.replica).arg(ms(RUNNING));
        create.arg(ms(retention.response(&header.tenant, header.spec.store))).arg(ms(retention.stored(&header.tenant)));
        let runs = header.shared_log().is_none();
        create.arg(u8::from(!runs)).arg(bytes).arg(charged);
        // Listed under this replica, so that others find it if this replica dies. No client knows the response before both are
        // done.
        let listed = async { if runs { inner.runs_here(&id, true).await } else { Ok(()) } };
        let (listed, created) = tokio::join!(listed, inner.script::<u8>(&create));
        listed?;
        if created? == 0 {
            return Err(StoreError::Unavailable(format!("{id} exists already")));
        }
        if let Some(request) = request
            && let Some(first) = inner.first_of_request(request, header).await?
        {
            inner.remove(&header.tenant, &id).await?;
            inner.runs_here(&id, false).await?;
            return Ok(Created::Existing(first));
        }
        Ok(Created::New(Lease { id, owner: inner.config.replica.clone(), fence: 1 }))
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn create(&self, header: Header) -> Result<Created, StoreError> {
        let inner = &*self.0;
        let json = serde_json::to_string(&header).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let bytes = RESPONSE_OVERHEAD + json.len() as u64;
        let charged = if header.shared_log().is_none() { bytes + GROWTH } else { bytes };
        if let Some(first) = inner.charge_response(&header, charged).await? {
            return Ok(Created::Existing(first));
        }
        let created = inner.create_charged(&header, json, (bytes, charged)).await;
        if !matches!(created, Ok(Created::New(_))) {
            inner.uncharge(&header.tenant, &header.id).await;
        }
        created
    }

    async fn append(&self, lease: &Lease, first: u64, entries: &[Arc<Entry>]) -> Result<Appended, StoreError> {
        let (inner, id) = (&*self.0, &lease.id);
        let last = entries.last().is_some_and(|entry| entry.is_last());
        let append = AppendCall {
            keys: [inner.keys.meta(id), inner.keys.log(id), inner.keys.gone(id)],
            arguments: [
                lease.fence.to_string(),
                first.to_string(),
                entries.len().to_string(),
                u8::from(last).to_string(),
                ms(RUNNING).to_string(),
                inner.keys.live(id),
            ],
            batch: follow::encode(first, entries)?,
            last,
        };
        let (state, told, left, tenant, charge, kept) = inner.appends.append(append).await?;
        match state {
            0 => {}
            1 => return Err(StoreError::Fenced),
            _ => return Err(StoreError::Behind(told)),
        }
        if charge > 0 {
            let kept = Duration::from_millis(kept);
            inner.correct(&tenant, id, (charge, if last { kept } else { RUNNING + kept })).await;
        }
        Ok(Appended { cancelled: told == 1, left: left.split_whitespace().map(str::to_owned).collect() })
    }

    async fn claim(&self, id: &str, from: &str) -> Result<Option<Claim>, StoreError> {
        let inner = &*self.0;
        let me = &inner.config.replica;
        // A log that this version cannot read is left to replicas of a newer one.
        if let Err(error @ StoreError::Unreadable(_)) = inner.whole(None, id).await {
            return Err(error);
        }
        // Before the claim, so that a response is always listed under its owner.
        inner.runs_here(id, true).await?;
        let mut claim = response::CLAIM.prepare_invoke();
        claim.key(inner.keys.meta(id)).arg(me).arg(from).arg(ms(RUNNING));
        let (fence, cancelled, tries, left, is_mine): (u64, u8, u32, i64, u8) = inner.script(&claim).await?;
        if from != me {
            let mut strike = cmd("SREM");
            strike.arg(inner.keys.runs(from)).arg(id);
            inner.query::<()>(&strike).await?;
        }
        if fence == 0 {
            // A response that this replica owns by an earlier claim stays listed.
            if is_mine == 0 {
                inner.runs_here(id, false).await?;
            }
            return Ok(None);
        }
        let (header, entries) = inner.whole(None, id).await?;
        let lease = Lease { id: id.into(), owner: me.clone(), fence };
        Ok(Some(Claim {
            lease,
            header,
            entries,
            cancelled: cancelled == 1,
            tries,
            left: u64::try_from(left).ok().map(Duration::from_millis),
        }))
    }

    async fn try_again(&self, lease: &Lease) -> Result<u32, StoreError> {
        let mut again = response::TRY_AGAIN.prepare_invoke();
        again.key(self.0.keys.meta(&lease.id)).arg(lease.fence);
        match self.0.script(&again).await? {
            0 => Err(StoreError::Fenced),
            tries => Ok(tries),
        }
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.0.released(lease, None).await
    }

    async fn ended(&self, lease: &Lease) -> Result<(), StoreError> {
        self.0.runs_here(&lease.id, false).await
    }

    async fn cancel(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let inner = &*self.0;
        let mut cancel = response::CANCEL.prepare_invoke();
        cancel.key(inner.keys.meta(id)).key(inner.keys.gone(id)).arg(tenant);
        found(inner.script(&cancel).await?)?;
        inner.publish(&Control::Cancel { id: id.into() }).await
    }

    async fn request_leave(&self, tenant: &str, log: &str, response: &str) -> Result<(), StoreError> {
        let inner = &*self.0;
        let mut request_leave = response::REQUEST_LEAVE.prepare_invoke();
        request_leave.key(inner.keys.meta(log)).arg(tenant).arg(response);
        found(inner.script(&request_leave).await?)?;
        inner.publish(&Control::PollRequests { id: log.into() }).await
    }

    async fn touch_retention(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let inner = &*self.0;
        let mut keep = response::TOUCH_RETENTION.prepare_invoke();
        keep.key(inner.keys.meta(id)).key(inner.keys.log(id)).arg(tenant);
        let (state, kept): (u8, u64) = inner.script(&keep).await?;
        found(state)?;
        if kept > 0 {
            inner.keep_charge(tenant, id, Duration::from_millis(kept)).await;
        }
        Ok(())
    }

    async fn read(&self, tenant: &str, id: &str) -> Result<Snapshot, StoreError> {
        self.0.whole(Some(tenant), id).await
    }

    async fn follow(&self, tenant: &str, id: &str) -> Result<Followed, StoreError> {
        self.0.followed(tenant, id).await
    }

    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        self.0.remove(tenant, id).await?;
        self.0.publish(&Control::Cancel { id: id.into() }).await
    }

    fn is_reachable(&self) -> bool {
        self.0.reachable.load(Ordering::Relaxed)
    }
}
