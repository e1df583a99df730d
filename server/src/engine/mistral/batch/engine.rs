//! The thread that runs a model's sequences together, step by step.
//!
//! A step computes one token of every sequence that decodes, and pieces of prompts. Between two steps the thread receives
//! submissions and removes sequences that have ended or were cancelled. An error or a panic in a step ends the engine: its
//! sequences end as broken, and their generations continue in a new engine.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::Tensor;
use caudal_kernels::team;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    pulse::Pulse,
    schedule::{self, Schedule, StepPart},
    sequence::{Sequence, SequenceEnd, Submission},
    step::{self, StepRun},
    throughput::Throughput,
    transfer::Transfers,
};
use crate::engine::{
    Finish,
    kv::BlockName,
    mistral::{
        kv_exchange::KvExchange,
        model::source::LoadedModel,
        prefix_cache::{Blocks, CachedNames},
    },
};

/// The parts that an engine is made of.
pub struct EngineInputs {
    pub pipeline: LoadedModel,
    pub submissions: mpsc::Receiver<Submission>,
    /// The most sequences that run at once.
    pub places: usize,
    /// Blocks of the paged cache.
    pub blocks: usize,
    pub cached: CachedNames,
    /// `None` if keys and values are not stored outside this process.
    pub exchange: Option<Arc<KvExchange>>,
    /// The model's name in the names of blocks.
    pub model: String,
    pub pulse: Arc<Pulse>,
}

/// The state of the thread.
pub struct EngineLoop {
    pipeline: LoadedModel,
    submissions: mpsc::Receiver<Submission>,
    places: usize,
    model: String,
    pulse: Arc<Pulse>,
    blocks: Blocks,
    transfers: Transfers,
    /// Whether the cache keeps keys and values after their sequence has ended.
    is_paged: bool,
    /// Whether one pass computes tokens of several prompts.
    is_flat: bool,
    running: Vec<Sequence>,
    /// Sequences without blocks, in the order in which they get them.
    waiting: VecDeque<Sequence>,
    /// The number of sequences that have arrived.
    arrived: u64,
    schedule: Schedule,
    throughput: Throughput,
}

/// The time for which a step waits for the end of another model's step. Both are slow if they run together.
const TURN: Duration = Duration::from_secs(1);

/// The pause of an idle engine before it checks again whether the store takes a block.
const STORE_PAUSE: Duration = Duration::from_millis(1);

/// The reason why a step failed.
struct StepError(String);

impl EngineLoop {
    pub fn new(inputs: EngineInputs) -> Self {
        let EngineInputs { pipeline, submissions, places, blocks, cached, exchange, model, pulse } = inputs;
        let (is_paged, on_cpu) = {
            let pipeline = pipeline.blocking_lock();
            (pipeline.get_metadata().cache_engine.is_some(), pipeline.device().is_cpu())
        };
        let is_flat = is_paged && on_cpu;
        Self {
            transfers: Transfers { pipeline: pipeline.clone(), exchange, is_flat, leaving: VecDeque::new() },
            pipeline,
            submissions,
            places,
            model,
            pulse,
            blocks: Blocks::new(blocks, cached),
            is_paged,
            is_flat,
            running: Vec::new(),
            waiting: VecDeque::new(),
            arrived: 0,
            schedule: Schedule::default(),
            throughput: Throughput::default(),
        }
    }

    /// Runs until all senders of submissions are gone, or until a step fails.
    pub fn run(mut self) {
        while self.receive() {
            self.remove_ended();
            self.give_blocks();
            self.transfers.run(&mut self.running, &mut self.blocks);
            let parts = self.schedule.next(&self.running, &self.throughput, self.is_flat);
            let parts = self.make_room(parts);
            self.pulse.holds(self.blocks.counted());
            if parts.is_empty() {
                continue;
            }
            if let Err(StepError(reason)) = self.step(&parts) {
                return self.break_down(&parts, &reason);
            }
        }
    }

