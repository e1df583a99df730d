//! What one slot keeps for later turns: the entries of the engine's prefix cache, in the engine's order, and the keys and
//! values of their tokens, which are ours. It foretells what the engine will do with a prompt: the engine takes the first of
//! the entries that share the longest beginning with it, and trusts that their keys and values are there.

use std::{collections::HashSet, sync::Arc};

use super::{
    kv::{BLOCK, Block, Home},
    logits::{FirstLogits, Logits},
};

/// Entries at which the engine's cache is emptied. The engine forgets no entry by itself and looks at all of them for every
/// prompt; those without keys and values cost their tokens only.
const MAX_ENTRIES: usize = 256;

/// Tokens beyond what it shares with others that a sequence keeps when the rest is dropped. Another prompt that begins alike
/// finds this entry in the engine, and with nothing there the cache would have to be emptied for it.
const HEAD: usize = 8;

/// So that the few tokens that every prompt begins with do not bind all conversations to one slot.
const SHARED_STEP: usize = 64;

#[derive(Default)]
pub struct Kept {
    entries: Vec<Entry>,
    clock: u64,
}

struct Entry {
    /// Who may reuse it.
    scope: Arc<str>,
    /// The engine's key: all tokens, that which ended the sequence included, which has no keys and values.
    tokens: Vec<u32>,
    home: Held,
    logits: FirstLogits,
    last_used: u64,
}

/// Where keys and values are.
pub enum Held {
    /// In the engine, for as long as the entry; this many bytes.
    Engine(u64),
    /// With us, of the first `tokens`.
    Here { home: Arc<Home>, blocks: Vec<Arc<Block>>, tokens: usize, trimmed: bool },
}

/// What a prompt needs before the engine gets it, and what it then finds.
pub struct Reuse {
    /// Tokens of the prompt that the engine does not compute.
    pub cached: usize,
    pub first: Before,
}

pub enum Before {
    Nothing,
    /// The engine's cache has to be emptied: it has another scope's, or an entry that has lost what the prompt would find.
    Empty,
    /// These have to be put there.
    Put(Arc<Home>, Vec<Arc<Block>>),
}

impl Kept {
    /// What the engine makes of a prompt. One that [lies inside](Self::contains) an entry is computed whole.
    pub fn reuse(&self, prompt: &[u32], scope: &str) -> Reuse {
        let none = |first| Reuse { cached: 0, first };
        if self.is_foreign(scope) {
            return none(Before::Empty);
        }
        let mut best: Option<(usize, &Entry)> = None;
        for entry in &self.entries {
            let shared = shared_prefix(&entry.tokens, prompt);
            if shared > best.map_or(0, |(most, _)| most) {
                best = Some((shared, entry));
            }
        }
        let Some((cached, entry)) = best.filter(|(shared, _)| *shared < prompt.len()) else {
            return none(Before::Nothing);
        };
        let Held::Here { home, .. } = &entry.home else { return Reuse { cached, first: Before::Nothing } };
        // The token that ended a sequence has no keys and values; an engine that found it lives with zeros.
        let needed = cached.min(entry.tokens.len() - 1);
        let (held, blocks) = self.held(prompt);
        if held < needed {
            return none(Before::Empty);
        }
        let blocks = blocks.iter().take(needed.div_ceil(BLOCK)).cloned().collect();
        Reuse { cached, first: Before::Put(home.clone(), blocks) }
    }

    /// Whether a prompt lies wholly inside an entry that the scope may reuse. The engine wants a token to begin with.
    pub fn contains(&self, prompt: &[u32], scope: &str) -> bool {
        !self.is_foreign(scope) && self.entries.iter().any(|entry| entry.tokens.starts_with(prompt))
    }

    /// What the model said after `tokens`, where that is kept.
    pub fn logits_after(&self, tokens: &[u32], scope: &str) -> Option<Logits> {
        let of = |entry: &Entry| entry.logits.after(tokens.len()).filter(|_| entry.tokens.starts_with(tokens)).cloned();
        if self.is_foreign(scope) { None } else { self.entries.iter().find_map(of) }
    }

