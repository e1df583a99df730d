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

/// The name of a block: SHA-256 over the name of the block before it and its own tokens. So a name determines the tokens of the block
/// and all tokens before them. The first name of a chain is a [`BlockName::root`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockName([u8; 32]);

impl BlockName {
    /// The name before a tenant's first block. `model` differs for models whose keys and values differ.
    pub fn root(model: &str, tenant: &str) -> Self {
        let length = (model.len() as u64).to_le_bytes();
        Self(Sha256::new().chain_update(length).chain_update(model).chain_update(tenant).finalize().into())
    }

    /// The name of the block after this one. `tokens` are the [`BLOCK`] tokens of that block.
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
    /// 8 bits a number, with a scale for each 16 numbers: 28 % of the bytes of f32, but rounded.
    Int8,
}

/// Whether a later prompt is expected to begin with this one and its output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reuse {
    /// The blocks are stored when a second prompt has them.
    #[default]
    Unknown,
    /// The blocks are stored when the generation ends: the prompt is a turn of a conversation, or a stored prompt.
    Expected,
}

/// A store of blocks failed. The text is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KvError(pub String);

/// A store of blocks. It bounds the bytes of each tenant and evicts the least recently used blocks.
#[async_trait]
pub trait KvStore: Send + Sync + 'static {
    /// Counts the stored blocks of a chain, from its first block to the first missing one. Takes one round trip.
    ///
    /// # Errors
    /// The store cannot be reached.
    async fn count(&self, tenant: &str, chain: &[BlockName]) -> Result<usize, KvError>;

    /// Returns the blocks of a chain, from its first block to the first missing one, and marks them as used. The caller checks the
    /// bytes.
    ///
    /// # Errors
    /// The store cannot be reached.
    async fn fetch(&self, tenant: &str, chain: &[BlockName]) -> Result<Vec<Vec<u8>>, KvError>;

    /// Stores blocks of one tenant, and evicts other blocks of the tenant while it is over its bound.
    ///
    /// # Errors
    /// The store cannot be reached or has no room; some of the blocks may be stored.
    async fn put(&self, tenant: &str, blocks: &[(BlockName, Vec<u8>)]) -> Result<(), KvError>;

    /// The label of this store in metrics: `disk` or `fleet`.
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
