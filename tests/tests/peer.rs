//! Tests that the benchmark against other servers measures every row, on two servers with the scripted engine. Does not check
//! values.

use caudal_tests::{
    App,
    peer::{self, Options, Report, Row},
    spawn_app,
};

/// Settings with long, paced replies and a slow prefill.
const PACED: [&str; 4] = [
    "engine.scripted.tokens=600",
    "engine.scripted.tokens_per_second=400",
    "engine.scripted.prefill_ms=20",
    "engine.context_length=8192",
];

fn url(app: &App) -> String {
    format!("http://{}", app.address)
}

#[track_caller]
fn median(report: &Report, name: &str, server: usize) -> f64 {
    let figure = report.figures.iter().find(|figure| figure.name == name);
    let figure = figure.unwrap_or_else(|| panic!("no figure '{name}' in:\n{report}"));
    figure.spread[server].unwrap_or_else(|| panic!("no value of '{name}' in:\n{report}")).median
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_is_measured_on_every_server() {
    let (ours, other) = (spawn_app(&PACED), spawn_app(&PACED));
    let rows = vec![Row::One, Row::Prompts, Row::Chats8, Row::Chats32, Row::Pause, Row::Turns, Row::Rss];
    let mut options = Options::new(url(&ours), vec![format!("other={}", url(&other))], rows);
    options.rounds = 1;
    options.ours_pid = Some(std::process::id());
    options.peer_pid = vec![std::process::id()];
    let report = peer::run(&options).await.expect("the benchmark runs");
    println!("{report}");
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!(report.servers[1].name, "other");
    assert_eq!(report.servers[1].model, "scripted");
    for server in 0..2 {
        assert!(median(&report, "one chat: first token", server) >= 20.0);
        assert!((100.0..=500.0).contains(&median(&report, "one chat: decode", server)));
        assert_eq!(median(&report, "32 chats: output tokens", server), 32.0 * 96.0);
        assert!(median(&report, "both prompts: first token of the later", server) >= 20.0);
        assert!(median(&report, "pause of a chat while two prompts arrive", server) > 0.0);
        assert!(median(&report, "turn 10: first token", server) >= 20.0);
        assert!(median(&report, "resident memory with 8 chats", server) > 0.1);
    }
    assert!(report.figures.iter().all(|figure| figure.ratios.len() == 1 && figure.ratios[0].is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_left_out_where_a_process_is_not_known() {
    let app = spawn_app(&PACED);
    let mut options = Options::new(url(&app), vec![], vec![Row::Rss]);
    options.rounds = 1;
    let report = peer::run(&options).await.expect("the benchmark runs");
    assert!(report.figures.is_empty());
    assert_eq!(report.notes.len(), 1, "{:?}", report.notes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_is_reported() {
    let (ours, failing) = (spawn_app(&PACED), spawn_app(&["engine.scripted.tokens=60"]));
    let mut options = Options::new(url(&ours), vec![url(&failing)], vec![Row::One]);
    options.rounds = 1;
    let report = peer::run(&options).await.expect("the benchmark runs");
    assert_eq!(report.failures.len(), 1, "a reply of 60 tokens is too short to be measured: {report}");
    assert!(report.figures[0].spread[0].is_some());
    drop(failing);
    let error = peer::run(&options).await.expect_err("nobody listens there");
    assert!(error.contains("peer") && error.contains("cannot be reached"), "{error}");
}
