//! Compares products with plain sums in f64, and the bits of instruction sets, threads and rows with each other.

use std::{borrow::Cow, sync::Arc};

use candle_core::{
    Device, Module, Tensor,
    quantized::{GgmlDType, QMatMul, QStorage, QTensor},
};
use half::f16;
use proptest::prelude::*;

use super::{
    Rows,
    executor::Executor,
    format::Format,
    pack,
    storage::{self, products},
    tiles::Packed,
};
use crate::{isa::Isa, team::Team};

/// A sequence of random numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// In -1..1.
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }
}

/// The offsets of f16 numbers in a ggml block.
fn halves(dtype: GgmlDType) -> &'static [usize] {
    match dtype {
        GgmlDType::Q8_0 | GgmlDType::Q4_0 | GgmlDType::Q5_0 => &[0],
        GgmlDType::Q4_1 | GgmlDType::Q5_1 | GgmlDType::Q4K | GgmlDType::Q5K => &[0, 2],
        GgmlDType::Q2K => &[80, 82],
        GgmlDType::Q3K => &[108],
        GgmlDType::Q6K => &[208],
        other => panic!("{other:?} is not packed"),
    }
}

/// A weight of random bytes, so that each integer and code occurs, with scales in -0.1..0.1.
fn weight(format: Format, n: usize, k: usize, random: &mut Random) -> Arc<QTensor> {
    let mut bytes: Vec<u8> = (0..n * k / format.block() * format.block_bytes()).map(|_| random.next() as u8).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        for at in halves(format.dtype) {
            block[*at..at + 2].copy_from_slice(&f16::from_f32(random.float() / 10.0).to_le_bytes());
        }
    }
    let storage = QStorage::from_data(Cow::Borrowed(&bytes), &Device::Cpu, format.dtype).unwrap();
    Arc::new(QTensor::new(storage, (n, k)).unwrap())
}

/// Rows with blocks of different magnitudes, some of them zero.
fn input(m: usize, k: usize, random: &mut Random) -> Vec<f32> {
    let mut rows = vec![0f32; m * k];
    for block in rows.chunks_exact_mut(32) {
        let magnitude = [0.0, 1e-3, 1.0, 30.0][random.next() as usize % 4];
        block.iter_mut().for_each(|value| *value = random.float() * magnitude);
    }
    rows
}

fn alone(chunks: usize, work: &(dyn Fn(usize) + Sync)) {
    (0..chunks).for_each(work);
}

fn executor(isa: Isa) -> Executor<'static> {
    Executor::new(isa, 1, &alone)
}

