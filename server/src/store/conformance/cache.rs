//! The conformance suite of the prompt cache's index.

use std::time::Duration;

use futures::future::join_all;

use crate::store::cache::{CacheKey, CacheSize, Cached, PromptCache};

/// The bound of the stores under test.
pub const MAX_BYTES: u64 = 1000;

const LONG: Duration = Duration::from_secs(60);

pub async fn all<S: PromptCache>(make: impl AsyncFn() -> S) {
    one_leads_and_the_others_join(make().await).await;
    a_completed_log_is_replayed_until_its_time_is_over(make().await).await;
    a_discarded_log_is_not_joined(make().await).await;
    the_last_who_leaves_discards_the_log(make().await).await;
    other_tenants_see_nothing(make().await).await;
    what_was_not_used_for_longest_makes_room(make().await).await;
}

fn key(name: &str) -> CacheKey {
    CacheKey(name.into())
}

fn cached(log: &str, complete: bool) -> Option<Cached> {
    Some(Cached { log: log.into(), complete })
}

async fn one_leads_and_the_others_join<S: PromptCache>(store: S) {
    assert_eq!(store.join("t", &key("k"), "resp_0").await.unwrap(), None);
    let led = join_all((0..50).map(|n| {
        let store = &store;
        async move {
            let log = format!("log_{n}");
            let joined = store.lead("t", &key("k"), &log, &format!("resp_{n}"), LONG).await.unwrap();
            joined.map_or((log, true), |cached| (cached.log, false))
        }
    }))
    .await;
    assert_eq!(led.iter().filter(|(_, leads)| *leads).count(), 1);
    assert!(led.iter().all(|(log, _)| *log == led[0].0), "{led:?}");
    assert_eq!(store.join("t", &key("k"), "resp_x").await.unwrap(), cached(&led[0].0, false));
    assert_eq!(store.join("t", &key("other"), "resp_x").await.unwrap(), None);
}

async fn a_completed_log_is_replayed_until_its_time_is_over<S: PromptCache>(store: S) {
    let ttl = Duration::from_millis(150);
    assert_eq!(store.lead("t", &key("k"), "log_1", "resp_1", ttl).await.unwrap(), None);
    for _ in 0..2 {
        store.complete("t", &key("k"), "log_1", 100).await.unwrap();
        assert_eq!(store.size("t").await.unwrap(), CacheSize { bytes: 100, evicted: 0 }, "it counts once");
    }
    assert_eq!(store.size("other").await.unwrap(), CacheSize::default());
    assert_eq!(store.join("t", &key("k"), "resp_2").await.unwrap(), cached("log_1", true));
    caudal_tests::until("its time to be over", || async {
        store.join("t", &key("k"), "resp_2").await.unwrap().is_none().then_some(())
    })
    .await;
    assert_eq!(store.lead("t", &key("k"), "log_2", "resp_3", LONG).await.unwrap(), None);
}

async fn a_discarded_log_is_not_joined<S: PromptCache>(store: S) {
    store.lead("t", &key("k"), "log_1", "resp_1", LONG).await.unwrap();
    store.discard("t", &key("k"), "log_1").await.unwrap();
    assert_eq!(store.join("t", &key("k"), "resp_2").await.unwrap(), None);
    assert_eq!(store.lead("t", &key("k"), "log_2", "resp_2", LONG).await.unwrap(), None);
    store.discard("t", &key("k"), "log_1").await.unwrap();
    assert_eq!(store.join("t", &key("k"), "resp_3").await.unwrap(), cached("log_2", false), "another's is left alone");
    store.complete("t", &key("k"), "log_1", 1).await.unwrap();
    assert_eq!(store.join("t", &key("k"), "resp_3").await.unwrap(), cached("log_2", false));
}

async fn the_last_who_leaves_discards_the_log<S: PromptCache>(store: S) {
    store.lead("t", &key("k"), "log_1", "resp_1", LONG).await.unwrap();
    store.join("t", &key("k"), "resp_2").await.unwrap();
    store.join("t", &key("k"), "resp_2").await.unwrap();
    assert_eq!(store.leave("t", &key("k"), "log_1", "resp_1").await.unwrap(), 1);
    assert_eq!(store.leave("t", &key("k"), "log_1", "resp_1").await.unwrap(), 1, "once");
    assert_eq!(store.join("t", &key("k"), "resp_3").await.unwrap(), cached("log_1", false));
    assert_eq!(store.leave("t", &key("k"), "log_1", "resp_2").await.unwrap(), 1);
    assert_eq!(store.leave("t", &key("k"), "log_1", "resp_3").await.unwrap(), 0);
    assert_eq!(store.join("t", &key("k"), "resp_4").await.unwrap(), None);
    assert_eq!(store.leave("t", &key("k"), "log_1", "resp_3").await.unwrap(), 0);
}

async fn other_tenants_see_nothing<S: PromptCache>(store: S) {
    store.lead("t", &key("k"), "log_1", "resp_1", LONG).await.unwrap();
    store.complete("t", &key("k"), "log_1", 10).await.unwrap();
    assert_eq!(store.join("other", &key("k"), "resp_2").await.unwrap(), None);
    assert_eq!(store.lead("other", &key("k"), "log_2", "resp_2", LONG).await.unwrap(), None);
    store.discard("other", &key("k"), "log_1").await.unwrap();
    assert_eq!(store.join("t", &key("k"), "resp_3").await.unwrap(), cached("log_1", true));
}

async fn what_was_not_used_for_longest_makes_room<S: PromptCache>(store: S) {
    for name in ["a", "b", "c"] {
        store.lead("t", &key(name), &format!("log_{name}"), "resp_1", LONG).await.unwrap();
        store.complete("t", &key(name), &format!("log_{name}"), 400).await.unwrap();
        store.join("t", &key("a"), "resp_2").await.unwrap();
    }
    assert_eq!(store.join("t", &key("b"), "resp_3").await.unwrap(), None);
    assert_eq!(store.join("t", &key("a"), "resp_3").await.unwrap(), cached("log_a", true));
    assert_eq!(store.join("t", &key("c"), "resp_3").await.unwrap(), cached("log_c", true));
    // A log that is being written is not evicted. A log that is larger than the bound is not stored.
    store.lead("t", &key("runs"), "log_runs", "resp_1", LONG).await.unwrap();
    store.lead("t", &key("large"), "log_large", "resp_1", LONG).await.unwrap();
    store.complete("t", &key("large"), "log_large", MAX_BYTES + 1).await.unwrap();
    assert_eq!(store.join("t", &key("large"), "resp_3").await.unwrap(), None);
    assert_eq!(store.size("t").await.unwrap(), CacheSize { bytes: 0, evicted: 4 });
    assert_eq!(store.join("t", &key("runs"), "resp_3").await.unwrap(), cached("log_runs", false));
}
