//! Logs that earlier servers wrote.

use std::sync::Arc;

use serde_json::Value;

use crate::store::{Entry, GenerationSpec, Header, StoreError};

/// Of each response three lines, as a server of log version 1 wrote them that stored the whole request: its header, its entries,
/// and its answer to `GET /v1/responses/{id}`. The first request has every field, the second is a turn and has none.
const VERSION_1: &str = include_str!("version_1.jsonl");

fn stored() -> impl Iterator<Item = [&'static str; 3]> {
    let lines: Vec<_> = VERSION_1.lines().collect();
    lines.as_chunks().0.to_vec().into_iter()
}

#[test]
fn a_log_of_version_1_renders_as_it_did() {
    assert_eq!(stored().count(), 2);
    for [header, entries, response] in stored() {
        let header: Arc<Header> = Header::from_json(header).unwrap();
        let entries: Vec<Entry> = serde_json::from_str(entries).unwrap();
        let (rendered, _) = super::response(&header, &entries);
        assert_eq!(serde_json::to_string(&rendered).unwrap(), response);
    }
}

/// Replicas of the version before read what this one writes: all fields are there but the two that have defaults there.
#[test]
fn a_header_is_written_as_version_1_reads_it() {
    for [stored, ..] in stored() {
        let mut expected: Value = serde_json::from_str(stored).unwrap();
        for absent in ["model", "cache"] {
            expected["create"]
                .as_object_mut()
                .unwrap()
                .shift_remove(absent)
                .expect("a field that is no longer written");
        }
        let written = serde_json::to_string(&Header::from_json(stored).unwrap()).unwrap();
        assert_eq!(written, expected.to_string());
    }
}

#[test]
fn what_a_header_may_lack_has_a_default() {
    let [stored, ..] = stored().last().unwrap();
    let whole: GenerationSpec =
        serde_json::from_value(serde_json::from_str::<Value>(stored).unwrap()["create"].take()).unwrap();
    let mut header: Value = serde_json::from_str(stored).unwrap();
    for absent in ["conversation", "prompt", "preamble", "background", "service_tier", "max_tool_calls"] {
        header["create"]
            .as_object_mut()
            .unwrap()
            .shift_remove(absent)
            .expect("a field that came after the first server");
    }
    let read = Header::from_json(&header.to_string()).unwrap();
    let expected = GenerationSpec { conversation: None, background: false, ..whole };
    assert_eq!(read.spec, expected);
}

#[test]
fn a_header_of_a_newer_version_is_refused() {
    let [stored, ..] = stored().next().unwrap();
    let newer = stored.replacen(r#""version":1"#, r#""version":2"#, 1);
    let refused = Header::from_json(&newer).unwrap_err();
    let expected = "a log of version 2, and this server reads versions up to 1";
    assert_eq!(refused, StoreError::Unreadable(expected.into()));
}
