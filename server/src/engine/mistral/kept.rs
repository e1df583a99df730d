//! What one slot keeps for later turns: the entries of the engine's prefix cache, in the engine's order, and the keys and
//! values of their tokens, which are ours. It foretells what the engine will do with a prompt: the engine takes the first of
//! the entries that share the longest beginning with it, and trusts that their keys and values are there.
//!
//! The engine compares tokens and knows no tenants. So the first token of what it is given may be another, a *salt*, which it
//! finds in an entry of that one token; the keys and values of the true first token are put there, which are the same in
//! every sequence. What has one salt is never found by another: each tenant has its own, and a tenant gets a new one where the
//! engine would find what is no longer there, or the whole prompt, of which it wants a token to begin with.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

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

/// Where salts are looked for: ordinary words, with which no chat template begins.
const SALTS: u32 = 1000;

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
    Here { home: Arc<Home>, blocks: Vec<Arc<Block>>, tokens: usize, trimmed: bool },
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

    /// Whether keys and values of a token at the beginning are known.
    pub fn knows_first(&self, token: u32) -> bool {
        self.firsts.contains_key(&token)
    }

    pub fn learn_first(&mut self, token: u32, block: Block) {
        self.firsts.insert(token, Arc::new(block));
    }

    /// The engine has an entry of a salt. The key's tokens are the true first one and those with which its run ended.
    pub fn add_salt(&mut self, key: Key, home: Arc<Home>) {
        let blocks = key.tokens.first().and_then(|token| self.firsts.get(token)).cloned().into_iter().collect();
        self.add(key, Held::Here { home, blocks, tokens: 1, trimmed: true }, FirstLogits::default());
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
            let shared = shared_prefix(&other.key.tokens, &entry.key.tokens);
            // Another turn of the same conversation is no branch.
            if shared + 1 < other.key.tokens.len().min(entry.key.tokens.len()) { shared } else { 0 }
        };
        let shared = self.of(&entry.key.scope).map(branch).max().unwrap_or(0);
        (shared + HEAD).div_ceil(BLOCK) * BLOCK
    }

    pub fn is_foreign(&self, scope: &str) -> bool {
        self.entries.iter().any(|entry| &*entry.key.scope != scope)
    }

    /// The engine's cache was emptied.
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
        self.entries.iter().map(|entry| &entry.key.scope)
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
            self.say_in("t", tokens, logits);
        }

        fn say_in(&mut self, scope: &str, tokens: &[u32], logits: FirstLogits) {
            let Reuse { salt, first, .. } = self.reuse(tokens, scope);
            let key = |tokens| Key { scope: scope.into(), salt, tokens };
            if let Before::Salt(_) = first {
                self.add_salt(key(vec![tokens[0], 3, END]), Arc::new(Home::nothing()));
            }
            if salt == tokens[0] {
                self.learn_first(salt, Block::nothing());
            }
            let mut blocks = self.shared_blocks(tokens, scope);
            blocks.resize_with(tokens.len().div_ceil(BLOCK), || Arc::new(Block::nothing()));
            let home = Held::Here { home: Arc::new(Home::nothing()), blocks, tokens: tokens.len(), trimmed: false };
            self.touch(tokens, scope);
            self.add(key([tokens, &[END]].concat()), home, logits);
        }

        fn found(&self, prompt: &[u32]) -> (usize, Found) {
            self.found_in("t", prompt)
        }

        /// Tokens that the engine finds, and what has to be done first.
        fn found_in(&self, scope: &str, prompt: &[u32]) -> (usize, Found) {
            let reuse = self.reuse(prompt, scope);
            let first = match reuse.first {
                Before::Nothing => Found::There,
                Before::Put(_, blocks) => Found::Put(blocks.len() * BLOCK),
                Before::Salt(_) => Found::Salt,
                Before::Empty => Found::Empty,
            };
            (reuse.cached, first)
        }
    }

    #[derive(Debug, PartialEq)]
    enum Found {
        There,
        /// Keys and values of so many tokens are put back.
        Put(usize),
        Salt,
        Empty,
    }
    use Found::*;

    fn tokens(from: u32, len: usize) -> Vec<u32> {
        (from..).take(len).collect()
    }

    #[test]
    fn a_prompt_finds_the_longest_beginning() {
        let mut kept = Kept::default();
        assert_eq!(kept.found(&tokens(0, 50)), (0, There));
        kept.say(&tokens(0, 40));
        kept.say(&tokens(0, 70));
        assert_eq!(kept.found(&tokens(0, 100)), (70, Put(96)), "the longer one, whole");
        assert_eq!(kept.found(&[tokens(0, 33), tokens(500, 9)].concat()), (33, Put(64)));
        assert_eq!(kept.found(&tokens(0, 70)), (1, Salt), "the engine would take none of a prompt that it finds whole");
        assert_eq!(kept.found(&tokens(500, 9)), (0, There));
    }

    #[test]
    fn each_scope_finds_its_own() {
        let mut kept = Kept::default();
        kept.say(&tokens(0, 70));
        assert_eq!(kept.found_in("u", &tokens(0, 100)), (1, Salt));
        assert_eq!(kept.found_in("u", &[0]), (0, Empty), "nothing of it would be computed under a salt");
        assert_eq!(kept.found_in("u", &tokens(500, 9)), (0, There), "no entry begins so");
        kept.say_in("u", &tokens(0, 40), FirstLogits::default());
        assert_eq!(kept.found_in("u", &tokens(0, 100)), (40, Put(64)));
        assert_eq!(kept.found(&tokens(0, 100)), (70, Put(96)));
        assert_eq!(kept.found_in("v", &tokens(0, 100)), (1, Salt));
        let salts = ["t", "u", "v"].map(|scope| kept.reuse(&tokens(0, 100), scope).salt);
        assert_eq!(salts, [0, SALTS, SALTS + 1]);
        assert_eq!(kept.bytes(1), 96 + 32 + 64, "nothing but the first token is shared");
        kept.clear();
        assert_eq!(kept.found_in("u", &tokens(0, 100)), (0, There));
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
        kept.touch(&chat(1, 500), "t");
        assert!(kept.trim(64 + 3 * 192 + 2 * 32, 1));
        for n in [1, 4, 5] {
            assert_eq!(kept.found(&chat(n, 500)), (256, Put(256)), "chat {n}");
        }
        assert_eq!(kept.found(&chat(2, 500)), (1, Salt), "its keys and values are gone");
        let begins_alike = |len| [chat(2, len), tokens(7000, 9)].concat();
        assert_eq!(kept.found(&begins_alike(HEAD)), (72, Put(96)), "but not those of its head");
        assert_eq!(kept.found(&begins_alike(100)), (1, Salt));
        assert_eq!(kept.found(&chat(6, 9)), (64, Put(64)), "nor those of what all begin with");
        kept.say(&chat(2, 500));
        assert_eq!(kept.found(&chat(2, 600)), (564, Put(576)), "computed again, with a salt of its own");
        assert_eq!(kept.found(&chat(1, 500)), (256, Put(256)), "and the others were not disturbed");
    }

    #[test]
    fn what_another_turn_holds_serves_the_entry_that_lost_it() {
        let mut kept = Kept::default();
        kept.say(&tokens(0, 100));
        kept.say(&tokens(0, 200));
        kept.say(&tokens(5000, 10));
        assert!(kept.trim(7 * 32 + 32, 1));
        assert_eq!(kept.found(&[tokens(0, 90), tokens(700, 9)].concat()), (90, Put(96)));
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
        kept.trim(64 + 32 + LOGITS, 1);
        assert_eq!(after(&kept, &said[..40]), None, "the budget is for them too");
    }

    #[test]
    fn what_cannot_be_trimmed_is_said() {
        let mut kept = Kept::default();
        let key = Key { scope: "t".into(), salt: 0, tokens: tokens(0, 5) };
        kept.add(key, Held::Engine(100), FirstLogits::default());
        assert_eq!(kept.found(&tokens(0, 9)), (5, There));
        assert_eq!(kept.found(&tokens(0, 3)), (0, There), "computed whole");
        assert_eq!(kept.found_in("u", &tokens(0, 9)), (0, Empty), "what stays in the engine has no salt");
        assert!(kept.trim(100, 1));
        assert!(!kept.trim(99, 1));
        kept.clear();
        for n in 0..MAX_ENTRIES as u32 {
            kept.say(&[n + 1]);
        }
        assert!(!kept.trim(u64::MAX, 1), "too many entries");
    }
}
