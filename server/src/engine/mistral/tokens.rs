//! Text to tokens and back: the chat template, rendered on the caller's thread, and the tokenizer of the loaded model.

use std::sync::Arc;

use minijinja::{Environment, Error, ErrorKind, Value, context, value::Kwargs};
use mistralrs_core::ChatTemplate;
use tokenizers::Tokenizer;

use crate::engine::{EngineError, Prompt, decoder::TokenBytes};

const TEMPLATE: &str = "chat";

/// The tokenizer and the compiled chat template of one model.
pub struct Tokens {
    tokenizer: Arc<Tokenizer>,
    templates: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
    unk: Option<String>,
}

impl Tokens {
    /// # Errors
    /// `Load` where the model has no chat template or one that does not compile.
    pub fn new(tokenizer: Arc<Tokenizer>, chat: &ChatTemplate) -> Result<Self, EngineError> {
        let source = source(chat).ok_or_else(|| {
            EngineError::Load(
                "the model has no chat template, so messages cannot be rendered for it: use an instruction-tuned model"
                    .into(),
            )
        })?;
        let mut templates = Environment::new();
        templates.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // As the templates' authors had it: transformers renders with both.
        templates.set_lstrip_blocks(true);
        templates.set_trim_blocks(true);
        templates.add_function("raise_exception", raise);
        templates.add_function("strftime_now", |format: String| chrono::Utc::now().format(&format).to_string());
        templates.add_filter("tojson", to_json);
        templates
            .add_template_owned(TEMPLATE, adapt(source))
            .map_err(|error| EngineError::Load(format!("the model's chat template does not compile: {error}")))?;
        Ok(Self { tokenizer, templates, bos: chat.bos_tok(), eos: chat.eos_tok(), unk: chat.unk_tok() })
    }

    /// Renders the prompt, ready for the reply to begin, and tokenises them.
    ///
    /// # Errors
    /// `Template` where the template refuses the messages, such as two user messages in a row for some models.
    pub fn render(&self, prompt: &Prompt) -> Result<Vec<u32>, EngineError> {
        let refused = |error: &dyn std::fmt::Display| EngineError::Template(error.to_string());
        let text = self
            .templates
            .get_template(TEMPLATE)
            .and_then(|template| {
                template.render(context! {
                    messages => prompt.messages,
                    tools => (!prompt.tools.is_empty()).then_some(&prompt.tools),
                    reasoning_effort => prompt.reasoning_effort,
                    add_generation_prompt => true,
                    bos_token => self.bos,
                    eos_token => self.eos,
                    unk_token => self.unk,
                    date_string => chrono::Utc::now().format("%d, %B, %Y").to_string(),
                    enable_thinking => prompt.reasoning_effort.as_deref() != Some("none"),
                })
            })
            .map_err(|error| refused(&error))?;
        let encoding = self.tokenizer.encode_fast(text, true).map_err(|error| refused(&error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What each token is.
    pub fn vocabulary(&self) -> std::collections::HashMap<String, u32> {
        self.tokenizer.get_vocab(true)
    }

    #[cfg(test)]
    pub fn save(&self, path: &std::path::Path) {
        self.tokenizer.save(path, false).expect("the tokenizer is written");
    }

    #[cfg(test)]
    pub fn encode_plain(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default()
    }

    /// For one generation's decoder.
    pub fn bytes(&self) -> Detokenizer {
        Detokenizer(self.tokenizer.clone())
    }
}

/// [`TokenBytes`] of the loaded tokenizer; special tokens have no text.
pub struct Detokenizer(Arc<Tokenizer>);

impl TokenBytes for Detokenizer {
    fn decode(&self, tokens: &[u32]) -> String {
        // It fails for ids outside the vocabulary only, which the model cannot say.
        self.0.decode(tokens, true).unwrap_or_default()
    }
}

/// The template's text; of several by name, the one without tools.
pub(super) fn source(chat: &ChatTemplate) -> Option<String> {
    match chat.chat_template.as_ref()?.0.as_ref() {
        either::Either::Left(one) => Some(one.clone()),
        either::Either::Right(named) => named.iter().find_map(|entry| match entry.get("name") {
            Some(name) if name == "default" => entry.get("template").cloned(),
            Some(_) => None,
            None => entry.get("default").cloned(),
        }),
    }
}

/// Rewrites what Jinja2 knows and minijinja does not.
fn adapt(source: String) -> String {
    source.replace("[::-1]", "|reverse").replace("{% generation %}", "").replace("{% endgeneration %}", "")
}

fn raise(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Jinja2's escapes HTML; the models were trained on transformers', which does not.
fn to_json(value: Value, arguments: Kwargs) -> Result<Value, Error> {
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let indent: Option<usize> = arguments.get("indent")?;
    let _ = arguments.get::<Option<bool>>("ensure_ascii");
    let json = serde_json::to_value(&value).map_err(failed)?;
    let text = match indent {
        None => serde_json::to_string(&json),
        Some(width) => {
            let pad = " ".repeat(width);
            let mut out = Vec::new();
            let formatter = serde_json::ser::PrettyFormatter::with_indent(pad.as_bytes());
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
            serde::Serialize::serialize(&json, &mut serializer).map(|()| String::from_utf8_lossy(&out).into_owned())
        }
    }
    .map_err(failed)?;
    Ok(Value::from_safe_string(text))
}
