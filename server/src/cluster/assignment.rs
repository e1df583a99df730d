//! Assigns a response to the replica with the greatest hash. So all replicas agree without messages, and the responses of a
//! dead replica spread over all others.

use sha2::{Digest, Sha256};

/// Returns the replica that a response is assigned to; `None` without replicas.
pub fn first<'r>(response: &str, replicas: impl IntoIterator<Item = &'r str>) -> Option<&'r str> {
    replicas.into_iter().max_by_key(|replica| {
        let mut hash = Sha256::new();
        hash.update((replica.len() as u64).to_be_bytes());
        hash.update(replica);
        hash.update(response);
        <[u8; 32]>::from(hash.finalize())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_agree_and_the_load_spreads() {
        let mut counts = [0; 3];
        for n in 0..300 {
            let id = format!("resp_{n}");
            let chosen = first(&id, ["a", "b", "c"]).unwrap();
            assert_eq!(first(&id, ["c", "a", "b"]), Some(chosen), "the order does not matter");
            counts[usize::from(chosen.as_bytes()[0] - b'a')] += 1;
            let without_others = first(&id, [chosen, "a"]).unwrap();
            assert_eq!(without_others, chosen, "a replica that leaves moves only its own responses");
        }
        assert!(counts.iter().all(|count| *count > 70), "{counts:?}");
        assert_eq!(first("resp", []), None);
    }
}
