//! What one slot keeps for later turns: the entries of the engine's prefix cache, in the engine's order, and the keys and
//! values of their tokens, which are ours. It foretells what the engine will do with a prompt: the engine takes the first of
//! the entries that share the longest beginning with it, and trusts that their keys and values are there.
//!
//! The engine compares tokens and knows no tenants. So the first token of what it is given may be another, a *salt*, which it
//! finds in an entry of that one token; the keys and values of the true first token are put there, which are the same in
//! every sequence. What has one salt is never found by another: each tenant has its own, and a tenant gets a new one where the
//! engine would find what is no longer there, or the whole prompt, of which it wants a token to begin with.

#[cfg(test)]
mod tests;
mod trim;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    kv::{BLOCK, Block, Home},
    logits::{FirstLogits, Logits},
};

/// Entries at which the engine's cache is emptied. The engine forgets no entry by itself and looks at all of them for every
/// prompt; those without keys and values cost their tokens only.
const MAX_ENTRIES: usize = 256;

/// Where salts are looked for: ordinary words, with which no chat template begins.
const SALTS: u32 = 1000;

/// Tokens at the beginning of a sequence that are remembered. A chat template begins with one or few.
const MAX_FIRSTS: usize = 16;

/// So that the few tokens that every prompt begins with do not bind all conversations to one slot.
const SHARED_STEP: usize = 64;

#[derive(Default)]
pub struct Kept {
    entries: Vec<Entry>,
    /// Keys and values of tokens at the beginning of a sequence.
    firsts: HashMap<u32, Arc<Block>>,
    clock: u64,
}

struct Entry {
    key: Key,
    home: Held,
    logits: FirstLogits,
    last_used: u64,
}

/// What a sequence is found by.
pub struct Key {
    /// Who may reuse it.
    pub scope: Arc<str>,
    /// What the engine has in the place of the first token.
    pub salt: u32,
    /// All tokens, that which ended the sequence included, which has no keys and values.
    pub tokens: Vec<u32>,
}

/// Where keys and values are.
pub enum Held {
    /// In the engine, for as long as the entry; this many bytes.
    Engine(u64),
    /// With us, of the first `tokens`.
    Here { home: Arc<Home>, blocks: Vec<Arc<Block>>, tokens: usize, part: Part },
}

/// What of a sequence is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// Its beginning at most.
    Head,
    /// It is but a salt, and has the first token's.
    Salt,
}

/// What a prompt needs before the engine gets it, and what it then finds.
pub struct Reuse {
    /// Tokens of the prompt that the engine does not compute.
    pub cached: usize,
    /// What the engine is given in the place of the first token.
    pub salt: u32,
    pub first: Before,
}

pub enum Before {
    Nothing,
    /// The engine's cache has to be emptied: what the prompt would find there is another's, or has lost its keys and values.
    Empty,
    /// The engine has to have an entry of the salt, with these.
    Salt(Arc<Block>),
    /// These have to be put there.
    Put(Arc<Home>, Vec<Arc<Block>>),
}

impl Kept {
    /// What the engine makes of a prompt, with the salt by which it finds most.
    pub fn reuse(&self, prompt: &[u32], scope: &str) -> Reuse {
        let (held, blocks) = self.held(prompt, scope);
        let mut longest: BTreeMap<u32, (usize, &Entry)> = BTreeMap::new();
        for entry in self.of(scope) {
            let shared = shared_prefix(&entry.key.tokens, prompt);
            let best = longest.entry(entry.key.salt).or_insert((shared, entry));
            if shared > best.0 {
                *best = (shared, entry);
            }
        }
        // The token that ended a sequence has no keys and values; an engine that found it lives with zeros.
        let needed = |shared: usize, entry: &Entry| shared.min(entry.key.tokens.len() - 1);
        let usable = |(shared, entry): &(usize, &Entry)| {
            let there = matches!(entry.home, Held::Engine(_)) || held >= needed(*shared, entry);
            there && (1..prompt.len()).contains(shared)
        };
        let Some((cached, entry)) = longest.into_values().filter(usable).max_by_key(|(shared, _)| *shared) else {
            return self.anew(prompt, scope);
        };
        let first = match &entry.home {
            Held::Engine(_) => Before::Nothing,
            Held::Here { home, .. } => {
                let blocks = blocks.iter().take(needed(cached, entry).div_ceil(BLOCK));
                Before::Put(home.clone(), blocks.cloned().collect())
            }
        };
        Reuse { cached, salt: entry.key.salt, first }
    }

