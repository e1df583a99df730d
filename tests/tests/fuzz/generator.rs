//! Generates messages that no client should send, each with the answer that the protocol requires.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

pub struct Case {
    pub name: &'static str,
    pub message: Message,
    pub expect: Expect,
}

pub enum Expect {
    /// One error event with one of these codes.
    Error(&'static [&'static str]),
    /// No answer at all.
    Silence,
    /// An error of any documented code, or a good response.
    Anything,
    /// The connection is closed with one of these codes.
    Close(&'static [u16]),
    /// The bytes are the payload of a frame with this first byte, on a new connection, which closes with one of these codes.
    RawClose(u8, &'static [u16]),
}

pub struct Generator(StdRng);

const FIELDS: [&str; 26] = [
    "model",
    "instructions",
    "previous_response_id",
    "store",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "stop",
    "max_output_tokens",
    "seed",
    "truncation",
    "parallel_tool_calls",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "client_request_id",
    "top_logprobs",
    "tools",
    "tool_choice",
    "text",
    "reasoning",
    "include",
    "generate",
    "cache",
];

const REQUEST: &[&str] = &["invalid_request"];

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    pub fn next(&mut self) -> Case {
        match self.0.random_range(0..100) {
            0..12 => self.broken_json(),
            12..30 => self.wrong_type(),
            30..38 => self.unknown_field(),
            38..46 => self.garbage_id(),
            46..52 => self.unknown_event(),
            52..58 => self.no_object(),
            58..64 => self.stream_id(),
            64..68 => self.deep(),
            68..74 => self.huge_number(),
            74..79 => self.bad_input(),
            79..81 => case("a pong out of order", json!({"type": "caudal:pong"}), Expect::Silence),
            81..89 => self.mutated(),
            89..94 => self.agent(),
            94..96 => self.frame(),
            96..98 => self.invalid_utf8(),
            98 => self.binary(),
            _ => self.oversized(),
        }
    }

    fn broken_json(&mut self) -> Case {
        let whole = json!({"type": "response.create", "input": "a \"quoted\" \\ é 🙂 text", "metadata": {"a": "b"}})
            .to_string();
        let text = match self.0.random_range(0..5) {
            0 => {
                let cut = self.0.random_range(0..whole.len());
                (0..=cut).rev().find_map(|at| whole.get(..at)).unwrap_or_default().to_owned()
            }
            1 => whole.replacen(':', "", 1),
            2 => whole + "}",
            3 => whole.replacen("\"type\"", "type", 1),
            _ => {
                let length = self.0.random_range(1..200);
                // Printable, and never JSON: no JSON text begins with this character.
                let noise = (0..length).map(|_| char::from(self.0.random_range(b' '..=b'~')));
                std::iter::once('%').chain(noise).collect()
            }
        };
        Case { name: "broken JSON", message: Message::text(text), expect: Expect::Error(&["invalid_json"]) }
    }

    /// A field with a value that it does not accept: an array within an array.
    fn wrong_type(&mut self) -> Case {
        let field = *FIELDS.choose(&mut self.0).expect("fields");
        let wrong = json!([[self.0.random::<u32>()]]);
        // `tools` may be an array, but not of this content.
        case(
            "a field of the wrong type",
            json!({"type": "response.create", "input": "x", field: wrong}),
            Expect::Error(REQUEST),
        )
    }

    fn unknown_field(&mut self) -> Case {
        let name = format!("{}_{}", self.word(), self.0.random::<u16>());
        let kind =
            *["response.create", "response.cancel", "caudal:response.resume"].choose(&mut self.0).expect("types");
        // A field that is null is absent.
        let value = match self.value(2) {
            Value::Null => json!(1),
            value => value,
        };
        let message = json!({"type": kind, "input": "x", "response_id": "resp_x", name: value});
        case("an unknown field", message, Expect::Error(REQUEST))
    }

    fn garbage_id(&mut self) -> Case {
        let id = match self.0.random_range(0..5) {
            0 => String::new(),
            1 => format!("resp_{:032x}", self.0.random::<u128>()),
            2 => "../".repeat(self.0.random_range(1..50)),
            3 => "🙂\u{0}\n\"".repeat(self.0.random_range(1..20)),
            _ => "x".repeat(self.0.random_range(1..5000)),
        };
        let starting_after = self.0.random::<u64>();
        let (message, codes): (_, &[&str]) = match self.0.random_range(0..4) {
            0 => (json!({"type": "caudal:response.resume", "response_id": id}), &["response_not_found"]),
            1 => {
                let resume =
                    json!({"type": "caudal:response.resume", "response_id": id, "starting_after": starting_after});
                (resume, &["response_not_found"])
            }
            2 => (json!({"type": "response.cancel", "response_id": id}), &["response_not_found"]),
            _ => {
                let create = json!({"type": "response.create", "input": "x", "previous_response_id": id});
                (create, &["previous_response_not_found", "invalid_request"])
            }
        };
        case("an id of nothing", message, Expect::Error(codes))
    }

    fn unknown_event(&mut self) -> Case {
        let kind = match self.0.random_range(0..4) {
            0 => json!("response.created"),
            1 => json!(format!("caudal:{}", self.word())),
            2 => json!(self.word().repeat(500)),
            _ => self.value(0),
        };
        let kind = if kind.is_null() { json!(7) } else { kind };
        case("an unknown type", json!({"type": kind, "input": "x"}), Expect::Error(REQUEST))
    }

    fn no_object(&mut self) -> Case {
        let value = match self.0.random_range(0..5) {
            0 => json!([]),
            1 => json!([{"type": "response.create", "input": "x"}]),
            2 => json!(self.word()),
            3 => json!(self.0.random::<i32>()),
            _ => json!({}),
        };
        case("no client event", value, Expect::Error(REQUEST))
    }

    fn stream_id(&mut self) -> Case {
        let id = match self.0.random_range(0..6) {
            0 => json!(""),
            1 => json!("a lane"),
            2 => json!("é"),
            3 => json!("x".repeat(self.0.random_range(257..4000))),
            4 => json!(self.0.random::<u32>()),
            _ => json!([self.word()]),
        };
        let message = json!({"type": "response.create", "input": "x", "stream_id": id});
        case("an invalid stream_id", message, Expect::Error(&["invalid_stream_id"]))
    }

    fn deep(&mut self) -> Case {
        let depth = self.0.random_range(200..30_000);
        let (open, close) = if self.0.random() { ("[", "]") } else { ("{\"a\":", "}") };
        let inner = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let text = format!("{{\"type\":\"response.create\",\"input\":{inner}}}");
        Case { name: "deep nesting", message: Message::text(text), expect: Expect::Error(&["invalid_json"]) }
    }

    fn huge_number(&mut self) -> Case {
        let field =
            *["temperature", "top_k", "max_output_tokens", "seed", "top_logprobs"].choose(&mut self.0).expect("fields");
        let digits = self.0.random_range(25..400);
        let number = match self.0.random_range(0..3) {
            0 => "9".repeat(digits),
            1 => format!("-{}", "9".repeat(digits)),
            _ => format!("1e{digits}"),
        };
        let text = format!("{{\"type\":\"response.create\",\"input\":\"x\",\"{field}\":{number}}}");
        let expect = Expect::Error(&["invalid_request", "invalid_json"]);
        Case { name: "a huge number", message: Message::text(text), expect }
    }

    fn bad_input(&mut self) -> Case {
        let input = match self.0.random_range(0..6) {
            0 => json!([]),
            1 => json!(self.0.random::<u16>()),
            2 => json!([{"role": self.word(), "content": "x"}]),
            3 => json!([{"role": "user", "content": [{"type": "input_image", "image_url": self.word()}]}]),
            4 => json!([{"role": "user", "content": [self.value(1)]}]),
            _ => json!([[[]]]),
        };
        case("a bad input", json!({"type": "response.create", "input": input}), Expect::Error(REQUEST))
    }

    /// A valid message with some parts replaced, doubled or removed.
    fn mutated(&mut self) -> Case {
        let mut message = json!({"type": "response.create", "max_output_tokens": 3, "stream_id": self.word(),
            "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}]});
        for _ in 0..self.0.random_range(1..4) {
            let value = self.value(3);
            match self.0.random_range(0..6) {
                0 => message["input"] = value,
                1 => message["input"][0]["content"] = value,
                2 => message["input"] = json!([value, {"role": "user", "content": "x"}]),
                3 => message["type"] = value,
                4 => message["stream_id"] = value,
                _ => message[*FIELDS.choose(&mut self.0).expect("fields")] = value,
            }
            if !message["input"].is_array() || !message["input"][0].is_object() {
                message["input"] = json!([{"role": "user", "content": "x"}]);
            }
        }
        if message["max_output_tokens"].as_u64().is_some_and(|n| n > 3) {
            message["max_output_tokens"] = 3.into();
        }
        case("a mutated create", message, Expect::Anything)
    }

    /// A request of an agent with some parts replaced.
    fn agent(&mut self) -> Case {
        let name = self.word();
        let call = json!({"type": "function_call", "call_id": "c", "name": name, "arguments": "{\"a\": 1}"});
        let output = json!({"type": "function_call_output", "call_id": "c", "output": self.word()});
        let thought = json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": self.word()}]});
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        let mut message = json!({"type": "response.create", "max_output_tokens": 3, "top_logprobs": 2,
            "input": [{"role": "user", "content": "x"}, thought, call, output],
            "tools": [{"type": "function", "name": name, "parameters": schema}],
            "tool_choice": {"type": "function", "name": name}, "reasoning": {"effort": "low"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}});
        for _ in 0..self.0.random_range(0..3) {
            let value = self.value(3);
            match self.0.random_range(0..9) {
                0 => message["tools"][0]["name"] = value,
                1 => message["tools"][0]["parameters"] = value,
                2 => message["tool_choice"] = value,
                3 => message["tool_choice"]["name"] = value,
                4 => message["text"]["format"]["schema"] = value,
                5 => message["text"]["format"] = value,
                6 => message["input"][2] = value,
                7 => message["input"][3]["output"] = value,
                _ => message["reasoning"]["effort"] = value,
            }
            // A field that is no longer an object has no parts to replace.
            for field in ["tool_choice", "text", "reasoning"] {
                if !message[field].is_object() {
                    message[field] = json!({});
                }
            }
            if !message["text"]["format"].is_object() {
                message["text"] = json!({"format": {"type": "json_object"}});
            }
            if !message["input"][2].is_object() {
                message["input"][2] = json!({"type": "message"});
            }
        }
        case("an agent's create", message, Expect::Anything)
    }

    fn frame(&mut self) -> Case {
        let first_byte = match self.0.random_range(0..4) {
            0 => 0x80 | self.0.random_range(0x3..0x8),
            1 => 0x80 | self.0.random_range(0xb..0x10),
            2 => 0x80,
            _ => 0x81 | (self.0.random_range(1..8u8) << 4),
        };
        let message = Message::text(self.word());
        Case { name: "a frame of no meaning", message, expect: Expect::RawClose(first_byte, &[1002]) }
    }

    fn invalid_utf8(&mut self) -> Case {
        let mut bytes: Vec<u8> = json!({"type": "response.create", "input": self.word()}).to_string().into_bytes();
        let at = self.0.random_range(0..bytes.len());
        bytes[at] = self.0.random_range(0xf8..=0xff);
        Case { name: "invalid UTF-8", message: Message::binary(bytes), expect: Expect::RawClose(0x81, &[1007]) }
    }

    fn binary(&mut self) -> Case {
        let bytes: Vec<u8> = (0..self.0.random_range(0..500)).map(|_| self.0.random()).collect();
        Case { name: "a binary message", message: Message::binary(bytes), expect: Expect::Close(&[1003]) }
    }

    fn oversized(&mut self) -> Case {
        let text = "x".repeat(256 * 1024 + self.0.random_range(1..200_000));
        Case { name: "an oversized message", message: Message::text(text), expect: Expect::Close(&[1009]) }
    }

    fn word(&mut self) -> String {
        let length = self.0.random_range(1..12);
        (0..length).map(|_| char::from(self.0.random_range(b'a'..=b'z'))).collect()
    }

    /// Returns a random JSON value of limited depth.
    fn value(&mut self, depth: u32) -> Value {
        match self.0.random_range(0..if depth == 0 { 6 } else { 8 }) {
            0 => Value::Null,
            1 => json!(self.0.random::<bool>()),
            2 => json!(self.0.random::<i64>()),
            3 => json!(self.0.random::<f64>() * 10.0),
            4 => json!(self.word()),
            5 => json!("\u{0}🙂\u{202e}\"\\".repeat(self.0.random_range(0..30))),
            6 => (0..self.0.random_range(0..4)).map(|_| self.value(depth - 1)).collect(),
            _ => {
                let pairs = (0..self.0.random_range(0..4)).map(|_| (self.word(), self.value(depth - 1)));
                Value::Object(pairs.collect())
            }
        }
    }
}

fn case(name: &'static str, message: Value, expect: Expect) -> Case {
    Case { name, message: Message::text(message.to_string()), expect }
}
