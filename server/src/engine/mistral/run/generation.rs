//! One generation, from its request to its last delta. If an engine fails, the generation continues in a new one from the tokens
//! that it has. Their text was sent and is not sent again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::token_processor::{OutputSnapshot, TokenProcessor};
use crate::engine::{
    Delta, Finish, GenerateRequest,
    mistral::{
        batch::{Batch, Broken, Submission},
        model::shared::Shared,
    },
    text::constrained::Constraint,
};

/// The number of steps with a generation that may fail. After that the generation fails, because it may be the cause.
const MAX_FAULTS: u32 = 3;
/// The number of engines that may fail in steps that do not compute a generation. After that the generation fails.
const MAX_BYSTANDING: u32 = 100;
/// The time for which the engine's thread may hold the processor after a cancel or a fault. Picking a token takes far less.
const RETRY_TIME: Duration = Duration::from_secs(1);

/// One generation.
pub struct GenerationRun {
    pub batch: Arc<Batch>,
    pub shared: Arc<Shared>,
    pub request: GenerateRequest,
    /// The most tokens of the whole output.
    pub max: u64,
    /// Keeps the channel of deltas open until the generation has ended.
    pub sender: mpsc::Sender<Delta>,
}

/// The way in which one run in an engine ended.
enum RunEnd {
    /// The last delta was sent.
    Finished,
    Broken(Broken),
    /// The engine failed while a token was picked, so it is unknown whether that token was sent.
    Lost,
}

impl GenerationRun {
    /// Runs until the last delta is sent or the generation has failed.
    pub async fn run(mut self) {
        let (mut faults, mut bystanding) = (0, 0);
        loop {
            let broken = match self.attempt(faults > 0).await {
                Ok(RunEnd::Finished) => return,
                Ok(RunEnd::Lost) => {
                    return tracing::error!(
                        "the engine failed while it picked a token; the generation cannot continue"
                    );
                }
                Ok(RunEnd::Broken(broken)) => broken,
                Err(reason) => return self.fail(reason),
            };
            if broken.was_running {
                faults += 1;
            } else {
                bystanding += 1;
            }
            if broken.is_final || faults >= MAX_FAULTS || bystanding >= MAX_BYSTANDING {
                return self.fail(broken.reason);
            }
            let tokens = self.request.output.len();
            tracing::warn!(broken.reason, faults, tokens, "a generation continues in another engine");
        }
    }

    /// Runs in one engine until the generation ends or the engine fails.
    ///
    /// # Errors
    /// The grammar cannot be used.
    async fn attempt(&mut self, is_suspect: bool) -> Result<RunEnd, String> {
        let grammar =
            self.shared.grammars.clone().hold(&self.request, self.max).await.map_err(|error| error.to_string())?;
        let processor = Arc::new(self.processor(grammar));
        if processor.has_ended() {
            return Ok(RunEnd::Finished);
        }
        let (sender, ended) = oneshot::channel();
        let tokens = [self.request.prompt.as_slice(), &self.request.output].concat();
        let fetched = match &self.batch.exchange {
            Some(exchange) => exchange.fetch(&self.request.tenant, &tokens).await,
            None => None,
        };
        let submission = Submission {
            id: self.batch.next_id(),
            tokens,
            tenant: self.request.tenant.clone(),
            reuse: self.request.reuse,
            fetched,
            processor: processor.clone(),
            is_suspect,
            ended: sender,
        };
        let run = self.batch.run(submission, ended);
        tokio::pin!(run);
        let outcome = tokio::select! {
            biased;
            outcome = &mut run => outcome,
            () = self.request.cancel.cancelled() => {
                // Sends the last delta now, even during a step. The batch removes the sequence after the step.
                retry(|| processor.try_finish(Finish::Cancelled).then_some(())).await;
                run.await
            }
        };
        let Err(broken) = outcome else {
            // The last delta is missing only if the engine ended the sequence for no known reason.
            processor.finish(Finish::Failed("the engine ended the sequence without a reason".into()));
            return Ok(RunEnd::Finished);
        };
        Ok(match retry(|| processor.try_fence()).await {
            None => RunEnd::Lost,
            Some(OutputSnapshot { finished: true, .. }) => RunEnd::Finished,
            Some(OutputSnapshot { tokens, .. }) => {
                self.request.output.extend(tokens);
                RunEnd::Broken(broken)
            }
        })
    }

    fn fail(&self, reason: String) {
        self.processor(None).finish(Finish::Failed(reason));
    }

    /// Makes a processor that continues after the tokens that were sent.
    fn processor(&self, grammar: Option<Constraint>) -> TokenProcessor {
        TokenProcessor::new(&self.shared, &self.request, self.max, grammar, &self.sender)
    }
}

/// Repeats an attempt that fails while the engine's thread picks a token. Returns `None` after [`RETRY_TIME`].
async fn retry<T>(attempt: impl Fn() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    while begun.elapsed() < RETRY_TIME {
        if let Some(done) = attempt() {
            return Some(done);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None
}
