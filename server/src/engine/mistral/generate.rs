//! One generation on the pool: takes a slot, runs the prompt in it, and where the slot breaks goes on in another from the
//! tokens that it has. Their text has been shown and is not said again: the next run knows them as the beginning of its output.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    grammar::Held,
    lease::{Lease, Said},
    load::Shared,
    logits::FirstLogits,
    pool::{NoSlot, Pool, Wanted},
    slot::{Broken, Sequence},
    step::{Fenced, Start, Steps},
    threads::Helpers,
};
use crate::engine::{Delta, Finish, GenerateRequest};

/// Runs of one generation that may break. A prompt that breaks every slot ends here.
const MAX_FAULTS: usize = 3;

/// How long a step may take to say what it has done, once its slot is broken: far longer than any does.
const SETTLE: Duration = Duration::from_secs(1);

/// One generation, from waiting for a slot to giving it back.
pub struct Generation {
    pub pool: Arc<Pool>,
    pub shared: Arc<Shared>,
    pub request: GenerateRequest,
    /// Bound on the whole output.
    pub max: u64,
    /// The only one that keeps the channel open: it closes when the slot is free, and no engine that wakes up late can say
    /// anything after it.
    pub sender: mpsc::Sender<Delta>,
}

/// How a run ended.
enum Ended {
    /// Its last delta is sent.
    Finished,
    /// The slot broke.
    Broken(Broken),
    /// The slot broke inside a step, and what that step did is not known.
    Lost,
}

impl Generation {
    pub async fn run(mut self) {
        for fault in 1.. {
            let error = match self.attempt(fault).await {
                Ok(Ended::Finished) => return,
                Ok(Ended::Lost) => return tracing::error!("a slot broke inside a step; its generation cannot go on"),
                Ok(Ended::Broken(broken)) if fault < MAX_FAULTS => {
                    let tokens = self.request.output.len();
                    tracing::warn!(%broken, fault, tokens, "a slot broke; its generation goes on in another run");
                    continue;
                }
                Ok(Ended::Broken(broken)) => broken.to_string(),
                Err(error) => error.to_string(),
            };
            return self.steps(Arc::default(), None, 0).finish(Finish::Failed(error));
        }
    }

    /// Takes a slot and runs to the end, or until it breaks.
    async fn attempt(&mut self, fault: usize) -> Result<Ended, NoSlot> {
        let held = match self.shared.grammars.clone().hold(&self.request, self.max).await {
            Ok(held) => held,
            Err(error) => {
                self.steps(Arc::default(), None, 0).finish(Finish::Failed(error.to_string()));
                return Ok(Ended::Finished);
            }
        };
        let GenerateRequest { prompt, output, .. } = &self.request;
        let tokens = if self.pool.is_batch() { [prompt.as_slice(), output].concat() } else { prompt.clone() };
        let left = self.max.saturating_sub((tokens.len() - prompt.len()) as u64);
        let wanted = Wanted { tokens: &tokens, scope: &self.request.scope, left };
        let mut lease = tokio::select! {
            biased;
            () = self.request.cancel.cancelled() => {
                self.steps(Arc::default(), None, 0).finish(Finish::Cancelled);
                return Ok(Ended::Finished);
            }
            lease = Lease::acquire(&self.pool, wanted) => lease?,
        };
        let warm = self.request.max_output_tokens == 0 && lease.has_all;
        let knows = lease.logits_after(&tokens).is_some();
        let all = self.request.prompt.len();
        let cached = if warm || knows { all } else { lease.reused().min(all) };
        let steps = Arc::new(self.steps(lease.slot.helpers.clone(), held, cached));
        if warm {
            steps.finish(Finish::Length);
        }
        let tokens = if knows { recall(&mut lease, tokens, &steps).await } else { tokens };
        if steps.finished() {
            return Ok(Ended::Finished);
        }
        let Err(broken) = self.drive(&mut lease, tokens, &steps).await else {
            // An engine that ended by itself has not been asked to.
            steps.finish(Finish::Failed("the engine ended the sequence by itself".into()));
            return Ok(Ended::Finished);
        };
        let fenced = settle(|| steps.try_fence()).await;
        self.mend(lease, &broken, fault).await;
        Ok(match fenced {
            None => Ended::Lost,
            Some(Fenced { finished: true, .. }) => Ended::Finished,
            Some(Fenced { picked, .. }) => {
                self.request.output.extend(picked);
                Ended::Broken(broken)
            }
        })
    }

    async fn drive(&self, lease: &mut Lease, tokens: Vec<u32>, steps: &Arc<Steps>) -> Result<(), Broken> {
        let sequence = Sequence {
            spare: self.shared.spare(&[self.shared.end]),
            tokens,
            max_len: usize::try_from(self.max).unwrap_or(usize::MAX).saturating_add(2),
            end: self.shared.end,
            steps: steps.clone(),
            watch: lease.watch.clone(),
        };
        #[cfg(test)]
        let sequence = super::faults::inject(sequence, &self.request);
        let run = lease.run(&self.shared, sequence, &**steps);
        tokio::pin!(run);
        tokio::select! {
            ended = &mut run => ended,
            () = self.request.cancel.cancelled() => {
                // Said at once, even in the middle of a long prefill; the slot is free when the engine has noticed.
                settle(|| steps.try_finish(Finish::Cancelled)).await;
                run.await
            }
        }
    }

    /// Makes the slot usable again: an engine that still answers needs an empty cache, at first; any other is replaced.
    async fn mend(&self, mut lease: Lease, broken: &Broken, fault: usize) {
        let answers = matches!(broken, Broken::Error(_)) && fault == 1;
        if !(answers && lease.empty(&self.shared).await.is_ok()) {
            lease.replace(self.shared.clone());
        }
    }

    /// What has been said up to now is the beginning of what these will say.
    fn steps(&self, helpers: Arc<Helpers>, held: Option<Held>, cached_tokens: usize) -> Steps {
        let start = Start { max: self.max, held, cached_tokens, alone: !self.pool.is_batch(), sender: &self.sender };
        Steps::new(&self.shared, &self.request, start, helpers)
    }
}

impl Said for Steps {
    fn tokens(&self) -> Vec<u32> {
        self.made()
    }

    fn first_logits(&self) -> FirstLogits {
        Steps::first_logits(self)
    }

    fn has_ended(&self) -> bool {
        self.finished()
    }
}

/// Picks tokens by logits that the slot has kept, for as long as the output goes the way of an earlier one. Returns what the
/// engine is then given: they too, or where it would not find the prompt so the prompt alone.
async fn recall(lease: &mut Lease, prompt: Vec<u32>, steps: &Arc<Steps>) -> Vec<u32> {
    let mut tokens = prompt.clone();
    while let Some(logits) = lease.logits_after(&tokens).filter(|_| !steps.finished()) {
        let steps = steps.clone();
        // Off the threads that serve, for a grammar may take its time.
        let Ok(Some(token)) = tokio::task::spawn_blocking(move || steps.recall(&logits)).await else { break };
        tokens.push(token);
    }
    lease.goes_on_from(&tokens);
    if lease.reused() + 1 == tokens.len() {
        steps.give_recalled();
        return tokens;
    }
    // The output is an earlier one for longer than its logits were kept. Several of its tokens in one step would not be computed
    // as they were first, one by one.
    lease.goes_on_from(&prompt);
    steps.make_recalled(lease.reused());
    prompt
}

/// Tries until a step, which may be under way, lets it.
async fn settle<T>(attempt: impl Fn() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    while begun.elapsed() < SETTLE {
        if let Some(done) = attempt() {
            return Some(done);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None
}
