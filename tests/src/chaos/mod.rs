//! Injects faults into a whole stack while clients stream through it. Each client does only what PROTOCOL.md asks of it: it
//! reconnects, resumes after its last event, and repeats a create with the same `client_request_id`. The run proves that this
//! is enough: every stream completes without gap or repeat, and equals the stored response.

mod fault;
mod report;
pub mod restarts;
mod stream;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};
use tokio::{sync::watch, task::JoinSet};

use crate::stack::Stack;
pub use fault::Fault;
pub use report::Report;
pub use stream::Ask;
use stream::{Ended, Lane};

/// The options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The number of streams that run concurrently; each is followed by another until the time is over.
    pub streams: usize,
    pub duration: Duration,
    /// The requests of the clients, in turn.
    pub asks: Arc<[Ask]>,
    /// The time between two faults.
    pub every: Duration,
    /// Chooses the next fault.
    pub fault: fn(&mut StdRng, &Stack) -> Fault,
    pub seed: u64,
}

/// The signal to the clients: a new value makes the chosen ones drop their connections.
#[derive(Debug, Clone, Copy, Default)]
struct Drops {
    round: u64,
    /// One of this many clients drops its connection.
    share: u64,
}

/// Runs clients and faults for the duration, heals the stack, and waits for the last streams.
pub async fn run(stack: &mut Stack, options: &Options) -> Report {
    let begun = Instant::now();
    let (drops, watcher) = watch::channel(Drops::default());
    let (over, stopped) = watch::channel(false);
    let address = stack.address();
    let mut lanes = JoinSet::new();
    for number in 0..options.streams {
        let (asks, drops, over) = (options.asks.clone(), watcher.clone(), stopped.clone());
        let lane = Lane { number: number as u64, address, asks, drops, over };
        lanes.spawn(lane.run());
    }
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut faults = Vec::new();
    while begun.elapsed() < options.duration {
        tokio::time::sleep(options.every).await;
        let fault = (options.fault)(&mut random, stack);
        let at = begun.elapsed();
        fault.strike(stack, &drops);
        faults.push((at, fault.to_string()));
    }
    let _ = over.send(true);
    stack.heal().await;
    let mut ended: Vec<Ended> = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        ended.extend(lane.expect("a client does not panic"));
    }
    Report::new(faults, ended, begun.elapsed())
}

/// Settings of the binary and the test: replies are long enough to be hit by faults.
pub const SETTINGS: [&str; 4] = [
    "engine.kind=scripted",
    "engine.scripted.tokens=160",
    "engine.scripted.tokens_per_second=20",
    "admission.queue=1024",
];
