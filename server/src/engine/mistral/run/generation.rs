//! One generation in the batch: from its request to the end of its last run. Where an engine breaks, the generation goes on in
//! another from the tokens that it has; their text was sent and is not sent again.

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

/// Engines that one generation may break. A prompt that breaks every engine ends here.
const MAX_FAULTS: u32 = 3;
/// Engines that may break while a generation only stood by.
const MAX_BYSTANDING: u32 = 100;
/// How long picking a token may take once its engine is broken: far longer than it ever does.
const SETTLE: Duration = Duration::from_secs(1);

/// One generation.
pub struct GenerationRun {
    pub batch: Arc<Batch>,
    pub shared: Arc<Shared>,
    pub request: GenerateRequest,
    /// Bound on the whole output.
    pub max: u64,
    /// Keeps the channel open: it closes when this generation has left the batch.
    pub sender: mpsc::Sender<Delta>,
}

/// How a run ended.
enum RunEnd {
    /// The last delta was sent.
    Finished,
    Broken(Broken),
    /// The engine broke while a token was picked, and what was sent is not known.
    Lost,
}

impl GenerationRun {
    pub async fn run(mut self) {
        let (mut faults, mut bystanding) = (0, 0);
        loop {
            let broken = match self.attempt(faults > 0).await {
                Ok(RunEnd::Finished) => return,
                Ok(RunEnd::Lost) => {
                    return tracing::error!("the engine broke inside a token; the generation cannot go on");
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
            tracing::warn!(broken.reason, faults, tokens, "a generation goes on in another engine");
        }
    }

    /// Runs until the end, or until the engine breaks.
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
                // Sent at once, even in the middle of a step; the batch lets go of the sequence after it.
                settle(|| processor.try_finish(Finish::Cancelled).then_some(())).await;
                run.await
            }
        };
        let Err(broken) = outcome else {
            // An engine that ended by itself was not asked to.
            processor.finish(Finish::Failed("the engine ended the sequence by itself".into()));
            return Ok(RunEnd::Finished);
        };
        Ok(match settle(|| processor.try_fence()).await {
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

    /// What was sent until now is the beginning of what it sends.
    fn processor(&self, grammar: Option<Constraint>) -> TokenProcessor {
        TokenProcessor::new(&self.shared, &self.request, self.max, grammar, &self.sender)
    }
}

/// Tries until picking a token, which may be under way, lets it.
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
