//! Tests that arguments that are not supported give an error or `None`, never a panic.

use candle_core::{DType, Device, Result, Tensor};
use proptest::prelude::*;

use super::{
    super::{BLOCK, Cache, Scores, dense, fits, paged},
    reference::Numbers,
};

const SCORES: Scores = Scores { scale: 0.2, softcap: None, window: None };

/// The arguments of a step of 3 runs: 2 heads, 1 key head, size 16, 8 blocks.
struct Step {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lens: Tensor,
    counts: Vec<usize>,
    slots: Tensor,
}

impl Step {
    fn new() -> Self {
        let mut numbers = Numbers::new(3);
        let pool = |x: &str| Tensor::zeros((8, 1, 16, BLOCK), DType::F32, &Device::Cpu).expect(x);
        Self {
            q: numbers.tensor(&[4, 2, 1, 16]),
            k: numbers.tensor(&[4, 1, 1, 16]),
            v: numbers.tensor(&[4, 1, 1, 16]),
            keys: pool("keys"),
            values: pool("values"),
            tables: Tensor::new(&[[0u32, 1], [2, 0], [3, 0]], &Device::Cpu).unwrap(),
            lens: Tensor::new(&[18u32, 1, 5], &Device::Cpu).unwrap(),
            counts: vec![2, 1, 1],
            slots: Tensor::new(&[16i64, 17, 32, 52], &Device::Cpu).unwrap(),
        }
    }

    fn run(&self) -> Result<Tensor> {
        let Self { keys, values, tables, lens, counts, slots, .. } = self;
        paged(&self.q, &self.k, &self.v, &Cache { keys, values, tables, lens, counts, slots }, &SCORES)
    }
}

fn cpu<T: candle_core::NdArray>(values: T) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

/// A change that makes a step invalid, and its name.
type Change = (&'static str, fn(&mut Step));

#[test]
fn a_step_that_does_not_fit_is_refused() {
    assert!(Step::new().run().is_ok());
    let changes: Vec<Change> = vec![
        ("type of queries", |step| step.q = step.q.to_dtype(DType::F16).unwrap()),
        ("type of keys", |step| step.k = step.k.to_dtype(DType::BF16).unwrap()),
        ("type of cached values", |step| step.values = step.values.to_dtype(DType::F16).unwrap()),
        ("type of the cache", |step| {
            step.keys = step.keys.to_dtype(DType::BF16).unwrap();
            step.values = step.values.to_dtype(DType::BF16).unwrap();
        }),
        ("shape of values", |step| step.v = step.v.narrow(0, 0, 3).unwrap()),
        ("head size", |step| {
            for x in [&mut step.q, &mut step.k, &mut step.v] {
                *x = x.narrow(3, 0, 8).unwrap();
            }
        }),
        ("two tokens a row", |step| {
            for x in [&mut step.q, &mut step.k, &mut step.v] {
                *x = x.reshape((2, x.dims()[1], 2, 16)).unwrap();
            }
        }),
        ("size of the pool", |step| step.values = step.values.narrow(0, 0, 7).unwrap()),
        ("a pool with strides", |step| step.keys = step.keys.t().unwrap()),
        ("one storage", |step| step.values = step.keys.clone()),
        ("a block beyond the pool", |step| step.tables = cpu(&[[0u32, 8], [2, 0], [3, 0]])),
        ("too few blocks", |step| step.lens = cpu(&[33u32, 1, 5])),
        ("fewer tokens than rows", |step| step.lens = cpu(&[1u32, 1, 5])),
        ("too few lengths", |step| step.lens = cpu(&[18u32, 1])),
        ("too few tables", |step| step.tables = step.tables.narrow(0, 0, 2).unwrap()),
        ("a slot beyond the pool", |step| step.slots = cpu(&[16i64, 17, 32, 128])),
        ("a negative slot", |step| step.slots = cpu(&[16i64, 17, 32, -1])),
        ("too few slots", |step| step.slots = cpu(&[16i64, 17, 32])),
        ("type of slots", |step| step.slots = cpu(&[16u32, 17, 32, 52])),
        ("counts", |step| step.counts = vec![2, 1, 2]),
        ("queries within the cache", |step| {
            step.q = step.keys.narrow(0, 0, 4).unwrap().reshape((4, 16, 1, 16)).unwrap()
        }),
    ];
    for (what, change) in changes {
        let mut step = Step::new();
        change(&mut step);
        assert!(step.run().is_err(), "{what}");
    }
}

#[test]
fn a_refused_step_leaves_the_cache_as_it_was() {
    let step = Step { lens: cpu(&[33u32, 1, 5]), ..Step::new() };
    assert!(step.run().is_err());
    for pool in [&step.keys, &step.values] {
        assert!(super::reference::values(pool).iter().all(|x| *x == 0.0));
    }
}

#[test]
fn dense_attention_leaves_what_it_does_not_take_to_the_caller() {
    let mut numbers = Numbers::new(1);
    let (q, k) = (numbers.tensor(&[1, 4, 3, 32]), numbers.tensor(&[1, 2, 9, 32]));
    let none =
        |q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>| dense(q, k, v, mask, &SCORES).unwrap().is_none();
    assert!(!none(&q, &k, &k, None));
    assert!(none(&q.to_dtype(DType::F16).unwrap(), &k, &k, None));
    assert!(none(&q, &k, &k.narrow(2, 0, 8).unwrap(), None));
    assert!(none(&q.narrow(3, 0, 24).unwrap(), &k.narrow(3, 0, 24).unwrap(), &k.narrow(3, 0, 24).unwrap(), None));
    assert!(none(&q.narrow(1, 0, 3).unwrap(), &k, &k, None));
    assert!(none(&q, &k.transpose(2, 3).unwrap(), &k, None));
    assert!(none(&q, &k, &k, Some(&numbers.tensor(&[3, 8]))));
    assert!(none(&q, &k, &k, Some(&numbers.tensor(&[3, 3, 9]))));
    assert!(none(&q, &k, &k, Some(&Tensor::zeros((3, 9), DType::U8, &Device::Cpu).unwrap())));
}

#[test]
fn head_sizes_are_multiples_of_16_up_to_512() {
    let sizes: Vec<usize> = (0..700).filter(|size| fits(*size)).collect();
    assert_eq!(sizes, (1..=32).map(|n| 16 * n).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tables_lengths_and_slots_give_a_result_or_an_error(
        tables in prop::collection::vec(0u32..9, 6),
        lens in prop::collection::vec(0u32..40, 3),
        counts in prop::collection::vec(0usize..4, 3),
        slots in prop::collection::vec(-2i64..130, 4),
    ) {
        let tables = Tensor::from_vec(tables, (3, 2), &Device::Cpu).unwrap();
        let step = Step { tables, lens: cpu(lens), counts, slots: cpu(slots), ..Step::new() };
        let _ = step.run();
    }
}
