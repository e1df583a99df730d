//! What every store must do, one function a behaviour. Each store's tests call [`all`] with a way to make an empty one.

use std::sync::Arc;

use futures::{StreamExt, future::join_all};
use serde_json::json;

use super::*;
use crate::wire::response::{InputTokensDetails, OutputTokensDetails};

pub async fn all<S: Store>(make: impl Fn() -> S) {
    a_log_is_read_as_it_was_written(make()).await;
    an_entry_is_written_once(make()).await;
    a_finished_log_is_closed(make()).await;
    followers_see_all_entries_once_whenever_they_join(make()).await;
    many_followers_of_a_busy_log_see_the_same(make()).await;
    other_tenants_see_nothing(make()).await;
    a_client_request_id_creates_once(make()).await;
    deleting_ends_followers_and_appends(make()).await;
}

pub fn header(id: &str, tenant: &str) -> Header {
    let create = Create::from_value(json!({"input": "hello"})).expect("a valid request");
    Header {
        version: LOG_VERSION,
        id: id.into(),
        tenant: tenant.into(),
        created_at: 1,
        model: "m".into(),
        create,
        prompt: vec![1, 2, 3],
        seed: 4,
        max_output_tokens: 16,
        dialect: Dialect::default(),
        left_out: LeftOut::default(),
    }
}

pub fn delta(n: u32) -> Entry {
    said(n, &format!(" {n}"))
}

/// A delta of one token and its text.
pub fn said(token: u32, text: &str) -> Entry {
    Entry::Delta { tokens: vec![token], text: text.into(), logprobs: vec![], cached_tokens: None }
}

pub fn finished() -> Entry {
    let usage = Usage {
        input_tokens: 3,
        input_tokens_details: InputTokensDetails { cached_tokens: 0 },
        output_tokens: 1,
        output_tokens_details: OutputTokensDetails { reasoning_tokens: 0 },
        total_tokens: 4,
    };
    Entry::Finished { finish: Finish::Stop, usage, completed_at: 2 }
}

async fn followed<S: Store>(store: &S, tenant: &str, id: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut stream = store.follow(tenant, id);
    while let Some(batch) = stream.next().await {
        let batch = batch.expect("follow");
        assert_eq!(batch.first, entries.len() as u64, "no gap, no repeat");
        entries.extend(batch.entries.iter().map(|e| (**e).clone()));
    }
    entries
}

async fn a_log_is_read_as_it_was_written<S: Store>(store: S) {
    store.create(header("a", "t")).await.unwrap();
    store.append("a", 0, vec![Entry::Queued, Entry::Started]).await.unwrap();
    store.append("a", 2, vec![delta(1)]).await.unwrap();
    let (head, entries) = store.read("t", "a").await.unwrap();
    assert_eq!(*head, header("a", "t"));
    let entries: Vec<Entry> = entries.iter().map(|e| (**e).clone()).collect();
    assert_eq!(entries, [Entry::Queued, Entry::Started, delta(1)]);
    assert_eq!(store.read("t", "unknown").await.unwrap_err(), StoreError::NotFound);
}

async fn an_entry_is_written_once<S: Store>(store: S) {
    store.create(header("a", "t")).await.unwrap();
    store.append("a", 0, vec![Entry::Started, delta(1)]).await.unwrap();
    for first in [0, 1, 3] {
        assert_eq!(store.append("a", first, vec![delta(9)]).await, Err(StoreError::Fenced));
    }
    assert_eq!(store.read("t", "a").await.unwrap().1.len(), 2);
    assert_eq!(store.append("unknown", 0, vec![delta(1)]).await, Err(StoreError::Fenced));
}

async fn a_finished_log_is_closed<S: Store>(store: S) {
    store.create(header("a", "t")).await.unwrap();
    store.append("a", 0, vec![finished()]).await.unwrap();
    assert_eq!(store.append("a", 1, vec![delta(1)]).await, Err(StoreError::Fenced));
    assert_eq!(followed(&store, "t", "a").await, [finished()]);
}

async fn followers_see_all_entries_once_whenever_they_join<S: Store>(store: S) {
    let store = Arc::new(store);
    store.create(header("a", "t")).await.unwrap();
    let mut followers = Vec::new();
    let join = |store: &Arc<S>| {
        let store = store.clone();
        tokio::spawn(async move { followed(&*store, "t", "a").await })
    };
    for n in 0..20u32 {
        followers.push(join(&store));
        tokio::task::yield_now().await;
        store.append("a", u64::from(n), vec![delta(n)]).await.unwrap();
    }
    store.append("a", 20, vec![finished()]).await.unwrap();
    followers.push(join(&store));
    let expected: Vec<Entry> = (0..20).map(delta).chain([finished()]).collect();
    for seen in join_all(followers).await {
        assert_eq!(seen.unwrap(), expected);
    }
}

async fn many_followers_of_a_busy_log_see_the_same<S: Store>(store: S) {
    let store = Arc::new(store);
    store.create(header("a", "t")).await.unwrap();
    let followers: Vec<_> = (0..50)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { followed(&*store, "t", "a").await.len() })
        })
        .collect();
    for n in 0..500u32 {
        store.append("a", u64::from(n) * 2, vec![delta(n), delta(n)]).await.unwrap();
    }
    store.append("a", 1000, vec![finished()]).await.unwrap();
    for seen in join_all(followers).await {
        assert_eq!(seen.unwrap(), 1001);
    }
}

async fn other_tenants_see_nothing<S: Store>(store: S) {
    store.create(header("a", "t")).await.unwrap();
    assert_eq!(store.read("other", "a").await.unwrap_err(), StoreError::NotFound);
    assert_eq!(store.delete("other", "a").await, Err(StoreError::NotFound));
    let followed = store.follow("other", "a").next().await.expect("an answer");
    assert_eq!(followed.unwrap_err(), StoreError::NotFound);
    assert!(store.read("t", "a").await.is_ok());
}

async fn a_client_request_id_creates_once<S: Store>(store: S) {
    let with_request = |id: &str, tenant: &str| {
        let mut header = header(id, tenant);
        header.create.client_request_id = Some("r".into());
        header
    };
    let creates = (0..10).map(|n| store.create(with_request(&format!("a{n}"), "t")));
    let created = join_all(creates).await;
    let new = created.iter().filter(|c| matches!(c, Ok(Created::New))).count();
    assert_eq!(new, 1);
    for existing in created.into_iter().filter_map(|c| match c.unwrap() {
        Created::Existing(id) => Some(id),
        Created::New => None,
    }) {
        assert!(store.read("t", &existing).await.is_ok());
    }
    assert!(matches!(store.create(with_request("b", "other")).await, Ok(Created::New)), "ids are a tenant's own");
    store.delete("other", "b").await.unwrap();
    assert!(
        matches!(store.create(with_request("c", "other")).await, Ok(Created::New)),
        "a deleted response is no answer"
    );
}

async fn deleting_ends_followers_and_appends<S: Store>(store: S) {
    store.create(header("a", "t")).await.unwrap();
    store.append("a", 0, vec![delta(1)]).await.unwrap();
    let mut stream = store.follow("t", "a");
    assert!(stream.next().await.unwrap().is_ok());
    store.delete("t", "a").await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap_err(), StoreError::NotFound);
    assert!(stream.next().await.is_none());
    assert_eq!(store.append("a", 1, vec![delta(2)]).await, Err(StoreError::Fenced));
    assert_eq!(store.read("t", "a").await.unwrap_err(), StoreError::NotFound);
}
