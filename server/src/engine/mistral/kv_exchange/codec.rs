//! The format of a block in a store: a head with a checksum, then the numbers.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | [`VERSION`] |
//! | 1 | the encoding: 0 exact, 1 int8 |
//! | 2..4 | zero |
//! | 4..8 | length of the numbers in bytes, little-endian |
//! | 8..16 | xxh3 of the numbers, little-endian; the seed is the first 8 bytes of the block's name |
//! | 16.. | the numbers: for each layer the keys, then the values, as in the paged cache |

use half::f16;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::engine::{
    kv::{BlockName, KvEncoding},
    model::KvType,
};

const VERSION: u8 = 1;
const HEAD: usize = 16;
/// Numbers that share a scale: a component of the keys of a block's tokens, or 16 components of one value.
const GROUP: usize = 16;
/// Bytes of a scale: the upper half of an f32.
const SCALE: usize = 2;

/// Encodes and decodes the blocks of one model.
#[derive(Debug, Clone, Copy)]
pub struct Codec {
    pub encoding: KvEncoding,
    /// The type of the numbers in the paged cache.
    pub kv_type: KvType,
    /// Bytes of a block in the paged cache.
    pub block_bytes: usize,
}

impl Codec {
    /// Encodes a block of the paged cache for the store.
    pub fn encode(&self, name: &BlockName, block: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEAD];
        match self.encoding {
            KvEncoding::Int8 => self.quantise(block, &mut bytes),
            KvEncoding::Off | KvEncoding::Exact => bytes.extend_from_slice(block),
        }
        let numbers = &bytes[HEAD..];
        let (length, sum) = (numbers.len() as u32, sum(name, numbers));
        bytes[0] = VERSION;
        bytes[1] = self.mark();
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[8..HEAD].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Returns the block as the paged cache holds it; `None` if the bytes are damaged or have another version or encoding.
    pub fn decode(&self, name: &BlockName, bytes: &[u8]) -> Option<Vec<u8>> {
        let (head, numbers) = bytes.split_at_checked(HEAD)?;
        let (mark, rest) = head.split_at_checked(4)?;
        let (length, expected) = rest.split_at_checked(4)?;
        let is_whole = mark == [VERSION, self.mark(), 0, 0]
            && usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()? == numbers.len()
            && u64::from_le_bytes(expected.try_into().ok()?) == sum(name, numbers);
        if !is_whole {
            return None;
        }
        let block = match self.encoding {
            KvEncoding::Int8 => self.restore(numbers),
            KvEncoding::Off | KvEncoding::Exact => numbers.to_vec(),
        };
        (block.len() == self.block_bytes).then_some(block)
    }

    fn mark(&self) -> u8 {
        u8::from(self.encoding == KvEncoding::Int8)
    }

    /// The size of a number in the paged cache, in bytes.
    fn width(&self) -> usize {
        match self.kv_type {
            KvType::F32 => 4,
            KvType::F16 => 2,
        }
    }

    fn quantise(&self, block: &[u8], out: &mut Vec<u8>) {
        for group in block.chunks(self.width() * GROUP) {
            let numbers = || group.chunks_exact(self.width()).map(number);
            let largest = numbers().fold(0.0f32, |largest, x| largest.max(x.abs()));
            // Rounds the scale up to 16 bits, so that no quotient is above 127.
            let scale = f32::from_bits(((largest / 127.0).to_bits() + 0xffff) & 0xffff_0000);
            out.extend_from_slice(&scale.to_le_bytes()[SCALE..]);
            let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
            out.extend(numbers().map(|x| ((x * inverse).round() as i8).cast_unsigned()));
        }
    }

    fn restore(&self, numbers: &[u8]) -> Vec<u8> {
        let mut block = Vec::with_capacity(self.block_bytes);
        for group in numbers.chunks(SCALE + GROUP) {
            let Some((scale, quotients)) = group.split_at_checked(SCALE) else { break };
            let scale = f32::from_le_bytes([0, 0, scale[0], scale[1]]);
            for quotient in quotients {
                let x = f32::from(quotient.cast_signed()) * scale;
                match self.kv_type {
                    KvType::F32 => block.extend_from_slice(&x.to_le_bytes()),
                    KvType::F16 => block.extend_from_slice(&f16::from_f32(x).to_le_bytes()),
                }
            }
        }
        block
    }
}

fn number(bytes: &[u8]) -> f32 {
    match *bytes {
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        [a, b] => f16::from_le_bytes([a, b]).to_f32(),
        _ => 0.0,
    }
}

fn sum(name: &BlockName, numbers: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *name.bytes();
    xxh3_64_with_seed(numbers, u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: usize = 4 * GROUP;

    fn block(kv_type: KvType) -> Vec<u8> {
        let numbers = (0..NUMBERS).map(|i| ((i * 37 % 101) as f32 - 50.0) * if i < GROUP { 0.0 } else { 0.3 });
        match kv_type {
            KvType::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
            KvType::F16 => numbers.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
        }
    }

    fn codecs() -> impl Iterator<Item = (Codec, Vec<u8>)> {
        [KvEncoding::Exact, KvEncoding::Int8].into_iter().flat_map(|encoding| {
            [KvType::F32, KvType::F16].map(|kv_type| {
                let block = block(kv_type);
                (Codec { encoding, kv_type, block_bytes: block.len() }, block)
            })
        })
    }

    #[test]
    fn a_block_comes_back() {
        let name = BlockName::root("m", "t");
        for (codec, block) in codecs() {
            let stored = codec.encode(&name, &block);
            let back = codec.decode(&name, &stored).expect("whole");
            if codec.encoding == KvEncoding::Exact {
                assert_eq!(back, block);
                continue;
            }
            assert_eq!(stored.len(), HEAD + NUMBERS / GROUP * (SCALE + GROUP));
            for (at, (a, b)) in block
                .chunks(codec.width())
                .zip(back.chunks(codec.width()))
                .map(|(a, b)| (number(a), number(b)))
                .enumerate()
            {
                assert!((a - b).abs() <= 15.0 / 127.0, "number {at}: {a} became {b}");
            }
        }
    }

    #[test]
    fn a_damaged_block_is_a_miss() {
        let (name, other) = (BlockName::root("m", "t"), BlockName::root("m", "u"));
        for (codec, block) in codecs() {
            let stored = codec.encode(&name, &block);
            assert_eq!(codec.decode(&other, &stored), None, "stored under another name");
            for at in 0..stored.len() {
                let mut damaged = stored.clone();
                damaged[at] ^= 4;
                assert_eq!(codec.decode(&name, &damaged), None, "byte {at}");
                assert_eq!(codec.decode(&name, &stored[..at]), None, "cut at {at}");
            }
            let shorter = Codec { block_bytes: block.len() - 1, ..codec };
            assert_eq!(shorter.decode(&name, &stored), None);
        }
    }
}
