//! The conformance suites of all stores: one for each contract except [`fleet`] and [`inventory`], with one function per
//! behaviour. The tests of each store call `all` of each suite with a function that makes an empty store. [`all`] here tests
//! [`Store`].

pub mod cache;
pub mod conversations;
pub mod kv;
pub mod prompts;
pub mod quota;
pub mod rates;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::join_all};
use serde_json::json;
use tokio::time::timeout;

use super::*;
use crate::{
    dialect::Dialect,
    engine::{Finish, Logprobs, TokenLogprob},
    wire::{
        request::Create,
        response::{InputTokensDetails, OutputTokensDetails, Usage},
    },
};

pub async fn all<S: Store>(make: impl AsyncFn() -> S) {
    a_log_is_read_as_it_was_written(make().await).await;
    an_entry_is_written_once(make().await).await;
    a_repeated_append_changes_nothing(make().await).await;
    a_finished_log_is_closed(make().await).await;
    a_claim_fences_the_owner_out(make().await).await;
    a_released_response_can_be_claimed(make().await).await;
    attempts_are_counted_until_there_is_progress(make().await).await;
    a_cancel_reaches_the_owner_and_who_takes_over(make().await).await;
    followers_see_all_entries_once_whenever_they_join(make().await).await;
    many_followers_of_a_busy_log_see_the_same(make().await).await;
    other_tenants_see_nothing(make().await).await;
    a_client_request_id_creates_once(make().await).await;
    deleting_ends_followers_and_appends(make().await).await;
    the_writer_learns_who_left(make().await).await;
    what_is_kept_is_there(make().await).await;
}

/// Creates a response and returns its lease. Panics if the response exists.
pub async fn created<S: Store>(store: &S, header: Header) -> Lease {
    match store.create(header).await.expect("create") {
        Created::New(lease) => lease,
        Created::Existing(id) => panic!("{id} exists"),
    }
}

pub async fn append<S: Store>(
    store: &S,
    lease: &Lease,
    first: u64,
    entries: Vec<Entry>,
) -> Result<Appended, StoreError> {
    let entries: Vec<Arc<Entry>> = entries.into_iter().map(Arc::new).collect();
    store.append(lease, first, &entries).await
}

/// The longest wait of a follower. A follower that waits longer has missed an entry.
const PATIENCE: Duration = Duration::from_secs(20);
const APPENDED: Result<Appended, StoreError> = Ok(Appended { cancelled: false, left: vec![] });

