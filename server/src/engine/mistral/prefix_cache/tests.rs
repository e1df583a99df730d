use std::collections::HashSet;

use super::*;

fn tenant(name: &str) -> Arc<str> {
    name.into()
}

fn blocks_of(count: usize) -> Blocks {
    Blocks::new(count, CachedNames::default())
}

fn root(name: &str) -> BlockName {
    BlockName::root("model", name)
}

fn tokens(from: u32, count: usize) -> Vec<u32> {
    (from..).take(count).collect()
}

/// Runs a sequence to its end and returns how many of its tokens were cached.
fn run(blocks: &mut Blocks, name: &str, tokens: &[u32]) -> Option<usize> {
    let found = blocks.begin(root(name), &tenant(name), tokens)?;
    let cached = found.tokens;
    blocks.end(found.held, tokens);
    Some(cached)
}

#[test]
fn a_repeated_prompt_computes_its_last_token_only() {
    for length in 1..100 {
        let mut blocks = blocks_of(64);
        let prompt = tokens(0, length);
        assert_eq!(run(&mut blocks, "a", &prompt), Some(0));
        assert_eq!(run(&mut blocks, "a", &prompt), Some(length - 1), "{length} tokens");
        assert_eq!(run(&mut blocks, "b", &prompt), Some(0), "another tenant finds nothing");
    }
}

#[test]
fn a_beginning_is_found_to_the_token() {
    let mut blocks = blocks_of(64);
    let said = tokens(0, 100);
    run(&mut blocks, "a", &said);
    for common in 0..100 {
        let other = [&said[..common], &tokens(1000, 20)].concat();
        let found = blocks.begin(root("a"), &tenant("a"), &other).expect("room");
        assert_eq!(found.tokens, common);
        let copied = found.copied.map_or(0, |copied| copied.tokens);
        assert_eq!(copied, common % BLOCK);
        // Only the tokens of whole cached blocks count as computed, so nothing new is cached.
        blocks.end(found.held, &other[..found.tokens - copied]);
    }
}

#[test]
fn what_is_used_is_never_given_away_or_evicted() {
    let mut blocks = blocks_of(8);
    let first = blocks.begin(root("a"), &tenant("a"), &tokens(0, 64)).expect("room");
    let second = blocks.begin(root("a"), &tenant("a"), &tokens(500, 64)).expect("room");
    let all: HashSet<_> = first.held.ids().iter().chain(second.held.ids()).collect();
    assert_eq!(all.len(), 8);
    assert!(blocks.begin(root("a"), &tenant("a"), &[1]).is_none());
    blocks.end(first.held, &tokens(0, 64));
    assert_eq!(blocks.available(), 4);
    let third = blocks.begin(root("a"), &tenant("a"), &tokens(0, 64)).expect("room");
    assert_eq!(third.tokens, 63);
    assert!(third.held.ids().iter().all(|id| !second.held.ids().contains(id)));
}

#[test]
fn a_sequence_that_finds_too_few_blocks_takes_none() {
    let mut blocks = blocks_of(4);
    run(&mut blocks, "a", &tokens(0, 32));
    assert!(blocks.begin(root("a"), &tenant("a"), &tokens(0, 100)).is_none());
    assert_eq!(blocks.available(), 4);
    assert_eq!(run(&mut blocks, "a", &tokens(0, 32)), Some(31));
}

#[test]
fn a_tenant_that_keeps_less_is_not_evicted_for_one_that_keeps_more() {
    let mut blocks = blocks_of(20);
    run(&mut blocks, "small", &tokens(0, 64));
    for n in 1..50 {
        run(&mut blocks, "large", &tokens(n * 1000, 64));
    }
    assert_eq!(run(&mut blocks, "small", &tokens(0, 64)), Some(63));
}

#[test]
fn a_sequence_grows_block_by_block() {
    let mut blocks = blocks_of(3);
    let mut held = blocks.begin(root("a"), &tenant("a"), &tokens(0, 16)).expect("room").held;
    assert_eq!(held.slot(15), Some(i64::from(held.ids()[0]) * 16 + 15));
    assert_eq!(held.slot(16), None);
    assert!(blocks.grow(&mut held, 17) && blocks.grow(&mut held, 48) && !blocks.grow(&mut held, 49));
    assert_eq!(held.ids().len(), 3);
    blocks.end(held, &tokens(0, 40));
    assert_eq!(run(&mut blocks, "a", &tokens(0, 41)), Some(40));
}

/// Runs many sequences that begin alike, grow and end at random. No block is lost, and each token that is found is right.
#[test]
fn a_random_history_loses_no_block_and_finds_only_what_was_computed() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let mut blocks = blocks_of(40);
    // What the tensors would hold: for each place of a block, all tokens of the sequence up to that place.
    let mut memory = vec![vec![(String::new(), Vec::<u32>::new()); BLOCK]; 40];
    let mut running: Vec<(String, SequenceBlocks, Vec<u32>, usize)> = Vec::new();
    for _ in 0..20_000 {
        if next(3) > 0 {
            let name = ["a", "b", "c"][next(3)];
            // Only few different tokens, so that many sequences begin alike.
            let prompt: Vec<u32> = (0..1 + next(120)).map(|at| (at / 20 * 7 + next(100) / 98) as u32).collect();
            if let Some(found) = blocks.begin(root(name), &tenant(name), &prompt) {
                if let Some(CopiedTokens { from, to, tokens }) = found.copied {
                    let copied = memory[from as usize][..tokens].to_vec();
                    memory[to as usize][..tokens].clone_from_slice(&copied);
                }
                assert!(found.tokens < prompt.len());
                for position in 0..found.tokens {
                    let slot = found.held.slot(position).expect("a block") as usize;
                    let expected = (name.to_owned(), prompt[..=position].to_vec());
                    assert_eq!(memory[slot / BLOCK][slot % BLOCK], expected);
                }
                running.push((name.to_owned(), found.held, prompt, found.tokens));
            }
        } else if !running.is_empty() {
            let (name, mut held, prompt, mut computed) = running.swap_remove(next(running.len()));
            let until = computed + next(prompt.len() - computed + 1);
            while computed < until {
                let slot = held.slot(computed).expect("a block") as usize;
                memory[slot / BLOCK][slot % BLOCK] = (name.clone(), prompt[..=computed].to_vec());
                computed += 1;
            }
            blocks.name_full(&mut held, &prompt[..computed]);
            if next(2) == 0 {
                blocks.end(held, &prompt[..computed]);
            } else {
                running.push((name, held, prompt, computed));
            }
        }
        let used: HashSet<BlockId> = running.iter().flat_map(|(_, held, ..)| held.ids().to_vec()).collect();
        assert_eq!(used.len() + blocks.available(), 40);
    }
    for (_, held, ..) in running {
        blocks.end(held, &[]);
    }
    assert_eq!(blocks.available(), 40);
}

#[test]
fn blocks_are_counted_as_held_or_cached() {
    let mut blocks = blocks_of(4);
    let prompt = tokens(0, 2 * BLOCK);
    let mut found = blocks.begin(root("a"), &tenant("a"), &prompt).expect("there is room");
    assert!(blocks.grow(&mut found.held, prompt.len()));
    assert_eq!(blocks.counted(), KvBlocks { total: 4, used: 2, cached: 0 });
    blocks.end(found.held, &prompt);
    assert_eq!(blocks.counted(), KvBlocks { total: 4, used: 0, cached: 2 });
}
