//! Stored prompts on the wire: the body of `POST /v1/prompts`, the `{{variables}}`, and `prompt` in a request.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    contract::rules::given,
    error::WireError,
    input::{InputItem, InputMessage, MessageBody, TextPart, parse_input},
    json::whole,
    read::{read, read_field},
    shorten,
};
use crate::limits::EXPANDED_PROMPT_BYTES;

const MAX_VARIABLES: usize = 64;
const MAX_NAME: usize = 64;
const MAX_TITLE: usize = 256;

/// Checks that an id matches `[A-Za-z0-9_.-]{1,128}`.
fn check_id(id: &str) -> Result<(), WireError> {
    let fits = (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if fits { Ok(()) } else { Err(WireError::invalid("id", "'id' must be 1 to 128 characters of A-Z a-z 0-9 _ . -")) }
}

/// The text of a prompt. `{{name}}` stands for the value of a variable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Template {
    pub name: Option<String>,
    pub instructions: Option<String>,
    pub messages: Vec<InputMessage>,
    /// The names of the variables in the text.
    pub variables: BTreeSet<String>,
}

/// A validated `POST /v1/prompts`.
#[derive(Debug, PartialEq)]
pub struct PutPrompt {
    /// Chosen by the client. If a prompt with this id exists, the body becomes its next version.
    pub id: Option<String>,
    pub template: Template,
}

/// `prompt` of a `response.create`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PromptUse {
    pub id: String,
    /// A number as a string. Default: the latest version.
    pub version: Option<String>,
    pub variables: BTreeMap<String, String>,
}

/// A template with the values of its variables filled in.
#[derive(Debug, PartialEq)]
pub struct Expanded {
    pub instructions: Option<String>,
    pub messages: Vec<InputMessage>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PromptCreateParams", extend("allOf" = [{"anyOf": [given("instructions"), messages_given()]}]))]
pub struct PutBody {
    /// The id of the prompt. If it exists, the body becomes its next version. Default: a new prompt with an id of the server.
    #[schemars(pattern(r"^[A-Za-z0-9_.-]{1,128}$"))]
    id: Option<String>,
    #[schemars(length(min = 1, max = 256))]
    name: Option<String>,
    /// Text with `{{variables}}`.
    instructions: Option<String>,
    /// Messages before the input of the request. They may have `{{variables}}`.
    #[schemars(with = "Option<MessagesBody>")]
    messages: Option<Value>,
    /// The names of the variables. The server checks that exactly these occur in the text.
    variables: Option<Vec<String>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "StoredPromptReference")]
pub struct UseBody {
    id: String,
    /// Default: the latest version.
    #[schemars(with = "Option<VersionBody>")]
    version: Option<Value>,
    #[schemars(with = "Option<BTreeMap<String, VariableBody>>")]
    variables: Option<BTreeMap<String, Value>>,
}

fn messages_given() -> Value {
    json!({"required": ["messages"], "properties": {"messages": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1}]}}})
}

// Schemas of the fields that are parsed by hand. These types have no values.

#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "PromptMessages")]
#[serde(untagged)]
enum MessagesBody {
    Text(String),
    Messages(Vec<MessageBody>),
}

#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "PromptVersion")]
#[serde(untagged)]
enum VersionBody {
    Number(u32),
    Text(String),
}

#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "PromptVariable")]
#[serde(untagged)]
enum VariableBody {
    Text(String),
    Part(TextPart),
}

impl PutPrompt {
    pub fn from_value(value: Value) -> Result<Self, WireError> {
        let body: PutBody = read(value)?;
        body.id.as_deref().map_or(Ok(()), check_id)?;
        if body.name.as_ref().is_some_and(|name| name.is_empty() || name.chars().count() > MAX_TITLE) {
            return Err(WireError::invalid("name", format!("'name' must have 1 to {MAX_TITLE} characters.")));
        }
        let messages = match body.messages {
            Some(messages) => parse_messages(messages)?,
            None => vec![],
        };
        if body.instructions.is_none() && messages.is_empty() {
            return Err(WireError::invalid("instructions", "A prompt needs 'instructions' or 'messages'."));
        }
        let mut variables = BTreeSet::new();
        if let Some(instructions) = &body.instructions {
            names("instructions", instructions, &mut variables)?;
        }
        for (at, message) in messages.iter().enumerate() {
            names(&format!("messages[{at}].content"), &message.text, &mut variables)?;
        }
        if variables.len() > MAX_VARIABLES {
            let message = format!("A prompt may have at most {MAX_VARIABLES} variables.");
            return Err(WireError::invalid("variables", message));
        }
        // The declared names must equal the names in the text, so that a typo is found now and not at the first use.
        if let Some(declared) = body.variables {
            let declared: BTreeSet<String> = declared.into_iter().collect();
            if let Some(odd) = declared.symmetric_difference(&variables).next() {
                let place = if declared.contains(odd) { "declared but not used" } else { "used but not declared" };
                let message = format!("The variable '{}' is {place}.", shorten(odd));
                return Err(WireError::invalid("variables", message));
            }
        }
        let template = Template { name: body.name, instructions: body.instructions, messages, variables };
        Ok(Self { id: body.id, template })
    }
}

