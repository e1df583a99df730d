//! Reads and follows logs. A follower reads existing entries by range and later ones from live messages. If it may have missed a
//! message, it reads by range again. A follower holds at most one page and a few messages.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{StreamExt, stream, stream::BoxStream};
use tokio::time::{sleep, timeout};

use super::{handle::RedisInner, keys::is_id, live::Listener, scripts};
use crate::store::{Entry, EntryBatch, Followed, Header, StoreError};

/// Bytes of appends at which a page ends. A follower holds one page, so 60 followers of large logs hold 4 MB.
const PAGE_BYTES: usize = 64 << 10;
/// After this time without a message a follower reads the log again, to see if it still exists.
const QUIET: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);

/// The part of a log to read.
#[derive(Clone, Copy)]
pub struct LogPart {
    /// The index of the first entry.
    pub next: u64,
    /// `true`: read the header too.
    pub header: bool,
}

/// A part of a log.
pub struct LogPage {
    pub header: Option<Arc<Header>>,
    pub entries: Vec<EntryBatch>,
    /// The number of entries of the log when it was read.
    len: u64,
    /// The log had entries after this page.
    more: bool,
}

pub fn encode(first: u64, entries: &[Arc<Entry>]) -> Result<Vec<u8>, StoreError> {
    rmp_serde::to_vec_named(&(first, entries)).map_err(|error| StoreError::Unavailable(error.to_string()))
}

pub fn decode(bytes: &[u8]) -> Result<EntryBatch, StoreError> {
    let (first, entries) = rmp_serde::from_slice(bytes)
        .map_err(|error| StoreError::Unreadable(format!("an entry that this version does not know: {error}")))?;
    Ok(EntryBatch { first, entries, more: false })
}

impl RedisInner {
    /// Reads a page of a log, from the append that wrote entry `part.next` on. `tenant`: `None` for any tenant.
    ///
    /// # Errors
    /// `NotFound`, `Expired`, `Unreadable`, `Unavailable`.
    pub async fn page(&self, tenant: Option<&str>, id: &str, part: LogPart) -> Result<LogPage, StoreError> {
        if !is_id(id) {
            return Err(StoreError::NotFound);
        }
        let mut read = scripts::response::PAGE.prepare_invoke();
        read.key(self.keys.meta(id)).key(self.keys.gone(id)).key(self.keys.log(id));
        read.arg(format!("{}-0", part.next + 1)).arg(PAGE_BYTES).arg(u8::from(part.header));
        type ReadAnswer = (String, String, u64, String, u8, Vec<Vec<u8>>);
        let (owner, header, len, gone, more, appends): ReadAnswer = self.script(&read).await?;
        if owner.is_empty() {
            let expired = !gone.is_empty() && Some(gone.as_str()) == tenant;
            return Err(if expired { StoreError::Expired } else { StoreError::NotFound });
        }
        if tenant.is_some_and(|tenant| tenant != owner) {
            return Err(StoreError::NotFound);
        }
        let header = part.header.then(|| Header::from_json(&header)).transpose()?;
        let mut entries = appends.iter().map(|bytes| decode(bytes)).collect::<Result<Vec<_>, _>>()?;
        // Every batch except the last has a successor in this page.
        let last = entries.len();
        entries.iter_mut().zip(1..).for_each(|(batch, at)| batch.more = at < last || more == 1);
        Ok(LogPage { header, entries, len, more: more == 1 })
    }

    /// Reads the header and all entries that exist.
    pub async fn whole(&self, tenant: Option<&str>, id: &str) -> Result<(Arc<Header>, Vec<Arc<Entry>>), StoreError> {
        let (mut header, mut entries) = (None, Vec::new());
        loop {
            let page = self.page(tenant, id, LogPart { next: entries.len() as u64, header: header.is_none() }).await?;
            for batch in page.entries {
                entries.extend(rest(batch, entries.len() as u64).into_iter().flat_map(|batch| batch.entries));
            }
            header = header.or(page.header);
            if !page.more {
                return Ok((header.ok_or(StoreError::NotFound)?, entries));
            }
        }
    }

    pub async fn followed(self: &Arc<Self>, tenant: &str, id: &str) -> Result<Followed, StoreError> {
        let page = self.page(Some(tenant), id, LogPart { next: 0, header: true }).await?;
        let header = page.header.ok_or(StoreError::NotFound)?;
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        for batch in page.entries {
            entries.extend(rest(batch, entries.len() as u64).into_iter().flat_map(|batch| batch.entries));
        }
        let follower = LogReader {
            inner: self.clone(),
            tenant: tenant.to_owned(),
            id: id.to_owned(),
            next: entries.len() as u64,
            ended: entries.last().is_some_and(|last| last.is_last()),
            listener: None,
            behind: true,
            ready: VecDeque::new(),
        };
        Ok(Followed { header, entries, more: page.more, rest: follower.stream() })
    }
}

/// Returns the entries of a batch from index `next` on. `None` if it has none, or if there is a gap before the batch.
fn rest(mut batch: EntryBatch, next: u64) -> Option<EntryBatch> {
    let known = next.checked_sub(batch.first)? as usize;
    if known >= batch.entries.len() {
        return None;
    }
    batch.entries.drain(..known);
    Some(EntryBatch { first: next, ..batch })
}

struct LogReader {
    inner: Arc<RedisInner>,
    tenant: String,
    id: String,
    next: u64,
    ended: bool,
    /// Present after the first catch-up.
    listener: Option<Listener>,
    /// Entries may be missing, so they have to be read by range before messages are used.
    behind: bool,
    ready: VecDeque<EntryBatch>,
}

impl LogReader {
    fn stream(self) -> BoxStream<'static, Result<EntryBatch, StoreError>> {
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

    async fn next(&mut self) -> Result<Option<EntryBatch>, StoreError> {
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
                self.receive().await?;
            }
        }
    }

    /// Waits for the confirmation of the subscription, then reads the next page. So no entry is missed between page and messages.
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

    async fn history(&self) -> Result<LogPage, StoreError> {
        let page = self.inner.page(Some(&self.tenant), &self.id, LogPart { next: self.next, header: false }).await?;
        if page.entries.first().map_or(page.len, |batch| batch.first) <= self.next {
            return Ok(page);
        }
        // The append that wrote entry `next` begins at an earlier entry: an owner has appended lost entries again. Read the whole
        // log.
        let (_, entries) = self.inner.whole(Some(&self.tenant), &self.id).await?;
        Ok(LogPage { entries: vec![EntryBatch { first: 0, entries, more: false }], more: false, ..page })
    }

    /// Waits for the next live message.
    async fn receive(&mut self) -> Result<(), StoreError> {
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
