//! The ggml types that can be packed: the contents of a block, and the values of its integers.

use candle_core::quantized::GgmlDType;
use half::f16;

/// The largest number of values in a ggml block.
pub(crate) const MAX_BLOCK: usize = 256;

/// The way in which the integers of a weight become values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// `d * q`, one `d` for 32 values.
    Plain,
    /// `d * q + m`, one `d` and `m` for 32 values.
    PlainMin,
    /// `d * code * q - dmin * min`, `code` and `min` for 32 values, `d` and `dmin` for 256.
    SuperMin,
    /// `d * code * q`, a signed `code` for 16 values, `d` for 256.
    Half,
    /// `d * code * q - dmin * min`, `code` and `min` (4 bits each, in one byte) for 16 values, `d` and `dmin` for 256.
    HalfMin,
}

/// A ggml type, as constants for the kernels.
pub(crate) trait Kind: 'static {
    /// Bits of a stored integer.
    const BITS: usize;
    /// The number that is subtracted from a stored integer: 0 or a power of two up to 128.
    const OFFSET: u8;
    const SCALES: Scales;
}

/// The constants of a [`Kind`], as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub dtype: GgmlDType,
    pub bits: usize,
    pub offset: u8,
    pub scales: Scales,
}

macro_rules! kinds {
    ($($name:ident: $dtype:ident, $bits:literal bits, minus $offset:literal, $scales:ident;)*) => {
        $(pub(crate) struct $name;
        impl Kind for $name {
            const BITS: usize = $bits;
            const OFFSET: u8 = $offset;
            const SCALES: Scales = Scales::$scales;
        })*

        impl Format {
            /// The format of a ggml type; `None` for a type that cannot be packed.
            pub(crate) fn of(dtype: GgmlDType) -> Option<Self> {
                match dtype {
                    $(GgmlDType::$dtype => Some(Self {
                        dtype,
                        bits: $bits,
                        offset: $offset,
                        scales: Scales::$scales,
                    }),)*
                    _ => None,
                }
            }

            /// All formats.
            #[cfg(test)]
            pub(crate) fn all() -> Vec<Self> {
                [$(GgmlDType::$dtype),*].into_iter().filter_map(Self::of).collect()
            }
        }

        /// Evaluates an expression in which `$kind` names the [`Kind`] of a [`Format`].
        macro_rules! with_kind {
            ($format:expr, $kind:ident => $body:expr) => {
                match $format.dtype {
                    $(candle_core::quantized::GgmlDType::$dtype => {
                        type $kind = crate::product::format::$name;
                        $body
                    })*
                    _ => unreachable!("a format exists for packable types only"),
                }
            };
        }
    };
}

kinds! {
    Q8_0: Q8_0, 8 bits, minus 128, Plain;
    Q4_0: Q4_0, 4 bits, minus 8, Plain;
    Q4_1: Q4_1, 4 bits, minus 0, PlainMin;
    Q5_0: Q5_0, 5 bits, minus 16, Plain;
    Q5_1: Q5_1, 5 bits, minus 0, PlainMin;
    Q2K: Q2K, 2 bits, minus 0, HalfMin;
    Q3K: Q3K, 3 bits, minus 4, Half;
    Q4K: Q4K, 4 bits, minus 0, SuperMin;
    Q5K: Q5K, 5 bits, minus 0, SuperMin;
    Q6K: Q6K, 6 bits, minus 32, Half;
}
pub(crate) use with_kind;

/// The fields of one ggml block.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Block {
    /// The stored integers, each below `1 << bits`.
    pub q: [u8; MAX_BLOCK],
    /// Scale codes: of 32 values ([`Scales::SuperMin`]) or of 16.
    pub codes: [u8; 16],
    /// Codes of the minima of 32 values ([`Scales::SuperMin`]).
    pub mins: [u8; 8],
    /// `d` as f16.
    pub d: u16,
    /// `m` or `dmin` as f16.
    pub m: u16,
}

impl Default for Block {
    fn default() -> Self {
        Self { q: [0; MAX_BLOCK], codes: [0; 16], mins: [0; 8], d: 0, m: 0 }
    }
}

