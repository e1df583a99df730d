use std::sync::atomic::AtomicUsize;

use super::*;

const WORK: Work = Work { prompt_tokens: 10, max_output_tokens: 100 };

fn gate(sequences: usize, queue: usize) -> Arc<Gate> {
    let settings = settings::AdmissionSettings {
        queue,
        queue_per_tenant: queue,
        priority: Default::default(),
        weights: Default::default(),
    };
    Gate::new(Capacity { sequences, tokens: None }, settings)
}

fn enter(gate: &Arc<Gate>, id: &str) -> Result<Ticket, WireError> {
    gate.enter(id, "t", ServiceTier::Default, WORK)
}

async fn position(gate: &Gate, id: &str) -> usize {
    let mut place = gate.place(id).expect("it waits");
    let place = place.wait_for(Option::is_some).await.expect("it still waits");
    place.map_or(0, |place| place.position)
}

#[tokio::test]
async fn what_runs_is_bounded_and_starts_in_order() {
    let gate = gate(1, 2);
    let mut first = enter(&gate, "a").unwrap();
    assert!(!first.waits && gate.place("a").is_none());
    let permit = first.admitted().await.unwrap();
    let mut second = enter(&gate, "b").unwrap();
    let mut third = enter(&gate, "c").unwrap();
    assert!(matches!(enter(&gate, "d"), Err(WireError::ServerOverloaded { retry_after_ms: 100.. })));
    assert_eq!(position(&gate, "c").await, 2);
    let mut place = gate.place("c").unwrap();
    drop(permit);
    let permit = second.admitted().await.unwrap();
    place.wait_for(|place| place.is_some_and(|place| place.position == 1)).await.unwrap();
    drop(permit);
    drop(third.admitted().await.unwrap());
    assert!(place.changed().await.is_err(), "it waits no longer");
    assert!(!enter(&gate, "e").unwrap().waits);
}

#[tokio::test]
async fn who_leaves_the_queue_is_passed_over_and_a_dropped_ticket_frees_its_place() {
    let gate = gate(1, 2);
    let held = enter(&gate, "a").unwrap();
    let gone = enter(&gate, "b").unwrap();
    let mut waiting = enter(&gate, "c").unwrap();
    drop(gone);
    assert_eq!(position(&gate, "c").await, 1);
    drop(held);
    assert!(waiting.admitted().await.is_some());
}

#[tokio::test]
async fn a_tenant_has_a_bound_of_its_own() {
    let settings = settings::AdmissionSettings {
        queue: 3,
        queue_per_tenant: 1,
        priority: Default::default(),
        weights: Default::default(),
    };
    let gate = Gate::new(Capacity { sequences: 1, tokens: None }, settings);
    let enter = |tenant| gate.enter("id", tenant, ServiceTier::Default, WORK);
    let (_running, waiting) = (enter("a").unwrap(), enter("a").unwrap());
    assert!(matches!(enter("a"), Err(WireError::RateLimitExceeded { waiting: 1, retry_after_ms: 100.. })));
    drop(waiting);
    let _waiting = (enter("a").unwrap(), enter("b").unwrap(), enter("c").unwrap());
    assert!(matches!(enter("d"), Err(WireError::ServerOverloaded { .. })));
}

#[tokio::test]
async fn work_waits_for_tokens_in_its_turn() {
    let settings = settings::AdmissionSettings {
        queue: 9,
        queue_per_tenant: 9,
        priority: Default::default(),
        weights: Default::default(),
    };
    let gate = Gate::new(Capacity { sequences: 8, tokens: Some(1000) }, settings);
    let enter = |id, prompt_tokens| {
        let work = Work { prompt_tokens, max_output_tokens: 10 };
        gate.enter(id, "t", ServiceTier::Default, work).unwrap()
    };
    let mut first = enter("a", 5000);
    let alone = first.admitted().await.unwrap();
    let mut second = enter("b", 600);
    assert!(second.waits, "there is room for one that is too large, alone");
    drop(alone);
    let permit = second.admitted().await.unwrap();
    let mut third = enter("c", 300);
    let (mut fourth, fifth) = (enter("d", 900), enter("e", 950));
    assert!(!third.waits && fourth.waits);
    assert!(fifth.waits);
    drop(permit);
    drop(third.admitted().await.unwrap());
    assert!(fourth.admitted().await.is_some());
}

#[tokio::test]
async fn only_those_whose_place_has_changed_are_told() {
    let gate = gate(1, 10);
    let _held = enter(&gate, "a").unwrap();
    let _tickets = (enter(&gate, "b").unwrap(), enter(&gate, "c").unwrap());
    position(&gate, "c").await;
    let mut second = gate.place("c").unwrap();
    second.borrow_and_update();
    let _later = enter(&gate, "d").unwrap();
    assert_eq!(position(&gate, "d").await, 3);
    assert!(!second.has_changed().unwrap(), "another came behind it");
}

/// Many tasks that come, wait, work, and leave at any moment: never more permits than places, and none lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn permits_are_neither_lost_nor_doubled() {
    const PLACES: usize = 3;
    let gate = gate(PLACES, 1000);
    let at_work = Arc::new(AtomicUsize::new(0));
    let worked = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..64u64)
        .map(|task| {
            let (gate, at_work, worked) = (gate.clone(), at_work.clone(), worked.clone());
            tokio::spawn(async move {
                let mut random = task.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
                let mut next = move |below: u64| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random % below
                };
                for round in 0..200 {
                    let tenant = ["a", "b", "c"][next(3) as usize];
                    let tier = [ServiceTier::Priority, ServiceTier::Default, ServiceTier::Flex][next(3) as usize];
                    let mut ticket = gate.enter(&format!("{task}-{round}"), tenant, tier, WORK).unwrap();
                    let patience = next(40);
                    let admitted = tokio::select! {
                        biased;
                        permit = ticket.admitted() => permit,
                        () = yields(patience) => None,
                    };
                    let Some(permit) = admitted else { continue };
                    assert!(at_work.fetch_add(1, Ordering::SeqCst) < PLACES);
                    yields(next(5)).await;
                    permit.produced(1);
                    at_work.fetch_sub(1, Ordering::SeqCst);
                    worked.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let state = gate.state();
    assert!(state.running.is_empty() && state.waiters.is_empty());
    drop(state);
    let worked = worked.load(Ordering::SeqCst);
    assert!((1000..12_800).contains(&worked), "{worked} of 12,800 had the patience to wait");
    let all: Vec<_> = (0..=PLACES).map(|n| enter(&gate, &n.to_string()).unwrap()).collect();
    assert_eq!(all.iter().filter(|ticket| ticket.waits).count(), 1, "every place is free again");
}

async fn yields(times: u64) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}
