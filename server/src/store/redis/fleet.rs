//! The fleet on Redis. One sorted set has the times of the heartbeats, by Redis' clock. Each replica has a set of the responses
//! that it runs, and a set of those that are followed there. The cost of a heartbeat does not depend on how many responses a
//! replica runs.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ::redis::cmd;
use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};

use super::{
    follow::LogPart,
    handle::{RUNNING, RedisInner, RedisStore, ms},
    scripts,
};
use crate::store::{
    Header, Lease, StoreError,
    fleet::{Control, Fleet, Member, Report},
};

/// The interval between reads of Redis' `maxmemory`.
const BOUND_ASKED: Duration = Duration::from_secs(30);

/// How long Redis stores the sets and the report of a dead replica.
const KEPT: Duration = Duration::from_secs(3600);

impl RedisInner {
    /// Records a heartbeat, or with `None` that this replica leaves. Returns the other replicas.
    async fn record_heartbeat(&self, report: Option<&Report>) -> Result<Vec<Member>, StoreError> {
        let me = &self.config.replica;
        let mut beat = scripts::fleet::BEAT.prepare_invoke();
        let told = serde_json::to_string(report.unwrap_or(&Report::default())).unwrap_or_default();
        beat.key(self.keys.replicas()).key(self.keys.reports());
        beat.arg(me).arg(u8::from(report.is_some())).arg(told).arg(ms(KEPT));
        let all: Vec<(String, u64, String)> = self.script(&beat).await?;
        let others = all.into_iter().filter(|(replica, ..)| replica != me);
        let others: Vec<Member> = others
            .map(|(replica, silent, report)| Member {
                replica,
                silent: Duration::from_millis(silent),
                // Another version may send a report that this one cannot read.
                report: serde_json::from_str(&report).unwrap_or_default(),
            })
            .collect();
        self.members.lock().clone_from(&others);
        Ok(others)
    }

    async fn keep(&self, key: String) -> Result<(), StoreError> {
        let mut renew = cmd("PEXPIRE");
        renew.arg(key).arg(ms(KEPT));
        self.query(&renew).await
    }
}

#[async_trait]
impl Fleet for RedisStore {
    fn me(&self) -> &str {
        &self.0.config.replica
    }

    async fn beat(&self, report: &Report) -> Result<Vec<Member>, StoreError> {
        let (beaten, ..) = tokio::join!(
            self.0.record_heartbeat(Some(report)),
            self.0.keep(self.0.keys.runs(self.me())),
            self.0.keep(self.0.keys.follows(self.me())),
        );
        self.0.reachable.store(beaten.is_ok(), Ordering::Relaxed);
        let asked = {
            let mut asked = self.0.asked.lock();
            let due = asked.is_none_or(|at| at.elapsed() >= BOUND_ASKED);
            if due && beaten.is_ok() {
                asked.replace(Instant::now())
            } else {
                asked.or(None)
            };
            due
        };
        if asked {
            self.0.ask_maxmemory().await;
        }
        beaten
    }

    async fn leave(&self) -> Result<Vec<Member>, StoreError> {
        self.0.record_heartbeat(None).await
    }

    async fn forget(&self, replica: &str) -> Result<(), StoreError> {
        let mut report = cmd("HDEL");
        report.arg(self.0.keys.reports()).arg(replica);
        self.0.query::<()>(&report).await?;
        let mut forget = cmd("ZREM");
        forget.arg(self.0.keys.replicas()).arg(replica);
        self.0.query(&forget).await
    }

    async fn runs(&self, replica: &str) -> Result<Vec<String>, StoreError> {
        let mut members = cmd("SMEMBERS");
        members.arg(self.0.keys.runs(replica));
        self.0.query(&members).await
    }

    async fn renew(&self, ids: &[String]) -> Result<Vec<String>, StoreError> {
        let renewals = ids.iter().cloned().map(|id| async move {
            let mut renew = scripts::response::RENEW.prepare_invoke();
            renew.key(self.0.keys.meta(&id)).key(self.0.keys.log(&id)).arg(ms(RUNNING));
            let cancelled: u8 = self.0.script(&renew).await?;
            Ok((cancelled == 1).then_some(id))
        });
        let renewals: Vec<Result<Option<String>, StoreError>> = stream::iter(renewals).buffered(64).collect().await;
        renewals.into_iter().filter_map(Result::transpose).collect()
    }

    async fn header(&self, id: &str) -> Result<Option<Arc<Header>>, StoreError> {
        match self.0.page(None, id, LogPart { next: u64::MAX - 1, header: true }).await {
            Ok(page) => Ok(page.header),
            Err(StoreError::NotFound | StoreError::Expired) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn dead_owner(&self, id: &str) -> Result<Option<String>, StoreError> {
        let mut ask = cmd("HMGET");
        ask.arg(self.0.keys.meta(id)).arg(&["owner", "end"]);
        let (owner, end): (Option<String>, Option<String>) = self.0.query(&ask).await?;
        let Some(owner) = owner.filter(|owner| end.as_deref() == Some("0") && owner != self.me()) else {
            return Ok(None);
        };
        let members = self.0.members.lock();
        let lives = |member: &Member| member.replica == owner && member.silent <= self.0.config.lease;
        Ok((!members.iter().any(lives)).then_some(owner))
    }

    async fn left(&self, left: &[String], followed: &[String]) -> Result<(), StoreError> {
        let left = left.iter().cloned().map(|id| (id, true));
        let all: Vec<(String, bool)> = left.chain(followed.iter().cloned().map(|id| (id, false))).collect();
        let told = all.into_iter().map(|(id, left)| async move {
            let mut tell = scripts::response::MARK_UNFOLLOWED.prepare_invoke();
            tell.key(self.0.keys.meta(&id)).arg(u8::from(left));
            self.0.script::<u8>(&tell).await
        });
        let told: Vec<Result<u8, StoreError>> = stream::iter(told).buffered(64).collect().await;
        told.into_iter().try_for_each(|told| told.map(drop))
    }

    async fn announce(&self, followed: &[String], left: &[String]) -> Result<(), StoreError> {
        let mut announce = scripts::fleet::ANNOUNCE.prepare_invoke();
        announce.key(self.0.keys.follows(self.me())).arg(ms(KEPT)).arg(followed.len()).arg(followed).arg(left);
        self.0.script(&announce).await
    }

    async fn followed(&self, ids: &[String]) -> Result<HashSet<String>, StoreError> {
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        let members = self.0.members.lock().clone();
        let mut followed = HashSet::new();
        for member in members.iter().filter(|member| member.silent < self.0.config.lease) {
            let mut query = cmd("SMISMEMBER");
            query.arg(self.0.keys.follows(&member.replica)).arg(ids);
            let there: Vec<u8> = self.0.query(&query).await?;
            followed.extend(ids.iter().zip(there).filter(|(_, there)| *there == 1).map(|(id, _)| id.clone()));
        }
        Ok(followed)
    }

    async fn offer(&self, lease: &Lease, to: &str) -> Result<(), StoreError> {
        self.0.released(lease, Some(to)).await
    }

    async fn steer(&self, id: &str) -> Result<(), StoreError> {
        self.0.publish(&Control::Steer { id: id.into() }).await
    }

    fn control(&self) -> BoxStream<'static, Control> {
        let listener = self.0.live.listen(&self.0.keys.control());
        stream::unfold(listener, |mut listener| async move {
            loop {
                if let Some(message) = listener.next().await
                    && let Ok(control) = serde_json::from_slice(&message)
                {
                    return Some((control, listener));
                }
            }
        })
        .boxed()
    }
}
