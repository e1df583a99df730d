//! Tests the estimated wait against the real one. The scripted engine sets the pace, so the test measures the estimate and not
//! the machine.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use caudal_tests::{App, Client, log::kind, spawn_app, ws::code};
use futures::future::join_all;
use serde_json::{Value, json};

const LANES: usize = 16;
const QUEUED: usize = 100;

fn spawn(more: &[&str]) -> App {
    let text: Vec<String> = (0..200).map(|n| format!("w{n}")).collect();
    let text = format!("engine.scripted.text={}", text.join(" "));
    let mut settings = vec!["engine.scripted.tokens=200", "engine.scripted.tokens_per_second=800", text.as_str()];
    settings.extend(more);
    spawn_app(&settings)
}

/// Returns request `n`, with a length from 2 to 200 tokens, spread evenly. Some requests announce their length, others do not.
fn request(n: usize) -> Value {
    let length = 2 + n * 7919 % 198;
    match n % 2 {
        0 => json!({"max_output_tokens": length}),
        _ => json!({"stop": format!("w{length} ")}),
    }
}

/// Runs these requests concurrently on one connection. Returns for each that waited its first estimate and its real wait from
/// then on.
async fn run(app: &App, requests: Vec<Value>) -> Vec<(Duration, Duration)> {
    let mut client = Client::extended(app).await;
    let mut running = requests.len();
    for (lane, mut request) in requests.into_iter().enumerate() {
        request["stream_id"] = json!(lane.to_string());
        client.create(request).await;
    }
    let (mut told, mut waits) = (HashMap::new(), vec![]);
    while running > 0 {
        let event = client.event().await;
        let lane = event["stream_id"].as_str().unwrap_or_default().to_owned();
        match kind(&event) {
            "caudal:response.queued" => {
                let estimate = Duration::from_millis(event["estimated_wait_ms"].as_u64().expect("an estimate"));
                told.entry(lane).or_insert((estimate, Instant::now()));
            }
            "response.in_progress" => {
                waits.extend(told.get(&lane).map(|(estimate, since)| (*estimate, since.elapsed())));
            }
            "response.completed" | "response.incomplete" => running -= 1,
            "response.failed" | "error" => panic!("{event}"),
            _ => {}
        }
    }
    waits
}

#[tokio::test]
async fn the_estimate_is_right_within_a_factor_of_two_at_the_median() {
    let app = spawn(&["engine.max_running=4"]);
    // The server learns from finished responses.
    for round in 0..2 {
        run(&app, (0..LANES).map(|n| request(1000 + round * LANES + n)).collect()).await;
    }
    let requests: Vec<Value> = (0..QUEUED).map(request).collect();
    let waits = join_all(requests.chunks(LANES).map(|chunk| run(&app, chunk.to_vec()))).await.concat();
    assert!(waits.len() > QUEUED * 8 / 10, "only {} were told where they stand", waits.len());
    let mut factors: Vec<f64> = waits
        .iter()
        .map(|(told, measured)| told.as_secs_f64().max(0.001) / measured.as_secs_f64().max(0.001))
        .map(|ratio| ratio.max(1.0 / ratio))
        .collect();
    factors.sort_by(f64::total_cmp);
    let (median, most) = (factors[factors.len() / 2], factors[factors.len() * 9 / 10]);
    println!("told against measured wait: a factor of {median:.2} at the median, {most:.2} at the 90th percentile");
    assert!(median <= 2.0, "a factor of {median:.2} at the median: {waits:?}");
}

#[tokio::test]
async fn who_is_refused_is_told_when_to_come_back() {
    let app = spawn(&["engine.max_running=1", "admission.queue=1"]);
    let mut client = Client::plain(&app).await;
    for _ in 0..3 {
        client.run(json!({"max_output_tokens": 20})).await;
    }
    // A quarter of a second.
    client.create(json!({"max_output_tokens": 200})).await;
    client.event_of("response.output_text.delta").await;
    let mut queued = Client::plain(&app).await;
    queued.create(json!({"max_output_tokens": 1})).await;
    queued.event_of("response.queued").await;
    let mut refused = Client::plain(&app).await;
    refused.create(json!({})).await;
    let error = refused.error().await;
    let since = Instant::now();
    assert_eq!(code(&error), "server_overloaded");
    let told = Duration::from_millis(error["retry_after_ms"].as_u64().expect("retry_after_ms"));
    queued.event_of("response.in_progress").await;
    let free = since.elapsed();
    assert!(told < free * 2 && free < told * 2, "told {told:?}, and there was room after {free:?}");
    assert!(refused.run(json!({"max_output_tokens": 1})).await.ended());
}