    /// How a prompt is computed of which the engine may find nothing.
    fn anew(&self, prompt: &[u32], scope: &str) -> Reuse {
        let token = prompt.first().copied().unwrap_or_default();
        let is_taken = |salt: u32| self.entries.iter().any(|entry| entry.key.salt == salt);
        let itself = |first| Reuse { cached: 0, salt: token, first };
        if !is_taken(token) {
            return itself(Before::Nothing);
        }
        if let Some(block) = self.firsts.get(&token).filter(|_| prompt.len() > 1) {
            let salt = (SALTS..).find(|salt| !is_taken(*salt)).unwrap_or(SALTS);
            return Reuse { cached: 1, salt, first: Before::Salt(block.clone()) };
        }
        // The engine computes a prompt whole that it finds whole.
        let mut same = self.entries.iter().filter(|entry| entry.key.salt == token);
        let whole = same.clone().any(|entry| entry.key.tokens.starts_with(prompt))
            && same.all(|entry| &*entry.key.scope == scope);
        itself(if whole { Before::Nothing } else { Before::Empty })
    }

    fn of(&self, scope: &str) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| &*entry.key.scope == scope)
    }

    /// Whether keys and values of a token at the beginning are to be learnt.
    pub fn wants_first(&self, token: u32) -> bool {
        self.firsts.len() < MAX_FIRSTS && !self.firsts.contains_key(&token)
    }

    pub fn learn_first(&mut self, token: u32, block: Block) {
        self.firsts.insert(token, Arc::new(block));
    }

    /// What the model said after `tokens`, where that is kept.
    pub fn logits_after(&self, tokens: &[u32], scope: &str) -> Option<Logits> {
        let of =
            |entry: &Entry| entry.logits.after(tokens.len()).filter(|_| entry.key.tokens.starts_with(tokens)).cloned();
        self.of(scope).find_map(of)
    }

    /// Whether keys and values of the whole prompt are there, for prompts that begin with it.
    pub fn has_all(&self, prompt: &[u32], scope: &str) -> bool {
        let in_engine = |entry: &Entry| matches!(entry.home, Held::Engine(_)) && entry.key.tokens.starts_with(prompt);
        self.held(prompt, scope).0 == prompt.len() || self.of(scope).any(in_engine)
    }

    /// Tokens of the prompt that choosing this slot saves; a beginning that is not a whole turn counts in steps of
    /// [`SHARED_STEP`].
    pub fn worth(&self, prompt: &[u32], scope: &str) -> usize {
        if self.logits_after(prompt, scope).is_some() {
            return prompt.len();
        }
        let Reuse { cached, .. } = self.reuse(prompt, scope);
        let whole_turn = self
            .of(scope)
            .any(|entry| entry.key.tokens.len() <= cached + 1 && shared_prefix(&entry.key.tokens, prompt) == cached);
        if whole_turn { cached } else { cached / SHARED_STEP * SHARED_STEP }
    }

    /// Whole blocks that are held already of a sequence's beginning.
    pub fn shared_blocks(&self, tokens: &[u32], scope: &str) -> Vec<Arc<Block>> {
        let (held, blocks) = self.held(tokens, scope);
        blocks.iter().take(held / BLOCK).cloned().collect()
    }

    /// The longest beginning of `tokens` that is held, in one entry's blocks.
    fn held(&self, tokens: &[u32], scope: &str) -> (usize, &[Arc<Block>]) {
        let of = |entry: &Entry| match &entry.home {
            Held::Here { tokens: held, .. } => shared_prefix(&entry.key.tokens[..*held], tokens),
            Held::Engine(_) => 0,
        };
        let longest = self.of(scope).map(|entry| (of(entry), entry)).max_by_key(|(held, _)| *held);
        match longest {
            Some((held, Entry { home: Held::Here { blocks, .. }, .. })) => (held, blocks),
            _ => (0, &[]),
        }
    }

    /// Marks what a prompt begins with as used now.
    pub fn touch(&mut self, prompt: &[u32], scope: &str) {
        self.clock += 1;
        let own = self.entries.iter_mut().filter(|entry| &*entry.key.scope == scope);
        let longest = own.max_by_key(|entry| shared_prefix(&entry.key.tokens, prompt));
        if let Some(entry) = longest {
            entry.last_used = self.clock;
        }
    }

    /// The engine has kept a sequence.
    pub fn add(&mut self, key: Key, home: Held, logits: FirstLogits) {
        self.clock += 1;
        let entry = Entry { key, home, logits, last_used: self.clock };
        let same = |old: &&mut Entry| old.key.salt == entry.key.salt && old.key.tokens == entry.key.tokens;
        match self.entries.iter_mut().find(same) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
    }

    pub fn is_foreign(&self, scope: &str) -> bool {
        self.entries.iter().any(|entry| &*entry.key.scope != scope)
    }

    /// The engine's cache was emptied.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    #[cfg(test)]
    pub fn scopes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.iter().map(|entry| &entry.key.scope)
    }
}

fn shared_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
