//! The events of one response as a client received them, with assertions.

use serde_json::Value;

/// The types of a response's last event.
pub const TERMINAL: [&str; 3] = ["response.completed", "response.incomplete", "response.failed"];

/// The events before the items, each at most once.
const STAGES: [&str; 3] = ["response.created", "response.queued", "response.in_progress"];

/// Returns the types of an item's events after its first, in order.
fn steps(item: &Value) -> &'static [&'static str] {
    match item["type"].as_str() {
        Some("message") => &[
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
        ],
        Some("function_call") => &[
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
        ],
        Some("reasoning") => &[
            "response.reasoning_summary_part.added",
            "response.reasoning_summary_text.delta",
            "response.reasoning_summary_text.done",
            "response.reasoning_summary_part.done",
            "response.output_item.done",
        ],
        _ => panic!("an item of an unknown type: {item}"),
    }
}

/// Events of one response, in the order of arrival.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventLog {
    pub events: Vec<Value>,
}

pub fn kind(event: &Value) -> &str {
    event["type"].as_str().unwrap_or_else(|| panic!("every event has a type: {event}"))
}

pub fn number(event: &Value) -> u64 {
    event["sequence_number"].as_u64().unwrap_or_else(|| panic!("every event has a sequence_number: {event}"))
}

pub fn is_terminal(event: &Value) -> bool {
    TERMINAL.contains(&kind(event))
}

impl EventLog {
    pub fn push(&mut self, event: Value) {
        self.events.push(event);
    }

    pub fn kinds(&self) -> Vec<&str> {
        self.events.iter().map(kind).collect()
    }

    pub fn ended(&self) -> bool {
        self.events.last().is_some_and(is_terminal)
    }

    /// Returns the number of the last event, for `starting_after` of a resume.
    pub fn last_number(&self) -> Option<u64> {
        self.events.last().map(number)
    }

    /// Asserts that the log has every number from 0 once and in order, follows the protocol's order, and ends with its only
    /// terminal event.
    #[track_caller]
    pub fn assert_gap_free(&self) {
        for (at, event) in self.events.iter().enumerate() {
            assert_eq!(number(event), at as u64, "event {at} is out of order: {event}");
        }
        let ends = self.events.iter().filter(|e| is_terminal(e)).count();
        assert!(self.ended() && ends == 1, "a response ends once, with its last event: {:?}", self.kinds());
        self.assert_order();
    }

    #[track_caller]
    fn assert_order(&self) {
        let wrong = |event: &Value| panic!("{event} is not in the protocol's order: {:?}", self.kinds());
        let (mut begun, mut items, mut open) = (0, 0, None::<(&[&str], usize)>);
        for event in &self.events {
            let kind = kind(event);
            if let Some(stage) = STAGES.iter().position(|stage| *stage == kind) {
                if items > 0 || open.is_some() || (stage == 0) != (begun == 0) || stage < begun {
                    wrong(event);
                }
                begun = stage + 1;
            } else if kind == "response.output_item.added" {
                if open.is_some() || event["output_index"] != items {
                    wrong(event);
                }
                open = Some((steps(&event["item"]), 0));
                items += 1;
            } else if !is_terminal(event) {
                let Some((steps, at)) = open else { return wrong(event) };
                // A delta may come any number of times.
                let is_delta = steps[at].ends_with(".delta");
                let next = if is_delta && kind != steps[at] { at + 1 } else { at };
                if steps.get(next) != Some(&kind) || event["output_index"] != items - 1 {
                    wrong(event);
                }
                let next = if kind.ends_with(".delta") { next } else { next + 1 };
                open = (next < steps.len()).then_some((steps, next));
            } else if open.is_some() {
                wrong(event);
            }
        }
        assert_eq!(self.kinds().first(), Some(&"response.created"), "the first event is response.created");
    }

