//! Lists over HTTP: `after`, `limit` and `order` in, `{object: "list", data, first_id, last_id, has_more}` out.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    store::page::{Listed, Order, Page},
    wire::error::WireError,
};

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;

/// The query of a list. Fields that select what is included are known and change nothing here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    after: Option<String>,
    limit: Option<usize>,
    order: Option<String>,
    #[serde(rename = "include")]
    _include: Option<String>,
    #[serde(rename = "include[]")]
    _includes: Option<String>,
}

impl PageQuery {
    pub fn page(self) -> Result<Page, WireError> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(WireError::invalid("limit", format!("'limit' must be from 1 to {MAX_LIMIT}.")));
        }
        let order = match self.order.as_deref() {
            None | Some("desc") => Order::Descending,
            Some("asc") => Order::Ascending,
            Some(_) => return Err(WireError::invalid("order", "'order' must be 'asc' or 'desc'.")),
        };
        Ok(Page { after: self.after.filter(|after| !after.is_empty()), limit, order })
    }
}

pub fn list<T>(listed: Listed<T>, object: impl Fn(T) -> Value) -> Value {
    let data: Vec<Value> = listed.data.into_iter().map(object).collect();
    let (first, last) = (data.first().map(|i| i["id"].clone()), data.last().map(|i| i["id"].clone()));
    json!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": listed.has_more})
}
