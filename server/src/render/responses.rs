//! The Responses API rendered from a log.

use std::sync::Arc;

use serde_json::json;

use crate::{
    engine::Finish,
    store::{Entry, Header},
    wire::{
        error::WireError,
        event::Event,
        response::{IncompleteDetails, ItemStatus, OutputItem, OutputText, Response, ResponseError, Status, Usage},
    },
};

/// Renders one response's entries in order, keeping only what later events repeat: the text so far.
pub struct Renderer {
    header: Arc<Header>,
    item_id: String,
    text: String,
    open: bool,
    next: u64,
}

impl Renderer {
    pub fn new(header: Arc<Header>) -> Self {
        let item_id = format!("msg_{}", header.id.strip_prefix("resp_").unwrap_or(&header.id));
        Self { header, item_id, text: String::new(), open: false, next: 0 }
    }

    /// The events before the first entry. To be called once, first.
    pub fn begin(&mut self, emit: &mut dyn FnMut(u64, Event)) {
        self.emit(emit, Event::Created { response: Box::new(self.snapshot(Status::InProgress)) });
    }

    /// The events of the next entry, with their sequence numbers.
    pub fn entry(&mut self, entry: &Entry, emit: &mut dyn FnMut(u64, Event)) {
        match entry {
            Entry::Queued => self.emit(emit, Event::Queued { response: Box::new(self.snapshot(Status::Queued)) }),
            Entry::Started => {
                self.emit(emit, Event::InProgress { response: Box::new(self.snapshot(Status::InProgress)) })
            }
            Entry::Delta { text, .. } if text.is_empty() => {}
            Entry::Delta { text, .. } => {
                self.open(emit);
                self.text.push_str(text);
                let delta = Event::TextDelta {
                    item_id: self.item_id.clone(),
                    output_index: 0,
                    content_index: 0,
                    delta: text.clone(),
                    logprobs: [],
                };
                self.emit(emit, delta);
            }
            Entry::Finished { finish, usage, completed_at } => self.finish(finish, *usage, *completed_at, emit),
        }
    }

    fn emit(&mut self, emit: &mut dyn FnMut(u64, Event), event: Event) {
        emit(self.next, event);
        self.next += 1;
    }

    fn open(&mut self, emit: &mut dyn FnMut(u64, Event)) {
        if self.open {
            return;
        }
        self.open = true;
        self.emit(emit, Event::ItemAdded { output_index: 0, item: self.item(ItemStatus::InProgress, vec![]) });
        let part = OutputText::new(String::new());
        self.emit(emit, Event::PartAdded { item_id: self.item_id.clone(), output_index: 0, content_index: 0, part });
    }

    fn finish(&mut self, finish: &Finish, usage: Usage, completed_at: u64, emit: &mut dyn FnMut(u64, Event)) {
        // A reply without text is still a message; a failure before any text is none.
        if !matches!(finish, Finish::Failed(_)) {
            self.open(emit);
        }
        let mut response = self.snapshot(Status::Completed);
        if self.open {
            let (item_id, part) = (self.item_id.clone(), OutputText::new(self.text.clone()));
            let text = self.text.clone();
            self.emit(
                emit,
                Event::TextDone { item_id: item_id.clone(), output_index: 0, content_index: 0, text, logprobs: [] },
            );
            self.emit(emit, Event::PartDone { item_id, output_index: 0, content_index: 0, part: part.clone() });
            let item = self
                .item(if *finish == Finish::Stop { ItemStatus::Completed } else { ItemStatus::Incomplete }, vec![part]);
            self.emit(emit, Event::ItemDone { output_index: 0, item: item.clone() });
            response.output = vec![item];
        }
        response.usage = Some(usage);
        let incomplete = |reason| Some(IncompleteDetails { reason });
        let event = match finish {
            Finish::Stop => {
                response.completed_at = Some(completed_at);
                Event::Completed { response: Box::new(response) }
            }
            Finish::Length => {
                response.status = Status::Incomplete;
                response.incomplete_details = incomplete("max_output_tokens");
                Event::Incomplete { response: Box::new(response) }
            }
            Finish::Cancelled => {
                response.status = Status::Incomplete;
                response.incomplete_details = incomplete("cancelled");
                Event::Incomplete { response: Box::new(response) }
            }
            Finish::Failed(_) => {
                response.status = Status::Failed;
                let error = WireError::EngineFailed;
                response.error = Some(ResponseError { code: error.code().0, message: error.to_string() });
                Event::Failed { response: Box::new(response) }
            }
        };
        self.emit(emit, event);
    }

    fn item(&self, status: ItemStatus, content: Vec<OutputText>) -> OutputItem {
        OutputItem { id: self.item_id.clone(), kind: "message", status, role: "assistant", content }
    }

