//! Messages to text, by the model's chat template.

use std::collections::HashSet;

use minijinja::{Environment, Error, Value, context};
use serde_json::{Value as Json, json};

use super::{arguments::DIGITS, contents::Guard, jinja, messages::MessageRules};
use crate::engine::{EngineError, Message, Prompt, Role};

const TEMPLATE: &str = "chat";

/// A template, and the texts of the tokens that it can use.
#[derive(Debug, Clone, Default)]
pub struct TemplateSource {
    pub template: String,
    pub bos: Option<String>,
    pub eos: Option<String>,
    pub unk: Option<String>,
}

/// The texts of added tokens. Clients' text must not become such a token.
#[derive(Debug, Default)]
pub struct Protected {
    /// Control tokens.
    pub control: Vec<String>,
    /// Tokens that are shown.
    pub shown: Vec<String>,
}

/// A compiled template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: TemplateSource,
    rules: MessageRules,
    /// Marks text that the model wrote.
    own: Guard,
    /// Marks all other text.
    others: Guard,
}

impl ChatTemplate {
    /// # Errors
    /// `Load` if the template does not compile.
    pub fn new(source: TemplateSource, protected: &Protected) -> Result<Self, EngineError> {
        let environment = jinja::environment(TEMPLATE, &source.template)
            .map_err(|error| EngineError::Load(format!("the model's chat template does not compile: {error}")))?;
        // A token that the template itself writes is part of a prompt's form, unless it is white space.
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

    /// Renders the prompt as text, up to the start of the output. Clients' text has marks where it looks like a control token.
    ///
    /// # Errors
    /// `Template` if the template refuses the messages.
    pub fn render(&self, prompt: &Prompt) -> Result<String, EngineError> {
        let messages: Vec<Json> =
            self.rules.apply(&prompt.messages).iter().map(|message| self.message(message)).collect();
        let tools: Vec<Json> = prompt.tools.iter().map(|tool| self.others.marked_value(tool)).collect();
        let text = self.write(&messages, &tools, prompt.reasoning_effort.as_deref());
        text.map_err(|error| EngineError::Template(error.to_string()))
    }

    /// Inserts marks into the texts of a message.
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
            // The format that Llama's templates use for today's date.
            date_string => now.format("%d %b %Y").to_string(),
            enable_thinking => effort != Some("none"),
        })?;
        Ok(if text.contains(DIGITS) { text.replace(DIGITS, "") } else { text })
    }
}

/// A token's text; undefined, which prints nothing, if the model does not have the token.
fn named(token: &Option<String>) -> Value {
    token.as_deref().map_or(Value::UNDEFINED, Value::from)
}

/// Removes repeated texts.
pub fn unique<'t>(tokens: impl Iterator<Item = &'t str>) -> Vec<String> {
    let mut seen = HashSet::new();
    tokens.filter(|token| seen.insert(*token)).map(str::to_owned).collect()
}
