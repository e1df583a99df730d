//! Tests of the store of responses and of the fleet on Redis: the conformance suite, and behaviour that only Redis has.

mod kept;
mod quota;

use std::{sync::atomic::Ordering, time::Duration};

use caudal_tests::{Redis, redis::RedisCluster};
use futures::StreamExt;

use super::*;
use crate::store::{
    Created, Retention, Store, StoreError, conformance,
    fleet::{Control, Fleet, Occupancy, Report},
    quota::StorageQuotas,
};

fn config(server: &Redis, prefix: &str, replica: &str) -> RedisConfig {
    RedisConfig {
        url: server.url(),
        sentinel: Default::default(),
        prefix: prefix.into(),
        timeout: Duration::from_secs(2),
        retention: Retention::for_tests(),
        replica: replica.into(),
        lease: Duration::from_millis(500),
        quotas: StorageQuotas::for_tests(),
        max_bytes: 0,
    }
}

/// Runs the conformance suite of responses, each case on a separate store.
async fn conform(config: impl Fn(&str) -> RedisConfig) {
    let made = std::sync::atomic::AtomicUsize::new(0);
    conformance::all(async || {
        let prefix = format!("caudal:{}", made.fetch_add(1, Ordering::Relaxed));
        let store = RedisStore::new(config(&prefix)).unwrap();
        store.beat(&Report::default()).await.unwrap();
        store
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let server = Redis::spawn();
    conform(|prefix| config(&server, prefix, "a")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_on_a_cluster() {
    let cluster = RedisCluster::spawn();
    conform(|prefix| RedisConfig { url: cluster.url(), ..config(&cluster.nodes[0], prefix, "a") }).await;
}

/// A sweep can claim a response again that this replica has taken from the dead one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_what_is_owned_already_leaves_it_listed() {
    let server = Redis::spawn();
    let [a, b] = ["a", "b"].map(|replica| RedisStore::new(config(&server, "caudal", replica)).unwrap());
    let Created::New(lease) = b.create(conformance::header("resp_1", "t")).await.unwrap() else { panic!("it is new") };
    b.release(&lease).await.unwrap();
    assert!(a.claim("resp_1", "").await.unwrap().is_some());
    assert!(a.claim("resp_1", "b").await.unwrap().is_none(), "it is no longer b's");
    assert_eq!(a.runs("a").await.unwrap(), ["resp_1"]);
    assert!(b.claim("resp_1", "nobody").await.unwrap().is_none());
    assert!(b.runs("b").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_conform() {
    let server = Redis::spawn();
    let made = std::sync::atomic::AtomicUsize::new(0);
    conformance::prompts::all(async || {
        let prefix = format!("store{}", made.fetch_add(1, Ordering::Relaxed));
        RedisStore::new(config(&server, &prefix, "a")).unwrap().prompts(conformance::prompts::BOUNDS)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_conforms() {
    let server = Redis::spawn();
    let made = std::sync::atomic::AtomicUsize::new(0);
    conformance::cache::all(async || {
        let prefix = format!("store{}", made.fetch_add(1, Ordering::Relaxed));
        let store = RedisStore::new(config(&server, &prefix, "a")).unwrap();
        store.cache(conformance::cache::MAX_BYTES, Duration::from_secs(60))
    })
    .await;
    for key in server.ask(&["KEYS", "*"]).lines() {
        assert!(server.ask(&["PTTL", key]).parse::<i64>().unwrap() > 0, "{key} lives for ever");
    }
}

#[tokio::test]
async fn responses_that_are_not_stored_expire_and_say_so() {
    let server = Redis::spawn();
    let store = RedisStore::new(RedisConfig {
        retention: Retention { resume_window: Duration::ZERO, ..Retention::for_tests() },
        ..config(&server, "c", "a")
    })
    .unwrap();
    let mut header = conformance::header("resp_1", "t");
    header.spec.store = false;
    let lease = conformance::created(&store, header).await;
    conformance::append(&store, &lease, 0, vec![conformance::finished()]).await.unwrap();
    let expired = caudal_tests::until("the window to end", || async {
        store.read("t", "resp_1").await.err().filter(|error| *error == StoreError::Expired)
    });
    expired.await;
    assert_eq!(store.read("other", "resp_1").await.unwrap_err(), StoreError::NotFound);
    assert_eq!(server.ask(&["KEYS", "*resp_1*"]), "c:1:{resp_1}:gone", "nothing else is left");
}

#[tokio::test]
async fn everything_has_an_end() {
    let server = Redis::spawn();
    let store = RedisStore::new(config(&server, "c", "a")).unwrap();
    store.beat(&Report::default()).await.unwrap();
    let mut header = conformance::header("resp_1", "t");
    header.spec.client_request_id = Some("r".into());
    let lease = conformance::created(&store, header).await;
    conformance::append(&store, &lease, 0, vec![conformance::delta(1)]).await.unwrap();
    store.announce(&["resp_1".into()], &[]).await.unwrap();
    store.beat(&Report::default()).await.unwrap();
    for key in server.ask(&["KEYS", "*"]).lines() {
        let ttl: i64 = server.ask(&["PTTL", key]).parse().unwrap();
        assert!(ttl > 0 || key == "c:1:{fleet}:replicas", "{key} lives for ever");
    }
    conformance::append(&store, &lease, 1, vec![conformance::finished()]).await.unwrap();
    let ttl: i64 = server.ask(&["PTTL", "c:1:{resp_1}:log"]).parse().unwrap();
    assert!((1..=60_000).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn a_thousand_tokens_take_little() {
    let server = Redis::spawn();
    let store = RedisStore::new(config(&server, "c", "a")).unwrap();
    let lease = conformance::created(&store, conformance::header("resp_1", "t")).await;
    for n in 0..1000 {
        conformance::append(&store, &lease, n, vec![conformance::said(20_000 + n as u32, " token")]).await.unwrap();
    }
    let bytes: usize = server.ask(&["MEMORY", "USAGE", "c:1:{resp_1}:log", "SAMPLES", "0"]).parse().unwrap();
    println!("{bytes} bytes for 1000 tokens");
    assert!(bytes < 60_000, "{bytes} bytes");
}

#[tokio::test]
async fn replicas_know_who_lives_runs_and_follows() {
    let server = Redis::spawn();
    let (a, b) = (RedisStore::new(config(&server, "c", "a")), RedisStore::new(config(&server, "c", "b")));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(!a.is_reachable());
    assert!(a.beat(&Report::default()).await.unwrap().is_empty());
    assert!(a.is_reachable());
    let seen = b.beat(&Report::default()).await.unwrap();
    assert_eq!((seen.len(), seen[0].replica.as_str()), (1, "a"));
    assert!(seen[0].silent < Duration::from_millis(500));
    let there = Occupancy { running: 1, waiting: 2, idle: 3 };
    let report = Report { models: [("m".to_owned(), there)].into(), prompts: vec![u64::MAX, 1 << 60] };
    a.beat(&report).await.unwrap();
    assert_eq!(b.beat(&Report::default()).await.unwrap()[0].report, report);

    let lease = conformance::created(&a, conformance::header("resp_1", "t")).await;
    assert_eq!(b.runs("a").await.unwrap(), ["resp_1"]);
    assert_eq!(b.header("resp_1").await.unwrap().unwrap().tenant, "t");
    assert!(b.header("unknown").await.unwrap().is_none());
    b.announce(&["resp_1".into(), "resp_2".into()], &[]).await.unwrap();
    b.announce(&[], &["resp_2".into()]).await.unwrap();
    a.beat(&Report::default()).await.unwrap();
    let followed = a.followed(&["resp_1".into(), "resp_2".into()]).await.unwrap();
    assert_eq!(followed.into_iter().collect::<Vec<_>>(), ["resp_1"]);

    let mut control = a.control();
    // Only a received message shows that the subscription is confirmed.
    let heard = async {
        loop {
            b.cancel("t", "resp_1").await.unwrap();
            if let Ok(Some(heard)) = tokio::time::timeout(Duration::from_millis(50), control.next()).await {
                return heard;
            }
        }
    };
    assert_eq!(heard.await, Control::Cancel { id: "resp_1".into() });
    assert_eq!(a.renew(&["resp_1".into(), "resp_2".into()]).await.unwrap(), ["resp_1"]);

    let offered = conformance::created(&a, conformance::header("resp_2", "t")).await;
    a.offer(&offered, "b").await.unwrap();
    let told = Control::Released { id: "resp_2".into(), by: "a".into(), to: Some("b".into()) };
    while control.next().await.as_ref() != Some(&told) {}
    assert!(b.claim("resp_2", "c").await.unwrap().is_some(), "it is nobody's");
    assert!(a.claim("resp_2", "a").await.unwrap().is_none(), "it is the other's now");
    a.steer("resp_2").await.unwrap();
    while control.next().await != Some(Control::Steer { id: "resp_2".into() }) {}
    b.cancel("t", "resp_2").await.unwrap();
    b.delete("t", "resp_2").await.unwrap();
    b.ended(&offered).await.unwrap();

    let claim = b.claim("resp_1", "a").await.unwrap().expect("a claim");
    assert!(a.runs("a").await.unwrap().is_empty());
    assert_eq!(a.runs("b").await.unwrap(), ["resp_1"]);
    assert_eq!(conformance::append(&a, &lease, 0, vec![]).await, Err(StoreError::Fenced));
    b.ended(&claim.lease).await.unwrap();
    assert!(a.runs("b").await.unwrap().is_empty());

    b.leave().await.unwrap();
    assert!(
        a.beat(&Report::default()).await.unwrap()[0].silent > Duration::from_secs(1000),
        "who has left is dead at once"
    );
    a.forget("b").await.unwrap();
    assert!(a.beat(&Report::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn urls_name_what_is_wrong_and_never_their_password() {
    for url in [
        "nonsense",
        "http://user:secret@host",
        "redis+sentinel://user:secret@host:26379",
        "redis+sentinel://user:secret@host:26379/",
        "redis+sentinel://user:secret@host:26379/master/x",
        "redis://user:secret@host:port",
        "redis+cluster://user:secret@",
    ] {
        let error = RedisStore::new(RedisConfig { url: url.into(), ..config(&Redis::spawn(), "c", "a") })
            .err()
            .unwrap_or_else(|| panic!("{url} is no URL"))
            .to_string();
        assert!(!error.is_empty() && !error.contains("secret"), "{url}: {error}");
    }
    for url in [
        "redis://h",
        "rediss://user:secret@h:1/3",
        "redis+sentinel://user:secret@h:1,h2:2/mymaster",
        "rediss+sentinel://h/mymaster/2",
        "redis+cluster://user:secret@h:1,h2:2",
    ] {
        assert!(link::Link::new(url, &Default::default(), Duration::from_secs(1)).is_ok(), "{url}");
    }
}

fn kv(url: String, prefix: String, max_bytes: u64) -> RedisKv {
    let retention = Retention::for_tests();
    RedisKv::new(KvConfig { url, sentinel: Default::default(), prefix, retention, max_bytes }).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kv_blocks_conform() {
    let server = Redis::spawn();
    let made = std::sync::atomic::AtomicUsize::new(0);
    conformance::kv::all(async |max_bytes| {
        kv(server.url(), format!("kv{}", made.fetch_add(1, Ordering::Relaxed)), max_bytes)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kv_blocks_conform_on_a_cluster() {
    let cluster = RedisCluster::spawn();
    let made = std::sync::atomic::AtomicUsize::new(0);
    conformance::kv::all(async |max_bytes| {
        kv(cluster.url(), format!("kv{}", made.fetch_add(1, Ordering::Relaxed)), max_bytes)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_with_the_documented_rights() {
    let server = Redis::spawn();
    let url = format!("redis://{}@{}", server.user("caudal", "+mget +unlink"), server.address);
    let made = std::sync::atomic::AtomicUsize::new(0);
    let prefix = || format!("caudal:kv{}", made.fetch_add(1, Ordering::Relaxed));
    conform(|prefix| RedisConfig { url: url.clone(), ..config(&server, prefix, "a") }).await;
    conformance::kv::all(async |max_bytes| kv(url.clone(), prefix(), max_bytes)).await;
    assert_eq!(server.refusals(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_with_the_documented_rights_on_a_cluster() {
    let cluster = RedisCluster::spawn();
    let users = cluster.nodes.each_ref().map(|node| node.user("caudal", "+cluster|slots +asking"));
    let url = cluster.url().replace("://", &format!("://{}@", users[0]));
    conform(|prefix| RedisConfig { url: url.clone(), ..config(&cluster.nodes[0], prefix, "a") }).await;
    for node in &cluster.nodes {
        assert_eq!(node.refusals(), "");
    }
}