fn parse_messages(messages: Value) -> Result<Vec<InputMessage>, WireError> {
    let items = parse_input(messages).map_err(|error| error.renamed("input", "messages"))?;
    let messages = items.into_iter().enumerate().map(|(at, item)| match item {
        InputItem::Message(message) => Ok(message),
        _ => Err(WireError::invalid(format!("messages[{at}].type"), "A prompt has messages only.")),
    });
    messages.collect()
}

impl PromptUse {
    pub fn from_value(value: Value) -> Result<Self, WireError> {
        let body: UseBody = read_field("prompt", value)?;
        let version = match body.version {
            None | Some(Value::Null) => None,
            Some(version) => Some(
                parse_version(&version)
                    .ok_or_else(|| {
                        WireError::invalid("prompt.version", "'prompt.version' must be a number, such as \"1\".")
                    })?
                    .to_string(),
            ),
        };
        let mut variables = BTreeMap::new();
        for (name, value) in body.variables.unwrap_or_default() {
            let text = match value {
                Value::String(text) => Some(text),
                Value::Object(part) if part.get("type").is_some_and(|kind| kind == "input_text") => {
                    part.get("text").and_then(Value::as_str).map(str::to_owned)
                }
                _ => None,
            };
            let param = format!("prompt.variables.{}", shorten(&name));
            let text = text.ok_or_else(|| WireError::invalid(&param, format!("'{param}' must be text.")))?;
            variables.insert(name, text);
        }
        Ok(Self { id: body.id, version, variables })
    }
}

/// Parses a version: a number, or a string with a number.
pub fn parse_version(version: &Value) -> Option<u32> {
    match version {
        Value::String(text) => text.parse().ok(),
        other => whole(other.clone()).as_u64().and_then(|n| u32::try_from(n).ok()),
    }
    .filter(|version| *version > 0)
}

impl Template {
    /// Fills in the values. A `{{name}}` inside a value is not expanded.
    pub fn expand(&self, values: &BTreeMap<String, String>) -> Result<Expanded, WireError> {
        let wrong = |name: &str, what: &str| {
            let param = format!("prompt.variables.{}", shorten(name));
            Err(WireError::invalid(&param, format!("'{param}' {what}.")))
        };
        if let Some(name) = self.variables.iter().find(|name| !values.contains_key(*name)) {
            return wrong(name, "is missing");
        }
        if let Some(name) = values.keys().find(|name| !self.variables.contains(*name)) {
            return wrong(name, "is no variable of this prompt");
        }
        let texts = self.instructions.iter().chain(self.messages.iter().map(|message| &message.text));
        let bytes = texts.map(|text| filled_bytes(text, values)).fold(0, usize::saturating_add);
        if bytes > EXPANDED_PROMPT_BYTES {
            let message = format!(
                "The prompt would have {bytes} bytes with 'prompt.variables' filled in; the limit is {EXPANDED_PROMPT_BYTES}. Send shorter values."
            );
            return Err(WireError::invalid("prompt.variables", message));
        }
        let filled = |m: &InputMessage| InputMessage::new(m.role, fill(&m.text, values));
        let messages = self.messages.iter().map(filled);
        Ok(Expanded {
            instructions: self.instructions.as_deref().map(|text| fill(text, values)),
            messages: messages.collect(),
        })
    }

    /// Returns the constant beginning of the prompt: instructions and messages up to the first one with a variable.
    pub fn constant(&self) -> Expanded {
        let is_constant = |text: &str| pieces(text).all(|piece| matches!(piece, Piece::Text(_)));
        let instructions = self.instructions.clone().filter(|text| is_constant(text));
        let begins = self.instructions.is_none() || instructions.is_some();
        let messages = self.messages.iter().take_while(|message| begins && is_constant(&message.text));
        Expanded { messages: messages.cloned().collect(), instructions }
    }
}