pub fn header(id: &str, tenant: &str) -> Header {
    let create = Create::from_value(json!({"input": "hello"})).expect("a valid request");
    Header {
        version: LOG_VERSION,
        id: id.into(),
        tenant: tenant.into(),
        created_at: 1,
        model: "m".into(),
        spec: create.into(),
        prompt: vec![1, 2, 3],
        seed: 4,
        max_output_tokens: 16,
        dialect: Dialect::default(),
        left_out: TruncatedItems::default(),
        holding: Default::default(),
        sharing: None,
        origin: Default::default(),
        on_disconnect: Default::default(),
        key_quota: None,
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
    let mut followed = store.follow(tenant, id).await.expect("follow");
    let mut entries: Vec<Entry> = followed.entries.iter().map(|e| (**e).clone()).collect();
    while let Some(batch) = timeout(PATIENCE, followed.rest.next()).await.expect("an entry was missed") {
        let batch = batch.expect("follow");
        assert_eq!(batch.first, entries.len() as u64, "no gap, no repeat");
        entries.extend(batch.entries.iter().map(|e| (**e).clone()));
    }
    entries
}

async fn entries<S: Store>(store: &S, id: &str) -> Vec<Entry> {
    store.read("t", id).await.expect("read").1.iter().map(|e| (**e).clone()).collect()
}

async fn a_log_is_read_as_it_was_written<S: Store>(store: S) {
    let lease = created(&store, header("a", "t")).await;
    assert_eq!((lease.id.as_str(), lease.fence), ("a", 1));
    append(&store, &lease, 0, vec![Entry::Queued, Entry::Started]).await.unwrap();
    let logprob = |logprob| TokenLogprob { token: "é".into(), bytes: "é".into(), logprob };
    let told = Entry::Delta {
        tokens: vec![7],
        text: "é".into(),
        logprobs: vec![Logprobs { token: logprob(-0.5), top: vec![logprob(-0.5), logprob(-1.5)] }],
        cached_tokens: Some(3),
    };
    append(&store, &lease, 2, vec![told.clone()]).await.unwrap();
    assert_eq!(*store.read("t", "a").await.unwrap().0, header("a", "t"));
    assert_eq!(entries(&store, "a").await, [Entry::Queued, Entry::Started, told]);
    assert_eq!(store.read("t", "unknown").await.unwrap_err(), StoreError::NotFound);
    assert!(store.is_reachable());
}

async fn an_entry_is_written_once<S: Store>(store: S) {
    let lease = created(&store, header("a", "t")).await;
    append(&store, &lease, 0, vec![Entry::Started, delta(1)]).await.unwrap();
    let overlapping = append(&store, &lease, 1, vec![delta(8), delta(9)]).await;
    assert_eq!(overlapping, Err(StoreError::Fenced));
    assert_eq!(append(&store, &lease, 3, vec![delta(9)]).await, Err(StoreError::Behind(2)));
    assert_eq!(entries(&store, "a").await, [Entry::Started, delta(1)]);
    let unknown = Lease { id: "unknown".into(), ..lease };
    assert_eq!(append(&store, &unknown, 0, vec![delta(1)]).await, Err(StoreError::Fenced));
}

async fn a_repeated_append_changes_nothing<S: Store>(store: S) {
    let lease = created(&store, header("a", "t")).await;
    for _ in 0..3 {
        assert_eq!(append(&store, &lease, 0, vec![Entry::Started, delta(1)]).await, APPENDED);
    }
    for _ in 0..3 {
        assert_eq!(append(&store, &lease, 2, vec![finished()]).await, APPENDED);
    }
    assert_eq!(followed(&store, "t", "a").await, [Entry::Started, delta(1), finished()]);
}

async fn a_finished_log_is_closed<S: Store>(store: S) {
    let lease = created(&store, header("a", "t")).await;
    append(&store, &lease, 0, vec![finished()]).await.unwrap();
    assert_eq!(append(&store, &lease, 1, vec![delta(1)]).await, Err(StoreError::Fenced));
    assert_eq!(followed(&store, "t", "a").await, [finished()]);
    assert!(store.claim("a", &lease.owner).await.unwrap().is_none(), "nothing is left to take over");
}

async fn a_claim_fences_the_owner_out<S: Store>(store: S) {
    let old = created(&store, header("a", "t")).await;
    append(&store, &old, 0, vec![Entry::Started, delta(1)]).await.unwrap();
    assert!(store.claim("a", "nobody").await.unwrap().is_none(), "only from its owner");
    assert!(store.claim("unknown", &old.owner).await.unwrap().is_none());
    let claim = store.claim("a", &old.owner).await.unwrap().expect("a claim");
    assert_eq!((claim.lease.fence, claim.cancelled), (2, false));
    assert_eq!(*claim.header, header("a", "t"));
    assert_eq!(claim.entries.iter().map(|e| (**e).clone()).collect::<Vec<_>>(), [Entry::Started, delta(1)]);
    for first in [0, 2] {
        assert_eq!(append(&store, &old, first, vec![delta(2)]).await, Err(StoreError::Fenced), "at {first}");
    }
    assert_eq!(append(&store, &claim.lease, 2, vec![finished()]).await, APPENDED);
    assert_eq!(append(&store, &old, 2, vec![finished()]).await, Err(StoreError::Fenced));
    assert_eq!(followed(&store, "t", "a").await, [Entry::Started, delta(1), finished()]);
}

async fn a_released_response_can_be_claimed<S: Store>(store: S) {
    let old = created(&store, header("a", "t")).await;
    append(&store, &old, 0, vec![Entry::Started]).await.unwrap();
    store.release(&old).await.unwrap();
    assert_eq!(append(&store, &old, 1, vec![delta(1)]).await, Err(StoreError::Fenced));
    let claim = store.claim("a", &old.owner).await.unwrap().expect("a claim");
    assert!(claim.lease.fence > old.fence);
    store.release(&old).await.unwrap();
    assert_eq!(append(&store, &claim.lease, 1, vec![delta(1)]).await, APPENDED, "an old lease releases nothing");
}

async fn attempts_are_counted_until_there_is_progress<S: Store>(store: S) {
    let old = created(&store, header("a", "t")).await;
    append(&store, &old, 0, vec![Entry::Started]).await.unwrap();
    let claim = async |from: &Lease| store.claim("a", &from.owner).await.unwrap().expect("a claim");
    let first = claim(&old).await;
    assert_eq!((first.tries, store.try_again(&first.lease).await), (0, Ok(1)));
    assert_eq!(store.try_again(&old).await, Err(StoreError::Fenced));
    let second = claim(&first.lease).await;
    assert_eq!((second.tries, store.try_again(&second.lease).await), (1, Ok(2)));
    append(&store, &second.lease, 1, vec![delta(1)]).await.unwrap();
    let third = claim(&second.lease).await;
    assert_eq!((third.tries, store.try_again(&third.lease).await), (0, Ok(1)), "there was progress");
    store.release(&third.lease).await.unwrap();
    assert_eq!(claim(&third.lease).await.tries, 0, "who hands over has not died of it");
}

async fn a_cancel_reaches_the_owner_and_who_takes_over<S: Store>(store: S) {
    let lease = created(&store, header("a", "t")).await;
    assert_eq!(append(&store, &lease, 0, vec![Entry::Started]).await, APPENDED);
    assert_eq!(store.cancel("other", "a").await, Err(StoreError::NotFound));
    assert_eq!(append(&store, &lease, 1, vec![delta(1)]).await, APPENDED);
    store.cancel("t", "a").await.unwrap();
    assert_eq!(append(&store, &lease, 2, vec![delta(2)]).await, Ok(Appended { cancelled: true, left: vec![] }));
    let claim = store.claim("a", &lease.owner).await.unwrap().expect("a claim");
    assert!(claim.cancelled);
    append(&store, &claim.lease, 3, vec![finished()]).await.unwrap();
    store.cancel("t", "a").await.unwrap();
    assert_eq!(store.cancel("t", "unknown").await, Err(StoreError::NotFound));
}

async fn followers_see_all_entries_once_whenever_they_join<S: Store>(store: S) {
    let store = Arc::new(store);
    let lease = created(&*store, header("a", "t")).await;
    let mut followers = Vec::new();
    let join = |store: &Arc<S>| {
        let store = store.clone();
        tokio::spawn(async move { followed(&*store, "t", "a").await })
    };
    for n in 0..20u32 {
        followers.push(join(&store));
        tokio::task::yield_now().await;
        append(&*store, &lease, u64::from(n), vec![delta(n)]).await.unwrap();
    }
    append(&*store, &lease, 20, vec![finished()]).await.unwrap();
    followers.push(join(&store));
    let expected: Vec<Entry> = (0..20).map(delta).chain([finished()]).collect();
    for seen in join_all(followers).await {
        assert_eq!(seen.unwrap(), expected);
    }
}

async fn many_followers_of_a_busy_log_see_the_same<S: Store>(store: S) {
    let store = Arc::new(store);
    let lease = created(&*store, header("a", "t")).await;
    let followers: Vec<_> = (0..50)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { followed(&*store, "t", "a").await.len() })
        })
        .collect();
    for n in 0..500u32 {
        append(&*store, &lease, u64::from(n) * 2, vec![delta(n), delta(n)]).await.unwrap();
    }
    append(&*store, &lease, 1000, vec![finished()]).await.unwrap();
    for seen in join_all(followers).await {
        assert_eq!(seen.unwrap(), 1001);
    }
}