    /// Whether keys and values of the whole prompt are there, for prompts that begin with it.
    pub fn has_all(&self, prompt: &[u32], scope: &str) -> bool {
        let in_engine = |entry: &Entry| matches!(entry.home, Held::Engine(_)) && entry.tokens.starts_with(prompt);
        !self.is_foreign(scope) && (self.held(prompt).0 == prompt.len() || self.entries.iter().any(in_engine))
    }

    /// Tokens of the prompt that choosing this slot saves; a beginning that is not a whole turn counts in steps of
    /// [`SHARED_STEP`].
    pub fn worth(&self, prompt: &[u32], scope: &str) -> usize {
        if self.logits_after(prompt, scope).is_some() {
            return prompt.len();
        }
        let Reuse { cached, .. } = self.reuse(prompt, scope);
        let whole_turn = self
            .entries
            .iter()
            .any(|entry| entry.tokens.len() <= cached + 1 && shared_prefix(&entry.tokens, prompt) == cached);
        if whole_turn { cached } else { cached / SHARED_STEP * SHARED_STEP }
    }

    /// Whole blocks that are held already of a sequence's beginning.
    pub fn shared_blocks(&self, tokens: &[u32]) -> Vec<Arc<Block>> {
        let (held, blocks) = self.held(tokens);
        blocks.iter().take(held / BLOCK).cloned().collect()
    }

    /// The longest beginning of `tokens` that is held, in one entry's blocks.
    fn held(&self, tokens: &[u32]) -> (usize, &[Arc<Block>]) {
        let of = |entry: &Entry| match &entry.home {
            Held::Here { tokens: held, .. } => shared_prefix(&entry.tokens[..*held], tokens),
            Held::Engine(_) => 0,
        };
        let longest = self.entries.iter().map(|entry| (of(entry), entry)).max_by_key(|(held, _)| *held);
        match longest {
            Some((held, Entry { home: Held::Here { blocks, .. }, .. })) => (held, blocks),
            _ => (0, &[]),
        }
    }

    /// Marks what a prompt begins with as used now.
    pub fn touch(&mut self, prompt: &[u32]) {
        self.clock += 1;
        let longest = self.entries.iter_mut().max_by_key(|entry| shared_prefix(&entry.tokens, prompt));
        if let Some(entry) = longest {
            entry.last_used = self.clock;
        }
    }

    /// The engine has kept a sequence.
    pub fn add(&mut self, scope: Arc<str>, tokens: Vec<u32>, home: Held, logits: FirstLogits) {
        self.clock += 1;
        let entry = Entry { scope, tokens, home, logits, last_used: self.clock };
        match self.entries.iter_mut().find(|old| old.tokens == entry.tokens) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
    }

    /// Drops logits, and keys and values but for their heads, of the least recently used sequences, until no more than `budget`
    /// bytes are held. False where only emptying the engine's cache helps.
    pub fn trim(&mut self, budget: u64, bytes_per_token: u64) -> bool {
        let newest = self.entries.iter().map(|entry| entry.last_used).max();
        while self.bytes(bytes_per_token) > budget {
            let whole = |(_, entry): &(usize, &Entry)| {
                matches!(entry.home, Held::Here { trimmed: false, .. }) && Some(entry.last_used) != newest
            };
            let oldest = self.entries.iter().enumerate().filter(whole).min_by_key(|(_, entry)| entry.last_used);
            let Some((index, entry)) = oldest else { return false };
            let head = self.head(entry);
            self.entries[index].logits = FirstLogits::default();
            if let Held::Here { tokens, blocks, trimmed, .. } = &mut self.entries[index].home {
                *tokens = head.min(*tokens);
                blocks.truncate(head.div_ceil(BLOCK));
                *trimmed = true;
            }
        }
        self.entries.len() < MAX_ENTRIES
    }

