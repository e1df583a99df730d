//! A fleet with one living member. Its other members are processes that used the file before. All of them are dead, because only
//! this process can use the file. So a process that starts takes over the responses of earlier processes as a replica takes over
//! those of a dead one.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use rusqlite::{Connection, params};

use super::{handle::SqliteStore, time::now_ms};
use crate::store::{
    Header, Lease, Store, StoreError,
    fleet::{Control, Fleet, Member, Report},
};

#[async_trait]
impl Fleet for SqliteStore {
    fn me(&self) -> &str {
        &self.0.config.process
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    async fn beat(&self, _: &Report) -> Result<Vec<Member>, StoreError> {
        let mut owners = HashSet::new();
        for log in self.0.live.all() {
            let owner = log.held().owner.clone();
            if owner != self.me() {
                owners.insert(owner);
            }
        }
        let dead = |replica| Member { replica, silent: Duration::MAX, report: Report::default() };
        Ok(owners.into_iter().map(dead).collect())
    }

    async fn leave(&self) -> Result<Vec<Member>, StoreError> {
        self.beat(&Report::default()).await
    }

    async fn forget(&self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn runs(&self, replica: &str) -> Result<Vec<String>, StoreError> {
        let logs = self.0.live.all().into_iter().filter(|log| log.held().owner == replica);
        Ok(logs.map(|log| log.header.id.clone()).collect())
    }

    async fn renew(&self, ids: &[String]) -> Result<Vec<String>, StoreError> {
        let is_cancelled = |id: &&String| self.0.live.get(id).is_some_and(|log| log.held().cancelled);
        Ok(ids.iter().filter(is_cancelled).cloned().collect())
    }

    async fn header(&self, id: &str) -> Result<Option<Arc<Header>>, StoreError> {
        Ok(self.0.live.get(id).map(|log| log.header.clone()))
    }

    async fn dead_owner(&self, id: &str) -> Result<Option<String>, StoreError> {
        let owner = self.0.live.get(id).map(|log| log.held().owner.clone());
        Ok(owner.filter(|owner| owner != self.me()))
    }

    async fn left(&self, left: &[String], followed: &[String]) -> Result<(), StoreError> {
        let now = now_ms();
        let mut changes = vec![];
        for (ids, since) in [(left, Some(now)), (followed, None)] {
            for log in ids.iter().filter_map(|id| self.0.live.get(id)) {
                log.held().nobody_since = since;
                changes.push((log.number, since));
            }
        }
        let note = move |db: &Connection| {
            let mut note = db.prepare_cached("UPDATE responses SET nobody_since = ?2 WHERE number = ?1")?;
            changes.iter().try_for_each(|(number, since)| note.execute(params![number, since]).map(drop))
        };
        self.0.change(note).await
    }

    async fn announce(&self, _: &[String], _: &[String]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn followed(&self, _: &[String]) -> Result<HashSet<String>, StoreError> {
        Ok(HashSet::new())
    }

    async fn offer(&self, lease: &Lease, _: &str) -> Result<(), StoreError> {
        self.release(lease).await
    }

    async fn steer(&self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn control(&self) -> BoxStream<'static, Control> {
        stream::pending().boxed()
    }
}
