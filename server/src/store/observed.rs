//! A wrapper around a store that counts calls which fail with `Unavailable`.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    entry::Entry,
    error::StoreError,
    header::Header,
    responses::{Appended, Claim, Created, Followed, Lease, Snapshot, Store},
};
use crate::metrics::Metrics;

pub struct ObservedStore {
    inner: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl ObservedStore {
    pub fn new(inner: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }

    async fn counted<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let answer = call.await;
        if let Err(StoreError::Unavailable(_)) = &answer {
            self.metrics.store_failed(operation);
        }
        answer
    }
}

#[async_trait]
impl Store for ObservedStore {
    async fn create(&self, header: Header) -> Result<Created, StoreError> {
        self.counted("create", self.inner.create(header)).await
    }

    async fn append(&self, lease: &Lease, first: u64, entries: &[Arc<Entry>]) -> Result<Appended, StoreError> {
        self.counted("append", self.inner.append(lease, first, entries)).await
    }

    async fn claim(&self, id: &str, from: &str) -> Result<Option<Claim>, StoreError> {
        self.counted("claim", self.inner.claim(id, from)).await
    }

    async fn try_again(&self, lease: &Lease) -> Result<u32, StoreError> {
        self.counted("try_again", self.inner.try_again(lease)).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.counted("release", self.inner.release(lease)).await
    }

    async fn ended(&self, lease: &Lease) -> Result<(), StoreError> {
        self.counted("ended", self.inner.ended(lease)).await
    }

    async fn cancel(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        self.counted("cancel", self.inner.cancel(tenant, id)).await
    }

    async fn request_leave(&self, tenant: &str, log: &str, response: &str) -> Result<(), StoreError> {
        self.counted("request_leave", self.inner.request_leave(tenant, log, response)).await
    }

    async fn touch_retention(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        self.counted("touch_retention", self.inner.touch_retention(tenant, id)).await
    }

    async fn read(&self, tenant: &str, id: &str) -> Result<Snapshot, StoreError> {
        self.counted("read", self.inner.read(tenant, id)).await
    }

    async fn follow(&self, tenant: &str, id: &str) -> Result<Followed, StoreError> {
        self.counted("follow", self.inner.follow(tenant, id)).await
    }

    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        self.counted("delete", self.inner.delete(tenant, id)).await
    }

    fn is_reachable(&self) -> bool {
        self.inner.is_reachable()
    }
}