    /// Tokens of which an entry keeps keys and values when the rest is dropped.
    fn head(&self, entry: &Entry) -> usize {
        let branch = |other: &Entry| {
            let shared = shared_prefix(&other.tokens, &entry.tokens);
            // Another turn of the same conversation is no branch.
            if shared + 1 < other.tokens.len().min(entry.tokens.len()) { shared } else { 0 }
        };
        let shared = self.entries.iter().map(branch).max().unwrap_or(0);
        (shared + HEAD).div_ceil(BLOCK) * BLOCK
    }

    pub fn is_foreign(&self, scope: &str) -> bool {
        self.entries.iter().any(|entry| &*entry.scope != scope)
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// What is held, in bytes; what sequences share counts once.
    pub fn bytes(&self, bytes_per_token: u64) -> u64 {
        let (mut seen, mut seen_logits) = (HashSet::new(), HashSet::new());
        let of = |entry: &Entry| {
            let new = entry.logits.iter().filter(|logits| seen_logits.insert(Arc::as_ptr(logits)));
            let logits: usize = new.map(|logits| size_of_val(&**logits)).sum();
            let keys_and_values = match &entry.home {
                Held::Engine(bytes) => *bytes,
                Held::Here { blocks, .. } => {
                    let new = blocks.iter().filter(|block| seen.insert(Arc::as_ptr(block))).count();
                    (new * BLOCK) as u64 * bytes_per_token
                }
            };
            keys_and_values + logits as u64
        };
        self.entries.iter().map(of).sum()
    }

    #[cfg(test)]
    pub fn scopes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.iter().map(|entry| &entry.scope)
    }
}