    /// The response object without output.
    fn snapshot(&self, status: Status) -> Response {
        let create = &self.header.create;
        Response {
            id: self.header.id.clone(),
            object: "response",
            created_at: self.header.created_at,
            completed_at: None,
            status,
            incomplete_details: None,
            model: self.header.model.clone(),
            previous_response_id: create.previous_response_id.clone(),
            instructions: create.instructions.clone(),
            output: vec![],
            error: None,
            tools: vec![],
            tool_choice: "auto",
            truncation: create.truncation,
            parallel_tool_calls: create.parallel_tool_calls,
            text: json!({"format": {"type": "text"}}),
            top_p: create.top_p.unwrap_or(1.0),
            temperature: create.temperature.unwrap_or(1.0),
            presence_penalty: create.presence_penalty,
            frequency_penalty: create.frequency_penalty,
            top_logprobs: 0,
            reasoning: None,
            usage: None,
            max_output_tokens: create.max_output_tokens,
            max_tool_calls: None,
            store: create.store,
            background: false,
            service_tier: create.service_tier,
            metadata: create.metadata.clone(),
            safety_identifier: create.safety_identifier.clone(),
            prompt_cache_key: create.prompt_cache_key.clone(),
            user: create.user.clone(),
        }
    }
}

/// The response object as it stands after `entries`, with the text so far, and the number of its last event.
pub fn response<'e>(header: &Arc<Header>, entries: impl IntoIterator<Item = &'e Entry>) -> (Response, u64) {
    let mut renderer = Renderer::new(header.clone());
    let mut last = (0, None);
    let mut keep = |number, event| {
        last.0 = number;
        if let Event::Created { response }
        | Event::Queued { response }
        | Event::InProgress { response }
        | Event::Completed { response }
        | Event::Incomplete { response }
        | Event::Failed { response } = event
        {
            last.1 = Some(response);
        }
    };
    renderer.begin(&mut keep);
    entries.into_iter().for_each(|entry| renderer.entry(entry, &mut keep));
    let (number, response) = last;
    let mut response = response.map_or_else(|| renderer.snapshot(Status::InProgress), |r| *r);
    if renderer.open && response.output.is_empty() {
        response.output = vec![renderer.item(ItemStatus::InProgress, vec![OutputText::new(renderer.text.clone())])];
    }
    (response, number)
}

/// The text of a log so far.
pub fn output_text<'e>(entries: impl IntoIterator<Item = &'e Entry>) -> String {
    let texts = entries.into_iter().filter_map(|entry| match entry {
        Entry::Delta { text, .. } => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{delta, finished, header, said};

    fn names(entries: &[Entry]) -> Vec<&'static str> {
        let mut renderer = Renderer::new(Arc::new(header("resp_1", "t")));
        let mut names = Vec::new();
        let mut collect = |number, event: Event| {
            assert_eq!(number, names.len() as u64, "numbers have no gap");
            names.push(event.name().strip_prefix("response.").unwrap_or_default());
        };
        renderer.begin(&mut collect);
        entries.iter().for_each(|entry| renderer.entry(entry, &mut collect));
        names
    }

    fn ended(finish: Finish) -> Entry {
        match finished() {
            Entry::Finished { usage, completed_at, .. } => Entry::Finished { finish, usage, completed_at },
            other => other,
        }
    }

    const CLOSE: [&str; 3] = ["output_text.done", "content_part.done", "output_item.done"];
    const OPEN: [&str; 2] = ["output_item.added", "content_part.added"];

    #[test]
    fn a_reply_has_the_full_order() {
        let held = said(9, "");
        let entries = [Entry::Queued, Entry::Started, held, delta(1), delta(2), finished()];
        let expected = [
            &["created", "queued", "in_progress"][..],
            &OPEN,
            &["output_text.delta", "output_text.delta"],
            &CLOSE,
            &["completed"],
        ];
        assert_eq!(names(&entries), expected.concat());
    }

    #[test]
    fn every_ending_closes_what_is_open() {
        let empty = [Entry::Started, ended(Finish::Length)];
        assert_eq!(names(&empty), [&["created", "in_progress"][..], &OPEN, &CLOSE, &["incomplete"]].concat());
        let failed = [Entry::Started, delta(1), ended(Finish::Failed("x".into()))];
        let expected = [&["created", "in_progress"][..], &OPEN, &["output_text.delta"], &CLOSE, &["failed"]];
        assert_eq!(names(&failed), expected.concat());
        let early = [Entry::Started, ended(Finish::Failed("x".into()))];
        assert_eq!(names(&early), ["created", "in_progress", "failed"]);
    }

    #[test]
    fn a_snapshot_has_the_text_so_far() {
        let header = Arc::new(header("resp_1", "t"));
        let (running, last) = response(&header, &[Entry::Started, delta(1), delta(2)]);
        assert_eq!((running.status, last), (Status::InProgress, 5));
        assert_eq!(running.output[0].content[0].text, " 1 2");
        let (done, _) = response(&header, &[Entry::Started, delta(1), finished()]);
        assert_eq!((done.status, done.usage.map(|u| u.output_tokens)), (Status::Completed, Some(1)));
        let failed = response(&header, &[ended(Finish::Failed("secret detail".into()))]).0;
        assert!(!serde_json::to_string(&failed).unwrap().contains("secret detail"));
    }
}
