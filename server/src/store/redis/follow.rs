//! Reading logs, and following them: history by range reads, the tail by live messages, history again wherever a message
//! may have been missed. A follower holds one page and a few messages, however far behind it is.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{StreamExt, stream, stream::BoxStream};
use redis::{pipe, streams::StreamRangeReply};
use tokio::time::{sleep, timeout};

use super::{Inner, keys::MAX_ID, live::Listener};
use crate::store::{Batch, Entry, Followed, Header, StoreError, header_from_json};

/// Appends read at once.
const PAGE: usize = 512;
/// A follower that has heard nothing for so long looks whether the log is still there.
const QUIET: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);

/// A part of a log.
pub struct Page {
    pub header: Arc<Header>,
    pub entries: Vec<Batch>,
    /// Entries the log had when it was read.
    len: u64,
    /// Whether there was more than fits one page.
    more: bool,
}

pub fn encode(first: u64, entries: &[Arc<Entry>]) -> Result<Vec<u8>, StoreError> {
    rmp_serde::to_vec_named(&(first, entries)).map_err(|error| StoreError::Unavailable(error.to_string()))
}

pub fn decode(bytes: &[u8]) -> Result<Batch, StoreError> {
    let (first, entries) = rmp_serde::from_slice(bytes)
        .map_err(|error| StoreError::Unreadable(format!("an entry that this version does not know: {error}")))?;
    Ok(Batch { first, entries })
}

impl Inner {
    /// The page of a log that begins at the append that wrote entry `next`; of any tenant's with `None`.
    pub async fn page(&self, tenant: Option<&str>, id: &str, next: u64) -> Result<Page, StoreError> {
        if id.len() > MAX_ID {
            return Err(StoreError::NotFound);
        }
        let mut read = pipe();
        read.hmget(self.keys.meta(id), &["tenant", "header", "len"])
            .get(self.keys.gone(id))
            .cmd("XRANGE")
            .arg(self.keys.log(id))
            .arg(format!("{}-0", next + 1))
            .arg("+")
            .arg("COUNT")
            .arg(PAGE);
        type Answer = ((Option<String>, Option<String>, Option<u64>), Option<String>, StreamRangeReply);
        let read = &read;
        let (meta, gone, range): Answer =
            self.link.run(|mut connection| async move { read.query_async(&mut connection).await }).await?;
        let (Some(owner), Some(header), Some(len)) = meta else {
            let expired = gone.is_some() && gone.as_deref() == tenant;
            return Err(if expired { StoreError::Expired } else { StoreError::NotFound });
        };
        if tenant.is_some_and(|tenant| tenant != owner) {
            return Err(StoreError::NotFound);
        }
        let header = header_from_json(&header)?;
        let more = range.ids.len() == PAGE;
        let batches = range.ids.into_iter().map(|item| match item.map.get("b") {
            Some(redis::Value::BulkString(bytes)) => decode(bytes),
            _ => Err(StoreError::Unavailable(format!("an item without entries in the log of {id}"))),
        });
        Ok(Page { header, entries: batches.collect::<Result<_, _>>()?, len, more })
    }

    /// Everything that exists.
    pub async fn whole(&self, tenant: Option<&str>, id: &str) -> Result<(Arc<Header>, Vec<Arc<Entry>>), StoreError> {
        let mut entries = Vec::new();
        loop {
            let page = self.page(tenant, id, entries.len() as u64).await?;
            for batch in page.entries {
                entries.extend(rest(batch, entries.len() as u64).into_iter().flat_map(|batch| batch.entries));
            }
            if !page.more {
                return Ok((page.header, entries));
            }
        }
    }

    pub async fn followed(self: &Arc<Self>, tenant: &str, id: &str) -> Result<Followed, StoreError> {
        let (header, entries) = self.whole(Some(tenant), id).await?;
        let follower = Follower {
            inner: self.clone(),
            tenant: tenant.to_owned(),
            id: id.to_owned(),
            next: entries.len() as u64,
            ended: entries.last().is_some_and(|last| last.is_last()),
            listener: None,
            behind: true,
            ready: VecDeque::new(),
        };
        Ok(Followed { header, entries, rest: follower.stream() })
    }
}

/// What of a batch is not before `next`; `None` when that is nothing, or when entries are missing between.
fn rest(mut batch: Batch, next: u64) -> Option<Batch> {
    let known = next.checked_sub(batch.first)? as usize;
    if known >= batch.entries.len() {
        return None;
    }
    batch.entries.drain(..known);
    Some(Batch { first: next, entries: batch.entries })
}

struct Follower {
    inner: Arc<Inner>,
    tenant: String,
    id: String,
    next: u64,
    ended: bool,
    /// Only while the log is being written.
    listener: Option<Listener>,
    /// History has to be read before messages count.
    behind: bool,
    ready: VecDeque<Batch>,
}

impl Follower {
    fn stream(self) -> BoxStream<'static, Result<Batch, StoreError>> {
        stream::unfold(Some(self), |follower| async move {
            let mut follower = follower?;
            match follower.next().await {
                Ok(Some(batch)) => Some((Ok(batch), Some(follower))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Batch>, StoreError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if let Some(batch) = self.ready.pop_front() {
                if batch.first > self.next {
                    self.ready.clear();
                    self.behind = true;
                } else if let Some(batch) = rest(batch, self.next) {
                    self.next += batch.entries.len() as u64;
                    self.ended = batch.entries.last().is_some_and(|last| last.is_last());
                    return Ok(Some(batch));
                }
            } else if self.behind {
                self.catch_up().await?;
            } else {
                self.hear().await?;
            }
        }
    }

    /// Reads the next page of history, once the subscription is confirmed: nothing falls between the two.
    async fn catch_up(&mut self) -> Result<(), StoreError> {
        let channel = self.inner.keys.live(&self.id);
        let listener = self.listener.get_or_insert_with(|| self.inner.live.listen(&channel));
        listener.confirmed().await;
        match self.history().await {
            Ok(page) => {
                self.ready.extend(page.entries);
                self.behind = page.more;
            }
            Err(StoreError::Unavailable(_)) => sleep(RETRY).await,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn history(&self) -> Result<Page, StoreError> {
        let page = self.inner.page(Some(&self.tenant), &self.id, self.next).await?;
        if page.entries.first().map_or(page.len, |batch| batch.first) <= self.next {
            return Ok(page);
        }
        // The append that wrote `next` began before it: an owner has repeated what the store had lost.
        let (_, entries) = self.inner.whole(Some(&self.tenant), &self.id).await?;
        Ok(Page { entries: vec![Batch { first: 0, entries }], more: false, ..page })
    }

    async fn hear(&mut self) -> Result<(), StoreError> {
        let Some(listener) = &mut self.listener else {
            self.behind = true;
            return Ok(());
        };
        match timeout(QUIET, listener.next()).await {
            Ok(Some(message)) if message.is_empty() => return Err(StoreError::NotFound),
            Ok(Some(message)) => self.ready.push_back(decode(&message)?),
            Ok(None) | Err(_) => self.behind = true,
        }
        Ok(())
    }
}
