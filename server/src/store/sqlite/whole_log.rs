//! Logs of responses that have ended: each is one blob.

use std::sync::Arc;

use super::encoding;
use crate::{
    limits::RENDERED_BESIDE_ENTRIES,
    store::{Entry, EntryBatch, StoreError},
};

/// A log of more bytes is decoded on another thread than the connection's: about a millisecond of work.
const DECODED_BESIDE_BYTES: usize = 16 << 10;

/// Encodes a whole log, as it is stored when it has ended.
pub async fn encode_whole(mut entries: Vec<Arc<Entry>>, new: &[Arc<Entry>]) -> Result<Vec<u8>, StoreError> {
    entries.extend_from_slice(new);
    if entries.len() < RENDERED_BESIDE_ENTRIES {
        return encoding::encode(&entries);
    }
    let encoded = tokio::task::spawn_blocking(move || encoding::encode(&entries)).await;
    encoded.map_err(|error| StoreError::Unavailable(error.to_string()))?
}

/// Decodes what [`encode_whole`] encoded.
pub async fn decode_whole(encoded: Vec<u8>) -> Result<Vec<Arc<Entry>>, StoreError> {
    if encoded.len() < DECODED_BESIDE_BYTES {
        return encoding::decode(&encoded);
    }
    let decoded = tokio::task::spawn_blocking(move || encoding::decode(&encoded)).await;
    decoded.map_err(|error| StoreError::Unavailable(error.to_string()))?
}

/// The log of a response that has ended, a page at a time: a follower holds its text once, and not all entries.
pub struct Pages {
    pub encoded: Vec<u8>,
    /// Where the next page begins.
    pub at: usize,
    pub next: u64,
}

impl Iterator for Pages {
    type Item = Result<EntryBatch, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.encoded.get(self.at..).filter(|rest| !rest.is_empty())?;
        let entries = match encoding::decode_page(&mut rest) {
            Ok(entries) => entries,
            Err(error) => {
                self.at = self.encoded.len();
                return Some(Err(error));
            }
        };
        self.at = self.encoded.len() - rest.len();
        let more = !rest.is_empty();
        let first = self.next;
        self.next += entries.len() as u64;
        Some(Ok(EntryBatch { first, entries, more }))
    }
}
