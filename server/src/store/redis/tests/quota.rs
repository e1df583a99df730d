//! Tests of quotas on Redis, and of what a full Redis still accepts.

use std::{collections::BTreeMap, sync::atomic::AtomicUsize, time::Duration};

use caudal_tests::{Redis, redis::RedisCluster};
use serde_json::json;

use super::*;
use crate::store::{
    conformance::{self, append, created, delta, finished, header, said},
    conversations::{Conversations, Item},
    fleet::{Fleet, Report},
    quota::{Exceeded, QuotaSetting},
};

static MADE: AtomicUsize = AtomicUsize::new(0);

fn config(url: String, quotas: StorageQuotas) -> RedisConfig {
    RedisConfig {
        url,
        sentinel: Default::default(),
        prefix: format!("quota{}", MADE.fetch_add(1, Ordering::Relaxed)),
        timeout: Duration::from_secs(2),
        retention: Retention::for_tests(),
        replica: "a".into(),
        lease: Duration::from_millis(500),
        quotas,
        max_bytes: 0,
    }
}

async fn beating(config: RedisConfig) -> RedisStore {
    let store = RedisStore::new(config).unwrap();
    store.beat(&Report::default()).await.unwrap();
    store
}

fn of_bytes(bytes: u64) -> StorageQuotas {
    StorageQuotas { default: QuotaSetting { bytes: Some(bytes), responses: None }, ..StorageQuotas::for_tests() }
}

/// Makes Redis full. It stays full, whatever is deleted.
fn fill(server: &Redis) {
    server.ask(&["CONFIG", "SET", "maxmemory", "100kb"]);
}

fn empty(server: &Redis) {
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
}

