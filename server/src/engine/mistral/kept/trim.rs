//! What is dropped when a slot keeps more than it may.

use std::{collections::HashSet, sync::Arc};

use super::{BLOCK, Entry, FirstLogits, Held, Kept, MAX_ENTRIES, Part, SHARED_STEP, shared_prefix};

/// Tokens beyond what it shares with others that a sequence keeps when the rest is dropped. Another prompt that begins alike,
/// and by chance with some of its own words, finds this entry in the engine; with nothing there it would need a new salt, and
/// what all share would be computed again.
pub const HEAD: usize = 8;

struct Bytes {
    /// Keys and values of whole sequences.
    whole: u64,
    /// Those that only heads have.
    heads: u64,
    logits: u64,
}

impl Kept {
    /// Drops what was used least recently, until no more than `budget` bytes are held. Logits may take a quarter of it, for they
    /// serve a prompt that is asked again only, and heads another. False where only emptying the engine's cache helps.
    pub fn trim(&mut self, budget: u64, bytes_per_token: u64) -> bool {
        loop {
            let Bytes { whole, heads, logits } = self.held_bytes(bytes_per_token);
            if whole + heads + logits <= budget {
                return self.entries.len() < MAX_ENTRIES;
            }
            let dropped = logits > budget / 4 && self.drop_logits()
                || heads > budget / 4 && self.drop_head()
                || self.drop_whole()
                || self.drop_head()
                || self.drop_logits();
            if !dropped {
                return false;
            }
        }
    }

    fn drop_logits(&mut self) -> bool {
        let entry = self.least_recent(|entry| entry.logits.iter().next().is_some());
        entry.map(|index| self.entries[index].logits = FirstLogits::default()).is_some()
    }

    fn drop_head(&mut self) -> bool {
        let part = |entry: &Entry| matches!(entry.home, Held::Here { part: Part::Head, tokens: 1.., .. });
        self.least_recent(part).map(|index| self.cut(index, 0)).is_some()
    }

    /// Keys and values but for the head.
    fn drop_whole(&mut self) -> bool {
        let part = |entry: &Entry| matches!(entry.home, Held::Here { part: Part::Whole, .. });
        let Some(index) = self.least_recent(part) else { return false };
        self.cut(index, self.head(&self.entries[index]));
        true
    }

    /// Of some entries, that which was used least recently; never the newest of all.
    fn least_recent(&self, some: impl Fn(&Entry) -> bool) -> Option<usize> {
        let newest = self.entries.iter().map(|entry| entry.last_used).max();
        let some = |(_, entry): &(usize, &Entry)| some(entry) && Some(entry.last_used) != newest;
        let oldest = self.entries.iter().enumerate().filter(some).min_by_key(|(_, entry)| entry.last_used);
        oldest.map(|(index, _)| index)
    }

    fn cut(&mut self, index: usize, head: usize) {
        let entry = &mut self.entries[index];
        entry.logits = FirstLogits::default();
        if let Held::Here { tokens, blocks, part, .. } = &mut entry.home {
            *tokens = head.min(*tokens);
            blocks.truncate(head.div_ceil(BLOCK));
            *part = Part::Head;
        }
    }

    /// Tokens of which an entry keeps keys and values when the rest is dropped.
    fn head(&self, entry: &Entry) -> usize {
        let branch = |other: &Entry| {
            let shared = shared_prefix(&other.key.tokens, &entry.key.tokens);
            // Another turn of the same conversation is no branch.
            if shared + 1 < other.key.tokens.len().min(entry.key.tokens.len()) { shared } else { 0 }
        };
        let shared = self.of(&entry.key.scope).map(branch).max().unwrap_or(0);
        if shared < SHARED_STEP { 0 } else { (shared + HEAD).div_ceil(BLOCK) * BLOCK }
    }

    /// What is held, in bytes; what sequences share counts once.
    #[cfg(test)]
    pub fn bytes(&self, bytes_per_token: u64) -> u64 {
        let Bytes { whole, heads, logits } = self.held_bytes(bytes_per_token);
        whole + heads + logits
    }

    fn held_bytes(&self, bytes_per_token: u64) -> Bytes {
        let (mut seen, mut seen_logits) = (HashSet::new(), HashSet::new());
        let mut of = |part| {
            let new = |entry: &Entry| match &entry.home {
                Held::Here { blocks, part: its, .. } if *its == part => {
                    blocks.iter().filter(|block| seen.insert(Arc::as_ptr(block))).count() as u64
                }
                _ => 0,
            };
            self.entries.iter().map(new).sum::<u64>() * BLOCK as u64 * bytes_per_token
        };
        // What whole sequences have is not counted as a head.
        let (here, heads) = (of(Part::Whole), of(Part::Head));
        let in_engine = |entry: &Entry| if let Held::Engine(bytes) = entry.home { bytes } else { 0 };
        let logits = self.entries.iter().flat_map(|entry| entry.logits.iter());
        let new = logits.filter(|logits| seen_logits.insert(Arc::as_ptr(logits)));
        Bytes {
            whole: here + self.entries.iter().map(in_engine).sum::<u64>(),
            heads,
            logits: new.map(|logits| size_of_val(&**logits) as u64).sum(),
        }
    }
}
