//! The conformance suite for [quotas](crate::store::quota). `make(quotas)` makes an empty store with these quotas.

use std::{collections::HashMap, sync::Arc};

use super::{append, created, finished, header, said};
use crate::store::{
    Header, Lease, Store, StoreError,
    quota::{Exceeded, KeyQuota, QuotaSetting, StorageQuotas},
};

/// The quota of tenants without one of their own. A store with a bound needs room for a few times as much.
pub const BYTES: u64 = 100_000;
/// The bytes of text of each response in these tests.
const TEXT: usize = 10_000;

pub async fn all<S: Store>(make: impl AsyncFn(StorageQuotas) -> S) {
    what_runs_counts_until_it_is_deleted(make(quotas()).await).await;
    a_tenant_that_stores_too_much_takes_nothing_from_others(make(quotas()).await).await;
    responses_are_counted(make(quotas()).await).await;
    a_key_has_a_quota_of_its_own(make(quotas()).await).await;
    what_runs_is_written_to_its_end(make(quotas()).await).await;
    a_repeated_create_and_append_count_once(make(quotas()).await).await;
}

fn quotas() -> StorageQuotas {
    let three = QuotaSetting { bytes: None, responses: Some(3) };
    let small = QuotaSetting { bytes: Some(BYTES / 4), responses: None };
    let tenants = HashMap::from([("three".to_owned(), three), ("small".to_owned(), small)]);
    StorageQuotas {
        default: QuotaSetting { bytes: Some(BYTES), responses: None },
        tenants: Arc::new(tenants),
        parts: 1,
    }
}

/// Creates a response that runs and has text.
async fn running<S: Store>(store: &S, header: Header) -> Result<Lease, StoreError> {
    let id = header.id.clone();
    let lease = match store.create(header).await? {
        crate::store::Created::New(lease) => lease,
        crate::store::Created::Existing(other) => panic!("{id} is {other}"),
    };
    append(store, &lease, 0, vec![said(1, &"x".repeat(TEXT))]).await.expect("what runs is never refused");
    Ok(lease)
}

async fn stored<S: Store>(store: &S, id: &str, tenant: &str) -> Result<(), StoreError> {
    let lease = running(store, header(id, tenant)).await?;
    append(store, &lease, 1, vec![finished()]).await.expect("what runs is never refused");
    Ok(())
}

/// Creates running responses until one more is refused with `exceeded`.
async fn room<S: Store>(store: &S, exceeded: Exceeded, header: impl Fn(usize) -> Header) -> Vec<Lease> {
    let mut leases = vec![];
    loop {
        match running(store, header(leases.len())).await {
            Ok(lease) => leases.push(lease),
            Err(StoreError::OverQuota(refused)) if refused == exceeded => return leases,
            Err(error) => panic!("{error}, and not {exceeded:?}"),
        }
        assert!(leases.len() < 100, "no quota");
    }
}

async fn what_runs_counts_until_it_is_deleted<S: Store>(store: S) {
    let leases = room(&store, Exceeded::TenantBytes(BYTES), |n| header(&format!("a{n}"), "t")).await;
    assert!((5..=11).contains(&leases.len()), "{} of {TEXT} bytes", leases.len());
    let small = room(&store, Exceeded::TenantBytes(BYTES / 4), |n| header(&format!("s{n}"), "small")).await;
    assert!((1..=3).contains(&small.len()), "{}", small.len());
    for lease in &leases {
        store.read("t", &lease.id).await.expect("what runs is there");
    }
    store.delete("t", &leases[0].id).await.unwrap();
    running(&store, header("again", "t")).await.expect("there is room again");
}

async fn a_tenant_that_stores_too_much_takes_nothing_from_others<S: Store>(store: S) {
    for n in 0..3 {
        stored(&store, &format!("mine{n}"), "other").await.unwrap();
    }
    let mut refused = 0;
    for n in 0..40 {
        match stored(&store, &format!("a{n}"), "t").await {
            Ok(()) => {}
            Err(StoreError::OverQuota(Exceeded::TenantBytes(BYTES))) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let mut there = 0;
    for n in 0..40 {
        there += usize::from(store.read("t", &format!("a{n}")).await.is_ok());
    }
    assert!((5..=11).contains(&there), "{there} are there, {refused} were refused");
    for n in 0..3 {
        store.read("other", &format!("mine{n}")).await.expect("another tenant's");
    }
    stored(&store, "mine3", "other").await.expect("another tenant has room");
}

async fn responses_are_counted<S: Store>(store: S) {
    let leases = room(&store, Exceeded::TenantResponses(3), |n| header(&format!("a{n}"), "three")).await;
    assert_eq!(leases.len(), 3);
    store.delete("three", &leases[1].id).await.unwrap();
    running(&store, header("again", "three")).await.expect("there is room again");
}

async fn a_key_has_a_quota_of_its_own<S: Store>(store: S) {
    let bytes = BYTES / 4;
    let of_key = |key: &str, id: String| Header {
        key_quota: Some(KeyQuota { key: key.into(), bytes, tokens_per_minute: None }),
        ..header(&id, "t")
    };
    let leases = room(&store, Exceeded::KeyBytes(bytes), |n| of_key("k", format!("a{n}"))).await;
    assert!((1..=3).contains(&leases.len()), "{}", leases.len());
    running(&store, of_key("l", "b".into())).await.expect("another key");
    running(&store, header("c", "t")).await.expect("a key without a quota");
    store.delete("t", &leases[0].id).await.unwrap();
    running(&store, of_key("k", "again".into())).await.expect("there is room again");
    room(&store, Exceeded::TenantBytes(BYTES), |n| header(&format!("d{n}"), "t")).await;
}

async fn what_runs_is_written_to_its_end<S: Store>(store: S) {
    let lease = created(&store, header("long", "small")).await;
    for n in 0..10 {
        append(&store, &lease, n, vec![said(1, &"x".repeat(TEXT))]).await.expect("what runs is never refused");
    }
    let refused = store.create(header("next", "small")).await.expect_err("over the quota");
    assert_eq!(refused, StoreError::OverQuota(Exceeded::TenantBytes(BYTES / 4)));
    store.cancel("small", "long").await.unwrap();
    append(&store, &lease, 10, vec![finished()]).await.unwrap();
    let _ = store.delete("small", "long").await;
    running(&store, header("next", "small")).await.expect("there is room again");
}

async fn a_repeated_create_and_append_count_once<S: Store>(store: S) {
    let mut first = header("first", "three");
    first.spec.client_request_id = Some("r".into());
    created(&store, first.clone()).await;
    for n in 0..5 {
        let again = Header { id: format!("again{n}"), ..first.clone() };
        store.create(again).await.expect("the same request");
    }
    let leases = room(&store, Exceeded::TenantResponses(3), |n| header(&format!("a{n}"), "three")).await;
    assert_eq!(leases.len(), 2);
    for lease in leases {
        for _ in 0..5 {
            append(&store, &lease, 0, vec![said(1, &"x".repeat(TEXT))]).await.unwrap();
        }
        append(&store, &lease, 1, vec![finished()]).await.unwrap();
        store.delete("three", &lease.id).await.unwrap();
    }
    let leases = room(&store, Exceeded::TenantResponses(3), |n| header(&format!("b{n}"), "three")).await;
    assert_eq!(leases.len(), 2);
}
