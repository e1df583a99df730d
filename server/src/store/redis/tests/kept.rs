//! The conformance suites of conversations, prompts, the cache's index and the rates, on a Redis server and on a cluster.

use std::sync::atomic::AtomicUsize;

use caudal_tests::{Redis, redis::RedisCluster};

use super::*;
use crate::store::conformance;

/// Makes stores with separate prefixes.
struct RedisMaker {
    url: String,
    made: AtomicUsize,
}

impl RedisMaker {
    fn new(url: String) -> Self {
        Self { url, made: AtomicUsize::new(0) }
    }

    fn store(&self) -> RedisStore {
        RedisStore::new(RedisConfig {
            url: self.url.clone(),
            sentinel: Default::default(),
            prefix: format!("store{}", self.made.fetch_add(1, Ordering::Relaxed)),
            timeout: Duration::from_secs(2),
            retention: Retention::for_tests(),
            replica: "a".into(),
            lease: Duration::from_millis(500),
            quotas: StorageQuotas::for_tests(),
            max_bytes: 0,
        })
        .unwrap()
    }
}

async fn all_conform(make: RedisMaker) {
    conformance::conversations::all(async || {
        make.store().conversations(Retention::for_tests(), conformance::conversations::BOUNDS)
    })
    .await;
    conformance::prompts::all(async || make.store().prompts(conformance::prompts::BOUNDS)).await;
    let minute = Duration::from_secs(60);
    conformance::cache::all(async || make.store().cache(conformance::cache::MAX_BYTES, minute)).await;
    conformance::rates::all(async || make.store()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_conform_on_a_server_and_everything_has_an_end() {
    let server = Redis::spawn();
    all_conform(RedisMaker::new(server.url())).await;
    for key in server.ask(&["KEYS", "*"]).lines() {
        let ttl: i64 = server.ask(&["PTTL", key]).parse().unwrap();
        assert!(ttl > 0 || key.contains("prompt"), "{key} lives for ever");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_conform_on_a_cluster() {
    let cluster = RedisCluster::spawn();
    all_conform(RedisMaker::new(cluster.url())).await;
}

#[tokio::test]
async fn listing_passes_over_conversations_that_expired() {
    let server = Redis::spawn();
    let make = RedisMaker::new(server.url());
    let store = make.store().conversations(Retention::for_tests(), conformance::conversations::BOUNDS);
    use crate::store::{
        conversations::Conversations,
        page::{Order, Page},
    };
    for n in 0..9 {
        let conversation = conformance::conversations::conversation(&format!("conv_{n}"), "t");
        store.create(conversation, vec![]).await.unwrap();
    }
    // Deletes all but two of them, as if they had expired.
    for n in [0, 1, 2, 4, 5, 6, 8] {
        server.ask(&["DEL", &format!("store0:1:{{conv_{n}}}:about")]);
    }
    let page = Page { after: None, limit: 2, order: Order::Ascending };
    let listed = store.list("t", &page).await.unwrap();
    let ids: Vec<&str> = listed.data.iter().map(|c| c.id.as_str()).collect();
    assert_eq!((ids, listed.has_more), (vec!["conv_3", "conv_7"], false));
}
