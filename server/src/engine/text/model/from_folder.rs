//! Makes a tokenizer and a vocabulary from a Hugging Face folder: from `tokenizer.json` and the files beside it.

use std::{fs, path::Path};

use serde_json::Value as Json;

use super::{
    byte_level,
    chat_template::TemplateSource,
    from_gguf::byte_of,
    tokens::{Parts, TextModel},
    vocabulary::{Token, Vocabulary},
};

/// The way in which a `tokenizer.json` writes the text of its tokens, according to its decoder.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct ByteRules {
    /// Writes each byte as a printable character.
    bytes: bool,
    /// Writes a space as `▁`.
    spaces: bool,
    /// Writes a byte that has no token as `<0x0A>`.
    fallback: bool,
    /// The first space is not part of the text.
    pads: bool,
}

impl TextModel {
    /// Reads the tokenizer of a folder. `template`: the text of the folder's chat template.
    ///
    /// # Errors
    /// A file is missing or malformed, or the tokenizer has an unknown decoder.
    pub fn of_folder(folder: &Path, template: &str) -> Result<Self, String> {
        let tokenizer = read(&folder.join("tokenizer.json"))?;
        let config = read(&folder.join("tokenizer_config.json")).unwrap_or_default();
        let text = |key: &str| match config.get(key)? {
            Json::String(text) => Some(text.clone()),
            token => token.get("content")?.as_str().map(str::to_owned),
        };
        let source = TemplateSource {
            template: template.to_owned(),
            bos: text("bos_token"),
            eos: text("eos_token"),
            unk: text("unk_token"),
        };
        let mut eos = Vec::new();
        for file in ["generation_config.json", "config.json"] {
            let ids = read(&folder.join(file)).ok().and_then(|config| config.get("eos_token_id").cloned());
            for id in ids.iter().flat_map(|ids| ids.as_array().cloned().unwrap_or_else(|| vec![ids.clone()])) {
                eos.extend(id.as_u64().and_then(|id| u32::try_from(id).ok()));
            }
        }
        Self::of_json(tokenizer, source, eos)
    }

    /// Reads the content of a `tokenizer.json`. `eos`: tokens that end an output, besides the one that `source` names.
    ///
    /// # Errors
    /// Those of [`Self::of_folder`].
    pub fn of_json(tokenizer: Json, source: TemplateSource, mut eos: Vec<u32>) -> Result<Self, String> {
        let vocabulary = vocabulary(&tokenizer, &source)?;
        let added = tokenizer.get("added_tokens").and_then(Json::as_array).into_iter().flatten();
        let end = source.eos.as_deref();
        let own = added.filter(|token| end.is_some() && token.get("content").and_then(Json::as_str) == end);
        eos.splice(0..0, own.filter_map(id));
        let mut unique = Vec::new();
        eos.into_iter().for_each(|id| {
            if !unique.contains(&id) {
                unique.push(id);
            }
        });
        Self::new(Parts { tokenizer, vocabulary, source, prefix: None, eos: unique }).map_err(|error| error.to_string())
    }
}

fn vocabulary(tokenizer: &Json, source: &TemplateSource) -> Result<Vocabulary, String> {
    let writing = writing(tokenizer)?;
    let mut tokens: Vec<Token> = Vec::new();
    let mut set = |id: u32, token: Token| {
        let at = id as usize;
        if at >= tokens.len() {
            tokens.resize(at + 1, Token::Control("".into()));
        }
        tokens[at] = token;
    };
    let model = tokenizer.get("model").and_then(|model| model.get("vocab"));
    match model {
        Some(Json::Object(all)) => {
            for (text, at) in all {
                let at = at.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| *id < MAX_TOKENS);
                set(
                    at.ok_or("a token's id in tokenizer.json is not a number, or too large")?,
                    Token::Text(writing.bytes_of(text).into()),
                );
            }
        }
        // Unigram models have pairs of text and score.
        Some(Json::Array(all)) => {
            for (at, pair) in (0..MAX_TOKENS).zip(all) {
                let text = pair.get(0).and_then(Json::as_str).unwrap_or_default();
                set(at, Token::Text(writing.bytes_of(text).into()));
            }
        }
        _ => return Err("tokenizer.json has no vocabulary".into()),
    }
    // The tags of the model's dialect are text, even if the tokenizer calls them special.
    let tags = crate::dialect::detect(&source.template).tags();
    for token in tokenizer.get("added_tokens").and_then(Json::as_array).into_iter().flatten() {
        let text = token.get("content").and_then(Json::as_str).unwrap_or_default();
        let is_special = token.get("special") == Some(&Json::Bool(true)) && !tags.iter().any(|tag| tag == text);
        let id = id(token).filter(|id| *id < MAX_TOKENS).ok_or("an added token in tokenizer.json has no id")?;
        set(id, if is_special { Token::Control(text.into()) } else { Token::Text(text.as_bytes().into()) });
    }
    Ok(Vocabulary::new(tokens, writing.pads))
}

/// Bound on the ids of tokens.
const MAX_TOKENS: u32 = 4 << 20;

fn id(token: &Json) -> Option<u32> {
    token.get("id").and_then(Json::as_u64).and_then(|id| u32::try_from(id).ok())
}

fn writing(tokenizer: &Json) -> Result<ByteRules, String> {
    let mut writing = ByteRules::default();
    let decoder = tokenizer.get("decoder").cloned().unwrap_or_default();
    let steps = match decoder.get("decoders").and_then(Json::as_array) {
        Some(steps) => steps.clone(),
        None if decoder.is_null() => vec![],
        None => vec![decoder],
    };
    for step in &steps {
        let has = |key: &str, value: &str| step.get(key).and_then(Json::as_str) == Some(value);
        match step.get("type").and_then(Json::as_str).unwrap_or_default() {
            "ByteLevel" => writing.bytes = true,
            "ByteFallback" => writing.fallback = true,
            "Metaspace" => {
                writing.spaces = true;
                let never = has("prepend_scheme", "never") || step.get("add_prefix_space") == Some(&Json::Bool(false));
                writing.pads = !never;
            }
            "Replace" if has("content", " ") => writing.spaces = true,
            "Strip" if has("content", " ") => writing.pads = step.get("start").and_then(Json::as_u64).unwrap_or(0) > 0,
            "Fuse" | "Replace" | "Strip" => {}
            other => return Err(format!("the decoder `{other}` in tokenizer.json is not known to this server")),
        }
    }
    Ok(writing)
}

impl ByteRules {
    fn bytes_of(self, text: &str) -> Vec<u8> {
        match byte_of(text).filter(|_| self.fallback) {
            Some(byte) => vec![byte],
            None if self.bytes => byte_level::bytes(text),
            None if self.spaces => text.replace('▁', " ").into_bytes(),
            None => text.as_bytes().to_vec(),
        }
    }
}

fn read(path: &Path) -> Result<Json, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{} is not valid JSON: {error}", path.display()))
}
