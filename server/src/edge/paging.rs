//! Lists over HTTP: parses `after`, `limit` and `order`, and builds `{object: "list", data, first_id, last_id, has_more}`.

use serde_json::Value;

use super::query::Query;
use crate::{
    store::page::{Listed, Order, Page},
    wire::{error::WireError, object::List},
};

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;

/// Parses the query of a list.
///
/// # Errors
/// `invalid_request`, naming the parameter.
pub fn page(mut query: Query) -> Result<Page, WireError> {
    query.includes()?;
    let limit = query.number("limit")?.map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(WireError::invalid("limit", format!("'limit' must be from 1 to {MAX_LIMIT}.")));
    }
    let order = match query.text("order")?.as_deref() {
        None | Some("desc") => Order::Descending,
        Some("asc") => Order::Ascending,
        Some(_) => return Err(WireError::invalid("order", "'order' must be 'asc' or 'desc'.")),
    };
    let page = Page { after: query.text("after")?, limit, order };
    query.end()?;
    Ok(page)
}

pub fn list<T>(listed: Listed<T>, object: impl Fn(T) -> Value) -> List<Value> {
    let data: Vec<Value> = listed.data.into_iter().map(object).collect();
    let id = |item: Option<&Value>| item.and_then(|item| item["id"].as_str()).map(str::to_owned);
    List { object: "list", first_id: id(data.first()), last_id: id(data.last()), has_more: listed.has_more, data }
}

/// Cuts a page out of all items of a list, which are sorted from the oldest to the newest.
///
/// # Errors
/// `invalid_request` if no item has the id `after`.
pub fn cut(mut items: Vec<Value>, page: &Page) -> Result<Listed<Value>, WireError> {
    if page.order == Order::Descending {
        items.reverse();
    }
    if let Some(after) = &page.after {
        let at = items.iter().position(|item| item["id"] == after.as_str());
        let at = at.ok_or_else(|| WireError::invalid("after", "'after' is not the id of an item in this list."))?;
        items.drain(..=at);
    }
    Ok(Listed::cut(items, page.limit))
}
