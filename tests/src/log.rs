//! The events of one response as a client saw them, and what must hold of them.

use serde_json::Value;

/// The types after which a response says nothing more.
pub const TERMINAL: [&str; 3] = ["response.completed", "response.incomplete", "response.failed"];

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

    /// The number of the last event, which is what a resume starts after.
    pub fn last_number(&self) -> Option<u64> {
        self.events.last().map(number)
    }

    /// Every number from 0 once and in order, one end and it last, the order of the protocol in between.
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
        let rank = |kind: &str| match kind {
            "response.created" => 0,
            "response.queued" => 1,
            "response.in_progress" => 2,
            "response.output_item.added" => 3,
            "response.content_part.added" => 4,
            "response.output_text.delta" => 5,
            "response.output_text.done" => 6,
            "response.content_part.done" => 7,
            "response.output_item.done" => 8,
            "response.completed" | "response.incomplete" | "response.failed" => 9,
            other => panic!("'{other}' is no event of a response"),
        };
        let ranks: Vec<i32> = self.kinds().into_iter().map(rank).collect();
        for pair in ranks.windows(2) {
            let follows = pair[0] < pair[1] || pair == [5, 5];
            assert!(follows, "the events are not in the protocol's order: {:?}", self.kinds());
        }
        assert_eq!(ranks.first(), Some(&0), "the first event is response.created");
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

    /// The deltas together.
    pub fn text(&self) -> String {
        self.of_kind("response.output_text.delta").map(|e| e["delta"].as_str().expect("a delta is a string")).collect()
    }

    /// The response's id.
    #[track_caller]
    pub fn id(&self) -> String {
        let event = self.events.first().expect("no event arrived");
        event["response"]["id"]
            .as_str()
            .unwrap_or_else(|| panic!("the first event has a response with an id: {event}"))
            .into()
    }

    /// The response object of the last event.
    #[track_caller]
    pub fn response(&self) -> &Value {
        let last = self.events.last().expect("no event arrived");
        assert!(is_terminal(last), "the response has not ended: {last}");
        &last["response"]
    }

    pub fn status(&self) -> &str {
        self.response()["status"].as_str().expect("status is a string")
    }

    /// Why it is incomplete.
    pub fn reason(&self) -> &str {
        self.response()["incomplete_details"]["reason"].as_str().unwrap_or("none")
    }

    pub fn usage(&self, field: &str) -> u64 {
        let usage = &self.response()["usage"];
        usage[field].as_u64().unwrap_or_else(|| panic!("usage.{field} is a number: {usage}"))
    }

    /// What any end of a response with text must agree on: the deltas, the done events and the object.
    #[track_caller]
    pub fn assert_text_agrees(&self) {
        let text = self.text();
        assert_eq!(self.one("response.output_text.done")["text"], text.as_str());
        assert_eq!(self.one("response.content_part.done")["part"]["text"], text.as_str());
        assert_eq!(self.one("response.output_item.done")["item"]["content"][0]["text"], text.as_str());
        assert_eq!(output_text(self.response()), text);
    }
}

/// The text of a response object.
pub fn output_text(response: &Value) -> String {
    let items = response["output"].as_array().unwrap_or_else(|| panic!("output is an array: {response}"));
    let contents = items.iter().filter_map(|item| item["content"].as_array()).flatten();
    contents.filter_map(|part| part["text"].as_str()).collect()
}