fn half_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Splits bytes into the low nibbles and then the high nibbles.
fn nibbles(bytes: &[u8], q: &mut [u8]) {
    let (low, high) = q.split_at_mut(bytes.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

impl Format {
    /// Values of a ggml block.
    pub(crate) fn block(&self) -> usize {
        self.dtype.block_size()
    }

    /// Bytes of a ggml block.
    pub(crate) fn block_bytes(&self) -> usize {
        self.dtype.type_size()
    }

    /// Reads the fields of one ggml block of [`Self::block_bytes`] bytes.
    pub(crate) fn read(&self, bytes: &[u8], to: &mut Block) {
        match self.dtype {
            GgmlDType::Q8_0 => {
                to.d = half_at(bytes, 0);
                to.q.iter_mut().zip(&bytes[2..34]).for_each(|(q, byte)| *q = byte ^ 128);
            }
            GgmlDType::Q4_0 => {
                to.d = half_at(bytes, 0);
                nibbles(&bytes[2..18], &mut to.q[..32]);
            }
            GgmlDType::Q4_1 => {
                (to.d, to.m) = (half_at(bytes, 0), half_at(bytes, 2));
                nibbles(&bytes[4..20], &mut to.q[..32]);
            }
            GgmlDType::Q5_0 => {
                to.d = half_at(bytes, 0);
                nibbles(&bytes[6..22], &mut to.q[..32]);
                fifth_bits(&bytes[2..6], &mut to.q);
            }
            GgmlDType::Q5_1 => {
                (to.d, to.m) = (half_at(bytes, 0), half_at(bytes, 2));
                nibbles(&bytes[8..24], &mut to.q[..32]);
                fifth_bits(&bytes[4..8], &mut to.q);
            }
            GgmlDType::Q2K => read_q2k(bytes, to),
            GgmlDType::Q3K => read_q3k(bytes, to),
            GgmlDType::Q4K => {
                read_super_min(bytes, to);
                for (bytes, q) in bytes[16..144].chunks_exact(32).zip(to.q.chunks_exact_mut(64)) {
                    nibbles(bytes, q);
                }
            }
            GgmlDType::Q5K => {
                read_super_min(bytes, to);
                for (bytes, q) in bytes[48..176].chunks_exact(32).zip(to.q.chunks_exact_mut(64)) {
                    nibbles(bytes, q);
                }
                for (bit, q) in to.q.chunks_exact_mut(32).enumerate() {
                    q.iter_mut().zip(&bytes[16..48]).for_each(|(q, byte)| *q |= ((byte >> bit) & 1) << 4);
                }
            }
            GgmlDType::Q6K => read_q6k(bytes, to),
            other => unreachable!("{other:?} has no format"),
        }
    }

    /// The values of a block, as candle computes them.
    pub(crate) fn values(&self, block: &Block, values: &mut [f32]) {
        let (d, m) = (f16::from_bits(block.d).to_f32(), f16::from_bits(block.m).to_f32());
        for (part, (values, q)) in values.chunks_exact_mut(16).zip(block.q.chunks_exact(16)).enumerate() {
            let code = block.codes[part];
            let (scale, min) = match self.scales {
                Scales::Plain => (d, None),
                Scales::PlainMin => (d, Some(m)),
                Scales::SuperMin => {
                    (d * f32::from(block.codes[part / 2]), Some(-(m * f32::from(block.mins[part / 2]))))
                }
                Scales::Half => (d * f32::from(code as i8), None),
                Scales::HalfMin => (d * f32::from(code & 15), Some(-(m * f32::from(code >> 4)))),
            };
            for (value, q) in values.iter_mut().zip(q) {
                *value = scale * f32::from(i16::from(*q) - i16::from(self.offset));
                if let Some(min) = min {
                    *value += min;
                }
            }
        }
    }
}

/// Adds the fifth bits of 32 values, packed into 4 bytes.
fn fifth_bits(bytes: &[u8], q: &mut [u8]) {
    for (q, byte) in q.chunks_exact_mut(8).zip(bytes) {
        q.iter_mut().enumerate().for_each(|(bit, q)| *q |= ((byte >> bit) & 1) << 4);
    }
}

/// Reads `d`, `dmin` and the eight 6-bit pairs of Q4_K and Q5_K.
fn read_super_min(bytes: &[u8], to: &mut Block) {
    (to.d, to.m) = (half_at(bytes, 0), half_at(bytes, 2));
    let packed = &bytes[4..16];
    for i in 0..4 {
        to.codes[i] = packed[i] & 63;
        to.mins[i] = packed[i + 4] & 63;
        to.codes[i + 4] = (packed[i + 8] & 15) | (packed[i] >> 6) << 4;
        to.mins[i + 4] = (packed[i + 8] >> 4) | (packed[i + 4] >> 6) << 4;
    }
}

/// Reads the two low bits of 256 values: each 32 bytes hold four times 32 values.
fn pairs(bytes: &[u8], q: &mut [u8; MAX_BLOCK]) {
    for (bytes, q) in bytes.chunks_exact(32).zip(q.chunks_exact_mut(128)) {
        for (part, q) in q.chunks_exact_mut(32).enumerate() {
            q.iter_mut().zip(bytes).for_each(|(q, byte)| *q = (byte >> (2 * part)) & 3);
        }
    }
}

fn read_q2k(bytes: &[u8], to: &mut Block) {
    to.codes.copy_from_slice(&bytes[..16]);
    pairs(&bytes[16..80], &mut to.q);
    (to.d, to.m) = (half_at(bytes, 80), half_at(bytes, 82));
}

fn read_q3k(bytes: &[u8], to: &mut Block) {
    pairs(&bytes[32..96], &mut to.q);
    for (bit, q) in to.q.chunks_exact_mut(32).enumerate() {
        q.iter_mut().zip(&bytes[..32]).for_each(|(q, byte)| *q |= ((byte >> bit) & 1) << 2);
    }
    let packed = &bytes[96..108];
    for (i, code) in to.codes.iter_mut().enumerate() {
        let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
        let high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
        *code = (low | high << 4).wrapping_sub(32);
    }
    to.d = half_at(bytes, 108);
}

fn read_q6k(bytes: &[u8], to: &mut Block) {
    let (low, high) = (&bytes[..128], &bytes[128..192]);
    for ((low, high), q) in low.chunks_exact(64).zip(high.chunks_exact(32)).zip(to.q.chunks_exact_mut(128)) {
        nibbles(low, q);
        for (part, q) in q.chunks_exact_mut(32).enumerate() {
            q.iter_mut().zip(high).for_each(|(q, byte)| *q |= ((byte >> (2 * part)) & 3) << 4);
        }
    }
    to.codes.copy_from_slice(&bytes[192..208]);
    to.d = half_at(bytes, 208);
}
