//! Messages to text, by the model's chat template.

use std::collections::HashSet;

use minijinja::{Environment, Error, Value, context};
use serde_json::{Value as Json, json};

use super::{arguments::DIGITS, contents::Guard, jinja, messages::MessageRules};
use crate::engine::{EngineError, Message, Prompt, Role};

const TEMPLATE: &str = "chat";

/// A template and the texts of the tokens that it names by their use.
#[derive(Debug, Clone, Default)]
pub struct TemplateSource {
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
    source: TemplateSource,
    rules: MessageRules,
    /// For what the model wrote, and for what everybody else did.
    own: Guard,
    others: Guard,
}

impl ChatTemplate {
    /// # Errors
    /// `Load` where the template does not compile.
    pub fn new(source: TemplateSource, protected: &Protected) -> Result<Self, EngineError> {
        let environment = jinja::environment(TEMPLATE, &source.template)
            .map_err(|error| EngineError::Load(format!("the model's chat template does not compile: {error}")))?;
        // What the template itself writes gives a prompt its form; a token of white space does not.
        let forms = |text: &&str| !text.trim().is_empty() && source.template.contains(*text);
        let control = || protected.control.iter().map(String::as_str);
        let shown = protected.shown.iter().map(String::as_str).filter(forms);
        let (own, others) = (Guard::new(control()), Guard::new(control().chain(shown)));
        let rules = MessageRules {
            system: super::messages::System::Anywhere,
            alternates: false,
            one_call: false,
            takes_empty: true,
            lone_system: true,
        };
        let mut template = Self { environment, source, rules, own, others };
        template.rules = MessageRules::probe(|messages| {
            let messages: Vec<Json> = messages.iter().map(|message| json!(message)).collect();
            template.write(&messages, &[], None).ok()
        });
        Ok(template)
    }

    pub fn rules(&self) -> MessageRules {
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
            bos_token => named(&self.source.bos),
            eos_token => named(&self.source.eos),
            unk_token => named(&self.source.unk),
            // As Llama's templates write a date where they are given none.
            date_string => now.format("%d %b %Y").to_string(),
            enable_thinking => effort != Some("none"),
        })?;
        Ok(if text.contains(DIGITS) { text.replace(DIGITS, "") } else { text })
    }
}

/// A token's text. What a model does not have is undefined, and prints nothing.
fn named(token: &Option<String>) -> Value {
    token.as_deref().map_or(Value::UNDEFINED, Value::from)
}

/// The texts of `tokens` without repetition.
pub fn unique<'t>(tokens: impl Iterator<Item = &'t str>) -> Vec<String> {
    let mut seen = HashSet::new();
    tokens.filter(|token| seen.insert(*token)).map(str::to_owned).collect()
}