    pub fn of_kind<'a>(&'a self, wanted: &str) -> impl Iterator<Item = &'a Value> {
        let found: Vec<&Value> = self.events.iter().filter(|e| kind(e) == wanted).collect();
        found.into_iter()
    }

    #[track_caller]
    pub fn one(&self, wanted: &str) -> &Value {
        let found: Vec<&Value> = self.of_kind(wanted).collect();
        assert_eq!(found.len(), 1, "one {wanted} in {:?}", self.kinds());
        found[0]
    }

    /// Joins the deltas.
    pub fn text(&self) -> String {
        self.of_kind("response.output_text.delta").map(|e| e["delta"].as_str().expect("a delta is a string")).collect()
    }

    /// Joins the deltas of each item.
    pub fn deltas(&self) -> Vec<String> {
        let mut all: Vec<String> = self.of_kind("response.output_item.added").map(|_| String::new()).collect();
        for event in self.events.iter().filter(|event| kind(event).ends_with(".delta")) {
            let item = event["output_index"].as_u64().and_then(|at| all.get_mut(at as usize));
            item.unwrap_or_else(|| panic!("a delta of no item: {event}"))
                .push_str(event["delta"].as_str().unwrap_or_default());
        }
        all
    }

    /// Returns the response's id.
    #[track_caller]
    pub fn id(&self) -> String {
        let event = self.events.first().expect("no event arrived");
        event["response"]["id"]
            .as_str()
            .unwrap_or_else(|| panic!("the first event has a response with an id: {event}"))
            .into()
    }

    /// Returns the response object of the last event.
    #[track_caller]
    pub fn response(&self) -> &Value {
        let last = self.events.last().expect("no event arrived");
        assert!(is_terminal(last), "the response has not ended: {last}");
        &last["response"]
    }

    pub fn status(&self) -> &str {
        self.response()["status"].as_str().expect("status is a string")
    }

    /// Returns the reason why the response is incomplete, or "none".
    pub fn reason(&self) -> &str {
        self.response()["incomplete_details"]["reason"].as_str().unwrap_or("none")
    }

    pub fn usage(&self, field: &str) -> u64 {
        let usage = &self.response()["usage"];
        usage[field].as_u64().unwrap_or_else(|| panic!("usage.{field} is a number: {usage}"))
    }

    /// Asserts that the deltas, the done events and the response object have the same text.
    #[track_caller]
    pub fn assert_text_agrees(&self) {
        let text = self.text();
        assert_eq!(self.one("response.output_text.done")["text"], text.as_str());
        assert_eq!(self.one("response.content_part.done")["part"]["text"], text.as_str());
        assert_eq!(self.one("response.output_item.done")["item"]["content"][0]["text"], text.as_str());
        assert_eq!(output_text(self.response()), text);
    }

    /// Returns the items of the ended response, after checking each against its events.
    #[track_caller]
    pub fn items(&self) -> &[Value] {
        self.assert_gap_free();
        let items = self.response()["output"].as_array().expect("output is an array");
        for (at, item) in items.iter().enumerate() {
            let of_item = |wanted: &str| {
                let event = self.of_kind(wanted).find(|event| event["output_index"] == at);
                event.unwrap_or_else(|| panic!("item {at} has no {wanted}"))
            };
            assert_eq!(of_item("response.output_item.done")["item"], *item);
            assert_eq!(of_item("response.output_item.added")["item"]["id"], item["id"]);
            let text = item_text(item);
            let stem = match item["type"].as_str() {
                Some("message") => "response.output_text",
                Some("function_call") => "response.function_call_arguments",
                _ => "response.reasoning_summary_text",
            };
            let deltas = self.events.iter().filter(|e| kind(e) == format!("{stem}.delta") && e["output_index"] == at);
            let deltas: String = deltas.map(|e| e["delta"].as_str().expect("a delta is a string")).collect();
            assert_eq!(*text, deltas, "the deltas of item {at}");
            let done = of_item(&format!("{stem}.done"));
            let whole = if item["type"] == "function_call" { &done["arguments"] } else { &done["text"] };
            assert_eq!(whole, text);
            assert_eq!(done["item_id"], item["id"]);
        }
        items
    }
}

/// Returns the streamed text of an item.
fn item_text(item: &Value) -> &Value {
    match item["type"].as_str() {
        Some("message") => &item["content"][0]["text"],
        Some("function_call") => &item["arguments"],
        _ => &item["summary"][0]["text"],
    }
}

/// Returns the streamed text of each item of an output.
pub fn item_texts(output: &Value) -> Vec<String> {
    let items = output.as_array().into_iter().flatten();
    items.map(|item| item_text(item).as_str().unwrap_or_default().to_owned()).collect()
}

/// Returns an output without ids, which differ between responses.
pub fn without_ids(output: &Value) -> Value {
    let mut output = output.clone();
    for item in output.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        item.remove("id");
        item.remove("call_id");
    }
    output
}

/// Returns the text of a response object.
pub fn output_text(response: &Value) -> String {
    let items = response["output"].as_array().unwrap_or_else(|| panic!("output is an array: {response}"));
    let contents = items.iter().filter_map(|item| item["content"].as_array()).flatten();
    contents.filter_map(|part| part["text"].as_str()).collect()
}
