//! The logs of ended responses, each in one blob.

use std::sync::Arc;

use super::encoding;
use crate::{
    limits::RENDERED_BESIDE_ENTRIES,
    store::{Entry, EntryBatch, StoreError},
};

/// A log with more bytes is decoded on a thread that may block: about a millisecond of work.
const DECODED_BESIDE_BYTES: usize = 16 << 10;

/// Encodes a whole log: its entries and the new last ones.
pub async fn encode_whole(mut entries: Vec<Arc<Entry>>, new: &[Arc<Entry>]) -> Result<Vec<u8>, StoreError> {
    entries.extend_from_slice(new);
    if entries.len() < RENDERED_BESIDE_ENTRIES {
        return encoding::encode(&entries);
    }
    let encoded = tokio::task::spawn_blocking(move || encoding::encode(&entries)).await;
    encoded.map_err(|error| StoreError::Unavailable(error.to_string()))?
}

/// Decodes a log from [`encode_whole`].
pub async fn decode_whole(encoded: Vec<u8>) -> Result<Vec<Arc<Entry>>, StoreError> {
    if encoded.len() < DECODED_BESIDE_BYTES {
        return encoding::decode(&encoded);
    }
    let decoded = tokio::task::spawn_blocking(move || encoding::decode(&encoded)).await;
    decoded.map_err(|error| StoreError::Unavailable(error.to_string()))?
}

/// Iterates over an ended log page by page, so that a follower holds the encoded log and one page of entries.
pub struct Pages {
    pub encoded: Vec<u8>,
    /// The offset in `encoded` of the next page.
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
