//! Random bits from the operating system: for ids that nobody can guess, and for seeds.

/// 128 random bits in hexadecimal: an id that nobody can guess.
pub fn random_hex() -> String {
    hex::encode(random::<16>())
}

pub fn random_seed() -> u64 {
    u64::from_le_bytes(random())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Panics without the system's randomness, because ids would be guessable.
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
