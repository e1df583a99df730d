//! Messages to text, by the model's chat template: Jinja as Hugging Face's Transformers renders it.

use std::collections::HashSet;

use minijinja::{Environment, Error, ErrorKind, Value, context, value::Kwargs};
use serde_json::{Value as Json, json};

use super::{
    arguments::{DIGITS, with_digits},
    contents::Guard,
    messages::Rules,
};
use crate::engine::{EngineError, Message, Prompt, Role};

const TEMPLATE: &str = "chat";

/// A template and the texts of the tokens that it names by their use.
#[derive(Debug, Clone, Default)]
pub struct Source {
    pub template: String,
    pub bos: Option<String>,
    pub eos: Option<String>,
    pub unk: Option<String>,
}

/// The tokens whose texts a prompt's contents must not be read as.
#[derive(Debug, Default)]
pub struct Protected {
    /// Control tokens.
    pub control: Vec<String>,
    /// Tokens with a text.
    pub shown: Vec<String>,
}

/// A compiled template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: Source,
    rules: Rules,
    /// For what the model wrote, and for what everybody else did.
    own: Guard,
    others: Guard,
}

impl ChatTemplate {
    /// # Errors
    /// `Load` where the template does not compile.
    pub fn new(source: Source, protected: &Protected) -> Result<Self, EngineError> {
        let environment = environment(&source.template)
            .map_err(|error| EngineError::Load(format!("the model's chat template does not compile: {error}")))?;
        // What the template itself writes gives a prompt its form; a token of white space does not.
        let forms = |text: &&str| !text.trim().is_empty() && source.template.contains(*text);
        let control = || protected.control.iter().map(String::as_str);
        let shown = protected.shown.iter().map(String::as_str).filter(forms);
        let (own, others) = (Guard::new(control()), Guard::new(control().chain(shown)));
        let rules = Rules { system: super::messages::System::Anywhere, alternates: false, one_call: false };
        let mut template = Self { environment, source, rules, own, others };
        template.rules = Rules::probe(|messages| {
            let messages: Vec<Json> = messages.iter().map(|message| json!(message)).collect();
            template.write(&messages, &[], None).ok()
        });
        Ok(template)
    }

    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// The prompt as text, ready for the reply to begin. Marks stand in contents where they look like control tokens.
    ///
    /// # Errors
    /// `Template` where the template refuses the messages.
    pub fn render(&self, prompt: &Prompt) -> Result<String, EngineError> {
        let messages: Vec<Json> =
            self.rules.apply(&prompt.messages).iter().map(|message| self.message(message)).collect();
        let tools: Vec<Json> = prompt.tools.iter().map(|tool| self.others.marked_value(tool)).collect();
        let text = self.write(&messages, &tools, prompt.reasoning_effort.as_deref());
        text.map_err(|error| EngineError::Template(error.to_string()))
    }

    /// A message with marks in what its author wrote.
    fn message(&self, message: &Message) -> Json {
        let guard = if message.role == Role::Assistant { &self.own } else { &self.others };
        let mut value = json!(message);
        if let Some(members) = value.as_object_mut() {
            for (name, member) in members.iter_mut().filter(|(name, _)| *name != "role") {
                *member = if name == "content" { guard.marked_value(member) } else { self.others.marked_value(member) };
            }
        }
        value
    }

    fn write(&self, messages: &[Json], tools: &[Json], effort: Option<&str>) -> Result<String, Error> {
        let now = chrono::Utc::now();
        let text = self.environment.get_template(TEMPLATE)?.render(context! {
            messages => messages,
            tools => (!tools.is_empty()).then_some(tools),
            reasoning_effort => effort,
            add_generation_prompt => true,
            bos_token => self.source.bos,
            eos_token => self.source.eos,
            unk_token => self.source.unk,
            date_string => now.format("%d, %B, %Y").to_string(),
            enable_thinking => effort != Some("none"),
        })?;
        Ok(if text.contains(DIGITS) { text.replace(DIGITS, "") } else { text })
    }
}

fn environment(template: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    // As the templates' authors had it: Transformers renders with both.
    environment.set_lstrip_blocks(true);
    environment.set_trim_blocks(true);
    environment.add_function("raise_exception", raise);
    environment.add_function("strftime_now", |format: String| chrono::Utc::now().format(&format).to_string());
    environment.add_filter("tojson", to_json);
    environment.add_template_owned(TEMPLATE, adapt(template))?;
    Ok(environment)
}

/// Rewrites what Jinja2 knows and minijinja does not.
fn adapt(source: &str) -> String {
    source.replace("[::-1]", "|reverse").replace("{% generation %}", "").replace("{% endgeneration %}", "")
}

fn raise(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// JSON as Python's `json.dumps` writes it, with spaces after commas and colons: models were trained on that. Jinja2's own
/// filter escapes HTML; Transformers' does not.
fn to_json(value: Value, arguments: Kwargs) -> Result<Value, Error> {
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut json = serde_json::to_value(&value).map_err(failed)?;
    let indent: Option<usize> = arguments.get("indent")?;
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    if arguments.get::<Option<bool>>("sort_keys")? == Some(true) {
        json.sort_all_objects();
    }
    let _ = arguments.get::<Option<bool>>("ensure_ascii");
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ => (", ".to_owned(), ": ".to_owned()),
    };
    let mut out = Vec::new();
    let written = match indent {
        Some(width) => {
            let pad = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(pad.as_bytes());
            serde::Serialize::serialize(&json, &mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
        None => {
            let formatter = Spaced { item, key };
            serde::Serialize::serialize(&json, &mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
    };
    written.map_err(failed)?;
    Ok(Value::from_safe_string(with_digits(String::from_utf8_lossy(&out).into_owned())))
}

/// JSON on one line, with these separators.
struct Spaced {
    item: String,
    key: String,
}

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

/// The texts of `tokens` without repetition.
pub fn unique<'t>(tokens: impl Iterator<Item = &'t str>) -> Vec<String> {
    let mut seen = HashSet::new();
    tokens.filter(|token| seen.insert(*token)).map(str::to_owned).collect()
}
