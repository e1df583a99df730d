//! Lists all objects in the file, to copy them to another store.

use async_trait::async_trait;
use rusqlite::Connection;

use super::handle::SqliteStore;
use crate::store::{
    StoreError,
    inventory::{Inventory, Name},
};

impl SqliteStore {
    async fn names(&self, sql: &'static str) -> Result<Vec<Name>, StoreError> {
        let names = move |db: &Connection| {
            let mut find = db.prepare(sql)?;
            find.query_map([], |row| Ok(Name { tenant: row.get(0)?, id: row.get(1)? }))?.collect()
        };
        self.0.readers.read(names).await
    }
}

#[async_trait]
impl Inventory for SqliteStore {
    async fn responses(&self) -> Result<Vec<Name>, StoreError> {
        self.names("SELECT tenant, id FROM responses WHERE state < 2 ORDER BY number").await
    }

    async fn conversations(&self) -> Result<Vec<Name>, StoreError> {
        self.names("SELECT tenant, id FROM conversations ORDER BY number").await
    }

    async fn prompts(&self) -> Result<Vec<Name>, StoreError> {
        self.names("SELECT tenant, id FROM prompts ORDER BY number").await
    }
}
