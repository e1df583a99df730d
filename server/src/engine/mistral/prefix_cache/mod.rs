//! The blocks of a model's paged cache: which sequence uses which blocks, and which blocks later prompts can reuse.
//!
//! A block holds the keys and values of [`BLOCK`] tokens. Its name is a SHA-256 of the name of the block before it and its own
//! tokens; the first name of this chain is derived from the tenant, so tenants never share a block. The blocks of an ended
//! sequence stay cached. If others need room, the least recently used block of the tenant that has the most is evicted.
//!
//! This module handles numbers of blocks only. Other modules read and write the tensors.
//!
//! | file | owns |
//! |---|---|
//! | `mod` | [`Blocks`]: which sequence uses which blocks |
//! | `names` | names of blocks → numbers of blocks |
//! | `lru` | which block is evicted next |

mod lru;
mod names;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use self::lru::Lru;
pub use self::names::{BlockId, CachedNames};
use crate::engine::{
    KvBlocks,
    kv::{BLOCK, BlockName},
};

/// The blocks of one engine.
pub struct Blocks {
    blocks: Vec<BlockState>,
    /// Blocks that hold nothing. The one that was used last is at the end and is taken first: the operating system has provided
    /// its memory.
    free: Vec<BlockId>,
    /// Blocks with content that no sequence uses.
    unused: Lru,
    named: CachedNames,
    /// Blocks by the name of the block before them.
    after: HashMap<BlockName, Vec<BlockId>>,
}

#[derive(Default)]
struct BlockState {
    /// The number of sequences and transfers that use the block.
    users: u32,
    /// What the block holds, if later prompts can reuse it.
    content: Option<Content>,
}

struct Content {
    tenant: Arc<str>,
    /// The name of the block before it.
    before: BlockName,
    /// `None` if the block is not full.
    name: Option<BlockName>,
    tokens: Vec<u32>,
}

/// The blocks of one sequence.
pub struct SequenceBlocks {
    tenant: Arc<str>,
    ids: Vec<BlockId>,
    /// The number of blocks at the beginning that are full and named.
    full: usize,
    /// The name of the last of these; the tenant's root if there are none.
    name: BlockName,
}

/// The blocks for a sequence, and how much of its prompt they hold already.
pub struct Found {
    pub held: SequenceBlocks,
    /// The number of tokens, from the first, that have their keys and values in `held`, those of [`Self::copied`] included.
    pub tokens: usize,
    /// Tokens that the caller must copy to a block of `held`, from a block that others may use.
    pub copied: Option<CopiedTokens>,
}

/// A copy of the first tokens of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CopiedTokens {
    pub from: BlockId,
    pub to: BlockId,
    pub tokens: usize,
}

impl SequenceBlocks {
    pub fn ids(&self) -> &[BlockId] {
        &self.ids
    }

    /// The place of the key and value of the token at `position`: `block * BLOCK + offset`. `None` if no block is held for it.
    pub fn slot(&self, position: usize) -> Option<i64> {
        let block = self.ids.get(position / BLOCK)?;
        Some(i64::from(*block) * BLOCK as i64 + (position % BLOCK) as i64)
    }
}

impl Blocks {
    /// Makes `count` blocks that hold nothing, and clears `named`.
    pub fn new(count: usize, named: CachedNames) -> Self {
        named.clear();
        let count = BlockId::try_from(count).unwrap_or(BlockId::MAX);
        Self {
            blocks: (0..count).map(|_| BlockState::default()).collect(),
            free: (0..count).rev().collect(),
            unused: Lru::default(),
            named,
            after: HashMap::new(),
        }
    }

    /// The number of all blocks.
    pub fn count(&self) -> usize {
        self.blocks.len()
    }

    /// The number of blocks that a sequence could take: free ones, and those that would be evicted.
    pub fn available(&self) -> usize {
        self.free.len() + self.unused.len()
    }

    pub fn counted(&self) -> KvBlocks {
        let total = self.blocks.len();
        KvBlocks { total, used: total - self.available(), cached: self.unused.len() }
    }

    /// Finds the longest beginning of `tokens` that is cached, and takes blocks for all tokens. Returns `None` and takes nothing
    /// if there are too few blocks. The last token is never counted as cached, because its logits are wanted.
    pub fn begin(&mut self, root: BlockName, tenant: &Arc<str>, tokens: &[u32]) -> Option<Found> {
        let most = tokens.len().saturating_sub(1);
        let mut held = SequenceBlocks { tenant: tenant.clone(), ids: Vec::new(), full: 0, name: root };
        for chunk in tokens[..most].chunks_exact(BLOCK) {
            let name = held.name.next(chunk);
            let Some(id) = self.named.get(&name) else { break };
            self.take(id);
            held.ids.push(id);
            held.full += 1;
            held.name = name;
        }
        let full = held.full * BLOCK;
        let partial = self.partial(held.name, tokens.get(full..most).unwrap_or_default());
        let Some((from, common)) = partial else {
            return self.rest(held, tokens.len(), full);
        };
        // The block that is copied must not be evicted for the copy.
        self.take(from);
        let grown = self.grow(&mut held, tokens.len());
        self.give_back(from);
        if grown {
            let copied = held.ids.get(held.full).map(|to| CopiedTokens { from, to: *to, tokens: common });
            return Some(Found { held, tokens: full + common, copied });
        }
        // Without room for a copy, the sequence takes the block itself, if no other sequence uses it.
        let reused = if self.seize(from, &mut held) { full + common } else { full };
        self.rest(held, tokens.len(), reused)
    }

