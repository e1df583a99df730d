//! Repeatedly kills the only process of a server with a store in a file, while clients stream. Once, the file is also full.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{sync::watch, task::JoinSet};

use super::{
    Drops, Report,
    stream::{Ask, Ended, Lane},
};
use crate::{App, DataDir, Setup, http, redis::free_port};

#[derive(Debug, Clone)]
pub struct Options {
    /// The number of streams that run concurrently; each is followed by another until the last kill.
    pub streams: usize,
    pub kills: usize,
    /// Whether the file is full during one of the kills.
    pub full: bool,
    pub seed: u64,
}

/// A file of `MAX_MB` is filled with conversations of nearly the maximum size.
const MAX_MB: usize = 32;
const FILLER_BYTES: usize = 900 << 10;

struct Machine {
    data: Arc<DataDir>,
    setup: Setup,
    app: Option<App>,
}

impl Machine {
    fn start(settings: &[&str]) -> (Self, SocketAddr) {
        let (data, address) = (Arc::new(DataDir::create()), free_port());
        let setup = Setup::in_folder(&data).set(settings).set(&[&format!("server.bind={address}")]);
        let app = Some(setup.clone().spawn());
        (Self { data, setup, app }, address)
    }

    fn kill_and_start(&mut self) {
        if let Some(app) = self.app.take() {
            app.kill();
        }
        self.app = Some(self.setup.clone().spawn());
    }
}

/// Runs clients and kills, and waits for the last streams.
pub async fn run(options: &Options) -> Report {
    let begun = Instant::now();
    let bound = format!("store.sqlite.max_mb={}", if options.full { MAX_MB } else { 0 });
    let (mut machine, address) = Machine::start(&[
        "engine.scripted.tokens=100",
        "engine.scripted.tokens_per_second=25",
        "admission.queue=1024",
        "conversations.max_items=100000",
        &bound,
    ]);
    let (_drops, watcher) = watch::channel(Drops::default());
    let (over, stopped) = watch::channel(false);
    let mut lanes = JoinSet::new();
    for number in 0..options.streams {
        let (drops, over) = (watcher.clone(), stopped.clone());
        lanes.spawn(Lane { number: number as u64, address, asks: Ask::anything(), drops, over }.run());
    }
    let (mut random, mut faults) = (StdRng::seed_from_u64(options.seed), Vec::new());
    for kill in 0..options.kills {
        tokio::time::sleep(Duration::from_millis(random.random_range(400..1600))).await;
        let is_full = options.full && kill == options.kills / 2;
        let mut filler = if is_full { fill(address).await } else { vec![] };
        let what = if is_full { "killed while full" } else { "killed" };
        faults.push((begun.elapsed(), what.to_owned()));
        machine.kill_and_start();
        if is_full {
            // Fills the file until it is full again.
            filler.extend(fill(address).await);
            for id in filler {
                let gone = http::call(address, "DELETE", &format!("/v1/conversations/{id}")).send().await;
                assert_eq!(gone.status, 200, "a full file lets go: {}", gone.text());
            }
        }
    }
    let _ = over.send(true);
    let mut ended: Vec<Ended> = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        ended.extend(lane.expect("a client does not panic"));
    }
    let (is_whole, told) = machine.data.store_command(&["check"]);
    assert!(is_whole, "{told}");
    Report::new(faults, ended, begun.elapsed())
}

/// Fills the store until streams wait for room. Returns the ids of the conversations that fill it.
async fn fill(address: SocketAddr) -> Vec<String> {
    let mut ids = vec![];
    let mut text = "x".repeat(FILLER_BYTES);
    while text.len() > 1000 {
        let body = json!({"items": [{"type": "message", "role": "user", "content": text}]});
        let answer = http::post(address, "/v1/conversations", &body).await;
        match answer.status {
            200 => ids.push(answer.json()["id"].as_str().unwrap_or_default().to_owned()),
            // Ever smaller conversations, until there is no room for a page.
            _ => text.truncate(text.len() / 4),
        }
        assert!(ids.len() < 10_000, "the file is never full");
    }
    ids
}