async fn other_tenants_see_nothing<S: Store>(store: S) {
    store.create(header("a", "t")).await.unwrap();
    assert_eq!(store.read("other", "a").await.unwrap_err(), StoreError::NotFound);
    assert_eq!(store.delete("other", "a").await, Err(StoreError::NotFound));
    assert_eq!(store.follow("other", "a").await.err(), Some(StoreError::NotFound));
    assert!(store.read("t", "a").await.is_ok());
}

async fn a_client_request_id_creates_once<S: Store>(store: S) {
    let with_request = |id: &str, tenant: &str| {
        let mut header = header(id, tenant);
        header.spec.client_request_id = Some("r".into());
        header
    };
    let creates = (0..10).map(|n| store.create(with_request(&format!("a{n}"), "t")));
    let created = join_all(creates).await;
    let new = created.iter().filter(|c| matches!(c, Ok(Created::New(_)))).count();
    assert_eq!(new, 1);
    for existing in created.into_iter().filter_map(|c| match c.unwrap() {
        Created::Existing(id) => Some(id),
        Created::New(_) => None,
    }) {
        assert!(store.read("t", &existing).await.is_ok());
    }
    assert!(matches!(store.create(with_request("b", "other")).await, Ok(Created::New(_))), "ids are a tenant's own");
    store.delete("other", "b").await.unwrap();
    assert!(
        matches!(store.create(with_request("c", "other")).await, Ok(Created::New(_))),
        "a deleted response is no answer"
    );
}

