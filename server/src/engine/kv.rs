//! Keys and values of prompts beyond one engine: the names of their blocks, and the contract of the stores that hold them.
//!
//! A block holds the keys and values of [`BLOCK`] tokens. A store is a cache: a block that it loses is computed again. So an
//! error is reported to the log and counts as a miss.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Tokens of a block.
pub const BLOCK: usize = 16;

/// The name of a block: SHA-256 over the name of the block before it and its own tokens. So a name says which tokens the block
/// holds, after which others. The first name of a chain is a [`BlockName::root`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockName([u8; 32]);

impl BlockName {
    /// The name before a tenant's first block. `model` tells models apart whose keys and values differ.
    pub fn root(model: &str, tenant: &str) -> Self {
        let length = (model.len() as u64).to_le_bytes();
        Self(Sha256::new().chain_update(length).chain_update(model).chain_update(tenant).finalize().into())
    }

    /// The name of the block after this one. `tokens`: [`BLOCK`] of them.
    pub fn next(self, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new().chain_update(self.0);
        for token in tokens {
            hash.update(token.to_le_bytes());
        }
        Self(hash.finalize().into())
    }

    /// The names of all full blocks of `tokens`, in order.
    pub fn chain(self, tokens: &[u32]) -> Vec<Self> {
        let next = |name: &mut Self, chunk: &[u32]| {
            *name = name.next(chunk);
            Some(*name)
        };
        tokens.chunks_exact(BLOCK).scan(self, next).collect()
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// In hexadecimal, as stores write it.
impl fmt::Display for BlockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for BlockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvEncoding {
    /// They are not stored.
    Off,
    /// Bit for bit.
    #[default]
    Exact,
    /// 8 bits a number with a scale for 16 numbers: 28 % of the bytes of f32, and other last bits.
    Int8,
}

/// Whether a later prompt is expected to begin with this one and its output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reuse {
    /// Its blocks are stored when a second prompt has them.
    #[default]
    Unknown,
    /// Its blocks are stored when it ends: it is a turn of a conversation, or a stored prompt.
    Expected,
}

/// A store of blocks failed. The text is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KvError(pub String);

/// A store of blocks. It bounds the bytes of a tenant and evicts those that were used least recently.
#[async_trait]
pub trait KvStore: Send + Sync + 'static {
    /// Returns how many blocks of a chain are stored, counted from its first to the first that is missing. One round trip.
    ///
    /// # Errors
    /// The store cannot be reached.
    async fn count(&self, tenant: &str, chain: &[BlockName]) -> Result<usize, KvError>;

    /// Returns the blocks of a chain from its first to the first that is missing, and counts them as used. The caller checks
    /// what the bytes hold.
    ///
    /// # Errors
    /// The store cannot be reached.
    async fn fetch(&self, tenant: &str, chain: &[BlockName]) -> Result<Vec<Vec<u8>>, KvError>;

    /// Stores blocks of one tenant, and evicts others of the same tenant while they take more bytes than they may.
    ///
    /// # Errors
    /// The store cannot be reached or has no room; some of the blocks may be stored.
    async fn put(&self, tenant: &str, blocks: &[(BlockName, Vec<u8>)]) -> Result<(), KvError>;

    /// What metrics call the source of a reused block: `disk` or `fleet`.
    fn origin(&self) -> &'static str;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_model_the_tenant_and_all_tokens_before() {
        let chain = |model: &str, tenant: &str, tokens: std::ops::Range<u32>| {
            BlockName::root(model, tenant).chain(&tokens.collect::<Vec<_>>())
        };
        let names = chain("m", "t", 0..50);
        assert_eq!(names.len(), 3, "the fourth block is not full");
        assert_eq!(names[..2], chain("m", "t", 0..32));
        assert_ne!(names[0], chain("m", "u", 0..16)[0]);
        assert_ne!(names[0], chain("n", "t", 0..16)[0]);
        assert_ne!(BlockName::root("a", "bc"), BlockName::root("ab", "c"));
        assert_ne!(names[1], chain("m", "t", 16..32)[0]);
    }
}
