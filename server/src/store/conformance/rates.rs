//! The conformance suite of the rate counters.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use futures::future::join_all;

use crate::store::rates::{Bucket, Rates, Unit};

pub async fn all<S: Rates>(make: impl AsyncFn() -> S) {
    a_minutes_requests_are_given_at_once_and_no_more(make().await).await;
    a_request_is_there_after_the_time_told(make().await).await;
    another_tenant_has_a_bucket_of_its_own(make().await).await;
    a_limit_that_is_set_anew_holds_at_once(make().await).await;
    what_was_spent_beyond_the_bucket_flows_back_first(make().await).await;
    tokens_are_not_requests(make().await).await;
    a_bucket_says_when_it_is_full(make().await).await;
}

async fn a_bucket_says_when_it_is_full<S: Rates>(store: S) {
    let limit = requests("t", 6);
    assert_eq!(store.full_in(limit).await.unwrap(), Duration::ZERO);
    store.take(limit).await.unwrap();
    let left = store.full_in(limit).await.unwrap();
    assert!(left <= Duration::from_secs(10) && left > Duration::from_secs(5), "{left:?}");
}

fn requests(tenant: &str, per_minute: u32) -> Bucket<'_> {
    Bucket { tenant, unit: Unit::Requests, per_minute: NonZeroU32::new(per_minute).expect("a limit") }
}

fn tokens(tenant: &str, per_minute: u32) -> Bucket<'_> {
    Bucket { unit: Unit::Tokens, ..requests(tenant, per_minute) }
}

async fn a_minutes_requests_are_given_at_once_and_no_more<S: Rates>(store: S) {
    // At this rate the time between two requests is not a whole number of microseconds.
    let asked = join_all((0..50).map(|_| store.take(requests("t", 7)))).await;
    let waits: Vec<Duration> = asked.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(50 - waits.len(), 7);
    // A refused request takes nothing, and does not make others wait longer.
    assert!(waits.iter().all(|wait| (1..=8_571_428).contains(&wait.as_micros())), "{waits:?}");
}

async fn a_request_is_there_after_the_time_told<S: Rates>(store: S) {
    let limit = requests("t", 1200);
    let refused = async || loop {
        let asked = join_all((0..100).map(|_| store.take(limit))).await;
        if let Some(wait) = asked.into_iter().filter_map(Result::unwrap).next_back() {
            return wait;
        }
    };
    for _ in 0..3 {
        let wait = refused().await;
        assert!(wait <= Duration::from_millis(50), "{wait:?}");
        tokio::time::sleep(wait).await;
        assert_eq!(store.take(limit).await.unwrap(), None);
    }
}

async fn another_tenant_has_a_bucket_of_its_own<S: Rates>(store: S) {
    assert_eq!(store.take(requests("t", 1)).await.unwrap(), None);
    assert!(store.take(requests("t", 1)).await.unwrap().is_some_and(|wait| wait > Duration::from_secs(50)));
    assert_eq!(store.take(requests("other", 1)).await.unwrap(), None);
}

async fn a_limit_that_is_set_anew_holds_at_once<S: Rates>(store: S) {
    assert_eq!(store.take(requests("t", 1)).await.unwrap(), None);
    assert!(store.take(requests("t", 1)).await.unwrap().is_some());
    // The units taken from a smaller bucket refill within a minute, as always.
    let wait = store.take(requests("t", 60)).await.unwrap().expect("the bucket is empty");
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
}

async fn what_was_spent_beyond_the_bucket_flows_back_first<S: Rates>(store: S) {
    let bucket = tokens("t", 600);
    let begun = Instant::now();
    store.spend(bucket, 500).await.unwrap();
    assert_eq!(store.take(bucket).await.unwrap(), None, "99 are left");
    // The units of two minutes, and ten more than the bucket had.
    store.spend(bucket, 99 + 1200 + 10).await.unwrap();
    let wait = store.take(bucket).await.unwrap().expect("it is empty");
    let owed = Duration::from_millis((1200 + 11) * 100);
    assert!(wait <= owed && wait + begun.elapsed() >= owed, "{wait:?}");
    // A refused request does not increase the deficit.
    assert!(store.take(bucket).await.unwrap().is_some_and(|again| again <= wait));
    store.spend(bucket, 0).await.unwrap();
    assert!(store.take(bucket).await.unwrap().is_some_and(|again| again <= wait));
}

async fn tokens_are_not_requests<S: Rates>(store: S) {
    store.spend(tokens("t", 1), 7).await.unwrap();
    assert!(store.take(tokens("t", 1)).await.unwrap().is_some());
    assert_eq!(store.take(requests("t", 1)).await.unwrap(), None);
}
