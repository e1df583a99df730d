//! What every counter of rates must do.

use std::{num::NonZeroU32, time::Duration};

use futures::future::join_all;

use crate::store::rates::Rates;

pub async fn all<S: Rates>(make: impl AsyncFn() -> S) {
    a_minutes_requests_are_given_at_once_and_no_more(make().await).await;
    a_request_is_there_after_the_time_told(make().await).await;
    another_tenant_has_a_bucket_of_its_own(make().await).await;
    a_limit_that_is_set_anew_holds_at_once(make().await).await;
}

fn rate(per_minute: u32) -> NonZeroU32 {
    NonZeroU32::new(per_minute).expect("a limit")
}

async fn a_minutes_requests_are_given_at_once_and_no_more<S: Rates>(store: S) {
    // A rate whose requests are no whole number of microseconds apart.
    let asked = join_all((0..50).map(|_| store.take("t", rate(7)))).await;
    let waits: Vec<Duration> = asked.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(50 - waits.len(), 7);
    // Who is refused takes nothing, and does not make others wait longer.
    assert!(waits.iter().all(|wait| (1..=8_571_428).contains(&wait.as_micros())), "{waits:?}");
}

async fn a_request_is_there_after_the_time_told<S: Rates>(store: S) {
    let limit = rate(1200);
    let refused = async || loop {
        let asked = join_all((0..100).map(|_| store.take("t", limit))).await;
        if let Some(wait) = asked.into_iter().filter_map(Result::unwrap).next_back() {
            return wait;
        }
    };
    for _ in 0..3 {
        let wait = refused().await;
        assert!(wait <= Duration::from_millis(50), "{wait:?}");
        tokio::time::sleep(wait).await;
        assert_eq!(store.take("t", limit).await.unwrap(), None);
    }
}

async fn another_tenant_has_a_bucket_of_its_own<S: Rates>(store: S) {
    assert_eq!(store.take("t", rate(1)).await.unwrap(), None);
    assert!(store.take("t", rate(1)).await.unwrap().is_some_and(|wait| wait > Duration::from_secs(50)));
    assert_eq!(store.take("other", rate(1)).await.unwrap(), None);
}

async fn a_limit_that_is_set_anew_holds_at_once<S: Rates>(store: S) {
    assert_eq!(store.take("t", rate(1)).await.unwrap(), None);
    assert!(store.take("t", rate(1)).await.unwrap().is_some());
    // What was taken of a smaller bucket flows back in a minute, as ever.
    let wait = store.take("t", rate(60)).await.unwrap().expect("the bucket is empty");
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
}