enum Piece<'t> {
    Text(&'t str),
    Variable(&'t str),
}

impl<'t> Piece<'t> {
    fn with(&self, values: &'t BTreeMap<String, String>) -> &'t str {
        match self {
            Self::Text(text) => text,
            Self::Variable(name) => values.get(*name).map_or("", String::as_str),
        }
    }
}

/// Splits a text at its variables. Braces that do not enclose a name are text. Takes linear time: a name has no braces, so only the
/// last `{{` before a `}}` can begin a variable, and each byte is searched once.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    let mut next = None;
    std::iter::from_fn(move || {
        if let Some(variable) = next.take() {
            return Some(variable);
        }
        if rest.is_empty() {
            return None;
        }
        let mut from = 0;
        while let Some((before, name, end)) = variable(rest, &mut from) {
            let Some(name) = name else { continue };
            rest = rest.get(end..).unwrap_or_default();
            let variable = Piece::Variable(name);
            if before.is_empty() {
                return Some(variable);
            }
            next = Some(variable);
            return Some(Piece::Text(before));
        }
        Some(Piece::Text(std::mem::take(&mut rest)))
    })
}

/// Finds the next `}}` at or after `from`. Returns the text before its `{{`, the name between the braces if it is a valid one, and
/// the end of the `}}`. Moves `from` to that end.
fn variable<'t>(text: &'t str, from: &mut usize) -> Option<(&'t str, Option<&'t str>, usize)> {
    let segment = text.get(*from..)?;
    let (inside, _) = segment.split_once("}}")?;
    let begin = *from;
    let end = begin + inside.len() + 2;
    *from = end;
    let Some((before, name)) = inside.rsplit_once("{{") else { return Some((text, None, end)) };
    let before = text.get(..begin + before.len())?;
    Some((before, Some(name.trim()).filter(|name| is_name(name)), end))
}

fn fill(text: &str, values: &BTreeMap<String, String>) -> String {
    pieces(text).map(|piece| piece.with(values)).collect()
}

/// Returns the bytes of the text that [`fill`] makes.
fn filled_bytes(text: &str, values: &BTreeMap<String, String>) -> usize {
    pieces(text).map(|piece| piece.with(values).len()).fold(0, usize::saturating_add)
}