    /// Receives submissions; blocks if there is no work. Returns `false` when all senders are gone.
    fn receive(&mut self) -> bool {
        let is_idle = self.running.is_empty() && self.waiting.is_empty();
        if is_idle && !self.transfers.leaving.is_empty() {
            if self.transfers.waits_for_store() {
                std::thread::sleep(STORE_PAUSE);
            }
        } else if is_idle {
            match self.submissions.blocking_recv() {
                Some(submission) => self.arrive(submission),
                None => return false,
            }
        }
        while let Ok(submission) = self.submissions.try_recv() {
            self.arrive(submission);
        }
        true
    }

    fn arrive(&mut self, submission: Submission) {
        self.arrived += 1;
        let root = BlockName::root(&self.model, &submission.tenant);
        self.waiting.push_back(Sequence::new(submission, root, self.arrived));
    }

    /// Removes the sequences that have ended or were cancelled.
    fn remove_ended(&mut self) {
        for at in (0..self.running.len()).rev() {
            if self.running[at].processor.has_ended() {
                let sequence = self.running.remove(at);
                self.finish(sequence);
            }
        }
        for at in (0..self.waiting.len()).rev() {
            if self.waiting[at].processor.has_ended()
                && let Some(sequence) = self.waiting.remove(at)
            {
                sequence.end(SequenceEnd::Finished);
            }
        }
    }

    fn finish(&mut self, mut sequence: Sequence) {
        self.transfers.leave(&sequence, &mut self.blocks);
        if let Some(held) = sequence.blocks.take() {
            let computed = if self.is_paged { sequence.tokens.get(..sequence.computed) } else { None };
            self.blocks.end(held, computed.unwrap_or_default());
        }
        sequence.end(SequenceEnd::Finished);
    }

    /// Starts waiting sequences in their order, as long as there are places and blocks.
    fn give_blocks(&mut self) {
        while self.running.len() < self.places
            && let Some(next) = self.waiting.front()
        {
            let Some(found) = self.blocks.begin(next.root, &next.tenant, &next.tokens) else {
                if self.transfers.drop_leaving(&mut self.blocks) {
                    continue;
                }
                break;
            };
            // One more block must be left for each running sequence.
            if !self.running.is_empty() && self.blocks.available() < self.running.len() {
                self.blocks.end(found.held, &[]);
                break;
            }
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            sequence.computed = match found.copied.map(|copied| (copied, self.transfers.copy(copied))) {
                Some((copied, false)) => found.tokens - copied.tokens,
                _ => found.tokens,
            };
            sequence.blocks = Some(found.held);
            sequence.keep_fetched();
            if sequence.fetched.is_empty() {
                sequence.processor.reused(sequence.computed);
            }
            self.running.push(sequence);
        }
    }

    /// Takes the blocks that the step needs. If there are too few, preempts the youngest sequences and drops their parts.
    fn make_room(&mut self, mut parts: Vec<StepPart>) -> Vec<StepPart> {
        let mut at = 0;
        while let Some(part) = parts.get(at).copied() {
            let sequence = &mut self.running[part.at];
            let until = sequence.computed + part.tokens;
            if sequence.blocks.as_mut().is_some_and(|held| self.blocks.grow(held, until)) {
                at += 1;
                continue;
            }
            if self.transfers.drop_leaving(&mut self.blocks) {
                continue;
            }
            let Some(youngest) = (0..self.running.len()).max_by_key(|at| self.running[*at].arrived) else { break };
            self.preempt(youngest);
            parts.retain(|part| part.at != youngest);
            parts.iter_mut().filter(|part| part.at > youngest).for_each(|part| part.at -= 1);
            // Starts over, because parts have moved. Sequences that have their blocks take no more.
            at = 0;
        }
        parts
    }

    /// Takes a sequence's blocks away. The sequence begins again when there is room, and reuses those that are still cached.
    fn preempt(&mut self, at: usize) {
        let mut sequence = self.running.remove(at);
        tracing::debug!(tokens = sequence.tokens.len(), "a sequence waits for blocks");
        if let Some(held) = sequence.blocks.take() {
            let computed = sequence.tokens.get(..sequence.computed).unwrap_or_default();
            self.blocks.end(held, if self.is_paged { computed } else { &[] });
        }
        sequence.computed = 0;
        self.waiting.push_front(sequence);
    }