fn shared_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u32 = 9999;
    /// Bytes of one step's.
    const LOGITS: u64 = 16;

    impl Kept {
        fn say(&mut self, tokens: &[u32]) {
            self.say_with(tokens, tokens.len(), 0);
        }

        /// A sequence of which everything is held, with its own copy of what no other has, and the logits of `steps` after its
        /// prompt.
        fn say_with(&mut self, tokens: &[u32], prompt: usize, steps: u64) {
            let mut logits = FirstLogits::of_prompt(prompt);
            (0..steps).for_each(|step| logits.keep(step, || vec![step as f32; LOGITS as usize / 4].into()));
            let mut blocks = self.shared_blocks(tokens);
            blocks.resize_with(tokens.len().div_ceil(BLOCK), || Arc::new(Block::nothing()));
            let home = Held::Here { home: Arc::new(Home::nothing()), blocks, tokens: tokens.len(), trimmed: false };
            self.touch(tokens);
            self.add("t".into(), [tokens, &[END]].concat(), home, logits);
        }

        /// Tokens found, and of how many keys and values are put back first; none where the cache is emptied.
        fn found(&self, prompt: &[u32]) -> Option<(usize, usize)> {
            let reuse = self.reuse(prompt, "t");
            match reuse.first {
                Before::Nothing => Some((reuse.cached, 0)),
                Before::Put(_, blocks) => Some((reuse.cached, blocks.len() * BLOCK)),
                Before::Empty => None,
            }
        }
    }

    fn tokens(from: u32, len: usize) -> Vec<u32> {
        (from..).take(len).collect()
    }

    #[test]
    fn a_prompt_finds_the_longest_beginning() {
        let mut kept = Kept::default();
        assert_eq!(kept.found(&tokens(0, 50)), Some((0, 0)));
        kept.say(&tokens(0, 40));
        kept.say(&tokens(0, 70));
        assert_eq!(kept.found(&tokens(0, 100)), Some((70, 96)), "the longer one, whole");
        assert_eq!(kept.found(&[tokens(0, 33), tokens(500, 9)].concat()), Some((33, 64)));
        assert_eq!(kept.found(&tokens(0, 70)), Some((0, 0)), "a prompt inside an entry is computed whole");
        assert_eq!(kept.found(&tokens(500, 9)), Some((0, 0)));
        assert!(matches!(kept.reuse(&tokens(0, 100), "other").first, Before::Empty), "another's");
    }

    #[test]
    fn a_conversation_is_held_once() {
        let mut kept = Kept::default();
        for turn in 1..=10 {
            kept.say(&tokens(0, turn * 64));
        }
        assert_eq!(kept.bytes(1), 640);
        kept.say(&[tokens(0, 320), tokens(5000, 64)].concat());
        assert_eq!(kept.bytes(1), 704, "a branch adds what is its own");
    }

    #[test]
    fn the_least_recently_used_loses_all_but_its_head() {
        let mut kept = Kept::default();
        let chat = |n: u32, len| [tokens(0, 64), tokens(n * 1000, len)].concat();
        for n in 1..=5 {
            kept.say(&chat(n, 192));
        }
        kept.touch(&chat(1, 500));
        assert!(kept.trim(64 + 3 * 192 + 2 * 32, 1));
        for n in [1, 4, 5] {
            assert_eq!(kept.found(&chat(n, 500)), Some((256, 256)), "chat {n}");
        }
        assert_eq!(kept.found(&chat(2, 500)), None, "its keys and values are gone");
        let begins_alike = |len| [chat(2, len), tokens(7000, 9)].concat();
        assert_eq!(kept.found(&begins_alike(HEAD)), Some((72, 96)), "but not those of its head");
        assert_eq!(kept.found(&begins_alike(100)), None);
        assert_eq!(kept.found(&chat(6, 9)), Some((64, 64)), "nor those of what all begin with");
    }

    #[test]
    fn what_another_turn_holds_serves_the_entry_that_lost_it() {
        let mut kept = Kept::default();
        kept.say(&tokens(0, 100));
        kept.say(&tokens(0, 200));
        kept.say(&tokens(5000, 10));
        assert!(kept.trim(7 * 32 + 32, 1));
        assert_eq!(kept.found(&[tokens(0, 90), tokens(700, 9)].concat()), Some((90, 96)));
    }

    #[test]
    fn what_the_model_said_first_is_kept_with_its_sequence() {
        let mut kept = Kept::default();
        let said = [tokens(0, 40), tokens(600, 3)].concat();
        kept.say_with(&said, 40, 3);
        kept.say(&tokens(5000, 32));
        assert_eq!(kept.bytes(1), 64 + 32 + 3 * LOGITS);
        let after = |kept: &Kept, tokens: &[u32]| kept.logits_after(tokens, "t").map(|logits| logits[0]);
        assert_eq!(after(&kept, &said[..39]), None, "inside the prompt");
        assert_eq!(after(&kept, &said[..40]), Some(0.0));
        assert_eq!(after(&kept, &said[..42]), Some(2.0));
        assert_eq!(after(&kept, &said[..43]), None, "more than was kept");
        assert_eq!(after(&kept, &[tokens(0, 40), tokens(900, 1)].concat()), None, "another token");
        assert!(kept.logits_after(&said[..40], "other").is_none(), "another's");
        assert_eq!((kept.worth(&said[..40], "t"), kept.worth(&said[..39], "t")), (40, 0));
        assert!(kept.contains(&said[..39], "t") && !kept.contains(&[0, 2], "t"));
        assert!(!kept.contains(&said[..39], "other"), "how it is read must not tell what another has asked");
        kept.trim(64 + 32 + LOGITS, 1);
        assert_eq!(after(&kept, &said[..40]), None, "the budget is for them too");
    }

    #[test]
    fn what_cannot_be_trimmed_is_said() {
        let mut kept = Kept::default();
        kept.add("t".into(), tokens(0, 5), Held::Engine(100), FirstLogits::default());
        assert_eq!(kept.found(&tokens(0, 9)), Some((5, 0)));
        assert!(kept.trim(100, 1));
        assert!(!kept.trim(99, 1));
        kept.clear();
        for n in 0..MAX_ENTRIES as u32 {
            kept.say(&[n + 1]);
        }
        assert!(!kept.trim(u64::MAX, 1), "too many entries");
    }
}
