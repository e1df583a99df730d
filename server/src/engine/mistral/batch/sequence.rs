//! One generation in the batch.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::oneshot;

use crate::engine::{
    kv::{BLOCK, BlockName, Reuse},
    mistral::{kv_exchange::FetchedBlocks, prefix_cache::SequenceBlocks, run::token_processor::TokenProcessor},
};

/// A sequence for the batch to run.
pub struct Submission {
    /// Unique in the batch.
    pub id: u64,
    /// The prompt, and the output that earlier runs produced.
    pub tokens: Vec<u32>,
    pub tenant: Arc<str>,
    pub reuse: Reuse,
    /// Blocks of the prompt from the store, which need not be computed.
    pub fetched: Option<FetchedBlocks>,
    pub processor: Arc<TokenProcessor>,
    /// Whether the sequence was in a step that failed. It runs alone until it has produced a token.
    pub is_suspect: bool,
    /// Receives how the run ended; dropped if the engine's thread ends without a report.
    pub ended: oneshot::Sender<SequenceEnd>,
}

/// The way in which a run ended.
#[derive(Debug)]
pub enum SequenceEnd {
    /// The last delta was sent.
    Finished,
    /// The engine failed. `was_running`: the sequence was in the failed step, and may be the cause.
    Broken { reason: String, was_running: bool },
}

/// A submission in the engine's thread, waiting or running.
pub struct Sequence {
    pub id: u64,
    pub tokens: Vec<u32>,
    pub tenant: Arc<str>,
    pub reuse: Reuse,
    /// Fetched blocks that are not in the cache yet.
    pub fetched: VecDeque<Vec<u8>>,
    /// Blocks of the prompt before the first of `fetched`.
    fetched_from: usize,
    /// The name from which the name of the first block is derived.
    pub root: BlockName,
    pub processor: Arc<TokenProcessor>,
    pub is_suspect: bool,
    ended: oneshot::Sender<SequenceEnd>,
    /// A number that grows with each arrival.
    pub arrived: u64,
    /// `None` while the sequence waits for blocks.
    pub blocks: Option<SequenceBlocks>,
    /// The number of tokens, from the first, that have their keys and values in `blocks`.
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

    /// Drops fetched blocks that are computed already, and all of them if there is a gap before them.
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

    /// Tokens to compute before the next token is picked; at least 1.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether only the last token is left to compute.
    pub fn is_decoding(&self) -> bool {
        self.pending() == 1
    }

    pub fn end(self, ended: SequenceEnd) {
        // The receiver may be gone.
        let _ = self.ended.send(ended);
    }
}