fn packed(weight: &QTensor) -> Packed {
    Packed::new(weight, alone).expect("the type and the shape fit")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Compares products with sums in f64 over the dequantised weight.
///
/// The error must be at most the loss by quantising the input to 8 bits and, if the input is `quantised` here in the same way, at
/// most the rounding of f32.
fn check(weight: &QTensor, rows: &[f32], outputs: &[f32]) {
    let (n, k) = weight.shape().dims2().unwrap();
    let values = weight.dequantize(&Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
    for (xs, outputs) in rows.chunks_exact(k).zip(outputs.chunks_exact(n)) {
        for (weight, output) in values.iter().zip(outputs) {
            let (mut exact, mut quantised, mut size, mut lost) = (0.0, 0.0, 0.0, 0.0);
            for (weight, xs) in weight.chunks_exact(32).zip(xs.chunks_exact(32)) {
                let largest = xs.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                for (weight, x) in weight.iter().zip(xs) {
                    let (weight, step) = (f64::from(*weight), f64::from(largest / 127.0));
                    exact += weight * f64::from(*x);
                    if largest > 0.0 {
                        quantised += weight * step * f64::from((x * (127.0 / largest)).round_ties_even());
                    }
                    size += (weight * f64::from(*x)).abs();
                    lost += weight.abs() * step * 0.5001;
                }
            }
            let output = f64::from(*output);
            // Minima are added separately from the integers, so the parts of a sum can exceed the sum.
            let rounding = 4e-6 * (size + 2.0 * lost) + 1e-6 * lost * k as f64;
            assert!((output - exact).abs() <= lost + rounding, "{output} for {exact}, lost {lost}");
            assert!((output - quantised).abs() <= rounding, "{output} for {quantised}, {rounding}");
        }
    }
}

fn columns(format: Format) -> [usize; 4] {
    let block = format.block();
    [block, 2 * block, 3 * block, 1024 + block]
}

#[test]
fn products_are_those_of_f64_for_all_types_shapes_and_instruction_sets() {
    let mut random = Random(1);
    for format in Format::all() {
        for k in columns(format) {
            for n in [1, 15, 16, 17, 48, 100] {
                let weight = weight(format, n, k, &mut random);
                let packed = packed(&weight);
                for m in [1, 2, 3, 8, 9, 21] {
                    let rows = input(m, k, &mut random);
                    let all = Isa::available().into_iter().map(|isa| (isa, products(&rows, &[&packed], executor(isa))));
                    let all: Vec<_> = all.collect();
                    check(&weight, &rows, &all[0].1[0]);
                    for (isa, outputs) in &all {
                        assert_eq!(bits(&outputs[0]), bits(&all[0].1[0]), "{format:?} {n}x{k}, {m} rows, {isa:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    let mut random = Random(2);
    for format in Format::all() {
        let (n, k) = (40, 2 * format.block());
        let packed = packed(&weight(format, n, k, &mut random));
        let rows = input(40, k, &mut random);
        for isa in Isa::available() {
            let single: Vec<_> =
                rows.chunks_exact(k).flat_map(|row| products(row, &[&packed], executor(isa)).remove(0)).collect();
            for m in 2..=40 {
                let outputs = products(&rows[..m * k], &[&packed], executor(isa)).remove(0);
                assert_eq!(bits(&outputs), bits(&single[..m * n]), "{format:?}, {m} rows, {isa:?}");
            }
        }
    }
}

#[test]
fn threads_and_cuts_do_not_change_bits() {
    let mut random = Random(3);
    let team = Team::new(3);
    for format in Format::all() {
        let k = 2048;
        let packed = packed(&weight(format, 300, k, &mut random));
        for m in [1, 5, 70] {
            let rows = input(m, k, &mut random);
            let one = products(&rows, &[&packed], executor(crate::isa::current())).remove(0);
            for threads in [1, 2, 3, 16, 1000] {
                let run = |chunks: usize, work: &(dyn Fn(usize) + Sync)| team.run(chunks, work);
                let executor = Executor::new(crate::isa::current(), threads, &run);
                assert_eq!(bits(&products(&rows, &[&packed], executor).remove(0)), bits(&one), "{format:?}, {m} rows");
            }
        }
    }
}

#[test]
fn a_packed_weight_has_candles_values() {
    let mut random = Random(4);
    for format in Format::all() {
        for k in columns(format) {
            let weight = weight(format, 33, k, &mut random);
            let expected = weight.dequantize(&Device::Cpu).unwrap();
            let storage = pack(&weight).expect("the type and the shape fit");
            assert_eq!(storage.dtype(), format.dtype);
            let packed = QTensor::new(QStorage::Cpu(storage), (33, k)).unwrap();
            let values = packed.dequantize(&Device::Cpu).unwrap();
            let flat = |tensor: &Tensor| bits(&tensor.flatten_all().unwrap().to_vec1().unwrap());
            assert_eq!(flat(&values), flat(&expected), "{format:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut random = Random(6);
    let format = Format::of(GgmlDType::Q8_0).unwrap();
    let plain = weight(format, 16, 64, &mut random);
    let packed = QTensor::new(QStorage::Cpu(pack(&plain).unwrap()), (16, 64)).unwrap();
    assert!(pack(&Arc::new(packed)).is_none(), "it is packed already");
    let cube = weight(format, 4, 64, &mut random).dequantize(&Device::Cpu).unwrap().reshape((2, 2, 64)).unwrap();
    assert!(pack(&Arc::new(QTensor::quantize(&cube, GgmlDType::Q8_0).unwrap())).is_none());
    assert!(pack(&Arc::new(QTensor::quantize(&cube.reshape((4, 64)).unwrap(), GgmlDType::F16).unwrap())).is_none());
}

#[test]
fn f16_inputs_are_computed_in_f32() {
    let mut random = Random(7);
    let plain = weight(Format::of(GgmlDType::Q4K).unwrap(), 20, 256, &mut random);
    let packed = QMatMul::QTensor(Arc::new(QTensor::new(QStorage::Cpu(pack(&plain).unwrap()), (20, 256)).unwrap()));
    let xs = Tensor::from_vec(input(3, 256, &mut random), (3, 256), &Device::Cpu).unwrap();
    let xs = xs.to_dtype(candle_core::DType::F16).unwrap();
    let half = packed.forward(&xs).unwrap();
    let full = packed.forward(&xs.to_dtype(candle_core::DType::F32).unwrap()).unwrap();
    let full = full.to_dtype(candle_core::DType::F16).unwrap();
    assert_eq!(half.to_vec2::<f16>().unwrap(), full.to_vec2::<f16>().unwrap());
}

#[test]
fn a_value_that_is_not_finite_reaches_its_own_row_only() {
    let mut random = Random(8);
    for format in Format::all() {
        let k = 2 * format.block();
        let packed = packed(&weight(format, 16, k, &mut random));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for isa in Isa::available() {
                let mut rows = input(3, k, &mut random);
                rows[k + 5] = bad;
                let outputs = products(&rows, &[&packed], executor(isa)).remove(0);
                let finite = outputs.chunks_exact(16).map(|row| row.iter().filter(|output| !output.is_nan()).count());
                assert_eq!(finite.collect::<Vec<_>>(), [16, 0, 16], "{format:?}, {bad}, {isa:?}");
            }
        }
    }
}

/// With the largest possible products, no sum of 16 bits may overflow.
#[test]
fn extreme_integers_do_not_overflow() {
    for format in Format::all() {
        let (n, k) = (16, 2 * format.block());
        for byte in [0x00, 0x80, 0xff, 0x7f] {
            let mut bytes = vec![byte; n * k / format.block() * format.block_bytes()];
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                for at in halves(format.dtype) {
                    block[*at..at + 2].copy_from_slice(&f16::from_f32(1.0).to_le_bytes());
                }
            }
            let storage = QStorage::from_data(Cow::Borrowed(&bytes), &Device::Cpu, format.dtype).unwrap();
            let weight = QTensor::new(storage, (n, k)).unwrap();
            let packed = packed(&weight);
            for sign in [1.0, -1.0] {
                let rows = vec![sign; 5 * k];
                for isa in Isa::available() {
                    check(&weight, &rows, &products(&rows, &[&packed], executor(isa)).remove(0));
                }
            }
        }
    }
}

#[test]
fn rows_are_those_of_the_dequantised_table() {
    let mut random = Random(9);
    let ids: Vec<u32> = (0..90).map(|_| random.next() as u32 % 50).collect();
    let ids = Tensor::from_vec(ids, (3, 30), &Device::Cpu).unwrap();
    let mut tables: Vec<_> = Format::all().into_iter().map(|format| weight(format, 50, 256, &mut random)).collect();
    let dense = tables[0].dequantize(&Device::Cpu).unwrap();
    tables.extend([GgmlDType::F16, GgmlDType::Q8K].map(|dtype| Arc::new(QTensor::quantize(&dense, dtype).unwrap())));
    for table in tables {
        let expected = table.dequantize(&Device::Cpu).unwrap().index_select(&ids.flatten_all().unwrap(), 0).unwrap();
        let rows = Rows::new(&table).unwrap();
        assert_eq!(rows.dims(), (50, 256));
        let found = rows.rows(&ids).unwrap();
        assert_eq!(found.dims(), [3, 30, 256]);
        let flat = |tensor: Tensor| bits(&tensor.flatten_all().unwrap().to_vec1().unwrap());
        assert_eq!(flat(found), flat(expected), "{:?}", table.dtype());
        assert!(rows.rows(&Tensor::new(50u32, &Device::Cpu).unwrap()).is_err());
        assert!(rows.rows(&Tensor::new(1i64, &Device::Cpu).unwrap()).is_err());
    }
}

#[test]
fn a_table_and_an_equal_weight_share_their_memory() {
    let mut random = Random(10);
    let format = Format::of(GgmlDType::Q5K).unwrap();
    let table = weight(format, 30, 512, &mut random);
    let rows = Rows::new(&table).unwrap();
    let [first, second] = [pack(&table).unwrap(), pack(&table).unwrap()];
    assert_eq!(first.as_ptr(), second.as_ptr());
    let other = pack(&weight(format, 30, 512, &mut random)).unwrap();
    assert_ne!(first.as_ptr(), other.as_ptr());
    drop((rows, first));
    // The remaining storage can still be found.
    let weight = QTensor::new(QStorage::Cpu(second), (30, 512)).unwrap();
    let xs = Tensor::from_vec(input(1, 512, &mut random), (1, 512), &Device::Cpu).unwrap();
    assert!(storage::packed(&weight).is_some());
    QMatMul::QTensor(Arc::new(weight)).forward(&xs).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_shape(which in 0..10usize, n in 1..70usize, blocks in 1..6usize, m in 1..40usize, seed: u64, threads in 1..5usize) {
        let mut random = Random(seed);
        let format = Format::all()[which];
        let k = blocks * format.block();
        let weight = weight(format, n, k, &mut random);
        let packed = packed(&weight);
        let rows = input(m, k, &mut random);
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let executor = Executor::new(isa, threads, &alone);
            let outputs = products(&rows, &[&packed], executor).remove(0);
            if let Some(first) = &first {
                prop_assert_eq!(bits(&outputs), bits(first));
            }
            first.get_or_insert(outputs);
        }
        check(&weight, &rows, &first.unwrap_or_default());
    }
}
