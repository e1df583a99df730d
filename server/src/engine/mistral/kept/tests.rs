//! What is found, what is dropped, and what that leaves.

use super::{trim::HEAD, *};

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
        let home = Arc::new(Home::nothing());
        if let Before::Salt(first) = first {
            let held = Held::Here { home: home.clone(), blocks: vec![first], tokens: 1, part: Part::Salt };
            self.add(key(vec![tokens[0], 3, END]), held, FirstLogits::default());
        }
        if salt == tokens[0] && self.wants_first(salt) {
            self.learn_first(salt, Block::nothing());
        }
        let mut blocks = self.shared_blocks(tokens, scope);
        blocks.resize_with(tokens.len().div_ceil(BLOCK), || Arc::new(Block::nothing()));
        let held = Held::Here { home, blocks, tokens: tokens.len(), part: Part::Whole };
        self.touch(tokens, scope);
        self.add(key([tokens, &[END]].concat()), held, logits);
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

/// One of some that begin alike.
fn chat(n: u32, len: usize) -> Vec<u32> {
    [tokens(0, 64), tokens(n * 1000, len)].concat()
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
    assert_eq!(kept.bytes(1), 96 + 64, "nothing is shared");
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
fn heads_leave_too() {
    let mut kept = Kept::default();
    for n in 1..=9 {
        kept.say(&chat(n, 64));
        assert!(kept.trim(64 + 5 * 64, 1), "there is always something to drop");
    }
    let heads = (1..=9).filter(|n| kept.found(&[chat(*n, HEAD), vec![7]].concat()) == (72, Put(96))).count();
    let whole = (1..=9).filter(|n| kept.found(&chat(*n, 99)).0 == 128).collect::<Vec<u32>>();
    assert_eq!((heads, &whole[..]), (7, &[7, 8, 9][..]), "the oldest are gone");
    assert!(kept.trim(64 + 64, 1));
    assert_eq!(kept.found(&chat(9, 99)), (128, Put(128)), "the newest stays");
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
    assert_eq!(kept.found(&[&said, &[5, 6][..]].concat()), (43, Put(64)), "and they leave first");
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
