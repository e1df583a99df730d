//! Random bits from the operating system: ids nobody guesses, and seeds.

/// 128 random bits: an id nobody guesses.
pub fn random_hex() -> String {
    hex::encode(random::<16>())
}

pub fn random_seed() -> u64 {
    u64::from_le_bytes(random())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without the system's randomness ids would be guessable: better to stop.
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
