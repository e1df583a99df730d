//! Runs hundreds of concurrent streams and checks that no event is lost or out of order. Times are printed, not checked,
//! because the test machine may be busy. `make bench` is the long run.

use caudal_tests::{
    load::{self, Options, Protocol, Report},
    spawn_app,
};

const PACED: [&str; 2] = ["engine.scripted.tokens=60", "engine.scripted.tokens_per_second=20"];

#[track_caller]
fn assert_whole(report: &Report, streams: usize, tokens: u64) {
    println!("{report}");
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert_eq!((report.lost, report.out_of_order), (0, 0));
    assert_eq!(report.responses, streams);
    assert_eq!(report.tokens, tokens, "every token of every stream is counted");
    assert!(report.ttft_ms.p99 > 0.0 && report.gap_ms.p99 > 0.0, "what arrived was timed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_streams_lose_nothing() {
    let app = spawn_app(&PACED);
    let report = load::run(&Options::new(app.address, 200, 60)).await.expect("the load runs");
    assert_whole(&report, 200, 200 * 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_over_the_slots_wait_and_lose_nothing() {
    let app = spawn_app(&["engine.max_running=16", "admission.queue=200", "engine.scripted.tokens=30"]);
    let options = Options { turns: 3, ..Options::new(app.address, 150, 30) };
    let report = load::run(&options).await.expect("the load runs");
    assert_whole(&report, 450, 450 * 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chat_streams_lose_nothing() {
    let app = spawn_app(&PACED);
    let options =
        Options { protocol: Protocol::Chat, model: Some("scripted".into()), ..Options::new(app.address, 100, 60) };
    let report = load::run(&options).await.expect("the load runs");
    assert_whole(&report, 100, 100 * 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_full_speed_nothing_is_lost() {
    let app = spawn_app(&["engine.scripted.tokens=2000", "engine.scripted.jitter_ms=0"]);
    let report = load::run(&Options::new(app.address, 20, 2000)).await.expect("the load runs");
    assert_whole(&report, 20, 20 * 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_is_reported() {
    let app = spawn_app(&["engine.scripted.fail_after=3", "engine.scripted.tokens=10"]);
    let report = load::run(&Options::new(app.address, 5, 10)).await.expect("the load runs");
    assert_eq!(report.failed, 5);
    let address = app.address;
    drop(app);
    let report = load::run(&Options::new(address, 2, 10)).await.expect("the load runs");
    assert_eq!(report.failed, 2, "{report}");
}
