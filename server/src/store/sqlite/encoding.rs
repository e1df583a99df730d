//! The encoding of entries in the file: a sequence of runs in MessagePack. Consecutive deltas with only tokens and text make one
//! run of at most 512 entries, with all tokens and all text together. Any other entry is a run of its own.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::store::{Entry, StoreError};

/// The maximum of entries in a run, and the number of entries at which a page ends.
pub const PAGE: usize = 512;

#[derive(Serialize, Deserialize)]
enum EntryRun {
    #[serde(rename = "d")]
    Deltas {
        #[serde(rename = "t")]
        tokens: Vec<u32>,
        #[serde(rename = "x")]
        text: String,
        /// Bytes of each entry's text.
        #[serde(rename = "b")]
        lengths: Vec<u32>,
        /// Number of tokens of each entry; empty if every entry has one.
        #[serde(rename = "n", default, skip_serializing_if = "Vec::is_empty")]
        counts: Vec<u32>,
    },
    #[serde(rename = "e")]
    Entry(Entry),
}

pub fn encode(entries: &[Arc<Entry>]) -> Result<Vec<u8>, StoreError> {
    let mut runs: Vec<EntryRun> = Vec::new();
    for entry in entries {
        match &**entry {
            Entry::Delta { tokens, text, logprobs, cached_tokens: None } if logprobs.is_empty() => {
                push(&mut runs, tokens, text);
            }
            other => runs.push(EntryRun::Entry(other.clone())),
        }
    }
    for run in &mut runs {
        if let EntryRun::Deltas { counts, .. } = run
            && counts.iter().all(|count| *count == 1)
        {
            counts.clear();
        }
    }
    let mut encoded = Vec::new();
    for run in &runs {
        rmp_serde::encode::write_named(&mut encoded, run)
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
    }
    Ok(encoded)
}

fn push(runs: &mut Vec<EntryRun>, new: &[u32], more: &str) {
    if !matches!(runs.last(), Some(EntryRun::Deltas { lengths, .. }) if lengths.len() < PAGE) {
        runs.push(EntryRun::Deltas { tokens: vec![], text: String::new(), lengths: vec![], counts: vec![] });
    }
    if let Some(EntryRun::Deltas { tokens, text, lengths, counts }) = runs.last_mut() {
        tokens.extend_from_slice(new);
        text.push_str(more);
        lengths.push(more.len() as u32);
        counts.push(new.len() as u32);
    }
}

/// Decodes all entries.
pub fn decode(mut bytes: &[u8]) -> Result<Vec<Arc<Entry>>, StoreError> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        entries.extend(decode_page(&mut bytes)?);
    }
    Ok(entries)
}

/// Decodes about a page of entries from the beginning of `bytes`, and moves `bytes` behind them.
pub fn decode_page(bytes: &mut &[u8]) -> Result<Vec<Arc<Entry>>, StoreError> {
    let mut entries = Vec::new();
    while !bytes.is_empty() && entries.len() < PAGE {
        let run = rmp_serde::from_read(&mut *bytes)
            .map_err(|error| StoreError::Unreadable(format!("an entry that this version does not know: {error}")))?;
        match run {
            EntryRun::Entry(entry) => entries.push(Arc::new(entry)),
            EntryRun::Deltas { tokens, text, lengths, counts } => {
                deltas(&mut entries, (tokens, text), (lengths, counts))?
            }
        }
    }
    Ok(entries)
}

fn deltas(
    entries: &mut Vec<Arc<Entry>>,
    (tokens, text): (Vec<u32>, String),
    (lengths, counts): (Vec<u32>, Vec<u32>),
) -> Result<(), StoreError> {
    let (mut token, mut byte) = (0, 0);
    for (at, length) in lengths.into_iter().enumerate() {
        let count = if counts.is_empty() { 1 } else { counts.get(at).copied().unwrap_or(0) } as usize;
        let part = (tokens.get(token..token + count), text.get(byte..byte + length as usize));
        let (Some(tokens), Some(text)) = part else {
            return Err(StoreError::Unreadable("a run of tokens that is too short".into()));
        };
        (token, byte) = (token + count, byte + length as usize);
        let (tokens, text) = (tokens.to_vec(), text.to_owned());
        entries.push(Arc::new(Entry::Delta { tokens, text, logprobs: vec![], cached_tokens: None }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{delta, finished, said};

    #[test]
    fn entries_are_read_as_they_were_written() {
        let many = Entry::Delta { tokens: vec![1, 70_000], text: "é".into(), logprobs: vec![], cached_tokens: None };
        let first = Entry::Delta { tokens: vec![1], text: String::new(), logprobs: vec![], cached_tokens: Some(3) };
        let all = [Entry::Queued, Entry::Started, first, delta(1), many, said(2, ""), delta(3), finished()];
        let all: Vec<Arc<Entry>> = all.into_iter().map(Arc::new).collect();
        for part in [&all[..], &all[..0], &all[3..4], &all[3..7]] {
            assert_eq!(decode(&encode(part).unwrap()).unwrap(), part);
        }
    }

    #[test]
    fn a_long_log_is_read_in_pages() {
        let all: Vec<Arc<Entry>> = (0..2000).map(|n| Arc::new(delta(n))).collect();
        let encoded = encode(&all).unwrap();
        let (mut rest, mut read) = (&encoded[..], vec![]);
        while !rest.is_empty() {
            let page = decode_page(&mut rest).unwrap();
            assert!(page.len() <= PAGE, "{}", page.len());
            read.extend(page);
        }
        assert_eq!(read, all);
    }

    #[test]
    fn a_token_takes_few_bytes() {
        let entries: Vec<Arc<Entry>> = (0..1000).map(|n| Arc::new(said(20_000 + n, " token"))).collect();
        let bytes = encode(&entries).unwrap().len();
        assert!(bytes <= 10_100, "{bytes} bytes for 1000 tokens");
    }

    #[test]
    fn what_is_damaged_is_an_error() {
        let bytes = encode(&[Arc::new(delta(1)), Arc::new(delta(2))]).unwrap();
        for end in 1..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "at {end}");
        }
    }
}
