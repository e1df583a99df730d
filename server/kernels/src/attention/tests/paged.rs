//! Tests attention over the paged cache: against the reference, and its bits between ways to compute the same rows.

use candle_core::DType;
use proptest::prelude::*;

use super::{
    super::{Scores, step::Machine},
    pool::{Model, Piece, Pool, SMALL},
    reference::{Numbers, bits},
};
use crate::isa::Isa;

/// A machine of one thread for each instruction set.
fn alone() -> Vec<Machine> {
    let inline = f64::INFINITY;
    Isa::available().into_iter().map(|isa| Machine { isa, threads: 1, inline }).collect()
}

/// A machine of the fastest instruction set that cuts every step into tasks for many threads.
fn shared() -> Machine {
    Machine { threads: 16, inline: 0.0, ..Machine::current() }
}

fn models() -> Vec<Model> {
    let mut models = Vec::new();
    for size in [64, 80, 96, 128, 256] {
        for (heads, kv_heads) in [(2, 2), (3, 1), (8, 2), (8, 1)] {
            models.push(Model { heads, kv_heads, size, ..SMALL });
        }
    }
    models.push(Model { heads: 14, kv_heads: 2, ..SMALL });
    models.push(Model { heads: 71, kv_heads: 1, size: 64, ..SMALL });
    models.push(Model { size: 512, ..SMALL });
    models.push(Model { kind: DType::F16, ..SMALL });
    models.push(Model { kind: DType::F16, heads: 8, kv_heads: 2, size: 80, ..SMALL });
    models.push(Model { scores: Scores { softcap: Some(2.0), ..SMALL.scores }, ..SMALL });
    for window in [1, 5, 16, 33, 64, 100, 300] {
        models.push(Model { scores: Scores { window: Some(window), ..SMALL.scores }, ..SMALL });
    }
    models
}

#[test]
fn prompts_and_decode_of_a_batch_agree_with_the_reference() {
    for model in models() {
        for machine in alone().into_iter().chain([shared()]) {
            let pool = Pool::new(model, &[40, 150, 1]);
            let pieces = [(0, 0..39), (1, 0..149), (2, 0..1)];
            pool.check(&pieces, &pool.step(&pieces, machine));
            let pieces = [(1, 149..150), (0, 39..40), (2, 0..1)];
            pool.check(&pieces, &pool.step(&pieces, machine));
        }
    }
}

#[test]
fn a_prompt_has_the_same_bits_on_all_instruction_sets_and_in_pieces() {
    for model in models() {
        let whole = Pool::new(model, &[330]).in_pieces(0, &[], Machine::current());
        for machine in alone() {
            let pieces = Pool::new(model, &[330]).in_pieces(0, &[1, 64, 100, 260, 261], machine);
            assert!(pieces == whole, "{machine:?}, {model:?}");
        }
    }
}

#[test]
fn a_prompt_has_the_same_bits_whole_and_token_by_token() {
    let ends: Vec<usize> = (1..330).collect();
    for model in models() {
        let whole = Pool::new(model, &[330]).in_pieces(0, &[], Machine::current());
        assert!(Pool::new(model, &[330]).in_pieces(0, &ends, Machine::current()) == whole, "{model:?}");
    }
}