/// Collects the names of the variables in a text. Refuses a variable whose name is not valid.
fn names(path: &str, text: &str, names: &mut BTreeSet<String>) -> Result<(), WireError> {
    for piece in pieces(text) {
        match piece {
            Piece::Variable(name) => {
                names.insert(name.to_owned());
            }
            Piece::Text(text) => {
                if let Some((_, odd)) = text.split_once("{{")
                    && let Some((odd, _)) = odd.split_once("}}")
                    && !odd.trim().is_empty()
                    && !odd.contains(['{', '\n', '"'])
                {
                    let message = format!(
                        "'{}' in '{path}' is not a valid name of a variable. Use letters, digits and _, at most {MAX_NAME} characters, and no digit first.",
                        shorten(odd)
                    );
                    return Err(WireError::invalid(path, message));
                }
            }
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(instructions: &str) -> Template {
        PutPrompt::from_value(json!({"instructions": instructions})).unwrap().template
    }

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn param(error: WireError) -> String {
        match error {
            WireError::InvalidRequest { param: Some(param), .. } => param,
            other => panic!("expected an invalid_request with a param, got {other:?}"),
        }
    }

    #[test]
    fn values_are_text_and_nothing_else() {
        let template = template("{{a}} and {{ b }}, {{a}}; {not} {{}} {{ {\"json\": 1} }}");
        let expanded = template.expand(&values(&[("a", "{{b}}"), ("b", "{{a}}{{")])).unwrap();
        let expected = "{{b}} and {{a}}{{, {{b}}; {not} {{}} {{ {\"json\": 1} }}";
        assert_eq!(expanded.instructions.as_deref(), Some(expected));
    }

    #[test]
    fn an_expansion_is_measured_before_it_is_built() {
        let template = template(&"{{x}}".repeat(50_000));
        let error = template.expand(&values(&[("x", &"y".repeat(250_000))])).unwrap_err();
        assert!(error.to_string().contains("12500000000 bytes"), "{error}");
        assert_eq!(param(error), "prompt.variables");
        let most = EXPANDED_PROMPT_BYTES / 50_000;
        let expanded = template.expand(&values(&[("x", &"y".repeat(most))])).unwrap();
        assert_eq!(expanded.instructions.map(|text| text.len()), Some(most * 50_000));
    }

    /// Each text would take minutes if every `{{` were followed by a search to the end of the text, or if a name were trimmed again
    /// for each `{{` before it.
    #[test]
    fn a_text_of_braces_is_read_in_linear_time() {
        let n = 4_000_000;
        for text in [
            "{".repeat(n),
            "}".repeat(n),
            "{{ ".repeat(n / 3),
            format!("{}{}}}}}", "{{".repeat(n / 4), " ".repeat(n / 2)),
            "{{}}".repeat(n / 4),
            "{{ {\"\n".repeat(n / 6),
            "}}{{".repeat(n / 4),
            "{{{a}}}".repeat(n / 7),
        ] {
            let begun = std::time::Instant::now();
            let read = PutPrompt::from_value(json!({"instructions": text}));
            assert!(begun.elapsed().as_secs() < 10, "{} took {:?}", text.get(..8).unwrap(), begun.elapsed());
            read.unwrap();
        }
    }

    #[test]
    fn a_variable_stands_between_the_nearest_braces() {
        for (text, expected) in [
            ("{{{a}}}", "{1}"),
            ("{{ {{a}} }}", "{{ 1 }}"),
            ("{{a}}}}", "1}}"),
            ("}}{{a}}{{", "}}1{{"),
            ("{{\ta\n}}", "1"),
            ("é{{a}}é", "é1é"),
        ] {
            let template = template(text);
            let expanded = template.expand(&values(&[("a", "1")])).unwrap();
            assert_eq!(expanded.instructions.as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn variables_are_all_given_and_all_known() {
        let template = template("{{a}}{{b}}");
        assert_eq!(param(template.expand(&values(&[("a", "1")])).unwrap_err()), "prompt.variables.b");
        let extra = values(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert_eq!(param(template.expand(&extra).unwrap_err()), "prompt.variables.c");
    }

    #[test]
    fn a_bad_template_is_refused() {
        for (body, expected) in [
            (json!({}), "instructions"),
            (json!({"instructions": "{{two words}}"}), "instructions"),
            (json!({"messages": [{"role": "user", "content": "{{1st}}"}]}), "messages[0].content"),
            (json!({"messages": [{"role": "cook", "content": "x"}]}), "messages[0].role"),
            (json!({"instructions": "{{a}}", "variables": ["a", "b"]}), "variables"),
            (json!({"instructions": "{{a}}", "variables": []}), "variables"),
            (json!({"instructions": "x", "name": ""}), "name"),
            (json!({"instructions": "x", "colour": 1}), "colour"),
        ] {
            assert_eq!(param(PutPrompt::from_value(body.clone()).unwrap_err()), expected, "{body}");
        }
    }

    #[test]
    fn a_use_is_checked() {
        let used = PromptUse::from_value(
            json!({"id": "p", "version": "2", "variables": {"a": {"type": "input_text", "text": "x"}}}),
        );
        let expected = PromptUse { id: "p".into(), version: Some("2".into()), variables: values(&[("a", "x")]) };
        assert_eq!(used.unwrap(), expected);
        for (body, expected) in [
            (json!({"id": "p", "version": "two"}), "prompt.version"),
            (json!({"id": "p", "variables": {"a": {"type": "input_image"}}}), "prompt.variables.a"),
            (json!({"variables": {}}), "prompt.id"),
        ] {
            assert_eq!(param(PromptUse::from_value(body.clone()).unwrap_err()), expected, "{body}");
        }
    }

    #[test]
    fn what_is_constant_ends_at_the_first_variable() {
        let body = json!({"instructions": "Be brief.", "messages": [
            {"role": "user", "content": "Hello"}, {"role": "user", "content": "I am {{name}}"}, {"role": "user", "content": "Bye"}]});
        let constant = PutPrompt::from_value(body).unwrap().template.constant();
        assert_eq!((constant.instructions.as_deref(), constant.messages.len()), (Some("Be brief."), 1));
        assert_eq!(template("I am {{name}}").constant(), Expanded { instructions: None, messages: vec![] });
    }
}
