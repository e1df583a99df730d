//! The output item that is being written: its events, and the complete item.

use std::collections::BTreeMap;

use crate::{
    dialect::Segment,
    store::Header,
    wire::{
        event::Event,
        logprobs::Logprob,
        output::{FunctionCall, ItemStatus, OutputItem, OutputMessage, OutputText, SummaryText, Thought},
    },
};

/// An item between its first event and its last. Its ids are functions of the response's id and the item's index, so they
/// are the same on every replica.
pub struct Open {
    id: String,
    output_index: u32,
    /// The text, the arguments or the thought so far.
    text: String,
    kind: OpenItem,
}

enum OpenItem {
    Message { logprobs: Vec<Logprob> },
    Call { call_id: String, name: String, namespace: Option<String> },
    Thought,
}

impl Open {
    /// Makes the item that `segment` begins.
    pub fn new(header: &Header, output_index: u32, segment: &Segment) -> Self {
        let response_id = header.id.as_str();
        let suffix = response_id.strip_prefix("resp_").unwrap_or(response_id);
        let id = |prefix: &str| match output_index {
            0 => format!("{prefix}_{suffix}"),
            n => format!("{prefix}_{suffix}_{n}"),
        };
        let (prefix, kind) = match segment {
            Segment::Text(_) => ("msg", OpenItem::Message { logprobs: Vec::new() }),
            Segment::Thought(_) => ("rs", OpenItem::Thought),
            Segment::Call { name } => {
                let function = header.spec.tools.iter().find(|function| function.name == *name);
                let namespace = function.and_then(|function| function.namespace.clone());
                ("fc", OpenItem::Call { call_id: id("call"), name: name.clone(), namespace })
            }
            // Not reached: arguments come after their call.
            Segment::Arguments(_) => {
                ("fc", OpenItem::Call { call_id: id("call"), name: String::new(), namespace: None })
            }
        };
        Self { id: id(prefix), output_index, text: String::new(), kind }
    }

    /// Whether the segment belongs to this item.
    pub fn continues(&self, segment: &Segment) -> bool {
        matches!(
            (&self.kind, segment),
            (OpenItem::Message { .. }, Segment::Text(_))
                | (OpenItem::Call { .. }, Segment::Arguments(_))
                | (OpenItem::Thought, Segment::Thought(_))
        )
    }

    /// Emits the first events of the item.
    pub fn begin(&self, emit: &mut dyn FnMut(Event)) {
        let (item_id, output_index) = (self.id.clone(), self.output_index);
        emit(Event::ItemAdded { output_index, item: self.item(ItemStatus::InProgress, false) });
        match self.kind {
            OpenItem::Message { .. } => {
                let part = OutputText::new(String::new(), vec![]);
                emit(Event::PartAdded { item_id, output_index, content_index: 0, part });
            }
            OpenItem::Thought => {
                let part = SummaryText::new(String::new());
                emit(Event::SummaryPartAdded { item_id, output_index, summary_index: 0, part });
            }
            OpenItem::Call { .. } => {}
        }
    }

    /// Adds a segment, and returns its event; `None` if the segment has no text.
    pub fn push(&mut self, segment: Segment, mut logprobs: Vec<Logprob>) -> Option<Event> {
        let (item_id, output_index) = (self.id.clone(), self.output_index);
        let (Segment::Text(delta) | Segment::Thought(delta) | Segment::Arguments(delta)) = segment else { return None };
        if delta.is_empty() {
            return None;
        }
        self.text.push_str(&delta);
        Some(match &mut self.kind {
            OpenItem::Message { logprobs: all } => {
                all.extend_from_slice(&logprobs);
                let logprobs = std::mem::take(&mut logprobs);
                Event::TextDelta { item_id, output_index, content_index: 0, delta, logprobs }
            }
            OpenItem::Call { .. } => Event::ArgumentsDelta { item_id, output_index, delta },
            OpenItem::Thought => Event::SummaryDelta { item_id, output_index, summary_index: 0, delta },
        })
    }

    /// Emits the last events of the item, and returns the item.
    pub fn end(self, status: ItemStatus, emit: &mut dyn FnMut(Event)) -> OutputItem {
        let (item_id, output_index, text) = (self.id.clone(), self.output_index, self.text.clone());
        match &self.kind {
            OpenItem::Message { logprobs } => {
                let logprobs = logprobs.clone();
                let part = OutputText::new(text.clone(), logprobs.clone());
                emit(Event::TextDone { item_id: item_id.clone(), output_index, content_index: 0, text, logprobs });
                emit(Event::PartDone { item_id, output_index, content_index: 0, part });
            }
            OpenItem::Call { .. } => emit(Event::ArgumentsDone { item_id, output_index, arguments: text }),
            OpenItem::Thought => {
                let part = SummaryText::new(text.clone());
                emit(Event::SummaryDone { item_id: item_id.clone(), output_index, summary_index: 0, text });
                emit(Event::SummaryPartDone { item_id, output_index, summary_index: 0, part });
            }
        }
        let item = self.item(status, true);
        emit(Event::ItemDone { output_index, item: item.clone() });
        item
    }

    /// The current item; `has_part`: whether its content or summary has a part yet.
    fn item(&self, status: ItemStatus, has_part: bool) -> OutputItem {
        let (id, text) = (self.id.clone(), self.text.clone());
        match &self.kind {
            OpenItem::Message { logprobs } => {
                let part = has_part.then(|| OutputText::new(text, logprobs.clone()));
                let content = part.into_iter().collect();
                OutputItem::Message(OutputMessage { id, status, role: "assistant", content, metadata: BTreeMap::new() })
            }
            OpenItem::Call { call_id, name, namespace } => OutputItem::FunctionCall(FunctionCall {
                id,
                status,
                call_id: call_id.clone(),
                name: name.clone(),
                arguments: text,
                namespace: namespace.clone(),
            }),
            OpenItem::Thought => {
                let part = has_part.then(|| SummaryText::new(text));
                OutputItem::Reasoning(Thought { id, status, summary: part.into_iter().collect() })
            }
        }
    }
}