fn item(id: &str, bytes: usize) -> Item {
    Item { id: id.into(), body: json!({"text": "x".repeat(bytes)}) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_hold() {
    let server = Redis::spawn();
    conformance::quota::all(async |quotas| beating(config(server.url(), quotas)).await).await;
    for key in server.ask(&["KEYS", "*:stored*"]).lines() {
        assert!(server.ask(&["PTTL", key]).parse::<i64>().unwrap() > 0, "{key} lives for ever");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_hold_on_a_cluster() {
    let cluster = RedisCluster::spawn();
    conformance::quota::all(async |quotas| beating(config(cluster.url(), quotas)).await).await;
}

#[tokio::test]
async fn a_tenant_fills_its_part_of_maxmemory_and_no_more() {
    let server = Redis::spawn();
    server.ask(&["CONFIG", "SET", "maxmemory", "16mb"]);
    let quotas = StorageQuotas { parts: 4, ..StorageQuotas::for_tests() };
    let store = beating(config(server.url(), quotas)).await;
    let mut stored = 0;
    let refused = loop {
        let id = format!("resp_{stored}");
        match store.create(header(&id, "greedy")).await {
            Ok(Created::New(lease)) => {
                let text = said(1, &"x".repeat(200_000));
                append(&store, &lease, 0, vec![text, finished()]).await.unwrap();
            }
            other => break other.unwrap_err(),
        }
        stored += 1;
    };
    assert_eq!(refused, StoreError::OverQuota(Exceeded::TenantBytes(4 << 20)));
    assert!((15..=22).contains(&stored), "{stored} of 200 kB");
    created(&store, header("other", "modest")).await;
}

#[tokio::test]
async fn what_has_expired_gives_its_room_back() {
    let server = Redis::spawn();
    let brief = Retention { default: Duration::from_millis(300), ..Retention::for_tests() };
    let store = beating(RedisConfig { retention: brief, ..config(server.url(), of_bytes(50_000)) }).await;
    let mut leases = vec![];
    for n in 0..4 {
        let lease = created(&store, header(&format!("resp_{n}"), "t")).await;
        append(&store, &lease, 0, vec![said(1, &"x".repeat(11_000)), finished()]).await.unwrap();
        leases.push(lease);
    }
    let refused = store.create(header("next", "t")).await.unwrap_err();
    assert_eq!(refused, StoreError::OverQuota(Exceeded::TenantBytes(50_000)));
    caudal_tests::until("room", || async { store.create(header("next", "t")).await.ok() }).await;
}

#[tokio::test]
async fn conversations_count() {
    let server = Redis::spawn();
    let store = beating(config(server.url(), of_bytes(60_000))).await;
    let conversations = store.conversations(Retention::for_tests(), conformance::conversations::BOUNDS);
    let over = Err(StoreError::OverQuota(Exceeded::TenantBytes(60_000)));
    let new = |id: &str| conformance::conversations::conversation(id, "t");
    let mut made = 0;
    while conversations.create(new(&format!("conv_{made}")), vec![]).await.is_ok() {
        made += 1;
    }
    assert!((50..60).contains(&made), "{made} of 1 KiB");
    assert_eq!(conversations.append("t", "conv_1", vec![item("i", 900)]).await, over);
    assert_eq!(
        store.create(header("resp", "t")).await.err(),
        Some(StoreError::OverQuota(Exceeded::TenantBytes(60_000)))
    );
    let large = BTreeMap::from([("a".to_owned(), "x".repeat(2000))]);
    assert!(conversations.set_metadata("t", "conv_1", large.clone()).await.is_err());
    for n in 10..20 {
        conversations.delete("t", &format!("conv_{n}")).await.unwrap();
    }
    conversations.set_metadata("t", "conv_1", large).await.unwrap();
    // Invalid ids from clients do not change the ledger.
    for id in ["#bytes", "#responses", "nobody"] {
        assert_eq!(conversations.append("t", id, vec![item("i", 10)]).await, Err(StoreError::NotFound));
    }
    // Items are counted once, however often they are written and removed.
    for n in 0..20 {
        conversations.append("t", "conv_2", vec![item(&format!("i{n}"), 300)]).await.unwrap();
        conversations.remove_item("t", "conv_2", &format!("i{n}")).await.unwrap();
    }
    created(&store, header("resp", "t")).await;
}

#[tokio::test]
async fn a_full_redis_ends_what_runs_and_takes_nothing_new() {
    let server = Redis::spawn();
    let store = beating(config(server.url(), of_bytes(u64::MAX))).await;
    let conversations = store.conversations(Retention::for_tests(), conformance::conversations::BOUNDS);
    conversations.create(conformance::conversations::conversation("conv", "t"), vec![]).await.unwrap();
    conversations.enter("t", "conv", "turn", 1).await.unwrap();
    conversations.begin("t", "conv", "turn", vec![]).await.unwrap();
    let lease = created(&store, header("resp_1", "t")).await;
    append(&store, &lease, 0, vec![delta(0)]).await.unwrap();
    let other = created(&store, header("resp_2", "t")).await;
    fill(&server);
    let full = |error: &StoreError| matches!(error, StoreError::StoreFull(_));
    assert!(store.create(header("resp_3", "t")).await.is_err_and(|error| full(&error)));
    assert!(append(&store, &lease, 1, vec![delta(1)]).await.is_err_and(|error| full(&error)));
    let refused = conversations.append("t", "conv", vec![item("i", 9)]).await;
    assert!(matches!(refused, Err(StoreError::StoreFull(_))), "{refused:?}");
    // Ends, leaves and requests still work.
    store.beat(&Report::default()).await.unwrap();
    assert!(store.is_reachable());
    store.announce(&["resp_1".into()], &["resp_2".into()]).await.unwrap();
    store.left(&["resp_1".into()], &[]).await.unwrap();
    store.renew(&["resp_1".into()]).await.unwrap();
    assert_eq!(store.read("t", "resp_1").await.unwrap().1.len(), 1);
    store.cancel("t", "resp_1").await.unwrap();
    assert!(append(&store, &lease, 1, vec![]).await.unwrap().cancelled, "the writer learns of it");
    append(&store, &lease, 1, vec![delta(1), finished()]).await.unwrap();
    conversations.end("t", "conv", "turn", vec![item("said", 100)]).await.unwrap();
    store.release(&other).await.unwrap();
    let claim = store.claim("resp_2", "a").await.unwrap().expect("it was released");
    store.try_again(&claim.lease).await.unwrap();
    store.delete("t", "resp_2").await.unwrap();
    conversations.delete("t", "conv").await.unwrap();
    empty(&server);
    assert_eq!(store.read("t", "resp_1").await.unwrap().1.len(), 3);
    created(&store, header("resp_3", "t")).await;
}

#[tokio::test]
async fn a_large_log_is_followed_in_small_parts() {
    let server = Redis::spawn();
    let store = beating(config(server.url(), of_bytes(u64::MAX))).await;
    let lease = created(&store, header("resp_1", "t")).await;
    for n in 0..40 {
        append(&store, &lease, n, vec![said(1, &"x".repeat(50_000))]).await.unwrap();
    }
    append(&store, &lease, 40, vec![finished()]).await.unwrap();
    use futures::StreamExt;
    let followed = store.follow("t", "resp_1").await.unwrap();
    assert!(followed.entries.len() <= 2 && followed.more, "{}", followed.entries.len());
    let (mut seen, mut rest) = (followed.entries.len() as u64, followed.rest);
    while let Some(batch) = rest.next().await {
        let batch = batch.unwrap();
        assert_eq!((batch.first, batch.entries.len()), (seen, 1));
        seen += 1;
        assert_eq!(batch.more, seen < 41);
    }
    assert_eq!((seen, store.read("t", "resp_1").await.unwrap().1.len()), (41, 41));
}
