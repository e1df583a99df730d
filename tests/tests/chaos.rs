//! A short run of `make chaos`.

use std::time::Duration;

use caudal_tests::{
    chaos::{self, Ask, Fault, Options, SETTINGS},
    stack::Stack,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stream_completes_whatever_happens() {
    let mut stack = Stack::spawn(&SETTINGS, None).await;
    let options = Options {
        streams: 20,
        duration: Duration::from_secs(20),
        asks: Ask::anything(),
        every: Duration::from_secs(2),
        fault: Fault::choose,
        seed: 1,
    };
    let report = chaos::run(&mut stack, &options).await;
    println!("{report}");
    assert!(report.failures.is_empty(), "{:#?}\nnginx:\n{}", report.failures, stack.nginx_errors());
    assert!(report.responses >= 20 && report.reconnects > 0, "{report}");
}