#[test]
fn a_long_sequence_has_the_same_bits_on_one_thread_and_on_many() {
    for window in [None, Some(300), Some(700)] {
        let model = Model { heads: 9, kv_heads: 3, size: 64, scores: Scores { window, ..SMALL.scores }, ..SMALL };
        let [one, many] = [alone().pop().unwrap(), shared()].map(|machine| {
            let pool = Pool::new(model, &[1100]);
            (pool.in_pieces(0, &[1000, 1001, 1002, 1090], machine), bits(&pool.step(&[(0, 1099..1100)], machine)))
        });
        assert!(one == many, "{window:?}");
        assert!(one.0.ends_with(&one.1), "{window:?}");
    }
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_in_a_batch() {
    let lens = [70, 3, 333, 64, 16];
    let machine = Machine::current();
    let alone: Vec<Vec<u32>> = (0..5).map(|i| Pool::new(SMALL, &lens).in_pieces(i, &[], machine)).collect();
    let pieces: Vec<Piece> = (0..5).map(|i| (i, 0..lens[i])).collect();
    for machine in [machine, shared()] {
        assert!(bits(&Pool::new(SMALL, &lens).step(&pieces, machine)) == alone.concat());
    }
}

#[test]
fn a_sequences_last_token_can_be_a_run_of_its_own() {
    for machine in [Machine::current(), shared()] {
        let whole = Pool::new(SMALL, &[100]).in_pieces(0, &[], machine);
        assert!(bits(&Pool::new(SMALL, &[100]).step(&[(0, 0..99), (0, 99..100)], machine)) == whole);
    }
}

#[test]
fn a_layer_that_shares_a_cache_reads_what_is_there() {
    let pool = Pool::new(SMALL, &[50, 20]);
    let pieces = [(0, 0..50), (1, 0..20)];
    let written = pool.step(&pieces, Machine::current());
    assert!(bits(&pool.step_shared(&pieces, Machine::current())) == bits(&written));
}

#[test]
fn a_copied_block_gives_the_same_bits() {
    for kind in [DType::F32, DType::F16] {
        let model = Model { kind, heads: 6, kv_heads: 2, ..SMALL };
        let mut pool = Pool::new(model, &[60]);
        let whole = pool.in_pieces(0, &[], Machine::current());
        // Copies the last block, as for a shared prefix before a write.
        let (from, to) = (pool.sequences[0].blocks[3], pool.free());
        super::super::copy_block(&pool.keys, &pool.values, 2, from as usize, to as usize, 10).unwrap();
        pool.sequences[0].blocks[3] = to;
        let rest = bits(&pool.step(&[(0, 58..60)], Machine::current()));
        assert!(whole.ends_with(&rest));
    }
}

#[test]
fn a_block_that_went_out_as_bytes_gives_the_same_bits_in_another_pool() {
    for kind in [DType::F32, DType::F16] {
        let model = Model { kind, heads: 6, kv_heads: 2, ..SMALL };
        let (from, to) = (Pool::new(model, &[60]), Pool::new(model, &[60]));
        let whole = from.in_pieces(0, &[], Machine::current());
        for (source, target) in from.sequences[0].blocks.iter().zip(&to.sequences[0].blocks).take(3) {
            let mut bytes = Vec::new();
            super::super::read_block(&from.keys, &from.values, *source as usize, &mut bytes).unwrap();
            super::super::write_block(&to.keys, &to.values, *target as usize, &bytes).unwrap();
            assert!(super::super::write_block(&to.keys, &to.values, *target as usize, &bytes[1..]).is_err());
            assert!(super::super::write_block(&to.keys, &to.values, usize::MAX, &bytes).is_err());
        }
        let rest = bits(&to.step(&[(0, 48..60)], Machine::current()));
        assert!(whole.ends_with(&rest));
    }
}

#[test]
fn a_block_is_copied_within_the_pool_only() {
    let pool = Pool::new(SMALL, &[60]);
    let blocks = pool.keys.dims()[0];
    for (heads, from, to, tokens) in [(1, blocks, 0, 1), (1, 0, blocks, 1), (1, 0, 1, 17), (0, 0, 1, 1), (7, 0, 1, 1)] {
        assert!(super::super::copy_block(&pool.keys, &pool.values, heads, from, to, tokens).is_err());
    }
    assert!(super::super::copy_block(&pool.keys, &pool.keys, 1, 0, 1, 1).is_err());
}

/// Checks sequences whose tokens are computed in several steps, each in pieces of random length.
fn check_random_steps(model: Model, lens: &[usize], seed: u64) {
    let mut numbers = Numbers::new(seed);
    let (one, many) = (Pool::new(model, lens), Pool::new(model, lens));
    let machines = alone();
    let mut done = vec![0; lens.len()];
    while done.iter().zip(lens).any(|(done, len)| done < len) {
        let mut pieces: Vec<Piece> = Vec::new();
        for (sequence, (done, len)) in done.iter_mut().zip(lens).enumerate() {
            if *done < *len {
                let end = (*done + 1 + numbers.below(90)).min(*len);
                pieces.push((sequence, *done..end));
                *done = end;
            }
        }
        let found = one.step(&pieces, machines[numbers.below(machines.len())]);
        one.check(&pieces, &found);
        assert!(bits(&many.step(&pieces, shared())) == bits(&found));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_steps_agree_with_the_reference_and_each_other(
        kv_heads in 1usize..4,
        group in 1usize..8,
        blocks in 1usize..9,
        lens in prop::collection::vec(1usize..300, 1..4),
        window in prop::option::of(1usize..200),
        softcap in prop::option::of(1f32..30.0),
        half: bool,
        seed in 1u64..1_000_000,
    ) {
        let kind = if half { DType::F16 } else { DType::F32 };
        let scores = Scores { scale: 0.3, softcap, window };
        check_random_steps(Model { heads: kv_heads * group, kv_heads, size: 16 * blocks, scores, kind }, &lens, seed);
    }
}
