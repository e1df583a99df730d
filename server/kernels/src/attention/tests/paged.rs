//! Attention over the paged cache.

use candle_core::DType;

use super::{
    super::Scores,
    pool::{Model, Pool, SMALL},
    reference::bits,
};
use crate::isa::Isa;

fn models() -> Vec<Model> {
    let mut models = Vec::new();
    for size in [64, 80, 96, 128, 256] {
        for (heads, kv_heads) in [(2, 2), (3, 1), (8, 2), (8, 1)] {
            models.push(Model { heads, kv_heads, size, ..SMALL });
        }
    }
    models.push(Model { kind: DType::F16, ..SMALL });
    models.push(Model { scores: Scores { softcap: Some(2.0), ..SMALL.scores }, ..SMALL });
    for window in [1, 5, 16, 33, 64, 100] {
        models.push(Model { scores: Scores { window: Some(window), ..SMALL.scores }, ..SMALL });
    }
    models
}

#[test]
fn prompts_and_decode_of_a_batch_agree_with_the_reference() {
    for model in models() {
        for isa in Isa::available() {
            let pool = Pool::new(model, &[40, 150, 1]);
            let pieces = [(0, 0..39), (1, 0..149), (2, 0..1)];
            pool.check(&pieces, &pool.step(&pieces, isa));
            let pieces = [(1, 149..150), (0, 39..40), (2, 0..1)];
            pool.check(&pieces, &pool.step(&pieces, isa));
        }
    }
}

#[test]
fn a_prompt_has_the_same_bits_whole_in_pieces_and_token_by_token() {
    for model in models() {
        let mut whole = None;
        for isa in Isa::available() {
            let pool = |_| Pool::new(model, &[330]);
            let first = pool(()).in_pieces(0, &[], isa);
            assert_eq!(whole.get_or_insert_with(|| first.clone()), &first, "{isa:?}, {model:?}");
            assert!(pool(()).in_pieces(0, &[1, 64, 100, 260, 261], isa) == first, "{isa:?}, {model:?}");
            let ends: Vec<usize> = (1..330).collect();
            assert!(pool(()).in_pieces(0, &ends, isa) == first, "{isa:?}, {model:?}");
        }
    }
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_in_a_batch() {
    let lens = [70, 3, 333, 64, 16];
    let isa = crate::isa::current();
    let alone: Vec<Vec<u32>> = (0..5).map(|i| Pool::new(SMALL, &lens).in_pieces(i, &[], isa)).collect();
    let pool = Pool::new(SMALL, &lens);
    let together = bits(&pool.step(&(0..5).map(|i| (i, 0..lens[i])).collect::<Vec<_>>(), isa));
    assert!(together == alone.concat());
}

#[test]
fn a_sequences_last_token_can_be_a_run_of_its_own() {
    let isa = crate::isa::current();
    let whole = Pool::new(SMALL, &[100]).in_pieces(0, &[], isa);
    assert!(bits(&Pool::new(SMALL, &[100]).step(&[(0, 0..99), (0, 99..100)], isa)) == whole);
}