    fn step(&mut self, parts: &[StepPart]) -> Result<(), StepError> {
        let _turn = team::turn(TURN);
        let begun = Instant::now();
        let size = schedule::size(parts);
        let computed = parts.iter().map(|part| self.running[part.at].id).collect();
        self.pulse.begin(self.throughput.expected(size), computed);
        let computed = catch_unwind(AssertUnwindSafe(|| self.compute(parts)));
        let logits = match computed {
            Ok(Ok(logits)) => logits,
            Ok(Err(error)) => return Err(StepError(error.to_string())),
            Err(panic) => return Err(StepError(format!("a step panicked: {}", message(&*panic)))),
        };
        for part in parts {
            let sequence = &mut self.running[part.at];
            sequence.computed += part.tokens;
            if self.is_paged
                && let Some(held) = &mut sequence.blocks
            {
                self.blocks.name_full(held, &sequence.tokens[..sequence.computed]);
            }
        }
        self.pick(parts, logits);
        self.throughput.measured(size, begun.elapsed());
        if let Some(rate) = self.throughput.prompt_rate() {
            self.pulse.set_prompt_rate(rate);
            if let Some(exchange) = &self.transfers.exchange {
                exchange.computes(rate);
            }
        }
        self.pulse.end();
        Ok(())
    }

    /// Computes the parts. Returns for each the logits after its last token, or `None` if tokens of the prompt are left.
    fn compute(&self, parts: &[StepPart]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let mut runs = Vec::with_capacity(parts.len());
        for part in parts {
            let sequence = &self.running[part.at];
            let Some(blocks) = &sequence.blocks else { candle_core::bail!("a sequence without blocks") };
            let until = sequence.computed + part.tokens;
            let wanted = until == sequence.tokens.len();
            runs.push(StepRun { tokens: &sequence.tokens, from: sequence.computed, until, wanted, blocks });
        }
        #[cfg(test)]
        super::faults::inject(&self.running, parts)?;
        step::forward(&mut *self.pipeline.blocking_lock(), &runs)
    }

    /// Picks the next token of every sequence that has logits, on all threads.
    fn pick(&mut self, parts: &[StepPart], logits: Vec<Option<Tensor>>) {
        let wanted: Vec<(usize, Tensor)> =
            parts.iter().zip(logits).filter_map(|(part, logits)| Some((part.at, logits?))).collect();
        let picked: Vec<Mutex<Option<u32>>> = wanted.iter().map(|_| Mutex::default()).collect();
        let running = &self.running;
        team::run(wanted.len(), &|index| {
            let (at, logits) = &wanted[index];
            let processor = &running[*at].processor;
            let token = catch_unwind(AssertUnwindSafe(|| match logits.to_vec1::<f32>() {
                Ok(mut logits) => processor.next(&mut logits),
                Err(error) => {
                    processor.finish(Finish::Failed(error.to_string()));
                    None
                }
            }));
            match token {
                Ok(token) => *picked[index].lock() = token,
                // Only this sequence fails.
                Err(panic) => processor.fail(format!("picking a token panicked: {}", message(&*panic))),
            }
        });
        let mut ended = Vec::new();
        for ((at, _), picked) in wanted.iter().zip(picked) {
            match picked.into_inner() {
                Some(token) => {
                    self.running[*at].tokens.push(token);
                    self.running[*at].is_suspect = false;
                }
                None => ended.push(*at),
            }
        }
        ended.sort_unstable();
        for at in ended.into_iter().rev() {
            let sequence = self.running.remove(at);
            self.finish(sequence);
        }
    }

    /// Ends every sequence as broken.
    fn break_down(self, parts: &[StepPart], reason: &str) {
        tracing::error!(reason, sequences = self.running.len(), "a step failed; a new engine takes over");
        for (at, sequence) in self.running.into_iter().enumerate() {
            let was_running = parts.iter().any(|part| part.at == at);
            sequence.end(SequenceEnd::Broken { reason: reason.to_owned(), was_running });
        }
        for sequence in self.waiting {
            sequence.end(SequenceEnd::Broken { reason: reason.to_owned(), was_running: false });
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
