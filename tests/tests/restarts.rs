//! A short run of `make restarts`.

use caudal_tests::chaos::{
    Report,
    restarts::{self, Options},
};

#[track_caller]
fn assert_whole(report: &Report, streams: usize) {
    println!("{report}");
    assert!(report.failures.is_empty(), "{:#?}", report.failures);
    assert!(report.responses >= streams && report.reconnects >= streams, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_streams_outlive_their_only_process() {
    let report = restarts::run(&Options { streams: 50, kills: 4, full: false, seed: 1 }).await;
    assert_whole(&report, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_streams_outlive_their_only_process_and_a_full_file() {
    let report = restarts::run(&Options { streams: 50, kills: 3, full: true, seed: 2 }).await;
    assert_whole(&report, 50);
}