async fn deleting_ends_followers_and_appends<S: Store>(store: S) {
    let lease = created(&store, header("a", "t")).await;
    append(&store, &lease, 0, vec![delta(1)]).await.unwrap();
    let mut followed = store.follow("t", "a").await.unwrap();
    assert_eq!(followed.entries.len(), 1);
    append(&store, &lease, 1, vec![delta(2)]).await.unwrap();
    assert!(followed.rest.next().await.unwrap().is_ok());
    store.delete("t", "a").await.unwrap();
    assert_eq!(followed.rest.next().await.unwrap().unwrap_err(), StoreError::NotFound);
    assert!(followed.rest.next().await.is_none());
    assert_eq!(append(&store, &lease, 2, vec![delta(2)]).await, Err(StoreError::Fenced));
    assert_eq!(store.read("t", "a").await.unwrap_err(), StoreError::NotFound);
    assert!(store.claim("a", &lease.owner).await.unwrap().is_none());
}

async fn the_writer_learns_who_left<S: Store>(store: S) {
    let lease = created(&store, header("a", "t")).await;
    assert!(append(&store, &lease, 0, vec![delta(1)]).await.unwrap().left.is_empty());
    store.request_leave("t", "a", "resp_1").await.unwrap();
    store.request_leave("t", "a", "resp_2").await.unwrap();
    assert_eq!(store.request_leave("other", "a", "resp_3").await, Err(StoreError::NotFound));
    assert_eq!(append(&store, &lease, 1, vec![]).await.unwrap().left, ["resp_1", "resp_2"]);
}

async fn what_is_kept_is_there<S: Store>(store: S) {
    let lease = created(&store, header("a", "t")).await;
    store.touch_retention("t", "a").await.unwrap();
    append(&store, &lease, 0, vec![finished()]).await.unwrap();
    store.touch_retention("t", "a").await.unwrap();
    assert_eq!(store.touch_retention("other", "a").await, Err(StoreError::NotFound));
    assert_eq!(store.touch_retention("t", "b").await, Err(StoreError::NotFound));
    assert!(store.read("t", "a").await.is_ok());
}