    /// Takes the missing blocks of a sequence of `tokens` tokens, `found` of which are cached.
    fn rest(&mut self, mut held: SequenceBlocks, tokens: usize, found: usize) -> Option<Found> {
        if self.grow(&mut held, tokens) {
            return Some(Found { held, tokens: found, copied: None });
        }
        self.end(held, &[]);
        None
    }

    /// Gives an unused block to a sequence, which uses the block's first tokens and overwrites the rest. Later prompts do not
    /// find the block. Returns `false` if a sequence uses it.
    fn seize(&mut self, id: BlockId, held: &mut SequenceBlocks) -> bool {
        let is_free = self.blocks.get(id as usize).is_some_and(|block| block.users == 0);
        if is_free {
            self.unused.remove(id);
            self.forget(id);
            if let Some(block) = self.blocks.get_mut(id as usize) {
                block.users = 1;
            }
            held.ids.push(id);
        }
        is_free
    }

    /// Takes blocks until `held` has room for `tokens` tokens. Returns `false` and takes nothing if there are too few.
    pub fn grow(&mut self, held: &mut SequenceBlocks, tokens: usize) -> bool {
        let missing = tokens.div_ceil(BLOCK).saturating_sub(held.ids.len());
        if missing > self.available() {
            return false;
        }
        for _ in 0..missing {
            let Some(id) = self.free.pop().or_else(|| self.evict()) else { return false };
            if let Some(block) = self.blocks.get_mut(id as usize) {
                block.users = 1;
            }
            held.ids.push(id);
        }
        true
    }

    /// Names the full blocks of a sequence, so that others can reuse them. `computed`: the tokens whose keys and values the
    /// blocks hold, from the sequence's first.
    pub fn name_full(&mut self, held: &mut SequenceBlocks, computed: &[u32]) {
        for chunk in computed.chunks_exact(BLOCK).skip(held.full) {
            let Some(id) = held.ids.get(held.full).copied() else { return };
            let name = held.name.next(chunk);
            // Another sequence may have named an equal block before. Then this block is freed at the sequence's end.
            if self.named.insert(name, id) {
                let (tenant, tokens) = (held.tenant.clone(), chunk.to_vec());
                self.record(id, Content { tenant, before: held.name, name: Some(name), tokens });
            }
            held.full += 1;
            held.name = name;
        }
    }

    /// Releases the blocks of a sequence. Its computed tokens stay cached for later prompts, including those of a last block
    /// that is not full.
    pub fn end(&mut self, mut held: SequenceBlocks, computed: &[u32]) {
        self.name_full(&mut held, computed);
        let rest = computed.get(held.full * BLOCK..).unwrap_or_default();
        if let Some(id) = held.ids.get(held.full).copied().filter(|_| !rest.is_empty() && rest.len() < BLOCK) {
            let known = self.partial(held.name, rest).is_some_and(|(_, tokens)| tokens == rest.len());
            if !known {
                let (tenant, tokens) = (held.tenant.clone(), rest.to_vec());
                self.record(id, Content { tenant, before: held.name, name: None, tokens });
            }
        }
        // The last block counts as least recently used: the beginning of a conversation is reused more often than its end.
        for id in held.ids.into_iter().rev() {
            self.give_back(id);
        }
    }

    /// Finds the block after `before` that begins with the most of `tokens`. Returns the block and the number of equal tokens.
    fn partial(&self, before: BlockName, tokens: &[u32]) -> Option<(BlockId, usize)> {
        let common = |id: &BlockId| {
            let content = self.blocks.get(*id as usize)?.content.as_ref()?;
            Some((*id, content.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()))
        };
        let candidates = self.after.get(&before)?.iter().filter_map(common);
        candidates.max_by_key(|(_, tokens)| *tokens).filter(|(_, tokens)| *tokens > 0)
    }

    /// Records the content of a block, unless it has content, so that later prompts find it.
    fn record(&mut self, id: BlockId, content: Content) {
        let Some(block) = self.blocks.get_mut(id as usize).filter(|block| block.content.is_none()) else { return };
        self.after.entry(content.before).or_default().push(id);
        block.content = Some(content);
    }

    /// Adds a user of a block, so that it is not evicted. [`Self::give_back`] removes the user.
    pub fn take(&mut self, id: BlockId) {
        let Some(block) = self.blocks.get_mut(id as usize) else { return };
        block.users += 1;
        if block.users == 1 {
            self.unused.remove(id);
        }
    }

    pub fn give_back(&mut self, id: BlockId) {
        let Some(block) = self.blocks.get_mut(id as usize) else { return };
        block.users = block.users.saturating_sub(1);
        match &block.content {
            _ if block.users > 0 => {}
            Some(content) => self.unused.push(id, &content.tenant),
            None => self.free.push(id),
        }
    }

    fn evict(&mut self) -> Option<BlockId> {
        let id = self.unused.pop()?;
        self.forget(id);
        Some(id)
    }

    /// Drops the content of a block, so that later prompts do not find it.
    fn forget(&mut self, id: BlockId) {
        let Some(content) = self.blocks.get_mut(id as usize).and_then(|block| block.content.take()) else { return };
        if let Some(name) = content.name {
            self.named.remove(&name);
        }
        if let Some(after) = self.after.get_mut(&content.before) {
            after.retain(|other| *other != id);
            if after.is_empty() {
                self.after.remove(&content.before);
            }
        }
    }
}
