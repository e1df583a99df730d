//! One generation in the batch.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::oneshot;

use crate::engine::{
    kv::{BLOCK, BlockName, Reuse},
    mistral::{kv_exchange::FetchedBlocks, prefix_cache::SequenceBlocks, run::token_processor::TokenProcessor},
};

/// What the batch is to run.
pub struct Submission {
    /// Tells the sequences of a batch apart.
    pub id: u64,
    /// The prompt, and the output that is there already.
    pub tokens: Vec<u32>,
    pub tenant: Arc<str>,
    pub reuse: Reuse,
    /// Blocks of the prompt that need not be computed.
    pub fetched: Option<FetchedBlocks>,
    pub processor: Arc<TokenProcessor>,
    /// Whether it ran when an engine broke. It runs alone until it has produced a token.
    pub is_suspect: bool,
    /// Is told how the run ended; dropped if the engine's thread is gone.
    pub ended: oneshot::Sender<SequenceEnd>,
}

/// How a run ended.
#[derive(Debug)]
pub enum SequenceEnd {
    /// The last delta was sent.
    Finished,
    /// The engine broke, which `was_running` may have caused.
    Broken { reason: String, was_running: bool },
}

/// A submission that has its place.
pub struct Sequence {
    pub id: u64,
    pub tokens: Vec<u32>,
    pub tenant: Arc<str>,
    pub reuse: Reuse,
    /// Fetched blocks that are not in the cache yet, and the place of the first in the prompt, in blocks.
    pub fetched: VecDeque<Vec<u8>>,
    fetched_from: usize,
    /// The name before the tenant's first block.
    pub root: BlockName,
    pub processor: Arc<TokenProcessor>,
    pub is_suspect: bool,
    ended: oneshot::Sender<SequenceEnd>,
    /// Counts arrivals.
    pub arrived: u64,
    /// Absent while the sequence waits for blocks.
    pub blocks: Option<SequenceBlocks>,
    /// Tokens whose keys and values are in `blocks`.
    pub computed: usize,
}

impl Sequence {
    pub fn new(submission: Submission, root: BlockName, arrived: u64) -> Self {
        let Submission { id, tokens, tenant, reuse, fetched, processor, is_suspect, ended } = submission;
        let (fetched_from, fetched) = fetched.map(|fetched| (fetched.first, fetched.blocks)).unwrap_or_default();
        Self {
            id,
            tokens,
            tenant,
            reuse,
            fetched,
            fetched_from,
            root,
            processor,
            is_suspect,
            ended,
            arrived,
            blocks: None,
            computed: 0,
        }
    }

    /// Keeps of the fetched blocks those that follow what is computed, without a gap.
    pub fn keep_fetched(&mut self) {
        let cached = self.computed / BLOCK;
        if cached < self.fetched_from {
            self.fetched.clear();
        }
        self.fetched.drain(..(cached - self.fetched_from.min(cached)).min(self.fetched.len()));
        self.fetched_from = cached;
    }

    /// Whether a step can compute its next tokens.
    pub fn is_ready(&self) -> bool {
        self.blocks.is_some() && self.fetched.is_empty()
    }

    /// Tokens that are still to be computed before the next one is picked; at least 1.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether only the last token is to be computed.
    pub fn is_decoding(&self) -> bool {
        self.pending() == 1
    }

    pub fn end(self, ended: SequenceEnd) {
        // Who waited for it may be gone.
        let _ = self.ended.send(ended);
    }
}
